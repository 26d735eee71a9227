"""What is listed: the lists of all servers as one, or of one server as they are, in pages that are ready to be sent;
and who is responsible for a name or a URI.

Nothing is made twice. A page is bytes, made when it is first asked for and kept until a list changes; finding out what
changed compares tuples that are mostly the same objects.

Where names meet, the server that is first in order keeps its own: of tools and prompts the first of a name is listed
alone, of resources and templates every further one under its alias (`naming`). Whose a name is depends on what servers
list and are called, never on who was asked before.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

from moltis.errors import UsageError
from moltis.gateway.abilities import Need
from moltis.gateway.naming import fitted, may_be_fitted, origin, scheme_of, splits
from moltis.gateway.shelves import Part, Shelf, make_part, part_steps, without_clashes
from moltis.gateway.templates import MAX_URI_CHARS, Target, Template, read_template
from moltis.jsonrpc import json_string
from moltis.printable import unbroken
from moltis.session.listing import Item, Kind

PAGE_BYTES: Final = 4 * 1024 * 1024

FEW_ITEMS: Final = 200
"""Of which a list is made within a turn of the event loop; each takes up to 20 us."""

_MEMBERS_OF_KINDS: Final = tuple((kind, kind.member) for kind in Kind)

MAX_REMEMBERED: Final = 4096
MAX_REMEMBERED_CHARS: Final = 1024
"""Names whose owner is looked up once. They are the hosts' words."""


Parts = dict[tuple[str, str], Part]
"""What servers have in lists, by list and server."""


class Catalogue:
    """The lists of some servers as one.

    sep: between a server's label and its tool's or prompt's name. None for the lists of a single server, which stay as
        they are; then there is at most one shelf.
    page_bytes: how long the items of a page may be; one is always on it.
    chars: of a tool's or prompt's name, at most; 0: as long as they are (`naming.fitted`).
    parts: of all catalogues with the same sep and chars, which whoever keeps it clears of servers that are gone.
    path: where it is listed.

    Not thread-safe; nothing here blocks.
    """

    def __init__(
        self,
        sep: str | None = "__",
        page_bytes: int = PAGE_BYTES,
        *,
        chars: int = 0,
        parts: Parts | None = None,
        path: str = "/mcp",
    ) -> None:
        self._sep = sep
        self._chars = chars
        self._page_bytes = page_bytes
        self._shelves: list[Shelf] = []
        self._owners = Owners(())
        self._shares = parts is not None
        self._parts: Parts = {} if parts is None else parts
        self._path = path
        self._lists: dict[str, _List] = {}
        self._remembered: dict[str, dict[str, Owner]] = {kind.member: {} for kind in Kind}
        self._last_located: tuple[str, Owner | None] | None = None
        """However long it is, and if it is nobody's: the same is asked twice where somebody subscribes."""

    def update(self, shelves: Sequence[Shelf]) -> None:
        """Take what there is now, in the order it is to be listed; to be called before asking, as often as one likes.

        Pass the shelves of all servers, each under a label of its own, those that are not listed with `listed=False`: a
        name is only understood if its server is known. What is moltis's own is on a shelf of a server without a name.
        Tuples that are the same objects as last time cost nothing; equal ones, a comparison.
        """
        before, self._shelves = self._shelves, list(shelves)
        if before == self._shelves:
            return
        for kind in Kind:
            if _listed(before, kind) != _listed(self._shelves, kind):
                self._lists.pop(kind.member, None)
        if not self._shares:
            present = {shelf.server for shelf in self._shelves}
            self._parts = {key: part for key, part in self._parts.items() if key[1] in present}
        self._owners = Owners([shelf for shelf in self._shelves if shelf.server])
        for remembered in self._remembered.values():
            remembered.clear()
        self._last_located = None

    def page(
        self,
        kind: Kind,
        cursor: str | None = None,
        first: bytes = b"",
        *,
        legacy: bool = False,
        without: frozenset[str] = frozenset(),
    ) -> bytes:
        """Return the result of a list request: a JSON object on one line, the same bytes object each time.

        cursor: `nextCursor` of an earlier page; None for the first. It stays good while the item before it or
            the one behind it is listed.
        first: members to begin with, as `b'"resultType":"complete",'`, with the comma behind. Meant for few constants:
            pages are kept for each.
        legacy: as hosts up to 2025-11-25 may read it.
        without: names as listed that are left out of it; where pages begin does not depend on it.

        Raises:
            UsageError: the cursor is not one of ours, or what it pointed to is gone (-32602).
        """
        return self._list(kind).page(cursor, first, legacy=legacy, without=without)

    def needs(self) -> dict[str, tuple[str, Need]]:
        """Return what listed tools need of their host: by their names as listed, with their servers."""
        return self._list(Kind.TOOLS).needs

    def need_of(self, server: str, tool: str) -> Need | None:
        """Return what a tool needs of its host, by the server's name for it, once its list was made; None: nothing."""
        part = self._parts.get(("tools", server))  # on the path of every call: looking up an Enum is slow
        return part.needs.get(tool) if part is not None else None

    def is_ready(self, kind: Kind, *, legacy: bool = False) -> bool:
        """Whether a page or the digest of a list is made within a turn of the event loop."""
        return sum(len(shelf.items(kind)) for shelf in self._unmade(kind, legacy)) <= FEW_ITEMS

    def preparation(self, kind: Kind, *, legacy: bool = False) -> Iterator[None]:
        """Make what a list consists of, item by item."""
        for shelf in self._unmade(kind, legacy):
            part = self._made(kind, shelf)
            if part is None:
                part = yield from part_steps(kind, shelf, self._sep, self._chars, self._path)
                self._parts[kind.member, shelf.server] = part
            if legacy:
                yield from part.legacy_steps()

    def digest(self, kind: Kind) -> bytes:
        """Return 16 bytes that differ when what is listed does, by content or order."""
        return self._list(kind).digest

    def unusable(self, server: str) -> list[tuple[Kind, str, str]]:
        """Return what of a server's lists is not as MCP has it: the list, its own name for the item, and why.

        Of lists that were made already.
        """
        found: list[tuple[Kind, str, str]] = []
        for kind, member in _MEMBERS_OF_KINDS:
            part = self._parts.get((member, server))
            if part is not None and part.unusable:
                found += [(kind, name, why) for name, why in part.unusable]
        return found

    def owner_of_tool(self, name: str) -> Owner | None:
        """Say whose tool it is, listed or not; None if the name begins with no server's."""
        return self._remembered["tools"].get(name) or self._find(Kind.TOOLS, name)

    def owner_of_prompt(self, name: str) -> Owner | None:
        """Say whose prompt it is, listed or not; None if the name begins with no server's."""
        return self._remembered["prompts"].get(name) or self._find(Kind.PROMPTS, name)

    def owner_of_resource(self, uri: str) -> Owner | None:
        """Say who is to be asked for a resource, and by which URI; None if nobody can be told to have it.

        Who lists it; else who has the most specific template that it may come from; else the only server whose URIs
        have its scheme. `moltis://SERVER/...` is that server's whatever is listed. Of a single server, everything is.
        """
        owner = self._remembered["resources"].get(uri)
        if owner is not None:
            return owner
        if self._last_located is None or self._last_located[0] != uri:
            self._last_located = uri, self._find(Kind.RESOURCES, uri)
        return self._last_located[1]

    def owner_of_template(self, template: str) -> Owner | None:
        """Say whose URI template it is (`completion/complete`), and how the server spells it; else as for a URI."""
        return self._remembered["resourceTemplates"].get(template) or self._find(Kind.TEMPLATES, template)

    def _list(self, kind: Kind) -> _List:
        found = self._lists.get(kind.member)
        if found is None:
            parts: Iterable[Part] = [self._part(kind, shelf) for shelf in self._shelves if shelf.listed]
            if self._sep is not None:
                parts = without_clashes(parts)
            found = self._lists[kind.member] = _List(kind, [part for part in parts if part.raws], self._page_bytes)
        return found

    def _part(self, kind: Kind, shelf: Shelf) -> Part:
        part = self._made(kind, shelf)
        if part is None:
            part = make_part(kind, shelf, self._sep, self._chars, self._path)
            self._parts[kind.member, shelf.server] = part
        return part

    def _made(self, kind: Kind, shelf: Shelf) -> Part | None:
        part = self._parts.get((kind.member, shelf.server))
        if part is None or part.label != shelf.label:
            return None
        items = shelf.items(kind)
        return part if part.items is items or part.items == items else None

    def _unmade(self, kind: Kind, legacy: bool) -> list[Shelf]:
        return [
            shelf
            for shelf in self._shelves
            if shelf.listed and ((part := self._made(kind, shelf)) is None or (legacy and not part.is_ready_for_legacy))
        ]

    def _find(self, kind: Kind, text: str) -> Owner | None:
        if kind is Kind.TOOLS or kind is Kind.PROMPTS:
            owner = self._of_fitted(kind, text) or self._owners.of_name(kind, text, self._sep or "")
        else:
            owner = self._list(kind).owner(text)
            if owner is None or not owner.server:
                owner = self._owners.of_uri(text)
        if owner is not None and len(text) <= MAX_REMEMBERED_CHARS:
            remembered = self._remembered[kind.member]
            if len(remembered) >= MAX_REMEMBERED:
                remembered.clear()
            remembered[text] = owner
        return owner

    def _of_fitted(self, kind: Kind, text: str) -> Owner | None:
        """Find whose shortened name it is, listed or not."""
        if not self._chars or not may_be_fitted(text):
            return None
        head = text.rpartition("_")[0]
        for shelf in self._shelves:
            front = f"{shelf.label}{self._sep}"
            if not (front.startswith(head) or head.startswith(front)):
                continue
            for item in shelf.items(kind):
                if fitted(shelf.label, item.name, self._sep or "", self._chars) == text:
                    return Owner(shelf.server, item.name)
        return None


def _listed(shelves: Sequence[Shelf], kind: Kind) -> list[tuple[object, ...]]:
    return [(shelf.server, shelf.label, shelf.items(kind)) for shelf in shelves if shelf.listed]


@dataclass(eq=False)
class _List:
    """One list as it is shown."""

    kind: Kind
    parts: list[Part]
    page_bytes: int
    _pages: dict[tuple[int, bytes, bool, frozenset[str]], bytes] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        return blake2b(b"".join(part.digest for part in self.parts), digest_size=16).digest()

    @cached_property
    def _raws(self) -> list[bytes]:
        return [raw for part in self.parts for raw in part.raws]

    @cached_property
    def _legacy_raws(self) -> list[bytes]:
        return [raw for part in self.parts for raw in part.legacy_raws]

    @cached_property
    def _shown(self) -> list[str]:
        return [shown for part in self.parts for shown in part.shown]

    @cached_property
    def _traces(self) -> list[bytes]:
        return [_trace(name) for name in self._shown]

    def owner(self, shown: str) -> Owner | None:
        for part in self.parts:
            name = part.names.get(shown)
            if name is not None:
                return Owner(part.server, name)
        return None

    @cached_property
    def needs(self) -> dict[str, tuple[str, Need]]:
        return {
            shown: (part.server, part.needs[name])
            for part in self.parts
            if part.needs
            for shown, name in part.names.items()
            if name in part.needs
        }

    def page(self, cursor: str | None, first: bytes, *, legacy: bool, without: frozenset[str]) -> bytes:
        start = 0 if cursor is None else self._start(cursor)
        found = self._pages.get((start, first, legacy, without))
        if found is None:
            end = self._end(start)
            more = b"" if end >= len(self._raws) else b',"nextCursor":%b' % json_string(self._cursor(end))
            raws = self._legacy_raws if legacy else self._raws
            kept = raws[start:end]
            if without:
                kept = [raw for shown, raw in zip(self._shown[start:end], kept, strict=True) if shown not in without]
            items = unbroken(b",".join(kept))
            found = b'{%b"%b":[%b]%b}' % (first, self.kind.member.encode(), items, more)
            if start in self._starts:
                if len(self._pages) >= _MOST_FIRSTS * len(self._starts):
                    self._pages.clear()
                self._pages[start, first, legacy, without] = found
        return found

    @cached_property
    def _starts(self) -> frozenset[int]:
        """Where pages begin for whoever reads from the beginning: a cursor can be made to point anywhere."""
        starts = [0]
        while (end := self._end(starts[-1])) < len(self._raws):
            starts.append(end)
        return frozenset(starts)

    @cached_property
    def _fits(self) -> bool:
        return sum(map(len, self._raws)) + len(self._raws) <= self.page_bytes

    def _end(self, start: int) -> int:
        if self._fits:
            return len(self._raws)
        size = 0
        for index in range(start, len(self._raws)):
            size += len(self._raws[index]) + 1
            if size > self.page_bytes and index > start:
                return index
        return len(self._raws)

    def _cursor(self, at: int) -> str:
        told = _CURSOR.pack(_KINDS.index(self.kind), at, _trace(self._shown[at - 1]), _trace(self._shown[at]))
        return base64.urlsafe_b64encode(told).decode()

    def _start(self, cursor: str) -> int:
        kind, at, behind, ahead = _read_cursor(cursor)
        if kind != _KINDS.index(self.kind):
            raise UsageError("the cursor is not one that this list was given with", hint="list again without a cursor")
        shown = self._shown
        if 0 < at < len(shown) and _trace(shown[at - 1]) == behind and _trace(shown[at]) == ahead:
            return at
        # The list has changed since. Of names that are there twice, the one that is nearest is meant.
        after = [index + 1 for index, trace in enumerate(self._traces) if trace == behind]
        before = [index for index, trace in enumerate(self._traces) if trace == ahead]
        if not after and not before:
            raise UsageError("the list has changed too much for this cursor", hint="list again without a cursor")
        return min(after or before, key=lambda index: abs(index - at))


_KINDS: Final = tuple(Kind)
_CURSOR: Final = struct.Struct(">BI8s8s")
"""The list, a position, and traces of the names before and behind it. 21 bytes need no padding in base64."""
_MOST_FIRSTS: Final = 8
"""Two are meant; a third is there for a while when what they say has changed. Each is there for hosts of several
abilities where tools need some."""


def _read_cursor(cursor: str) -> tuple[int, int, bytes, bytes]:
    try:
        if len(cursor) == _CURSOR.size // 3 * 4:
            kind, at, behind, ahead = _CURSOR.unpack(base64.b64decode(cursor, altchars=b"-_", validate=True))
            return kind, at, behind, ahead
    except (ValueError, struct.error):
        pass
    return -1, 0, b"", b""


def _trace(shown: str) -> bytes:
    return blake2b(shown.encode("utf-8", "surrogatepass"), digest_size=8).digest()


MAX_TEMPLATES: Final = 500
MAX_TEMPLATES_CHARS: Final = 32 * 1024
"""Of one server that a URI is matched with, which takes 15 ms at the worst, and once 20 ms to read them; the others are
listed all the same."""

_read_template: Final = lru_cache(1024)(read_template)


class Owner(msgspec.Struct, frozen=True, gc=False):
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

    @cached_property
    def _by_fold(self) -> dict[str, str]:
        return {label.casefold(): server for label, server in self._servers.items()}

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
        """Return what says most of a URI first, so that a mere `{+uri}` keeps nobody from theirs."""
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
