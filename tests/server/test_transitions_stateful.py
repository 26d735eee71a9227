"""The state machine against everything that can happen to it, in any order, at any time."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moltis.config.limits import Limits
from moltis.server.lifecycle import (
    ACTIVE,
    OF_USE,
    RESTING,
    TIMED,
    Admitted,
    Alive,
    AuthDone,
    AuthLost,
    Deadline,
    Demand,
    Effect,
    Ended,
    Event,
    Failure,
    Hurry,
    Initialized,
    Lifecycle,
    Moment,
    Needed,
    Opened,
    Pulse,
    Restart,
    Retuned,
    Unsent,
    Veto,
    Want,
    Working,
    resting,
    waits_for_login,
)
from moltis.server.states import NOT_NEEDED, UNCOUNTED, FailureKind, State
from moltis.server.transitions import OVERSLEPT_SECS, backoff_ceiling, cooldown_secs, follows, step

SECS = st.floats(0.05, 1e6)
POLICIES = st.builds(
    Limits,
    startup_timeout_secs=SECS,
    startup_timeout_max_secs=SECS,
    heartbeat_interval_secs=SECS,
    heartbeat_timeout_secs=SECS,
    heartbeat_max_missed=st.integers(1, 4),
    max_restart_attempts=st.integers(0, 4),
    restart_backoff_secs=SECS,
    restart_backoff_max_secs=SECS,
    restart_cooldown_secs=SECS,
    restart_cooldown_max_secs=SECS,
    stable_after_secs=SECS,
    stop_eof_secs=SECS,
    stop_term_secs=SECS,
)

VETOES = st.frozensets(st.sampled_from(Veto))
OF_OTHERS = st.frozensets(st.sampled_from([veto for veto in Veto if veto not in OF_USE]))
"""What is laid by people and by moltis.toml; that nobody needs it the machine finds out itself."""


class World(RuleBasedStateMachine):
    """A server whose run, people and clock do what they like."""

    @initialize(policy=POLICIES, idle_secs=st.none() | SECS | st.just(math.inf))
    def begin(self, policy: Limits, idle_secs: float | None) -> None:
        self.policy, self.now, self.life = policy, 0.0, Lifecycle()
        self.idle_secs, self.held, self.released_at = idle_secs, False, -math.inf
        if idle_secs is not None:
            self.life = Lifecycle(State.IDLE, vetoes=OF_USE)
        self.exists = False  # a run, by the effects alone
        self.initialized = False  # by this very run
        self.starts_since_pardon = 0  # by the machine's own decision
        self.logged_in = False  # since the last run began, and still
        self.pulse = Pulse()

    def take(self, event: Event, roll: float = 0.5) -> None:
        before, now = self.life, self.now
        demand = None
        if self.idle_secs is not None:
            demand = Demand(self.idle_secs, math.inf if self.held else self.released_at)
        outcome = step(before, event, Moment(now, roll, self.policy, self.pulse, demand))
        self.life = after = outcome.life
        changed = after.state is not before.state
        assert bool(outcome.reason) == changed
        if isinstance(event, Ended) and event.failure is not None and event.failure.kind in UNCOUNTED:
            self.starts_since_pardon = 0  # nobody was asked: the next start takes the place of this one
        if isinstance(event, Ended) and self.exists:
            self.exists = self.initialized = False
        if outcome.effect is Effect.BEGIN:
            assert not self.exists, "at most one run"
            assert after.starts == before.starts + 1
            self.exists, self.logged_in = True, False
            self.starts_since_pardon += isinstance(event, Deadline)
        elif outcome.effect is not None:
            assert self.exists, "there is something to stop, kill or probe"
        if changed and after.state is State.READY:
            assert self.initialized, "ready without a handshake of this run"
        if outcome.reason == NOT_NEEDED:
            self.check_is_not_needed(before)
        self.check_counts(before, event)
        self.check_heartbeats(before, outcome.effect)
        if isinstance(event, AuthDone | AuthLost) and after.state in ACTIVE - {State.STOPPING} and not outcome.effect:
            self.logged_in = isinstance(event, AuthDone)
        if isinstance(known := follows(after), AuthLost):
            assert not self.logged_in
            self.take(known, roll)
            assert self.life.cause is not None
            assert self.life.cause.kind is FailureKind.LOCKED_OUT
            assert follows(self.life) is None
        elif known is not None:
            assert self.logged_in, "a login that nobody has made"
            self.take(known, roll)
            assert self.life.state is State.STARTING
            assert follows(self.life) is None
        elif isinstance(event, Ended) and after.state is State.AWAITING_AUTH:
            assert not self.logged_in, "the login is there, and is waited for"

    def check_is_not_needed(self, before: Lifecycle) -> None:
        assert self.life.vetoes == OF_USE
        assert self.idle_secs is not None
        assert not self.held
        used_at = max(self.released_at, self.pulse.used_at, before.used_at)
        assert used_at + self.idle_secs <= self.now, "it was used not long ago"
        assert before.state is not State.READY or self.pulse.busy_until <= self.now, "it may be at work"

    def check_heartbeats(self, before: Lifecycle, effect: Effect | None) -> None:
        after, now = self.life, self.now
        if before.state is not State.READY:
            return
        if after.cause is not None and after.cause.kind is FailureKind.UNRESPONSIVE:
            assert self.pulse.busy_until <= before.run.probed_at, "its work was waited for"
            assert self.pulse.heard_at < before.run.probed_at, "it had said something"
            assert before.run.missed == self.policy.heartbeat_max_missed - 1
            assert before.run.proven or before.run.otherwise, "it was asked for something that it answers"
        if effect in (Effect.PROBE, Effect.PROBE_OTHERWISE):
            assert self.pulse.busy_until <= now, "a busy server is left alone"
            assert (effect is Effect.PROBE_OTHERWISE) == after.run.otherwise
            assert not (after.run.otherwise and after.run.proven)

    def check_counts(self, before: Lifecycle, event: Event) -> None:
        after = self.life
        if after.attempts == 0 or after.state is State.COOLDOWN:
            self.starts_since_pardon = 0
        if after.starved > before.starved:
            self.starts_since_pardon -= 1  # it found no network, which uses up no attempt
            assert after.attempts == before.attempts
        assert self.starts_since_pardon <= self.policy.max_restart_attempts + 1
        if after.attempts > before.attempts:
            assert after.failure is not None
            assert after.failure.kind not in UNCOUNTED
            assert after.state in (State.BACKOFF, State.COOLDOWN)
        if after.attempts < before.attempts:
            forgiven = (
                isinstance(event, Restart)
                or (isinstance(event, Want) and event.forgive)
                or (isinstance(event, AuthDone) and event.person)
            )
            stable = before.state is State.READY and self.now >= before.since + self.policy.stable_after_secs
            assert forgiven or stable

    @rule(lays=OF_OTHERS, lifts=VETOES, forgive=st.booleans())
    def want(self, lays: frozenset[Veto], lifts: frozenset[Veto], forgive: bool) -> None:
        expected = self.life.vetoes - lifts | lays
        self.take(Want("asked", lays, lifts, forgive))
        assert self.life.vetoes == expected

    @rule()
    def start(self) -> None:
        self.take(Want("asked", lifts=frozenset(Veto)))

    @precondition(lambda self: self.idle_secs is not None)
    @rule()
    def hold(self) -> None:
        self.held = True
        self.take(Needed())

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.held, self.released_at = False, self.now

    @rule(event=st.sampled_from([Restart(), Retuned(), Hurry(), AuthDone(), AuthDone(person=False), AuthLost()]))
    def ask(self, event: Event) -> None:
        self.take(event)

    @rule(event=st.sampled_from([AuthLost("401"), AuthLost("401"), AuthLost()]))
    def hear_of_the_login(self, event: Event) -> None:
        self.take(event)

    @precondition(lambda self: self.exists)
    @rule(event=st.sampled_from([Admitted(), Working(), Opened(1), Alive(), Alive(otherwise=True), Unsent()]))
    def tell(self, event: Event) -> None:
        self.take(event)

    @precondition(lambda self: self.life.state is State.INITIALIZING)
    @rule()
    def become_ready(self) -> None:
        self.initialized = True
        self.take(Initialized())

    @precondition(lambda self: self.exists)
    @rule(kind=st.sampled_from(FailureKind), roll=st.floats(0, 1, exclude_max=True))
    def end(self, kind: FailureKind, roll: float) -> None:
        self.take(Ended(Failure(kind, "ended", exit_code=1)), roll)

    @precondition(lambda self: self.life.state in (State.STARTING, State.STOPPING))
    @rule()
    def end_before_it_began(self) -> None:
        self.take(Ended(None))

    @precondition(lambda self: self.life.deadline is not None)
    @rule(late=st.sampled_from([0.0, 0.0, 0.0, 0.01, 2.0, 1e7]))
    def pass_deadline(self, late: float) -> None:
        assert self.life.deadline is not None
        self.now = max(self.now, self.life.deadline + late)
        before = self.life.run
        self.take(Deadline())
        assert self.life.run.missed <= before.missed + 1
        if late > 1:
            assert self.life.run.missed <= before.missed, "a late deadline proves nothing"

    @rule(heard=st.booleans(), ahead=st.sampled_from([-1e6, -10.0, 0.0, 10.0, 1e6]), used=st.sampled_from("-.+"))
    def observe(self, heard: bool, ahead: float, used: str) -> None:
        """The server says something, or not; requests come, end, or are given up."""
        used_at = {"-": self.pulse.used_at, ".": self.now, "+": math.inf}[used]
        self.pulse = Pulse(self.now if heard else self.pulse.heard_at, self.now + ahead, used_at)

    @rule(secs=SECS)
    def wait(self, secs: float) -> None:
        """Time passes, but no deadline is passed unnoticed."""
        self.now = min(self.now + secs, self.life.deadline or self.now + secs)

    @rule(kind=st.sampled_from(FailureKind))
    def stop_for_good(self, kind: FailureKind) -> None:
        first = next(iter(Veto))
        self.take(Want("asked", lays=frozenset({first})))
        if self.exists:
            assert self.life.state is State.STOPPING
            self.take(Ended(Failure(kind, "ended")))
        assert self.life.state is RESTING[first]

    @invariant()
    def a_start_has_a_bounded_time_however_busy_it_is(self) -> None:
        run, deadline = self.life.run, self.life.deadline
        if self.life.state not in (State.STARTING, State.INITIALIZING) or run.admitted_at is None:
            return
        assert deadline is not None
        most = self.policy.startup_timeout_secs
        if run.worked_at is not None:
            most = max(most, self.policy.startup_timeout_max_secs)
        assert deadline <= max(run.admitted_at + most, self.now + OVERSLEPT_SECS)

    @invariant()
    def a_run_exists_exactly_in_the_active_states(self) -> None:
        assert self.exists == (self.life.state in ACTIVE)

    @invariant()
    def every_state_that_waits_for_the_clock_has_a_deadline_and_no_other_has(self) -> None:
        assert (self.life.deadline is not None) == (self.life.state in TIMED)
        assert self.life.deadline is None or self.life.deadline >= self.now

    @invariant()
    def what_runs_is_wanted_to_and_what_rests_is_not(self) -> None:
        if self.life.state in RESTING.values():
            assert self.life.state is resting(self.life.vetoes)
        elif self.life.state is not State.STOPPING:
            assert not self.life.vetoes

    @invariant()
    def one_that_is_held_is_not_idle_and_one_that_always_runs_never_is(self) -> None:
        assert self.life.state is not State.IDLE or (self.idle_secs is not None and not self.held)

    @invariant()
    def a_delay_is_within_its_bounds_and_is_there_only_while_waiting(self) -> None:
        life = self.life
        if waits_for_login(life) and life.cause is not None and life.cause.kind is FailureKind.LOCKED_OUT:
            assert life.delay_secs is not None
            assert 0 < life.delay_secs <= self.policy.restart_cooldown_max_secs
        elif waits_for_login(life):
            assert life.delay_secs == self.policy.restart_backoff_max_secs
        elif life.state is State.BACKOFF:
            ceiling = backoff_ceiling(life.starved or life.attempts, self.policy)
            assert life.delay_secs is not None
            assert ceiling / 2 <= life.delay_secs <= ceiling <= self.policy.restart_backoff_max_secs
            assert life.starved or life.attempts <= self.policy.max_restart_attempts
        elif life.state is State.COOLDOWN:
            assert life.delay_secs == cooldown_secs(life.cooldowns, self.policy)
            assert life.attempts > self.policy.max_restart_attempts
        else:
            assert life.delay_secs is None


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
