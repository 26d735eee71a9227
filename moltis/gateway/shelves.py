"""What one server has to offer, and how it looks among that of others.

Whatever a server lists, it cannot take a name that is another server's, nor spoil the list for the others.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Final

import msgspec

from moltis.gateway.abilities import Need, need_of
from moltis.gateway.naming import alias, alias_template, fitted, is_alias, refused, renamed
from moltis.gateway.revisions import tool_for_legacy
from moltis.gateway.wellformed import checked
from moltis.jsonrpc import MALFORMED
from moltis.session.listing import Item, Kind

_BY_NAME: Final = (Kind.TOOLS, Kind.PROMPTS)


class Shelf(msgspec.Struct, frozen=True):
    """What one server has to offer, in its own order and words: filtered already, if it is to be.

    label: what it is called among others; its name where nothing else is said.
    listed: whether hosts see it. What is not listed is still known to be this server's, so that a host which asks for
        it learns why it cannot have it.
    """

    server: str
    tools: tuple[Item, ...] = ()
    resources: tuple[Item, ...] = ()
    templates: tuple[Item, ...] = ()
    prompts: tuple[Item, ...] = ()
    listed: bool = True
    label: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            msgspec.structs.force_setattr(self, "label", self.server)

    def items(self, kind: Kind) -> tuple[Item, ...]:
        """Return one of the lists."""
        if kind is Kind.TOOLS:
            return self.tools
        if kind is Kind.RESOURCES:
            return self.resources
        return self.templates if kind is Kind.TEMPLATES else self.prompts


@dataclass(frozen=True, eq=False)
class Part:
    """One server's share of a list, ready to be sent.

    items: what it was made of.
    shown: what the items are listed as; raws: their JSON, in the same order.
    names: what the server calls what is listed.
    unusable: what is not as MCP has it, by the server's names, and why; it is listed without that, or not at all. And
        what many hosts refuse though it is.
    needs: what tools need of their host, by the server's names; those alone that need something.
    """

    kind: Kind
    server: str
    label: str
    items: tuple[Item, ...]
    shown: tuple[str, ...]
    raws: tuple[bytes, ...]
    names: dict[str, str]
    unusable: tuple[tuple[str, str], ...] = ()
    needs: Mapping[str, Need] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        """Of what is listed; empty if nothing is."""
        return blake2b(b",".join(self.raws), digest_size=16).digest() if self.raws else b""

    @cached_property
    def legacy_raws(self) -> tuple[bytes, ...]:
        """The JSON for hosts up to 2025-11-25."""
        return tuple(map(tool_for_legacy, self.raws)) if self.kind is Kind.TOOLS else self.raws

    @property
    def is_ready_for_legacy(self) -> bool:
        """Whether `legacy_raws` has been made, or is what there is anyway."""
        return self.kind is not Kind.TOOLS or "legacy_raws" in self.__dict__

    def legacy_steps(self) -> Iterator[None]:
        """Make `legacy_raws` item by item, for who has something else to do in between."""
        if not self.is_ready_for_legacy:
            made = []
            for raw in self.raws:
                made.append(tool_for_legacy(raw))
                yield
            self.__dict__["legacy_raws"] = tuple(made)

    def without(self, taken: frozenset[str]) -> Part:
        """Return the same with these names left to others: under their aliases, or not at all."""
        last: tuple[frozenset[str], Part] | None = self.__dict__.get("_without")
        if last is None or last[0] != taken:
            last = self.__dict__["_without"] = (taken, self._remade(taken))
        return last[1]

    def _remade(self, taken: frozenset[str]) -> Part:
        found = _Found(self.kind)
        for shown, raw in zip(self.shown, self.raws, strict=True):
            item = Item(self.names[shown], raw)
            if shown not in taken:
                found.add(item, shown, raw)
            elif self.kind not in _BY_NAME:
                found.add(item, _alias(self.kind, self.label, item.name))
        return found.part(self.server, self.label, self.items, self.unusable, self.needs)


def make_part(kind: Kind, shelf: Shelf, sep: str | None, chars: int = 0, path: str = "/mcp") -> Part:
    """Make a server's share of a list. `sep` None: of a list that is the server's own, which stays as it is.

    path: where it is listed.
    chars: of a name; longer ones, and odd characters, are shortened as `fitted` does it. 0: as they are.
    """
    steps = part_steps(kind, shelf, sep, chars, path)
    while True:
        try:
            next(steps)
        except StopIteration as last:
            part: Part = last.value
            return part


def part_steps(
    kind: Kind, shelf: Shelf, sep: str | None, chars: int = 0, path: str = "/mcp"
) -> Generator[None, None, Part]:
    """Do the same item by item, for who has something else to do in between."""
    server, label, items = shelf.server, shelf.label, shelf.items(kind)
    needs: dict[str, Need] = {}
    if kind is Kind.TOOLS:
        for given in items:
            yield
            if (need := need_of(given.raw)) is not None:
                needs[given.name] = need
    if sep is None:
        shown = tuple(item.name for item in items)
        raws = tuple(item.raw for item in items)
        return Part(kind, server, label, items, shown, raws, dict(zip(shown, shown, strict=True)), needs=needs)
    found = _Found(kind)
    unusable: list[tuple[str, str]] = []
    for given in items:
        yield
        raw, reason = checked(kind, given)
        if reason:
            unusable.append((given.name, reason))
        if raw is None:
            continue
        if kind is Kind.TOOLS and (why := refused(label, given.name, sep, chars, path)):
            unusable.append((given.name, f"{why}; [gateway] tool_name_chars shortens it"))
        item = given if raw is given.raw else Item(given.name, raw, given.claims_server)
        if kind in _BY_NAME:
            found.add(item, fitted(label, item.name, sep, chars))
        elif server and is_alias(item.name):
            # These are ours to give: a server that lists one might answer in the name of another.
            found.add(item, _alias(kind, label, item.name))
        else:
            found.add(item, item.name, item.raw)
    return found.part(server, label, items, tuple(unusable), needs)


class _Found:
    """A part in the making."""

    __slots__ = ("kind", "names", "raws")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.names: dict[str, str] = {}
        self.raws: list[bytes] = []

    def add(self, item: Item, shown: str, raw: bytes | None = None) -> None:
        """List an item, renamed where its JSON is not given: unless it cannot be, or its name is there already.

        Some model providers refuse a whole list in which a name is there twice.
        """
        if shown in self.names:
            return
        if raw is None:
            try:
                raw = renamed(item, self.kind, shown)
            except MALFORMED:
                return
        self.names[shown] = item.name
        self.raws.append(raw)

    def part(
        self,
        server: str,
        label: str,
        items: tuple[Item, ...],
        unusable: tuple[tuple[str, str], ...],
        needs: Mapping[str, Need],
    ) -> Part:
        return Part(self.kind, server, label, items, tuple(self.names), tuple(self.raws), self.names, unusable, needs)


def _alias(kind: Kind, label: str, name: str) -> str:
    return alias(label, name) if kind is Kind.RESOURCES else alias_template(label, name)


def without_clashes(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts with each name in one of them only: the first that has it."""
    seen: set[str] = set()
    for part in parts:
        kept = part
        if not seen.isdisjoint(part.names):
            kept = part.without(frozenset(seen.intersection(part.names)))
        seen.update(kept.names)
        yield kept
