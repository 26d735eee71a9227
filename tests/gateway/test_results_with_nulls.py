"""What a server answers may have nulls where MCP has no member: hosts on the SDKs refuse the whole result for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway.revisions import MODERN, result_for

OLDEST = "2024-11-05"
NAMES = st.sampled_from(["content", "annotations", "_meta", "resource", "title", "text", "type"])


@pytest.mark.parametrize(
    ("method", "sent", "made"),
    [
        ("tools/call", {"content": None}, {"content": []}),
        ("tools/call", {"content": None, "isError": None, "_meta": None}, {"content": []}),
        (
            "tools/call",
            {"content": [{"type": "text", "text": "null", "annotations": None, "_meta": None}], "isError": False},
            {"content": [{"type": "text", "text": "null"}], "isError": False},
        ),
        (
            "tools/call",
            {"content": [{"type": "resource", "resource": {"uri": "a:b", "text": "t", "mimeType": None}}]},
            {"content": [{"type": "resource", "resource": {"uri": "a:b", "text": "t"}}]},
        ),
        (
            "prompts/get",
            {
                "description": None,
                "messages": [{"role": "user", "content": {"type": "text", "text": "", "_meta": None}}],
            },
            {"messages": [{"role": "user", "content": {"type": "text", "text": ""}}]},
        ),
        (
            "resources/read",
            {"contents": [{"uri": "a:b", "mimeType": None, "text": "t", "_meta": None}]},
            {"contents": [{"uri": "a:b", "text": "t"}]},
        ),
        ("resources/read", {"contents": None}, {"contents": []}),
    ],
)
@pytest.mark.parametrize("revision", [OLDEST, MODERN])
def test_what_is_null_and_may_be_absent_is_left_out_of_a_result(
    method: str, sent: object, made: object, revision: str
) -> None:
    assert json.loads(result_for(method, json.dumps(sent).encode(), revision)) == made


@pytest.mark.parametrize(
    "result",
    [
        b'{"content": [{"type":"text","text":"{\\"title\\": null}"}]}',
        b'{"content":[],"structuredContent":{"title": null, "content":null}}',
        b'{"content":[{"type":"text","text":null}]}',
        b'{"content":[null, "x", 5], "_meta": {"x": null}}',
        b'{"content":{"title":null}}',
        b'{"content":"a null"}',
    ],
)
def test_any_other_null_passes_byte_for_byte(result: bytes) -> None:
    assert result_for("tools/call", result, MODERN) is result


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read"])
@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner))
)
def test_no_nulls_anywhere_make_it_raise_or_lose_what_is_not_null(method: str, content: object) -> None:
    result = json.dumps({"content": content, "messages": content, "contents": content, "kept": 1}).encode()
    assert json.loads(result_for(method, result, MODERN))["kept"] == 1
