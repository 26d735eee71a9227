"""Random TOML 1.1 texts, spelled in every way the grammar allows; used by the tests of scanning and of editing."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

KEYS = st.sampled_from(["a", "b", "c-1", "D_e", "9", "with space", "é", "dot.ted", 'quo"te', "", "=", "#", "[x]", "'"])
SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["#", "'''", '"""', "\\", "a\nb", "]", "}", ",", "= 1", "[a]", "\t", "\x7f", '""', "''"]),
)
SPACE = st.sampled_from(["", " ", "\t", "  "])
COMMENT = st.sampled_from(["", "", "# x", '# "', "# ]", "# '''", '#"""', "# [mcp]", "#a = 1"])


def basic(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@st.composite
def key_text(draw: st.DrawFn, key: str) -> str:
    forms = [basic(key), '"' + "".join(f"\\U{ord(c):08X}" for c in key) + '"']
    if "'" not in key:
        forms.append(f"'{key}'")
    if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key):
        forms += [key] * 4
    return draw(st.sampled_from(forms))


@st.composite
def string_text(draw: st.DrawFn, text: str) -> str:
    forms = [basic(text), '"""' + basic(text)[1:-1] + '"""']
    if "\r" not in text:
        quotes = text.replace("\\", "\\\\").replace('"""', '""\\"')
        if all(c in "\n\t" or (ord(c) >= 32 and c != "\x7f") for c in quotes) and not quotes.endswith('"'):
            forms.append(f'"""\n{quotes}"""')
        if all(c == "\t" or (ord(c) >= 32 and c not in "\x7f'") for c in text):
            forms.append(f"'{text}'")
        if all(c in "\n\t" or (ord(c) >= 32 and c != "\x7f") for c in text) and "'''" not in text and text[-1:] != "'":
            forms.append(f"'''\n{text}'''")
    return draw(st.sampled_from(forms))


@st.composite
def value_text(draw: st.DrawFn, value: Any) -> str:
    gap = st.sampled_from(["", " ", "\n", " # c ]}\n", "\n\n  "])
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return draw(string_text(value))
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case int():
            return draw(st.sampled_from([str(value), f"+{value}" if value >= 0 else str(value)]))
        case list():
            items = [draw(gap) + draw(value_text(v)) + draw(gap) for v in value]
            return "[" + ",".join(items) + ("," if bool(items) and draw(st.booleans()) else "") + draw(gap) + "]"
        case _:
            pairs = [
                draw(gap) + draw(key_text(k)) + draw(SPACE) + "=" + draw(SPACE) + draw(value_text(v)) + draw(gap)
                for k, v in value.items()
            ]
            return "{" + ",".join(pairs) + ("," if bool(pairs) and draw(st.booleans()) else "") + draw(gap) + "}"


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
TABLES = st.dictionaries(KEYS, st.one_of(VALUES, st.dictionaries(KEYS, VALUES, max_size=3)), max_size=5)


@st.composite
def documents(draw: st.DrawFn, tables: st.SearchStrategy[dict[str, Any]] = TABLES) -> str:
    """Draw the text of some tables: each as a section, an array of sections, dotted keys, or inline."""
    table = draw(tables)
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    lines: list[str] = []
    sections: list[tuple[list[str], dict[str, Any], bool]] = []

    def statement(path: list[str], value: Any) -> None:
        keys = draw(SPACE) + (draw(SPACE) + "." + draw(SPACE)).join(draw(key_text(k)) for k in path)
        lines.append(f"{keys}{draw(SPACE)}={draw(SPACE)}{draw(value_text(value))}{draw(SPACE)}{draw(COMMENT)}")

    def body(path: list[str], own: dict[str, Any]) -> None:
        for key, value in own.items():
            is_tables = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
            form = draw(st.sampled_from(["inline", "section", "dotted"]))
            if isinstance(value, dict) and form == "section":
                sections.append(([*path, key], value, False))
            elif is_tables and form == "section":
                sections.extend(([*path, key], v, True) for v in value)
            elif isinstance(value, dict) and value and form == "dotted":
                for inner, v in value.items():
                    statement([key, inner], v)
            else:
                statement([key], value)
            if draw(st.booleans()):
                lines.append(draw(SPACE) + draw(COMMENT))

    body([], table)
    while sections:
        path, own, in_array = sections.pop(0)
        keys = draw(SPACE) + (draw(SPACE) + "." + draw(SPACE)).join(draw(key_text(k)) for k in path) + draw(SPACE)
        brackets = ("[[", "]]") if in_array else ("[", "]")
        lines.append(f"{draw(SPACE)}{brackets[0]}{keys}{brackets[1]}{draw(SPACE)}{draw(COMMENT)}")
        rest, sections = sections, []
        body(path, own)
        # The sections of an element of an array must come before the next element.
        sections += rest
    text = newline.join(lines)
    return text + newline if draw(st.booleans()) else text
