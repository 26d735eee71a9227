"""What a host sees, `/mcp` or `/servers/NAME/mcp`, and who is responsible for each of its requests.

A view is shared by all hosts that see the same. It is made of what the servers list at the moment; `stale` says that
this may have changed, and the next who asks finds it up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec import Raw

from moltis.errors import MoltisError, UnknownServer
from moltis.gateway import introduction, refusals
from moltis.gateway.abilities import with_forms
from moltis.gateway.api import Known, ServerPort, World
from moltis.gateway.catalogue import Catalogue, Owner, Shelf
from moltis.gateway.composing import Composed, compose, contents, unavailable, whole_of
from moltis.gateway.introduction import Introduction
from moltis.gateway.messages import text_of
from moltis.gateway.naming import is_alias, renamed
from moltis.gateway.needs import Able, Lack, Need, lacking
from moltis.gateway.owners import may_come_of
from moltis.gateway.refusals import Refusal
from moltis.gateway.rounds import ELICIT
from moltis.server.states import COMING, LISTED, STARTING
from moltis.server.status import UnusableItem
from moltis.session.envelope import json_string
from moltis.session.listing import Item, Kind

__all__ = ["Route", "View"]

MAX_UNUSABLE: Final = 100
MAX_NAME_CHARS: Final = 200
"""Of items that the status tells of."""
_SINGULAR: Final = {
    Kind.TOOLS: "tool", Kind.RESOURCES: "resource", Kind.TEMPLATES: "resource template", Kind.PROMPTS: "prompt",
}  # fmt: skip

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_NONE: Final[frozenset[str]] = frozenset()


class Route(msgspec.Struct, gc=False):
    """Where a request goes, in the server's own names. `name` and `tool` as for `Upstream.forward`."""

    port: ServerPort
    params: dict[str, Raw]
    name: str | None = None
    tool: str | None = None


class View:
    """All servers as one, or one as it is.

    server: the only one; None for all.
    separator: between a server's name and a tool's own, where all are seen. chars: of the two together, at most.
    """

    def __init__(
        self, world: World, server: str | None, *, name: str, version: str, separator: str, chars: int = 0
    ) -> None:
        self.server = server
        self.path = "/mcp" if server is None else f"/servers/{server}/mcp"
        self._world = world
        self._named = (name, version)
        self._separator = separator
        self._chars = chars
        self._catalogue = Catalogue(separator if server is None else None, chars=chars)
        self._stale = True
        self._introduced: Introduction | None = None
        self._first = b""
        self._shelves: list[Shelf] = []
        self._generation = 0
        self._offered: dict[str, bytes] = {}
        self._composed = Composed("")
        self._said: dict[str, str] = {}
        self._told = self._digests()

    def reconfigure(self, *, name: str, version: str, separator: str, chars: int = 0) -> None:
        """Show all servers under other names; of a single one nothing changes."""
        self._named = (name, version)
        if self.server is None and (separator, chars) != (self._separator, self._chars):
            self._separator, self._chars = separator, chars
            self._catalogue = Catalogue(separator, chars=chars)
        self._stale = True

    @property
    def generation(self) -> int:
        """Another number each time that `locate` may say something else than before."""
        self._refresh()
        return self._generation

    def sees(self, server: str) -> bool:
        """Whether a server belongs to it."""
        return self.server is None or self.server == server

    def stale(self) -> None:
        """Look anew at what servers list, when it is next asked for."""
        self._stale = True

    def news(self) -> list[str]:
        """Give the `list_changed` notifications that are due since this was last asked, or the view was made."""
        digests = self._digests()
        changed = [kind.changed for kind in Kind if digests[kind] != self._told[kind]]
        self._told = digests
        return list(dict.fromkeys(changed))

    # --- what is said of it

    def introduction(self) -> Introduction:
        """Say who it is."""
        self._refresh()
        if self._introduced is None:
            self._introduced = self._introduce()
        return self._introduced

    def page(
        self, kind: Kind, cursor: str | None, *, modern: bool, able: Callable[[], Able] | None = None
    ) -> bytes | Refusal:
        """Return a page of a list, as the result of the request for it.

        able: says what the host can, if that is asked; tools that need more are left out. None: it can all.

        An empty cursor of a host up to 2025-11-25 asks for the first page, as some write it; from 2026-07-28 on it is
        one like any other, and none of ours is empty (MCP, Pagination).
        """
        if cursor == "" and not modern:
            cursor = None
        first = b""
        if modern:
            introduced = self.introduction()
            self._first = first = self._first or introduced.modern_members()
        else:
            self._refresh()
        try:
            without = self._withheld(able) if able is not None and kind is Kind.TOOLS else _NONE
            return self._catalogue.page(kind, cursor, first, legacy=not modern, without=without)
        except MoltisError as error:
            return refusals.of_error(error)

    def _withheld(self, able: Callable[[], Able]) -> frozenset[str]:
        """Return the tools, as listed, that need what a host lacks."""
        needs = self._catalogue.needs()
        if not needs:
            return _NONE
        host = able()
        return frozenset(shown for shown, (server, need) in needs.items() if self.lacking(server, need, host))

    def need_of(self, server: str, tool: str) -> Need | None:
        """Return what a call of a tool, by its own name, needs of its host; None where nothing is known of that.

        One that is for its app alone is not offered to a model, but whoever knows it may call it.
        """
        need = self._catalogue.need_of(server, tool)
        return None if need is None else msgspec.structs.replace(need, for_app=False)

    def lacking(self, server: str, need: Need, able: Able) -> Lack | None:
        """Return what a host lacks of what a tool of a server needs; None for nothing."""
        try:
            port = self._world.port(server)
        except UnknownServer:
            return None
        upstream, known = port.upstream(), port.known()
        if need.as_task and known is not None and known.agreed.era != "legacy":
            need = msgspec.structs.replace(need, as_task=False)  # there it says nothing of what it needs
        if upstream is None or upstream.default_answer(ELICIT, b"{}") is not None:
            # Forms are filled in for hosts that cannot, or nobody knows yet whether they are.
            able = msgspec.structs.replace(able, capabilities=with_forms(able.capabilities) or able.capabilities)
        tasks, extensions = (able.tasks, able.extensions) if self.server is not None else (False, False)
        return lacking(need, msgspec.structs.replace(able, tasks=tasks, extensions=extensions))

    def is_ready(self, kind: Kind, *, modern: bool) -> bool:
        """Whether a page of a list can be had at once; else `preparation` comes first."""
        self._refresh()
        return self._catalogue.is_ready(kind, legacy=not modern)

    def preparation(self, kind: Kind, *, modern: bool) -> Iterator[None]:
        """Make what a list consists of, item by item; what servers list may change in between."""
        self._refresh()
        return self._catalogue.preparation(kind, legacy=not modern)

    def unusable(self, server: str) -> list[UnusableItem]:
        """Return what a server lists that is not as MCP has it; of a server that is removed, nothing."""
        found = self._catalogue.unusable(server)
        told = [UnusableItem(_SINGULAR[kind], name[:MAX_NAME_CHARS], why) for kind, name, why in found[:MAX_UNUSABLE]]
        if len(found) > MAX_UNUSABLE:
            kind, name, _ = found[MAX_UNUSABLE]
            told.append(UnusableItem(_SINGULAR[kind], name[:MAX_NAME_CHARS], f"and {len(found) - MAX_UNUSABLE} more"))
        return told

    def tool(self, name: str) -> bytes | None:
        """Give a tool as it is listed; None if it is not."""
        self._refresh()
        found = self._offered.get(name)
        if found is None:
            owner = Owner(self.server, name) if self.server is not None else self._catalogue.owner_of_tool(name)
            item = None if owner is None else self._item(owner)
            if item is None:
                return None
            found = item.raw if self.server is not None else renamed(item, Kind.TOOLS, name)
            self._offered[name] = found
        return found

    def unsettled(self) -> list[ServerPort]:
        """Give the servers that are starting and of which nothing is known yet, so that a list would be without them.

        Of all servers those too whose first start has failed, if another comes soon.
        """
        states = STARTING if self.server is not None else COMING
        return [port for port in self.ports() if port.state() in states and port.known() is None]

    def own(self, method: str, params: dict[str, Raw], *, modern: bool) -> bytes | None:
        """Return the result of reading a resource that is moltis's own; None if it is a server's, or nobody's."""
        uri = text_of(params, "uri") if method == "resources/read" and self.server is None else None
        if uri is None or not is_alias(uri):
            return None
        self._refresh()
        text = whole_of(uri, self._said)
        if not text:
            return None
        return b"{%b%b}" % (self.introduction().modern_members() if modern else b"", contents(uri, text))

    # --- who is responsible

    def route(self, method: str, params: dict[str, Raw], *, modern: bool) -> Route | Refusal:
        """Say which server a request goes to, and how it is put to that one. Names in `params` are replaced."""
        match method:
            case "tools/call":
                return self._tool(params)
            case "prompts/get":
                return self._prompt(params)
            case "resources/read":
                return self._resource(params, modern=modern)
            case _ if self.server is not None:
                return self._to(self.server, params)  # which may know a method that is not known here
            case "completion/complete":
                return self._completion(params)
            case _:
                return refusals.no_such_method(method)

    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is; None if nobody can be told to have it."""
        if self.server is not None:
            return Owner(self.server, uri)
        self._refresh()
        return self._catalogue.owner_of_resource(uri)

    def may_watch(self, uri: str) -> bool:
        """Whether subscribing to a resource can make sense. In doubt it can."""
        if self.server is None:
            return self.locate(uri) is not None or any(
                port.state() in LISTED and port.known() is None for port in self._world.ports()
            )
        port = self._only()
        upstream = port.upstream() if port is not None else None
        if upstream is None:
            return True
        resources = upstream.agreed.capabilities.get("resources")
        if isinstance(resources, dict) and resources.get("subscribe") is True:
            return True
        return any(item.name == uri for item in upstream.items(Kind.RESOURCES)) or may_come_of(
            upstream.items(Kind.TEMPLATES), uri
        )

    def ports(self) -> list[ServerPort]:
        """Give the servers that belong to it."""
        if self.server is None:
            return list(self._world.ports())
        port = self._only()
        return [] if port is None else [port]

    # --- how

    def _tool(self, params: dict[str, Raw]) -> Route | Refusal:
        name = text_of(params, "name")
        if name is None:
            return refusals.bad_params("params.name must be a string")
        if len(params) > 1 and any(key != "name" and key.lower() == "name" for key in params):
            # Some servers read names of members without regard to case, and would call another tool than is allowed.
            return refusals.bad_params("params.name is there more than once")
        if self.server is not None:
            return self._to(self.server, params, name, name)
        self._refresh()
        owner = self._catalogue.owner_of_tool(name)
        if owner is None:
            return refusals.bad_params(f"Unknown tool: {name[:200]}")
        params["name"] = Raw(json_string(owner.name))
        return self._to(owner.server, params, owner.name, owner.name)

    def _prompt(self, params: dict[str, Raw]) -> Route | Refusal:
        name = text_of(params, "name")
        if name is None:
            return refusals.bad_params("params.name must be a string")
        if self.server is not None:
            return self._to(self.server, params, name)
        self._refresh()
        owner = self._catalogue.owner_of_prompt(name)
        if owner is None:
            return refusals.bad_params(f"Unknown prompt: {name[:200]}")
        params["name"] = Raw(json_string(owner.name))
        return self._to(owner.server, params, owner.name)

    def _resource(self, params: dict[str, Raw], *, modern: bool) -> Route | Refusal:
        uri = text_of(params, "uri")
        if uri is None:
            return refusals.bad_params("params.uri must be a string")
        if self.server is not None:
            return self._to(self.server, params, uri)
        owner = self.locate(uri)
        if owner is None:
            return refusals.no_such_resource(uri, modern=modern)
        params["uri"] = Raw(json_string(owner.name))
        return self._to(owner.server, params, owner.name)

    def _completion(self, params: dict[str, Raw]) -> Route | Refusal:
        try:
            ref = _MEMBERS.decode(params["ref"])
        except (KeyError, msgspec.MsgspecError):
            return refusals.bad_params("params.ref must be an object")
        self._refresh()
        member, owner = "name", None
        if text_of(ref, "type") == "ref/prompt":
            owner = self._catalogue.owner_of_prompt(text_of(ref, "name") or "")
        elif text_of(ref, "type") == "ref/resource":
            member, owner = "uri", self._catalogue.owner_of_template(text_of(ref, "uri") or "")
        if owner is None:
            return refusals.bad_params("params.ref is neither a prompt nor a resource that is known")
        ref[member] = Raw(json_string(owner.name))
        params["ref"] = Raw(msgspec.json.encode(ref))
        return self._to(owner.server, params)

    def _item(self, owner: Owner) -> Item | None:
        for shelf in self._shelves:
            if shelf.server == owner.server and shelf.listed:
                return next((item for item in shelf.tools if item.name == owner.name), None)
        return None

    def _only(self) -> ServerPort | None:
        if self.server is None:
            return None
        try:
            return self._world.port(self.server)
        except UnknownServer:
            return None

    def _to(
        self, server: str, params: dict[str, Raw], name: str | None = None, tool: str | None = None
    ) -> Route | Refusal:
        try:
            return Route(self._world.port(server), params, name, tool)
        except UnknownServer as error:
            return refusals.of_error(error)

    def _refresh(self) -> None:
        if self._stale:
            self._stale = False
            self._introduced = None
            self._first = b""
            self._offered.clear()
            before, self._shelves = self._shelves, [_shelf(port) for port in self.ports()]
            if self.server is None:
                self._composed = self._compose()
                if self._composed.cut:
                    self._shelves.append(Shelf("", resources=self._composed.resources))
            self._generation += _places(before) != _places(self._shelves)
            self._catalogue.update(self._shelves)

    def _digests(self) -> dict[Kind, bytes]:
        self._refresh()
        return {kind: self._catalogue.digest(kind) for kind in Kind}

    def _introduce(self) -> Introduction:
        if self.server is not None:
            port = self._only()
            return introduction.of_one(self.server, port.known() if port is not None else None)
        name, version = self._named
        return introduction.of_all(name, version, self._composed.text)

    def _compose(self) -> Composed:
        """Say how all servers are used, and who cannot be had now."""
        ports = self._world.ports()
        self._said = {port.name: _instructions(port) for port in ports if port.state() in LISTED}
        missing = [unavailable(port.name, port.state()) for port in ports]
        starting = [port.name for port in self.unsettled()]
        told = [each for each in missing if each is not None]
        return compose(self._said.items(), self._separator, starting, told)


def _instructions(port: ServerPort) -> str:
    known = port.known()
    return (known.agreed.instructions or "") if known is not None else ""


def _shelf(port: ServerPort) -> Shelf:
    """Give what a server has to offer: of its session, or of what was last known."""
    listed = port.state() in LISTED
    upstream = port.upstream()
    if upstream is not None:
        return Shelf(
            port.name,
            tools=upstream.items(Kind.TOOLS),
            resources=upstream.items(Kind.RESOURCES),
            templates=upstream.items(Kind.TEMPLATES),
            prompts=upstream.items(Kind.PROMPTS),
            listed=listed,
        )
    known = port.known()
    if known is None:
        return Shelf(port.name, listed=listed)
    return Shelf(port.name, _allowed(port, known), known.resources, known.templates, known.prompts, listed)


def _places(shelves: list[Shelf]) -> list[tuple[object, ...]]:
    """Return what it depends on whose a resource is."""
    return [(shelf.server, shelf.listed, shelf.resources, shelf.templates) for shelf in shelves]


def _allowed(port: ServerPort, known: Known) -> tuple[Item, ...]:
    allowed = tuple(item for item in known.tools if port.allows(item.name))
    return known.tools if len(allowed) == len(known.tools) else allowed
