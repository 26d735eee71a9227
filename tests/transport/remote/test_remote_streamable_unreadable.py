"""When HTTP has said all it will say, the request is over: no answer is waited for that cannot come any more."""

from __future__ import annotations

import gzip
import json
from typing import Any

import anyio
import pytest
from scripted_remote import McpServer, Peer, dialled, serving

from moltis.errors import ServerNotReady

pytestmark = pytest.mark.anyio

REPLY = b'{"jsonrpc":"2.0","id":2,"result":{"ok":true}}'
JSON = "application/json"
EVENTS = "text/event-stream"


def _error(id: object = ...) -> dict[str, Any]:
    error = {"jsonrpc": "2.0", "error": {"code": -32603, "message": "it fell over"}}
    return error if id is ... else {**error, "id": id}


async def _call(body: bytes, kind: str = JSON, head: bytes | None = None, status: int = 200) -> tuple[Any, float, int]:
    """Return what a call comes to that is answered so, after how many seconds, and how often it was sent."""

    async def call(peer: Peer) -> None:
        if head is None:
            await peer.answer(status, body, kind=kind)
        else:
            peer.hang_up()
            await peer.raw(head + body)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["tools/call"] = call
        began = anyio.current_time()
        found = await dial.ask("tools/call")
        assert isinstance(await dial.ask("ping"), dict)
        return found, anyio.current_time() - began, server.count("tools/call")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(REPLY + b"<br />\n<b>Warning</b>: foo", id="followed by a warning of PHP"),
        pytest.param(REPLY[:-12], id="cut in its payload"),
        pytest.param(REPLY[:-1], id="cut before its last byte"),
        pytest.param(REPLY + REPLY, id="two documents"),
        pytest.param(b'{"jsonrpc":"2.0","id":2,"result":{"x":NaN}}', id="NaN"),
        pytest.param(b"<!DOCTYPE html><html>log in to the wifi", id="a page"),
        pytest.param(REPLY.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(gzip.compress(REPLY), id="gzip that does not say so"),
        pytest.param(b"", id="nothing"),
        pytest.param(b" \r\n", id="blank"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"id":2,"result":{}}', id="no JSON-RPC"),
        pytest.param(b'[{"jsonrpc":"2.0","id":2,"result":', id="a batch that is cut"),
    ],
)
async def test_an_answer_that_is_no_message_fails_its_request_at_once(body: bytes) -> None:
    found, secs, sent = await _call(body)
    assert isinstance(found, ServerNotReady)
    assert "not sent again" in found.message
    assert secs < 2
    assert sent == 1


async def test_what_is_not_json_is_shown_by_its_beginning() -> None:
    found, _, _ = await _call(b"<html>\x1b[31m SECRETSECRET")
    assert isinstance(found, ServerNotReady)
    assert "answered tools/call with something that is not JSON (it begins with '<html>?[31m ')" in found.message
    assert "SECRET" not in found.message


async def test_a_byte_order_mark_is_skipped() -> None:
    found, _, _ = await _call(b"\xef\xbb\xbf" + REPLY)
    assert found == json.loads(REPLY)
    found, _, _ = await _call(b"\xef\xbb\xbf" + json.dumps(_error(None)).encode(), status=400)
    assert found["error"]["message"] == "it fell over"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n", id="too short"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n40\r\n",
            id="a chunk that is cut",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: ", id="an event that is cut"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="204"),
        pytest.param(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", id="202"),
    ],
)
async def test_an_answer_that_is_cut_or_none_fails_its_request_at_once(head: bytes) -> None:
    body = b"" if b"204" in head or b"202" in head else REPLY[:-2] if head.endswith(b"data: ") else REPLY
    found, secs, sent = await _call(body, head=head)
    assert isinstance(found, ServerNotReady)
    assert secs < 2
    assert sent == 1


@pytest.mark.parametrize("id", [..., None, "server-error", 99, "0"])
@pytest.mark.parametrize("kind", [JSON, EVENTS])
async def test_an_error_that_is_all_the_answer_there_is_answers_the_request(id: object, kind: str) -> None:
    error = json.dumps(_error(id)).encode()
    head = None
    if kind == EVENTS:
        head, error = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", b"data: " + error + b"\n\n"
    found, _, sent = await _call(error, kind, head)
    assert found == _error(2)
    assert sent == 1


FOREIGN = [
    pytest.param(rb'{"jsonrpc":"2.0","id":99,"result":{"t":"\ud83d","x":{"id":2}}}', id="half a pair, our id inside"),
    pytest.param(b'{"jsonrpc":"2.0","id":99,"result":{"t":"caf\xe9","x":{"id":2}}}', id="Latin-1, our id inside"),
    pytest.param(rb'{"jsonrpc":"2.0","id":99,"result":{"t":"\ud83d"}}', id="half a pair"),
    pytest.param(rb'[{"jsonrpc":"2.0","id":99,"result":{"t":"\ud83d","x":{"id":2}}}]', id="a batch"),
    pytest.param(rb'{"jsonrpc":"2.0","method":"x","params":{"t":"\ud83d","id":2}}', id="a notification"),
    pytest.param(b'{"jsonrpc":"2.0","id":2,"result":{},"id":99}', id="an id that is named twice"),
    pytest.param(b'{"jsonrpc":"2.0","id":99,"result":{}}', id="plain"),
]


@pytest.mark.parametrize("body", FOREIGN)
@pytest.mark.parametrize("kind", [JSON, EVENTS])
async def test_an_answer_that_is_another_s_fails_its_request_at_once(body: bytes, kind: str) -> None:
    head = None
    if kind == EVENTS:
        head, body = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", b"data: " + body + b"\n\n"
    found, secs, sent = await _call(body, kind, head)
    assert isinstance(found, ServerNotReady)
    assert secs < 2
    assert sent == 1


@pytest.mark.parametrize("text", [rb"\ud83d", b"caf\xe9"])
@pytest.mark.parametrize("kind", [JSON, EVENTS])
async def test_an_answer_that_is_not_unicode_is_the_answer_all_the_same(text: bytes, kind: str) -> None:
    head, body = None, b'{ "jsonrpc":"2.0","result":{"t":"%b","x":{"id":99}},"id":2}' % text
    if kind == EVENTS:
        head, body = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", b"data: " + body + b"\n\n"
    found, secs, _ = await _call(body, kind, head)
    assert found["result"]["x"] == {"id": 99}
    assert secs < 2


@pytest.mark.parametrize(("kind", "what"), [(JSON, "error"), (JSON, "result"), (EVENTS, "error")])
async def test_an_answer_under_the_id_of_another_request_does_not_answer_that_one(kind: str, what: str) -> None:
    release = anyio.Event()

    async def slow(peer: Peer) -> None:
        await release.wait()
        await peer.result({"mine": True})

    async def astray(peer: Peer) -> None:
        said = {"jsonrpc": "2.0", "id": 2, what: {"code": -1, "message": "astray"}}
        if kind == JSON:
            await peer.answer(200, said)
        else:
            await peer.begin_events()
            await peer.event(said)

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on.update({"slow": slow, "tools/call": astray})
        first = dial.send("slow")
        found: Any = await dial.ask("tools/call")
        assert isinstance(found, ServerNotReady) or found["error"]["message"] == "astray"
        assert dial.heard.replies(first) == []
        release.set()
        assert (await dial.outcome(first))["result"] == {"mine": True}  # type: ignore[index]


async def test_an_error_among_other_messages_of_a_stream_answers_nothing() -> None:
    events = b"".join(b"data: " + json.dumps(_error(id)).encode() + b"\n\n" for id in (None, "other"))
    found, _, _ = await _call(events, head=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    assert isinstance(found, ServerNotReady)
