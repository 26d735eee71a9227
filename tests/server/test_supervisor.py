"""The supervisor: a plan becomes servers, and another plan touches only what it changes."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest
from msgspec.structs import replace
from scripted_life import EPOCH, HEALTHY, MUTE, PLAN, Script, ScriptedLife, World

from moltis.config.plan import DaemonPlan, Plan, ServerPlan, StdioLaunch
from moltis.errors import UnknownServer
from moltis.server.life import LifeEvents
from moltis.server.states import State
from moltis.server.status import HistoryEntry
from moltis.server.supervisor import Supervisor


class Worlds:
    """A scripted world per server, and the supervisor over them."""

    def __init__(self, scripts: dict[str, Sequence[Script]] | None = None) -> None:
        self.scripts = scripts or {}
        self.worlds: dict[str, World] = {}
        self.told: list[tuple[str, HistoryEntry]] = []
        self.supervisor: Supervisor[ScriptedLife] = Supervisor(
            self.begin,
            max_concurrent_starts=8,
            wall=lambda: EPOCH + timedelta(seconds=anyio.current_time()),
            roll=lambda: 0.0,
            on_transition=lambda name, entry: self.told.append((name, entry)),
        )

    def begin(self, plan: ServerPlan, events: LifeEvents) -> ScriptedLife:
        world = self.worlds.setdefault(plan.name, World(self.scripts.get(plan.name, (HEALTHY,))))
        return world.begin(plan, events)

    def pids(self) -> dict[str, int | None]:
        return {actor.plan.name: actor.status().pid for actor in self.supervisor}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor[ScriptedLife]]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.supervisor.run)
            yield self.supervisor
            self.supervisor.shutdown()
        assert all(world.alive is None for world in self.worlds.values())


def plan(*names: str, **changed: str) -> Plan:
    servers = [replace(PLAN, name=n, launch=StdioLaunch(changed.get(n, "npx"))) for n in names]
    return Plan(servers=tuple(servers))


async def test_a_changed_server_of_fifty_is_restarted_and_the_other_49_keep_their_processes() -> None:
    worlds = Worlds()
    names = [f"s{i}" for i in range(50)]
    async with worlds.running() as supervisor:
        supervisor.apply(plan(*names))
        await anyio.sleep(1)
        before = {name: world.begun for name, world in worlds.worlds.items()}
        change = supervisor.apply(plan(*names, s7="uvx"))
        await anyio.sleep(1)
        assert change.changed == ("s7",)
        assert supervisor.counts() == {"ready": 50}
        assert {n: w.begun - before[n] for n, w in worlds.worlds.items() if w.begun != before[n]} == {"s7": 1}


async def test_servers_are_listed_in_file_order_after_a_reload() -> None:
    worlds = Worlds()
    async with worlds.running() as supervisor:
        supervisor.apply(plan("b", "c"))
        supervisor.apply(plan("a", "c", "b"))
        assert supervisor.names() == ["a", "c", "b"]


async def test_a_server_removed_and_added_again_starts_only_when_nothing_is_left_of_the_first() -> None:
    worlds = Worlds({"slow": [Script(stop_takes=4.0), HEALTHY]})
    async with worlds.running() as supervisor:
        supervisor.apply(plan("slow"))
        await anyio.sleep(1)
        assert supervisor.apply(plan()).removed == ("slow",)
        assert supervisor.apply(plan("slow")).added == ("slow",)
        await supervisor.actor("slow").wait_state(State.READY)
        assert worlds.worlds["slow"].starts == [0.0, 5.0]


async def test_added_and_removed_over_and_over_there_is_never_a_second_process() -> None:
    worlds = Worlds({"slow": [Script(stop_takes=2.0)]})
    async with worlds.running() as supervisor:
        for _ in range(5):
            supervisor.apply(plan("slow"))
            await anyio.sleep(0.5)
            supervisor.apply(plan())
        supervisor.apply(plan("slow"))
        await supervisor.actor("slow").wait_state(State.READY)


async def test_a_server_that_hangs_while_starting_delays_no_other() -> None:
    worlds = Worlds({"stuck": [MUTE]})
    async with worlds.running() as supervisor:
        supervisor.apply(plan("a", "b", "stuck", "c", "d"))
        await anyio.sleep(0.01)
        assert supervisor.counts() == {"ready": 4, "initializing": 1}


async def test_shutdown_stops_all_servers_at_the_same_time() -> None:
    worlds = Worlds({f"s{i}": [Script(stop_takes=4.9)] for i in range(30)})
    async with worlds.running() as supervisor:
        supervisor.apply(plan(*worlds.scripts))
        await anyio.sleep(1)
        began = anyio.current_time()
    assert anyio.current_time() - began == pytest.approx(4.9)


async def test_a_removed_server_that_is_still_stopping_is_waited_for_at_shutdown() -> None:
    worlds = Worlds({"slow": [Script(stop_takes=3.0)]})
    async with worlds.running() as supervisor:
        supervisor.apply(plan("slow"))
        await anyio.sleep(1)
        supervisor.apply(plan())


async def test_a_fast_shutdown_kills() -> None:
    worlds = Worlds({"slow": [Script(stop_takes=100.0)]})
    async with worlds.running() as supervisor:
        supervisor.apply(plan("slow"))
        await anyio.sleep(1)
        supervisor.shutdown()
        await anyio.sleep(0.1)
        supervisor.shutdown(fast=True)
        began = anyio.current_time()
    assert anyio.current_time() - began < 1
    assert worlds.worlds["slow"].lives[0].killed


async def test_an_unknown_server_is_answered_with_the_nearest_names() -> None:
    worlds = Worlds()
    async with worlds.running() as supervisor:
        supervisor.apply(plan("github", "files"))
        with pytest.raises(UnknownServer, match=r"githbu.*did you mean github") as caught:
            supervisor.actor("githbu")
        assert "files" in caught.value.hint


async def test_the_limit_of_concurrent_starts_can_change_while_servers_start() -> None:
    names = [f"s{i}" for i in range(20)]
    worlds = Worlds({name: [MUTE] for name in names})
    async with worlds.running() as supervisor:
        supervisor.apply(dataclasses.replace(plan(*names), daemon=DaemonPlan(max_concurrent_starts=2)))
        await anyio.sleep(0.1)
        assert len(worlds.worlds) == 2
        supervisor.apply(dataclasses.replace(plan(*names), daemon=DaemonPlan(max_concurrent_starts=20)))
        await anyio.sleep(0.1)
        assert len(worlds.worlds) == 20
