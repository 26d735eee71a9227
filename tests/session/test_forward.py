"""Requests that are passed on for hosts: as they came, under our id and token, in the server's era."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from scripted_host import FakeCaller, begin, note, quiet, raw, reply_to, silent
from scripted_server import INITIALIZED, Running, Script, a_plan, error, legacy, modern, result
from test_session_remote import MIRRORED

from moltis.config.limits import Limits
from moltis.errors import RequestTimeout, ServerNotReady, UsageError
from moltis.server.states import FailureKind
from moltis.server.status import HostSeen
from moltis.session.calls import ErrorReply, Failed, Result
from moltis.session.dialogue import MAX_IN_FLIGHT
from moltis.session.hooks import Hooks
from moltis.session.listing import Kind
from moltis.session.passing import Passing
from moltis.transport import Ended

P = "io.modelcontextprotocol/"
OF_A_MODERN_HOST = raw(
    **{
        P + "protocolVersion": "2026-07-28",
        P + "clientInfo": {"name": "host", "version": "3"},
        P + "clientCapabilities": {"sampling": {}},
        P + "logLevel": "info",
        "traceparent": "00-1",
        "progressToken": "theirs",
    }
)


# --- the message


def test_members_are_passed_on_byte_for_byte_in_their_order() -> None:
    params = {"name": Raw(b'"t"'), "arguments": Raw(b'{ "b":1.0,"a":"\\u00e9",  "n":1e2}')}
    sent = Passing("2025-11-25", b"{}", modern=False).request(7, "tools/call", params, {})
    assert sent == (
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":'
        b'{"name":"t","arguments":{ "b":1.0,"a":"\\u00e9",  "n":1e2},"_meta":{"progressToken":7}}}'
    )


def test_a_legacy_server_sees_nothing_of_the_newer_era_in_meta_and_all_the_rest() -> None:
    sent = json.loads(Passing("2025-11-25", b"{}", modern=False).request(7, "x", {}, OF_A_MODERN_HOST))
    assert sent["params"] == {"_meta": {"traceparent": "00-1", "progressToken": 7}}


def test_a_modern_server_sees_the_host_that_asks_under_the_revision_agreed_on() -> None:
    meta = {**OF_A_MODERN_HOST, **raw(**{P + "protocolVersion": "2030-01-01"})}
    sent = json.loads(Passing("2026-07-28", b'{"name":"us"}', modern=True).request(7, "x", {}, meta))
    assert sent["params"]["_meta"] == {
        P + "protocolVersion": "2026-07-28",
        P + "clientInfo": {"name": "host", "version": "3"},
        P + "clientCapabilities": {"sampling": {}},
        P + "logLevel": "info",
        "traceparent": "00-1",
        "progressToken": 7,
    }


def test_a_modern_server_is_not_told_of_what_is_not_to_be_declared_to_it() -> None:
    meta = {**OF_A_MODERN_HOST, **raw(**{P + "clientCapabilities": {"sampling": {}, "elicitation": {"form": {}}}})}
    passing = Passing("2026-07-28", b"{}", modern=True, undeclared=frozenset({"elicitation", "roots"}))
    sent = json.loads(passing.request(7, "x", {}, meta))["params"]["_meta"]
    assert sent[P + "clientCapabilities"] == {"sampling": {}}
    assert sent[P + "logLevel"] == "info"
    assert json.loads(bytes(meta[P + "clientCapabilities"])) == {"sampling": {}, "elicitation": {"form": {}}}


@pytest.mark.parametrize("declared", [5, [], None, "x"])
def test_capabilities_that_are_no_object_are_none_where_some_are_not_to_be_declared(declared: object) -> None:
    meta = {**OF_A_MODERN_HOST, **raw(**{P + "clientCapabilities": declared})}
    passing = Passing("2026-07-28", b"{}", modern=True, undeclared=frozenset({"elicitation"}))
    assert json.loads(passing.request(7, "x", {}, meta))["params"]["_meta"][P + "clientCapabilities"] == {}


def test_a_modern_request_of_nobody_in_particular_is_ours() -> None:
    sent = json.loads(Passing("2026-07-28", b'{"name":"us"}', modern=True).request(7, "x", {}, {}))
    assert sent["params"]["_meta"][P + "clientInfo"] == {"name": "us"}
    assert sent["params"]["_meta"][P + "clientCapabilities"] == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(max_size=8).filter(lambda name: name != "_meta")


@given(st.text(), st.dictionaries(NAMES, JSON), st.dictionaries(st.text(), JSON), st.booleans(), st.booleans())
def test_whatever_is_passed_on_stays_what_it_was_on_one_line(
    method: str, params: dict[str, Any], meta: dict[str, Any], modern: bool, pretty: bool
) -> None:
    def as_sent(members: dict[str, Any]) -> dict[str, Raw]:
        return {k: Raw(json.dumps(v, indent=1 if pretty else None).encode()) for k, v in members.items()}

    given_params, given_meta = as_sent(params), as_sent(meta)
    sent = Passing("v", b'{"name":"us"}', modern=modern).request(3, method, given_params, given_meta)
    assert b"\n" not in sent
    got = json.loads(sent)
    got_meta = got["params"].pop("_meta")
    assert got == {"jsonrpc": "2.0", "id": 3, "method": method, "params": params}
    assert got_meta.pop("progressToken") == 3
    for name, value in meta.items():
        if name != "progressToken" and not name.startswith(P):
            assert got_meta[name] == value
    assert given_params == as_sent(params), "what was handed in is left as it was"
    assert given_meta == as_sent(meta)


# --- the session


async def test_the_result_of_a_request_comes_back_byte_for_byte() -> None:
    payload = b'{ "content" : [ {"type":"text","text":"\\u00e9 1.0"} ],"isError":false}'
    script = legacy(tools__call=lambda r: [b'{"result":%b,"jsonrpc":"2.0","id":%d}' % (payload, r["id"])])
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        begin(running, caller := FakeCaller("a"))
        await anyio.sleep(1)
        assert caller.replies == [Result(payload)]
        running.session.stop()


async def test_an_input_required_result_is_passed_on_though_questions_are_answered_by_defaults_here() -> None:
    """The host has said what it can be asked; defaults are for those who have not."""
    asks = {"resultType": "input_required", "requestState": "s"}
    async with anyio.create_task_group() as tasks:
        script = modern("t", tools__call=lambda r: [result(r, asks)])
        running = await Running(tasks, script, a_plan(elicitation="defaults")).until_ready()
        begin(running, caller := FakeCaller("a"))
        await anyio.sleep(1)
        (reply,) = caller.replies
        assert isinstance(reply, Result)
        assert json.loads(reply.raw) == asks
        running.session.stop()


async def test_any_method_is_passed_on() -> None:
    async with anyio.create_task_group() as tasks:
        script = legacy("t", vendor__y=lambda r: [result(r, r["params"]["ref"])])
        running = await Running(tasks, script).until_ready()
        caller = FakeCaller("a")
        running.session.forward("vendor/y", raw(ref=[1]), {}, caller.replies.append, caller=caller)
        running.session.forward("vendor/x", {}, {}, caller.replies.append, caller=caller)
        await anyio.sleep(1)
        assert caller.replies[0] == Result(b"[1]")
        assert isinstance(caller.replies[1], ErrorReply)
        running.session.stop()


async def test_progress_goes_to_the_call_it_is_about_and_gives_it_time() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), a_plan(limits=Limits(request_timeout_secs=10))).until_ready()
        one, other = FakeCaller("a"), FakeCaller("b")
        begin(running, one)
        handle = begin(running, other)
        for _ in range(3):
            await anyio.sleep(6)
            running.server.connection.say(note("notifications/progress", progressToken=handle.id, progress=0.5))
        await anyio.sleep(5)
        assert isinstance(one.replies[0], Failed)
        assert isinstance(one.replies[0].error, RequestTimeout)
        assert one.progress == []
        assert [json.loads(p)["progress"] for p in other.progress] == [0.5] * 3
        assert other.replies == []
        running.session.stop()


async def test_a_cancelled_request_is_cancelled_upstream_and_its_outcome_not_delivered() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet()).until_ready()
        handle = begin(running, caller := FakeCaller("a"))
        handle.cancel("the person pressed Esc")
        handle.cancel()
        running.server.connection.say(reply_to(handle))
        await anyio.sleep(1)
        assert caller.replies == []
        (told,) = running.server.asked("notifications/cancelled")
        assert told["params"] == {"requestId": handle.id, "reason": "the person pressed Esc"}
        running.session.stop()


async def test_a_server_that_dies_fails_what_was_passed_on() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet()).until_ready()
        begin(running, caller := FakeCaller("a"))
        running.server.connection.end(Ended(FailureKind.EXITED, "exited with code 1", 1))
        await running.until_over()
        (reply,) = caller.replies
        assert isinstance(reply, Failed)
        assert isinstance(reply.error, ServerNotReady)
        with pytest.raises(ServerNotReady):
            begin(running, caller)


async def test_a_tool_that_is_filtered_out_is_not_called() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("a", "b"), a_plan(exclude_tools=("b",))).until_ready()
        with pytest.raises(UsageError, match="switched off"):
            begin(running, FakeCaller("a"), "b")
        assert running.server.asked("tools/call") == []
        assert [item.name for item in running.session.items(Kind.TOOLS)] == ["a"]
        assert [item.name for item in running.session.listed_all(Kind.TOOLS)] == ["a", "b"]
        running.session.stop()


async def test_a_server_has_no_more_than_so_many_unanswered_requests() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet()).until_ready()
        caller = FakeCaller("a")
        for _ in range(MAX_IN_FLIGHT):
            begin(running, caller)
        with pytest.raises(ServerNotReady, match="without a reply"):
            begin(running, caller)
        running.session.stop()


async def test_calls_of_tools_are_reported_with_their_outcome() -> None:
    seen: list[tuple[Any, ...]] = []
    failed = {"isError": True}
    outcomes: Iterator[Script] = iter(
        [lambda r: [result(r, {})], lambda r: [result(r, failed)], lambda r: [error(r, -1)], silent]
    )
    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_call=lambda *call: seen.append(call))
        running = await Running(tasks, legacy("t", tools__call=lambda r: next(outcomes)(r)), hooks=hooks).until_ready()
        caller = FakeCaller("a")
        caller.seen = HostSeen("a", "1", "legacy")
        begin(running, caller)
        begin(running, caller)
        begin(running, caller)
        begin(running, caller).cancel()
        running.session.forward("prompts/get", {}, {}, caller.replies.append, caller=caller, name="p")
        await anyio.sleep(1)
        assert {host for *_, host in seen} == {caller.seen}
        assert [(server, tool, outcome) for server, tool, _, outcome, _ in seen] == [
            ("x", "t", "cancelled"),
            ("x", "t", "ok"),
            ("x", "t", "tool_error"),
            ("x", "t", "error"),
        ]
        running.session.stop()


async def test_a_remote_server_is_told_in_headers_what_a_request_is_about_and_what_its_tool_wants_there() -> None:
    listed = lambda r: [result(r, {"tools": [MIRRORED]})]  # noqa: E731
    async with anyio.create_task_group() as tasks:
        script = modern(tools__list=listed, tools__call=silent)
        running = await Running(tasks, script, a_plan(transport="streamable-http")).until_ready()
        caller = FakeCaller("a")
        params = raw(name="sql", arguments={"region": "eu", "n": 1})
        running.session.forward("tools/call", params, {}, caller.replies.append, caller=caller, name="sql", tool="sql")
        about = running.server.about[-1]
        assert (about.method, about.name, about.version) == ("tools/call", "sql", "2026-07-28")
        assert about.mirrored == (("Mcp-Param-Region", "eu"),)
        running.session.stop()


async def test_what_a_server_said_of_itself_is_known_once_there_is_an_agreement() -> None:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, legacy("t"))
        with pytest.raises(ServerNotReady):
            _ = running.session.agreed
        await running.until_ready()
        assert running.session.agreed.capabilities == INITIALIZED["capabilities"]
        running.session.stop()


# --- what is said unasked


async def test_a_log_message_goes_to_the_host_whose_call_is_the_only_one() -> None:
    everybody: list[Any] = []
    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_notification=lambda *told: everybody.append(told))
        running = await Running(tasks, quiet(), hooks=hooks).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(note(level="info", data="x"))
        await anyio.sleep(1)
        assert [(method, json.loads(params)) for method, params in caller.notes] == [
            ("notifications/message", {"level": "info", "data": "x"})
        ]
        assert everybody == []
        running.session.stop()


async def test_a_log_message_that_may_be_of_either_of_two_hosts_is_dropped_and_counted() -> None:
    everybody: list[Any] = []
    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_notification=lambda *told: everybody.append(told))
        running = await Running(tasks, quiet(), hooks=hooks).until_ready()
        one, other = FakeCaller("a"), FakeCaller("b")
        begin(running, one)
        handle = begin(running, other)
        running.server.connection.say(note(level="info", data="x"))
        running.server.connection.say(note(level="info", data="y"), during=handle.id)
        running.server.connection.say(note(level="info", data="z"), during=99)
        await anyio.sleep(1)
        assert one.notes == everybody == []
        assert [json.loads(params)["data"] for _, params in other.notes] == ["y"]
        assert running.session.facts().counters.unattributed == 2
        running.session.stop()


async def test_what_a_call_logs_after_it_was_given_up_is_told_to_nobody() -> None:
    everybody: list[Any] = []
    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_notification=lambda *told: everybody.append(told))
        running = await Running(tasks, quiet(), hooks=hooks).until_ready()
        caller = FakeCaller("a")
        begin(running, caller).cancel()
        running.server.connection.say(note(level="info", data="x"))
        await anyio.sleep(1)
        assert caller.notes == everybody == []
        running.session.stop()


@pytest.mark.parametrize(
    "method",
    [
        "notifications/message",
        "notifications/resources/updated",
        "notifications/elicitation/complete",
        "notifications/vendor/thing",
    ],
)
async def test_with_no_call_under_way_whatever_is_said_is_said_to_all(method: str) -> None:
    everybody: list[Any] = []
    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_notification=lambda *told: everybody.append(told))
        running = await Running(tasks, quiet(), hooks=hooks).until_ready()
        running.server.connection.say(note(method, uri="a:b"))
        await anyio.sleep(1)
        assert everybody == [("x", method, b'{"uri": "a:b"}')]
        running.session.stop()


async def test_what_is_about_the_server_is_said_to_all_even_on_the_answer_to_a_call() -> None:
    everybody: list[Any] = []
    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_notification=lambda *told: everybody.append(told))
        running = await Running(tasks, quiet(), hooks=hooks).until_ready()
        caller = FakeCaller("a")
        handle = begin(running, caller)
        running.server.connection.say(
            note("notifications/resources/updated", uri="a:b"), note("notifications/vendor/thing"), during=handle.id
        )
        await anyio.sleep(1)
        assert [method for _, method, _ in everybody] == ["notifications/resources/updated"]
        assert [method for method, _ in caller.notes] == ["notifications/vendor/thing"]
        running.session.stop()


@pytest.mark.parametrize("script", [quiet(), modern("t")], ids=["legacy", "modern"])
async def test_a_notification_is_passed_on_to_servers_of_either_era(script: Any) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        running.session.tell("vendor/said", b'{"x":1}')
        assert [message["params"] for message in running.server.asked("vendor/said")] == [{"x": 1}]
        running.session.stop()
