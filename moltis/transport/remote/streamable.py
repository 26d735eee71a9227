"""Streamable HTTP of both protocol eras: one POST a message, its reply as JSON or as a stream (MCP, Transports).

Up to 2025-11-25 there may be a session, a GET stream, and a session lost and begun anew; from 2026-07-28 on there is
nothing but POSTs. What an answer means is decided in `outcomes`. The one rule of this file is that each request is
settled once: its reply is received, or it fails with words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import httpx2

from moltis.errors import MoltisError, RpcCode
from moltis.http.words import network_words
from moltis.transport import Ended, Notices, Outgoing, Receiver
from moltis.transport.remote.base import Endpoint, Post, RemoteConnection
from moltis.transport.remote.exchange import (
    FAULTS,
    Exchange,
    NotLetIn,
    Unreachable,
    discard,
    held_secs,
    leads,
    read_error,
)
from moltis.transport.remote.headers import (
    FIRST_MODERN,
    BadSessionId,
    checked_session_id,
    post_headers,
    stream_headers,
)
from moltis.transport.remote.incoming import Cursor, TooLarge, take_events, take_message
from moltis.transport.remote.outcomes import HANDSHAKE, Answered, Asked, Do, Outcome, media_type, outcome
from moltis.transport.remote.renewal import NotRenewed, Session, begin_anew
from moltis.transport.remote.replies import error_reply, refuses_session
from moltis.transport.remote.standing import Alarm, StandingStream

__all__ = ["Rejected", "StreamableConnection"]

MAX_CALLS: Final = 64
"""Requests on their way at once. The client has 100 connections: the rest is for heartbeats, streams and cancels."""
MAX_RESUMPTIONS: Final = 5
"""Of one answer in a row that brought nothing."""

Rejected = Callable[[bytes, Outgoing, int], Awaitable[bool]]
"""Asked with a request and the HTTP status before it is taken for unserved. True: the message is dealt with."""

NO_SESSION: Final = Session(None)


class StreamableConnection(RemoteConnection):
    """One connection by Streamable HTTP. `rejected`: who may know another way when the server does not speak this."""

    def __init__(
        self, endpoint: Endpoint, receive: Receiver, notices: Notices, *, rejected: Rejected | None = None
    ) -> None:
        super().__init__(endpoint, receive, notices)
        self._exchange = Exchange(endpoint, self.client)
        self._rejected = rejected
        self._agreed = False
        self._session = NO_SESSION
        self._hello: bytes | None = None
        self._confirmation: bytes | None = None
        self._confirming: anyio.Event | None = None
        self._renewing: anyio.Event | None = None
        self._no_stream = False
        self._stream_scope: anyio.CancelScope | None = None
        self._missed = Alarm(self, notices.missed)
        self._slots = anyio.Semaphore(MAX_CALLS, fast_acquire=True)

    # --- carrying a message

    async def carry(self, post: Post) -> None:
        """Send one message and see to it that something comes of it."""
        about = post.about
        match about.method:
            case "initialize":
                self._hello = post.message
                await self._send(post)
            case "server/discover" | "ping" | "subscriptions/listen":
                await self._send(post)
            case "notifications/initialized":
                await self._confirm(post)
            case _ if about.id is None:
                await self._send(post)
            case _:
                async with self._slots:
                    await self._send(post)

    async def _confirm(self, post: Post) -> None:
        """Send `notifications/initialized`. All else waits: servers refuse what they see before it."""
        self._confirming = confirming = anyio.Event()
        self._confirmation = post.message
        self._session = Session(self._session.id, post.about.version)
        try:
            if await self._send(post):
                self._open_stream()
        finally:
            self._confirming = None
            confirming.set()

    async def _send(self, post: Post) -> bool:
        """Send a message, once more if that is harmless and helps; say whether the server took it."""
        about = post.about
        modern = about.version is not None and about.version >= FIRST_MODERN
        renewed = waited = False
        while True:
            if self._confirming is not None or self._renewing is not None:
                await self._turn(about)
            session = NO_SESSION if modern or about.method in HANDSHAKE else self._session
            try:
                response = await self._exchange.send("POST", post_headers(about, session.id), post.message, post)
            except NotLetIn as fault:
                self._not_let_in(about, fault)
                return False
            except Unreachable as fault:
                self._failed(about, Outcome(self._failing(about), fault.words, "connect_failed"))
                return False
            asked = Asked(about.method, about.id is not None, session.id is not None, self._agreed, renewed, waited)
            do = await self._take(post, asked, session, response)
            if do is Do.RENEW:
                await self._renew(session)
                renewed = True
                if about.method == "notifications/initialized":
                    return False  # the new session was confirmed as it was begun
            elif do is Do.WAIT:
                waited = True
            else:
                return do is Do.ACCEPT

    async def _turn(self, about: Outgoing) -> None:
        """Wait until the session is confirmed, and not being begun anew."""
        while self._renewing is not None or self._confirming is not None:
            if self._renewing is not None:
                await self._renewing.wait()
            elif about.method in ("notifications/initialized", *HANDSHAKE) or self._confirming is None:
                return
            else:
                await self._confirming.wait()

    async def _take(self, post: Post, asked: Asked, session: Session, response: httpx2.Response) -> Do:
        """Deal with the answer as it has to be, and say what that was. The answer is closed afterwards."""
        about = post.about
        try:
            body = b""
            if response.status_code >= 400:
                body = await read_error(response)
            answered = _answered(response, body, about.id)
            found = outcome(asked, answered)
            if found.held_secs is not None:
                self._exchange.gate.close(found.held_secs)
            match found.do:
                case Do.TAKE_MESSAGE | Do.TAKE_EVENTS:
                    await self._take_reply(post, found.do, session, response)
                case Do.ACCEPT:
                    await discard(response)
                case Do.DELIVER:
                    assert about.id is not None
                    self.receive(error_reply(body, about.id) or body)
                case Do.UNKNOWN_METHOD | Do.FAIL | Do.LOSE:
                    await discard(response)
                    await self._refused(post, found, answered)
                case Do.RENEW | Do.WAIT:
                    await discard(response)
            return found.do
        finally:
            await response.aclose()
