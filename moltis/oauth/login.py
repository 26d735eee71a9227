"""One login: what is known of it, what is under way, and who waits for that.

Whoever sends requests asks for `authorization` and tells of a refusal; people begin a login and complete it. What
follows from what is known is said by `decisions`, what is held is the `keeper`'s, one try of a person is a `flow`. This
class has the standing and the deadlines, and does nothing in the task of whoever asks (`jobs`), so that a renewal, a
login or a look at the disk is under way once, however many wait for it.

Three ways to fail are kept apart. An outage costs the request that met it, never the login, and is tried again later.
A login that a person must make is `LoginNeeded`, with the URL if there is one. What no login by itself would mend waits
until a person begins one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping

import anyio
import msgspec

from moltis.errors import LoginNeeded, NotSent, ServerNotReady
from moltis.http.authorized import Refusal
from moltis.http.origins import shown_host
from moltis.oauth.authorize import INSUFFICIENT_SCOPE, INVALID_TOKEN
from moltis.oauth.callback import Callback
from moltis.oauth.decisions import (
    FRESH_SECS,
    MAX_LOGINS_PER_HOUR,
    MAX_LOGINS_PER_SCOPE,
    SETTLE_SECS,
    History,
    Known,
    Outages,
    Refused,
    Renewals,
    Sending,
    Step,
    after_refusal,
    before_sending,
    is_fresh,
)
from moltis.oauth.documents import scope_tokens
from moltis.oauth.flow import Ask, Flow, unknown_callback
from moltis.oauth.grants import expired
from moltis.oauth.jobs import Job, Jobs, abandoned, again
from moltis.oauth.keeper import Keeper, Means
from moltis.oauth.model import AuthState, Challenge, OAuthProblem, Tokens
from moltis.oauth.resource import bearer_challenge
from moltis.server.states import State
from moltis.times import stamp_of

LOOK_AGAIN_SECS = 1.0
"""Until the disk is looked at again, where that could not be done."""

BEGIN_SECS = 40.0
"""How long a person waits for it: discovery takes at most 25 s, a registration 10 s."""

URL_SECS = 1.0
"""How long a refused request waits for the URL to tell of."""

MAX_STEPS = 16
"""Of one refusal; the longest way there is has 8. More would be a fault of ours, and must not turn into a loop."""

LOST_AFTER = 3
"""Outages in a row after which the endpoints are looked up anew: they may be somewhere else by now."""

_GIVEN_UP: Mapping[Step, str] = {
    Step.REFUSED_FRESH: "{host} refuses the very token that it was just given for, so no other is fetched: "
    "check url, and oauth.scopes, in moltis.toml",
    Step.REFUSED_SCOPE: f"{{host}} asked for the same scope {MAX_LOGINS_PER_SCOPE} times, and no login satisfied it",
    Step.TOO_OFTEN: f"{{host}} wanted {MAX_LOGINS_PER_HOUR} logins within an hour",
}
"""Why nobody is asked any more until somebody begins a login."""


class News(enum.Enum):
    """What whoever has a login is told of it."""

    CHANGED = "`state`, `auth_url` or `message` is another"
    AUTHENTICATED = "a person's login, or one that a person began, is done"
    RENEWED = "it works again, by itself"


class _Sent(msgspec.Struct, eq=False):
    """The tokens that requests are sent with, and how they fare.

    since: when they were first sent, monotonic.
    unrefused: how often they were sent without being refused by a 401, so far. forbidden: how often by a 403.
    """

    tokens: Tokens | None = None
    since: float = 0.0
    unrefused: int = 0
    forbidden: int = 0


class _Attempt(msgspec.Struct, eq=False):
    """A person's login under way, tried until its URL is shown.

    flow: the try that is made, or the next one, while that is waited for.
    wanted: a person asked for it, and not only a refused request.
    hurry: ends the wait for the next try; None while none is waited for.
    """

    ask: Ask
    wanted: bool
    flow: Flow
    job: Job
    hurry: anyio.Event | None = None


class Login:
    """The login at one remote server; fits `http.authorized.Credentials`.

    tell: told what there is of `News`. It must neither block nor raise.
    static_authorization: moltis.toml gives the Authorization header and no [oauth]: then there is no login here.
    """

    def __init__(self, means: Means, tell: Callable[[Login, News], None], *, static_authorization: bool) -> None:
        self._means = means
        self.server = means.server
        self._host = shown_host(means.url)
        self._static = static_authorization
        self._tell = tell
        self._told: tuple[AuthState, str | None, str | None] = ("not_required", None, None)
        self._jobs = Jobs(means.server, means.tasks, means.log)
        self._keeper = Keeper(means)
        self._by_itself = means.config.grant == "client_credentials"
        """Whether a new token is to be had with nobody logging in."""
        self._problem: str | None = None
        """Why it does not work; makes the state `failed`."""
        self._held: str | None = None
        """Why no login begins by itself any more, until a person begins one."""
        self._unsaid = False
        """Whether the server does not say where to log in, and where that would be by default nothing is."""
        self._open = False
        """Whether the server has served requests without a login."""
        self._renewals = Renewals()
        self._own = Ask()
        """What a token of our own is for."""
        self._attempt: _Attempt | None = None
        self._asked: str | None = None
        """The scope that the last login asked for."""
        self._refused_for = Ask()
        """What the last refusal was about that a person could mend."""
        self._history = History()
        self._sent = _Sent()
        self._tried: tuple[str, frozenset[str]] | None = None
        self._settled: Tokens | None = None
        """The last tokens that were given time to become valid."""
        """What was got because the one before was answered 403, and the scopes of that challenge."""
        self._futile: set[frozenset[str]] = set()
        """The scopes of challenges that a refresh has not helped against."""
        self._moved = False

    # --- what anyone may see

    @property
    def state(self) -> AuthState:
        if self.auth_url is not None:
            return "awaiting_browser"
        if self._problem is not None:
            return "failed"
        if self._attempt is not None:
            return "awaiting_browser"
        return "authenticated" if self._keeper.tokens is not None else "not_required"

    @property
    def auth_url(self) -> str | None:
        """Where a person logs in; only in `awaiting_browser`, and there too only once it is known."""
        return self._attempt.flow.url if self._attempt is not None else None

    @property
    def message(self) -> str | None:
        """Why it failed, why the last answer of a browser was refused, or why a login is needed; no secret in it."""
        why = self._renewals.problem if self._renewals.doubted else None
        if self._attempt is None:
            return self._problem or why
        return (self._attempt.flow.note if self.auth_url is not None else self._problem) or why or self._keeper.lost

    @property
    def unavailable(self) -> str | None:
        """Why it cannot be used now though nobody has to log in: it cannot be renewed, which is tried again."""
        problem = self._renewals.problem
        if problem is None or self._renewals.doubted or self._keeper.usable:
            return None
        return f"the login of server {self.server!r} cannot be renewed now: {problem}"

    @property
    def ends_at(self) -> float | None:
        """When what is held ends, in seconds since the epoch; None where it can be renewed, or nothing is known."""
        tokens = self._keeper.tokens
        renewable = self._keeper.refreshable or self._by_itself
        return None if tokens is None or renewable or not self._keeper.usable else tokens.expires_at

    @property
    def locked_out(self) -> bool:
        """Whether nobody can log in to a server that has served requests without a login."""
        return self._open and self._unsaid and self._problem is not None and self._keeper.tokens is None

    @property
    def next_try_at(self) -> str | None:
        """When a renewal that failed is tried again, RFC 3339."""
        return self._next_try_at() if self._renewals.problem is not None else None

    # --- for requests

    async def authorization(self) -> str | None:
        """Return the value of the Authorization header of the next request; renew an expired token first.

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
        renewable = self._by_itself or (self._keeper.refreshable and not self._renewals.doubted)
        match before_sending(tokens, renewable=renewable, wall=self._means.wall()):
            case Sending.RENEW_MEANWHILE:
                if self._renewals.outages.over(anyio.current_time()):
                    self._begin_renewal()
            case Sending.RENEW_FIRST:
                await self._renewal_done()
                tokens = self._keeper.tokens
        return self._sending(tokens) if tokens is not None else None

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
        return tokens.authorization if tokens is not None and self._keeper.usable else None

    async def refused(self, refusal: Refusal) -> bool:
        """Take note of a refusal, and say whether the request may be sent once more with what is held now.

        `after_refusal` says what to do about it, again and again, until that is an end.

        Raises:
            LoginNeeded: a person must log in; with `auth_url` if it was known within a second.
            NotSent: the authorization server cannot be reached now; what is held is kept.
        """
        if self._static or self._jobs.closed:
            return False
        challenge = bearer_challenge(refusal.challenges)
        refused = _refused(refusal, challenge)
        self._note(refused)
        looked, moved = False, None
        for _ in range(MAX_STEPS):
            known = self._known(refused, looked=looked, moved=moved)
            # More than before is asked for where that is what is missing.
            ask = Ask(challenge, self._asked_before() if refused.insufficient or known.fresh else None)
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
                    await self._renewal_done()
                    if refused.status == 403 and self._keeper.tokens is not None:
                        self._tried = (self._keeper.tokens.authorization, refused.asks)
                case Step.CLIENT_CREDENTIALS:
                    await self._grant(ask, refused)
                case Step.SETTLE:
                    tokens = self._keeper.tokens
                    await anyio.sleep(SETTLE_SECS)
                    self._settled = tokens
                    return True
                case Step.TOO_SOON:
                    why = "what was renewed a moment ago is refused again"
                    raise self._not_renewed(ServerNotReady, why, stamp_of(self._means.wall() + FRESH_SECS))
                case Step.LOGIN | Step.STEP_UP:
                    raise await self._login_needed(ask, refused)
                case end:
                    raise self._given_up(end, ask)
        raise AssertionError("every refusal comes to an end")

    def unneeded(self) -> None:
        """Take note that the server serves requests as they are sent; without a login, if there is none."""
        if self._static or self._keeper.tokens is not None:
            return
        self._open = True
        if self._unsaid:
            self._withdraw()  # nobody has been shown where to log in
            self._recovered()
            self._changed()

    # --- for people

    async def begin(self, force: bool = True, *, new_client: bool = False) -> str | None:
        """Begin a login, or join the one under way, and return its URL; None: nobody has to visit anything.

        Whatever was given up before is tried again. What is held stays in use until there is something newer.

        force: even if there are tokens that seem to be good.
        new_client: with another registration than before; a login under way ends.

        Raises:
            OAuthProblem: it cannot be begun now; after an outage it is tried again in the background.
        """
        if self._static:
            raise OAuthProblem(
                f"nobody can log in to {self.server}: its headers in moltis.toml have an Authorization of their own, "
                "and there is no [oauth]"
            )
        if self._jobs.closed:
            raise abandoned()
        if not force:
            if not self._keeper.looked:
                await self._look()
            if self._keeper.usable:
                return None
        if new_client:
            await self._introduce_anew()
        self._recovered()
        self._history = History()
        self._renewals = self._renewals.hastened()
        if self._by_itself:
            await self._grant_for_person()
            return None
        flow = self._begin_attempt(self._refused_for, wanted=True)
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
        if self._means.config.client_id is not None:
            raise OAuthProblem(
                f"oauth.client_id in moltis.toml says who moltis is to {self._host}, so nothing is registered: "
                "register another client there by hand, and write its id there"
            )
        if not self._keeper.registers_anew:  # else somebody has just asked for the same
            await self._end_attempt()
        self._keeper.register_anew()

    def awaits(self, state: str) -> bool:
        """Whether a callback with this `state` is for `complete` here."""
        return self._attempt is not None and self._attempt.flow.awaits(state)

    async def complete(self, callback: Callback) -> None:
        """Complete the login with what the browser came back with, wherever that was read.

        Raises:
            OAuthProblem: it is not the answer to the login under way, which goes on; or the login came to nothing.
        """
        attempt = self._attempt
        if attempt is None:
            raise unknown_callback()
        flow = attempt.flow
        try:
            await flow.complete(callback)
        finally:
            if flow.settled:
                await attempt.job.outcome()  # so that the state says it too

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
        self._problem = self._held = why
        self._changed()

    async def close(self) -> None:
        """End everything that is under way and wait until it has ended. A refresh has 2 s to finish."""
        await self._jobs.close()
        self._changed()

    # --- how it stands

    def _changed(self) -> None:
        seen = (self.state, self.auth_url, self.message or self.unavailable)
        if seen != self._told:
            self._told = seen
            self._tell(self, News.CHANGED)

    def _recovered(self) -> None:
        """What is held now is good, as far as anybody knows."""
        self._problem = self._held = None
        self._unsaid = False

    def _blame(self, problem: OAuthProblem) -> None:
        """Say that the server cannot be used for this reason, unless what is held is good all the same."""
        if not self._keeper.usable:
            self._problem = problem.message

    def _authenticated(self) -> None:
        self._renewals = Renewals()
        self._changed()
        self._tell(self, News.AUTHENTICATED)

    # --- what is on disk

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
                f"the login of server {self.server!r} cannot be looked for now: {problem.message}",
                server=self.server,
                state=State.READY,
                hint="it is tried again by itself",
            )
        if self._keeper.tokens is not before and self._keeper.usable:
            self._recovered()
        self._changed()

    async def _look_until_it_works(self) -> None:
        while True:
            await anyio.sleep(LOOK_AGAIN_SECS)
            if await self._jobs.join("look", self._keeper.look).outcome() is None:
                break
        self._changed()
        self._tell(self, News.RENEWED)

    # --- what was sent, and refused

    def _sending(self, tokens: Tokens) -> str:
        """Return the Authorization value of these, and take note of when they were first sent, and how often."""
        if tokens is not self._sent.tokens:
            self._sent = _Sent(tokens, anyio.current_time())
            if tokens is not self._keeper.obtained or not self._keeper.renewed:
                self._futile.clear()  # they came of a login, here or elsewhere
        self._sent.unrefused += 1
        return tokens.authorization

    def _note(self, refused: Refused) -> None:
        """Count a refusal."""
        sent = self._sent
        of_these = sent.tokens is not None and sent.tokens.authorization == refused.sent
        if refused.status == 401 and refused.sent is not None:
            self._keeper.refused = refused.sent
            sent.unrefused -= of_these
        if refused.status == 403:
            sent.forbidden += of_these
        if self._tried == (refused.sent, refused.asks) and anyio.current_time() - sent.since < FRESH_SECS:
            self._futile.add(refused.asks)

    def _known(self, refused: Refused, *, looked: bool, moved: bool | None) -> Known:
        keeper, sent, tokens = self._keeper, self._sent, self._keeper.tokens
        sent_at = sent.since if tokens is sent.tokens else None
        if sent_at is not None and tokens is self._settled:
            sent_at += SETTLE_SECS  # that it was refused before says nothing
        is_over = tokens is not None and expired(tokens, self._means.wall())
        age = self._means.wall() - tokens.obtained_at if tokens is not None else 0.0
        asked = frozenset(scope_tokens(self._asked_before()))
        if self._means.config.scopes and not refused.insufficient:
            asked |= refused.asks  # beyond what is configured nothing would be asked for
        return Known(
            grant=self._means.config.grant,
            current=tokens.authorization if tokens is not None else None,
            refreshable=keeper.refreshable and not self._renewals.doubted,
            fresh=tokens is not None
            and tokens is keeper.obtained
            and not is_over
            and is_fresh(tokens, sent_at, anyio.current_time()),
            settling=tokens is not None
            and tokens is keeper.obtained
            and tokens is not self._settled
            and 0 <= age < SETTLE_SECS,
            renewed=keeper.renewed,
            unproven=tokens is not sent.tokens or sent.unrefused <= 0,
            expired=is_over,
            tried=refused.asks in self._futile or (tokens is sent.tokens and sent.unrefused <= sent.forbidden),
            asked=asked,
            looked=looked,
            moved=moved,
            under_way=self._attempt is not None,
            held=self._held is not None,
        )

    def _asked_before(self) -> str:
        tokens = self._keeper.tokens
        return f"{self._asked or ''} {tokens.scope or '' if tokens is not None else ''}"

    async def _has_moved(self, challenge: Challenge | None) -> bool:
        async def ask() -> None:
            self._moved = await self._keeper.moved(challenge)

        await self._jobs.join("ask resource", ask).outcome()
        return self._moved

    async def _grant(self, ask: Ask, refused: Refused) -> None:
        if not self._jobs.running("renew"):
            self._own = ask
            if ask.granted is not None:
                self._history = self._history.with_step_up(refused.asks, anyio.current_time())
        problem = await self._renewal_done()
        if problem is not None:
            self._problem = problem.message
            self._changed()
            raise self._login_error()

    async def _login_needed(self, ask: Ask, refused: Refused) -> LoginNeeded:
        if self._attempt is not None:
            flow = self._attempt.flow
        else:
            count = self._history.with_login if ask.granted is None else self._history.with_step_up
            self._history = count(refused.asks, anyio.current_time())
            self._refused_for = ask
            flow = self._begin_attempt(ask)
        with anyio.move_on_after(URL_SECS):
            await flow.prepared.wait()
        return self._login_error(flow.url, flow.problem.message if flow.problem is not None else None)

    def _given_up(self, end: Step, ask: Ask) -> LoginNeeded:
        if end is not Step.HELD:
            self._problem = self._held = _GIVEN_UP[end].format(host=self._host)
            self._refused_for = ask
            self._means.log.warning("login_given_up", server=self.server, problem=self._held)
        elif not self._keeper.usable:
            self._problem = self._held
        self._changed()
        return self._login_error()

    def _login_error(self, url: str | None = None, why: str | None = None) -> LoginNeeded:
        why = why or self._problem or self._held or self._renewals.problem or self._keeper.lost
        told = f": {why}" if why is not None and url is None else ""
        if not told and self._renewals.over is not None:
            told = f": its login could not be renewed: {self._renewals.over}"
        return LoginNeeded(f"a person must log in to server {self.server!r}{told}", server=self.server, auth_url=url)

    # --- a person's login: in the background, one at a time, whoever wants it
    #
    # As long as nobody can say where to log in, it is tried again, less and less often. Once the URL was shown it is a
    # person's turn, and what comes of that is final: no browser opens twice for one wish.

    def _begin_attempt(self, ask: Ask, *, wanted: bool = False) -> Flow:
        """Return the login under way, tried again now if it waits for that, or begin one.

        wanted: a person asks for it, and not a refused request.
        """
        attempt = self._attempt
        if attempt is not None:
            attempt.wanted = attempt.wanted or wanted
            if attempt.hurry is not None:
                attempt.flow = self._flow(attempt.ask)
                attempt.hurry.set()
                attempt.hurry = None
            return attempt.flow
        self._problem = None
        flow = self._flow(ask)
        self._attempt = _Attempt(ask, wanted, flow, self._jobs.join("login", self._log_in))
        self._changed()
        return flow

    def _flow(self, ask: Ask) -> Flow:
        return Flow(self._means, self._keeper, ask, self._changed)

    def _withdraw(self) -> None:
        """End a login that nobody has answered yet, for none is needed any more.

        One that a person asked for ends only while it waits for a better moment: no browser opens for it any more.
        """
        attempt = self._attempt
        if attempt is not None and not attempt.flow.answered and (attempt.hurry is not None or not attempt.wanted):
            attempt.job.scope.cancel()

    async def _end_attempt(self) -> None:
        """End the login under way, unless the browser is back, which is then waited for."""
        attempt = self._attempt
        if attempt is not None:
            if not attempt.flow.answered:
                attempt.job.scope.cancel()
            await attempt.job.outcome()

    async def _log_in(self) -> None:
        attempt, outages = self._attempt, Outages()
        assert attempt is not None, "it is there before its work begins"
        try:
            while True:
                flow = attempt.flow
                try:
                    await flow.run()
                except OAuthProblem as problem:
                    self._unsaid = flow.unsaid
                    if problem.kind != "outage" or flow.shown:
                        self._login_failed(problem)
                        return
                    outages = outages.and_then(problem, anyio.current_time(), posted=flow.posted)
                    await self._pause(attempt, outages.until, problem)
                    if attempt.flow is flow:
                        attempt.flow = self._flow(attempt.ask)
                else:
                    self._login_succeeded(flow)
                    return
        except Exception:
            self._problem = "something went wrong inside moltis; its log says what"
            raise
        finally:
            self._attempt = None
            self._changed()
            attempt.flow.prepared.set()

    async def _pause(self, attempt: _Attempt, until: float, problem: OAuthProblem) -> None:
        """Wait for the next try, or until a person wants it now."""
        self._blame(problem)
        self._means.log.warning("login_delayed", server=self.server, problem=problem.message)
        self._changed()
        attempt.flow.prepared.set()
        attempt.hurry = hurry = anyio.Event()
        with anyio.CancelScope(deadline=until):
            await hurry.wait()
        attempt.hurry = None

    def _login_succeeded(self, flow: Flow) -> None:
        self._asked = flow.asked
        self._attempt = None
        self._recovered()
        self._means.log.info("logged_in", server=self.server)
        self._authenticated()

    def _login_failed(self, problem: OAuthProblem) -> None:
        """Take note of a login that came to nothing."""
        self._means.log.warning("login_failed", server=self.server, problem=problem.message)
        if problem.kind in ("refused", "denied"):
            self._held = problem.message
        self._blame(problem)

    # --- renewing what is held: once for all who need it, and after an outage again and again until it works
    #
    # Only the authorization server's own refusal ends a login. Whatever else goes wrong costs the request that met it,
    # which is told when the next try is due; until then nobody tries. A refusal that gives no reason, again and again,
    # has a person asked, and the refresh token is kept and tried all the same.

    def _begin_renewal(self) -> Job:
        """Present the refresh token, or get a token of our own where there is none; or join who does."""
        # Whoever waits may leave; a refresh token that was presented must still be replaced by what came for it.
        return self._jobs.join("renew", self._renew, finish=True)

    async def _renewal_done(self) -> OAuthProblem | None:
        """Renew what is held; return why it is not, or not wholly, good any more.

        Raises:
            NotSent: nobody can tell now: an outage, or one a moment ago. It is tried again by itself.
        """
        problem = self._renewals.outages.problem
        if problem is None or self._jobs.running("renew") or self._renewals.outages.over(anyio.current_time()):
            problem = await self._begin_renewal().outcome()
        if problem is None or self._renewals.doubted:
            return problem
        # What is no answer of a token endpoint may come from anybody on the way: the refresh token stays.
        if problem.kind == "outage" or self._keeper.refreshable:
            self._jobs.join("renew until it works", self._renew_until_it_works)
            raise self._not_renewed(NotSent, problem.message, self._next_try_at(), told=True)
        return problem

    async def _grant_for_person(self) -> None:
        ours = not self._jobs.running("renew")
        problem = await self._begin_renewal().outcome()
        if problem is not None:
            self._problem = problem.message
            self._changed()
            raise again(problem)
        if ours:
            self._authenticated()

    async def _renew_until_it_works(self) -> None:
        """Renew until it works or the login is over, for whoever waits for it: a start, or the next request."""
        with self._means.crowd.waiting(self._issuer) as place:
            while self._renewals.outages.problem is not None:
                if not self._renewals.outages.over(anyio.current_time()):
                    await place.wait(self._renewals.outages.until, self._means.roll())
                    if self._renewals.problem is None:
                        return  # somebody else was quicker, or a person has logged in
                problem = await self._begin_renewal().outcome()
                if problem is not None and problem.kind != "outage" and not self._keeper.refreshable:
                    return

    async def _renew(self) -> None:
        keeper, begun = self._keeper, anyio.current_time()
        held = keeper.tokens
        try:
            if keeper.refreshable:
                await keeper.refresh(anew=self._renewals.outages.failures >= LOST_AFTER)
            else:
                await keeper.grant(self._own.challenge, self._own.granted)
        except OAuthProblem as problem:
            if keeper.tokens is held or not keeper.refreshable:  # else a person has logged in meanwhile
                self._renewals = self._renewals.failed(
                    problem,
                    anyio.current_time(),
                    begun=begun,
                    roll=self._means.roll(),
                    crowd=self._means.crowd.number(self._issuer),
                    refreshable=keeper.refreshable,
                )
            self._means.log.warning("token_not_renewed", server=self.server, problem=problem.message)
            raise
        else:
            failed, given_up = self._renewals.problem is not None, self._problem is not None
            self._renewals = Renewals()
            self._recovered()
            if failed:
                self._means.crowd.got_through(self._issuer)
            if failed or given_up:
                self._withdraw()
                self._tell(self, News.RENEWED)
        finally:
            self._changed()

    @property
    def _issuer(self) -> str:
        return self._keeper.issuer or ""

    def _next_try_at(self) -> str | None:
        wait_secs = self._renewals.outages.until - anyio.current_time()
        return stamp_of(self._means.wall() + max(0.0, wait_secs)) if wait_secs < math.inf else None

    def _not_renewed(
        self, kind: type[ServerNotReady], why: str, next_retry_at: str | None, *, told: bool = False
    ) -> ServerNotReady:
        """Return what a request is told; `told`: in its words, too, when it is tried again."""
        when = f"; next try at {next_retry_at}" if told and next_retry_at is not None else ""
        return kind(
            f"the login of server {self.server!r} cannot be renewed now: {why}{when}",
            server=self.server,
            state=State.READY,
            next_retry_at=next_retry_at,
            hint="the login is kept and its renewal tried again by itself; "
            f"moltis mcp reauth {self.server} makes a new login",
        )


def _refused(refusal: Refusal, challenge: Challenge | None) -> Refused:
    error = challenge.error if challenge is not None else None
    asks = frozenset(scope_tokens(challenge.scope or "")) if challenge is not None else frozenset()
    # RFC 6750 section 3.1 has 401 for it, and some send 403.
    invalid = refusal.sent is not None and error == INVALID_TOKEN
    return Refused(401 if invalid else refusal.status, refusal.sent, asks, error == INSUFFICIENT_SCOPE)
