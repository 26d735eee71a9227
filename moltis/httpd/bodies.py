"""The bodies of requests: how long one may be, and how much of all may be held at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from moltis.httpd.asgi import Receive
from moltis.shares import Shares

__all__ = ["BodyRefused", "Gone", "Held", "body_of"]

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
