"""Connections: kept, shared, slow, too long, too many."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from gateway_http_fakes import Client, StubGateway, request
from patience import PATIENCE

from moltis.gateway import messages
from moltis.gateway.http import application
from moltis.httpd.server import HttpServer

ECHO = request("echo", {"text": "hello"})


async def until(claim: Callable[[], bool]) -> None:
    while not claim():  # noqa: ASYNC110 - what is waited for is in the server, and has no event
        await anyio.sleep(0.002)


async def test_a_connection_is_kept(served: Any) -> None:
    client: Client = await served.dial()
    for number in range(20):
        answer = await client.ask("POST", body=request("echo", {"text": number}, id=number))
        assert answer.json == {"jsonrpc": "2.0", "id": number, "result": {"echo": number}}


async def test_http_1_0_is_answered_and_closed(served: Any) -> None:
    client: Client = await served.dial()
    body = json.dumps(ECHO).encode()
    head = client.head("POST", "/mcp", {"Content-Length": str(len(body))}).replace(b"HTTP/1.1", b"HTTP/1.0")
    await client.stream.send(head + body)
    assert (await client.response()).status == 200
    assert await client.is_closed()


async def test_pipelined_requests_are_answered_in_order(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    wire = b""
    for method in ("later", "echo", "echo"):
        body = json.dumps(request(method, {"text": method}, id=method)).encode()
        wire += client.head("POST", "/mcp", {"Content-Length": str(len(body))}) + body
    await client.stream.send(wire)
    ((ask, outlet),) = await gateway.waiting()
    assert len(gateway.hosts) == 1, "one at a time"
    outlet.reply(messages.result(ask.id, b"{}"))
    assert [(await client.response()).json["id"] for _ in range(3)] == ["later", "echo", "echo"]


async def test_an_answer_to_a_host_that_pipelined_and_hung_up_is_thrown_away(
    served: Any, gateway: StubGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    over = anyio.Event()
    monkeypatch.setattr(application.log, "error", lambda message, **fields: failed.append(message))
    monkeypatch.setattr(HttpServer, "connection_over", lambda server: over.set())
    client: Client = await served.dial()
    session = (await client.ask("POST", body=request("initialize", {}))).headers["mcp-session-id"]
    wire = b""
    for number, method in enumerate(("echo", "later", "echo")):
        body = json.dumps(request(method, {}, id=number)).encode()
        wire += client.head("POST", "/mcp", {"Content-Length": str(len(body)), "Mcp-Session-Id": session}) + body
    await client.stream.send(wire)
    ((ask, outlet),) = await gateway.waiting()
    await client.stream.aclose()
    await over.wait()
    outlet.reply(messages.result(ask.id, b"{}"))
    await until(lambda: not served.app.in_flight)
    assert failed == []


async def test_a_body_may_come_in_chunks_and_slowly(served: Any) -> None:
    client: Client = await served.dial()
    body = json.dumps(ECHO).encode()
    await client.stream.send(client.head("POST", "/mcp", {"Transfer-Encoding": "chunked"}))
    for part in (body[:1], body[1:7], body[7:]):
        await client.stream.send(b"%x\r\n%b\r\n" % (len(part), part))
        await anyio.sleep(0.01)
    await client.stream.send(b"0\r\n\r\n")
    assert (await client.response()).json["result"] == {"echo": "hello"}
    body = json.dumps(request("echo", {"text": "x" * 300_000})).encode()
    await client.stream.send(client.head("POST", "/mcp", {"Content-Length": str(len(body))}) + body[:100_000])
    await anyio.sleep(0.01)
    await client.stream.send(body[100_000:])
    assert len((await client.response()).json["result"]["echo"]) == 300_000


async def test_a_body_that_is_announced_too_large_is_not_read(serve: Any, gateway: StubGateway) -> None:
    async with serve(max_body_bytes=1000) as served:
        client = await served.dial()
        await client.stream.send(client.head("POST", "/mcp", {"Content-Length": "1001"}))
        answer = await client.response()
        assert (answer.status, answer.code, answer.headers["connection"]) == (413, -32600, "close")
        assert await client.is_closed()
        assert gateway.hosts == []


async def test_a_body_that_turns_out_too_large_is_not_read_on(serve: Any) -> None:
    async with serve(max_body_bytes=1000) as served:
        client = await served.dial()
        await client.stream.send(client.head("POST", "/mcp", {"Transfer-Encoding": "chunked"}))
        for _ in range(2):
            await client.stream.send(b"1f4\r\n%b\r\n" % (b" " * 500))
        await anyio.sleep(0.01)
        await client.stream.send(b"1\r\n \r\n")
        assert (await client.response()).status == 413
        assert await client.is_closed()


async def test_a_body_of_exactly_the_limit_is_read(serve: Any) -> None:
    async with serve(max_body_bytes=1000) as served:
        client = await served.dial()
        body = json.dumps(ECHO).encode().ljust(1000)
        assert (await client.ask("POST", body=body)).status == 200
        assert (await client.ask("POST", body=body + b" ")).status == 413


async def test_who_is_refused_before_a_long_body_is_not_asked_to_send_it(served: Any) -> None:
    client: Client = await served.dial()
    headers = {"Content-Length": "10000000", "Expect": "100-continue", "Authorization": None}
    await client.stream.send(client.head("POST", "/mcp", headers))
    answer = await client.response()
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert await client.is_closed()


async def test_who_expects_to_be_asked_for_the_body_is(served: Any) -> None:
    client: Client = await served.dial()
    body = json.dumps(ECHO).encode()
    await client.stream.send(client.head("POST", "/mcp", {"Content-Length": str(len(body)), "Expect": "100-continue"}))
    assert (await client.response_head()).status == 100
    await client.stream.send(body)
    assert (await client.response()).status == 200


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /mcp HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
    ],
)
async def test_what_is_not_http_is_a_400_and_the_end(served: Any, wire: bytes, status: int) -> None:
    client: Client = await served.dial()
    await client.stream.send(wire)
    assert (await client.response()).status == status
    assert await client.is_closed()


async def test_headers_without_end_are_a_431_and_the_end(served: Any) -> None:
    client: Client = await served.dial()
    await client.stream.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX: ")
    with anyio.fail_after(PATIENCE):
        try:
            while True:
                await client.stream.send(b"x" * 8192)
                await anyio.sleep(0.001)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
    server = served.listener._server
    await until(lambda: not server.server_state.connections)


async def test_a_request_for_a_websocket_is_an_ordinary_get(served: Any) -> None:
    client: Client = await served.dial()
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    assert (await client.ask("GET", headers=headers)).status == 405


@pytest.mark.parametrize(
    ("wire", "answer"),
    [
        (b"", b""),
        (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n", b"HTTP/1.1 408 "),
        (
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer good\r\nContent-Type: application/json\r\n"
            b"Content-Length: 5\r\n\r\n{",
            b"HTTP/1.1 408 ",
        ),
        (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{", b"HTTP/1.1 401 "),
    ],
)
async def test_a_request_that_does_not_come_to_its_end_is_not_waited_for(
    served: Any, monkeypatch: pytest.MonkeyPatch, wire: bytes, answer: bytes
) -> None:
    monkeypatch.setattr(HttpServer, "read_secs", 0.5)
    client: Client = await served.dial()
    if wire:
        await client.stream.send(wire)
    found = b""
    try:
        while True:
            found += await client.stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        pass
    assert found.startswith(answer)
    assert bool(found) is bool(answer)
    assert found.count(b"HTTP/1.1") == bool(answer)


async def test_an_answer_that_takes_long_is_not_a_request_that_is_slow(
    served: Any, gateway: StubGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpServer, "read_secs", 0.05)
    client: Client = await served.dial()
    body = json.dumps(request("later")).encode()
    head = client.head("POST", "/mcp", {"Content-Length": str(len(body))})
    await client.stream.send(head + body + head + body[:5])
    ((ask, outlet),) = await gateway.waiting()
    await anyio.sleep(0.2)
    outlet.reply(messages.result(ask.id, b"{}"))
    assert (await client.response()).status == 200, "and the one behind it was not late, it had to wait"
    await client.stream.send(body[5:])
    ask, outlet = (await gateway.waiting(2))[1]
    outlet.reply(messages.result(ask.id, b"{}"))
    assert (await client.response()).status == 200


async def test_when_there_are_too_many_connections_an_idle_one_makes_room(serve: Any) -> None:
    async with serve(max_connections=2) as served:
        first, second = await served.dial(), await served.dial()
        await first.ask("POST", body=ECHO)
        await second.ask("POST", body=ECHO)
        await first.ask("POST", body=ECHO)
        third = await served.dial()
        assert (await third.ask("POST", body=ECHO)).status == 200
        assert await second.is_closed(), "it was idle longest"
        assert (await first.ask("POST", body=ECHO)).status == 200


async def test_when_all_connections_are_busy_a_new_one_is_told_so(serve: Any, gateway: StubGateway) -> None:
    async with serve(max_connections=1) as served:
        client = await served.dial()
        await client.send("POST", body=request("later"))
        ((ask, outlet),) = await gateway.waiting()
        other = await served.dial()
        assert (await other.response()).status == 503
        assert await other.is_closed()
        outlet.reply(messages.result(ask.id, b"{}"))
        assert (await client.response()).status == 200


async def test_who_has_the_most_connections_makes_room(serve: Any) -> None:
    async with serve(max_connections=4) as served:
        first: Client = await served.dial()
        other = {"Authorization": "Bearer other"}
        assert (await first.ask("POST", body=ECHO, headers=other)).status == 200
        many: list[Client] = [await served.dial() for _ in range(3)]
        for client in many:
            assert (await client.ask("POST", body=ECHO)).status == 200
        newcomer: Client = await served.dial()
        assert (await newcomer.ask("POST", body=ECHO)).status == 200
        assert await many[0].is_closed()
        assert (await first.ask("POST", body=ECHO, headers=other)).status == 200, "though it has been idle longest"


async def test_who_says_nothing_makes_room_for_who_does(serve: Any) -> None:
    async with serve(max_connections=4) as served:
        known: Client = await served.dial()
        assert (await known.ask("POST", body=ECHO)).status == 200
        silent: list[Client] = [await served.dial() for _ in range(6)]
        assert (await known.ask("POST", body=ECHO)).status == 200
        assert await silent[0].is_closed()


async def test_newcomers_at_one_moment_get_a_place_each(serve: Any) -> None:
    async with serve(max_connections=4) as served:
        old: list[Client] = [await served.dial() for _ in range(4)]
        for client in old:
            assert (await client.ask("POST", body=ECHO)).status == 200
        new: list[Client] = [await served.dial() for _ in range(3)]
        for client in new:
            await client.send("POST", body=ECHO)
        assert [(await client.response()).status for client in new] == [200] * 3
        assert (await old[3].ask("POST", body=ECHO)).status == 200, "no more are closed than have to be"
        assert [await client.is_closed() for client in old[:3]] == [True] * 3


async def test_of_many_connections_some_make_room_at_once(serve: Any) -> None:
    async with serve(max_connections=128) as served:
        old: list[Client] = [await served.dial() for _ in range(128)]
        await old[-1].ask("GET", "/healthz")
        server = served.listener._server
        newcomer: Client = await served.dial()
        assert (await newcomer.ask("POST", body=ECHO)).status == 200
        assert len(server.server_state.connections) == 127
        assert server.leaving == 0
