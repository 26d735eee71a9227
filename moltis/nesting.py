"""How deep JSON is nested, found without recursion; and whose a message is that is too deep to be parsed."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

import msgspec

from moltis.steps import Steps, finished

MAX_DEPTH: Final = 64
"""Nesting of one message that is taken. Real ones stay under ten; a bomb costs stack wherever it is parsed next."""

MAX_PARTS: Final = 4_000_000
"""Of a long message: values, where a list or an object counts as `A_LIST`. To pass over so many takes some 30 ms, and
cannot be done in parts."""

A_LIST: Final = 3
"""To pass over a list or an object takes as long as over so many numbers."""

PIECE_BYTES: Final = 64 * 1024
"""Of a long message, looked at in one go: a few milliseconds, whatever is in it."""

_STRINGS: Final = re.compile(rb'"[^"]*+"')
_KINDS: Final = bytes.maketrans(b"{}", b"[]")
_STEPS: Final = bytes.maketrans(b"[]", b"\x01\xff")
"""A bracket as the signed byte that it adds to the depth."""
_NOTHING: Final = bytes(b for b in range(256) if b not in b'{}[]"')
_NOTHING_ELSE: Final = bytes(b for b in range(256) if b not in b'{}[]",')
"""What is neither a bracket nor a quote, and with commas."""

_SHORT: Final = 1024
"""Bytes. Here counting is faster."""

ENDS: Final = 2048
"""Bytes at either end of a message in which its id is looked for: it stands before or behind what is nested."""
_ID: Final = rb'"id"\s*:\s*("(?:[^"\\]|\\.){0,500}"|-?\d{1,20})\s*'
_WORD: Final = rb'"(?:jsonrpc|method)"\s*:\s*"(?:[^"\\]|\\.){0,500}"\s*'
_HEAD: Final = re.compile(rb"\s*\{\s*(?:" + _WORD + rb",\s*){0,2}" + _ID + rb",")
_TAIL: Final = re.compile(rb",\s*" + _ID + rb"(?:,\s*" + _WORD + rb"){0,2}\}\s*\Z")
_VERSION: Final = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_OUTCOME: Final = rb'"(?:result|error)"\s*:'
_REPLY_HEADS: Final = (
    re.compile(rb"\s*\{\s*" + _VERSION + rb",\s*" + _ID + rb",\s*" + _OUTCOME),
    re.compile(rb"\s*\{\s*" + _ID + rb",\s*" + _VERSION + rb",\s*" + _OUTCOME),
)
_REPLY_FRONT: Final = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb",\s*)?" + _OUTCOME)
_ENDS_WITH_VERSION: Final = re.compile(_VERSION + rb"[^{}\[\]]{0,600}\}\s*\Z")


class Depth:
    """How deep JSON is nested, found piece by piece, wherever it is cut."""

    __slots__ = ("_depth", "_levels", "_outside")

    def __init__(self, levels: int) -> None:
        self._levels = levels
        self._depth = 0
        self._outside = _Outside(_NOTHING)

    def goes_deeper(self, piece: bytes) -> bool:
        """Take the next piece, and tell whether brackets outside strings nest deeper than `levels` in it."""
        brackets = self._outside.of(piece)
        before, opened = self._depth, brackets.count(b"[")
        self._depth += 2 * opened - len(brackets)
        if before + opened <= self._levels:
            return False
        rest, levels = brackets, self._levels - before
        # A pair that is empty adds one level to where it stands. Without those pairs there is one level less to be
        # sure of; and replacing bytes is ten times faster than counting them.
        while len(rest) > _SHORT and levels > 0:
            fewer = rest.replace(b"[]", b"")
            if len(fewer) > len(rest) * 3 // 4:
                break
            rest, levels = fewer, levels - 1
        return _height(rest) > levels and (rest is brackets or _height(brackets) > self._levels - before)


class _Outside:
    """What of JSON is outside strings, piece by piece, wherever it is cut. `without`: bytes that are left out."""

    __slots__ = ("_in_escape", "_in_string", "_without")

    def __init__(self, without: bytes) -> None:
        self._without = without
        self._in_string = False
        self._in_escape = False

    def of(self, piece: bytes) -> bytes:
        """Return what of the next piece is outside strings; all brackets are square."""
        if self._in_escape and piece:
            piece, self._in_escape = piece[1:], False
        if b"\\" in piece:
            # Nothing but an escape has a backslash, so that of several in a row each second one is escaped.
            piece = piece.replace(b"\\\\", b"")
            if piece.endswith(b"\\"):
                self._in_escape = True
            piece = piece.replace(b'\\"', b"")
        found = piece.translate(_KINDS, self._without)
        if self._in_string:
            found = b'"' + found
        if b'"' not in found:
            return found
        # Two quotes side by side are a string without anything that counts, or the gap between two strings: either way
        # what is before and behind is in a string, or not, without them too.
        found = found.replace(b'""', b"")
        if b'"' in found:
            found = _STRINGS.sub(b"", found)
        outside, quote, _ = found.partition(b'"')
        self._in_string = bool(quote)
        return outside


def counting(message: bytes, most: int = MAX_PARTS) -> Steps[int]:
    """Return in steps how many values a message may have, a list or an object as `A_LIST`: never less than there are.

    It is exact where `most` might be exceeded, and no more than that is counted.
    """
    counted = A_LIST * len(message)
    if counted <= most:
        return counted
    counted = 0
    for byte, weight in ((b",", 1), (b"[", A_LIST), (b"{", A_LIST)):
        counted += weight * message.count(byte)
        yield
    if counted <= most:
        return counted
    counted, outside = 0, _Outside(_NOTHING_ELSE)
    for at in range(0, len(message), PIECE_BYTES):
        found = outside.of(message[at : at + PIECE_BYTES])
        counted += found.count(b",") + A_LIST * found.count(b"[")
        if counted > most:
            break
        yield
    return counted


def _height(brackets: bytes) -> int:
    return max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0)


def is_deeper_than(line: bytes, levels: int) -> bool:
    """Tell whether brackets outside strings nest deeper; those that do not match make it no JSON anyway."""
    if len(line) <= _SHORT:
        if line.count(b"[") + line.count(b"{") <= levels:
            return False
    elif len(line) > PIECE_BYTES:
        return finished(measuring(line, levels))
    elif not _has_more(line, levels):
        return False
    return Depth(levels).goes_deeper(line)


def measuring(line: bytes, levels: int) -> Steps[bool]:
    """Return the same in steps, for a message that may be long."""
    if not _has_more(line, levels):
        return False
    depth = Depth(levels)
    for at in range(0, len(line), PIECE_BYTES):
        yield
        if depth.goes_deeper(line[at : at + PIECE_BYTES]):
            return True
    return False


def _has_more(line: bytes, brackets: int) -> bool:
    """Tell whether more brackets open than that, in whatever place; one byte is found faster than all are counted."""
    for bracket in (b"[", b"{"):
        at = line.find(bracket)
        while at >= 0:
            if not brackets:
                return True
            brackets -= 1
            at = line.find(bracket, at + 1)
    return False


def outer_id(message: bytes) -> bytes | None:
    """Return the `id` (JSON) of a JSON-RPC message that cannot be parsed; None if it stands at neither end of it.

    None too if it is no JSON itself: nobody has looked at it before, and it is decoded, or echoed as it is.
    """
    return _id_in(_HEAD.match(message[:ENDS]) or _TAIL.search(message[-ENDS:]))


def answered_id(message: bytes) -> bytes | None:
    """Return the `id` (JSON) that a JSON-RPC reply was to answer which cannot be read; None of what may be none.

    message: all of it, or its first and last `ENDS` bytes. It need not be JSON: what says at its beginning that it is
    the reply to a request is no other message.
    """
    head, tail = message[:ENDS], message[-ENDS:]
    for pattern in _REPLY_HEADS:
        if found := pattern.match(head):
            return _id_in(found)
    front = _REPLY_FRONT.match(head)
    if front is None or not (b"jsonrpc" in front[0] or _ENDS_WITH_VERSION.search(tail)):
        return None
    return _id_in(_TAIL.search(tail))


def _id_in(found: re.Match[bytes] | None) -> bytes | None:
    if found is None:
        return None
    try:
        msgspec.json.decode(found[1])
    except (msgspec.MsgspecError, ValueError):
        return None
    return found[1]
