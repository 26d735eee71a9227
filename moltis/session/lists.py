"""The lists of one server, kept up to date: read at the start, read again when the server says that they changed.

However often it says so, each list is read at most twice a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio

from moltis.errors import MoltisError, RpcCode
from moltis.session import envelope
from moltis.session.calls import ErrorReply, Failed, Reply, Result
from moltis.session.handshake import MAX_REFUSAL_CHARS
from moltis.session.hooks import Counters
from moltis.session.listing import CHANGED, Item, Kind, ListError, Pages, page_params

RELIST_GAP_SECS = 0.5
"""From the beginning of one reading to the beginning of the next."""

OPTIONAL_LIST_SECS = 5.0
"""How long a start waits for what is not tools; a list that takes longer is read once more after the start."""

Ask = Callable[[str, bytes], Awaitable[Reply]]
"""Sends a request with these params and waits for its outcome, within the server's request timeout."""


class Lists:
    """What one server offers.

    on_changed: called with the lists whose content is new, after the first reading only.
    """

    def __init__(self, ask: Ask, on_changed: Callable[[frozenset[Kind]], None], counters: Counters) -> None:
        self._ask = ask
        self._on_changed = on_changed
        self._counters = counters
        self._items: dict[Kind, tuple[Item, ...]] = dict.fromkeys(Kind, ())
        self._stale: set[Kind] = set()
        self._wake = anyio.Event()

    def items(self, kind: Kind) -> tuple[Item, ...]:
        """Give the items of a list, in the server's order."""
        return self._items[kind]

    async def read_first(self, capabilities: dict[str, Any]) -> None:
        """Read all lists that the server says it has, at once.

        A server that declares nothing at all is asked for tools all the same, and may refuse. What is not tools may
        fail or take its time without keeping the server from its work.

        Raises:
            ListError: the server has tools and cannot list them.
        """
        trouble: list[ListError] = []

        async def read_tools() -> None:
            try:
                await self._read(Kind.TOOLS)
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
        self.mark_stale(kinds)
        return True

    def mark_stale(self, kinds: Iterable[Kind]) -> None:
        """Have these lists read again."""
        self._stale.update(kinds)
        self._wake.set()

    async def follow(self) -> None:
        """Read again what has become stale, for as long as this runs."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            stale, self._stale = self._stale, set()
            began = anyio.current_time()
            before = dict(self._items)
            for kind in (k for k in Kind if k in stale):
                try:
                    await self._read(kind)
                except ListError:
                    self._counters.failed_lists += 1  # the old list stays
            changed = frozenset(k for k in stale if self._items[k] != before[k])
            if changed:
                self._on_changed(changed)
            await anyio.sleep_until(began + RELIST_GAP_SECS)

    async def _read_optional(self, kind: Kind) -> None:
        with anyio.move_on_after(OPTIONAL_LIST_SECS) as patience:
            try:
                await self._read(kind)
            except ListError:
                self._counters.failed_lists += 1
        if patience.cancelled_caught:
            self.mark_stale([kind])

    async def _read(self, kind: Kind) -> None:
        pages = Pages(kind)
        cursor: str | None = None
        while True:
            result = await self._page(kind, cursor)
            if result is None:
                break
            cursor = pages.add(result)
            if cursor is None:
                break
        self._counters.nameless_items += pages.nameless
        self._counters.truncated_lists += pages.truncated is not None
        self._items[kind] = tuple(pages.items)

    async def _page(self, kind: Kind, cursor: str | None) -> bytes | None:
        """Ask for one page; None when the server does not know such a list."""
        try:
            reply = await self._ask(kind.method, page_params(cursor))
        except MoltisError as fault:
            raise ListError(fault.message) from fault
        match reply:
            case Result(raw):
                return raw
            case ErrorReply(raw):
                refusal = envelope.read_error(raw)
                if refusal.code == RpcCode.METHOD_NOT_FOUND:
                    return None
                raise ListError(
                    f"{kind.method} was answered with error {refusal.code}: {refusal.message[:MAX_REFUSAL_CHARS]}"
                )
            case Failed(error):
                raise ListError(error.message)
