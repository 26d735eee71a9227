"""The session of a connection up to MCP 2025-11-25: begun, confirmed, listened to, lost and begun anew, ended.

A lost session is begun anew once for all that notice, and meanwhile nothing else is sent.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Final

import anyio

from moltis.http.authorized import FAULTS, REFUSALS, AuthorizedClient, NotLetIn, Unreachable, discard
from moltis.server.states import FailureKind
from moltis.transport import Ended, Outgoing
from moltis.transport.remote.base import NO_SESSION, Post, RemoteConnection, Session
from moltis.transport.remote.headers import stream_headers
from moltis.transport.remote.outcomes import HANDSHAKE, INITIALIZED
from moltis.transport.remote.renewal import CredentialsRefused, NotRenewed, begin_anew, probe
from moltis.transport.remote.replies import PING, REPEATED, Evidence, Told
from moltis.transport.remote.standing import Alarm, StandingStream

END_SECS: Final = 5.0
"""For telling the server that a session is over."""
CHECK_SECS: Final = 30.0
GUESS_SECS: Final = 10.0
"""For a new session where nothing says that the old one is lost; meanwhile all else waits."""
PROBE_SECS: Final = GUESS_SECS / 2
CHECK_PAUSE_SECS: Final = 5.0
"""Between two looks at whether the session is still known."""

_FIRST: Final = HANDSHAKE | {INITIALIZED}
"""What does not wait for the session to be confirmed."""


class Sessions:
    """The sessions of one connection, of which one is `current`."""

    def __init__(self, connection: RemoteConnection, exchange: AuthorizedClient) -> None:
        self.current = NO_SESSION
        self._connection = connection
        self._exchange = exchange
        self._hello = b""
        self._confirmation = b""
        self._confirming: anyio.Event | None = None
        self._renewing: anyio.Event | None = None
        self._proven: Session | None = None
        self._evidence = Evidence()
        self._doubted: Session | None = None
        self._looked = anyio.Event()
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
        """Return what a message has to wait for now. Servers refuse what they see before the session is confirmed."""
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
            self._evidence.served(method)

    def spares(self, session: Session) -> bool:
        """Whether a 401 may mean the session: requests in it were served under the same credentials, or none."""
        return session.id is not None and self._proven is session

    def refused(self, session: Session, method: str, *, surely: bool) -> None:
        """Take note that a request was refused, and not under its id. `surely`: in a way that makes a doubt at once.

        A heartbeat is refused for ever by who knows no `ping`; it is of interest only where one was answered before.
        """
        if session is not self.current or (method == PING and not self._evidence.answers_pings):
            return
        self._evidence.refused += 1
        if surely or self._evidence.refused >= REPEATED:
            self.doubt(session)

    def doubt(self, session: Session) -> None:
        """Look by a ping, beside all else, whether the server still knows a session; if not, begin anew.

        Soon after such a look it waits for a while.
        """
        if session.id is not None and session is self.current:
            idle, self._doubted = self._doubted is None, session
            if idle:
                self._looked = anyio.Event()
                self._connection.start_soon(self._check)

    async def replaced(self, session: Session) -> bool:
        """Return whether a session that is in doubt was begun anew, after the look if there is one at once."""
        if self._doubted is session and anyio.current_time() >= self._check_from:
            await self._looked.wait()
        return self.current is not session

    async def renew(
        self, lost: Session, *, by_401: bool = False, gone: bool = False, refused: str | None = None
    ) -> bool:
        """Begin anew what is lost, if nobody has yet, and wait until that is done; False if there is no new one.

        Then the connection ends of it, or, `by_401`, `initialize` is refused as well: the session is as it was.
        gone: the server says that it does not have it any more. Otherwise it is told that it is over.
        refused: nothing says that it is lost but that this was refused, without a reason. Unless a new session is
        begun and answers the same, the session is as it was.

        It is done in a task of its own: who noticed first may be cancelled, and the others wait for it too.
        """
        if self.current is lost and self._renewing is None and not self._connection.ending:
            self._renewing = anyio.Event()
            self._connection.start_soon(partial(self._begin_anew, by_401=by_401, gone=gone, refused=refused))
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

    async def _check(self) -> None:
        while (session := self._doubted) is not None:
            try:
                await anyio.sleep_until(self._check_from)
                session = self._doubted
                if session is self.current:
                    with anyio.move_on_after(CHECK_SECS):
                        await self._look_after(session)
            finally:
                self._check_from = anyio.current_time() + CHECK_PAUSE_SECS
                if self._doubted is session:
                    self._doubted = None
                self._looked.set()

    async def _look_after(self, session: Session) -> None:
        method = PING
        answers_pings = self._evidence.answers_pings
        said = await self._ask(session, method)
        proves = said is Told.LOST or (said is Told.REFUSED and answers_pings)
        if not proves and (more := self._evidence.after_ping(said)) is not None:
            method = more
            said = await self._ask(session, method)
            proves = said in (Told.LOST, Told.REFUSED)
        if proves:
            await self.renew(session, gone=True, refused=None if said is Told.LOST else method)

    async def _begin_anew(self, *, by_401: bool, gone: bool, refused: str | None) -> None:
        lost = self.current
        try:
            self.current = await self._another(lost, by_401=by_401, refused=refused)
        except CredentialsRefused:
            self._proven = None
            return
        except NotRenewed as fault:
            if refused is None:
                self._connection.lose(fault.ended, waits=fault.ended.kind == FailureKind.AUTH_REQUIRED)
            return
        finally:
            renewing, self._renewing = self._renewing, None
            if renewing is not None:
                renewing.set()
        self._evidence.refused = 0
        self._stream.cancel()
        if not gone and lost.id != self.current.id:
            self._connection.start_soon(partial(self._end, lost))
        self._open_stream()
        self._missed.ring()

    async def _another(self, lost: Session, *, by_401: bool, refused: str | None) -> Session:
        exchange, receive = self._exchange, self._connection.receive
        hello, confirmation = self._hello, self._confirmation
        if refused is None:
            return await begin_anew(exchange, hello, confirmation, lost, receive, by_401=by_401)
        begun = lost
        with anyio.move_on_after(GUESS_SECS):
            begun = await begin_anew(exchange, hello, confirmation, lost, receive, guessed=True)
            said = await self._ask(begun, refused)
            if said is Told.KNOWN or await self._differ(lost, begun, refused):
                return begun
            if said is Told.REFUSED:
                self._evidence.disprove(refused)
        if begun.id != lost.id:
            self._connection.start_soon(partial(self._end, begun))
        raise NotRenewed(Ended(FailureKind.DISCONNECTED, f"does not answer {refused} in a new session either"))

    async def _differ(self, lost: Session, begun: Session, refused: str) -> bool:
        """Whether a list is answered in a new session and refused in the old one, where another probe says nothing."""
        other = self._evidence.other(refused)
        return (
            other is not None
            and await self._ask(begun, other) is Told.KNOWN
            and await self._ask(lost, other) in (Told.LOST, Told.REFUSED)
        )

    async def _ask(self, session: Session, method: str) -> Told:
        """Ask a probe, a ping for no longer than a heartbeat is waited for."""
        secs = (
            min(PROBE_SECS, self._connection.endpoint.limits.heartbeat_timeout_secs) if method == PING else CHECK_SECS
        )
        said = Told.NOTHING
        with anyio.move_on_after(secs):
            said = await probe(self._exchange, session, method, self._connection.receive)
        if said is Told.KNOWN:
            self._evidence.served(method)
        return said

    def _open_stream(self) -> None:
        if self.current.id is not None and self._offers_stream:
            self._stream = anyio.CancelScope()
            self._connection.start_soon(self._keep_stream)

    async def _keep_stream(self) -> None:
        connection, missed = self._connection, self._missed.ring
        with self._stream:
            stream = StandingStream(connection, self._exchange, self.current, on_missed=missed, doubt=self.doubt)
            self._offers_stream = await stream.keep()
