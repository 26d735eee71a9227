"""The state machine, by examples: every promise about starting, failing, waiting, probing and stopping."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.config.limits import Limits
from moltis.server.lifecycle import (
    ACTIVE,
    OF_PEOPLE,
    OF_THE_FILE,
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
    Transition,
    Unsent,
    Veto,
    Want,
    Working,
    resting,
)
from moltis.server.states import STATUS, FailureKind, State
from moltis.server.transitions import (
    HURRY_SECS,
    OVERSLEPT_SECS,
    STOP_SLACK_SECS,
    TABLE,
    backoff_ceiling,
    cooldown_secs,
    follows,
    step,
)

POLICY = Limits()
ALL = frozenset(Veto)
RUN = Want("start_requested", lifts=ALL)
STOP = Want("stop_requested", lays=frozenset({Veto.STOPPED}))
REFUSED = Ended(Failure(FailureKind.AUTH_REQUIRED, "401"))
UNAVAILABLE = Ended(Failure(FailureKind.LOGIN_UNAVAILABLE, "its login cannot be renewed now"))
LOCKED = AuthLost("it needed no login before, and now does not say how")
CRASH = Ended(Failure(FailureKind.EXITED, "exited with code 1", exit_code=1))
STATES = {"invalid", "disabled", "stopped", "idle", "starting", "initializing", "ready"} | {
    "awaiting_auth", "backoff", "cooldown", "stopping",
}  # fmt: skip


class Server:
    """A lifecycle and its clock, to be walked by hand."""

    def __init__(self, policy: Limits = POLICY, roll: float = 0.0) -> None:
        self.policy, self.roll, self.now = policy, roll, 1000.0
        self.life = Lifecycle()
        self.pulse = Pulse()
        self.demand: Demand | None = None
        self.last = Transition(self.life)

    def on(self, *events: Event) -> Server:
        for event in events:
            self.last = step(self.life, event, Moment(self.now, self.roll, self.policy, self.pulse, self.demand))
            self.life = self.last.life
            if (known := follows(self.life)) is not None:
                self.on(known)
        return self

    def wait(self, late: float = 0.0) -> Server:
        """Let the deadline pass."""
        assert self.life.deadline is not None
        self.now = max(self.now, self.life.deadline + late)
        return self.on(Deadline())

    def ready(self) -> Server:
        return self.on(RUN, Admitted(), Opened(7), Initialized())

    @property
    def state(self) -> State:
        return self.life.state


def test_the_table_has_a_cell_for_every_state_and_event() -> None:
    assert set(TABLE) == set(itertools.product(State, get_args(Event)))


def test_the_states_are_the_eleven_words_and_each_has_a_status() -> None:
    assert {s.value for s in State} == STATES
    assert set(STATUS) == set(State)
    assert set(STATUS.values()) == {"connected", "disconnected", "error"}


def test_a_start_goes_through_starting_and_initializing_to_ready() -> None:
    server = Server().on(RUN)
    assert (server.state, server.last.effect, server.life.starts) == (State.STARTING, Effect.BEGIN, 1)
    assert server.on(Admitted(), Opened(7)).state is State.INITIALIZING
    assert server.life.run.pid == 7
    assert server.on(Initialized()).state is State.READY
    assert server.life.attempts == 0


def test_waiting_for_a_start_slot_does_not_use_up_the_startup_timeout() -> None:
    server = Server().on(RUN)
    for _ in range(5):
        assert server.wait().state is State.STARTING
    assert server.on(Admitted()).life.deadline == server.now + POLICY.startup_timeout_secs


@pytest.mark.parametrize(
    ("worked", "ended", "limit"),
    [
        ([], 60, "startup_timeout_secs (60 s)"),
        ([1, 30, 54], 60, "startup_timeout_secs (60 s)"),
        ([55.5], 60.5, "startup_timeout_secs (60 s)"),
        ([*range(100)], 104, "startup_timeout_secs (60 s), nor while it went on working"),
        ([*range(0, 1000, 4)], 600, "startup_timeout_max_secs (600 s)"),
    ],
)
def test_a_start_is_ended_when_it_has_had_its_time_and_works_no_more_or_at_the_cap(
    worked: list[float], ended: float, limit: str
) -> None:
    server = Server().on(RUN, Admitted(), Opened(7))
    begun, left = server.now, list(worked)
    while server.state is State.INITIALIZING:
        assert server.life.deadline is not None
        if left and begun + left[0] < server.life.deadline:
            server.now = begun + left.pop(0)
            server.on(Working())
        else:
            server.wait()
    assert server.now - begun == pytest.approx(ended)
    assert server.life.cause is not None
    assert limit in server.life.cause.message


def test_a_cap_below_the_startup_timeout_shortens_nothing() -> None:
    server = Server(replace(POLICY, startup_timeout_max_secs=10.0)).on(RUN, Admitted(), Working())
    assert server.wait().state is State.STOPPING
    assert server.now == 1000 + POLICY.startup_timeout_secs


def test_opening_and_handshake_share_one_startup_timeout() -> None:
    server = Server().on(RUN, Admitted())
    begun = server.now
    server.now += 50
    server.on(Opened(7))
    assert server.life.deadline == begun + POLICY.startup_timeout_secs
    server.wait()
    assert (server.state, server.last.effect) == (State.STOPPING, Effect.STOP)
    server.on(Ended(Failure(FailureKind.EXITED, "killed", exit_code=-9, stderr_tail=("bye",))))
    assert server.state is State.BACKOFF
    assert server.life.failure is not None
    assert server.life.failure.kind is FailureKind.STARTUP_TIMEOUT
    assert (server.life.failure.exit_code, server.life.failure.stderr_tail) == (-9, ("bye",))
    assert "60 s" in server.life.failure.message


@pytest.mark.parametrize("exit_code", [0, 1, -11])
@pytest.mark.parametrize("events", [(), (Admitted(),), (Opened(1),), (Opened(1), Initialized())])
def test_an_exit_in_any_state_but_stopping_is_a_failure_even_with_code_0(
    exit_code: int, events: tuple[Event, ...]
) -> None:
    server = Server().on(RUN, *events, Ended(Failure(FailureKind.EXITED, "exited", exit_code)))
    assert (server.state, server.life.attempts, server.last.reason) == (State.BACKOFF, 1, "exited")


@pytest.mark.parametrize(
    ("asked", "waits"),
    [(None, 0.5), (0.1, 0.5), (7.0, 7.0), (1e9, POLICY.restart_cooldown_max_secs)],
    ids=["nothing", "less than our own delay", "more", "absurdly much"],
)
def test_retry_after_is_obeyed_upward_and_capped(asked: float | None, waits: float) -> None:
    busy = Failure(FailureKind.CONNECT_FAILED, "answered 503", retry_after_secs=asked)
    server = Server().on(RUN, Admitted(), Opened(None), Ended(busy))
    assert (server.state, server.life.delay_secs) == (State.BACKOFF, waits)


def crash_until_cooldown(server: Server) -> list[float]:
    """Crash at once, again and again; give the delays."""
    delays = []
    server.on(RUN)
    while server.on(CRASH).state is State.BACKOFF:
        delays.append(server.life.delay_secs or math.nan)
        server.wait()
    return delays


@pytest.mark.parametrize(("roll", "expected"), [(0.0, [0.5, 1, 2, 4, 8]), (0.5, [0.75, 1.5, 3, 6, 12])])
def test_delays_double_and_are_drawn_between_half_and_all_of_it(roll: float, expected: list[float]) -> None:
    server = Server(roll=roll)
    assert crash_until_cooldown(server) == expected
    assert server.life.starts == POLICY.max_restart_attempts + 1


def test_a_cooldown_is_not_jittered_ends_in_one_start_and_doubles_up_to_its_limit() -> None:
    server = Server(roll=0.7)
    crash_until_cooldown(server)
    lengths = []
    for _ in range(6):
        starts = server.life.starts
        lengths.append(server.life.delay_secs)
        assert server.wait().last.reason == "probe"
        assert server.life.starts == starts + 1
        assert server.on(CRASH).state is State.COOLDOWN
    assert lengths == [300, 600, 1200, 2400, 3600, 3600]


def test_a_probe_start_that_becomes_ready_and_fails_soon_cools_down_again() -> None:
    server = Server()
    crash_until_cooldown(server)
    server.wait().on(Admitted(), Opened(1), Initialized())
    server.now += POLICY.stable_after_secs - 1
    assert server.on(CRASH).state is State.COOLDOWN
    assert server.life.delay_secs == 600


def test_no_restart_attempts_means_a_cooldown_after_the_first_failure() -> None:
    server = Server(replace(POLICY, max_restart_attempts=0)).on(RUN, CRASH)
    assert (server.state, server.life.delay_secs) == (State.COOLDOWN, 300)


OFFLINE = Ended(Failure(FailureKind.EXITED, "exited with code 1", 1, ("npm error code EAI_AGAIN",)))


def test_without_a_network_it_is_tried_again_at_a_steady_pace_and_uses_up_no_attempt() -> None:
    server = Server(roll=0.5).on(RUN)
    delays = []
    for _ in range(100):
        server.on(Admitted(), Opened(1), OFFLINE)
        assert (server.state, server.life.attempts, server.last.reason) == (State.BACKOFF, 0, "no_network")
        assert server.life.delay_secs is not None
        delays.append(server.life.delay_secs)
        server.wait()
    assert delays[:3] == [0.75, 1.5, 3.0]
    assert set(delays[7:]) == {45.0}
    assert server.on(Admitted(), Opened(1), Initialized()).state is State.READY


@pytest.mark.parametrize(
    "ended",
    [
        Ended(Failure(FailureKind.CONNECT_FAILED, "cannot be reached at x.test: its name cannot be resolved")),
        Ended(Failure(FailureKind.LISTING_FAILED, "its tools could not be listed: error -32603: fetch failed")),
        Ended(
            Failure(FailureKind.EXITED, "exited with code 0", 0, (), None, "1 line was not JSON: `ENOTFOUND x.test`")
        ),
    ],
    ids=["remote", "listing", "stdout"],
)
def test_whatever_says_that_there_is_no_network_is_no_attempt(ended: Ended) -> None:
    server = Server().on(RUN, Admitted(), Opened(1), ended)
    assert (server.state, server.life.attempts) == (State.BACKOFF, 0)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(FailureKind.NO_RESOURCES, "cannot open pipes: Too many open files"),
        Failure(FailureKind.CONNECT_FAILED, "cannot be reached at x.test: this process has no file descriptor left"),
        Failure(FailureKind.CONNECT_FAILED, "no thread can be started: can't start new thread"),
    ],
    ids=["pipes", "socket", "thread"],
)
def test_what_this_machine_has_not_left_is_no_attempt_of_the_servers_and_cools_nothing_down(failure: Failure) -> None:
    server = Server(roll=0.5).on(RUN)
    delays = []
    for _ in range(50):
        server.on(Admitted(), Ended(failure))
        assert (server.state, server.life.attempts, server.last.reason) == (State.BACKOFF, 0, "no_resources")
        delays.append(server.life.delay_secs)
        server.wait()
    assert (delays[:3], delays[-1]) == ([0.75, 1.5, 3.0], 45.0)
    assert server.on(Admitted(), Opened(1), Initialized()).state is State.READY


@pytest.mark.parametrize("attempts", [0, 5])
def test_a_server_that_is_lost_with_the_warden_has_not_failed_and_is_not_left_alone(attempts: int) -> None:
    """Somebody's kill, or a machine without memory, ended a process of ours, and with it all servers."""
    server = Server(Limits(max_restart_attempts=attempts), roll=0.5).on(RUN)
    for _ in range(10):
        server.on(Admitted(), Opened(1), Initialized())
        assert server.state is State.READY
        server.on(Ended(Failure(FailureKind.WARDEN_LOST, "was ended with the warden process, which died")))
        assert (server.state, server.life.attempts, server.last.reason) == (State.BACKOFF, 0, "warden_lost")
        server.wait()


def test_a_program_that_says_the_same_of_itself_has_failed() -> None:
    said = Failure(FailureKind.EXITED, "exited with code 1", 1, ("OSError: Too many open files",))
    assert Server().on(RUN, Admitted(), Opened(1), Ended(said)).life.attempts == 1


def test_a_start_that_hangs_for_want_of_a_network_is_no_attempt() -> None:
    server = Server().on(RUN, Admitted(), Opened(1)).wait()
    server.on(Ended(Failure(FailureKind.EXITED, "was killed by SIGTERM", -15, ("npm error code EAI_AGAIN",))))
    assert (server.state, server.life.attempts, server.last.reason) == (State.BACKOFF, 0, "no_network")


def test_a_server_that_was_ready_and_exits_over_the_network_is_a_failure_of_its_own() -> None:
    server = Server().on(RUN, Admitted(), Opened(1), Initialized(), OFFLINE)
    assert (server.life.attempts, server.last.reason) == (1, "exited")


def test_what_failed_before_the_network_went_counts_on_after_it() -> None:
    server = Server().on(RUN)
    for _ in range(POLICY.max_restart_attempts):
        server.on(Opened(1), CRASH).wait()
    server.on(Opened(1), OFFLINE)
    assert (server.state, server.life.attempts) == (State.BACKOFF, POLICY.max_restart_attempts)
    assert server.wait().on(Opened(1), CRASH).state is State.COOLDOWN


def test_an_absurd_number_of_failures_neither_overflows_nor_exceeds_the_limit() -> None:
    assert backoff_ceiling(10**9, POLICY) == POLICY.restart_backoff_max_secs
    assert cooldown_secs(10**9, replace(POLICY, restart_cooldown_secs=1e300)) == POLICY.restart_cooldown_max_secs


def test_being_ready_forgives_nothing_before_it_is_stable() -> None:
    server = Server().on(RUN, CRASH).wait().on(Admitted(), Opened(1), Initialized())
    assert server.life.attempts == 1
    server.now += POLICY.stable_after_secs - 0.01
    assert server.on(CRASH).life.attempts == 2


def test_a_stable_time_forgives_everything_at_its_deadline() -> None:
    server = Server(replace(POLICY, stable_after_secs=100.0))
    crash_until_cooldown(server)
    server.wait().on(Admitted(), Opened(1), Initialized())
    ready_at = server.now
    while server.life.attempts:
        server.wait().on(Alive())
    assert server.now == ready_at + 100
    assert server.on(CRASH).life.delay_secs == 0.5


def test_a_run_that_ends_in_the_moment_that_forgives_is_forgiven() -> None:
    server = Server().on(RUN, CRASH).wait().on(Admitted(), Opened(1), Initialized())
    server.now += POLICY.stable_after_secs
    assert server.on(CRASH).life.attempts == 1


@pytest.mark.parametrize("leaves", [(STOP, CRASH, RUN), (REFUSED, AuthDone(person=False)), (UNAVAILABLE,)])
def test_whatever_ends_a_stable_run_the_count_is_forgiven(leaves: tuple[Event, ...]) -> None:
    server = Server().on(RUN, CRASH).wait().on(Admitted(), Opened(1), Initialized())
    server.now += POLICY.stable_after_secs
    assert server.on(*leaves).life.attempts == 0


def test_heartbeats_are_sent_at_their_interval_and_answers_start_the_count_anew() -> None:
    server = Server().ready()
    for n in (1, 2, 3):
        assert server.wait().last.effect is Effect.PROBE
        assert server.now == 1000 + 30 * n
        server.on(Alive())
    assert server.life.run.missed == 0


def unanswered(server: Server, times: int) -> list[float]:
    """Let heartbeats be sent and lost; give when they were sent."""
    sent = []
    while server.life.run.missed < times and server.state is State.READY:
        begun = server.wait().life.run.probed_at
        if server.last.effect in (Effect.PROBE, Effect.PROBE_OTHERWISE) and begun == server.now:
            sent.append(server.now)
        if len(sent) > times:
            break
    return sent


def test_three_heartbeats_in_a_row_unanswered_end_the_run() -> None:
    server = Server().ready()
    server.wait().on(Alive())
    assert unanswered(server, 3) == [1060, 1090, 1120]
    assert (server.state, server.last.reason, server.now) == (State.STOPPING, "unresponsive", 1125)
    server.on(Ended(Failure(FailureKind.EXITED, "killed", exit_code=-9)))
    assert server.state is State.BACKOFF
    assert server.life.failure is not None
    assert server.life.failure.kind is FailureKind.UNRESPONSIVE


def beat_once(server: Server) -> tuple[Effect | None, float]:
    """Wait until something is sent."""
    while server.wait().last.effect is None:
        pass
    return server.last.effect, server.now


def test_a_server_that_never_answered_a_heartbeat_is_asked_for_something_else_before_one_is_missed() -> None:
    server = Server().ready()
    assert beat_once(server) == (Effect.PROBE, 1030)
    assert beat_once(server) == (Effect.PROBE_OTHERWISE, 1035)
    assert server.life.run.missed == 0
    server.on(Alive(otherwise=True))
    for n in range(2, 100):
        assert beat_once(server) == (Effect.PROBE_OTHERWISE, 1000 + 30 * n)
        server.on(Alive(otherwise=True))
    assert server.state is State.READY


@pytest.mark.parametrize(("max_missed", "ends"), [(1, 1040), (2, 1065), (3, 1095)])
def test_a_server_that_answers_nothing_at_all_is_found_out_in_the_same_time(max_missed: int, ends: float) -> None:
    server = Server(replace(POLICY, heartbeat_max_missed=max_missed)).ready()
    unanswered(server, 10)
    assert (server.state, server.last.reason, server.now) == (State.STOPPING, "unresponsive", ends)


def test_who_answers_the_heartbeat_after_all_is_sent_it_from_then_on() -> None:
    server = Server().ready()
    beat_once(server)
    beat_once(server)
    server.on(Alive())
    assert beat_once(server) == (Effect.PROBE, 1060)
    server.wait()
    assert (server.last.effect, server.life.run.missed) == (None, 1)


def test_no_heartbeat_is_sent_or_missed_while_a_request_is_under_way() -> None:
    server = Server().ready()
    server.pulse = Pulse(busy_until=1300.0)
    while server.now < 1290:
        assert server.wait().last.effect is None
    assert (server.state, server.life.run.missed) == (State.READY, 0)
    assert unanswered(server, 3)[0] == 1330
    assert server.now == 1395


def test_a_request_that_begins_after_a_heartbeat_calls_it_off() -> None:
    server = Server().ready()
    server.wait().on(Alive())
    unanswered(server, 2)
    server.wait()
    assert server.life.run.unanswered
    server.pulse = Pulse(busy_until=server.now + 60)
    server.wait()
    assert (server.state, server.life.run.missed, server.life.run.unanswered) == (State.READY, 0, False)


def test_a_request_that_timed_out_since_the_heartbeat_leaves_all_heartbeats_to_come() -> None:
    server = Server().ready()
    server.wait().on(Alive())
    assert unanswered(server, 2) == [1060, 1090]
    server.pulse = Pulse(busy_until=server.now + 10)  # it came and went between two looks
    gave_up = server.pulse.busy_until
    server.now += 20
    assert unanswered(server, 3) == [gave_up + 30, gave_up + 60, gave_up + 90]
    assert server.state is State.STOPPING


def test_who_says_anything_after_a_heartbeat_has_not_missed_it() -> None:
    server = Server().ready()
    for _ in range(50):
        beat_once(server)
        server.pulse = Pulse(heard_at=server.now + 1)
    assert (server.state, server.life.run.missed, server.life.run.otherwise) == (State.READY, 0, False)


def test_what_was_said_before_a_heartbeat_says_nothing_about_it() -> None:
    server = Server().ready()
    server.pulse = Pulse(heard_at=1029.0)
    unanswered(server, 3)
    assert (server.state, server.now) == (State.STOPPING, 1095)


def test_a_heartbeat_that_was_not_sent_is_nobodys_miss_and_no_sign_of_life() -> None:
    server = Server().ready()
    server.wait().on(Alive())
    unanswered(server, 2)
    for _ in range(5):
        assert beat_once(server)[0] is Effect.PROBE
        server.on(Unsent())
        assert (server.state, server.life.run.missed) == (State.READY, 2)
    beat_once(server)
    assert server.wait().state is State.STOPPING


def test_a_daemon_that_slept_beside_a_busy_server_lets_it_work() -> None:
    server = Server().ready()
    server.pulse = Pulse(busy_until=9000.0)
    server.wait(late=3000)
    assert (server.state, server.last.effect, server.life.deadline) == (State.READY, None, server.now + 30)


def test_two_missed_heartbeats_and_a_late_answer_are_life() -> None:
    server = Server().ready()
    unanswered(server, 2)
    server.on(Alive())
    assert (server.state, server.life.run.missed) == (State.READY, 0)


def test_a_timeout_longer_than_the_interval_delays_only_probes_after_one_that_is_not_answered() -> None:
    policy = replace(POLICY, heartbeat_interval_secs=1.0, heartbeat_timeout_secs=4.0)
    server = Server(policy).ready()
    server.wait().on(Alive()).wait().on(Alive())
    assert server.now == 1002
    assert unanswered(server, 3) == [1003, 1007, 1011]
    assert (server.state, server.now) == (State.STOPPING, 1015)


@pytest.mark.parametrize("event", [Alive(), Alive(otherwise=True), Unsent()])
def test_a_heartbeat_answered_after_more_than_the_interval_is_followed_by_one_that_is_due_now(event: Event) -> None:
    policy = replace(POLICY, heartbeat_interval_secs=1.0, heartbeat_timeout_secs=4.0)
    server = Server(policy).ready().wait()
    server.now += 3.0
    server.on(event)
    assert server.life.deadline is not None
    assert server.life.deadline >= server.now


@pytest.mark.parametrize("max_missed", [1, 3])
@pytest.mark.parametrize("outstanding", [False, True])
def test_a_daemon_that_slept_sends_one_fresh_probe_before_any_verdict(max_missed: int, outstanding: bool) -> None:
    server = Server(replace(POLICY, heartbeat_max_missed=max_missed)).ready()
    if outstanding:
        server.wait()
    server.wait(late=3000)
    assert (server.state, server.last.effect, server.life.run.missed) == (State.READY, Effect.PROBE, 0)
    assert server.on(Alive()).life.deadline == server.now + POLICY.heartbeat_interval_secs


def test_a_server_that_is_dead_after_the_daemon_slept_is_still_found_out() -> None:
    server = Server().ready().wait(late=3000)
    while server.state is State.READY:
        server.wait()
    assert server.last.reason == "unresponsive"


def test_a_daemon_that_slept_during_a_start_listens_before_it_gives_up() -> None:
    server = Server().on(RUN, Admitted(), Opened(1)).wait(late=500)
    assert server.state is State.INITIALIZING
    assert server.life.deadline == server.now + OVERSLEPT_SECS
    assert server.wait().state is State.STOPPING


def test_new_limits_are_watched_at_once_in_ready() -> None:
    server = Server().ready()
    server.policy = replace(POLICY, heartbeat_interval_secs=6.0)
    server.on(Retuned())
    assert server.life.deadline == 1006


def test_a_published_delay_is_kept_when_limits_change() -> None:
    server = Server().on(RUN, CRASH)
    before = server.life
    server.policy = replace(POLICY, restart_backoff_secs=50.0)
    assert server.on(Retuned()).life == before


@pytest.mark.parametrize("veto", Veto)
@pytest.mark.parametrize("events", [(), (Opened(1),), (Opened(1), Initialized()), (CRASH,), (REFUSED,)])
def test_a_request_to_rest_wins_from_anywhere(veto: Veto, events: tuple[Event, ...]) -> None:
    server = Server().on(RUN, Admitted(), *events, Want("asked", lays=frozenset({veto})))
    if server.state in ACTIVE:
        assert server.state is State.STOPPING
        server.on(CRASH)
    assert server.state is RESTING[veto]
    assert server.life.deadline is None


def test_a_stop_is_no_failure_whatever_the_exit_code() -> None:
    server = Server().ready().on(STOP, CRASH)
    assert (server.state, server.life.attempts, server.last.reason) == (State.STOPPED, 0, "ended")


def test_a_run_that_will_not_end_is_killed_within_the_promised_bound_and_again() -> None:
    server = Server().ready().on(STOP).wait()
    assert server.now == 1000 + POLICY.stop_eof_secs + POLICY.stop_term_secs + STOP_SLACK_SECS
    assert (server.state, server.last.effect) == (State.STOPPING, Effect.KILL)
    assert server.wait().last.effect is Effect.KILL


def test_hurry_kills_what_is_being_stopped_and_nothing_else() -> None:
    assert Server().ready().on(Hurry()).last.effect is None
    server = Server().ready().on(STOP, Hurry())
    assert server.last.effect is Effect.HURRY
    assert server.wait().last.effect is Effect.KILL
    assert server.now == 1000 + HURRY_SECS


def test_hurrying_again_does_not_put_off_the_kill() -> None:
    server = Server().ready().on(STOP, Hurry())
    for _ in range(9):
        server.now += HURRY_SECS / 10
        server.on(Hurry())
    assert server.life.deadline == 1000 + HURRY_SECS


def test_who_had_its_sigterm_long_ago_is_killed_at_once_when_somebody_is_in_a_hurry() -> None:
    server = Server().ready().on(STOP)
    server.now += POLICY.stop_eof_secs + HURRY_SECS
    assert server.on(Hurry()).last.effect is Effect.KILL


def test_stop_then_start_starts_again_once_nothing_is_left() -> None:
    server = Server().ready().on(STOP, RUN)
    assert server.state is State.STOPPING
    server.on(Ended())
    assert (server.state, server.last.effect, server.life.attempts) == (State.STARTING, Effect.BEGIN, 0)


def test_a_restart_forgives_and_begins_only_after_the_old_run_has_ended() -> None:
    server = Server().on(RUN, CRASH).wait().on(Admitted(), Opened(1), Initialized(), Restart())
    assert (server.state, server.life.attempts) == (State.STOPPING, 0)
    assert server.on(CRASH).state is State.STARTING


def test_a_restart_ends_a_cooldown_and_begins_with_a_clean_count() -> None:
    server = Server()
    crash_until_cooldown(server)
    assert server.on(Restart()).state is State.STARTING
    assert (server.life.attempts, server.life.cooldowns) == (0, 0)
    assert server.on(CRASH).life.delay_secs == 0.5


def test_a_restart_during_the_end_of_an_unresponsive_run_makes_it_no_failure() -> None:
    server = Server().ready()
    unanswered(server, 3)
    assert server.on(Restart(), CRASH).state is State.STARTING
    assert server.life.attempts == 0


@pytest.mark.parametrize("veto", [Veto.DISABLED, Veto.INVALID])
def test_a_restart_starts_a_stopped_server_but_not_one_that_must_not_run(veto: Veto) -> None:
    forbidden = Want("asked", lays=frozenset({veto}))
    assert Server().on(Restart()).state is State.STARTING
    assert Server().on(forbidden, Restart()).state is RESTING[veto]
    assert Server().ready().on(forbidden, Restart(), CRASH).state is RESTING[veto]


def test_a_request_to_stop_leaves_a_disabled_server_disabled() -> None:
    assert Server().on(Want("disabled", lays=frozenset({Veto.DISABLED})), STOP).state is State.DISABLED
    assert Server().ready().on(Want("disabled", lays=frozenset({Veto.DISABLED})), STOP, CRASH).state is State.DISABLED


def test_starting_by_hand_during_a_wait_starts_now_and_forgives_nothing() -> None:
    server = Server()
    crash_until_cooldown(server)
    assert server.on(RUN).state is State.STARTING
    assert server.on(CRASH).life.delay_secs == 600


def test_enabling_forgives_without_disturbing_a_ready_server() -> None:
    server = Server().on(RUN, CRASH).wait().on(Admitted(), Opened(1), Initialized())
    server.on(Want("enabled", lifts=ALL, forgive=True))
    assert (server.state, server.life.attempts) == (State.READY, 0)


def test_a_login_that_is_needed_uses_up_no_attempt_and_waits_for_ever() -> None:
    server = Server().on(RUN, Admitted(), Opened(), REFUSED)
    assert (server.state, server.life.attempts, server.life.deadline) == (State.AWAITING_AUTH, 0, None)
    assert server.on(AuthDone()).state is State.STARTING


def test_where_nobody_can_log_in_the_clock_starts_the_server_less_and_less_often_and_nothing_counts() -> None:
    server, delays = Server(), []
    server.on(RUN, Admitted(), Opened(7), Initialized(), LOCKED)
    for _ in range(14):
        server.on(REFUSED)
        assert (server.state, server.last.reason, server.life.attempts) == (State.BACKOFF, FailureKind.LOCKED_OUT, 0)
        assert server.life.deadline == server.now + (server.life.delay_secs or 0)
        delays.append(server.life.delay_secs)
        server.wait()
        assert (server.state, server.last.reason) == (State.STARTING, "retry")
        server.on(Admitted(), Opened())
    assert delays == [min(0.5 * 2.0**n, POLICY.restart_cooldown_max_secs / 2) for n in range(14)]


@pytest.mark.parametrize("roll", [0.0, 0.5, 0.999])
def test_a_server_that_locks_us_out_for_moments_is_tried_soon_again_once_it_was_stable(roll: float) -> None:
    server = Server(roll=roll).on(RUN)
    for tries in range(1, 9):
        server.on(REFUSED, LOCKED)
        ceiling = 2.0 ** (tries - 1)
        assert ceiling / 2 <= (server.life.delay_secs or 0) <= ceiling
        server.wait().on(Admitted(), Opened(7), Initialized())
        assert server.state is State.READY
    server.now += POLICY.stable_after_secs
    server.on(REFUSED, LOCKED)
    assert 0.5 <= (server.life.delay_secs or 0) <= 1


def test_a_person_who_logs_in_or_restarts_cuts_that_wait_short() -> None:
    for event in (AuthDone(), AuthDone(person=False), RUN, Restart()):
        server = Server().on(RUN, REFUSED, LOCKED, event)
        assert server.state is State.STARTING, event
    assert Server().on(RUN, REFUSED, LOCKED, STOP).state is State.STOPPED


def test_that_nobody_can_log_in_starts_nothing_that_waits_for_something_else() -> None:
    for walk in ((RUN, CRASH), (RUN, UNAVAILABLE), (RUN, REFUSED, STOP), (RUN, Admitted(), Opened(1), Initialized())):
        server = Server().on(*walk)
        before = (server.state, server.life.deadline, server.life.attempts)
        server.on(LOCKED)
        assert (server.state, server.life.deadline, server.life.attempts) == before


def test_where_somebody_can_log_in_after_all_a_person_is_waited_for() -> None:
    server = Server().ready().on(REFUSED)
    assert server.state is State.AWAITING_AUTH
    assert server.on(LOCKED).state is State.BACKOFF
    server.on(AuthLost())
    assert server.state is State.BACKOFF, "its delay was published"
    assert server.wait().on(REFUSED).state is State.AWAITING_AUTH
    assert Server().ready().on(LOCKED, STOP, CRASH, RUN, REFUSED).state is State.AWAITING_AUTH, "a fresh look"


@pytest.mark.parametrize("attempts", range(1, 8))
def test_a_person_who_logs_in_starts_a_server_from_whatever_wait_it_is_in_and_forgives(attempts: int) -> None:
    server = Server().on(RUN, *[CRASH, RUN] * (attempts - 1), CRASH)
    assert server.state is (State.BACKOFF if attempts <= POLICY.max_restart_attempts else State.COOLDOWN)
    server.on(AuthDone())
    assert (server.state, server.last.effect, server.last.reason) == (State.STARTING, Effect.BEGIN, "auth_done")
    assert (server.life.attempts, server.life.cooldowns, server.life.delay_secs) == (0, 0, None)


def test_a_person_who_logs_in_while_a_cooldown_s_probe_waits_for_them_has_mended_all_of_it() -> None:
    server = Server().on(RUN, *[CRASH, RUN] * POLICY.max_restart_attempts, CRASH).wait().on(REFUSED)
    assert (server.state, server.life.cooldowns) == (State.AWAITING_AUTH, 1)
    assert server.on(AuthDone()).life.cooldowns == 0


@pytest.mark.parametrize(
    "walk",
    [
        (),
        (Want("disabled", lays=frozenset({Veto.DISABLED})),),
        (Want("invalid", lays=frozenset({Veto.INVALID})),),
        (RUN, STOP),
    ],
)
def test_a_login_starts_nothing_that_is_not_to_run(walk: tuple[Event, ...]) -> None:
    server = Server().on(*walk)
    state = server.state
    assert server.on(AuthDone()).state is state
    assert server.on(CRASH).state is not State.STARTING


def test_a_person_who_logs_in_while_the_run_is_ended_for_a_failure_begins_the_next_one() -> None:
    server = Server().on(RUN, Admitted(), Opened()).wait()
    assert server.state is State.STOPPING
    assert server.on(AuthDone(), CRASH).state is State.STARTING
    assert server.life.attempts == 0


RUNNING: tuple[tuple[Event, ...], ...] = (
    (RUN,),
    (RUN, Admitted()),
    (RUN, Admitted(), Opened()),
    (RUN, Admitted(), Opened(), Initialized()),
)


@given(
    walk=st.sampled_from(RUNNING),
    crashes=st.integers(0, 8),
    needs=st.sampled_from([REFUSED, UNAVAILABLE]),
    person=st.booleans(),
    secs=st.floats(0, 1000),
)
def test_a_login_and_the_run_that_ends_for_want_of_it_lead_to_the_same_whichever_is_told_first(
    walk: tuple[Event, ...], crashes: int, needs: Ended, person: bool, secs: float
) -> None:
    first, last = (Server().on(*[RUN, CRASH] * crashes, *walk) for _ in range(2))
    first.now = last.now = first.now + secs
    first.on(AuthDone(person), needs)
    last.on(needs, AuthDone(person))
    assert first.life == last.life
    assert first.last == last.last
    assert (first.state, first.last.effect, first.last.reason) == (State.STARTING, Effect.BEGIN, "auth_done")


@pytest.mark.parametrize("walk", RUNNING)
@pytest.mark.parametrize("needs", [REFUSED, UNAVAILABLE])
def test_one_login_begins_one_run_however_often_it_is_refused(walk: tuple[Event, ...], needs: Ended) -> None:
    server = Server().on(*walk, AuthDone(), needs)
    starts = server.life.starts
    server.on(Admitted(), Opened(), needs)
    assert (server.state is not State.STARTING, server.life.starts) == (True, starts)


@pytest.mark.parametrize("walk", RUNNING)
def test_a_login_that_was_lost_again_is_waited_for(walk: tuple[Event, ...]) -> None:
    server = Server().on(*walk, AuthDone(person=False), AuthLost(), REFUSED)
    assert server.state is State.AWAITING_AUTH
    assert server.on(AuthLost()).state is State.AWAITING_AUTH
    assert server.on(AuthDone(person=False)).state is State.STARTING


@pytest.mark.parametrize("ended", [STOP, Want("disabled", lays=frozenset({Veto.DISABLED}))])
def test_a_login_that_was_quicker_than_the_run_starts_nothing_that_is_not_to_run(ended: Want) -> None:
    server = Server().ready().on(AuthDone(), ended, REFUSED)
    assert server.state in RESTING.values()
    assert follows(server.life) is None


def test_a_crash_after_a_login_is_a_failure_like_any_other() -> None:
    server = Server().ready().on(AuthDone(), CRASH)
    assert (server.state, server.life.attempts) == (State.BACKOFF, 1)


def test_a_login_renewed_by_itself_cuts_no_wait_short_that_is_about_something_else() -> None:
    server = Server().on(RUN, CRASH)
    published = server.life
    assert server.on(AuthDone(person=False)).life == published


@pytest.mark.parametrize("attempts", [0, 3, 6])
def test_a_start_that_could_not_be_sent_waits_for_the_login_and_counts_nothing(attempts: int) -> None:
    server = Server().on(RUN, *[CRASH, RUN] * attempts, Admitted(), Opened())
    failure = server.life.failure
    server.on(UNAVAILABLE)
    assert (server.state, server.life.attempts, server.life.failure) == (State.BACKOFF, attempts, failure)
    assert server.last.reason == FailureKind.LOGIN_UNAVAILABLE
    assert server.life.deadline == server.now + POLICY.restart_backoff_max_secs
    server.on(AuthDone(person=False))
    assert (server.state, server.life.attempts) == (State.STARTING, attempts)


def test_should_the_news_of_a_login_get_lost_the_clock_starts_the_server() -> None:
    server = Server().on(RUN)
    for _ in range(50):
        server.on(Admitted(), Opened(), UNAVAILABLE).wait()
        assert (server.state, server.life.attempts) == (State.STARTING, 0)
    assert server.on(Admitted(), Opened(), Initialized()).state is State.READY


def test_a_heartbeat_that_could_not_be_sent_is_nobody_s_missed_heartbeat() -> None:
    server = Server().ready()
    for n in range(1, 200):
        server.wait()
        assert (server.last.effect, server.now) == (Effect.PROBE, 1000 + 30 * n)
        server.on(Unsent())
        assert (server.state, server.life.run.missed) == (State.READY, 0)


def test_what_could_not_be_sent_forgives_no_heartbeat_that_was_missed() -> None:
    server = Server().ready()
    for _ in range(2):
        server.wait().wait()
    missed = server.life.run.missed
    assert missed > 0
    server.wait().on(Unsent())
    assert server.life.run.missed >= missed


def test_ready_is_never_reached_without_an_open_connection_of_this_run() -> None:
    assert Server().on(RUN, Admitted(), Initialized()).state is State.STARTING


@pytest.mark.parametrize("state", State)
def test_a_state_has_a_deadline_exactly_if_it_is_timed(state: State) -> None:
    walks: dict[State, tuple[Event, ...]] = {
        State.INVALID: (Want("invalid", lays=frozenset({Veto.INVALID})),),
        State.DISABLED: (Want("disabled", lays=frozenset({Veto.DISABLED})),),
        State.STOPPED: (),
        State.IDLE: (Want("rest", lays=frozenset({Veto.UNNEEDED}), lifts=OF_PEOPLE),),
        State.STARTING: (RUN,),
        State.INITIALIZING: (RUN, Opened(1)),
        State.READY: (RUN, Opened(1), Initialized()),
        State.AWAITING_AUTH: (RUN, REFUSED),
        State.BACKOFF: (RUN, CRASH),
        State.COOLDOWN: (RUN, *[CRASH, RUN] * 5, CRASH),
        State.STOPPING: (RUN, STOP),
    }
    server = Server().on(*walks[state])
    assert server.state is state
    assert (server.life.deadline is not None) == (state in TIMED)


@pytest.mark.parametrize("first", Veto)
@pytest.mark.parametrize("second", Veto)
def test_what_forbids_a_server_to_run_comes_and_goes_one_by_one(first: Veto, second: Veto) -> None:
    one, other = frozenset({first}), frozenset({second})
    server = Server().ready().on(Want("a", lays=one), Want("b", lays=other), CRASH)
    assert server.state is resting(one | other)
    server.on(Want("c", lifts=one))
    assert server.state is (State.STARTING if first is second else RESTING[second])
    assert server.on(Want("d", lifts=other)).state is State.STARTING


def test_a_person_who_starts_a_server_does_not_lift_what_the_file_forbids() -> None:
    by_file = Want("config_changed", lays=OF_THE_FILE)
    person = Want("start_requested", lifts=OF_PEOPLE)
    for server in (Server().on(by_file, person), Server().ready().on(by_file, person, CRASH)):
        assert (server.state, server.life.vetoes) == (State.DISABLED, OF_THE_FILE)
        assert server.on(Want("config_changed", lifts=OF_THE_FILE)).state is State.STARTING


def test_a_server_rests_where_the_first_of_its_vetoes_says() -> None:
    assert set(RESTING) == set(Veto)
    assert [resting(set(list(Veto)[n:])) for n in range(len(Veto))] == [RESTING[veto] for veto in Veto]


class OnDemand(Server):
    """One that is stopped after `idle_secs` without use, and is idle to begin with."""

    def __init__(self, idle_secs: float = 100.0) -> None:
        super().__init__()
        self.idle_secs = idle_secs
        self.life = Lifecycle(state=State.IDLE, vetoes=OF_USE)
        self.demand = Demand(idle_secs)

    def held(self) -> OnDemand:
        """Somebody waits for it, or subscribes to what it tells, from now on."""
        self.demand = Demand(self.idle_secs, math.inf)
        self.on(Needed())
        return self

    def released(self) -> OnDemand:
        self.demand = Demand(self.idle_secs, self.now)
        return self

    def until(self, now: float) -> OnDemand:
        """Let each deadline pass that comes before an instant, and answer each heartbeat."""
        while self.life.deadline is not None and self.life.deadline <= now:
            self.wait()
            if self.last.effect is Effect.PROBE:
                self.on(Alive())
        self.now = now
        return self


UP = (Admitted(), Opened(7), Initialized())


def test_an_idle_server_starts_when_it_is_needed_and_is_idle_again_some_time_after_its_last_use() -> None:
    server = OnDemand()
    server.on(Needed())
    assert (server.state, server.last.effect, server.last.reason) == (State.STARTING, Effect.BEGIN, "needed")
    server.on(*UP).until(1099.9)
    assert server.state is State.READY
    server.until(1100.0)
    assert (server.state, server.last.effect, server.last.reason) == (State.STOPPING, Effect.STOP, "not_needed")
    server.on(CRASH)
    assert (server.state, server.life.attempts, server.life.deadline) == (State.IDLE, 0, None)


def test_the_time_without_use_counts_from_the_end_of_a_call_and_a_call_under_way_is_use() -> None:
    server = OnDemand()
    server.on(Needed(), *UP)
    server.pulse = Pulse(used_at=math.inf)
    assert server.until(5000.0).state is State.READY
    server.pulse = Pulse(used_at=5010.0)
    assert server.until(5109.9).state is State.READY
    assert server.until(5110.0).state is State.STOPPING


def test_one_that_somebody_holds_is_not_stopped_however_long_that_lasts() -> None:
    server = OnDemand().held()
    server.on(*UP)
    assert server.until(9000.0).state is State.READY
    assert server.released().until(9099.9).state is State.READY
    assert server.until(9100.0).state is State.STOPPING


def test_answered_heartbeats_are_no_use() -> None:
    server = OnDemand()
    server.on(Needed(), *UP)
    for _ in range(3):
        server.wait().on(Alive())
        assert server.state is State.READY
    assert server.until(1100.0).state is State.STOPPING


def test_cancelled_work_that_may_go_on_is_waited_for_and_ended_only_then() -> None:
    server = OnDemand()
    server.on(Needed(), *UP)
    server.pulse = Pulse(busy_until=1450.0, used_at=1020.0)
    assert server.until(1449.0).state is State.READY
    server.until(1450.0)
    assert server.state is State.STOPPING


def test_one_that_is_needed_while_it_is_stopped_begins_again_as_soon_as_that_is_over() -> None:
    server = OnDemand()
    server.on(Needed(), *UP).until(1100.0)
    server.held()
    assert server.state is State.STOPPING
    server.on(CRASH)
    assert (server.state, server.last.effect, server.life.attempts) == (State.STARTING, Effect.BEGIN, 0)


def test_one_that_is_held_when_it_comes_to_rest_begins_again_though_no_event_has_told_so() -> None:
    server = OnDemand()
    server.on(Needed(), *UP).until(1100.0)
    server.demand = Demand(100.0, math.inf)
    assert server.on(CRASH).state is State.STARTING


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (Want("start_requested", lifts=OF_PEOPLE | OF_USE), State.STARTING),
        (Restart(), State.STARTING),
        (Want("stop_requested", lays=OF_PEOPLE), State.STOPPED),
        (Want("config_changed", lays=frozenset({Veto.DISABLED})), State.DISABLED),
        (AuthDone(), State.IDLE),
        (AuthLost("401"), State.IDLE),
        (Retuned(), State.IDLE),
        (Hurry(), State.IDLE),
    ],
    ids=["start", "restart", "stop", "disable", "login", "login lost", "retuned", "hurry"],
)
def test_what_is_asked_of_an_idle_server(event: Event, state: State) -> None:
    server = OnDemand()
    server.on(event)
    assert server.state is state
    if state is State.STARTING:
        assert server.on(*UP).until(1099.9).state is State.READY
        assert server.until(1100.0).on(CRASH).state is State.IDLE


@pytest.mark.parametrize("veto", [Veto.STOPPED, Veto.DISABLED, Veto.INVALID])
def test_need_starts_nothing_that_something_else_forbids(veto: Veto) -> None:
    server = OnDemand()
    server.on(Want("rest", lays=frozenset({veto}))).held()
    assert server.state is RESTING[veto]
    server.on(Want("lifted", lifts=frozenset({veto})))
    assert server.state is State.IDLE, "and what is lifted later is not the need"


def test_a_failed_start_is_tried_again_for_as_long_as_it_is_needed_and_not_longer() -> None:
    server = OnDemand(idle_secs=10.0)
    server.on(Needed())
    for _ in range(20):
        server.on(CRASH)
        if server.wait().state is State.IDLE:
            break
    assert (server.state, server.last.reason) == (State.IDLE, "not_needed")
    assert 1010.0 <= server.now <= 1010.0 + POLICY.restart_backoff_max_secs
    assert server.life.attempts > 1, "what has failed stays known"
    assert server.held().state is State.STARTING


def test_a_start_that_waits_for_its_next_try_is_not_hurried_by_those_who_need_it() -> None:
    server = OnDemand()
    server.on(Needed(), CRASH)
    due = server.life.deadline
    server.held()
    assert (server.state, server.life.deadline) == (State.BACKOFF, due)
    assert server.wait().state is State.STARTING


def test_one_without_a_limit_goes_on_for_ever_once_it_was_needed() -> None:
    server = OnDemand(math.inf)
    server.on(Needed(), *UP)
    assert server.until(1e6).state is State.READY
