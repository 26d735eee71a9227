"""Questions of a server in the form of either era: as requests of their own, or as rounds (SEP-2322).

Pure. From 2026-07-28 on a server answers a request with its questions (`input_required`), and the request is sent
again with the answers. Before, it sends each as a request while it works. Questions and answers themselves are the
same in both, and stay the bytes they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Raw

from moltis.errors import RpcCode
from moltis.jsonrpc import MALFORMED, json_string

ELICIT: Final = "elicitation/create"
RESPONSES: Final = "inputResponses"
REQUEST_STATE: Final = "requestState"

IN_ROUNDS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""What may be answered with questions (MCP 2026-07-28)."""

MAX_ROUNDS: Final = 10
"""Of one call. The reference clients give up after as many."""

MAX_QUESTIONS: Final = 64
"""At once, of one call."""

MAX_RESULT_BYTES: Final = 4 * 1024 * 1024
"""The longest result that is looked at for questions; a longer one is an outcome like any other."""

MAX_PAGES_BYTES: Final = 1024 * 1024
"""The longest error that is looked at for pages to be visited."""

FIRST_DELAY_SECS: Final = 0.05
MAX_DELAY_SECS: Final = 0.25
"""Before asking again when the server only said to come back; as the reference client waits."""

CANCELLED: Final = b'{"action":"cancel"}'
"""What a host says of a form or page that it refused with an error: nobody chose anything (MCP, Elicitation)."""

OVER: Final = b'{"code":-32603,"message":"the request that this is about is over"}'
CANNOT: Final = b'{"code":-32601,"message":"the host that called cannot answer this"}'
TOO_MANY: Final = b'{"code":-32603,"message":"too many questions; this one was not put to anybody"}'
"""What servers are told of questions that come to nothing: JSON-RPC error objects."""


VISIT: Final = "moltis/page-first"
"""The `requestState` of a round that stands for such an error: nothing of ours waits, and the server knows no state."""


class Asked(msgspec.Struct, frozen=True):
    """One question. `params`: JSON, or empty."""

    method: str
    params: Raw = Raw()


class Required(msgspec.Struct, frozen=True):
    """Questions by the server's keys, and the state to be given back, JSON; None if there is none."""

    questions: dict[str, Asked]
    state: Raw | None


class _Result(msgspec.Struct, rename="camel"):
    result_type: str = ""
    input_requests: dict[str, Asked] | None = None
    request_state: Raw = Raw(b"null")


_RESULT = msgspec.json.Decoder(_Result)
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])


def read(result: bytes) -> Required | None:
    """Return the questions of an `InputRequiredResult`; None for any other result, and for one that is not well formed.

    Copies nothing of a result that cannot be one.
    """
    if b"input_required" not in result or len(result) > MAX_RESULT_BYTES:
        return None
    try:
        found = _RESULT.decode(result)
    except MALFORMED:
        return None
    questions = found.input_requests or {}
    state = None if bytes(found.request_state) == b"null" else found.request_state.copy()
    if found.result_type != "input_required" or len(questions) > MAX_QUESTIONS or (state is None and not questions):
        return None
    if state is not None and bytes(state)[:1] != b'"':
        return None
    return Required({key: Asked(q.method, q.params.copy()) for key, q in questions.items()}, state)


def as_round(questions: Iterable[tuple[str, str, bytes]], token: str) -> bytes:
    """Put questions (key, method, params) into an `InputRequiredResult`, JSON."""
    asked = b",".join(
        b'%b:{"method":%b%b}' % (json_string(key), json_string(method), _member(b"params", _without_token(params)))
        for key, method, params in questions
    )
    return b'{"resultType":"input_required","inputRequests":{%b},"requestState":%b}' % (asked, json_string(token))


class _Page(msgspec.Struct):
    url: str
    message: str
    mode: str = "url"


class _Pages(msgspec.Struct):
    elicitations: list[Raw]


class _PagesFirst(msgspec.Struct):
    code: int
    data: _Pages


class _Answer(msgspec.Struct):
    action: str = "accept"


_PAGE = msgspec.json.Decoder(_Page)
_PAGES_FIRST = msgspec.json.Decoder(_PagesFirst)
_ANSWER = msgspec.json.Decoder(_Answer)


def pages_first(error: bytes) -> list[bytes] | None:
    """Return the params of the pages that an error -32042 names, as MCP 2026-07-28 asks for them; None for any other.

    An error that has the number but names no page, or what is none, is some other one.
    """
    if len(error) > MAX_PAGES_BYTES:
        return None
    try:
        pages = _PAGES_FIRST.decode(error)
        found = pages.data.elicitations
        if pages.code != RpcCode.PAGES_FIRST or not 0 < len(found) <= MAX_QUESTIONS:
            return None
        if any(_PAGE.decode(page).mode != "url" for page in found):
            return None
        return [_page(_MEMBERS.decode(page)) for page in found]
    except MALFORMED:
        return None


def _page(members: dict[str, Raw]) -> bytes:
    members.pop("elicitationId", None)
    return msgspec.json.encode({"mode": "url", **members})


def accepts_all(params: dict[str, Raw]) -> bool:
    """Whether nothing in a retry is answered with `decline` or `cancel`. Never raises."""
    return all(_action(answer) == "accept" for answer in responses(params).values())


def _action(answer: bytes) -> str:
    try:
        return _ANSWER.decode(answer).action
    except MALFORMED:
        return ""


def responses(params: dict[str, Raw]) -> dict[str, bytes]:
    """Return the answers in a retry, by key: those that are objects, as results are. Never raises."""
    raw = params.get(RESPONSES)
    if raw is None:
        return {}
    try:
        members = _MEMBERS.decode(raw)
    except MALFORMED:
        return {}
    return {key: bytes(value) for key, value in members.items() if bytes(value)[:1] == b"{"}


def without_rounds(params: dict[str, Raw]) -> dict[str, Raw]:
    """Return params without what only servers of 2026-07-28 know."""
    if RESPONSES not in params and REQUEST_STATE not in params:
        return params
    return {name: value for name, value in params.items() if name not in (RESPONSES, REQUEST_STATE)}


def with_answers(params: dict[str, Raw], answers: dict[str, Raw], state: Raw | None) -> dict[str, Raw]:
    """Return the params with which a request is sent again."""
    again = without_rounds(params).copy()
    if answers:
        again[RESPONSES] = Raw(msgspec.json.encode(answers))
    if state is not None:
        again[REQUEST_STATE] = state
    return again


def retry_delay(rounds: int) -> float:
    """Return the seconds to wait before round 1, 2, ... when nothing was asked."""
    return min(FIRST_DELAY_SECS * 2.0 ** (rounds - 1), MAX_DELAY_SECS)


def for_legacy(method: str, params: bytes, id: str) -> bytes:
    """Return a question's params as MCP 2025-11-25 wants them: a page to be visited needs an `elicitationId`."""
    if method != ELICIT or b"url" not in params or b"elicitationId" in params:
        return params
    members = _members(params)
    if members is None or bytes(members.get("mode", b"")) != b'"url"':
        return params
    return msgspec.json.encode({**members, "elicitationId": Raw(json_string(id))})


def with_token(params: bytes, token: int) -> tuple[bytes, Raw | None]:
    """Return a question's params with another progress token, and the one they had; as they are if they had none."""
    if b"progressToken" not in params:
        return params, None
    members = _members(params) or {}
    meta = _members(members.get("_meta", b"")) or {}
    theirs = meta.get("progressToken")
    if theirs is None:
        return params, None
    members["_meta"] = Raw(msgspec.json.encode({**meta, "progressToken": token}))
    return msgspec.json.encode(members), theirs


def _without_token(params: bytes) -> bytes:
    """Leave out the progress token: a retry has no way to say how far its answer is."""
    if b"progressToken" not in params:
        return params
    members = _members(params) or {}
    meta = _members(members.get("_meta", b"")) or {}
    if meta.pop("progressToken", None) is None:
        return params
    members["_meta"] = Raw(msgspec.json.encode(meta))
    if not meta:
        del members["_meta"]
    return msgspec.json.encode(members)


def _member(name: bytes, value: bytes) -> bytes:
    return b',"%b":%b' % (name, value) if value else b""


def _members(json: bytes | Raw) -> dict[str, Raw] | None:
    try:
        return _MEMBERS.decode(json)
    except MALFORMED:
        return None
