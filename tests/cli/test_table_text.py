"""Tables: aligned, cut only where nothing is lost that a person would copy, painted only where asked."""

from __future__ import annotations

import pytest

from moltis.cli.table import Cell, cut, display_width, render

HEADER = ("NAME", "STATUS", "ACTION")


def test_columns_are_as_wide_as_their_widest_field_and_lines_end_without_blanks() -> None:
    rows = [["a", "ready", ""], ["longer-name", "backoff, exit 1", "moltis why longer-name"]]
    assert render(HEADER, rows) == [
        "NAME         STATUS           ACTION",
        "a            ready",
        "longer-name  backoff, exit 1  moltis why longer-name",
    ]


def test_only_the_named_column_is_cut_to_fit() -> None:
    rows = [["a", "invalid, a very long story about what is wrong", "moltis config check"]]
    header, line = render(HEADER, rows, width=48, shrink=1)
    assert line.startswith("a     invalid, a")
    assert line.endswith("...  moltis config check")
    assert len(line) == 48
    assert header.index("ACTION") == line.index("moltis")


def test_a_screen_too_narrow_leaves_a_few_characters_and_every_command_whole() -> None:
    (_, line) = render(HEADER, [["a", "x" * 50, "moltis config check"]], width=10, shrink=1)
    assert line == "a     " + "x" * 9 + "...  moltis config check"


def test_nothing_is_cut_when_no_width_is_given() -> None:
    assert "x" * 500 in render(HEADER, [["a", "x" * 500, ""]], shrink=1)[1]


def test_colour_changes_no_column() -> None:
    rows: list[list[str | Cell]] = [["a", Cell("ready", "green"), "do"], ["b", Cell("no", "red"), "it"]]
    painted = render(HEADER, rows, colour=True)
    plain = render(HEADER, rows)
    assert "\x1b[32mready\x1b[0m" in painted[1]
    for style in ("1", "31", "32", "0"):
        painted = [line.replace(f"\x1b[{style}m", "") for line in painted]
    assert painted == plain


def test_a_table_without_rows_is_its_header() -> None:
    assert render(HEADER, []) == ["NAME  STATUS  ACTION"]


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("", 0)])
def test_wide_and_combining_characters_count_as_a_terminal_counts_them(text: str, width: int) -> None:
    assert display_width(text) == width


def test_a_cut_never_splits_a_wide_character() -> None:
    assert cut("日本語日本語", 8) == "日本..."
    assert cut("abcdefgh", 8) == "abcdefgh"
