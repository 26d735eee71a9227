"""One login on disk, for those who must not wait for a disk, nor stop because of one.

Reading and writing happen on threads. What cannot be read counts as not there, what cannot be written is not kept, and
the log says so; a write that has begun is done, whoever is cancelled meanwhile.

Where no thread can be started, reading and the beginning of a refresh are an outage, for that is no more than a delay.
What cannot be had again, a token that has come and the end of a refresh, is written all the same, on the event loop: it
takes milliseconds, and a daemon that ended before there are threads would lose the login.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

import anyio

from moltis.errors import Busy
from moltis.oauth.blocking import blocking
from moltis.oauth.jobs import Log
from moltis.oauth.model import Key, Record
from moltis.oauth.store import StoreProblem, TokenStore
from moltis.threads import in_thread

T = TypeVar("T")


class Shelf:
    """What a `TokenStore` does, for one server.

    Whatever reads, and `begin_refresh`, raises OAuthProblem (`outage`) when no thread can be started.
    """

    def __init__(self, server: str, store: TokenStore, log: Log) -> None:
        self._server = server
        self._store = store
        self._log = log
        self._warned = ""
        self._begun: str | None = None
        self._over: str | None = None
        """The refresh that was begun here, by fingerprint; and one that is over, though the disk says otherwise."""

    async def load(self, key: Key) -> Record | None:
        return await self._read(partial(self._store.load, key))

    async def find(self, resource: str, client_id: str | None) -> Record | None:
        return await self._read(partial(self._store.find, resource, client_id))

    def lost(self, resource: str, client_id: str | None) -> str | None:
        return self._store.lost(resource, client_id)

    async def interrupted(self, key: Key) -> str | None:
        found = await self._read(partial(self._store.interrupted, key))
        return None if found == self._over else found

    async def save(self, record: Record) -> None:
        await self._write(partial(self._store.save, record))

    async def delete(self, key: Key) -> None:
        await self._write(partial(self._store.delete, key))

    async def begin_refresh(self, key: Key, fingerprint: str) -> None:
        self._begun = fingerprint
        try:
            with anyio.CancelScope(shield=True):
                await blocking(self._store.begin_refresh, key, fingerprint)
        except StoreProblem as problem:
            self._warn("login_not_saved", problem)

    async def end_refresh(self, key: Key) -> None:
        written = await self._write(partial(self._store.end_refresh, key))
        self._over = None if written else self._begun

    async def lock(self, stack: AsyncExitStack, key: Key) -> None:
        """Be the only one to refresh, until the stack is closed. Where there can be no lock, go without.

        Raises:
            OAuthProblem: `outage`: another process does not let go, or no thread can be started.
        """
        try:
            await stack.enter_async_context(self._store.lock(key))
        except StoreProblem as problem:
            self._warn("login_not_locked", problem)

    async def _read(self, work: Callable[[], T]) -> T | None:
        try:
            return await blocking(work)
        except StoreProblem as problem:
            self._warn("login_not_loaded", problem)
            return None

    async def _write(self, work: Callable[[], None]) -> bool:
        """Write, and say whether that worked."""
        try:
            with anyio.CancelScope(shield=True):
                try:
                    await in_thread(work)
                except Busy:
                    work()
        except StoreProblem as problem:
            self._warn("login_not_saved", problem)
            return False
        return True

    def _warn(self, what: str, problem: StoreProblem) -> None:
        """Say it once, until it is something else."""
        if problem.message != self._warned:
            self._warned = problem.message
            self._log.warning(what, server=self._server, problem=problem.message)
