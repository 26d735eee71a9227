"""The servers of the daemon as the gateway sees them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from anyio.abc import TaskGroup

from moltis.config.plan import ServerPlan
from moltis.errors import Busy, UnknownServer
from moltis.gateway.api import Known
from moltis.server.actor import Actor
from moltis.server.states import AT_REST, COMING, SETTLING, State
from moltis.server.status import ServerStatus
from moltis.server.supervisor import Supervisor
from moltis.session.face import Face
from moltis.session.listing import Kind, ToolFilter
from moltis.session.session import Session

UNDER_WAY_NO_MORE = tuple(state for state in State if state not in SETTLING)
UP_OR_NOT = tuple(state for state in UNDER_WAY_NO_MORE if state not in COMING)
"""Past a first failure a server may be up in a moment."""


def known_of(session: Session) -> Known:
    """Return what a ready server says of itself and lists."""
    return Known(
        session.agreed,
        tools=session.listed_all(Kind.TOOLS),
        resources=session.listed_all(Kind.RESOURCES),
        templates=session.listed_all(Kind.TEMPLATES),
        prompts=session.listed_all(Kind.PROMPTS),
    )


class Port:
    """One supervised server; fits `gateway.api.ServerPort`. Lives as long as its actor."""

    __slots__ = ("_filter", "_filtered_by", "_remembered", "_status", "actor", "name")

    def __init__(
        self,
        name: str,
        actor: Actor[Session],
        remembered: Callable[[ServerPlan], Known | None],
        status: Callable[[str], ServerStatus],
    ) -> None:
        self.name = name
        self.actor = actor
        self._remembered = remembered
        self._status = status
        self._filtered_by: ServerPlan | None = None
        self._filter = ToolFilter()

    def upstream(self) -> Session | None:
        return self.actor.ready_life

    def state(self) -> State:
        return self.actor.state

    def status(self) -> ServerStatus:
        return self._status(self.name)

    def known(self) -> Known | None:
        session = self.actor.ready_life
        return known_of(session) if session is not None else self._remembered(self.actor.plan)

    def allows(self, tool: str) -> bool:
        plan = self.actor.plan
        if plan is not self._filtered_by:
            self._filtered_by, self._filter = plan, ToolFilter(plan.include_tools, plan.exclude_tools)
        return self._filter.allows(tool)

    def wakes(self) -> bool:
        return self.actor.wakes

    def hold(self) -> None:
        self.actor.hold()

    def release(self) -> None:
        self.actor.release()

    async def wait_settled(self) -> None:
        await self.actor.wait_handled()
        await self.actor.wait_state(*UNDER_WAY_NO_MORE)  # past a failed start it is known why, too

    async def wait_up(self) -> None:
        await self.actor.wait_state(*UP_OR_NOT)

    def start_secs(self) -> float:
        return self.actor.plan.limits.startup_timeout_secs


class Ports:
    """All servers; fits `gateway.api.World`. `tasks`: where work of the gateway is done."""

    def __init__(
        self,
        supervisor: Supervisor[Session],
        remembered: Callable[[ServerPlan], Known | None],
        status: Callable[[str], ServerStatus],
        tasks: TaskGroup,
    ) -> None:
        self._supervisor = supervisor
        self._remembered = remembered
        self._status = status
        self._tasks = tasks
        self._ports: dict[str, Port] = {}
        self._faces: dict[str, Face] = {}

    def ports(self) -> Sequence[Port]:
        return [self.port(server.name) for server in self._supervisor.plan.servers]

    def port(self, name: str) -> Port:
        actor = self._supervisor.actor(name)
        known = self._ports.get(name)
        if known is None or known.actor is not actor:
            known = self._ports[name] = Port(name, actor, self._remembered, self._status)
        return known

    def lists_tool(self, server: str, tool: str) -> bool:
        """Whether a server lists a tool of this name, as far as is known of it. Never raises."""
        try:
            known = self.port(server).known()
        except UnknownServer:
            return False
        return known is not None and any(item.name == tool for item in known.tools)

    def retain(self) -> None:
        """Forget the servers that are gone."""
        names = set(self._supervisor.names())
        for name in self._ports.keys() - names:
            del self._ports[name]
            self._faces.pop(name, None)

    def split(self) -> frozenset[str]:
        return frozenset(server.name for server in self._supervisor.plan.servers if server.has_instances)

    def begin_instance(self, server: str, face: Face) -> Port:
        template = self._supervisor.plan.server(server)
        if template is None:
            raise UnknownServer(server, self._supervisor.names())
        running = sum(actor.plan.template == server for actor in self._supervisor)
        if running >= template.max_instances:
            told = f"server {server!r} already runs for {running} hosts, each by an instance of its own"
            hint = f"end one of them, wait until one is idle, or raise max_instances in [mcp.servers.{server}]"
            raise Busy(told, server=server, hint=hint)
        actor = self._supervisor.begin(template)
        self._faces[actor.plan.name] = face
        return self.port(actor.plan.name)

    def outlives(self, name: str) -> bool:
        actor = self._supervisor.actor(name)
        return actor.plan.idle_stop_secs > 0 and actor.state not in AT_REST

    def end_instance(self, name: str) -> None:
        self._supervisor.end(name)
        self._faces.pop(name, None)
        self._ports.pop(name, None)

    def change_face(self, name: str, face: Face) -> None:
        if name in self._faces:
            self._faces[name] = face
            session = self._supervisor.actor(name).life
            if session is not None:
                session.face = face

    def face(self, name: str) -> Face | None:
        """Return the host that an instance serves; None of what is none."""
        return self._faces.get(name)

    def start(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._tasks.start_soon(work)
