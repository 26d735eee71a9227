from __future__ import annotations

from typing import Any

import msgspec
import pytest
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types import CallToolResult, JSONRPCError, ReadResourceResult

from moltis.errors import LoginNeeded, MoltisError, RequestTimeout, ServerNotReady, UsageError
from moltis.gateway import failures
from moltis.server.states import State
from moltis.server.status import LastError, ServerStatus
from moltis.session.calls import ErrorReply, Failed, Result


def status(state: str, **more: Any) -> ServerStatus:
    return ServerStatus(
        name="mole", display_name=None, transport="stdio", enabled=True, state=state, status="error", **more
    )


def read(message: bytes) -> Any:
    return msgspec.json.decode(message)


@pytest.mark.parametrize("state", [state.value for state in State])
def test_for_every_state_there_is_a_reason_and_something_to_do(state: str) -> None:
    error = failures.not_ready(status(state))
    assert "'mole'" in error.message
    assert error.hint
    assert error.data()["state"] == state
    assert isinstance(error, LoginNeeded if state == "awaiting_auth" else ServerNotReady)


def test_the_last_error_is_told_where_it_is_the_reason() -> None:
    last = LastError(kind="exited", message="no config", at="2026-11-21T18:00:00Z")
    assert failures.not_ready(status("backoff", last_error=last)).message.endswith(": no config")
    assert "no config" not in failures.not_ready(status("stopped", last_error=last)).message


@pytest.mark.parametrize("modern", [False, True])
def test_what_a_failed_tool_call_gives_is_a_result_by_the_reference(modern: bool) -> None:
    error = ServerNotReady(
        "it is gone", server="mole", state="backoff", next_retry_at="2026-11-21T18:00:00Z", hint="wait"
    )
    message, http = failures.answered(b"1", "tools/call", error, modern=modern)
    result = CallToolResult.model_validate(read(message)["result"])
    assert http == 200
    assert result.is_error
    assert read(message)["result"]["content"][0]["text"] == (
        "it is gone. It is tried again at 2026-11-21T18:00:00Z. What a person can do: wait"
    )
    assert read(message)["result"]["_meta"] == {"moltis/error": error.data()}


def test_an_instant_that_the_message_names_is_not_told_twice() -> None:
    error = ServerNotReady("in backoff until X", server="mole", state="backoff", next_retry_at="X")
    message, _ = failures.answered(b"1", "tools/call", error, modern=False)
    assert read(message)["result"]["content"][0]["text"] == "in backoff until X."


def test_our_errors_have_their_own_codes() -> None:
    message, http = failures.answered(b'"a"', "prompts/get", RequestTimeout("slow", server="mole"), modern=True)
    assert read(message) == {
        "jsonrpc": "2.0",
        "id": "a",
        "error": {"code": -32006, "message": "slow", "data": {"kind": "timeout", "server": "mole", "hint": ""}},
    }
    assert http == 200


@pytest.mark.parametrize("code", [*ERROR_CODE_HTTP_STATUS, -32603, -32000, -32003, 7])
def test_a_server_s_error_has_the_status_of_the_reference_for_modern_hosts_and_200_for_others(code: int) -> None:
    error = msgspec.json.encode({"code": code, "message": "m"})
    assert failures.relayed(b"1", error, modern=True)[1] == ERROR_CODE_HTTP_STATUS.get(code, 200)
    assert failures.relayed(b"1", error, modern=False)[1] == 200


NO_WORDS = "an error without a message"


@pytest.mark.parametrize(
    ("error", "code", "message", "data"),
    [
        (b"{}", -32603, NO_WORDS, None),
        (b"5", -32603, NO_WORDS, 5),
        (b"null", -32603, NO_WORDS, None),
        (b'"no such city"', -32603, "no such city", None),
        (b'["a", "b"]', -32603, NO_WORDS, ["a", "b"]),
        (b'{"code":"ENOENT","message":"no such file"}', -32603, "ENOENT: no such file", "whole"),
        (b'{"code":"x","message":"m","data":{"a":1}}', -32603, "x: m", {"a": 1}),
        (b'{"code":1.5,"message":"m"}', -32603, "m", "whole"),
        (b'{"code":1e40,"message":"m"}', -32603, "m", "whole"),
        (b'{"code":-32602}', -32602, NO_WORDS, "whole"),
        (b'{"code":-32602,"message":null,"data":[1]}', -32602, NO_WORDS, [1]),
        (b'{"message":"m"}', -32603, "m", "whole"),
        (b'{"error":"boom"}', -32603, NO_WORDS, "whole"),
        (b'{"code":null,"message":{"text":"m"}}', -32603, NO_WORDS, "whole"),
    ],
)
@pytest.mark.parametrize("modern", [False, True])
def test_an_error_that_is_none_is_one_for_hosts_which_would_wait_on_for_what_they_drop(
    error: bytes, code: int, message: str, data: object, modern: bool
) -> None:
    told, http = failures.relayed(b"1", error, modern=modern)
    assert http == (400 if modern and code == -32602 else 200)
    found = msgspec.json.decode(told)["error"]
    assert (found["code"], found["message"]) == (code, message)
    assert found.get("data") == (msgspec.json.decode(error) if data == "whole" else data)
    JSONRPCError.model_validate_json(told)


@pytest.mark.parametrize(
    "error",
    [
        b'{"code":-32602,"message":"m"}',
        b'{"message":"","code":0,"more":[1e400]}',
        b'{"code":7,"message":"m","data":null}',
    ],
)
def test_an_error_stays_as_its_server_has_it(error: bytes) -> None:
    assert failures.relayed(b"1", error, modern=False)[0] == b'{"jsonrpc":"2.0","id":1,"error":%b}' % error


def test_a_complete_result_is_one_by_the_reference() -> None:
    read_result = failures.completed("resources/read", b' \n{ "contents":[]}')
    ReadResourceResult.model_validate_json(read_result)
    assert read(read_result) == {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "contents": []}
    assert failures.completed("tools/call", b"{}") == b'{"resultType":"complete"}'


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (Result(b"{}"), "ok"),
        (Result(b"{}", tool_error=True), "tool_error"),
        (ErrorReply(b"{}"), "error"),
        (Failed(RequestTimeout("x")), "timeout"),
        (Failed(ServerNotReady("x", server="s", state="backoff")), "not_ready"),
        (Failed(UsageError("x")), "invalid_params"),
        (Failed(failures.NotAnswered("x")), "not_answered"),
        (Failed(MoltisError("x")), "internal"),
    ],
)
def test_outcomes_are_words(reply: Any, word: str) -> None:
    assert failures.outcome_of(reply) == word


def test_a_hint_follows_the_server_s_own_words() -> None:
    told = failures.hinted_error(b'{"code":-32600,"message":"Cannot ask.","data":{"a":1.0}}', "do this")
    assert told == b'{"code":-32600,"message":"Cannot ask. What a person can do: do this","data":{"a":1.0}}'
    told = failures.hinted_result(b'{"content":[{"type":"text","text":"no"}],"isError":true}', "do this")
    assert [block["text"] for block in read(told)["content"]] == ["no", "What a person can do: do this"]
    CallToolResult.model_validate_json(told)


@pytest.mark.parametrize("what", [b"{}", b"5", b"[]", b'{"message":5}', b'{"content":{}}', b'{"content":null}'])
def test_what_has_no_place_for_a_hint_stays_as_it_is(what: bytes) -> None:
    assert failures.hinted_error(what, "do this") == what
    assert failures.hinted_result(what, "do this") == what
