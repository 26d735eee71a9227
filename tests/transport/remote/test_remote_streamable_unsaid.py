"""A session that is lost though no answer says so is begun anew; one that is only refused something is kept."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from scripted_remote import Dialled, McpServer, Peer, dialled, serving

from moltis.errors import ServerNotReady

pytestmark = pytest.mark.anyio

BARE: tuple[int, bytes] = (400, b"")
ASTRAY = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Bad Request"}}'
PROBLEM = b'{"title":"Bad Request","status":400,"traceId":"00-1"}'


class Terse(McpServer):
    """Refuses unknown sessions with `said`, and `refused` in any session. `free`: what it answers in any session."""

    def __init__(self, said: tuple[int, bytes] = BARE) -> None:
        super().__init__()
        self.said = said
        self.refused: dict[str, tuple[int, bytes]] = {}
        self.free: set[str] = set()
        self.ran: list[str] = []

    def knows_no_ping(self, *said: object) -> Terse:
        self.refused["ping"] = said or BARE  # type: ignore[assignment]
        return self

    async def _any(self, peer: Peer) -> None:
        method = peer.request.rpc
        known = peer.request.headers.get("mcp-session-id") in self.sessions or method in self.free
        if not known or method in self.refused:
            status, body = self.said if not known else self.refused[method]
            await peer.answer(status, body, kind="application/json" if body.startswith(b"{") else "text/plain")
        elif "id" in peer.request.message:
            self.ran.append(method)
            await peer.result()
        else:
            await peer.answer(202)


async def fails(dial: Dialled, times: int = 1) -> None:
    for _ in range(times):
        reply = await dial.ask("tools/call")
        assert not isinstance(reply, dict) or "error" in reply


async def works(dial: Dialled) -> None:
    reply = await dial.ask("tools/call")
    assert isinstance(reply, dict)
    assert "result" in reply


@pytest.mark.parametrize("answers", [["tools/list"], ["prompts/list"], ["ping"], []])
@pytest.mark.parametrize("status", [400, 403, 406, 409, 410, 412, 422])
async def test_a_bare_refusal_is_looked_into_whatever_was_answered_before(answers: list[str], status: int) -> None:
    async with serving(Terse((status, b""))) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await anyio.sleep(1)
        for method in answers:
            await dial.ask(method)
        server.forget()
        await fails(dial)
        await anyio.sleep(1)
        assert server.begun == 2
        await works(dial)
        assert server.ran.count("tools/call") == 1
        assert len(dial.heard.missed_at) == 1
        assert server.sessions == {"s2"}


@pytest.mark.parametrize("ping", [BARE, (405, b""), (202, b""), (422, b"what?"), (200, ASTRAY)])
async def test_a_server_that_knows_no_ping_gets_another_session_for_the_lost_one_alone(ping: tuple[int, bytes]) -> None:
    server = Terse().knows_no_ping(*ping)
    async with serving(server), dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        await dial.ask("ping")
        server.refused["tools/call"] = BARE
        for _ in range(3):
            await fails(dial)
            await anyio.sleep(10)
        assert server.begun == 1
        del server.refused["tools/call"]
        server.forget()
        await fails(dial)
        await anyio.sleep(10)
        await works(dial)
        assert (server.begun, server.ran.count("tools/call")) == (2, 1)


@pytest.mark.parametrize("ping", [None, BARE])
async def test_a_session_that_is_lost_again_right_after_it_was_begun_is_begun_anew_again(
    ping: tuple[int, bytes] | None,
) -> None:
    server = Terse()
    if ping:
        server.knows_no_ping(*ping)
    async with serving(server), dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        for lost in (1, 2, 3, 4):
            server.forget()
            await fails(dial)
            await anyio.sleep(6)  # between two looks are 5 s
            assert server.begun == 1 + lost
        await works(dial)
        assert server.ran.count("tools/call") == 1


@pytest.mark.parametrize("forgets", [True, False])
async def test_a_session_that_404_had_begun_anew_and_a_bare_400_loses_is_begun_anew(forgets: bool) -> None:
    async with serving(Terse((404, b""))) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.forget()
        await works(dial)
        server.said = BARE
        if forgets:
            server.forget()
            await fails(dial)
            await anyio.sleep(6)
        await works(dial)
        assert server.begun == 2 + forgets


@pytest.mark.parametrize("said", [(400, b"Bad Request"), (422, b"Unprocessable Content"), (409, b"Conflict\n")])
async def test_a_body_that_says_no_more_than_the_status_is_as_good_as_none(said: tuple[int, bytes]) -> None:
    async with serving(Terse(said)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.forget()
        await fails(dial)
        await anyio.sleep(1)
        assert server.begun == 2


@pytest.mark.parametrize("said", [(400, PROBLEM), (400, b"<h1>oops</h1>"), (200, ASTRAY), (400, ASTRAY), (409, b"no")])
async def test_words_about_something_else_are_looked_into_when_they_come_twice_in_a_row(
    said: tuple[int, bytes],
) -> None:
    async with serving(Terse(said)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.forget()
        await fails(dial)
        await anyio.sleep(10)
        assert (server.begun, server.count("ping")) == (1, 0)
        await fails(dial)
        await anyio.sleep(1)
        assert server.begun == 2
        await works(dial)


async def test_a_ping_that_is_answered_by_who_stands_before_the_server_does_not_hide_the_loss() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        server.free = {"ping"}
        await dial.shake_hands()
        await dial.ask("tools/list")
        await dial.ask("ping")
        server.forget()
        await fails(dial)
        await anyio.sleep(10)
        await fails(dial)
        await anyio.sleep(1)
        assert server.begun == 2
        await works(dial)


async def test_a_heartbeat_finds_the_loss_before_a_call_does() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        await dial.ask("ping")
        server.forget()
        await dial.ask("ping")
        await anyio.sleep(1)
        assert server.begun == 2
        await works(dial)


async def test_a_session_that_is_lost_before_it_is_confirmed_is_begun_anew() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.forget()
        await works(dial)
        assert (server.begun, server.ran.count("tools/call")) == (2, 1)


async def test_a_confirmation_that_is_refused_costs_no_session() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        server.refused = {"notifications/initialized": BARE}
        await dial.shake_hands()
        await works(dial)
        assert server.begun == 1


@pytest.mark.parametrize("ping", [None, BARE])
async def test_what_may_be_asked_twice_is_asked_in_the_new_session(ping: tuple[int, bytes] | None) -> None:
    server = Terse()
    if ping:
        server.knows_no_ping(*ping)
    async with serving(server), dialled(server.url) as dial:
        await dial.shake_hands()
        server.forget()  # before anything was asked
        ids = [dial.send("tools/list"), dial.send("prompts/list")]
        for id in ids:
            assert isinstance(await dial.outcome(id), dict)
        assert server.begun == 2


async def test_a_list_that_is_refused_fails_at_once_where_the_session_is_known() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        server.refused = {"resources/list": BARE, "prompts/list": BARE}
        await dial.shake_hands()
        for method in server.refused:
            with anyio.fail_after(1):
                assert isinstance(await dial.ask(method), ServerNotReady)
        assert (server.count("resources/list"), server.begun) == (1, 1)


async def test_heartbeats_that_were_never_answered_cost_nothing_more() -> None:
    server = Terse().knows_no_ping()
    async with serving(server), dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        for _ in range(5):
            await dial.ask("ping")
            await anyio.sleep(30)
        assert (server.count("ping"), server.count("tools/list"), server.begun) == (5, 1, 1)


async def test_calls_that_are_refused_together_are_one_doubt() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.forget()
        for id in [dial.send("tools/call") for _ in range(10)]:
            assert isinstance(await dial.outcome(id), ServerNotReady)
        await anyio.sleep(60)
        assert (server.begun, server.count("ping")) == (2, 1)


async def test_a_loss_that_comes_soon_after_a_look_is_looked_into_when_that_is_some_seconds_ago() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.refused["tools/call"] = BARE
        await fails(dial)
        await anyio.sleep(0.1)
        del server.refused["tools/call"]
        server.forget()
        await fails(dial)
        await anyio.sleep(10)
        assert server.begun == 2
        await works(dial)


async def _bare(peer: Peer) -> None:
    await peer.answer(400)


async def _unauthorized(peer: Peer) -> None:
    await peer.answer(401)


async def _forbidden(peer: Peer) -> None:
    await peer.answer(403)


async def _mute(peer: Peer) -> None:
    await peer.gone()


async def _broken(peer: Peer) -> None:
    await peer.answer(502)


@pytest.mark.parametrize("initialize", [_bare, _unauthorized, _forbidden, _mute, _broken])
async def test_where_no_other_session_can_be_begun_the_one_that_is_refused_is_kept(
    initialize: Callable[[Peer], object],
) -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        known, begin = set(server.sessions), server.on["initialize"]
        server.on["initialize"] = initialize  # type: ignore[assignment]
        server.forget()  # as it looks when something that stands before it refuses all for a while
        await fails(dial)
        await anyio.sleep(60)
        server.sessions |= known
        server.on["initialize"] = begin
        await works(dial)
        assert server.of("tools/call")[-1].headers["mcp-session-id"] == "s1"
        assert server.count("DELETE") == 0


@pytest.mark.parametrize("mute", ["initialize", "tools/list"])
async def test_calls_wait_for_a_guess_for_ten_seconds_at_most(mute: str) -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        await dial.ask("ping")
        server.forget()

        async def ping(peer: Peer) -> None:
            await (_bare if peer.request.headers["mcp-session-id"] == "s1" else _mute)(peer)

        was = dict(server.on)
        server.on.update({"ping": ping, mute: _mute})
        await fails(dial)
        await anyio.sleep(1)
        with anyio.fail_after(10):
            await fails(dial)
        server.on = was
        await anyio.sleep(10)
        await works(dial)


async def test_where_pings_are_not_answered_any_more_a_list_tells_a_new_session_from_a_lost_one() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        await dial.ask("ping")
        server.forget()

        async def ping(peer: Peer) -> None:
            await (_bare if peer.request.headers["mcp-session-id"] == "s1" else _mute)(peer)

        server.on["ping"] = ping
        await fails(dial)
        await anyio.sleep(1)
        await works(dial)
        assert server.begun == 2


async def test_a_ping_that_nobody_answers_holds_up_a_list_no_longer_than_a_heartbeat() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.on["ping"] = _mute
        server.refused["prompts/list"] = BARE
        with anyio.fail_after(6):
            assert isinstance(await dial.ask("prompts/list"), ServerNotReady)


async def test_a_server_that_comes_to_refuse_its_lists_in_every_session_keeps_the_one_it_has() -> None:
    server = Terse().knows_no_ping()
    async with serving(server), dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        server.refused |= {"tools/list": BARE, "tools/call": BARE}
        for _ in range(4):
            await fails(dial)
            await anyio.sleep(60)
        assert server.begun == 2, "it was tried once"
        assert [r.headers["mcp-session-id"] for r in server.of("DELETE")] == ["s2"]
        del server.refused["tools/call"]
        await works(dial)
        assert server.of("tools/call")[-1].headers["mcp-session-id"] == "s1"


async def test_a_call_that_is_refused_under_its_own_id_makes_no_doubt_however_often() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")

        async def call(peer: Peer) -> None:
            error = {"code": -32602, "message": "bad arguments"}
            await peer.answer(400, {"jsonrpc": "2.0", "id": peer.request.message["id"], "error": error})

        server.on["tools/call"] = call
        await fails(dial, 5)
        await anyio.sleep(60)
        assert (server.count("ping"), server.begun) == (0, 1)


async def test_a_probe_may_be_answered_by_a_stream_that_goes_on() -> None:
    async with serving(Terse()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")

        async def ping(peer: Peer) -> None:
            await peer.begin_events()
            await peer.event({"jsonrpc": "2.0", "method": "notifications/message"})
            await peer.event(peer.reply())
            await peer.gone()

        server.on["ping"] = ping
        server.refused["tools/call"] = BARE
        await fails(dial)
        await anyio.sleep(1)
        await fails(dial)
        await anyio.sleep(60)
        assert server.begun == 1
        assert server.count("ping") == 2
        assert sum(m.get("method") == "notifications/message" for m in dial.heard.messages) == 2
