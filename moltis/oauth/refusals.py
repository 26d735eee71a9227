"""What becomes of a refused request: `decisions` says the next step, this does it, until the answer is an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import anyio

from moltis.errors import LoginNeeded
from moltis.oauth.attempts import Attempts
from moltis.oauth.authorize import INSUFFICIENT_SCOPE, INVALID_TOKEN
from moltis.oauth.challenge import bearer_challenge
from moltis.oauth.decisions import (
    FRESH_SECS,
    MAX_LOGINS_PER_HOUR,
    MAX_LOGINS_PER_SCOPE,
    History,
    Known,
    Refused,
    Step,
    after_refusal,
    is_fresh,
)
from moltis.oauth.documents import scope_tokens
from moltis.oauth.flow import Ask
from moltis.oauth.grants import expired
from moltis.oauth.jobs import Jobs, Log
from moltis.oauth.keeper import Keeper
from moltis.oauth.model import Challenge, ClientConfig, Tokens
from moltis.oauth.renewal import Renewal
from moltis.oauth.standing import Standing

URL_SECS = 1.0
"""How long a refused request waits for the URL to tell of."""

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


class Refusals:
    """Takes the refusals of one server.

    look: brings in what is newer on disk.
    usable: whether what is held is good, as far as anybody knows.
    wall: seconds since the epoch.
    """

    def __init__(
        self,
        server: str,
        host: str,
        config: ClientConfig,
        *,
        keeper: Keeper,
        attempts: Attempts,
        renewal: Renewal,
        standing: Standing,
        jobs: Jobs,
        look: Callable[[], Awaitable[None]],
        usable: Callable[[], bool],
        wall: Callable[[], float],
        on_change: Callable[[], None],
        log: Log,
    ) -> None:
        self.ask = Ask()
        """What the last refusal that a person could mend was about."""
        self._server = server
        self._host = host
        self._config = config
        self._keeper = keeper
        self._attempts = attempts
        self._renewal = renewal
        self._standing = standing
        self._jobs = jobs
        self._look = look
        self._usable = usable
        self._wall = wall
        self._on_change = on_change
        self._log = log
        self._history = History()
        self._moved = False
        self._sent: Tokens | None = None
        self._tried: tuple[str, frozenset[str]] | None = None
        """What was got because the one before was answered 403, and the scopes of that challenge."""
        self._futile: set[frozenset[str]] = set()
        """The scopes of challenges that a refresh has not helped against."""
        self._sent_at = 0.0
        self._unrefused = 0
        """How often these were sent without being refused, so far."""
        self._forbidden = 0
        """How often of these with a 403."""

    def sending(self, tokens: Tokens) -> str:
        """Give the Authorization value of these, and take note of when they were first sent, and how often."""
        if tokens is not self._sent:
            self._sent, self._sent_at, self._unrefused, self._forbidden = tokens, anyio.current_time(), 0, 0
            if tokens is not self._keeper.obtained or not self._keeper.renewed:
                self._futile.clear()  # they came of a login, here or elsewhere
        self._unrefused += 1
        return tokens.authorization

    def forgive(self) -> None:
        """Forget what was asked for in vain: a person takes it up."""
        self._history = History()

    async def take(self, refusal: Refusal) -> bool:
        """As `broker.Login.refused`."""
        challenge = bearer_challenge(refusal.challenges)
        asks = frozenset(scope_tokens(challenge.scope or "")) if challenge is not None else frozenset()
        insufficient = challenge is not None and challenge.error == INSUFFICIENT_SCOPE
        # RFC 6750 section 3.1 has 401 for it, and some send 403.
        invalid = refusal.sent is not None and challenge is not None and challenge.error == INVALID_TOKEN
        refused = Refused(401 if invalid else refusal.status, refusal.sent, asks, insufficient)
        if refused.status == 401 and refused.sent is not None:
            self._standing.refused = refused.sent
            if self._sent is not None and self._sent.authorization == refused.sent:
                self._unrefused -= 1
        if refused.status == 403 and self._sent is not None and self._sent.authorization == refused.sent:
            self._forbidden += 1
        if self._tried == (refused.sent, asks) and anyio.current_time() - self._sent_at < FRESH_SECS:
            self._futile.add(asks)
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
                    await self._renewal.done()
                    if refused.status == 403 and self._keeper.tokens is not None:
                        self._tried = (self._keeper.tokens.authorization, asks)
                case Step.CLIENT_CREDENTIALS:
                    await self._grant(ask, refused)
                case Step.TOO_SOON:
                    raise self._renewal.too_soon()
                case Step.LOGIN | Step.STEP_UP:
                    raise await self._login_needed(ask, refused)
                case end:
                    raise self._given_up(end, ask)
        raise AssertionError("every refusal comes to an end")

    # --- what is known

    def _known(self, refused: Refused, *, looked: bool, moved: bool | None) -> Known:
        tokens = self._keeper.tokens
        sent_at = self._sent_at if tokens is self._sent else None
        asked = frozenset(scope_tokens(self._asked_before()))
        if self._config.scopes and not refused.insufficient:
            asked |= refused.asks  # beyond what is configured nothing would be asked for
        return Known(
            grant=self._config.grant,
            current=tokens.authorization if tokens is not None else None,
            refreshable=self._keeper.refreshable and not self._renewal.doubted,
            fresh=tokens is not None
            and tokens is self._keeper.obtained
            and not expired(tokens, self._wall())
            and is_fresh(tokens, sent_at, anyio.current_time()),
            renewed=self._keeper.renewed,
            unproven=tokens is not self._sent or self._unrefused <= 0,
            expired=tokens is not None and expired(tokens, self._wall()),
            tried=refused.asks in self._futile or (tokens is self._sent and self._unrefused <= self._forbidden),
            asked=asked,
            looked=looked,
            moved=moved,
            under_way=self._attempts.under_way,
            held=self._standing.held is not None,
        )

    def _asked_before(self) -> str:
        tokens = self._keeper.tokens
        return f"{self._attempts.asked or ''} {tokens.scope or '' if tokens is not None else ''}"

    # --- the steps

    async def _has_moved(self, challenge: Challenge | None) -> bool:
        async def ask() -> None:
            self._moved = await self._keeper.moved(challenge)

        await self._jobs.join("ask resource", ask).outcome()
        return self._moved

    async def _grant(self, ask: Ask, refused: Refused) -> None:
        if not self._renewal.under_way:
            self._renewal.ask = ask
            if ask.granted is not None:
                self._history = self._history.with_step_up(refused.asks, anyio.current_time())
        problem = await self._renewal.done()
        if problem is not None:
            self._standing.problem = problem.message
            self._on_change()
            raise self._login_error()

    async def _login_needed(self, ask: Ask, refused: Refused) -> LoginNeeded:
        flow = self._attempts.present()
        if flow is None:
            count = self._history.with_login if ask.granted is None else self._history.with_step_up
            self._history = count(refused.asks, anyio.current_time())
            self.ask = ask
            flow = self._attempts.begin(ask)
        with anyio.move_on_after(URL_SECS):
            await flow.prepared.wait()
        return self._login_error(flow.url, flow.problem.message if flow.problem is not None else None)

    def _given_up(self, end: Step, ask: Ask) -> LoginNeeded:
        standing = self._standing
        if end is not Step.HELD:
            standing.problem = standing.held = _WHY[end].format(host=self._host)
            self.ask = ask
            self._log.warning("login_given_up", server=self._server, problem=standing.held)
        elif not self._usable():
            standing.problem = standing.held
        self._on_change()
        return self._login_error()

    def _login_error(self, url: str | None = None, why: str | None = None) -> LoginNeeded:
        why = why or self._standing.problem or self._standing.held or self._renewal.problem or self._keeper.lost
        told = f": {why}" if why is not None and url is None else ""
        if not told and self._renewal.over is not None:
            told = f": its login could not be renewed: {self._renewal.over}"
        return LoginNeeded(f"a person must log in to server {self._server!r}{told}", server=self._server, auth_url=url)


_WHY: Mapping[Step, str] = {
    Step.REFUSED_FRESH: "{host} refuses the very token that it was just given for, so no other is fetched: "
    "check url, and oauth.scopes, in moltis.toml",
    Step.REFUSED_SCOPE: f"{{host}} asked for the same scope {MAX_LOGINS_PER_SCOPE} times, and no login satisfied it",
    Step.TOO_OFTEN: f"{{host}} wanted {MAX_LOGINS_PER_HOUR} logins within an hour",
}
"""Why nobody is asked any more until somebody begins a login."""
