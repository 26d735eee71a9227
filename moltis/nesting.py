"""How deep JSON is nested, found without recursion; and whose a message is that is too deep to be parsed."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

import msgspec

__all__ = ["MAX_DEPTH", "is_deeper_than", "outer_id"]

MAX_DEPTH: Final = 64
"""Nesting of one message that is taken. Real ones stay under ten; a bomb costs stack wherever it is parsed next."""

_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_KINDS: Final = bytes.maketrans(b"{}", b"[]")
_STEPS: Final = bytes.maketrans(b"[]", b"\x01\xff")
"""A bracket as the signed byte that it adds to the depth."""
_RUNS: Final = tuple((b"[" * n, bytes((n,)), b"]" * n, bytes((256 - n,))) for n in (16, 8, 4, 2))
_NOT_BRACKETS: Final = bytes(b for b in range(256) if b not in b"{}[]")

_SHORT: Final = 1024
"""Bytes. Here counting is faster."""

_ENDS: Final = 2048
"""Bytes at either end of a message in which its id is looked for: it stands before or behind what is nested."""
_ID: Final = rb'"id"\s*:\s*("(?:[^"\\]|\\.){0,500}"|-?\d{1,20})\s*'
_WORD: Final = rb'"(?:jsonrpc|method)"\s*:\s*"(?:[^"\\]|\\.){0,500}"\s*'
_HEAD: Final = re.compile(rb"\s*\{\s*(?:" + _WORD + rb",\s*){0,2}" + _ID + rb",")
_TAIL: Final = re.compile(rb",\s*" + _ID + rb"(?:,\s*" + _WORD + rb"){0,2}\}\s*\Z")


def is_deeper_than(line: bytes, levels: int) -> bool:
    """Tell whether brackets outside strings nest deeper; those that do not match make it no JSON anyway."""
    if len(line) <= _SHORT:
        if line.count(b"[") + line.count(b"{") <= levels:
            return False
    elif not _has_more(line, levels):
        return False
    brackets = (_STRINGS.sub(b"", line) if b'"' in line else line).translate(_KINDS, _NOT_BRACKETS)
    # Where nothing is nested deeper, a pair is empty. Without those the rest is one level less deep; replacing bytes
    # is ten times faster than counting them.
    while levels and len(brackets) > _SHORT:
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) > len(brackets) * 3 // 4:
            break
        brackets, levels = fewer, levels - 1
    if len(brackets) > _SHORT:
        # Of brackets of one kind in a row, only where the row ends can the depth be the greatest, or the least.
        for opening, down, closing, up in _RUNS:
            brackets = brackets.replace(opening, down).replace(closing, up)
    return max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0) > levels


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
    found = _HEAD.match(message[:_ENDS]) or _TAIL.search(message[-_ENDS:])
    if found is None:
        return None
    try:
        msgspec.json.decode(found[1])
    except (msgspec.MsgspecError, ValueError):
        return None
    return found[1]
