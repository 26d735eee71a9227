"""What a refusal proves that says nothing of the session."""

from __future__ import annotations

import pytest

from moltis.transport.remote.replies import Evidence, Told, says_nothing, told

OURS = b'{"jsonrpc":"2.0","id":"c","result":{}}'
UNKNOWN_METHOD = b'{"jsonrpc":"2.0","id":"c","error":{"code":-32601,"message":"Method not found"}}'
ASTRAY = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Bad Request"}}'
SAYS_SO = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"No valid session ID provided"}}'


@pytest.mark.parametrize(
    ("status", "message", "says"),
    [
        (200, OURS, Told.KNOWN),
        (200, UNKNOWN_METHOD, Told.KNOWN),
        (400, UNKNOWN_METHOD, Told.KNOWN),
        (404, UNKNOWN_METHOD, Told.KNOWN),
        (500, UNKNOWN_METHOD, Told.KNOWN),
        (404, b"", Told.LOST),
        (404, b"not found", Told.LOST),
        (200, SAYS_SO, Told.LOST),
        (400, SAYS_SO, Told.LOST),
        (500, SAYS_SO, Told.LOST),
        (409, b"unknown session", Told.LOST),
        (200, OURS.replace(b"{}", b'"session"'), Told.KNOWN),
        (200, b"", Told.REFUSED),
        (202, b"", Told.REFUSED),
        (200, ASTRAY, Told.REFUSED),
        (400, ASTRAY, Told.REFUSED),
        *((status, b"", Told.REFUSED) for status in (400, 401, 403, 405, 406, 409, 410, 412, 422)),
        *((status, b"", Told.NOTHING) for status in (302, 408, 425, 429, 500, 502, 503)),
    ],
)
def test_what_the_answer_to_a_probe_says_of_its_session(status: int, message: bytes, says: Told) -> None:
    assert told(status, message, "c") is says


@pytest.mark.parametrize(
    ("status", "body", "nothing"),
    [
        (400, b"", True),
        (400, b" \r\n", True),
        (400, b"Bad Request", True),
        (409, b"conflict\n", True),
        (400, b'"400 Bad Request."', True),
        (422, b"Unprocessable Content", True),
        (422, b"Unprocessable Entity", True),
        (400, b"Bad Request: no such tool", False),
        (400, b"bad arguments", False),
        (400, b"\xff\xfe", False),
        (499, b"", True),
        (499, b"Client Closed Request", False),
    ],
)
def test_a_body_that_says_no_more_than_its_status_says_nothing(status: int, body: bytes, nothing: bool) -> None:
    assert says_nothing(status, body) is nothing


def evidence(*served: str, refused: int = 1, disproved: tuple[str, ...] = ()) -> Evidence:
    found = Evidence()
    for method in disproved:
        found.disprove(method)
    for method in served:
        found.served(method)
    found.refused = refused
    return found


@pytest.mark.parametrize(
    ("known", "ping", "more"),
    [
        (evidence("tools/list", "ping"), Told.KNOWN, None),
        (evidence("tools/list", "ping", refused=2), Told.KNOWN, "tools/list"),
        (evidence("ping", refused=2), Told.KNOWN, None),
        (evidence("tools/list", "ping"), Told.REFUSED, None),
        (evidence("prompts/list", "tools/list"), Told.REFUSED, "prompts/list"),
        (evidence("tools/call"), Told.REFUSED, "tools/list"),
        (evidence(disproved=("tools/list",)), Told.REFUSED, None),
        (evidence("tools/list", disproved=("tools/list", "ping")), Told.REFUSED, "tools/list"),
        (evidence("tools/list"), Told.NOTHING, None),
        (evidence("tools/list"), Told.LOST, None),
    ],
)
def test_what_is_asked_after_a_ping(known: Evidence, ping: Told, more: str | None) -> None:
    assert known.after_ping(ping) == more


def test_a_ping_that_is_answered_does_not_end_a_row_of_refusals() -> None:
    known = evidence(refused=3)
    known.served("ping")
    assert known.refused == 3
    known.served("tools/call")
    assert known.refused == 0
