"""The second session of a server that speaks both eras over HTTP: there when a host of the older one needs it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from scripted_host import FakeCaller, raw
from scripted_server import (
    INITIALIZED,
    Message,
    Out,
    Running,
    Script,
    ScriptedConnection,
    a_plan,
    error,
    legacy,
    modern,
    result,
)

from moltis.config.limits import Limits
from moltis.errors import ServerNotReady, UsageError
from moltis.server.states import FailureKind
from moltis.session.beside import LASTING_SECS, MAX_RETRY_SECS, OPEN_SECS, RETRY_SECS
from moltis.session.calls import Failed, Result
from moltis.session.hooks import Hooks
from moltis.session.listing import Kind
from moltis.session.requests import Requests
from moltis.session.session import Session
from moltis.session.wishes import Wish
from moltis.transport import Ended

REMOTE: Any = {"transport": "streamable-http"}
LOGS = {**INITIALIZED, "capabilities": {"tools": {}, "logging": {}}}
ELICIT: Message = {"jsonrpc": "2.0", "id": 7, "method": "elicitation/create", "params": {"message": "Who?"}}
NO_CHANNEL = "this transport context has no back-channel for server-initiated requests."


def both(**more: Script) -> Script:
    """A server of both eras that answers no call by itself; to `server/discover` it names the newer, as the SDKs do."""
    scripts: dict[str, Script] = {"initialize": lambda r: [result(r, INITIALIZED)], "tools__call": lambda r: [], **more}
    return modern("t", **scripts)


def answered(message: Message) -> list[Out]:
    return [result(message, {"content": []})]


def remote(tasks: Any, script: Script, *, relays: bool = True, **more: Any) -> Running:
    plan = a_plan(**REMOTE, **{key: more.pop(key) for key in ("protocol", "limits") if key in more})
    return Running(tasks, script, plan, relays=relays, **more)


async def taker_of(session: Session, *, modern: bool = False, tool: str | None = None) -> Requests:
    """Return who takes a request, as the gateway does it."""
    with anyio.fail_after(OPEN_SECS + 1):
        while (taker := session.taker(modern=modern, tool=tool)) is None:
            await session.wait_taker()
    return taker


def call(taker: Requests, caller: FakeCaller, tool: str = "t") -> Any:
    return taker.forward("tools/call", raw(name=tool), {}, caller.replies.append, caller=caller, name=tool, tool=tool)


def asked(running: Running, method: str = "initialize") -> int:
    return len(running.server.asked(method))


async def test_it_is_opened_when_a_host_of_the_older_era_needs_it_and_once_for_all() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        session = running.session
        assert session.taker(modern=True) is session
        await anyio.sleep(10_000)
        assert (len(running.server.connections), asked(running)) == (1, 0)
        takers: list[Requests] = []

        async def need() -> None:
            takers.append(await taker_of(session))

        async with anyio.create_task_group() as hosts:
            for _ in range(5):
                hosts.start_soon(need)
        assert len(set(map(id, takers))) == 1
        assert takers[0] is not session
        assert (takers[0].agreed.era, session.agreed.era) == ("legacy", "modern")
        assert session.taker(modern=True) is session
        assert (len(running.server.connections), asked(running)) == (2, 1)
        assert "notifications/initialized" in running.server.methods()
        session.stop()


async def test_a_request_goes_out_in_the_era_of_its_host_and_its_reply_comes_back() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(tools__call=answered)).until_ready()
        for is_modern, version in ((True, "2026-07-28"), (False, "2025-11-25"), (True, "2026-07-28")):
            call(await taker_of(running.session, modern=is_modern), caller := FakeCaller("a"))
            await anyio.sleep(1)
            assert [type(reply) for reply in caller.replies] == [Result]
            assert running.server.about[-1].version == version
        running.session.stop()


@pytest.mark.parametrize(
    ("script", "plan", "more"),
    [
        (both, a_plan(), {}),
        (both, a_plan(**REMOTE, protocol="2026-07-28"), {}),
        (both, a_plan(**REMOTE, protocol="legacy"), {}),
        (both, a_plan(**REMOTE), {"relays": False}),
        (legacy, a_plan(**REMOTE), {}),
    ],
    ids=["stdio", "pinned to the newer", "pinned to the older", "no hosts", "a legacy server"],
)
async def test_there_is_one_session_where_there_is_one_era(script: Any, plan: Any, more: Any) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script(), plan, **{"relays": True, **more}).until_ready()
        before = asked(running)
        for is_modern in (True, False):
            assert running.session.taker(modern=is_modern) is running.session
            assert running.session.present_taker(modern=is_modern) is running.session
        await anyio.sleep(1000)
        assert (len(running.server.connections), asked(running)) == (1, before)
        running.session.stop()


@pytest.mark.parametrize("code", [-32022, -32601])
async def test_a_server_that_refuses_the_older_era_is_asked_once_and_is_not_at_fault(code: int) -> None:
    told: list[Any] = []
    hooks = Hooks(on_second=lambda *of_it: told.append(of_it))
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(initialize=lambda r: [error(r, code)]), hooks=hooks).until_ready()
        session = running.session
        for _ in range(3):
            assert await taker_of(session) is session
            await anyio.sleep(MAX_RETRY_SECS + 1)
        assert asked(running) == 1
        assert running.ended is None
        assert [(name, what) for name, what, _ in told] == [("x", "refused")]
        session.stop()


async def test_a_server_without_sessions_in_the_older_era_is_asked_in_the_newer_one() -> None:
    """It could ask nothing there; what it asks in the newer era is translated."""
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(tools__call=answered)).until_ready()
        running.server.in_session = False
        for _ in range(3):
            assert await taker_of(running.session) is running.session
            await anyio.sleep(MAX_RETRY_SECS + 1)
        assert asked(running) == 1
        running.session.stop()


def never(message: Message) -> list[Out]:
    return []


NOT_THERE: dict[str, Script] = {
    "silent": never,
    "an error": lambda r: [error(r, -32603, "busy")],
    "no result": lambda r: [result(r, {"nothing": 1})],
}


@pytest.mark.parametrize("how", list(NOT_THERE))
async def test_one_that_cannot_be_opened_is_waited_for_once_and_tried_again_ever_more_rarely(how: str) -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(initialize=NOT_THERE[how])).until_ready()
        session = running.session
        began = anyio.current_time()
        assert await taker_of(session) is session
        assert anyio.current_time() - began <= OPEN_SECS
        tries = 1
        for pause in (RETRY_SECS, 2 * RETRY_SECS, 4 * RETRY_SECS):
            await anyio.sleep(pause - 1)
            assert session.taker(modern=False) is session
            await anyio.sleep(1)
            assert asked(running) == tries
            assert session.taker(modern=False) is session, "nobody waits any more"
            tries += 1
            await session.wait_taker()
            assert asked(running) == tries
        assert running.ended is None
        assert all(connection.killed for connection in running.server.connections[1:])
        assert not running.server.connections[0].killed
        session.stop()


async def test_one_that_cannot_be_opened_costs_nothing_of_the_first() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(tools__call=answered)).until_ready()
        running.server.refuses = Ended(FailureKind.CONNECT_FAILED, "no route")
        call(await taker_of(running.session), caller := FakeCaller("a"))
        await anyio.sleep(1)
        assert [type(reply) for reply in caller.replies] == [Result]
        running.server.refuses = None
        await anyio.sleep(RETRY_SECS)
        assert running.session.taker(modern=False) is running.session
        await anyio.sleep(1)
        assert running.session.taker(modern=False) is not running.session
        running.session.stop()


async def test_once_the_login_works_it_is_tried_again_at_once() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        running.server.refuses = Ended(FailureKind.LOGIN_UNAVAILABLE, "no token")
        assert await taker_of(running.session) is running.session
        running.server.refuses = None
        assert await taker_of(running.session) is running.session
        running.session.let_in()
        assert await taker_of(running.session) is not running.session
        running.session.stop()


async def test_what_is_told_of_it_has_no_secret_and_is_one_line() -> None:
    told: list[str] = []
    hooks = Hooks(on_second=lambda server, what, words: told.append(words), scrub=lambda t: t.replace("s3cret", "***"))
    script = both(initialize=lambda r: [error(r, -32022, "not\nwith s3cret")])
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, script, hooks=hooks).until_ready()
        assert await taker_of(running.session) is running.session
        running.session.stop()
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(), hooks=hooks).until_ready()
        call(await taker_of(running.session), caller := FakeCaller("a"))
        second(running).end(Ended(FailureKind.DISCONNECTED, "with\ns3cret"))
        await anyio.sleep(1)
        told.append(caller.replies[0].error.message)  # type: ignore[union-attr]
        running.session.stop()
    assert len(told) == 4
    assert not any("s3cret" in words or "\n" in words for words in told), told


def second(running: Running) -> ScriptedConnection:
    return running.server.connections[-1]


async def test_when_it_is_lost_its_calls_fail_the_first_goes_on_and_the_next_need_opens_another() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        session = running.session
        call(await taker_of(session), old := FakeCaller("old"))
        call(session, new := FakeCaller("new"))
        second(running).end(Ended(FailureKind.DISCONNECTED, "is gone"))
        await anyio.sleep(1)
        (reply,) = old.replies
        assert isinstance(reply, Failed)
        assert isinstance(reply.error, ServerNotReady)
        assert "it is not sent again" in reply.error.message
        assert reply.error.state == "ready"
        assert new.replies == []
        assert running.ended is None
        await anyio.sleep(1000)
        assert asked(running) == 1, "nothing is opened that nobody needs"
        taker = await taker_of(session)
        assert taker is not session
        assert asked(running) == 2
        call(taker, old)
        assert running.server.sent[-1]["method"] == "tools/call"
        assert running.server.about[-1].version == "2025-11-25"
        assert len(running.server.asked("tools/call")) == 3, "nothing was sent twice"
        session.stop()


async def test_one_that_is_lost_again_and_again_is_opened_ever_more_rarely() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        session = running.session
        for _ in range(1000):
            if await taker_of(session) is not session:
                second(running).end(Ended(FailureKind.DISCONNECTED, "is gone"))
            await anyio.sleep(1)
        assert 2 <= asked(running) <= 6
        await anyio.sleep(MAX_RETRY_SECS)
        session.taker(modern=False)
        await anyio.sleep(LASTING_SECS + 1)
        assert session.taker(modern=False) is not session
        second(running).end(Ended(FailureKind.DISCONNECTED, "is gone"))
        await anyio.sleep(1)
        assert await taker_of(session) is not session, "it lasted, which forgives what was before"
        session.stop()


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("when", ["ready", "opening"])
async def test_it_ends_with_the_server_and_in_the_same_way(how: str, when: str) -> None:
    script = both() if when == "ready" else both(initialize=never)
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, script).until_ready()
        running.session.taker(modern=False)
        await anyio.sleep(1)
        assert len(running.server.connections) == 2
        second(running).lingers_secs = 1.5
        at = anyio.current_time()
        getattr(running.session, how)()
        await running.until_over()
        assert anyio.current_time() - at == 1.5
        gone = second(running)
        assert (gone.stopped, gone.killed) == ((1, 0) if how == "stop" else (0, 1))
        assert running.session.taker(modern=False) is running.session


async def test_it_ends_when_the_first_is_lost() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        call(await taker_of(running.session), caller := FakeCaller("a"))
        running.server.connections[0].end(Ended(FailureKind.DISCONNECTED, "is gone"))
        ended = await running.until_over()
        assert ended.message == "is gone"
        assert second(running).stopped == 1
        assert [type(reply) for reply in caller.replies] == [Failed]


async def test_a_run_that_is_cancelled_leaves_neither() -> None:
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as server:
            running = await remote(server, both()).until_ready()
            await taker_of(running.session)
            server.cancel_scope.cancel()
        assert [connection.killed > 0 for connection in running.server.connections] == [True, True]
        tasks.cancel_scope.cancel()


async def test_two_sessions_are_one_server_for_the_heartbeat() -> None:
    async with anyio.create_task_group() as tasks:
        limits = Limits(request_timeout_secs=100)
        running = await remote(tasks, both(), limits=limits).until_ready()
        taker = await taker_of(running.session)
        await anyio.sleep(50)
        now = anyio.current_time()
        assert running.session.pulse().busy_until < now
        call(taker, FakeCaller("a"))
        assert running.session.pulse().busy_until == now + 100
        assert running.session.facts().in_flight >= 1
        before = running.session.pulse().heard_at
        second(running).say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}})
        await anyio.sleep(1)
        assert running.session.pulse().heard_at > before
        pings = asked(running, "ping")
        running.session.probe()
        await anyio.sleep(1)
        assert asked(running, "ping") == pings, "the first answers for both"
        running.session.stop()


async def test_what_it_asks_goes_to_the_host_whose_call_is_under_way_there() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        call(running.session, new := FakeCaller("new"))
        call(await taker_of(running.session), old := FakeCaller("old"))
        second(running).say(ELICIT)
        await anyio.sleep(1)
        assert (len(old.questions), len(new.questions)) == (1, 0)
        old.questions[0].answer(b'{"action":"accept"}')
        assert running.server.sent[-1] == {"jsonrpc": "2.0", "id": 7, "result": {"action": "accept"}}
        second(running).say({**ELICIT, "method": "roots/list", "id": 8}, during=None)
        await anyio.sleep(1)
        assert (len(old.questions), len(new.questions)) == (2, 0)
        running.session.stop()


async def test_a_log_level_that_hosts_want_is_told_there_before_anything_is_asked() -> None:
    script = both(initialize=lambda r: [result(r, LOGS)], logging__setLevel=lambda r: [(1.0, result(r, {}))])
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, script).until_ready()
        running.session.want_log_level("debug")
        assert running.session.taken(Wish("level")) is True
        assert asked(running, "logging/setLevel") == 0
        call(await taker_of(running.session), FakeCaller("a"))
        assert [m["params"]["level"] for m in running.server.asked("logging/setLevel")] == ["debug"]
        running.session.want_log_level("error")
        assert running.session.taken(Wish("level")) is False
        with anyio.fail_after(2):
            await running.session.wait_taken()
        assert running.session.taken(Wish("level")) is True
        assert [m["params"]["level"] for m in running.server.asked("logging/setLevel")] == ["debug", "error"]
        running.session.stop()


async def test_news_of_lists_that_is_told_there_alone_is_read_by_the_first() -> None:
    changed: list[frozenset[Kind]] = []
    tools = ["t"]

    def listed(message: Message) -> list[Out]:
        return [result(message, {"tools": [{"name": name, "inputSchema": {}} for name in tools]})]

    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(tools__list=listed), on_lists_changed=changed.append).until_ready()
        await taker_of(running.session)
        tools.append("u")
        second(running).say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        await anyio.sleep(5)
        assert changed == [frozenset({Kind.TOOLS})]
        assert [item.name for item in running.session.items(Kind.TOOLS)] == ["t", "u"]
        of_lists = [a.version for a in running.server.about if a.method == "tools/list"]
        assert set(of_lists) == {"2026-07-28"}
        running.session.stop()


async def test_filters_hold_there_too_as_they_are_now() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        taker = await taker_of(running.session)
        call(taker, FakeCaller("a"))
        running.session.reconfigure(a_plan(**REMOTE, exclude_tools=("t",)))
        with pytest.raises(UsageError):
            call(taker, FakeCaller("a"))
        second(running).end(Ended(FailureKind.DISCONNECTED, "is gone"))
        await anyio.sleep(1)
        with pytest.raises(UsageError):
            call(await taker_of(running.session), FakeCaller("a"))
        running.session.stop()


async def test_a_tool_that_failed_for_its_era_is_called_in_the_other_from_then_on() -> None:
    def by_version(message: Message) -> Iterable[Out]:
        is_modern = "io.modelcontextprotocol/protocolVersion" in message["params"]["_meta"]
        tool = message["params"]["name"]
        if tool == "asks" and is_modern:
            return [error(message, -32600, f"Cannot send 'elicitation/create': {NO_CHANNEL}")]
        if tool == "returns" and not is_modern:
            return [error(message, -32603, "Handler returned an invalid result")]
        if tool == "broken":
            return [error(message, -32600, NO_CHANNEL) if is_modern else result(message, {"isError": True})]
        return answered(message)

    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both(tools__call=by_version)).until_ready()
        session = running.session

        async def told(tool: str, *, modern: bool) -> Any:
            call(await taker_of(session, modern=modern, tool=tool), caller := FakeCaller("a"), tool)
            await anyio.sleep(1)
            return caller.replies[0]

        for tool, is_modern in (("asks", True), ("returns", False)):
            assert "call it again" in (await told(tool, modern=is_modern)).hint
            for era in (True, False):
                assert isinstance(await told(tool, modern=era), Result)
        assert isinstance(await told("asks", modern=True), Result)
        assert await taker_of(session, modern=True, tool="other") is session
        assert len(session.facts().remarks) == 2
        session.stop()


async def test_where_the_other_era_cannot_be_had_the_key_is_named() -> None:
    script = both(
        initialize=lambda r: [error(r, -32022)],
        tools__call=lambda r: [error(r, -32600, NO_CHANNEL)],
    )
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, script).until_ready()
        hints = []
        for _ in range(3):
            call(await taker_of(running.session, modern=True, tool="t"), caller := FakeCaller("a"))
            await anyio.sleep(1)
            hints.append(getattr(caller.replies[0], "hint", ""))
        assert "call it again" in hints[0]
        assert 'protocol = "legacy"' in hints[1]
        assert hints[1:] == [hints[1]] * 2
        assert asked(running) == 1
        assert 'protocol = "legacy"' in json.dumps(running.session.facts().remarks).replace("\\", "")
        running.session.stop()


async def test_what_a_host_tells_goes_to_the_session_of_its_era_and_opens_none() -> None:
    async with anyio.create_task_group() as tasks:
        running = await remote(tasks, both()).until_ready()
        session = running.session
        assert session.present_taker(modern=False) is session
        await anyio.sleep(10)
        assert asked(running) == 0
        taker = await taker_of(session)
        assert session.present_taker(modern=False) is taker
        assert session.present_taker(modern=True) is session
        session.stop()
