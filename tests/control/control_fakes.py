"""A daemon with servers that do as the test says, and a raw client."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import msgspec

from moltis.errors import UnknownProject, UnknownServer
from moltis.gateway import messages
from moltis.gateway.api import Outlet, Principal
from moltis.gateway.messages import Answer, Ask, Tell
from moltis.gateway.tokens import Created, Scope, TokenInfo
from moltis.gateway.views import ALL, path_of
from moltis.operations.api import DaemonStatus, ProjectRow, ProjectShown, Reloaded, Tried
from moltis.operations.events import EventBus, StateMoved
from moltis.server.status import HistoryEntry, LastError, ServerStatus
from moltis.session.calls import OnReply, Result
from moltis.session.listing import Item, Kind


class Numbered(StateMoved, frozen=True, kw_only=True, tag="state"):
    """An event that a test tells from others of its kind."""

    number: int
    text: str = ""


def moved(server: str = "a", to: str = "ready", reason: str = "") -> StateMoved:
    return StateMoved(server=server, at="", from_="starting", to=to, reason=reason)


def numbered(server: str, number: int, text: str = "") -> Numbered:
    return Numbered(server=server, at="", from_="starting", to="ready", reason="", number=number, text=text)


class FakeCall:
    """A request that reached a server."""

    def __init__(self, what: tuple[Any, ...], on_reply: OnReply) -> None:
        self.what = what
        self.on_reply = on_reply
        self.cancelled = anyio.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class FakeSession:
    """Answers each call with `result` in the next turn of the loop, or never when that is None."""

    def __init__(self, tools: Sequence[str] = ("echo", "add")) -> None:
        self.tools = tuple(Item(t, b'{"name":"%b" , "inputSchema":{}}' % t.encode()) for t in tools)
        self.result: bytes | None = b'{"content": [ ],"n":1.50}'
        self.calls: list[FakeCall] = []

    def items(self, kind: Kind) -> tuple[Item, ...]:
        return self.tools if kind is Kind.TOOLS else ()

    def listed(self, kind: Kind, server: str) -> list[bytes]:
        return [b'{"server":"%b",%b' % (server.encode(), item.raw[1:]) for item in self.items(kind)]

    def call_tool(self, tool: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply) -> FakeCall:
        return self._ask(("call", tool, arguments, timeout_secs), on_reply)

    def get_prompt(self, name: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply) -> FakeCall:
        return self._ask(("prompt", name, arguments), on_reply)

    def read_resource(self, uri: str, timeout_secs: float | None, on_reply: OnReply) -> FakeCall:
        return self._ask(("read", uri), on_reply)

    def _ask(self, what: tuple[Any, ...], on_reply: OnReply) -> FakeCall:
        call = FakeCall(what, on_reply)
        self.calls.append(call)
        if self.result is not None:
            on_reply(Result(self.result))
        return call


class FakeServer:
    """One server, whose state the test sets."""

    def __init__(self, name: str, state: str = "ready", transport: str = "stdio") -> None:
        self.name = name
        self.state = state
        self.transport = transport
        self.last_error: LastError | None = None
        self.next_retry_at: str | None = None
        self.the_session = FakeSession()
        self.settled = anyio.Event()
        self.asked: list[str] = []

    def status(self, *, measured: bool = False) -> ServerStatus:
        return ServerStatus(
            name=self.name,
            rss_bytes=1_000_000 if measured else None,
            display_name=None,
            transport=self.transport,
            enabled=self.state != "disabled",
            state=self.state,
            status="connected" if self.state == "ready" else "error",
            last_error=self.last_error,
            next_retry_at=self.next_retry_at,
        )

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        return [HistoryEntry(at="2026-01-01T00:00:00Z", from_="stopped", to="starting", reason="configured")]

    def session(self) -> FakeSession | None:
        return self.the_session if self.state == "ready" else None

    def last_listed(self, kind: Kind) -> list[bytes] | None:
        return self.the_session.listed(kind, self.name) if self.state == "idle" else None

    def wakes(self) -> bool:
        return self.state == "idle"

    @contextmanager
    def held(self) -> Iterator[None]:
        self.asked.append("hold")
        yield
        self.asked.append("release")

    async def wait_settled(self) -> None:
        await self.settled.wait()

    async def start(self) -> None:
        self.asked.append("start")

    async def stop(self) -> None:
        self.asked.append("stop")

    async def restart(self) -> None:
        self.asked.append("restart")


class FakeHost:
    """Answers each request with its method, except `wait`, whose outlet is kept; hears everything."""

    def __init__(self, server: str | None, unsolicited: Callable[[bytes], bool]) -> None:
        self.server = server
        self.unsolicited = unsolicited
        self.heard: list[Any] = []
        self.waiting: list[Outlet] = []
        self.was_closed = anyio.Event()

    def request(self, ask: Ask, outlet: Outlet) -> None:
        self.heard.append(ask)
        if ask.method == "wait":
            self.waiting.append(outlet)
        else:
            outlet.reply(messages.result(ask.id, b'{"asked":"%b"}' % ask.method.encode()))

    def notification(self, tell: Tell) -> None:
        self.heard.append(tell)

    def answer(self, answer: Answer) -> None:
        self.heard.append(answer)

    def drop(self, id: bytes, reason: str) -> None:
        self.heard.append(("drop", id))

    def attached(self) -> None:
        self.heard.append("attached")

    def close(self) -> None:
        self.was_closed.set()


class FakeGateway:
    """Hosts of all servers, or of `alpha`."""

    def __init__(self) -> None:
        self.hosts: list[FakeHost] = []
        self.is_closed = False

    def new_host(
        self, path: str, principal: Principal, unsolicited: Callable[[bytes], bool], *, lasts: bool = True
    ) -> FakeHost:
        server = None if path == ALL else path.split("/")[2]
        if server is not None and not self.knows(path):
            raise UnknownServer(server, ["alpha"])
        self.hosts.append(FakeHost(server, unsolicited))
        return self.hosts[-1]

    def knows(self, path: str) -> bool:
        return path in (ALL, path_of("alpha"))

    def why_unknown(self, path: str) -> str:
        return "there is none"

    def path_in(self, folder: str) -> str:
        return path_of("alpha") if folder == "/srv/alpha" else ALL


class FakeDaemon:
    """Servers `alpha` and `beta`, both ready. What is asked of it and its parts is in `asked`."""

    def __init__(self) -> None:
        self.events = EventBus()
        self.asked: list[tuple[Any, ...]] = []
        self.the_gateway: FakeGateway | None = FakeGateway()
        self.servers = FakeServers(self.asked)
        self.configuration = FakeConfiguration(self)
        self.logins = FakeLogins(self.asked)
        self.hosts = FakeHosts(self)
        self.projects = FakeProjects(self.asked)

    @property
    def all(self) -> dict[str, FakeServer]:
        return self.servers.named

    @property
    def trying(self) -> anyio.Event:
        return self.servers.trying

    @property
    def try_ended(self) -> anyio.Event:
        return self.servers.try_ended

    def status(self) -> DaemonStatus:
        return DaemonStatus(
            name="moltis",
            version="1",
            pid=1,
            started_at="2026-01-01T00:00:00Z",
            uptime_secs=1.0,
            config_path="c",
            data_dir="d",
            socket_path="s",
            gateway_url=None,
            gateway_problem=None,
            servers={"total": len(self.all)},
        )

    def shutdown(self) -> None:
        self.asked.append(("shutdown",))

    async def log_tail(self, limit: int, server: str | None, level: str | None) -> list[msgspec.Raw]:
        return [msgspec.Raw(b'{"ts": 1}')] * min(limit, 2)


class FakeProjects:
    """One, `site`, which gets `beta`."""

    def __init__(self, asked: list[tuple[Any, ...]]) -> None:
        self._asked = asked

    def all(self) -> list[ProjectShown]:
        return [ProjectShown("site", "/srv/site", ["beta"])]

    def rows(self, name: str) -> list[ProjectRow]:
        self.servers_of(name)
        return [ProjectRow("alpha", "global", False, "excluded"), ProjectRow("beta", "global", True)]

    def servers_of(self, name: str) -> list[str]:
        if name != "site":
            raise UnknownProject(name, ["site"])
        return ["beta"]

    async def add(self, name: str, path: str) -> None:
        self._asked.append(("add", name, path))

    async def remove(self, name: str) -> None:
        self._asked.append(("remove", name))

    async def exclude(self, name: str, server: str) -> None:
        self._asked.append(("exclude", name, server))

    async def include(self, name: str, server: str) -> None:
        self._asked.append(("include", name, server))


class FakeServers:
    def __init__(self, asked: list[tuple[Any, ...]]) -> None:
        self.named = {name: FakeServer(name) for name in ("alpha", "beta")}
        self.trying = anyio.Event()
        self.try_ended = anyio.Event()
        self._asked = asked

    def all(self) -> list[FakeServer]:
        return list(self.named.values())

    def one(self, name: str) -> FakeServer:
        if name not in self.named:
            raise UnknownServer(name, self.named)
        return self.named[name]

    async def add(self, name: str, entry: Mapping[str, Any]) -> None:
        self._asked.append(("add", name, dict(entry)))

    async def update(self, name: str, changes: Mapping[str, Any]) -> None:
        self._asked.append(("update", name, dict(changes)))

    async def remove(self, name: str) -> None:
        self._asked.append(("remove", name))

    async def set_enabled(self, name: str, enabled: bool) -> None:
        self._asked.append(("enabled", name, enabled))

    async def try_one(
        self, name: str, entry: Mapping[str, Any] | None, *, copy: bool = False, sdk: bool = False
    ) -> Tried:
        self._asked.append(("sdk" if sdk else "copy" if copy else "try", name, entry))
        if name == "slow":
            self.trying.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.try_ended.set()
        if name == "broken":
            raise RuntimeError("s3cret")
        return Tried(ok=True, tool_count=2)


class FakeConfiguration:
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon
        self._timeout_secs = 30.0
        self._env = ["KEY"]

    async def reload(self) -> Reloaded:
        return Reloaded(unchanged=list(self._daemon.all))

    def request_timeout_secs(self) -> float:
        return self._timeout_secs

    async def set_request_timeout_secs(self, secs: float) -> None:
        self._timeout_secs = secs

    def env_names(self) -> list[str]:
        return self._env

    async def set_env(self, name: str, value: str) -> None:
        self._daemon.asked.append(("set", name, value))

    async def unset_env(self, name: str) -> bool:
        return name in self._env


class FakeLogins:
    def __init__(self, asked: list[tuple[Any, ...]]) -> None:
        self._asked = asked

    async def begin(self, name: str, *, new_client: bool = False) -> str | None:
        self._asked.append(("login", name, "anew") if new_client else ("login", name))
        return "https://as.example/authorize?state=s"

    async def end(self, name: str, *, forget_client: bool) -> None:
        self._asked.append(("logout", name, forget_client))

    async def complete(self, callback_url: str | None, **answer: str | None) -> str:
        self._asked.append(("complete", callback_url, {k: v for k, v in answer.items() if v is not None}))
        return "remote"


class FakeHosts:
    """Served by the daemon's `the_gateway`, which a test may exchange."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def gateway(self) -> FakeGateway | None:
        return self._daemon.the_gateway

    async def create_token(self, name: str, scope: Scope, expires_days: float | None) -> Created:
        self._daemon.asked.append(("create token", name, scope, expires_days))
        return Created(token="mlt_", name=name, scope=scope, expires_at=None)

    async def tokens(self) -> list[TokenInfo]:
        return []

    async def revoke_token(self, name: str) -> None:
        self._daemon.asked.append(("revoke token", name))


class Wire:
    """One raw connection, line by line."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._last_id = 0

    async def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                await anyio.wait_writable(self.sock)

    async def line(self) -> bytes:
        """Give the next line without its newline, or an empty one at the end."""
        while b"\n" not in self._buffer:
            await anyio.wait_readable(self.sock)
            data = self.sock.recv(1 << 16)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def json(self) -> Any:
        return json.loads(await self.line())

    async def ask(self, method: str, **params: Any) -> None:
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        await self.send(json.dumps(request).encode() + b"\n")

    async def call(self, method: str, **params: Any) -> Any:
        """Give the result, or the error."""
        await self.ask(method, **params)
        answer = await self.json()
        return answer.get("result", answer.get("error"))

    async def ended(self) -> bool:
        """Wait until the daemon has closed the connection."""
        try:
            while await self.line():
                pass
        except ConnectionError:
            pass
        return True
