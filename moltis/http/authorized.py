"""Requests to one server by HTTP: let in by whoever has credentials, held back, and redirected, as they must be.

Credentials and cookies go to the origin of the configured URL and nowhere else, and a request that failed on its
way is never sent again here: only one that was refused for what it carried (401, 403) or redirected, which is the same
as not looked at.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
import httpx2

from moltis.errors import LoginNeeded, MoltisError, NotSent
from moltis.http.bodies import collect
from moltis.http.carrier import FRESH
from moltis.http.cookies import Cookies
from moltis.http.heads import FOLLOWED, REDIRECTS, followed_words, redirect_target, retry_after_secs
from moltis.http.origins import shown_host
from moltis.http.words import InOurWords, network_words
from moltis.server.states import State

REFUSALS: Final = frozenset({401, 403})
"""Of what a request carries. As `spares`: nobody is asked to log in for what is optional."""
NOTHING_SPARED: Final[frozenset[int]] = frozenset()
MAX_REFUSALS: Final = 2
"""Of one request, so that it is sent three times at most."""
MAX_CHALLENGES: Final = 8
MAX_CHALLENGE_CHARS: Final = 4096

DISCARDED_BYTES: Final = 64 * 1024
DISCARD_SECS: Final = 1.0
"""What is spent on the rest of an answer, so that its connection can be used again."""
NO_LONGER_THERE: Final = REDIRECTS | {404, 405, 410}

FAULTS: Final = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, InOurWords, OSError)
"""What a request and the reading of its answer may raise."""

KEPT_APART: Final = frozenset({"accept", "authorization", "cookie"})
"""Headers of moltis.toml that each request has its own of."""

MAX_HELD_SECS: Final = 3600.0
"""Who asks for more gets this: a typing mistake of a server must not cost a day."""
LOOK_SECS: Final = 1.0
"""How often it is seen whether the gate was closed meanwhile, while something else is waited for."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Refusal:
    """A server refused a request for what it carried.

    status: 401 or 403.
    challenges: the WWW-Authenticate field values, as received; at most 8 of at most 4 KiB each.
    sent: the Authorization value that the refused request carried, None if it carried none.
    """

    status: int
    challenges: tuple[str, ...]
    sent: str | None


class Credentials(Protocol):
    """Who lets requests in. Waiting here holds up the one request that waits, nothing else."""

    async def authorization(self) -> str | None:
        """Return the value of the Authorization header of the next request, fresh; None sends none.

        Raises:
            LoginNeeded: there is none until a person has logged in.
            ServerNotReady: there is none now, because the authorization server cannot be reached.
        """

    async def refused(self, refusal: Refusal) -> bool:
        """Take note of a refusal, and say whether the same request may be sent once more with what is there now.

        False: nobody can log in to change it; the refusal is an answer like any other.

        Raises:
            LoginNeeded: a person must log in; `auth_url` is in it if it was known soon enough.
            ServerNotReady: the authorization server cannot be reached now.
        """


class HeldBack(Exception):
    """The gate opens later than somebody wants to wait. Nothing was sent.

    secs: until it opens. words: follow the server's name.
    """

    def __init__(self, secs: float) -> None:
        self.secs = secs
        self.words = f"is overloaded and wants to be left alone for {math.ceil(secs)} s more"
        super().__init__(self.words)


class Gate:
    """Open, until it is closed for a while. Waiting ends when it opens, and not before."""

    def __init__(self) -> None:
        self._opens_at = 0.0

    def close(self, secs: float) -> None:
        """Let nothing pass for so long, or for longer if that was said before."""
        self._opens_at = max(self._opens_at, anyio.current_time() + min(secs, MAX_HELD_SECS))

    @property
    def closed(self) -> bool:
        """Whether it is closed now. Never so for a gate that was never closed."""
        return self._opens_at > 0.0 and anyio.current_time() < self._opens_at

    def check(self, patience_secs: float) -> None:
        """Look whether it is open, or opens soon enough.

        Raises:
            HeldBack: it stays closed for longer than `patience_secs`.
        """
        if self.closed and (secs := self._opens_at - anyio.current_time()) > patience_secs:
            raise HeldBack(secs)

    async def wait(self, patience_secs: float = math.inf) -> None:
        """Wait until it is open.

        Raises:
            HeldBack: it stays closed for longer than `patience_secs` from now.
        """
        until = anyio.current_time() + patience_secs
        while self.closed:
            self.check(until - anyio.current_time())
            await anyio.sleep_until(self._opens_at)  # it may be closed for longer meanwhile

    async def wait_beside(self, event: anyio.Event, patience_secs: float) -> None:
        """Wait for an event that may itself have to wait for the gate.

        Raises:
            HeldBack: it is closed now, and for longer than `patience_secs`.
        """
        while not event.is_set():
            self.check(patience_secs)
            with anyio.move_on_after(LOOK_SECS):
                await event.wait()


class Unreachable(Exception):
    """There is no answer to a request. `words` follow the server's name. `connected`: whether it may have been sent."""

    def __init__(self, words: str, *, connected: bool = True) -> None:
        super().__init__(words)
        self.words = words
        self.connected = connected


class NotLetIn(Exception):
    """Nothing was sent, or what was sent was refused, and whoever holds the credentials knows why.

    error: what whoever asked is told. lost: whether a person must log in before any other request is let in.
    """

    def __init__(self, error: MoltisError, *, lost: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.lost = lost


class Progress:
    """A request on its way.

    sent: whether the server may have seen any of it. heard: whether it began to answer.
    refused: how often it was refused for what it carried (401, 403).
    """

    __slots__ = ("heard", "refused", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.heard = False
        self.refused = 0


def _tell_nobody(words: str) -> None:
    """Keep what is odd to oneself."""


class AuthorizedClient:
    """Sends requests to one URL. `gate`: closed for as long as the server wants to be left alone.

    server: its name, in messages. client: sends, and has the headers of moltis.toml.
    haste_secs: how long a request that cannot wait does so for a login that is being renewed.
    cookies: of the connection, if it has another client already.
    on_odd: told what is odd, to follow the server's name.
    """

    def __init__(
        self,
        server: str,
        url: str,
        client: httpx2.AsyncClient,
        credentials: Credentials,
        *,
        haste_secs: float,
        cookies: Cookies | None = None,
        on_odd: Callable[[str], None] = _tell_nobody,
    ) -> None:
        _log_in_by_url(client, url)
        self.gate = Gate()
        self.cookies = Cookies(url, client.headers.get("Cookie")) if cookies is None else cookies
        self._on_odd = on_odd
        self._moved: tuple[httpx2.URL, str] | None = None
        """Where requests are redirected to; later ones go there at once, so that no cookie is forgotten for each."""
        self._server = server
        self._url = url
        self._credentials = credentials
        self._haste_secs = haste_secs
        self._client = client
        where = httpx2.URL(url).copy_with(userinfo=b"")
        self._where = (where, str(where))
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
        headers: Sequence[tuple[str, str]],
        content: bytes | None = None,
        progress: Progress | None = None,
        patience_secs: float = math.inf,
        spares: frozenset[int] = frozenset(),
    ) -> httpx2.Response:
        """Send, and give the answer with its body unread; it must be closed. Any status is an answer.

        headers: besides those of moltis.toml and Authorization.
        progress: kept up to date.
        spares: the statuses, of 401 and 403, that are answers like any other: nobody is asked to log in for them.
        patience_secs: how long it may be held back; 0 of a heartbeat, which does not wait for a slow renewal either.

        Raises:
            HeldBack: the server wants to be left alone for longer than that.
            NotLetIn: a person must log in, or the authorization server cannot be reached.
            Unreachable: there was no answer.
        """
        progress = Progress() if progress is None else progress
        while True:
            if self.gate.closed:
                await self.gate.wait(patience_secs)
            authorization = await (self._authorization() if patience_secs else self._soon(self._authorization))
            progress.sent = True
            response = await self._send(method, headers, content, authorization)
            progress.heard = True
            status = response.status_code
            if status not in REFUSALS or status in spares or progress.refused >= MAX_REFUSALS:
                return response
            admitted = partial(self._admitted, response, authorization)
            if not await (admitted() if patience_secs else self._soon(admitted)):
                return response
            await discard(response)
            progress.refused += 1

    async def _authorization(self) -> str | None:
        try:
            return await self._credentials.authorization() or self._configured
        except MoltisError as error:
            raise NotLetIn(error, lost=isinstance(error, LoginNeeded)) from error

    async def _soon(self, let_in: Callable[[], Awaitable[T]]) -> T:
        """Be let in for a heartbeat: early enough to be answered in time, or not at all."""
        with anyio.move_on_after(self._haste_secs):
            return await let_in()
        words = f"the login of server {self._server!r} is being renewed"
        raise NotLetIn(NotSent(words, server=self._server, state=State.READY), lost=False)

    async def _admitted(self, response: httpx2.Response, authorization: str | None) -> bool:
        """Ask whether the same request may be sent once more."""
        given = response.headers.get_list("WWW-Authenticate")[:MAX_CHALLENGES]
        challenges = tuple(value[:MAX_CHALLENGE_CHARS] for value in given)
        status = response.status_code
        try:
            return await self._credentials.refused(Refusal(status, challenges, authorization))
        except MoltisError as error:
            await discard(response)
            raise NotLetIn(error, lost=isinstance(error, LoginNeeded) and status == 401) from error
        except BaseException:
            await response.aclose()
            raise

    async def _send(
        self, method: str, headers: Sequence[tuple[str, str]], content: bytes | None, authorization: str | None
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
                raise _unreachable(fault, self._url) from fault
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


def _log_in_by_url(client: httpx2.AsyncClient, url: str) -> None:
    """Send what stands before the @ of a URL as everybody does (RFC 7617), unless moltis.toml names Authorization."""
    parsed = httpx2.URL(url)
    if parsed.userinfo and "Authorization" not in client.headers:
        login = f"{parsed.username}:{parsed.password}".encode()
        client.headers["Authorization"] = f"Basic {base64.b64encode(login).decode('ascii')}"


def held_secs(response: httpx2.Response) -> float | None:
    """Return how long the server wants to be left alone, None if it does not say."""
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
