"""Other people's text among ours."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable

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


MEBI = 1024 * 1024
ENOUGH_SECS = 0.2
"""For a mebibyte of anything, on a slow machine: judging each character by itself takes three times as long."""


@pytest.mark.parametrize(
    "text",
    [
        "\x01" * MEBI,
        "a\x1b" * (MEBI // 2),
        "".join(map(chr, [*range(32), 127])) * (MEBI // 33),
        "\u202e" * (MEBI // 3),
        "漢字\n" * (MEBI // 7),
        "".join(map(chr, range(0xF0000, 0xF0000 + 4096))) * (MEBI // 4096 // 4),
        "\ud800" * (MEBI // 3),
    ],
    ids=["one control", "every second", "all controls", "bidi", "lines of Chinese", "private use", "surrogates"],
)
@pytest.mark.parametrize("clean", [printable, one_line, indented, json_text])
def test_a_mebibyte_of_what_cannot_be_seen_holds_nobody_up(clean: Callable[[str], str], text: str) -> None:
    began = time.thread_time()
    clean(text)
    assert time.thread_time() - began < ENOUGH_SECS


@pytest.mark.parametrize("clean", [printable, json_text])
def test_each_character_is_escaped_as_it_is_alone(clean: Callable[[str], str]) -> None:
    """All of the BMP; beyond it, of 256 in a row of one category (private, not assigned), the first and last four."""
    blocks = ["".join(map(chr, range(at, at + 256))) for at in range(0, 0x110000, 256)]
    alike = [n >= 0x100 and len(set(map(unicodedata.category, block))) == 1 for n, block in enumerate(blocks)]
    text = "".join(block[:4] + block[-4:] if same else block for block, same in zip(blocks, alike, strict=True))
    assert len(text) > 0x10000 + 8 * 0x1000
    assert clean(text) == "".join(map(clean, text))
