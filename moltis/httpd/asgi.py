"""What an application is handed for one request, and the plainest answer to it (ASGI 3.0)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

__all__ = ["CLOSING", "CONNECTION", "JSON", "Connection", "Header", "Receive", "Send", "respond"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

CONNECTION: Final = "moltis.connection"
"""The member of a request's scope that is the `Connection` it came by."""

JSON: Final = (b"content-type", b"application/json")
CLOSING: Final = (b"connection", b"close")


class Connection(Protocol):
    """The connection that a request came by. `principal`: the name of who was let in last by it; None: nobody yet."""

    principal: str | None

    def watch(self, lost: Callable[[], None]) -> None:
        """Call back once when it is lost; at once if it is lost already."""

    def unwatch(self, lost: Callable[[], None]) -> None:
        """Do not call back. Idempotent."""

    def abort(self) -> None:
        """Cut it off; what is queued is dropped, and it is lost."""


async def respond(send: Send, status: int, headers: Iterable[Header], body: bytes = b"") -> None:
    """Answer with a body of known length. `headers` without its length, which a 204 has not (RFC 9110 8.6)."""
    length = () if status == 204 else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
