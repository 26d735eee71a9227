"""The remote servers of one daemon: their connections, and logging in to them.

HTTP, TLS and OAuth are imported with the first remote server, on a thread: a daemon without one never pays for them,
and no local server waits for them. What is behind that import is `logins`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec
from anyio.abc import TaskGroup

from moltis import logs
from moltis.config.plan import DaemonPlan, Plan, RemoteLaunch, ServerPlan
from moltis.daemon.auth import NO_AUTH, Auth, KnownSecrets, Surroundings
from moltis.errors import MoltisError
from moltis.operations.events import EventBus, LoginMoved
from moltis.paths import Paths
from moltis.server.actor import Actor
from moltis.server.lifecycle import AuthDone, AuthLost
from moltis.server.states import AT_REST, FailureKind, State
from moltis.server.status import HistoryEntry
from moltis.server.supervisor import Supervisor
from moltis.session.session import Session
from moltis.threads import in_thread
from moltis.transport import Connection, Ended, Notices, OpenFailed, Receiver, Transport
from moltis.transport.containment import Warden
from moltis.transport.kinds import Given

if TYPE_CHECKING:
    from moltis.daemon.logins import Logins

oauth_log = logs.get("moltis.oauth")


def open_remote(plan: ServerPlan, given: Given) -> Transport:
    """Return how a remote server is reached."""
    return given.over_http(plan, given.on_oversized, trial=given.trial)


class Remotes:
    """All remote servers of one daemon; fits `operations.api.LoginsApi`."""

    def __init__(
        self, paths: Paths, warden: Warden, secrets: KnownSecrets, supervisor: Supervisor[Session], events: EventBus
    ) -> None:
        self._surroundings = Surroundings(paths, warden, secrets.text, secrets.learn, self._moved, self._done)
        self._supervisor = supervisor
        self._events = events
        self._daemon = DaemonPlan()
        self._tasks: TaskGroup | None = None
        self._importing = anyio.Lock()
        self._logins: Logins | None = None

    def start(self, tasks: TaskGroup, plan: Plan) -> None:
        """Begin; `tasks` hosts connections and logins."""
        self._tasks = tasks
        self._daemon = plan.daemon

    async def aclose(self) -> None:
        """End what is under way of logins; at most 2 s."""
        if self._logins is not None:
            await self._logins.aclose()

    # --- what operations ask

    async def begin(self, name: str, *, new_client: bool = False) -> str | None:
        return await (await self._behind()).begin(self._supervisor.actor(name).plan, new_client=new_client)

    async def end(self, name: str, *, forget_client: bool) -> None:
        plan, logins = self._supervisor.actor(name).plan, await self._behind()
        for shared in await logins.log_out(plan, self._supervisor.plan, forget_client=forget_client):
            for actor in self._supervisor.of_entry(shared):
                if actor.state not in AT_REST:
                    actor.restart("logged_out")
                    await actor.wait_handled()

    async def complete(
        self, callback_url: str | None, *, state: str | None, code: str | None, iss: str | None, error: str | None
    ) -> str:
        return await (await self._behind()).complete(callback_url, state=state, code=code, iss=iss, error=error)

    # --- what the daemon asks

    def auth(self, name: str) -> Auth:
        """Return a server's login; `NO_AUTH` itself where there is none."""
        return self._logins.auth(name) if self._logins is not None else NO_AUTH

    def transport(self, plan: ServerPlan, on_oversized: Callable[[int], None], *, trial: bool) -> Transport:
        """Return the transport of one run. A `trial` uses a login that there is, and begins none."""
        plan = msgspec.structs.replace(plan, name=plan.entry)  # whose login it is
        return _Deferred(partial(self._open, plan, on_oversized, trial=trial))

    async def held(self, plan: ServerPlan) -> str | None:
        """Return the Authorization header of a server's login, as it is: nothing is renewed. None without one.

        Raises:
            MoltisError: it cannot be seen now.
        """
        return await (await self._behind()).held(plan) if isinstance(plan.launch, RemoteLaunch) else None

    async def forget(self, plan: ServerPlan) -> None:
        """Revoke and delete the login of a server that a command removed, unless another one shares it."""
        if isinstance(plan.launch, RemoteLaunch):
            await (await self._behind()).forget(plan, self._supervisor.plan)

    # --- what the daemon tells

    def apply(self, plan: Plan) -> None:
        """Go on by another plan: the login of a server that is gone, or is reached otherwise, ends."""
        self._daemon = plan.daemon
        if self._logins is not None:
            self._logins.retain(plan)

    def server_moved(self, name: str, entry: HistoryEntry) -> None:
        """Take note of what a server does, or an instance: whose login is the server's."""
        plan = self._supervisor.plan_of(name)
        if plan is not None and plan.template is not None:
            if entry.to == State.READY and self._logins is not None:
                self._logins.served(plan.template)
            return
        if entry.to in AT_REST and self._logins is not None:
            self._logins.rest(name)  # nobody shall be asked to log in for a server that is not to run
        if entry.to == State.READY and self._logins is not None:
            self._logins.served(name)

    # --- what logins tell

    def _moved(self, name: str, auth: Auth) -> None:
        oauth_log.info("login_state_changed", server=name, auth_state=auth.state)  # why is told by who found it out
        if self._events.wants("auth"):
            moved = LoginMoved(server=name, auth_state=auth.state, auth_url=auth.url, message=auth.message)
            self._events.publish(moved)
        if auth.state != "authenticated" or auth.unavailable:
            needless = f"it needed no login before, and now {auth.message}" if auth.locked_out else ""
            self._post(name, AuthLost(locked_out=needless))

    def _done(self, name: str, event: AuthDone) -> None:
        """Have a server that waits for its login begin; one that is ready goes on, with its new token."""
        for actor in self._post(name, event):
            if actor.ready_life is not None:
                actor.ready_life.let_in()

    def _post(self, name: str, event: AuthDone | AuthLost) -> list[Actor[Session]]:
        """Tell the actors of a server and its instances, and return them; none where the server is gone."""
        actors = self._supervisor.of_entry(name)
        for actor in actors:
            actor.post(event)
        return actors

    # --- what is behind the import

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


class _Deferred(msgspec.Struct, frozen=True):
    """A transport that is made when it is opened."""

    make: Callable[[], Awaitable[Transport]]

    async def open(self, receive: Receiver, notices: Notices) -> Connection:
        try:
            transport = await self.make()
        except MoltisError as problem:
            raise OpenFailed(Ended(FailureKind.CONNECT_FAILED, problem.message)) from None
        return await transport.open(receive, notices)
