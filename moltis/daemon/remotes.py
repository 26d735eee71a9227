"""The remote servers of one daemon: their connections, and their logins as anyone outside may see them.

HTTP, TLS and OAuth are imported with the first remote server, on a thread: a daemon without one never pays for them,
and no local server waits for them. What is behind that import is `logins`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from moltis.config.plan import DaemonPlan, Plan, RemoteLaunch, ServerPlan
from moltis.errors import MoltisError
from moltis.paths import Paths
from moltis.server.states import FailureKind
from moltis.threads import in_thread
from moltis.transport import Connection, Ended, Notices, OpenFailed, Receiver, Transport
from moltis.transport.containment import Warden
from moltis.transport.kinds import Given

if TYPE_CHECKING:
    from moltis.daemon.logins import Logins


@dataclass(frozen=True, slots=True)
class Auth:
    """A login as anyone outside may see it. `message`: why it failed, or what is in its way; `at`: RFC 3339.

    unavailable: nobody has to log in, it only cannot be renewed now. next_try_at: when that is tried again, RFC 3339.
    ends_at: when it ends and cannot be renewed, in seconds since the epoch; None where it can be.
    """

    state: str = "not_required"
    url: str | None = None
    message: str | None = None
    at: str = ""
    unavailable: bool = False
    next_try_at: str | None = None
    ends_at: float | None = None


NO_AUTH = Auth()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What remote servers need of the daemon.

    scrub: takes known secrets out of a text; learn: told a server's name and values to take out from now on.
    moved: told a server's login each time that it changes; logged_in: told by name when a person has completed it;
        renewed: when it works again by itself.
    """

    paths: Paths
    warden: Warden
    scrub: Callable[[str], str]
    learn: Callable[[str, Iterable[str]], None]
    moved: Callable[[str, Auth], None]
    logged_in: Callable[[str], None]
    renewed: Callable[[str], None]
    auths: dict[str, Auth] = field(default_factory=dict)


def open_remote(plan: ServerPlan, given: Given) -> Transport:
    """Return how a remote server is reached."""
    return given.over_http(plan, given.on_oversized, trial=given.trial)


class Remotes:
    """All remote servers of one daemon."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._daemon = DaemonPlan()
        self._tasks: TaskGroup | None = None
        self._importing = anyio.Lock()
        self._logins: Logins | None = None

    def start(self, tasks: TaskGroup, plan: Plan) -> None:
        """Begin; `tasks` hosts connections and logins."""
        self._tasks = tasks
        self._daemon = plan.daemon

    def apply(self, plan: Plan) -> None:
        """Go on by another plan: the login of a server that is gone, or is reached otherwise, ends."""
        self._daemon = plan.daemon
        if self._logins is not None:
            self._logins.retain(plan)

    def rest(self, name: str) -> None:
        """Give up what is under way for a server that is not to run: nobody shall be asked to log in for it."""
        if self._logins is not None:
            self._logins.rest(name)

    def auth(self, name: str) -> Auth:
        """Give a server's login; `NO_AUTH` itself where there is none."""
        auth = self._surroundings.auths.get(name, NO_AUTH)
        if self._logins is not None and (auth.unavailable or auth.state == "authenticated"):
            return self._logins.as_it_is_now(name, auth)
        return auth

    def transport(self, plan: ServerPlan, on_oversized: Callable[[int], None], *, trial: bool) -> Transport:
        """Give the transport of one run. A `trial` uses a login that there is, and begins none."""
        return _Deferred(partial(self._open, plan, on_oversized, trial=trial))

    async def held(self, plan: ServerPlan) -> str | None:
        """Return the Authorization header of a server's login, as it is: nothing is renewed. None without one.

        Raises:
            MoltisError: it cannot be seen now.
        """
        return await (await self._behind()).held(plan) if isinstance(plan.launch, RemoteLaunch) else None

    async def begin(self, plan: ServerPlan, *, new_client: bool) -> str | None:
        """Have a person log in to a server; as `operations.api.DaemonApi.begin_login`."""
        return await (await self._behind()).begin(plan, new_client=new_client)

    async def complete(
        self, callback_url: str | None, *, state: str | None, code: str | None, iss: str | None, error: str | None
    ) -> str:
        """Go on with a login; as `operations.api.DaemonApi.complete_login`."""
        return await (await self._behind()).complete(callback_url, state=state, code=code, iss=iss, error=error)

    async def forget(self, plan: ServerPlan, rest: Plan) -> None:
        """Revoke and delete the login of a server that was removed, unless one of the `rest` shares it."""
        if isinstance(plan.launch, RemoteLaunch):
            await (await self._behind()).forget(plan, rest)

    async def log_out(self, plan: ServerPlan, of: Plan, *, forget_client: bool) -> list[str]:
        """End the login of a server; as `logins.Logins.log_out`."""
        return await (await self._behind()).log_out(plan, of, forget_client=forget_client)

    async def aclose(self) -> None:
        """End all logins."""
        if self._logins is not None:
            await self._logins.aclose()

    async def _open(self, plan: ServerPlan, on_oversized: Callable[[int], None], *, trial: bool) -> Transport:
        return (await self._behind()).transport(plan, on_oversized, trial=trial)

    async def _behind(self) -> Logins:
        async with self._importing:
            if self._logins is None:
                assert self._tasks is not None, "start() comes first"
                self._logins = await in_thread(self._import, self._tasks)
            return self._logins

    def _import(self, tasks: TaskGroup) -> Logins:
        from moltis.daemon.logins import Logins

        return Logins(self._surroundings, tasks, lambda: self._daemon, encrypted=self._daemon.encrypt_tokens)


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A transport that is made when it is opened."""

    make: Callable[[], Awaitable[Transport]]

    async def open(self, receive: Receiver, notices: Notices) -> Connection:
        try:
            transport = await self.make()
        except MoltisError as problem:
            raise OpenFailed(Ended(FailureKind.CONNECT_FAILED, problem.message)) from None
        return await transport.open(receive, notices)
