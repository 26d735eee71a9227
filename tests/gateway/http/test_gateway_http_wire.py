"""What HTTP allows and few clients do: on one connection that goes on, each request has its answer, in its order."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from gateway_http_fakes import BOTH, Client, StubGateway, request
from patience import PATIENCE

pytestmark = pytest.mark.anyio

ECHO = json.dumps(request("echo", {"text": "on"})).encode()
POST: dict[str, str | None] = {"Content-Type": "application/json", "Accept": BOTH}
CHUNKED = {**POST, "Transfer-Encoding": "chunked"}


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chunk(ECHO) + b"0\r\n\r\n", id="one chunk"),
        pytest.param(b"".join(chunk(ECHO[n : n + 1]) for n in range(len(ECHO))) + b"0\r\n\r\n", id="byte by byte"),
        pytest.param(chunk(ECHO, b";a=b") + b"0;last\r\n\r\n", id="extensions"),
        pytest.param(chunk(ECHO) + b"0\r\nX-Sum: 1\r\nAuthorization: Bearer wrong\r\n\r\n", id="trailers"),
    ],
)
async def test_a_chunked_body_is_one_message_and_what_follows_it_is_the_next_request(served: Any, body: bytes) -> None:
    client: Client = await served.dial()
    await client.stream.send(client.head("POST", "/mcp", CHUNKED) + body + client.head("GET", "/healthz", {}))
    with anyio.fail_after(PATIENCE):
        assert (await client.response()).json["result"] == {"echo": "on"}
        assert (await client.response()).body == b"ok\n"


async def test_many_requests_in_one_write_are_answered_in_their_order(served: Any) -> None:
    client: Client = await served.dial()
    asked = [json.dumps(request("echo", {"text": str(n)}, id=n)).encode() for n in range(20)]
    heads = [client.head("POST", "/mcp", {**POST, "Content-Length": str(len(body))}) for body in asked]
    await client.stream.send(b"".join(head + body for head, body in zip(heads, asked, strict=True)))
    with anyio.fail_after(PATIENCE):
        assert [(await client.response()).json["id"] for _ in asked] == list(range(20))


async def test_a_body_that_is_asked_for_first_is_asked_for_and_taken(served: Any) -> None:
    client: Client = await served.dial()
    more = {**POST, "Content-Length": str(len(ECHO)), "Expect": "100-continue"}
    await client.stream.send(client.head("POST", "/mcp", more))
    with anyio.fail_after(PATIENCE):
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        await client.stream.send(ECHO)
        assert (await client.response()).json["result"] == {"echo": "on"}


async def test_a_body_that_would_be_refused_is_not_asked_for(served: Any) -> None:
    client: Client = await served.dial()
    more = {**POST, "Authorization": "Bearer wrong", "Content-Length": str(len(ECHO)), "Expect": "100-continue"}
    await client.stream.send(client.head("POST", "/mcp", more))
    with anyio.fail_after(PATIENCE):
        assert (await client.response()).status == 401
        assert await client.is_closed(), "nobody knows whether the body will follow"


async def test_a_host_that_has_said_all_it_will_say_is_answered_all_the_same(served: Any) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=ECHO)
    await client.stream.send_eof()
    with anyio.fail_after(PATIENCE):
        assert (await client.response()).json["result"] == {"echo": "on"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "PROPFIND", "OPTIONS"])
async def test_what_may_be_done_is_said_alike_whatever_was_tried(served: Any, method: str) -> None:
    client: Client = await served.dial()
    with anyio.fail_after(PATIENCE):
        answer = await client.ask(method, headers={"Content-Length": "0"})
        assert answer.headers["allow"] == "GET, HEAD, POST, DELETE, OPTIONS"
        assert (await client.ask("GET", "/healthz")).status == 200, "the connection goes on"


async def test_a_session_that_is_ended_during_a_call_leaves_the_call_no_longer_open(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    other: Client = await served.dial()
    await other.send("POST", body=request("wait"), headers=session)
    await gateway.waiting()
    assert (await client.ask("DELETE", headers=session)).status == 204
    with anyio.fail_after(PATIENCE):
        assert (await other.response()).json["error"]["message"]
        again = await client.ask("POST", body=ECHO, headers=session)
    assert again.status == 404


async def test_initialize_under_an_id_that_nobody_knows_begins_a_session_and_under_one_s_own_begins_it_over(
    served: Any,
) -> None:
    client: Client = await served.dial()
    first = await client.initialize(**{"Mcp-Session-Id": "nobody-knows-it"})
    assert first != "nobody-knows-it"
    assert await client.initialize(**{"Mcp-Session-Id": first}) == first
    assert (await client.ask("POST", body=ECHO, headers={"Mcp-Session-Id": first})).status == 200
