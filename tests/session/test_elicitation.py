from __future__ import annotations

import json
from typing import Any

import anyio
import mcp_types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcp.client._input_required import run_input_required_driver

from moltis.session.elicitation import MAX_QUESTION_BYTES, MAX_QUESTIONS, answer, input_responses

DECLINED = {"action": "decline"}


def form(properties: Any, required: Any = None, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    if required is not None:
        schema["required"] = required
    return {"message": "?", "requestedSchema": schema, **more}


def answered(params: Any) -> dict[str, Any]:
    given = answer(json.dumps(params).encode())
    assert b"\n" not in given
    mcp_types.ElicitResult.model_validate_json(given)
    decoded: dict[str, Any] = json.loads(given)
    return decoded


NAME = {"type": "string", "default": "John Doe"}


def test_a_form_is_accepted_with_its_defaults() -> None:
    params = form(
        {
            "name": NAME,
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive"], "default": "active"},
            "verified": {"type": "boolean", "default": False},
            "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "default": ["a"]},
            "note": {"type": "string"},
        },
        ["name", "age"],
    )
    expected = {"name": "John Doe", "age": 30, "score": 95.5, "status": "active", "verified": False, "tags": ["a"]}
    assert answered(params) == {"action": "accept", "content": expected}
    assert answered({**params, "mode": "form"}) == answered(params)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(form({"name": NAME, "mail": {"type": "string"}}, ["mail"]), id="a required value is missing"),
        pytest.param(form({"name": NAME}, ["other"]), id="what is required is not described"),
        pytest.param(form({}), id="nothing is asked for but consent"),
        pytest.param(form({"ok": {"type": "boolean"}}), id="nothing is suggested"),
        pytest.param(form({"name": NAME}, mode="url"), id="a URL is to be visited"),
        pytest.param({"mode": "url", "message": "?", "url": "https://a.example/", "elicitationId": "1"}, id="a URL"),
        pytest.param(form({"name": NAME}, mode="voice"), id="a mode that is not known"),
        pytest.param(form({"age": {"type": "integer", "default": "x"}}), id="the default is of another type"),
        pytest.param(form({"age": {"type": "integer", "default": True}}), id="a boolean is no integer"),
        pytest.param(form({"age": {"type": "integer", "default": 1.5}}), id="a fraction is no integer"),
        pytest.param(form({"a": {"type": "object", "default": {"b": 1}}}), id="an answer cannot be nested"),
        pytest.param(form({"a": {"type": "array", "default": [1]}}), id="an answer holds only strings in lists"),
        pytest.param(form({"a": {"type": "string", "default": None}}), id="null suggests nothing"),
        pytest.param(form({"a": {"default": "x"}}), id="a property without a type"),
        pytest.param(form({"a": {"type": ["string"], "default": "x"}}), id="a property with two types"),
        pytest.param(form({"a": True}), id="a property that is no schema"),
        pytest.param(form([]), id="properties that are none"),
        pytest.param(form({"name": NAME}, "name"), id="required that is no list"),
        pytest.param({"message": "?"}, id="no schema"),
        pytest.param([], id="no object"),
    ],
)
def test_any_other_question_is_declined(params: Any) -> None:
    assert answered(params) == DECLINED


def test_what_cannot_be_read_is_declined() -> None:
    for params in (b"", b"{", b"\xff", b"[" * 100_000, b'{"requestedSchema":' * 50_000):
        assert json.loads(answer(params)) == DECLINED
    huge = form({"name": NAME}, message="x" * MAX_QUESTION_BYTES)
    assert answered(huge) == DECLINED


DEFAULTS = st.one_of(
    st.builds(lambda d: {"type": "string", "default": d}, st.text()),
    st.builds(lambda d: {"type": "integer", "default": d}, st.integers(-(2**53), 2**53)),
    st.builds(lambda d: {"type": "number", "default": d}, st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(lambda d: {"type": "boolean", "default": d}, st.booleans()),
    st.builds(lambda d: {"type": "array", "items": {"type": "string"}, "default": d}, st.lists(st.text())),
    st.builds(lambda k, d: {"type": k, "default": d}, st.sampled_from(["string", "integer", "array"]), st.text()),
    st.sampled_from([{"type": "string"}, {"type": "boolean"}, {"type": "integer", "default": 3.0}]),
)
FORMS = st.builds(
    form, st.dictionaries(st.sampled_from("abcd"), DEFAULTS), st.one_of(st.none(), st.lists(st.sampled_from("abc")))
)


@given(FORMS)
def test_what_is_accepted_fits_the_schema(params: dict[str, Any]) -> None:
    result = answered(params)
    schema = params["requestedSchema"]
    if result == DECLINED:
        return
    assert result["content"]
    Draft202012Validator(schema).validate(result["content"])
    for name, value in result["content"].items():
        assert value == schema["properties"][name]["default"]


WORDS = st.sampled_from(["mode", "requestedSchema", "properties", "required", "a", "default", "type"])
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from(["string", "form", "a"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
)


@given(ANYTHING)
def test_nothing_a_server_asks_raises(params: Any) -> None:
    assert answered(params)["action"] in ("accept", "decline")


# --- questions instead of a result


def elicit(params: Any) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": params}


def required(requests: Any = None, state: Any = None, **more: Any) -> bytes:
    members = {"resultType": "input_required", **more}
    if requests is not None:
        members["inputRequests"] = requests
    if state is not None:
        members["requestState"] = state
    return json.dumps(members).encode()


def test_questions_are_answered_and_the_state_goes_back_as_it_came() -> None:
    state = 'opaque "state" \u00e4\n'
    found = input_responses(required({"a": elicit(form({"name": NAME})), "b": elicit({"mode": "url"})}, state))
    assert found is not None
    answers, back = found
    assert answers is not None
    assert json.loads(answers) == {"a": {"action": "accept", "content": {"name": "John Doe"}}, "b": DECLINED}
    assert back == json.dumps(state).encode()


def test_there_may_be_no_state_and_there_may_be_no_questions() -> None:
    assert input_responses(required({"a": elicit({})})) == (b'{"a":{"action":"decline"}}', None)
    assert input_responses(required(None, "s")) == (None, b'"s"')
    assert input_responses(required({}, "s")) == (None, b'"s"')


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(b"{}", id="an ordinary result"),
        pytest.param(b'{"content":[{"type":"text","text":"input_required"}]}', id="one that only says the word"),
        pytest.param(b'{"resultType":"complete","note":"input_required","requestState":"s"}', id="a complete one"),
        pytest.param(required(), id="neither questions nor state"),
        pytest.param(required({}), id="no question"),
        pytest.param(required(None, 7), id="a state that is no string"),
        pytest.param(required(None, {"a": 1}), id="a state that is an object"),
        pytest.param(required(None, True), id="a state that is true"),
        pytest.param(required([]), id="questions that are none"),
        pytest.param(required({"a": {"method": "sampling/createMessage", "params": {}}}), id="sampling"),
        pytest.param(required({"a": {"method": "roots/list", "params": {}}}), id="roots"),
        pytest.param(required({"a": elicit({}), "b": {"method": "x/y", "params": {}}}), id="one of them unknown"),
        pytest.param(required({"a": 7}), id="a question that is none"),
        pytest.param(required({"a": {"params": {}}}), id="a question without a method"),
        pytest.param(required({str(n): elicit({}) for n in range(MAX_QUESTIONS + 1)}), id="too many"),
        pytest.param(required({"a": elicit({})}, pad="x" * 2_000_000), id="too long"),
        pytest.param(b'{"resultType":"input_required","inputRequests":' + b'{"a":' * 50_000, id="not JSON"),
    ],
)
def test_any_other_result_is_an_outcome(result: bytes) -> None:
    assert input_responses(result) is None


@given(st.dictionaries(st.text(max_size=3), FORMS, max_size=4), st.one_of(st.none(), st.text()))
def test_the_reference_driver_would_send_the_same(questions: dict[str, Any], state: str | None) -> None:
    """Its loop, with the same answers given by hand, against what is made here in one step."""
    raw = required({key: elicit(params) for key, params in questions.items()}, state)
    found = input_responses(raw)
    if not questions and state is None:
        assert found is None
        return
    assert found is not None
    sent: list[tuple[Any, str | None]] = []

    async def dispatch(key: str, request: Any) -> mcp_types.ElicitResult:
        return mcp_types.ElicitResult.model_validate_json(answer(json.dumps(questions[key]).encode()))

    async def retry(responses: Any, state: str | None) -> str:
        sent.append((responses, state))
        return "done"

    async def drive() -> None:
        first = mcp_types.InputRequiredResult.model_validate_json(raw)
        await run_input_required_driver(first, dispatch=dispatch, retry=retry)

    anyio.run(drive, backend="asyncio") if questions else sent.append((None, state))
    responses, echoed = sent[0]
    ours = None if found[0] is None else json.loads(found[0])
    dumped = responses and {k: v.model_dump(by_alias=True, exclude_unset=True) for k, v in responses.items()}
    assert (ours or None) == (dumped or None)
    assert (None if found[1] is None else json.loads(found[1])) == echoed
