"""The actor under anything: servers that do what they like, people that ask what they like, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scripted_life import Script, ScriptedLife, World, limits
from trio.testing import MockClock

from moltis.config.plan import ServerPlan, StdioLaunch
from moltis.server.actor import Actor
from moltis.server.lifecycle import AuthDone, AuthLost
from moltis.server.states import FREE, WANTING, FailureKind, State
from moltis.server.status import HistoryEntry
from moltis.transport import Ended

LIMITS = limits(
    startup_timeout_secs=10, heartbeat_interval_secs=4, heartbeat_timeout_secs=1, heartbeat_max_missed=2,
    max_restart_attempts=2, restart_backoff_secs=1, restart_backoff_max_secs=3, restart_cooldown_secs=20,
    restart_cooldown_max_secs=50, stable_after_secs=30, stop_eof_secs=1, stop_term_secs=1,
)  # fmt: skip
PLAN = replace(LIMITS, idle_stop_secs=15.0)
ON_DEMAND = replace(PLAN, start="on_demand")
STOP_BOUND_SECS = 3.0
RESTART_REASONS = {"restart_requested", "config_changed"}

Ask = Callable[[Actor[ScriptedLife]], None]

DURATIONS = st.sampled_from([0.0, 0.1, 2.0, 9.0, 11.0, 29.0, 31.0, math.inf])
SCRIPTS = st.builds(
    Script,
    opens_after=DURATIONS,
    ready_after=DURATIONS,
    ends_after=DURATIONS,
    ended=st.builds(
        Ended, st.sampled_from([k.value for k in FailureKind]), st.just("over"), st.sampled_from([0, 1, -9])
    ),
    answers=st.booleans(),
    stop_takes=DURATIONS,
    needs_login=st.sampled_from([False, False, False, True]),
    begin_raises=st.sampled_from([False] * 9 + [True]),
    run_raises=st.sampled_from([False] * 9 + [True]),
)


@dataclass(frozen=True)
class Named:
    """A request with a name that a failing example can show."""

    name: str
    ask: Ask

    def __repr__(self) -> str:
        return self.name


def use(actor: Actor[ScriptedLife]) -> None:
    actor.hold()
    actor.release()


ASKS = st.sampled_from([
    Named("start", lambda a: a.start()),
    Named("stop", lambda a: a.stop()),
    Named("enable", lambda a: a.start(forgive=True)),
    Named("restart", lambda a: a.restart()),
    Named("disable", lambda a: a.reconfigure(replace(a.plan, enabled=False))),
    Named("reenable", lambda a: a.reconfigure(replace(a.plan, enabled=True))),
    Named("relaunch", lambda a: a.reconfigure(replace(a.plan, launch=StdioLaunch(f"{a.history(1)}")))),
    Named("refilter", lambda a: a.reconfigure(replace(a.plan, include_tools=(f"{a.history(1)}",)))),
    Named("demand", lambda a: a.reconfigure(replace(a.plan, start="on_demand"))),
    Named("always", lambda a: a.reconfigure(replace(a.plan, start="always"))),
    Named("need", lambda a: a.need()),
    Named("use", use),
    Named("login", lambda a: a.post(AuthDone())),
    Named("login lost", lambda a: a.post(AuthLost())),
])  # fmt: skip
ASKED = st.lists(st.tuples(st.sampled_from([0.0, 0.05, 1.0, 7.0, 60.0]), ASKS), max_size=12)
SETTINGS = settings(max_examples=150, deadline=None)


def play(world: Callable[[], World], asked: Sequence[tuple[float, Named]], rest_secs: float) -> World:
    """Live through it all in virtual time."""

    async def main() -> World:
        seen = world()
        async with seen.running() as actor:
            for wait, named in asked:
                await anyio.sleep(wait)
                named.ask(actor)
            await anyio.sleep(rest_secs)
            begun = anyio.current_time()
            actor.shutdown()
            await actor.wait_state(State.STOPPED, State.DISABLED, State.INVALID)
            assert anyio.current_time() - begun <= STOP_BOUND_SECS
        return seen

    return anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


def seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()


def check_history(told: Sequence[HistoryEntry]) -> None:
    """Check what anyone could check offline, from the published transitions alone."""
    for before, after in pairwise(told):
        assert before.to == after.from_, "no transition is left out"
        if after.reason in ("retry", "probe"):
            assert before.next_retry_at is not None
            assert 0 <= seconds(after.at) - seconds(before.next_retry_at) + 0.002 <= 0.004, "at the published instant"
        if after.to == State.READY:
            assert before.to == State.INITIALIZING
            assert before.pid == after.pid
        if State.AWAITING_AUTH in (after.from_, after.to):
            assert after.attempt in (0, before.attempt)
    for entry in told:
        assert (entry.delay_secs is not None) == (entry.to in (State.BACKOFF, State.COOLDOWN))
        if entry.reason == FailureKind.LOGIN_UNAVAILABLE:
            assert (entry.to, entry.delay_secs) == (State.BACKOFF, 3.0)
        elif entry.reason in WANTING:
            assert entry.delay_secs is not None
            assert (entry.to, 0.5 <= entry.delay_secs <= 3.0) == (State.BACKOFF, True)
        elif entry.reason == FailureKind.LOCKED_OUT:
            assert entry.delay_secs is not None
            assert entry.to == State.BACKOFF
            assert 0.5 <= entry.delay_secs <= PLAN.limits.restart_cooldown_max_secs
        elif entry.to == State.BACKOFF:
            ceiling = min(3.0, 2.0 ** (entry.attempt - 1))
            assert entry.delay_secs is not None
            assert ceiling / 2 <= entry.delay_secs <= ceiling


def automatic_starts_per_cycle(told: Sequence[HistoryEntry]) -> int:
    """Count the most starts of the machine's own between two cooldowns, or two times that the count was forgiven."""
    most = here = 0
    for entry in told:
        if entry.reason in (FailureKind.LOGIN_UNAVAILABLE, *FREE):
            here = max(0, here - 1)  # it is not counted: the next start takes the place of this one
        if entry.to == State.STARTING and (entry.attempt == 0 or entry.reason in ("retry", "probe")):
            here = 1 if entry.attempt == 0 else here + 1
        if entry.to == State.BACKOFF and entry.attempt == 1 and entry.reason not in FREE:
            here = 1  # of the run that was forgiven while it was ready, and has failed now
        most = max(most, here)
        if entry.to == State.COOLDOWN:
            here = 0
    return most


@SETTINGS
@given(
    scripts=st.lists(SCRIPTS, min_size=1, max_size=8),
    asked=ASKED,
    roll=st.floats(0, 1, exclude_max=True),
    plan=st.sampled_from([PLAN, ON_DEMAND]),
)
def test_every_promise_holds_whatever_servers_and_people_do(
    scripts: list[Script], asked: list[tuple[float, Named]], roll: float, plan: ServerPlan
) -> None:
    world = play(lambda: World(scripts, plan, roll), asked, rest_secs=200.0)
    check_history(world.told)
    assert automatic_starts_per_cycle(world.told) <= 3
    assert world.told[-1].to in (State.STOPPED, State.DISABLED)


@settings(SETTINGS, max_examples=75)
@given(scripts=st.lists(SCRIPTS, min_size=1, max_size=8), roll=st.floats(0, 1, exclude_max=True))
def test_left_alone_a_server_is_always_ready_or_about_to_be_tried(scripts: list[Script], roll: float) -> None:
    """No state is a trap: once the server is healthy it becomes ready, unless a person must log in."""
    healthy = Script()
    world = play(lambda: World([*scripts, healthy], PLAN, roll), [], rest_secs=1000.0)
    last = world.told[-3] if world.told[-1].from_ == State.STOPPING else world.told[-2]
    assert last.to in (State.READY, State.AWAITING_AUTH)
    if world.begun <= len(scripts):
        script = scripts[world.begun - 1]
        assert last.to == State.AWAITING_AUTH or (script.answers and script.ends_after == math.inf)


@settings(SETTINGS, max_examples=75)
@given(
    scripts=st.lists(SCRIPTS, min_size=1, max_size=8),
    asked=ASKED,
    uses=st.lists(st.tuples(st.sampled_from([0.0, 1.0, 14.0, 16.0]), st.sampled_from([0.0, 1.0, 40.0])), max_size=4),
    roll=st.floats(0, 1, exclude_max=True),
)
def test_an_on_demand_server_is_never_idle_while_somebody_needs_it_and_comes_to_rest_when_nobody_does(
    scripts: list[Script], asked: list[tuple[float, Named]], uses: list[tuple[float, float]], roll: float
) -> None:
    async def main() -> tuple[World, list[State]]:
        world, seen = World([*scripts, Script()], ON_DEMAND, roll), []
        async with world.running() as actor:

            async def use() -> None:
                for wait, secs in uses:
                    await anyio.sleep(wait)
                    actor.hold()
                    await actor.wait_handled()
                    seen.append(actor.state)
                    await anyio.sleep(secs)
                    seen.append(actor.state)
                    actor.release()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(use)
                for wait, named in asked:
                    await anyio.sleep(wait)
                    if named.name in ("start", "stop", "enable", "restart", "need", "use", "login"):
                        named.ask(actor)
            actor.start()
            await anyio.sleep(1000.0)
            assert actor.state in (State.IDLE, State.AWAITING_AUTH, State.STOPPING)
        return world, seen

    world, seen = anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
    assert State.IDLE not in seen
    check_history(world.told)
