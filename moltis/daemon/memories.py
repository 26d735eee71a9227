"""What each server listed when it was last ready, and how it is shown: in memory, and on disk for the next start.

Written on a thread, one server after the other, and at most as often as the disk takes it; a server whose lists change
all the time is written once for many changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from moltis import logs
from moltis.config.plan import Plan, ServerPlan
from moltis.daemon.eras import Learnt
from moltis.errors import MoltisError
from moltis.gateway.api import Known
from moltis.gateway.known import KnownStore
from moltis.gateway.showing import Showing, mark, showing_of
from moltis.threads import in_thread

log = logs.get("moltis.gateway")


def _tell(what: str) -> None:
    log.warning("lists_not_read", problem=what)


class Memories(Learnt):
    """Of all servers. `current`: gives what a server lists now, None unless it is ready; `scrub` as in `KnownStore`."""

    gap_secs = 1.0

    def __init__(self, folder: Path, current: Callable[[str], Known | None], scrub: Callable[[str], str] = str) -> None:
        super().__init__()
        self._store = KnownStore(folder, scrub, _tell)
        self._current = current
        self._known: dict[str, tuple[str, Known]] = {}
        self._dirty: dict[str, str] = {}
        self._showing: Showing | None = None
        self._is_shown_anew = False

    async def load(self) -> None:
        """Read what is on disk, if that can be done; what was learnt meanwhile is newer."""
        try:
            loaded = await in_thread(self._store.load_all)
        except (MoltisError, OSError) as problem:
            log.warning("lists_not_read", problem=str(problem))
            return
        self._known = {**loaded, **self._known}

    def of(self, plan: ServerPlan) -> Known | None:
        """Return what is known of a server, if its entry is the one that it was learnt under."""
        found = self._known.get(plan.name)
        return found[1] if found is not None and found[0] == mark(plan) else None

    def learn(self, plan: ServerPlan) -> None:
        """Take note that a server is ready, or lists something new."""
        known = self._current(plan.name)
        if known is None:
            return
        of_entry = mark(plan)
        if self._known.get(plan.name) == (of_entry, known):
            return
        self._known[plan.name] = (of_entry, known)
        self._dirty[plan.name] = of_entry
        self._wake.set()

    def apply(self, plan: Plan) -> None:
        """Show the servers as a plan says, and forget those that are not in it any more."""
        showing = showing_of(plan)
        if showing != self._showing:
            self._showing, self._is_shown_anew = showing, True
            self._wake.set()
        names = {server.name for server in plan.servers}
        for name in self._known.keys() - names:
            del self._known[name]
            self._dirty[name] = ""
            self._wake.set()

    async def _write_all(self) -> None:
        if self._is_shown_anew and self._showing is not None:
            self._is_shown_anew = False
            await _done(partial(self._store.save_showing, self._showing), None)
        while self._dirty:
            name, of_entry = self._dirty.popitem()
            known = self._known.get(name)
            work = (
                partial(self._store.forget, name)
                if known is None
                else partial(self._store.save, name, of_entry, known[1])
            )
            await _done(work, name)


async def _done(work: Callable[[], None], server: str | None) -> None:
    try:
        await in_thread(work)
    except MoltisError as problem:
        log.warning("lists_not_kept", server=server, problem=problem.message)
