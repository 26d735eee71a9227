"""The story of one server in plain words: how it is, what happened, what comes next, and what mends it.

Reads only what anyone may see, status and history, so it cannot say more than they hold. What happened over and over is
said once, with how often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from moltis.lastwords import pick
from moltis.server.mending import SILENT, commands, in_its_words, login_failed, refuses_header, waits_for_login
from moltis.server.states import NOT_NEEDED, TRYING, FailureKind, State
from moltis.server.status import HistoryEntry, ServerStatus

STDERR_LINES = 12
"""How much of a server's last output is cited, first what tells the cause. `moltis logs` has the rest."""

SIGNALS = {1: "SIGHUP", 2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV",
           13: "SIGPIPE", 15: "SIGTERM"}  # fmt: skip
"""Those that a server is likely to die of, by their number on Linux."""

AT_ONCE_SECS = 1.0

PASSED_OVER = "what it writes to stdout and is no MCP is passed over"

DID = {
    FailureKind.EXITED: "exited",
    FailureKind.SPAWN_FAILED: "could not be started",
    FailureKind.CONNECT_FAILED: "could not be reached",
    FailureKind.HANDSHAKE_FAILED: "did not complete the MCP handshake",
    FailureKind.LISTING_FAILED: "completed the MCP handshake, but not the first listing",
    FailureKind.NO_NETWORK: "found no network",
    FailureKind.NO_RESOURCES: "was not started, for want of means",
    FailureKind.STARTUP_TIMEOUT: "was not ready in time, and was ended",
    FailureKind.UNRESPONSIVE: "stopped answering, and was ended",
    FailureKind.DISCONNECTED: "closed the connection",
    FailureKind.WRITE_STALLED: "stopped reading what it was sent, and was ended",
    FailureKind.WARDEN_LOST: "was lost together with the process that watches over all servers",
    FailureKind.INTERNAL: "was hit by a fault of moltis itself",
    FailureKind.AUTH_REQUIRED: "asked for a login",
    FailureKind.LOGIN_UNAVAILABLE: "was not asked anything, for its login could not be renewed",
    FailureKind.LOCKED_OUT: "answered 401",
}
"""What a server did: continues "It"."""

BECAUSE = {
    "stop_requested": "It was stopped by request.",
    "restart_requested": "It was restarted by request.",
    "logged_out": "It was restarted, for somebody had logged out.",
    "config_changed": "It was ended because moltis.toml had changed.",
    NOT_NEEDED: "It was stopped, for nobody had used it for a while.",
    "shutdown": "It was stopped because the daemon ended.",
    FailureKind.AUTH_REQUIRED: "It asked for a login.",
}
"""Why a run that did not fail came to its end."""


@dataclass
class _Run:
    """One start and what came of it, as the history tells it."""

    begun: HistoryEntry
    ready: HistoryEntry | None = None
    stopping: HistoryEntry | None = None
    end: HistoryEntry | None = None

    @property
    def failed(self) -> bool:
        return self.end is not None and self.end.to in (State.BACKOFF, State.COOLDOWN)

    @property
    def kind(self) -> tuple[bool, str, bool, bool]:
        """What makes two runs the same story."""
        reason = self.end.reason if self.end is not None and self.failed else ""
        return (self.failed, reason, self.ready is not None, self.begun.reason == "probe")

    @property
    def lasted_secs(self) -> float:
        """How long it was ready, or else how long it took to fail; in seconds."""
        over = self.stopping or self.end
        return _secs_between((self.ready or self.begun).at, over.at) if over is not None else 0.0


def tell(status: ServerStatus, history: Sequence[HistoryEntry], now: datetime) -> list[str]:
    """Tell the story, one line each, for a person to read top to bottom.

    now: an aware instant; times are told in its zone.
    """
    clock = _Clock(now)
    lines = [_headline(status, clock)]
    failing = status.failing and status.state in TRYING
    happened = list(_happened(history, clock, in_its_words(status) if failing else ""))
    if happened:
        lines += ["", "What happened:", *(f"  {line}" for line in happened)]
    known = [*status.remarks, *([f"{PASSED_OVER}: {status.stdout}"] if status.stdout else [])]
    if known:
        lines += ["", "Worth knowing:", *(f"  {remark}" for remark in known)]
    cited = _cited(status)
    if cited:
        lines += ["", "Its last words:", *(f"  | {line}" for line in cited)]
    if status.failing and status.state in TRYING and status.last_error is not None and status.last_error.stdout:
        lines += ["", "On its stdout:", f"  {status.last_error.stdout}"]
    upcoming = _upcoming(status, clock)
    if upcoming:
        lines += ["", "What comes next:", f"  {upcoming}"]
    mending = commands(status)
    if mending:
        lines += ["", "What to do:", *(f"  {line}" for line in mending)]
    return lines


class _Clock:
    """Says instants and durations as a person at `now` would."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def at(self, instant: str) -> str:
        when = datetime.fromisoformat(instant).astimezone(self._now.tzinfo)
        same_day = when.date() == self._now.date()
        return when.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S")

    def since(self, instant: str) -> str:
        return duration((self._now - datetime.fromisoformat(instant)).total_seconds())

    def until(self, instant: str) -> str:
        secs = (datetime.fromisoformat(instant) - self._now).total_seconds()
        return f"in {duration(secs)}" if secs >= 1 else "now"


def duration(secs: float) -> str:
    """Say a number of seconds in its largest unit, rounded, and in two for what would round too far."""
    whole = max(0, round(secs))
    if whole < 1:
        return "less than a second"
    if whole < 120:
        return _count(whole, "second")
    if whole < 7200:
        return _count(round(whole / 60), "minute")
    if whole < 172_800:
        hours, minutes = divmod(round(whole / 60), 60)
        return _count(hours, "hour") + (f" {_count(minutes, 'minute')}" if minutes else "")
    return _count(round(whole / 86_400), "day")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _secs_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _headline(status: ServerStatus, clock: _Clock) -> str:
    in_a_row = " in a row" if status.attempts > 1 else ""
    name, failed = status.name, f"it has failed {_times(status.attempts)}{in_a_row}"
    if _is(status, FailureKind.NO_NETWORK):
        failed = "it found no network"
    elif _is(status, FailureKind.NO_RESOURCES):
        failed = "this machine has nothing left to start it with"
    match State(status.state):
        case State.INVALID:
            return f"{name} cannot run: {_said(status)}."
        case State.DISABLED:
            return f"{name} is disabled: its entry in moltis.toml says enabled = false."
        case State.STOPPED:
            return f"{name} is stopped, and stays so until someone starts it."
        case State.IDLE:
            but = f"; {failed} before" if status.failing else ""
            return f"{name} is idle: nobody needs it now, and it starts when somebody does{but}."
        case State.STARTING:
            return f"{name} is being started{_progress(status)}{'; ' + failed if status.failing else ''}."
        case State.INITIALIZING:
            there = f"{name} is there{_pid(status.pid)} and is doing the MCP handshake"
            return f"{there}{_progress(status)}{'; ' + failed if status.failing else ''}."
        case State.READY:
            since = f", for {clock.since(status.ready_since)} now" if status.ready_since else ""
            but = f", but {_said(status)}" if waits_for_login(status) else _login_beside(status)
            return f"{name} is ready{since}, with {_count(status.tool_count, 'tool')}{but}."
        case State.AWAITING_AUTH if refuses_header(status):
            return f"{name} answers 401 to the Authorization that moltis.toml gives: no login changes that."
        case State.AWAITING_AUTH if login_failed(status):
            return f"{name} waits for a person to log in; {_failed_login(status)}."
        case State.AWAITING_AUTH:
            return f"{name} waits for a person to log in."
        case State.BACKOFF if waits_for_login(status) or _is(status, FailureKind.LOCKED_OUT):
            return f"{name} is not running, for {_said(status)}."
        case State.BACKOFF:
            return f"{name} is not running: {failed}."
        case State.COOLDOWN:
            allowed = _count(status.max_restart_attempts, "restart")
            return f"{name} is left alone for a while: {failed}, and {allowed} in a row are allowed."
        case State.STOPPING:
            return f"{name} is being stopped{_pid(status.pid)}{'; ' + failed if status.failing else ''}."


def _is(status: ServerStatus, kind: FailureKind) -> bool:
    return status.last_error is not None and status.last_error.kind == kind


def _progress(status: ServerStatus) -> str:
    return f" ({status.progress})" if status.progress else ""


def _login_beside(status: ServerStatus) -> str:
    """Say how a login stands that a server which is ready can do without for now: one for more scope, mostly."""
    if login_failed(status):
        return f", but {_failed_login(status)}"
    return ", and a login is pending that it asked for, or a person" if status.auth_state == "awaiting_browser" else ""


def _failed_login(status: ServerStatus) -> str:
    said = _said(status)
    if status.auth_state == "awaiting_browser":
        return f"an answer to the login was refused: {said}"
    return said if said.startswith("logged out") else f"the login failed: {said}"


def _said(status: ServerStatus) -> str:
    return status.last_error.message.rstrip(".") if status.last_error is not None else "its entry is wrong"


def _pid(pid: int | None) -> str:
    return f" (pid {pid})" if pid is not None else ""


def _happened(history: Sequence[HistoryEntry], clock: _Clock, said: str) -> Iterator[str]:
    """Tell the runs. `said`: why the last of those that failed ended, in the server's own words, if it told."""
    every = list(_runs(history))
    last = next((run for run in reversed(every) if run.failed), None)
    for _, same in groupby(every, key=lambda run: run.kind):
        runs = list(same)
        if runs[0].failed:
            yield _span(runs, clock) + _failures(runs, said if runs[-1] is last else "")
        else:
            for run in runs:
                yield from _peaceful(run, clock)


def _runs(history: Sequence[HistoryEntry]) -> Iterator[_Run]:
    """Cut the history into runs. What came before the first start that is still known is not told."""
    run: _Run | None = None
    for entry in history:
        if entry.to == State.STARTING:
            if run is not None:
                yield run
            run = _Run(entry)
        elif run is not None:
            if entry.to == State.READY:
                run.ready = entry
            elif entry.to == State.STOPPING:
                run.stopping = entry
            elif entry.to != State.INITIALIZING and (run.end is None or entry.reason == FailureKind.LOCKED_OUT):
                run.end = entry
    if run is not None:
        yield run


def _span(runs: list[_Run], clock: _Clock) -> str:
    """Say when it ended; for several runs from the first start to the last end."""
    first, end = runs[0].begun.at, runs[-1].end
    assert end is not None
    ended_at = (runs[-1].stopping or end).at
    if len(runs) == 1:
        return f"{clock.at(ended_at)}  "
    return f"{clock.at(first)} to {clock.at(ended_at)}  "


def _failures(runs: list[_Run], said: str) -> str:
    """Say what some runs that failed alike did, in one or two sentences. `said`: as for `_happened`."""
    last, number = runs[-1], len(runs)
    assert last.end is not None
    subject, often = "It", f" {_times(number)} in a row" if number > 1 else ""
    if last.ready is not None:
        subject = "It became ready and then"
    if last.begun.reason == "probe":
        when = "once more after a cooldown" if number == 1 else f"once after each of {number} cooldowns"
        subject, often = f"Tried {when}, {subject[0].lower()}{subject[1:]}", ""
    did = DID[FailureKind.of(last.end.reason)]
    if last.end.reason == FailureKind.EXITED and last.ready is None:
        did += " at once" if last.lasted_secs < AT_ONCE_SECS else " before it was ready"
    return f"{subject} {did}{often}{_details(last, number, said)}.{_consequence(last.end)}"


def _details(last: _Run, number: int, said: str) -> str:
    """Say how the last of `number` runs ended: after how long, and how, or in the failure's own words."""
    assert last.end is not None
    end, details = last.end, ""
    if last.ready is not None or (said == SILENT and last.lasted_secs >= AT_ONCE_SECS):
        details += f" after {duration(last.lasted_secs)}"
    if end.reason == FailureKind.EXITED and end.exit_code is not None:
        details += (" and" if details and end.exit_code >= 0 else "," if details else "") + " "
        details += exit_in_words(end.exit_code)
    if number > 1 and details:
        details = f", the last time{details}"
    if end.reason != FailureKind.EXITED and end.message:
        details += f": {end.message.rstrip('.')}"
    if said and end.reason in (FailureKind.EXITED, FailureKind.NO_NETWORK):
        details += f": {said.rstrip('.')}"
    return details


def exit_in_words(exit_code: int) -> str:
    """Say an exit status; negative is a signal, as Python's subprocess has it.

    Shells, uvx and docker end with 128 and the signal that their child died of.
    """
    if exit_code - 128 in SIGNALS:
        return f"with exit code {exit_code} (128 + {SIGNALS[exit_code - 128]})"
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    return f"killed by {SIGNALS.get(-exit_code, f'signal {-exit_code}')}"


def _consequence(end: HistoryEntry) -> str:
    if end.to != State.COOLDOWN or end.delay_secs is None:
        return ""
    return f" After that it was left alone for {duration(end.delay_secs)}."


def _peaceful(run: _Run, clock: _Clock) -> Iterator[str]:
    """Tell a run that has not failed: it goes on, or it was ended."""
    if run.ready is not None:
        yield f"{clock.at(run.ready.at)}  It became ready{_pid(run.ready.pid)}."
    else:
        yield f"{clock.at(run.begun.at)}  It was started{_start_reason(run.begun)}."
    over = run.stopping or run.end
    if over is not None:
        yield f"{clock.at(over.at)}  {_because(over)}"


def _because(over: HistoryEntry) -> str:
    """Say why a run ends that has not been counted as a failure (yet)."""
    if over.reason in BECAUSE:
        return BECAUSE[over.reason]
    kind = FailureKind.of(over.reason)
    if kind != over.reason:
        return "It was ended."
    return f"It {DID[kind]}{f': {over.message}' if over.message else ''}."


def _for_how_long(status: ServerStatus) -> str:
    """Say until when it is tried again, of what uses up no attempt."""
    if _is(status, FailureKind.NO_NETWORK):
        return "until there is a network"
    if _is(status, FailureKind.NO_RESOURCES):
        return "until there is"
    return "less and less often, until it answers" if _is(status, FailureKind.LOCKED_OUT) else ""


def _start_reason(begun: HistoryEntry) -> str:
    reasons = {
        "start_requested": " by request",
        "needed": ", for it was needed",
        "probe": " once more after a cooldown",
        "retry": " again",
    }
    return reasons.get(begun.reason, "")


def _cited(status: ServerStatus) -> list[str]:
    if status.state not in TRYING or not status.failing or status.last_error is None:
        return []
    return pick(status.last_error.stderr_tail, STDERR_LINES)


def _upcoming(status: ServerStatus, clock: _Clock) -> str:
    match State(status.state):
        case State.BACKOFF | State.READY if waits_for_login(status):
            when = f" at {clock.at(status.next_retry_at)}" if status.next_retry_at is not None else " soon"
            return f"The renewal is tried again{when}; the server goes on as soon as it works, and no attempt is used."
        case State.BACKOFF if _for_how_long(status) and status.next_retry_at is not None:
            when = f"At {clock.at(status.next_retry_at)}, {clock.until(status.next_retry_at)}, it is started again"
            return f"{when}, and so on {_for_how_long(status)}; no attempt is used."
        case State.BACKOFF if status.next_retry_at is not None:
            left = status.max_restart_attempts - status.attempts
            when = f"At {clock.at(status.next_retry_at)}, {clock.until(status.next_retry_at)}, it is started again."
            more = f" {_count(left, 'more failure')} will be borne" if left else " No more failure will be borne"
            return f"{when}{more} before it is left alone for a cooldown."
        case State.COOLDOWN if status.next_retry_at is not None:
            when = f"At {clock.at(status.next_retry_at)}, {clock.until(status.next_retry_at)}, it is tried once."
            return f"{when} If that fails too, the next cooldown is twice as long, up to its limit."
        case State.READY if status.attempts:
            failures = "earlier failure" if status.attempts == 1 else f"{status.attempts} earlier failures"
            return f"Its {failures} will be forgiven once it has been ready for long enough."
        case State.AWAITING_AUTH if refuses_header(status):
            return "Nothing, until moltis.toml gives another Authorization; that uses up no attempt."
        case State.AWAITING_AUTH:
            return "Nothing, until a person has logged in; that uses up no attempt."
        case _:
            return ""
