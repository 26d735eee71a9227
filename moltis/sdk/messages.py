"""What the daemon and the process with the SDK say to each other: one line of JSON each way.

The question goes by stdin, never by arguments or environment: it holds a server's secrets.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

LISTS = ("tools", "resources", "resource_templates", "prompts")
"""The lists of MCP, by the names that their members have here."""


class AskLocal(msgspec.Struct, frozen=True, kw_only=True, tag="stdio"):
    """Start a program and ask it. `env`: its whole environment."""

    command: str
    args: list[str]
    env: dict[str, str]
    cwd: str
    legacy: bool
    elicits: bool
    request_timeout_secs: float

    def __repr__(self) -> str:
        return f"AskLocal({self.command!r})"


class AskRemote(msgspec.Struct, frozen=True, kw_only=True, tag="http"):
    """Connect and ask. `falls_back`: to HTTP+SSE. `headers`: with the stored access token, if there is one.

    proxy: the URL of the proxy that it is reached through, with its password.
    """

    url: str
    headers: list[tuple[str, str]]
    ca_file: str | None
    proxy: str | None = None
    falls_back: bool
    legacy: bool
    elicits: bool
    request_timeout_secs: float

    def __repr__(self) -> str:
        return f"AskRemote({len(self.headers)} headers)"


Ask = AskLocal | AskRemote


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a client found of a server. `lists`: the names, URIs or URI templates, in the server's order.

    note: what it took to get there, if that was unusual.
    """

    protocol_version: str | None = None
    server_info: dict[str, Any] | None = None
    lists: dict[str, list[str]] = {}
    latency_ms: float | None = None
    note: str | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the process found, or why it did not.

    trouble: `missing`: there is no SDK; `server`: the server could not be connected to or listed.
    """

    sdk_version: str | None = None
    found: Found | None = None
    trouble: Literal["missing", "server"] | None = None
    error: str | None = None
