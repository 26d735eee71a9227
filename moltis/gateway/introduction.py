"""What a host is told when it asks who it talks to: `initialize`, and `server/discover` from MCP 2026-07-28 on.

Pure. One server is introduced in its own words, but for what is ours to promise: we notice by ourselves when a list is
new (a server that comes back may list something else), so we always promise to tell.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Raw

from moltis.gateway.api import Known
from moltis.gateway.messages import SERVER_INFO
from moltis.printable import one_line
from moltis.server.status import HostSeen
from moltis.session.handshake import HANDSHAKE_VERSIONS, MODERN_VERSIONS

__all__ = ["Introduction", "of_all", "of_one", "seen", "version_for"]

_ALL: Final[dict[str, Any]] = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "prompts": {"listChanged": True},
    "logging": {},
    "completions": {},
}
MAX_NAME_CHARS: Final = 100
"""Of a host that status and log tell of."""
MAX_SAID_BYTES: Final = 16 * 1024
"""Of what it says of itself; who says more has no name there."""
MAX_SEEN: Final = 256
"""Hosts whose words are looked at once; a program says the same in each of its sessions."""
_SCRATCH_CHARS: Final = 1000
"""Of a name that are made printable: each may take ten characters then."""
_LISTS: Final = ("tools", "resources", "prompts")
_NOTHING: Final = Raw(b"{}")


class Introduction(msgspec.Struct, frozen=True):
    """Who it is. `info`: `Implementation` of MCP; `more`: what else a server says of itself, `_meta` among it."""

    info: dict[str, Any]
    capabilities: dict[str, Any]
    instructions: str | None = None
    more: dict[str, Raw] = {}

    def initialized(self, version: str) -> bytes:
        """Give the result of `initialize`."""
        said = {"protocolVersion": version, "capabilities": self.capabilities, "serverInfo": self.info}
        return msgspec.json.encode({**said, **self._instructions(), **self.more})

    def discovered(self) -> bytes:
        """Give the result of `server/discover`."""
        said = {"supportedVersions": list(MODERN_VERSIONS), "capabilities": self.capabilities}
        more = {name: raw for name, raw in self.more.items() if name != "_meta"}
        rest = msgspec.json.encode({**said, **self._instructions(), **more})
        return b"{%b%b" % (self._modern_members(self.more.get("_meta", _NOTHING)), rest[1:])

    def modern_members(self) -> bytes:
        """Give the members that each result of ours begins with (MCP 2026-07-28), with the comma behind.

        Nothing of ours may be cached: a list is new as soon as a server comes or goes, and not every host listens.
        """
        return self._modern_members(_NOTHING)

    def _modern_members(self, meta: Raw) -> bytes:
        named = {SERVER_INFO: self.info, **msgspec.json.decode(meta, type=dict[str, Raw])}
        return b'"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":%b,' % msgspec.json.encode(named)

    def _instructions(self) -> dict[str, str]:
        return {"instructions": self.instructions} if self.instructions else {}


def of_all(name: str, version: str, instructions: str) -> Introduction:
    """Introduce the gateway itself."""
    return Introduction({"name": name, "version": version}, _ALL, instructions or None)


def of_one(name: str, known: Known | None) -> Introduction:
    """Introduce one server; of one that nothing is known of, everything is expected."""
    if known is None:
        return Introduction({"name": name, "version": "unknown"}, _ALL)
    agreed = known.agreed
    info = dict(agreed.server_info or {})
    info.setdefault("name", name)
    info.setdefault("version", "unknown")
    capabilities = dict(agreed.capabilities)
    if capabilities.get("tools") is None and (known.tools or not any(capabilities.get(member) for member in _LISTS)):
        capabilities["tools"] = {}  # some servers declare nothing and have tools all the same
    for member in _LISTS:
        if isinstance(capabilities.get(member), dict):
            capabilities[member] = {**capabilities[member], "listChanged": True}
    return Introduction(info, capabilities, agreed.instructions, agreed.more)


class _Named(msgspec.Struct):
    name: Any = None
    version: Any = None


def seen(client_info: bytes, *, modern: bool, token: str) -> HostSeen:
    """Return who a host says it is; "unknown" for what it does not say. token: the name of its access token, if any."""
    if len(client_info) > MAX_SAID_BYTES:
        client_info = b""
    return _seen(client_info, modern, token)


@lru_cache(maxsize=MAX_SEEN)
def _seen(client_info: bytes, modern: bool, token: str) -> HostSeen:
    try:
        found = msgspec.json.decode(client_info, type=_Named)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        found = _Named()
    return HostSeen(_shown(found.name), _shown(found.version), "modern" if modern else "legacy", token or None)


def _shown(said: Any) -> str:
    """Return a stranger's word as one printable line."""
    shown = one_line(said[:_SCRATCH_CHARS])[:MAX_NAME_CHARS].rstrip() if isinstance(said, str) else ""
    return shown or "unknown"


def version_for(requested: str | None) -> str:
    """Give the protocol version that a session is held in (MCP 2025-11-25, Lifecycle)."""
    return requested if requested in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]
