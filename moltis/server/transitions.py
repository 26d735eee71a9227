"""What follows from what: the state machine of a supervised server, pure and total.

Everything that decides when a server starts, stops, is probed or is left alone lives here. `step` is told what happened
and at what moment, and answers with the next `Lifecycle` and at most one thing to do. `TABLE`, at the end, has a cell
for every state and event; ignoring is explicit there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from moltis.config.limits import Limits
from moltis.server.causes import is_offline, is_shortage
from moltis.server.lifecycle import (
    OF_PEOPLE,
    OF_USE,
    ON_ENTRY,
    Admitted,
    Alive,
    AuthDone,
    AuthLost,
    Deadline,
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
    Restart,
    Retuned,
    Run,
    Transition,
    Unsent,
    Want,
    Working,
    resting,
    waits_for_login,
)
from moltis.server.states import NOT_NEEDED, OFFLINE, WANTING, FailureKind, State
from moltis.server.working import window_secs

STOP_SLACK_SECS = 0.5
"""How long after the last step of a graceful stop a run is killed from here, should its transport be stuck: half of the
second that the promise `stop_eof + stop_term + 1` leaves."""

KILL_AGAIN_SECS = 1.0
"""SIGKILL may take a while on a busy disk; it is repeated, for nothing else could end the run."""

HURRY_SECS = 0.3
"""From SIGTERM to SIGKILL when somebody is in a hurry: time for a `docker run` to pass it on, and the rest of a second
for the killing."""

OVERSLEPT_SECS = 1.0
"""A deadline noticed later than this says that this daemon did not run (SIGSTOP, a suspended laptop, swapping), so
that silence proves nothing. A loaded machine is late by milliseconds."""


def step(life: Lifecycle, event: Event, moment: Moment) -> Transition:
    """Return what becomes of `life` when `event` happens at `moment`. Total: it answers for every state and event."""
    outcome = TABLE[life.state, type(event)](life, event, moment)
    if outcome.life.state is life.state:
        return outcome
    return replace(outcome, effect=ON_ENTRY.get(outcome.life.state))


def follows(life: Lifecycle) -> Event | None:
    """Return what was observed before the state that `life` is in, and is to be taken in that state at once.

    A run that needs a login ends while the login is made, and either may be the quicker: whichever comes last begins
    the next run. Each time takes a login that has become good since the last run began, so that a server that refuses
    one and the same login for ever is not started for ever. Where nobody can log in there is nobody to wait for.
    """
    if life.state is State.AWAITING_AUTH:
        return life.login
    return life.login if waits_for_login(life) and isinstance(life.login, AuthDone) else None


def backoff_ceiling(attempts: int, policy: Limits) -> float:
    """Return c_n = min(max, base * 2**(n-1)) for the n-th failure in a row; the delay is drawn from [c_n/2, c_n].

    Half of the delay is fixed, for processes need a floor; half is drawn, so that servers that lost one upstream
    together do not come back together.
    """
    return _doubled(policy.restart_backoff_secs, attempts, policy.restart_backoff_max_secs)


def cooldown_secs(cooldowns: int, policy: Limits) -> float:
    """Return how long the n-th cooldown in a row lasts, n >= 1: min(max, base * 2**(n-1)), not jittered."""
    return _doubled(policy.restart_cooldown_secs, cooldowns, policy.restart_cooldown_max_secs)


def _doubled(base: float, n: int, most: float) -> float:
    return min(most, base * 2.0 ** min(n - 1, 1000))  # 2.0**1024 would raise; a product too large is just inf


# Where a step can lead. Each of these builds the Lifecycle of one state, whole.


def _begin(life: Lifecycle, moment: Moment, reason: str, ended: Failure | None = None) -> Transition:
    begun = replace(
        life,
        state=State.STARTING,
        since=moment.now,
        deadline=moment.now + moment.policy.startup_timeout_secs,
        starts=life.starts + 1,
        delay_secs=None,
        run=Run(),
        cause=None,
        login=None if isinstance(life.login, AuthDone) else life.login,
    )
    return Transition(begun, reason, ended=ended)


def _stop(life: Lifecycle, moment: Moment, reason: str, cause: Failure | None = None) -> Transition:
    policy = moment.policy
    grace = policy.stop_eof_secs + policy.stop_term_secs + STOP_SLACK_SECS
    stopping = replace(life, state=State.STOPPING, since=moment.now, deadline=moment.now + grace, cause=cause)
    return Transition(stopping, reason)


def _wait_without_run(life: Lifecycle, state: State, moment: Moment) -> Lifecycle:
    """Return `life` in a state that waits for a person: no run, no deadline."""
    return replace(life, state=state, since=moment.now, deadline=None, delay_secs=None, run=Run(), cause=None)


def _rest(life: Lifecycle, moment: Moment, reason: str, ended: Failure | None = None) -> Transition:
    at_rest = replace(_wait_without_run(life, resting(life.vetoes), moment), login=None)
    return Transition(at_rest, reason, ended=ended)


def _await_auth(life: Lifecycle, moment: Moment, ended: Failure) -> Transition:
    return Transition(_wait_without_run(life, State.AWAITING_AUTH, moment), FailureKind.AUTH_REQUIRED, ended=ended)


def _drawn(ceiling: float, moment: Moment) -> float:
    """Return a delay of its upper half, as the moment draws it."""
    return ceiling / 2 + moment.roll * (ceiling / 2)


def _try_again(
    life: Lifecycle, failure: Failure, moment: Moment, delay: float, state: State = State.BACKOFF, /, **noted: Any
) -> Transition:
    """Wait without a run until the delay is over. noted: what else changes of the lifecycle."""
    waiting = replace(_wait_without_run(life, state, moment), deadline=moment.now + delay, delay_secs=delay, **noted)
    return Transition(waiting, failure.kind, ended=failure)


def _fail(life: Lifecycle, failure: Failure, moment: Moment) -> Transition:
    """Count a failure; wait a while, or longer when there have been too many in a row."""
    if failure.kind in WANTING:
        return _await_means(life, failure, moment)
    policy = moment.policy
    attempts, cooldowns = life.attempts + 1, life.cooldowns
    if attempts > policy.max_restart_attempts:
        cooldowns += 1
        state, delay = State.COOLDOWN, cooldown_secs(cooldowns, policy)
    else:
        state, delay = State.BACKOFF, _drawn(backoff_ceiling(attempts, policy), moment)
    # Retry-After (RFC 9110 section 10.2.3) may ask for more patience than we have anyway, never for less.
    delay = max(delay, min(failure.retry_after_secs or 0.0, policy.restart_cooldown_max_secs))
    return _try_again(
        life, failure, moment, delay, state, attempts=attempts, cooldowns=cooldowns, starved=0, failure=failure
    )


def _await_means(life: Lifecycle, failure: Failure, moment: Moment) -> Transition:
    """Try again at the pace of a backoff until the machine has what it lacked: that is cheap, and nobody's fault."""
    starved = life.starved + 1
    drawn = _drawn(backoff_ceiling(starved, moment.policy), moment)
    delay = max(drawn, min(failure.retry_after_secs or 0.0, moment.policy.restart_cooldown_max_secs))
    return _try_again(life, failure, moment, delay, starved=starved, failure=failure)


def _judged(life: Lifecycle, failure: Failure) -> Failure:
    """Return a failure of a start, by its cause where that is what this machine lacks."""
    if life.state is State.READY or failure.kind not in OFFLINE:
        return failure
    if failure.kind is FailureKind.CONNECT_FAILED and is_shortage(failure.message):
        return replace(failure, kind=FailureKind.NO_RESOURCES)
    offline = is_offline((*failure.stderr_tail, *filter(None, [failure.stdout]), failure.message))
    return replace(failure, kind=FailureKind.NO_NETWORK) if offline else failure


def _await_login(life: Lifecycle, failure: Failure, moment: Moment) -> Transition:
    """Wait until the login works again, which `AuthDone` tells; the clock is for news that got lost. Nothing counts."""
    delay = max(failure.retry_after_secs or 0.0, moment.policy.restart_backoff_max_secs)
    return _try_again(life, failure, moment, delay, cause=failure)


def _await_entry(life: Lifecycle, failure: Failure, moment: Moment) -> Transition:
    """Try again less and less often, until it lets us in. No person is waited for, and nothing counts."""
    locked_out, policy = life.locked_out + 1, moment.policy
    ceiling = _doubled(policy.restart_backoff_secs, locked_out, policy.restart_cooldown_max_secs)
    return _try_again(life, failure, moment, _drawn(ceiling, moment), locked_out=locked_out, cause=failure)


def _watch(life: Lifecycle, moment: Moment, effect: Effect | None = None) -> Transition:
    """Stay `ready`: forgive what is old enough, and set the deadline to whatever is due first."""
    policy, run = moment.policy, life.run
    life = _noted_use(life, moment)
    forgiven_at = life.since + policy.stable_after_secs
    due = _lost_at(run, policy) if run.unanswered else _next_probe_at(run, policy)
    if moment.now >= forgiven_at:
        life = _forgive(life)
    elif life.attempts:
        due = min(due, forgiven_at)
    if moment.demand is not None:
        # One that is working though nobody waits for it is looked at when that may be over.
        due = min(due, max(life.used_at + moment.demand.idle_secs, moment.pulse.busy_until))
    # Where an answer took longer than the interval, the next heartbeat is due now, not in the past.
    return Transition(replace(life, deadline=max(due, moment.now)), effect=effect)


def _noted_use(life: Lifecycle, moment: Moment) -> Lifecycle:
    """Note when an on-demand server was last needed, as far as that was observed."""
    if moment.demand is None:
        return life
    used_at = min(moment.now, max(moment.pulse.used_at, moment.demand.used_at))
    return replace(life, used_at=used_at) if used_at > life.used_at else life


def _is_needed(life: Lifecycle, moment: Moment) -> bool:
    """Whether somebody needs it, or its last use was not long ago. Of a lifecycle whose use is noted."""
    demand = moment.demand
    return demand is None or demand.idle_secs == math.inf or moment.now < life.used_at + demand.idle_secs


def _next_probe_at(run: Run, policy: Limits) -> float:
    """Heartbeats keep their distance even when one is lost: a server that is silent for a minute is not a dead one."""
    return run.probed_at + policy.heartbeat_interval_secs


def _lost_at(run: Run, policy: Limits) -> float:
    return run.asked_at + policy.heartbeat_timeout_secs


def _observed(run: Run, moment: Moment) -> Run:
    """Return `run` with what the pulse shows.

    Whoever works has all heartbeats before it, from when its work was given up; whoever has spoken since the last
    heartbeat began has answered it.
    """
    busy_at = min(moment.now, moment.pulse.busy_until)
    if busy_at > run.probed_at:
        return replace(run, probed_at=busy_at, unanswered=False, missed=0)
    if moment.pulse.heard_at >= run.probed_at:
        return replace(run, unanswered=False, missed=0)
    return run


def _working_until(run: Run, policy: Limits) -> float:
    """Return until when a start counts as working, if it shows no more of it."""
    return -math.inf if run.worked_at is None else run.worked_at + window_secs(policy.startup_timeout_secs)


def _forgive(life: Lifecycle) -> Lifecycle:
    return replace(life, attempts=0, cooldowns=0, starved=0, locked_out=0)


def _forgive_if_stable(life: Lifecycle, moment: Moment) -> Lifecycle:
    """Forgive on the way out of `ready` too: the run may end in the very moment that forgives."""
    stable = life.state is State.READY and moment.now >= life.since + moment.policy.stable_after_secs
    return _forgive(life) if stable else life


def _overslept(life: Lifecycle, moment: Moment) -> bool:
    return life.deadline is not None and moment.now - life.deadline > OVERSLEPT_SECS


def _asked(life: Lifecycle, event: Want, moment: Moment) -> Lifecycle:
    """Note what is laid and lifted. Whoever starts it needs it."""
    life = _forgive(life) if event.forgive else life
    if event.lifts >= OF_USE:
        life = replace(life, used_at=moment.now)
    return replace(life, vetoes=life.vetoes - event.lifts | event.lays)


# The cells of the table. Named after what they do, and used in every state where it is that.


def ignore(life: Lifecycle, event: Event, moment: Moment) -> Transition:
    """Nothing follows from this event in this state."""
    return Transition(life)


def rouse(life: Lifecycle, event: Want, moment: Moment) -> Transition:
    """No run exists: begin one now, or come to rest where the vetoes say."""
    life = _asked(life, event, moment)
    if not life.vetoes:
        return _begin(life, moment, event.reason)
    return Transition(life) if life.state is resting(life.vetoes) else _rest(life, moment, event.reason)


def keep(life: Lifecycle, event: Want, moment: Moment) -> Transition:
    """A run exists: keep it, or stop it."""
    life = _asked(_forgive_if_stable(life, moment), event, moment)
    return _stop(life, moment, event.reason) if life.vetoes else Transition(life)


def note(life: Lifecycle, event: Want, moment: Moment) -> Transition:
    """The run is ending: the vetoes decide what comes after it."""
    return Transition(_asked(life, event, moment))


def anew(life: Lifecycle, event: Restart, moment: Moment) -> Transition:
    """Begin afresh from a state without a run, unless something else than a person forbids it."""
    life = replace(life, vetoes=life.vetoes - OF_PEOPLE - OF_USE, used_at=moment.now)
    return _rest(life, moment, event.reason) if life.vetoes else _begin(_forgive(life), moment, event.reason)


def renew(life: Lifecycle, event: Restart, moment: Moment) -> Transition:
    """End the run for the sake of another one."""
    return _stop(_forgive(replace(life, used_at=moment.now)), moment, event.reason)


def after(life: Lifecycle, event: Restart, moment: Moment) -> Transition:
    """Begin afresh as soon as the run has ended, unless something else than a person forbids it."""
    if life.vetoes - OF_PEOPLE - OF_USE:
        return Transition(life)
    return Transition(_forgive(replace(life, vetoes=frozenset(), cause=None, used_at=moment.now)))


def wake(life: Lifecycle, event: Needed, moment: Moment) -> Transition:
    """Begin: nothing but that nobody needed it has kept it from running."""
    return _begin(replace(life, vetoes=life.vetoes - OF_USE, used_at=moment.now), moment, "needed")


def use(life: Lifecycle, event: Needed, moment: Moment) -> Transition:
    """Note it. One that is being stopped since nobody needed it begins again as soon as that is over."""
    return Transition(replace(life, vetoes=life.vetoes - OF_USE, used_at=moment.now))


def serve(life: Lifecycle, event: Needed, moment: Moment) -> Transition:
    """Note it, and stay `ready`."""
    return _watch(replace(life, used_at=moment.now), moment)


def admit(life: Lifecycle, event: Admitted, moment: Moment) -> Transition:
    """The startup timeout counts from here, not from when the server began to wait for its turn."""
    deadline = moment.now + moment.policy.startup_timeout_secs
    return Transition(replace(life, deadline=deadline, run=replace(life.run, admitted_at=moment.now)))


def toil(life: Lifecycle, event: Working, moment: Moment) -> Transition:
    """Note it; what follows from it is asked at the deadline."""
    return Transition(replace(life, run=replace(life.run, worked_at=moment.now)))


def greet(life: Lifecycle, event: Opened, moment: Moment) -> Transition:
    """It is there; the handshake shares the startup timeout, so the deadline stays."""
    run = replace(life.run, pid=event.pid)
    return Transition(replace(life, state=State.INITIALIZING, since=moment.now, run=run), "opened")


def swap(life: Lifecycle, event: Opened, moment: Moment) -> Transition:
    """Another process took over within the same start; it is given no more time than the first had left."""
    return Transition(replace(life, run=replace(life.run, pid=event.pid)))


def arrive(life: Lifecycle, event: Initialized, moment: Moment) -> Transition:
    """It is ready; nothing is forgiven yet. Whoever had it started has all the time to use it before him."""
    run = replace(life.run, probed_at=moment.now)
    ready = replace(life, state=State.READY, since=moment.now, run=run, starved=0, used_at=moment.now)
    return replace(_watch(ready, moment), reason="initialized")


def heard(life: Lifecycle, event: Alive, moment: Moment) -> Transition:
    """Any answer is life, however late. Who answers the heartbeat of its protocol is not asked for anything else."""
    run = replace(life.run, unanswered=False, missed=0)
    if not event.otherwise:
        run = replace(run, proven=True, otherwise=False)
    return _watch(replace(life, run=run), moment)


def spare(life: Lifecycle, event: Unsent, moment: Moment) -> Transition:
    """Wait for the next heartbeat: what was not asked is not missed."""
    return _watch(replace(life, run=replace(life.run, unanswered=False)), moment)


def retune(life: Lifecycle, event: Retuned, moment: Moment) -> Transition:
    """Watch with the new limits. Elsewhere new limits count from the next state on: a published delay is kept."""
    return _watch(life, moment)


def hurry(life: Lifecycle, event: Hurry, moment: Moment) -> Transition:
    """Kill soon; who has not had its SIGTERM yet gets it before, for it may have something to pass on."""
    if moment.now >= life.since + moment.policy.stop_eof_secs + HURRY_SECS:
        return kill(life, event, moment)
    soon = moment.now + HURRY_SECS
    return Transition(replace(life, deadline=min(life.deadline or soon, soon)), effect=Effect.HURRY)


def kill(life: Lifecycle, event: Hurry | Deadline, moment: Moment) -> Transition:
    """Kill, and look again soon."""
    return Transition(replace(life, deadline=moment.now + KILL_AGAIN_SECS), effect=Effect.KILL)


def late(life: Lifecycle, event: Deadline, moment: Moment) -> Transition:
    """Startup has taken too long, unless it works, has not even had its turn, or we were asleep and have not listened.

    A start that works has until `startup_timeout_max_secs`: to kill an installation is to have it begin anew.
    """
    policy, admitted_at = moment.policy, life.run.admitted_at
    if admitted_at is None:
        return Transition(replace(life, deadline=moment.now + policy.startup_timeout_secs))
    if _overslept(life, moment):
        return Transition(replace(life, deadline=moment.now + OVERSLEPT_SECS))
    at_most = admitted_at + max(policy.startup_timeout_secs, policy.startup_timeout_max_secs)
    working_until = _working_until(life.run, policy)
    if moment.now < min(at_most, working_until):
        return Transition(replace(life, deadline=min(at_most, working_until)))
    missing = (
        "it could not be opened" if life.state is State.STARTING else "its MCP handshake or first listing was not done"
    )
    message = f"{missing} within startup_timeout_secs ({policy.startup_timeout_secs:g} s)"
    if moment.now < working_until:
        message = (
            f"{missing} within startup_timeout_max_secs ({policy.startup_timeout_max_secs:g} s), "
            "though it was working to the last"
        )
    elif moment.now > admitted_at + policy.startup_timeout_secs + OVERSLEPT_SECS:
        message += ", nor while it went on working"
    return _stop(life, moment, FailureKind.STARTUP_TIMEOUT, Failure(FailureKind.STARTUP_TIMEOUT, message))


def beat(life: Lifecycle, event: Deadline, moment: Moment) -> Transition:
    """Give up a heartbeat, send one, or both; neither while the server is busy. Stop what nobody needs.

    However late we are, one fresh heartbeat comes before any verdict. A server that has never answered the heartbeat of
    its protocol is asked for something else before that is held against it.
    """
    policy, run = moment.policy, _observed(life.run, moment)
    overslept = _overslept(life, moment)
    if moment.pulse.busy_until > moment.now:
        return _watch(replace(life, run=run), moment)
    life = _noted_use(life, moment)
    if not _is_needed(life, moment):
        return _stop(_forgive_if_stable(replace(life, vetoes=life.vetoes | OF_USE), moment), moment, NOT_NEEDED)
    if run.unanswered and not overslept and moment.now >= _lost_at(run, policy):
        if not run.proven and not run.otherwise:
            run = replace(run, asked_at=moment.now, otherwise=True)
            return _watch(replace(life, run=run), moment, Effect.PROBE_OTHERWISE)
        run = replace(run, unanswered=False, missed=run.missed + 1)
        if run.missed >= policy.heartbeat_max_missed:
            message = f"{run.missed} heartbeats in a row were not answered within {policy.heartbeat_timeout_secs:g} s"
            cause = Failure(FailureKind.UNRESPONSIVE, message)
            return _stop(_forgive_if_stable(life, moment), moment, FailureKind.UNRESPONSIVE, cause)
    if overslept or (not run.unanswered and moment.now >= _next_probe_at(run, policy)):
        run = replace(run, probed_at=moment.now, asked_at=moment.now, unanswered=True)
        effect = Effect.PROBE_OTHERWISE if run.otherwise else Effect.PROBE
        return _watch(replace(life, run=run), moment, effect)
    return _watch(replace(life, run=run), moment)


def retry(life: Lifecycle, event: Deadline, moment: Moment) -> Transition:
    """The delay is over. After a cooldown this start is the one probe: the count stands, so any failure trips again.

    What nobody needs is not tried again before somebody does.
    """
    life = _noted_use(life, moment)
    if not _is_needed(life, moment):
        return _rest(replace(life, vetoes=life.vetoes | OF_USE), moment, NOT_NEEDED)
    return _begin(life, moment, "probe" if life.state is State.COOLDOWN else "retry")


def lost(life: Lifecycle, event: Ended, moment: Moment) -> Transition:
    """The run ended though it was to go on: a failure, even with exit code 0; but a login that is needed is none."""
    failure = event.failure or Failure(FailureKind.INTERNAL, "it ended before it began")
    life = _forgive_if_stable(life, moment)
    if failure.kind is FailureKind.AUTH_REQUIRED:
        return _await_auth(life, moment, failure)
    if failure.kind is FailureKind.LOGIN_UNAVAILABLE:
        return _await_login(life, failure, moment)
    if failure.kind is FailureKind.LOCKED_OUT:
        return _await_entry(life, failure, moment)
    return _fail(life, _judged(life, failure), moment)


def over(life: Lifecycle, event: Ended, moment: Moment) -> Transition:
    """The run ended as it should: rest if there is a veto, count what it was stopped for, or begin the next."""
    ended, cause = event.failure, life.cause
    life = _noted_use(life, moment)
    if life.vetoes == OF_USE and moment.demand is not None and _is_needed(life, moment):
        life = replace(life, vetoes=life.vetoes - OF_USE)
    if life.vetoes:
        return _rest(life, moment, "ended", ended)
    if cause is None:
        return _begin(life, moment, "restart", ended)
    if ended is not None:
        cause = replace(cause, exit_code=ended.exit_code, stderr_tail=ended.stderr_tail, stdout=ended.stdout)
    return _fail(life, _judged(life, cause), moment)


def login(life: Lifecycle, event: AuthDone, moment: Moment) -> Transition:
    """Begin with the login. A person who logged in has just mended something: the failures so far no longer count."""
    life = replace(life, used_at=moment.now)
    return _begin(_forgive(life) if event.person else life, moment, "auth_done")


def learn(life: Lifecycle, event: AuthDone, moment: Moment) -> Transition:
    """The run goes on with the login. Note it, for the run may be ending for want of it (`follows`)."""
    by_person = event.person or (isinstance(life.login, AuthDone) and life.login.person)
    return Transition(replace(life, login=AuthDone(person=by_person)))


def lapse(life: Lifecycle, event: AuthLost, moment: Moment) -> Transition:
    """What was noted of the login holds no more."""
    return Transition(replace(life, login=event if event.locked_out else None))


def outwait(life: Lifecycle, event: AuthLost, moment: Moment) -> Transition:
    """Go on by the clock where there is nobody to wait for."""
    life = lapse(life, event, moment).life
    if not event.locked_out:
        return Transition(life)
    return _await_entry(life, Failure(FailureKind.LOCKED_OUT, event.locked_out), moment)


def mended(life: Lifecycle, event: AuthDone, moment: Moment) -> Transition:
    """Begin if a person has logged in, whatever was waited for; otherwise only if the login was."""
    return login(life, event, moment) if event.person or waits_for_login(life) else Transition(life)


def ahead(life: Lifecycle, event: AuthDone, moment: Moment) -> Transition:
    """The run is ended for a failure, and a person has logged in meanwhile: begin anew as soon as it is over."""
    return Transition(replace(_forgive(life), cause=None) if event.person and life.cause is not None else life)


Cell = Callable[[Lifecycle, Any, Moment], Transition]  # Any: the event's type is the cell's key

_ASKED: tuple[type[Event], ...] = (Want, Restart, Needed, Retuned, Hurry, AuthDone, AuthLost)
_REPORTED: tuple[type[Event], ...] = (Admitted, Working, Opened, Initialized, Alive, Unsent, Ended, Deadline)
____ = ignore

# fmt: off
_WHEN_ASKED: Mapping[State, tuple[Cell, ...]] = {
    #                     Want   Restart Needed Retuned Hurry  AuthDone AuthLost
    State.INVALID:       (rouse, ____,   ____,  ____,   ____,  ____,    ____),
    State.DISABLED:      (rouse, ____,   ____,  ____,   ____,  ____,    ____),
    State.STOPPED:       (rouse, anew,   ____,  ____,   ____,  ____,    ____),
    State.IDLE:          (rouse, anew,   wake,  ____,   ____,  ____,    ____),
    State.STARTING:      (keep,  renew,  use,   ____,   ____,  learn,   lapse),
    State.INITIALIZING:  (keep,  renew,  use,   ____,   ____,  learn,   lapse),
    State.READY:         (keep,  renew,  serve, retune, ____,  learn,   lapse),
    State.AWAITING_AUTH: (rouse, anew,   use,   ____,   ____,  login,   outwait),
    State.BACKOFF:       (rouse, anew,   use,   ____,   ____,  mended,  lapse),
    State.COOLDOWN:      (rouse, anew,   use,   ____,   ____,  mended,  lapse),
    State.STOPPING:      (note,  after,  use,   ____,   hurry, ahead,   ____),
}

_WHEN_REPORTED: Mapping[State, tuple[Cell, ...]] = {
    #                     Admitted Working Opened Initialized Alive  Unsent Ended Deadline
    State.INVALID:       (____,    ____,   ____,  ____,       ____,  ____,  ____, ____),
    State.DISABLED:      (____,    ____,   ____,  ____,       ____,  ____,  ____, ____),
    State.STOPPED:       (____,    ____,   ____,  ____,       ____,  ____,  ____, ____),
    State.IDLE:          (____,    ____,   ____,  ____,       ____,  ____,  ____, ____),
    State.STARTING:      (admit,   toil,   greet, ____,       ____,  ____,  lost, late),
    State.INITIALIZING:  (____,    toil,   swap,  arrive,     ____,  ____,  lost, late),
    State.READY:         (____,    ____,   ____,  ____,       heard, spare, lost, beat),
    State.AWAITING_AUTH: (____,    ____,   ____,  ____,       ____,  ____,  ____, ____),
    State.BACKOFF:       (____,    ____,   ____,  ____,       ____,  ____,  ____, retry),
    State.COOLDOWN:      (____,    ____,   ____,  ____,       ____,  ____,  ____, retry),
    State.STOPPING:      (____,    ____,   ____,  ____,       ____,  ____,  over, kill),
}
# fmt: on

TABLE: Mapping[tuple[State, type[Event]], Cell] = {
    (state, event): cell
    for events, rows in ((_ASKED, _WHEN_ASKED), (_REPORTED, _WHEN_REPORTED))
    for state, row in rows.items()
    for event, cell in zip(events, row, strict=True)
}
"""Every state, every event: what follows."""
