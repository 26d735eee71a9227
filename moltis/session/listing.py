"""What a server offers: pages of a list read into items, each kept byte for byte, within limits.

A list is somebody else's text: it may be huge, endless, repeat itself, or hold items without a name.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import msgspec

from moltis import jsonrpc
from moltis.jsonrpc import MALFORMED
from moltis.redaction import scrubbed
from moltis.session.mirrored import Invalid, Mirror, mirror_of
from moltis.session.parts import elements, is_empty, kind_of

MAX_PAGES = 100
MAX_ITEMS = 10_000
MAX_BYTES = 16 * 1024 * 1024
"""Per list. The largest public server known lists below 1000 tools in 1 MB."""

LARGE_BYTES = 1024 * 1024
"""To pass over so much takes some milliseconds."""
MAX_SCRUBBED_CHARS = 256 * 1024
"""Of an item that has a secret of its server's in it."""


class ListError(Exception):
    """A page is not what the method promises."""


class Kind(enum.Enum):
    """The four lists of MCP: what each is asked with, and where its items are."""

    TOOLS = ("tools/list", "tools", "tools", "notifications/tools/list_changed")
    RESOURCES = ("resources/list", "resources", "resources", "notifications/resources/list_changed")
    TEMPLATES = ("resources/templates/list", "resourceTemplates", "resources", "notifications/resources/list_changed")
    PROMPTS = ("prompts/list", "prompts", "prompts", "notifications/prompts/list_changed")

    def __init__(self, method: str, member: str, capability: str, changed: str) -> None:
        self.method = method
        self.member = member
        self.capability = capability
        self.changed = changed


CHANGED: dict[str, tuple[Kind, ...]] = {k.changed: tuple(o for o in Kind if o.changed == k.changed) for k in Kind}
"""Which lists a notification makes stale."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """One tool, resource, template or prompt.

    name: what it is addressed by; for a resource its URI, for a template its URI template.
    raw: the item as the server sent it.
    claims_server: it has a member `server` of its own, which must not pass for ours.
    """

    name: str
    raw: bytes
    claims_server: bool = False


class _Named(msgspec.Struct):
    name: str
    server: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Located(msgspec.Struct):
    name: str = msgspec.field(name="uri")
    server: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Templated(msgspec.Struct):
    name: str = msgspec.field(name="uriTemplate")
    server: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_HEADS: dict[Kind, msgspec.json.Decoder[_Named] | msgspec.json.Decoder[_Located] | msgspec.json.Decoder[_Templated]] = {
    Kind.TOOLS: msgspec.json.Decoder(_Named),
    Kind.PROMPTS: msgspec.json.Decoder(_Named),
    Kind.RESOURCES: msgspec.json.Decoder(_Located),
    Kind.TEMPLATES: msgspec.json.Decoder(_Templated),
}
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOO_MANY = f"it has more than {MAX_ITEMS} items"
_ADDRESSES = ("name", "uri", "uriTemplate")
_BY_NAME = (Kind.TOOLS, Kind.PROMPTS)
"""What is called by its name: of two with one name the second cannot be meant, and model APIs refuse both."""
_VERBATIM = msgspec.json.Decoder(float_hook=lambda literal: msgspec.Raw(literal.encode()))
"""A number stays as it is written: a double would lose digits of some, and others (`1e400`) are none."""


class Pages(msgspec.Struct):
    """One list being read, page after page. Nothing is in it twice, whatever the server repeats.

    modern: by the rules of 2026-07-28, where an empty cursor is one like any other (MCP, Pagination); until 2025-11-25
        that is not said, and old servers end with it.
    missing: pages without a list, or with null or something else that is empty for one.
    instead: what such a page had that nobody means an empty list by (a text, false, a number), in words.
    """

    kind: Kind
    modern: bool = False
    items: list[Item] = msgspec.field(default_factory=list)
    nameless: int = 0
    repeated: int = 0
    missing: int = 0
    instead: str = ""
    truncated: str | None = None
    """Why the rest was not read, in words; None if nothing is missing."""
    _pages: int = 0
    _bytes: int = 0
    _cursors: set[str] = msgspec.field(default_factory=set)
    _seen: set[bytes] = msgspec.field(default_factory=set)
    _names: set[str] = msgspec.field(default_factory=set)

    def add(self, result: bytes) -> str | None:
        """Take the result of one page and give the cursor of the next, or None when this was the last to be read.

        Raises:
            ListError: it is not a page of this list.
        """
        steps = self.steps(result)
        while True:
            try:
                next(steps)
            except StopIteration as last:
                cursor: str | None = last.value
                return cursor

    def steps(self, result: bytes) -> Generator[None, None, str | None]:
        """Return the same work item by item, for who has something else to do in between.

        Raises:
            ListError: before anything is taken; it is not a page of this list.
        """
        try:
            page = {} if is_empty(result) else _MEMBERS.decode(result)
            if not page:
                self._note(result)
            if len(result) > LARGE_BYTES:
                yield
            found = self._listed(page.get(self.kind.member))
        except MALFORMED as fault:
            words = f"the answer to {self.kind.method} is not a list of {self.kind.member}"
            raise ListError(f"{words}: it is {kind_of(result)}") from fault
        self._pages += 1
        before = len(self.items) + self.nameless
        for raw in found:
            if not self._take(bytes(raw)):
                return None
            yield
        if len(found) > MAX_ITEMS:
            self.truncated = _TOO_MANY
            return None
        if found and len(self.items) + self.nameless == before:
            if "nextCursor" in page:
                self.truncated = "its pages repeat"  # it does not look at the cursor, and gives another each time
            return None
        return self._turn(page.get("nextCursor"))

    def _listed(self, found: msgspec.Raw | None) -> list[msgspec.Raw]:
        if found is not None and bytes(found)[:1] == b"[":
            return elements(found, MAX_ITEMS + 1)
        if found is not None and not is_empty(found):
            words = f"the answer to {self.kind.method} is not a list of {self.kind.member}"
            raise ListError(f"{words}: `{self.kind.member}` is {kind_of(found)}")
        if found is not None:
            self._note(found)
        self.missing += 1
        return []

    def _note(self, found: bytes | msgspec.Raw) -> None:
        """Take note of what is empty and stands for a list; null is meant so, and so are `{}` and `[]` of PHP."""
        if not self.instead and bytes(found).lstrip(b" \t\r\n")[:1] not in (b"n", b"{", b"["):
            self.instead = kind_of(found)

    def _take(self, raw: bytes) -> bool:
        if len(self.items) >= MAX_ITEMS:
            self.truncated = _TOO_MANY
            return False
        if self._bytes + len(raw) > MAX_BYTES:
            self.truncated = f"it has more than {MAX_BYTES} bytes"
            return False
        if raw in self._seen:
            self.repeated += 1
            return True
        try:
            head = _HEADS[self.kind].decode(raw)
        except MALFORMED:
            self.nameless += 1
            return True
        self._seen.add(raw)
        if self.kind in _BY_NAME:
            if head.name in self._names:
                self.repeated += 1
                return True
            self._names.add(head.name)
        self._bytes += len(raw)
        self.items.append(Item(head.name, raw, head.server is not msgspec.UNSET))
        return True

    def _turn(self, found: msgspec.Raw | None) -> str | None:
        try:
            cursor = msgspec.json.decode(b"null" if found is None else found, type=str | None)
        except MALFORMED:
            self.truncated = "the cursor of its next page is not a text"
            return None
        if cursor is None or (cursor == "" and not self.modern):
            return None
        if cursor in self._cursors:
            self.truncated = "its pages go in a circle"
        elif self._pages >= MAX_PAGES:
            self.truncated = f"it has more than {MAX_PAGES} pages"
        elif len(cursor) > 64 * 1024:
            self.truncated = "a cursor is too long"
        else:
            self._cursors.add(cursor)
            return cursor
        return None


def page_params(cursor: str | None) -> bytes:
    """Build the params that ask for the page at `cursor`; None asks for the first."""
    return b"{}" if cursor is None else b'{"cursor":%b}' % jsonrpc.json_string(cursor)


def with_server(item: Item, server: bytes) -> bytes:
    """Return the item with `"server": server` as its first member. `server` is a JSON string.

    A `server` of the item's own goes: most parsers take the last of two, and it would name somebody else.
    """
    if item.claims_server:
        members = _MEMBERS.decode(item.raw)
        del members["server"]
        return b'{"server":%b,%b' % (server, msgspec.json.encode(members)[1:])
    return b'{"server":%b,%b' % (server, item.raw[1:])


def without_secrets(items: Iterable[Item], scrub: Callable[[str], str]) -> Iterator[Item]:
    """Return the items without the secrets that their server repeats in them, for a person's eyes or for the disk.

    What an item is addressed by stays, and so do the names of members, as those of arguments: what is a secret
    elsewhere may be a plain word there. An item that has one and cannot be looked into, or is longer than is looked
    into string by string, is left out.
    """
    for item in items:
        text = item.raw.decode("utf-8", "replace")
        if scrub(text) == text:
            yield item
            continue
        if len(text) > MAX_SCRUBBED_CHARS:
            continue
        try:
            members = _VERBATIM.decode(item.raw)
            kept = {name: members[name] for name in _ADDRESSES if name in members}
            raw = msgspec.json.encode({**scrubbed(members, scrub, keys=False), **kept})
        except MALFORMED:
            continue
        yield Item(item.name, raw, item.claims_server)


def json_without_secrets(raw: bytes, scrub: Callable[[str], str]) -> bytes:
    """Return a JSON value with every string in it scrubbed, the same object where there is nothing to scrub.

    Raises:
        msgspec.MsgspecError, RecursionError, ValueError: it has something to scrub and cannot be read.
    """
    text = raw.decode("utf-8", "replace")
    return raw if scrub(text) == text else msgspec.json.encode(scrubbed(_VERBATIM.decode(raw), scrub))


class ToolFilter(msgspec.Struct, frozen=True):
    """`include_tools` and `exclude_tools` of one server: glob patterns, whose case counts. Exclusion wins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def allows(self, tool: str) -> bool:
        """Whether the tool may be listed and called. An empty `include` includes all."""
        if not self.exclude and not self.include:
            return True
        if any(fnmatchcase(tool, pattern) for pattern in self.exclude):
            return False
        return not self.include or any(fnmatchcase(tool, pattern) for pattern in self.include)


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
        """Return the headers that go with a call."""
        mirror = self._mirrors.get(tool)
        return () if mirror is None else mirror.headers(arguments)

    def _bad(self, item: Item) -> bool:
        found = mirror_of(item.raw)
        if isinstance(found, Mirror):
            self._mirrors[item.name] = found
        return isinstance(found, Invalid)
