"""One connection to the daemon: found by its socket, and handed over by `mcp.connect`."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from moltis.peers import SAFER, Stranger, refuse_stranger

ANSWER_SECS = 5.0
"""The daemon answers from memory; after this it is stuck, and is tried again."""

MAX_ANSWER_BYTES = 1024 * 1024
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602


class NotNow(Exception):
    """There is no daemon, or it has no room; in a moment there may be. The message says which."""


class Died(NotNow):
    """A daemon's socket is there and nobody listens: it did not end as one that is stopped does."""


def socket_path(named: str | None, data_dir: str | None, environ: Mapping[str, str]) -> str:
    """Return the daemon's socket, as `moltis.paths.find_paths` does, at a third of what importing that costs."""
    path = named or environ.get("MOLTIS_SOCKET")
    if not path:
        path = os.path.join(data_dir or environ.get("MOLTIS_DATA_DIR") or "~/.moltis", "run", "moltis.sock")
    return os.path.abspath(os.path.expanduser(path))


class Entrance:
    """A connection on which the daemon has been asked to let a host in. Nobody is waited for.

    wanted: what the host is to see, as params of `mcp.connect`; all servers where nothing is named. A daemon that was
        started by an older version knows no `folder`, and nothing of projects: then it goes, and is not sent again.

    Raises:
        NotNow: it may be worth another try.
        MoltisError: it is not, as things are.
    """

    def __init__(self, path: str, wanted: dict[str, str]) -> None:
        self._path = path
        self._wanted = wanted
        self._said = b""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        request = {"jsonrpc": "2.0", "id": 1, "method": "mcp.connect", "params": dict(wanted)}
        try:
            with _explained(path):
                self._sock.connect(path)
                refuse_stranger(self._sock, path)
                self._sock.sendall(json.dumps(request).encode() + b"\n")
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Give it up."""
        self._sock.close()

    def read(self) -> tuple[socket.socket, bytes] | None:
        """Read what there is. Return the connection, which speaks MCP from now on, and what it has said already.

        None: the answer is not there yet. Raises as the constructor does; then, as after an answer, this is over.
        """
        try:
            with _explained(self._path):
                try:
                    data = self._sock.recv(65536)
                except (BlockingIOError, InterruptedError):
                    return None
                if not data:
                    raise NotNow(f"the daemon at {self._path} ended the connection without an answer")
                self._said += data
                if b"\n" not in self._said and len(self._said) < MAX_ANSWER_BYTES:
                    return None
                line, _, rest = self._said.partition(b"\n")
                answer = json.loads(line)
            error = answer.get("error") if isinstance(answer, dict) else None
            if isinstance(error, dict):
                unknown = error.get("code") == INVALID_PARAMS and "'folder'" in str(error.get("message"))
                if unknown and self._wanted.pop("folder", None) is not None:
                    raise NotNow("the running daemon is older than this command")
                raise _refused(error)
        except BaseException:
            self._sock.close()
            raise
        return self._sock, rest


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Say in the words of this program why there is no way in."""
    try:
        yield
    except Stranger as stranger:
        from moltis.errors import NotPermitted

        raise NotPermitted(str(stranger), hint=SAFER) from None
    except PermissionError:
        from moltis.errors import NotPermitted

        raise NotPermitted(f"no permission to use {path}", hint="only the daemon's own user and root may") from None
    except OSError as failure:
        kind = Died if isinstance(failure, ConnectionRefusedError) else NotNow
        raise kind(f"no daemon answers at {path} ({failure.strerror or failure})") from None
    except (ValueError, RecursionError):
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
