"""Whether a start works: what it has shown between two looks at it.

Work is what costs something or tells something: bytes on stdout or stderr, processor time of the process tree, or a
process of it that waits for a processor. Silence is none, and neither is the little that a sleeping event loop uses.
Knows no process: what there is to see is handed in (`transport.Effort`).
"""

from __future__ import annotations

from collections import deque

from moltis.transport import Effort

WINDOW_SECS = 5.0
"""A start that has shown work within this time counts as working: an installer that waits for one slow file still
does."""

SHARE = 0.01
"""Of one processor, over the window, that is work. A timer which only looks whether something has come uses less."""

LOOKS = 5
"""How often a start is looked at in one window."""


def window_secs(startup_timeout_secs: float) -> float:
    """Return the window for a startup timeout: shorter where a start is given less than 20 s altogether."""
    return min(WINDOW_SECS, startup_timeout_secs / 4)


class WorkMeter:
    """Looks at one start again and again.

    window: in seconds, from `window_secs`.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._seen = Effort()
        self._used = 0.0
        self._looks: deque[tuple[float, float]] = deque()

    def look(self, now: float, effort: Effort) -> bool:
        """Return whether it has shown work since the last look that found some, or within the window. now: seconds."""
        said = effort.said > self._seen.said
        # The sum over a tree falls when a child ends whose parent does not wait for it: only growth is work.
        self._used += max(0.0, effort.cpu_secs - self._seen.cpu_secs)
        self._seen = effort
        if not self._looks:
            self._looks.append((now - self._window, 0.0))
        self._looks.append((now, self._used))
        while len(self._looks) > 1 and self._looks[1][0] <= now - self._window:
            self._looks.popleft()
        worked = said or effort.runnable or self._used - self._looks[0][1] >= SHARE * self._window
        if worked:
            self._looks = deque([(now, self._used)])
        return worked
