"""URI templates (RFC 6570), read backwards: may this URI have come from that template?

Levels 1 to 3 exactly as far as characters can tell; the modifiers of level 4 and what hosts write unencoded are
accepted more widely, for all that follows from a match is which server is asked.

Time grows with the length of the template and of the URI, never with the ways to match them. A template is somebody
else's text, and a regular expression made of it could be made to try forever. So all positions that can be reached are
kept at once, as the bits of one number, and each part of the template moves them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec

MAX_TEMPLATE_CHARS: Final = 2048
MAX_EXPRESSIONS: Final = 32
MAX_URI_CHARS: Final = 4096
"""Real ones have below a hundred characters and four expressions."""

_EXPRESSION: Final = re.compile(r"\{([^{}]*+)\}")
_VARIABLE: Final = r"(?:[A-Za-z0-9_.]|%[0-9A-Fa-f]{2})++(?:\*|:[0-9]{1,4}+)?"
_INSIDE: Final = re.compile(rf"([+#./;?&]?)({_VARIABLE}(?:,{_VARIABLE})*+)")
_PRINTABLE: Final = "".join(chr(c) for c in range(0x21, 0x7F))

_SEGMENT: Final = frozenset("/?#")
_ENDS: Final[dict[str, frozenset[str]]] = {
    "": _SEGMENT,
    "+": frozenset(),
    "#": frozenset(),
    ".": _SEGMENT,
    "/": frozenset("?#"),
    ";": _SEGMENT,
    "?": frozenset("#"),
    "&": frozenset("#"),
}
"""Characters that the expansion of an expression cannot hold, by its operator (RFC 6570 sections 3.2.2 to 3.2.9)."""

_OPENS: Final = "#./;?&"
"""Operators that are the first character of what they expand to, unless that is nothing."""


class Target:
    """One URI to be matched with any number of templates; what it takes is worked out once."""

    def __init__(self, uri: str) -> None:
        self.text = _encoded(uri)
        self._backwards = self.text[::-1]
        self._runs: dict[frozenset[str], int] = {}
        self._places: dict[str, int] = {}

    def outside(self, characters: frozenset[str]) -> int:
        """Return the positions of all characters but these."""
        if characters not in self._runs:
            found = (1 << len(self.text)) - 1
            for character in characters:
                found &= ~self.at(character)
            self._runs[characters] = found
        return self._runs[characters]

    def at(self, character: str) -> int:
        """Return the positions of a character."""
        if character not in self._places:
            bits = self._backwards.translate(_Only(character))
            self._places[character] = int(bits, 2) if bits else 0
        return self._places[character]

    def after(self, literal: str, positions: int) -> int:
        """Return the positions behind a literal that stands at one of these positions."""
        for character in literal:
            positions = (positions & self.at(character)) << 1
            if not positions:
                break
        return positions


class _Only(dict[int, str]):
    """Makes one character 1 and all others 0."""

    def __init__(self, character: str) -> None:
        super().__init__({ord(character): "1"})

    def __missing__(self, key: int) -> str:
        self[key] = "0"
        return "0"


class _Expression(msgspec.Struct, frozen=True):
    opens: str
    """What it begins with unless it is empty."""
    ends: frozenset[str]


@dataclass(frozen=True, slots=True)
class Template:
    """A template that was read. `literal`: how many of its characters stand for themselves."""

    text: str
    first: str
    rest: tuple[tuple[_Expression, str], ...]
    literal: int = field(compare=False)

    def matches(self, target: Target) -> bool:
        """Whether the URI may be an expansion."""
        text = target.text
        last = self.rest[-1][1] if self.rest else self.first
        if not (text.startswith(self.first) and text.endswith(last) and len(text) <= MAX_URI_CHARS):
            return False
        here = 1 << len(self.first)
        for expression, literal in self.rest:
            here |= _spread(target.after(expression.opens, here), target.outside(expression.ends))
            here = target.after(literal, here)
            if not here:
                return False
        return bool(here >> len(text) & 1)


def _spread(starts: int, run: int) -> int:
    """Return the positions that are reached from these over characters of `run`, themselves included.

    Adding carries each start through the ones that follow it (the step of bit-parallel string matching: Myers, 1999).
    """
    return starts | (((starts & run) + run) ^ run)


def read_template(text: str) -> Template | None:
    """Read a template; None if it is malformed, or larger than any that is meant seriously."""
    if len(text) > MAX_TEMPLATE_CHARS:
        return None
    parts = _EXPRESSION.split(text)
    literals = [_encoded(literal) for literal in parts[::2]]
    if len(literals) > MAX_EXPRESSIONS + 1 or any("{" in literal or "}" in literal for literal in literals):
        return None
    expressions = []
    for inside in parts[1::2]:
        found = _INSIDE.fullmatch(inside)
        if found is None:
            return None
        operator = found[1]
        opens = operator if operator and operator in _OPENS else ""
        # Level 4: an exploded variable holds the operator's own separator, and what people mean by {path*} is a path.
        ends = _ENDS["+"] if "*" in found[2] else _ENDS[operator]
        expressions.append(_Expression(opens, ends))
    rest = tuple(zip(expressions, literals[1:], strict=True))
    return Template(text, literals[0], rest, sum(map(len, literals)))


def _encoded(text: str) -> str:
    """Percent-encode what is neither ASCII nor visible, as an expansion does with literals (RFC 6570 section 3.1)."""
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    return quote(text, safe=_PRINTABLE)
