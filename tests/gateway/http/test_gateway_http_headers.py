"""What 2026-07-28 wants of headers, next to what the reference implementation makes of the same requests."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from gateway_http_fakes import ENVELOPE, MODERN, modern, request
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared import inbound
from mcp_types.jsonrpc import UNSUPPORTED_PROTOCOL_VERSION

from moltis.access import Access
from moltis.gateway.http.application import MCP_PATHS
from moltis.gateway.http.modern import decoded, has_arguments, mirrored_refusal_of, refusal_of
from moltis.gateway.http.plain import nothing
from moltis.gateway.http.reading import Accepts, is_json, repeated
from moltis.gateway.messages import Ask, parse
from moltis.gateway.refusals import status_of
from moltis.httpd.router import Route, Router

CALL = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "echo"}
READ = {"mcp-protocol-version": MODERN, "mcp-method": "resources/read", "mcp-name": "=?base64?w7w=?="}
NO_CAPABILITIES = {"io.modelcontextprotocol/protocolVersion": MODERN}


def ask_of(body: dict[str, Any]) -> Ask:
    ask = parse(json.dumps(body).encode())
    assert isinstance(ask, Ask)
    return ask


def encoded(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode("latin-1") for name, value in headers.items()}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (modern("tools/call", {"name": "echo"}), CALL),
        (modern("resources/read", {"uri": "ü"}), READ),
        (modern("tools/call", {"name": "echo"}), {**CALL, "mcp-name": "=?base64?ZWNobw==?="}),
        (modern("tools/list"), {**CALL, "mcp-method": "tools/list"}),
        (modern("tools/call", {"name": "echo"}), {**CALL, "mcp-name": "other"}),
        (modern("tools/call", {"name": "echo"}), {**CALL, "mcp-name": "=?base64?ZWNobw=?="}),
        (modern("tools/call", {"name": "echo"}), {**CALL, "mcp-name": "=?base64?ZWNobx==?="}),
        (modern("tools/call", {"name": "echo"}), {**CALL, "mcp-method": "tools/list"}),
        (modern("tools/call", {"name": "echo"}), {"mcp-protocol-version": MODERN, "mcp-method": "tools/call"}),
        (modern("tools/call", {"name": "echo"}), {"mcp-protocol-version": MODERN, "mcp-name": "echo"}),
        (modern("tools/call", {"name": "echo"}), {"mcp-method": "tools/call", "mcp-name": "echo"}),
        (modern("tools/call", {"name": "echo"}), {**CALL, "mcp-protocol-version": "2025-11-25"}),
        (modern("tools/call", {}), CALL),
        (request("tools/call", {"name": "echo"}), CALL),
        (request("tools/call", {"name": "echo", "_meta": NO_CAPABILITIES}), CALL),
        (request("tools/call", {"name": "echo", "_meta": {}}), CALL),
        (modern("tools/call", {"name": "echo"}, **{"io.modelcontextprotocol/protocolVersion": None}), CALL),
        (modern("tools/call", {"name": "echo"}, **{"io.modelcontextprotocol/protocolVersion": 7}), CALL),
    ],
)
def test_a_request_is_refused_as_the_reference_refuses_it(body: dict[str, Any], headers: dict[str, str]) -> None:
    refusal = refusal_of(ask_of(body), encoded(headers))
    verdict = inbound.classify_inbound_request(body, headers=headers)
    expected = verdict.code if isinstance(verdict, inbound.InboundLadderRejection) else None
    assert (refusal.code if refusal else None) == expected
    if refusal:
        assert refusal.status == inbound.ERROR_CODE_HTTP_STATUS[refusal.code] == 400
        assert "echo" not in refusal.message, "what was sent is not sent back"


def test_a_request_that_contradicts_itself_is_told_so_before_its_version_is_looked_at() -> None:
    later: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}
    body = modern("ping", **later)
    headers = {"mcp-protocol-version": "2099-01-01", "mcp-method": "ping"}
    verdict = inbound.classify_inbound_request(body, headers=headers)
    assert isinstance(verdict, inbound.InboundLadderRejection)
    assert verdict.code == UNSUPPORTED_PROTOCOL_VERSION
    assert refusal_of(ask_of(body), encoded(headers)) is None, "the host says it, for all fronts"
    assert refusal_of(ask_of(body), encoded({**headers, "mcp-method": "pong"})) is not None


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name"])
def test_a_routing_header_that_is_there_twice_is_a_mismatch(name: str) -> None:
    lines = [(name.encode(), b"x"), (b"accept", b"a"), (b"accept", b"b"), (name.encode(), b"x")]
    assert repeated(lines) == {name.encode(), b"accept"}
    refusal = refusal_of(ask_of(modern("tools/call", {"name": "echo"})), encoded(CALL), repeated(lines))
    assert refusal is not None
    assert refusal.code == -32020


def test_status_codes_are_those_of_the_reference() -> None:
    for code in [*inbound.ERROR_CODE_HTTP_STATUS, -32603, -32001, 7]:
        assert status_of(code, modern=True) == inbound.ERROR_CODE_HTTP_STATUS.get(code, 200)


@given(st.text(max_size=30))
def test_any_value_comes_back_from_its_encoding(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert decoded(inbound.encode_header_value(text).encode("latin-1")) == text


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(str.encode)


@given(PRINTABLE | PRINTABLE.map(lambda inner: b"=?base64?%b?=" % inner))
def test_a_value_is_decoded_as_the_reference_decodes_it(value: bytes) -> None:
    assert decoded(value) == inbound.decode_header_value(value.decode("latin-1"))


def test_a_value_that_is_no_ascii_at_all_equals_nothing_when_it_says_that_it_is_encoded() -> None:
    assert decoded(b"=?base64?\x80?=") is None
    assert decoded(b"=?base64?gA==?=") is None, "nor does what is no UTF-8"


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "x-mcp-header": "City"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "deep": {"type": "object", "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry"}}},
        "free": {"type": "string"},
    },
}


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({}, {}),
        ({"free": "x"}, {}),
        ({"city": "Rom"}, {"Mcp-Param-City": "Rom"}),
        ({"city": "Zürich"}, {"Mcp-Param-City": "=?base64?WsO8cmljaA==?="}),
        ({"city": "Zürich"}, {"Mcp-Param-City": "=?base64?WsO8cmljaA?="}),
        ({"city": "Rom"}, {}),
        ({"city": "Rom"}, {"Mcp-Param-City": "Bern"}),
        ({"city": None}, {"Mcp-Param-City": "Rom"}),
        ({"city": None}, {}),
        ({}, {"Mcp-Param-City": "Rom"}),
        ({}, {"Mcp-Param-Other": "x"}),
        ({"count": 42}, {"Mcp-Param-Count": "42"}),
        ({"count": 42}, {"Mcp-Param-Count": "42.0"}),
        ({"count": 42.0}, {"Mcp-Param-Count": "42"}),
        ({"count": 42}, {"Mcp-Param-Count": "42.5"}),
        ({"count": 42}, {"Mcp-Param-Count": "4.2e1"}),
        ({"count": -1}, {"Mcp-Param-Count": "-1"}),
        ({"deep": {"dry": True}}, {"Mcp-Param-Dry": "true"}),
        ({"deep": {"dry": True}}, {"Mcp-Param-Dry": "True"}),
        ({"deep": 1}, {"Mcp-Param-Dry": "true"}),
        ({"city": ["Rom"]}, {}),
        ({"city": ["Rom"]}, {"Mcp-Param-City": "Rom"}),
    ],
)
def test_mirrored_arguments_are_compared_as_the_reference_compares_them(
    arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    tool = json.dumps({"name": "t", "inputSchema": SCHEMA}).encode()
    refusal = mirrored_refusal_of(tool, msgspec.Raw(json.dumps(arguments).encode()), encoded(headers))
    verdict = inbound.validate_mcp_param_headers(SCHEMA, arguments, headers)
    assert (refusal is None) == (verdict is None)
    if refusal:
        assert (refusal.code, refusal.status) == (-32020, 400)


def test_a_mirrored_header_that_is_there_twice_is_refused() -> None:
    tool = json.dumps({"name": "t", "inputSchema": SCHEMA}).encode()
    refusal = mirrored_refusal_of(
        tool, msgspec.Raw(b'{"city":"Rom"}'), {b"mcp-param-city": b"Rom"}, frozenset({b"mcp-param-city"})
    )
    assert refusal is not None


def test_a_tool_that_marks_nothing_or_marks_it_wrongly_wants_no_headers() -> None:
    wrong = {"properties": {"n": {"type": "number", "x-mcp-header": "N"}}}
    for schema in ({}, wrong):
        tool = json.dumps({"name": "t", "inputSchema": schema}).encode()
        assert mirrored_refusal_of(tool, msgspec.Raw(b'{"n":1}'), {b"mcp-param-n": b"2"}) is None


def test_a_call_without_arguments_and_without_such_headers_needs_no_look_at_the_tool() -> None:
    ask = ask_of(modern("tools/call", {"name": "t"}))
    assert not has_arguments(ask, encoded(CALL))
    assert has_arguments(ask, {**encoded(CALL), b"mcp-param-x": b"1"})
    assert has_arguments(ask_of(modern("tools/call", {"name": "t", "arguments": {}})), encoded(CALL))


def test_the_envelope_that_tests_send_is_complete() -> None:
    assert set(ENVELOPE) == {f"io.modelcontextprotocol/{name}" for name in ("protocolVersion", "clientCapabilities")}


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (None, (True, False, True)),
        (b"*/*", (True, False, True)),
        (b"application/json", (True, False, False)),
        (b"application/json, text/event-stream", (True, True, False)),
        (b"Text/Event-Stream", (False, True, False)),
        (b"application/json;q=0, text/event-stream;q=0.5", (False, True, False)),
        (b"application/*;q=0.1,text/*", (True, True, False)),
        (b"text/html", (False, False, False)),
        (b"", (False, False, False)),
        (b";;,=,;q=0.0", (False, False, False)),
    ],
)
def test_accept_is_read_leniently(header: bytes | None, found: tuple[bool, bool, bool]) -> None:
    assert tuple(Accepts.of(header)) == found


@pytest.mark.parametrize(
    ("header", "json"),
    [
        (None, False),
        (b"application/json", True),
        (b"Application/JSON ; charset=utf-8", True),
        (b"text/plain", False),
        (b"application/json-seq", False),
        (b"", False),
    ],
)
def test_a_body_is_json_only_if_it_is_said_to_be(header: bytes | None, json: bool) -> None:
    assert is_json(header) is json


@pytest.mark.parametrize(
    ("path", "server"),
    [
        ("/servers/files/mcp", "files"),
        ("/servers/files/mcp/", "files"),
        ("/servers/files", None),
        ("/servers//mcp", None),
        ("/servers/a/b/mcp", "b"),
        ("/servers/a/b/c/mcp", None),
        ("/mcp/site", None),
        ("/servers/../mcp", None),
        ("/servers/" + "a" * 65 + "/mcp", None),
        ("/mcp", None),
        ("/servers/files/mcp/x", None),
        ("/servers/fi les/mcp", None),
    ],
)
def test_a_path_names_a_server_or_none(path: str, server: str | None) -> None:
    router = Router([Route(known, Access.READ, nothing) for known in MCP_PATHS], otherwise=nothing)
    assert router.find(path)[1] == server
