"""The actor: one server, supervised in virtual time with runs that do as they are told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import pytest
from msgspec.structs import replace
from scripted_life import CRASHES, EPOCH, HEALTHY, MUTE, PLAN, Script, ScriptedLife, World, limits

from moltis.config.limits import Limits
from moltis.config.plan import Shown, StdioLaunch
from moltis.server.actor import Actor
from moltis.server.lifecycle import AuthDone, AuthLost
from moltis.server.slots import StartSlots
from moltis.server.states import FailureKind, State
from moltis.server.transitions import HURRY_SECS
from moltis.transport import Ended


async def test_a_server_becomes_ready_and_its_transitions_are_published_once_each() -> None:
    world = World()
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        assert [(e.from_, e.to, e.reason) for e in world.told] == [
            ("stopped", "starting", "configured"),
            ("starting", "initializing", "opened"),
            ("initializing", "ready", "initialized"),
        ]
        assert actor.history() == world.told
        assert actor.ready_life is world.alive
    assert [(e.to, e.reason) for e in world.told[3:]] == [("stopping", "shutdown"), ("stopped", "ended")]


async def test_a_crash_loop_starts_at_the_exact_times_and_cooldowns_double() -> None:
    world = World([CRASHES])
    async with world.running():
        await anyio.sleep(0.5 + 1 + 2 + 4 + 8 + 300 + 600 + 1200 + 0.1)
    expected, now = [0.0], 0.0
    for delay in (0.5, 1, 2, 4, 8, 300, 600, 1200):
        expected.append(now := now + delay)
    assert world.starts == pytest.approx(expected)


@pytest.mark.parametrize("roll", [0.0, 0.25, 0.999])
async def test_every_delay_is_published_as_it_is_then_waited(roll: float) -> None:
    world = World([CRASHES], roll=roll)
    async with world.running():
        await anyio.sleep(30)
    waits = [e.delay_secs for e in world.told if e.to == "backoff"]
    assert waits == pytest.approx([c / 2 + roll * c / 2 for c in (1, 2, 4, 8, 16)])
    gaps = [b - a for a, b in zip(world.starts, world.starts[1:], strict=False)]
    assert gaps == pytest.approx(waits[: len(gaps)])


async def test_a_server_that_dies_soon_after_ready_does_not_get_its_count_back() -> None:
    world = World([Script(ends_after=0.3)])
    async with world.running() as actor:
        await actor.wait_state(State.COOLDOWN)
        assert world.begun == 6
        assert actor.status().attempts == 6


async def test_a_disabled_server_is_disabled_even_if_its_entry_is_wrong() -> None:
    world = World(plan=replace(PLAN, enabled=False, problem="$TOKEN resolves to nothing", launch=None))
    async with world.running() as actor:
        await anyio.sleep(1)
        assert actor.state is State.DISABLED
        assert actor.status().status == "disconnected"


async def test_a_server_that_appears_only_later_is_ready_after_one_probe() -> None:
    world = World([CRASHES] * 6 + [HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        assert world.begun == 7
        assert actor.status().attempts == 6
        await anyio.sleep(301)
        assert actor.status().attempts == 0


async def test_a_mute_server_is_stopped_at_its_startup_timeout() -> None:
    world = World([MUTE])
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        assert anyio.current_time() == pytest.approx(60)
        error = actor.status().last_error
        assert error is not None
        assert error.kind == "startup_timeout"


async def test_a_server_that_stops_answering_is_ended_and_started_again() -> None:
    world = World([Script(answers=False), HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        assert world.probes == pytest.approx([30, 35, 60, 90])
        assert anyio.current_time() == pytest.approx(95)
        assert await actor.wait_state(State.READY)
        assert actor.status().attempts == 1


async def test_answers_to_heartbeats_are_in_the_status() -> None:
    world = World()
    async with world.running() as actor:
        await anyio.sleep(61)
        status = actor.status()
        assert (status.heartbeat_latency_ms, status.last_heartbeat_at) == (2.0, "2026-11-20T12:01:00.000Z")
        actor.restart()
        await actor.wait_state(State.STARTING)
        assert actor.status().last_heartbeat_at is None


async def test_a_server_that_answers_no_ping_but_something_else_stays_ready_for_ever() -> None:
    world = World([Script(answers=False, answers_otherwise=True)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        await anyio.sleep(86_400)
        assert (actor.state, actor.status().restarts, world.begun) == (State.READY, 0, 1)
        assert world.kinds[:3] == [False, True, True]
        assert world.probes[:3] == pytest.approx([30, 35, 60])
        assert actor.status().heartbeat_latency_ms == 2.0


async def test_a_busy_server_is_not_asked_and_has_all_heartbeats_before_it_afterwards() -> None:
    world = World([Script(answers=False, busy_until=1000.0)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        await anyio.sleep(1029)
        assert world.probes == []
        assert (actor.state, actor.status().last_heartbeat_at) == (State.READY, None)
        await actor.wait_state(State.STOPPING)
        assert world.probes == pytest.approx([1030, 1035, 1060, 1090])
        assert anyio.current_time() == pytest.approx(1095)


async def test_whatever_a_server_says_between_two_heartbeats_is_life() -> None:
    world = World([Script(answers=False)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        for _ in range(100):
            await anyio.sleep(50)
            assert world.alive is not None
            world.alive.heard_at = anyio.current_time()
        assert (actor.state, world.begun) == (State.READY, 1)
        assert actor.status().last_heartbeat_at is None


async def test_a_heartbeat_that_could_not_be_sent_is_not_missed() -> None:
    world = World([Script(answers=False)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        await anyio.sleep(0.5)
        for _ in range(100):
            await anyio.sleep(30)
            assert world.alive is not None
            world.alive.events.unsent()
        assert (actor.state, world.kinds) == (State.READY, [False] * 100)


@pytest.mark.parametrize("fast", [False, True])
async def test_shutdown_ends_within_the_promised_bound_whatever_the_server_does(fast: bool) -> None:
    world = World([Script(stop_takes=math.inf)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        begun = anyio.current_time()
        actor.shutdown(fast=fast)
        assert await actor.wait_state(State.STOPPED) is State.STOPPED
        assert anyio.current_time() - begun == pytest.approx(HURRY_SECS if fast else 5.5)


async def test_a_second_impatient_shutdown_sends_sigterm_and_kills_a_moment_later() -> None:
    world = World([Script(stop_takes=math.inf)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        actor.shutdown()
        await anyio.sleep(1)
        actor.shutdown(fast=True)
        await actor.wait_state(State.STOPPED)
        assert world.hurried == pytest.approx([1.0])
        assert anyio.current_time() == pytest.approx(1.0 + HURRY_SECS)
    assert world.lives[0].killed


async def test_who_obeys_the_sigterm_of_a_second_impatient_shutdown_is_not_killed() -> None:
    world = World([Script(stop_takes=math.inf, heeds_term=True)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        actor.shutdown()
        actor.shutdown(fast=True)
        actor.shutdown(fast=True)
        await actor.wait_state(State.STOPPED)
        assert anyio.current_time() == pytest.approx(0.0)
    assert not world.lives[0].killed


def toggle(actor: Actor[ScriptedLife]) -> None:
    actor.reconfigure(replace(PLAN, enabled=False))
    actor.reconfigure(PLAN)


@pytest.mark.parametrize("ask", [Actor.restart, lambda actor: actor.start(), toggle])
async def test_nothing_asked_after_shutdown_has_an_effect(ask: Callable[[Actor[ScriptedLife]], None]) -> None:
    world = World([Script(stop_takes=1)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        actor.shutdown()
        ask(actor)
        with anyio.fail_after(3):
            assert await actor.wait_state(State.STOPPED)
            await actor.wait_handled()
        assert actor.state is State.STOPPED
    assert world.begun == 1


async def test_what_was_asked_just_before_shutdown_does_not_outlive_it() -> None:
    world = World([CRASHES])
    async with world.running() as actor:
        await actor.wait_state(State.COOLDOWN)
        actor.post(AuthDone())


async def test_start_and_stop_back_to_back_leave_no_run() -> None:
    world = World()
    async with world.running() as actor:
        actor.stop()
        await actor.wait_state(State.STOPPED)
        for _ in range(5):
            actor.start()
            actor.stop()
        await actor.wait_handled()
        await actor.wait_state(State.STOPPED)
        assert world.alive is None


async def test_a_person_who_starts_a_disabled_server_begins_nothing_and_stopping_it_leaves_it_disabled() -> None:
    world = World(plan=replace(PLAN, enabled=False))
    async with world.running() as actor:
        for _ in range(5):
            actor.start()
            actor.stop()
        actor.start()
        await actor.wait_handled()
        assert (actor.state, world.begun) == (State.DISABLED, 0)


async def test_what_is_posted_is_in_the_status_once_it_is_handled() -> None:
    world = World([Script(stop_takes=1)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        actor.stop()
        await actor.wait_handled()
        assert actor.status().state == "stopping"


async def test_a_stop_while_waiting_for_a_start_slot_needs_no_run() -> None:
    slots = StartSlots(1)
    taken = await slots.acquire()
    world = World(slots=slots)
    async with world.running() as actor:
        await actor.wait_state(State.STARTING)
        actor.stop()
        await actor.wait_state(State.STOPPED)
    assert world.begun == 0
    taken.release()


async def test_a_slot_that_comes_together_with_a_stop_begins_no_run() -> None:
    for _ in range(30):  # which of the two tasks goes first is chance
        slots = StartSlots(1, quiet_secs=1000)
        taken = await slots.acquire()
        world = World(slots=slots)
        async with world.running() as actor:
            await actor.wait_state(State.STARTING)
            await anyio.sleep(1)
            taken.release()
            actor.stop()
            asked_at = anyio.current_time()
            await actor.wait_state(State.STOPPED)
            assert anyio.current_time() == asked_at, "nothing had to be killed"
            with anyio.fail_after(1):
                (await slots.acquire()).release()


async def test_a_server_that_fails_gives_its_start_slot_back_at_once() -> None:
    slots = StartSlots(1, quiet_secs=1000)
    crashing, other = World([CRASHES], slots=slots), World(slots=slots)
    async with crashing.running() as first, other.running() as second:
        await first.wait_state(State.BACKOFF)
        await second.wait_state(State.READY)
        assert anyio.current_time() == 0


async def test_waiting_for_a_start_slot_is_no_startup_timeout() -> None:
    slots = StartSlots(1, quiet_secs=500)
    await slots.acquire()
    world = World([MUTE, HEALTHY], slots=slots)
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        assert anyio.current_time() == pytest.approx(560)


async def test_waiting_for_what_an_earlier_daemon_has_left_is_no_startup_timeout() -> None:
    cleared = anyio.Event()
    world = World(slots=StartSlots(1, clear=cleared.wait))
    async with world.running() as actor:
        await actor.wait_state(State.STARTING)
        await anyio.sleep(500)
        assert world.begun == 0
        cleared.set()
        await actor.wait_state(State.READY)
        assert (actor.status().attempts, anyio.current_time()) == (0, pytest.approx(500))


async def test_a_stop_while_an_earlier_daemon_s_servers_are_ended_needs_no_run() -> None:
    world = World(slots=StartSlots(1, clear=anyio.Event().wait))
    async with world.running() as actor:
        await actor.wait_state(State.STARTING)
        actor.stop()
        await actor.wait_state(State.STOPPED)
    assert world.begun == 0


async def test_a_server_elsewhere_waits_for_nothing_that_ends_here() -> None:
    slots = StartSlots(2, clear=anyio.Event().wait)
    with anyio.fail_after(1):
        await slots.acquire(loads=False)
    with anyio.move_on_after(100) as waiting:
        await slots.acquire()
    assert waiting.cancelled_caught


async def test_a_server_hanging_in_its_start_holds_up_the_next_for_five_seconds_only() -> None:
    slots = StartSlots(1)
    hanging, other = World([MUTE], slots=slots), World(slots=slots)
    async with hanging.running() as first:
        await first.wait_state(State.INITIALIZING)
        async with other.running() as second:
            await second.wait_state(State.READY)
            assert anyio.current_time() == pytest.approx(5)


async def test_a_start_that_works_is_not_ended_at_its_startup_timeout() -> None:
    world = World([Script(ready_after=400, works_until=400)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        assert anyio.current_time() == pytest.approx(400)
        assert actor.status().attempts == 0


async def test_a_start_that_uses_processor_time_and_says_nothing_works_too() -> None:
    world = World([Script(ready_after=400, cpu_share=0.05)])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        assert anyio.current_time() == pytest.approx(400)


async def test_a_start_that_is_busy_for_ever_is_ended_at_the_cap_and_says_so() -> None:
    world = World([Script(ready_after=math.inf, cpu_share=1.0)])
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        assert anyio.current_time() == pytest.approx(600)
        error = actor.status().last_error
        assert error is not None
        assert (error.kind, "startup_timeout_max_secs (600 s)" in error.message) == ("startup_timeout", True)


@pytest.mark.parametrize("cpu_share", [0.0, 0.004])
async def test_a_sleeping_event_loop_is_no_work_and_is_ended_at_the_startup_timeout(cpu_share: float) -> None:
    world = World([Script(ready_after=math.inf, works_until=20, cpu_share=cpu_share)])
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        assert anyio.current_time() == pytest.approx(60)
        error = actor.status().last_error
        assert error is not None
        assert "startup_timeout_secs (60 s)" in error.message


async def test_a_start_that_falls_silent_after_its_startup_timeout_is_ended_soon() -> None:
    world = World([Script(ready_after=math.inf, works_until=100)])
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        assert 100 <= anyio.current_time() <= 107


async def test_starts_that_work_are_never_more_at_once_than_there_are_slots() -> None:
    slots = StartSlots(8)
    worlds = [World([Script(ready_after=64, works_until=64)], slots=slots) for _ in range(60)]
    most = 0
    async with AsyncExitStack() as stack:
        actors = [await stack.enter_async_context(world.running()) for world in worlds]
        while not all(actor.state is State.READY for actor in actors):
            await anyio.sleep(1)
            most = max(most, sum(actor.state is State.INITIALIZING for actor in actors))
        assert most == 8
        assert anyio.current_time() == pytest.approx(64 * 8, abs=10)
        assert all(world.begun == 1 for world in worlds)


async def test_a_stop_during_a_start_that_works_gives_its_slot_back() -> None:
    slots = StartSlots(1)
    working, other = World([Script(ready_after=400, works_until=400)], slots=slots), World(slots=slots)
    async with working.running() as first:
        await first.wait_state(State.INITIALIZING)
        async with other.running() as second:
            await anyio.sleep(30)
            assert second.state is State.STARTING
            first.stop()
            await second.wait_state(State.READY)
            assert anyio.current_time() == pytest.approx(30)


async def test_a_ready_server_is_not_looked_at_for_work() -> None:
    world = World()
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        looked: list[None] = []
        world.lives[0].effort = lambda: looked.append(None)  # type: ignore[method-assign,assignment,return-value]
        await anyio.sleep(100)
    assert not looked


async def test_a_ready_server_gives_its_start_slot_back_at_once() -> None:
    slots = StartSlots(1)
    worlds = [World([Script(opens_after=1, ready_after=1)], slots=slots) for _ in range(3)]
    async with worlds[0].running() as a, worlds[1].running() as b, worlds[2].running() as c:
        for actor in (a, b, c):
            await actor.wait_state(State.READY)
        assert anyio.current_time() == pytest.approx(6)


async def test_a_restart_ends_one_run_before_it_begins_the_next() -> None:
    world = World([Script(stop_takes=1.5), HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        actor.restart()
        await actor.wait_state(State.STOPPING)
        await actor.wait_state(State.READY)
        assert world.starts == pytest.approx([0, 1.5])
        assert (actor.status().restarts, actor.status().attempts) == (1, 0)


async def test_a_new_launch_restarts_and_new_limits_or_filters_do_not() -> None:
    world = World()
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        gentle = replace(PLAN, limits=Limits(heartbeat_interval_secs=7), include_tools=("a*",), display_name="F")
        actor.reconfigure(gentle)
        await actor.wait_handled()
        assert world.alive is not None
        assert world.alive.plan is gentle
        assert (actor.state, actor.status().display_name) == (State.READY, "F")
        await anyio.sleep(8)
        assert world.probes == pytest.approx([7])
        actor.reconfigure(replace(gentle, launch=StdioLaunch("uvx")))
        await actor.wait_state(State.STOPPING)
        await actor.wait_state(State.READY)
        assert world.alive.plan.launch == StdioLaunch("uvx")
    assert ("stopping", "config_changed") in [(e.to, e.reason) for e in world.told]


async def test_a_new_launch_ends_a_cooldown_but_not_a_stop_by_request() -> None:
    world = World([CRASHES] * 6 + [HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.COOLDOWN)
        actor.reconfigure(replace(PLAN, launch=StdioLaunch("uvx")))
        await actor.wait_state(State.READY)
        actor.stop()
        await actor.wait_state(State.STOPPED)
        actor.reconfigure(replace(PLAN, launch=StdioLaunch("deno")))
        await anyio.sleep(1)
        assert actor.state is State.STOPPED


async def test_enabling_disabling_and_breaking_an_entry_are_followed() -> None:
    world = World(plan=replace(PLAN, problem="$TOKEN resolves to nothing", launch=None))
    async with world.running() as actor:
        await actor.wait_handled()
        status = actor.status()
        assert (status.state, status.status, world.told) == ("invalid", "error", [])
        assert status.last_error is not None
        assert status.last_error.message == "$TOKEN resolves to nothing"
        actor.reconfigure(PLAN)
        await actor.wait_state(State.READY)
        actor.reconfigure(replace(PLAN, enabled=False))
        await actor.wait_state(State.DISABLED)
        actor.stop()
        actor.restart()
        await actor.wait_handled()
        assert actor.state is State.DISABLED


async def test_a_login_is_awaited_without_a_run_and_without_an_attempt() -> None:
    world = World([Script(needs_login=True), HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.AWAITING_AUTH)
        await anyio.sleep(80_000)
        assert (world.alive, actor.status().attempts, actor.status().auth_state) == (None, 0, "awaiting_browser")
        actor.post(AuthDone())
        await actor.wait_state(State.READY)


@pytest.mark.parametrize("ready_first", [False, True])
@pytest.mark.parametrize("kind", [FailureKind.AUTH_REQUIRED, FailureKind.LOGIN_UNAVAILABLE])
async def test_a_login_that_is_quicker_than_the_end_of_the_run_that_asked_for_it_is_not_waited_for(
    kind: FailureKind, ready_first: bool
) -> None:
    ends = Script(ready_after=0.0 if ready_first else math.inf, ends_after=2.0, ended=Ended(kind, "a login is needed"))
    world = World([ends, HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.READY if ready_first else State.INITIALIZING)
        actor.post(AuthLost())
        await anyio.sleep(1)
        actor.post(AuthDone(person=False))
        await anyio.sleep(1.5)
        assert actor.state is State.READY
        waited = world.told[-4]
        assert (waited.to, waited.reason) == (
            (State.AWAITING_AUTH if kind is FailureKind.AUTH_REQUIRED else State.BACKOFF),
            kind.value,
        )
        assert [entry.reason for entry in world.told[-3:]] == ["auth_done", "opened", "initialized"]


@pytest.mark.parametrize("script", [Script(begin_raises=True), Script(run_raises=True)])
async def test_a_fault_of_our_own_is_a_failure_of_that_one_run(script: Script) -> None:
    world = World([script, HEALTHY])
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        error = actor.status().last_error
        assert error is not None
        assert (error.kind, "is broken" in error.message) == ("internal", True)
        await actor.wait_state(State.READY)


async def test_an_unknown_way_to_end_is_still_a_failure() -> None:
    world = World([Script(ends_after=1, ended=Ended("vanished", "gone"))])  # type: ignore[arg-type]
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        assert [(e.kind, e.message) for e in actor.status().recent_errors] == [("internal", "gone")]


async def test_what_a_past_run_tells_is_not_heard() -> None:
    world = World([Script(ends_after=1), MUTE])
    async with world.running() as actor:
        await actor.wait_state(State.BACKOFF)
        await actor.wait_state(State.INITIALIZING)
        world.lives[0].events.initialized()
        world.lives[0].events.unsent()
        await actor.wait_handled()
        assert actor.state is State.INITIALIZING


async def test_cancelling_the_actor_cancels_its_run() -> None:
    world = World()
    with anyio.move_on_after(10):
        await world.actor.run()
    assert world.begun == 1
    assert world.alive is None
    with anyio.fail_after(1):
        await world.actor.wait_handled()
        await world.actor.wait_state(State.COOLDOWN)


async def test_a_sleeping_daemon_probes_once_on_waking_and_kills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(plan=limits(heartbeat_interval_secs=10, heartbeat_timeout_secs=1, heartbeat_max_missed=1))
    skipped = 0.0
    real = anyio.current_time
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        await anyio.sleep(5)
        monkeypatch.setattr(anyio, "current_time", lambda: real() + skipped)
        skipped = 1000.0
        world.lives[0].script = dataclasses.replace(HEALTHY, answers=False)
        await anyio.sleep(5.5)
        assert (actor.state, len(world.probes)) == (State.READY, 1)
        monkeypatch.undo()


async def test_the_status_shows_all_that_is_known_and_instants_in_utc() -> None:
    shown = Shown(command="npx", arg_count=1, env_names=("TOKEN",))
    world = World([Script(ends_after=2, ended=Ended(FailureKind.EXITED, "exited with code 3", 3, ("a", "b")))] * 2)
    world.actor.reconfigure(replace(PLAN, shown=shown))
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        ready = actor.status()
        assert (ready.pid, ready.tool_count, ready.protocol_version) == (100, 3, "2025-11-25")
        assert ready.started_at == ready.ready_since == "2026-11-20T12:00:00.000Z"
        assert (ready.command, ready.arg_count, ready.env_names) == ("npx", 1, ["TOKEN"])
        await actor.wait_state(State.BACKOFF)
        status = actor.status()
        assert (status.pid, status.started_at, status.ready_since, status.tool_count) == (None, None, None, 0)
        assert status.next_retry_at == "2026-11-20T12:00:02.500Z"
        assert status.last_error is not None
        assert (status.last_error.exit_code, status.last_error.stderr_tail) == (3, ["a", "b"])
        entry = actor.history(1)[0]
        assert (entry.pid, entry.exit_code, entry.delay_secs, entry.attempt) == (100, 3, 0.5, 1)
        await anyio.sleep(10)
        assert len(actor.history()) == len(world.told)


ON_DEMAND = replace(PLAN, start="on_demand", idle_stop_secs=60.0)


async def test_an_on_demand_server_is_idle_until_it_is_needed_and_again_when_it_is_not() -> None:
    world = World(plan=ON_DEMAND)
    async with world.running() as actor:
        await anyio.sleep(100)
        assert (actor.state, world.begun, actor.status().status) == (State.IDLE, 0, "disconnected")
        actor.hold()
        await actor.wait_state(State.READY)
        await anyio.sleep(500)
        assert actor.state is State.READY
        actor.release()
        await anyio.sleep(59.9)
        assert actor.state is State.READY
        await anyio.sleep(0.2)
        assert actor.state is State.IDLE
    assert world.path == ["starting", "initializing", "ready", "stopping", "idle", "stopped"]


async def test_who_needs_one_that_is_being_stopped_waits_for_the_stop_and_the_next_start() -> None:
    world = World([Script(stop_takes=1.5)], plan=ON_DEMAND)
    async with world.running() as actor:
        actor.need()
        await actor.wait_state(State.READY)
        await actor.wait_state(State.STOPPING)
        assert actor.wakes
        actor.hold()
        await actor.wait_handled()
        assert (actor.state, actor.wakes) == (State.STOPPING, True)
        await actor.wait_state(State.READY)
        assert world.begun == 2


async def test_one_that_a_person_stops_is_stopped_and_not_idle_and_is_woken_by_nobody() -> None:
    world = World(plan=ON_DEMAND)
    async with world.running() as actor:
        actor.stop()
        actor.hold()
        await actor.wait_handled()
        assert (actor.state, actor.wakes) == (State.STOPPED, False)
        actor.release()
        actor.start()
        await actor.wait_state(State.READY)
        await anyio.sleep(61)
        assert actor.state is State.IDLE


async def test_one_of_which_nothing_is_known_is_tried_until_it_was_ready_once() -> None:
    world = World([CRASHES, CRASHES, CRASHES, HEALTHY], plan=replace(ON_DEMAND, idle_stop_secs=0.5))
    known: list[str] = []
    unseen = Actor(
        world.plan, world.begin, world.slots, wall=lambda: EPOCH, roll=lambda: 0.0, on_transition=world.hear,
        unseen=lambda plan: not known,
    )  # fmt: skip
    world.actor = unseen
    async with world.running() as actor:
        actor.need()
        await actor.wait_state(State.READY)
        known.append("its tools")
        await actor.wait_state(State.IDLE)
    assert world.begun == 4


async def test_a_plan_that_becomes_on_demand_stops_nothing_at_once_and_one_that_no_longer_is_starts_it() -> None:
    world = World(plan=replace(ON_DEMAND, start="always"))
    async with world.running() as actor:
        await actor.wait_state(State.READY)
        await anyio.sleep(1000)
        actor.reconfigure(ON_DEMAND)
        await anyio.sleep(59.9)
        assert actor.state is State.READY
        await anyio.sleep(0.2)
        assert actor.state is State.IDLE
        actor.reconfigure(replace(ON_DEMAND, start="always"))
        await actor.wait_state(State.READY)
        await anyio.sleep(1000)
        assert (actor.state, world.begun) == (State.READY, 2)
