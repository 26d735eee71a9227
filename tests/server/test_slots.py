"""Start slots: a bound on how many servers start at once that no single server can defeat."""

from __future__ import annotations

import anyio
import pytest

from moltis.server.slots import GIVE_EVERY_SECS, QUIET_SECS, SILENT_SECS, Slot, StartSlots


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


async def work(slot: Slot, secs: float) -> None:
    """Show work each second, as a start does."""
    for _ in range(int(secs)):
        slot.worked(anyio.current_time())
        await anyio.sleep(1)


async def test_a_start_that_works_keeps_its_slot_however_long_it_takes() -> None:
    slots, order = StartSlots(1), list[tuple[int, float]]()
    first = await slots.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, slots, 2, order, 0.0)
        await work(first, 300)
        first.release()
    assert order == [(2, 300.0)]


async def test_a_start_that_shows_no_work_gives_its_slot_away_and_is_not_given_back_twice() -> None:
    slots = StartSlots(1)
    first = await slots.acquire()
    await slots.acquire()
    assert anyio.current_time() == pytest.approx(QUIET_SECS)
    first.release()
    with anyio.move_on_after(1) as early:
        await slots.acquire()
    assert early.cancelled_caught, "a slot that was given away is not given back"


async def test_a_start_that_works_again_counts_again_so_that_those_who_work_stay_within_the_limit() -> None:
    slots, order = StartSlots(2), list[tuple[int, float]]()
    first, second = await slots.acquire(), await slots.acquire()
    third = await slots.acquire()
    assert anyio.current_time() == pytest.approx(QUIET_SECS)
    third.release()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, first, 20)
        tasks.start_soon(work, second, 30)
        await anyio.sleep(0.5)
        tasks.start_soon(take, slots, 4, order, 0.0)
        await anyio.sleep(20)
        assert order == [], "two work, and two is the limit"
        first.release()
    assert [name for name, _ in order] == [4]


async def test_a_released_slot_that_is_still_said_to_work_counts_no_more() -> None:
    slots = StartSlots(1)
    first = await slots.acquire()
    first.release()
    first.worked(anyio.current_time())
    with anyio.fail_after(0.1):
        await slots.acquire()


async def test_hung_starts_give_their_slots_away_one_by_one_and_hold_up_nobody_for_long() -> None:
    slots, order = StartSlots(8), list[tuple[int, float]]()
    for _ in range(8):
        await slots.acquire()
    async with anyio.create_task_group() as tasks:
        for name in range(20):
            tasks.start_soon(take, slots, name, order, 1.0)
    admitted = [at for _, at in order]
    assert admitted[0] == pytest.approx(QUIET_SECS)
    assert admitted[-1] <= SILENT_SECS + 1, "twenty that take a second each need not wait for eight that hang"
    assert sum(at < QUIET_SECS + GIVE_EVERY_SECS for at in admitted) <= 5, "one slot, used five times at most"


async def test_on_a_machine_where_nothing_gets_on_one_more_is_started_each_five_seconds() -> None:
    slots, order = StartSlots(8), list[tuple[int, float]]()
    held = [await slots.acquire() for _ in range(8)]
    async with anyio.create_task_group() as tasks:
        for name in range(20):
            tasks.start_soon(take, slots, name, order, 1000.0)
        for _ in range(4):  # all are starved, and get a little of a processor every 9 s
            await anyio.sleep(9)
            for slot in held:
                slot.worked(anyio.current_time())
        tasks.cancel_scope.cancel()
    assert 0 < len(order) <= 36 / GIVE_EVERY_SECS


async def test_slots_of_remote_servers_are_given_away_together_for_they_load_nothing() -> None:
    slots, order = StartSlots(8), list[tuple[int, float]]()
    for _ in range(8):
        await slots.acquire(loads=False)
    async with anyio.create_task_group() as tasks:
        for name in range(8):
            tasks.start_soon(take, slots, name, order, 100.0)
        await anyio.sleep(QUIET_SECS + 0.1)
        assert len(order) == 8
        tasks.cancel_scope.cancel()


async def test_who_gives_up_waiting_does_not_hold_up_the_next() -> None:
    slots, order = StartSlots(1, quiet_secs=100), list[tuple[int, float]]()
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
    slots, order = StartSlots(1, quiet_secs=100), list[tuple[int, float]]()
    await slots.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, slots, 1, order, 1.0)
        await anyio.sleep(3)
        slots.resize(2)
    assert order == [(1, 3.0)]


async def test_a_smaller_limit_ends_no_start_and_lets_nobody_in_before_enough_have_finished() -> None:
    slots, order = StartSlots(3), list[tuple[int, float]]()
    held = [await slots.acquire() for _ in range(3)]
    slots.resize(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take, slots, 4, order, 0.0)
        for slot in held:
            tasks.start_soon(work, slot, 3)
        await anyio.sleep(1)
        held[0].release()
        held[1].release()
        await anyio.sleep(1)
        assert order == []
        held[2].release()
    assert order == [(4, 2.0)]
