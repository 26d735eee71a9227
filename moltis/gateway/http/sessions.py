"""Hosts of the eras that have sessions (MCP 2025-11-25, Transports, Session Management).

A session is there only for the principal that began it, and only at the path where it began; for all others it does not
exist. Which of them may be given up is told by use alone: one that has a request under way, or a stream open, is never
idle.

A session that is given up, by this table or with the daemon, may be kept (`kept`), and then it is taken up again when
its host next names it; what ends it for good is DELETE, and the end of its access token.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final

from moltis.gateway.api import HostApi, Principal
from moltis.gateway.http.exchange import Exchange
from moltis.gateway.http.kept import KeptSessions
from moltis.gateway.messages import Ask
from moltis.httpd.events import Flow

MAX_SESSIONS: Final = 1024
IDLE_SECS: Final = 1800.0
MAX_STREAMS: Final = 4
"""Standalone streams of one session. A host needs one, and two while it replaces it."""
ID_BYTES: Final = 24

NewHost = Callable[[str, Principal, Callable[[bytes], bool]], HostApi]


class Session:
    """One host. `path`: of its view. `uses`: requests and streams that are under way."""

    __slots__ = ("host", "id", "last_used", "open", "path", "principal", "streams", "uses")

    host: HostApi

    def __init__(self, id: str, path: str, principal: Principal, now: float) -> None:
        self.id = id
        self.path = path
        self.principal = principal
        self.last_used = now
        self.uses = 0
        self.streams: list[Flow] = []
        self.open: dict[bytes, Exchange] = {}

    def unsolicited(self, message: bytes) -> bool:
        """Send what belongs to no request, on one stream only: the newest that is there."""
        newest = next((stream for stream in reversed(self.streams) if stream.is_open), None)
        return newest is not None and newest.offer(message)

    def add_stream(self, stream: Flow) -> None:
        """Take a standalone stream; the oldest makes room."""
        self.streams.append(stream)
        if len(self.streams) > MAX_STREAMS:
            self.streams.pop(0).end()

    def remove_stream(self, stream: Flow) -> None:
        if stream in self.streams:
            self.streams.remove(stream)


class Sessions:
    """The table. `now`: a monotonic clock, in seconds. `kept`: where sessions outlive it; None: nowhere."""

    def __init__(
        self,
        now: Callable[[], float],
        *,
        max_sessions: int = MAX_SESSIONS,
        idle_secs: float = IDLE_SECS,
        kept: KeptSessions | None = None,
    ) -> None:
        self._now = now
        self._max = max_sessions
        self._idle_secs = idle_secs
        self._kept = kept
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, id: str, path: str, principal: Principal) -> Session | None:
        """Return a session to the one who may have it."""
        session = self._sessions.get(id)
        if session is None or session.path != path or session.principal != principal:
            return None
        return session

    def take_up(self, id: str, path: str, principal: Principal, new_host: NewHost) -> Session | None:
        """Take up a session that is kept; None if there is none for this one, or no room. Raises as `begin` does."""
        kept = None if self._kept is None or id in self._sessions else self._kept.find(id, path, principal)
        if kept is None or not self._make_room():
            return None
        session = self._add(id, path, principal, new_host)
        if not kept.resume(session.host):
            self._close(session)  # it stays kept: there may be room another time
            return None
        return session

    def begin(self, path: str, principal: Principal, new_host: NewHost) -> Session | None:
        """Make a session and its host; when there are too many, an idle one makes room: of the principal that has the
        most, the one that has been idle longest.

        None: all of them are in use. What `new_host` raises goes to the caller.
        """
        if not self._make_room():
            return None
        return self._add(secrets.token_urlsafe(ID_BYTES), path, principal, new_host)

    def learn(self, session: Session, ask: Ask) -> None:
        """Take note of a request that has succeeded and changes what is kept of the session (`kept.LEARNT`)."""
        if self._kept is None or session.id not in self._sessions:
            return
        if ask.method == "initialize":
            self._kept.begin(session.id, session.path, session.principal, ask)
        else:
            self._kept.learn(session.id, ask)

    async def keep(self, session: Session, ask: Ask) -> None:
        """Keep a session that has begun by `ask`, and wait until it is on disk; at most for a moment."""
        self.learn(session, ask)
        if self._kept is not None:
            await self._kept.written()

    def _make_room(self) -> bool:
        if len(self._sessions) >= self._max:
            idle = [session for session in self._sessions.values() if not session.uses]
            if not idle:
                return False
            of = Counter(session.principal for session in self._sessions.values())
            self._close(min(idle, key=lambda session: (-of[session.principal], session.last_used)))
        return True

    def _add(self, id: str, path: str, principal: Principal, new_host: NewHost) -> Session:
        session = Session(id, path, principal, self._now())
        session.host = new_host(path, principal, session.unsolicited)
        self._sessions[id] = session
        return session

    def enter(self, session: Session) -> None:
        """Note that something of it is under way."""
        session.uses += 1

    def leave(self, session: Session) -> None:
        """Note that something of it is over."""
        session.uses -= 1
        session.last_used = self._now()

    def end(self, session: Session) -> None:
        """End it for good: its streams, its requests, its host. Idempotent."""
        if self._kept is not None:
            self._kept.forget(session.id)
        self._close(session)

    def _close(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is None:
            return
        session.host.close()
        for exchange in tuple(session.open.values()):
            exchange.end()
        for stream in tuple(session.streams):
            stream.end()

    def end_idle(self) -> bool:
        """End those that were idle too long, and return whether any is left."""
        self._note_uses()
        before = self._now() - self._idle_secs
        for session in [s for s in self._sessions.values() if not s.uses and s.last_used < before]:
            self._close(session)
        return bool(self._sessions)

    def _note_uses(self) -> None:
        """Have those that were used of late kept for as long as from now."""
        if self._kept is not None:
            since = self._now() - self._idle_secs
            for session in self._sessions.values():
                if session.uses or session.last_used >= since:
                    self._kept.used(session.id)

    def end_principal(self, name: str) -> None:
        """End those of one principal for good, the ones that are only kept among them."""
        if self._kept is not None:
            self._kept.forget_principal(name)
        for session in [s for s in self._sessions.values() if s.principal.name == name]:
            self.end(session)

    def end_all(self) -> None:
        """End all of them; those that are kept may be taken up again."""
        self._note_uses()
        for session in tuple(self._sessions.values()):
            self._close(session)
