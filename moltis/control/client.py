"""The other end of the control socket: what the command line speaks to the daemon with.

Standard library only, and little of it: it is imported by every command, and a shell completion waits for it. Blocking
calls, one thread. `call_raw` returns a result exactly as the daemon wrote it.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from moltis.errors import (
    ConfigError,
    DaemonNotRunning,
    LoginNeeded,
    MoltisError,
    NotPermitted,
    RequestTimeout,
    RpcCode,
    ServerError,
    ServerNotReady,
    UnknownServer,
    UsageError,
)
from moltis.peers import SAFER, Stranger, refuse_stranger

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_TIMEOUT_SECS = 10.0
"""The daemon answers what it knows in milliseconds; methods that wait for a server are given their own."""

RECV_BYTES = 1 << 18
FULL_BACKLOG_PAUSE_SECS = 0.01

_CLASSES: dict[int, type[MoltisError]] = {
    RpcCode.INVALID_PARAMS: UsageError,
    RpcCode.METHOD_NOT_FOUND: UsageError,
    RpcCode.INVALID_REQUEST: UsageError,
    RpcCode.PARSE_ERROR: UsageError,
    RpcCode.UNKNOWN_SERVER: UnknownServer,
    RpcCode.NOT_READY: ServerNotReady,
    RpcCode.REQUEST_TIMEOUT: RequestTimeout,
    RpcCode.LOGIN_NEEDED: LoginNeeded,
    RpcCode.CONFIG: ConfigError,
    RpcCode.FROM_SERVER: ServerError,
}


def connect(path: Path, timeout_secs: float | None = DEFAULT_TIMEOUT_SECS) -> Client:
    """Open a connection to the daemon behind a socket; `timeout_secs` bounds each wait for a reply (None: no bound).

    Raises:
        DaemonNotRunning: nothing listens there.
        NotPermitted: the socket, or whoever listens at it, is another user's; nothing was sent.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_secs)
    try:
        _connect(sock, str(path), timeout_secs)
        refuse_stranger(sock, str(path))
    except Stranger as stranger:
        sock.close()
        raise NotPermitted(str(stranger), hint=SAFER) from None
    except PermissionError:
        sock.close()
        raise NotPermitted(f"no permission to use {path}", hint="only the daemon's own user and root may") from None
    except OSError as failure:
        sock.close()
        why = failure.strerror or str(failure)
        raise DaemonNotRunning(f"no daemon answers at {path} ({why})", hint="start it: moltis run") from None
    return Client(sock, path, timeout_secs)


def _connect(sock: socket.socket, path: str, timeout_secs: float | None) -> None:
    """Connect, waiting while more clients want to than the backlog holds: connect(2) does not, with a timeout."""
    deadline = None if timeout_secs is None else time.monotonic() + timeout_secs
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            if deadline is not None and time.monotonic() > deadline:
                raise
            time.sleep(FULL_BACKLOG_PAUSE_SECS)


class Client:
    """One conversation with the daemon; a context manager. Not for several threads at once."""

    def __init__(self, sock: socket.socket, path: Path, timeout_secs: float | None) -> None:
        self._sock = sock
        self._path = path
        self._timeout_secs = timeout_secs
        self._buffer = bytearray()
        self._searched = 0
        self._events: deque[dict[str, Any]] = deque()
        self._last_id = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, timeout_secs: float | EllipsisType | None = ...
    ) -> Any:
        """Call a method and give its result, decoded; arguments and errors as of `call_raw`."""
        return json.loads(self.call_raw(method, params, timeout_secs))

    def call_raw(
        self, method: str, params: Mapping[str, Any] | None = None, timeout_secs: float | EllipsisType | None = ...
    ) -> bytes:
        """Call a method and give its result as the bytes that the daemon sent.

        timeout_secs: how long to wait for the reply: None without end, left out as the connection was opened.

        Raises:
            MoltisError: what the daemon answered, as the class it was there.
            RequestTimeout: the daemon itself did not answer in time.
            DaemonNotRunning: it ended, or ended the connection, before it answered.
        """
        limit = self._timeout_secs if isinstance(timeout_secs, EllipsisType) else timeout_secs
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": dict(params or {})}
        deadline = None if limit is None else time.monotonic() + limit
        self._send(json.dumps(request, separators=(",", ":")).encode() + b"\n", limit)
        start = b'{"jsonrpc":"2.0","id":%d,"result":' % self._last_id
        while True:
            line = self._read_line(deadline)
            if line.startswith(start):
                return line[len(start) : -1]
            message = json.loads(line)
            if "method" in message:
                self._events.append(message["params"])
            elif message.get("id") in (self._last_id, None) and "error" in message:
                raise error_from(message["error"])

    def events(self, timeout_secs: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield the params of each `mcp.event` as it comes; ends when none came for `timeout_secs` (None: never).

        Raises:
            DaemonNotRunning: the daemon ended, or ended the connection.
        """
        while True:
            while self._events:
                yield self._events.popleft()
            try:
                message = json.loads(self._read_line(None if timeout_secs is None else time.monotonic() + timeout_secs))
            except RequestTimeout:
                return
            if "method" in message:
                self._events.append(message["params"])

    def _send(self, data: bytes, timeout_secs: float | None) -> None:
        self._sock.settimeout(timeout_secs)
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise self._too_late() from None
        except OSError:
            # It may have said why before it hung up: that reply is read next.
            pass

    def _read_line(self, deadline: float | None) -> bytes:
        while (end := self._buffer.find(b"\n", self._searched)) < 0:
            self._searched = len(self._buffer)
            self._buffer += self._receive(deadline)
        line = bytes(memoryview(self._buffer)[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line

    def _receive(self, deadline: float | None) -> bytes:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise self._too_late()
        self._sock.settimeout(left)
        try:
            data = self._sock.recv(RECV_BYTES)
        except TimeoutError:
            raise self._too_late() from None
        except OSError:
            data = b""
        if not data:
            raise DaemonNotRunning(
                f"the daemon at {self._path} ended the connection without an answer", hint="moltis status; moltis logs"
            )
        return data

    def _too_late(self) -> RequestTimeout:
        return RequestTimeout(f"the daemon at {self._path} did not answer in time", hint="moltis status; moltis logs")


def error_from(error: Mapping[str, Any]) -> MoltisError:
    """Return a JSON-RPC error as the exception it was in the daemon, so that it ends in the same exit code."""
    data = error.get("data")
    facts: dict[str, Any] = data if isinstance(data, dict) else {}
    message, server, hint = str(error.get("message")), facts.get("server"), str(facts.get("hint") or "")
    kind = NotPermitted if facts.get("kind") == NotPermitted.kind else _CLASSES.get(error.get("code", 0), MoltisError)
    if kind is ServerNotReady:
        state, retry = str(facts.get("state") or ""), facts.get("next_retry_at")
        return ServerNotReady(message, server=str(server), state=state, next_retry_at=retry, hint=hint)
    if kind is ServerError:
        return ServerError(message, server=str(server), error=facts.get("error"), hint=hint)
    found = kind.__new__(kind)  # UnknownServer words its own message, and these words are the daemon's already
    MoltisError.__init__(found, message, hint=hint, server=server)
    return found
