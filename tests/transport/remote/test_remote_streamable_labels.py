"""Answers that call themselves something else than they are, or are compressed though that was not asked for."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import anyio
import pytest
from scripted_remote import LEGACY, Dialled, McpServer, Peer, dialled, serving, until

from moltis.config.limits import Limits
from moltis.errors import ServerNotReady

pytestmark = pytest.mark.anyio

LABELS = [
    "text/plain; charset=utf-8",
    "application/json-rpc",
    "text/json",
    "application/octet-stream",
    "text/html",
    "application/json, application/json",
    "json",
]
EVENTS = "text/event-stream"


def _head(*fields: str, status: int = 200) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", "connection: close", *fields, "", ""]).encode()


async def _say(peer: Peer, body: bytes, *fields: str, status: int = 200) -> None:
    peer.hang_up()
    await peer.raw(_head(*fields, status=status) + body)


async def _say_all(server: McpServer, *fields: str, pack: Any = bytes, events: bool = False) -> None:
    """Have every answer sent so."""

    async def answer(peer: Peer) -> None:
        message = peer.request.message
        result: dict[str, Any] = {}
        if message["method"] == "initialize":
            result = {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        await _say(peer, pack(b"event: message\ndata: " + body + b"\n\n" if events else body), *fields)

    for method in ("initialize", "tools/list", "tools/call", "ping"):
        server.on[method] = answer


async def _works(dial: Dialled) -> None:
    await dial.shake_hands()
    for method in ("tools/list", "tools/call", "ping"):
        assert "result" in await dial.ask(method)  # type: ignore[operator]


@pytest.mark.parametrize("label", [*LABELS, None])
@pytest.mark.parametrize("events", [False, True], ids=["JSON", "events"])
async def test_a_reply_under_another_label_is_taken_and_said(label: str | None, events: bool) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await _say_all(server, *([] if label is None else [f"content-type: {label}"]), events=events)
        await _works(dial)
        form = "event stream" if events else "JSON"
        words = f"does not say that its {form} is that" if label is None else f"calls its {form} '{label}'"
        assert set(dial.heard.oddities) == {words}


@pytest.mark.parametrize(
    ("label", "events", "words"),
    [
        (EVENTS, False, "calls its JSON 'text/event-stream'"),
        ("application/json", True, "calls its events 'application/json'"),
    ],
)
async def test_json_that_is_called_events_and_the_other_way_round_is_taken(
    label: str, events: bool, words: str
) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await _say_all(server, f"content-type: {label}", events=events)
        await _works(dial)
        assert set(dial.heard.oddities) == {words}


@pytest.mark.parametrize(
    "pack",
    [
        lambda body: b"event: message\ndata: " + body,
        lambda body: b"data:" + body + b"\n",
        lambda body: b"id: e7\r\ndata: " + body + b"\r\n",
        lambda body: b": hi\n\ndata: " + body.replace(b", ", b",\ndata: ") + b"\n",
        lambda body: b"event: response\ndata: " + body + b"\n\n",
        lambda body: b"event: result\ndata: " + body,
    ],
    ids=["no line end", "one line end", "with an id", "over lines", "another name", "another name, no line end"],
)
@pytest.mark.parametrize("label", [EVENTS, "text/plain"])
async def test_a_reply_is_taken_though_its_event_is_unended_or_has_another_name(pack: Any, label: str) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await _say_all(server, f"content-type: {label}", pack=pack)
        await _works(dial)


@pytest.mark.parametrize(
    "body",
    [
        b'data: {"jsonrpc":"2.0","id":2,"resu',
        b'data: {"jsonrpc":"2.0","id":99,"result":{}}\n',
        b'event: other\ndata: {"jsonrpc":"2.0","id":99,"result":{}}\n\n',
        b'event: other\ndata: {"id":2}\n\n',
    ],
)
async def test_an_unended_or_other_event_that_is_no_reply_is_none(body: bytes) -> None:
    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands()

        async def cut(peer: Peer) -> None:
            await _say(peer, body, f"content-type: {EVENTS}")

        server.on["tools/call"] = cut
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "ended the answer before the reply" in error.message
        assert server.count("tools/call") == 1


async def test_two_content_types_are_one_that_is_odd() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await _say_all(server, "content-type: application/json", "content-type: application/json")
        await _works(dial)


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":99,"result":{}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}',
        b'{"id":2}',
        b'{"error":"log in"}',
        b"<html>SECRET",
        b"data: hello\n\n",
        b"",
        b" \r\n",
    ],
)
async def test_what_is_no_reply_under_another_label_is_refused_with_the_label(body: bytes) -> None:
    async def page(peer: Peer) -> None:
        await _say(peer, body, "content-type: Text/Plain; charset=x")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["tools/call"] = page
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "answered tools/call with an unexpected content-type: 'Text/Plain; charset=x'" in error.message
        assert "SECRET" not in error.message
        assert dial.heard.oddities == []
        assert server.count("tools/call") == 1


async def test_a_page_that_never_ends_is_refused_at_once() -> None:
    async def page(peer: Peer) -> None:
        await peer.raw(_head("content-type: text/html") + b"<html>")
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["tools/call"] = page
        began = anyio.current_time()
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        assert anyio.current_time() - began < 2


async def test_a_reply_under_another_label_is_limited_too() -> None:
    async with serving(McpServer()) as server, dialled(server.url, limits=Limits(max_message_bytes=1000)) as dial:
        await dial.shake_hands()

        async def large(peer: Peer) -> None:
            body = json.dumps(peer.reply("x" * 2000)).encode()
            await _say(peer, body, "content-type: text/plain")

        server.on["tools/call"] = large
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "max_message_bytes" in error.message
        assert dial.heard.oversized == 1


async def test_a_lost_session_is_begun_anew_under_another_label() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.forget()
        ordinary = server.on["initialize"]

        async def renewed(peer: Peer) -> None:
            server.begun += 1
            server.sessions.add("anew")
            result = {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
            body = json.dumps(peer.reply(result)).encode()
            await _say(peer, body, "content-type: text/plain", "mcp-session-id: anew")

        assert ordinary is not None
        server.on["initialize"] = renewed
        assert "result" in await dial.ask("tools/call")  # type: ignore[operator]
        assert server.of("tools/call")[-1].headers["mcp-session-id"] == "anew"


# --- what a GET is answered with

NOTE = b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\n'


@pytest.mark.parametrize("label", [*LABELS, "application/json", None])
@pytest.mark.parametrize("begins", [b"", b": hello\n\n", b"\n\n", b"id: 1\ndata:\n\n", b"\xef\xbb\xbf"])
async def test_a_get_stream_under_another_label_is_heard_and_said_once(label: str | None, begins: bytes) -> None:
    async def stream(peer: Peer) -> None:
        fields = [] if label is None else [f"content-type: {label}"]
        await _say(peer, begins + NOTE, *fields)
        await anyio.sleep(6)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await dial.heard.wait(lambda: len(dial.heard.messages) >= 3, 60)
        assert [m.get("method") for m in dial.heard.messages[1:]] == ["notifications/x"] * 2
        words = "does not say that its event stream is that" if label is None else f"calls its event stream '{label}'"
        assert set(dial.heard.oddities) == {words}


@pytest.mark.parametrize("body", [b"<html>SECRET", b'{"ok":true}', b"[]", b"hello", b"", b"  "])
@pytest.mark.parametrize("label", ["text/html", "application/json", "text/plain", None])
async def test_a_get_that_is_answered_with_something_else_has_no_stream(label: str | None, body: bytes) -> None:
    async def page(peer: Peer) -> None:
        await _say(peer, body, *([] if label is None else [f"content-type: {label}"]))

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = page
        await dial.shake_hands()
        await until(lambda: server.count("GET"))
        await anyio.sleep(120)
        assert server.count("GET") == 1
        assert dial.heard.oddities == []
        assert isinstance(await dial.ask("tools/list"), dict)


async def test_a_page_that_never_ends_is_no_get_stream() -> None:
    gone = anyio.Event()

    async def page(peer: Peer) -> None:
        await peer.raw(_head("content-type: text/html") + b"<html>")
        await peer.gone()
        gone.set()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = page
        await dial.shake_hands()
        with anyio.fail_after(5):
            await gone.wait()
        assert server.count("GET") == 1


@pytest.mark.parametrize("label", ["text/plain", "application/json", None])
async def test_a_reply_is_resumed_under_another_label(label: str | None) -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="e0")

    async def resume(peer: Peer) -> None:
        await _say(peer, b"", *([] if label is None else [f"content-type: {label}"]))
        await peer.event({"jsonrpc": "2.0", "id": 2, "result": {"resumed": True}}, id="e1")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on.update({"tools/call": call, "GET": resume})
        assert await dial.ask("tools/call") == {"jsonrpc": "2.0", "id": 2, "result": {"resumed": True}}
        assert server.count("GET") == 1
        assert len(dial.heard.oddities) == 1


async def test_a_reply_that_is_gone_on_with_by_something_else_fails_with_the_label() -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="e0")

    async def page(peer: Peer) -> None:
        await _say(peer, b"<html>SECRET", "content-type: text/html")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on.update({"tools/call": call, "GET": page})
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "GET was answered with an unexpected content-type: 'text/html'" in error.message
        assert "SECRET" not in error.message
        assert server.count("GET") == 1


# --- compressed


def _raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", _raw_deflate)],
)
@pytest.mark.parametrize("events", [False, True], ids=["JSON", "events"])
async def test_compressed_answers_are_taken_and_said(coding: str, pack: Any, events: bool) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        kind = EVENTS if events else "application/json"
        await _say_all(server, f"content-type: {kind}", f"content-encoding: {coding}", pack=pack, events=events)
        await _works(dial)
        name = coding.removeprefix("x-")
        assert set(dial.heard.oddities) == {f"sends compressed answers ({name}), though it is asked not to"}
        assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)


@pytest.mark.parametrize("coding", ["utf-8", "none", "aws-chunked", "gzip"])
async def test_a_plain_body_with_an_encoding_is_taken(coding: str) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await _say_all(server, "content-type: application/json", f"content-encoding: {coding}")
        await _works(dial)


@pytest.mark.parametrize("kind", ["application/json", EVENTS, "text/plain"])
async def test_a_bomb_fails_its_request_alone(kind: str) -> None:
    async def bomb(peer: Peer) -> None:
        packed = gzip.compress(b'{"jsonrpc":"2.0","id":2,"result":"' + b"x" * 30_000_000)
        if kind == EVENTS:
            packed = gzip.compress(b"data: " + b"x" * 30_000_000)
        await _say(peer, packed, f"content-type: {kind}", "content-encoding: gzip")

    async with serving(McpServer()) as server, dialled(server.url, limits=Limits(max_message_bytes=100_000)) as dial:
        await dial.shake_hands()
        server.on["tools/call"] = bomb
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "max_message_bytes" in error.message
        assert isinstance(await dial.ask("ping"), dict)


@pytest.mark.parametrize("coding", ["gzip", "br"])
@pytest.mark.parametrize("kind", ["application/json", EVENTS, "text/html"])
@pytest.mark.parametrize("body", [b"", b"\x1f\x8b no gzip", gzip.compress(b"{}", mtime=0), b"<html>"])
async def test_whatever_2xx_answers_a_heartbeat_is_life(coding: str, kind: str, body: bytes) -> None:
    async def answer(peer: Peer) -> None:
        await _say(peer, body, f"content-type: {kind}", f"content-encoding: {coding}")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["ping"] = answer
        began = anyio.current_time()
        assert isinstance(await dial.ask("ping"), dict)
        assert anyio.current_time() - began < 2


async def test_a_compressed_error_is_read() -> None:
    async def refuse(peer: Peer) -> None:
        error = {"jsonrpc": "2.0", "id": peer.request.message["id"], "error": {"code": 7, "message": "no such thing"}}
        packed = gzip.compress(json.dumps(error).encode())
        await _say(peer, packed, "content-type: application/json", "content-encoding: gzip", status=400)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["tools/call"] = refuse
        found = await dial.ask("tools/call")
        assert isinstance(found, dict)
        assert found["error"]["message"] == "no such thing"


async def test_a_lost_session_that_is_told_compressed_is_begun_anew() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()

        async def lost(peer: Peer) -> None:
            server.on.pop("tools/call")
            words = "Bad Request: No valid session ID provided"
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": words}}
            packed = gzip.compress(json.dumps(error).encode())
            await _say(peer, packed, "content-type: application/json", "content-encoding: gzip", status=400)

        server.on["tools/call"] = lost
        assert "result" in await dial.ask("tools/call")  # type: ignore[operator]
        assert server.begun == 2


async def test_a_compressed_stream_of_what_the_server_says_by_itself_is_read() -> None:
    async def stream(peer: Peer) -> None:
        await _say(peer, b"", f"content-type: {EVENTS}", "content-encoding: gzip")
        packer = zlib.compressobj(wbits=31)
        for number in range(3):
            event = b'data: {"jsonrpc":"2.0","method":"notifications/x","params":{"n":%d}}\n\n' % number
            await peer.raw(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
            await anyio.sleep(1)
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await dial.heard.wait(lambda: len(dial.heard.messages) >= 4, 30)
        assert [m["params"]["n"] for m in dial.heard.messages[1:]] == [0, 1, 2]


async def test_a_stream_that_cannot_be_unpacked_is_done_without() -> None:
    async def stream(peer: Peer) -> None:
        await _say(peer, b"data: x\n\n", f"content-type: {EVENTS}", "content-encoding: br")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await until(lambda: dial.heard.oddities)
        await anyio.sleep(120)
        assert server.count("GET") == 1
        assert "br" in dial.heard.oddities[0]
        assert isinstance(await dial.ask("tools/list"), dict)
