"""What an application is handed for one request (ASGI 3.0): its body, within limits, and the plainest answer to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from moltis.shares import Shares

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


MAX_HELD_BYTES: Final = 256 * 1024 * 1024
"""Of bodies that are on their way, of one principal and of all together: a few hundred slow ones would be gigabytes.
Where several send, at most twice as much; see `Shares`."""


class BodyRefused(Exception):
    """A body is not read, or not kept. `status`: 400, 413 or 503; `reason` is ours."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Gone(Exception):
    """The client has left before it had said what it wants."""


class Held:
    """How much is held of long bodies: of those on their way, and of those whose request has no reply."""

    def __init__(self, most: int = MAX_HELD_BYTES) -> None:
        self._shares = Shares(most)

    @property
    def bytes(self) -> int:
        """Of all together."""
        return self._shares.total

    def add(self, principal: str, size: int) -> None:
        """Hold so much more of somebody's.

        Raises:
            BodyRefused: too much of it is held already; nothing was added.
        """
        if not self._shares.take(principal, size):
            raise BodyRefused(503, "too much is being sent at once")

    def drop(self, principal: str, size: int) -> None:
        """Hold so much less."""
        self._shares.give(principal, size)

    @contextmanager
    def of(self, principal: str, size: int) -> Iterator[None]:
        """Hold a body, for as long as this is entered.

        Raises:
            BodyRefused: too much is held already.
        """
        self.add(principal, size)
        try:
            yield
        finally:
            self.drop(principal, size)


async def body_of(receive: Receive, declared: bytes | None, limit: int, held: Held, principal: str) -> bytes:
    """Read a body. `declared`: its `Content-Length`; `principal`: whose it is.

    Raises:
        BodyRefused: it has, or is going to have, more than `limit` bytes, or too much is held; the rest is not read.
        Gone: the client left.
    """
    if declared is not None and not (declared.isdigit() and len(declared) < 16):
        raise BodyRefused(400, "this Content-Length is no length")
    if declared is not None and int(declared) > limit:
        raise BodyRefused(413, f"a message may have {limit} bytes")
    message = await receive()
    if message["type"] != "http.request":
        raise Gone
    body: bytes = message["body"]
    if not message["more_body"]:
        if len(body) > limit:
            raise BodyRefused(413, f"a message may have {limit} bytes")
        return body
    parts, size, counted = [body], len(body), 0
    try:
        held.add(principal, size)
        counted = size
        while message["more_body"]:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            parts.append(message["body"])
            size += len(parts[-1])
            if size > limit:
                raise BodyRefused(413, f"a message may have {limit} bytes")
            held.add(principal, size - counted)
            counted = size
        return b"".join(parts)
    finally:
        held.drop(principal, counted)
