"""One login: what is known of it, what is under way, and who waits for that.

Whoever sends requests asks for `authorization` and tells of a refusal; people begin a login and complete it. Nothing
is decided here (`decisions`), and nothing is done in the task of whoever asks (`jobs`): this file brings the two
together, so that a renewal, a login or a look at the disk is under way once, however many wait for it.

Three ways to fail are kept apart. An outage costs the request that met it, never the login, and is tried again later.
A login that a person must make is `LoginNeeded`, with the URL if there is one. What no login by itself would mend waits
until a person begins one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from moltis.errors import LoginNeeded
from moltis.http.addresses import Scope
from moltis.http.fetch import Fetcher
from moltis.http.origins import shown_host
from moltis.oauth.attempts import Attempts
from moltis.oauth.authorize import INSUFFICIENT_SCOPE
from moltis.oauth.callback import Callback
from moltis.oauth.challenge import bearer_challenge
from moltis.oauth.decisions import (
    FRESH_SECS,
    MAX_LOGINS_PER_HOUR,
    MAX_LOGINS_PER_SCOPE,
    History,
    Known,
    Refused,
    Sending,
    Step,
    after_refusal,
    before_sending,
)
from moltis.oauth.discovery import Discovery
from moltis.oauth.documents import scope_tokens
from moltis.oauth.flow import Ask, Means, Ports
from moltis.oauth.grants import expired
from moltis.oauth.jobs import Jobs, Log, abandoned, again
from moltis.oauth.keeper import Keeper
from moltis.oauth.model import AuthState, Challenge, ClientConfig, OAuthProblem, Tokens
from moltis.oauth.renewal import Renewal
from moltis.oauth.standing import Standing
from moltis.oauth.store import TokenStore

__all__ = ["Login", "Ports", "Refusal"]

URL_SECS = 1.0
"""How long a refused request waits for the URL to tell of."""

BEGIN_SECS = 40.0
"""How long a person waits for it: discovery takes at most 15 s, a registration 10 s."""

MAX_STEPS = 16
"""Of one refusal; the longest way there is has 8. More would be a fault of ours, and must not turn into a loop."""


class Refusal(Protocol):
    """What `transport.remote.Refusal` has."""

    @property
    def status(self) -> int: ...

    @property
    def challenges(self) -> Sequence[str]: ...

    @property
    def sent(self) -> str | None: ...


class Login:
    """The login at one remote server; fits `transport.remote.Credentials`.

    url: the server's. config: `[oauth]`, expanded.
    static_authorization: moltis.toml gives the Authorization header and no [oauth]: then there is no login here.
    fetcher: its `allowed` should be `lambda: login.allowed`.
    tasks: hosts what is under way; it must outlive `close`, or be cancelled.
    on_change: told when `state`, `auth_url` or `message` has changed. on_authenticated: told when a person's login, or
        one that a person began, is done. Neither may block or raise.
    wall: seconds since the epoch. token: 256 random bits, URL-safe, 43 characters or more.
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
        wall: Callable[[], float],
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
        self._wall = wall
        self._log = log
        self._discovery = Discovery(fetcher, url, config, wall)
        self._keeper = Keeper(server, url, config, store, fetcher, self._discovery, wall=wall, secrets=secrets, log=log)
        self._jobs = Jobs(server, tasks, log)
        self._standing = Standing()
        self._renewal = Renewal(
            server, self._keeper, self._jobs, self._standing, wall=wall, on_change=self._changed, log=log
        )
        means = Means(
            server, config, self._keeper, self._discovery, fetcher, ports, wall, token, secrets, self._changed, log
        )
        self._attempts = Attempts(
            means, self._jobs, self._standing, usable=self._usable, on_authenticated=on_authenticated
        )
        self._ask = Ask()
        self._history = History()
        self._moved = False
        self._sent: Tokens | None = None
        self._sent_at = 0.0
        self._told: tuple[AuthState, str | None, str | None] = ("not_required", None, None)

    # --- what anyone may see

    @property
    def allowed(self) -> frozenset[Scope]:
        """Where the fetcher may go on behalf of this server."""
        return self._discovery.allowed

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
        """Why it failed, or why the last answer of a browser was refused; no secret in it."""
        return self._attempts.note if self.auth_url is not None else self._standing.problem

    # --- for requests

    async def authorization(self) -> str | None:
        """Give the value of the Authorization header of the next request; renews an expired token first.

        Raises:
            ServerNotReady: the token has expired, and nobody can renew it now.
        """
        if self._static:
            return None
        if not self._keeper.looked:
            await self._look()
        tokens = self._keeper.tokens
        if tokens is None:
            return None
        renewable = self._keeper.refreshable or self._config.grant == "client_credentials"
        match before_sending(tokens, renewable=renewable, wall=self._wall()):
            case Sending.RENEW_MEANWHILE:
                self._renewal.begin_unless_down()
            case Sending.RENEW_FIRST:
                await self._renewal.done()
                tokens = self._keeper.tokens
        return self._send(tokens) if tokens is not None else None

    async def refused(self, refusal: Refusal) -> bool:
        """Take note of a refusal, and say whether the request may be sent once more with what is held now.

        Raises:
            LoginNeeded: a person must log in; with `auth_url` if it was known within a second.
            ServerNotReady: the authorization server cannot be reached now; what is held is kept.
        """
        if self._static or self._jobs.closed:
            return False
        challenge = bearer_challenge(refusal.challenges)
        asks = frozenset(scope_tokens(challenge.scope or "")) if challenge is not None else frozenset()
        insufficient = challenge is not None and challenge.error == INSUFFICIENT_SCOPE
        refused = Refused(refusal.status, refusal.sent, asks, insufficient)
        if refused.status == 401:
            self._standing.refused = refused.sent
        looked, moved = False, None
        for _ in range(MAX_STEPS):
            known = self._known(refused, looked=looked, moved=moved)
            # More than before is asked for where that is what is missing.
            ask = Ask(challenge, self._asked_before() if insufficient or known.fresh else None)
            match after_refusal(refused, known, self._history, anyio.current_time()):
                case Step.RETRY:
                    return True
                case Step.NOT_OURS:
                    return False
                case Step.LOOK:
                    await self._look()
                    looked = True
                case Step.ASK_RESOURCE:
                    moved = await self._has_moved(challenge)
                case Step.LEAVE:
                    self._keeper.leave()
                    moved = None
                case Step.REFRESH:
                    await self._refresh(refused)
                case Step.CLIENT_CREDENTIALS:
                    await self._grant(ask, refused)
                case Step.LOGIN | Step.STEP_UP:
                    raise await self._login_needed(ask, refused)
                case end:
                    raise self._given_up(end, ask)
        raise AssertionError("every refusal comes to an end")

    # --- for people

    async def begin(self, force: bool = True) -> str | None:
        """Begin a login, or join the one under way, and give its URL; None: nobody has to visit anything.

        Whatever was given up before is tried again. What is held stays in use until there is something newer.

        force: even if there are tokens that seem to be good.

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
        if not force and self._usable():
            return None
        self._standing.recovered()
        self._history = History()
        self._renewal.forgive()
        if self._config.grant == "client_credentials":
            await self._grant_for_person()
            return None
        flow = self._attempts.begin(self._ask)
        with anyio.move_on_after(BEGIN_SECS):
            await flow.prepared.wait()
        if flow.problem is not None:
            raise again(flow.problem)
        if not flow.prepared.is_set():
            raise OAuthProblem(f"where to log in to {self._host} is still being found out", kind="outage")
        return flow.url

    def awaits(self, state: str) -> bool:
        """Whether a callback with this `state` is for `complete` here."""
        return self._attempts.awaits(state)

    async def complete(self, callback: Callback) -> None:
        """Complete the login with what the browser came back with, wherever that was read.

        Raises:
            OAuthProblem: it is not the answer to the login under way, which goes on; or the login came to nothing.
        """
        await self._attempts.complete(callback)

    async def forget(self) -> None:
        """End everything, delete the login and revoke its tokens, as far as that works: for a server that is removed.

        Never raises, and takes at most 10 s. Tokens that another entry of moltis.toml uses (same URL, same client_id)
        are gone for it too.
        """
        await self._jobs.close()
        await self._keeper.forget()
        self._changed()

    async def close(self) -> None:
        """End everything that is under way and wait until it has ended. A refresh has 2 s to finish."""
        await self._jobs.close()
        self._changed()

    # --- what is known

    def _known(self, refused: Refused, *, looked: bool, moved: bool | None) -> Known:
        tokens = self._keeper.tokens
        unused = tokens is not self._sent or anyio.current_time() - self._sent_at < FRESH_SECS
        asked = frozenset(scope_tokens(self._asked_before()))
        if self._config.scopes and not refused.insufficient:
            asked |= refused.asks  # beyond what is configured nothing would be asked for
        return Known(
            grant=self._config.grant,
            current=tokens.authorization if tokens is not None else None,
            refreshable=self._keeper.refreshable,
            fresh=tokens is not None and tokens is self._keeper.obtained and unused,
            asked=asked,
            looked=looked,
            moved=moved,
            under_way=self._attempts.under_way,
            held=self._standing.held is not None,
        )

    def _asked_before(self) -> str:
        tokens = self._keeper.tokens
        return f"{self._attempts.asked or ''} {tokens.scope or '' if tokens is not None else ''}"

    def _usable(self) -> bool:
        """Whether something is held that is good, as far as anybody knows."""
        tokens = self._keeper.tokens
        return (
            tokens is not None and tokens.authorization != self._standing.refused and not expired(tokens, self._wall())
        )

    def _send(self, tokens: Tokens) -> str:
        if tokens is not self._sent:
            self._sent, self._sent_at = tokens, anyio.current_time()
        return tokens.authorization

    def _changed(self) -> None:
        seen = (self.state, self.auth_url, self.message)
        if seen != self._told:
            self._told = seen
            self._on_change()

    # --- the steps

    async def _look(self) -> None:
        before = self._keeper.tokens
        await self._jobs.join("look", self._keeper.look).outcome()
        if self._keeper.tokens is not before and self._usable():
            self._standing.recovered()
        self._changed()

    async def _has_moved(self, challenge: Challenge | None) -> bool:
        async def ask() -> None:
            self._moved = await self._keeper.moved(challenge)

        await self._jobs.join("ask resource", ask).outcome()
        return self._moved

    async def _refresh(self, refused: Refused) -> None:
        problem = await self._renewal.done()
        if problem is not None and refused.sent is not None:
            await self._keeper.forget_refused(refused.sent)

    async def _grant(self, ask: Ask, refused: Refused) -> None:
        if not self._renewal.under_way:
            self._renewal.ask = ask
            if ask.granted is not None:
                self._history = self._history.with_step_up(refused.asks, anyio.current_time())
        problem = await self._renewal.done()
        if problem is not None:
            self._standing.problem = problem.message
            self._changed()
            raise self._login_error(None)

    async def _grant_for_person(self) -> None:
        ours = not self._renewal.under_way
        problem = await self._renewal.begin().outcome()
        if problem is not None:
            self._standing.problem = problem.message
            self._changed()
            raise again(problem)
        if ours:
            self._on_authenticated()

    async def _login_needed(self, ask: Ask, refused: Refused) -> LoginNeeded:
        flow = self._attempts.present()
        if flow is None:
            count = self._history.with_login if ask.granted is None else self._history.with_step_up
            self._history = count(refused.asks, anyio.current_time())
            self._ask = ask
            flow = self._attempts.begin(ask)
        with anyio.move_on_after(URL_SECS):
            await flow.prepared.wait()
        return self._login_error(flow.url)

    def _given_up(self, end: Step, ask: Ask) -> LoginNeeded:
        standing = self._standing
        if end is not Step.HELD:
            standing.problem = standing.held = _WHY[end].format(host=self._host)
            self._ask = ask
            self._log.warning("login_given_up", server=self._server, problem=standing.held)
        elif not self._usable():
            standing.problem = standing.held
        self._changed()
        return self._login_error(None)

    def _login_error(self, url: str | None) -> LoginNeeded:
        why = self._standing.problem or self._standing.held
        told = f": {why}" if why is not None and url is None else ""
        return LoginNeeded(f"a person must log in to server {self._server!r}{told}", server=self._server, auth_url=url)


_WHY: Mapping[Step, str] = {
    Step.REFUSED_FRESH: "{host} refuses the very token that it was just given for, so no other is fetched: "
    "check url, and oauth.scopes, in moltis.toml",
    Step.REFUSED_SCOPE: f"{{host}} asked for the same scope {MAX_LOGINS_PER_SCOPE} times, and no login satisfied it",
    Step.TOO_OFTEN: f"{{host}} wanted {MAX_LOGINS_PER_HOUR} logins within an hour",
}
"""Why nobody is asked any more until somebody begins a login."""
