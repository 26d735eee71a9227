"""Runs of a server that do as they are told, and a world that watches them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import anyio

from moltis.config.limits import Limits
from moltis.config.plan import ServerPlan, StdioLaunch
from moltis.server.actor import Actor
from moltis.server.life import LifeEvents, NoFacts
from moltis.server.lifecycle import Pulse
from moltis.server.slots import StartSlots
from moltis.server.states import FailureKind, State
from moltis.server.status import HistoryEntry
from moltis.transport import Effort, Ended

EPOCH = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PLAN = ServerPlan(name="files", launch=StdioLaunch("npx", ("server-files",)))
CRASH = Ended(FailureKind.EXITED, "exited with code 1", 1)


@dataclass(frozen=True)
class Script:
    """What one run does: durations in seconds, `math.inf` for never."""

    opens_after: float = 0.0
    ready_after: float = 0.0
    ends_after: float = math.inf
    ended: Ended = CRASH
    answers: bool = True
    answers_otherwise: bool = False
    busy_until: float = -math.inf
    stop_takes: float = 0.0
    needs_login: bool = False
    works_until: float = 0.0
    cpu_share: float = 0.0
    heeds_term: bool = False
    begin_raises: bool = False
    run_raises: bool = False


HEALTHY = Script()
CRASHES = Script(opens_after=math.inf, ends_after=0.0)
MUTE = Script(ready_after=math.inf)


class ScriptedLife:
    def __init__(self, world: World, plan: ServerPlan, events: LifeEvents, script: Script) -> None:
        if script.begin_raises:
            raise RuntimeError("begin is broken")
        self.world, self.plan, self.events, self.script = world, plan, events, script
        self.pid = 100 + len(world.lives)
        self.began = 0.0
        self.initialized = self.killed = False
        self.heard_at = -math.inf
        self.doing = anyio.CancelScope()
        self.lingering = anyio.CancelScope()
        world.lives.append(self)

    async def run(self) -> Ended:
        self.began = anyio.current_time()
        self.world.starts.append(self.began)
        assert self.world.alive is None, "two runs at once"
        self.world.alive = self
        try:
            return await self._do()
        finally:
            self.world.alive = None

    async def _do(self) -> Ended:
        script = self.script
        if script.run_raises:
            raise RuntimeError("run is broken")
        with self.doing, anyio.move_on_after(script.ends_after):
            await anyio.sleep(script.opens_after)
            self.events.opened(self.pid)
            await anyio.sleep(script.ready_after)
            if script.needs_login:
                return Ended(FailureKind.AUTH_REQUIRED, "a person must log in")
            self.initialized = True
            self.events.initialized()
            await anyio.sleep_forever()
        if not self.doing.cancel_called:
            return script.ended
        with self.lingering:
            await anyio.sleep(script.stop_takes)
        return Ended(FailureKind.EXITED, "killed" if self.killed else "stopped", -9 if self.killed else 0)

    def probe(self, *, otherwise: bool = False) -> None:
        self.world.probes.append(anyio.current_time())
        self.world.kinds.append(otherwise)
        if self.script.answers or (otherwise and self.script.answers_otherwise):
            self.events.alive(0.002, otherwise=otherwise)

    def pulse(self) -> Pulse:
        return Pulse(self.heard_at, self.script.busy_until)

    def effort(self) -> Effort:
        """A line a second until `works_until`, and a share of a processor all the time."""
        secs = anyio.current_time() - self.began
        said = int(min(secs, self.script.works_until))
        return Effort(said=said, cpu_secs=self.script.cpu_share * secs)

    def stop(self) -> None:
        self.doing.cancel()

    def hurry(self) -> None:
        self.world.hurried.append(anyio.current_time())
        if self.script.heeds_term:
            self.lingering.cancel()

    def kill(self) -> None:
        self.killed = True
        self.doing.cancel()
        self.lingering.cancel()

    def reconfigure(self, plan: ServerPlan) -> None:
        self.plan = plan

    def facts(self) -> NoFacts:
        return NoFacts(tool_count=3, server_info={"name": "files"}, protocol_version="2025-11-25")


@dataclass
class World:
    """All that happens to one server. Scripts are used one per run; the last one stays in use."""

    scripts: Sequence[Script] = (HEALTHY,)
    plan: ServerPlan = PLAN
    roll: float = 0.0
    slots: StartSlots = field(default_factory=lambda: StartSlots(8))
    lives: list[ScriptedLife] = field(default_factory=list)
    alive: ScriptedLife | None = None
    begun: int = 0
    starts: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    kinds: list[bool] = field(default_factory=list)
    hurried: list[float] = field(default_factory=list)
    told: list[HistoryEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.actor = Actor(
            self.plan,
            self.begin,
            self.slots,
            wall=lambda: EPOCH + timedelta(seconds=anyio.current_time()),
            roll=lambda: self.roll,
            on_transition=self.hear,
        )

    def begin(self, plan: ServerPlan, events: LifeEvents) -> ScriptedLife:
        self.begun += 1
        return ScriptedLife(self, plan, events, self.scripts[min(self.begun, len(self.scripts)) - 1])

    def hear(self, entry: HistoryEntry) -> None:
        if entry.to == State.READY:
            assert self.alive is not None
            assert self.alive.initialized, "ready without a handshake of this run"
        self.told.append(entry)

    @property
    def path(self) -> list[str]:
        """The states passed through."""
        return [entry.to for entry in self.told]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Actor[ScriptedLife]]:
        """Run the actor; shut it down at the end, and see that nothing is left."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.actor.run)
            yield self.actor
            self.actor.shutdown()
        assert self.alive is None
        assert self.actor.state in (State.STOPPED, State.DISABLED, State.INVALID)


def limits(**changes: float) -> ServerPlan:
    """Give the plan with other limits."""
    return ServerPlan(name="files", launch=PLAN.launch, limits=Limits(**changes))  # type: ignore[arg-type]
