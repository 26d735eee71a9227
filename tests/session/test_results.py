"""Whether a tool's result says `isError`, found without parsing what cannot say so, and never wrong."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.session.results import found_by, says_error


@pytest.mark.parametrize(
    "result",
    [
        b'{"isError":true}',
        b'{"content":[{"type":"text","text":"no"}],"isError":true}',
        b'{ "isError" :\t\r\n true , "content" : [ ] }',
        b'{"content":[{"isError":false}],"isError":true}',
        b'{"isError":false,"isError":true}',
        b'{"is\\u0045rror":true,"content":[]}',
        b'{"\\u0069sErr\\u006Fr":true}',
        b'{"isError":"true","isError":true}',
        b'\n{"isError":true}\n',
    ],
)
def test_a_result_that_says_error_is_one(result: bytes) -> None:
    assert says_error(result)


@pytest.mark.parametrize(
    "result",
    [
        b"{}",
        b'{"isError":false}',
        b'{"isError":"true"}',
        b'{"isError":1}',
        b'{"isError":[true]}',
        b'{"iserror":true}',
        b'{"isErrors":true}',
        b'{"is_error":true}',
        b'{"isError":true,"isError":false}',
        b'{"structuredContent":{"isError":true}}',
        b'{"content":[{"type":"text","text":"{\\"isError\\":true}"}]}',
        b'{"content":[{"type":"text","text":"x\\\\","isError":true}],"isError":false}',
        b'{"_meta":{"isError":true},"isError":null}',
        b'{"text":"is\\u0045rror","isError":false}',
        b'[{"isError":true}]',
        b'"isError"',
        b"null",
        b"true",
        b"",
    ],
)
def test_what_only_looks_like_it_is_none(result: bytes) -> None:
    assert not says_error(result)


@pytest.mark.parametrize(
    "before", ["", "E", "EEE", "E" * 31, "E" * 32, "E" * 5000, '"isError":true' * 40, "x" * 100_000]
)
@pytest.mark.parametrize("says", [True, False])
def test_it_is_found_behind_whatever_the_tool_says(before: str, says: bool) -> None:
    text = {"content": [{"type": "text", "text": before}]}
    assert says_error(json.dumps({**text, "isError": says}).encode()) is says
    assert says_error(json.dumps({"isError": says, **text}).encode()) is says
    assert not says_error(json.dumps(text).encode())


_TEXT = st.sampled_from(["isError", "true", '"isError":true', "é", 'a"b', "\\", "x"]) | st.text(max_size=8)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(_VALUE, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_it_is_what_a_parser_finds(value: Any, ascii: bool, separators: tuple[str, str]) -> None:
    raw = json.dumps(value, ensure_ascii=ascii, separators=separators).encode("utf-8", "surrogatepass")
    if "\\ud" in raw.decode("utf-8", "replace"):
        return  # half a pair has been mended before
    expected = isinstance(value, dict) and value.get("isError") is True
    assert says_error(raw) is expected


@pytest.mark.parametrize("deep", [b'{"a":%b,"isError":true}' % (b"[" * 100_000 + b"]" * 100_000), b"[" * 100_000])
def test_whatever_it_is_nothing_is_raised(deep: bytes) -> None:
    assert says_error(deep) in (True, False)


@given(
    st.lists(st.sampled_from([b'"structuredContent"', b"C", b'"structuredConten', b'tContent"', b"x" * 9]), max_size=90)
)
def test_a_name_is_found_wherever_it_is_by_its_rarest_letter(pieces: list[bytes]) -> None:
    text, key = b"".join(pieces), b'"structuredContent"'
    assert list(found_by(b"C", key, text)) == [found.start() for found in re.finditer(re.escape(key), text)]
