"""The session of a connection up to MCP 2025-11-25: begun, confirmed, listened to, lost and begun anew, ended.

The one rule is that a lost session is begun anew once for all that notice, and that meanwhile nothing else is sent.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final

import anyio

from moltis.transport import Outgoing
from moltis.transport.remote.base import Post, RemoteConnection
from moltis.transport.remote.exchange import FAULTS, REFUSALS, Exchange, NotLetIn, Unreachable, discard
from moltis.transport.remote.headers import stream_headers
from moltis.transport.remote.outcomes import HANDSHAKE, INITIALIZED
from moltis.transport.remote.renewal import CredentialsRefused, NotRenewed, Session, begin_anew, is_lost
from moltis.transport.remote.standing import Alarm, StandingStream

__all__ = ["NO_SESSION", "Sessions"]

NO_SESSION: Final = Session(None)

END_SECS: Final = 5.0
"""For telling the server that a session is over."""
CHECK_SECS: Final = 30.0
CHECK_PAUSE_SECS: Final = 5.0
"""Between two looks at whether the session is still known."""

_FIRST: Final = HANDSHAKE | {INITIALIZED}
"""What does not wait for the session to be confirmed."""


class Sessions:
    """The sessions of one connection, of which one is `current`."""

    def __init__(self, connection: RemoteConnection, exchange: Exchange) -> None:
        self.current = NO_SESSION
        self._connection = connection
        self._exchange = exchange
        self._hello = b""
        self._confirmation = b""
        self._confirming: anyio.Event | None = None
        self._renewing: anyio.Event | None = None
        self._proven: Session | None = None
        self._pinged: Session | None = None
        self._checking = False
        self._check_from = -math.inf
        self._offers_stream = True
        self._stream = anyio.CancelScope()
        self._missed = Alarm(connection, connection.notices.missed)

    def sending(self, post: Post) -> None:
        """Look at a message before it is sent. After `notifications/initialized` all else waits: see `confirmed`."""
        if post.about.method == "initialize":
            self._hello = post.message
        elif post.about.method == INITIALIZED:
            self._confirmation = post.message
            self._confirming = anyio.Event()
            self.current = Session(self.current.id, post.about.version)

    def obstacle(self, about: Outgoing) -> anyio.Event | None:
        """Give what a message has to wait for now. Servers refuse what they see before the session is confirmed."""
        if self._renewing is not None:
            return self._renewing
        return None if about.method in _FIRST else self._confirming

    def begun(self, id: str | None) -> None:
        """Take the session that the answer to `initialize` names, before that answer is handed on."""
        self.current = Session(id)

    def confirmed(self, accepted: bool) -> None:
        """Take note of what became of `notifications/initialized`; what waited goes on."""
        confirming, self._confirming = self._confirming, None
        if confirming is not None:
            confirming.set()
        if accepted:
            self._open_stream()

    def served(self, session: Session, method: str) -> None:
        """Take note that a request of a session was answered: its credentials, if any, are good."""
        if session is self.current:
            self._proven = session
            if method == "ping":
                self._pinged = session

    def spares(self, session: Session) -> bool:
        """Whether a 401 may mean the session: requests in it were served under the same credentials, or none."""
        return session.id is not None and self._proven is session

    def doubt(self, session: Session) -> None:
        """Look by a ping, beside all else, whether the server still knows a session; if not, begin anew."""
        now = anyio.current_time()
        if session.id is not None and session is self.current and not self._checking and now >= self._check_from:
            self._checking = True
            self._connection.start_soon(partial(self._check, session))

    async def renew(self, lost: Session, *, by_401: bool = False, gone: bool = False) -> bool:
        """Begin anew what is lost, if nobody has yet, and wait until that is done; False if there is no new one.

        Then the connection ends of it, or, `by_401`, `initialize` is refused as well: the session is as it was.
        gone: the server says that it does not have it any more. Otherwise it is told that it is over.

        It is done in a task of its own: who noticed first may be cancelled, and the others wait for it too.
        """
        if self.current is lost and self._renewing is None and not self._connection.ending:
            self._renewing = anyio.Event()
            self._connection.start_soon(partial(self._begin_anew, by_401=by_401, gone=gone))
        if self._renewing is not None:
            await self._renewing.wait()
        return self.current is not lost

    async def end(self) -> None:
        """Tell the server that the session is over (MCP, Session Management). Whatever it answers, it is."""
        await self._end(self.current)

    async def _end(self, session: Session) -> None:
        if session.id is None:
            return
        headers = stream_headers(session.version, session.id)
        try:
            with anyio.move_on_after(END_SECS):
                await discard(await self._exchange.send("DELETE", headers, spares=REFUSALS))
        except (Unreachable, NotLetIn, *FAULTS):
            pass

    async def _check(self, session: Session) -> None:
        try:
            with anyio.move_on_after(CHECK_SECS):
                if await is_lost(self._exchange, session, answers_pings=self._pinged is session):
                    await self.renew(session, gone=True)
        finally:
            self._checking = False
            self._check_from = anyio.current_time() + CHECK_PAUSE_SECS

    async def _begin_anew(self, *, by_401: bool, gone: bool) -> None:
        lost, self._proven = self.current, None
        try:
            self.current = await begin_anew(
                self._exchange, self._hello, self._confirmation, lost, self._connection.receive, by_401=by_401
            )
        except CredentialsRefused:
            return
        except NotRenewed as fault:
            self._connection.lose(fault.ended, waits=fault.ended.kind == "auth_required")
            return
        finally:
            renewing, self._renewing = self._renewing, None
            if renewing is not None:
                renewing.set()
        self._stream.cancel()
        if not gone and lost.id != self.current.id:
            self._connection.start_soon(partial(self._end, lost))
        self._open_stream()
        self._missed.ring()

    def _open_stream(self) -> None:
        if self.current.id is not None and self._offers_stream:
            self._stream = anyio.CancelScope()
            self._connection.start_soon(self._keep_stream)

    async def _keep_stream(self) -> None:
        connection, missed = self._connection, self._missed.ring
        with self._stream:
            stream = StandingStream(connection, self._exchange, self.current, on_missed=missed, doubt=self.doubt)
            self._offers_stream = await stream.keep()
