"""Tools that ask their host in a way that the era of their session does not have, known by how the SDKs fail them.

Up to 2025-11-25 a tool asks by a request of its own while it works; from 2026-07-28 on it answers with its questions.
With the SDKs of both eras most tools are written for one of the two, and fail in the other with an error that says
nothing of what a person can do about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from moltis.session.handshake import MODERN_VERSIONS

__all__ = ["MAX_FAILURE_BYTES", "MISFIT_METHODS", "Misfits"]

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
    """Of one run of a server. `on_first`: told the tool and what can be done, once for each tool and era.

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
