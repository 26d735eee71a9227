"""Who is responsible for a name or a URI.

One rule: it depends on what servers list and are called, never on who was asked before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

from moltis.gateway.naming import origin, scheme_of, splits
from moltis.gateway.shelves import Shelf
from moltis.gateway.templates import MAX_URI_CHARS, Target, Template, read_template
from moltis.session.listing import Item, Kind

__all__ = ["MAX_TEMPLATES", "MAX_TEMPLATES_CHARS", "Owner", "Owners", "may_come_of"]

MAX_TEMPLATES: Final = 500
MAX_TEMPLATES_CHARS: Final = 32 * 1024
"""Of one server that a URI is matched with, which takes 15 ms at the worst, and once 20 ms to read them; the others are
listed all the same."""

_read_template: Final = lru_cache(1024)(read_template)


class Owner(NamedTuple):
    """Who is responsible, and what the server itself calls what was asked for."""

    server: str
    name: str


class Owners:
    """What can be said of some servers, those that are listed before the others. Nothing is worked out unasked."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self._shelves = [s for s in shelves if s.listed] + [s for s in shelves if not s.listed]
        self._servers = {shelf.label: shelf.server for shelf in self._shelves}

    def of_name(self, kind: Kind, text: str, sep: str) -> Owner | None:
        """Find the server of a tool or prompt: whoever the name begins with; if several, the first that lists it."""
        found = dict(splits(text, sep, self._servers))
        if len(found) > 1:
            for shelf in self._shelves:
                name = found.get(shelf.label)
                if name is not None and any(item.name == name for item in shelf.items(kind)):
                    return Owner(shelf.server, name)
        return next((Owner(self._servers[label], name) for label, name in found.items()), None)

    def of_uri(self, uri: str) -> Owner | None:
        """Find the server of a resource, or a template's URI, that is not listed as it is spelled."""
        return self.of_alias(uri) or self._unlisted(uri) or self._by_template(uri) or self._by_scheme(uri)

    def of_alias(self, uri: str) -> Owner | None:
        """Find the server that an alias names; None if it is none. Its case is of no matter, as in any URI's host."""
        found = origin(uri)
        server = found and self._by_fold.get(found[0].casefold())
        return Owner(server, found[1]) if found and server else None

    def of_single(self, kind: Kind, text: str) -> Owner | None:
        """Find who owns anything at all where there is one server."""
        if not self._shelves:
            return None
        shelf = self._shelves[0]
        if kind is Kind.TOOLS or kind is Kind.PROMPTS or text in self._single_uris:
            return Owner(shelf.server, text)
        return self.of_alias(text) or Owner(shelf.server, text)

    @cached_property
    def _by_fold(self) -> dict[str, str]:
        return {label.casefold(): server for label, server in self._servers.items()}

    @cached_property
    def _single_uris(self) -> frozenset[str]:
        shelf = self._shelves[0]
        return frozenset(item.name for item in (*shelf.resources, *shelf.templates))

    def _unlisted(self, uri: str) -> Owner | None:
        server = self._unlisted_uris.get(uri)
        return Owner(server, uri) if server else None

    @cached_property
    def _unlisted_uris(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for shelf in self._shelves:
            if not shelf.listed:
                for item in (*shelf.resources, *shelf.templates):
                    found.setdefault(item.name, shelf.server)
        return found

    def _by_template(self, uri: str) -> Owner | None:
        if len(uri) > MAX_URI_CHARS:
            return None
        target = Target(uri)
        return next((Owner(server, uri) for template, server in self._templates if template.matches(target)), None)

    @cached_property
    def _templates(self) -> list[tuple[Template, str]]:
        """Give what says most of a URI first, so that a mere `{+uri}` keeps nobody from theirs."""
        found = []
        for index, shelf in enumerate(self._shelves):
            for template in _readings(shelf.templates):
                if template is not None:
                    found.append((not shelf.listed, -template.literal, index, template, shelf.server))
        return [(template, server) for *_, template, server in sorted(found, key=lambda entry: entry[:3])]

    def _by_scheme(self, uri: str) -> Owner | None:
        servers = self._schemes.get(scheme_of(uri) or "", ())
        return Owner(servers[0], uri) if len(servers) == 1 else None

    @cached_property
    def _schemes(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for shelf in self._shelves:
            if shelf.listed:
                for scheme in _schemes_of(item.name for item in (*shelf.resources, *shelf.templates)):
                    found.setdefault(scheme, []).append(shelf.server)
        return found


def may_come_of(templates: Sequence[Item], uri: str) -> bool:
    """Whether a URI may come of one of a server's templates. In doubt it may: not all are looked at, nor long ones."""
    readings = _readings(templates)
    if len(readings) < len(templates) or None in readings or len(uri) > MAX_URI_CHARS:
        return True
    target = Target(uri)
    return any(template.matches(target) for template in readings if template is not None)


def _readings(templates: Sequence[Item]) -> list[Template | None]:
    """Return the templates that are looked at, read; None for one that cannot be."""
    room, found = MAX_TEMPLATES_CHARS, list[Template | None]()
    for item in templates[:MAX_TEMPLATES]:
        room -= len(item.name)
        if room < 0:
            break
        found.append(_read_template(item.name))
    return found


def _schemes_of(uris: Iterable[str]) -> set[str]:
    return {scheme for scheme in map(scheme_of, uris) if scheme is not None}
