"""What an answer means, as a table."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from moltis.http.heads import media_type, redirect_target, redirect_words
from moltis.server.states import FailureKind
from moltis.transport.remote.outcomes import Answered, Asked, Do, Outcome, failure, outcome
from moltis.transport.remote.replies import AboutSession, about_session, answers, error_reply, succeeds

CALL = Asked("tools/call", True)
LIST = Asked("tools/list", True)
IN_SESSION = Asked("tools/call", True, session=True)
LIST_IN_SESSION = Asked("tools/list", True, session=True)
HINTED, REFUSED = AboutSession.HINTED, AboutSession.REFUSED
NOTE = Asked("notifications/cancelled", False)
CONFIRM = Asked("notifications/initialized", False, session=True)
DISCOVER = Asked("server/discover", True, modern=True, agreed=False)
INITIALIZE = Asked("initialize", True, agreed=False)
HEARTBEAT = Asked("server/discover", True, modern=True)
PING = Asked("ping", True)

JSON = "application/json"
EVENTS = "text/event-stream"

TABLE: list[tuple[Asked, Answered, Do]] = [
    # what is taken
    (CALL, Answered(200, JSON), Do.TAKE_MESSAGE),
    (CALL, Answered(200, EVENTS), Do.TAKE_EVENTS),
    (CALL, Answered(201, JSON), Do.TAKE_MESSAGE),
    (CALL, Answered(200, "text/html"), Do.LOOK),
    (CALL, Answered(200, ""), Do.LOOK),
    (CALL, Answered(200, JSON, compressed="br"), Do.FAIL),
    (CALL, Answered(202), Do.FAIL),
    (CALL, Answered(202, JSON), Do.FAIL),
    (NOTE, Answered(202), Do.ACCEPT),
    (NOTE, Answered(204), Do.ACCEPT),
    (NOTE, Answered(200, "text/html"), Do.ACCEPT),
    # a session that is lost, once
    (IN_SESSION, Answered(404), Do.RENEW),
    (IN_SESSION, Answered(404, reply=True), Do.RENEW),
    (IN_SESSION, Answered(404, reply=True, ours=True), Do.DELIVER),
    (IN_SESSION, Answered(404, reply=True, ours=True, about_session=HINTED), Do.DELIVER),
    (LIST_IN_SESSION, Answered(404, reply=True, ours=True), Do.DELIVER),
    (LIST_IN_SESSION, Answered(404, reply=True, ours=True, about_session=HINTED), Do.RENEW),
    *((IN_SESSION, Answered(status, about_session=REFUSED), Do.RENEW) for status in (400, 403, 409, 410, 422, 500)),
    *((LIST_IN_SESSION, Answered(status, about_session=HINTED), Do.RENEW) for status in (400, 403, 409, 410, 422)),
    *((IN_SESSION, Answered(status, about_session=HINTED), Do.FAIL) for status in (400, 403, 409, 410, 422, 500)),
    (IN_SESSION, Answered(400, about_session=HINTED, reply=True), Do.DELIVER),
    (IN_SESSION, Answered(410), Do.FAIL),
    (Asked("tools/call", True, session=True, spared=True), Answered(401), Do.RENEW),
    (Asked("tools/call", True, session=True, spared=True, renewed=True), Answered(401), Do.LOSE),
    (IN_SESSION, Answered(401, about_session=REFUSED), Do.LOSE),
    (IN_SESSION, Answered(503, about_session=REFUSED), Do.FAIL),
    (IN_SESSION, Answered(400, reply=True), Do.DELIVER),
    (CONFIRM, Answered(404), Do.RENEW),
    (Asked("tools/call", True, session=True, renewed=True), Answered(404), Do.FAIL),
    (Asked("tools/call", True, session=True, renewed=True), Answered(404, reply=True), Do.DELIVER),
    (CALL, Answered(404), Do.FAIL),
    (CALL, Answered(400, about_session=REFUSED), Do.FAIL),
    # an overloaded server
    (CALL, Answered(429, retry_after_secs=5), Do.WAIT),
    (NOTE, Answered(429, retry_after_secs=5), Do.WAIT),
    (CALL, Answered(503, retry_after_secs=5), Do.FAIL),
    (LIST, Answered(503, retry_after_secs=5), Do.WAIT),
    (CONFIRM, Answered(503, retry_after_secs=5), Do.WAIT),
    (CALL, Answered(429, retry_after_secs=6), Do.FAIL),
    (NOTE, Answered(429, retry_after_secs=60), Do.WAIT),
    (LIST, Answered(503, retry_after_secs=60), Do.WAIT),
    (Asked("resources/read", True), Answered(503, retry_after_secs=6), Do.FAIL),
    (Asked("subscriptions/listen", True), Answered(429, retry_after_secs=60), Do.WAIT),
    (HEARTBEAT, Answered(503, retry_after_secs=5), Do.ALIVE),
    (HEARTBEAT, Answered(429, retry_after_secs=0), Do.ALIVE),
    (HEARTBEAT, Answered(503), Do.FAIL),
    (Asked("ping", True), Answered(503, retry_after_secs=60), Do.ALIVE),
    (Asked("resources/read", True), Answered(503, retry_after_secs=5), Do.WAIT),
    (Asked("prompts/get", True), Answered(503, retry_after_secs=5), Do.WAIT),
    (Asked("resources/templates/list", True), Answered(503, retry_after_secs=5), Do.WAIT),
    (Asked("resources/subscribe", True), Answered(503, retry_after_secs=5), Do.FAIL),
    (Asked("tools/call", True, waited=True), Answered(429, retry_after_secs=5), Do.FAIL),
    (CALL, Answered(429), Do.FAIL),
    (LIST, Answered(503), Do.FAIL),
    (CALL, Answered(500, retry_after_secs=5), Do.FAIL),
    (INITIALIZE, Answered(429, retry_after_secs=5), Do.LOSE),
    (DISCOVER, Answered(503, retry_after_secs=5), Do.LOSE),
    (INITIALIZE, Answered(503), Do.LOSE),
    # JSON-RPC at another status
    (CALL, Answered(400, reply=True), Do.DELIVER),
    (CALL, Answered(404, reply=True), Do.DELIVER),
    (CALL, Answered(403, reply=True), Do.DELIVER),
    (CALL, Answered(500, reply=True), Do.DELIVER),
    (DISCOVER, Answered(400, reply=True), Do.DELIVER),
    (INITIALIZE, Answered(400, reply=True), Do.DELIVER),
    (CALL, Answered(401, reply=True), Do.LOSE),
    # servers that do not know what they are asked
    (DISCOVER, Answered(400), Do.UNKNOWN_METHOD),
    (DISCOVER, Answered(404), Do.UNKNOWN_METHOD),
    (DISCOVER, Answered(405), Do.UNKNOWN_METHOD),
    (DISCOVER, Answered(500), Do.UNKNOWN_METHOD),
    (DISCOVER, Answered(202), Do.UNKNOWN_METHOD),
    # whoever answers a heartbeat at all is there, but for a proxy's word that nobody is
    *((beat, Answered(status), Do.ALIVE) for beat in (HEARTBEAT, PING) for status in (202, 204, 301, 400, 404, 405)),
    *((PING, Answered(status), Do.ALIVE) for status in (403, 406, 410, 415, 429)),
    (PING, Answered(200, "text/html"), Do.LOOK),
    (PING, Answered(200, compressed="br"), Do.ALIVE),
    *((PING, Answered(status), Do.FAIL) for status in (500, 502, 503, 504)),
    (PING, Answered(401), Do.LOSE),
    (LIST, Answered(404), Do.FAIL),
    (HEARTBEAT, Answered(400, reply=True), Do.DELIVER),
    # whatever becomes of a probe, `initialize` may fare better
    *((DISCOVER, Answered(status), Do.UNKNOWN_METHOD) for status in (403, 502)),
    *((DISCOVER, Answered(status), Do.LOSE) for status in (429, 503)),
    (DISCOVER, Answered(200, "text/html"), Do.LOOK),
    (DISCOVER, Answered(200, compressed="br"), Do.UNKNOWN_METHOD),
    (DISCOVER, Answered(401), Do.LOSE),
    (DISCOVER, Answered(503, retry_after_secs=5.0), Do.LOSE),
    (DISCOVER, Answered(301, leads="redirects to x"), Do.LOSE),
    (INITIALIZE, Answered(404), Do.LOSE),
    (INITIALIZE, Answered(500), Do.LOSE),
    (INITIALIZE, Answered(301, leads="redirects to x"), Do.LOSE),
    (HEARTBEAT, Answered(502), Do.FAIL),
    # the rest
    (CALL, Answered(400), Do.FAIL),
    (CALL, Answered(403), Do.FAIL),
    (CALL, Answered(500), Do.FAIL),
    (CALL, Answered(301, leads="redirects to x"), Do.FAIL),
    (CALL, Answered(304), Do.FAIL),
    (NOTE, Answered(500), Do.FAIL),
    (CALL, Answered(401), Do.LOSE),
    (NOTE, Answered(401), Do.LOSE),
]


@pytest.mark.parametrize(("asked", "answered", "do"), TABLE)
def test_what_follows_an_answer(asked: Asked, answered: Answered, do: Do) -> None:
    found = outcome(asked, answered)
    assert found.do is do
    assert (found.kind != "") == (do is Do.LOSE)
    if do in (Do.FAIL, Do.LOSE):
        assert found.words


def test_a_refused_login_is_no_failure_to_connect() -> None:
    assert outcome(INITIALIZE, Answered(401)).kind == "auth_required"
    assert outcome(INITIALIZE, Answered(500)).kind == "connect_failed"
    assert failure(INITIALIZE, "w") == Outcome(Do.LOSE, "w", FailureKind.CONNECT_FAILED)
    assert failure(CALL, "w") == Outcome(Do.FAIL, "w")


def test_where_there_was_no_connection_the_other_question_is_not_asked_either() -> None:
    assert failure(DISCOVER, "w", connected=False) == Outcome(Do.LOSE, "w", FailureKind.CONNECT_FAILED)
    assert failure(DISCOVER, "w").do is Do.UNKNOWN_METHOD, "it may have been the question that broke it"
    assert failure(CALL, "w", connected=False) == Outcome(Do.FAIL, "w")
    assert failure(replace(DISCOVER, agreed=True), "w", connected=False).do is Do.FAIL, "a heartbeat"


def test_how_long_to_wait_is_passed_on() -> None:
    assert outcome(CALL, Answered(503, retry_after_secs=7)).held_secs == 7
    assert outcome(INITIALIZE, Answered(503, retry_after_secs=7)).held_secs == 7
    assert outcome(CALL, Answered(500, retry_after_secs=7)).held_secs is None


@pytest.mark.parametrize("status", [400, 404, 405])
def test_another_way_is_looked_for_only_where_the_request_was_not_understood(status: int) -> None:
    assert outcome(INITIALIZE, Answered(status)).unserved
    assert outcome(DISCOVER, Answered(status)).unserved
    assert not outcome(INITIALIZE, Answered(status, reply=True)).unserved
    assert not outcome(NOTE, Answered(status)).unserved
    assert not outcome(INITIALIZE, Answered(500)).unserved


@given(
    st.builds(
        Asked,
        st.sampled_from(["tools/call", "completion/complete"]),
        st.just(True),
        session=st.booleans(),
        renewed=st.booleans(),
        waited=st.booleans(),
        spared=st.booleans(),
    ),
    st.builds(
        Answered,
        st.integers(200, 599),
        st.sampled_from([JSON, EVENTS, "text/html", ""]),
        st.none() | st.floats(0, 1e9),
        reply=st.booleans(),
        ours=st.booleans(),
        about_session=st.sampled_from(AboutSession),
        compressed=st.sampled_from(["", "br"]),
    ),
)
def test_what_may_have_run_is_sent_again_only_when_the_server_did_not_look_at_it(
    asked: Asked, answered: Answered
) -> None:
    do = outcome(asked, answered).do
    if do is Do.WAIT:
        assert answered.status == 429
        assert not asked.waited
    if do is Do.RENEW:
        assert asked.session
        assert not asked.renewed
        not_ours = answered.status == 404 and not answered.ours
        refused = answered.about_session is REFUSED
        assert refused or not_ours or (answered.status == 401 and asked.spared)


# --- redirects

URL = "https://example.com/mcp?key=SECRET"


@pytest.mark.parametrize(
    ("status", "location", "target"),
    [
        (307, "/mcp/", "https://example.com/mcp/"),
        (308, "https://example.com/other#x", "https://example.com/other"),
        (308, "https://EXAMPLE.com:443/other", "https://EXAMPLE.com:443/other"),
        (307, "https://me:SECRET@example.com/mcp/", "https://example.com/mcp/"),
        (308, "//me@example.com/mcp/", "https://example.com/mcp/"),
        (307, "https://evil.example/mcp", None),
        (307, "https://example.com:pw@evil.example/mcp", None),
        (307, "http://example.com/mcp", None),
        (307, "https://example.com:444/mcp", None),
        (307, "//evil.example/mcp", None),
        (307, "file:///etc/passwd", None),
        (307, "javascript:alert(1)", None),
        (307, "https://example.com@evil.example/", None),
        (307, "https://[::1", None),
        (307, "", None),
        (307, None, None),
        (301, "/mcp/", None),
        (302, "/mcp/", None),
        (303, "/mcp/", None),
    ],
)
def test_only_redirects_within_the_origin_that_keep_the_method_are_followed(
    status: int, location: str | None, target: str | None
) -> None:
    assert redirect_target(status, location, URL, hops=0) == target
    assert redirect_target(status, location, URL, hops=3) is None


@pytest.mark.parametrize(
    ("location", "url", "words"),
    [
        (
            "https://other.example/p",
            URL,
            "redirects to https://other.example/p; "
            'if that is the server, write url = "https://other.example/p" in its entry',
        ),
        (
            "/mcp/",
            URL,
            'redirects to https://example.com/mcp/; if that is the server, write url = "https://example.com/mcp/"',
        ),
        (
            "/login?next=/mcp&x",
            URL,
            "redirects to https://example.com/login?next=[REDACTED]&[REDACTED]; if that is the server",
        ),
        ("https://me:pw@b.example/p#f", URL, "redirects to https://b.example/p; if"),
        (
            "http://example.com/mcp/",
            "https://example.com:8443/mcp",
            "redirects to http://example.com/mcp/, which is plain http: nothing is sent there; a proxy before it does "
            "not tell it that it is reached by https (X-Forwarded-Proto): "
            'write url = "https://example.com:8443/mcp/" in its entry',
        ),
        ("http://b.example/mcp", URL, "redirects to http://b.example/mcp, which is plain http: nothing is sent there"),
        ("http://b.example/mcp", "http://a.example/mcp", "redirects to http://b.example/mcp, which is plain http"),
        (
            "https://a.example/mcp",
            "http://a.example/mcp",
            "redirects to https://a.example/mcp; if that is the server, write",
        ),
        (
            "/mcp/",
            "http://a.example/mcp",
            "redirects to http://a.example/mcp/; if that is the server, that is what its url has to be",
        ),
        (
            "http://u:SECRET@a.example/b?k=SECRET",
            "http://a.example/mcp",
            "redirects to http://a.example/b?k=[REDACTED]; if that is the server, that",
        ),
        ("https://[::1", URL, "redirects to an unreadable address"),
        ("javascript:alert(1)", URL, "redirects to an unreadable address"),
        (None, URL, "redirects, and does not say where to"),
    ],
)
def test_a_redirect_is_told_with_the_line_to_write_and_without_what_it_holds(
    location: str | None, url: str, words: str
) -> None:
    said = redirect_words(location, url)
    assert said.startswith(words)
    assert 'url = "http:' not in said
    assert "SECRET" not in said


@given(st.text(max_size=400), st.sampled_from([URL, "http://a.example/mcp", "https://a.example:444/mcp?k=SECRET"]))
def test_wherever_it_leads_nobody_is_told_to_write_plain_http(location: str, url: str) -> None:
    for target in (location, "http://" + location, "https://a/" + location):
        said = redirect_words(target, url)
        assert 'url = "http:' not in said
        assert said.isprintable()
        assert len(said) < 1000


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("application/json", "application/json"),
        (" Text/Event-Stream;charset=utf-8", "text/event-stream"),
        ("text/html\x1b[31m", ""),
        ("x" * 100 + "/y", ""),
        (None, ""),
        ("json", ""),
    ],
)
def test_a_media_type_is_plain_or_nothing(field: str | None, kind: str) -> None:
    assert media_type(field) == kind


# --- replies

REPLIES = [
    b'{"jsonrpc":"2.0","id":7,"result":{}}',
    b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}',
    b'{"result":{"id":8,"method":"x"},"jsonrpc":"2.0","id":7}',
    b'{"error":{},"jsonrpc":"2.0","id":7}',
    b' {"id" : 7, "result":{"method":1}, "jsonrpc":"2.0"}',
    b'{"jsonrpc":"2.0","id":"7","result":{}}',
    b'{"jsonrpc":"2.0","id":7.0,"result":{}}',
    b'[{"jsonrpc":"2.0","method":"x"},{"jsonrpc":"2.0","id":7,"result":{}}]',
    b'{"jsonrpc":"2.0","result":"\\ud83d","id":7}',
    b'{"jsonrpc":"2.0","result":"\xff","id":7}',
]
OTHERS = [
    b'{"jsonrpc":"2.0","id":70,"result":{}}',
    b'{"jsonrpc":"2.0","id":7,"method":"ping"}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"id":7}}',
    b'{"result":{"x":1},"jsonrpc":"2.0","id":77}',
    b'{"jsonrpc":"2.0","id":"seven","result":{}}',
    b'{"jsonrpc":"2.0","id":null,"error":{}}',
    b'{"jsonrpc":"2.0","error":{}}',
    b'{"jsonrpc":"2.0","id":7.5,"result":{}}',
    b"",
    b"[]",
    b"{",
    b"7",
]


@pytest.mark.parametrize("message", REPLIES)
def test_a_reply_is_recognized_however_it_is_written(message: bytes) -> None:
    assert answers(message, 7)


@pytest.mark.parametrize("message", OTHERS)
def test_what_is_no_reply_is_not_taken_for_one(message: bytes) -> None:
    assert not answers(message, 7)


def test_a_reply_to_an_id_of_text_is_recognized() -> None:
    assert answers(b'{"jsonrpc":"2.0","id":"own-1","result":{}}', "own-1")
    assert answers(b'{"result":{},"id":"own-1","jsonrpc":"2.0"}', "own-1")
    assert not answers(b'{"jsonrpc":"2.0","id":1,"result":{}}', "own-1")


@given(st.binary(max_size=200))
def test_nothing_raises_whatever_the_bytes(data: bytes) -> None:
    answers(data, 7)
    error_reply(data, 7)
    about_session(data, 7)
    succeeds(data)


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.sampled_from(["id", "method", "jsonrpc", "result", "x"]), inner, max_size=4),
    max_leaves=8,
)


@given(JSON_VALUES, st.booleans(), st.booleans())
def test_the_short_cuts_agree_with_reading_all_of_it(payload: object, compact: bool, mine: bool) -> None:
    id = 7 if mine else 8
    reply = {"result": payload, "jsonrpc": "2.0", "id": id}
    separators = (",", ":") if compact else (", ", ": ")
    for message in (reply, {"jsonrpc": "2.0", "id": id, "result": payload}):
        assert answers(json.dumps(message, separators=separators).encode(), 7) == mine


@pytest.mark.parametrize("id", [None, "server-error", 99, 7])
def test_an_error_under_any_id_answers_the_request_it_came_for(id: object) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "m"}}).encode()
    reply = error_reply(body, 7)
    assert reply is not None
    assert json.loads(reply) == {"jsonrpc": "2.0", "id": 7, "error": {"code": -32000, "message": "m"}}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"error":"invalid_token"}',
        b'{"jsonrpc":"2.0","id":8,"result":{}}',
        b'{"jsonrpc":"2.0","id":7,"method":"x"}',
        b'{"jsonrpc":"2.0","id":null,"error":"text"}',
    ],
)
def test_what_is_no_json_rpc_error_answers_nothing(body: bytes) -> None:
    assert error_reply(body, 7) is None


def _refusal(message: str, id: object = None, code: int = -32000, **more: object) -> bytes:
    error = {"code": code, "message": message}
    return json.dumps({"jsonrpc": "2.0", "id": id, "error": error, **more}).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (_refusal("Bad Request: No valid session ID provided"), REFUSED),
        (_refusal("Bad Request: Server not initialized"), REFUSED),
        (_refusal("Session not found", "server-error", -32600), REFUSED),
        (_refusal("Session not found", 99, -32001), REFUSED),
        (_refusal("Missing session ID", "0"), REFUSED),
        (b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"Invalid session ID."}}', REFUSED),
        # under our id, whoever wrote it has read the request
        (_refusal("Session not found", 7), HINTED),
        (_refusal("Session not found", "7"), HINTED),
        # other words than those of the SDKs, and words that no JSON-RPC is around
        (_refusal("the browser session expired"), HINTED),
        (_refusal("no open session for this account", 7, -32600), HINTED),
        (b"Bad Request: No valid session ID provided", HINTED),
        (b'{"error":{"code":-32000,"message":"Session not found"}}', HINTED),
        (b'{"error":"session not found"}', HINTED),
        (_refusal("session is a required argument", code=-32602), AboutSession.NOTHING),
        (_refusal("session not found", code=-32603), AboutSession.NOTHING),
        (_refusal("Bad Request: unsupported protocol version"), AboutSession.NOTHING),
        (b"", AboutSession.NOTHING),
    ],
)
def test_what_an_error_says_of_the_session(body: bytes, said: AboutSession) -> None:
    assert about_session(body, 7) is said
