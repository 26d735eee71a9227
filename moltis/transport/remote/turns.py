"""The events of an answer, in small helpings.

One read from the network holds 10 000 small events, which take as long as fifty calls to other servers. The one rule
is that whoever sends them waits for the others, and that one large event costs no more than it did.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final

import anyio.lowlevel
import httpx2

from moltis.http.bodies import unpacked
from moltis.transport.remote.events import Event, EventStream, EventTooLarge

__all__ = ["body_of", "events_in_turn", "helpings"]

HELPING_BYTES: Final = 8 * 1024
"""Of lines, before others have a turn. That many of the shortest take some 1 ms to read."""
EVENTS_IN_A_ROW: Final = 64


def body_of(response: httpx2.Response, limit: int) -> AsyncGenerator[bytes]:
    """Return the pieces of an answer's body, unpacked. `limit`: as for `unpacked`.

    Raises:
        BodyEncoded: it is compressed in a way that is not known here.
    """
    return unpacked(response.aiter_raw(), response.headers.get("Content-Encoding"), limit)


async def events_in_turn(
    pieces: AsyncGenerator[bytes], max_event_bytes: int, first: bytes = b""
) -> AsyncGenerator[Event | None]:
    """Pass on the events of a body, and None for each time that some were too large. `pieces` are closed.

    first: what was read of it already.

    Raises:
        FAULTS: the stream broke off.
    """
    stream = EventStream(max_event_bytes)
    in_a_row = 0
    async with aclosing(_all(first, pieces) if first else pieces) as every:
        async for piece in every:
            for number, data in enumerate(helpings(piece)):
                if number:
                    await anyio.lowlevel.checkpoint()
                    in_a_row = 0
                too_large = False
                try:
                    events = stream.feed(data)
                except EventTooLarge as fault:
                    events, too_large = fault.events, True
                for event in events:
                    yield event
                    in_a_row += 1
                    if in_a_row >= EVENTS_IN_A_ROW:
                        await anyio.lowlevel.checkpoint()
                        in_a_row = 0
                if too_large:
                    yield None


async def _all(first: bytes, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece


def helpings(piece: bytes) -> Iterator[bytes]:
    """Cut what was read at line ends, so that only the last line of a helping reaches beyond `HELPING_BYTES`.

    A line is never cut, for what is cut is copied once more.
    """
    start = 0
    while (end := _line_end(piece, start + HELPING_BYTES)) > 0:
        yield piece[start:end]
        start = end
    yield piece[start:] if start else piece


def _line_end(piece: bytes, at: int) -> int:
    """Say where the line ends that goes on at this place; 0 if there is nothing after its end."""
    if at >= len(piece):
        return 0
    lf = piece.find(b"\n", at)
    cr = piece.find(b"\r", at, lf if lf >= 0 else len(piece))
    end = (cr if cr >= 0 else lf) + 1
    return end if end < len(piece) else 0
