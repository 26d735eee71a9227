"""The session of a connection up to MCP 2025-11-25: begun, confirmed, listened to, lost and begun anew, ended.

The one rule is that a lost session is begun anew once for all that notice, and that meanwhile nothing else is sent.
"""

from __future__ import annotations

from typing import Final

import anyio

from moltis.transport import Outgoing
from moltis.transport.remote.base import Post, RemoteConnection
from moltis.transport.remote.exchange import FAULTS, Exchange, NotLetIn, Unreachable, discard
from moltis.transport.remote.headers import stream_headers
from moltis.transport.remote.outcomes import HANDSHAKE, INITIALIZED
from moltis.transport.remote.renewal import NotRenewed, Session, begin_anew
from moltis.transport.remote.standing import Alarm, StandingStream

__all__ = ["NO_SESSION", "Sessions"]

NO_SESSION: Final = Session(None)

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

    async def renew(self, lost: Session) -> bool:
        """Begin anew what is lost, if nobody has yet, and wait until that is done; False if the connection ends of it.

        It is done in a task of its own: who noticed first may be cancelled, and the others wait for it too.
        """
        if self.current is lost and self._renewing is None and not self._connection.ending:
            self._renewing = anyio.Event()
            self._connection.start_soon(self._begin_anew)
        if self._renewing is not None:
            await self._renewing.wait()
        return self.current is not lost

    async def end(self) -> None:
        """Tell the server that the session is over (MCP, Session Management). Whatever it answers, it is."""
        if self.current.id is None:
            return
        headers = stream_headers(self.current.version, self.current.id)
        try:
            await discard(await self._exchange.send("DELETE", headers))
        except (Unreachable, NotLetIn, *FAULTS):
            pass

    async def _begin_anew(self) -> None:
        lost = self.current
        self._stream.cancel()
        try:
            self.current = await begin_anew(
                self._exchange, self._hello, self._confirmation, lost, self._connection.receive
            )
        except NotRenewed as fault:
            self._connection.lose(fault.ended, waits=fault.ended.kind == "auth_required")
            return
        finally:
            renewing, self._renewing = self._renewing, None
            if renewing is not None:
                renewing.set()
        self._open_stream()
        self._missed.ring()

    def _open_stream(self) -> None:
        if self.current.id is not None and self._offers_stream:
            self._stream = anyio.CancelScope()
            self._connection.start_soon(self._keep_stream)

    async def _keep_stream(self) -> None:
        connection, missed = self._connection, self._missed.ring
        with self._stream:
            stream = StandingStream(connection, self._exchange, self.current, on_missed=missed, renew=self.renew)
            self._offers_stream = await stream.keep()
