"""Who is at the other end of a unix socket, by what the kernel says.

Standard library only: every command asks before it speaks.
"""

from __future__ import annotations

import os
import socket
import stat
import struct

SAFER = "a socket in a folder of your own is safe from that"
"""What to do about a stranger."""


class Stranger(PermissionError):
    """Somebody else listens there. The message says who."""


def credentials(sock: socket.socket) -> tuple[int, int | None]:
    """Return the user id of a unix socket's other end, and its process id where the system tells.

    unix(7) SO_PEERCRED on Linux; LOCAL_PEERCRED (`struct xucred`) on macOS and the BSDs. Of a socket that was connected
    to, that is who called listen(2).
    """
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return uid, pid
    xucred = sock.getsockopt(0, 1, 76)
    return struct.unpack_from("II", xucred)[1], None


def refuse_stranger(sock: socket.socket, path: str) -> None:
    """Make sure that whoever listens at `path` may be told secrets, before a byte is sent: this user, or root.

    Root may also speak to another user's daemon where it is that user's beyond doubt: in a folder that is theirs and
    that nobody else can write into. In a shared folder, such as /tmp, anybody can be first to take the name.

    Raises:
        Stranger: it is somebody else.
    """
    uid, pid = credentials(sock)
    own = os.geteuid()
    if uid in (own, 0) or (own == 0 and uid == _owner_alone(os.path.dirname(path))):
        return
    raise Stranger(
        f"what answers at {path} belongs to another user (uid {uid}, pid {pid or 'unknown'}); nothing was sent"
    )


def _owner_alone(folder: str) -> int | None:
    """Return the owner of a folder that nobody else can write into."""
    try:
        found = os.lstat(folder)
    except OSError:
        return None
    return found.st_uid if stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022 else None
