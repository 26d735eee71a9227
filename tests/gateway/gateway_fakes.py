"""Stand-ins for what the gateway works with: a world of servers, their sessions, and the way back to a host.

All of them are synchronous and remember what they were told. `FakeWorld.start` runs work only if it has a task group.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio.abc
import msgspec
from msgspec import Raw

from moltis.errors import Busy, MoltisError, UnknownServer
from moltis.gateway.api import Known
from moltis.gateway.messages import CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION, Answer, Ask, Tell, parse
from moltis.server.states import State
from moltis.server.status import LastError, ServerStatus
from moltis.session.calls import Caller, ErrorReply, Failed, OnReply, Result
from moltis.session.face import Face
from moltis.session.handshake import Agreed
from moltis.session.listing import Item, Kind
from moltis.session.wishes import Stirred, Taken, Wish

LEGACY = "2025-11-25"
MODERN = "2026-07-28"

EVERYTHING = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "prompts": {"listChanged": True},
    "logging": {},
    "completions": {},
}


def agreed(era: str = "legacy", **changes: Any) -> Agreed:
    """Say what a server called `fake` 1.0 agreed to."""
    given: dict[str, Any] = {
        "era": era,
        "protocol_version": MODERN if era == "modern" else LEGACY,
        "server_info": {"name": "fake", "version": "1.0"},
        "capabilities": EVERYTHING,
        "instructions": None,
    }
    return Agreed(**{**given, **changes})


def tool(name: str, **more: Any) -> Item:
    return Item(name, msgspec.json.encode({"name": name, "inputSchema": {"type": "object"}, **more}))


def prompt(name: str, **more: Any) -> Item:
    return Item(name, msgspec.json.encode({"name": name, **more}))


def resource(uri: str, **more: Any) -> Item:
    return Item(uri, msgspec.json.encode({"uri": uri, "name": uri, **more}))


def template(uri: str, **more: Any) -> Item:
    return Item(uri, msgspec.json.encode({"uriTemplate": uri, "name": uri, **more}))


class FakeCall:
    """A request that reached a server. `CallHandle` of the gateway, and the server's side of it."""

    def __init__(
        self,
        method: str,
        params: dict[str, Raw],
        meta: dict[str, Raw],
        on_reply: OnReply,
        caller: Caller,
        name: str | None,
        tool: str | None,
    ) -> None:
        self.method = method
        self.params = params
        self.meta = meta
        self.caller = caller
        self.name = name
        self.tool = tool
        self.cancelled: list[str] = []
        self._on_reply = on_reply

    def cancel(self, reason: str = "") -> None:
        self.cancelled.append(reason)

    def succeed(self, result: bytes = b'{"content":[]}') -> None:
        self._on_reply(Result(result))

    def refuse(self, error: bytes = b'{"code":-32602,"message":"no"}') -> None:
        self._on_reply(ErrorReply(error))

    def fail(self, error: MoltisError) -> None:
        self._on_reply(Failed(error))

    def read(self) -> dict[str, Any]:
        """Give the params as the server would read them, with `_meta`."""
        shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.params))
        return {**shown, "_meta": msgspec.json.decode(msgspec.json.encode(self.meta))} if self.meta else shown


class FakeUpstream:
    """A ready server, as `api.Upstream` is one. It answers nothing by itself, or with what `replies` gives."""

    def __init__(self, name: str, what: Agreed | None = None, **lists: Sequence[Item]) -> None:
        self.name = name
        self._agreed = what or agreed()
        self.lists: dict[Kind, tuple[Item, ...]] = dict.fromkeys(Kind, ())
        for kind, items in lists.items():
            self.lists[Kind[kind.upper()]] = tuple(items)
        self.hidden: frozenset[str] = frozenset()
        self.calls: list[FakeCall] = []
        self.told: list[tuple[str, bytes]] = []
        self.watched: list[frozenset[str]] = []
        self.levels: list[str | None] = []
        self.standing: dict[Wish, Taken] = {}
        self.stirred = Stirred()
        self.defaults: bytes | None = None
        self.refuses: MoltisError | None = None
        self.replies: Callable[[FakeCall], bytes] | None = None
        self.beside: FakeUpstream | None = self
        self.takes_for: list[tuple[bool, str | None]] = []
        self.settled = anyio.Event()

    @property
    def agreed(self) -> Agreed:
        return self._agreed

    def items(self, kind: Kind) -> tuple[Item, ...]:
        found = self.lists[kind]
        if kind is Kind.TOOLS and self.hidden:
            return tuple(item for item in found if item.name not in self.hidden)
        return found

    def listed_all(self, kind: Kind) -> tuple[Item, ...]:
        return self.lists[kind]

    def forward(
        self,
        method: str,
        params: dict[str, Raw],
        meta: dict[str, Raw],
        on_reply: OnReply,
        *,
        caller: Caller,
        name: str | None = None,
        tool: str | None = None,
    ) -> FakeCall:
        if self.refuses is not None:
            raise self.refuses
        call = FakeCall(method, params, meta, on_reply, caller, name, tool)
        self.calls.append(call)
        if self.replies is not None:
            call.succeed(self.replies(call))
        return call

    def taker(self, *, modern: bool, tool: str | None = None) -> FakeUpstream | None:
        """Give itself, or what `beside` says for hosts of the older era."""
        self.takes_for.append((modern, tool))
        return self if modern else self.beside

    async def wait_taker(self) -> None:
        await self.settled.wait()

    def present_taker(self, *, modern: bool) -> FakeUpstream:
        return self if modern else self.beside or self

    def tell(self, method: str, params: bytes) -> None:
        self.told.append((method, params))

    def watch_resources(self, uris: frozenset[str]) -> None:
        self.watched.append(uris)

    def want_log_level(self, level: str | None) -> None:
        self.levels.append(level)

    def taken(self, wish: Wish) -> Taken:
        return self.standing.get(wish, True)

    async def wait_taken(self) -> None:
        await self.stirred.wait()

    def takes(self, wish: Wish, taken: Taken = True) -> None:
        """Have it acknowledge, refuse, or (False) say nothing yet."""
        self.standing[wish] = taken
        self.stirred.stir()

    def default_answer(self, method: str, params: bytes) -> bytes | None:
        return self.defaults


class FakePort:
    """One supervised server. `ready(upstream)` and `move(state)` change it as its actor would."""

    def __init__(self, name: str, state: str = "stopped", *, secs: float = 60.0) -> None:
        self.name = name
        self._state = state
        self._upstream: FakeUpstream | None = None
        self._known: Known | None = None
        self._secs = secs
        self._settled = anyio.Event()
        self.switched_off: frozenset[str] = frozenset()
        self.holds = 0
        self.next_retry_at: str | None = None
        self.auth_url: str | None = None
        self.last_error: LastError | None = None

    @property
    def up(self) -> FakeUpstream:
        """The session that there is."""
        assert self._upstream is not None
        return self._upstream

    def ready(self, upstream: FakeUpstream | None = None, **lists: Sequence[Item]) -> FakeUpstream:
        self._upstream = upstream or FakeUpstream(self.name, None, **lists)
        self.move("ready")
        return self._upstream

    def move(self, state: str) -> None:
        if self._state == "ready":
            self._known = self.known()
        self._state = state
        if state not in ("starting", "initializing"):
            self._settled.set()
            self._settled = anyio.Event()
        if state != "ready":
            self._upstream = None

    def remember(self, known: Known | None) -> None:
        """Have something known of it from an earlier life."""
        self._known = known

    def upstream(self) -> FakeUpstream | None:
        return self._upstream if self._state == "ready" else None

    def state(self) -> State:
        return State(self._state)

    def status(self) -> ServerStatus:
        return ServerStatus(
            name=self.name,
            display_name=None,
            transport="stdio",
            enabled=self._state != "disabled",
            state=self._state,
            status="connected" if self._state == "ready" else "disconnected",
            next_retry_at=self.next_retry_at,
            auth_url=self.auth_url,
            last_error=self.last_error,
        )

    def known(self) -> Known | None:
        if self._state != "ready" or self._upstream is None:
            return self._known
        lists = self._upstream.lists
        return Known(
            self._upstream.agreed,
            tools=lists[Kind.TOOLS],
            resources=lists[Kind.RESOURCES],
            templates=lists[Kind.TEMPLATES],
            prompts=lists[Kind.PROMPTS],
        )

    def allows(self, tool: str) -> bool:
        return tool not in self.switched_off

    def wakes(self) -> bool:
        return self._state == "idle"

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1

    async def wait_settled(self) -> None:
        while self._state in ("starting", "initializing") or (self._state == "idle" and self.holds):
            await self._settled.wait()

    async def wait_up(self) -> None:
        while self._state in ("starting", "initializing", "backoff"):
            await self._settled.wait()

    def start_secs(self) -> float:
        return self._secs


class FakeWorld:
    """Servers in the order given. With `tasks` set, work runs in it; without, it is kept in `started`."""

    def __init__(self, *ports: FakePort, tasks: anyio.abc.TaskGroup | None = None) -> None:
        self._ports = {port.name: port for port in ports}
        self.shared_out: set[str] = set()
        self.instances: dict[str, FakePort] = {}
        self.faces: dict[str, Face] = {}
        self.most = 8
        self._numbers = itertools.count(1)
        self.tasks = tasks
        self.started: list[Callable[[], Coroutine[Any, Any, object]]] = []

    def add(self, port: FakePort) -> FakePort:
        self._ports[port.name] = port
        return port

    def remove(self, name: str) -> None:
        del self._ports[name]

    def ports(self) -> Sequence[FakePort]:
        return list(self._ports.values())

    def port(self, name: str) -> FakePort:
        try:
            return self.instances.get(name) or self._ports[name]
        except KeyError:
            raise UnknownServer(name, self._ports) from None

    def split(self) -> frozenset[str]:
        return frozenset(self.shared_out)

    def begin_instance(self, server: str, face: Face) -> FakePort:
        if sum(name.startswith(f"{server}@") for name in self.faces) >= self.most:
            raise Busy(f"server {server!r} runs for {self.most} hosts already", server=server)
        port = FakePort(f"{server}@{next(self._numbers)}")
        port.ready()
        self.instances[port.name] = port
        self.faces[port.name] = face
        return port

    def outlives(self, name: str) -> bool:
        return True

    def end_instance(self, name: str) -> None:
        del self.instances[name], self.faces[name]

    def change_face(self, name: str, face: Face) -> None:
        self.faces[name] = face

    def start(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        if self.tasks is None:
            self.started.append(work)
        else:
            self.tasks.start_soon(work)


class FakeOutlet:
    """Remembers what goes to the host. `open` False: nothing can go ahead of the reply."""

    def __init__(self, *, open: bool = True, asks: bool = True) -> None:
        self.open = open
        self.asks = asks
        self.told: list[dict[str, Any]] = []
        self.replies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.status: int | None = None

    def tell(self, message: bytes) -> bool:
        assert b"\n" not in message
        if not self.open:
            return False
        self.raw.append(message)
        self.told.append(msgspec.json.decode(message))
        return True

    def can_ask(self) -> bool:
        return self.open and self.asks

    def reply(self, message: bytes, status: int = 200) -> None:
        assert b"\n" not in message
        assert not self.replies, "a request has one reply"
        self.raw.append(message)
        self.replies.append(msgspec.json.decode(message))
        self.status = status

    @property
    def answered(self) -> bool:
        return bool(self.replies)

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.replies[0]["result"]
        return found

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.replies[0]["error"]
        return found


class Unsolicited:
    """The way for what belongs to no request; shut until `open`."""

    def __init__(self, *, open: bool = True) -> None:
        self.open = open
        self.sent: list[dict[str, Any]] = []

    def __call__(self, message: bytes) -> bool:
        assert b"\n" not in message
        if self.open:
            self.sent.append(msgspec.json.decode(message))
        return self.open

    def methods(self) -> list[str]:
        return [message["method"] for message in self.sent]


# --- messages of a host, read as the fronts read them


def ask(method: str, params: dict[str, Any] | None = None, *, id: int | str = 1, meta: Any = None) -> Ask:
    """Give a request of a legacy host."""
    given = dict(params or {})
    if meta is not None:
        given["_meta"] = meta
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": id, "method": method}
    if given:
        body["params"] = given
    incoming = parse(msgspec.json.encode(body))
    assert isinstance(incoming, Ask)
    return incoming


def modern_ask(
    method: str,
    params: dict[str, Any] | None = None,
    *,
    id: int | str = 1,
    capabilities: dict[str, Any] | None = None,
    **meta: Any,
) -> Ask:
    """Give a request of a modern host. `meta`: more members."""
    given = {
        PROTOCOL_VERSION: MODERN,
        CLIENT_INFO: {"name": "host", "version": "2"},
        CAPABILITIES: capabilities or {},
        **meta,
    }
    return ask(method, params, id=id, meta=given)


def tell(method: str, params: dict[str, Any] | None = None) -> Tell:
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        body["params"] = params
    incoming = parse(msgspec.json.encode(body))
    assert isinstance(incoming, Tell)
    return incoming


def answer(id: int, result: Any = None, error: Any = None) -> Answer:
    member = {"error": error} if error is not None else {"result": result if result is not None else {}}
    incoming = parse(msgspec.json.encode({"jsonrpc": "2.0", "id": id, **member}))
    assert isinstance(incoming, Answer)
    return incoming
