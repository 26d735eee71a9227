"""Whom to ask for a token: the steps of `resource` and `authserver` over the network, each address checked.

What is not there (4xx) or is no JSON sends one to the next address, as MCP orders them, and so does an address that
cannot answer (no connection, 5xx, 429): proxies route some paths and not others. What is there is believed or refused
as it is: no other address of the same party makes good for a document that may not be believed. Where there is none at
all and something could not answer, that is an outage: nothing follows from it, least of all that there is no document.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TypeVar

import anyio
import msgspec

from moltis.http.addresses import neighbours
from moltis.http.clients import USER_AGENT
from moltis.http.fetch import Answer, Fetcher, FetchProblem
from moltis.http.heads import retry_after_secs
from moltis.http.origins import canonical_resource, origin, shown_host, shown_url
from moltis.oauth import authserver, resource
from moltis.oauth.authserver import same_issuer
from moltis.oauth.model import AuthServer, Challenge, ClientConfig, OAuthProblem, ProtectedResource

MAX_FETCHES = 16
DOCUMENT_SECS = 5.0
"""For one of them."""

DISCOVERY_SECS = 25.0
"""For all of them."""

MAX_AUTH_SERVERS = 3
"""Of those that a resource names."""

T = TypeVar("T")

_NOT_NOW = frozenset({408, 425, 429})
"""4xx that do not say that there is nothing."""


class Discovered(msgspec.Struct, frozen=True):
    """Who gives out tokens for a server.

    resource: None where the server publishes nothing of the kind (MCP 2025-03-26), or the endpoints are configured.
    issuer: as whoever names it spells it; `server.issuer` is as it spells itself (`authserver.same_issuer`).
    resource_id: what to ask tokens for (RFC 8707).
    assumed: nothing was found; the endpoints are those that MCP 2025-03-26 falls back to.
    trouble: why it could not be found out how to register beside endpoints that are configured.
    """

    resource: ProtectedResource | None
    issuer: str
    server: AuthServer
    resource_id: str
    assumed: bool = False
    trouble: OAuthProblem | None = None


class Discovery:
    """Asks for one server.

    url: the MCP server's.
    wall: seconds since the epoch.
    """

    def __init__(self, fetcher: Fetcher, url: str, config: ClientConfig, wall: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._url = url
        self._config = config
        self._wall = wall

    async def look_around(self) -> None:
        """See where the server is, which says what the fetcher may reach for it (`addresses.neighbours`).

        Endpoints that are configured may be anywhere.

        Raises:
            OAuthProblem: it cannot be resolved.
        """
        if self._config.manual:
            return
        await self._look()

    async def _look(self) -> None:
        try:
            self._fetcher.allowed = neighbours(await self._fetcher.scopes_of(self._url))
        except FetchProblem as problem:
            raise in_oauth(problem) from None

    async def discover(self, challenge: Challenge | None, *, prefer: str | None = None) -> Discovered:
        """Find who gives out tokens.

        challenge: what the server said in its 401 or 403, if anything.
        prefer: the issuer of what is held; it stays, while the server names it.

        Raises:
            OAuthProblem: `outage`: somebody cannot answer now; `refused`: what was found cannot be believed.
        """
        if self._config.manual:
            return await self._by_hand(challenge)
        await self.look_around()
        search = _Search(self._fetcher, self._url, self._config, self._wall)
        return await self._in_time(search.discover(challenge, prefer))

    async def _by_hand(self, challenge: Challenge | None) -> Discovered:
        """Return the endpoints of moltis.toml; where no client is given, with what metadata says of registering one."""
        server, trouble = authserver.manual_endpoints(self._config), None
        if self._config.client_id is None and self._config.grant == "authorization_code":
            try:
                await self._look()
                search = _Search(self._fetcher, self._url, self._config, self._wall)
                server = await self._in_time(search.beside(server, challenge))
            except OAuthProblem as problem:
                trouble = problem
        return Discovered(None, server.issuer, server, canonical_resource(self._url), trouble=trouble)

    async def find_resource(self, challenge: Challenge | None) -> tuple[ProtectedResource | None, bool]:
        """Find what the server says of itself (RFC 9728), None if it says nothing. Raises as `discover`.

        Also say whether that is sure: where an address could not answer that comes first, it may say something else.
        """
        await self.look_around()
        search = _Search(self._fetcher, self._url, self._config, self._wall)
        found = await self._in_time(search.resource(challenge))
        return found, not search.unsure

    async def _in_time(self, work: Awaitable[T]) -> T:
        with anyio.move_on_after(DISCOVERY_SECS):
            return await work
        raise OAuthProblem(
            f"{shown_host(self._url)} and those it names did not say within {DISCOVERY_SECS:g} s where to log in",
            kind="outage",
        )


class _Search:
    """One search, of at most `MAX_FETCHES` fetches.

    unsure: what was found lay behind an address that could not answer now and might have said something else.
    """

    def __init__(self, fetcher: Fetcher, url: str, config: ClientConfig, wall: Callable[[], float]) -> None:
        self.unsure = False
        self._fetcher = fetcher
        self._url = url
        self._config = config
        self._wall = wall
        self._left = MAX_FETCHES

    async def discover(self, challenge: Challenge | None, prefer: str | None) -> Discovered:
        if self._config.issuer is not None:
            return await self._pinned(challenge, self._config.issuer)
        found = await self.resource(challenge)
        if found is None:
            return await self._legacy(challenge)
        issuers = sorted(found.authorization_servers, key=lambda issuer: not same_issuer(issuer, prefer or ""))
        problem: OAuthProblem | None = None
        for issuer in issuers[:MAX_AUTH_SERVERS]:
            try:
                return Discovered(found, issuer, await self._server(issuer), found.resource)
            except OAuthProblem as trouble:
                if trouble.kind == "outage" and same_issuer(issuer, prefer or ""):
                    raise  # what is held there is worth waiting for
                if problem is None or (trouble.kind == "outage" and problem.kind != "outage"):
                    problem = trouble
        assert problem is not None, "a resource names at least one"
        raise problem

    async def resource(self, challenge: Challenge | None) -> ProtectedResource | None:
        promised = {challenge.resource_metadata} if challenge is not None else frozenset()
        urls = resource.metadata_urls(self._url, challenge)
        known = self._config.issuer is not None
        return await self._first(
            urls, lambda body, at: resource.read_resource(body, self._url, issuer_known=known), promised
        )

    async def _pinned(self, challenge: Challenge | None, issuer: str) -> Discovered:
        """Find the metadata of the issuer that moltis.toml names: where the server says, at the server, at the issuer.

        Some publish it under another address than their own (RFC 8414 section 3.3 forbids to believe that by itself).
        """

        def read(body: bytes, at: str) -> AuthServer:
            return authserver.read_server(body, issuer, at=at, grant=self._config.grant)

        try:
            found = await self.resource(challenge)
        except OAuthProblem as problem:
            if problem.kind != "outage":
                raise
            found = None  # the owner has said what it would say
        named = found.authorization_servers if found is not None else ()
        places = [*sorted(named, key=lambda name: not same_issuer(name, issuer))[:MAX_AUTH_SERVERS], issuer]
        urls = [url for place in places for url in authserver.metadata_urls(place)]
        if found is None:
            urls.insert(0, authserver.legacy_metadata_url(self._url))
        server = await self._first(dict.fromkeys(urls), read, urls, others=True)
        if server is None:
            raise OAuthProblem(f"no metadata was found of {shown_url(issuer)} (oauth.issuer in moltis.toml)")
        return Discovered(found, issuer, server, found.resource if found is not None else canonical_resource(self._url))

    async def beside(self, server: AuthServer, challenge: Challenge | None) -> AuthServer:
        """Find how to register at a server whose endpoints are configured; give it as it is if nobody says.

        Raises:
            OAuthProblem: somebody who might say cannot answer.
        """

        def read(body: bytes, at: str) -> AuthServer:
            found = authserver.read_beside(body, server, at)
            if found is None:
                raise OAuthProblem("it is about other endpoints")
            return found

        places = [self._config.issuer, server.token_endpoint, server.authorization_endpoint]
        trouble = None
        try:
            found = await self.resource(challenge)
        except OAuthProblem as problem:
            found, trouble = None, problem
        if found is not None:
            places[1:1] = found.authorization_servers[:MAX_AUTH_SERVERS]
        urls = [url for place in places if place for url in authserver.metadata_urls(place)]
        urls += [url for place in places[-2:] if place for url in authserver.metadata_urls(origin(place))]
        try:
            registers = await self._first(dict.fromkeys(urls), read, others=True)
        except OAuthProblem as problem:
            registers, trouble = None, trouble or problem
        if registers is None and trouble is not None and trouble.kind == "outage":
            raise trouble
        return registers or server

    async def _server(self, issuer: str) -> AuthServer:
        def read(body: bytes, at: str) -> AuthServer:
            return authserver.read_server(body, issuer, at=at, grant=self._config.grant)

        urls = authserver.metadata_urls(issuer)
        found = await self._first(urls, read, urls)
        if found is None:
            raise OAuthProblem(f"the authorization server {shown_url(issuer)} publishes no metadata")
        return found

    async def _legacy(self, challenge: Challenge | None) -> Discovered:
        """MCP 2025-03-26: the server is its own authorization server, with default endpoints where it says nothing.

        One that names its metadata (RFC 9728) is of a later revision: of that one nothing is assumed.
        """

        def read(body: bytes, at: str) -> AuthServer:
            return authserver.read_server(body, self._url, at=at, legacy=True, grant=self._config.grant)

        what = canonical_resource(self._url)
        server = await self._first([authserver.legacy_metadata_url(self._url)], read)
        if server is not None:
            return Discovered(None, server.issuer, server, what)
        named = challenge.resource_metadata if challenge is not None else None
        if named is not None:
            raise OAuthProblem(
                f"{shown_host(self._url)} says that {shown_url(named)} tells where to log in, and nothing is there"
            )
        server = authserver.default_endpoints(self._url)
        return Discovered(None, server.issuer, server, what, assumed=True)

    async def _first(
        self,
        urls: Iterable[str],
        read: Callable[[bytes, str], T],
        promised: Collection[str | None] = (),
        *,
        others: bool = False,
    ) -> T | None:
        """Return the first document that there is, None if there is none; it is judged the same wherever it lay.

        An address that cannot answer does not end the search: another one of the same party may.

        promised: where there is one, by the word of whoever it is about. Elsewhere a page for every path, or a refusal
            of strangers (401, 403), is how many sites say that there is nothing.
        others: a document that may not be believed does not end the search either.

        Raises:
            OAuthProblem: what was found may not be believed; or nothing was, and somebody cannot or will not answer.
        """
        trouble: OAuthProblem | None = None
        for url in urls:
            try:
                answer = await self._get(url)
                if answer is None or (answer.status != 200 and url not in promised):
                    continue
                if answer.status != 200:
                    raise OAuthProblem(
                        f"{shown_url(url)} answers HTTP {answer.status} to moltis: something before it may refuse "
                        f"programs (User-Agent {USER_AGENT})"
                    )
            except OAuthProblem as problem:
                trouble = trouble or problem
                continue
            try:
                found = read(answer.body, url)
            except OAuthProblem as problem:
                if problem.kind != "outage" and not others:
                    raise
                if problem.kind != "outage" or url in promised:  # it may not be believed, or is no JSON
                    trouble = trouble or problem
                continue
            self.unsure = trouble is not None
            return found
        if trouble is not None:
            raise trouble
        return None

    async def _get(self, url: str) -> Answer | None:
        """Fetch a document, or a refusal to give one (401, 403); None if there is none.

        Raises:
            OAuthProblem: nobody can say whether there is one.
        """
        if self._left == 0:
            raise OAuthProblem(f"{shown_host(self._url)} sends one around too long to find where to log in")
        self._left -= 1
        answer = None
        try:
            with anyio.move_on_after(DOCUMENT_SECS):
                answer = await self._fetcher.get(url)
        except FetchProblem as problem:
            if problem.status is not None:  # a redirect that is not followed leads to no document
                return None
            raise in_oauth(problem) from None
        if answer is None:
            raise OAuthProblem(f"no answer from {shown_host(url)} within {DOCUMENT_SECS:g} s", kind="outage")
        if answer.status >= 500 or answer.status in _NOT_NOW:
            wait = retry_after_secs(answer.headers.get("retry-after"), self._wall())
            raise OAuthProblem(
                f"{shown_host(url)} cannot say now where to log in (HTTP {answer.status})",
                kind="outage",
                retry_after_secs=wait,
            )
        return answer if answer.status in (200, 401, 403) else None


def in_oauth(problem: FetchProblem) -> OAuthProblem:
    """Return a failed fetch as what it means for a login."""
    return OAuthProblem(problem.message, kind=problem.kind, retry_after_secs=problem.retry_after_secs)
