"""When a list is read again that its server says has changed: at once at first, ever more slowly if it never stops.

A server may answer each reading with another `list_changed`, on purpose or by mistake, and whatever is read anew is
told to every host, which reads it again. Knows no clock: instants are handed in, in monotonic seconds.
"""

from __future__ import annotations

import math

MIN_GAP_SECS = 0.5
"""From the beginning of one reading to the beginning of the next."""

MAX_GAP_SECS = 60.0

QUIET_SECS = 60.0
"""Without a word about the list for so long, counted from its last reading, the server has its promptness back."""

FREE_CHANGES = 2
"""Readings in a row that find something new and do not slow down the next: whoever installs or removes something says
so once or twice."""

RESTLESS_GAP_SECS = 4.0


class ListPace:
    """The pace of one list, or of lists that change together."""

    __slots__ = ("_changes", "_gap", "_last", "_next")

    def __init__(self) -> None:
        self._gap = MIN_GAP_SECS
        self._changes = 0
        self._last = -math.inf
        self._next = -math.inf

    @property
    def next_at(self) -> float:
        """The earliest instant of the next reading."""
        return self._next

    def heard(self, now: float) -> None:
        """Take note that the server says that the list has changed."""
        self._forgive(now)
        self._last = now

    def read(self, began: float, *, changed: bool, asked: bool) -> None:
        """Take note of a reading.

        changed: it found something new.
        asked: the server had said that something had changed; a reading for a reason of ours slows down nothing.
        """
        if asked:
            self._changes += changed
            if not changed or self._changes > FREE_CHANGES:
                self._gap = min(self._gap * 2, MAX_GAP_SECS)
        self._last = max(self._last, began)
        self._next = began + (self._gap if asked else MIN_GAP_SECS)

    def restless(self, now: float) -> bool:
        """Return whether the server says again and again that the list has changed."""
        return self._gap >= RESTLESS_GAP_SECS and now - self._last <= QUIET_SECS

    def _forgive(self, now: float) -> None:
        if now - self._last > QUIET_SECS:
            self._gap, self._changes = MIN_GAP_SECS, 0
