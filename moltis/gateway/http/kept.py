"""Sessions that outlive the daemon: what a host said of itself, so that its next request finds its session again.

The specification has a host begin anew when its session is gone (MCP 2025-11-25, Session Management); many hosts do
not, and are without tools until somebody restarts them. What is kept is a file, not an id that carries it all: an id
could not be ended for good (DELETE), and what a host said can be as long as it likes.

The file lets nobody in. It holds hashes of session ids and of access tokens, and a session is given only to who
presents the same token again. Whatever is wrong with the file, it is as if there were none, and set aside.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

import anyio
import msgspec
from msgspec import Raw

from moltis import logs
from moltis.config.files import Records
from moltis.errors import Busy, ConfigError
from moltis.gateway.api import HostApi, Principal
from moltis.gateway.messages import Ask, Tell, text_of
from moltis.gateway.subscriptions import MAX_URI_CHARS
from moltis.gateway.views import path_of
from moltis.jsonrpc import json_string
from moltis.threads import in_thread

log = logs.get("moltis.gateway")

KEEP_SECS: Final = 24 * 3600.0
"""Since it was last used, as far as that was written."""

MAX_KEPT: Final = 2048
MAX_SAID_BYTES: Final = 16 * 1024
"""Of `params` of `initialize`. A host that says more of itself has a session that ends with the daemon."""

MAX_URIS: Final = 100
MAX_URI_BYTES: Final = 16 * 1024
"""Of resources that one session watches; what is more is not watched any more after a restart."""

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
WRITE_GAP_SECS: Final = 0.2
GAPS: Final = 2.0
"""The pause after a write, in times of what it took, at most `WRITE_GAP_SECS`: many sessions that begin are written as
one, and no more than a third of the time is spent on that."""

WRITTEN_SECS: Final = 0.5
"""How long a host that begins a session waits for it to be on disk. A disk that does not answer must not hold it up."""

FRESH_SECS: Final = 3600.0
"""A use is written at the latest after this; a daemon that ends in order writes them all."""

LEARNT: Final = frozenset({"initialize", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Requests that change what is kept, once they have succeeded."""

_FORMAT: Final = 1
_LISTS: Final = ("tools", "resources", "prompts")


class Kept(msgspec.Struct):
    """One session. `id`: SHA-256; `token`: what `token_mark` says of the access token `name`. `used`: epoch seconds.

    path: of its view. A file of moltis 0.5 names the server instead, or none for all.
    """

    id: str
    name: str
    token: str
    said: Raw
    used: float
    path: str = ""
    server: str | None = None
    level: str | None = None
    uris: list[str] = []

    def learn(self, ask: Ask) -> bool:
        """Take note of a request that succeeded; whether anything has changed by it."""
        if ask.method == "logging/setLevel":
            before, self.level = self.level, text_of(ask.params, "level")
            return before != self.level
        uri = text_of(ask.params, "uri")
        if ask.method == "resources/unsubscribe" and uri in self.uris:
            self.uris.remove(uri)
            return True
        if ask.method == "resources/subscribe" and uri is not None and uri not in self.uris:
            room = MAX_URI_BYTES - sum(map(len, self.uris))
            if len(uri) <= min(room, MAX_URI_CHARS) and len(self.uris) < MAX_URIS:
                self.uris.append(uri)
                return True
        return False

    def resume(self, host: HostApi) -> bool:
        """Tell a new host what the session said, as if it said so again; then tell it what may have changed since.

        False: it is refused now, for want of room.
        """
        said = msgspec.json.decode(self.said, type=dict[str, Raw])
        introduced = _Introduced()
        host.request(Ask(b"0", "initialize", said, {}), introduced)
        if introduced.is_refused:
            return False
        host.notification(Tell("notifications/initialized", {}))
        if self.level is not None:
            host.request(
                Ask(b'"moltis-level"', "logging/setLevel", {"level": Raw(json_string(self.level))}, {}), _Introduced()
            )
        for number, uri in enumerate(self.uris):  # of ids that the host does not use: it may be before the replies
            id = b'"moltis-uri-%d"' % number
            host.request(Ask(id, "resources/subscribe", {"uri": Raw(json_string(uri))}, {}), _Introduced())
        for kind in introduced.lists():
            host.list_changed(f"notifications/{kind}/list_changed")
        for uri in self.uris:
            host.resource_updated(uri, {})
        return True


class _Introduced:
    """Takes the reply to a request that the session sent long ago; fits `Outlet`."""

    def __init__(self) -> None:
        self._reply = b""

    def tell(self, message: bytes) -> bool:
        return False

    def can_ask(self) -> bool:
        return False

    def reply(self, message: bytes, status: int = 200) -> None:
        self._reply = message

    @property
    def is_refused(self) -> bool:
        return b'"error":' in self._reply[:64]

    def lists(self) -> list[str]:
        """Return the lists whose changes were promised to be told; all, while the reply is not there yet."""
        try:
            offered = msgspec.json.decode(self._reply)["result"]["capabilities"]
            return [kind for kind in _LISTS if offered.get(kind, {}).get("listChanged")]
        except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
            return list(_LISTS)


class _File(msgspec.Struct):
    format: int
    sessions: list[Kept]


def _tell(what: str) -> None:
    log.warning("sessions_not_read", problem=what)


class KeptSessions:
    """The file at `path`, and its content in memory. One daemon at a time uses it.

    token_mark: says which access token has a name now; a new one of the same name is another. Empty for no token.
    now: seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        token_mark: Callable[[str], str],
        *,
        now: Callable[[], float] = time.time,
        max_kept: int = MAX_KEPT,
    ) -> None:
        self._path = path
        # Not durable: the host waits for it, and of a power cut it hears as well.
        self._records = Records(MAX_FILE_BYTES, _read, _tell, durable=False)
        self._token_mark = token_mark
        self._now = now
        self._max = max_kept
        self._kept: dict[str, Kept] = {}
        self._dirty = anyio.Event()
        self._writing = anyio.Lock()
        self._written = anyio.Event()
        self._is_run = False

    def __len__(self) -> int:
        return len(self._kept)

    async def load(self) -> None:
        """Read the file. Never raises."""
        try:
            found = await in_thread(self._records.load, self._path) or []
        except Busy as problem:
            log.warning("sessions_not_read", problem=problem.message)
            return
        before = self._now() - KEEP_SECS
        self._kept = {kept.id: kept for kept in found[-self._max :] if kept.used > before}

    def begin(self, id: str, path: str, principal: Principal, ask: Ask) -> None:
        """Keep a session that has begun by `ask`, unless it says too much of itself."""
        said = msgspec.json.encode(ask.params)
        if len(said) > MAX_SAID_BYTES:
            return
        self._drop_expired()
        if len(self._kept) >= self._max:
            of = Counter(kept.name for kept in self._kept.values())
            del self._kept[min(self._kept.values(), key=lambda kept: (-of[kept.name], kept.used)).id]
        name = principal.name
        kept = Kept(_hash(id), name, self._token_mark(name), Raw(said), self._now(), path)
        self._kept[kept.id] = kept
        self._dirty.set()

    def learn(self, id: str, ask: Ask) -> None:
        """Take note of what a session changed (`LEARNT`)."""
        kept = self._kept.get(_hash(id))
        if kept is not None and kept.learn(ask):
            self._dirty.set()

    def used(self, id: str) -> None:
        """Take note that a session is in use."""
        kept = self._kept.get(_hash(id))
        if kept is not None:
            now = self._now()
            if now - kept.used > FRESH_SECS:
                self._dirty.set()
            kept.used = now

    def find(self, id: str, path: str, principal: Principal) -> Kept | None:
        """Return what is kept of a session, to who may have it."""
        kept = self._kept.get(_hash(id))
        if kept is None or kept.path != path or kept.name != principal.name:
            return None
        if kept.token != self._token_mark(principal.name) or kept.used <= self._now() - KEEP_SECS:
            return None
        return kept

    def forget(self, id: str) -> None:
        """Keep a session no longer: it was ended for good. No effect if it is not kept."""
        if self._kept.pop(_hash(id), None) is not None:
            self._dirty.set()

    def forget_principal(self, name: str) -> None:
        """Keep no session of an access token any longer."""
        for id in [kept.id for kept in self._kept.values() if kept.name == name]:
            del self._kept[id]
            self._dirty.set()

    async def run(self) -> None:
        """Write what changes, until cancelled."""
        self._is_run = True
        try:
            while True:
                await self._dirty.wait()
                began = anyio.current_time()
                await self.write()
                await anyio.sleep(min(WRITE_GAP_SECS, GAPS * (anyio.current_time() - began)))
        finally:
            self._is_run = False

    async def written(self) -> None:
        """Wait until what is known now is on disk, or cannot be; at most `WRITTEN_SECS`, while `run` runs."""
        if self._dirty.is_set() and self._is_run:
            with anyio.move_on_after(WRITTEN_SECS):
                await self._written.wait()

    async def write(self) -> None:
        """Write what is not written yet."""
        async with self._writing:
            if not self._dirty.is_set():
                return
            self._dirty, written, self._written = anyio.Event(), self._written, anyio.Event()
            data = msgspec.json.encode(_File(_FORMAT, list(self._kept.values())))
            try:
                await in_thread(self._records.save, self._path, data)
            except (ConfigError, Busy) as problem:
                log.warning("sessions_not_kept", problem=problem.message)
            finally:
                written.set()

    async def close(self) -> None:
        """Write it all, with when each was used last."""
        if self._kept:
            self._dirty.set()
        await self.write()

    def _drop_expired(self) -> None:
        before = self._now() - KEEP_SECS
        for id in [kept.id for kept in self._kept.values() if kept.used <= before]:
            del self._kept[id]


def _read(data: bytes) -> list[Kept]:
    """Read a file's content; whatever is wrong with it is one of `records.MALFORMED`."""
    found = msgspec.json.decode(data, type=_File)
    if found.format != _FORMAT:
        raise ValueError("not a file of this version")
    for kept in found.sessions:
        msgspec.json.decode(kept.said, type=dict[str, Raw])
        kept.said = kept.said.copy()  # not to keep the whole file
        kept.path = kept.path or path_of(kept.server)
    return found.sessions


def _hash(id: str) -> str:
    return sha256(id.encode("utf-8", "surrogatepass")).hexdigest()
