"""What a local server wrote to stdout that is no MCP message: how much, how it began, and what that looks like."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from moltis.lastwords import is_telling, plain
from moltis.printable import one_line
from moltis.session.envelope import NOT_JSON

KEPT_BYTES = 4096
"""More than is shown, so that the cut never lets half a secret through."""

SHOWN_CHARS = 120

LOOKED_AT = 1000
"""Lines that are looked at for one that tells what went wrong."""

LSP = "LSP framing"
UTF_16 = "UTF-16"
SEVERAL_LINES = "JSON over several lines"
EVENTS = "server-sent events"
TWO_IN_ONE = "several messages on one line"
SEQUENCE = "JSON text sequences"
PREFIXED = "messages with something before them"
CR_ENDED = "lines that end in CR"
UNENDED = "a message without a newline after it"
"""What it looks like; `server.mending` knows what helps."""

_SHAPES = (
    (UTF_16, re.compile(rb"\xff\xfe|\xfe\xff|.?\x00[^\x00]|[^\x00]\x00", re.DOTALL)),
    (SEQUENCE, re.compile(rb"\x1e")),  # RFC 7464 section 2.2: a record separator before each text
    (LSP, re.compile(rb"\s*content-(?:length|type)\s*:", re.IGNORECASE)),
    (EVENTS, re.compile(rb"(?:data|event|id|retry):")),
    (SEVERAL_LINES, re.compile(rb"\s*[{\[]\s*(?:\"[^\"]*\"\s*:\s*[^{},]*,?\s*)?\Z")),
    (TWO_IN_ONE, re.compile(rb"\s*\{.*\}\s*\{.*\"jsonrpc\"", re.DOTALL)),
    (PREFIXED, re.compile(rb"(?!\s*\[?\s*\{)[^{]{1,400}\{.{0,200}\"jsonrpc\"", re.DOTALL)),
)


class Noise:
    """Counts what is no message, and keeps the beginning of the first, and of the first that tells what went wrong."""

    __slots__ = ("_first", "_told", "not_json", "strange")

    def __init__(self) -> None:
        self.not_json = 0
        self.strange = 0
        self._first = b""
        self._told = b""

    def add(self, reason: str, line: bytes) -> None:
        """Take note of one line; `reason` is why it is no message (`envelope.Junk`)."""
        if reason == NOT_JSON:
            if not self.not_json:
                self._first = line[:KEPT_BYTES]
            elif (
                not self._told
                and self.not_json < LOOKED_AT
                and is_telling(line[:KEPT_BYTES].decode("utf-8", "replace"))
            ):
                self._told = line[:KEPT_BYTES]
            self.not_json += 1
            return
        if not self.not_json and not self.strange:
            self._first = line[:KEPT_BYTES]
        self.strange += 1

    def in_words(self, unfinished: bytes, scrub: Callable[[str], str]) -> str:
        """Say what it was, in one printable line without secrets; nothing where there was none.

        unfinished: the last line, if it was begun and not ended.
        """
        told = []
        number, what = (self.not_json, "not JSON") if self.not_json else (self.strange, "JSON, but no MCP message")
        if number:
            how_many = f"{number} lines were {what}; the first: " if number > 1 else f"1 line was {what}: "
            told.append(how_many + _shown(self._first, scrub) + _looks(_shape(self._first)))
        if self._told and not _shape(self._first):
            told.append(f"among them: {_shown(self._told, scrub)}")
        if unfinished.strip():
            told.append("a line was begun and not ended: " + _shown(unfinished, scrub) + _looks(_unended(unfinished)))
        return "; ".join(told)


def _shown(line: bytes, scrub: Callable[[str], str]) -> str:
    text = one_line(scrub(plain(line[:KEPT_BYTES].decode("utf-8", "backslashreplace"))))
    return f"`{text[:SHOWN_CHARS]}{'...' if len(text) > SHOWN_CHARS else ''}`"


def _looks(shape: str) -> str:
    return f" ({shape})" if shape else ""


def _shape(line: bytes) -> str:
    return next((shape for shape, pattern in _SHAPES if pattern.match(line)), "")


def _unended(line: bytes) -> str:
    shape = _shape(line)
    if shape in (UTF_16, SEQUENCE, LSP):
        return shape
    if line.lstrip()[:1] == b"{":
        if b"\r" in line.strip():
            return CR_ENDED
        try:
            msgspec.json.decode(line.partition(b"\0")[0])  # some end a message in NUL
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return shape
        return UNENDED
    return shape
