"""Instants as people and programs are told them: RFC 3339 in UTC, to the millisecond. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def stamp(instant: datetime) -> str:
    """Return an instant, as `2026-01-31T09:30:00.250Z`."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def stamp_of(epoch_secs: float) -> str:
    """Return the instant that many seconds after the epoch."""
    return stamp(datetime.fromtimestamp(epoch_secs, UTC))
