"""Bodies read up to a limit, as they were sent.

Nothing is decompressed: a few bytes can stand for gigabytes, and no encoding was asked for. And whoever sends a body
in a million pieces does not get the event loop for itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

import anyio.lowlevel
import httpx2

from moltis.http.words import InOurWords

CRUMB_BYTES = 16 * 1024
PIECES_IN_A_ROW = 64
"""One read from the network may hold 10 000 pieces, which come without a pause and take 0.3 s."""


class BodyTooLarge(InOurWords):
    """A body is longer than what is taken of it."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"its answer is longer than {limit} bytes")
        self.limit = limit


class BodyEncoded(InOurWords):
    """A body is compressed, though that was not asked for."""

    def __init__(self) -> None:
        super().__init__("its answer is compressed, which was not asked for")


def check_identity(encoding: str | None) -> None:
    """Look at a Content-Encoding value.

    Raises:
        BodyEncoded: the body is not what the octets on the wire are.
    """
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise BodyEncoded


async def read_capped(response: httpx2.Response, limit: int) -> bytes:
    """Read the body of a response of `server_client` that is being streamed, and close it.

    Raises:
        BodyTooLarge: there are more than `limit` bytes; no more than that and one piece (512 KiB) was in memory.
        BodyEncoded: it is compressed; nothing of it was read.
        httpx2.TransportError: the connection broke off.
    """
    try:
        check_identity(response.headers.get("content-encoding"))
        return await collect(response.aiter_raw(), limit, response.headers.get("content-length"))
    finally:
        await response.aclose()


async def collect(pieces: AsyncGenerator[bytes], limit: int, announced: str | None = None) -> bytes:
    """Join the pieces of a body, which come `in_turn`; they are closed in any case.

    announced: the Content-Length value, so that what is too long is refused before any of it is read.

    Raises:
        BodyTooLarge: there are more than `limit` bytes.
    """
    async with aclosing(pieces):
        if announced is not None and announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            raise BodyTooLarge(limit)
        # Joined once at the end: a megabyte that grows piece by piece is moved each time, which takes longer than to
        # read it. But a piece of one byte must not cost fifty, so crumbs are gathered first.
        whole: list[bytes] = []
        crumbs = bytearray()
        length = 0
        async for piece in pieces:
            length += len(piece)
            if length > limit:
                raise BodyTooLarge(limit)
            if len(piece) < CRUMB_BYTES:
                crumbs += piece
                if len(crumbs) < CRUMB_BYTES:
                    continue
                piece = bytes(crumbs)
                crumbs.clear()
            elif crumbs:
                whole.append(bytes(crumbs))
                crumbs.clear()
            whole.append(piece)
        return b"".join((*whole, crumbs))


async def in_turn(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Pass pieces on, and let others run now and then even when there is always one more."""
    count = 0
    source = aiter(pieces)
    try:
        async for piece in source:
            yield piece
            count += 1
            if count % PIECES_IN_A_ROW == 0:
                await anyio.lowlevel.checkpoint()
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
