"""The gateway of one daemon: put together, opened and closed as moltis.toml says.

Imported only where `[gateway]` is enabled, and uvicorn only when the address is bound already: hosts wait in its
backlog for what has to be imported and read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup

from moltis import __version__, logs
from moltis.config.plan import Plan, ServerPlan
from moltis.config.web import split_listen
from moltis.daemon.guard import kept_up
from moltis.daemon.memories import Memories
from moltis.daemon.ports import Ports, known_of
from moltis.daemon.process import http_connections
from moltis.daemon.watch import Watch
from moltis.errors import MoltisError, UnknownServer
from moltis.gateway.api import Known
from moltis.gateway.doors import Doors
from moltis.gateway.gateway import Gateway
from moltis.gateway.http.application import MOST_OF_ONE, Application, HttpSettings
from moltis.gateway.http.conversations import Conversations
from moltis.gateway.http.kept import KeptSessions
from moltis.gateway.http.listener import MAX_CONNECTIONS, GatewayListener
from moltis.gateway.http.sessions import Sessions
from moltis.gateway.metrics import Metrics
from moltis.gateway.tokens import TokenStore
from moltis.gateway.views import settings_of
from moltis.paths import Paths
from moltis.server.states import State
from moltis.server.status import ServerStatus
from moltis.server.supervisor import Supervisor
from moltis.session.face import Face
from moltis.session.session import Session
from moltis.threads import in_thread
from moltis.transport.wire import now

log = logs.get("moltis.gateway")

FLUSH_SECS = 0.2
"""For the last replies on their way, when the daemon ends."""


class Serving:
    """Serves hosts, over HTTP and over the control socket, from `start` to `aclose`.

    statuses: shows all servers. changed: told when the address is another one, or cannot be had. scrub: takes known
    secrets out of a text.
    """

    def __init__(
        self,
        paths: Paths,
        plan: Plan,
        supervisor: Supervisor[Session],
        tasks: TaskGroup,
        *,
        status: Callable[[str], ServerStatus],
        statuses: Callable[[], Sequence[ServerStatus]],
        changed: Callable[[], None],
        scrub: Callable[[str], str],
        watch: Watch,
    ) -> None:
        self._supervisor = supervisor
        self._tasks = tasks
        self._statuses = statuses
        self._changed = changed
        self._plan = plan.gateway
        self._memories = Memories(paths.known_dir, self._current, scrub)
        self._memories.apply(plan)
        self._ports = Ports(supervisor, self._memories.of, status, tasks)
        self._metrics = Metrics(self._ports.lists_tool)
        self._closing = False
        self._is_loaded = False
        self._access_tokens = paths.access_tokens
        self._watch = watch
        self._unwatch: Callable[[], None] = lambda: None
        self._tokens_problem: str | None = None
        self.tokens = TokenStore(paths.access_tokens)
        self.gateway = Gateway(self._ports, settings_of(plan), self._metrics.observe)
        http = _http_settings(plan)
        self._kept = KeptSessions(paths.sessions, self.tokens.mark)
        self._connections = http_connections(len(plan.servers), MAX_CONNECTIONS)
        self._application = Application(
            self.gateway,
            Doors(http.allowed_origins, http.listen_host, http.allowed_hosts),
            self.tokens.verify,
            http,
            ready=lambda: not self._closing,
            metrics=self._figures,
            lapsed=self.tokens.lapsed,
            most_of_one=min(self._connections * 3 // 4, MOST_OF_ONE),
            conversations=Conversations(self.gateway, Sessions(now, kept=self._kept), lapsed=self.tokens.lapsed),
        )
        self._listener: GatewayListener | None = None
        self._listening = anyio.CancelScope()
        self._keeping = anyio.CancelScope()

    @property
    def url(self) -> str | None:
        """Where `/mcp` is; None while it is not served over HTTP."""
        return self._listener.url if self._listener is not None else None

    @property
    def problem(self) -> str | None:
        """Why it is not served over HTTP, and what mends that; None where nothing is wrong."""
        return self._listener.problem if self._listener is not None else None

    async def start(self, sockets: Sequence[socket.socket] = ()) -> None:
        """Begin: learn who may come in and what was known, and bind the address, if it can be had.

        sockets: that listen there already.
        """
        try:
            await in_thread(self.tokens.load)
        except MoltisError as problem:
            log.error("tokens_not_read", problem=problem.message, hint=problem.hint)
        await self._kept.load()
        self._unwatch = self._watch.file(
            self._access_tokens, self._tokens_edited, absence_counts=True, each_time=self._end_what_is_over
        )
        await self._memories.load()  # whoever asks first is told what was known, not nothing
        self._is_loaded = True
        self.gateway.survey()
        self._have_unseen_started()
        self._listen(sockets)
        self._tasks.start_soon(self._keep)

    def apply(self, plan: Plan) -> None:
        """Go on by another plan."""
        before, self._plan = self._plan, plan.gateway
        self.gateway.reconfigure(settings_of(plan))
        self._application.reconfigure(_http_settings(plan))
        self._ports.retain()
        self._memories.apply(plan)
        self._have_unseen_started()
        self.gateway.servers_changed()
        if before.listen != plan.gateway.listen:
            self._tasks.start_soon(self._listen_elsewhere)

    async def aclose(self) -> None:
        """End what is still open, and keep what is not kept yet; at most twice `FLUSH_SECS`."""
        self._closing = True
        self.gateway.close("its gateway was switched off")
        if self._listener is not None:
            await self._listener.close(FLUSH_SECS)
        self._keeping.cancel()
        self._unwatch()
        with anyio.move_on_after(FLUSH_SECS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._memories.write)
                tasks.start_soon(self._kept.close)

    async def reread_tokens(self) -> None:
        """Go by tokens.toml as it is now; one that cannot be read changes nothing."""
        try:
            await in_thread(self.tokens.load)
            self._tokens_problem = None
        except MoltisError as problem:
            if problem.message != self._tokens_problem:
                self._tokens_problem = problem.message
                log.error("tokens_not_read", problem=problem.message, hint=problem.hint)
        self._end_what_is_over()

    async def revoke_token(self, name: str) -> None:
        """Revoke an access token and end what it let in, even if the file cannot be written.

        Raises:
            UsageError: there is none of that name.
            ConfigError: it is revoked for as long as this daemon runs.
        """
        try:
            await in_thread(self.tokens.revoke, name)
        finally:
            self._end_what_is_over()

    def _tokens_edited(self) -> None:
        self._tasks.start_soon(self.reread_tokens)

    def _end_what_is_over(self) -> None:
        """End what was let in by access tokens that are revoked, expired, or out of the file: parked calls too."""
        for name in self.tokens.take_over():
            self._application.end_principal(name)
            self.gateway.forwarding.give_up(name)

    def begin_to_close(self) -> None:
        """Take no more requests; those under way may still be answered."""
        self._closing = True
        self.gateway.close("moltis is stopping")

    def face(self, name: str) -> Face | None:
        """Return the host that an instance serves; None of what is none."""
        return self._ports.face(name)

    def end_instance(self, name: str) -> None:
        """Stop an instance for good: its host gets another one when it needs it."""
        self.gateway.instance_over(name)
        self._ports.end_instance(name)

    def known(self, plan: ServerPlan) -> Known | None:
        """Return what a server listed when it was last ready; None if nobody knows."""
        return self._memories.of(plan)

    def unseen(self, plan: ServerPlan) -> bool:
        """Whether nobody knows what a server has for hosts."""
        return self._is_loaded and plan.template is None and self._memories.of(plan) is None

    def _have_unseen_started(self) -> None:
        """Have servers that would be idle run once where nobody knows what they have for hosts."""
        for plan in self._supervisor.plan.servers:
            if plan.on_demand and self.unseen(plan):
                self._supervisor.actor(plan.name).need()

    # --- what the daemon tells

    def server_moved(self, plan: ServerPlan, state: State) -> None:
        if state is State.READY:
            if plan.template is None:
                self._memories.learn(plan)
            self.gateway.came_up(plan.name)
        self.gateway.server_moved(plan.name)
        if state is State.IDLE and plan.template is not None:  # whoever needs it again gets another one
            self.end_instance(plan.name)

    def lists_changed(self, name: str) -> None:
        plan = self._supervisor.plan.server(name)
        if plan is not None:
            self._memories.learn(plan)
        self.gateway.lists_changed(name)

    # --- parts

    def _current(self, name: str) -> Known | None:
        try:
            session = self._supervisor.actor(name).ready_life
        except UnknownServer:
            return None
        return None if session is None else known_of(session)

    def _listen(self, sockets: Sequence[socket.socket] = ()) -> None:
        scope = self._listening = anyio.CancelScope()
        listener = GatewayListener(
            self._application,
            self._plan.listen,
            on_change=self._changed,
            max_connections=self._connections,
            sockets=sockets,
        )
        self._listener = listener

        async def run() -> None:
            with scope:
                await kept_up(listener.run, "gateway listener")

        self._tasks.start_soon(run)

    async def _listen_elsewhere(self) -> None:
        before = self._listener
        if before is not None:
            await before.close(FLUSH_SECS)
        if self._listener is before and not self._closing:  # or somebody else did, by the same plan
            self._listening.cancel()
            self._listen()

    async def _keep(self) -> None:
        """Keep on disk what is learnt and used, until all is closed."""
        with self._keeping:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kept_up, self._memories.run, "memories")
                tasks.start_soon(kept_up, self.tokens.run, "tokens")
                tasks.start_soon(kept_up, self._kept.run, "sessions")

    def _figures(self) -> Callable[[], bytes]:
        return partial(
            self._metrics.render, self._statuses(), self._application.sessions, self.gateway.in_flight, __version__
        )


def _http_settings(plan: Plan) -> HttpSettings:
    gateway = plan.gateway
    return HttpSettings(
        require_token=gateway.require_token,
        allowed_hosts=gateway.allowed_hosts,
        allowed_origins=gateway.allowed_origins,
        rate_limit_per_minute=gateway.rate_limit_per_minute,
        max_body_bytes=plan.defaults.max_message_bytes,
        listen_host=split_listen(gateway.listen)[0],
    )
