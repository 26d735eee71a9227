"""HTTP+SSE against a server in memory, in virtual time."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from old_server import LIMITS, URL, Body, Json, OldServer, answering, line, raising, result, streaming
from scripted_remote import HttpServer, Peer, serving
from trio.testing import MockClock

from moltis.config.limits import Limits
from moltis.errors import LoginNeeded, ServerNotReady
from moltis.http.authorized import Refusal
from moltis.http.clients import server_client
from moltis.server.states import FailureKind
from moltis.session import envelope
from moltis.transport import ConnectionClosed
from moltis.transport.remote.legacy import ENDPOINT_SECS, LegacyConnection, _replied_ids

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


# --- all is well


async def test_messages_are_posted_where_the_server_says_and_answered_on_the_stream() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        at.ask(2, "tools/list", "2024-11-05")
        assert await at.told.outcome(2) == {"jsonrpc": "2.0", "id": 2, "result": {"method": "tools/list"}}
        assert server.methods == ["initialize", "notifications/initialized", "tools/list"]
    get, *posts = server.requests
    assert (get.method, str(get.url), get.headers["Accept"]) == ("GET", URL, "text/event-stream")
    for post in posts:
        assert str(post.url) == "https://mcp.example/messages?sessionId=1"
        assert post.headers["X-Key"] == "k"
        assert post.headers["Authorization"] == "Bearer CONFIGURED"
        assert "Mcp-Session-Id" not in post.headers
    assert [post.headers.get("MCP-Protocol-Version") for post in posts] == [None, "2024-11-05", "2024-11-05"]


@pytest.mark.parametrize(
    ("said", "goes_to"),
    [
        ("/messages", "https://mcp.example/messages"),
        ("messages", "https://mcp.example/messages"),
        ("?s=1", "https://mcp.example/sse?s=1"),
        ("https://mcp.example/m", "https://mcp.example/m"),
        ("https://MCP.example:443/m", "https://mcp.example/m"),
        ("//mcp.example/m", "https://mcp.example/m"),
        (" /m ", "https://mcp.example/m"),
        ('"/m?s=1"', "https://mcp.example/m?s=1"),
    ],
)
async def test_the_place_for_messages_may_be_relative(said: str, goes_to: str) -> None:
    server = OldServer()
    server.location = said
    async with line(LegacyConnection, server) as at:
        await at.begin()
    assert str(server.requests[1].url) == goes_to


async def test_messages_are_posted_with_the_cookie_that_the_stream_set_or_a_post_since() -> None:
    server = OldServer()

    async def sticky(request: httpx2.Request) -> httpx2.Response:
        server.streams.append(Body())
        server.stream.event("endpoint", server.location)
        return streaming(server.stream, headers={"Set-Cookie": "AWSALB=a; Path=/; HttpOnly"})

    async def stickier(request: httpx2.Request, message: Json) -> httpx2.Response:
        taken = await server.take(request, message)
        taken.headers["Set-Cookie"] = f"AWSALB=a{len(server.posted)}; Path=/"
        return taken

    server.on_get, server.on_post = sticky, stickier
    async with line(LegacyConnection, server) as at:
        await at.begin()
        at.ask(2, "tools/list")
        await at.told.outcome(2)
    posts = [request.headers.get("cookie") for request in server.requests if request.method == "POST"]
    assert posts == ["AWSALB=a", "AWSALB=a1", "AWSALB=a2"]


async def test_a_reply_in_the_answer_to_its_post_is_taken() -> None:
    server = OldServer()

    async def reply(request: httpx2.Request, message: Json) -> httpx2.Response:
        if "id" not in message:
            return httpx2.Response(202)
        return await answering(200, json=result(message, {"n": 1}))(request, message)

    server.on_post = reply
    async with line(LegacyConnection, server) as at:
        await at.begin()
        for id, method in ((2, "tools/list"), (3, "tools/call"), (4, "ping")):
            at.ask(id, method)
            assert await at.told.outcome(id) == {"jsonrpc": "2.0", "id": id, "result": {"n": 1}}
        assert server.methods.count("tools/call") == 1


@pytest.mark.parametrize("body", [{"ok": True}, {"jsonrpc": "2.0", "id": 99, "result": {}}, [], None])
async def test_what_else_the_answer_to_a_post_says_is_no_reply(body: Any) -> None:
    server = OldServer()

    async def confirm(request: httpx2.Request, message: Json) -> httpx2.Response:
        await server.take(request, message)
        return await answering(200, json=body)(request, message)

    server.on_post = confirm
    async with line(LegacyConnection, server) as at:
        await at.begin()
        at.ask(2, "tools/list")
        assert await at.told.outcome(2) == {"jsonrpc": "2.0", "id": 2, "result": {"method": "tools/list"}}


async def test_a_page_in_answer_to_a_post_has_not_taken_it() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()

        server.on_post = answering(200, html="<html>SECRET log in")
        at.ask(2, "tools/call")
        words = await at.told.failure(2)
        assert "answered tools/call with a page (text/html) at https://mcp.example/messages?..." in words


async def test_messages_of_the_server_are_handed_on_as_they_came() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.stream.write(b': ping\n\nevent: other\ndata: {}\n\ndata: {"a":\ndata:  1}\n\n')
        server.stream.event("endpoint", "https://elsewhere.example/")
        at.ask(2, "ping")
        await at.told.outcome(2)
        assert at.told.messages[1] == b'{"a":\n 1}'
        at.answer({"jsonrpc": "2.0", "id": "s1", "result": {}})
        await anyio.sleep(1)
        assert server.posted[-1] == {"jsonrpc": "2.0", "id": "s1", "result": {}}
        assert server.requests[-1].url.host == "mcp.example"


async def test_nothing_else_is_sent_before_the_server_has_taken_initialized() -> None:
    server = OldServer()
    before: list[str] = []

    async def slowly(request: httpx2.Request, message: Json) -> httpx2.Response:
        if message["method"] == "notifications/initialized":
            await anyio.sleep(3)
            before.extend(server.methods)
        return await server.take(request, message)

    server.on_post = slowly
    async with line(LegacyConnection, server) as at:
        await at.begin()
        at.ask(2, "tools/list")
        at.ask(3, "ping")
        await at.told.outcome(2)
        await at.told.outcome(3)
    assert before == ["initialize", "notifications/initialized"]


async def test_a_reply_may_be_faster_than_what_becomes_of_its_post() -> None:
    server = OldServer()

    async def late(request: httpx2.Request, message: Json) -> httpx2.Response:
        server.stream.message(result(message))
        await anyio.sleep(0.5)
        return httpx2.Response(500)

    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = late
        at.ask(2, "tools/call")
        assert isinstance(await at.told.outcome(2), dict)
        await anyio.sleep(2)
        assert at.told.failed == {}


async def test_posts_that_are_never_answered_take_up_no_room_once_the_reply_is_there() -> None:
    server = OldServer()

    async def hold(request: httpx2.Request, message: Json) -> httpx2.Response:
        server.stream.message(result(message))
        await anyio.sleep(10_000)
        raise AssertionError

    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = hold
        for id in range(2, 302):
            at.ask(id, "tools/call")
        for id in range(2, 302):
            assert isinstance(await at.told.outcome(id, 30), dict)


# --- it cannot be opened


@pytest.mark.parametrize(
    "said",
    [
        "https://elsewhere.example/m",
        "//elsewhere.example/m",
        "http://mcp.example/m",
        "https://mcp.example:8443/m",
        "https://mcp.example.evil.example/m",
        "https://u:p@mcp.example/m",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "/\\elsewhere.example/m",
        "/m\x00",
        "/ä",
        "/" + "x" * 20_000,
        "http://[::1",
    ],
)
async def test_no_message_goes_to_another_origin(said: str) -> None:
    server = OldServer()
    server.location = said
    async with line(LegacyConnection, server) as at:
        at.ask(1, "initialize")
        ended = await at.lost()
        assert ended.kind == "connect_failed"
        assert "wants messages" in ended.message or len(said) > LIMITS.max_message_bytes
        assert "u:p" not in ended.message
        assert len(ended.message) < 400
    assert server.posted == []


ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"status_code": 404}, "answered GET with HTTP 404"),
    ({"status_code": 405}, "answered GET with HTTP 405"),
    ({"status_code": 500, "text": "SECRET"}, "answered GET with HTTP 500"),
    ({"status_code": 200, "html": "<p>login</p>"}, "answered GET with an unexpected content-type: 'text/html"),
    ({"status_code": 200, "json": {}}, "answered GET with application/json"),
    ({"status_code": 204}, "took GET with HTTP 204 and will not answer it"),
    (
        {"status_code": 302, "headers": {"Location": "https://b.example/p"}},
        "redirects to https://b.example/p; if that is",
    ),
    ({"status_code": 403}, "refuses GET (HTTP 403)"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=lambda value: str(value)[:40])
async def test_what_is_no_stream_ends_the_connection_with_words(answer: dict[str, Any], words: str) -> None:
    server = OldServer()
    server.on_get = answering(answer.pop("status_code"), **answer)
    async with line(LegacyConnection, server) as at:
        at.ask(1, "initialize")
        ended = await at.lost(1)
        assert ended.kind == "connect_failed"
        assert ended.message.startswith(words)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("text/plain; charset=utf-8", "calls its event stream 'text/plain; charset=utf-8'"),
        ("application/octet-stream", "calls its event stream 'application/octet-stream'"),
        ("application/json", "calls its event stream 'application/json'"),
        ("text/html", "calls its event stream 'text/html'"),
        (None, "does not say that its event stream is that"),
    ],
)
async def test_a_stream_under_another_label_is_taken_and_said(label: str | None, words: str) -> None:
    server = OldServer()

    async def labelled(request: httpx2.Request) -> httpx2.Response:
        await server.open_stream(request)
        return httpx2.Response(200, headers={} if label is None else {"Content-Type": label}, stream=server.stream)

    server.on_get = labelled
    async with line(LegacyConnection, server) as at:
        await at.begin()
        at.ask(2, "tools/list")
        assert isinstance(await at.told.outcome(2), dict)
        assert at.told.oddities == [words]


async def test_a_stream_under_another_label_that_says_nothing_is_not_waited_for() -> None:
    server = OldServer()
    server.streams.append(Body())

    async def silent(request: httpx2.Request) -> httpx2.Response:
        return streaming(server.stream, headers={"Content-Type": "text/plain"})

    server.on_get = silent
    async with line(LegacyConnection, server) as at:
        assert (await at.lost(ENDPOINT_SECS + 1)).message == "did not say within 10 s where messages go"
        assert at.told.oddities == []


async def test_a_stream_that_is_compressed_is_refused() -> None:
    server = OldServer()
    server.streams.append(Body())

    async def compressed(request: httpx2.Request) -> httpx2.Response:
        return streaming(server.stream, headers={"Content-Encoding": "br"})

    server.on_get = compressed
    async with line(LegacyConnection, server) as at:
        assert "compressed by br, though it was asked not to" in (await at.lost(1)).message


async def test_an_overloaded_server_says_when_to_come_back() -> None:
    server = OldServer()
    server.on_get = answering(503, headers={"Retry-After": "120"})
    async with line(LegacyConnection, server) as at:
        ended = await at.lost(1)
        assert (ended.kind, ended.retry_after_secs) == ("connect_failed", 120)


async def test_a_server_that_is_not_there_is_told_of() -> None:
    server = OldServer()
    server.on_get = raising(httpx2.ConnectError("SECRET"))
    async with line(LegacyConnection, server) as at:
        ended = await at.lost(1)
        assert ended.kind == "connect_failed"
        assert ended.message.startswith("cannot be reached at mcp.example")


@pytest.mark.parametrize("junk", [b"", b": ping\n\n", b"data: {}\n\n", b"event: endpoint"])
async def test_a_server_that_never_says_where_messages_go_is_not_waited_for(junk: bytes) -> None:
    server = OldServer()
    server.streams.append(Body())

    async def chatter(request: httpx2.Request) -> httpx2.Response:
        return streaming(server.stream)

    server.on_get = chatter
    async with line(LegacyConnection, server) as at, anyio.create_task_group() as tasks:

        async def chat() -> None:
            while True:
                server.stream.write(junk)
                await anyio.sleep(1)

        tasks.start_soon(chat)
        began = anyio.current_time()
        ended = await at.lost()
        assert ended == type(ended)(FailureKind.CONNECT_FAILED, "did not say within 10 s where messages go")
        assert anyio.current_time() - began == pytest.approx(ENDPOINT_SECS, abs=1)
        assert not await at.connection.located() if isinstance(at.connection, LegacyConnection) else False
        tasks.cancel_scope.cancel()
    assert server.posted == []


# --- it ends


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (None, "ended its event stream"),
        (httpx2.ReadError("SECRET"), "lost its event stream: the connection broke off"),
        (httpx2.RemoteProtocolError("peer closed connection without sending complete message body"), "lost its event"),
    ],
)
async def test_with_its_stream_the_connection_is_over_at_once(fault: Exception | None, words: str) -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(202)
        at.ask(2, "tools/call")
        await anyio.sleep(1)
        server.stream.end(fault)
        ended = await at.lost(0.1)
        assert ended.kind == "disconnected"
        assert ended.message.startswith(words)
        with pytest.raises(ConnectionClosed):
            at.ask(3, "ping")


async def test_stop_lets_requests_finish_and_then_closes_the_stream() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(202)
        at.ask(2, "tools/call")
        await anyio.sleep(0.5)
        at.connection.stop()
        with pytest.raises(ConnectionClosed):
            at.ask(3, "ping")
        server.stream.message(result({"id": 2}))
        began = anyio.current_time()
        await at.connection.wait_closed()
        assert anyio.current_time() - began < 0.1
        assert isinstance(await at.told.outcome(2), dict)
        assert server.stream.closed


async def test_stop_waits_no_longer_than_it_may() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(202)
        at.ask(2, "tools/call")
        await anyio.sleep(0.5)
        began = anyio.current_time()
        at.connection.stop()
        await at.connection.wait_closed()
        assert anyio.current_time() - began == pytest.approx(2, abs=0.1)


# --- a POST fails


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (answering(500, text="SECRET"), "answered tools/call with HTTP 500"),
        (answering(400, html="<p>SECRET</p>"), "answered tools/call with HTTP 400"),
        (answering(307, headers={"Location": "https://b.example/"}), "redirects to https://b.example/;"),
        (answering(503, headers={"Retry-After": "30"}), "is overloaded (HTTP 503)"),
        (raising(httpx2.ConnectError("SECRET")), "cannot be reached at mcp.example"),
        (raising(httpx2.WriteTimeout("SECRET")), "gave no answer: it took nothing"),
        (raising(RuntimeError("SECRET")), "could not be asked: a fault of moltis: RuntimeError"),
    ],
)
async def test_a_request_whose_post_fails_fails_at_once_and_nothing_else_does(how: Any, words: str) -> None:
    server = OldServer()

    async def only_calls(request: httpx2.Request, message: Json) -> httpx2.Response:
        answer = how if message["method"] == "tools/call" else server.take
        response: httpx2.Response = await answer(request, message)
        return response

    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = only_calls
        at.ask(2, "tools/call")
        with anyio.fail_after(0.1):
            assert f"server 'old' {words}" in await at.told.failure(2)
        assert server.methods.count("tools/call") == 1
        await anyio.sleep(60)
        at.ask(3, "tools/list")
        assert isinstance(await at.told.outcome(3), dict)


async def test_a_json_rpc_error_in_the_answer_to_a_post_is_the_reply() -> None:
    server = OldServer()
    error = {"code": -32602, "message": "no"}
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(400, json={"jsonrpc": "2.0", "id": None, "error": error})
        at.ask(2, "tools/call")
        assert await at.told.outcome(2) == {"jsonrpc": "2.0", "id": 2, "error": error}


async def test_a_server_that_does_not_know_server_discover_says_so_by_any_400() -> None:
    server = OldServer()
    server.on_post = answering(400, text="Could not parse message")
    async with line(LegacyConnection, server) as at:
        at.ask(1, "server/discover", "2026-07-28")
        reply = await at.told.outcome(1)
        assert isinstance(reply, dict)
        assert reply["error"]["code"] == -32601


async def test_a_handshake_that_cannot_be_posted_ends_the_connection() -> None:
    server = OldServer()
    server.on_post = answering(500)
    async with line(LegacyConnection, server) as at:
        at.ask(1, "initialize")
        ended = await at.lost(1)
        assert (ended.kind, ended.message) == (
            "connect_failed",
            "answered initialize with HTTP 500 at https://mcp.example/messages?...",
        )


async def test_a_server_that_has_forgotten_the_connection_ends_it() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(404, text="Session not found")
        at.ask(2, "tools/call")
        assert "HTTP 404" in await at.told.failure(2)
        ended = await at.lost(3)
        assert (ended.kind, ended.message) == ("disconnected", "has forgotten the connection (HTTP 404)")


async def test_what_changes_nothing_is_asked_again_when_the_server_wants_to_be_left_alone() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(503, headers={"Retry-After": "7"})
        at.ask(2, "tools/list")
        await anyio.sleep(5)
        server.on_post = server.take
        began = anyio.current_time()
        assert isinstance(await at.told.outcome(2), dict)
        assert anyio.current_time() - began == pytest.approx(2, abs=0.1)
        assert server.methods.count("tools/list") == 2


async def test_a_failed_notification_is_forgotten() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = raising(httpx2.ReadError("SECRET"))
        at.tell("notifications/roots/list_changed")
        at.answer({"jsonrpc": "2.0", "id": "s", "result": {}})
        await anyio.sleep(1)
        assert at.told.failed == {}
        server.on_post = server.take
        at.ask(2, "ping")
        assert isinstance(await at.told.outcome(2), dict)


# --- requests are given up


async def test_a_cancelled_request_is_told_of_and_its_post_dropped() -> None:
    server = OldServer()

    async def hold(request: httpx2.Request, message: Json) -> httpx2.Response:
        if message["method"] == "tools/call":
            await anyio.sleep(1000)
        return await server.take(request, message)

    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = hold
        at.ask(2, "tools/call", "2024-11-05")
        await anyio.sleep(1)
        at.tell("notifications/cancelled", cancels=2, requestId=2)
        await anyio.sleep(1)
        assert server.methods[-1] == "notifications/cancelled"
        began = anyio.current_time()
        at.connection.stop()
        await at.connection.wait_closed()
        assert anyio.current_time() - began < 0.1  # nothing is left to wait for


async def test_slow_posts_of_calls_do_not_keep_heartbeats_from_going_out() -> None:
    server = OldServer()

    async def hold(request: httpx2.Request, message: Json) -> httpx2.Response:
        if message["method"] == "tools/call":
            await anyio.sleep(30)
        return await server.take(request, message)

    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = hold
        for id in range(2, 202):
            at.ask(id, "tools/call")
        await anyio.sleep(1)
        assert server.methods.count("tools/call") < 100
        at.ask(500, "ping")
        assert isinstance(await at.told.outcome(500, 1), dict)
        for id in range(2, 202):
            assert isinstance(await at.told.outcome(id, 200), dict)


# --- too much


async def test_a_message_that_is_too_large_is_counted_and_the_rest_goes_on() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        large = b'data: {"id":99,"result":"' + b"x" * 20_000 + b'"}\n\n'
        server.stream.write(b'data: {"a":1}\n\n' + large + b'data: {"b":2}\n\n')
        server.stream.write(large)
        at.ask(2, "ping")
        assert isinstance(await at.told.outcome(2), dict)
        assert at.told.oversized == 2
        assert at.told.messages[1:3] == [b'{"a":1}', b'{"b":2}']
        assert max(map(len, at.told.messages)) < 10_000


async def test_replies_that_are_not_seen_as_such_do_not_pile_up() -> None:
    server = OldServer()

    async def unseen(request: httpx2.Request, message: Json) -> httpx2.Response:
        server.stream.write(rb'data: {"jsonrpc":"2.0","result":"\ud83d","id":%d}' % message["id"] + b"\n\n")
        return httpx2.Response(202)

    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = unseen
        for id in range(2, 3000):
            at.ask(id, "tools/call")
        await anyio.sleep(10)
        assert isinstance(at.connection, LegacyConnection)
        assert len(at.connection._waiting) <= 2048


# --- logging in


class Keys:
    """Credentials that follow a script: what `refused` gives, or raises, each time."""

    def __init__(self, *script: bool | Exception) -> None:
        self.script = list(script)
        self.refusals: list[Refusal] = []
        self.token: str | None = "Bearer t0"

    async def authorization(self) -> str | None:
        return self.token

    async def refused(self, refusal: Refusal) -> bool:
        self.refusals.append(refusal)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        self.token = f"Bearer t{len(self.refusals)}"
        return step


NEEDED = LoginNeeded("log in", server="old", auth_url="https://as.example/")


def guarded(server: OldServer, token: str, *methods: str) -> None:
    """Have the server want a token for requests of these HTTP methods."""
    plain_get, plain_post = server.on_get, server.on_post
    refusal = httpx2.Response(401, headers={"WWW-Authenticate": 'Bearer scope="a"'})

    async def get(request: httpx2.Request) -> httpx2.Response:
        let_in = "GET" not in methods or request.headers["Authorization"] == token
        return await plain_get(request) if let_in else refusal

    async def post(request: httpx2.Request, message: Json) -> httpx2.Response:
        let_in = "POST" not in methods or request.headers["Authorization"] == token
        return await plain_post(request, message) if let_in else refusal

    server.on_get, server.on_post = get, post


async def test_a_refused_request_is_sent_again_with_what_is_there_now() -> None:
    server, keys = OldServer(), Keys(True, True)
    guarded(server, "Bearer t1", "GET", "POST")
    async with line(LegacyConnection, server, keys) as at:
        await at.begin()
    assert keys.refusals == [Refusal(401, ('Bearer scope="a"',), "Bearer t0")]
    assert [request.headers["Authorization"] for request in server.gets] == ["Bearer t0", "Bearer t1"]


async def test_a_stream_that_wants_a_login_waits_for_a_person() -> None:
    server, keys = OldServer(), Keys(NEEDED)
    guarded(server, "Bearer never", "GET")
    async with line(LegacyConnection, server, keys) as at:
        ended = await at.lost(1)
        assert (ended.kind, ended.message) == ("auth_required", "a person must log in")


async def test_a_stream_that_wants_more_rights_waits_for_a_person_too() -> None:
    server, keys = OldServer(), Keys(NEEDED)
    server.on_get = answering(403)
    async with line(LegacyConnection, server, keys) as at:
        assert (await at.lost(1)).kind == "auth_required"


async def test_a_post_that_wants_a_login_fails_and_ends_the_connection() -> None:
    server, keys = OldServer(), Keys(NEEDED)
    async with line(LegacyConnection, server, keys) as at:
        await at.begin()
        guarded(server, "Bearer never", "POST")
        at.ask(2, "tools/call")
        assert await at.told.outcome(2) is NEEDED
        assert (await at.lost(3)).kind == "auth_required"


async def test_an_authorization_server_that_is_away_costs_one_request() -> None:
    away = ServerNotReady("away", server="old", state="ready")
    server, keys = OldServer(), Keys(away)
    async with line(LegacyConnection, server, keys) as at:
        await at.begin()
        server.on_post = answering(401)
        at.ask(2, "tools/call")
        assert await at.told.outcome(2) is away
        server.on_post = server.take
        at.ask(3, "ping")
        assert isinstance(await at.told.outcome(3), dict)


async def test_where_nobody_can_log_in_a_401_says_what_to_look_at() -> None:
    server = OldServer()
    server.on_get = answering(401)
    async with line(LegacyConnection, server) as at:
        ended = await at.lost(1)
        assert ended.kind == "auth_required"
        assert "headers.Authorization" in ended.message


# --- over real sockets

REAL_LOOPS = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


class Loopback:
    """HTTP+SSE over sockets, whose replies are large."""

    def __init__(self) -> None:
        self.stream: Peer | None = None
        self.server = HttpServer(self.serve)
        self._turn = anyio.Lock()

    def client(self) -> httpx2.AsyncClient:
        return server_client(None)

    async def serve(self, peer: Peer) -> None:
        if peer.request.method == "GET":
            await peer.begin_events()
            self.stream = peer
            await peer.raw(b"event: endpoint\r\ndata: /post\r\n\r\n")
            await peer.gone()
            return
        assert peer.request.path == "/post"
        await peer.answer(202, b"Accepted", kind="text/plain")
        if "id" in peer.request.message:
            assert self.stream is not None
            async with self._turn:
                await self.stream.event(peer.reply({"text": "x" * 900_000}))


@REAL_LOOPS
async def test_large_replies_come_through_real_sockets(anyio_backend: Any) -> None:
    at_work = Loopback()
    limits = Limits(max_message_bytes=1_000_000, stop_eof_secs=1)
    async with (
        serving(at_work.server) as server,
        line(LegacyConnection, at_work, limits=limits, url=server.url) as at,
    ):
        await at.begin()
        for id in range(2, 12):
            at.ask(id, "tools/call")
        for id in range(2, 12):
            reply = await at.told.outcome(id, 20)
            assert isinstance(reply, dict)
            assert len(reply["result"]["text"]) == 900_000
        assert server.count("GET") == 1


@REAL_LOOPS
async def test_a_stream_that_is_reset_ends_the_connection_at_once(anyio_backend: Any) -> None:
    at_work = Loopback()
    limits = Limits(max_message_bytes=1_000_000)
    async with (
        serving(at_work.server) as server,
        line(LegacyConnection, at_work, limits=limits, url=server.url) as at,
    ):
        await at.begin()
        assert at_work.stream is not None
        at_work.stream.reset()
        await at_work.stream.stream.aclose()
        ended = await at.lost(5)
        assert (ended.kind, ended.message[:22]) == ("disconnected", "lost its event stream:")


# --- whose reply it is

IDS = st.one_of(
    st.integers(-5, 2**53), st.integers(0, 99).map(str), st.integers(0, 99).map(float), st.none(), st.text()
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0"),
        "id": IDS,
        "result": st.recursive(IDS, lambda inner: st.dictionaries(st.sampled_from(["id", "result", "a"]), inner)),
        "error": st.just({"code": 1, "message": "", "data": {"id": 3, "jsonrpc": "2.0"}}),
        "method": st.just("m"),
    },
)
MESSAGES = st.tuples(MEMBERS, st.permutations(["jsonrpc", "id", "result", "error", "method"])).map(
    lambda drawn: {name: drawn[0][name] for name in drawn[1] if name in drawn[0]}
)
SPACING = st.sampled_from([(",", ":"), (", ", ": ")])


@given(st.one_of(MESSAGES, st.lists(MESSAGES, min_size=1, max_size=3)), SPACING)
def test_what_the_session_takes_for_a_reply_ends_the_waiting_for_it(message: Any, spacing: tuple[str, str]) -> None:
    raw = json.dumps(message, separators=spacing).encode()
    parsed = envelope.parse(raw)
    inner = parsed.messages if isinstance(parsed, envelope.Batch) else (parsed,)
    replied = {one.id for one in inner if isinstance(one, envelope.Response) and one.id is not None}
    assert replied <= set(_replied_ids(raw))
    asked = {one.id for one in inner if isinstance(one, envelope.Request)}
    if not isinstance(parsed, envelope.Batch):
        assert not asked & set(_replied_ids(raw))


@given(st.binary())
def test_nothing_that_arrives_raises(raw: bytes) -> None:
    _replied_ids(raw)
    _replied_ids(b'{"jsonrpc":"2.0","id":1,"result":' + raw)
    _replied_ids(b'{"result":' + raw + b',"jsonrpc":"2.0","id":1}')
