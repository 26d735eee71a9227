"""What is served at one path: what the servers of a view list at the moment, and who is responsible for a request.

An endpoint is shared by all hosts of its view. `stale` says that what servers list may have changed, and the next who
asks finds it up to date. `Together` shows servers as one, `Alone` one as it is; a view says which of the two it is by
its separator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import anyio
import msgspec
from msgspec import Raw

from moltis.errors import MoltisError, UnknownServer
from moltis.gateway import introduction, refusals
from moltis.gateway.abilities import Able, Lack, Need, lacking, with_forms
from moltis.gateway.api import ServerPort, World
from moltis.gateway.catalogue import Catalogue, Owner, Parts, may_come_of
from moltis.gateway.introduction import Composed, Introduction, compose, contents, unavailable, whole_of
from moltis.gateway.messages import text_of
from moltis.gateway.naming import is_alias, renamed
from moltis.gateway.refusals import Refusal
from moltis.gateway.rounds import ELICIT
from moltis.gateway.shelves import Shelf
from moltis.gateway.views import Member, View
from moltis.gateway.waits import SETTLE_SECS
from moltis.jsonrpc import json_string
from moltis.server.states import COMING, LISTED, STARTING
from moltis.server.status import UnusableItem
from moltis.session.listing import Item, Kind, ToolFilter

MAX_UNUSABLE: Final = 100
MAX_NAME_CHARS: Final = 200
"""Of items that the status tells of."""
_SINGULAR: Final = {
    Kind.TOOLS: "tool", Kind.RESOURCES: "resource", Kind.TEMPLATES: "resource template", Kind.PROMPTS: "prompt",
}  # fmt: skip

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_NONE: Final[frozenset[str]] = frozenset()
_TOOLS: Final = Kind.TOOLS
"""A member looked up in its class costs more than what is decided by it."""
_LISTS: Final = (Kind.TOOLS, Kind.RESOURCES, Kind.TEMPLATES, Kind.PROMPTS)


class Route(msgspec.Struct, gc=False):
    """Where a request goes, in the server's own names. `name` and `tool` as for `Upstream.forward`."""

    port: ServerPort
    params: dict[str, Raw]
    name: str | None = None
    tool: str | None = None


class Endpoint(ABC):
    """One view, served. Made by `endpoint_of`."""

    relays_all = False
    """Whether what is not known to moltis passes too: there is one server that it can be meant for."""

    _coming = COMING
    """Worth a wait: among several servers, also one whose first start has failed, if another comes soon."""

    def __init__(self, world: World, view: View, parts: Parts | None = None) -> None:
        self.view = view
        self._world = world
        self._shared = parts
        self._catalogue = Catalogue(view.separator, chars=view.name_chars, parts=parts, path=view.path)
        self._stale = True
        self._introduced: Introduction | None = None
        self._first = b""
        self._shelves: list[Shelf] = []
        self._offered: dict[str, bytes] = {}
        self._members: dict[str, Member] = {}
        self._filters: dict[str, ToolFilter] = {}
        self._generation = 0
        self.show(view)
        self._told = self._digests()
        self.is_unheard = False
        """Whether it has changed since while nobody was there to be told."""

    def show(self, view: View) -> None:
        """Show another view at the same path from now on."""
        before, self.view = self.view, view
        if (before.separator, before.name_chars) != (view.separator, view.name_chars):
            self._catalogue = Catalogue(view.separator, chars=view.name_chars, parts=self._shared, path=view.path)
        self._members = {member.server: member for member in view.members}
        filters = ((member.server, member.filter) for member in view.members)
        self._filters = {server: filter for server, filter in filters if filter is not None}
        self._stale = True

    @property
    def generation(self) -> int:
        """Another number each time that `locate` may say something else than before."""
        self._refresh()
        return self._generation

    def sees(self, server: str) -> bool:
        """Whether a server belongs to it."""
        return server in self._members

    def stale(self) -> None:
        """Look anew at what servers list, when it is next asked for."""
        self._stale = True

    def hear(self) -> None:
        """Tell from now on what is new: somebody is there who finds it as it is."""
        self.is_unheard = False
        self._told = self._digests()

    def news(self) -> list[str]:
        """Return the `list_changed` notifications that are due since this was last asked, or the endpoint was made."""
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
        if not self.relays_all:
            able = msgspec.structs.replace(able, tasks=False, extensions=False)
        return lacking(need, able)

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
        """Return a tool as it is listed; None if it is not."""
        self._refresh()
        found = self._offered.get(name)
        if found is None:
            owner = self._owner(Kind.TOOLS, name)
            item = None if owner is None else self._item(owner)
            if item is None:
                return None
            found = self._offered[name] = item.raw if item.name == name else renamed(item, Kind.TOOLS, name)
        return found

    def ports(self) -> list[ServerPort]:
        """Return the servers that belong to it and are there."""
        return [port for port in map(self._port, self._members) if port is not None]

    def unsettled(self) -> list[ServerPort]:
        """Return those that are starting and of which nothing is known yet, so that a list would be without them."""
        return [port for port in self.ports() if port.state() in self._coming and port.known() is None]

    @abstractmethod
    def patience(self) -> tuple[float, Sequence[Callable[[], Awaitable[None]]]]:
        """Return how many seconds a host may be kept waiting for the unsettled, and what waits for each."""

    def own(self, params: dict[str, Raw], *, modern: bool) -> bytes | None:
        """Return the result of reading a resource that is moltis's own; None if it is a server's, or nobody's."""
        return None

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
            case _:
                return self._other(method, params)

    @abstractmethod
    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is; None if nobody can be told to have it."""

    @abstractmethod
    def may_watch(self, uri: str) -> bool:
        """Whether subscribing to a resource can make sense. In doubt it can."""

    # --- how

    @abstractmethod
    def _introduce(self) -> Introduction: ...

    @abstractmethod
    def _owner(self, kind: Kind, name: str) -> Owner | None:
        """Say whose tool or prompt it is."""

    @abstractmethod
    def _renamed(self, params: dict[str, Raw], member: str, name: str) -> None:
        """Have params name something as its server does."""

    @abstractmethod
    def _other(self, method: str, params: dict[str, Raw]) -> Route | Refusal: ...

    def _tool(self, params: dict[str, Raw]) -> Route | Refusal:
        name = text_of(params, "name")
        if name is None:
            return refusals.bad_params("params.name must be a string")
        if len(params) > 1 and any(key != "name" and key.lower() == "name" for key in params):
            # Some servers read names of members without regard to case, and would call another tool than is allowed.
            return refusals.bad_params("params.name is there more than once")
        owner = self._owner(_TOOLS, name)
        if owner is None or (self._filters and self._is_left_out(owner)):
            return refusals.bad_params(f"Unknown tool: {name[:200]}")
        self._renamed(params, "name", owner.name)
        return self._to(owner.server, params, owner.name, owner.name)

    def _prompt(self, params: dict[str, Raw]) -> Route | Refusal:
        name = text_of(params, "name")
        if name is None:
            return refusals.bad_params("params.name must be a string")
        owner = self._owner(Kind.PROMPTS, name)
        if owner is None:
            return refusals.bad_params(f"Unknown prompt: {name[:200]}")
        self._renamed(params, "name", owner.name)
        return self._to(owner.server, params, owner.name)

    def _resource(self, params: dict[str, Raw], *, modern: bool) -> Route | Refusal:
        uri = text_of(params, "uri")
        if uri is None:
            return refusals.bad_params("params.uri must be a string")
        owner = self.locate(uri)
        if owner is None:
            return refusals.no_such_resource(uri, modern=modern)
        self._renamed(params, "uri", owner.name)
        return self._to(owner.server, params, owner.name)

    def _to(
        self, server: str, params: dict[str, Raw], name: str | None = None, tool: str | None = None
    ) -> Route | Refusal:
        try:
            return Route(self._world.port(server), params, name, tool)
        except UnknownServer as error:
            return refusals.of_error(error)

    def _is_left_out(self, owner: Owner) -> bool:
        filter = self._filters.get(owner.server)
        return filter is not None and not filter.allows(owner.name)

    def _item(self, owner: Owner) -> Item | None:
        for shelf in self._shelves:
            if shelf.server == owner.server and shelf.listed:
                return next((item for item in shelf.tools if item.name == owner.name), None)
        return None

    def _port(self, server: str) -> ServerPort | None:
        try:
            return self._world.port(server)
        except UnknownServer:
            return None

    def _refresh(self) -> None:
        if self._stale:
            self._stale = False
            self._introduced = None
            self._first = b""
            self._offered.clear()
            self._shelves = self._filled()
            self._catalogue.update(self._shelves)

    def _filled(self) -> list[Shelf]:
        """Return what there is to offer now."""
        return [_shelf(port, self._members[port.name].label, self._filters.get(port.name)) for port in self.ports()]

    def _digests(self) -> dict[Kind, bytes]:
        self._refresh()
        return {kind: self._catalogue.digest(kind) for kind in Kind}


class Alone(Endpoint):
    """One server as it is: its own names, words and lists; what it is asked passes as it came."""

    relays_all = True
    _coming = STARTING

    def show(self, view: View) -> None:
        """Show another view at the same path from now on."""
        super().show(view)
        self._server, self._label = view.members[0].server, view.members[0].label

    def patience(self) -> tuple[float, Sequence[Callable[[], Awaitable[None]]]]:
        """Return how long a host waits for it."""
        return SETTLE_SECS, [port.wait_settled for port in self.unsettled()]

    def locate(self, uri: str) -> Owner:
        """Say that it is the server's, whatever it is."""
        return Owner(self._server, uri)

    def may_watch(self, uri: str) -> bool:
        """Whether the server lets resources be subscribed to, or has this one."""
        port = self._port(self._server)
        upstream = port.upstream() if port is not None else None
        if upstream is None:
            return True
        resources = upstream.agreed.capabilities.get("resources")
        if isinstance(resources, dict) and resources.get("subscribe") is True:
            return True
        return any(item.name == uri for item in upstream.items(Kind.RESOURCES)) or may_come_of(
            upstream.items(Kind.TEMPLATES), uri
        )

    def _introduce(self) -> Introduction:
        port = self._port(self._server)
        return introduction.of_one(self._label, port.known() if port is not None else None)

    def _owner(self, kind: Kind, name: str) -> Owner:
        return Owner(self._server, name)

    def _renamed(self, params: dict[str, Raw], member: str, name: str) -> None:
        pass

    def _other(self, method: str, params: dict[str, Raw]) -> Route | Refusal:
        return self._to(self._server, params)  # which may know a method that is not known here


class Together(Endpoint):
    """Servers as one: names that are unique among them, words of each, and what all of them can do."""

    def __init__(self, world: World, view: View, parts: Parts | None = None) -> None:
        self._composed = Composed("")
        self._said: dict[str, str] = {}
        self._until: dict[str, float] = {}
        """Until when servers are waited for of which nothing is known, by name."""
        super().__init__(world, view, parts)

    def patience(self) -> tuple[float, Sequence[Callable[[], Awaitable[None]]]]:
        """Return how long a host waits for them.

        It counts from when each was asked for first, so that hosts which ask again and again are held up once.
        """
        if self.view.first_list_secs <= 0:
            return 0.0, ()
        ports, now = self.unsettled(), anyio.current_time()
        until = now + self.view.first_list_secs
        self._until = {port.name: self._until.get(port.name, until) for port in ports}
        return max(self._until.values(), default=now) - now, [port.wait_up for port in ports]

    def own(self, params: dict[str, Raw], *, modern: bool) -> bytes | None:
        """Return the result of reading a resource that is moltis's own; None if it is a server's, or nobody's."""
        uri = text_of(params, "uri")
        if uri is None or not is_alias(uri):
            return None
        self._refresh()
        text = whole_of(uri, self._said)
        if not text:
            return None
        return b"{%b%b}" % (self.introduction().modern_members() if modern else b"", contents(uri, text))

    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is; None if nobody can be told to have it."""
        self._refresh()
        return self._catalogue.owner_of_resource(uri)

    def may_watch(self, uri: str) -> bool:
        """Whether it is known whose it is, or may be of a server that nothing is known of."""
        return self.locate(uri) is not None or any(_is_listed(port) and port.known() is None for port in self.ports())

    def _introduce(self) -> Introduction:
        return introduction.of_all(self.view.name, self.view.version, self._composed.text)

    def _owner(self, kind: Kind, name: str) -> Owner | None:
        self._refresh()
        return self._catalogue.owner_of_tool(name) if kind is _TOOLS else self._catalogue.owner_of_prompt(name)

    def _renamed(self, params: dict[str, Raw], member: str, name: str) -> None:
        params[member] = Raw(json_string(name))

    def _other(self, method: str, params: dict[str, Raw]) -> Route | Refusal:
        if method != "completion/complete":
            return refusals.no_such_method(method)
        try:
            ref = _MEMBERS.decode(params["ref"])
        except (KeyError, msgspec.MsgspecError):
            return refusals.bad_params("params.ref must be an object")
        member, owner = "name", None
        if text_of(ref, "type") == "ref/prompt":
            owner = self._owner(Kind.PROMPTS, text_of(ref, "name") or "")
        elif text_of(ref, "type") == "ref/resource":
            self._refresh()
            member, owner = "uri", self._catalogue.owner_of_template(text_of(ref, "uri") or "")
        if owner is None:
            return refusals.bad_params("params.ref is neither a prompt nor a resource that is known")
        self._renamed(ref, member, owner.name)
        params["ref"] = Raw(msgspec.json.encode(ref))
        return self._to(owner.server, params)

    def _filled(self) -> list[Shelf]:
        before, shelves = self._shelves, super()._filled()
        self._composed = self._compose()
        if self._composed.cut:
            shelves.append(Shelf("", resources=self._composed.resources))
        self._generation += _places(before) != _places(shelves)
        return shelves

    def _compose(self) -> Composed:
        """Say how all servers are used, and who cannot be had now."""
        labelled = [(self._members[port.name].label, port) for port in self.ports()]
        self._said = {label: _instructions(port) for label, port in labelled if _is_listed(port)}
        missing = [unavailable(label, port.state(), port.name) for label, port in labelled]
        starting = [self._members[port.name].label for port in self.unsettled()]
        told = [each for each in missing if each is not None]
        return compose(self._said.items(), self.view.separator or "", starting, told, self.view.left_out)


def endpoint_of(world: World, view: View, parts: Parts | None = None) -> Endpoint:
    """Serve a view. parts: what all views of servers together have in common, as `Catalogue` keeps it."""
    return Alone(world, view) if view.separator is None else Together(world, view, parts)


def _instructions(port: ServerPort) -> str:
    known = port.known()
    return (known.agreed.instructions or "") if known is not None else ""


def _is_listed(port: ServerPort) -> bool:
    """Whether what a server has is worth offering: it can be had, or will be for whoever needs it."""
    return port.state() in LISTED or port.wakes()


def _shelf(port: ServerPort, label: str, filter: ToolFilter | None) -> Shelf:
    """Return what a server has to offer: of its session, or of what was last known."""
    upstream = port.upstream()
    known = port.known() if upstream is None else None
    lists: list[tuple[Item, ...]] = [(), (), (), ()]
    if upstream is not None:
        lists = [upstream.items(kind) for kind in _LISTS]
    elif known is not None:
        lists = [_allowed(port.allows, known.tools), known.resources, known.templates, known.prompts]
    tools, resources, templates, prompts = lists
    if filter is not None:
        tools = _allowed(filter.allows, tools)
    return Shelf(port.name, tools, resources, templates, prompts, _is_listed(port), label)


def _places(shelves: list[Shelf]) -> list[tuple[object, ...]]:
    """Return what it depends on whose a resource is."""
    return [(shelf.server, shelf.label, shelf.listed, shelf.resources, shelf.templates) for shelf in shelves]


def _allowed(allows: Callable[[str], bool], tools: tuple[Item, ...]) -> tuple[Item, ...]:
    allowed = tuple(item for item in tools if allows(item.name))
    return tools if len(allowed) == len(tools) else allowed
