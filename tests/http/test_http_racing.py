"""A host has one connection, whichever of its addresses is alive."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import httpcore2
import pytest
from trio.testing import MockClock

from moltis.http.dialing import HEAD_START_SECS, MAX_ADDRESSES, first_to_answer

VIRTUAL = ("trio", {"clock": MockClock(autojump_threshold=0)})


class Opened(httpcore2.AsyncNetworkStream):
    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True


@pytest.mark.parametrize(
    ("addresses", "tried"),
    [
        (["1.1.1.1"], ["1.1.1.1"]),
        (["::1", "::2", "::3", "1.1.1.1"], ["::1", "1.1.1.1", "::2", "::3"]),
        (["1.1.1.1", "1.1.1.2", "::1"], ["1.1.1.1", "::1", "1.1.1.2"]),
        ([f"::{n}" for n in range(20)] + ["1.1.1.1"], ["::0", "1.1.1.1", *(f"::{n}" for n in range(1, 7))]),
    ],
)
async def test_the_families_are_tried_in_turn(addresses: list[str], tried: list[str]) -> None:
    """A network where IPv6 leads nowhere, and a host with many such addresses, must not take seconds."""
    order = []

    async def connect(address: str) -> httpcore2.AsyncNetworkStream:
        order.append(address)
        raise httpcore2.ConnectError(address)

    with pytest.raises(httpcore2.ConnectError, match=addresses[0]):
        await first_to_answer(addresses, connect)
    assert order == tried
    assert len(order) <= MAX_ADDRESSES


@pytest.mark.parametrize("anyio_backend", [VIRTUAL])
@pytest.mark.parametrize("given_up", [False, True])
async def test_of_two_that_answer_at_once_one_is_closed_and_both_when_it_is_given_up(
    given_up: bool, anyio_backend: object
) -> None:
    opened: list[Opened] = []

    async def connect(address: str) -> httpcore2.AsyncNetworkStream:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1.0 if address == "1.1.1.1" else 1.0 - HEAD_START_SECS)
        opened.append(Opened())
        return opened[-1]

    with anyio.move_on_after(0.5 if given_up else 5) as waited:
        stream = await first_to_answer(["1.1.1.1", "1.1.1.2"], connect)
        assert not waited.cancel_called
        assert [one.closed for one in opened] == [one is not stream for one in opened]
    assert waited.cancelled_caught is given_up
    assert len(opened) == 2
    assert sum(one.closed for one in opened) == (2 if given_up else 1)
