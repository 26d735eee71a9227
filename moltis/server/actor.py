"""One server, supervised: a mailbox, a deadline, and at most one run at a time.

Decides nothing: `transitions.step` does. This file turns what happens into events, waits until something happens or
the deadline passes, does what the step says, and publishes every change of state at one place. All of it happens in
the actor's own task, in the order of the mailbox, so nothing here needs a lock; `post` and what is built on it only
append, and may be called from any callback of the event loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from moltis import transport
from moltis.config.plan import ServerPlan
from moltis.server.life import Life, LifeEvents, NoFacts
from moltis.server.lifecycle import (
    NO_PULSE,
    OF_PEOPLE,
    OF_THE_FILE,
    OF_USE,
    Admitted,
    AuthLost,
    Deadline,
    Demand,
    Effect,
    Ended,
    Event,
    Failure,
    Hurry,
    Lifecycle,
    Moment,
    Needed,
    Pulse,
    Restart,
    Retuned,
    Veto,
    Want,
    Working,
    resting,
)
from moltis.server.record import Record
from moltis.server.slots import Slot, StartSlots
from moltis.server.states import STARTING, FailureKind, State
from moltis.server.status import HistoryEntry, ServerStatus
from moltis.server.transitions import follows, step
from moltis.server.working import LOOKS, WorkMeter, window_secs

L = TypeVar("L", bound=Life)


class _Start(Generic[L]):
    """One run as the actor holds it: first a place in the queue for a start slot, then a life.

    look_at: when it is looked at next, whether it works; `math.inf` while there is nothing to look at.
    """

    def __init__(self, window: float) -> None:
        self.queue = anyio.CancelScope()
        self.slot: Slot | None = None
        self.life: L | None = None
        self.look_at = math.inf
        self._meter = WorkMeter(window)
        self._look_every = window / LOOKS

    def begin(self, life: L, now: float) -> None:
        self.life = life
        self.look_at = now + self._look_every

    def look(self, now: float) -> bool:
        """Return whether the start has shown work; its slot hears of that too."""
        assert self.life is not None
        assert self.slot is not None
        self.look_at = now + self._look_every
        worked = self._meter.look(now, self.life.effort())
        if worked:
            self.slot.worked(now)
        return worked

    def stop(self) -> None:
        if self.life is None:
            self.queue.cancel()
        else:
            self.life.stop()

    def kill(self) -> None:
        if self.life is None:
            self.queue.cancel()
        else:
            self.life.kill()

    def hurry(self) -> None:
        if self.life is None:
            self.queue.cancel()
        else:
            self.life.hurry()

    def probe(self, *, otherwise: bool) -> None:
        if self.life is not None:
            self.life.probe(otherwise=otherwise)

    def pulse(self) -> Pulse:
        return self.life.pulse() if self.life is not None else NO_PULSE

    def release_slot(self) -> None:
        self.look_at = math.inf
        if self.slot is not None:
            self.slot.release()


class Actor(Generic[L]):
    """Supervises one server.

    begin: makes a run; called once per start, and may raise.
    wall, roll: wall time, aware; a number in [0, 1).
    on_transition: told every change of state, at once. It must neither block nor raise.
    unseen: whether it must run once since nothing is known of what it offers; asked of on-demand servers.
    """

    def __init__(
        self,
        plan: ServerPlan,
        begin: Callable[[ServerPlan, LifeEvents], L],
        slots: StartSlots,
        *,
        wall: Callable[[], datetime],
        roll: Callable[[], float],
        on_transition: Callable[[HistoryEntry], None],
        unseen: Callable[[ServerPlan], bool] = lambda plan: False,
    ) -> None:
        self._plan = plan
        self._begin_life = begin
        self._slots = slots
        self._roll = roll
        self._on_transition = on_transition
        self._record = Record(wall)
        self._unseen = unseen
        self._holds = 0
        self._released_at = -math.inf
        vetoes = _vetoes(plan) | (OF_USE if plan.on_demand else frozenset()) or OF_PEOPLE
        self._lifecycle = Lifecycle(state=resting(vetoes), vetoes=vetoes)
        self._mail: deque[Callable[[], None]] = deque()
        self._start: _Start[L] | None = None
        self._closing = False
        self._finished = False
        self._tasks: TaskGroup | None = None
        self._wake: anyio.Event | None = None
        self._moved: anyio.Event | None = None
        if vetoes is OF_PEOPLE:
            self.start("configured")

    # What anyone may ask, at any time.

    @property
    def plan(self) -> ServerPlan:
        """What it runs by; a reconfiguration shows here once it has been handled."""
        return self._plan

    @property
    def state(self) -> State:
        return self._lifecycle.state

    @property
    def life(self) -> L | None:
        """The present run, in whatever state; None while there is none."""
        return self._start.life if self._start is not None else None

    @property
    def ready_life(self) -> L | None:
        """The present run if the server is `ready`: what calls may be sent to."""
        return self.life if self._lifecycle.state is State.READY else None

    @property
    def wakes(self) -> bool:
        """Whether it does not run, and will once somebody needs it: whoever does waits for it (`hold`)."""
        life = self._lifecycle
        return life.state is State.IDLE or (
            life.state is State.STOPPING and self._plan.on_demand and life.cause is None and life.vetoes <= OF_USE
        )

    def status(self) -> ServerStatus:
        """Show the server as anyone outside may see it."""
        life = self.life
        facts = life.facts() if life is not None else NoFacts()
        return self._record.status(self._plan, self._lifecycle, facts, anyio.current_time())

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """Return the last `limit` transitions (None: the last 500), oldest first."""
        return self._record.history(limit)

    # What anyone may post, at any time. After `shutdown` it has no effect.

    def post(self, event: Event) -> None:
        """Have an event handled, after those posted before it."""
        if not self._closing:
            self._append(partial(self._take, event))

    def start(self, reason: str = "start_requested", *, forgive: bool = False) -> None:
        """Have the server run, unless moltis.toml forbids it; with `forgive` its failures so far no longer count.

        One that waits for another try is started now.
        """
        self.post(Want(reason, lifts=OF_PEOPLE | OF_USE, forgive=forgive))

    def need(self) -> None:
        """Have an on-demand server run now, unless something else forbids it or it waits for another try."""
        if self._plan.on_demand:
            self.post(Needed())

    def hold(self) -> None:
        """Need the server from now on, until `release`."""
        self._holds += 1
        self.need()

    def release(self) -> None:
        """Need it no more, once for each `hold`."""
        self._holds -= 1
        self._released_at = anyio.current_time()

    def stop(self) -> None:
        """Have the server rest until somebody starts it."""
        self.post(Want("stop_requested", lays=OF_PEOPLE))

    def restart(self, reason: str = "restart_requested") -> None:
        """Have the server run anew, its failures forgiven, even if it was stopped; not if it is disabled or invalid."""
        self.post(Restart(reason))

    def reconfigure(self, plan: ServerPlan) -> None:
        """Go on by another plan for the same name; the server is started anew only if its launch has changed."""
        if not self._closing:
            self._append(partial(self._reconfigure, plan))

    def shutdown(self, *, fast: bool = False) -> None:
        """Stop the server for good; `run` returns when nothing of it is left. `fast` kills. May be called again."""
        self.post(Want("shutdown", lays=OF_PEOPLE))
        self._closing = True
        if fast:
            self._append(partial(self._take, Hurry()))

    # What anyone may wait for. The caller bounds the wait.

    async def wait_handled(self) -> None:
        """Wait until everything posted so far is in `status`. May last as long as `run` has not been called."""
        done = anyio.Event()
        self._append(done.set)
        if not self._finished:
            await done.wait()

    async def wait_state(self, *states: State) -> State:
        """Wait until the server is in one of the states, and give it; another one once the actor is shut down.

        A state that is left again before this task runs is not seen; `history` has it.
        """
        while self._lifecycle.state not in states and not self._finished:
            if self._moved is None:
                self._moved = anyio.Event()
            await self._moved.wait()
        return self._lifecycle.state

    # The actor's own task.

    async def run(self) -> None:
        """Supervise until shut down and nothing is left. Cancelling it cancels the run, which leaves nothing either."""
        try:
            async with anyio.create_task_group() as self._tasks:
                while self._mail or self._start is not None or not self._closing:
                    await self._wait_due()
                    if self._mail:
                        self._mail.popleft()()
                    elif self._start is not None and self._start.look_at <= anyio.current_time():
                        if self._start.look(anyio.current_time()):
                            self._take(Working())
                    else:
                        self._take(Deadline())
        finally:
            self._finished = True
            self._announce()
            while self._mail:  # left only when cancelled; `_take` ignores it, but someone may be in `wait_handled`
                self._mail.popleft()()

    async def _wait_due(self) -> None:
        """Wait until there is mail, a start must be looked at or the deadline has passed; else for a person."""
        if not self._mail:
            self._wake = anyio.Event()
            deadline = math.inf if self._lifecycle.deadline is None else self._lifecycle.deadline
            look_at = self._start.look_at if self._start is not None else math.inf
            with anyio.CancelScope(deadline=min(deadline, look_at)):
                await self._wake.wait()

    def _append(self, mail: Callable[[], None]) -> None:
        self._mail.append(mail)
        if self._wake is not None:
            self._wake.set()

    def _take(self, event: Event) -> None:
        """Take one step: the only place where the state changes."""
        if self._finished:
            return
        before = self._lifecycle
        pulse = self._start.pulse() if self._start is not None and isinstance(event, Deadline) else NO_PULSE
        moment = Moment(anyio.current_time(), self._roll(), self._plan.limits, pulse, self._demand())
        outcome = step(before, event, moment)
        self._lifecycle = outcome.life
        if outcome.life.state is not before.state:
            if self._start is not None and outcome.life.state not in STARTING:
                self._start.release_slot()
            self._on_transition(self._record.moved(before, outcome))
            self._announce()
        if outcome.effect is not None:
            self._perform(outcome.effect)
        if (known := follows(outcome.life)) is not None:
            self._take(known)

    def _demand(self) -> Demand | None:
        plan = self._plan
        if not plan.on_demand:
            return None
        needed = self._holds > 0 or (self._lifecycle.state is not State.READY and self._unseen(plan))
        return Demand(plan.idle_stop_secs or math.inf, math.inf if needed else self._released_at)

    def _announce(self) -> None:
        """Wake whoever waits for a state."""
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _perform(self, effect: Effect) -> None:
        start = self._start
        if effect is Effect.BEGIN:
            assert start is None, "a run begins only when nothing of the last one is left"
            assert self._tasks is not None
            self._start = start = _Start(window_secs(self._plan.limits.startup_timeout_secs))
            self._tasks.start_soon(self._live, start, name=f"server {self._plan.name}")
            return
        assert start is not None, "there is something to stop, hurry, kill or probe"
        match effect:
            case Effect.STOP:
                start.stop()
            case Effect.HURRY:
                start.hurry()
            case Effect.KILL:
                start.kill()
            case Effect.PROBE | Effect.PROBE_OTHERWISE:
                start.probe(otherwise=effect is Effect.PROBE_OTHERWISE)

    def _reconfigure(self, plan: ServerPlan) -> None:
        before, self._plan = self._plan, plan
        if before.on_demand and not plan.on_demand:
            self._take(Want("config_changed", lifts=OF_USE))
        elif plan.on_demand and not before.on_demand:
            self._take(Needed())  # until now it was needed in any case
        vetoes = _vetoes(plan)
        if vetoes != _vetoes(before):
            # One that the file lets run again runs, whoever stopped it before.
            lifts = OF_THE_FILE - vetoes if vetoes else OF_THE_FILE | OF_PEOPLE
            self._take(Want("config_changed", lays=vetoes, lifts=lifts, forgive=True))
        elif plan.launch_key != before.launch_key:
            self._take(AuthLost())  # what is known of the login was of the other launch's
            if not self._lifecycle.vetoes:
                self._take(Restart("config_changed"))
        else:
            if self.life is not None:
                self.life.reconfigure(plan)
            self._take(Retuned())

    # The run's own task.

    async def _live(self, start: _Start[L]) -> None:
        """Live one run: wait for a start slot, be, and tell how it ended."""
        failure: Failure | None = None
        try:
            with start.queue:
                start.slot = await self._slots.acquire(loads=self._plan.kind.is_program)
            if start.slot is not None and not start.queue.cancel_called:
                life = self._begin_life(self._plan, LifeEvents(partial(self._told, start)))
                start.begin(life, anyio.current_time())
                self._told(start, Admitted(), None)
                failure = _failure(await life.run())
        except Exception as error:  # a fault of this program ends one run of one server, not the daemon
            failure = Failure(FailureKind.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            start.release_slot()
        self._append(partial(self._gone, start, failure))

    def _told(self, start: _Start[L], event: Event, latency_secs: float | None) -> None:
        self._append(partial(self._hear, start, event, latency_secs))

    def _hear(self, start: _Start[L], event: Event, latency_secs: float | None) -> None:
        """Take what a run tells, if it is the present one."""
        if start is self._start:
            if latency_secs is not None:
                self._record.heard(latency_secs)
            self._take(event)

    def _gone(self, start: _Start[L], failure: Failure | None) -> None:
        assert start is self._start
        self._start = None
        self._take(Ended(failure))


def _vetoes(plan: ServerPlan) -> frozenset[Veto]:
    """Return why moltis.toml does not let a server run."""
    found = {Veto.DISABLED: not plan.enabled, Veto.INVALID: plan.problem is not None}
    return frozenset(veto for veto, forbids in found.items() if forbids)


def _failure(ended: transport.Ended) -> Failure:
    kind = FailureKind.of(ended.kind)  # a connection may be anybody's
    return Failure(kind, ended.message, ended.exit_code, ended.stderr_tail, ended.retry_after_secs, ended.stdout)
