"""A request of somebody else's, made into one of ours: its own members as they came, under our id and progress token.

Pure. A server sees the members of `_meta` that its era has, and no payload is read on the way.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from moltis.jsonrpc import MALFORMED, json_string
from moltis.printable import unbroken

PROTOCOL_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"
CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
MODERN_ONLY: Final = (PROTOCOL_VERSION, CLIENT_INFO, CAPABILITIES, LOG_LEVEL)
"""Members of `_meta` that mean something from MCP 2026-07-28 on."""


class _Request(msgspec.Struct, gc=False):
    jsonrpc: str
    id: int
    method: str
    params: dict[str, Any]


_ENCODE = msgspec.json.Encoder().encode
_MEMBERS = msgspec.json.Decoder(dict[str, Raw]).decode


class Passing:
    """How requests are passed on to one server, once its era is known.

    version: the revision agreed on. client: `clientInfo` as JSON, of requests that do not say whose they are.
    undeclared: capabilities of hosts that a modern server is not told of.
    """

    __slots__ = ("_meta", "_modern", "_undeclared", "_version")

    def __init__(self, version: str, client: bytes, *, modern: bool, undeclared: frozenset[str] = frozenset()) -> None:
        self._undeclared = undeclared
        self._modern = modern
        self._version = Raw(json_string(version))
        self._meta = {CLIENT_INFO: Raw(client), CAPABILITIES: Raw(b"{}")}

    def request(self, id: int, method: str, params: dict[str, Raw], meta: dict[str, Raw]) -> bytes:
        """Build the request, on one line. `params`: without `_meta`; `meta`: the host's. Neither is changed."""
        members: dict[str, Any]
        if self._modern:
            members = {**self._meta, **meta, PROTOCOL_VERSION: self._version, "progressToken": id}
            if self._undeclared and CAPABILITIES in meta:
                members[CAPABILITIES] = self._less(meta[CAPABILITIES])
        elif meta:
            members = {**meta, "progressToken": id}
            for name in MODERN_ONLY:
                members.pop(name, None)
        else:
            members = {"progressToken": id}
        return unbroken(_ENCODE(_Request("2.0", id, method, {**params, "_meta": members})))

    def _less(self, capabilities: Raw) -> Raw:
        try:
            members = _MEMBERS(capabilities)
        except MALFORMED:
            return Raw(b"{}")
        return Raw(_ENCODE({name: said for name, said in members.items() if name not in self._undeclared}))
