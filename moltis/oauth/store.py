"""Tokens and registrations on disk, shared with every other process of this user.

One file a login, named by a hash of what it is for: nothing that the other side chooses gets into a file name, and a
file says in itself whose it is. A file that cannot be used (damaged, a link, another user's) costs that one login, and
is set aside. All methods but `lock` block, for milliseconds, and may be called from any thread.

Where a file was written by a newer moltis it is left alone: there is no such login for us, and `save` refuses to
overwrite it, for the newer program will want it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from moltis.config.records import MALFORMED, Unusable
from moltis.oauth.cipher import Cipher, Damaged, WrongKey, is_sealed
from moltis.oauth.filelock import LockBusy, file_lock
from moltis.oauth.folder import MAX_FILE_BYTES, Folder, PrivateFolder, StoreProblem
from moltis.oauth.model import Key, OAuthProblem, Record

__all__ = ["StoreProblem", "TokenStore", "fingerprint"]

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
        return self._lost.get(_hash(resource, client_id))

    def load(self, key: Key) -> Record | None:
        """Give what is kept of a login; None: nothing that can be used.

        Raises:
            StoreProblem: there is something, which cannot be read as things are: the folder is not safe to use, the
                disk is away, or it is encrypted and the key is not there.
        """
        with self._folder.reading() as folder:
            found = None if folder is None else self._read(folder, _file(key))
        return found[0] if found is not None and found[0].key == key else None

    def find(self, resource: str, client_id: str | None) -> Record | None:
        """Give the newest login for a resource, whoever the authorization server is. Raises as `load`."""
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
        """Give the fingerprint of the refresh token that was presented last, if the outcome is not known.

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
