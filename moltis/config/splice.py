"""A TOML text changed in some keys, every other byte kept: comments, order, spacing and line ends stay as written.

Works on the positions that `scan` finds, so that each form a key can have (section, dotted, inline table) is changed in
its own form. What it writes is TOML 1.0, for programs that share the file. It does not know what keys mean; `edit.py`
parses the result again and compares it with what was meant, so a slip here can never reach a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from moltis.config.scan import Entry, Path, Scan, scan
from moltis.patterns import later

WIDTH = 100
"""Longer lists are written one element a line, longer tables as a section of their own."""

_BARE = later(r"[A-Za-z0-9_-]+")
_BLANK_LINE = later(r"[ \t]*(?:\r?\n|\Z)")
_COMMENT_LINE = later(r"[ \t]*#[^\n]*(?:\n|\Z)")
_REST = later(r"[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z)")


class Unwritable(ValueError):
    """A value that TOML, or this module, has no form for."""


def changed(text: str, old: Mapping[str, Any], new: Mapping[str, Any], path: Path = ()) -> str:
    """Return the text whose tables are `new`, from one whose tables are `old`.

    Raises:
        Unwritable: when a value of `new` is not text, number, boolean, list or table.
    """
    for key in old:
        if key not in new:
            text = _drop(text, (*path, key))
    for key, value in new.items():
        here = (*path, key)
        if key not in old:
            text = _put(text, here, value)
        elif isinstance(value, dict) and isinstance(old[key], dict):
            text = changed(text, old[key], value, here)
        elif not same(old[key], value):
            text = _put(text if _entry(scan(text), here) else _drop(text, here), here, value)
    return text


def same(a: Any, b: Any) -> bool:
    """Compare two TOML values; unlike `==`, 1, 1.0 and true differ."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


# Values as TOML ------------------------------------------------------------------------------------------------------


def rendered(value: Any) -> str:
    """Return a value on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            # A JSON string is a TOML basic string, but for DEL and lone surrogates, which no UTF-8 file can hold.
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise Unwritable("text with a lone surrogate")
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(rendered(v) for v in value)}]"
        case dict():
            return "{ " + ", ".join(f"{_key(k)} = {rendered(v)}" for k, v in value.items()) + " }" if value else "{}"
        case _:
            raise Unwritable(f"a value of type {type(value).__name__}")


def _key(name: str | int) -> str:
    text = str(name)
    return text if _BARE.fullmatch(text) else rendered(text)


def _dotted(path: Path) -> str:
    return ".".join(_key(part) for part in path)


def _setting(path: Path, value: Any) -> str:
    line = f"{_dotted(path)} = {rendered(value)}"
    if isinstance(value, list | tuple) and len(line) > WIDTH:
        return "\n".join((f"{_dotted(path)} = [", *(f"    {rendered(v)}," for v in value), "]"))
    return line


def _section(path: Path, table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of `[path]`; tables in it that are long, or of tables themselves, become sections below it."""
    below = {k: v for k, v in table.items() if isinstance(v, dict) and _wants_section(path, k, v)}
    if len(below) < len(table) or not table:
        yield f"[{_dotted(path)}]"
        yield from (_setting((k,), v) for k, v in table.items() if k not in below)
        yield from ("",) if below else ()
    for n, (key, value) in enumerate(below.items()):
        yield from ("",) if n else ()
        yield from _section((*path, key), value)


def _wants_section(path: Path, key: str, table: Mapping[str, Any]) -> bool:
    is_shallow = len(path) < (4 if path[:1] == ("projects",) else 3)  # below `[projects.NAME.servers]`
    return is_shallow or key == "oauth" or len(_setting((key,), table)) > WIDTH


# Putting -------------------------------------------------------------------------------------------------------------


def _put(text: str, path: Path, value: Any) -> str:
    found = scan(text)
    if entry := _entry(found, path):
        written = text[entry.value_start : entry.value_end]
        new = _with_elements(written, value) if isinstance(value, list) and "#" in written else None
        return text[: entry.value_start] + (rendered(value) if new is None else new) + text[entry.value_end :]
    parent = path[:-1]
    if around := _entry(found, parent):
        return _put_inline(text, found, around, f"{_key(path[-1])} = {rendered(value)}")
    index = next((i for i, header in enumerate(found.headers) if header.path == parent), None if parent else -1)
    is_section = isinstance(value, dict) and _wants_section(parent, str(path[-1]), value)
    if index is not None and not is_section:
        last = _last_setting(found, index)
        return _insert_line(text, last, _setting(path[-1:], value)) if last else _put_first(text, found, path, value)
    if index is None and (sibling := _dotted_sibling(found, parent)):
        base = _base(found, sibling)
        return _insert_line(text, sibling.value_end, _setting(path[len(base) :], value))
    for n in range(len(parent) - 1, 0, -1):
        if _entry(found, parent[:n]):
            return _put(text, path[: n + 1], _nested(path[n + 1 :], value))
    table = value if isinstance(value, dict) else {str(path[-1]): value}
    return _put_section(text, found, path if isinstance(value, dict) else parent, table)


_ELEMENT = later(r"""(?P<space>[ \t\r\n]+|#[^\n]*)|(?P<comma>,)|(?P<text>"(?:[^"\\\n]|\\.)*"|'[^'\n]*')""")


def _with_elements(written: str, value: list[Any]) -> str | None:
    """Return a list of texts, as written, with one more at its end, or without some; with the comments in it.

    None where it cannot be done like that. Those that it loses take their line along, where nothing else is on it.
    """
    if not written.startswith("["):
        return None
    spans: list[tuple[int, int]] = []
    at = 1
    while at < len(written) - 1:
        m = _ELEMENT.match(written, at)
        if m is None:
            return None
        if m["text"]:
            spans.append((m.start(), m.end()))
        at = m.end()
    texts = [_text_of(written[start:end]) for start, end in spans]
    if not spans:
        return f"[{rendered(value[0])},{written[1:]}" if len(value) == 1 else None
    if value[:-1] == texts:
        end = spans[-1][1]
        comma = "" if written[end:].lstrip(" \t").startswith(",") else ","
        line = _line_start(written, spans[-1][0])
        indent = written[line : spans[-1][0]]
        if line and not indent.strip():
            after = _line_end(written, end)
            added = f"{indent}{rendered(value[-1])},{_newline(written)}"
            return f"{written[:end]}{comma}{written[end:after]}{added}{written[after:]}"
        return None
    if not all(each in value for each in texts if each in value) or [each for each in texts if each in value] != value:
        return None
    for (start, end), text in reversed(list(zip(spans, texts, strict=True))):
        if text not in value:
            tail = len(written[end:]) - len(written[end:].lstrip(" \t"))
            end += tail + 1 if written[end + tail : end + tail + 1] == "," else 0
            line, rest = _line_start(written, start), _REST.match(written, end)
            alone = line and not written[line:start].strip() and rest
            written = written[:line] + written[rest.end() :] if alone and rest else written[:start] + written[end:]
    return written


def _text_of(written: str) -> str:
    return _unquoted(written) if written[0] == '"' else written[1:-1]


def _unquoted(written: str) -> str:
    try:
        return str(json.loads(written))
    except ValueError:
        return ""  # another escape than JSON's: then nothing is compared with it


def _nested(path: Path, value: Any) -> Any:
    for part in reversed(path):
        value = {part: value}
    return value


def _put_first(text: str, found: Scan, path: Path, value: Any) -> str:
    """Put the first key that stands before all sections."""
    at = _above(text, found.headers[0].start) if found.headers else len(text)
    gap = _newline(text) if at and not text[:at].endswith("\n") else ""
    return f"{text[:at]}{gap}{_setting(path, value)}{_newline(text)}{text[at:]}"


def _insert_line(text: str, after: int, line: str) -> str:
    """Insert a line of its own below the one that `after` is on, indented like it."""
    start = text.rfind("\n", 0, _statement_start(text, after)) + 1
    indent = text[start : len(text) - len(text[start:].lstrip(" \t"))]
    end = _line_end(text, after)
    newline = _newline(text)
    block = newline.join(indent + part for part in line.split("\n")) + newline
    return text[:end] + ("" if text[:end].endswith("\n") else newline) + block + text[end:]


def _statement_start(text: str, position: int) -> int:
    """Return where the statement that ends at `position` begins; a value may span lines."""
    found = scan(text)
    starts = [e.start for e in found.entries if not e.inline and e.value_end == position]
    return starts[-1] if starts else position


def _put_inline(text: str, found: Scan, around: Entry, pair: str) -> str:
    children = list(_children(found, around))
    if not children:
        comment = "#" in text[around.value_start : around.value_end]
        inner = text[around.value_start + 1 : around.value_end - 1].rstrip(" \t,") if comment else ""
        return text[: around.value_start] + f"{{{inner} {pair} }}" + text[around.value_end :]
    last = children[-1]
    if last.after == last.value_end:
        return text[: last.value_end] + f", {pair}" + text[last.value_end :]
    line_start = text.rfind("\n", 0, last.start) + 1
    indent = text[line_start : last.start]
    rest = _REST.match(text, last.after)
    if line_start > around.value_start and not indent.strip() and rest and rest.end() < around.value_end:
        return text[: rest.end()] + f"{indent}{pair},{_newline(text)}" + text[rest.end() :]
    return text[: last.after] + f" {pair}," + text[last.after :]


def _put_section(text: str, found: Scan, path: Path, table: Mapping[str, Any]) -> str:
    newline = _newline(text)
    block = newline.join("\n".join(_section(path, table)).split("\n")) + newline
    inside = [i for i, header in enumerate(found.headers) if _is_within(header.path, path[:1])]
    if inside and len(path) == 1:
        # `[mcp]` goes above the first `[mcp.servers.x]`.
        at = _above(text, found.headers[inside[0]].start)
        return text[:at] + block + newline + text[at:]
    close = [i for i in inside if _is_within(found.headers[i].path, path[:-1])] or inside
    at = _section_end(text, found, close[-1]) if close else len(text)
    before, after = text[:at], text[at:]
    if before and not before.endswith("\n"):
        before += newline
    gap = newline if before.strip() and not _ends_blank(before) else ""
    return before + gap + block + (newline if after and not _BLANK_LINE.match(after) else "") + after


# Dropping ------------------------------------------------------------------------------------------------------------


def _drop(text: str, path: Path) -> str:
    while True:
        found = scan(text)
        index = next((i for i, header in enumerate(found.headers) if _is_within(header.path, path)), None)
        if index is not None:
            header = found.headers[index]
            text = _without_lines(text, _line_start(text, header.start), _section_end(text, found, index))
            continue
        entry = next((e for e in found.entries if _is_within(e.path, path)), None)
        if entry is None:
            return text
        if entry.inline:
            text = _without_inline(text, found, entry)
        else:
            text = text[: _line_start(text, entry.start)] + text[_line_end(text, entry.value_end) :]


def _without_lines(text: str, start: int, end: int) -> str:
    """Take lines out, and one of the blank lines that would then meet."""
    before, after = text[:start], text[end:]
    if not after and _ends_blank(before):
        return before[: _line_start(before, len(before) - 1)]
    if blank := _BLANK_LINE.match(after) if not before or _ends_blank(before) else None:
        after = after[blank.end() :]
    return before + after


def _without_inline(text: str, found: Scan, entry: Entry) -> str:
    if entry.after > entry.value_end:
        end = entry.after
        line = _line_start(text, entry.start)
        rest = _BLANK_LINE.match(text, end)
        if rest and not text[line : entry.start].strip():
            return text[:line] + text[rest.end() :]
        end += len(text[end:]) - len(text[end:].lstrip(" \t"))
        return text[: entry.start] + text[end:]
    previous = [e for e in found.entries if e.inline and e.value_end < entry.start <= entry.value_end]
    siblings = [e for e in previous if e.after > e.value_end and not text[e.after : entry.start].strip("{ \t\r\n")]
    before, after = text[: entry.start], text[entry.value_end :]
    if siblings:
        last = siblings[-1]
        return before[: last.value_end] + before[last.after :] + after
    is_only = before.rstrip(" \t").endswith("{") and after.lstrip(" \t").startswith("}")
    return before.rstrip(" \t") + after.lstrip(" \t") if is_only else before + after


# Places --------------------------------------------------------------------------------------------------------------


def _is_within(path: Path, around: Path) -> bool:
    return path[: len(around)] == around


def _entry(found: Scan, path: Path) -> Entry | None:
    return next((e for e in found.entries if e.path == path), None)


def _last_setting(found: Scan, header: int) -> int:
    """Return where the last value of a section ends, or its header; 0 for no value before the first section."""
    ends = [e.value_end for e in found.entries if not e.inline and e.header == header]
    return max(ends, default=found.headers[header].end if header >= 0 else 0)


def _base(found: Scan, entry: Entry) -> Path:
    return found.headers[entry.header].path if entry.header >= 0 else ()


def _dotted_sibling(found: Scan, table: Path) -> Entry | None:
    """Return the last statement that makes this table by a dotted key, as `servers.x.command = 1` under `[mcp]`."""
    inside = [e for e in found.entries if not e.inline and _is_within(e.path[:-1], table)]
    return next((e for e in reversed(inside) if len(_base(found, e)) < len(table)), None)


def _children(found: Scan, around: Entry) -> Iterator[Entry]:
    """Yield the pairs of an inline table, but not those of tables inside of it."""
    passed = around.value_start
    for entry in found.entries:
        if passed < entry.start < around.value_end:
            yield entry
            passed = entry.value_end


def _section_end(text: str, found: Scan, index: int) -> int:
    """Return the end of a section: below its last key and the comments that touch that, but not the next header."""
    end = after = _line_end(text, _last_setting(found, index))
    while comment := _COMMENT_LINE.match(text, after):
        after = comment.end()
    return after if after == len(text) or _BLANK_LINE.match(text, after) else end


def _above(text: str, position: int) -> int:
    """Return where the comments that touch the line of `position` from above begin; the head of a file is not one."""
    start = at = _line_start(text, position)
    while at and _COMMENT_LINE.match(text, previous := _line_start(text, at - 1)):
        at = previous
    return at or start


def _line_start(text: str, position: int) -> int:
    return text.rfind("\n", 0, position) + 1


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _ends_blank(text: str) -> bool:
    """Say whether the last line of a text that ends with a line is blank."""
    return text.endswith("\n") and not text[_line_start(text, len(text) - 1) :].strip()


def _newline(text: str) -> str:
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"
