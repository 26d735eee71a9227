"""A daemon of twenty lines: canned results over a Unix socket, and a record of what was asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Reply = Any
"""A result, or bytes sent as the result verbatim, or an `RpcError`, or a function of the params that gives one."""


class RpcError(Exception):
    """An error to answer with."""

    def __init__(self, code: int, message: str, **data: Any) -> None:
        super().__init__(message)
        self.wire = {"code": code, "message": message, "data": data}


class FakeDaemon:
    """Serves until closed; `asked` holds every (method, params)."""

    def __init__(self, path: Path, replies: dict[str, Reply]) -> None:
        self.path = path
        self.replies = replies
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # shutdown(2) wakes the accept; close alone leaves it waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                try:
                    for line in lines:
                        peer.sendall(self._answer(json.loads(line)) + b"\n")
                except OSError:
                    continue

    def _answer(self, request: dict[str, Any]) -> bytes:
        method, params = request["method"], request.get("params", {})
        self.asked.append((method, params))
        reply: Reply | Callable[[dict[str, Any]], Reply] = self.replies.get(method, RpcError(-32601, "no such method"))
        try:
            result = reply(params) if callable(reply) else reply
            if isinstance(result, RpcError):
                raise result
        except RpcError as error:
            return json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error.wire}).encode()
        raw = result if isinstance(result, bytes) else json.dumps(result).encode()
        return b'{"jsonrpc":"2.0","id":%d,"result":' % request["id"] + raw + b"}"
