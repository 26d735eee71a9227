"""Where every key of a TOML 1.1 text is, found in one linear pass that builds no values.

It serves three readers: messages (the line of a key), edits (the span of a value), and the parser, which it protects:
a text that would cost the parser much more than its size is refused here, and the parser never sees text beyond the
point where this scan lost its way (`Scan.stopped_at`). It accepts more than TOML does; whether the text is TOML is
the parser's to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_BYTES = 1024 * 1024
"""Of one file. 500 servers of 20 keys are about 300 kB."""
MAX_KEY_PARTS = 16
"""`a.b.c` has three. A key of 20 000 parts, 40 kB of text, makes a TOML parser use gigabytes."""
MAX_DEPTH = 64
"""Tables in tables. Parsers recurse; the deepest key of ours is at 6."""
MAX_NUMBER = 100
"""Characters of a number: turning digits into an int is quadratic, and Python itself refuses more than 4300."""
MAX_PARTS = 50_000
"""Key parts in the whole file: each costs the parser about 1 kB. 500 servers have some 15 000."""
MAX_VALUES = 100_000
"""Values in the whole file, elements of arrays included."""

Path = tuple[str | int, ...]
"""Key names from the root; an int is the index into an array."""

_BLANK = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_SPACE = re.compile(r"[ \t]*+")
_REST_OF_LINE = re.compile(r"[^\n]*+")
_KEY_PART = re.compile(r"""(?P<bare>[A-Za-z0-9_-]++)|"(?P<basic>(?:[^"\\\n]++|\\.)*+)"|'(?P<literal>[^'\n]*+)'""")
_STRING = re.compile(
    r'''
      """ (?: [^"\\]++ | \\[\s\S] | "(?!"") )*+ "{3,5}
    | \'\'\' (?: [^']++ | '(?!\'\') )*+ '{3,5}
    | "(?!"") (?: [^"\\\n]++ | \\. )*+ " | ""(?!")
    | '(?!\'\') [^'\n]*+ ' | \'\'(?!')
    ''',
    re.VERBOSE,
)
_WORD = re.compile(r"[^\s,\[\]{}#\"'=]++(?:[ ][0-9]{2}:[0-9:.]++(?:[Zz]|[+-][0-9:]++)?+)?+")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


class TooMuch(ValueError):
    """The text is refused for what it would cost; `line` says where."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(slots=True)
class Entry:
    """`key = value`, a statement of its own or inside an inline table; positions are offsets into the text."""

    path: Path
    start: int
    value_start: int
    value_end: int = -1
    after: int = -1
    """Past the comma that follows, or `value_end` when none does."""
    header: int = -1
    """Index of the header it stands under; -1 before the first."""
    inline: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """`[path]` or `[[path]]`: `start` is its first bracket, `end` is past its last."""

    path: Path
    start: int
    end: int


@dataclass(slots=True)
class Scan:
    """What is where. `lines` has every key path, implied tables and elements of arrays included; lines count from 1."""

    lines: dict[Path, int] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    stopped_at: int | None = None
    """Offset of the end of the line that cannot be TOML; None when all was understood."""

    def line_of(self, path: Path) -> int | None:
        """Return the line of a path, or of the nearest table around it; None for the root."""
        return next((line for n in range(len(path), 0, -1) if (line := self.lines.get(path[:n]))), None)


def scan(text: str) -> Scan:
    """Find all keys of a text.

    Raises:
        TooMuch: when parsing it could cost much more time or memory than its size suggests.
    """
    if len(text) > MAX_BYTES:
        raise TooMuch(1, f"the file is larger than {MAX_BYTES} bytes")
    scanner = _Scanner(text)
    try:
        scanner.document()
    except _Lost:
        scanner.found.stopped_at = _end_of_line(text, scanner.position)
    return scanner.found


class _Lost(Exception):
    """The text at `position` cannot be TOML."""


@dataclass(slots=True)
class _Open:
    """An array or inline table that is being read; `count` is the index of an array's next element."""

    path: Path
    entry: Entry | None
    inline: bool
    count: int = 0
    last: Entry | None = None


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.found = Scan()
        self._line = 1
        self._counted = 0
        self._parts = 0
        self._values = 0
        self._last_index: dict[Path, int] = {}

    def document(self) -> None:
        base: Path = ()
        while (start := self._skip_blank()) < len(self.text):
            if self.text[start] == "[":
                base = self._header()
            else:
                entry = self._key(base, inline=False)
                self._value(entry)
                self.position = _end_of_line(self.text, self.position)

    # Parts of a document

    def _header(self) -> Path:
        start = self.position
        brackets = 2 if self.text.startswith("[[", start) else 1
        self.position = start + brackets
        parts = self._key_parts()
        if not self.text.startswith("]" * brackets, self.position):
            raise _Lost
        path = self._resolved(parts, array=brackets == 2)
        self.position += brackets
        self.found.headers.append(Header(path, start, self.position))
        self.position = _end_of_line(self.text, self.position)
        return path

    def _resolved(self, parts: Path, *, array: bool) -> Path:
        """Return a header's path, with the index of the last element wherever it passes an array of tables."""
        path: Path = ()
        for n, part in enumerate(parts):
            path += (part,)
            self._note(path)
            if array and n == len(parts) - 1:
                self._last_index[path] = self._last_index.get(path, -1) + 1
            if path in self._last_index:
                path += (self._last_index[path],)
                self._note(path)
        return path

    def _key(self, base: Path, *, inline: bool) -> Entry:
        start = self.position
        path = base
        for part in self._key_parts():
            path += (part,)
            self._note(path, start)
        if not self.text.startswith("=", self.position):
            raise _Lost
        self.position += 1
        self._skip(_SPACE)
        entry = Entry(path, start, self.position, header=len(self.found.headers) - 1, inline=inline)
        self.found.entries.append(entry)
        return entry

    def _key_parts(self) -> Path:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            m = _KEY_PART.match(self.text, self.position)
            if m is None:
                raise _Lost
            self.position = m.end()
            basic = m["basic"]
            parts.append(_unescaped(basic) if basic is not None else m["bare"] or m["literal"] or "")
            self._parts += 1
            if len(parts) > MAX_KEY_PARTS:
                raise TooMuch(self._line_at(m.start()), f"a key has more than {MAX_KEY_PARTS} dotted parts")
            if self._parts > MAX_PARTS:
                raise TooMuch(self._line_at(m.start()), f"the file has more than {MAX_PARTS} keys")
            self._skip(_SPACE)
            if not self.text.startswith(".", self.position):
                return tuple(parts)
            self.position += 1

    def _value(self, entry: Entry) -> None:
        """Read one value, however deep; the stack is a list, so that depth costs no recursion."""
        stack: list[_Open] = []
        path, owner = entry.path, entry
        closes: Entry | None = owner
        while True:
            opener = self.text[self.position : self.position + 1]
            if opener and opener in "[{":
                self.position += 1
                stack.append(_Open(path, closes, opener == "{"))
            else:
                self._scalar()
                _close(closes, self.position)
            while stack and self._at_end(stack[-1]):
                _close(stack.pop().entry, self.position)
            if not stack:
                return
            path, closes = self._next_in(stack[-1])

    def _at_end(self, around: _Open) -> bool:
        """Skip to what is next in an array or inline table; True when that is its closing bracket, now passed."""
        if self._skip_blank() < len(self.text) and self.text[self.position] == ",":
            self.position += 1
            if around.last is not None:
                around.last.after = self.position
            self._skip_blank()
        if self.text.startswith("}" if around.inline else "]", self.position):
            self.position += 1
            return True
        return False

    def _next_in(self, around: _Open) -> tuple[Path, Entry | None]:
        self._values += 1
        if self._values > MAX_VALUES:
            raise TooMuch(self._line_at(self.position), f"the file has more than {MAX_VALUES} values")
        if around.inline:
            around.last = self._key(around.path, inline=True)
            return around.last.path, around.last
        path = (*around.path, around.count)
        around.count += 1
        self._note(path)
        return path, None

    def _scalar(self) -> None:
        m = _STRING.match(self.text, self.position)
        if m is None:
            if self.text[self.position : self.position + 1] in {'"', "'"}:
                # A string without end: the parser must see all of the text to say where it began.
                self.position = len(self.text)
                raise _Lost
            m = _WORD.match(self.text, self.position)
            if m is None:
                raise _Lost
            if m.end() - m.start() > MAX_NUMBER and m[0][0] in "+-0123456789":
                raise TooMuch(self._line_at(m.start()), f"a number has more than {MAX_NUMBER} digits")
        self.position = m.end()

    # Positions

    def _note(self, path: Path, position: int | None = None) -> None:
        line = self._line_at(self.position if position is None else position)
        self.found.lines.setdefault(path, line)
        if len(path) > MAX_DEPTH:
            raise TooMuch(line, f"values are nested more than {MAX_DEPTH} deep")

    def _line_at(self, position: int) -> int:
        if position > self._counted:
            self._line += self.text.count("\n", self._counted, position)
            self._counted = position
        return self._line

    def _skip(self, pattern: re.Pattern[str]) -> int:
        m = pattern.match(self.text, self.position)
        self.position = m.end() if m else self.position
        return self.position

    def _skip_blank(self) -> int:
        return self._skip(_BLANK)


def _close(entry: Entry | None, position: int) -> None:
    if entry is not None:
        entry.value_end = entry.after = position


def _end_of_line(text: str, position: int) -> int:
    m = _REST_OF_LINE.match(text, position)
    return m.end() if m else position


def _unescaped(text: str) -> str:
    def character(m: re.Match[str]) -> str:
        code = m[1] or m[2] or m[3]
        if code is None:
            return _ESCAPES.get(m[4], m[4])
        number = int(code, 16)
        return chr(number) if number <= 0x10FFFF else ""

    return _ESCAPE.sub(character, text) if "\\" in text else text
