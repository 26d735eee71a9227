"""Work that goes on when those who wait for it leave, and the pace of all that try again.

A refresh that is given up half-way loses a login, so it must not depend on the patience of the request that wanted it:
each piece of work has a task of its own, whoever wants it waits, and all of them end with `Jobs.close`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from moltis.errors import Busy
from moltis.oauth.decisions import SPREAD_SECS
from moltis.oauth.model import OAuthProblem
from moltis.threads import in_thread

T = TypeVar("T")


async def blocking(work: Callable[..., T], *args: object) -> T:
    """Call `work` on a thread and return what it returns.

    Raises:
        OAuthProblem: `outage`: no thread can be started.
    """
    try:
        return await in_thread(work, *args)
    except Busy as busy:
        raise OAuthProblem(busy.message, kind="outage") from None


CLOSE_SECS = 2.0
"""How long what is worth finishing has when everything ends."""


class Log(Protocol):
    """What `logs.Logger` has."""

    def info(self, message: str, /, **fields: Any) -> None: ...

    def warning(self, message: str, /, **fields: Any) -> None: ...

    def error(self, message: str, /, **fields: Any) -> None: ...


class Job:
    """One piece of work, begun."""

    def __init__(self, name: str, *, finish: bool) -> None:
        self.name = name
        self.finish = finish
        self.problem: OAuthProblem | None = None
        self.scope = anyio.CancelScope()
        self._over = anyio.Event()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def end(self, problem: OAuthProblem | None) -> None:
        """Let everybody know how it went."""
        self.problem = problem
        self._over.set()

    async def outcome(self) -> OAuthProblem | None:
        """Wait until it is over; give what went wrong."""
        await self._over.wait()
        return self.problem


class Jobs:
    """The work of one login; at most one piece of each name at a time.

    tasks: hosts them. It must outlive `close`, or be cancelled.
    """

    def __init__(self, server: str, tasks: TaskGroup, log: Log) -> None:
        self.closed = False
        self._server = server
        self._tasks = tasks
        self._log = log
        self._running: dict[str, Job] = {}

    def running(self, name: str) -> bool:
        return name in self._running

    def join(self, name: str, work: Callable[[], Awaitable[None]], *, finish: bool = False) -> Job:
        """Return the work of that name that is going on, or begin it.

        work: may raise OAuthProblem, which is its outcome; anything else is a fault of this program.
        finish: it is given `CLOSE_SECS` when everything ends.
        """
        running = self._running.get(name)
        if running is not None:
            return running
        job = Job(name, finish=finish)
        if self.closed:
            job.end(abandoned())
            return job
        self._running[name] = job
        self._tasks.start_soon(self._run, job, work, name=f"login to {self._server}: {name}")
        return job

    async def close(self) -> None:
        """End everything and wait until it has ended."""
        self.closed = True
        for job in list(self._running.values()):
            if not job.finish:
                job.scope.cancel()
        try:
            with anyio.move_on_after(CLOSE_SECS):
                await self._all_over()
        finally:
            for job in list(self._running.values()):
                job.scope.cancel()
        await self._all_over()

    async def _all_over(self) -> None:
        for job in list(self._running.values()):
            await job.outcome()

    async def _run(self, job: Job, work: Callable[[], Awaitable[None]]) -> None:
        problem: OAuthProblem | None = abandoned()
        try:
            with job.scope:
                problem = await _attempt(work)
        except Exception as fault:  # one login is lost, not the daemon
            self._log.error("login_faulted", server=self._server, work=job.name, exc_info=fault)
            problem = OAuthProblem("something went wrong inside moltis; its log says what", kind="outage")
        finally:
            del self._running[job.name]
            job.end(problem)


class Place:
    """One who waits."""

    def __init__(self) -> None:
        self._news = anyio.Event()

    async def wait(self, until: float, roll: float) -> None:
        """Wait until an instant, monotonic, or less if another one has got through.

        roll: a number of [0, 1) by chance; all that were waiting do not come at once.
        """
        with anyio.CancelScope(deadline=until):
            await self._news.wait()
            self._news = anyio.Event()
            await anyio.sleep(SPREAD_SECS * roll)

    def tell(self) -> None:
        self._news.set()


class Crowd:
    """All logins of one daemon that wait, by the authorization server that they wait for.

    They share a pace, and the news that it is back. What one of them is told is not taken for an answer to another:
    each presents its own refresh token.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, set[Place]] = {}

    @contextmanager
    def waiting(self, issuer: str) -> Iterator[Place]:
        """Be one of those who wait for an issuer."""
        places = self._waiting.setdefault(issuer, set())
        place = Place()
        places.add(place)
        try:
            yield place
        finally:
            places.discard(place)
            if not places and self._waiting.get(issuer) is places:
                del self._waiting[issuer]

    def number(self, issuer: str) -> int:
        """Return how many wait for an issuer."""
        return len(self._waiting.get(issuer, ()))

    def got_through(self, issuer: str) -> None:
        """Tell all who wait for an issuer that it has answered one who waited."""
        for place in self._waiting.get(issuer, ()):
            place.tell()


async def _attempt(work: Callable[[], Awaitable[None]]) -> OAuthProblem | None:
    try:
        await work()
    except OAuthProblem as problem:
        return problem
    return None


def abandoned() -> OAuthProblem:
    """Return what becomes of a login when its server is removed or moltis ends."""
    return OAuthProblem("the login was given up: the server was removed or changed, or moltis is ending", kind="outage")


def again(problem: OAuthProblem) -> OAuthProblem:
    """Return a problem anew, for one more who waited: an exception that is raised twice collects tracebacks."""
    return OAuthProblem(
        problem.message,
        kind=problem.kind,
        code=problem.code,
        retry_after_secs=problem.retry_after_secs,
        unclear=problem.unclear,
    )
