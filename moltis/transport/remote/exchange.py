"""One HTTP request to a remote server and the head of its answer: let in, held back and redirected as it must be.

The one rule is that credentials and cookies go to the origin of the configured URL and nowhere else, and that a request
that failed on its way is never sent again here: only one that was refused for what it carried (401, 403) or redirected,
which is the same as not looked at.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import anyio
import httpx2

from moltis.errors import LoginNeeded, MoltisError, NotSent
from moltis.http.bodies import BodyEncoded, coding_of, collect, read_capped
from moltis.http.carrier import FRESH
from moltis.http.cookies import Cookies
from moltis.http.origins import shown_host
from moltis.http.retry_after import retry_after_secs
from moltis.http.words import InOurWords, network_words
from moltis.server.states import FailureKind, State
from moltis.transport import Ended
from moltis.transport.remote import Refusal
from moltis.transport.remote.base import Endpoint, Post
from moltis.transport.remote.complaints import complaint, revision_refused
from moltis.transport.remote.events import BOM, EventStream
from moltis.transport.remote.gate import Gate
from moltis.transport.remote.headers import Headers
from moltis.transport.remote.outcomes import (
    FOLLOWED,
    REDIRECTS,
    Answered,
    Asked,
    followed_words,
    media_type,
    redirect_target,
    redirect_words,
    shown_field,
)
from moltis.transport.remote.replies import about_session, error_reply, says_nothing, under_id

__all__ = [
    "FAULTS",
    "REFUSALS",
    "Exchange",
    "NotLetIn",
    "Unreachable",
    "answered",
    "discard",
    "held_secs",
    "read_error",
    "refusal_reply",
]

REFUSALS: Final = frozenset({401, 403})
"""Of what a request carries. As `spares`: nobody is asked to log in for what is optional."""
NO_REFUSALS: Final = REFUSALS | {408, 425, 429}
"""What says nothing of the revision, whatever the words."""
MAX_REFUSALS: Final = 2
"""Of one message, so that it is sent three times at most."""
MAX_CHALLENGES: Final = 8
MAX_CHALLENGE_CHARS: Final = 4096

DISCARDED_BYTES: Final = 64 * 1024
DISCARD_SECS: Final = 1.0
"""What is spent on the rest of an answer, so that its connection can be used again."""
ERROR_BYTES: Final = 1024 * 1024
"""Of the body of an HTTP error; a longer one is not read for a JSON-RPC error."""

NO_LONGER_THERE: Final = REDIRECTS | {404, 405, 410}
KNOWN_TYPES: Final = frozenset({"application/json", "text/event-stream"})

FAULTS: Final = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, InOurWords, OSError)
"""What a request and the reading of its answer may raise."""


KEPT_APART: Final = frozenset({"accept", "authorization", "cookie"})
"""Headers of moltis.toml that each request has its own of."""

T = TypeVar("T")


class Unreachable(Exception):
    """There is no answer to a request. `words` follow the server's name. `connected`: whether it may have been sent."""

    def __init__(self, words: str, *, connected: bool = True) -> None:
        super().__init__(words)
        self.words = words
        self.connected = connected


class NotLetIn(Exception):
    """Nothing was sent, or what was sent was refused, and whoever holds the credentials knows why.

    error: what the request is told.
    ended: how the connection ends of it, None if it goes on.
    """

    def __init__(self, error: MoltisError, ended: Ended | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.ended = ended


def _tell_nobody(words: str) -> None:
    """Keep what is odd to oneself."""


class Exchange:
    """Sends the requests of one connection. `gate`: closed for as long as the server wants to be left alone.

    cookies: of the connection, if it has another exchange already.
    on_odd: told what is odd, to follow the server's name.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client: httpx2.AsyncClient,
        *,
        cookies: Cookies | None = None,
        on_odd: Callable[[str], None] = _tell_nobody,
    ) -> None:
        self.gate = Gate()
        self.cookies = Cookies(endpoint.url, client.headers.get("Cookie")) if cookies is None else cookies
        self._on_odd = on_odd
        self._moved: tuple[httpx2.URL, str] | None = None
        """Where requests are redirected to; later ones go there at once, so that no cookie is forgotten for each."""
        self._endpoint = endpoint
        self._client = client
        url = httpx2.URL(endpoint.url).copy_with(userinfo=b"")
        self._where = (url, str(url))
        self._configured: str | None = client.headers.get("Authorization")
        self._base = [(k, v) for k, v in client.headers.multi_items() if k.lower() not in KEPT_APART]
        self._extensions = {"timeout": client.timeout.as_dict()}
        self._suspects = False

    def suspect(self) -> None:
        """Have the next request go by a new connection: that of an earlier one may be dead, and so the others."""
        self._suspects = True

    async def send(
        self,
        method: str,
        headers: Headers,
        content: bytes | None = None,
        post: Post | None = None,
        patience_secs: float = math.inf,
        spares: frozenset[int] = frozenset(),
    ) -> httpx2.Response:
        """Send, and give the answer with its body unread; it must be closed. Any status is an answer.

        headers: besides those of moltis.toml and Authorization.
        post: whose message it is; its `sent` and `refused` are kept up to date.
        spares: the statuses, of 401 and 403, that are answers like any other: nobody is asked to log in for them.
        patience_secs: how long it may be held back; 0 of a heartbeat, which does not wait for a slow renewal either.

        Raises:
            HeldBack: the server wants to be left alone for longer than that.
            NotLetIn: a person must log in, or the authorization server cannot be reached.
            Unreachable: there was no answer.
        """
        refused = 0
        while True:
            if self.gate.closed:
                await self.gate.wait(patience_secs)
            authorization = await (self._authorization() if patience_secs else self._soon(self._authorization))
            if post is not None:
                post.sent = True
                refused = post.refused
            response = await self._send(method, headers, content, authorization)
            if post is not None:
                post.heard = True
            status = response.status_code
            if status not in REFUSALS or status in spares or refused >= MAX_REFUSALS:
                return response
            admitted = partial(self._admitted, response, authorization)
            if not await (admitted() if patience_secs else self._soon(admitted)):
                return response
            await discard(response)
            refused += 1
            if post is not None:
                post.refused = refused

    async def _authorization(self) -> str | None:
        try:
            return await self._endpoint.credentials.authorization() or self._configured
        except LoginNeeded as error:
            raise NotLetIn(error, Ended(FailureKind.AUTH_REQUIRED, "a person must log in")) from error
        except MoltisError as error:
            raise NotLetIn(error, None) from error

    async def _soon(self, let_in: Callable[[], Awaitable[T]]) -> T:
        """Be let in for a heartbeat: early enough to be answered in time, or not at all."""
        with anyio.move_on_after(self._endpoint.limits.heartbeat_timeout_secs / 2):
            return await let_in()
        server = self._endpoint.server
        raise NotLetIn(
            NotSent(f"the login of server {server!r} is being renewed", server=server, state=State.READY), None
        )

    async def _admitted(self, response: httpx2.Response, authorization: str | None) -> bool:
        """Ask whether the same request may be sent once more."""
        given = response.headers.get_list("WWW-Authenticate")[:MAX_CHALLENGES]
        challenges = tuple(value[:MAX_CHALLENGE_CHARS] for value in given)
        status = response.status_code
        try:
            return await self._endpoint.credentials.refused(Refusal(status, challenges, authorization))
        except MoltisError as error:
            await discard(response)
            lost = isinstance(error, LoginNeeded) and status == 401
            raise NotLetIn(error, Ended(FailureKind.AUTH_REQUIRED, "a person must log in") if lost else None) from error
        except BaseException:
            await response.aclose()
            raise

    async def _send(
        self, method: str, headers: Headers, content: bytes | None, authorization: str | None
    ) -> httpx2.Response:
        all_headers = [*self._base, *headers]
        if authorization is not None:
            all_headers.append(("Authorization", authorization))
        url, text = self._moved or self._where
        hops = 0
        while True:
            cookie = self.cookies.field(text, authorization, time.time())
            sent = all_headers if cookie is None else [*all_headers, ("Cookie", cookie)]
            extensions = {**self._extensions, FRESH: True} if self._suspects else self._extensions
            self._suspects = False
            request = httpx2.Request(method, url, headers=sent, content=content, extensions=extensions)
            try:
                response = await self._client.send(request, stream=True, follow_redirects=False)
            except FAULTS as fault:
                raise _unreachable(fault, self._endpoint.url) from fault
            target = None
            if response.status_code in FOLLOWED:
                target = redirect_target(response.status_code, response.headers.get("Location"), text, hops=hops)
            if target is None:
                self._settle(response, (url, text), authorization, redirected=hops > 0)
                return response
            await discard(response)
            self.cookies.forget()
            url, text = httpx2.URL(target), target
            hops += 1
            self._on_odd(followed_words(target))

    def _settle(
        self, response: httpx2.Response, where: tuple[httpx2.URL, str], authorization: str | None, *, redirected: bool
    ) -> None:
        """Keep what an answer says about how the next request is to be sent."""
        status = response.status_code
        if status in REDIRECTS:
            self.cookies.forget()
        elif set_cookies := response.headers.get_list("Set-Cookie"):
            self.cookies.take(set_cookies, where[1], authorization, time.time())
        if redirected and response.is_success:
            self._moved = where
        elif status in NO_LONGER_THERE and response.request.method == "POST":
            self._moved = None


def _unreachable(fault: Exception, url: str) -> Unreachable:
    words = network_words(fault)
    if isinstance(fault, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return Unreachable(f"cannot be reached at {shown_host(url)}: {words}", connected=False)
    return Unreachable(f"gave no answer: {words}; the message is not sent again")


def answered(
    response: httpx2.Response, body: bytes = b"", reply: bytes | None = None, id: int | None = None
) -> Answered:
    """Give what there is to know of an answer. `body`: of an HTTP error; `reply`: what `error_reply` makes of it.

    id: of the request, if it was one.
    """
    headers, status = response.headers, response.status_code
    if 200 <= status < 300:
        compressed, kind = "", media_type(headers.get("Content-Type"))
        try:
            coding_of(headers.get("Content-Encoding"))
        except BodyEncoded as fault:
            compressed = fault.coding
        labelled = "" if kind in KNOWN_TYPES else shown_field(headers.get("Content-Type"))
        return Answered(status, kind, labelled, compressed=compressed)
    redirects = 300 <= status < 400
    return Answered(
        status,
        retry_after_secs=held_secs(response),
        leads=redirect_words(headers.get("Location"), str(response.request.url)) if redirects else "",
        reply=reply is not None,
        ours=id is not None and under_id(body, id),
        about_session=about_session(body, id),
        wordless=says_nothing(status, body),
        said="" if reply is not None else complaint(body, media_type(headers.get("Content-Type"))),
    )


def held_secs(response: httpx2.Response) -> float | None:
    """Give how long the server wants to be left alone, None if it does not say."""
    return retry_after_secs(response.headers.get("Retry-After"), time.time())


async def discard(response: httpx2.Response) -> None:
    """Be done with an answer. Its connection is kept if the rest of the body is short."""
    try:
        with anyio.move_on_after(DISCARD_SECS):
            await collect(response.aiter_raw(), DISCARDED_BYTES, response.headers.get("Content-Length"))
    except FAULTS:
        pass
    finally:
        await response.aclose()


def refusal_reply(asked: Asked, id: int, response: httpx2.Response, body: bytes) -> bytes | None:
    """Return the reply that an HTTP error is: the one that its body holds, or the refusal of a revision in words."""
    reply = error_reply(body, id)
    if reply is None and asked.opens and not asked.probes and response.status_code not in NO_REFUSALS:
        content_type = media_type(response.headers.get("Content-Type"))
        reply = revision_refused(body, content_type, response.status_code, id)
    return reply


def _unframed(body: bytes) -> bytes:
    """Return the message of a stream that has one event, else the body: some servers send their errors so too."""
    events = EventStream(ERROR_BYTES).feed(body + b"\n\n")
    return events[0].data if len(events) == 1 and events[0].data else body


async def read_error(response: httpx2.Response) -> bytes:
    """Read the body of an HTTP error, and be done with the answer; empty if it is too long or breaks off."""
    try:
        body = (await read_capped(response, ERROR_BYTES)).removeprefix(BOM)
        return _unframed(body) if media_type(response.headers.get("Content-Type")) == "text/event-stream" else body
    except FAULTS:
        return b""
    finally:
        await response.aclose()
