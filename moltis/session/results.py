"""What is looked at of a result, which is passed on as the bytes it is.

Pure, and on the path of every tool call: almost always it is a search for a byte or a few, and nothing is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from moltis.jsonrpc import MALFORMED

_KEY: Final = b'"isError"'
_RARE: Final = b"E"
"""Of the name, the letter that is seldom in a text."""
MAX_RARE: Final = 32
"""So often it may be something else; then it is not rare here, and the whole name is searched."""
_TRUE: Final = re.compile(rb'"isError"[ \t\r\n]*:[ \t\r\n]*true')

SPELLED_BYTES: Final = 4096
"""In a longer result no letter of the name is expected to be written as an escape: nobody writes it so, and looking for
it would cost more than all the rest."""
_ESCAPE: Final = b"\\u00"
_SPELLED: Final = re.compile(rb"\\u00(?:69|73|45|72|6[fF])")


class _Result(msgspec.Struct, gc=False):
    isError: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the wire's spelling


_RESULT: Final = msgspec.json.Decoder(_Result)


def says_error(result: bytes) -> bool:
    """Whether a `CallToolResult` says that the tool failed: its own member `isError` is true (MCP, Tools).

    result: well-formed JSON. It is parsed only where those bytes are in it, in whatever place. Never raises.
    """
    if len(result) > SPELLED_BYTES:
        may_be = _may_be_true(result)
    else:
        may_be = (b"true" in result and _TRUE.search(result) is not None) or (
            _ESCAPE in result and _SPELLED.search(result) is not None
        )
    if not may_be:
        return False
    try:
        return bytes(_RESULT.decode(result).isError) == b"true"
    except MALFORMED:
        return False  # not even an object


def _may_be_true(result: bytes) -> bool:
    return any(_TRUE.match(result, at) for at in found_by(_RARE, _KEY, result))


def found_by(rare: bytes, key: bytes, text: bytes) -> Iterator[int]:
    """Yield where a key is in a long text, found by a byte of it that is seldom there, and once in the key.

    One byte is searched 20 times as fast as several (memchr).
    """
    inside, at = key.index(rare), -1
    for _ in range(MAX_RARE):
        at = text.find(rare, at + 1)
        if at < 0:
            return
        if at >= inside and text.startswith(key, at - inside):
            yield at - inside
    at = max(0, at + 1 - inside)
    while (at := text.find(key, at)) >= 0:
        yield at
        at += len(key)
