"""What the body of an HTTP error says is told in one line, and a revision that it refuses is refused as by JSON-RPC."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_remote import LEGACY, McpServer, Peer, dialled, serving

from moltis.transport.remote.outcomes import complaint, revision_refused

SUPPORTED = b"Bad Request: Unsupported protocol version (supported versions: 2025-06-18, 2025-03-26, 2024-11-05)"


@pytest.mark.parametrize(
    ("body", "content_type", "line"),
    [
        (b"no such tenant", "text/plain", "no such tenant"),
        (b"\n  no such tenant\r\nat line 5\n", "text/plain", "no such tenant"),
        (b"upstream connect error", "", "upstream connect error"),
        (b'{"error":"no such tenant","code":5}', "application/json", "no such tenant"),
        (b'{"error":{"message":"no such tenant"}}', "application/json", "no such tenant"),
        (b'{"title":"Gone","detail":"no such tenant"}', "application/problem+json", "no such tenant"),
        (b'{"errors":[{"message":"no such tenant"}]}', "application/json", "no such tenant"),
        (b'"no such tenant"', "application/json", "no such tenant"),
        (b'{"status":"down"}', "application/json", '{"status":"down"}'),
        (b'{"status":', "application/json", '{"status":'),
        (b"{}", "application/json", ""),
        (b"", "text/plain", ""),
        (b" \n\n", "text/plain", ""),
        (b"<html><body>no", "", ""),
        (b"\n<!doctype html>", "text/plain", ""),
        (b"no such tenant", "text/html", ""),
        (b"\x89PNG", "image/png", ""),
        (b"[" * 100_000, "application/json", "[" * 4096),
    ],
)
def test_the_first_line_of_a_text_is_what_it_says(body: bytes, content_type: str, line: str) -> None:
    assert complaint(body, content_type) == line


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode), st.sampled_from(["", "application/json"]))
def test_any_body_is_one_line_or_none(body: bytes, content_type: str) -> None:
    assert len(complaint(body, content_type).splitlines()) <= 1
    revision_refused(body, content_type, 400, 1)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (SUPPORTED, True),
        (b"unsupported\nuse one of\n2025-06-18\n", True),
        (b'{"error":"Unsupported","supported":["2025-06-18"]}', True),
        (b"closed since 2026-01-01", False),
        (b"<p>2025-06-18", False),
    ],
)
def test_a_text_that_names_a_revision_is_a_refusal_of_it(body: bytes, named: bool) -> None:
    made = revision_refused(body, "text/plain", 400, 7)
    assert (made is not None) is named
    if made is not None:
        reply = json.loads(made)
        assert (reply["id"], reply["error"]["code"]) == (7, -32600)
        assert reply["error"]["message"].startswith("HTTP 400: ")
        assert "2025-06-18" in reply["error"]["message"] + json.dumps(reply["error"].get("data"))


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 406, 422, 500])
async def test_a_refused_revision_leaves_the_connection_for_another_offer(status: int) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        good = server.on["initialize"]

        async def picky(peer: Peer) -> None:
            if peer.request.message["params"]["protocolVersion"] == LEGACY:
                await peer.answer(status, SUPPORTED, kind="text/plain; charset=utf-8")
            else:
                await good(peer)

        server.on["initialize"] = picky
        said: Any = await dial.ask("initialize", {"protocolVersion": LEGACY})
        assert said["error"]["message"] == f"HTTP {status}: {SUPPORTED.decode()}"
        agreed: Any = await dial.ask("initialize", {"protocolVersion": "2025-06-18"})
        assert "result" in agreed


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b"no such tenant", "text/plain", "answered initialize with HTTP 400: no such tenant"),
        (403, b'{"error":"Invalid Origin"}', "application/json", "refuses initialize (HTTP 403): Invalid Origin"),
        (502, b"upstream connect error", "text/plain", "answered initialize with HTTP 502: upstream connect error"),
        (400, b"Bad Request", "text/plain", "answered initialize with HTTP 400"),
        (404, b"<html>secret page", "text/html", "answered initialize with HTTP 404"),
    ],
)
async def test_why_a_connection_could_not_be_begun_is_told_in_the_servers_words(
    status: int, body: bytes, kind: str, words: str
) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:

        async def refuse(peer: Peer) -> None:
            await peer.answer(status, body, kind=kind)

        server.on["initialize"] = refuse
        dial.send("initialize", {"protocolVersion": LEGACY})
        ended = await dial.connection.wait_closed()
        assert (ended.kind, ended.message) == ("connect_failed", words)


@pytest.mark.anyio
async def test_a_call_that_is_refused_in_words_fails_with_them() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()

        async def refuse(peer: Peer) -> None:
            await peer.answer(422, b"quota exceeded for 2025-06-18\nmore", kind="text/plain")

        server.on["tools/call"] = refuse
        failed = await dial.ask("tools/call")
        assert "answered tools/call with HTTP 422: quota exceeded for 2025-06-18" in str(failed)
