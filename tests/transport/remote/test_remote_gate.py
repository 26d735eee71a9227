"""A server that wants to be left alone is: heartbeats are answered for it, and calls are told when to come back."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from old_server import OldServer, answering, line
from scripted_remote import LEGACY, MODERN, HttpServer, McpServer, Peer, dialled, serving

from moltis.errors import MoltisError, RpcCode, ServerNotReady
from moltis.http.authorized import MAX_HELD_SECS, Gate, HeldBack
from moltis.transport.remote.legacy import LegacyConnection

pytestmark = pytest.mark.anyio

INITIALIZED = "notifications/initialized"
HEARTBEATS = [(LEGACY, "ping"), (MODERN, "server/discover")]


def refuse(server: HttpServer, method: str, status: int, retry_after: str, *, once: bool = True) -> None:
    """Have a server refuse a method so."""
    before = server.on.get(method)

    async def overloaded(peer: Peer) -> None:
        if once:
            del server.on[method]
            if before is not None:
                server.on[method] = before
        await peer.answer(status, retry_after=retry_after)

    server.on[method] = overloaded


def told_to_wait(error: object, secs: float) -> bool:
    """Whether an error says so, in words and as an instant in UTC. The clock of the wall goes on in virtual time."""
    assert isinstance(error, ServerNotReady), error
    assert error.next_retry_at is not None
    assert error.next_retry_at[-5:-4] == "."
    assert error.next_retry_at.endswith("Z")
    assert f"left alone for {math.ceil(secs)} s" in error.message
    later = (datetime.fromisoformat(error.next_retry_at) - datetime.now(UTC)).total_seconds()
    return secs - 2 < later < secs + 0.1


def is_alive(reply: object) -> bool:
    """Whether a reply is the one that is made for a server."""
    assert isinstance(reply, dict), reply
    return reply["error"]["code"] == RpcCode.NOT_READY and "by HTTP alone" in reply["error"]["message"]


# --- heartbeats


@pytest.mark.parametrize(("version", "beat"), HEARTBEATS)
async def test_a_heartbeat_is_not_sent_to_a_server_that_wants_to_be_left_alone(version: str, beat: str) -> None:
    async with serving(McpServer(stateful=version == LEGACY)) as server, dialled(server.url) as dial:
        await dial.shake_hands(version)
        await dial.ask(beat)
        refuse(server, "tools/call", 503, "40")
        assert told_to_wait(await dial.ask("tools/call"), 40)
        sent = len(server.requests)
        for _ in range(3):
            began = anyio.current_time()
            id = dial.send(beat)
            assert isinstance(await dial.outcome(id), ServerNotReady)
            assert id in dial.heard.unsent
            assert anyio.current_time() == began
            await anyio.sleep(5)
        assert len(server.requests) == sent
        await anyio.sleep(26)
        assert "result" in await dial.ask(beat)  # type: ignore[operator]


@pytest.mark.parametrize(("version", "beat"), HEARTBEATS)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("secs", ["0", "3", "40"])
async def test_a_heartbeat_that_is_refused_so_is_a_sign_of_life(
    version: str, beat: str, status: int, secs: str
) -> None:
    async with serving(McpServer(stateful=version == LEGACY)) as server, dialled(server.url) as dial:
        await dial.shake_hands(version)
        await dial.ask("tools/list")
        refuse(server, beat, status, secs, once=False)
        sent = server.count(beat)
        assert is_alive(await dial.ask(beat))
        assert server.count(beat) == sent + 1


# --- calls


@pytest.mark.parametrize("method", ["tools/call", "resources/read", "prompts/get", "completion/complete"])
async def test_a_request_that_would_wait_for_long_is_told_when_to_come_back(method: str) -> None:
    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        refuse(server, "tools/call", 503, "40")
        await dial.ask("tools/call")
        await anyio.sleep(10)
        began = anyio.current_time()
        error = await dial.ask(method)
        assert anyio.current_time() == began
        assert told_to_wait(error, 30)
        assert isinstance(error, MoltisError)
        assert error.message == "server 'scripted' is overloaded and wants to be left alone for 30 s more"
        await anyio.sleep(25)
        assert isinstance(await dial.ask(method), dict)
        assert [request.at - server.requests[1].at >= 40 for request in server.requests[2:]] == [True]


async def test_a_call_refused_for_long_is_told_at_once_and_not_sent_again() -> None:
    for status in (429, 503):
        async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
            await dial.shake_hands(MODERN)
            refuse(server, "tools/call", status, "10")
            began = anyio.current_time()
            error = await dial.ask("tools/call")
            assert anyio.current_time() == began
            assert told_to_wait(error, 10)
            await anyio.sleep(60)
            assert server.count("tools/call") == 1


async def test_an_hour_is_the_longest() -> None:
    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        refuse(server, "tools/call", 503, "1000000000")
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        later = datetime.fromisoformat(error.next_retry_at or "") - datetime.now(UTC)
        assert MAX_HELD_SECS - 2 < later.total_seconds() < MAX_HELD_SECS + 0.1
        assert told_to_wait(await dial.ask("tools/call"), MAX_HELD_SECS)


async def test_requests_that_cannot_be_sent_yet_do_not_hang_behind_others() -> None:
    async def never(peer: Peer) -> None:
        await peer.gone()

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        server.on["resources/read"] = never
        for _ in range(60):  # more than are sent at once
            dial.send("resources/read")
        await anyio.sleep(1)
        refuse(server, "server/discover", 503, "40")
        await dial.ask("server/discover")
        assert told_to_wait(await dial.ask("tools/call"), 40)


async def test_what_nobody_waits_for_in_person_can_wait() -> None:
    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        refuse(server, "tools/call", 503, "40")
        await dial.ask("tools/call")
        began = anyio.current_time()
        waiting = [dial.send("tools/list"), dial.send("subscriptions/listen", may_last=True)]
        for id in waiting:
            assert isinstance(await dial.outcome(id), dict)
        assert anyio.current_time() - began == pytest.approx(40, abs=0.2)


# --- sessions


async def test_what_waits_for_the_session_to_be_confirmed_is_told_too() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        refuse(server, INITIALIZED, 503, "20")
        await dial.ask("initialize")
        dial.version = LEGACY
        dial.tell(INITIALIZED)
        began = anyio.current_time()
        call, beat = dial.send("tools/call"), dial.send("ping")
        assert isinstance(await dial.outcome(beat), ServerNotReady)
        assert beat in dial.heard.unsent
        assert isinstance(await dial.outcome(call), ServerNotReady)
        assert anyio.current_time() - began < 1.5
        assert isinstance(await dial.ask("tools/list"), dict)
        assert server.seen()[:3] == ["initialize", INITIALIZED, INITIALIZED]
        assert server.count("tools/call") == server.count("ping") == 0


async def test_a_session_that_cannot_be_begun_anew_for_long_says_when_to_come_back() -> None:
    async def slow(peer: Peer) -> None:
        await anyio.sleep(2)
        await server.unknown(peer)

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        await dial.ask("ping")
        server.on["resources/read"] = slow
        dial.send("resources/read")
        await anyio.sleep(1)
        server.forget()
        refuse(server, "tools/call", 503, "61")
        await dial.ask("tools/call")
        ended = await dial.connection.wait_closed()
        assert ended.kind == "disconnected"
        assert ended.message.startswith("has lost the session, and is overloaded")
        assert ended.retry_after_secs == pytest.approx(60, abs=0.2)
        assert server.begun == 1


# --- HTTP+SSE


async def test_an_old_server_is_left_alone_in_the_same_way() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(503, headers={"Retry-After": "40"})
        at.ask(2, "tools/call")
        assert told_to_wait(await at.told.outcome(2), 40)
        server.on_post = server.take
        sent, began = len(server.requests), anyio.current_time()
        at.ask(3, "ping")
        assert isinstance(await at.told.outcome(3), ServerNotReady)
        assert at.told.unsent == {3}
        at.ask(4, "tools/call")
        assert told_to_wait(await at.told.outcome(4), 40)
        assert anyio.current_time() == began
        assert len(server.requests) == sent
        await anyio.sleep(36)
        at.ask(5, "tools/call")
        assert isinstance(await at.told.outcome(5), dict)
        assert anyio.current_time() - began == pytest.approx(40, abs=0.2)


async def test_an_old_server_that_refuses_a_heartbeat_so_is_alive() -> None:
    server = OldServer()
    async with line(LegacyConnection, server) as at:
        await at.begin()
        server.on_post = answering(503, headers={"Retry-After": "0"})
        at.ask(2, "ping")
        assert is_alive(await at.told.outcome(2))


async def test_what_waits_for_an_old_server_to_be_told_that_all_is_agreed_is_told_too() -> None:
    server = OldServer()

    async def take_no_more(request: Any, message: dict[str, Any]) -> Any:
        how = server.take if message["method"] == "initialize" else answering(503, headers={"Retry-After": "20"})
        return await how(request, message)

    server.on_post = take_no_more
    async with line(LegacyConnection, server) as at:
        at.ask(1, "initialize")
        await at.told.outcome(1)
        at.tell(INITIALIZED)
        began = anyio.current_time()
        at.ask(2, "tools/call")
        at.ask(3, "ping")
        assert isinstance(await at.told.outcome(3), ServerNotReady)
        assert isinstance(await at.told.outcome(2), ServerNotReady)
        assert 3 in at.told.unsent
        assert anyio.current_time() - began < 1.5


# --- the gate


async def test_a_gate_that_is_closed_for_longer_meanwhile_tries_nobodys_patience() -> None:
    gate = Gate()
    gate.close(4)
    outcomes: list[float] = []

    async def wait() -> None:
        began = anyio.current_time()
        with pytest.raises(HeldBack) as caught:
            await gate.wait(5)
        outcomes.extend((anyio.current_time() - began, caught.value.secs))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(3)
        gate.close(30)
    assert outcomes == pytest.approx([4, 29])


async def test_patience_is_for_all_of_the_waiting() -> None:
    gate = Gate()

    async def close_again() -> None:
        for _ in range(10):
            gate.close(2)
            await anyio.sleep(1.5)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close_again)
        await anyio.sleep(0.1)
        began = anyio.current_time()
        with pytest.raises(HeldBack):
            await gate.wait(5)
        assert anyio.current_time() - began <= 5
        tasks.cancel_scope.cancel()


async def test_an_open_gate_asks_for_no_patience() -> None:
    gate = Gate()
    gate.check(0)
    await gate.wait(0)
    gate.close(1)
    await gate.wait(1)
    gate.check(0)
