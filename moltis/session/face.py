"""As whom a session meets its server, where it is one host's alone."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import msgspec
from msgspec import Raw

from moltis.jsonrpc import MALFORMED

NO_ROOTS: Final = b'{"roots":[]}'

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])


class Face(msgspec.Struct, frozen=True):
    """A host as its server is to see it. JSON, each on one line.

    client_info, capabilities: as the host said. roots: its result of `roots/list`.
    """

    client_info: bytes
    capabilities: bytes = b"{}"
    roots: bytes = NO_ROOTS

    def less(self, undeclared: Container[str]) -> dict[str, Raw]:
        """Return its capabilities by name, less those that the server is not to know of."""
        try:
            return {name: said for name, said in _MEMBERS.decode(self.capabilities).items() if name not in undeclared}
        except MALFORMED:
            return {}

    def declared(self, undeclared: Container[str]) -> bytes:
        """Return the same as JSON."""
        data: bytes = msgspec.json.encode(self.less(undeclared))
        return data
