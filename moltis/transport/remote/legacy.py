"""HTTP+SSE (MCP 2024-11-05, Transports): one stream that a GET opens, and messages posted to where it says.

A POST is only taken; what it asks for is answered on the stream. No request waits for what cannot come: one whose POST
was not taken fails at once, and with the stream the connection is over.
"""

from __future__ import annotations

import math
import re
from contextlib import aclosing
from typing import Final
from urllib.parse import urljoin

import anyio
import httpx2
import msgspec
from msgspec.structs import replace

from moltis.errors import LoginNeeded
from moltis.http.authorized import FAULTS, AuthorizedClient, NotLetIn, Unreachable, discard
from moltis.http.bodies import BodyTooLarge, read_capped
from moltis.http.heads import media_type
from moltis.http.origins import Url, read_url, same_origin, shown_url
from moltis.http.words import network_words
from moltis.jsonrpc import MALFORMED, our_id
from moltis.server.states import FailureKind
from moltis.session.envelope import MAX_BATCH
from moltis.session.parts import elements
from moltis.slices import in_slices, taken
from moltis.transport import Ended, Notices, Receiver
from moltis.transport.remote.base import Endpoint, Post
from moltis.transport.remote.delivery import Attempt, PostingConnection, answered, judged, not_begun, read_error
from moltis.transport.remote.events import Event
from moltis.transport.remote.headers import post_headers, stream_headers
from moltis.transport.remote.incoming import NotEvents, opened_events
from moltis.transport.remote.outcomes import HANDSHAKE, INITIALIZED, UNLIMITED, Asked, Do, Outcome, failure, outcome
from moltis.transport.remote.replies import alive, answering, unknown_method

ENDPOINT_SECS: Final = 10.0
"""From the GET until the server has said where messages go. Servers say it with the first bytes."""
MAX_SENDING: Final = 64
"""POSTs of calls at once, of the client's 100 connections: some servers hold a POST until the call is done."""
MAX_WAITING: Final = 2048
"""Requests without a reply; twice what a session has. The oldest of more has had one that was not seen as such."""
LINGER_SECS: Final = 1.0
"""For the rest of a POST whose request is answered already."""
SHOWN_ORIGIN_CHARS: Final = 100
GONE: Final = frozenset({404, 410})

_REPLY = re.compile(rb'\{"jsonrpc":"2\.0","id":(\d{1,18}),"(?:result|error)":')
_REPLY_END = re.compile(rb',"jsonrpc":"2\.0","id":(\d{1,18})\}\Z')
REPLY_END_BYTES: Final = 64


class LegacyConnection(PostingConnection):
    """One connection by HTTP+SSE."""

    def __init__(self, endpoint: Endpoint, receive: Receiver, notices: Notices) -> None:
        super().__init__(endpoint, receive, notices)
        self._posting: AuthorizedClient | None = None
        self._posting_url = ""
        self._located = anyio.Event()
        self.streamed = False
        """Whether the GET opened an event stream."""
        self._confirming: anyio.Event | None = None
        self._waiting: dict[int, tuple[Post, anyio.Event]] = {}
        self._slots = anyio.Semaphore(MAX_SENDING, fast_acquire=True)

    async def located(self) -> bool:
        """Wait until the server has said where messages go. False: the connection is over without that."""
        async with anyio.create_task_group() as tasks:

            async def until_lost() -> None:
                await self.wait_lost()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_lost)
            await self._located.wait()
            tasks.cancel_scope.cancel()
        return self._located.is_set()

    # --- the stream

    async def serve(self) -> None:
        asked = Asked("GET", is_request=True)
        try:
            response = await self._exchange.send("GET", stream_headers(None, None))
        except NotLetIn as fault:
            if not fault.lost and isinstance(fault.error, LoginNeeded):
                return self.lose(Ended(FailureKind.AUTH_REQUIRED, fault.error.message))
            return self.lose(not_begun(fault))
        except Unreachable as fault:
            return self.lose(Ended(FailureKind.CONNECT_FAILED, fault.words))
        try:
            found = outcome(asked, answered(response))
            other = found.words or f"answered GET with {media_type(response.headers.get('Content-Type'))}"
            if found.do in (Do.TAKE_EVENTS, Do.TAKE_MESSAGE, Do.LOOK):
                await self._listen(response, other)
            else:
                self.lose(Ended(found.kind or FailureKind.CONNECT_FAILED, other, retry_after_secs=found.held_secs))
        finally:
            await response.aclose()

    async def _listen(self, response: httpx2.Response, other: str) -> None:
        """Hear the event stream until it ends. `other`: what is said if there is none."""
        words = "ended its event stream"
        limit = self.endpoint.limits.max_message_bytes
        with anyio.CancelScope(deadline=anyio.current_time() + ENDPOINT_SECS) as patience:
            try:
                async with aclosing(await opened_events(response, limit, self.notices.odd)) as events:
                    self.streamed = True
                    async for event in events:
                        await self._hear(event)
                        if patience.deadline != math.inf and self._located.is_set():
                            patience.deadline = math.inf
            except NotEvents:
                words = other
            except FAULTS as fault:
                words = f"lost its event stream: {network_words(fault)}"
        if patience.cancelled_caught:
            words = f"did not say within {ENDPOINT_SECS:g} s where messages go"
        self.lose(Ended(FailureKind.DISCONNECTED if self._located.is_set() else FailureKind.CONNECT_FAILED, words))

    async def _hear(self, event: Event | None) -> None:
        if event is None:
            self.endpoint.on_oversized(1)
        elif event.event == "message" and event.data:
            await self._received(event.data)
        elif event.event == "endpoint" and self._posting is None:
            self._locate(event.data)

    def _locate(self, said: bytes) -> None:
        """Take note of where messages go: the origin of the stream, or nowhere."""
        try:
            url = urljoin(self.endpoint.url, said.decode("ascii").strip(' \t"'))  # some write it as JSON
            parts = read_url(url)
        except ValueError:
            parts = None
        if parts is None or parts.userinfo or not same_origin(url, self.endpoint.url):
            self.lose(Ended(FailureKind.CONNECT_FAILED, _astray(parts, self.endpoint.url)))
            return
        self._posting = self.client_for(url, self._exchange.cookies)
        self._posting_url = url
        self._located.set()

    async def _received(self, message: bytes) -> None:
        await taken(self.receive(message))
        for id in _replied_ids(message):
            post, answered = self._waiting.pop(id, (None, None))
            if post is not None and answered is not None:
                post.answered = True
                post.settle()
                post.scope.deadline = anyio.current_time() + LINGER_SECS
                answered.set()

    # --- messages

    def sending(self, post: Post) -> None:
        if post.about.method == INITIALIZED:
            self._confirming = anyio.Event()

    async def carry(self, post: Post) -> None:
        await self._located.wait()
        assert self._posting is not None
        if post.about.method == INITIALIZED:
            await self._confirm(post, self._posting)
            return
        gate, patience_secs = self._posting.gate, self._asked(post).patience_secs
        gate.check(patience_secs)
        while self._confirming is not None and post.about.method not in HANDSHAKE:
            await gate.wait_beside(self._confirming, patience_secs)
        if post.about.id is None:
            await self.deliver(post, self._posting)
        else:
            await self._ask_and_wait(post, post.about.id, self._posting)

    async def _confirm(self, post: Post, client: AuthorizedClient) -> None:
        """Send `notifications/initialized`; all else waits, because servers refuse what they see before it."""
        self._agreed = True
        try:
            await self.deliver(post, client)
        finally:
            confirming, self._confirming = self._confirming, None
            if confirming is not None:
                confirming.set()

    async def _ask_and_wait(self, post: Post, id: int, client: AuthorizedClient) -> None:
        answered = anyio.Event()
        self._wait_for(post, id, answered)
        try:
            if post.about.method in UNLIMITED:
                taken = await self.deliver(post, client)
            else:
                async with self._slots:
                    taken = await self.deliver(post, client)
            if taken:
                await answered.wait()
        finally:
            if self._waiting.get(id, (None, None))[0] is post:
                del self._waiting[id]

    def _wait_for(self, post: Post, id: int, answered: anyio.Event) -> None:
        self._waiting[id] = (post, answered)
        if len(self._waiting) > MAX_WAITING:
            oldest, _ = self._waiting.pop(next(iter(self._waiting)))
            oldest.scope.cancel()

    async def attempt(self, post: Post, *, waited: bool, renewed: bool) -> Attempt:
        return Attempt(self._asked(post, waited=waited), post_headers(post.about, None))

    async def take(self, post: Post, attempt: Attempt, response: httpx2.Response) -> Do:
        assert self._posting is not None
        if response.is_success:
            return await self._accepted(post, attempt.asked, response)
        body = await read_error(response)
        found, reply = judged(self._posting, attempt.asked, post.about.id, response, body)
        if (response.status_code in GONE or not self._agreed) and found.do in (Do.FAIL, Do.LOSE):
            found = replace(found, words=f"{found.words} at {shown_url(self._posting_url)}")
        if found.do is Do.WAIT:
            return Do.WAIT
        await self._refused(post, attempt.asked, found, response.status_code, reply)
        return Do.FAIL

    async def _accepted(self, post: Post, asked: Asked, response: httpx2.Response) -> Do:
        """Take the answer to a POST that was taken: nothing of interest, or the reply; a page has not taken it."""
        kind, id = media_type(response.headers.get("Content-Type")), post.about.id
        if kind == "text/html" and id is not None:
            await discard(response)
            words = f"answered {asked.method} with a page (text/html) at {shown_url(self._posting_url)}"
            self.come_to_nothing(post, asked, failure(asked, words))
            return Do.FAIL
        if kind != "application/json" or id is None:
            await discard(response)
            return Do.ACCEPT
        limit = self.endpoint.limits.max_message_bytes
        try:
            body = await read_capped(response, limit)
        except BodyTooLarge:
            self.endpoint.on_oversized(1)
            return Do.ACCEPT
        except FAULTS:
            return Do.ACCEPT
        if not post.answered and await in_slices(answering(body, id)):  # who says it here may not say it on the stream
            await self._received(body)
        return Do.ACCEPT

    def _asked(self, post: Post, *, waited: bool = False) -> Asked:
        return Asked(post.about.method, post.about.id is not None, agreed=self._agreed, waited=waited)

    async def _refused(self, post: Post, asked: Asked, found: Outcome, status: int, reply: bytes | None) -> None:
        about = post.about
        if found.do is Do.DELIVER and reply is not None:
            await taken(self.receive(reply))
        elif found.do is Do.UNKNOWN_METHOD:
            self.receive(unknown_method(about.id or 0, found.words))
        else:
            if found.do is Do.ALIVE:
                self.receive(alive(about.id or 0))
            else:
                self.come_to_nothing(post, asked, found)
            if status in GONE and self._agreed:
                self.lose(Ended(FailureKind.DISCONNECTED, f"has forgotten the connection (HTTP {status})"), waits=True)


def _astray(said: Url | None, url: str) -> str:
    """Say where a server wants its messages that may not have them, and what makes it say so, after its name."""
    ours = read_url(url)
    if said is None or ours is None:
        return "wants messages sent to what is no URL of http or https"
    if said.userinfo:
        return "wants messages sent to a URL with a login in it"
    if (said.host, said.port) == (ours.host, ours.port) or (said.host == ours.host and said.scheme != ours.scheme):
        lacks = "the scheme (X-Forwarded-Proto)"
    else:
        lacks = "the host (Host, X-Forwarded-Host)"
    theirs = said.origin if len(said.origin) <= SHOWN_ORIGIN_CHARS else said.origin[:SHOWN_ORIGIN_CHARS] + "..."
    return (
        f"is reached at {ours.origin} and wants messages at {theirs}: "
        f"it does not know its own address, as behind a proxy that does not pass on {lacks}"
    )


class _Head(msgspec.Struct, gc=False):
    id: int | float | str | None = None
    method: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_HEAD = msgspec.json.Decoder(_Head)


def _replied_ids(message: bytes) -> list[int]:
    """Return the ids of the requests that a message, or a batch, replies to. Never raises."""
    # As the common servers write it. A key so near to an end of the object is the object's own, not a payload's.
    found = _REPLY.match(message)
    if found is None and message.startswith((b'{"result":', b'{"error":')):
        found = _REPLY_END.search(message[-REPLY_END_BYTES:])
    if found is not None:
        return [int(found[1])]
    try:
        if message.lstrip(b" \t\r\n")[:1] == b"[":
            heads = [_HEAD.decode(one) for one in elements(message, MAX_BATCH)]
        else:
            heads = [_HEAD.decode(message)]
    except MALFORMED:
        return []
    return [id for head in heads if head.method is msgspec.UNSET and (id := our_id(head.id)) is not None]
