"""What is held of one login: in memory, and on disk, where other processes of this user hold it too.

Memory is what counts while this runs: what cannot be written is used all the same. A refresh token goes to the issuer
that gave it and to nobody else, is presented by one process at a time, and is lost only if that issuer says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec.structs import replace

from moltis.http.fetch import Fetcher
from moltis.http.origins import canonical_resource, shown_host
from moltis.oauth.authorize import scope_to_ask
from moltis.oauth.authserver import manual_endpoints, same_issuer
from moltis.oauth.decisions import newer, presentable
from moltis.oauth.discovery import Discovered, Discovery
from moltis.oauth.endpoint import TokenEndpoint, become_client, end_registration, with_or_without
from moltis.oauth.grants import expired
from moltis.oauth.jobs import Crowd, Log
from moltis.oauth.model import (
    Challenge,
    Client,
    ClientConfig,
    Key,
    OAuthProblem,
    ProtectedResource,
    Record,
    RedirectHost,
    Tokens,
)
from moltis.oauth.pages import Page
from moltis.oauth.registration import NOWHERE, client_of
from moltis.oauth.store import Shelf, TokenStore, fingerprint

OnCallback = Callable[[str], Awaitable[Page]]

REVOKE_SECS = 5.0
"""For giving tokens back when a server is removed. Somebody waits for that."""

KEEP_SECS = 2.0
"""How long to wait for another process's refresh before a new login is saved. That process would save over it."""

NOT_KNOWN_THERE = frozenset({"invalid_client", "unauthorized_client"})
"""What an authorization server says of a client that it does not know any more (RFC 6749 section 5.2)."""


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What one login is about, and what it needs of the daemon and of this machine.

    url: of the server. config: `[oauth]`, expanded.
    fetcher: for this login alone, which says where it may go.
    tasks: hosts what is under way; it must outlive the login's `close`, or be cancelled.
    crowd: shared by all logins.
    listen: where the browser comes back to, as `loopback.listen`.
    open_browser: says whether a browser was started; must not raise.
    wall: seconds since the epoch. roll: a number of [0, 1) by chance.
    token: 256 random bits, URL-safe, 43 characters or more.
    secrets: told values to take out of whatever is shown from now on.
    """

    server: str
    url: str
    config: ClientConfig
    store: TokenStore
    fetcher: Fetcher
    tasks: TaskGroup
    crowd: Crowd
    listen: Callable[[int, OnCallback, RedirectHost], AbstractAsyncContextManager[str]]
    open_browser: Callable[[str], Awaitable[bool]]
    wall: Callable[[], float]
    roll: Callable[[], float]
    token: Callable[[], str]
    secrets: Callable[[Iterable[str]], None]
    log: Log

    def __repr__(self) -> str:
        return f"Means({self.server!r})"  # a URL may have a secret in it


class Keeper:
    """Holds one login.

    discovery: finds out whom to ask for it.
    refused: the Authorization value that the server refused last with a 401.
    """

    def __init__(self, means: Means) -> None:
        self.discovery = Discovery(means.fetcher, means.url, means.config, means.wall)
        self.refused: str | None = None
        self.record: Record | None = None
        self.looked = False
        self.registers_anew = False
        """Whether the next login does not use a registration that there is: its issuer may know it no more. What was
        given to it is renewed as it all the same."""
        self.refused_scopes: set[frozenset[str]] = set()
        """What was asked for in vain since the last login."""
        self._server = means.server
        self._config = means.config
        self._fetcher = means.fetcher
        self._wall = means.wall
        self._secrets = means.secrets
        self._log = means.log
        self._resource = canonical_resource(means.url)
        self._shelf = Shelf(means.server, means.store, means.log)
        self._resource_id = self._resource if means.config.manual else None
        """What tokens are asked for; None until the server was asked what it calls itself."""
        self._obtained: Tokens | None = None
        self._renewed = False
        self._spent: str | None = None
        """The refresh token, by fingerprint, that is not presented again."""
        self._registered: tuple[str, Client] | None = None
        self._left: str | None = None
        """The issuer that the server names no more: what is on disk of it stays there."""

    @property
    def tokens(self) -> Tokens | None:
        return self.record.tokens if self.record is not None else None

    @property
    def issuer(self) -> str | None:
        """Whom what is held belongs to."""
        return self.record.key.issuer if self.record is not None else None

    @property
    def obtained(self) -> Tokens | None:
        """The tokens that this process got, not found; they may be held no more."""
        return self._obtained

    @property
    def renewed(self) -> bool:
        """Whether no person was needed for them."""
        return self._renewed

    @property
    def refreshable(self) -> bool:
        """Whether there is a refresh token that may be presented, as far as is known without looking."""
        tokens = self.tokens
        return (
            tokens is not None and tokens.refresh_token is not None and fingerprint(tokens.refresh_token) != self._spent
        )

    @property
    def usable(self) -> bool:
        """Whether something is held that is good, as far as anybody knows."""
        tokens = self.tokens
        return tokens is not None and tokens.authorization != self.refused and not expired(tokens, self._wall())

    @property
    def lost(self) -> str | None:
        """Why what was kept of a login could not be used, while there is no other."""
        why = self._shelf.lost(self._resource, self._config.client_id) if self.record is None else None
        return why and f"what was kept of the login cannot be used: {why}"

    # --- finding

    async def look(self) -> None:
        """See whether another process has left something newer on disk, or this one in an earlier life.

        Raises:
            OAuthProblem: `outage`: it cannot be seen now.
        """
        found = await self._find()
        self.looked = True
        if found is None or found.key.issuer == self._left:
            return
        if self.record is None or newer(found.tokens, self.tokens):
            self._hold(found)

    async def _find(self) -> Record | None:
        if not self._config.manual and self._config.issuer is not None:
            return await self._shelf.load(Key(self._resource, self._config.issuer, self._config.client_id))
        if not self._config.manual:
            found = await self._shelf.find(self._resource, self._config.client_id)
            return found if found is not None and not found.server.manual else None
        server = manual_endpoints(self._config)
        found = await self._shelf.load(Key(self._resource, server.issuer, self._config.client_id))
        return replace(found, server=server) if found is not None else None

    async def moved(self, challenge: Challenge | None) -> bool:
        """Say whether the server names other authorization servers than the one that what is held belongs to.

        If it cannot be asked, or says nothing that can be believed, it has not: its issuer may be asked still.
        """
        if self._config.manual or self._config.issuer is not None or self.record is None:
            return False
        issuer = self.record.key.issuer
        try:
            found, sure = await self.discovery.find_resource(challenge)
        except OAuthProblem:
            return False
        if found is not None and sure and not _names(found, issuer):
            return True
        self._resource_id = found.resource if found is not None else self._resource
        return False

    def leave(self) -> None:
        """Hold nothing any more of an issuer that the server has left. Its own file stays, under its own key."""
        assert self.record is not None
        self._log.warning("authorization_server_changed", server=self._server, old=shown_host(self.record.key.issuer))
        self._left = self.record.key.issuer
        self.record = None
        self._resource_id = None

    async def settle(self, found: Discovered) -> Record:
        """Return what is known of a login at the authorization server that was found, to be completed.

        Raises:
            OAuthProblem: the configured client belongs to another one.
        """
        issuer = found.issuer
        if self._left is not None and same_issuer(self._left, issuer):
            self._left = None
        known = self.record
        if known is None or not same_issuer(known.key.issuer, issuer):
            known = await self._known_at(issuer)
        self._resource_id = found.resource_id
        if found.server.unusable:
            self._log.warning(
                "endpoints_not_used", server=self._server, issuer=shown_host(issuer), why=list(found.server.unusable)
            )
        # Kept under the spelling that it was kept under before, whatever slash there is by now.
        known = known or Record(key=Key(self._resource, issuer, self._config.client_id), server=found.server)
        client = known.client
        if self._registered is not None and self._registered[0] == known.key.issuer:
            client = self._registered[1]
        return replace(known, server=found.server, client=None if self.registers_anew else client)

    async def _known_at(self, issuer: str) -> Record | None:
        """Find what is kept of a login at an issuer.

        Raises:
            OAuthProblem: there is none, and the configured client was used at another one: who registered it there
                meant that one.
        """
        key = Key(self._resource, issuer, self._config.client_id)
        if self._config.manual:
            return await self._shelf.load(key)
        if self._config.issuer is not None:
            other = await self._shelf.load(key) or await self._find()
        else:
            other = await self._shelf.nearest(key)
            if other is not None and other.server.manual and other.key != key:
                return None
        if other is None or same_issuer(other.key.issuer, issuer):
            return other
        if self._config.client_id is not None:
            raise OAuthProblem(
                f"{shown_host(self._resource)} now names {shown_host(issuer)} as its authorization server, and "
                f"oauth.client_id belongs to {shown_host(other.key.issuer)}: nothing of it is sent there; if that is "
                "right, set auth_url and token_url in moltis.toml"
            )
        return None

    # --- getting

    async def refresh(self, *, anew: bool = False) -> None:
        """Present the refresh token, or find that another process has done so.

        anew: ask first where its issuer's endpoints are by now.

        Raises:
            OAuthProblem: `denied`: it is good for nothing, and held no more; anything else: it is kept.
        """
        await self.discovery.look_around()
        if anew:
            await self._find_endpoints()
        resource = await self._identifier()
        if self.record is None:
            raise OAuthProblem("it has another authorization server now", kind="denied")
        key = self.record.key
        async with AsyncExitStack() as stack:
            await self._shelf.lock(stack, key)
            found = await self._shelf.load(key)
            if found is not None and newer(found.tokens, self.tokens):
                self._hold(found)
                return
            await self._present(self.record, self._config.resource_to_say(resource))

    async def _find_endpoints(self) -> None:
        """See whether the issuer has moved its endpoints. Whatever comes of that, it is the same issuer."""
        with suppress(OAuthProblem):
            found = await self.discovery.discover(None, prefer=self.issuer)
            if self.record is not None and same_issuer(found.issuer, self.record.key.issuer):
                self.record = replace(self.record, server=found.server)
                self._resource_id = found.resource_id

    async def _present(self, record: Record, resource: str | None) -> None:
        tokens, client = record.tokens, client_of(self._config, record, self._wall())
        if tokens is None or tokens.refresh_token is None:
            raise OAuthProblem("there is no refresh token", kind="denied")
        mark = fingerprint(tokens.refresh_token)
        interrupted = await self._shelf.interrupted(record.key)
        if not presentable(mark, interrupted=interrupted, rotates=record.rotates):
            await self._drop(record)
            raise OAuthProblem("a refresh was interrupted, and it is not known how it ended", kind="denied")
        if client is None:
            await self._drop(record)
            raise OAuthProblem("the client that the login was made with is not known any more", kind="denied")
        endpoint = TokenEndpoint(self._fetcher, record.server, client, wall=self._wall)
        begun = partial(self._shelf.begin_refresh, record.key, mark)
        try:
            got, said = await with_or_without(
                record.resource_to_ask(resource), lambda said: endpoint.refresh(tokens, said, sending=begun)
            )
        except anyio.get_cancelled_exc_class():
            # Given up in good order it is an outage like any other. Only of a process that was killed nobody can say
            # what became of its last request.
            with anyio.CancelScope(shield=True):
                await self._shelf.end_refresh(record.key)
            raise
        except OAuthProblem as problem:
            await self._shelf.end_refresh(record.key)
            if problem.kind != "denied" or not await self._superseded(record):
                if problem.kind == "denied":
                    await self._drop(record, client_too=problem.code in NOT_KNOWN_THERE)
                raise
            return
        # Whether this issuer replaces refresh tokens shows each time. Until it has, it counts as one that does.
        rotates = got.refresh_token != tokens.refresh_token
        self._obtained, self._renewed = got, True
        await self._save(self.heard(replace(record, tokens=got, rotates=rotates), resource, said))
        self._log.info("token_refreshed", server=self._server, issuer=shown_host(record.key.issuer))

    def heard(self, record: Record, resource: str | None, said: str | None) -> Record:
        """Return a record that knows what its token endpoint made of `resource`; `said`: with what it gave tokens."""
        if said == resource or record.resource_refused == resource:
            return record
        self._log.warning("resource_refused", server=self._server, issuer=shown_host(record.key.issuer))
        return replace(record, resource_refused=resource)

    async def _superseded(self, record: Record) -> bool:
        """Say whether another process has logged in or refreshed meanwhile, and hold what it got."""
        found = await self._shelf.load(record.key)
        if found is None or not newer(found.tokens, record.tokens):
            return False
        self._hold(found)
        return True

    async def _drop(self, record: Record, *, client_too: bool = False) -> None:
        """Forget a refresh token that is over. An access token lives out its life, unless it was refused too."""
        tokens = record.tokens
        if tokens is None:
            return
        if tokens.refresh_token is not None:
            self._spent = fingerprint(tokens.refresh_token)
        if client_too:
            self._registered = None
        over = expired(tokens, self._wall()) or tokens.authorization == self.refused
        left = None if over else replace(tokens, refresh_token=None)
        await self._save(replace(record, tokens=left, client=None if client_too else record.client))

    async def grant(self, challenge: Challenge | None, granted: str | None) -> None:
        """Get a token for ourselves, with nobody logging in (RFC 6749 section 4.4).

        granted: as in `scope_to_ask`.

        Raises:
            OAuthProblem: none was given.
        """
        found = await self.discovery.discover(challenge, prefer=self.issuer)
        base = await self.settle(found)
        scope = scope_to_ask(self._config, challenge, found.resource, found.server, granted=granted)
        client = await become_client(
            self._fetcher, self._config, found.server, base.client, redirect_uri=NOWHERE, scope=scope, wall=self._wall
        )
        endpoint = TokenEndpoint(self._fetcher, found.server, client, wall=self._wall)
        resource = self._config.resource_to_say(found.resource_id)
        tokens, said = await with_or_without(
            base.resource_to_ask(resource), lambda said: endpoint.client_credentials(scope, said)
        )
        await self.keep(self.heard(replace(base, tokens=tokens, rotates=True), resource, said), renewed=True)
        self._log.info("token_granted", server=self._server, issuer=shown_host(base.key.issuer))

    async def _identifier(self) -> str:
        """Return what to ask tokens for. It is not on disk: after a start the server is asked what it calls itself."""
        if self._resource_id is None:
            found, sure = await self.discovery.find_resource(None)
            assert self.record is not None
            moved = found is not None and sure and not _names(found, self.record.key.issuer)
            if moved and self._config.issuer is None:
                self.leave()
                return self._resource
            self._resource_id = found.resource if found is not None else self._resource
        return self._resource_id

    # --- keeping

    async def keep(self, record: Record, *, renewed: bool = False) -> None:
        """Hold what was just obtained, and save it, after a refresh that another process is at."""
        self._obtained, self._renewed = record.tokens, renewed
        self.refused_scopes.clear()
        self._hold(record)
        self.looked = True  # nothing on disk is newer
        async with AsyncExitStack() as stack:
            with anyio.move_on_after(KEEP_SECS, shield=True), suppress(OAuthProblem):
                await self._shelf.lock(stack, record.key)
            await self._save(record)

    def registered(self, issuer: str, client: Client) -> None:
        """Remember a client for the next login, should this one come to nothing. On disk it goes with its tokens."""
        if client.source == "registered":
            self._registered = (issuer, client)
            self.registers_anew = False

    async def doubt(self, key: Key, client: Client) -> None:
        """Use a registration for no further login: nobody came back from one, as when its issuer knows it no more.

        On disk it stays with a refresh token that was given to it.
        """
        self.register_anew()
        known = self.record if self.record is not None and self.record.key == key else await self._shelf.load(key)
        if known is None or known.tokens is None or known.tokens.refresh_token is None:
            await self.unregister(key, client)

    def register_anew(self) -> None:
        """Have the next login introduce itself as if for the first time."""
        self._registered, self.registers_anew = None, True

    async def unregister(self, key: Key, client: Client) -> None:
        """Forget a client that its issuer does not know any more, here and on disk: the next login registers anew.

        Only one that was registered: what a person wrote into moltis.toml is theirs to change.
        """
        if client.source != "registered":
            return
        if self._registered is not None and self._registered[1].client_id == client.client_id:
            self._registered = None
        known = self.record if self.record is not None and self.record.key == key else await self._shelf.load(key)
        if known is not None and known.client is not None and known.client.client_id == client.client_id:
            forgotten = replace(known, client=None)
            if self.record is known:
                await self._save(forgotten)
            else:
                await self._shelf.save(forgotten)

    async def forget(self, *, client_too: bool = True) -> None:
        """Delete the login here, and give its tokens back (RFC 7009), as far as that works.

        client_too: end its registration too (RFC 7592); else the next login uses that one.
        """
        if not self.looked:
            try:
                await self.look()
            except OAuthProblem as problem:
                self._log.warning("login_not_forgotten", server=self._server, problem=problem.message)
        record, self.record = self.record, None
        if record is None:
            return
        await self._shelf.delete(record.key)
        client = client_of(self._config, record, self._wall())
        registered = record.client if record.client is not None and record.client.source == "registered" else None
        if registered is not None and not client_too:
            await self._shelf.save(replace(record, tokens=None))
        with anyio.move_on_after(REVOKE_SECS):
            try:
                await self.discovery.look_around()
            except OAuthProblem:
                return
            revoked = await self._revoke(record, client) if client is not None else False
            ended = await end_registration(self._fetcher, registered) if registered is not None and client_too else None
            self._log.info("login_forgotten", server=self._server, tokens_revoked=revoked, registration_ended=ended)

    async def _revoke(self, record: Record, client: Client) -> bool:
        tokens = record.tokens
        if tokens is None:
            return False
        endpoint = TokenEndpoint(self._fetcher, record.server, client, wall=self._wall)
        refresh = tokens.refresh_token
        done = await endpoint.revoke(refresh, "refresh_token") if refresh is not None else True
        # A server that ends the whole grant with its refresh token need not say so (RFC 7009 section 2.1).
        return await endpoint.revoke(tokens.access_token, "access_token") and done

    def _hold(self, record: Record) -> None:
        self.record = record
        tokens, client = record.tokens, record.client
        values = (
            tokens and tokens.access_token,
            tokens and tokens.refresh_token,
            client and client.client_secret,
            client and client.registration_token,
        )
        self._secrets([value for value in values if value])

    async def _save(self, record: Record) -> None:
        self._hold(record)
        await self._shelf.save(record)


def _names(resource: ProtectedResource, issuer: str) -> bool:
    return any(same_issuer(named, issuer) for named in resource.authorization_servers)
