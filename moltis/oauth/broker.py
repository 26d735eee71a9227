"""One login: what is known of it, what is under way, and who waits for that.

Whoever sends requests asks for `authorization` and tells of a refusal; people begin a login and complete it. Nothing
is decided here (`decisions`), and nothing is done in the task of whoever asks (`jobs`): this file brings the two
together, so that a renewal, a login or a look at the disk is under way once, however many wait for it.

Three ways to fail are kept apart. An outage costs the request that met it, never the login, and is tried again later.
A login that a person must make is `LoginNeeded`, with the URL if there is one. What no login by itself would mend waits
until a person begins one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio
from anyio.abc import TaskGroup

from moltis.errors import NotSent
from moltis.http.fetch import Fetcher
from moltis.http.origins import shown_host
from moltis.oauth.attempts import Attempts
from moltis.oauth.callback import Callback
from moltis.oauth.decisions import Sending, before_sending
from moltis.oauth.discovery import Discovery
from moltis.oauth.flow import Means, Ports
from moltis.oauth.grants import expired
from moltis.oauth.jobs import Crowd, Jobs, Log, abandoned, again
from moltis.oauth.keeper import Keeper
from moltis.oauth.model import AuthState, ClientConfig, OAuthProblem
from moltis.oauth.refusals import Refusal, Refusals
from moltis.oauth.renewal import Renewal
from moltis.oauth.standing import Standing
from moltis.oauth.store import TokenStore
from moltis.server.states import State

__all__ = ["Login", "Ports", "Refusal"]

LOOK_AGAIN_SECS = 1.0
"""Until the disk is looked at again, where that could not be done."""

BEGIN_SECS = 40.0
"""How long a person waits for it: discovery takes at most 25 s, a registration 10 s."""


class Login:
    """The login at one remote server; fits `transport.remote.Credentials`.

    url: the server's. config: `[oauth]`, expanded.
    static_authorization: moltis.toml gives the Authorization header and no [oauth]: then there is no login here.
    fetcher: for this login alone, which says where it may go.
    tasks: hosts what is under way; it must outlive `close`, or be cancelled.
    on_change: told when `state`, `auth_url` or `message` has changed. on_authenticated: told when a person's login, or
        one that a person began, is done. on_renewed: told when it works again, by itself. None may block or raise.
    wall: seconds since the epoch. roll: a number of [0, 1) by chance. crowd: shared by all logins.
    token: 256 random bits, URL-safe, 43 characters or more.
    secrets: told values to take out of whatever is shown from now on.
    """

    def __init__(
        self,
        server: str,
        url: str,
        config: ClientConfig,
        *,
        static_authorization: bool,
        store: TokenStore,
        fetcher: Fetcher,
        ports: Ports,
        tasks: TaskGroup,
        on_change: Callable[[], None],
        on_authenticated: Callable[[], None],
        on_renewed: Callable[[], None],
        wall: Callable[[], float],
        roll: Callable[[], float],
        crowd: Crowd,
        token: Callable[[], str],
        secrets: Callable[[Iterable[str]], None],
        log: Log,
    ) -> None:
        self._server = server
        self._host = shown_host(url)
        self._config = config
        self._static = static_authorization
        self._on_change = on_change
        self._on_authenticated = on_authenticated
        self._on_renewed = on_renewed
        self._wall = wall
        self._standing = Standing()
        self._jobs = Jobs(server, tasks, log)
        self._discovery = Discovery(fetcher, url, config, wall)
        self._keeper = Keeper(
            server, url, config, store, fetcher, self._discovery, self._standing, wall=wall, secrets=secrets, log=log
        )
        self._renewal = Renewal(
            server,
            self._keeper,
            self._jobs,
            self._standing,
            wall=wall,
            roll=roll,
            crowd=crowd,
            on_change=self._changed,
            on_renewed=self._renewed,
            log=log,
        )
        means = Means(
            server, config, self._keeper, self._discovery, fetcher, ports, wall, token, secrets, self._changed, log
        )
        self._attempts = Attempts(
            means, self._jobs, self._standing, usable=self._usable, on_authenticated=self._authenticated
        )
        self._refusals = Refusals(
            server,
            self._host,
            config,
            keeper=self._keeper,
            attempts=self._attempts,
            renewal=self._renewal,
            standing=self._standing,
            jobs=self._jobs,
            look=self._look,
            usable=self._usable,
            wall=wall,
            on_change=self._changed,
            log=log,
        )
        self._told: tuple[AuthState, str | None, str | None] = ("not_required", None, None)

    # --- what anyone may see

    @property
    def state(self) -> AuthState:
        if self.auth_url is not None:
            return "awaiting_browser"
        if self._standing.problem is not None:
            return "failed"
        if self._attempts.under_way:
            return "awaiting_browser"
        return "authenticated" if self._keeper.tokens is not None else "not_required"

    @property
    def auth_url(self) -> str | None:
        """Where a person logs in; only in `awaiting_browser`, and there too only once it is known."""
        return self._attempts.url

    @property
    def message(self) -> str | None:
        """Why it failed, why the last answer of a browser was refused, or why a login is needed; no secret in it."""
        why = self._renewal.problem if self._renewal.doubted else None
        if self._attempts.under_way:
            why = why or self._keeper.lost
        return (self._attempts.note if self.auth_url is not None else self._standing.problem) or why

    @property
    def unavailable(self) -> str | None:
        """Why it cannot be used now though nobody has to log in: it cannot be renewed, which is tried again."""
        problem = self._renewal.problem
        if problem is None or self._renewal.doubted or self._usable():
            return None
        return f"the login of server {self._server!r} cannot be renewed now: {problem}"

    @property
    def ends_at(self) -> float | None:
        """When what is held ends, in seconds since the epoch; None where it can be renewed, or nothing is known."""
        tokens = self._keeper.tokens
        renewable = self._keeper.refreshable or self._config.grant == "client_credentials"
        return None if tokens is None or renewable or not self._usable() else tokens.expires_at

    @property
    def locked_out(self) -> bool:
        """Whether nobody can log in to a server that has served requests without a login."""
        standing = self._standing
        return standing.open and standing.unsaid and standing.problem is not None and self._keeper.tokens is None

    @property
    def next_try_at(self) -> str | None:
        """When a renewal that failed is tried again, RFC 3339."""
        return self._renewal.next_try_at

    # --- for requests

    async def authorization(self) -> str | None:
        """Give the value of the Authorization header of the next request; renews an expired token first.

        Raises:
            NotSent: the token has expired, and nobody can renew it now; or nobody can see now whether there is one.
        """
        if self._static:
            return None
        if not self._keeper.looked:
            await self._look()
        tokens = self._keeper.tokens
        if tokens is None:
            return None
        renewable = self._keeper.refreshable and not self._renewal.doubted
        renewable = renewable or self._config.grant == "client_credentials"
        match before_sending(tokens, renewable=renewable, wall=self._wall()):
            case Sending.RENEW_MEANWHILE:
                self._renewal.begin_unless_down()
            case Sending.RENEW_FIRST:
                await self._renewal.done()
                tokens = self._keeper.tokens
        return self._refusals.sending(tokens) if tokens is not None else None

    async def held(self) -> str | None:
        """Return the value of the Authorization header that is held and seems good; nothing is renewed for it.

        Raises:
            NotSent: nobody can see now whether there is one.
        """
        if self._static:
            return None
        if not self._keeper.looked:
            await self._look()
        tokens = self._keeper.tokens
        return tokens.authorization if tokens is not None and self._usable() else None

    async def refused(self, refusal: Refusal) -> bool:
        """Take note of a refusal, and say whether the request may be sent once more with what is held now.

        Raises:
            LoginNeeded: a person must log in; with `auth_url` if it was known within a second.
            NotSent: the authorization server cannot be reached now; what is held is kept.
        """
        if self._static or self._jobs.closed:
            return False
        return await self._refusals.take(refusal)

    def unneeded(self) -> None:
        """Take note that the server serves requests as they are sent; without a login, if there is none."""
        if self._static or self._keeper.tokens is not None:
            return
        self._standing.open = True
        if self._standing.unsaid:
            self._attempts.withdraw()  # nobody has been shown where to log in
            self._standing.recovered()
            self._changed()

    # --- for people

    async def begin(self, force: bool = True, *, new_client: bool = False) -> str | None:
        """Begin a login, or join the one under way, and give its URL; None: nobody has to visit anything.

        Whatever was given up before is tried again. What is held stays in use until there is something newer.

        force: even if there are tokens that seem to be good.
        new_client: with another registration than before; a login under way ends.

        Raises:
            OAuthProblem: it cannot be begun now; after an outage it is tried again in the background.
        """
        if self._static:
            raise OAuthProblem(
                f"nobody can log in to {self._server}: its headers in moltis.toml have an Authorization of their own, "
                "and there is no [oauth]"
            )
        if self._jobs.closed:
            raise abandoned()
        if not force:
            if not self._keeper.looked:
                await self._look()
            if self._usable():
                return None
        if new_client:
            await self._introduce_anew()
        self._standing.recovered()
        self._refusals.forgive()
        self._renewal.hasten()
        if self._config.grant == "client_credentials":
            await self._grant_for_person()
            return None
        flow = self._attempts.begin(self._refusals.ask, wanted=True)
        with anyio.move_on_after(BEGIN_SECS):
            await flow.prepared.wait()
        if self._jobs.closed:
            raise abandoned()
        if flow.problem is not None:
            raise again(flow.problem)
        if not flow.prepared.is_set():
            raise OAuthProblem(f"where to log in to {self._host} is still being found out", kind="outage")
        return flow.url

    async def _introduce_anew(self) -> None:
        if self._config.client_id is not None:
            raise OAuthProblem(
                f"oauth.client_id in moltis.toml says who moltis is to {self._host}, so nothing is registered: "
                "register another client there by hand, and write its id there"
            )
        if not self._keeper.registers_anew:  # else somebody has just asked for the same
            await self._attempts.end()
        self._keeper.register_anew()

    def awaits(self, state: str) -> bool:
        """Whether a callback with this `state` is for `complete` here."""
        return self._attempts.awaits(state)

    async def complete(self, callback: Callback) -> None:
        """Complete the login with what the browser came back with, wherever that was read.

        Raises:
            OAuthProblem: it is not the answer to the login under way, which goes on; or the login came to nothing.
        """
        await self._attempts.complete(callback)

    async def forget(self, *, client_too: bool = True) -> None:
        """End everything, delete the login and revoke its tokens, as far as that works: for a server that is removed.

        Never raises, and takes at most 10 s. Tokens that another entry of moltis.toml uses (same URL, same client_id)
        are gone for it too.

        client_too: as in `Keeper.forget`.
        """
        await self._jobs.close()
        await self._keeper.forget(client_too=client_too)
        self._changed()

    def hold(self, why: str) -> None:
        """Have no login begin by itself, until a person begins one; `why` is what is told meanwhile."""
        self._standing.problem = self._standing.held = why
        self._changed()

    async def close(self) -> None:
        """End everything that is under way and wait until it has ended. A refresh has 2 s to finish."""
        await self._jobs.close()
        self._changed()

    # --- behind all that

    def _changed(self) -> None:
        seen = (self.state, self.auth_url, self.message or self.unavailable)
        if seen != self._told:
            self._told = seen
            self._on_change()

    def _authenticated(self) -> None:
        self._renewal.forgive()
        self._changed()
        self._on_authenticated()

    def _renewed(self) -> None:
        """What nobody but us wanted to have mended by a person is mended."""
        self._attempts.withdraw()
        self._on_renewed()

    def _usable(self) -> bool:
        """Whether something is held that is good, as far as anybody knows."""
        tokens = self._keeper.tokens
        return (
            tokens is not None and tokens.authorization != self._standing.refused and not expired(tokens, self._wall())
        )

    async def _look(self) -> None:
        """Bring in what is on disk.

        Raises:
            NotSent: it cannot be seen now. It is tried again by itself.
        """
        before = self._keeper.tokens
        problem = await self._jobs.join("look", self._keeper.look).outcome()
        if problem is not None:
            self._jobs.join("look until it works", self._look_until_it_works)
            raise NotSent(
                f"the login of server {self._server!r} cannot be looked for now: {problem.message}",
                server=self._server,
                state=State.READY,
                hint="it is tried again by itself",
            )
        if self._keeper.tokens is not before and self._usable():
            self._standing.recovered()
        self._changed()

    async def _look_until_it_works(self) -> None:
        while True:
            await anyio.sleep(LOOK_AGAIN_SECS)
            if await self._jobs.join("look", self._keeper.look).outcome() is None:
                break
        self._changed()
        self._on_renewed()

    async def _grant_for_person(self) -> None:
        ours = not self._renewal.under_way
        problem = await self._renewal.begin().outcome()
        if problem is not None:
            self._standing.problem = problem.message
            self._changed()
            raise again(problem)
        if ours:
            self._authenticated()
