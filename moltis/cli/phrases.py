"""What is said of a server and of the daemon: status as received, in the words and colours of a table.

Pure: the moment is an argument. The state words are those of the status itself.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from moltis.cli.table import Cell
from moltis.server.states import FREE, LOGIN_FAILED, TRAITS, FailureKind, State

COUNTED: Final = (
    State.READY, State.STARTING, State.INITIALIZING, State.STOPPING, State.BACKOFF, State.COOLDOWN, State.AWAITING_AUTH,
    State.INVALID, State.IDLE, State.STOPPED, State.DISABLED,
)  # fmt: skip
"""In which order it is told how many servers are in each state."""

SHELL_SIGNALS = frozenset({1, 2, 4, 6, 7, 8, 9, 11, 13, 15})
"""What a program dies of; any other number over 128 is an exit code of its own (npm's are)."""

_UNRESOLVED = r"\$\{?([A-Za-z_][A-Za-z0-9_]*)(?![A-Za-z0-9_:])"
"""A placeholder that a value may be kept for; `${env:NAME}` asks the daemon's environment, which no command sets."""


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: `12s`, `4m58s`, `2h15m`, `3d4h`."""
    total = max(0, round(seconds))
    days, hours, minutes, secs = total // 86400, total // 3600 % 24, total // 60 % 60, total % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{secs:02}s" if minutes else f"{secs}s"


def memory(size: int | None) -> str:
    """Return a number of bytes as people read it, `112 MB`; nothing where it is not known."""
    if size is None:
        return ""
    return f"{size / 1e9:.1f} GB" if abs(size) >= 1e9 else f"{size / 1e6:.0f} MB"


def instant(text: str | None) -> datetime | None:
    """Read an RFC 3339 instant; None for null or for what is not one."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def counted(servers: Sequence[Mapping[str, Any]]) -> str:
    """Return `4 servers: 3 ready, 1 backing off`."""
    if not servers:
        return "no servers"
    counts = {state: sum(s.get("state") == state for s in servers) for state in COUNTED}
    told = ", ".join(f"{n} {TRAITS[state].counted}" for state, n in counts.items() if n)
    return f"{len(servers)} server{'s' if len(servers) > 1 else ''}: {told}"


def exit_words(code: int) -> str:
    """Return `exit 1`, or the signal's name when a signal ended it (a negative code, as in subprocess; or 128 and the
    signal, as shells say it of their children).
    """
    if code - 128 in SHELL_SIGNALS:
        return f"exit {code} ({signal.Signals(code - 128).name})"
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def status_text(server: Mapping[str, Any], now: datetime) -> str:
    """Return the STATUS column: the state, when it changes by itself, and why."""
    state = str(server.get("state"))
    error = server.get("last_error") or {}
    match state:
        case State.BACKOFF:
            tries = f" ({server.get('attempts', 0)}/{server.get('max_restart_attempts', 0)})"
            if error.get("kind") in FREE:
                tries = ""  # it uses up none
            return ", ".join(filter(None, (state, _retry(server, now) + tries, _cause(error))))
        case State.COOLDOWN:
            return ", ".join(filter(None, (state, _retry(server, now), _cause(error))))
        case State.AWAITING_AUTH if _refuses_header(server):
            return ", ".join(filter(None, (state, str(error.get("message") or "")))) or state
        case State.AWAITING_AUTH if login_failure(server).startswith("logged out"):
            return f"{state}, logged out"
        case State.AWAITING_AUTH if server.get("auth_state") == "failed":
            return ": ".join(filter(None, (f"{state}, login failed", login_failure(server))))
        case State.AWAITING_AUTH:
            return f"{state}, login needed"
        case State.INVALID:
            return f"{state}, {error['message']}" if error.get("message") else state
        case State.READY if _login_unavailable(server):
            return ", ".join((state, _cause(error), _retry(server, now)))
        case State.READY if server.get("auth_state") == "awaiting_browser":
            return f"{state}, login pending"
        case State.READY if login_failure(server):
            return f"{state}, login failed"
        case State.READY if server.get("remarks"):
            return f"{state}, {server['remarks'][0]}"
        case State.STARTING | State.INITIALIZING if server.get("progress"):
            return f"{state}, {server['progress']}"
        case _:
            return state


def login_failure(server: Mapping[str, Any]) -> str:
    """Return why a login failed, or why the last answer to one was refused, in the daemon's words; else nothing."""
    error = server.get("last_error") or {}
    return str(error.get("message") or "") if error.get("kind") == LOGIN_FAILED else ""


def _refuses_header(server: Mapping[str, Any]) -> bool:
    """Whether it answers 401 to the Authorization that moltis.toml gives."""
    return server.get("auth_state") == "failed" and not login_failure(server)


def _login_unavailable(server: Mapping[str, Any]) -> bool:
    """Whether it goes on once its login can be renewed."""
    return bool((server.get("last_error") or {}).get("kind") == FailureKind.LOGIN_UNAVAILABLE)


def status_cell(server: Mapping[str, Any], now: datetime) -> Cell:
    """Return the STATUS column with its colour."""
    return Cell(status_text(server, now), _colour(str(server.get("state"))))


def _colour(state: str) -> str:
    return TRAITS[state].colour if state in TRAITS else ""  # a daemon of another version may have further ones


def _retry(server: Mapping[str, Any], now: datetime) -> str:
    at = instant(server.get("next_retry_at"))
    return f"retry in {duration((at - now).total_seconds())}" if at else "retry soon"


def _cause(error: Mapping[str, Any]) -> str:
    """Say why in a few words. The exit code is the reason only where nothing else made us end it."""
    if isinstance(error.get("exit_code"), int) and error.get("kind") in (None, FailureKind.EXITED):
        return exit_words(error["exit_code"])
    return str(error.get("kind") or "").replace("_", " ")


def up_and_restarts(server: Mapping[str, Any], now: datetime) -> str:
    """Return `2h15m / 0`: how long it has been ready, and how often it was started again."""
    since = instant(server.get("ready_since")) if server.get("state") == State.READY else None
    up = duration((now - since).total_seconds()) if since else "-"
    return f"{up} / {server.get('restarts', 0)}"


def action(server: Mapping[str, Any]) -> str:
    """Return the command that mends it, or shows what to mend; nothing when it is well or on its way."""
    name = server.get("name")
    match server.get("state"):
        case State.INVALID:
            return _mend_entry(server)
        case State.DISABLED | State.STOPPED as state:
            return TRAITS[state].advice.format(name)
        case State.AWAITING_AUTH if _refuses_header(server):
            return f"correct headers.Authorization, then moltis mcp restart {name}"
        case State.AWAITING_AUTH | State.READY if "oauth." in login_failure(server):
            return f"moltis why {name}"
        case State.AWAITING_AUTH:
            return f"moltis mcp reauth {name}"
        case State.READY if server.get("auth_state") == "awaiting_browser" or login_failure(server):
            return f"moltis mcp reauth {name}"
        case State.BACKOFF | State.READY if _login_unavailable(server):
            return f"moltis mcp reauth {name}"
        case State.BACKOFF | State.COOLDOWN:
            return f"moltis why {name}"
        case State.STARTING | State.INITIALIZING if server.get("attempts"):
            return f"moltis why {name}"
        case State.READY if server.get("remarks"):
            return f"moltis why {name}"
        case _:
            return ""


def _mend_entry(server: Mapping[str, Any]) -> str:
    message = str((server.get("last_error") or {}).get("message") or "")
    missing = re.search(_UNRESOLVED, message)
    return f"moltis env set {missing.group(1)}" if missing else "moltis config check"


def is_unhealthy(server: Mapping[str, Any]) -> bool:
    """Say whether a person must look at it: enabled, and in error."""
    return bool(server.get("enabled", True)) and server.get("status") == "error"
