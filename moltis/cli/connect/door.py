"""One connection to the daemon: found by its socket, and handed over by `mcp.connect`."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping

from moltis.peers import SAFER, Stranger, refuse_stranger

ANSWER_SECS = 5.0
"""The daemon answers from memory; after this it is stuck, and is tried again."""

MAX_ANSWER_BYTES = 1024 * 1024
METHOD_NOT_FOUND = -32601


class NotNow(Exception):
    """There is no daemon, or it has no room; in a moment there may be. The message says which."""


def socket_path(named: str | None, data_dir: str | None, environ: Mapping[str, str]) -> str:
    """Give the daemon's socket, as `moltis.paths.find_paths` does, at a third of what importing that costs."""
    path = named or environ.get("MOLTIS_SOCKET")
    if not path:
        path = os.path.join(data_dir or environ.get("MOLTIS_DATA_DIR") or "~/.moltis", "run", "moltis.sock")
    return os.path.abspath(os.path.expanduser(path))


def enter(path: str, server: str | None) -> tuple[socket.socket, bytes]:
    """Give a connection that speaks MCP from now on, not blocking, and what it has said already.

    Raises:
        NotNow: it may be worth another try.
        MoltisError: it is not.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(ANSWER_SECS)
        answer, rest = _ask(sock, path, server)
        error = answer.get("error")
        if error is not None:
            raise _refused(error)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock, rest


def _ask(sock: socket.socket, path: str, server: str | None) -> tuple[dict[str, dict[str, object]], bytes]:
    params = {} if server is None else {"server": server}
    request = {"jsonrpc": "2.0", "id": 1, "method": "mcp.connect", "params": params}
    said = b""
    try:
        sock.connect(path)
        refuse_stranger(sock, path)
        sock.sendall(json.dumps(request).encode() + b"\n")
        while b"\n" not in said and len(said) < MAX_ANSWER_BYTES:
            data = sock.recv(65536)
            if not data:
                raise NotNow(f"the daemon at {path} ended the connection without an answer")
            said += data
        line, _, rest = said.partition(b"\n")
        answer = json.loads(line)
        return (answer if isinstance(answer, dict) else {}), rest
    except Stranger as stranger:
        from moltis.errors import NotPermitted

        raise NotPermitted(str(stranger), hint=SAFER) from None
    except PermissionError:
        from moltis.errors import NotPermitted

        raise NotPermitted(f"no permission to use {path}", hint="only the daemon's own user and root may") from None
    except TimeoutError:
        raise NotNow(f"the daemon at {path} did not answer in time") from None
    except OSError as failure:
        raise NotNow(f"no daemon answers at {path} ({failure.strerror or failure})") from None
    except ValueError:
        raise NotNow(f"what answers at {path} is no daemon of moltis") from None


def _refused(error: dict[str, object]) -> Exception:
    from moltis.control.client import error_from
    from moltis.errors import MoltisError

    data = error.get("data")
    if isinstance(data, dict) and data.get("kind") == "busy":
        return NotNow(str(error.get("message")))
    if error.get("code") == METHOD_NOT_FOUND:
        return MoltisError("the running daemon is older than this command", hint="moltis stop, then start it again")
    return error_from(error)
