"""HEAD is answered wherever GET is, as GET is but for the body (RFC 9110 9.3.2), on a connection that goes on."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from gateway_http_fakes import Client, request
from patience import PATIENCE

pytestmark = pytest.mark.anyio

Headers = dict[str, str | None]
PATHS = ["/healthz", "/readyz", "/metrics", "/mcp", "/mcp/", "/servers/files/mcp", "/servers/nobody/mcp", "/nope", "/"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"Authorization": None}, {"Authorization": "Bearer wrong"}, {"Host": "evil"}])
async def test_head_says_what_get_says_without_a_body(serve: Any, path: str, headers: Headers) -> None:
    async with serve(metrics=lambda: lambda: b"moltis_up 1\n") as served:
        client: Client = await served.dial()
        got = await client.ask("GET", path, headers=headers)
        with anyio.fail_after(PATIENCE):
            await client.send("HEAD", path, headers=headers)
            head = await client.response_head()
        assert (head.status, head.headers) == (got.status, got.headers)
        assert client.buffer == b""
        assert (await client.ask("GET", "/healthz")).body == b"ok\n", "the connection goes on"


@pytest.mark.parametrize("path", PATHS)
async def test_head_and_get_in_one_write_are_two_answers_in_their_order(served: Any, path: str) -> None:
    client: Client = await served.dial()
    await client.stream.send(client.head("HEAD", path, {}) + client.head("GET", "/healthz", {}))
    with anyio.fail_after(PATIENCE):
        await client.response_head()
        answer = await client.response()
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_head_of_a_session_says_that_there_is_a_stream_and_opens_none(served: Any, gateway: Any) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    with anyio.fail_after(PATIENCE):
        await client.send("HEAD", headers={"Mcp-Session-Id": session, "Accept": "text/event-stream"})
        head = await client.response_head()
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert gateway.hosts[0].times_attached == 0
    again = await client.ask("POST", body=request("echo", {"text": "on"}), headers={"Mcp-Session-Id": session})
    assert again.json["result"] == {"echo": "on"}


async def test_the_end_of_a_session_is_answered_at_once_and_without_a_length(served: Any) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    with anyio.fail_after(PATIENCE):
        ended = await client.ask("DELETE", headers={"Mcp-Session-Id": session})
    assert (ended.status, ended.body) == (204, b"")
    assert "content-length" not in ended.headers
    assert (await client.ask("GET", "/healthz")).status == 200


async def test_an_old_client_and_one_that_closes_get_head_too(served: Any) -> None:
    for more in ("HTTP/1.0\r\n", "HTTP/1.1\r\nConnection: close\r\n"):
        client: Client = await served.dial()
        await client.stream.send(f"HEAD /healthz {more}Host: localhost\r\n\r\n".encode())
        with anyio.fail_after(PATIENCE):
            assert (await client.response_head()).status == 200
            assert await client.is_closed()
