"""Tokens and registrations on disk, shared with every other process of this user.

One file a login, named by a hash of what it is for: nothing that the other side chooses gets into a file name, and a
file says in itself whose it is. A file that cannot be used (damaged, a link, another user's) costs that one login, and
is set aside. All methods of a `TokenStore` but `lock` block, for milliseconds, and may be called from any thread; a
`Shelf` is how the event loop asks it.

Where a file was written by a newer moltis it is left alone: there is no such login for us, and `save` refuses to
overwrite it, for the newer program will want it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio
import msgspec

from moltis.errors import Busy
from moltis.jsonrpc import MALFORMED
from moltis.oauth.cipher import Cipher, Damaged, WrongKey, is_sealed
from moltis.oauth.folder import MAX_FILE_BYTES, Folder, LockBusy, PrivateFolder, StoreProblem, file_lock
from moltis.oauth.jobs import Log, blocking
from moltis.oauth.model import Key, OAuthProblem, Record
from moltis.private import Unusable
from moltis.threads import in_thread

__all__ = ["Shelf", "StoreProblem", "TokenStore", "fingerprint"]

T = TypeVar("T")

LOCK_SECS: Final = 30.0
"""How long to wait for another process's refresh: a token request takes at most 10 s."""

_SCHEMA: Final = 1
_RECORD: Final = ".json"
_FINGERPRINT_DIGITS: Final = 16


class _Stored(msgspec.Struct, frozen=True):
    """A file. `schema` grows when an older moltis could not make sense of `record`."""

    schema: int
    record: msgspec.Raw


def fingerprint(refresh_token: str) -> str:
    """Name a refresh token without saying it."""
    return hashlib.sha256(refresh_token.encode("utf-8", "surrogatepass")).hexdigest()[:_FINGERPRINT_DIGITS]


def _tell_nobody(warning: str) -> None:
    pass


class TokenStore:
    """All logins of one folder.

    cipher: encrypts what is saved from now on; what is plain stays readable.
    warn: told in one sentence what was found wrong without keeping anybody from going on; called from any thread.
    """

    def __init__(
        self, folder: Path, *, cipher: Cipher | None = None, warn: Callable[[str], None] = _tell_nobody
    ) -> None:
        self._folder = PrivateFolder(folder)
        self._cipher = cipher
        self._warn = warn
        self._told: dict[str, str] = {}
        self._lost: dict[str, str] = {}

    def lost(self, resource: str, client_id: str | None) -> str | None:
        """Return why what was kept of a login could not be used, until there is a new one; from memory."""
        return self._lost.get(_hash(resource, client_id)) if self._lost else None

    def load(self, key: Key) -> Record | None:
        """Return what is kept of a login; None: nothing that can be used.

        Raises:
            StoreProblem: there is something, which cannot be read as things are: the folder is not safe to use, the
                disk is away, or it is encrypted and the key is not there.
        """
        with self._folder.reading() as folder:
            found = None if folder is None else self._read(folder, _file(key))
        return found[0] if found is not None and found[0].key == key else None

    def find(self, resource: str, client_id: str | None) -> Record | None:
        """Return the newest login for a resource, whoever the authorization server is. Raises as `load`."""
        newest: tuple[Record, int] | None = None
        problem: StoreProblem | None = None
        with self._folder.reading() as folder:
            if folder is None:
                return None
            for name in _files_of(folder, resource, client_id):
                try:
                    found = self._read(folder, name)
                except StoreProblem as error:
                    problem = error
                    continue
                if found is None or (found[0].key.resource, found[0].key.client_id) != (resource, client_id):
                    continue
                if newest is None or found[1] > newest[1]:
                    newest = found
        if newest is None and problem is not None:
            raise problem
        return newest and newest[0]

    def save(self, record: Record) -> None:
        """Keep a login in place of what was kept under its key. A refresh that was begun is over with it.

        Raises:
            StoreProblem: it cannot be written (a full disk, a read-only folder, ...), or would overwrite what a newer
                moltis wrote. What was kept is as it was.
        """
        name = _file(record.key)
        data = msgspec.json.encode(_Stored(_SCHEMA, msgspec.Raw(msgspec.json.encode(record))))
        if self._cipher is not None:
            data = self._cipher.seal(data)
        if len(data) > MAX_FILE_BYTES:
            raise StoreProblem(f"a login of {len(data)} bytes is not kept on disk")
        with self._folder.writing() as folder:
            self._spare_newer(folder, name)
            folder.write(name, data, durable=True)
            # Were it to stay, it would be about a token that is not the one on disk any more.
            with suppress(StoreProblem):
                folder.make_way(_begun(record.key))
        self._forgive(name)

    def delete(self, key: Key) -> None:
        """Forget a login, and what was set aside of it.

        Raises:
            StoreProblem: something of it cannot be removed.
        """
        name = _file(key)
        with self._folder.reading() as folder:
            if folder is None:
                return
        with self._folder.writing() as folder:
            folder.make_way(name)
            folder.make_way(_begun(key))
            for other in folder.names():
                if other.startswith(name):
                    with suppress(StoreProblem):  # a folder that somebody has put things into
                        folder.remove(other)
        self._forgive(name)

    # --- refreshing

    @asynccontextmanager
    async def lock(self, key: Key) -> AsyncIterator[None]:
        """Be the only one, among all tasks and processes, to refresh this login. Load it anew inside.

        Raises:
            OAuthProblem: `outage`: another process held it for 30 s, or no thread can be started.
            StoreProblem: there can be no lock there: the folder is not safe to use, read-only, or full.
        """
        try:
            async with file_lock(partial(self._open_lock, key), LOCK_SECS):
                yield
        except LockBusy:
            message = f"another program has been refreshing this login for {LOCK_SECS:g} s"
            raise OAuthProblem(message, kind="outage") from None

    def begin_refresh(self, key: Key, fingerprint: str) -> None:
        """Take down that a refresh token is about to be presented; survives our being killed. Call it under `lock`.

        fingerprint: of that refresh token.

        Raises:
            StoreProblem: it cannot be written.
        """
        with self._folder.writing() as folder:
            folder.write(_begun(key), fingerprint.encode(), durable=False)

    def end_refresh(self, key: Key) -> None:
        """Take down that the answer is known, and that it was not a new token; `save` does it where it was.

        Raises:
            StoreProblem: it cannot be written.
        """
        with self._folder.writing() as folder:
            folder.make_way(_begun(key))

    def interrupted(self, key: Key) -> str | None:
        """Return the fingerprint of the refresh token that was presented last, if the outcome is not known.

        It counts for that very token only. Ask under `lock`: until then, it may be somebody's refresh under way.

        Raises:
            StoreProblem: it cannot be read.
        """
        with self._folder.reading() as folder:
            try:
                found = folder and folder.read(_begun(key))
            except Unusable:
                found = None
                self._set_aside(_begun(key), Folder.read)
        return found[0][:_FINGERPRINT_DIGITS].decode("ascii", "replace") if found else None

    # --- files

    def _open_lock(self, key: Key) -> int:
        with self._folder.made() as folder:
            return folder.lock_file(_stem(key) + ".lock")

    def _read(self, folder: Folder, name: str) -> tuple[Record, int] | None:
        try:
            return self._understood(folder, name)
        except _Newer:
            return None
        except Unusable:
            self._set_aside(name, self._understood)
            return None

    def _understood(self, folder: Folder, name: str) -> tuple[Record, int] | None:
        """Return what a file says, and when it was written (ns). Raises _Newer, and as `Folder.read`."""
        found = folder.read(name)
        if found is None:
            return None
        data, written_at = found
        try:
            return self._decode(data, folder.path / name), written_at
        except (Damaged, *MALFORMED):
            raise Unusable("is damaged") from None

    def _decode(self, data: bytes, path: Path) -> Record:
        if len(data) > MAX_FILE_BYTES:
            raise Damaged
        if is_sealed(data):
            data = self._unseal(data, path)
        data.decode()  # strings that are skipped over are not checked to be UTF-8
        stored = msgspec.json.decode(data, type=_Stored)
        if stored.schema > _SCHEMA:
            raise _Newer
        return msgspec.json.decode(stored.record, type=Record)

    def _unseal(self, data: bytes, path: Path) -> bytes:
        if self._cipher is None:
            raise StoreProblem(f"{path} is encrypted, and encryption is off: turn it on, or log in again")
        try:
            return self._cipher.open(data)
        except WrongKey:
            raise StoreProblem(f"{path} is encrypted with a key that the keyring does not have: log in again") from None

    def _set_aside(self, name: str, look: Callable[[Folder, str], object]) -> None:
        """Move what cannot be used out of the way, if it still is there: who wrote it anew has mended it."""
        try:
            with self._folder.writing() as folder:
                self._make_way(folder, name, look)
        except StoreProblem as problem:
            self._tell(name, f"{self._folder.path / name} cannot be used and is left there: {problem.message}")

    def _make_way(self, folder: Folder, name: str, look: Callable[[Folder, str], object]) -> None:
        try:
            look(folder, name)
        except Unusable as fault:
            where = folder.path / name
            try:
                self._tell(name, f"{where} {fault}; it was set aside as {folder.set_aside(name)}")
            except StoreProblem as problem:
                self._tell(name, f"{where} {fault} and is left there: {problem.message}")

    def _tell(self, name: str, what: str) -> None:
        """Say it once, until it is something else."""
        if name.endswith(_RECORD):
            self._lost[_prefix(name)] = what
        if self._told.get(name) != what:
            self._told[name] = what
            self._warn(what)

    def _forgive(self, name: str) -> None:
        self._lost.pop(_prefix(name), None)
        self._told.pop(name, None)

    def _spare_newer(self, folder: Folder, name: str) -> None:
        """Set aside what cannot be used, before it is replaced; what cannot be read now is replaced as it is."""
        try:
            self._make_way(folder, name, self._understood)
        except _Newer:
            path = folder.path / name
            raise StoreProblem(f"{path} was written by a newer moltis and is not overwritten: remove it") from None
        except StoreProblem:
            pass


class Shelf:
    """What a `TokenStore` does, for one server whose requests must not wait for a disk, nor fail because of one.

    Reading and writing happen on threads. What cannot be read counts as not there, what cannot be written is not kept,
    and the log says so; a write that has begun is done, whoever is cancelled meanwhile.

    Where no thread can be started, reading and `begin_refresh` raise OAuthProblem (`outage`), for that is no more than
    a delay. What cannot be had again, a token that has come and the end of a refresh, is written all the same, on the
    event loop: it takes milliseconds, and a daemon that ended before there are threads would lose the login.
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

    async def nearest(self, key: Key) -> Record | None:
        """Return what is kept under a key, or else the newest login for its resource and client."""
        problem: StoreProblem | None = None

        def look() -> Record | None:
            nonlocal problem
            try:
                found = self._store.load(key)
            except StoreProblem as unread:
                found, problem = None, unread
            return found or self._store.find(key.resource, key.client_id)

        found = await self._read(look)
        if problem is not None:
            self._warn("login_not_loaded", problem)
        return found

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


class _Newer(Exception):
    """A file of a newer schema."""


def _hash(*parts: str | None) -> str:
    # JSON keeps ("a", "bc") and ("ab", "c") apart, and None from "None".
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def _stem(key: Key) -> str:
    return f"{_hash(key.resource, key.client_id)}-{_hash(key.issuer)}"


def _file(key: Key) -> str:
    return _stem(key) + _RECORD


def _prefix(name: str) -> str:
    return name.partition("-")[0]


def _begun(key: Key) -> str:
    return _stem(key) + ".begun"


def _files_of(folder: Folder, resource: str, client_id: str | None) -> list[str]:
    prefix = _hash(resource, client_id) + "-"
    return sorted(name for name in folder.names() if name.startswith(prefix) and name.endswith(_RECORD))
