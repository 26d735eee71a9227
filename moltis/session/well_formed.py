"""What other programs write where MCP has a list or an object, and how much of it can be used.

Pure. Languages differ in what an empty list is on the wire: null (a nil slice of Go), `{}` (an empty table of Lua), and
an empty object is `[]` (PHP). What is empty says the same in each of them.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

__all__ = ["is_empty", "kind_of"]

_EMPTY_BYTES: Final = 64
"""What is longer, white space included, is not empty."""

_KINDS: Final = {b'"': "a text", b"{": "an object", b"[": "a list", b"n": "null", b"t": "true", b"f": "false"}


def is_empty(value: bytes | Raw) -> bool:
    """Return whether a JSON value is null, false, 0, or a text, list or object with nothing in it. Never raises."""
    text = bytes(value)
    try:
        return len(text) <= _EMPTY_BYTES and not msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError):
        return False


def kind_of(value: bytes | Raw) -> str:
    """Return in words what a JSON value is, without what it holds."""
    return _KINDS.get(bytes(value).lstrip(b" \t\r\n")[:1], "a number")
