from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared import inbound

from moltis.transport import Outgoing
from moltis.transport.remote.headers import (
    BadSessionId,
    checked_session_id,
    encode_header_value,
    post_headers,
    stream_headers,
)

MODERN = "2026-07-28"
BASE = [("Accept", "application/json, text/event-stream"), ("Content-Type", "application/json")]


def test_the_first_message_carries_what_every_post_does() -> None:
    assert post_headers(Outgoing(1, "initialize"), None) == BASE


def test_later_messages_name_session_and_version() -> None:
    expected = [*BASE, ("Mcp-Session-Id", "s"), ("MCP-Protocol-Version", "2025-11-25")]
    assert post_headers(Outgoing(2, "tools/call", "t", "2025-11-25"), "s") == expected
    assert post_headers(Outgoing(version="2025-11-25"), "s") == expected  # an answer to the server


def test_from_2026_07_28_on_method_name_and_marked_arguments_are_repeated() -> None:
    about = Outgoing(2, "tools/call", "größe", MODERN, (("Mcp-Param-Region", "eu"),))
    assert post_headers(about, None) == [
        *BASE,
        ("MCP-Protocol-Version", MODERN),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "=?base64?Z3LDtsOfZQ==?="),
        ("Mcp-Param-Region", "eu"),
    ]


@pytest.mark.parametrize("method", ["server/discover", "tools/list", "subscriptions/listen"])
def test_a_name_goes_with_the_methods_that_have_one(method: str) -> None:
    assert "Mcp-Name" not in dict(post_headers(Outgoing(1, method, None, MODERN), None))
    for named in inbound.NAME_BEARING_METHODS:
        assert dict(post_headers(Outgoing(1, named, "n", MODERN), None))["Mcp-Name"] == "n"


def test_a_modern_server_takes_the_headers_for_the_message_they_go_with() -> None:
    name = " Ünï\ncode "
    about = Outgoing(1, "prompts/get", name, MODERN)
    headers = {key.lower(): value for key, value in post_headers(about, None)}
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {"name": name, "_meta": meta}}
    assert isinstance(inbound.classify_inbound_request(body, headers=headers), inbound.InboundModernRoute)


def test_a_stream_is_asked_for_from_where_the_last_one_ended() -> None:
    assert stream_headers(None, None) == [("Accept", "text/event-stream")]
    assert stream_headers("2025-11-25", "s", "7") == [
        ("Accept", "text/event-stream"),
        ("Mcp-Session-Id", "s"),
        ("MCP-Protocol-Version", "2025-11-25"),
        ("Last-Event-ID", "7"),
    ]
    assert stream_headers("2025-11-25", None, "") == stream_headers("2025-11-25", None)


@pytest.mark.parametrize("value", ["a", "!~", "x" * 4096])
def test_a_session_id_of_visible_ascii_is_taken(value: str) -> None:
    assert checked_session_id(value) == value


@pytest.mark.parametrize("value", [" ", "a b", "a\r\nX: y", "ä", "a\x7f", "a\n", "x" * 4097])
def test_any_other_session_id_is_refused_and_not_quoted(value: str) -> None:
    with pytest.raises(BadSessionId) as caught:
        checked_session_id(value)
    assert str(caught.value) == "its session id is not 1 to 4096 visible ASCII characters"


@pytest.mark.parametrize("value", [None, ""])
def test_no_session_id_is_fine(value: str | None) -> None:
    assert checked_session_id(value) is None


@given(
    st.one_of(
        st.text(),
        st.text(alphabet=" \t\n\r=?base64abc~\x7f\0é", max_size=12),
        st.from_regex(r"=\?base64\?.*\?=", fullmatch=True),
    )
)
def test_values_are_encoded_as_the_reference_encodes_them(value: str) -> None:
    encoded = encode_header_value(value)
    assert encoded == inbound.encode_header_value(value)
    assert inbound.decode_header_value(encoded) == value
    assert encoded.isascii()
    assert encoded.isprintable()
    assert encoded == encoded.strip()


def test_a_lone_surrogate_is_no_fault() -> None:
    assert encode_header_value("\ud83d") == "=?base64?Pw==?="
