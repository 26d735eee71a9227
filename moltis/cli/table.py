"""Plain aligned columns, in colour where there is any: the same look on a terminal and in a pipe.

Pure. Ours because importing a table library costs more time than all the rest of `moltis status`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
"""ECMA-48 SGR parameters, section 8.3.117: the eight colours follow the terminal's own theme."""

GAP = "  "
LEAST_WIDTH = 12
"""A column is not cut below this: less says nothing."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One field and how it is painted."""

    text: str
    style: str = ""


def paint(text: str, style: str, colour: bool) -> str:
    """Return the text in that style, or as it is when there is no colour."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if colour and style and text else text


def display_width(text: str) -> int:
    """Return the columns that a terminal needs for the text: East Asian wide characters take two, combining none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int) -> str:
    """Return the text, or as much of it as fits with `...` after it."""
    if display_width(text) <= width:
        return text
    kept, used = "", 0
    for character in text:
        used += display_width(character)
        if used > width - 3:
            break
        kept += character
    return kept.rstrip() + "..."


def render(
    header: Sequence[str],
    rows: Sequence[Sequence[str | Cell]],
    *,
    width: int | None = None,
    shrink: int | None = None,
    colour: bool = False,
) -> list[str]:
    """Return the lines of a table.

    Args:
        header: the names of the columns.
        rows: as many cells each.
        width: columns to fit into; None for as many as it takes.
        shrink: the one column that may be cut to fit; the others hold names and commands that people copy.
        colour: whether cells are painted.
    """
    cells = [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in rows]
    widths = [max(display_width(t) for t in (h, *(r[i].text for r in cells))) for i, h in enumerate(header)]
    if width is not None and shrink is not None:
        over = sum(widths) + len(GAP) * (len(widths) - 1) - width
        widths[shrink] -= max(0, min(over, widths[shrink] - LEAST_WIDTH))
    lines = [_line([Cell(h, "bold") for h in header], widths, colour)]
    lines += [
        _line([Cell(cut(c.text, w), c.style) for c, w in zip(r, widths, strict=True)], widths, colour) for r in cells
    ]
    return lines


def _line(row: Sequence[Cell], widths: Sequence[int], colour: bool) -> str:
    last = max((i for i, cell in enumerate(row) if cell.text), default=-1)
    parts = []
    for i, cell in enumerate(row[: last + 1]):
        padding = "" if i == last else " " * (widths[i] - display_width(cell.text))
        parts.append(paint(cell.text, cell.style, colour) + padding)
    return GAP.join(parts)
