"""One request passed on, in all four combinations of eras; without questions (those are in test_questions)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from forwarding_fakes import ALL, RESULT, FakeHost, FakeQuestion, bench, input_required, json, live
from gateway_fakes import MODERN, FakeOutlet, FakeUpstream, agreed
from trio.testing import MockClock

from moltis.errors import RequestTimeout, ServerNotReady, UsageError
from moltis.gateway.api import Principal
from moltis.gateway.messages import CAPABILITIES, CLIENT_INFO, LOG_LEVEL, PROTOCOL_VERSION
from moltis.gateway.relay import Relay
from moltis.server.status import LastError
from moltis.session.calls import Caller

ERAS = [("legacy", "legacy"), ("modern", "modern"), ("legacy", "modern"), ("modern", "legacy")]
"""Of host and server."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def lost() -> ServerNotReady:
    return ServerNotReady("server 'mole' ended (exit code 3)", server="mole", state="backoff", hint="moltis why mole")


# --- there and back


@pytest.mark.parametrize(("host_era", "server_era"), ERAS)
def test_a_request_goes_to_the_server_and_its_result_comes_back(host_era: str, server_era: str) -> None:
    one = bench(server_era)
    tried = getattr(one, host_era)(meta={"traceparent": "00-1-2-01"})
    assert (one.call.method, one.call.name, one.call.tool) == ("tools/call", "dig", "dig")
    assert one.call.read()["arguments"] == {"depth": 3}
    assert one.call.read()["_meta"]["traceparent"] == "00-1-2-01"
    one.call.succeed(RESULT)
    assert tried.result["content"] == [{"type": "text", "text": "done"}]
    assert tried.host.finished == [b"1"]
    assert one.counted == [("tools/call", "mole", "dig", "ok")]
    one.assert_nothing_is_left()


def test_a_result_passes_byte_for_byte() -> None:
    one = bench()
    tried = one.legacy()
    one.call.succeed(b'{"b":1.50, "a":[ ],"b":2}')
    assert tried.outlet.raw == [b'{"jsonrpc":"2.0","id":1,"result":{"b":1.50, "a":[ ],"b":2}}']


@pytest.mark.parametrize("structured", [b"[1,2]", b"5", b'"x"', b"null", b"true"])
def test_structured_content_that_is_no_object_is_for_modern_hosts(structured: bytes) -> None:
    result = b'{"content":[{"type":"text","text":"1"}],"structuredContent":%b,"resultType":"complete"}' % structured
    for era, kept in (("legacy", False), ("modern", True)):
        one = bench("modern")
        tried = getattr(one, era)()
        one.call.succeed(result)
        assert ("structuredContent" in tried.result) is kept
        assert tried.result["content"] == [{"type": "text", "text": "1"}]


def test_a_host_of_2024_hears_of_links_and_sounds_in_blocks_that_it_knows() -> None:
    one = bench("modern")
    host = FakeHost()
    host.revision = "2024-11-05"
    tried = one.legacy(host)
    blocks = (
        b'{"type":"resource_link","uri":"file:///a","name":"a","title":"The A"},'
        b'{"type":"audio","data":"AAAA","mimeType":"audio/wav"},{"type":"text","text":"1"}'
    )
    one.call.succeed(b'{"content":[%b],"isError":true}' % blocks)
    assert tried.result["isError"] is True
    assert tried.result["content"] == [
        {"type": "text", "text": "The A: file:///a"},
        {"type": "resource", "resource": {"uri": "data:audio/wav", "mimeType": "audio/wav", "blob": "AAAA"}},
        {"type": "text", "text": "1"},
    ]


def test_a_modern_server_s_result_passes_byte_for_byte_to_a_modern_host() -> None:
    one = bench("modern")
    tried = one.modern()
    result = b'{"content":["%b"], "resultType":"complete"}' % (b"x" * 300)
    one.call.succeed(result)
    assert tried.outlet.raw == [b'{"jsonrpc":"2.0","id":1,"result":%b}' % result]


def test_a_modern_host_hears_from_a_legacy_server_that_its_result_is_complete() -> None:
    one = bench()
    tried = one.modern()
    one.call.succeed(RESULT)
    assert tried.result["resultType"] == "complete"


def test_what_a_modern_host_reads_from_a_legacy_server_is_nothing_to_keep() -> None:
    one = bench()
    tried = one.modern(method="resources/read", params={"uri": "file:///a"})
    one.call.succeed(b'{"contents":[]}')
    assert tried.result == {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "contents": []}


@pytest.mark.parametrize("odd", [b"null", b"5", b'"x"', b"[]"])
def test_a_result_that_is_no_object_passes_as_it_is(odd: bytes) -> None:
    one = bench()
    tried = one.modern()
    one.call.succeed(odd)
    assert tried.outlet.raw == [b'{"jsonrpc":"2.0","id":1,"result":%b}' % odd]


def test_a_legacy_server_gets_the_host_s_own_meta() -> None:
    one = bench()
    one.legacy(meta={"progressToken": 7})
    assert one.call.read()["_meta"] == {"progressToken": 7}  # the session puts its own in its place


def test_a_modern_server_is_told_of_a_legacy_host_what_it_would_have_said_itself() -> None:
    one = bench("modern")
    one.legacy(FakeHost({"roots": {}}, log_level="warning"))
    meta = one.call.read()["_meta"]
    assert meta[CLIENT_INFO] == {"name": "old host", "version": "1"}
    assert meta[CAPABILITIES] == {"roots": {}}
    assert meta[LOG_LEVEL] == "warning"


def test_a_modern_server_sends_no_logs_to_a_legacy_host_that_set_no_level() -> None:
    one = bench("modern")
    one.legacy()
    assert LOG_LEVEL not in one.call.meta


def test_a_modern_server_is_not_led_to_ask_a_legacy_host_that_cannot_be_reached() -> None:
    one = bench("modern")
    one.legacy(outlet=FakeOutlet(asks=False))
    assert one.call.read()["_meta"][CAPABILITIES] == {}


def test_a_modern_host_s_meta_passes_as_it_is() -> None:
    one = bench("modern")
    one.modern(meta={LOG_LEVEL: "debug"})
    meta = one.call.read()["_meta"]
    assert (meta[PROTOCOL_VERSION], meta[LOG_LEVEL], meta[CAPABILITIES]) == (MODERN, "debug", ALL)


@pytest.mark.parametrize("host_era", ["legacy", "modern"])
def test_a_modern_server_with_default_answers_may_ask_a_host_without_forms(host_era: str) -> None:
    one = bench("modern")
    one.upstream.defaults = b'{"action":"decline"}'
    getattr(one, host_era)(FakeHost({"roots": {}}), capabilities={"roots": {}})
    assert one.call.read()["_meta"][CAPABILITIES] == {"roots": {}, "elicitation": {"form": {}}}


# --- errors


@pytest.mark.parametrize(("host_era", "status"), [("legacy", 200), ("modern", 400)])
def test_a_server_s_own_error_passes_as_it_is(host_era: str, status: int) -> None:
    one = bench()
    tried = getattr(one, host_era)()
    one.call.refuse(b'{"code":-32602,"message":"no such tool","data":[1]}')
    assert tried.error == {"code": -32602, "message": "no such tool", "data": [1]}
    assert tried.outlet.status == status
    assert one.outcomes == ["error"]


@pytest.mark.parametrize(("host_era", "server_era"), ERAS)
def test_a_tool_call_that_is_lost_is_a_result_that_a_model_can_read(host_era: str, server_era: str) -> None:
    one = bench(server_era)
    tried = getattr(one, host_era)()
    one.call.fail(lost())
    assert tried.text == "server 'mole' ended (exit code 3). What a person can do: moltis why mole"
    assert tried.result["_meta"]["moltis/error"]["state"] == "backoff"
    assert tried.result.get("resultType") == ("complete" if host_era == "modern" else None)
    assert one.outcomes == ["not_ready"]


def test_any_other_request_that_is_lost_is_an_error() -> None:
    one = bench()
    tried = one.legacy(method="prompts/get")
    one.call.fail(RequestTimeout("gave no reply for 30 s", server="mole", hint="wait"))
    assert (tried.error["code"], tried.error["message"]) == (-32006, "gave no reply for 30 s")
    assert tried.error["data"] == {"kind": "timeout", "server": "mole", "hint": "wait"}
    assert one.outcomes == ["timeout"]


def test_a_tool_that_is_switched_off_is_an_error_even_of_a_tool_call() -> None:
    one = bench()
    one.upstream.refuses = UsageError("tool 'dig' is switched off", server="mole")
    tried = one.legacy()
    assert tried.running is None
    assert tried.error["code"] == -32602


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("backoff", ["in backoff until 2026-11-21T18:00:00Z: it ended with exit code 3", "moltis logs mole"]),
        ("cooldown", ["in cooldown until 2026-11-21T18:00:00Z", "moltis restart"]),
        ("stopped", ["is stopped", "moltis mcp start mole"]),
        ("disabled", ["is disabled", "moltis mcp enable mole"]),
        ("invalid", ["is invalid", "moltis config check"]),
        ("stopping", ["is stopping", "moltis status mole"]),
        ("awaiting_auth", ["waits for a person to log in", "https://login.example/", "moltis mcp reauth mole"]),
    ],
)
def test_a_call_to_a_server_that_is_not_there_fails_at_once_and_says_why(state: str, words: list[str]) -> None:
    one = bench(None, state)
    if state in ("backoff", "cooldown"):
        one.port.next_retry_at = "2026-11-21T18:00:00Z"
        one.port.last_error = LastError(kind="exited", message="it ended with exit code 3", at="2026-11-21T17:59:00Z")
    if state == "awaiting_auth":
        one.port.auth_url = "https://login.example/"
    tried = one.legacy()
    assert tried.running is None
    assert tried.host.finished == [b"1"]
    assert [word for word in words if word not in tried.text.replace("moltis mcp restart", "moltis restart")] == []
    assert tried.result["_meta"]["moltis/error"]["state"] == state
    one.assert_nothing_is_left()


def test_the_text_for_a_model_is_followed_by_data_for_a_program() -> None:
    one = bench(None, "awaiting_auth")
    one.port.auth_url = "https://login.example/"
    tried = one.modern(method="resources/read", params={"uri": "file:///a"})
    assert tried.error["code"] == -32007
    assert tried.error["data"]["auth_url"] == "https://login.example/"


# --- what is said meanwhile


@pytest.mark.parametrize(("host_era", "server_era"), ERAS)
def test_progress_comes_under_the_host_s_own_token(host_era: str, server_era: str) -> None:
    one = bench(server_era)
    tried = getattr(one, host_era)(meta={"progressToken": "mine"})
    one.call.caller.progressed(b'{"progressToken":41,"progress":1,"total":2,"message":"half"}')
    assert tried.told == [
        ("notifications/progress", {"progressToken": "mine", "progress": 1, "total": 2, "message": "half"})
    ]


def test_progress_is_not_told_to_a_host_that_gave_no_token() -> None:
    one = bench()
    tried = one.legacy()
    one.call.caller.progressed(b'{"progressToken":41,"progress":1}')
    assert tried.told == []


@pytest.mark.parametrize("broken", [b"", b"5", b'{"progress":'])
def test_progress_that_is_none_is_ignored(broken: bytes) -> None:
    one = bench()
    tried = one.legacy(meta={"progressToken": 1})
    one.call.caller.progressed(broken)
    assert tried.told == []


def levels(tried_levels: list[str]) -> list[bytes]:
    return [json({"level": level, "data": level}) for level in tried_levels]


@pytest.mark.parametrize(
    ("era", "wanted", "heard"),
    [
        ("legacy", None, ["debug", "warning", "error", "odd"]),
        ("legacy", "warning", ["warning", "error", "odd"]),
        ("modern", None, []),
        ("modern", "error", ["error", "odd"]),
        ("modern", "nonsense", []),
    ],
)
def test_log_messages_come_from_the_level_on_that_the_host_wants(
    era: str, wanted: str | None, heard: list[str]
) -> None:
    one = bench()
    if era == "legacy":
        tried = one.legacy(FakeHost(log_level=wanted))
    else:
        tried = one.modern(meta={} if wanted is None else {LOG_LEVEL: wanted})
    for params in levels(["debug", "warning", "error", "odd"]):
        one.call.caller.notified("notifications/message", params)
    assert [params["data"] for _, params in tried.told] == heard


def test_what_else_a_server_says_about_a_request_passes() -> None:
    one = bench()
    tried = one.modern()
    one.call.caller.notified("notifications/elicitation/complete", b'{"elicitationId":"x"}')
    assert tried.told == [("notifications/elicitation/complete", {"elicitationId": "x"})]


def test_nothing_is_told_after_the_reply() -> None:
    one = bench()
    tried = one.legacy(meta={"progressToken": 1})
    one.call.succeed(RESULT)
    one.call.caller.progressed(b'{"progressToken":41,"progress":1}')
    one.call.caller.notified("notifications/message", b'{"level":"error"}')
    assert tried.told == []


# --- cancelling


@pytest.mark.parametrize(("host_era", "server_era"), ERAS)
def test_cancelling_tells_the_server_and_no_reply_follows(host_era: str, server_era: str) -> None:
    one = bench(server_era)
    tried = getattr(one, host_era)(meta={"progressToken": 1})
    tried.running.cancel("enough")
    tried.running.cancel("again")
    assert one.call.cancelled == ["enough"]
    one.call.succeed(RESULT)
    one.call.caller.progressed(b'{"progressToken":41,"progress":1}')
    assert (tried.outlet.raw, tried.host.finished) == ([], [])
    assert one.outcomes == ["cancelled"]
    one.assert_nothing_is_left()


def test_cancelling_what_is_answered_has_no_effect() -> None:
    one = bench()
    tried = one.legacy()
    assert tried.running is not None
    one.call.succeed(RESULT)
    tried.running.cancel("late")
    assert one.call.cancelled == []
    assert one.outcomes == ["ok"]


# --- a server that is starting


@pytest.mark.parametrize("state", ["idle", "starting", "initializing"])
async def test_a_call_to_a_server_that_is_starting_waits_until_it_is_ready(state: str) -> None:
    async with live(None, state) as one:
        tried = one.legacy()
        await anyio.sleep(20)
        assert not tried.outlet.answered
        assert one.port.holds == 1, "it is needed, and does not become idle meanwhile"
        one.port.ready()
        await anyio.wait_all_tasks_blocked()
        one.assert_nothing_is_left()
        assert one.port.holds == 0
        one.call.succeed(RESULT)
        assert tried.result == {"content": [{"type": "text", "text": "done"}]}


async def test_a_call_to_a_server_that_is_starting_and_fails_says_why() -> None:
    async with live(None, "starting") as one:
        tried = one.legacy()
        await anyio.sleep(1)
        one.port.last_error = LastError(kind="exited", message="it ended with exit code 3", at="2026-11-21T17:59:00Z")
        one.port.move("backoff")
        await anyio.wait_all_tasks_blocked()
        assert "in backoff: it ended with exit code 3" in tried.text


async def test_a_call_waits_no_longer_than_a_start_may_take() -> None:
    async with live(None, "starting") as one:
        tried = one.legacy()
        await anyio.sleep(59)
        assert not tried.outlet.answered
        await anyio.sleep(2)
        assert "is still starting after 60 s" in tried.text


async def test_cancelling_a_call_that_waits_for_a_server_lets_it_never_reach_it() -> None:
    async with live(None, "starting") as one:
        tried = one.legacy()
        early = one.legacy(id=2)
        assert tried.running is not None
        assert early.running is not None
        early.running.cancel("before its task has begun")
        await anyio.sleep(1)
        tried.running.cancel("enough")
        await anyio.wait_all_tasks_blocked()
        one.assert_nothing_is_left()
        assert one.port.holds == 0
        upstream = one.port.ready()
        await anyio.sleep(100)
        assert upstream.calls == []
        assert tried.outlet.raw == early.outlet.raw == []
        assert one.outcomes == ["cancelled", "cancelled"]


async def test_a_task_that_waits_ends_with_its_request() -> None:
    async with live(None, "starting") as one, anyio.create_task_group() as tasks:
        one.world.tasks = tasks
        tried = one.legacy()
        await anyio.wait_all_tasks_blocked()
        assert tried.running is not None
        tried.running.cancel("enough")
        began = anyio.current_time()
    assert anyio.current_time() - began < 1.0


async def test_a_server_that_is_ready_and_refuses_at_once_is_told_to_who_waited() -> None:
    async with live(None, "starting") as one:
        tried = one.legacy()
        upstream = FakeUpstream("mole", agreed())
        upstream.refuses = lost()
        one.port.ready(upstream)
        await anyio.wait_all_tasks_blocked()
        assert "exit code 3" in tried.text


async def test_closing_the_gateway_fails_who_waits_for_a_server() -> None:
    async with live(None, "starting") as one:
        tried = one.legacy()
        await anyio.sleep(1)
        one.forwarding.close("it is being upgraded")
        assert "going away: it is being upgraded" in tried.text


async def test_too_many_calls_that_wait_for_servers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moltis.gateway.relay.MAX_WAITING", 2)
    async with live(None, "starting") as one:
        tries = [one.legacy(id=n) for n in range(3)]
        assert [tried.outlet.answered for tried in tries] == [False, False, True]
        one.forwarding.close("enough")


async def test_one_principal_does_not_take_all_places_where_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moltis.gateway.relay.MAX_WAITING", 4)
    async with live(None, "starting") as one:
        many, few = FakeHost(principal=Principal("many")), FakeHost(principal=Principal("few"))
        tries = [one.legacy(many, id=n) for n in range(5)]
        assert [tried.outlet.answered for tried in tries] == [False] * 4 + [True]
        others = [one.legacy(few, id=n) for n in range(10, 13)]
        assert [tried.outlet.answered for tried in others] == [False, False, True]
        one.forwarding.close("enough")


# --- who it is


def test_requests_of_one_host_are_told_to_be_of_one_host() -> None:
    one = bench()
    host = FakeHost()
    one.legacy(host)
    one.legacy(host, id=2)
    one.legacy(FakeHost(), id=3)
    callers: list[Caller] = [call.caller for call in one.upstream.calls]
    assert callers[0].host is callers[1].host
    assert callers[0].host is not callers[2].host


def test_a_request_on_its_way_is_a_small_object() -> None:
    tried = bench().legacy()
    assert isinstance(tried.running, Relay)
    assert not hasattr(tried.running, "__dict__")


def test_a_reply_that_comes_before_the_request_is_sent_is_a_reply() -> None:
    one = bench()
    one.upstream.replies = lambda call: RESULT
    tried = one.legacy()
    assert tried.running is None
    assert tried.host.finished == [b"1"]
    assert tried.result["content"]


def test_a_legacy_server_never_sees_answers_that_only_modern_ones_know() -> None:
    one = bench()
    one.modern(params={"name": "dig", "inputResponses": {"x": {}}})
    assert one.call.read()["name"] == "dig"
    assert "inputResponses" not in one.call.params


def test_a_state_that_a_legacy_server_cannot_have_given_is_refused() -> None:
    one = bench()
    tried = one.modern(params={"name": "dig", "requestState": "of the server before"})
    assert tried.error["code"] == -32602
    assert tried.error["data"]["reason"] == "invalid_request_state"
    assert tried.outlet.status == 400
    assert one.upstream.calls == []


def test_a_legacy_host_s_own_members_pass_whatever_they_are_called() -> None:
    one = bench()
    one.legacy(method="odd/method", params={"requestState": 5})
    assert one.call.read() == {"requestState": 5}


def test_a_modern_pair_passes_questions_and_answers_verbatim() -> None:
    one = bench("modern")
    tried = one.modern()
    asked = input_required({"k": {"method": "elicitation/create", "params": {"message": "?"}}}, "s")
    one.call.succeed(asked)
    assert tried.outlet.raw == [b'{"jsonrpc":"2.0","id":1,"result":%b}' % asked]
    again = one.modern(params={"name": "dig", "requestState": "s", "inputResponses": {"k": {"action": "cancel"}}}, id=2)
    assert one.call.read()["requestState"] == "s"
    assert one.call.read()["inputResponses"] == {"k": {"action": "cancel"}}
    one.call.succeed(RESULT)
    assert again.result["content"]


def test_a_question_that_comes_after_the_host_went_away_is_refused() -> None:
    one = bench()
    tried = one.legacy()
    assert tried.running is not None
    tried.running.cancel("gone")
    question = FakeQuestion()
    assert not one.call.caller.can_answer(question.method, question.params)
    one.call.caller.asked(question)
    assert question.refused
    assert tried.outlet.raw == []
