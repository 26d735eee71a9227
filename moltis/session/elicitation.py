"""Answering a server's questions from their own defaults (MCP, Elicitation; input rounds: MCP 2026-07-28, SEP-2322).

Pure. Nobody consents by silence: a form is accepted only with values that its schema suggests, at least one and one for
everything that is required; any other question is declined.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from moltis.jsonrpc import MALFORMED

MAX_QUESTION_BYTES: Final = 256 * 1024
MAX_QUESTIONS: Final = 64
MAX_RESULT_BYTES: Final = 1024 * 1024
"""The longest result that is looked at for questions; with more it is an outcome like any other."""

DECLINE: Final = b'{"action":"decline"}'


class _Property(msgspec.Struct):
    type: Any = None
    default: Any = None


class _Schema(msgspec.Struct):
    properties: dict[str, _Property]
    required: list[str] | None = None


class _Form(msgspec.Struct, rename="camel"):
    requested_schema: _Schema
    mode: str = "form"


class _Question(msgspec.Struct):
    method: str
    params: msgspec.Raw


class _InputRequired(msgspec.Struct, rename="camel"):
    result_type: str
    input_requests: dict[str, _Question] | None = None
    request_state: msgspec.Raw = msgspec.Raw(b"null")


_FORM = msgspec.json.Decoder(_Form)
_INPUT_REQUIRED = msgspec.json.Decoder(_InputRequired)


def answer(params: bytes) -> bytes:
    """Answer one `elicitation/create`: the JSON of an `ElicitResult`, on one line. `params` is JSON, or empty."""
    if len(params) > MAX_QUESTION_BYTES:
        return DECLINE
    try:
        form = _FORM.decode(params)
    except MALFORMED:
        return DECLINE
    if form.mode != "form":
        return DECLINE
    schema = form.requested_schema
    content = {
        name: inner.default for name, inner in schema.properties.items() if _is_suggestion(inner.type, inner.default)
    }
    if not content or not all(name in content for name in schema.required or ()):
        return DECLINE
    return msgspec.json.encode({"action": "accept", "content": content})


def input_responses(result: bytes) -> tuple[bytes | None, bytes | None] | None:
    """Answer the questions of an `InputRequiredResult`; None for any other result, and for one that asks other things.

    Returns:
        `inputResponses`, a JSON object on one line, and `requestState`, JSON as it was sent: the members with which
        the request is sent again, each None where there is none.
    """
    if len(result) > MAX_RESULT_BYTES or b"input_required" not in result:
        return None
    try:
        found = _INPUT_REQUIRED.decode(result)
    except MALFORMED:
        return None
    state = bytes(found.request_state)
    questions = found.input_requests or {}
    if found.result_type != "input_required" or len(questions) > MAX_QUESTIONS:
        return None
    if state[:1] not in (b'"', b"n") or (state == b"null" and not questions):
        return None
    if any(question.method != "elicitation/create" for question in questions.values()):
        return None
    answers = {key: msgspec.Raw(answer(bytes(question.params))) for key, question in questions.items()}
    return msgspec.json.encode(answers) if answers else None, None if state == b"null" else state


def _is_suggestion(kind: Any, default: Any) -> bool:
    """Whether a property's default is a value that its schema and an `ElicitResult` can have."""
    match kind:
        case "string":
            return isinstance(default, str)
        case "boolean":
            return isinstance(default, bool)
        case "integer" | "number":
            whole = isinstance(default, int) or (isinstance(default, float) and default.is_integer())
            return not isinstance(default, bool) and (whole or (kind == "number" and isinstance(default, float)))
        case "array":
            return isinstance(default, list) and all(isinstance(item, str) for item in default)
        case _:
            return False
