"""A person's login, from the first try to the last: in the background, one at a time, whoever wants it.

As long as nobody can say where to log in, it is tried again, less and less often. Once the URL was shown it is a
person's turn, and what comes of that is final: no browser opens twice for one wish.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from moltis.oauth.callback import Callback
from moltis.oauth.decisions import Outages
from moltis.oauth.flow import Ask, Flow, Means, unknown_callback
from moltis.oauth.jobs import Job, Jobs
from moltis.oauth.model import OAuthProblem
from moltis.oauth.standing import Standing


class Attempts:
    """The logins at one server.

    usable: whether what is held is good all the same.
    on_authenticated: told that one is done.
    """

    def __init__(
        self,
        means: Means,
        jobs: Jobs,
        standing: Standing,
        *,
        usable: Callable[[], bool],
        on_authenticated: Callable[[], None],
    ) -> None:
        self.under_way = False
        self.asked: str | None = None
        """The scope that the last login asked for."""
        self._means = means
        self._jobs = jobs
        self._standing = standing
        self._usable = usable
        self._on_authenticated = on_authenticated
        self._ask = Ask()
        self._wanted = False
        self._flow: Flow | None = None
        self._job: Job | None = None
        self._pausing = False
        self._hurry = anyio.Event()

    @property
    def url(self) -> str | None:
        """Where the person logs in, while that is waited for."""
        return self._flow.url if self._flow is not None else None

    @property
    def note(self) -> str | None:
        """Why the last callback was refused, if one was."""
        return self._flow.note if self._flow is not None else None

    def begin(self, ask: Ask, *, wanted: bool = False) -> Flow:
        """Give the login under way, tried again now if it waits for that, or begin one.

        wanted: a person asked for it, and not a refused request.
        """
        self._wanted = wanted or (self._wanted and self.under_way)
        if self._flow is not None and self.under_way:
            if self._pausing:
                self._flow = Flow(self._means, self._ask)
                self._pausing = False
                self._hurry.set()
            return self._flow
        self._ask = ask
        self._standing.problem = None
        self.under_way = True
        flow = self._flow = Flow(self._means, ask)
        self._job = self._jobs.join("login", self._log_in)
        self._means.on_change()
        return flow

    def withdraw(self) -> None:
        """End a login that nobody has answered yet, for what is held works again.

        One that a person asked for ends only while it waits for a better moment: no browser opens for it any more.
        """
        flow, job = self._flow, self._job
        if not self.under_way or flow is None or job is None or flow.answered:
            return
        if self._pausing or not self._wanted:
            job.scope.cancel()

    async def end(self) -> None:
        """End the login under way, unless the browser is back, which is then waited for."""
        flow, job = self._flow, self._job
        if not self.under_way or flow is None or job is None:
            return
        if not flow.answered:
            job.scope.cancel()
        await job.outcome()

    def present(self) -> Flow | None:
        """Give the login under way, if there is one, as it is."""
        return self._flow if self.under_way else None

    def awaits(self, state: str) -> bool:
        return self._flow is not None and self._flow.awaits(state)

    async def complete(self, callback: Callback) -> None:
        """As `broker.Login.complete`."""
        flow, job = self._flow, self._job
        if flow is None or job is None:
            raise unknown_callback()
        try:
            await flow.complete(callback)
        finally:
            if flow.settled:
                await job.outcome()  # so that the state says it too

    async def _log_in(self) -> None:
        outages = Outages()
        try:
            while (flow := self._flow) is not None:
                try:
                    await flow.run()
                except OAuthProblem as problem:
                    self._standing.unsaid = flow.unsaid
                    if problem.kind != "outage" or flow.shown:
                        self._failed(problem)
                        return
                    outages = outages.and_then(problem, anyio.current_time(), posted=flow.posted)
                    await self._pause(flow, outages, problem)
                    if self._flow is flow:
                        self._flow = Flow(self._means, self._ask)
                else:
                    self._succeeded(flow)
                    return
        except Exception:
            self._standing.problem = "something went wrong inside moltis; its log says what"
            raise
        finally:
            self.under_way = False
            self._means.on_change()
            if self._flow is not None:
                self._flow.prepared.set()

    async def _pause(self, flow: Flow, outages: Outages, problem: OAuthProblem) -> None:
        """Wait for the next try, or until a person wants it now."""
        self._hurry = anyio.Event()
        self._blame(problem)
        self._means.log.warning("login_delayed", server=self._means.server, problem=problem.message)
        self._means.on_change()
        flow.prepared.set()
        self._pausing = True
        with anyio.CancelScope(deadline=outages.until):
            await self._hurry.wait()
        self._pausing = False

    def _succeeded(self, flow: Flow) -> None:
        self.asked = flow.asked
        self.under_way = False
        self._standing.recovered()
        self._means.log.info("logged_in", server=self._means.server)
        self._means.on_change()
        self._on_authenticated()

    def _failed(self, problem: OAuthProblem) -> None:
        """Take note of a login that came to nothing."""
        self._means.log.warning("login_failed", server=self._means.server, problem=problem.message)
        if problem.kind in ("refused", "denied"):
            self._standing.held = problem.message
        self._blame(problem)

    def _blame(self, problem: OAuthProblem) -> None:
        """Say that the server cannot be used for this reason, unless what is held is good all the same."""
        if not self._usable():
            self._standing.problem = problem.message
