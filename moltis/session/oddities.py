"""What is odd about a server though it works: how it answers, what it asks in another era, what it writes to stdout.

Tolerated, counted, and said once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from moltis.jsonrpc import MALFORMED
from moltis.lastwords import is_telling, plain
from moltis.printable import one_line
from moltis.session.envelope import NOT_JSON
from moltis.session.handshake import MODERN_VERSIONS
from moltis.session.hooks import Hooks

MAX_KINDS: Final = 16
"""Of one run of a server; what is odd in ever new ways is remembered no further."""


class Oddities:
    """Of one run of a server. `Hooks.on_odd` is told of each kind the first time."""

    def __init__(self, server: str, hooks: Hooks) -> None:
        self._server = server
        self._hooks = hooks
        self._counts: dict[str, int] = {}

    def note(self, words: str) -> None:
        """Count one more. `words` follow the server's name, and are the same for the same kind. Never raises."""
        known = self._counts.get(words, 0)
        if not known and len(self._counts) >= MAX_KINDS:
            return
        self._counts[words] = known + 1
        if not known and self._hooks.on_odd is not None:
            try:
                self._hooks.on_odd(self._server, self._hooks.scrub(words))
            except Exception as fault:
                if self._hooks.on_fault is not None:
                    self._hooks.on_fault(fault)

    def remarks(self) -> list[str]:
        """Return what a person should know, a sentence for each kind; nothing of a server without oddities."""
        return [f"it {words} ({count} time{'' if count == 1 else 's'})" for words, count in self._counts.items()]


MISFIT_METHODS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""What may ask (MCP 2026-07-28, Multi Round-Trip Requests)."""

MAX_FAILURE_BYTES: Final = 1024
"""The longest failure that is looked at; those of the SDKs have below 500."""

_IN_MODERN: Final = (
    b"no back-channel for server-initiated requests",  # Python SDK 2.3, mcp.shared.exceptions.NoBackChannelError
    b"Server-to-client requests are not available on protocol revision",  # TypeScript SDK 2.4
)
_IN_LEGACY: Final = (
    b'"Handler returned an invalid result"',  # Python SDK 2.3, mcp.server.runner; of any result that is not valid
    b"which has no input_required vocabulary",  # TypeScript SDK 2.4, with its `legacyShim` switched off
)

MAX_TOOLS: Final = 64
"""Names that are remembered of one server."""
MAX_SHOWN: Final = 3
MAX_NAME_CHARS: Final = 80


class Misfits:
    """Tools that ask their host in a way that the era of their session does not have, of one run of a server.

    Up to 2025-11-25 a tool asks by a request of its own while it works; from 2026-07-28 on it answers with its
    questions. With the SDKs of both eras most tools are written for one of the two, and fail in the other with an error
    that says nothing of what a person can do about it. They are known by that.

    `on_first`: told the tool and what can be done, once for each tool and era.

    other_era: whether calls can go out in the other era too, so that a tool is called there from its second call on.
    """

    def __init__(self, server: str, on_first: Callable[[str, str], None] = lambda tool, hint: None) -> None:
        self.other_era = False
        self._server = server
        self._on_first = on_first
        self._found: dict[tuple[str, bool], None] = {}
        """Tool (or method), and whether it was in the newer era that it failed."""

    def look(self, failure: bytes, what: str, *, modern: bool, is_tool: bool = True) -> str:
        """Return what can be done about a failure, if it is one of these; else nothing.

        failure: a JSON-RPC error, or a result with `isError`. what: the tool, or the method where it is none. modern:
        the era of the session that it came from.
        """
        one, other = _IN_MODERN if modern else _IN_LEGACY
        if len(failure) > MAX_FAILURE_BYTES or (one not in failure and other not in failure):
            return ""
        known = (what, modern) in self._found
        if not known and len(self._found) < MAX_TOOLS:
            self._found[what, modern] = None
        hint = self._hint(what if is_tool else "", modern)
        if not known and (what, modern) in self._found:
            self._on_first(what, hint)
        return hint

    def better(self, tool: str, *, modern: bool) -> bool:
        """Return whether a tool is to be called in the newer era by a host for whom that would be `modern`."""
        return modern is not self._moves(tool, modern)

    def remarks(self) -> list[str]:
        """Return what a person should know, a sentence for each era; nothing of a server without such tools."""
        found = {modern: [t for t, in_modern in self._found if in_modern is modern] for modern in (True, False)}
        return [f"{_shown(tools)}: {self._hint(tools[0], modern)}" for modern, tools in found.items() if tools]

    def _moves(self, tool: str, modern: bool) -> bool:
        """Return whether a tool has failed in one era and not in the other."""
        return bool(self._found) and (tool, modern) in self._found and (tool, not modern) not in self._found

    def _hint(self, tool: str, modern: bool) -> str:
        if modern:
            found, key = "asks its host by a request, which MCP has up to 2025-11-25 only", "legacy"
        else:
            found, key = "may ask its host by its result, which MCP has from 2026-07-28 on only", MODERN_VERSIONS[-1]
        if self.other_era and self._moves(tool, modern):
            return f"it {found}; call it again: from now on it is called in that era"
        return f'it {found}; protocol = "{key}" in the entry of server {self._server!r} may mend it'


def _shown(tools: list[str]) -> str:
    names = ", ".join(repr(tool[:MAX_NAME_CHARS]) for tool in tools[:MAX_SHOWN])
    more = f" and {len(tools) - MAX_SHOWN} more" if len(tools) > MAX_SHOWN else ""
    return f"tool {names}{more}"


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
NO_NUMBER = "NaN or Infinity in a message"
FOLLOWED = "messages with something behind them"
UNLABELLED = "messages without `jsonrpc`: `2.0`"
"""What it looks like; `server.mending` knows what helps."""

_SHAPES = (
    (UTF_16, re.compile(rb"\xff\xfe|\xfe\xff|.?\x00[^\x00]|[^\x00]\x00", re.DOTALL)),
    (SEQUENCE, re.compile(rb"\x1e")),  # RFC 7464 section 2.2: a record separator before each text
    (LSP, re.compile(rb"\s*content-(?:length|type)\s*:", re.IGNORECASE)),
    (EVENTS, re.compile(rb"(?:data|event|id|retry):")),
    (SEVERAL_LINES, re.compile(rb"\s*[{\[]\s*(?:\"[^\"]*\"\s*:\s*[^{},]*,?\s*)?\Z")),
    (TWO_IN_ONE, re.compile(rb"\s*\{.*\}\s*\{.*\"jsonrpc\"", re.DOTALL)),
    (PREFIXED, re.compile(rb"(?!\s*\[?\s*\{)[^{]{1,400}\{.{0,200}\"jsonrpc\"", re.DOTALL)),
    (NO_NUMBER, re.compile(rb"\s*\{.*\"jsonrpc\".*[:,\[]\s*(?:NaN|-?Infinity)\s*[,\]}]", re.DOTALL)),
    (FOLLOWED, re.compile(rb"\s*\{.*\"jsonrpc\".*\}[^}\"]{1,80}\Z", re.DOTALL)),
    (
        UNLABELLED,
        re.compile(rb"(?!.*\"jsonrpc\"\s*:\s*\"2\.0\")\s*\{.*\"(?:protocolVersion|capabilities)\"\s*:", re.DOTALL),
    ),
)


class Noise:
    """What a server wrote to stdout that is no message: how much, how it began, and what first tells what is wrong."""

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
            told.append(how_many + _quoted(self._first, scrub) + _looks(_shape(self._first)))
        if self._told and not _shape(self._first):
            told.append(f"among them: {_quoted(self._told, scrub)}")
        if unfinished.strip():
            told.append("a line was begun and not ended: " + _quoted(unfinished, scrub) + _looks(_unended(unfinished)))
        return "; ".join(told)


def _quoted(line: bytes, scrub: Callable[[str], str]) -> str:
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
        except MALFORMED:
            return shape
        return UNENDED
    return shape
