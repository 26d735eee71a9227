"""What a session does for the sake of transports that say more outside of a message, and answers when it is asked."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from scripted_server import Message, Replies, Running, a_plan, error, legacy, modern, result, tool

from moltis.errors import LoginNeeded, ServerNotReady
from moltis.server.states import FailureKind
from moltis.session.calls import Failed, Result
from moltis.session.listing import Kind
from moltis.session.requests import MAX_ROUNDS
from moltis.transport import Ended

QUESTION = {
    "method": "elicitation/create",
    "params": {
        "mode": "form",
        "message": "Name?",
        "requestedSchema": {
            "type": "object",
            "properties": {"name": {"type": "string", "default": "moltis"}},
            "required": ["name"],
        },
    },
}
MIRRORED = {
    "name": "sql",
    "inputSchema": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer"}},
    },
}
BADLY_MIRRORED = {
    "name": "bad",
    "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "no good: \n"}}},
}


def asks_first(rounds: int) -> Any:
    """A tool that asks so many times before it answers."""

    def script(message: Message) -> list[Message]:
        params = message["params"]
        answered = int(params.get("requestState", "0"))
        if answered < rounds:
            asked = {
                "resultType": "input_required",
                "inputRequests": {"q": QUESTION},
                "requestState": str(answered + 1),
            }
            return [result(message, asked)]
        return [result(message, {"resultType": "complete", "content": [], "got": params.get("inputResponses")})]

    return script


async def test_what_is_sent_says_what_it_is_about() -> None:
    async with anyio.create_task_group() as tasks:
        script = modern("t", tools__call=lambda r: [])
        running = await Running(tasks, script, a_plan(transport="streamable-http")).until_ready()
        await anyio.sleep(1)  # until it listens
        running.session.probe()
        handle = running.session.call_tool("t", None, None, running.replies.append)
        running.session.read_resource("a:b", None, running.replies.append)
        running.session.get_prompt("p", None, None, running.replies.append)
        handle.cancel()
        told = {(a.method, a.name, a.version) for a in running.server.about}
        assert told == {
            ("server/discover", None, "2026-07-28"),
            ("tools/list", None, "2026-07-28"),
            ("subscriptions/listen", None, "2026-07-28"),
            ("tools/call", "t", "2026-07-28"),
            ("resources/read", "a:b", "2026-07-28"),
            ("prompts/get", "p", "2026-07-28"),
            ("notifications/cancelled", None, "2026-07-28"),
        }
        (call,) = [a for a in running.server.about if a.method == "tools/call"]
        assert [a.cancels for a in running.server.about if a.cancels is not None] == [call.id]
        assert {a.method for a in running.server.about if a.may_last} == {"subscriptions/listen"}
        running.session.stop()


async def test_a_handshake_is_sent_under_no_version_and_what_follows_under_the_one_agreed_on() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("t"), a_plan(transport="streamable-http")).until_ready()
        versions = {a.method: a.version for a in running.server.about}
        assert versions == {
            "server/discover": "2026-07-28",
            "initialize": None,
            "notifications/initialized": "2025-11-25",
            "tools/list": "2025-11-25",
        }
        running.session.stop()


async def test_a_request_that_will_have_no_reply_fails_alone() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("t", tools__call=lambda r: [])).until_ready()
        other = Replies()
        running.session.call_tool("t", None, None, running.replies.append)
        running.session.call_tool("t", None, None, other.append)
        doomed, fine = (m["id"] for m in running.server.asked("tools/call"))
        assert running.server.notices is not None
        running.server.notices.request_failed(doomed, ServerNotReady("refused", server="x", state="ready"))
        running.server.notices.request_failed(999, ServerNotReady("nobody's", server="x", state="ready"))
        (reply,) = await running.until_reply()
        assert isinstance(reply, Failed)
        assert reply.error.message == "refused"
        running.server.connection.say({"jsonrpc": "2.0", "id": fine, "result": {}})
        await other.until(1)
        assert other == [Result(b"{}")]
        running.session.stop()


@pytest.mark.parametrize("method", ["initialize", "tools/list"])
async def test_a_server_that_cannot_be_asked_while_it_starts_is_a_failure_to_connect(method: str) -> None:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, legacy("t"))

        def unreachable(message: Message) -> list[Message]:
            if message.get("method") == method:
                assert running.server.notices is not None
                running.server.notices.request_failed(
                    message["id"], ServerNotReady("connection refused", server="x", state="starting")
                )
                return []
            if message.get("method") == "initialize":
                return list(legacy("t")(message))  # type: ignore[arg-type]
            return [error(message, -32601)] if "id" in message else []

        running.server.script = unreachable
        assert not await running.until_ready_or_over()
        ended = await running.until_over()
        assert (ended.kind, "connection refused" in ended.message) == (
            "listing_failed" if method == "tools/list" else "connect_failed",
            True,
        )


async def test_a_probe_over_http_that_comes_to_nothing_is_followed_by_initialize() -> None:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, legacy("t"), a_plan(transport="streamable-http"))

        def drops_the_probe(message: Message) -> list[Message]:
            if message.get("method") == "server/discover":
                assert running.server.notices is not None
                dropped = ServerNotReady("the connection broke off", server="x", state="starting")
                running.server.notices.request_failed(message["id"], dropped)
                return []
            return list(legacy("t")(message))  # type: ignore[arg-type]

        running.server.script = drops_the_probe
        await running.until_ready()
        assert running.server.methods()[:2] == ["server/discover", "initialize"]
        assert len(running.server.connections) == 1
        running.session.stop()


async def test_a_connection_that_ends_says_itself_why() -> None:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, legacy("t"))

        def wants_a_login(message: Message) -> list[Message]:
            if message.get("method") != "tools/list":
                return list(legacy("t")(message))  # type: ignore[arg-type]
            running.server.connection.says_goodbye = True
            assert running.server.notices is not None
            running.server.notices.request_failed(message["id"], LoginNeeded("log in", server="x"))
            tasks.start_soon(end_later)
            return []

        async def end_later() -> None:
            await anyio.sleep(1)
            running.server.connection.end(Ended(FailureKind.AUTH_REQUIRED, "a person must log in"))

        running.server.script = wants_a_login
        assert not await running.until_ready_or_over()
        assert (await running.until_over()).kind == "auth_required"


@pytest.mark.parametrize("kind", [FailureKind.AUTH_REQUIRED, FailureKind.CONNECT_FAILED, FailureKind.EXITED])
async def test_a_remote_server_that_ends_its_connection_is_not_asked_on_another(kind: FailureKind) -> None:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, lambda message: [], a_plan(transport="streamable-http"))
        tasks.start_soon(running.run)
        await anyio.sleep(1)
        running.server.connection.end(Ended(kind, "it is over"))
        assert (await running.until_over()).kind == kind
        assert len(running.server.connections) == 1


async def test_what_may_have_been_missed_is_looked_at_anew() -> None:
    async with anyio.create_task_group() as tasks:
        tools = [tool("t")]
        script = legacy(tools__list=lambda r: [result(r, {"tools": tools})])
        running = await Running(tasks, script).until_ready()
        tools.append(tool("u"))
        assert running.server.notices is not None
        running.server.notices.missed()
        await anyio.sleep(2)
        assert [item.name for item in running.session.items(Kind.TOOLS)] == ["t", "u"]
        running.session.stop()


@pytest.mark.parametrize(("transport", "offered"), [("streamable-http", ["sql"]), ("stdio", ["sql", "bad"])])
async def test_arguments_are_mirrored_into_headers_over_http_only(transport: str, offered: list[str]) -> None:
    async with anyio.create_task_group() as tasks:
        script = modern(
            tools__list=lambda r: [result(r, {"tools": [MIRRORED, BADLY_MIRRORED]})],
            tools__call=lambda r: [result(r, {})],
        )
        running = await Running(tasks, script, a_plan(transport=transport)).until_ready()
        assert [item.name for item in running.session.items(Kind.TOOLS)] == offered
        running.session.call_tool("sql", b'{"region":"eu","n":1}', None, running.replies.append)
        await running.until_reply()
        (call,) = [a for a in running.server.about if a.method == "tools/call"]
        assert call.mirrored == ((("Mcp-Param-Region", "eu"),) if transport != "stdio" else ())
        running.session.stop()


async def test_a_servers_question_is_answered_from_its_defaults_when_that_is_wanted() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("t"), a_plan(elicitation="defaults")).until_ready()
        (hello,) = running.server.asked("initialize")
        assert hello["params"]["capabilities"] == {"elicitation": {"form": {}}}
        running.server.connection.say({"jsonrpc": "2.0", "id": "q", **QUESTION})
        await anyio.sleep(1)
        assert running.server.sent[-1] == {
            "jsonrpc": "2.0",
            "id": "q",
            "result": {"action": "accept", "content": {"name": "moltis"}},
        }
        running.session.stop()


async def test_without_that_no_question_is_invited_and_none_answered() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy("t")).until_ready()
        (hello,) = running.server.asked("initialize")
        assert hello["params"]["capabilities"] == {}
        running.server.connection.say({"jsonrpc": "2.0", "id": "q", **QUESTION})
        await anyio.sleep(1)
        assert running.server.sent[-1]["error"]["code"] == -32601
        running.session.stop()


@pytest.mark.parametrize("rounds", [0, 1, 3])
async def test_a_tool_that_asks_first_is_called_again_with_the_answers(rounds: int) -> None:
    async with anyio.create_task_group() as tasks:
        script = modern("t", tools__call=asks_first(rounds))
        running = await Running(tasks, script, a_plan(elicitation="defaults")).until_ready()
        running.session.call_tool("t", b'{"a":1}', None, running.replies.append)
        (reply,) = await running.until_reply()
        assert isinstance(reply, Result)
        answer = {"q": {"action": "accept", "content": {"name": "moltis"}}} if rounds else None
        assert json.loads(reply.raw)["got"] == answer
        calls = running.server.asked("tools/call")
        assert [c["params"].get("requestState") for c in calls] == [None, *map(str, range(1, rounds + 1))]
        assert all(c["params"]["arguments"] == {"a": 1} for c in calls)
        assert len({c["id"] for c in calls}) == rounds + 1
        running.session.stop()


async def test_a_tool_that_never_stops_asking_gets_its_question_back_as_the_outcome() -> None:
    async with anyio.create_task_group() as tasks:
        script = modern("t", tools__call=asks_first(1000))
        running = await Running(tasks, script, a_plan(elicitation="defaults")).until_ready()
        running.session.call_tool("t", None, None, running.replies.append)
        (reply,) = await running.until_reply()
        assert isinstance(reply, Result)
        assert json.loads(reply.raw)["resultType"] == "input_required"
        assert len(running.server.asked("tools/call")) == MAX_ROUNDS + 1
        running.session.stop()


async def test_cancelling_a_call_cancels_the_round_it_is_in() -> None:
    async with anyio.create_task_group() as tasks:
        ask = asks_first(1)
        script = modern("t", tools__call=lambda r: ask(r) if "requestState" not in r["params"] else [])
        running = await Running(tasks, script, a_plan(elicitation="defaults")).until_ready()
        handle = running.session.call_tool("t", None, None, running.replies.append)
        await anyio.sleep(1)
        first, second = running.server.asked("tools/call")
        handle.cancel()
        await anyio.sleep(1)
        (cancelled,) = running.server.asked("notifications/cancelled")
        assert (cancelled["params"]["requestId"], running.replies) == (second["id"], [])
        assert first["id"] != second["id"]
        running.session.stop()
