"""All servers of one daemon: an actor each, started, changed and dropped as the plan says.

Decides nothing about a server: its actor does. The one rule here is that a name has at most one actor that is not
gone, so that a server which is removed and added again never has two processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from moltis.config.plan import Plan, PlanDiff, ServerPlan, diff
from moltis.errors import UnknownServer
from moltis.server.actor import Actor
from moltis.server.life import Life, LifeEvents
from moltis.server.slots import StartSlots, at_once
from moltis.server.status import HistoryEntry

L = TypeVar("L", bound=Life)


class Supervisor(Generic[L]):
    """Runs the actors.

    begin: makes one run of a server; called once per start.
    wall, roll: wall time, aware; a number in [0, 1).
    on_transition: told each change of state of each server, at once. It must neither block nor raise.
    clear: as of `StartSlots`. unseen: as of `Actor`.
    """

    def __init__(
        self,
        begin: Callable[[ServerPlan, LifeEvents], L],
        *,
        max_concurrent_starts: int,
        clear: Callable[[], Awaitable[None]] = at_once,
        wall: Callable[[], datetime],
        roll: Callable[[], float],
        on_transition: Callable[[str, HistoryEntry], None],
        unseen: Callable[[ServerPlan], bool] = lambda plan: False,
    ) -> None:
        self._begin = begin
        self._slots = StartSlots(max_concurrent_starts, clear=clear)
        self._wall = wall
        self._roll = roll
        self._on_transition = on_transition
        self._unseen = unseen
        self._plan = Plan()
        self._actors: dict[str, Actor[L]] = {}
        self._instances: dict[str, Actor[L]] = {}
        self._numbers: Counter[str] = Counter()
        self._gone: dict[str, anyio.Event] = {}
        self._leaving: set[Actor[L]] = set()
        self._tasks: TaskGroup | None = None
        self._over = anyio.Event()

    @property
    def plan(self) -> Plan:
        """What is to run, as it was last applied."""
        return self._plan

    def __iter__(self) -> Iterator[Actor[L]]:
        return chain(self._actors.values(), self._instances.values())

    def names(self) -> list[str]:
        """Give the names of all servers, in file order, and of their instances."""
        return [*self._actors, *self._instances]

    def of_entry(self, entry: str) -> list[Actor[L]]:
        """Give the actors of what an entry of moltis.toml has running: the server and its instances; none if gone."""
        return [actor for actor in self if actor.plan.entry == entry]

    def plan_of(self, name: str) -> ServerPlan | None:
        """Return the plan of a server or an instance that is not gone."""
        instance = self._instances.get(name)
        return self._plan.server(name) if instance is None else instance.plan

    def actor(self, name: str) -> Actor[L]:
        """Give one server's actor.

        Raises:
            UnknownServer: there is none of that name.
        """
        found = self._actors.get(name) or self._instances.get(name)
        if found is None:
            raise UnknownServer(name, self.names())
        return found

    def counts(self) -> dict[str, int]:
        """Count the servers by state; states that no server is in are left out."""
        return dict(Counter(str(actor.state) for actor in self))

    def apply(self, plan: Plan) -> PlanDiff:
        """Make the servers those of `plan`; what is unchanged is not touched."""
        change = diff(self._plan, plan)
        self._plan = plan
        self._slots.resize(plan.daemon.max_concurrent_starts)
        for name in change.removed:
            self._drop(name)
        before, self._actors = self._actors, {}
        for server in plan.servers:
            known = before.get(server.name)
            self._actors[server.name] = known if known is not None else self._add(server)
            if known is not None and server.name in change.changed:
                known.reconfigure(server)
        for name, instance in [*self._instances.items()]:
            template = plan.server(instance.plan.entry)
            if template is None or not template.has_instances or not template.enabled or template.problem:
                self.end(name)
            else:
                changed = template.instance(name)
                if changed != instance.plan:
                    instance.reconfigure(changed)
        return change

    def begin(self, template: ServerPlan) -> Actor[L]:
        """Add an instance of a server; it is idle, and ends for good by `end`.

        Its name is never another's, for somebody may still want something of one that is gone.
        """
        self._numbers[template.name] += 1
        plan = template.instance(f"{template.name}@{self._numbers[template.name]}")
        actor = self._instances[plan.name] = self._add(plan)
        if self._over.is_set():
            actor.shutdown()
        return actor

    def end(self, name: str) -> None:
        """Stop an instance for good. No effect on what is none."""
        actor = self._instances.pop(name, None)
        if actor is not None:
            self._leaving.add(actor)
            actor.shutdown()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Host the actors until `shutdown` and nothing is left of any server."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            await self._over.wait()
            self.shutdown()

    def shutdown(self, *, fast: bool = False) -> None:
        """Stop all servers at once, for good; `run` then returns. With `fast` they are killed. May be called again."""
        self._over.set()
        for actor in (*self, *self._leaving):
            actor.shutdown(fast=fast)

    def _add(self, server: ServerPlan) -> Actor[L]:
        assert self._tasks is not None, "run() comes before apply()"
        actor = Actor(
            server,
            self._begin,
            self._slots,
            wall=self._wall,
            roll=self._roll,
            on_transition=partial(self._on_transition, server.name),
            unseen=self._unseen,
        )
        predecessor = self._gone.get(server.name)
        gone = self._gone[server.name] = anyio.Event()
        self._tasks.start_soon(self._host, server.name, actor, predecessor, gone, name=f"actor {server.name}")
        return actor

    def _drop(self, name: str) -> None:
        actor = self._actors.pop(name)
        self._leaving.add(actor)
        actor.shutdown()

    async def _host(self, name: str, actor: Actor[L], predecessor: anyio.Event | None, gone: anyio.Event) -> None:
        try:
            if predecessor is not None:
                await predecessor.wait()
            await actor.run()
        finally:
            gone.set()
            self._leaving.discard(actor)
            if self._gone.get(name) is gone:
                del self._gone[name]
