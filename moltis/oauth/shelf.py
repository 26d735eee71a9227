"""One login on disk, for those who must not wait for a disk, nor stop because of one.

Reading and writing happen on threads. What cannot be read counts as not there, what cannot be written is not kept, and
the log says so; a write that has begun is done, whoever is cancelled meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from moltis.oauth.jobs import Log
from moltis.oauth.model import Key, Record
from moltis.oauth.store import StoreProblem, TokenStore

T = TypeVar("T")


class Shelf:
    """What a `TokenStore` does, for one server."""

    def __init__(self, server: str, store: TokenStore, log: Log) -> None:
        self._server = server
        self._store = store
        self._log = log
        self._warned = ""

    async def load(self, key: Key) -> Record | None:
        return await self._done(partial(self._store.load, key))

    async def find(self, resource: str, client_id: str | None) -> Record | None:
        return await self._done(partial(self._store.find, resource, client_id))

    async def interrupted(self, key: Key) -> str | None:
        return await self._done(partial(self._store.interrupted, key))

    async def save(self, record: Record) -> None:
        await self._done(partial(self._store.save, record), write=True)

    async def delete(self, key: Key) -> None:
        await self._done(partial(self._store.delete, key), write=True)

    async def begin_refresh(self, key: Key, fingerprint: str) -> None:
        await self._done(partial(self._store.begin_refresh, key, fingerprint), write=True)

    async def end_refresh(self, key: Key) -> None:
        await self._done(partial(self._store.end_refresh, key), write=True)

    async def lock(self, stack: AsyncExitStack, key: Key) -> None:
        """Be the only one to refresh, until the stack is closed. Where there can be no lock, go without.

        Raises:
            OAuthProblem: `outage`: another process does not let go.
        """
        try:
            await stack.enter_async_context(self._store.lock(key))
        except StoreProblem as problem:
            self._warn("login_not_locked", problem)

    async def _done(self, work: Callable[[], T], *, write: bool = False) -> T | None:
        result: T | None = None
        try:
            with anyio.CancelScope(shield=write):
                result = await anyio.to_thread.run_sync(work)
        except StoreProblem as problem:
            self._warn("login_not_saved" if write else "login_not_loaded", problem)
        return result

    def _warn(self, what: str, problem: StoreProblem) -> None:
        """Say it once, until it is something else."""
        if problem.message != self._warned:
            self._warned = problem.message
            self._log.warning(what, server=self._server, problem=problem.message)
