"""Where the daemon can be found: the socket's file, and the lock that makes it the only one on its data dir.

Blocking, but only ever for a local file or socket. A socket is taken over only under the lock, and only after a
connection to it has been refused, so no daemon can lose its socket to another one.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from moltis import private
from moltis.errors import AlreadyRunning, MoltisError, NotPermitted, UsageError
from moltis.paths import MAX_SOCKET_PATH, Paths
from moltis.peers import credentials

BACKLOG: Final = 1024
"""Clients that may wait to be accepted; the kernel cuts it to net.core.somaxconn."""

CONNECT_SECS: Final = 1.0
"""How long a live daemon may take to be found; connect(2) on a unix socket waits only for a full backlog."""

_Identity = tuple[int, int]


class DataDirLock:
    """Holds a data dir for one daemon: flock(2) on a file that says its pid. The kernel frees it when we die."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def take(self) -> None:
        """Take it.

        Raises:
            AlreadyRunning: another daemon has it.
            NotPermitted: its file cannot be written.
        """
        while self._fd < 0 or not self._is_at_path():
            self._let_go()
            try:
                self._fd = private.open_private(self._path, os.O_RDWR | os.O_CREAT)
                is_ours = private.try_lock(self._fd)
            except OSError as failure:
                self._let_go()
                hint = failure.remedy(self._path) if isinstance(failure, private.Unusable) else ""
                raise NotPermitted(f"cannot lock {self._path}: {failure.strerror}", hint=hint) from failure
            if not is_ours:
                holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
                self._let_go()
                raise AlreadyRunning(
                    f"another daemon (pid {holder or 'unknown'}) holds {self._path.parent.parent}",
                    hint="moltis status shows it, moltis stop ends it; or choose another --data-dir",
                )
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Close it and remove its file. Idempotent.

        Removed while it is held, and whoever takes it looks afterwards whether its file is the one at the path: who
        opened the old file in between finds that it is not, and begins again.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if _identity(self._path) == _identity(fd):
            with suppress(OSError):  # of a folder that is gone, or not ours to write any more
                self._path.unlink()
        os.close(fd)

    def _let_go(self) -> None:
        """Close what was opened, of a lock that is another's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        """Return its descriptor, -1 when it is not held."""
        return self._fd

    def keep(self) -> None:
        """Take it again if somebody removed its file. Raises as `take`."""
        if not self._is_at_path():
            make_private_folder(self._path.parent)
            self.take()

    def _is_at_path(self) -> bool:
        return _identity(self._path) == _identity(self._fd)


class Endpoint:
    """The control socket's file. `bind` first; `is_in_place` tells later whether clients still find it."""

    def __init__(self, paths: Paths) -> None:
        self.path = paths.socket
        self._data_dir = paths.data_dir
        self._identity: _Identity | None = None

    def bind(self) -> socket.socket:
        """Return a listening socket, its file 0600 in a folder that others cannot write to; a stale one is taken over.

        Raises:
            UsageError: the path is too long for a socket.
            AlreadyRunning: a daemon answers there.
            NotPermitted: the folder or the file is not ours to use.
            MoltisError: something else is in the way.
        """
        length = len(os.fsencode(self.path))
        if length > MAX_SOCKET_PATH:
            raise UsageError(
                f"the socket's path has {length} bytes, and {MAX_SOCKET_PATH} are allowed: {self.path}",
                hint="name a shorter one with --socket or MOLTIS_SOCKET",
            )
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._make_folder()
            self._bind(sock)
            sock.listen(BACKLOG)
            self._identity = _identity(self.path)
        except OSError as failure:
            sock.close()
            raise NotPermitted(f"cannot listen at {self.path}: {failure.strerror}") from failure
        except BaseException:
            sock.close()
            raise
        return sock

    def is_in_place(self) -> bool:
        """Tell whether the file is there and is the one that was bound."""
        return self._identity is not None and _identity(self.path) == self._identity

    def remove(self) -> None:
        """Remove the file, if it is ours."""
        if self.is_in_place():
            self.path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        folder = self.path.parent
        if folder.is_relative_to(self._data_dir):
            make_private_folder(self._data_dir)
            make_private_folder(folder)
            return
        # Somebody's folder: its mode is not ours to change, and a file in it must not be anybody's to replace.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
        if mode & 0o022 and not mode & stat.S_ISVTX:
            raise NotPermitted(f"others can write to {folder}, the socket's folder", hint=f"chmod go-w {folder}")

    def _bind(self, sock: socket.socket) -> None:
        for _ in range(2):
            # The mode must be right from the first moment: chmod(2) after bind(2) leaves a gap.
            mask = os.umask(0o177)
            try:
                sock.bind(os.fsencode(self.path))
                return
            except OSError as failure:
                if failure.errno != errno.EADDRINUSE:
                    raise
            finally:
                os.umask(mask)
            self._clear_away()
        raise AlreadyRunning(f"somebody else keeps making {self.path}", hint="moltis status")

    def _clear_away(self) -> None:
        """Remove a socket that nobody listens on."""
        try:
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise MoltisError(
                    f"{self.path} is in the way and is not a socket", hint=f"look at it, then rm {self.path}"
                )
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECS)
            try:
                probe.connect(os.fsencode(self.path))
                _uid, pid = credentials(probe)
            except ConnectionRefusedError:
                self.path.unlink(missing_ok=True)
                return
            except FileNotFoundError:
                return
            except (BlockingIOError, TimeoutError):  # so busy that its backlog is full
                pid = None
        raise AlreadyRunning(
            f"another daemon (pid {pid or 'unknown'}) answers at {self.path}",
            hint="moltis status shows it; or choose another --socket",
        )


def take_data_dir(paths: Paths) -> DataDirLock:
    """Make the data dir (0700) and hold it for this process until the lock is released.

    Raises:
        AlreadyRunning: another daemon holds it.
        NotPermitted: it is not ours to use.
    """
    lock = DataDirLock(paths.lock)
    try:
        make_private_folder(paths.data_dir)
        make_private_folder(paths.lock.parent)
    except OSError as failure:
        raise NotPermitted(f"cannot use {paths.data_dir}: {failure.strerror}") from failure
    lock.take()
    return lock


def make_private_folder(folder: Path) -> None:
    """Make a folder, or make sure that one which is there is this user's and closed to others (`private.open_folder`).

    Raises:
        NotPermitted: it is another user's, or shared with others.
        OSError: it cannot be made or opened.
    """
    try:
        private.make_folder(folder)
        os.close(private.open_folder(folder))
    except private.Unusable as fault:
        raise NotPermitted(f"{folder} {fault}", hint=fault.remedy(folder)) from None


def _identity(file: Path | int) -> _Identity | None:
    try:
        found = os.fstat(file) if isinstance(file, int) else os.lstat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino
