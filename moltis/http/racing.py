"""One connection to a host that has several addresses: none that is dead keeps the others waiting (RFC 8305)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, zip_longest

import anyio
import httpcore2

HEAD_START_SECS = 0.25
"""What an address gets before the next one is tried beside it (RFC 8305 section 5)."""

MAX_ADDRESSES = 8
"""How many are tried."""

Connect = Callable[[str], Awaitable[httpcore2.AsyncNetworkStream]]


async def first_to_answer(addresses: Sequence[str], connect: Connect) -> httpcore2.AsyncNetworkStream:
    """Try the addresses, at least one, the two families in turn, each with a head start; the others are closed.

    Raises:
        httpcore2.NetworkError, httpcore2.TimeoutException: none could be connected to; the first error.
    """
    won: list[httpcore2.AsyncNetworkStream] = []
    lost: list[Exception] = []

    async def attempt(address: str, over: anyio.Event) -> None:
        try:
            stream = await connect(address)
        except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
            lost.append(error)
            over.set()
        else:
            won.append(stream)
            race.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as race:
            for address in _alternating(addresses)[:MAX_ADDRESSES]:
                over = anyio.Event()
                race.start_soon(attempt, address, over)
                with anyio.move_on_after(HEAD_START_SECS):
                    await over.wait()
    except BaseException:
        await _close(won)  # it is given up at the moment one answered
        raise
    if not won:
        raise lost[0]
    await _close(won[1:])  # two answered at once
    return won[0]


def _alternating(addresses: Sequence[str]) -> list[str]:
    """Let the families alternate, the first one's first (RFC 8305 section 4): often one of them leads nowhere."""
    families = ([a for a in addresses if (":" in a) is six] for six in (True, False))
    first, second = sorted(families, key=lambda family: addresses[0] not in family)
    return [a for a in chain.from_iterable(zip_longest(first, second)) if a is not None]


async def _close(streams: Sequence[httpcore2.AsyncNetworkStream]) -> None:
    with anyio.CancelScope(shield=True):
        for stream in streams:
            await stream.aclose()
