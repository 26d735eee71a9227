"""Other people's text among ours."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.printable import indented, json_text, one_line, printable

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("naïve 漢字 👍", "naïve 漢字 👍"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("\x7f", "\\x7f"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("a\u200bb\u200d\ufeff", "a\\u200bb\\u200d\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("a\u2028b", "a\\u2028b"),
        ("a\tb\nc", "a\tb\nc"),
        ("10\u00a0000", "10\u00a0000"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_nothing_unseen_is_left(text: str) -> None:
    assert not [c for c in printable(text) if unicodedata.category(c) in UNSEEN and c not in "\n\t"]
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not [c for c in line if unicodedata.category(c) in UNSEEN]


def test_a_line_of_a_stack_trace_keeps_its_blanks() -> None:
    assert indented("    at x\t y  \r\n") == "    at x         y"


@given(st.text())
def test_an_indented_line_is_one_line_that_can_be_seen(text: str) -> None:
    line = indented(text)
    assert len(line.splitlines()) <= 1
    assert not [c for c in line if unicodedata.category(c) in UNSEEN]


def test_white_space_of_any_kind_is_one_blank() -> None:
    assert one_line(" a\n\n  b\r\n\tc\u2028d\x0be ") == "a b c d e"


@given(st.recursive(st.text() | st.none() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_a_json_document_means_the_same(value: object) -> None:
    for indent in (None, 2):
        shown = json_text(json.dumps(value, ensure_ascii=False, indent=indent))
        assert json.loads(shown) == value
        assert not [c for c in shown if unicodedata.category(c) in UNSEEN and c not in "\n"]
