from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway import abilities

FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
PAGE = {"mode": "url", "message": "Log in", "url": "https://login.example/"}


@pytest.mark.parametrize(
    ("capabilities", "method", "params", "can"),
    [
        ({}, "elicitation/create", FORM, False),
        ({"elicitation": None}, "elicitation/create", FORM, False),
        ({"elicitation": {}}, "elicitation/create", FORM, True),
        ({"elicitation": {}}, "elicitation/create", PAGE, False),
        ({"elicitation": {"form": {}}}, "elicitation/create", {**FORM, "mode": "form"}, True),
        ({"elicitation": {"form": {"applyDefaults": True}}}, "elicitation/create", PAGE, False),
        ({"elicitation": {"url": {}}}, "elicitation/create", PAGE, True),
        ({"elicitation": {"url": {}}}, "elicitation/create", FORM, False),
        ({"elicitation": {"odd": {}}}, "elicitation/create", FORM, True),
        ({"elicitation": {"form": {}, "url": {}}}, "elicitation/create", {"mode": ["form"]}, False),
        ({"elicitation": True}, "elicitation/create", FORM, False),
        ({"sampling": {}}, "sampling/createMessage", {"messages": []}, True),
        ({"sampling": {}}, "sampling/createMessage", {"messages": [], "tools": []}, False),
        ({"sampling": {}}, "sampling/createMessage", {"messages": [], "toolChoice": {}}, False),
        ({"sampling": {"tools": {}}}, "sampling/createMessage", {"messages": [], "tools": []}, True),
        ({}, "sampling/createMessage", {"messages": []}, False),
        ({"roots": {}}, "roots/list", {}, True),
        ({"sampling": {}}, "roots/list", {}, False),
        ({"odd": {}}, "odd/method", {}, False),
        (5, "roots/list", {}, False),
    ],
)
def test_a_host_can_answer_what_it_declared(capabilities: Any, method: str, params: Any, can: bool) -> None:
    assert abilities.can_answer(msgspec.json.encode(capabilities), method, msgspec.json.encode(params)) is can


def test_roots_are_asked_for_without_params() -> None:
    assert abilities.can_answer(b'{"roots":{}}', "roots/list", b"")


def test_who_declares_nothing_can_answer_nothing() -> None:
    assert not abilities.can_answer(b"", "roots/list", b"")


def test_a_question_that_is_too_long_is_put_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    question = msgspec.json.encode(FORM)
    monkeypatch.setattr(abilities, "MAX_QUESTION_BYTES", len(question))
    assert abilities.can_answer(b'{"elicitation":{}}', "elicitation/create", question)
    assert not abilities.can_answer(b'{"elicitation":{}}', "elicitation/create", question + b" ")


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_nothing_raises(capabilities: bytes, params: bytes) -> None:
    for method in ("elicitation/create", "sampling/createMessage", "roots/list"):
        abilities.can_answer(capabilities, method, params)
    abilities.with_forms(capabilities)


def test_forms_are_declared_for_who_declares_none() -> None:
    assert abilities.with_forms(b'{"roots":{"x":1.50}}') == b'{"roots":{"x":1.50},"elicitation":{"form":{}}}'
    assert abilities.with_forms(b'{"elicitation":{}}') is None
    assert abilities.with_forms(b"[]") is None
