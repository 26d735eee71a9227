"""The life of one supervised server, in values: its states, what can happen to it, and what is remembered.

Knows no process, no connection and no clock; what follows from what is said in `transitions`, and only there.

*State* is what is the case, a *veto* is why people or moltis.toml do not let it run: a command lays or lifts one, and
the state follows. In the states of `ACTIVE` exactly one run of the server exists, in all others none, and a run is over
only when nothing of it is left (`Ended`). There is one deadline, an instant of the monotonic clock; its passing is an
event like any other, so that a state with a deadline cannot get stuck.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Container, Mapping

import msgspec

from moltis.config.limits import Limits
from moltis.server.states import FailureKind, State


class Veto(enum.StrEnum):
    """One reason why a server must not run. It runs if there is none, and rests where the first of them says.

    They come and go one by one, by whoever knows of them: a further one (another node owns it) is a word here and the
    state it rests in.
    """

    DISABLED = "disabled"
    INVALID = "invalid"
    STOPPED = "stopped"
    UNNEEDED = "unneeded"


OF_THE_FILE = frozenset({Veto.DISABLED, Veto.INVALID})
"""What moltis.toml lays and lifts."""
OF_PEOPLE = frozenset({Veto.STOPPED})
"""What a person lays and lifts who stops and starts it."""
OF_USE = frozenset({Veto.UNNEEDED})
"""What is laid on an on-demand server once nobody has used it for long enough (`Demand`), and lifted by whoever needs
it; a person who starts it does."""

RESTING: Mapping[Veto, State] = {
    Veto.DISABLED: State.DISABLED,
    Veto.INVALID: State.INVALID,
    Veto.STOPPED: State.STOPPED,
    Veto.UNNEEDED: State.IDLE,
}
"""Where a server comes to rest that is not to run."""


def resting(vetoes: Container[Veto]) -> State:
    """Return where a server rests that has these vetoes, of which there is one at least."""
    return next(RESTING[veto] for veto in Veto if veto in vetoes)


ACTIVE = frozenset({State.STARTING, State.INITIALIZING, State.READY, State.STOPPING})
"""The states in which something of a run may exist."""

TIMED = ACTIVE | {State.BACKOFF, State.COOLDOWN}
"""The states that have a deadline. The others wait for a person, for ever if need be."""


class Failure(msgspec.Struct, frozen=True):
    """One reason, with what is known of it. A negative `exit_code` is a signal.

    retry_after_secs: how long the server asks to be left alone; None if it does not.
    stdout: what it wrote to stdout that is no MCP message, in words.
    """

    kind: FailureKind
    message: str
    exit_code: int | None = None
    stderr_tail: tuple[str, ...] = ()
    retry_after_secs: float | None = None
    stdout: str = ""


class Pulse(msgspec.Struct, frozen=True):
    """What a run has observed of its server's life by now. Instants are monotonic seconds; -inf: never.

    heard_at: when the server last said anything.
    busy_until: in the future, until when requests under way (or cancelled work that may still go on) are given time by
        their own timeouts; in the past, when the last such time ran out.
    used_at: when a request of somebody was last under way, which our own are not; infinity: one is.
    """

    heard_at: float = -math.inf
    busy_until: float = -math.inf
    used_at: float = -math.inf


NO_PULSE = Pulse()


class Demand(msgspec.Struct, frozen=True):
    """How much an on-demand server is needed.

    idle_secs: how long it goes on after its last use; infinity: for ever.
    used_at: when it was last needed by whoever waits for it or subscribes to what it tells; infinity: it is.
    """

    idle_secs: float = math.inf
    used_at: float = -math.inf


class Moment(msgspec.Struct, frozen=True):
    """When a step is taken: monotonic seconds, a number drawn from [0, 1), the limits in force, what was observed.

    demand: None of a server that runs whether it is needed or not.
    """

    now: float
    roll: float
    policy: Limits
    pulse: Pulse = NO_PULSE
    demand: Demand | None = None


class Run(msgspec.Struct, frozen=True):
    """What is known of the present run; as created here, of none.

    admitted_at: when it got its start slot, from where its startup timeout counts; None while it waits for one.
    worked_at: when its start last showed work; None if it never did.
    probed_at: when the last heartbeat began; so counts the beginning of `ready`, and any time the server was busy.
    asked_at: when the last request of that heartbeat was sent.
    unanswered: that heartbeat has neither been answered nor given up.
    missed: heartbeats given up since the last sign of life.
    proven: this server answers the heartbeat of its protocol (`ping`, `server/discover`).
    otherwise: it has not answered that one, and is asked for something else that it is known to answer.
    """

    pid: int | None = None
    admitted_at: float | None = None
    worked_at: float | None = None
    probed_at: float = 0.0
    asked_at: float = 0.0
    unanswered: bool = False
    missed: int = 0
    proven: bool = False
    otherwise: bool = False


class Lifecycle(msgspec.Struct, frozen=True):
    """Everything that is remembered of one server.

    since: when this state was entered, monotonic seconds.
    deadline: when it must be looked at again; None exactly in the states that are not `TIMED`.
    vetoes: why it must not run. While there is one, no run begins.
    starts: runs begun since the daemon began.
    attempts: failures in a row.
    cooldowns: cooldowns among them.
    starved: starts in a row that this machine had no network or no means for; no attempts.
    locked_out: starts, not forgiven yet, that wanted a login and did not say how; no attempts.
    delay_secs: how long this `backoff` or `cooldown` lasts, drawn once.
    cause: in `stopping`, the failure that it is stopped for; None if it is stopped by request. In `backoff`, what is
        waited for where that is no failure.
    failure: the last failure that counted.
    used_at: the last instant at which it is known to have been needed, monotonic seconds.
    login: that the login has become good since the present run, or the last one, began, or that nobody can make it be;
        None: neither. A run that ends for want of a login is followed by another at once, or by the clock, where this
        says so.
    """

    state: State = State.STOPPED
    since: float = 0.0
    deadline: float | None = None
    vetoes: frozenset[Veto] = OF_PEOPLE
    starts: int = 0
    attempts: int = 0
    cooldowns: int = 0
    starved: int = 0
    locked_out: int = 0
    delay_secs: float | None = None
    run: Run = Run()
    cause: Failure | None = None
    failure: Failure | None = None
    used_at: float = -math.inf
    login: AuthDone | AuthLost | None = None


def waits_for_login(life: Lifecycle) -> bool:
    """Whether it would be started, were its login renewed."""
    return life.state is State.BACKOFF and life.cause is not None


# What can happen: asked by people or by moltis.toml, ...


class Want(msgspec.Struct, frozen=True):
    """Vetoes are laid or lifted. Lifting the last one begins a run, and so does lifting any where there is none.

    reason: what the history says. forgive: the failures so far no longer count.
    """

    reason: str
    lays: frozenset[Veto] = frozenset()
    lifts: frozenset[Veto] = frozenset()
    forgive: bool = False


class Restart(msgspec.Struct, frozen=True):
    """A person wants it to run, anew if it is running, and the failures so far no longer count."""

    reason: str = "restart_requested"


class Needed(msgspec.Struct, frozen=True):
    """Somebody needs an on-demand server, now and for as long as `Demand` says."""


class Retuned(msgspec.Struct, frozen=True):
    """The limits have changed."""


class Hurry(msgspec.Struct, frozen=True):
    """If it is being stopped, that shall be over in a moment: SIGTERM now, and then SIGKILL."""


class AuthDone(msgspec.Struct, frozen=True):
    """The login is good (again). `person`: because a person logged in, which mends more than a wait for the login."""

    person: bool = True


class AuthLost(msgspec.Struct, frozen=True):
    """The login is not good, until `AuthDone` says that it is.

    locked_out: why nobody can make it be good: the server has served requests without a login, and wants one and does
        not say how to log in. Empty: somebody may.
    """

    locked_out: str = ""


# ... reported by the run, ...


class Admitted(msgspec.Struct, frozen=True):
    """The run has its start slot."""


class Working(msgspec.Struct, frozen=True):
    """The start has shown work: output, or processor time."""


class Opened(msgspec.Struct, frozen=True):
    """There is a process (then `pid` is its id) or a connection."""

    pid: int | None = None


class Initialized(msgspec.Struct, frozen=True):
    """Handshake and listing are done."""


class Alive(msgspec.Struct, frozen=True):
    """The server has answered a heartbeat; `otherwise` as in `Run`."""

    otherwise: bool = False


class Unsent(msgspec.Struct, frozen=True):
    """The heartbeat could not be sent, which says nothing of the server."""


class Ended(msgspec.Struct, frozen=True):
    """Nothing of the run is left; `failure` says how it ended, None that it never began."""

    failure: Failure | None = None


# ... and told by the clock.


class Deadline(msgspec.Struct, frozen=True):
    """The deadline has passed."""


Event = (
    Want | Restart | Needed | Retuned | Hurry | AuthDone | AuthLost
    | Admitted | Working | Opened | Initialized | Alive | Unsent | Ended
    | Deadline
)  # fmt: skip


class Effect(enum.Enum):
    """What is to be done. `BEGIN` and `STOP` belong to a state and are done whenever it is entered."""

    BEGIN = "begin a run"
    STOP = "end the run gracefully"
    HURRY = "go on to SIGTERM now"
    KILL = "end the run now"
    PROBE = "send a heartbeat"
    PROBE_OTHERWISE = "ask for something else, as a heartbeat"


ON_ENTRY: Mapping[State, Effect] = {State.STARTING: Effect.BEGIN, State.STOPPING: Effect.STOP}


class Transition(msgspec.Struct, frozen=True):
    """The outcome of a step.

    reason: why the state changed, snake_case; a `FailureKind` where a failure was counted. Empty when it did not.
    ended: how the run ended, where this step ended one.
    """

    life: Lifecycle
    reason: str = ""
    effect: Effect | None = None
    ended: Failure | None = None
