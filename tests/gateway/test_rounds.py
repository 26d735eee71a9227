from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import InputRequiredResult
from msgspec import Raw

from moltis.gateway import rounds

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def decoded(params: dict[str, Raw]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(params))


@given(JSON)
def test_reading_never_raises_and_finds_questions_only_where_there_are_some(value: Any) -> None:
    assert rounds.read(encoded(value)) is None
    assert rounds.read(encoded({"resultType": "complete", "inputRequests": {"a": value}})) is None


@given(st.binary(max_size=100))
def test_reading_what_is_not_even_json_finds_nothing(raw: bytes) -> None:
    assert rounds.read(b'{"resultType":"input_required",' + raw) is None or raw.lstrip()[:1] == b'"'


def test_questions_and_state_are_the_bytes_that_were_sent() -> None:
    asked = b'{"a":{"method":"m","params":{"x":1.50}}}'
    raw = b'{"resultType":"input_required","inputRequests":%b,"requestState":"\\u0041"}' % asked
    found = rounds.read(raw)
    assert found is not None
    assert bytes(found.questions["a"].params) == b'{"x":1.50}'
    assert found.state is not None
    assert bytes(found.state) == b'"\\u0041"'


def test_too_many_questions_are_no_round() -> None:
    many = {str(n): {"method": "roots/list"} for n in range(rounds.MAX_QUESTIONS + 1)}
    assert rounds.read(encoded({"resultType": "input_required", "inputRequests": many})) is None


def test_an_outcome_that_is_too_long_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    result = encoded({"resultType": "input_required", "requestState": "s"})
    assert rounds.read(result) is not None
    monkeypatch.setattr(rounds, "MAX_RESULT_BYTES", len(result) - 1)
    assert rounds.read(result) is None


@given(st.text(), st.text(min_size=1))
def test_a_round_that_we_write_is_one_that_the_reference_reads_and_we_do(token: str, key: str) -> None:
    asked = [(key, "elicitation/create", encoded(FORM)), ("roots " + key, "roots/list", b"")]
    raw = rounds.as_round(asked, token)
    read = InputRequiredResult.model_validate_json(raw)
    assert read.request_state == token
    assert read.input_requests is not None
    assert list(read.input_requests) == [key, "roots " + key]
    found = rounds.read(raw)
    assert found is not None
    assert bytes(found.questions[key].params) == encoded(FORM)
    assert bytes(found.questions["roots " + key].params) == b""


@given(JSON)
def test_answers_are_those_that_are_objects(value: Any) -> None:
    expected = {k: v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}
    found = rounds.responses({"inputResponses": Raw(encoded(value))})
    assert {key: msgspec.json.decode(raw) for key, raw in found.items()} == expected


def test_no_answers_are_none() -> None:
    assert rounds.responses({}) == {}


def test_a_request_is_sent_again_with_the_new_answers_and_nothing_of_the_old() -> None:
    params = {"name": Raw(b'"x"'), "inputResponses": Raw(b'{"old":{}}'), "requestState": Raw(b'"old"')}
    again = rounds.with_answers(params, {"new": Raw(b"{}")}, Raw(b'"new"'))
    assert decoded(again) == {"name": "x", "inputResponses": {"new": {}}, "requestState": "new"}
    assert decoded(rounds.with_answers(params, {}, None)) == {"name": "x"}
    assert "inputResponses" in params


def test_params_without_rounds_are_not_even_copied() -> None:
    params = {"name": Raw(b'"x"')}
    assert rounds.without_rounds(params) is params


def test_who_is_told_to_come_back_waits_longer_each_time_but_not_for_long() -> None:
    assert [rounds.retry_delay(n) for n in (1, 2, 3, 4, 10)] == [0.05, 0.1, 0.2, 0.25, 0.25]


@pytest.mark.parametrize(
    "params",
    [
        FORM,
        {"mode": "form", "message": "see url"},
        {"mode": "url", "elicitationId": "own", "url": "x"},
        [],
        {"mode": 5, "url": ""},
    ],
)
def test_a_question_that_needs_nothing_for_a_legacy_host_stays_as_it_is(params: Any) -> None:
    raw = encoded(params)
    assert rounds.for_legacy("elicitation/create", raw, "k") == raw
    assert rounds.for_legacy("roots/list", b"", "k") == b""


@given(JSON, JSON)
def test_exchanging_a_progress_token_changes_nothing_else(token: Any, other: Any) -> None:
    raw = encoded({"a": other, "_meta": {"progressToken": token, "b": other}})
    changed, theirs = rounds.with_token(raw, 7)
    assert theirs is not None
    assert msgspec.json.decode(theirs) == token
    assert msgspec.json.decode(changed) == {"a": other, "_meta": {"progressToken": 7, "b": other}}


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b'{"progressToken":1}', b'{"_meta":5,"x":"progressToken"}', b'["progressToken"]', b'"progressToken'],
)
def test_params_without_a_progress_token_stay_as_they_are(raw: bytes) -> None:
    assert rounds.with_token(raw, 7) == (raw, None)
