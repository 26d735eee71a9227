"""What is sent for a message, and how its reply comes back."""

from __future__ import annotations

import json

import anyio
import pytest
from scripted_remote import LEGACY, MODERN, HttpServer, McpServer, Peer, dialled, serving

from moltis.config.limits import Limits
from moltis.errors import ServerNotReady
from moltis.transport import ConnectionClosed, Outgoing
from moltis.transport.remote.base import MAX_TOLD, MAX_UNCANCELLED

pytestmark = pytest.mark.anyio


async def test_a_reply_is_received_as_the_bytes_that_were_sent() -> None:
    received: list[bytes] = []
    body = b'{ "result": {"z":1,\n"a":"\\u00e9"} ,"jsonrpc":"2.0", "id":2}'

    async def odd(peer: Peer) -> None:
        await peer.answer(body=body, kind="Application/JSON ; charset=UTF-8")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = odd
        await dial.shake_hands()
        hear = dial.heard.receive

        def receive(message: bytes, during: int | None = None, /) -> bool | None:
            received.append(message)
            return hear(message)

        dial.connection.receive = receive
        await dial.ask("tools/call", {"name": "t"})
    assert received == [body]


async def test_a_legacy_conversation_names_session_and_revision() -> None:
    async with serving(McpServer()) as server, dialled(server.url, headers=(("X-Key", "k"),)) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
    posts = [request for request in server.requests if request.method == "POST"]
    first, confirmed, listed = posts
    assert "mcp-session-id" not in first.headers
    assert "mcp-protocol-version" not in first.headers
    assert (confirmed.rpc, confirmed.headers["mcp-session-id"]) == ("notifications/initialized", "s1")
    assert listed.headers["mcp-session-id"] == "s1"
    assert listed.headers["mcp-protocol-version"] == LEGACY
    for request in posts:
        assert request.headers["accept"] == "application/json, text/event-stream"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["x-key"] == "k"


async def test_a_modern_conversation_has_no_session_no_stream_and_no_goodbye() -> None:
    async with serving(McpServer(stateful=False, stream=True)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        await dial.ask("tools/call", {"name": "t"}, name="t", mirrored=(("Mcp-Param-X", "1"),))
        dial.tell("vendor/said")
        await dial.ask("tools/list")
        dial.connection.stop()
        await dial.connection.wait_closed()
    assert sorted(server.seen()) == ["server/discover", "tools/call", "tools/list", "vendor/said"]
    headers = server.requests[1].headers
    assert headers["mcp-method"] == "tools/call"
    assert headers["mcp-name"] == "t"
    assert headers["mcp-param-x"] == "1"
    assert "mcp-session-id" not in headers


async def test_nothing_is_sent_before_the_session_is_confirmed() -> None:
    confirmed = anyio.Event()
    order: list[str] = []

    async def slow(peer: Peer) -> None:
        await anyio.sleep(3)
        order.append("confirmed")
        confirmed.set()
        await peer.answer(202)

    async def listed(peer: Peer) -> None:
        order.append("listed")
        await peer.result()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["notifications/initialized"] = slow
        server.on["tools/list"] = listed
        await dial.shake_hands()
        await dial.ask("tools/list")
    assert order == ["confirmed", "listed"]


async def test_messages_before_the_reply_on_a_stream_are_received_in_order() -> None:
    async def stream(peer: Peer) -> None:
        await peer.begin_events()
        await peer.raw(b": hello\r\n\r\nevent: noise\ndata: {}\n\n")
        await peer.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"n": 1}})
        await peer.event({"jsonrpc": "2.0", "id": 2, "method": "ping"})
        await peer.event(peer.reply({"ok": True}))

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = stream
        await dial.shake_hands()
        reply = await dial.ask("tools/call")
        assert reply == {"jsonrpc": "2.0", "id": 2, "result": {"ok": True}}
        assert [m.get("method") for m in dial.heard.messages[1:]] == ["notifications/progress", "ping", None]


async def test_the_connection_of_a_stream_that_ends_with_its_reply_is_used_again() -> None:
    async def stream(peer: Peer) -> None:
        data = b"data: " + json.dumps(peer.reply()).encode() + b"\n\n"
        await peer.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.raw(b"%x\r\n%b\r\n" % (len(data), data))
        await anyio.sleep(0.2)
        await peer.raw(b"0\r\n\r\n")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = stream
        await dial.shake_hands()
        for _ in range(5):
            assert isinstance(await dial.ask("tools/call"), dict)
            await anyio.sleep(0.5)
        assert server.connections == 1


async def test_a_stream_that_goes_on_after_the_reply_is_left() -> None:
    left: list[float] = []

    async def stream(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(peer.reply())
        began = anyio.current_time()
        await peer.gone()
        left.append(anyio.current_time() - began)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = stream
        await dial.shake_hands()
        await dial.ask("tools/call")
        await anyio.sleep(5)
    assert left == [pytest.approx(1.0, abs=0.01)]


async def test_a_batch_on_a_stream_answers_its_request() -> None:
    async def stream(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event([{"jsonrpc": "2.0", "method": "notifications/x"}, peer.reply()])
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = stream
        await dial.shake_hands()
        dial.send("tools/call")
        await anyio.sleep(1.5)
        assert len(dial.heard.messages) == 2
        assert dial.heard.failures == {}


async def test_a_slow_request_holds_up_nothing() -> None:
    release = anyio.Event()

    async def slow(peer: Peer) -> None:
        await release.wait()
        await peer.result()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = slow
        await dial.shake_hands()
        slow_ones = [dial.send("tools/call") for _ in range(70)]
        began = anyio.current_time()
        assert isinstance(await dial.ask("ping"), dict)
        assert anyio.current_time() - began < 1
        release.set()
        for id in slow_ones:
            assert isinstance(await dial.outcome(id), dict)


async def test_heartbeats_that_nobody_answers_do_not_pile_up() -> None:
    gone = 0

    async def mute(peer: Peer) -> None:
        nonlocal gone
        peer.hang_up()
        await peer.gone()
        gone += 1

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["ping"] = mute
        await dial.shake_hands()
        for _ in range(50):
            dial.send("ping")
            await anyio.sleep(30)
        assert server.count("ping") == 50
        assert gone == 50 - MAX_UNCANCELLED


async def test_what_the_server_asks_is_answered_and_a_failed_answer_is_forgotten() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        dial.connection.send(b'{"jsonrpc":"2.0","id":"x","result":{}}')
        await anyio.sleep(1)
        assert {"jsonrpc": "2.0", "id": "x", "result": {}} in [request.message for request in server.requests]

        async def broken(peer: Peer) -> None:
            await peer.answer(500)

        server.on["notifications/roots/list_changed"] = broken
        dial.tell("notifications/roots/list_changed")
        await anyio.sleep(1)
        assert dial.heard.failures == {}
        assert dial.connection.dropped == 1
        assert isinstance(await dial.ask("ping"), dict)


async def test_notifications_that_are_not_taken_are_given_up_and_bounded() -> None:
    async def mute(peer: Peer) -> None:
        peer.hang_up()
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.on["notifications/roots/list_changed"] = mute
        for _ in range(200):
            dial.tell("notifications/roots/list_changed")
        await anyio.sleep(1)
        assert server.count("notifications/roots/list_changed") == MAX_TOLD
        assert dial.connection.dropped == 200 - MAX_TOLD
        await anyio.sleep(30)
        assert dial.connection.dropped == 200


# --- cancelling


async def test_a_modern_cancel_drops_the_request_and_says_nothing() -> None:
    gone = anyio.Event()

    async def slow(peer: Peer) -> None:
        peer.hang_up()
        await peer.gone()
        gone.set()

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = slow
        await dial.shake_hands(MODERN)
        id = dial.send("tools/call")
        await anyio.sleep(1)
        dial.tell("notifications/cancelled", cancels=id)
        with anyio.fail_after(1):
            await gone.wait()
        assert "notifications/cancelled" not in server.seen()
        assert dial.heard.failures == {}


async def test_a_legacy_cancel_is_said_before_the_request_is_dropped() -> None:
    order: list[str] = []

    async def slow(peer: Peer) -> None:
        peer.hang_up()
        await peer.gone()
        order.append("dropped")

    async def cancelled(peer: Peer) -> None:
        order.append("said")
        await peer.answer(202)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = slow
        server.on["notifications/cancelled"] = cancelled
        await dial.shake_hands()
        id = dial.send("tools/call")
        await anyio.sleep(1)
        dial.tell("notifications/cancelled", cancels=id)
        await anyio.sleep(1)
        assert order == ["said", "dropped"]
        assert dial.heard.failures == {}


async def test_a_request_is_dropped_even_if_nobody_takes_the_cancel() -> None:
    gone = anyio.Event()

    async def slow(peer: Peer) -> None:
        peer.hang_up()
        await peer.gone()
        gone.set()

    async def mute(peer: Peer) -> None:
        peer.hang_up()
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = slow
        server.on["notifications/cancelled"] = mute
        await dial.shake_hands()
        id = dial.send("tools/call")
        await anyio.sleep(1)
        dial.tell("notifications/cancelled", cancels=id)
        with anyio.fail_after(5.5):
            await gone.wait()


async def test_a_request_that_was_not_sent_yet_is_cancelled_without_a_word() -> None:
    async def overloaded(peer: Peer) -> None:
        await peer.answer(429, retry_after="10")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["tools/list"] = overloaded
        dial.send("tools/list")
        await anyio.sleep(1)
        id = dial.send("tools/call")
        await anyio.sleep(1)
        dial.tell("notifications/cancelled", cancels=id)
        await anyio.sleep(20)
        assert server.count("tools/call") == 0
        assert server.count("notifications/cancelled") == 0


# --- what is no reply


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("text/html; charset=utf-8", "'text/html; charset=utf-8'"),
        ("", "none"),
        ("a b<script>", "'a b<script>'"),
        ("text/plain", "'text/plain'"),
    ],
)
async def test_an_unexpected_content_type_is_named_and_its_body_is_not(kind: str, shown: str) -> None:
    async def login_page(peer: Peer) -> None:
        await peer.answer(200, b"<html>SECRET</html>", kind=kind)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = login_page
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        words = f"answered tools/call with an unexpected content-type: {shown}; the request is not sent again"
        assert error.message == f"server 'scripted' {words}"
        assert isinstance(await dial.ask("ping"), dict)


async def test_json_that_is_too_large_fails_its_request_alone() -> None:
    async def large(peer: Peer) -> None:
        await peer.result("x" * 5000)

    async with serving(McpServer()) as server, dialled(server.url, limits=Limits(max_message_bytes=4096)) as dial:
        server.on["tools/call"] = large
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "4096 bytes" in error.message
        assert dial.heard.oversized == 1
        assert isinstance(await dial.ask("ping"), dict)


async def test_json_without_end_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        peer.hang_up()
        await peer.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"x":"')
        while True:
            await peer.raw(b"x" * 65536)
            sent += 65536

    async with serving(McpServer()) as server, dialled(server.url, limits=Limits(max_message_bytes=100_000)) as dial:
        server.on["tools/call"] = endless
        await dial.shake_hands()
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        await anyio.sleep(1)
        assert sent < 32 * 1024 * 1024
        assert dial.heard.oversized == 1


@pytest.mark.parametrize("line", [b"data: ", b"x" * 10])
async def test_an_event_that_is_too_large_fails_its_request_alone(line: bytes) -> None:
    async def endless(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event({"jsonrpc": "2.0", "method": "notifications/x"})
        await peer.raw(line)
        while True:
            await peer.raw(b"x" * 65536)

    async with serving(McpServer()) as server, dialled(server.url, limits=Limits(max_message_bytes=100_000)) as dial:
        server.on["tools/call"] = endless
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "100000 bytes" in error.message
        assert dial.heard.oversized == 1
        assert dial.heard.messages[-1]["method"] == "notifications/x"
        assert isinstance(await dial.ask("ping"), dict)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_answer_that_is_compressed_by_what_is_not_known_is_not_read(kind: str) -> None:
    async def bomb(peer: Peer) -> None:
        await peer.answer(200, b"\x1f\x8b" + b"\0" * 100, kind=kind, content_encoding="br")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = bomb
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "compressed by br, though it was asked not to" in error.message


@pytest.mark.parametrize("body", [b"", b"[]", b"no json", b'{"jsonrpc":"2.0","id":99,"result":{}}'])
async def test_a_body_that_is_no_reply_fails_the_request(body: bytes) -> None:
    async def other(peer: Peer) -> None:
        await peer.answer(200, body)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        dial.connection.receive = lambda message, during=None: None
        server.on["tools/call"] = other
        dial.connection.send(
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', Outgoing(1, "tools/call", version=MODERN)
        )
        await dial.heard.wait(lambda: dial.heard.failures)
        assert "answered" in dial.heard.failures[1].message
        assert "not sent again" in dial.heard.failures[1].message


async def test_a_request_that_is_only_accepted_fails() -> None:
    async def accept(peer: Peer) -> None:
        await peer.answer(202)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = accept
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "HTTP 202" in error.message


# --- ends


async def test_stopping_lets_requests_finish_and_then_ends_the_session() -> None:
    async def slow(peer: Peer) -> None:
        await anyio.sleep(1)
        await peer.result()

    async with serving(McpServer(stream=True)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = slow
        await dial.shake_hands()
        id = dial.send("tools/call")
        await anyio.sleep(0.1)
        dial.connection.stop()
        dial.connection.stop()
        with pytest.raises(ConnectionClosed):
            dial.send("ping")
        ended = await dial.connection.wait_closed()
        assert ended.kind == "disconnected"
        assert len(dial.heard.replies(id)) == 1
        assert server.requests[-1].method == "DELETE"
        assert server.requests[-1].headers["mcp-session-id"] == "s1"
        assert server.sessions == set()


async def test_stopping_waits_for_no_request_longer_than_it_may() -> None:
    async def mute(peer: Peer) -> None:
        peer.hang_up()
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url, limits=Limits(stop_eof_secs=2)) as dial:
        server.on["tools/call"] = mute
        server.on["DELETE"] = mute
        await dial.shake_hands()
        dial.send("tools/call")
        await anyio.sleep(0.5)
        began = anyio.current_time()
        dial.connection.stop()
        await dial.connection.wait_lost()
        assert anyio.current_time() - began == pytest.approx(2, abs=0.01)
        await dial.connection.wait_closed()
        assert anyio.current_time() - began == pytest.approx(3, abs=0.01)


async def test_stopping_does_not_wait_for_what_may_last() -> None:
    async def listen(peer: Peer) -> None:
        await peer.begin_events()
        await peer.gone()

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["subscriptions/listen"] = listen
        await dial.shake_hands(MODERN)
        dial.send("subscriptions/listen", may_last=True)
        await anyio.sleep(1)
        began = anyio.current_time()
        dial.connection.stop()
        await dial.connection.wait_closed()
        assert anyio.current_time() - began < 0.1


async def test_killing_takes_no_time_and_says_nothing() -> None:
    async def mute(peer: Peer) -> None:
        peer.hang_up()
        await peer.gone()

    async with serving(McpServer(stream=True)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = mute
        await dial.shake_hands()
        dial.send("tools/call")
        await anyio.sleep(1)
        began = anyio.current_time()
        dial.connection.stop()
        dial.connection.kill()
        await dial.connection.wait_lost()
        await dial.connection.wait_closed()
        assert anyio.current_time() == began
        assert server.count("DELETE") == 0
        assert dial.heard.failures == {}


async def test_what_is_killed_before_it_ran_is_closed_all_the_same() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        dial.send("initialize")
        dial.connection.kill()
        assert (await dial.connection.wait_closed()).kind == "disconnected"
        assert dial.connection.stderr_tail() == ()
        assert dial.connection.pid is None


async def test_a_fault_of_a_receiver_costs_one_request() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        receive = dial.connection.receive

        def faulty(message: bytes, during: int | None = None) -> None:
            raise RuntimeError("SECRET")

        dial.connection.receive = faulty
        id = dial.send("tools/call")
        await dial.heard.wait(lambda: id in dial.heard.failures)
        assert dial.heard.failures[id].message == (
            "server 'scripted' could not be asked: a fault of moltis: RuntimeError"
        )
        dial.connection.receive = receive
        assert isinstance(await dial.ask("ping"), dict)


async def test_a_server_that_sends_anything_at_all_raises_nothing() -> None:
    answers = [b"\0" * 1000, b"HTTP/1.1 999 X\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n"]

    async def hostile(peer: Peer) -> None:
        peer.hang_up()
        await peer.raw(answers[len(server.requests) % len(answers)])

    async with serving(HttpServer(hostile)) as server, dialled(server.url) as dial:
        dial.version = LEGACY
        for _ in answers:
            assert isinstance(await dial.ask("tools/call"), ServerNotReady)
