"""Whether a start works, by what it has shown between two looks at it, and what it is doing, in words.

Work is what costs something or tells something: bytes on stdout or stderr, processor time of the process tree, or a
process of it that waits for a processor. Silence is none, and neither is the little that a sleeping event loop uses.
Knows no process: what there is to see is handed in (`transport.Effort`).
"""

from __future__ import annotations

from collections import deque
from pathlib import PurePath

from moltis.config.plan import ServerPlan
from moltis.server.lifecycle import Lifecycle
from moltis.server.states import STARTING
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


TOLD_AFTER_SECS = 3.0
"""What is started from a warm cache is ready by then, and has not installed anything."""

INSTALLERS = frozenset({"npx", "uvx", "bunx", "pnpx", "pipx"})
"""Commands that fetch what they run if it is not there yet."""


def start_in_words(plan: ServerPlan, life: Lifecycle, now: float, *, spoken: bool) -> str | None:
    """Return what a start is doing, or None where there is nothing to tell.

    now: monotonic seconds. spoken: whether the server has spoken MCP; what has, installs no more.
    """
    if life.state not in STARTING:
        return None
    run = life.run
    if run.admitted_at is None:
        waited = now - life.since
        return f"waiting for its turn, {waited:.0f} s so far" if waited >= TOLD_AFTER_SECS else None
    took = now - run.admitted_at
    if took < TOLD_AFTER_SECS or not plan.kind.is_program:
        return None
    window = window_secs(plan.limits.startup_timeout_secs)
    worked_at = run.admitted_at if run.worked_at is None else run.worked_at
    if now - worked_at >= window:
        return f"no sign of work for {now - worked_at:.0f} s"
    command = PurePath(plan.shown.command or "").name
    what = f"installing ({command})" if command in INSTALLERS and not spoken else "working"
    return f"{what}, {took:.0f} s so far"
