"""`transport = "sse"`: which of the two a server speaks, found out in memory and in virtual time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from no_credentials import NoCredentials
from old_server import LIMITS, URL, Json, OldServer, Told, answering, line, raising, result, streaming
from trio.testing import MockClock

from moltis.config.plan import RemoteLaunch, ServerPlan
from moltis.errors import LoginNeeded
from moltis.http.authorized import Refusal
from moltis.session.hooks import Hooks
from moltis.session.session import Session
from moltis.transport import Connection, ConnectionClosed, Notices, OpenFailed, Outgoing, Receiver
from moltis.transport.remote.base import Endpoint
from moltis.transport.remote.legacy import ENDPOINT_SECS
from moltis.transport.remote.opening import FallbackConnection, RemoteTransport
from moltis.transport.remote.streamable import StreamableConnection

pytestmark = pytest.mark.anyio

ERROR = {"code": -32600, "message": "Bad Request: Server not initialized"}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Either(OldServer):
    """An old server whose stream is at the configured URL. `streamable`: what a POST there is answered."""

    def __init__(self, streamable: Callable[..., Awaitable[httpx2.Response]]) -> None:
        super().__init__()
        self.streamable = streamable
        self.tried: list[str] = []
        self.on_post = self.by_path

    async def by_path(self, request: httpx2.Request, message: Json) -> httpx2.Response:
        if request.url.path != "/sse":
            return await self.take(request, message)
        self.tried.append(message.get("method", ""))
        self.posted.pop()
        return await self.streamable(request, message)


async def json_answers(request: httpx2.Request, message: Json) -> httpx2.Response:
    """Speak Streamable HTTP."""
    if "id" not in message:
        return httpx2.Response(202, stream=httpx2.ByteStream(b""))
    content = json.dumps(result(message, {"by": "streamable"})).encode()
    return httpx2.Response(200, headers={"Content-Type": "application/json"}, stream=httpx2.ByteStream(content))


# --- which it is


async def test_a_server_that_speaks_streamable_http_is_asked_nothing_else() -> None:
    server = Either(json_answers)
    server.on_get = answering(405)
    async with line(FallbackConnection, server) as at:
        await at.begin()
        at.ask(2, "tools/list")
        reply = await at.told.outcome(2)
        assert isinstance(reply, dict)
        assert reply["result"] == {"by": "streamable"}
        assert server.tried == ["initialize", "notifications/initialized", "tools/list"]
        assert server.posted == []


@pytest.mark.parametrize("status", [400, 404, 405])
@pytest.mark.parametrize("method", ["initialize", "server/discover"])
async def test_a_server_that_refuses_the_first_request_so_is_asked_for_a_stream(status: int, method: str) -> None:
    server = Either(answering(status, html="<h1>no</h1>"))
    async with line(FallbackConnection, server) as at:
        at.ask(1, method)
        assert await at.told.outcome(1) == {"jsonrpc": "2.0", "id": 1, "result": {"method": method}}
        at.ask(2, "initialize")
        await at.told.outcome(2)
        at.tell("notifications/initialized")
        at.ask(3, "tools/list")
        assert isinstance(await at.told.outcome(3), dict)
        assert server.tried == [method]
        assert server.methods == [method, "initialize", "notifications/initialized", "tools/list"]
        assert len(server.gets) == 1


@pytest.mark.parametrize("status", [402, 403, 406, 409, 410, 415, 429, 500, 502, 503])
async def test_any_other_refusal_stands(status: int) -> None:
    server = Either(answering(status))
    async with line(FallbackConnection, server) as at:
        at.ask(1, "initialize")
        assert (await at.lost()).kind == "connect_failed"
    assert server.gets == []


async def test_a_refusal_in_json_rpc_stands() -> None:
    server = Either(answering(400, json={"jsonrpc": "2.0", "id": None, "error": ERROR}))
    async with line(FallbackConnection, server) as at:
        at.ask(1, "server/discover", "2026-07-28")
        assert await at.told.outcome(1) == {"jsonrpc": "2.0", "id": 1, "error": ERROR}
        assert server.gets == []
        server.streamable = answering(404)
        at.ask(2, "initialize")
        assert isinstance(await at.told.outcome(2), dict)
        assert server.methods == ["initialize"]


NO_STREAM: dict[str, Callable[..., Awaitable[httpx2.Response]]] = {
    "not found": answering(404),
    "not allowed": answering(405),
    "a page": answering(200, html="<p>hello</p>"),
    "JSON": answering(200, json={}),
    "a redirect": answering(302, headers={"Location": "https://b.example/"}),
    "overloaded": answering(503, headers={"Retry-After": "60"}),
    "unreachable": raising(httpx2.ConnectError("SECRET")),
}


@pytest.mark.parametrize("on_get", NO_STREAM.values(), ids=NO_STREAM)
async def test_where_there_is_no_stream_either_the_first_answer_stands(on_get: Any) -> None:
    server = Either(answering(404))
    server.on_get = on_get
    async with line(FallbackConnection, server) as at:
        at.ask(1, "server/discover", "2026-07-28")
        reply = await at.told.outcome(1)
        assert isinstance(reply, dict)
        assert reply["error"] == {"code": -32601, "message": "HTTP 404"}
        at.ask(2, "initialize")
        ended = await at.lost()
        assert (ended.kind, ended.message) == ("connect_failed", "answered initialize with HTTP 404")
    assert len(server.gets) == 1
    assert server.tried == ["server/discover", "initialize"]


async def test_a_stream_that_does_not_say_where_messages_go_is_no_old_server() -> None:
    server = Either(answering(405))

    async def silent(request: httpx2.Request) -> httpx2.Response:
        await server.open_stream(request)
        server.stream._said.clear()
        return streaming(server.stream)

    server.on_get = silent
    async with line(FallbackConnection, server) as at:
        began = anyio.current_time()
        at.ask(1, "initialize")
        assert (await at.lost()).message == (
            f"did not say within {ENDPOINT_SECS:g} s where messages go "
            "(as Streamable HTTP it answered initialize with HTTP 405)"
        )
        assert anyio.current_time() - began == pytest.approx(ENDPOINT_SECS, abs=1)


ASTRAY = [
    ("http://mcp.example/messages?sid=1", "wants messages at http://mcp.example: ", "the scheme"),
    ("http://mcp.example:443/messages", "wants messages at http://mcp.example:443: ", "the scheme"),
    ("http://127.0.0.1:9/messages", "wants messages at http://127.0.0.1:9: ", "the host"),
    ("https://internal.example:8443/m", "wants messages at https://internal.example:8443: ", "the host"),
    ("https://mcp.example:8443/m", "wants messages at https://mcp.example:8443: ", "the host"),
    ("https://a:SECRET@mcp.example/m", "a URL with a login in it", ""),
    ("ftp://mcp.example/m", "no URL of http or https", ""),
]


@pytest.mark.parametrize("first", ["server/discover", "initialize"])
@pytest.mark.parametrize(("said", "words", "lacks"), ASTRAY, ids=[said for said, _, _ in ASTRAY])
async def test_what_is_wrong_with_the_stream_that_did_open_is_told(
    said: str, words: str, lacks: str, first: str
) -> None:
    server = Either(answering(405))
    server.location = said
    async with line(FallbackConnection, server) as at:
        at.ask(1, first)
        if first != "initialize":
            await at.told.outcome(1)
            at.ask(2, "initialize")
        ended = await at.lost()
        assert ended.kind == "connect_failed"
        assert words in ended.message
        assert lacks in ended.message
        assert "answered initialize with HTTP 405" in ended.message
        if lacks:
            assert "is reached at https://mcp.example and " in ended.message
        assert "SECRET" not in ended.message
    assert server.posted == [], "nothing is posted there"


async def test_a_stream_that_ends_before_it_says_where_messages_go_is_told_too() -> None:
    server = Either(answering(404))

    async def brief(request: httpx2.Request) -> httpx2.Response:
        response = await server.open_stream(request)
        server.stream._said.clear()
        server.stream.end()
        return response

    server.on_get = brief
    async with line(FallbackConnection, server) as at:
        at.ask(1, "initialize")
        assert (await at.lost()).message.startswith("ended its event stream (as Streamable HTTP it answered")


@pytest.mark.parametrize("location", ["/messages?sid=SECRET", "http://elsewhere.example/m"])
async def test_a_server_that_has_a_stream_and_answers_initialize_speaks_streamable_http(location: str) -> None:
    """It refuses `server/discover` by HTTP alone, and its stream is for notifications: that is no older transport."""

    async def refuses_discover(request: httpx2.Request, message: Json) -> httpx2.Response:
        return await (answering(400) if message["method"] == "server/discover" else json_answers)(request, message)

    server = Either(refuses_discover)

    async def silent(request: httpx2.Request) -> httpx2.Response:
        response = await server.open_stream(request)
        if location.startswith("/"):
            server.stream._said.clear()
        return response

    server.location = location
    server.on_get = silent
    async with line(FallbackConnection, server) as at:
        at.ask(1, "server/discover", "2026-07-28")
        assert isinstance(await at.told.outcome(1), dict)
        at.ask(2, "initialize")
        reply = await at.told.outcome(2)
        assert isinstance(reply, dict)
        assert reply["result"] == {"by": "streamable"}


@pytest.mark.parametrize("status", [400, 404, 405, 410, 500])
async def test_a_place_for_messages_that_is_not_there_is_named_without_what_may_be_secret(status: int) -> None:
    server = Either(answering(405))
    server.location = "/messages?sid=SECRET"

    async def nowhere(request: httpx2.Request, message: Json) -> httpx2.Response:
        return await answering(405 if request.url.path == "/sse" else status)(request, message)

    server.on_post = nowhere
    async with line(FallbackConnection, server) as at:
        at.ask(1, "initialize")
        ended = await at.lost()
        assert ended.message == f"answered initialize with HTTP {status} at https://mcp.example/messages?..."


async def test_all_that_was_refused_meanwhile_is_sent_by_the_other() -> None:
    """A slow server is asked `server/discover`, and after 10 s without an answer `initialize` as well."""
    server = Either(answering(404))
    plain = server.open_stream

    async def slow(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(5)
        return await plain(request)

    server.on_get = slow
    async with line(FallbackConnection, server) as at:
        at.ask(1, "server/discover", "2026-07-28")
        await anyio.sleep(2)
        at.ask(2, "initialize")
        assert isinstance(await at.told.outcome(1), dict)
        assert isinstance(await at.told.outcome(2), dict)
        assert sorted(server.methods) == ["initialize", "server/discover"]
        assert len(server.gets) == 1


async def test_after_the_handshake_nothing_is_asked_any_more() -> None:
    server = Either(json_answers)
    async with line(FallbackConnection, server) as at:
        at.ask(1, "server/discover", "2026-07-28")
        await at.told.outcome(1)
        at.ask(2, "tools/list", "2026-07-28")
        await at.told.outcome(2)
        server.streamable = answering(404)
        at.ask(3, "server/discover", "2026-07-28")
        await at.told.outcome(3)
        at.ask(4, "tools/call", "2026-07-28")
        assert "HTTP 404" in await at.told.failure(4)
        assert server.gets == []


async def test_a_whole_session_comes_about_with_an_old_server() -> None:
    server = Either(answering(404))

    async def speak(request: httpx2.Request, message: Json) -> httpx2.Response:
        match message.get("method"):
            case _ if request.url.path == "/sse":
                return httpx2.Response(404, stream=httpx2.ByteStream(b""))
            case "initialize":
                capabilities: dict[str, Any] = {"tools": {}}
                server.stream.message(result(message, {"protocolVersion": "2024-11-05", "capabilities": capabilities}))
            case "tools/list":
                tools = [{"name": "echo", "inputSchema": {"type": "object"}}]
                server.stream.message(result(message, {"tools": tools}))
            case "server/discover":
                error = {"code": -32601, "message": "Method not found"}
                server.stream.message({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return httpx2.Response(202, stream=httpx2.ByteStream(b""))

    server.on_post = speak
    ready = anyio.Event()

    class Events:
        def opened(self, pid: int | None) -> None:
            assert pid is None

        def initialized(self) -> None:
            ready.set()

        def alive(self, latency_secs: float, *, otherwise: bool = False) -> None:
            pass

        def unsent(self) -> None:
            pass

    class InMemory:
        async def open(self, receive: Receiver, notices: Notices) -> Connection:
            endpoint = Endpoint("old", URL, LIMITS, NoCredentials(), server.client)
            connection = FallbackConnection(endpoint, receive, notices)
            tasks.start_soon(connection.run)
            return connection

    plan = ServerPlan(name="old", transport="sse", launch=RemoteLaunch(URL), limits=LIMITS)
    async with anyio.create_task_group() as tasks:
        session = Session("old", plan, InMemory(), Events(), hooks=Hooks(clock=anyio.current_time))
        tasks.start_soon(session.run)
        with anyio.fail_after(30):
            await ready.wait()
        facts = session.facts()
        assert (facts.tool_count, facts.protocol_version) == (1, "2024-11-05")
        session.stop()
    assert all(stream.closed for stream in server.streams)


# --- how it ends


async def test_the_end_of_the_old_connection_is_the_end() -> None:
    server = Either(answering(404))
    async with line(FallbackConnection, server) as at:
        await at.begin()
        server.stream.end()
        ended = await at.lost(1)
        assert (ended.kind, ended.message) == ("disconnected", "ended its event stream")
        with anyio.fail_after(1):
            await at.connection.wait_closed()
        with pytest.raises(ConnectionClosed):
            at.ask(2, "ping")


async def test_it_may_end_in_the_middle_of_the_handshake() -> None:
    server = Either(answering(404))
    server.take = answering(202)  # type: ignore[method-assign,assignment]
    async with line(FallbackConnection, server) as at:
        at.ask(1, "initialize")
        await anyio.sleep(1)
        assert server.methods == ["initialize"]
        server.stream.end()
        assert (await at.lost(1)).kind == "disconnected"
        with anyio.fail_after(1):
            await at.connection.wait_closed()


async def test_when_the_first_is_lost_the_other_is_not_waited_for() -> None:
    server = Either(answering(404))

    async def never(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(1000)
        raise AssertionError

    server.on_get = never
    async with line(FallbackConnection, server) as at:
        at.ask(1, "server/discover", "2026-07-28")
        await anyio.sleep(1)
        server.streamable = raising(httpx2.ConnectError("SECRET"))
        at.ask(2, "initialize")
        assert (await at.lost(1)).kind == "connect_failed"
        with anyio.fail_after(1):
            await at.connection.wait_closed()


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("after", [0, 0.015, 1, 5.5])
async def test_it_can_be_ended_at_any_time(end: str, after: float) -> None:
    server = Either(answering(404))
    plain = server.open_stream

    async def slow(request: httpx2.Request) -> httpx2.Response:
        await anyio.sleep(5)
        return await plain(request)

    server.on_get = slow
    async with line(FallbackConnection, server) as at:
        at.ask(1, "initialize")
        await anyio.sleep(after)
        getattr(at.connection, end)()
        with anyio.fail_after(4):
            await at.connection.wait_lost()
            await at.connection.wait_closed()
        with pytest.raises(ConnectionClosed):
            at.ask(2, "ping")
        assert len(server.gets) == (after > 0.01)  # what is ending begins nothing new


async def test_being_cancelled_leaves_nothing() -> None:
    server = Either(answering(404))
    told = Told()
    endpoint = Endpoint("old", URL, LIMITS, NoCredentials(), server.client)
    async with anyio.create_task_group() as tasks:
        connection = FallbackConnection(endpoint, told.receive, told)
        tasks.start_soon(connection.run)
        connection.send(json.dumps({"id": 1, "method": "initialize"}).encode(), Outgoing(1, "initialize"))
        await anyio.sleep(1)
        assert server.streams
        tasks.cancel_scope.cancel()
    assert all(stream.closed for stream in server.streams)


async def test_a_stream_that_wants_a_login_makes_the_connection_wait_for_one() -> None:
    """Some servers look at credentials only on paths that they serve."""

    class Keys(NoCredentials):
        async def refused(self, refusal: Refusal) -> bool:
            raise LoginNeeded("log in", server="old")

    server = Either(answering(404))
    server.on_get = answering(401)
    async with line(FallbackConnection, server, Keys()) as at:
        at.ask(1, "initialize")
        assert (await at.lost(2)).kind == "auth_required"
        with anyio.fail_after(1):
            await at.connection.wait_closed()


# --- opening


async def opened(tasks: Any, transport: Any, launch: RemoteLaunch) -> Connection:
    told = Told()
    remote = RemoteTransport("old", transport, launch, LIMITS, NoCredentials(), tasks, on_oversized=told.on_oversized)
    assert "SECRET" not in repr(remote)
    return await remote.open(told.receive, told)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("transport", "kind"), [("sse", FallbackConnection), ("streamable-http", StreamableConnection)]
)
async def test_only_sse_falls_back(transport: str, kind: type, anyio_backend: str) -> None:
    async with anyio.create_task_group() as tasks:
        connection = await opened(tasks, transport, RemoteLaunch(URL, (("X-Key", "SECRET"),)))
        assert type(connection) is kind
        connection.kill()
        await connection.wait_closed()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "launch",
    [
        RemoteLaunch("ftp://SECRET.example/"),
        RemoteLaunch("https://"),
        RemoteLaunch("https://a.example:99999/"),
        RemoteLaunch("https://a.example/", ca_file="/nowhere/at/all.pem"),
        RemoteLaunch("https://a.example/", ca_file=str(Path(__file__))),
    ],
    ids=lambda launch: launch.url,
)
async def test_what_cannot_be_opened_is_an_ordinary_failure(launch: RemoteLaunch, anyio_backend: str) -> None:
    async with anyio.create_task_group() as tasks:
        with pytest.raises(OpenFailed) as caught:
            await opened(tasks, "sse", launch)
    assert caught.value.ended.kind == "connect_failed"
    assert "SECRET" not in caught.value.ended.message
