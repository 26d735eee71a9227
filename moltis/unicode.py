"""Messages that hold what is not Unicode, made readable. Pure, and linear in the length of the message."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final

from moltis.steps import Steps, finished

MAX_MENDED_BYTES: Final = 1024 * 1024
"""The longest message of another encoding worth mending: that is an order slower than parsing."""

MAX_HALVES: Final = 100_000
"""Half surrogate pairs that are replaced in one message."""

PIECE_BYTES: Final = 256 * 1024
"""Of a long message, in one go: some milliseconds."""

_HALF: Final = re.compile(
    rb"\\u[dD](?:"
    rb"[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
"""Half a surrogate pair. It begins with what is the same in all, so that text without any is passed over quickly."""
_PAIR: Final = rb"\\"
_STAND_IN: Final = b"\0\0"
"""A backslash that is escaped, and what holds its place meanwhile: it is no part of any JSON."""
_CUT: Final = re.compile(
    rb"[^\\\0]{12}|(?=\0)|\\[^\\u]|\\u(?:[0-9abcefABCEF][0-9a-fA-F]|[dD][c-fC-F])[0-9a-fA-F]{2}"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}(?=[^\\]|\\[^u]|\\u[^dD]|\\u[dD][^c-fC-F])"
)
"""What ends where neither an escape nor a pair of halves goes on, once pairs of backslashes have their stand-ins."""

TOO_MUCH: Final = b""
"""Instead of a message that has too much to be mended."""


def reading(message: bytes) -> Steps[bool]:
    """Return in steps whether a message is UTF-8."""
    if message.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(message), PIECE_BYTES):
            yield
            decoder.decode(message[at : at + PIECE_BYTES], at + PIECE_BYTES >= len(message))
    except ValueError:
        return False
    return True


def mend(message: bytes) -> bytes | None:
    r"""Replace what is not Unicode by U+FFFD; give None if there is nothing to replace, `TOO_MUCH` if it is too much.

    Two kinds are met: bytes of another encoding, and half a surrogate pair, which JavaScript writes as "\ud83d" when
    it cuts a string in the middle of an emoji. Both are inside strings, so the shape of the message stays as it was.
    """
    return finished(mending(message))


def mending(message: bytes) -> Steps[bytes | None]:
    """Return the same in steps, for a message that may be long."""
    mended = message
    if not (yield from reading(message)):
        if len(message) > MAX_MENDED_BYTES:
            return TOO_MUCH
        mended = message.decode("utf-8", "replace").encode()
    if b"\0" not in mended and (len(mended) > PIECE_BYTES or b"\\u" in mended):
        halves, parts = 0, list[bytes]()
        for piece in _pieces(mended):
            if parts:
                yield
            part, found = _HALF.subn(rb"\\ufffd", piece, MAX_HALVES + 1)
            halves += found
            if halves > MAX_HALVES:
                return TOO_MUCH
            parts.append(part.replace(_STAND_IN, _PAIR))
        mended = b"".join(parts)
    return None if mended == message else mended


def _pieces(message: bytes) -> Iterator[bytes]:
    """Cut a message where no escape is. In what is given, pairs of backslashes have their stand-ins."""
    start = 0
    while len(message) - start > 2 * PIECE_BYTES:
        piece = message[start : start + 2 * PIECE_BYTES].replace(_PAIR, _STAND_IN)
        end = PIECE_BYTES
        if piece.startswith(b"\0", end):
            end -= (end - len(piece[:end].rstrip(b"\0"))) % len(_STAND_IN)
        else:
            cut = _CUT.search(piece, end)
            if cut is None:  # it is no JSON
                break
            end = cut.end()
        yield piece[:end]
        start += end
    yield message[start:].replace(_PAIR, _STAND_IN)
