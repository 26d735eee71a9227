from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from scripted_server import DISCOVERED, Message, Out, Running, a_plan, error, legacy, modern, result

from moltis.config.limits import Limits
from moltis.errors import RequestTimeout, ServerNotReady, UsageError
from moltis.server.states import FailureKind
from moltis.session.calls import ErrorReply, Failed, Reply, Result
from moltis.session.dialogue import MAX_IN_FLIGHT, CallHandle
from moltis.session.hooks import Hooks
from moltis.transport import Ended


def silent(message: Message) -> Iterable[Out]:
    return []


def failure(reply: Reply) -> Any:
    assert isinstance(reply, Failed)
    return reply.error


async def test_a_result_is_handed_on_byte_for_byte() -> None:
    raw = b'{ "content" : [ {"type":"text","text":"\\u00e9 1.0"} ],"isError":false, "content2": 1e2 }'
    async with anyio.create_task_group() as tasks:
        script = legacy(tools__call=lambda r: [b'{"result":%b,"jsonrpc":"2.0","id":%d}' % (raw, r["id"])])
        running = await Running(tasks, script).until_ready()
        running.session.call_tool("t", b'{"a": 1.0}', None, running.replies.append)
        assert await running.until_reply() == [Result(raw)]
        sent = running.server.raw[-1]
        assert b'"arguments":{"a": 1.0},' in sent
        running.session.stop()


async def test_an_error_is_handed_on_byte_for_byte() -> None:
    async with anyio.create_task_group() as tasks:
        raw = b'{"code":-32602, "message":"no such tool","data":[1]}'
        script = legacy(tools__call=lambda r: [b'{"jsonrpc":"2.0","id":%d,"error":%b}' % (r["id"], raw)])
        running = await Running(tasks, script).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        assert await running.until_reply() == [ErrorReply(raw)]
        running.session.stop()


async def test_replies_find_their_calls_in_any_order() -> None:
    async with anyio.create_task_group() as tasks:
        held: list[Message] = []
        running = await Running(tasks, legacy(tools__call=lambda r: held.append(r) or [])).until_ready()  # type: ignore[func-returns-value]
        got: dict[int, Reply] = {}
        for n in range(5):
            running.session.call_tool("t", b'{"n":%d}' % n, None, functools.partial(got.__setitem__, n))
        running.server.connection.say(*(result(r, {"n": r["params"]["arguments"]["n"]}) for r in reversed(held)))
        await anyio.sleep(1)
        assert got == {n: Result(b'{"n": %d}' % n) for n in range(5)}
        running.session.stop()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'"result":null', "it is null, and not an object"),
        (b'"result":"done"', "it is a text"),
        (b'"result":[1]', "it is a list"),
        (b'"result": 3', "it is a number"),
        (b'"result":true', "it is true"),
        (b'"error":null', "neither result nor error"),
        (b'"error":null,"result":null', "it is null"),
    ],
)
async def test_a_reply_that_is_no_result_of_mcp_is_an_error_in_words_at_once(body: bytes, told: str) -> None:
    """Hosts drop such a reply, and wait on for one."""
    async with anyio.create_task_group() as tasks:
        script = legacy(tools__call=lambda r: [b'{"jsonrpc":"2.0","id":%d,%b}' % (r["id"], body)])
        running = await Running(tasks, script).until_ready()
        began = anyio.current_time()
        running.session.call_tool("t", None, None, running.replies.append)
        (reply,) = await running.until_reply()
        assert isinstance(reply, ErrorReply)
        assert told in reply.raw.decode()
        assert anyio.current_time() - began < 1
        running.session.stop()


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":%d,"result":{"x":NaN}}',
        b'{"result":{"x":[1,Infinity]},"jsonrpc":"2.0","id":%d}',
        b'{"jsonrpc": "2.0", "id": "%d", "error": {"code": 1, "message": "a\x07"}}',
        b'{"jsonrpc":"2.0","id":%d,"result":{}},',
        b'{"jsonrpc":"2.0","id":%d,"result":{"content":[',
    ],
)
async def test_a_reply_that_is_no_json_fails_its_call_at_once_and_no_other(line: bytes) -> None:
    async with anyio.create_task_group() as tasks:
        held: list[Message] = []
        running = await Running(tasks, legacy(tools__call=lambda r: held.append(r) or [])).until_ready()  # type: ignore[func-returns-value]
        running.session.call_tool("t", None, None, running.replies.append)
        other: list[Reply] = []
        running.session.call_tool("t", None, None, other.append)
        began = anyio.current_time()
        running.server.connection.say(line % held[0]["id"])
        (reply,) = await running.until_reply()
        assert "answered tools/call with something that is not JSON" in str(failure(reply))
        assert anyio.current_time() - began < 1
        assert other == []
        running.server.connection.say(result(held[1], {}))
        await anyio.sleep(1)
        assert other == [Result(b"{}")]
        running.session.stop()


@pytest.mark.parametrize(
    "line",
    [
        b'{"level":30,"id":%d,"result":NaN}',
        b'{"jsonrpc":"2.0","method":"notifications/message","params":{"id":%d,"x":NaN}}',
        b'[debug] {"jsonrpc":"2.0","id":%d,"result":{}}',
        b'{"id":%d,"error":"oh"} sent',
    ],
)
async def test_a_line_that_is_no_json_and_need_be_no_reply_fails_nothing(line: bytes) -> None:
    async with anyio.create_task_group() as tasks:
        held: list[Message] = []
        running = await Running(tasks, legacy(tools__call=lambda r: held.append(r) or [])).until_ready()  # type: ignore[func-returns-value]
        running.session.call_tool("t", None, None, running.replies.append)
        running.server.connection.say(line % held[0]["id"])
        await anyio.sleep(1)
        assert running.replies == []
        running.server.connection.say(result(held[0], {}))
        assert await running.until_reply() == [Result(b"{}")]
        running.session.stop()


async def test_every_modern_request_says_who_it_is_from() -> None:
    async with anyio.create_task_group() as tasks:
        script = modern("t", tools__call=lambda r: [result(r, {})])
        running = await Running(tasks, script, a_plan(transport="streamable-http")).until_ready()
        running.session.call_tool("t", b"{}", None, running.replies.append)
        running.session.probe()
        running.session.read_resource("a:b", None, running.replies.append)
        running.session.get_prompt("p", None, None, running.replies.append)
        await running.until_reply(3)
        for message in running.server.sent:
            if "id" in message:
                assert message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28", message
        running.session.stop()


async def test_a_call_without_reply_times_out_and_is_cancelled_upstream() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        began = anyio.current_time()
        handle = running.session.call_tool("t", None, None, running.replies.append)
        assert isinstance(handle, CallHandle)
        (reply,) = await running.until_reply()
        assert anyio.current_time() - began == pytest.approx(30, abs=0.1)
        assert isinstance(failure(reply), RequestTimeout)
        assert "neither a reply nor progress for 30 s" in str(failure(reply))
        (cancelled,) = running.server.asked("notifications/cancelled")
        assert cancelled["params"]["requestId"] == handle.id
        running.session.stop()


@pytest.mark.parametrize("secs", [31.0, 100.0, 100_000.0])
async def test_the_time_in_which_this_program_stood_still_is_not_the_servers(anyio_backend: Any, secs: float) -> None:
    """Its reply may lie in the pipe, unread; and it may have stood still too."""
    clock = anyio_backend[1]["clock"]
    async with anyio.create_task_group() as tasks:
        held: list[Message] = []
        running = await Running(tasks, legacy(tools__call=lambda r: held.append(r) or [])).until_ready()  # type: ignore[func-returns-value]
        running.session.call_tool("t", None, None, running.replies.append)
        other: list[Reply] = []
        running.session.call_tool("t", None, None, other.append)
        await anyio.sleep(1)
        clock.jump(secs)
        began = anyio.current_time()
        await anyio.sleep(0.5)
        assert (running.replies, other) == ([], [])
        running.server.connection.say(result(held[0], {}))
        assert await running.until_reply() == [Result(b"{}")]
        await anyio.sleep(30.2 - (anyio.current_time() - began))
        assert isinstance(failure(other[0]), RequestTimeout)
        running.session.stop()


async def test_a_timeout_tells_of_lines_that_were_no_json_and_may_have_been_the_reply() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        receive = running.session._dialogue.receive
        receive(b"listening on stdio")  # before the call: not about it
        await anyio.sleep(1)
        running.session.call_tool("t", None, None, running.replies.append)
        await anyio.sleep(1)
        receive(b'{"jsonrpc":"2.0","id":2,"result":{"x":NaN}}')
        receive(b"Traceback (most recent call last):")
        receive(b'{"level":"info"}')  # JSON, though no message
        (reply,) = await running.until_reply()
        told = "neither a reply nor progress for 30 s; it wrote 2 lines meanwhile that are not JSON"
        assert told in str(failure(reply))
        running.session.call_tool("t", None, None, running.replies.append)
        *_, late = await running.until_reply(2)
        assert str(failure(late)).endswith("progress for 30 s")
        running.session.stop()


async def test_a_reply_that_comes_too_late_is_dropped_and_counted() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=lambda r: [(31, result(r, {}))])).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        await running.until_reply()
        await anyio.sleep(10)
        assert len(running.replies) == 1
        assert running.session.facts().counters.late_replies == 1
        running.session.stop()


def progressing(every: float, times: int, done_after: float | None = None) -> Any:
    def script(request: Message) -> Iterable[Out]:
        token = request["params"]["_meta"]["progressToken"]
        params = {"progressToken": token, "progress": 1}
        for n in range(1, times + 1):
            yield (n * every, {"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        if done_after is not None:
            yield (done_after, result(request, {}))

    return script


@pytest.mark.parametrize("era", [legacy, modern])
async def test_progress_keeps_a_call_alive(era: Any) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, era(tools__call=progressing(20, 10, 210))).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        assert await running.until_reply() == [Result(b"{}")]
        running.session.stop()


async def test_a_call_is_given_up_once_progress_stops() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=progressing(20, 3))).until_ready()
        began = anyio.current_time()
        running.session.call_tool("t", None, None, running.replies.append)
        await running.until_reply()
        assert anyio.current_time() - began == pytest.approx(90, abs=0.1)
        running.session.stop()


async def test_no_progress_moves_the_cap() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=progressing(20, 100))).until_ready()
        began = anyio.current_time()
        running.session.call_tool("t", None, None, running.replies.append)
        (reply,) = await running.until_reply()
        assert anyio.current_time() - began == pytest.approx(600, abs=0.1)
        assert "not done after 600 s" in str(failure(reply))
        running.session.stop()


async def test_a_call_may_bring_its_own_timeout() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        began = anyio.current_time()
        ends: dict[float, float] = {}

        def end(secs: float, reply: Reply) -> None:
            ends[secs] = anyio.current_time() - began

        for secs in (900.0, 2.0, 50.0):
            running.session.call_tool("t", None, secs, functools.partial(end, secs))
        await anyio.sleep(1000)
        assert ends == {2.0: pytest.approx(2), 50.0: pytest.approx(50), 900.0: pytest.approx(900)}
        running.session.stop()


async def test_new_limits_and_filters_hold_from_the_next_call_on() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("get_a", "set_a", tools__call=silent)).until_ready()
        assert running.session.facts().tool_count == 2
        running.session.reconfigure(a_plan(limits=Limits(request_timeout_secs=3), include_tools=("get_*",)))
        assert running.session.facts().tool_count == 1
        began = anyio.current_time()
        running.session.call_tool("get_a", None, None, running.replies.append)
        await running.until_reply()
        assert anyio.current_time() - began == pytest.approx(3, abs=0.1)
        with pytest.raises(UsageError, match="'set_a' of server 'x' is switched off"):
            running.session.call_tool("set_a", None, None, running.replies.append)
        running.session.stop()


async def test_a_cancelled_call_is_cancelled_upstream_and_its_callback_left_alone() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=lambda r: [(5, result(r, {}))])).until_ready()
        handle = running.session.call_tool("t", None, None, running.replies.append)
        assert isinstance(handle, CallHandle)
        handle.cancel("changed my mind")
        handle.cancel()
        await anyio.sleep(10)
        assert running.replies == []
        assert [m["params"] for m in running.server.asked("notifications/cancelled")] == [
            {"requestId": handle.id, "reason": "changed my mind"}
        ]
        running.session.stop()


async def test_an_awaited_request_that_is_cancelled_is_cancelled_upstream() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        with anyio.move_on_after(1):
            await running.session.request("tools/call", b'{"name":"t"}')
        assert len(running.server.asked("notifications/cancelled")) == 1
        assert running.session.facts().in_flight == 0
        assert await running.session.request("ping") == Result(b"{}")
        running.session.stop()


async def test_a_call_in_flight_does_not_wait_until_what_its_server_left_behind_is_gone() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        running.server.connection.lingers_secs = 2.0
        dies_at = anyio.current_time()
        running.server.connection.end(Ended(FailureKind.EXITED, "exited with code 3", 3))
        await running.until_reply()
        assert anyio.current_time() == dies_at


async def test_calls_in_flight_fail_at_once_with_how_the_server_ended() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        for _ in range(3):
            running.session.call_tool("t", None, None, running.replies.append)
        began = anyio.current_time()
        running.server.connection.end(Ended(FailureKind.EXITED, "exited with code 3", 3, ("noise", "panic: no disk")))
        ended = await running.until_over()
        assert anyio.current_time() == began
        assert ended.exit_code == 3
        assert len(running.replies) == 3
        fault = failure(running.replies[0])
        assert isinstance(fault, ServerNotReady)
        assert "server 'x' exited with code 3 while the call was running; it is not sent again" in str(fault)
        assert "noise | panic: no disk" in str(fault)
        with pytest.raises(ServerNotReady):
            running.session.call_tool("t", None, None, running.replies.append)


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (Ended(FailureKind.EXITED, "", -9), "was killed by SIGKILL"),
        (Ended(FailureKind.EXITED, "", -77), "was killed by signal 77"),
        (Ended(FailureKind.DISCONNECTED, "it closed its output"), "ended (it closed its output)"),
        (Ended(FailureKind.WRITE_STALLED, "read nothing for 30 s", -15), "ended (read nothing for 30 s)"),
        (
            Ended(FailureKind.EXITED, "", 1, ("FATAL: no disk", *["    at x (y.js:1:2)"] * 9)),
            "Its last words: FATAL: no disk |",
        ),
    ],
)
async def test_the_end_is_told_in_words(ended: Ended, words: str) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        running.server.connection.end(ended)
        await running.until_over()
        assert words in str(failure(running.replies[0]))


async def test_a_server_that_was_stopped_is_not_said_to_have_exited() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        running.session.stop()
        await running.until_over()
        assert "server 'x' was stopped while the call was running; it is not sent again" in str(
            failure(running.replies[0])
        )


async def test_a_server_is_not_given_more_calls_than_it_may_have_in_flight() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent)).until_ready()
        for _ in range(MAX_IN_FLIGHT):
            running.session.call_tool("t", None, None, running.replies.append)
        with pytest.raises(ServerNotReady, match="already has 1024 requests without a reply"):
            running.session.call_tool("t", None, None, running.replies.append)
        running.session.probe()
        await anyio.sleep(1)
        assert running.heard.events[-1][0] == "alive"
        running.session.stop()
        await running.until_over()
        assert len(running.replies) == MAX_IN_FLIGHT


async def test_each_tool_call_is_reported_with_its_outcome() -> None:
    calls: list[tuple[Any, ...]] = []

    def answer(request: Message) -> Iterable[Out]:
        how = request["params"]["name"]
        if how == "ok":
            return [(2, result(request, {}))]
        if how == "tool_error":
            return [result(request, {"content": [], "isError": True})]
        return [error(request, 1)] if how == "error" else []

    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_call=lambda *call: calls.append(call))
        running = await Running(tasks, legacy(tools__call=answer), hooks=hooks).until_ready()
        for tool in ("ok", "tool_error", "error", "timeout"):
            running.session.call_tool(tool, None, None, running.replies.append)
        running.session.call_tool("cancelled", None, None, running.replies.append).cancel()
        await running.until_reply(4)
        running.session.call_tool("lost", None, None, running.replies.append)
        running.session.kill()
        await running.until_over()
    told = {tool: (server, millis, outcome) for server, tool, millis, outcome, _ in calls}
    assert {host for *_, host in calls} == {None}, "what is called over the control socket is no host's"
    assert {tool: outcome for tool, (_, _, outcome) in told.items()} == {
        t: t for t in ("ok", "tool_error", "error", "timeout", "cancelled", "lost")
    }
    assert told["ok"][:2] == ("x", pytest.approx(2000))


async def test_a_result_too_deep_to_be_parsed_is_an_error_at_once_and_no_timeout() -> None:
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    async with anyio.create_task_group() as tasks:
        script = legacy(tools__call=lambda r: [b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (r["id"], deep)])
        running = await Running(tasks, script).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        began = anyio.current_time()
        [reply] = await running.until_reply()
        assert isinstance(reply, ErrorReply)
        assert b"nested too deeply" in reply.raw
        assert anyio.current_time() - began < 1
        running.session.stop()


async def test_whoever_can_make_nothing_of_a_reply_is_told_that_there_is_none() -> None:
    got: list[Reply] = []

    def take(reply: Reply) -> None:
        got.append(reply)
        if not isinstance(reply, Failed):
            raise RecursionError

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=lambda r: [result(r, {})])).until_ready()
        running.session.call_tool("t", None, None, take)
        await anyio.sleep(1)
        assert [type(reply) for reply in got] == [Result, Failed]
        assert failure(got[1]).kind == "internal"
        running.session.stop()


async def test_a_callback_that_raises_harms_nobody_else() -> None:
    faults: list[Exception] = []

    def broken(reply: Reply) -> None:
        raise RuntimeError("mine")

    async with anyio.create_task_group() as tasks:
        script = legacy(tools__call=lambda r: [result(r, {})])
        running = await Running(tasks, script, hooks=Hooks(on_fault=faults.append)).until_ready()
        running.session.call_tool("t", None, None, broken)
        running.session.call_tool("t", None, None, running.replies.append)
        await running.until_reply()
        assert [str(f) for f in faults] == ["mine", "mine"], (
            "once for the reply, and once for what is said in its place"
        )
        running.session.stop()


async def test_a_server_that_asks_gets_an_answer() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy()).until_ready()
        running.server.connection.say(
            {"jsonrpc": "2.0", "id": "a", "method": "ping"},
            {"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}},
            {"jsonrpc": "2.0", "id": 2, "method": "roots/list"},
        )
        await anyio.sleep(1)
        assert running.server.sent[-3:] == [
            {"jsonrpc": "2.0", "id": "a", "result": {}},
            {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "Method not found"}},
            {"jsonrpc": "2.0", "id": 2, "error": {"code": -32601, "message": "Method not found"}},
        ]
        running.session.stop()


async def test_a_server_that_asks_without_end_is_answered_within_limits() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy()).until_ready()
        before = len(running.server.sent)
        running.server.connection.say(*({"jsonrpc": "2.0", "id": n, "method": "ping"} for n in range(1000)))
        await anyio.sleep(1)
        assert len(running.server.sent) - before == 200
        assert running.session.facts().counters.unanswered_requests == 800
        running.session.stop()


async def test_garbage_is_counted_and_shown_to_the_debug_log_only_in_part() -> None:
    seen: list[tuple[str, str]] = []
    hooks = Hooks(on_garbage=lambda *g: seen.append(g), scrub=lambda s: s.replace("hunter2", "[REDACTED]"))
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=lambda r: [result(r, {})]), hooks=hooks).until_ready()
        running.server.connection.say(
            b"hello, my password is hunter2" + b"!" * 1000,
            *[b"\xff\xfe"] * 50,
            b"[" * 100_000,
            {"jsonrpc": "2.0", "id": 9999, "result": {}},
            {"jsonrpc": "2.0", "id": "who", "result": {}},
            {"jsonrpc": "2.0", "method": "notifications/progress"},
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 99}},
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": []},
            {"jsonrpc": "2.0", "method": "notifications/unheard_of"},
        )
        running.session.call_tool("t", None, None, running.replies.append)
        assert await running.until_reply() == [Result(b"{}")]
        counters = running.session.facts().counters
        assert (counters.garbage, counters.late_replies) == (52, 2)
        assert len(seen) == 5
        assert seen[0][1].startswith("hello, my password is [REDACTED]!")
        assert all(len(sample) <= 200 for _, sample in seen)
        running.session.stop()


async def test_a_heartbeat_tells_how_long_its_answer_took() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(ping=lambda r: [(0.25, result(r, {}))])).until_ready()
        running.session.probe()
        await anyio.sleep(1)
        assert running.heard.events[2:] == [("alive", pytest.approx(0.25))]
        running.session.stop()


async def test_the_modern_heartbeat_is_discover_and_an_error_is_life_too() -> None:
    asked: list[Message] = []

    def discover(request: Message) -> Iterable[Out]:
        asked.append(request)
        return [result(request, DISCOVERED)] if len(asked) == 1 else [error(request, -32000)]

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, modern(server__discover=discover)).until_ready()
        await anyio.sleep(1)
        running.session.probe()
        await anyio.sleep(1)
        assert len(asked) == 2
        assert running.heard.events[2:] == [("alive", pytest.approx(0))]
        running.session.stop()


async def test_only_its_own_answer_says_how_long_a_heartbeat_took() -> None:
    """A server busy with a call may leave the heartbeat for later; the reply to the call is life all the same."""
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(ping=silent, tools__call=lambda r: [(3, result(r, {}))])).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        running.session.probe()
        await anyio.sleep(10)
        assert running.heard.events[2:] == []
        assert running.session.pulse().heard_at == anyio.current_time() - 7
        running.session.stop()


async def test_unanswered_heartbeats_do_not_pile_up() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(ping=silent)).until_ready()
        for _ in range(100):
            running.session.probe()
        assert running.session.facts().in_flight == 16
        assert running.server.asked("notifications/cancelled") == []
        running.session.stop()
