"""What forwarding is tested with: a host of either era that writes down what reaches it, and questions of a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec
from gateway_fakes import FakeCall, FakeOutlet, FakePort, FakeUpstream, FakeWorld, agreed, ask, modern_ask
from msgspec import Raw

from moltis.gateway.api import LOCAL, Outlet, Principal
from moltis.gateway.forwarding import Forwarding, Running
from moltis.gateway.messages import Answer, request

FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}
ALL = {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": True}}
RESULT = b'{"content":[{"type":"text","text":"done"}]}'


def json(value: Any) -> bytes:
    return msgspec.json.encode(value)


class FakeQuestion:
    """A server's request, and what became of it."""

    def __init__(self, method: str = "elicitation/create", params: Any = FORM) -> None:
        self.method = method
        self.params = b"" if params is None else json(params)
        self.outcomes: list[Any] = []
        self.refused = False
        self.told: list[tuple[str, Any]] = []
        self.then: Callable[[], None] | None = None

    def answer(self, result: bytes) -> None:
        self.outcomes.append(msgspec.json.decode(result))
        if self.then is not None:
            self.then()

    def refuse(self, error: bytes) -> None:
        self.outcomes.append(msgspec.json.decode(error))
        self.refused = True

    def tell(self, method: str, params: Raw) -> None:
        self.told.append((method, msgspec.json.decode(params)))


class FakeHost:
    """Fits `HostSide`."""

    def __init__(self, capabilities: Any = ALL, *, principal: Principal = LOCAL, log_level: str | None = None) -> None:
        self.principal = principal
        self.client_info = b'{"name":"old host","version":"1"}'
        self.capabilities = json(capabilities)
        self.log_level = log_level
        self.revision = "2025-11-25"
        self.finished: list[bytes] = []
        self.asked: dict[int, Callable[[Answer], None]] = {}
        self.questions: list[tuple[int, str, Any]] = []
        self.taken_back: list[tuple[int, bytes]] = []
        self._last = 100

    def ask_host(self, method: str, params: bytes, outlet: Outlet, on_answer: Callable[[Answer], None]) -> int | None:
        self._last += 1
        if not outlet.tell(request(self._last, method, params)):
            return None
        self.asked[self._last] = on_answer
        self.questions.append((self._last, method, msgspec.json.decode(params) if params else None))
        return self._last

    def take_back(self, id: int, reason: bytes) -> None:
        if self.asked.pop(id, None) is not None:
            self.taken_back.append((id, reason))

    def done(self, id: bytes) -> None:
        self.finished.append(id)

    # --- what the host itself does

    def answers(self, result: Any, id: int | None = None) -> None:
        """Answer the latest question, or one."""
        id = max(self.asked) if id is None else id
        self.asked.pop(id)(Answer(b"%d" % id, json(result)))

    def refuses(self, message: str = "no", code: int = -1) -> None:
        id = max(self.asked)
        self.asked.pop(id)(Answer(b"%d" % id, None, json({"code": code, "message": message})))


@dataclass
class Bench:
    """One forwarding with one server, and the requests that it counted."""

    port: FakePort
    world: FakeWorld
    forwarding: Forwarding = field(init=False)
    counted: list[tuple[str, str, str | None, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.forwarding = Forwarding(
            self.world, lambda method, server, tool, secs, outcome: self.counted.append((method, server, tool, outcome))
        )

    @property
    def upstream(self) -> FakeUpstream:
        found = self.port.upstream()
        assert found is not None
        return found

    @property
    def call(self) -> FakeCall:
        """The latest request that reached the server."""
        return self.upstream.calls[-1]

    @property
    def outcomes(self) -> list[str]:
        return [outcome for *_, outcome in self.counted]

    def legacy(self, host: FakeHost | None = None, **more: Any) -> Try:
        return self._begin(host or FakeHost(), era="legacy", **more)

    def modern(self, host: FakeHost | None = None, **more: Any) -> Try:
        """`host` is a new one by default, as every request of a modern host over HTTP is."""
        return self._begin(host or FakeHost(), era="modern", **more)

    def _begin(
        self,
        host: FakeHost,
        *,
        era: str,
        method: str = "tools/call",
        params: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
        capabilities: Any = ALL,
        outlet: FakeOutlet | None = None,
        view: str = "/mcp",
        id: int = 1,
    ) -> Try:
        given: dict[str, Any] = {"name": "dig", "arguments": {"depth": 3}} if params is None else params
        if era == "modern":
            asked = modern_ask(method, given, id=id, capabilities=capabilities, **(meta or {}))
        else:
            asked = ask(method, given, id=id, meta=meta)
        outlet = outlet or FakeOutlet()
        name = given.get("name", given.get("uri"))
        tool = name if method == "tools/call" else None
        running = self.forwarding.begin(
            host, asked, outlet, self.port, params=asked.params, name=name, tool=tool, view=view
        )
        return Try(host, outlet, running)

    def retry(self, before: Try, responses: Any = None, **more: Any) -> Try:
        """Send a modern host's request again, with answers to what it was asked."""
        params = {"name": "dig", "arguments": {"depth": 3}, "requestState": before.result["requestState"]}
        if responses is not None:
            params["inputResponses"] = responses
        return self.modern(**{"id": 2, "params": params, **more})

    def assert_nothing_is_left(self) -> None:
        desk = self.forwarding._desk
        assert not desk.parking
        assert desk.parking._of.total == 0
        assert desk.parking._kept.total == 0
        assert not desk.waiting
        assert not desk.tokens


@dataclass
class Try:
    """One request of a host, and what it got for it."""

    host: FakeHost
    outlet: FakeOutlet
    running: Running | None

    @property
    def result(self) -> Any:
        return self.outlet.result

    @property
    def error(self) -> Any:
        return self.outlet.error

    @property
    def text(self) -> str:
        assert self.result["isError"] is True
        return str(self.result["content"][0]["text"])

    @property
    def told(self) -> list[tuple[str, Any]]:
        return [(message["method"], message.get("params")) for message in self.outlet.told]


def bench(era: str | None = "legacy", state: str = "stopped") -> Bench:
    """A bench without tasks. `era` of the server; None: it is not ready but in `state`."""
    port = FakePort("mole", state)
    if era is not None:
        port.ready(FakeUpstream("mole", agreed(era)))
    return Bench(port, FakeWorld(port))


@asynccontextmanager
async def live(era: str | None = "legacy", state: str = "stopped") -> AsyncIterator[Bench]:
    """A bench whose waiting works; nothing is left of it in the end."""
    one = bench(era, state)
    with anyio.fail_after(100_000):
        async with anyio.create_task_group() as tasks:
            one.world.tasks = tasks
            yield one
            await anyio.wait_all_tasks_blocked()
            one.assert_nothing_is_left()
            tasks.cancel_scope.cancel()


def input_required(requests: Any = None, state: str | None = None) -> bytes:
    members = {"resultType": "input_required"}
    if requests is not None:
        members["inputRequests"] = requests
    if state is not None:
        members["requestState"] = state
    return json(members)
