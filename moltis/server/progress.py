"""What a start is doing, in words, for whoever waits for it."""

from __future__ import annotations

from pathlib import PurePath

from moltis.config.plan import ServerPlan
from moltis.server.lifecycle import Lifecycle
from moltis.server.states import STARTING
from moltis.server.working import window_secs

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
