"""The tools of one server as they may be used: less those that are filtered out, with what HTTP wants beside a call."""

from __future__ import annotations

from collections.abc import Sequence

from moltis.session.listing import Item, ToolFilter
from moltis.session.mirrored import Invalid, Mirror, mirror_of

Headers = tuple[tuple[str, str], ...]


class Offer:
    """Made anew whenever the list or the filter changes.

    mirrored: whether arguments may have to be repeated in HTTP headers (`x-mcp-header`, MCP 2026-07-28). A tool whose
        schema asks for that in a way that cannot be is not offered, as the specification wants it.
    """

    def __init__(self, listed: Sequence[Item], filter: ToolFilter, *, mirrored: bool) -> None:
        self.listed = listed
        self._mirrors: dict[str, Mirror] = {}
        self.items = tuple(item for item in listed if filter.allows(item.name) and not (mirrored and self._bad(item)))

    def headers(self, tool: str, arguments: bytes | None) -> Headers:
        """Give the headers that go with a call."""
        mirror = self._mirrors.get(tool)
        return () if mirror is None else mirror.headers(arguments)

    def _bad(self, item: Item) -> bool:
        found = mirror_of(item.raw)
        if isinstance(found, Mirror):
            self._mirrors[item.name] = found
        return isinstance(found, Invalid)
