"""Renewing what is held, once for all who need it, and after an outage again and again until it works.

Only the authorization server's own refusal ends a login. Whatever else goes wrong costs the request that met it, which
is told when the next try is due; until then nobody tries. A refusal that gives no reason, again and again, has a person
asked, and the refresh token is kept and tried all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio

from moltis.errors import NotSent, ServerNotReady
from moltis.oauth.decisions import FRESH_SECS, Outages, Unclear
from moltis.oauth.flow import Ask
from moltis.oauth.jobs import Crowd, Job, Jobs, Log
from moltis.oauth.keeper import Keeper
from moltis.oauth.model import OAuthProblem
from moltis.oauth.standing import Standing
from moltis.server.states import State
from moltis.times import stamp_of

LOST_AFTER = 3
"""Outages in a row after which the endpoints are looked up anew: they may be somewhere else by now."""


class Renewal:
    """Renews for one login.

    ask: what a token of our own is for.
    on_change: as in `broker.Login`. on_renewed: told when a renewal works that did not before.
    roll: a number of [0, 1) by chance. crowd: who else waits for the same authorization server.
    """

    def __init__(
        self,
        server: str,
        keeper: Keeper,
        jobs: Jobs,
        standing: Standing,
        *,
        wall: Callable[[], float],
        roll: Callable[[], float],
        crowd: Crowd,
        on_change: Callable[[], None],
        on_renewed: Callable[[], None],
        log: Log,
    ) -> None:
        self.ask = Ask()
        self.over: str | None = None
        """Why there is nothing to renew any more, where that was said."""
        self._server = server
        self._keeper = keeper
        self._jobs = jobs
        self._standing = standing
        self._wall = wall
        self._roll = roll
        self._crowd = crowd
        self._on_change = on_change
        self._on_renewed = on_renewed
        self._log = log
        self._outages = Outages()
        self._unclear = Unclear()
        self._doubted = False

    @property
    def under_way(self) -> bool:
        return self._jobs.running("renew")

    @property
    def doubted(self) -> bool:
        """Whether a person is to be asked, because renewals are refused and nobody says why."""
        return self._doubted

    @property
    def problem(self) -> str | None:
        """Why the last renewal failed, if what is held could not be renewed since."""
        found = self._outages.problem
        if found is None:
            return None
        return f"{found.message} (refresh)" if self._doubted else found.message

    @property
    def next_try_at(self) -> str | None:
        """When it is tried again, RFC 3339, after one that failed."""
        return self._shown_until() if self._outages.problem is not None else None

    def begin(self) -> Job:
        """Present the refresh token, or get a token of our own where there is none; or join who does."""
        # Whoever waits may leave; a refresh token that was presented must still be replaced by what came for it.
        return self._jobs.join("renew", self._renew, finish=True)

    def begin_unless_down(self) -> None:
        """Begin in the background, unless the last outage is too recent."""
        if self._outages.over(anyio.current_time()):
            self.begin()

    async def done(self) -> OAuthProblem | None:
        """Wait until it is done; give why what is held is not, or not wholly, good any more.

        Raises:
            NotSent: nobody can tell now: an outage, or one a moment ago. It is tried again by itself.
        """
        problem = self._outages.problem
        if problem is None or self.under_way or self._outages.over(anyio.current_time()):
            problem = await self.begin().outcome()
        if problem is None or self._doubted:
            return problem
        # What is no answer of a token endpoint may come from anybody on the way: the refresh token stays.
        if problem.kind == "outage" or self._keeper.refreshable:
            self._jobs.join("renew until it works", self._persist)
            raise self._error(problem.message, self._shown_until())
        return problem

    def too_soon(self) -> ServerNotReady:
        """Give what a request is told whose token was renewed a moment ago, worked, and is refused again."""
        return ServerNotReady(
            f"the login of server {self._server!r} cannot be renewed now: "
            "what was renewed a moment ago is refused again",
            server=self._server,
            state=State.READY,
            next_retry_at=stamp_of(self._wall() + FRESH_SECS),
            hint=self._hint(),
        )

    def hasten(self) -> None:
        """Let the next try be at once."""
        self._outages = Outages(self._outages.failures, problem=self._outages.problem)

    def forgive(self) -> None:
        """Forget what went wrong: what is held now is new."""
        self._outages, self._unclear, self._doubted, self.over = Outages(), Unclear(), False, None

    async def _persist(self) -> None:
        """Try again until it works or the login is over, for whoever waits for it: a start, or the next request."""
        with self._crowd.waiting(self._issuer) as place:
            while self._outages.problem is not None:
                if not self._outages.over(anyio.current_time()):
                    await place.wait(self._outages.until, self._roll())
                    if self.problem is None:
                        return  # somebody else was quicker, or a person has logged in
                problem = await self.begin().outcome()
                if problem is not None and problem.kind != "outage" and not self._keeper.refreshable:
                    return

    async def _renew(self) -> None:
        keeper, begun = self._keeper, anyio.current_time()
        held = keeper.tokens
        try:
            if keeper.refreshable:
                await keeper.refresh(anew=self._outages.failures >= LOST_AFTER)
            else:
                await keeper.grant(self.ask.challenge, self.ask.granted)
        except OAuthProblem as problem:
            if keeper.tokens is held or not keeper.refreshable:  # else a person has logged in meanwhile
                self._failed(problem, begun)
            self._log.warning("token_not_renewed", server=self._server, problem=problem.message)
            raise
        else:
            failed, given_up = self._outages.problem is not None, self._standing.problem is not None
            self.forgive()
            self._standing.recovered()
            if failed:
                self._crowd.got_through(self._issuer)
            if failed or given_up:
                self._on_renewed()
        finally:
            self._on_change()

    def _failed(self, problem: OAuthProblem, begun: float) -> None:
        if problem.kind != "outage" and not self._keeper.refreshable:
            self.forgive()
            self.over = problem.message
            return
        now = anyio.current_time()
        self._unclear = self._unclear.and_then(problem.unclear, now)
        self._doubted = self._unclear.doubted(now)
        self._outages = self._outages.renewal(
            problem,
            now,
            begun=begun,
            roll=self._roll(),
            crowd=self._crowd.number(self._issuer),
            doubted=self._doubted,
        )

    @property
    def _issuer(self) -> str:
        return self._keeper.issuer or ""

    def _shown_until(self) -> str | None:
        wait_secs = self._outages.until - anyio.current_time()
        return stamp_of(self._wall() + max(0.0, wait_secs)) if wait_secs < math.inf else None

    def _error(self, why: str, next_retry_at: str | None) -> NotSent:
        return NotSent(
            f"the login of server {self._server!r} cannot be renewed now: {why}"
            + (f"; next try at {next_retry_at}" if next_retry_at is not None else ""),
            server=self._server,
            state=State.READY,
            next_retry_at=next_retry_at,
            hint=self._hint(),
        )

    def _hint(self) -> str:
        again = "the login is kept and its renewal tried again by itself"
        return f"{again}; moltis mcp reauth {self._server} makes a new login"
