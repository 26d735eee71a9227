"""Messages that hold what is not Unicode, made readable. Pure, and linear in the length of the message."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_MENDED_BYTES", "mend"]

MAX_MENDED_BYTES: Final = 1024 * 1024
"""The longest message of another encoding worth mending: that is an order slower than parsing."""

MAX_HALVES: Final = 100_000
"""Half surrogate pairs that are replaced in one message."""

_HALF: Final = re.compile(
    rb"\\u[dD](?:"
    rb"[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
"""Half a surrogate pair. It begins with what is the same in all, so that text without any is passed over quickly."""
_PAIR: Final = rb"\\"
_STAND_IN: Final = b"\0\0"
"""A backslash that is escaped, and what holds its place meanwhile: it is no part of any JSON."""


def mend(message: bytes) -> bytes | None:
    r"""Replace what is not Unicode by U+FFFD, or give None if there is nothing to replace or too much to look at.

    Two kinds are met: bytes of another encoding, and half a surrogate pair, which JavaScript writes as "\ud83d" when
    it cuts a string in the middle of an emoji. Both are inside strings, so the shape of the message stays as it was.
    """
    mended = message
    try:
        str(message, "utf-8")
    except ValueError:
        if len(message) > MAX_MENDED_BYTES:
            return None
        mended = message.decode("utf-8", "replace").encode()
    if b"\\u" in mended and b"\0" not in mended:
        mended, halves = _HALF.subn(rb"\\ufffd", mended.replace(_PAIR, _STAND_IN), MAX_HALVES + 1)
        if halves > MAX_HALVES:
            return None
        mended = mended.replace(_STAND_IN, _PAIR)
    return None if mended == message else mended
