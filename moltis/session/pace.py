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

ECHO_SECS = 0.05
"""What is announced while the list is being read, or so soon after it, was set off by the reading itself: a loop."""

FREE_ECHOES = 2
FREE_CHANGES = 20
"""Readings that find something new and do not slow down the next, until there is a quiet minute: in a loop, and where
somebody switches tools on and off."""

RESTLESS_GAP_SECS = 4.0


class ListPace:
    """The pace of one list, or of lists that change together."""

    __slots__ = ("_begun", "_changes", "_echo", "_gap", "_last", "_next", "_over")

    def __init__(self) -> None:
        self._gap = MIN_GAP_SECS
        self._changes = 0
        self._last = -math.inf
        self._next = -math.inf
        self._begun: float | None = None
        self._over = -math.inf
        self._echo = False

    @property
    def next_at(self) -> float:
        """The earliest instant of the next reading."""
        return self._next

    def heard(self, now: float) -> None:
        """Take note that the server says that the list has changed."""
        if now - self._last > QUIET_SECS:
            self._gap, self._changes = MIN_GAP_SECS, 0
        self._last = now
        self._echo = self._echo or self._begun is not None or now - self._over <= ECHO_SECS

    def begin(self, now: float) -> bool:
        """Take note that a reading begins; return whether it is for what was set off by the last one."""
        self._begun = now
        echo, self._echo = self._echo, False
        return echo

    def read(self, now: float, *, changed: bool, asked: bool, echo: bool) -> None:
        """Take note of the end of a reading.

        changed: it found something new.
        asked: the server had said that something had changed; a reading for a reason of ours slows down nothing.
        echo: what `begin` returned.
        """
        began = now if self._begun is None else self._begun
        if asked:
            self._changes += changed
            if not changed or self._changes > (FREE_ECHOES if echo else FREE_CHANGES):
                self._gap = min(self._gap * 2, MAX_GAP_SECS)
        self._last = max(self._last, began)
        self._next = began + (self._gap if asked else MIN_GAP_SECS)
        self._begun, self._over = None, now

    def restless(self, now: float) -> bool:
        """Return whether the server says again and again that the list has changed."""
        return self._gap >= RESTLESS_GAP_SECS and now - self._last <= QUIET_SECS
