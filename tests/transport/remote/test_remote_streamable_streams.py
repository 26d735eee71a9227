"""Streams that break off: a reply is resumed where the server lets it, and the GET stream is opened again at a pace."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest
from scripted_remote import MODERN, FakeCredentials, McpServer, Peer, dialled, serving

from moltis.config.limits import Limits
from moltis.errors import LoginNeeded, ServerNotReady

pytestmark = pytest.mark.anyio

NOTE = {"jsonrpc": "2.0", "method": "notifications/message"}


async def _mute(peer: Peer) -> None:
    peer.hang_up()
    await peer.gone()


# --- the stream of a reply


async def test_a_reply_that_broke_off_is_resumed_from_the_last_event() -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="e0", retry=3000)
        await peer.event(NOTE, id="e1")

    async def resume(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event({"jsonrpc": "2.0", "id": 2, "result": {"resumed": True}}, id="e2")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["tools/call"] = call
        await anyio.sleep(1)
        server.on["GET"] = resume
        reply = await dial.ask("tools/call")
        assert reply == {"jsonrpc": "2.0", "id": 2, "result": {"resumed": True}}
        get = server.requests[-1]
        assert get.headers["last-event-id"] == "e1"
        assert get.headers["mcp-session-id"] == "s1"
        assert get.headers["accept"] == "text/event-stream"
        assert get.at - server.of("tools/call")[0].at == pytest.approx(3, abs=0.2)
        assert server.count("tools/call") == 1


async def test_what_comes_on_the_answer_to_a_request_is_said_to_be_about_it_even_after_it_was_resumed() -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(NOTE, id="e0")

    async def resume(peer: Peer) -> None:
        await peer.begin_events()
        if "last-event-id" in peer.request.headers:
            await peer.event({**NOTE, "method": "resumed"}, id="e1")
            await peer.event({"jsonrpc": "2.0", "id": 2, "result": {}})
        else:
            await peer.event({**NOTE, "method": "unsolicited"})
            await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on.update({"tools/call": call, "GET": resume})
        await dial.shake_hands()
        assert isinstance(await dial.ask("tools/call"), dict)
        heard = [
            (m.get("method", "reply"), during)
            for m, during in zip(dial.heard.messages, dial.heard.during, strict=True)
            if m.get("id") != 1
        ]
        assert sorted(heard, key=str) == [
            ("notifications/message", 2),
            ("reply", 2),
            ("resumed", 2),
            ("unsolicited", None),
        ]


@pytest.mark.parametrize("stateful", [True, False])
async def test_a_reply_is_resumed_as_often_as_the_server_says_something_each_time(stateful: bool) -> None:
    rounds = 0

    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="0", retry=500)

    async def resume(peer: Peer) -> None:
        nonlocal rounds
        if "last-event-id" not in peer.request.headers:
            await peer.answer(405)
            return
        rounds += 1
        await peer.begin_events()
        await peer.event(NOTE, id=str(rounds))
        if rounds == 20:
            await peer.event({"jsonrpc": "2.0", "id": 2, "result": {}})

    async with serving(McpServer(stateful=stateful)) as server, dialled(server.url) as dial:
        server.on.update({"tools/call": call, "GET": resume})
        await dial.shake_hands()
        assert isinstance(await dial.ask("tools/call"), dict)
        resumed = [r.headers["last-event-id"] for r in server.of("GET") if "last-event-id" in r.headers]
        assert resumed == [str(n) for n in range(20)]


async def test_a_reply_that_does_not_go_on_is_given_up_after_five_tries() -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="e0")

    async def nothing(peer: Peer) -> None:
        await peer.begin_events()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        await anyio.sleep(1)
        server.on.update({"tools/call": call, "GET": nothing})
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message.endswith("the request is not sent again")
        assert len([r for r in server.of("GET") if "last-event-id" in r.headers]) == 5
        assert server.count("tools/call") == 1


@pytest.mark.parametrize("events", [1, 3])
async def test_events_that_say_nothing_are_no_going_on(events: int) -> None:
    async def empty(peer: Peer) -> None:
        await peer.begin_events()
        for number in range(events):
            await peer.event(id=f"e{len(server.requests)}.{number}")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on.update({"tools/call": empty, "GET": empty})
        with anyio.fail_after(20):
            error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message.endswith("the request is not sent again")
        assert server.count("GET") == 5
        assert server.count("tools/call") == 1


async def test_a_server_that_asks_to_come_back_is_asked_again_at_its_pace_but_not_in_haste() -> None:
    async def poll(peer: Peer) -> None:
        await peer.begin_events()
        if server.count("GET") == 8:
            await peer.event({"jsonrpc": "2.0", "id": 2, "result": {"late": True}})
        else:
            await peer.event(id=f"e{len(server.requests)}", retry=1)

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on.update({"tools/call": poll, "GET": poll})
        found = await dial.ask("tools/call")
        assert found["result"] == {"late": True}  # type: ignore[index]
        at = [request.at for request in server.of("GET")]
        assert at[7] - at[6] >= 0.9


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_server_that_does_not_resume_is_asked_once(status: int) -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="e0")

    async def refuse(peer: Peer) -> None:
        await peer.answer(status)

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on.update({"tools/call": call, "GET": refuse})
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert f"HTTP {status}" in error.message
        assert server.count("GET") == 1


async def test_a_stream_without_event_ids_that_breaks_off_fails_its_request() -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(NOTE)

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = call
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message == ("server 'scripted' ended the answer before the reply; the request is not sent again")
        assert server.count("GET") == 0
        assert server.count("tools/call") == 1


async def test_nothing_is_resumed_from_2026_on() -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(NOTE, id="e1")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = call
        await dial.shake_hands(MODERN)
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        assert server.count("GET") == 0


async def test_a_request_that_is_cancelled_is_not_resumed() -> None:
    async def call(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="e0", retry=10_000)

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = call
        await dial.shake_hands()
        id = dial.send("tools/call")
        await anyio.sleep(1)
        dial.tell("notifications/cancelled", cancels=id)
        await anyio.sleep(60)
        assert server.count("GET") == 0
        assert dial.heard.failures == {}


async def test_a_stream_that_may_last_lasts() -> None:
    async def listen(peer: Peer) -> None:
        await peer.begin_events()
        for _ in range(10):
            await anyio.sleep(1000)
            await peer.event(NOTE)

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["subscriptions/listen"] = listen
        await dial.shake_hands(MODERN)
        id = dial.send("subscriptions/listen", may_last=True)
        error = await dial.outcome(id)
        assert isinstance(error, ServerNotReady)
        assert len(dial.heard.messages) == 11


# --- the GET stream


async def test_what_nobody_asked_for_comes_by_the_get_stream() -> None:
    async def stream(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(NOTE)
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await dial.heard.wait(lambda: NOTE in dial.heard.messages)
        assert server.of("GET")[0].headers["mcp-session-id"] == "s1"
        seen = server.seen()
        assert seen.index("GET") > seen.index("notifications/initialized")


@pytest.mark.parametrize("status", [400, 404, 405, 406, 501])
async def test_a_server_without_a_get_stream_is_asked_for_it_once(status: int) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.answer(status)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = refuse
        await dial.shake_hands()
        await anyio.sleep(1000)
        server.forget()
        assert isinstance(await dial.ask("ping"), dict)
        await anyio.sleep(1000)
        assert server.count("GET") == 1
        assert server.begun == 2


async def test_a_server_without_sessions_is_asked_for_no_stream() -> None:
    async with serving(McpServer(stateful=False, stream=True)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await anyio.sleep(10)
        assert server.count("GET") == 0


async def test_a_stream_dropped_every_two_seconds_is_opened_again_at_most_once_a_second() -> None:
    sent = 0

    async def drop(peer: Peer) -> None:
        nonlocal sent
        await peer.begin_events()
        await anyio.sleep(2)
        sent += 1
        await peer.event(NOTE, id=f"e{sent}")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = drop
        await dial.shake_hands()
        await anyio.sleep(60)
        at = [request.at for request in server.of("GET")]
        gaps = [b - a for a, b in pairwise(at)]
        assert all(3 <= gap < 3.4 for gap in gaps)
        assert [r.headers.get("last-event-id") for r in server.of("GET")[:3]] == [None, "e1", "e2"]
        assert dial.heard.missed_at == []
        assert dial.heard.messages.count(NOTE) == sent


async def test_a_stream_that_cannot_be_resumed_says_that_something_was_missed_once_a_minute() -> None:
    async def drop(peer: Peer) -> None:
        await peer.begin_events()
        await anyio.sleep(2)
        await peer.event(NOTE)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = drop
        await dial.shake_hands()
        await anyio.sleep(130)
        gaps = [b - a for a, b in pairwise(dial.heard.missed_at)]
        assert len(gaps) == 2
        assert all(gap >= 60 for gap in gaps)


async def test_the_server_says_how_long_to_wait() -> None:
    async def drop(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(NOTE, id="e", retry=20_000)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = drop
        await dial.shake_hands()
        await anyio.sleep(200)
        at = [request.at for request in server.of("GET")]
        assert all(20 <= b - a <= 25.1 for a, b in pairwise(at))


async def test_streams_that_fail_are_opened_more_and_more_slowly_for_ever() -> None:
    async def fail(peer: Peer) -> None:
        await peer.answer(502)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = fail
        await dial.shake_hands()
        await anyio.sleep(3600)
        at = [request.at for request in server.of("GET")]
        gaps = [b - a for a, b in pairwise(at)]
        assert gaps[0] == pytest.approx(1.125, abs=0.1)
        assert gaps[-1] == pytest.approx(67.5, abs=0.1)
        assert gaps == sorted(gaps) or all(b - a > -0.1 for a, b in pairwise(gaps))
        assert len(at) > 40

        server.on["GET"] = _mute_stream
        await anyio.sleep(120)
        last = server.count("GET")
        await anyio.sleep(1000)
        assert server.count("GET") == last


async def _mute_stream(peer: Peer) -> None:
    await peer.begin_events()
    await peer.gone()


async def test_streams_that_end_at_once_are_failures() -> None:
    async def empty(peer: Peer) -> None:
        await peer.begin_events()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = empty
        await dial.shake_hands()
        await anyio.sleep(3600)
        assert server.count("GET") < 70


async def test_a_get_stream_that_finds_the_session_lost_begins_it_anew() -> None:
    drop = anyio.Event()

    async def stream(peer: Peer) -> None:
        if await server.unknown(peer):
            return
        await peer.begin_events()
        await peer.event(NOTE, id="e1")
        await drop.wait()

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        assert isinstance(server, McpServer)
        server.on["GET"] = stream
        await dial.shake_hands()
        await dial.heard.wait(lambda: NOTE in dial.heard.messages)
        server.forget()
        drop.set()
        await dial.heard.wait(lambda: dial.heard.missed_at, 10)
        assert server.begun == 2
        assert server.of("GET")[-1].headers["mcp-session-id"] in ("s1", "s2")
        await anyio.sleep(5)
        last = server.of("GET")[-1].headers
        assert last["mcp-session-id"] == "s2"


async def test_an_event_that_is_too_large_is_skipped_and_counted() -> None:
    async def stream(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event({**NOTE, "params": "x" * 10_000})
        await peer.event(NOTE)
        await peer.gone()

    async with serving(McpServer()) as server, dialled(server.url, limits=Limits(max_message_bytes=4096)) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await dial.heard.wait(lambda: NOTE in dial.heard.messages)
        assert dial.heard.oversized == 1
        assert server.count("GET") == 1


# --- the GET stream decides nothing over the whole


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("credentials", ["none", "token", "static"])
async def test_a_refused_stream_moves_nothing_while_posts_are_served(
    status: int, opened: bool, credentials: str
) -> None:
    streams = 0

    async def stream(peer: Peer) -> None:
        nonlocal streams
        streams += 1
        if opened and streams == 1:
            await peer.begin_events()
            await anyio.sleep(6)
        else:
            body = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "Session not found"}}
            await peer.answer(status, body, www_authenticate="Bearer")

    login = LoginNeeded("a login is needed", server="scripted")
    holder = FakeCredentials("Bearer t" if credentials == "token" else None, verdicts=(login,) * 99)
    headers = (("Authorization", "Static s"),) if credentials == "static" else ()
    async with serving(McpServer()) as server, dialled(server.url, credentials=holder, headers=headers) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        for _ in range(10):
            assert isinstance(await dial.ask("tools/call"), dict)
            await anyio.sleep(60)
        assert holder.refusals == []
        assert server.begun == 1
        assert server.sessions == {"s1"}
        assert server.count("GET") < 25


async def test_a_login_that_is_needed_is_for_the_posts_to_say() -> None:
    async with serving(McpServer()) as server:
        holder = FakeCredentials("Bearer t")
        async with dialled(server.url, credentials=holder) as dial:
            await dial.shake_hands()
            await dial.ask("ping")
            holder.values = [LoginNeeded("a login is needed", server="scripted")]
            server.on["GET"] = _mute_stream
            await anyio.sleep(100)
            assert not dial.connection.ending
            assert isinstance(await dial.ask("tools/call"), LoginNeeded)
            assert (await dial.connection.wait_closed()).kind == "auth_required"


@pytest.mark.parametrize(
    "content",
    [
        b"event: ping\ndata: \n\n",
        b'event: heartbeat\ndata: {"ts":1}\n\n',
        b": comment\n\n",
        b"id: 7\ndata: \n\n",
        b'data: {"not":"json-rpc"}\n\n',
        b"data: hello\n\n",
        b"retry: 500\ndata: \n\n",
        b"",
    ],
)
async def test_streams_that_end_at_once_and_say_nothing_to_us_are_failures(content: bytes) -> None:
    async def stream(peer: Peer) -> None:
        await peer.begin_events()
        await peer.raw(content or b"\n")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await anyio.sleep(150)
        assert server.count("GET") <= 9
        await anyio.sleep(600)
        assert server.count("GET") <= 19


async def test_a_server_that_ends_its_streams_on_purpose_is_asked_at_its_own_pace() -> None:
    async def stream(peer: Peer) -> None:
        await peer.begin_events()
        await peer.event(id="e1", retry=2000)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await anyio.sleep(100)
        gaps = [b.at - a.at for a, b in pairwise(server.of("GET"))]
        assert all(2 <= gap < 2.8 for gap in gaps)


async def test_a_session_that_a_refused_stream_shows_to_be_lost_is_begun_anew_by_a_ping() -> None:
    async def stream(peer: Peer) -> None:
        if await server.unknown(peer):
            return
        await peer.begin_events()
        await anyio.sleep(6)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = stream
        await dial.shake_hands()
        await anyio.sleep(3)
        server.forget()
        await anyio.sleep(20)
        assert server.begun == 2
        assert server.count("ping") == 1
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.begun == 2
