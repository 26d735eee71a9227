"""A session that the server forgot is begun anew, once; nothing that may have run is sent again."""

from __future__ import annotations

import json

import anyio
import pytest
from scripted_remote import LEGACY, FakeCredentials, McpServer, Peer, dialled, serving

from moltis.errors import LoginNeeded, ServerNotReady
from moltis.http.authorized import Refusal
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


SENTENCE = "Bad Request: No valid session ID provided"
LOGIN = LoginNeeded("a login is needed", server="scripted", auth_url="https://as.example/authorize")


def _sentence(id: object = None, words: str = SENTENCE, code: int = -32000) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": words}}).encode()


def refusing(server: McpServer, status: int, body: bytes, kind: str = "application/json") -> list[str]:
    """Have lost sessions refused so, whatever is asked in them; return what was run."""
    ran: list[str] = []

    async def serve(peer: Peer) -> None:
        if peer.request.headers.get("mcp-session-id") not in server.sessions:
            await peer.answer(status, body, kind=kind)
        elif "id" in peer.request.message:
            ran.append(peer.request.rpc)
            await peer.result()
        else:
            await peer.answer(202)

    server.on.update({"tools/call": serve, "tools/list": serve, "ping": serve})
    return ran


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 410, 422])
@pytest.mark.parametrize("id", [None, "server-error", 99, "0"])
async def test_a_lost_session_is_begun_anew_once_by_whatever_status_it_is_told(status: int, id: object) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        ran = refusing(server, status, _sentence(id))
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.forget()
        ids = [dial.send("tools/call") for _ in range(8)]
        for call in ids:
            assert isinstance(await dial.outcome(call), dict)
        assert ran == ["tools/list", *["tools/call"] * 8]
        assert server.begun == 2
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.begun == 2


@pytest.mark.parametrize(("status", "id"), [(400, 3), (400, "3"), (409, 3), (200, 3), (404, 3)])
@pytest.mark.parametrize("words", [SENTENCE, "the browser session expired", "no open session for this account"])
async def test_a_call_that_is_refused_under_its_own_id_is_never_run_again(status: int, id: object, words: str) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")

        async def call(peer: Peer) -> None:
            await peer.answer(status, _sentence(id, words))

        server.on["tools/call"] = call
        reply = await dial.ask("tools/call")
        assert isinstance(reply, dict)
        assert reply["error"]["message"] == words
        await anyio.sleep(60)
        assert server.count("tools/call") == 1
        assert server.begun == 1  # a ping was answered: the session is alive


@pytest.mark.parametrize("status", [400, 409, 410, 422, 500])
@pytest.mark.parametrize("body", [b"browser session expired", SENTENCE.encode(), b'{"error":"no such session"}'])
async def test_a_call_that_may_have_run_is_not_sent_again_for_words_about_a_session(status: int, body: bytes) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")

        async def call(peer: Peer) -> None:
            await peer.answer(status, body, kind="text/plain")

        server.on["tools/call"] = call
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        await anyio.sleep(60)
        assert (server.count("tools/call"), server.count("ping"), server.begun) == (1, 1, 1)


@pytest.mark.parametrize(("status", "body"), [(400, SENTENCE.encode()), (409, b"unknown session"), (410, b"gone")])
async def test_after_a_call_that_found_the_session_lost_in_such_words_a_ping_begins_another(
    status: int, body: bytes
) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        ran = refusing(server, status, body, "text/plain")
        if status == 410:
            server.on["ping"] = server._fallback
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        await anyio.sleep(1)
        assert server.begun == 2
        assert isinstance(await dial.ask("tools/call"), dict)
        assert ran.count("tools/call") == 1


@pytest.mark.parametrize("body", [b"", b"\r\n"])
async def test_after_a_400_without_a_word_another_session_is_begun_if_pings_are_refused_that_were_answered(
    body: bytes,
) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        ran = refusing(server, 400, body, "text/plain")
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        await anyio.sleep(1)
        assert server.begun == 2
        assert isinstance(await dial.ask("tools/call"), dict)
        assert ran.count("tools/call") == 1


async def test_a_400_without_a_word_to_one_call_leaves_a_session_alone_whose_pings_are_answered() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")

        async def call(peer: Peer) -> None:
            await peer.answer(400)

        server.on["tools/call"] = call
        for _ in range(3):
            assert isinstance(await dial.ask("tools/call"), ServerNotReady)
            await anyio.sleep(60)
        assert (server.count("tools/call"), server.begun) == (3, 1)


async def test_a_400_without_a_word_to_a_ping_proves_nothing_where_none_was_ever_answered() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")

        async def refuse(peer: Peer) -> None:
            await peer.answer(400)

        server.on.update({"tools/call": refuse, "ping": refuse})
        await dial.ask("ping")
        for _ in range(3):
            assert isinstance(await dial.ask("tools/call"), ServerNotReady)
            await anyio.sleep(60)
        assert (server.count("tools/call"), server.begun) == (3, 1)


async def test_a_list_is_asked_for_again_whatever_the_words() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        ran = refusing(server, 400, b"your session is over", "text/plain")
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.forget()
        assert isinstance(await dial.ask("tools/list"), dict)
        assert (ran, server.begun) == (["tools/list", "tools/list"], 2)


@pytest.mark.parametrize("id", [None, 3])
async def test_a_heartbeat_that_is_told_so_with_200_begins_another_session(id: object) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        refusing(server, 200, _sentence(id, "Session not found", -32600))
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()
        reply = await dial.ask("ping")
        assert isinstance(reply, dict)
        assert "result" in reply
        assert server.begun == 2


async def test_errors_about_anything_else_cost_no_ping() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()

        async def call(peer: Peer) -> None:
            await peer.answer(400, b"bad arguments", kind="text/plain")

        server.on["tools/call"] = call
        await dial.ask("tools/call")
        await anyio.sleep(60)
        assert server.count("ping") == 0


# --- a 401 to what carries a session


@pytest.mark.parametrize("headers", [(), (("Authorization", "Bearer right"),)])
@pytest.mark.parametrize("body", [b"Unauthorized: Session not found", _sentence(None, "Session not found", -32001)])
async def test_a_401_by_which_a_session_is_lost_asks_nobody_to_log_in(
    headers: tuple[tuple[str, str], ...], body: bytes
) -> None:
    credentials = FakeCredentials(None, verdicts=(LOGIN,))
    async with (
        serving(McpServer()) as server,
        dialled(server.url, credentials=credentials, headers=headers) as dial,
    ):
        ran = refusing(server, 401, body, "text/plain")
        await dial.shake_hands()
        await dial.ask("tools/list")
        for lost in (1, 2):
            server.forget()
            ids = [dial.send("tools/call") for _ in range(8)]
            for id in ids:
                assert isinstance(await dial.outcome(id), dict)
            assert server.begun == 1 + lost
        assert ran.count("tools/call") == 16
        assert credentials.refusals == []
        again = server.of("initialize")[1].headers
        assert again.get("authorization") == (dict(headers).get("Authorization"))


async def test_where_initialize_is_refused_too_it_is_the_token_and_the_session_stays() -> None:
    credentials = FakeCredentials("Bearer old", verdicts=(True,))
    async with serving(McpServer()) as server, dialled(server.url, credentials=credentials) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        begin, fallback = server.on["initialize"], server._fallback

        async def guarded(peer: Peer) -> None:
            if peer.request.headers["authorization"] == "Bearer new":
                await (begin if peer.request.rpc == "initialize" else fallback)(peer)
            else:
                await peer.answer(401)

        server.on.update({"initialize": guarded, "tools/call": guarded})
        refused = credentials.refused

        async def refresh(refusal: Refusal) -> bool:
            credentials.values = ["Bearer new"]
            return await refused(refusal)

        credentials.refused = refresh  # type: ignore[method-assign]
        assert isinstance(await dial.ask("tools/call"), dict)
        assert [r.headers["mcp-session-id"] for r in server.of("tools/call")] == ["s1", "s1", "s1"]
        assert len(credentials.refusals) == 1
        assert (server.begun, server.count("DELETE")) == (1, 0)


async def test_a_storm_of_401_begins_one_session_anew_and_then_asks_for_a_login() -> None:
    credentials = FakeCredentials(None, verdicts=(LOGIN,) * 9)
    async with serving(McpServer()) as server, dialled(server.url, credentials=credentials) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")

        async def refuse(peer: Peer) -> None:
            await peer.answer(401)

        server.on["tools/call"] = refuse
        ids = [dial.send("tools/call") for _ in range(8)]
        assert (await dial.connection.wait_closed()).kind == "auth_required"
        assert server.begun == 2
        assert server.count("tools/call") <= 16
        assert all(id in dial.heard.failures for id in ids)


async def test_a_session_that_never_served_anything_is_not_suspected() -> None:
    credentials = FakeCredentials(None, verdicts=(LOGIN,))
    async with serving(McpServer()) as server, dialled(server.url, credentials=credentials) as dial:
        await dial.shake_hands()

        async def refuse(peer: Peer) -> None:
            await peer.answer(401)

        server.on["tools/call"] = refuse
        assert await dial.ask("tools/call") is LOGIN
        assert (server.begun, server.count("tools/call")) == (1, 1)


async def test_a_session_that_is_replaced_but_may_live_is_ended() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        refused = False

        async def once(peer: Peer) -> None:
            nonlocal refused
            if refused:
                await peer.result()
            else:
                refused = True
                await peer.answer(401)

        server.on["tools/call"] = once
        assert isinstance(await dial.ask("tools/call"), dict)
        await anyio.sleep(1)
        assert [r.headers["mcp-session-id"] for r in server.of("DELETE")] == ["s1"]
        assert server.sessions == {"s2"}


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


async def test_what_is_no_trouble_at_the_first_time_is_none_at_the_second() -> None:
    """The revision with white space around it, and instructions of which a part is used."""
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.forget()

        async def wordy(peer: Peer) -> None:
            server.begun += 1
            server.sessions.add("s2")
            said = {"protocolVersion": f"{LEGACY} ", "capabilities": {}, "instructions": "x" * 1_000_000}
            await peer.result(said, mcp_session_id="s2")

        server.on["initialize"] = wordy
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.begun == 2


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
    await peer.result("x" * 17 * 1024 * 1024)


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
