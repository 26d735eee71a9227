"""One value that somebody waits for."""

from __future__ import annotations

import anyio

from moltis.transport.wire.loop import Once


async def test_the_first_value_is_the_one() -> None:
    once: Once[int] = Once()
    assert not once.is_set
    once.set(1)
    once.set(2)
    assert (once.is_set, await once.wait()) == (True, 1)


async def test_a_value_that_comes_later_wakes_the_one_who_waits() -> None:
    once: Once[str] = Once()
    found: list[str] = []

    async def wait() -> None:
        found.append(await once.wait())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert found == []
        once.set("it")
    assert found == ["it"]


async def test_setting_what_nobody_waits_for_any_more_is_harmless() -> None:
    once: Once[None] = Once()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await once.wait()
    once.set(None)
    assert once.is_set
