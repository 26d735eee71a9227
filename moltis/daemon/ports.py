"""The servers of the daemon as the gateway sees them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from anyio.abc import TaskGroup

from moltis.config.plan import ServerPlan
from moltis.errors import UnknownServer
from moltis.gateway.api import Known
from moltis.server.actor import Actor
from moltis.server.states import COMING, SETTLING, State
from moltis.server.status import ServerStatus
from moltis.server.supervisor import Supervisor
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

    def ports(self) -> Sequence[Port]:
        return [self.port(name) for name in self._supervisor.names()]

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

    def start(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._tasks.start_soon(work)
