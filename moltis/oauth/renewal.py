"""Renewing what is held, once for all who need it, and not again too soon after an outage.

Only the authorization server's own refusal ends a login. Whatever else goes wrong costs the request that met it, which
is told when the next try is due; until then nobody tries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from moltis.errors import ServerNotReady
from moltis.oauth.decisions import FRESH_SECS, Outages
from moltis.oauth.flow import Ask
from moltis.oauth.jobs import Job, Jobs, Log
from moltis.oauth.keeper import Keeper
from moltis.oauth.model import OAuthProblem
from moltis.oauth.standing import Standing

LOST_AFTER = 3
"""Outages in a row after which the endpoints are looked up anew: they may be somewhere else by now."""


class Renewal:
    """Renews for one login. `ask`: what a token of our own is for. `on_change`: as in `broker.Login`."""

    def __init__(
        self,
        server: str,
        keeper: Keeper,
        jobs: Jobs,
        standing: Standing,
        *,
        wall: Callable[[], float],
        on_change: Callable[[], None],
        log: Log,
    ) -> None:
        self.ask = Ask()
        self._server = server
        self._keeper = keeper
        self._jobs = jobs
        self._standing = standing
        self._wall = wall
        self._on_change = on_change
        self._log = log
        self._outages = Outages()

    @property
    def under_way(self) -> bool:
        return self._jobs.running("renew")

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
            ServerNotReady: nobody can tell now: an outage, or one a moment ago.
        """
        recent = self._outages.problem
        if recent is not None and not self.under_way and not self._outages.over(anyio.current_time()):
            raise self._not_ready(recent)
        problem = await self.begin().outcome()
        # What is no answer of a token endpoint may come from anybody on the way: the refresh token stays.
        if problem is not None and (problem.kind == "outage" or self._keeper.refreshable):
            raise self._not_ready(problem)
        return problem

    def too_soon(self) -> ServerNotReady:
        """Give what a request is told whose token was renewed a moment ago, worked, and is refused again."""
        return self._error("what was renewed a moment ago is refused again", FRESH_SECS)

    def forgive(self) -> None:
        """Let the next try be at once."""
        self._outages = Outages()

    async def _renew(self) -> None:
        keeper = self._keeper
        try:
            if keeper.refreshable:
                await keeper.refresh(anew=self._outages.failures >= LOST_AFTER)
            else:
                await keeper.grant(self.ask.challenge, self.ask.granted)
        except OAuthProblem as problem:
            if problem.kind == "outage" or keeper.refreshable:
                self._outages = self._outages.and_then(problem, anyio.current_time())
            self._log.warning("token_not_renewed", server=self._server, problem=problem.message)
            raise
        else:
            self.forgive()
            self._standing.recovered()
        finally:
            self._on_change()

    def _not_ready(self, problem: OAuthProblem) -> ServerNotReady:
        return self._error(problem.message, self._outages.until - anyio.current_time())

    def _error(self, why: str, wait_secs: float) -> ServerNotReady:
        return ServerNotReady(
            f"the login of server {self._server!r} cannot be renewed now: {why}",
            server=self._server,
            state="ready",
            next_retry_at=_shown(self._wall() + wait_secs) if 0 < wait_secs < math.inf else None,
            hint="the login is kept, and works again as soon as its authorization server does",
        )


def _shown(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
