"""Whom to ask for a token: the steps of `resource` and `authserver` over the network, each address checked.

What is not there (4xx) or is no JSON sends one to the next address, as MCP orders them. What is there is believed or
refused as it is: no other address of the same party makes good for a document that may not be believed. A party that
cannot answer (no connection, 5xx, 429) is an outage: nothing follows from it, least of all that there is no document.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio

from moltis.http.addresses import Scope, neighbours
from moltis.http.fetch import Answer, Fetcher, FetchProblem
from moltis.http.origins import canonical_resource, shown_host
from moltis.http.retry_after import retry_after_secs
from moltis.oauth import authserver, resource
from moltis.oauth.authserver import same_issuer
from moltis.oauth.model import AuthServer, Challenge, ClientConfig, OAuthProblem, ProtectedResource

MAX_FETCHES = 12
DISCOVERY_SECS = 15.0
"""For all of them."""

MAX_AUTH_SERVERS = 3
"""Of those that a resource names."""

T = TypeVar("T")

_NOT_NOW = frozenset({408, 425, 429})
"""4xx that do not say that there is nothing."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """Who gives out tokens for a server.

    resource: None where the server publishes nothing of the kind (MCP 2025-03-26), or the endpoints are configured.
    issuer: as whoever names it spells it; `server.issuer` is as it spells itself (`authserver.same_issuer`).
    resource_id: what to ask tokens for (RFC 8707).
    assumed: nothing was found; the endpoints are those that MCP 2025-03-26 falls back to.
    """

    resource: ProtectedResource | None
    issuer: str
    server: AuthServer
    resource_id: str
    assumed: bool = False


class Discovery:
    """Asks for one server.

    url: the MCP server's.
    wall: seconds since the epoch.
    """

    def __init__(self, fetcher: Fetcher, url: str, config: ClientConfig, wall: Callable[[], float]) -> None:
        self.allowed: frozenset[Scope] = frozenset()
        """Where the fetcher may go for this server, as of the last `look_around`."""
        self._fetcher = fetcher
        self._url = url
        self._config = config
        self._wall = wall

    async def look_around(self) -> None:
        """See where the server is, which says what may be reached for it (`addresses.neighbours`).

        Endpoints that are configured may be anywhere.

        Raises:
            OAuthProblem: it cannot be resolved.
        """
        if self._config.manual:
            return
        try:
            self.allowed = neighbours(await self._fetcher.scopes_of(self._url))
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
            server = authserver.manual_endpoints(self._config)
            return Discovered(None, server.issuer, server, canonical_resource(self._url))
        await self.look_around()
        search = _Search(self._fetcher, self._url, self._config, self._wall)
        return await self._in_time(search.discover(challenge, prefer))

    async def find_resource(self, challenge: Challenge | None) -> ProtectedResource | None:
        """Find what the server says of itself (RFC 9728), None if it says nothing. Raises as `discover`."""
        await self.look_around()
        search = _Search(self._fetcher, self._url, self._config, self._wall)
        return await self._in_time(search.resource(challenge))

    async def _in_time(self, work: Awaitable[T]) -> T:
        with anyio.move_on_after(DISCOVERY_SECS):
            return await work
        raise OAuthProblem(
            f"{shown_host(self._url)} and those it names did not say within {DISCOVERY_SECS:g} s where to log in",
            kind="outage",
        )


class _Search:
    """One search, of at most `MAX_FETCHES` fetches."""

    def __init__(self, fetcher: Fetcher, url: str, config: ClientConfig, wall: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._url = url
        self._config = config
        self._wall = wall
        self._left = MAX_FETCHES

    async def discover(self, challenge: Challenge | None, prefer: str | None) -> Discovered:
        found = await self.resource(challenge)
        if found is None:
            return await self._legacy()
        issuers = sorted(found.authorization_servers, key=lambda issuer: not same_issuer(issuer, prefer or ""))
        problem: OAuthProblem | None = None
        for issuer in issuers[:MAX_AUTH_SERVERS]:
            try:
                return Discovered(found, issuer, await self._server(issuer), found.resource)
            except OAuthProblem as refusal:
                if refusal.kind == "outage":
                    raise
                problem = problem or refusal
        assert problem is not None, "a resource names at least one"
        raise problem

    async def resource(self, challenge: Challenge | None) -> ProtectedResource | None:
        urls = resource.metadata_urls(self._url, challenge)
        named = challenge.resource_metadata if challenge is not None else None
        for url in urls:
            answer = await self._get(url)
            if answer is None:
                continue
            try:
                return resource.read_resource(answer.body, self._url)
            except OAuthProblem as problem:
                # No JSON. Where the server itself says that it is, something is broken; elsewhere that is how sites
                # answer that have one page for every path.
                if problem.kind != "outage" or url == named:
                    raise
        return None

    async def _server(self, issuer: str) -> AuthServer:
        strange: OAuthProblem | None = None
        for url in authserver.metadata_urls(issuer):
            answer = await self._get(url)
            if answer is None:
                continue
            try:
                return authserver.read_server(answer.body, issuer, grant=self._config.grant)
            except OAuthProblem as problem:
                if problem.kind != "outage":
                    raise
                strange = problem
        raise strange or OAuthProblem(f"the authorization server {shown_host(issuer)} publishes no metadata")

    async def _legacy(self) -> Discovered:
        """MCP 2025-03-26: the server is its own authorization server, with default endpoints where it says nothing."""
        answer = await self._get(authserver.legacy_metadata_url(self._url))
        what = canonical_resource(self._url)
        if answer is not None:
            try:
                server = authserver.read_server(answer.body, self._url, legacy=True, grant=self._config.grant)
                return Discovered(None, server.issuer, server, what)
            except OAuthProblem as problem:
                if problem.kind != "outage":
                    raise
        server = authserver.default_endpoints(self._url)
        return Discovered(None, server.issuer, server, what, assumed=True)

    async def _get(self, url: str) -> Answer | None:
        """Fetch a document; None if there is none."""
        if self._left == 0:
            raise OAuthProblem(f"{shown_host(self._url)} sends one around too long to find where to log in")
        self._left -= 1
        try:
            answer = await self._fetcher.get(url)
        except FetchProblem as problem:
            raise in_oauth(problem) from None
        if answer.status == 200:
            return answer
        if answer.status >= 500 or answer.status in _NOT_NOW:
            wait = retry_after_secs(answer.headers.get("retry-after"), self._wall())
            raise OAuthProblem(
                f"{shown_host(url)} cannot say now where to log in (HTTP {answer.status})",
                kind="outage",
                retry_after_secs=wait,
            )
        return None


def in_oauth(problem: FetchProblem) -> OAuthProblem:
    """Give a failed fetch as what it means for a login."""
    return OAuthProblem(problem.message, kind=problem.kind, retry_after_secs=problem.retry_after_secs)
