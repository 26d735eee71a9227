"""How long a server asks to be left alone (RFC 9110 section 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_LONGEST_DATE = 64


def retry_after_secs(value: str | None, now: float) -> float | None:
    """Give the seconds that a Retry-After value asks for, 0 or more; None if it asks for nothing intelligible.

    Any length is passed on, even years: the cap is the caller's. A fraction, which some servers send though the
    standard has none, is understood. An instant that has passed is 0.

    now: seconds since the epoch.
    """
    if value is None:
        return None
    value = value.strip(" \t")
    if _SECONDS.fullmatch(value):
        return float(value)
    if len(value) > _LONGEST_DATE or ":" not in value:
        return None
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
