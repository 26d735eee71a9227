"""The lists of one server, kept up to date: read at the start, read again when the server says that they changed.

However often it says so, each list is read at most twice a second, and ever more rarely if it never stops (`pace`).
Level-triggered: a list that could not be read is still to be read, for want of a login or for any other reason.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import anyio
import msgspec

from moltis.errors import MoltisError, NotSent, RpcCode
from moltis.session import envelope
from moltis.session.calls import ErrorReply, Failed, Reply, Result
from moltis.session.handshake import MAX_REFUSAL_CHARS
from moltis.session.hooks import Counters
from moltis.session.listing import CHANGED, Item, Kind, ListError, Pages, page_params
from moltis.session.pace import ListPace
from moltis.slices import in_slices

OPTIONAL_LIST_SECS = 5.0
"""How long a start waits for what is not tools; a list that takes longer is read once more after the start."""

RETRY_SECS = 1.0
MAX_RETRY_SECS = 300.0
"""From a reading that failed to the next, doubled each time: a server that always refuses is not to be bothered."""

Ask = Callable[[str, bytes, bool], Awaitable[Reply]]
"""Sends a request with these params and waits for its outcome, within the server's request timeout; True: during a
start without a limit of its own, for `startup_timeout_secs` says how long that may take."""


class _Unread(msgspec.Struct):
    """A list whose last reading failed: how often in a row, when it is tried again by itself, and why."""

    times: int
    until: float
    why: str


class Lists:
    """What one server offers.

    on_changed: called with the lists whose content is new, after the first reading only.
    """

    def __init__(self, ask: Ask, on_changed: Callable[[frozenset[Kind]], None], counters: Counters) -> None:
        self._ask = ask
        self._on_changed = on_changed
        self._counters = counters
        self._items: dict[Kind, tuple[Item, ...]] = dict.fromkeys(Kind, ())
        self._cut: dict[Kind, str] = {}
        self._nameless: dict[Kind, int] = {}
        self._instead: dict[Kind, str] = {}
        self._unread: dict[Kind, _Unread] = {}
        self._modern = False
        self._stale: set[Kind] = set()
        self._announced: set[str] = set()
        self._being_read: set[str] = set()
        self._paces: dict[str, ListPace] = {changed: ListPace() for changed in CHANGED}
        self._wake = anyio.Event()

    def items(self, kind: Kind) -> tuple[Item, ...]:
        """Return the items of a list, in the server's order."""
        return self._items[kind]

    def remarks(self) -> list[str]:
        """Return what a person should know of the lists, a sentence each; nothing of a healthy server's."""
        now = anyio.current_time()
        restless = [CHANGED[changed] for changed, pace in self._paces.items() if pace.restless(now)]
        return [
            *(f"its list of {' and '.join(kind.member for kind in kinds)} changes all the time" for kinds in restless),
            *(f"its list of {kind.member} is not complete: {why}" for kind, why in self._cut.items()),
            *(
                f"its list of {kind.member} has {_count(number)} without a name, which nobody can be shown"
                for kind, number in self._nameless.items()
            ),
            *(
                f"its answer to {kind.method} has {what} where the list belongs, which is taken for an empty one"
                for kind, what in self._instead.items()
            ),
            *(f"its list of {kind.member} could not be read: {unread.why}" for kind, unread in self._unread.items()),
        ]

    async def read_first(self, capabilities: dict[str, Any], *, modern: bool = False) -> None:
        """Read all lists that the server says it has, at once.

        modern: the server speaks 2026-07-28.

        A server that declares nothing at all is asked for tools all the same, and may refuse. What is not tools may
        fail or take its time without keeping the server from its work.

        Raises:
            ListError: the server has tools and cannot list them.
        """
        self._modern = modern
        trouble: list[ListError] = []

        async def read_tools() -> None:
            try:
                await self._read(Kind.TOOLS, patiently="tools" in capabilities)
            except ListError as fault:
                if "tools" in capabilities:
                    trouble.append(fault)
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            if "tools" in capabilities or not capabilities:
                tasks.start_soon(read_tools)
            for kind in Kind:
                if kind is not Kind.TOOLS and kind.capability in capabilities:
                    tasks.start_soon(self._read_optional, kind)
        if trouble:
            raise trouble[0]

    def notified(self, method: str) -> bool:
        """Take a notification and say whether it was about the lists."""
        kinds = CHANGED.get(method)
        if kinds is None:
            return False
        self._paces[method].heard(anyio.current_time())
        self._announced.add(method)
        self.mark_stale(kinds)
        return True

    def mark_stale(self, kinds: Iterable[Kind]) -> None:
        """Have these lists read again, though they could not be read before."""
        self._stale.update(kinds)
        self.again()

    def again(self) -> None:
        """Have the lists that could not be read tried now: what was in the way may be gone."""
        for unread in self._unread.values():
            unread.until = -math.inf
        self._wake.set()

    async def follow(self) -> None:
        """Read again what has become stale, for as long as this runs. No list waits for another that is slow."""
        async with anyio.create_task_group() as tasks:
            while True:
                due = await self._wait_due()
                self._stale -= due
                for group in {kind.changed for kind in due}:
                    self._being_read.add(group)
                    tasks.start_soon(self._read_again, group, [kind for kind in CHANGED[group] if kind in due])

    async def _read_again(self, group: str, kinds: list[Kind]) -> None:
        asked = group in self._announced
        self._announced.discard(group)
        before = dict(self._items)
        pace = self._paces[group]
        echo = pace.begin(anyio.current_time())
        for kind in kinds:
            try:
                await self._read(kind)
            except ListError as fault:
                self._could_not(kind, fault)  # the old list stays
                asked = asked and not isinstance(fault.__cause__, NotSent)  # for that the server is not to blame
        changed = frozenset(kind for kind in kinds if self._items[kind] is not before[kind])
        pace.read(anyio.current_time(), changed=bool(changed), asked=asked, echo=echo)
        self._being_read.discard(group)
        self._wake.set()
        if changed:
            self._on_changed(changed)

    async def _wait_due(self) -> set[Kind]:
        """Wait until lists are stale and may be read again, and return them."""
        while True:
            self._wake = anyio.Event()
            now = anyio.current_time()
            waiting = {kind for kind in self._stale if kind.changed not in self._being_read}
            due = {kind for kind in waiting if self._due_at(kind) <= now}
            if due:
                return due
            next_at = min(map(self._due_at, waiting), default=math.inf)
            with anyio.CancelScope(deadline=next_at):
                await self._wake.wait()

    def _due_at(self, kind: Kind) -> float:
        unread = self._unread.get(kind)
        next_at = self._paces[kind.changed].next_at
        return next_at if unread is None else max(next_at, unread.until)

    def _could_not(self, kind: Kind, fault: ListError) -> None:
        self._counters.failed_lists += 1
        before = self._unread.get(kind)
        times = 1 if before is None else before.times + 1
        wait_secs = min(MAX_RETRY_SECS, RETRY_SECS * 2.0 ** min(times - 1, 60))
        self._unread[kind] = _Unread(times, anyio.current_time() + wait_secs, str(fault))
        self._stale.add(kind)

    async def _read_optional(self, kind: Kind) -> None:
        with anyio.move_on_after(OPTIONAL_LIST_SECS) as patience:
            try:
                await self._read(kind)
            except ListError as fault:
                self._could_not(kind, fault)
        if patience.cancelled_caught:
            self.mark_stale([kind])

    async def _read(self, kind: Kind, *, patiently: bool = False) -> None:
        pages = Pages(kind, self._modern)
        cursor: str | None = None
        while True:
            try:
                result = await self._page(kind, cursor, patiently)
                cursor = None if result is None else await in_slices(pages.steps(result))
            except ListError as fault:
                if self._items[kind] or not pages.items:
                    raise  # what was there before is better than half of it
                pages.truncated = f"after {len(pages.items)} of them, {fault}"
                self.mark_stale([kind])
                break
            if cursor is None:
                break
        self._unread.pop(kind, None)
        self._counters.nameless_items += pages.nameless
        self._nameless.pop(kind, None)
        if pages.nameless:
            self._nameless[kind] = pages.nameless
        self._instead.pop(kind, None)
        if pages.instead:
            self._instead[kind] = pages.instead
        self._counters.repeated_items += pages.repeated
        self._counters.missing_lists += pages.missing
        self._counters.truncated_lists += pages.truncated is not None
        if pages.truncated is None:
            self._cut.pop(kind, None)
        else:
            self._cut[kind] = pages.truncated
        if not _same(self._items[kind], pages.items):
            self._items[kind] = tuple(pages.items)

    async def _page(self, kind: Kind, cursor: str | None, patiently: bool) -> bytes | None:
        """Ask for one page; None when the server does not know such a list."""
        try:
            reply = await self._ask(kind.method, page_params(cursor), patiently)
        except MoltisError as fault:
            raise ListError(fault.message) from fault
        match reply:
            case Result(raw):
                return raw
            case ErrorReply(raw):
                refusal = envelope.read_error(raw)
                if refusal.code == RpcCode.METHOD_NOT_FOUND:
                    return None
                raise ListError(f"{kind.method} was answered with {refusal.words[:MAX_REFUSAL_CHARS]}")
            case Failed(error):
                raise ListError(error.message) from error


def _count(number: int) -> str:
    return "one item" if number == 1 else f"{number} items"


def _same(before: Sequence[Item], now: Sequence[Item]) -> bool:
    """Return whether two lists have the same items. Their order alone is no news."""
    return len(before) == len(now) and {item.raw for item in before} == {item.raw for item in now}
