"""Start slots: a bound on how many servers start at once that no single server can defeat."""

from __future__ import annotations

import anyio
import pytest

from moltis.server.slots import HOLD_SECS, StartSlots


async def take(slots: StartSlots, name: int, order: list[tuple[int, float]], hold_secs: float) -> None:
    slot = await slots.acquire()
    order.append((name, anyio.current_time()))
    await anyio.sleep(hold_secs)
    slot.release()


async def test_slots_are_given_in_the_order_of_asking_and_never_more_than_there_are() -> None:
    slots, order = StartSlots(2), list[tuple[int, float]]()
    async with anyio.create_task_group() as tasks:
        for name in range(6):
            tasks.start_soon(take, slots, name, order, 1.0)
            await anyio.sleep(0.001)
    assert [name for name, _ in order] == list(range(6))
    assert [round(at) for _, at in order] == [0, 0, 1, 1, 2, 2]


async def test_a_slot_that_is_kept_for_too_long_is_taken_back() -> None:
    slots = StartSlots(1)
    first = await slots.acquire()
    await slots.acquire()
    assert anyio.current_time() == pytest.approx(HOLD_SECS)
    first.release()
    with anyio.move_on_after(1) as early:
        await slots.acquire()
    assert early.cancelled_caught, "a slot that was taken back is not given back twice"


async def test_who_gives_up_waiting_does_not_hold_up_the_next() -> None:
    slots, order = StartSlots(1, hold_secs=100), list[tuple[int, float]]()
    first = await slots.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, slots, 1, order, 1.0)
        await anyio.sleep(1)
        async with anyio.create_task_group() as impatient:
            impatient.start_soon(take, slots, 2, order, 1.0)
            await anyio.sleep(1)
            impatient.cancel_scope.cancel()
        tasks.start_soon(take, slots, 3, order, 1.0)
        await anyio.sleep(1)
        first.release()
    assert order == [(1, 3.0), (3, 4.0)]


async def test_more_slots_are_used_at_once_when_the_limit_grows() -> None:
    slots, order = StartSlots(1, hold_secs=100), list[tuple[int, float]]()
    await slots.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, slots, 1, order, 1.0)
        await anyio.sleep(3)
        slots.resize(2)
    assert order == [(1, 3.0)]
