"""Clients that mean no good: what is smuggled past a parser, held for ever, or kept after the door was closed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from gateway_http_fakes import PRINCIPALS, Client, Response, StubGateway, modern, modern_headers, request

from moltis.gateway import messages
from moltis.gateway.api import Principal
from moltis.gateway.http.conversations import Conversations
from moltis.gateway.http.sessions import Sessions
from moltis.gateway.views import ALL
from moltis.httpd.asgi import BodyRefused, Held, body_of

ECHO = json.dumps(request("echo", {"text": "hello"})).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n" % (len(ECHO), ECHO)
EVENTS = {"Accept": "text/event-stream"}


async def until(claim: Callable[[], bool]) -> None:
    while not claim():  # noqa: ASYNC110 - what is waited for is in the server, and has no event
        await anyio.sleep(0.002)


async def raw(client: Client, head: bytes, body: bytes) -> Response:
    await client.stream.send(head + body)
    return await client.response()


# --- what a request is


async def test_a_trailer_is_no_header(served: Any) -> None:
    client: Client = await served.dial()
    head = client.head("POST", "/mcp", {"Authorization": None, "Transfer-Encoding": "chunked"})
    assert (await raw(client, head, CHUNKED + b"Authorization: Bearer good\r\n\r\n")).status == 401
    client = await served.dial()
    head = client.head("POST", "/mcp", {"Host": None, "Transfer-Encoding": "chunked"})
    assert (await raw(client, head, CHUNKED + b"Host: localhost\r\n\r\n")).status == 400


async def test_trailers_without_end_end_the_connection(served: Any) -> None:
    client: Client = await served.dial()
    await client.stream.send(client.head("POST", "/mcp", {"Transfer-Encoding": "chunked"}) + CHUNKED)
    sent = 0
    with suppress(anyio.BrokenResourceError):
        while sent < 1000:
            await client.stream.send(b"x: %b\r\n" % (b"y" * 10_000))
            sent += 1
    assert sent < 1000


async def test_a_body_in_chunks_of_one_byte_is_a_body(served: Any) -> None:
    body = json.dumps(request("echo", {"text": "x" * 20_000})).encode()
    client: Client = await served.dial()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    head = client.head("POST", "/mcp", {"Transfer-Encoding": "chunked"})
    assert (await raw(client, head, chunks + b"0\r\n\r\n")).status == 200


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
async def test_a_request_that_wants_another_protocol_is_served_with_its_body(served: Any, protocol: str) -> None:
    client: Client = await served.dial()
    wish = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAMAAABk"}
    head = client.head("POST", "/mcp", {**wish, "Content-Length": str(len(ECHO))})
    await client.stream.send((head + ECHO) * 2 + head + ECHO[:7])
    assert (await client.response()).json["result"] == {"echo": "hello"}
    assert (await client.response()).json["result"] == {"echo": "hello"}
    await client.stream.send(ECHO[7:])
    assert (await client.response()).json["result"] == {"echo": "hello"}, "nothing was taken for something else"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/mcp", 200),
        ("http://evil.example/mcp", 403),
        ("https://evil.example:443/servers/files/mcp", 403),
        ("http://localhost@evil.example/mcp", 403),
        ("http:///mcp", 400),
    ],
)
async def test_a_request_that_says_where_it_wants_to_go_is_taken_at_its_word(
    served: Any, target: str, status: int
) -> None:
    client: Client = await served.dial()
    assert (await client.ask("POST", target, ECHO)).status == status


@pytest.mark.parametrize(
    "wire", [b"CONNECT localhost:80 HTTP/1.1", b"GET mcp HTTP/1.1", b"GET http://localhost HTTP/1.1"]
)
async def test_a_target_that_is_none_is_a_400_and_no_fault(served: Any, wire: bytes) -> None:
    client: Client = await served.dial()
    answer = await raw(client, wire + b"\r\nHost: localhost\r\n\r\n", b"")
    assert answer.status == 400
    assert await client.is_closed()


async def test_who_is_refused_and_may_send_a_body_or_not_is_not_listened_to_any_more(served: Any) -> None:
    client: Client = await served.dial()
    head = client.head("POST", "/mcp", {"Authorization": None, "Expect": "100-continue", "Content-Length": "40"})
    assert (await raw(client, head, b"")).headers["connection"] == "close"
    assert await client.is_closed()


# --- doors that are closed meanwhile


async def test_a_token_that_is_revoked_while_its_request_is_being_sent_lets_nothing_in(
    served: Any, gateway: StubGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Client = await served.dial()
    body = json.dumps(request("later")).encode()
    await client.stream.send(client.head("POST", "/mcp", {"Content-Length": str(len(body))}) + body[:5])
    await until(lambda: bool(served.app._open))
    monkeypatch.delitem(PRINCIPALS, "good")
    served.app.end_principal("good")
    await client.stream.send(body[5:])
    assert (await client.response()).status == 401
    assert gateway.hosts == []


async def test_when_tokens_are_wanted_from_now_on_who_came_without_is_shown_out(
    serve: Any, gateway: StubGateway
) -> None:
    async with serve(require_token=False) as served:
        client: Client = await served.dial()
        session = await client.initialize(Authorization=None)
        await client.send("GET", headers={"Authorization": None, "Mcp-Session-Id": session, **EVENTS})
        await client.response_head()
        other: Client = await served.dial()
        with_token = await other.initialize()
        served.app.reconfigure(type(served.app._settings)(require_token=True))
        assert await client.event() is None
        assert gateway.hosts[0].is_closed
        assert (await other.ask("POST", body=ECHO, headers={"Mcp-Session-Id": with_token})).status == 200


async def test_a_stream_ends_when_its_token_expires(serve: Any, gateway: StubGateway) -> None:
    lapsed: set[str] = set()
    conversations = Conversations(gateway, pulse_secs=0.01, lapsed=lapsed.__contains__)
    async with serve(conversations=conversations) as served:
        one: Client = await served.dial()
        other: Client = await served.dial()
        await one.send("POST", body=modern("later"), headers=modern_headers("later"))
        await other.send("POST", body=modern("later"), headers=modern_headers("later", Authorization="Bearer other"))
        await gateway.waiting(2)
        lapsed.add("good")
        assert "given up" in (await one.response()).json["error"]["message"]
        assert [host.is_closed for host in gateway.hosts if host.principal.name == "other"] == [False]


# --- more than one's share


async def test_one_principal_does_not_take_all_connections(served: Any, gateway: StubGateway) -> None:
    served.app._most_of_one = 2
    clients: list[Client] = [await served.dial() for _ in range(4)]
    await clients[0].stream.send(clients[0].head("POST", "/mcp", {"Content-Length": "100"}) + b"{")
    await clients[1].send("POST", body=request("later"))
    await gateway.waiting()
    await until(lambda: served.app._open == {"good": 2})
    refused = await clients[2].ask("POST", body=ECHO)
    assert (refused.status, "retry-after" in refused.headers) == (503, True)
    assert (await clients[3].ask("POST", body=ECHO, headers={"Authorization": "Bearer other"})).status == 200
    await clients[0].stream.aclose()
    await until(lambda: served.app._open == {"good": 1})
    assert (await clients[2].ask("POST", body=ECHO)).status == 200


def test_one_principal_does_not_take_all_sessions(gateway: StubGateway) -> None:
    clock = iter(range(100))
    sessions = Sessions(lambda: float(next(clock)), max_sessions=4)
    few = sessions.begin(ALL, Principal("few"), gateway.new_host)
    many = [sessions.begin(ALL, Principal("many"), gateway.new_host) for _ in range(6)]
    assert few is not None
    assert sessions.find(few.id, ALL, Principal("few")) is few, "though it has been idle longest"
    assert [
        session is not None and sessions.find(session.id, ALL, Principal("many")) is session for session in many
    ] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]


async def test_what_is_held_of_long_bodies_is_bounded_and_given_back() -> None:
    held = Held(most=100)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 60, "more_body": True}

    with pytest.raises(BodyRefused) as refused:
        await body_of(receive, None, 1000, held, "slow")
    assert (refused.value.status, held.bytes) == (503, 0)
    with held.of("slow", 60):
        assert held.bytes == 60
        with pytest.raises(BodyRefused), held.of("slow", 60):
            pass
        with held.of("other", 50):
            assert held.bytes == 110, "who has no more than an equal part is not refused for what another has"
        with pytest.raises(BodyRefused), held.of("other", 60):
            pass
    assert held.bytes == 0


async def test_the_slow_bodies_of_one_token_are_no_other_s_503(served: Any, gateway: StubGateway) -> None:
    served.app._held = Held(most=400_000)
    slow: list[Client] = [await served.dial() for _ in range(3)]
    for client in slow:
        await client.stream.send(client.head("POST", "/mcp", {"Content-Length": "200000"}) + b"{" + b" " * 150_000)
    refused = await slow[2].response()
    assert refused.status == 503, "its own are bounded"
    other: Client = await served.dial()
    body = request("echo", {"text": "x" * 150_000})
    assert (await other.ask("POST", body=body, headers={"Authorization": "Bearer other"})).status == 200
    for client in slow:
        await client.stream.aclose()
    await until(lambda: served.app._held.bytes == 0)


async def test_a_long_body_counts_until_its_reply(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=request("later", {"text": "x" * 100_000}))
    ((ask, outlet),) = await gateway.waiting()
    assert served.app._held.bytes > 100_000
    outlet.reply(messages.result(ask.id, b"{}"))
    await client.response()
    await until(lambda: served.app._held.bytes == 0)
