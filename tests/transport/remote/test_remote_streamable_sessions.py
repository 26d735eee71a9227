"""A session that the server forgot is begun anew, once; nothing that may have run is sent again."""

from __future__ import annotations

import anyio
import pytest
from scripted_remote import LEGACY, McpServer, Peer, dialled, serving

from moltis.errors import ServerNotReady
from moltis.transport import ConnectionClosed

pytestmark = pytest.mark.anyio

INITIALIZED = "notifications/initialized"


async def test_ten_calls_that_find_the_session_lost_begin_one_new_session() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        ids = [dial.send("tools/call") for _ in range(10)]
        for id in ids:
            assert isinstance(await dial.outcome(id), dict)
        assert server.begun == 2
        assert server.count(INITIALIZED) == 2
        answered = [r for r in server.of("tools/call") if r.headers["mcp-session-id"] == "s2"]
        assert sorted(r.message["id"] for r in answered) == ids
        again = server.of("initialize")[1]
        assert again.message["params"] == server.of("initialize")[0].message["params"]
        assert isinstance(again.message["id"], str)
        assert "mcp-session-id" not in again.headers
        assert len(dial.heard.messages) == 12
        await anyio.sleep(1)
        assert len(dial.heard.missed_at) == 1


async def test_a_call_that_comes_while_the_session_is_begun_anew_waits_for_it() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        begin = server.on["initialize"]

        async def slowly(peer: Peer) -> None:
            await anyio.sleep(5)
            await begin(peer)

        server.on["initialize"] = slowly
        first = dial.send("tools/list")
        await anyio.sleep(1)
        second = dial.send("tools/call")
        assert isinstance(await dial.outcome(second), dict)
        assert isinstance(await dial.outcome(first), dict)
        assert [r.headers["mcp-session-id"] for r in server.of("tools/call")] == ["s2"]


async def test_the_one_who_noticed_may_give_up_and_the_others_go_on() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        begin = server.on["initialize"]

        async def slowly(peer: Peer) -> None:
            await anyio.sleep(5)
            await begin(peer)

        server.on["initialize"] = slowly
        first = dial.send("tools/list")
        await anyio.sleep(1)
        second = dial.send("tools/call")
        await anyio.sleep(1)
        dial.tell("notifications/cancelled", cancels=first)
        assert isinstance(await dial.outcome(second), dict)


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_servers_that_say_400_for_a_lost_session_are_understood(kind: str) -> None:
    refusals = 0

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()

        async def call(peer: Peer) -> None:
            nonlocal refusals
            if peer.request.headers["mcp-session-id"] in server.sessions:
                await peer.result()
                return
            refusals += 1
            text = b"Bad Request: No valid session ID provided"
            error = b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"%b"},"id":null}' % text
            await peer.answer(400, error if kind == "application/json" else text, kind=kind)

        server.on["tools/call"] = call
        assert isinstance(await dial.ask("tools/call"), dict)
        assert refusals == 1
        assert server.begun == 2


async def test_a_server_that_never_knows_its_sessions_fails_calls_and_is_not_stormed() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()

        async def forgetful(peer: Peer) -> None:
            await peer.answer(404)

        server.on["tools/call"] = forgetful
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert "HTTP 404" in error.message
        assert server.count("tools/call") == 2
        assert server.begun == 2
        for _ in range(20):
            await dial.ask("tools/call")
        await anyio.sleep(1)
        assert len(dial.heard.missed_at) == 1
        await anyio.sleep(120)
        assert len(dial.heard.missed_at) == 2


async def test_404_without_a_session_is_an_answer_like_any_other() -> None:
    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands()

        async def unknown(peer: Peer) -> None:
            await peer.answer(404)

        server.on["tools/call"] = unknown
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert server.begun == 1


async def test_another_revision_at_the_second_time_ends_the_connection() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()

        async def older(peer: Peer) -> None:
            await peer.result({"protocolVersion": "2025-03-26", "capabilities": {}})

        server.on["initialize"] = older
        dial.send("tools/call")
        ended = await dial.connection.wait_closed()
        assert ended.kind == "disconnected"
        assert "another revision" in ended.message


async def _refuse(peer: Peer) -> None:
    await peer.answer(500)


async def _overloaded(peer: Peer) -> None:
    await peer.answer(503, retry_after="7")


async def _no_json(peer: Peer) -> None:
    await peer.answer(200, b"{")


async def _html(peer: Peer) -> None:
    await peer.answer(200, b"{", kind="text/html")


async def _error(peer: Peer) -> None:
    await peer.answer(200, {"jsonrpc": "2.0", "id": peer.request.message["id"], "error": {"code": 1, "message": "m"}})


async def _mute(peer: Peer) -> None:
    peer.hang_up()
    await peer.gone()


async def _hangs_up(peer: Peer) -> None:
    peer.hang_up()


async def _empty_stream(peer: Peer) -> None:
    await peer.begin_events()


async def _much(peer: Peer) -> None:
    await peer.result("x" * 300_000)


async def _bad_id(peer: Peer) -> None:
    await peer.result({"protocolVersion": LEGACY}, mcp_session_id="a b")


async def _unauthorized(peer: Peer) -> None:
    await peer.answer(401)


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (_refuse, "disconnected", "HTTP 500"),
        (_overloaded, "disconnected", "HTTP 503"),
        (_no_json, "disconnected", "something else"),
        (_html, "disconnected", "neither JSON nor a stream"),
        (_error, "disconnected", "refuses a new one"),
        (_mute, "disconnected", "within 30 s"),
        (_hangs_up, "disconnected", "gave no answer"),
        (_empty_stream, "disconnected", "did not answer"),
        (_much, "disconnected", "far too much"),
        (_bad_id, "disconnected", "session id"),
        (_unauthorized, "auth_required", "401"),
    ],
)
async def test_what_cannot_be_begun_anew_ends_the_connection(script: object, kind: str, words: str) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        server.on["initialize"] = script  # type: ignore[assignment]
        dial.send("tools/call")
        ended = await dial.connection.wait_closed()
        assert ended.kind == kind
        assert words in ended.message
        assert ended.retry_after_secs == (7 if script is _overloaded else None)
        assert server.count("tools/call") == 1
        with pytest.raises(ConnectionClosed):
            dial.send("ping")


async def test_a_new_session_may_be_answered_by_a_stream() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()

        async def stream(peer: Peer) -> None:
            server.sessions.add("other")
            await peer.begin_events(mcp_session_id="other")
            await peer.event({"jsonrpc": "2.0", "method": "notifications/message"})
            await peer.event(peer.reply({"protocolVersion": LEGACY, "capabilities": {}}))

        server.on["initialize"] = stream
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.of("tools/call")[-1].headers["mcp-session-id"] == "other"
        assert any(m.get("method") == "notifications/message" for m in dial.heard.messages)
        assert not any(isinstance(m.get("id"), str) for m in dial.heard.messages)


async def test_a_session_lost_before_it_was_confirmed_is_begun_anew_too() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.ask("initialize")
        server.forget()
        dial.version = LEGACY
        dial.tell(INITIALIZED)
        assert isinstance(await dial.ask("tools/list"), dict)
        assert server.begun == 2
        assert [r.headers["mcp-session-id"] for r in server.of(INITIALIZED)] == ["s1", "s2"]


async def test_a_session_id_that_no_header_can_hold_is_refused() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["initialize"] = _bad_id
        dial.send("initialize")
        ended = await dial.connection.wait_closed()
        assert ended.kind == "handshake_failed"
        assert dial.heard.messages == []


async def test_a_notification_finds_the_session_lost_too() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        dial.tell("notifications/roots/list_changed")
        await anyio.sleep(1)
        sent = server.of("notifications/roots/list_changed")
        assert [r.headers["mcp-session-id"] for r in sent] == ["s1", "s2"]
        assert dial.connection.dropped == 0


async def test_after_a_restart_of_the_server_the_next_call_works() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        assert isinstance(await dial.ask("tools/call"), dict)
        await server.go_down()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message == (f"server 'scripted' cannot be reached at 127.0.0.1:{server.port}: connection refused")
        server.forget()
        await server.come_up()
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.of("tools/call")[-1].headers["mcp-session-id"] == "s2"
