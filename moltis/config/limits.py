"""The limits of a server, each declared once: key, type, bounds, default, and what it is for.

The keys of moltis.toml, their checks, the schema, the docs and the example file, the params of the control socket, and
what the state machine goes by are made of these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

MIN_SECS: Final = 0.05
MAX_SECS: Final = 365 * 24 * 3600.0


def _secs(doc: str, *, cap: str = "") -> Mapping[str, Any]:
    """Describe a length of time. `cap`: the limit that it never exceeds, and that rises with it where it is unset."""
    return {"doc": doc, "low": MIN_SECS, "high": MAX_SECS, "cap": cap}


def _count(doc: str, *, low: int, high: int) -> Mapping[str, Any]:
    return {"doc": doc, "low": low, "high": high, "is_count": True}


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers that `[mcp]` and each server may set; in seconds where the name says so."""

    request_timeout_secs: float = field(
        default=30.0,
        metadata=_secs("a request may go without a reply or progress for so long", cap="request_timeout_max_secs"),
    )
    request_timeout_max_secs: float = field(
        default=600.0, metadata=_secs("hard cap of a request, however much progress arrives")
    )
    startup_timeout_secs: float = field(
        default=60.0,
        metadata=_secs(
            "from spawn or connect until ready; extended while a start visibly works", cap="startup_timeout_max_secs"
        ),
    )
    startup_timeout_max_secs: float = field(
        default=600.0, metadata=_secs("hard cap of a start, however busy; the first `npx -y` downloads")
    )
    heartbeat_interval_secs: float = field(default=30.0, metadata=_secs("between two heartbeats of a ready server"))
    heartbeat_timeout_secs: float = field(default=5.0, metadata=_secs("a heartbeat unanswered for so long is missed"))
    heartbeat_max_missed: int = field(default=3, metadata=_count("missed in a row, then restarted", low=1, high=1000))
    max_restart_attempts: int = field(
        default=5,
        metadata=_count("failures in a row, then cooldown; docs/lifecycle.md has the rule", low=0, high=1_000_000),
    )
    restart_backoff_secs: float = field(
        default=1.0,
        metadata=_secs(
            "c_n = min(max, base * 2**(n-1)); the delay is drawn from [c_n/2, c_n]", cap="restart_backoff_max_secs"
        ),
    )
    restart_backoff_max_secs: float = field(default=60.0, metadata=_secs("the max above"))
    restart_cooldown_secs: float = field(
        default=300.0,
        metadata=_secs("doubled after each failed probe, up to the max", cap="restart_cooldown_max_secs"),
    )
    restart_cooldown_max_secs: float = field(default=3600.0, metadata=_secs("the max above"))
    stable_after_secs: float = field(
        default=300.0, metadata=_secs("uninterrupted ready time that forgives earlier failures")
    )
    stop_eof_secs: float = field(default=2.0, metadata=_secs("after stdin is closed, before SIGTERM"))
    stop_term_secs: float = field(default=3.0, metadata=_secs("after SIGTERM, before SIGKILL"))
    max_message_bytes: int = field(
        default=16 * 1024 * 1024,
        metadata=_count("one message from a server; a longer one is discarded", low=1024, high=2**30),
    )


class Limit(NamedTuple):
    """One of them, as it was declared. `cap`: the name of the limit that it never exceeds, or empty."""

    name: str
    default: Any
    doc: str
    low: float
    high: float
    cap: str = ""
    is_count: bool = False


DECLARED: Final = tuple(Limit(name=each.name, default=each.default, **each.metadata) for each in fields(Limits))
