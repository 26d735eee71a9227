"""A server that is a function from what it is sent to what it sends, behind the transport's seam."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import trio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from moltis.config.limits import Limits
from moltis.config.plan import ServerPlan
from moltis.server.states import FailureKind
from moltis.session.calls import Reply
from moltis.session.hooks import Hooks
from moltis.session.session import Session
from moltis.transport import PLAIN, ConnectionClosed, Ended, Notices, OpenFailed, Outgoing, Receiver

Message = dict[str, Any]
Out = Message | bytes | tuple[float, Message]
"""A message, raw bytes, or a message after that many seconds."""

Script = Callable[[Message], Iterable[Out]]


def result(request: Message, value: Any) -> Message:
    return {"jsonrpc": "2.0", "id": request["id"], "result": value}


def error(request: Message, code: int, message: str = "no", data: Any = None) -> Message:
    return {
        "jsonrpc": "2.0",
        "id": request["id"],
        "error": {"code": code, "message": message, **({} if data is None else {"data": data})},
    }


INITIALIZED = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": True}},
    "serverInfo": {"name": "old", "version": "1"},
}
DISCOVERED = {
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {"listChanged": True}},
    "ttlMs": 0,
    "cacheScope": "private",
    "resultType": "complete",
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "new", "version": "2"}},
}


def tool(name: str) -> Message:
    return {"name": name, "inputSchema": {"type": "object"}}


def legacy(*tools: str, **more: Script) -> Script:
    """A server of 2025-11-25. `more` overrides methods: `tools_call=lambda request: [...]`; the rest gets -32601."""
    return _server({"initialize": lambda r: [result(r, INITIALIZED)]}, tools, more)


def modern(*tools: str, **more: Script) -> Script:
    """A server of 2026-07-28."""
    return _server({"server/discover": lambda r: [result(r, DISCOVERED)]}, tools, more)


def _server(base: dict[str, Script], tools: Iterable[str], more: dict[str, Script]) -> Script:
    methods: dict[str, Script] = {
        "ping": lambda r: [result(r, {})],
        "tools/list": lambda r: [result(r, {"tools": [tool(t) for t in tools]})],
        **base,
        **{name.replace("__", "/"): script for name, script in more.items()},
    }

    def script(message: Message) -> Iterable[Out]:
        if "method" not in message:
            return []
        if message["method"] in methods:
            return methods[message["method"]](message)
        return [error(message, -32601)] if "id" in message else []

    return script


class ScriptedConnection:
    def __init__(self, server: ScriptedServer, receive: Receiver) -> None:
        self._server = server
        self._receive = receive
        self._token = trio.lowlevel.current_trio_token()
        self._closed = anyio.Event()
        self._ended: Ended | None = None
        self.stopped = 0
        self.killed = 0
        self.lingers_secs = 0.0
        self.stderr_at = -math.inf
        self.says_goodbye = False
        self.has_read = True
        self.in_session = server.in_session

    @property
    def pid(self) -> int | None:
        return 42

    @property
    def ending(self) -> bool:
        return self._ended is not None or self.says_goodbye

    def send(self, message: bytes, about: Outgoing = PLAIN) -> None:
        if self._ended is not None:
            raise ConnectionClosed
        assert b"\n" not in message
        self._server.raw.append(message)
        self._server.about.append(about)
        parsed = json.loads(message)
        self._server.sent.append(parsed)
        for out in self._server.script(parsed):
            self.say(out)

    def say(self, *outs: Out, during: int | None = None) -> None:
        for out in outs:
            if isinstance(out, tuple):
                self._server.tasks.start_soon(self._say_later, *out)
            else:
                raw = out if isinstance(out, bytes) else json.dumps(out).encode()
                self._token.run_sync_soon(self._deliver, raw, during)

    async def _say_later(self, delay: float, message: Message) -> None:
        await anyio.sleep(delay)
        self._deliver(json.dumps(message).encode())

    def _deliver(self, raw: bytes, during: int | None = None) -> None:
        if self._ended is None:
            self._receive(raw, during)

    def stderr_tail(self) -> tuple[str, ...]:
        return ("warming up", "boom")

    def end(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
            self._closed.set()

    def stop(self) -> None:
        self.stopped += 1
        self.end(Ended(FailureKind.EXITED, "exited with code 0", 0))

    def kill(self) -> None:
        self.killed += 1
        self.end(Ended(FailureKind.EXITED, "was killed", -9, self.stderr_tail()))

    async def wait_closed(self) -> Ended:
        ended = await self.wait_lost()
        await anyio.sleep(self.lingers_secs)
        return ended

    async def wait_lost(self) -> Ended:
        await self._closed.wait()
        assert self._ended is not None
        return self._ended


class ScriptedServer:
    """A `Transport` to a script; what was sent to it is in `sent` (parsed) and `raw`."""

    def __init__(self, tasks: TaskGroup, script: Script) -> None:
        self.tasks = tasks
        self.script = script
        self.sent: list[Message] = []
        self.raw: list[bytes] = []
        self.open_secs = 0.0
        self.refuses: Ended | None = None
        self.connections: list[ScriptedConnection] = []
        self.about: list[Outgoing] = []
        self.notices: Notices | None = None
        self.in_session = True

    async def open(self, receive: Receiver, notices: Notices) -> ScriptedConnection:
        await anyio.sleep(self.open_secs)
        if self.refuses is not None:
            raise OpenFailed(self.refuses)
        self.notices = notices
        self.connections.append(ScriptedConnection(self, receive))
        return self.connections[-1]

    @property
    def connection(self) -> ScriptedConnection:
        return self.connections[-1]

    def methods(self) -> list[str]:
        return [m["method"] for m in self.sent if "method" in m]

    def asked(self, method: str) -> list[Message]:
        return [m for m in self.sent if m.get("method") == method]


class Heard:
    """Session events, kept."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.ready = anyio.Event()

    def opened(self, pid: int | None) -> None:
        self.events.append(("opened", pid))

    def initialized(self) -> None:
        self.events.append(("initialized",))
        self.ready.set()

    def alive(self, latency_secs: float, *, otherwise: bool = False) -> None:
        self.events.append(("alive", latency_secs, "otherwise") if otherwise else ("alive", latency_secs))

    def unsent(self) -> None:
        self.events.append(("unsent",))


class Replies(list[Reply]):
    """Replies, kept; `append` is the callback."""

    def __init__(self) -> None:
        self._grown = anyio.Event()

    def append(self, reply: Reply) -> None:
        super().append(reply)
        self._grown.set()
        self._grown = anyio.Event()

    async def until(self, count: int) -> None:
        while len(self) < count:
            await self._grown.wait()


class Running:
    """A session that runs in `tasks` against a script."""

    def __init__(self, tasks: TaskGroup, script: Script, plan: ServerPlan | None = None, **more: Any) -> None:
        self.server = ScriptedServer(tasks, script)
        self.heard = Heard()
        hooks = replace(more.pop("hooks", Hooks()), clock=anyio.current_time)
        self.session = Session("x", plan or a_plan(), self.server, self.heard, hooks=hooks, **more)
        self.ended: Ended | None = None
        self.over = anyio.Event()
        self.replies = Replies()

    async def run(self) -> None:
        self.ended = await self.session.run()
        self.over.set()

    async def until_ready(self) -> Running:
        self.server.tasks.start_soon(self.run)
        with anyio.fail_after(60):
            await self.heard.ready.wait()
        return self

    async def heard_or_over(self) -> None:
        """Wait until the session, which runs, is ready or over."""
        async with anyio.create_task_group() as waiting:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                waiting.cancel_scope.cancel()

            waiting.start_soon(wait, self.over)
            waiting.start_soon(wait, self.heard.ready)

    async def until_over(self) -> Ended:
        with anyio.fail_after(60):
            await self.over.wait()
        assert self.ended is not None
        return self.ended

    async def until_reply(self, count: int = 1) -> list[Reply]:
        with anyio.fail_after(5000):
            await self.replies.until(count)
        return self.replies

    async def until_ready_or_over(self) -> bool:
        """Run until the session is ready, or has ended before it was; say which."""

        async def run() -> None:
            await self.run()
            self.heard.ready.set()

        self.server.tasks.start_soon(run)
        with anyio.fail_after(300):
            await self.heard.ready.wait()
        return ("initialized",) in self.heard.events


def a_plan(**more: Any) -> ServerPlan:
    limits = more.pop("limits", Limits())
    return ServerPlan(name="x", limits=limits, **more)
