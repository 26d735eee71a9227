from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

from moltis.slices import SLICE_SECS, Slices


async def test_long_work_leaves_others_as_much_time_as_it_takes_and_short_work_is_not_interrupted() -> None:
    now = 0.0
    slices = Slices(lambda: now)
    others: list[int] = []

    async def other() -> None:
        for turn in range(1000):
            others.append(turn)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(3):
            now += SLICE_SECS / 4
            await slices.rest()
        assert others == []
        now += SLICE_SECS
        await slices.rest()
        assert others
        seen = len(others)
        await slices.rest()
        assert len(others) == seen, "the next slice begins after the rest"
        tasks.cancel_scope.cancel()
