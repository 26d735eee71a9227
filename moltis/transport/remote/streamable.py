"""Streamable HTTP of both protocol eras: one POST a message, its reply as JSON or as a stream (MCP, Transports).

Up to 2025-11-25 there may be a session, which is the business of `sessions`; from 2026-07-28 on there is nothing but
POSTs. What an answer means is decided in `outcomes`. Each request is settled once: its reply is
received, or it fails with words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import httpx2

from moltis.http.authorized import FAULTS, NOTHING_SPARED, REFUSALS, NotLetIn, Unreachable, discard
from moltis.http.bodies import coding_of
from moltis.http.heads import shown_field
from moltis.http.words import network_words
from moltis.server.states import FailureKind
from moltis.slices import taken
from moltis.transport import Ended, Notices, Outgoing, Receiver
from moltis.transport.remote.base import NO_SESSION, SOMETHING_ELSE, Endpoint, Post, Session
from moltis.transport.remote.delivery import Attempt, PostingConnection, judged, read_error
from moltis.transport.remote.headers import FIRST_MODERN, BadSessionId, checked_session_id, post_headers, stream_headers
from moltis.transport.remote.incoming import (
    Cursor,
    NotEvents,
    SessionLost,
    TooLarge,
    Unreadable,
    opened_events,
    take_events,
    take_lone_error,
    take_message,
    take_opened,
    take_unlabelled,
)
from moltis.transport.remote.outcomes import INITIALIZED, UNLIMITED, Asked, Do, Outcome, failure
from moltis.transport.remote.replies import alive, unknown_method
from moltis.transport.remote.sessions import Sessions

MAX_CALLS: Final = 48
"""Requests on their way at once. The client has 100 connections, and heartbeats, cancels and streams need some too."""

MAX_RESUMPTIONS: Final = 5
"""Of one answer, in a row, that brought nothing."""
MIN_RETRY_SECS: Final = 0.1
MAX_HASTE_SECS: Final = 1.0
"""Between resumptions that bring no message; a server may want them to be further apart."""

ONLY_401: Final = frozenset({401})
NOT_AGAIN: Final = "; the request is not sent again"

Rejected = Callable[[bytes, Outgoing, int], Awaitable[bool]]
"""Asked with a request and the HTTP status before it is taken for unserved. True: the message is dealt with."""


class StreamableConnection(PostingConnection):
    """One connection by Streamable HTTP. `rejected`: who may know another way when the server does not speak this."""

    def __init__(
        self, endpoint: Endpoint, receive: Receiver, notices: Notices, *, rejected: Rejected | None = None
    ) -> None:
        super().__init__(endpoint, receive, notices)
        self._sessions = Sessions(self, self._exchange)
        self._rejected = rejected
        self._slots = anyio.Semaphore(MAX_CALLS, fast_acquire=True)

    @property
    def in_session(self) -> bool:
        """Whether the server has begun a session (`Mcp-Session-Id`, up to MCP 2025-11-25)."""
        return self._sessions.current.id is not None

    def sending(self, post: Post) -> None:
        self._sessions.sending(post)

    async def carry(self, post: Post) -> None:
        about = post.about
        self._exchange.gate.check(self._asked(about).patience_secs)
        if about.method == INITIALIZED:
            accepted = False
            try:
                accepted = await self.deliver(post, self._exchange)
            finally:
                self._sessions.confirmed(accepted)
        elif about.id is None or about.method in UNLIMITED:
            await self.deliver(post, self._exchange)
        else:
            async with self._slots:
                await self.deliver(post, self._exchange)

    async def say_goodbye(self) -> None:
        await self._sessions.end()

    # --- a message

    async def attempt(self, post: Post, *, waited: bool, renewed: bool) -> Attempt:
        about = post.about
        while (obstacle := self._sessions.obstacle(about)) is not None:
            await self._exchange.gate.wait_beside(obstacle, self._asked(about).patience_secs)
        modern = about.version is not None and about.version >= FIRST_MODERN
        session = NO_SESSION if modern or about.method == "initialize" else self._sessions.current
        spared = not renewed and self._sessions.spares(session)
        asked = Asked(
            about.method,
            about.id is not None,
            agreed=self._agreed,
            modern=modern,
            session=session.id is not None,
            renewed=renewed,
            waited=waited,
            spared=spared,
        )
        return Attempt(asked, post_headers(about, session.id), session, ONLY_401 if spared else NOTHING_SPARED)

    async def renew(self, post: Post, attempt: Attempt, status: int) -> bool:
        begun = await self._sessions.renew(attempt.session, by_401=status == 401, gone=status == 404)
        if not begun and (status != 401 or self.ending):
            words = "has lost the session; the message was not processed"
            self.come_to_nothing(post, attempt.asked, failure(attempt.asked, words))
            return False
        return post.about.method != INITIALIZED  # the new session was confirmed when it was begun

    def _asked(self, about: Outgoing) -> Asked:
        return Asked(about.method, about.id is not None, agreed=self._agreed)

    async def take(self, post: Post, attempt: Attempt, response: httpx2.Response) -> Do:
        about, asked, session = post.about, attempt.asked, attempt.session
        body = await read_error(response) if response.status_code >= 400 else b""
        found, reply = judged(self._exchange, asked, about.id, response, body)
        if found.doubts or found.refuses:
            self._sessions.refused(session, about.method, surely=found.doubts)
        match found.do:
            case Do.TAKE_MESSAGE | Do.TAKE_EVENTS | Do.LOOK:
                try:
                    await self._take_reply(post, found, asked, session, response)
                except SessionLost:
                    return Do.RENEW
                if post.doubts or post.astray:
                    self._sessions.refused(session, about.method, surely=post.doubts)
                elif post.answered:
                    self._sessions.served(session, about.method)
            case Do.DELIVER:
                await taken(self.receive(reply or body))
            case Do.ACCEPT | Do.RENEW | Do.WAIT:
                await discard(response)
            case _:
                await discard(response)
                if found.doubts and asked.harmless and await self._sessions.replaced(session):
                    return Do.RENEW
                await self._refused(post, asked, found, response.status_code)
        return found.do

    async def _refused(self, post: Post, asked: Asked, found: Outcome, status: int) -> None:
        about = post.about
        if found.unserved and self._rejected is not None and await self._rejected(post.message, about, status):
            return
        if found.do is Do.UNKNOWN_METHOD:
            self.receive(unknown_method(about.id or 0, found.words))
        elif found.do is Do.ALIVE:
            self.receive(alive(about.id or 0))
        else:
            self.come_to_nothing(post, asked, found)

    # --- a reply

    async def _take_reply(
        self, post: Post, found: Outcome, asked: Asked, session: Session, response: httpx2.Response
    ) -> None:
        if post.about.method == "initialize":
            try:
                self._sessions.begun(checked_session_id(response.headers.get("Mcp-Session-Id")))
            except BadSessionId as fault:
                self.lose(Ended(FailureKind.HANDSHAKE_FAILED, str(fault)))
                return
            session = self._sessions.current
        cursor = Cursor()
        words, odd = SOMETHING_ELSE, ""
        try:
            if found.do is Do.TAKE_MESSAGE:
                odd = await take_message(response, self, cursor, post, asked)
            elif found.do is Do.TAKE_EVENTS:
                words = "ended the answer before the reply"
                odd = await take_events(response, self, cursor, post, asked)
            else:
                words = found.words
                label = shown_field(response.headers.get("Content-Type"))
                odd = await take_unlabelled(response, self, cursor, post, asked, label)
        except Unreadable as fault:
            words = f"answered {asked.method} {fault.words}"
        except TooLarge:
            words = f"answered with more than {self.endpoint.limits.max_message_bytes} bytes (max_message_bytes)"
            cursor.last_id = None
        except FAULTS as fault:
            words = f"broke off: {network_words(fault)}"
        if not post.answered and cursor.last_id and not asked.modern:
            words = await self._resume(post, cursor, session) or words
        await take_lone_error(self, cursor, post)
        if post.answered:
            self._note(odd, response)
        if not post.answered and asked.heartbeat:
            self.receive(alive(post.about.id or 0))
        elif not post.answered:
            self.come_to_nothing(post, asked, failure(asked, words + NOT_AGAIN))
        elif post.succeeded:
            self._agreed = True

    def _note(self, odd: str, response: httpx2.Response) -> None:
        """Take note of what is odd about an answer that was taken all the same."""
        if odd:
            self.notices.odd(odd)
        encoding = response.headers.get("Content-Encoding")
        if encoding and encoding.strip().lower() != "identity":
            sent = coding_of(encoding) or f"in its own words: {shown_field(encoding)}"
            self.notices.odd(f"sends compressed answers ({sent}), though it is asked not to")

    async def _resume(self, post: Post, cursor: Cursor, session: Session) -> str:
        """Go on with a reply that broke off, until it came. Give words for why it will not come, if it does not.

        (MCP 2025-11-25, Resumability and Redelivery.)
        """
        fruitless = silent = 0
        while not post.answered and cursor.last_id:
            if fruitless >= MAX_RESUMPTIONS:
                return f"broke off, and had nothing more to say {MAX_RESUMPTIONS} times"
            await anyio.sleep(max(cursor.retry_secs, min(MIN_RETRY_SECS * 2.0**silent, MAX_HASTE_SECS)))
            said, cursor.asked = cursor.messages, False
            headers = stream_headers(post.about.version, session.id, cursor.last_id)
            try:
                response = await self._exchange.send("GET", headers, spares=REFUSALS)
                try:
                    if response.status_code == 200:
                        limit = self.endpoint.limits.max_message_bytes
                        await take_opened(await opened_events(response, limit, self.notices.odd), self, cursor, post)
                    elif response.status_code < 500:
                        return f"broke off, and does not go on (HTTP {response.status_code})"
                except NotEvents:
                    label = shown_field(response.headers.get("Content-Type")) or "none"
                    return f"broke off, and does not go on: GET was answered with an unexpected content-type: {label}"
                finally:
                    await response.aclose()
            except NotLetIn as fault:
                return f"broke off: {fault.error.message}"
            except TooLarge:
                return f"answered with more than {self.endpoint.limits.max_message_bytes} bytes (max_message_bytes)"
            except (Unreachable, *FAULTS):
                pass
            silent = 0 if cursor.messages > said else silent + 1
            # Who gives a place to resume from and says when ends its streams on purpose; the request has its own time.
            fruitless = 0 if cursor.messages > said or cursor.asked else fruitless + 1
        return ""
