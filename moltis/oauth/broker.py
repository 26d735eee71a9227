"""One login: what is known of it, what is under way, and who waits for that.

Whoever sends requests asks for `authorization` and tells of a refusal; people begin a login and complete it. Nothing
is decided here (`decisions`), and nothing is done in the task of whoever asks (`jobs`): this file brings the two
together, so that a refresh, a login or a look at the disk is under way once, however many wait for it.

Three ways to fail are kept apart. An outage costs the request that met it, never the login, and is tried again later.
A login that a person must make is `LoginNeeded`, with the URL if there is one. What no login by itself would mend waits
until a person begins one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from moltis.errors import LoginNeeded, MoltisError, ServerNotReady
from moltis.http.addresses import Scope
from moltis.http.fetch import Fetcher
from moltis.http.origins import shown_host
from moltis.oauth.callback import Callback
from moltis.oauth.challenge import bearer_challenge
from moltis.oauth.decisions import (
    FRESH_SECS,
    MAX_LOGINS_PER_HOUR,
    MAX_LOGINS_PER_SCOPE,
    History,
    Known,
    Outages,
    Refused,
    Sending,
    Step,
    after_refusal,
    before_sending,
)
from moltis.oauth.discovery import Discovery
from moltis.oauth.documents import scope_tokens
from moltis.oauth.flow import Ask, Flow, Means, Ports, unknown_callback
from moltis.oauth.grants import expired
from moltis.oauth.jobs import Job, Jobs, Log, abandoned, again
from moltis.oauth.keeper import Keeper
from moltis.oauth.model import AuthState, Challenge, ClientConfig, OAuthProblem, Tokens
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
        self._means = Means(
            server, config, self._keeper, self._discovery, fetcher, ports, wall, token, secrets, self._changed, log
        )
        self._jobs = Jobs(server, tasks, log)
        self._ask = Ask()
        self._flow: Flow | None = None
        self._login: Job | None = None
        self._logging_in = False
        self._hurry = anyio.Event()
        self._history = History()
        self._renewals = Outages()
        self._problem: str | None = None
        """Why it does not work; makes the state `failed`."""
        self._held: str | None = None
        """Why no login begins by itself, until a person begins one."""
        self._asked: str | None = None
        """The scope that the last login asked for."""
        self._moved = False
        self._sent: Tokens | None = None
        self._sent_at = 0.0
        self._refused: str | None = None
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
        if self._problem is not None:
            return "failed"
        if self._logging_in:
            return "awaiting_browser"
        return "authenticated" if self._keeper.tokens is not None else "not_required"

    @property
    def auth_url(self) -> str | None:
        """Where a person logs in; only in `awaiting_browser`, and there too only once it is known."""
        return self._flow.url if self._flow is not None else None

    @property
    def message(self) -> str | None:
        """Why it failed, or why the last answer of a browser was refused; no secret in it."""
        if self._flow is not None and self._flow.url is not None:
            return self._flow.note
        return self._problem

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
            case Sending.RENEW_MEANWHILE if self._renewals.over(anyio.current_time()):
                self._jobs.join("renew", self._renew, finish=True)
            case Sending.RENEW_FIRST:
                await self._renewed()
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
        insufficient = challenge is not None and challenge.error == "insufficient_scope"
        refused = Refused(refusal.status, refusal.sent, asks, insufficient)
        if refused.status == 401:
            self._refused = refused.sent
        looked, moved = False, None
        for _ in range(MAX_STEPS):
            known = self._known(refused, looked=looked, moved=moved)
            more = refused.insufficient or known.fresh
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
                    await self._renewed()
                    if not self._keeper.refreshable and refused.sent is not None:
                        await self._keeper.forget_refused(refused.sent)
                case Step.CLIENT_CREDENTIALS:
                    await self._granted(refused, challenge, more=more)
                case Step.LOGIN | Step.STEP_UP as step:
                    raise await self._login_needed(refused, challenge, more=step is Step.STEP_UP)
                case end:
                    raise self._given_up(end, challenge, more=more)
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
        self._held = self._problem = None
        self._history = History()
        self._renewals = Outages()
        if self._config.grant == "client_credentials":
            await self._grant_for_person()
            return None
        flow = self._flow
        if flow is None or not self._logging_in:
            flow = self._start_login()
        elif flow.settled:  # it waits for its next try
            flow = self._flow = Flow(self._means, self._ask)
            self._hurry.set()
        with anyio.move_on_after(BEGIN_SECS):
            await flow.prepared.wait()
        if flow.problem is not None:
            raise again(flow.problem)
        if not flow.prepared.is_set():
            raise OAuthProblem(f"where to log in to {self._host} is still being found out", kind="outage")
        return flow.url

    def awaits(self, state: str) -> bool:
        """Whether a callback with this `state` is for `complete` here."""
        return self._flow is not None and self._flow.awaits(state)

    async def complete(self, callback: Callback) -> None:
        """Complete the login with what the browser came back with, wherever that was read.

        Raises:
            OAuthProblem: it is not the answer to the login under way, which goes on; or the login came to nothing.
        """
        flow, job = self._flow, self._login
        if flow is None or job is None:
            raise unknown_callback()
        try:
            await flow.complete(callback)
        finally:
            if flow.settled:
                await job.outcome()  # so that the state says it too

    async def forget(self) -> None:
        """End everything, delete the login and revoke its tokens, as far as that works: for a server that is removed.

        Never raises, and takes at most 7 s. Tokens that another entry of moltis.toml uses (same URL, same client_id)
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
            asked |= refused.asks  # more than what is configured would not be asked for
        return Known(
            grant=self._config.grant,
            current=tokens.authorization if tokens is not None else None,
            refreshable=self._keeper.refreshable,
            fresh=tokens is not None and tokens is self._keeper.obtained and unused,
            asked=asked,
            looked=looked,
            moved=moved,
            under_way=self._logging_in,
            held=self._held is not None,
        )

    def _asked_before(self) -> str:
        tokens = self._keeper.tokens
        return f"{self._asked or ''} {tokens.scope or '' if tokens is not None else ''}"

    def _usable(self) -> bool:
        """Whether something is held that is good, as far as anybody knows."""
        tokens = self._keeper.tokens
        return tokens is not None and tokens.authorization != self._refused and not expired(tokens, self._wall())

    def _send(self, tokens: Tokens) -> str:
        if tokens is not self._sent:
            self._sent, self._sent_at = tokens, anyio.current_time()
        return tokens.authorization

    # --- what is done, once for all who want it

    async def _look(self) -> None:
        await self._jobs.join("look", self._keeper.look).outcome()
        if self._usable():
            self._recovered()
        self._changed()

    async def _has_moved(self, challenge: Challenge | None) -> bool:
        async def ask() -> None:
            self._moved = await self._keeper.moved(challenge)

        await self._jobs.join("ask resource", ask).outcome()
        return self._moved

    async def _renewed(self) -> None:
        """Have what is held renewed. If that is refused, `refreshable` and `tokens` say so.

        Raises:
            ServerNotReady: nobody can renew it now.
        """
        self._must_be_reachable()
        problem = await self._jobs.join("renew", self._renew, finish=True).outcome()
        if problem is not None and (problem.kind == "outage" or self._keeper.refreshable):
            raise self._not_ready(problem)

    async def _renew(self) -> None:
        keeper = self._keeper
        try:
            await (keeper.refresh() if keeper.refreshable else keeper.grant(self._ask.challenge, self._ask.granted))
        except OAuthProblem as problem:
            if problem.kind != "denied":
                self._renewals = self._renewals.and_then(problem, anyio.current_time())
            self._log.warning("token_not_renewed", server=self._server, problem=problem.message)
            raise
        else:
            self._recovered()
        finally:
            self._changed()

    async def _granted(self, refused: Refused, challenge: Challenge | None, *, more: bool) -> None:
        """Have a token of our own, if there can be one."""
        self._must_be_reachable()
        if not self._jobs.running("renew"):
            self._ask = Ask(challenge, self._asked_before() if more else None)
            if more:
                self._history = self._history.with_step_up(refused.asks, anyio.current_time())
        problem = await self._jobs.join("renew", self._renew, finish=True).outcome()
        if problem is None:
            return
        if problem.kind == "outage":
            raise self._not_ready(problem)
        self._problem = problem.message
        self._changed()
        raise self._login_error(None)

    async def _grant_for_person(self) -> None:
        ours = not self._jobs.running("renew")
        problem = await self._jobs.join("renew", self._renew, finish=True).outcome()
        if problem is not None:
            self._problem = problem.message
            self._changed()
            raise again(problem)
        if ours:
            self._on_authenticated()

    # --- a person's login

    async def _login_needed(self, refused: Refused, challenge: Challenge | None, *, more: bool) -> MoltisError:
        flow = self._flow
        if flow is None or not self._logging_in:
            count = self._history.with_step_up if more else self._history.with_login
            self._history = count(refused.asks, anyio.current_time())
            self._ask = Ask(challenge, self._asked_before() if more else None)
            flow = self._start_login()
        with anyio.move_on_after(URL_SECS):
            await flow.prepared.wait()
        return self._login_error(flow.url)

    def _start_login(self) -> Flow:
        self._problem = None
        self._logging_in = True
        flow = self._flow = Flow(self._means, self._ask)
        self._login = self._jobs.join("login", self._log_in)
        self._changed()
        return flow

    async def _log_in(self) -> None:
        """Log in; as long as nobody can say where, try again, less and less often."""
        outages = Outages()
        try:
            while (flow := self._flow) is not None:
                try:
                    await flow.run()
                except OAuthProblem as problem:
                    if problem.kind != "outage" or flow.shown:
                        self._failed(problem)
                        return
                    outages = outages.and_then(problem, anyio.current_time(), posted=flow.posted)
                    await self._pause(outages, problem)
                    if self._flow is flow:
                        self._flow = Flow(self._means, self._ask)
                else:
                    self._asked = flow.asked
                    self._logging_in = False
                    self._recovered()
                    self._log.info("logged_in", server=self._server)
                    self._on_authenticated()
                    return
        except Exception:
            self._problem = "something went wrong inside moltis; its log says what"
            raise
        finally:
            self._logging_in = False
            self._changed()

    async def _pause(self, outages: Outages, problem: OAuthProblem) -> None:
        """Wait for the next try, or until a person wants it now."""
        self._hurry = anyio.Event()
        self._problem = problem.message
        self._log.warning("login_delayed", server=self._server, problem=problem.message)
        self._changed()
        with anyio.CancelScope(deadline=outages.until):
            await self._hurry.wait()

    def _failed(self, problem: OAuthProblem) -> None:
        """Take note of a login that came to nothing. What is held and good is not worse for it."""
        self._log.warning("login_failed", server=self._server, problem=problem.message)
        if problem.kind in ("refused", "denied"):
            self._held = problem.message
        if not self._usable():
            self._problem = problem.message

    def _recovered(self) -> None:
        """Take note that what is held now is good, as far as anybody knows."""
        self._renewals = Outages()
        self._problem = self._held = None

    def _given_up(self, end: Step, challenge: Challenge | None, *, more: bool) -> MoltisError:
        if end is not Step.HELD:
            self._held = _WHY[end].format(host=self._host)
            self._problem = self._held
            self._ask = Ask(challenge, self._asked_before() if more else None)
            self._log.warning("login_given_up", server=self._server, problem=self._held)
        elif not self._usable():
            self._problem = self._held
        self._changed()
        return self._login_error(None)

    # --- words

    def _changed(self) -> None:
        seen = (self.state, self.auth_url, self.message)
        if seen != self._told:
            self._told = seen
            self._on_change()

    def _login_error(self, url: str | None) -> LoginNeeded:
        why = f": {self._problem or self._held}" if url is None and (self._problem or self._held) else ""
        return LoginNeeded(f"a person must log in to server {self._server!r}{why}", server=self._server, auth_url=url)

    def _must_be_reachable(self) -> None:
        """See that the last outage is not too recent to try again."""
        problem = self._renewals.problem
        if problem is not None and not self._renewals.over(anyio.current_time()) and not self._jobs.running("renew"):
            raise self._not_ready(problem)

    def _not_ready(self, problem: OAuthProblem) -> ServerNotReady:
        left = self._renewals.until - anyio.current_time()
        at = datetime.fromtimestamp(self._wall() + left, UTC) if 0 < left < math.inf else None
        return ServerNotReady(
            f"the login of server {self._server!r} cannot be renewed now: {problem.message}",
            server=self._server,
            state="ready",
            next_retry_at=at and at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            hint="the login is kept; what needs it works again as soon as the authorization server does",
        )


_WHY: Mapping[Step, str] = {
    Step.REFUSED_FRESH: "{host} refuses the very token that it was just given for, so no other is fetched: "
    "check url, and oauth.scopes, in moltis.toml",
    Step.REFUSED_SCOPE: f"{{host}} asked for the same scope {MAX_LOGINS_PER_SCOPE} times, and no login satisfied it",
    Step.TOO_OFTEN: f"{{host}} wanted {MAX_LOGINS_PER_HOUR} logins within an hour",
}
"""Why nobody is asked any more until somebody asks for it."""
