"""Access tokens of the endpoint: made, recognised, revoked, and kept on disk.

A token's value exists in two places only, with whoever it was given to and for a moment in `create`. What is kept is
its SHA-256, which is enough to recognise it. A plain hash is right here: a value has 256 bits of chance, so that there
is nothing to guess, unlike a password.

`verify` answers from memory. What touches the file blocks; it belongs into a worker thread.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from moltis import logs
from moltis.config.files import one_writer, replace
from moltis.errors import ConfigError, MoltisError, UsageError
from moltis.gateway import token_file
from moltis.gateway.api import Principal
from moltis.gateway.token_file import PREFIX, Entry, Scope
from moltis.gateway.views import path_of
from moltis.names import did_you_mean
from moltis.threads import in_thread
from moltis.times import stamp

__all__ = ["MAX_DAYS", "PREFIX", "Created", "Scope", "TokenInfo", "TokenStore"]

log = logs.get("moltis.gateway")

LENGTH: Final = len(PREFIX) + 43
"""43 characters of base64url hold 32 bytes (RFC 4648 section 5)."""

MAX_DAYS: Final = 36500.0
MAX_TOKENS: Final = 1000
SAVE_SECS: Final = 60.0
"""How often at most the last uses are written."""

CLOSE_SECS: Final = 2.0
"""A disk that does not answer must not keep the daemon from ending; what is lost is when a token was used last."""

_KEY_BYTES: Final = 16


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One token, without its value. Instants are RFC 3339 UTC or null; `expires_at` null: never.

    projects: those it is bound to; null: it is bound to none.
    """

    name: str
    scope: Scope
    projects: tuple[str, ...] | None = None
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class Created(msgspec.Struct, frozen=True, kw_only=True):
    """A new token. `token`: its value, which nobody can ask for again. `projects`: as of `TokenInfo`."""

    token: str
    name: str
    scope: Scope
    projects: tuple[str, ...] | None = None
    expires_at: str | None

    def __repr__(self) -> str:
        return f"Created(name={self.name!r})"


class _Token:
    """A token in memory. `last_used_at` alone changes."""

    __slots__ = ("created_at", "digest", "expires_at", "last_used_at", "principal", "projects")

    def __init__(self, name: str, digest: bytes, entry: Entry) -> None:
        self.digest = digest
        self.projects = entry.projects
        views = None if entry.projects is None else frozenset(path_of(project=each) for each in entry.projects)
        self.principal = Principal(name, entry.scope == "write", views=views)
        self.created_at = entry.created_at
        self.expires_at = float("inf") if entry.expires_at is None else entry.expires_at.timestamp()
        self.last_used_at = 0.0 if entry.last_used_at is None else entry.last_used_at.timestamp()

    @property
    def name(self) -> str:
        return self.principal.name

    @property
    def scope(self) -> Scope:
        return "write" if self.principal.may_write else "read"

    def info(self) -> TokenInfo:
        return TokenInfo(
            name=self.name,
            scope=self.scope,
            projects=self.projects,
            created_at=stamp(self.created_at),
            expires_at=None if self.expires_at == float("inf") else _stamp(self.expires_at),
            last_used_at=_stamp(self.last_used_at) if self.last_used_at else None,
        )

    def written(self) -> dict[str, Any]:
        """Return what stands in the file."""
        shown = msgspec.to_builtins(self.info())
        return {"sha256": self.digest.hex()} | {k: v for k, v in shown.items() if k != "name" and v is not None}


class TokenStore:
    """The tokens in the file at `path`; a missing file holds none. Every change begins with the file as it is.

    now: seconds since the epoch.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._tokens: dict[bytes, _Token] = {}
        self._problem: ConfigError | None = None
        self._revoked: set[bytes] = set()
        """Digests that stay invalid for as long as this runs, whatever the file says."""
        self._over: list[str] = []
        self._expired: set[bytes] = set()
        self._next_end = 0.0
        self._used = anyio.Event()

    def load(self) -> None:
        """Read the file, for the first time or anew. Blocking. Until it is read once, no token is valid.

        Raises:
            ConfigError: it cannot be read or is damaged. It is left as it is, and what was valid stays valid.
        """
        try:
            with one_writer(self._path):
                self._adopt(self._read())
        except ConfigError as error:
            self._problem = error
            raise
        self._problem = None

    def verify(self, secret: str) -> Principal | None:
        """Say whose token this is; None when there is no such token, or it has expired. Never raises."""
        if len(secret) != LENGTH or not secret.isascii():
            return None
        digest = sha256(secret.encode()).digest()
        token = self._tokens.get(digest[:_KEY_BYTES])
        # The time that finding it takes tells of a hash only, and half of one; the rest is compared in constant time.
        if token is None or not compare_digest(token.digest, digest):
            return None
        now = self._now()
        if now >= token.expires_at or digest in self._revoked:
            return None
        token.last_used_at = now
        if not self._used.is_set():
            self._used.set()
        return token.principal

    def lapsed(self, name: str) -> bool:
        """Whether there is no token of this name, or it has expired. Never raises."""
        token = next((token for token in self._tokens.values() if token.name == name), None)
        return token is None or self._now() >= token.expires_at

    def mark(self, name: str) -> str:
        """Return what tells the token of this name from an earlier one of the same name; empty if there is none."""
        token = next((token for token in self._tokens.values() if token.name == name), None)
        return "" if token is None else sha256(token.digest).hexdigest()

    def take_over(self) -> list[str]:
        """Return the names of the tokens that have become invalid since the last call, each once. Never raises."""
        over, self._over = self._over, []
        now = self._now()
        if now >= self._next_end:
            tokens = list(self._tokens.values())
            for token in tokens:
                if token.expires_at <= now and token.digest not in self._expired:
                    self._expired.add(token.digest)
                    over.append(token.name)
            self._next_end = min((token.expires_at for token in tokens if token.expires_at > now), default=math.inf)
        return over

    def tokens(self) -> list[TokenInfo]:
        """Return all tokens, oldest first, expired ones among them; from memory.

        Raises:
            ConfigError: the file could not be read at the last try.
        """
        if self._problem is not None:
            raise ConfigError(self._problem.message, hint=self._problem.hint)
        return [token.info() for token in self._tokens.values()]

    def create(
        self, name: str, scope: Scope, expires_days: float | None = None, projects: Sequence[str] | None = None
    ) -> Created:
        """Make a token, valid once this returns. Blocking. `expires_days`: above 0, at most MAX_DAYS; None: never.

        projects: what it is bound to, their names; None: it is bound to none.

        Raises:
            UsageError: the name is taken or is none, the days are out of range, or there are MAX_TOKENS.
            ConfigError: the file cannot be read or written; nothing has changed.
        """
        problem = token_file.name_problem(name)
        if problem is not None:
            raise UsageError(problem, hint="take a name that says which host it is for, such as laptop-editor")
        if expires_days is not None and not 0 < expires_days <= MAX_DAYS:
            raise UsageError(f"expires_days must be above 0 and at most {MAX_DAYS:.0f}")
        secret = PREFIX + secrets.token_urlsafe(32)
        digest = sha256(secret.encode()).digest()
        now = self._now()
        expires = None if expires_days is None else _instant(now + expires_days * 86400)
        bound = None if projects is None else tuple(dict.fromkeys(projects))
        if bound == ():
            raise UsageError("projects: a token that is bound to none of them would open nothing")
        entry = Entry(sha256=digest.hex(), scope=scope, projects=bound, created_at=_instant(now), expires_at=expires)
        token = _Token(name, digest, entry)

        def add(tokens: dict[bytes, _Token]) -> None:
            if any(other.name == name for other in tokens.values()):
                raise UsageError(f"there is a token {name!r} already", hint=f"moltis token revoke {name}")
            if len(tokens) >= MAX_TOKENS:
                raise UsageError(f"there are {MAX_TOKENS} tokens already", hint="moltis token list")
            tokens[digest[:_KEY_BYTES]] = token

        self._change(add)
        return Created(token=secret, name=name, scope=scope, projects=bound, expires_at=token.info().expires_at)

    def revoke(self, name: str) -> None:
        """Forget a token. Blocking. It is not valid any more once this returns or raises, whatever becomes of the file.

        Raises:
            UsageError: there is none of that name.
            ConfigError: the file cannot be read or written. The token is invalid for as long as this runs.
        """
        known = [token for token in self._tokens.values() if token.name == name]
        for token in known:
            self._revoked.add(token.digest)
        if known:
            self._adopt({key: token for key, token in self._tokens.items() if token.name != name})

        def remove(tokens: dict[bytes, _Token]) -> None:
            found = [key for key, token in tokens.items() if token.name == name]
            if not (found or known):
                raise _no_such_token(name, [token.name for token in tokens.values()])
            for key in found:
                del tokens[key]

        try:
            self._change(remove)
        except ConfigError as error:
            if not known:
                raise
            told = f"token {name} is invalid from now on, but would be valid again after a restart: {error.message}"
            raise ConfigError(told, hint=error.hint) from None

    def save(self) -> None:
        """Write when each token was used last. Blocking.

        Raises:
            ConfigError: the file cannot be read or written.
        """
        self._change(lambda tokens: None)

    async def run(self) -> None:
        """Keep the last uses on disk, until cancelled; then once more. Sleeps as long as no token is used."""
        try:
            while True:
                await self._used.wait()
                await anyio.sleep(SAVE_SECS)
                await self._save()
        finally:
            if self._used.is_set():
                with anyio.move_on_after(CLOSE_SECS, shield=True):
                    await self._save()

    async def _save(self) -> None:
        self._used = anyio.Event()
        try:
            await in_thread(self.save, abandon_on_cancel=True)
        except MoltisError as error:
            log.warning("token_uses_not_saved", error=error.message)

    def _change(self, change: Callable[[dict[bytes, _Token]], None]) -> None:
        with one_writer(self._path) as target:
            tokens = self._read()
            change(tokens)
            raw = token_file.text_of({token.name: token.written() for token in tokens.values()}).encode()
            if raw != token_file.read(self._path):
                replace(target, raw, lambda path: token_file.entries(token_file.read(path), path))
            self._adopt(tokens)
            self._problem = None

    def _adopt(self, tokens: dict[bytes, _Token]) -> None:
        """Go by these from now on, and note whose time is over by that: one with other rights is another token."""
        for key, before in self._tokens.items():
            after = tokens.get(key)
            if after is None or after.principal != before.principal:
                self._over.append(before.name)
        self._tokens = tokens
        self._next_end = 0.0  # looked for anew

    def _read(self) -> dict[bytes, _Token]:
        """Read the file's tokens; of those that were known, when they were used last comes from memory."""
        tokens: dict[bytes, _Token] = {}
        for name, entry in token_file.entries(token_file.read(self._path), self._path).items():
            token = _Token(name, bytes.fromhex(entry.sha256), entry)
            key = token.digest[:_KEY_BYTES]
            if token.digest in self._revoked:
                continue
            if key in tokens:
                raise token_file.damaged(self._path, f"[tokens.{name}] has the sha256 of another one")
            before = self._tokens.get(key)
            if before is not None:
                token.last_used_at = max(token.last_used_at, before.last_used_at)
            tokens[key] = token
        return tokens


def _no_such_token(name: str, known: list[str]) -> UsageError:
    problem = token_file.name_problem(name)
    if problem is None:
        problem = f"no token is called {name!r}{did_you_mean(name, known)}"
    return UsageError(problem, hint="moltis token list")


def _instant(secs: float) -> datetime:
    return datetime.fromtimestamp(round(secs, 3), UTC)


def _stamp(secs: float) -> str:
    return stamp(_instant(secs))
