"""What is published of one server: its transitions, its failures, and its status for anyone outside.

Decides nothing. Wall time enters here, once per transition, so that an instant of the past, once published, does
not move when the wall clock does. What is to come is due by the monotonic clock, which stands still while the machine
is suspended and is not set by anybody: its instant is published anew when the two clocks have moved apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from moltis.config.plan import RemoteLaunch, ServerPlan
from moltis.server.life import Facts
from moltis.server.lifecycle import Failure, Lifecycle, Transition, waits_for_login
from moltis.server.states import OF_CONFIG, STATUS, UNCOUNTED, State
from moltis.server.status import HistoryEntry, LastError, ServerStatus
from moltis.server.working import start_in_words
from moltis.times import stamp

HISTORY_LIMIT = 500
"""Transitions kept per server: a crash loop with default limits fills it in some four days, in about 150 kB."""

RECENT_ERRORS = 10

APART_SECS = 1.0
"""What the published instant of a retry may be wrong by: it is one instant, not another at each look."""


def _auth_state(plan: ServerPlan, life: Lifecycle) -> str:
    """Say how the login stands of which nothing is known but that it was asked for."""
    if life.state is not State.AWAITING_AUTH:
        return "not_required"
    refused = isinstance(plan.launch, RemoteLaunch) and plan.launch.own_authorization
    return "failed" if refused else "awaiting_browser"


def _later(instant: datetime, secs: float) -> datetime | None:
    """Return the instant `secs` later, or None when that is beyond the calendar."""
    try:
        return instant + timedelta(seconds=secs)
    except OverflowError:
        return None


class Record:
    """The memory of one server, for people; a restart of the daemon begins a new one."""

    def __init__(self, wall: Callable[[], datetime]) -> None:
        self._wall = wall
        self._history: deque[HistoryEntry] = deque(maxlen=HISTORY_LIMIT)
        self._errors: deque[LastError] = deque(maxlen=RECENT_ERRORS)
        self._moved_at: str = stamp(wall())
        self._started_at: str | None = None
        self._next_retry_at: datetime | None = None
        self._heartbeat: tuple[datetime, float] | None = None
        self._refusal: LastError | None = None

    def moved(self, before: Lifecycle, outcome: Transition) -> HistoryEntry:
        """Note a change of state, and give it as it is published."""
        after, ended, wall = outcome.life, outcome.ended, self._wall()
        self._moved_at = stamp(wall)
        self._next_retry_at = None if after.delay_secs is None else _later(wall, after.delay_secs)
        if after.state is State.STARTING:
            self._heartbeat = None
        if after.state is State.INITIALIZING:
            self._started_at = self._moved_at
        elif after.state not in (State.READY, State.STOPPING):
            self._started_at = None
        counted = after.failure if after.failure is not before.failure else None
        if counted is not None:
            self._errors.append(_last_error(counted, self._moved_at))
        if ended is not None and ended.kind in UNCOUNTED:
            self._refusal = _last_error(ended, self._moved_at)
        told = counted or ended or (after.cause if after.state is State.STOPPING else None)
        entry = HistoryEntry(
            at=self._moved_at,
            from_=before.state.value,
            to=after.state.value,
            reason=str(outcome.reason),
            attempt=after.attempts,
            delay_secs=after.delay_secs,
            next_retry_at=None if self._next_retry_at is None else stamp(self._next_retry_at),
            pid=after.run.pid if after.run.pid is not None else before.run.pid,
            exit_code=told.exit_code if told else None,
            message=told.message if told else None,
        )
        self._history.append(entry)
        return entry

    def heard(self, latency_secs: float) -> None:
        """Note an answered heartbeat."""
        self._heartbeat = (self._wall(), latency_secs)

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        """Return the last `limit` transitions (None: all that are kept), oldest first."""
        entries = list(self._history)
        return entries if limit is None else entries[max(0, len(entries) - limit) :]

    def status(self, plan: ServerPlan, life: Lifecycle, facts: Facts, now: float) -> ServerStatus:
        """Show the server as it is now. `recent_errors` is oldest first.

        now: of the clock of `life.deadline`.
        """
        shown, heartbeat = plan.shown, self._heartbeat
        return ServerStatus(
            name=plan.name,
            display_name=plan.display_name,
            transport=plan.transport,
            enabled=plan.enabled,
            state=life.state.value,
            status=STATUS[life.state],
            pid=life.run.pid,
            url=shown.url,
            header_names=list(shown.header_names),
            header_count=len(shown.header_names),
            command=shown.command,
            arg_count=shown.arg_count,
            env_names=list(shown.env_names),
            env_withheld=list(shown.env_withheld),
            env_sources=dict(shown.env_sources),
            proxy=plan.proxy,
            tool_count=facts.tool_count,
            resource_count=facts.resource_count,
            prompt_count=facts.prompt_count,
            server_info=facts.server_info,
            protocol_version=facts.protocol_version,
            auth_state=_auth_state(plan, life),
            attempts=life.attempts,
            max_restart_attempts=plan.limits.max_restart_attempts,
            restarts=max(0, life.starts - 1),
            next_retry_at=self._retry_at(life, now),
            started_at=self._started_at,
            ready_since=self._moved_at if life.state is State.READY else None,
            last_error=self._last_error(plan, life),
            recent_errors=list(self._errors),
            remarks=list(facts.remarks),
            stdout=facts.stdout or None,
            progress=start_in_words(plan, life, now, spoken=facts.protocol_version is not None),
            last_heartbeat_at=None if heartbeat is None else stamp(heartbeat[0]),
            heartbeat_latency_ms=None if heartbeat is None else round(heartbeat[1] * 1000, 3),
            request_timeout_secs=plan.limits.request_timeout_secs,
        )

    def _retry_at(self, life: Lifecycle, now: float) -> str | None:
        """Say when it is tried again, of the deadline and of both clocks as they are."""
        if self._next_retry_at is None:
            return None
        if life.deadline is not None:
            due = _later(self._wall(), life.deadline - now)
            if due is None or abs((due - self._next_retry_at).total_seconds()) > APART_SECS:
                self._next_retry_at = due
        return None if self._next_retry_at is None else stamp(self._next_retry_at)

    def _last_error(self, plan: ServerPlan, life: Lifecycle) -> LastError | None:
        if life.state is State.INVALID:
            return LastError(kind=OF_CONFIG, message=plan.problem or "its entry is wrong", at=self._moved_at)
        if (life.state is State.AWAITING_AUTH or waits_for_login(life)) and self._refusal is not None:
            return self._refusal
        return self._errors[-1] if self._errors else None


def _last_error(failure: Failure, at: str) -> LastError:
    return LastError(
        kind=failure.kind.value,
        message=failure.message,
        at=at,
        exit_code=failure.exit_code,
        stderr_tail=list(failure.stderr_tail),
        stdout=failure.stdout or None,
    )
