"""One login of a person, from finding out whom to ask to tokens that are kept. Single use.

A callback is acted upon once, and only if it is the answer to this very login; whatever else arrives changes nothing.
State and verifier are random, differ, and are in memory only, for as long as this runs.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import anyio
import msgspec
from msgspec.structs import replace

from moltis.http.origins import read_url, shown_host
from moltis.oauth import pages
from moltis.oauth.authorize import (
    Authorization,
    authorization_request,
    scope_of_client,
    scope_to_ask,
    unanswered,
    with_advice,
)
from moltis.oauth.callback import Callback, check_callback, parse_callback
from moltis.oauth.decisions import LOGIN_SECS
from moltis.oauth.discovery import Discovered
from moltis.oauth.endpoint import TokenEndpoint, become_client, with_or_without
from moltis.oauth.jobs import abandoned, again
from moltis.oauth.keeper import NOT_KNOWN_THERE, Keeper, Means
from moltis.oauth.model import Challenge, Client, OAuthProblem, Record, Tokens

EXCHANGE_SECS = 20.0
EXCHANGE_AGAIN_SECS = 1.0
"""For how long, and how often, it is tried to send a code that nobody has been told yet: it counts once, and not for
long, and a browser waits for what comes of it."""


class Ask(msgspec.Struct, frozen=True):
    """What a login is for.

    challenge: what the server said last, if anything.
    granted: for more scope than before: what was asked for or granted before.
    """

    challenge: Challenge | None = None
    granted: str | None = None


class Flow:
    """A login, from `run` to its end.

    prepared: there is a URL; or there will be none, and whoever runs it has said so everywhere (and sets this).
    note: why a callback was refused, if one was.
    posted: it has come to a request that may have had an effect at the other side.
    unsaid: the server does not say where to log in, and where that would be by default nothing is.
    on_change: told when there is a URL, or another reason why an answer was not taken.
    """

    def __init__(self, means: Means, keeper: Keeper, ask: Ask, on_change: Callable[[], None]) -> None:
        self.prepared = anyio.Event()
        self.problem: OAuthProblem | None = None
        self.note: str | None = None
        self.posted = False
        self.unsaid = False
        self.shown = False
        self.asked: str | None = None
        """The scope that was asked for."""
        self._means = means
        self._keeper = keeper
        self._on_change = on_change
        self._ask = ask
        self._request: Authorization | None = None
        self._answer: str | OAuthProblem | None = None
        self._answered = anyio.Event()
        self._settled = anyio.Event()

    @property
    def url(self) -> str | None:
        """Where the person logs in, while that is waited for."""
        return self._request.url if self._request is not None and not self._settled.is_set() else None

    @property
    def answered(self) -> bool:
        """Whether the browser has come back."""
        return self._answered.is_set()

    @property
    def settled(self) -> bool:
        """Whether it is over, with `problem` or without."""
        return self._settled.is_set()

    async def run(self) -> None:
        """Log in.

        Raises:
            OAuthProblem: it came to nothing.
        """
        try:
            await self._run()
        except OAuthProblem as problem:
            self._settle(problem)
        finally:
            self._settle(abandoned())  # unless it is settled
        if self.problem is not None:
            raise again(self.problem)

    def awaits(self, state: str) -> bool:
        """Whether a callback with this state is an answer to this login."""
        if self._request is None or self._settled.is_set():
            return False
        return hmac.compare_digest(_bytes(state), _bytes(self._request.state))

    async def complete(self, callback: Callback) -> None:
        """Take what the browser came back with, and wait until it has come to tokens that are kept.

        Raises:
            OAuthProblem: it is no answer to this login (which goes on), or the login came to nothing.
        """
        request = self._request
        if request is None or not self.awaits(callback.state):
            raise unknown_callback()
        if self._answered.is_set():
            raise OAuthProblem("this login has had its answer already; each counts once")
        if callback.code is not None:
            self._means.secrets([callback.code])
        try:
            self._answer = check_callback(
                callback, state=request.state, issuer=request.issuer, iss_supported=request.iss_supported
            )
        except OAuthProblem as problem:
            if problem.kind != "denied":
                self.note = problem.message
                self._means.log.warning("login_answer_refused", server=self._means.server, problem=problem.message)
                self._on_change()
                raise
            self._answer = problem
        self._answered.set()
        await self._settled.wait()
        if self.problem is not None:
            raise again(self.problem)

    # --- the steps

    async def _run(self) -> None:
        found = await self._keeper.discovery.discover(self._ask.challenge, prefer=self._keeper.issuer)
        base = await self._keeper.settle(found)
        async with self._listening(base.client) as redirect_uri:
            # Settled within the block: the page that a callback waits for is delivered as it ends.
            try:
                await self._log_in(found, base, redirect_uri)
            except OAuthProblem as problem:
                self._settle(problem)
            else:
                self._settle(None)

    async def _log_in(self, found: Discovered, base: Record, redirect_uri: str) -> None:
        means, server = self._means, found.server
        scope = scope_to_ask(
            means.config,
            self._ask.challenge,
            found.resource,
            server,
            granted=self._ask.granted,
            refused=self._keeper.refused_scopes,
        )
        resource = means.config.resource_to_say(found.resource_id)
        client = await self._become_client(found, base.client, redirect_uri, scope)
        self._keeper.registered(base.key.issuer, client)
        scope = scope_of_client(scope, client, self._ask.challenge)
        state, verifier = means.token(), means.token()
        secrets = (state, verifier, client.client_secret, client.registration_token)
        means.secrets([secret for secret in secrets if secret])
        request = authorization_request(
            server,
            client,
            redirect_uri=redirect_uri,
            scope=scope,
            resource=resource,
            state=state,
            verifier=verifier,
            prompt=means.config.prompt,
        )
        if server.manual and means.config.issuer is not None:
            request = replace(request, issuer=means.config.issuer)
        self.asked = scope
        try:
            code = await self._answer_to(request, unanswered(request, client, known=client is base.client))
            endpoint = TokenEndpoint(means.fetcher, server, client, wall=means.wall)
            tokens, said = await with_or_without(
                base.resource_to_ask(resource),
                lambda said: _exchanged(
                    partial(endpoint.exchange, code, verifier, redirect_uri, said, asked_scope=scope)
                ),
            )
        except OAuthProblem as problem:
            if problem.kind == "denied" and problem.code in NOT_KNOWN_THERE:
                await self._keeper.unregister(base.key, client)
            elif problem.kind == "expired" and client is base.client:
                await self._keeper.doubt(base.key, client)
            elif problem.code == "invalid_scope":
                self._keeper.refused_scopes.add(frozenset((scope or "").split()))
            raise with_advice(problem, server, request, client) from problem
        kept = client if client.source == "registered" else None
        # Until a refresh has shown otherwise, refresh tokens count as replaced by each use.
        record = replace(base, client=kept, tokens=tokens, rotates=True)
        await self._keeper.keep(self._keeper.heard(record, resource, said))

    @asynccontextmanager
    async def _listening(self, known: Client | None) -> AsyncIterator[str]:
        """Wait for the browser at the configured port, or where the known client said that it would, or anywhere."""
        port, host = self._means.config.callback_port, self._means.config.redirect_host
        listen = self._means.listen
        registered = read_url(known.redirect_uri) if known is not None and known.redirect_uri is not None else None
        async with AsyncExitStack() as stack:
            uri = None
            if port == 0 and registered is not None:
                # Taken by now? Then the client is registered anew, for another port.
                with suppress(OAuthProblem):
                    uri = await stack.enter_async_context(listen(registered.port, self._called_back, host))
            if uri is None:
                uri = await stack.enter_async_context(listen(port, self._called_back, host))
            yield uri

    async def _become_client(
        self, found: Discovered, known: Client | None, redirect_uri: str, scope: str | None
    ) -> Client:
        means = self._means
        self.posted = True
        try:
            return await become_client(
                means.fetcher,
                means.config,
                found.server,
                known,
                redirect_uri=redirect_uri,
                scope=scope,
                wall=means.wall,
            )
        except OAuthProblem as problem:
            if found.trouble is not None and problem.kind == "refused":
                raise again(found.trouble) from problem
            self.unsaid = found.assumed
            if found.assumed and problem.kind != "outage":
                host = shown_host(found.server.issuer)
                raise OAuthProblem(
                    f"{host} wants a login (401) and does not say how: check url and headers in moltis.toml, "
                    "or set auth_url, token_url and client_id there"
                ) from problem
            raise

    async def _answer_to(self, request: Authorization, unanswered: str) -> str:
        """Show the URL and wait for the code; `unanswered`: what is said if nobody comes back."""
        means = self._means
        self._request = request
        self.shown = True
        self.prepared.set()
        self._on_change()
        with anyio.move_on_after(LOGIN_SECS):
            opened = await means.open_browser(request.url)
            means.log.info("login_awaited", server=means.server, at=shown_host(request.url), browser=opened)
            await self._answered.wait()
        if isinstance(self._answer, OAuthProblem):
            raise self._answer
        if self._answer is None:
            why = f"the last answer was refused: {self.note}" if self.note is not None else unanswered
            raise OAuthProblem(f"the login was not completed within {LOGIN_SECS / 60:g} min; {why}", kind="expired")
        return self._answer

    async def _called_back(self, target: str) -> pages.Page:
        """Answer the browser."""
        try:
            await self.complete(parse_callback(target))
        except OAuthProblem as problem:
            return pages.failure(problem.kind, self._means.server)
        return pages.success(self._means.server)

    def _settle(self, problem: OAuthProblem | None) -> None:
        if not self._settled.is_set():
            self.problem = problem
            self._settled.set()
            self._request = None
            self._answer = None


async def _exchanged(exchange: Callable[..., Awaitable[Tokens]]) -> Tokens:
    """Exchange a code for tokens; again after an outage, as long as nobody was told it."""
    told = False

    async def sending() -> None:
        nonlocal told
        told = True

    give_up_at = anyio.current_time() + EXCHANGE_SECS
    while True:
        try:
            return await exchange(sending=sending)
        except OAuthProblem as problem:
            if problem.kind != "outage" or told or anyio.current_time() >= give_up_at:
                raise
        await anyio.sleep(EXCHANGE_AGAIN_SECS)


def unknown_callback() -> OAuthProblem:
    """Return what is said to an answer that nobody waits for."""
    return OAuthProblem("no login is waiting for this: it is over, or it was begun elsewhere")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
