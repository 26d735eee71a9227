"""Who wants to hear of what: updates of single resources, and `subscriptions/listen` of MCP 2026-07-28.

One rule: what a server is to tell of is the union of what hosts want to hear of it, and follows from this table alone.

A host names a resource as it sees it; which server has it, and how that one calls it, may change while it is watched
(a server appears, or moves up in the order). So the host's name is what is kept, and where it leads is looked up anew
by `relocate`; one that leads nowhere for now stays where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from moltis.gateway import messages
from moltis.gateway.api import Outlet
from moltis.gateway.catalogue import Owner
from moltis.gateway.messages import SUBSCRIPTION_ID
from moltis.session.envelope import json_string

__all__ = ["ACKNOWLEDGED", "MAX_LISTENS", "MAX_WATCHED", "UPDATED", "Filter", "Listen", "Subscriptions", "Watcher"]

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
UPDATED: Final = "notifications/resources/updated"

MAX_LISTENS: Final = 64
MAX_WATCHED: Final = 1000
"""Of one host."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])


class Watcher(Protocol):
    """Whoever wants to hear of resources."""

    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is now."""

    def resource_updated(self, uri: str, params: dict[str, Raw]) -> None:
        """Hear that it was updated. `uri`: as the host knows it; `params`: of the server's notification."""


class Subscriptions:
    """All watched resources. `on_wanted` is told of a server whose wanted set is another than before."""

    def __init__(self, on_wanted: Callable[[str], None]) -> None:
        self._on_wanted = on_wanted
        self._watched: dict[Watcher, dict[str, Owner | None]] = {}
        self._places: dict[str, dict[str, dict[tuple[Watcher, str], None]]] = {}

    def __len__(self) -> int:
        """How many resources are watched, each counted for everyone who does."""
        return sum(len(uris) for uris in self._watched.values())

    def watch(self, watcher: Watcher, uri: str) -> None:
        """Tell a watcher of a resource from now on."""
        uris = self._watched.setdefault(watcher, {})
        if uri in uris:
            return
        uris[uri] = owner = watcher.locate(uri)
        if owner is not None:
            self._tell_wanted(self._enter(watcher, uri, owner))

    def unwatch(self, watcher: Watcher, uri: str) -> None:
        """Tell it no more. No effect if it was not told."""
        uris = self._watched.get(watcher)
        if uris is None or uri not in uris:
            return
        owner = uris.pop(uri)
        if not uris:
            del self._watched[watcher]
        if owner is not None:
            self._tell_wanted(self._strike(watcher, uri, owner))

    def leave(self, watcher: Watcher) -> None:
        """Tell a watcher of nothing any more."""
        left = self._watched.pop(watcher, {})
        self._tell_wanted(*[self._strike(watcher, uri, owner) for uri, owner in left.items() if owner is not None])

    def count(self, watcher: Watcher) -> int:
        """Give how many resources it watches."""
        return len(self._watched.get(watcher, ()))

    def relocate(self) -> None:
        """Look up again whose each resource is: what servers list has changed."""
        new: list[str | None] = []
        for watcher, uris in self._watched.items():
            for uri, before in uris.items():
                owner = watcher.locate(uri)
                if owner is not None and owner != before:
                    uris[uri] = owner
                    new.append(self._enter(watcher, uri, owner))
                    if before is not None:
                        new.append(self._strike(watcher, uri, before))
        self._tell_wanted(*new)

    def wanted(self, server: str) -> frozenset[str]:
        """Give the resources that a server is to tell of, by its own URIs."""
        return frozenset(self._places.get(server, ()))

    def updated(self, server: str, uri: str) -> list[tuple[Watcher, str]]:
        """Give who wants to hear of an update, each with the host's own name for what was updated.

        A server may name a part of what was subscribed to (MCP, Resources); whoever watches the whole hears of it.
        """
        places = self._places.get(server)
        if places is None:
            return []
        found: dict[tuple[Watcher, str], None] = dict(places.get(uri, {}))
        for end in range(len(uri)):
            if uri[end] in "/?#":
                for whole in (uri[:end], uri[: end + 1]):
                    for watcher, shown in places.get(whole, {}) if whole != uri else ():
                        found[watcher, uri if shown == whole else shown] = None
        return list(found)

    def _enter(self, watcher: Watcher, uri: str, owner: Owner) -> str | None:
        """Enter one, and give the server if it is to tell of more than before."""
        places = self._places.setdefault(owner.server, {})
        new = owner.name not in places
        places.setdefault(owner.name, {})[watcher, uri] = None
        return owner.server if new else None

    def _strike(self, watcher: Watcher, uri: str, owner: Owner) -> str | None:
        """Strike one, and give the server if it is to tell of less than before."""
        places = self._places[owner.server]
        watchers = places[owner.name]
        del watchers[watcher, uri]
        if watchers:
            return None
        del places[owner.name]
        if not places:
            del self._places[owner.server]
        return owner.server

    def _tell_wanted(self, *servers: str | None) -> None:
        for server in dict.fromkeys(servers):
            if server is not None:
                self._on_wanted(server)


# --- subscriptions/listen


class Filter(msgspec.Struct, rename="camel", frozen=True):
    """What a host wants to hear of, in the words of `subscriptions/listen`. Members it does not know are ignored."""

    tools_list_changed: bool | None = None
    prompts_list_changed: bool | None = None
    resources_list_changed: bool | None = None
    resource_subscriptions: list[str] | None = None

    def methods(self) -> frozenset[str]:
        """Give the notifications that it wants, but `notifications/resources/updated`."""
        wanted = {
            "tools": self.tools_list_changed,
            "prompts": self.prompts_list_changed,
            "resources": self.resources_list_changed,
        }
        return frozenset(f"notifications/{name}/list_changed" for name, yes in wanted.items() if yes)

    def uris(self) -> frozenset[str]:
        """Give the resources that it wants to hear of."""
        return frozenset(self.resource_subscriptions or ())

    def honored(self) -> bytes:
        """Give it as JSON for the acknowledgement: what was not asked for is left out."""
        shown = {f"{name}ListChanged": True for name in ("tools", "prompts", "resources") if self._wants(name)}
        uris = {"resourceSubscriptions": self.resource_subscriptions} if self.resource_subscriptions else {}
        return msgspec.json.encode({**shown, **uris})

    def _wants(self, name: str) -> bool:
        return f"notifications/{name}/list_changed" in self.methods()


class Listen:
    """One request that stays open, on which a host hears what it asked for (MCP 2026-07-28, Subscriptions).

    id: of the request, JSON; on every message it says what stream that belongs to.
    on_gone: called when there is no way to the host any more.
    """

    __slots__ = ("_id", "_locate", "_methods", "_on_gone", "_outlet", "filter")

    def __init__(
        self,
        id: bytes,
        outlet: Outlet,
        filter: Filter,
        locate: Callable[[str], Owner | None],
        on_gone: Callable[[], None],
    ) -> None:
        self.filter = filter
        self._id = id
        self._outlet = outlet
        self._methods = filter.methods()
        self._locate = locate
        self._on_gone = on_gone

    def acknowledge(self) -> bool:
        """Say what is listened to; it is the first message. False: there is no way to say anything."""
        params = b'{"notifications":%b,"_meta":{%b}}' % (self.filter.honored(), self._meta())
        return self._outlet.tell(messages.notification(ACKNOWLEDGED, params))

    def list_changed(self, method: str) -> None:
        """Hear that a list is new."""
        if method in self._methods:
            self._tell(method, b'{"_meta":{%b}}' % self._meta())

    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is now."""
        return self._locate(uri)

    def resource_updated(self, uri: str, params: dict[str, Raw]) -> None:
        """Hear that a resource was updated."""
        self._tell(UPDATED, updated_params(uri, params, self._meta()))

    def end(self) -> None:
        """End it in order: the host gets the result."""
        result = b'{"resultType":"complete","_meta":{%b}}' % self._meta()
        self._outlet.reply(messages.result(self._id, result))

    def _tell(self, method: str, params: bytes) -> None:
        if not self._outlet.tell(messages.notification(method, params)):
            self._on_gone()

    def _meta(self) -> bytes:
        return b'"%b":%b' % (SUBSCRIPTION_ID.encode(), self._id)


def updated_params(uri: str, params: dict[str, Raw], meta: bytes = b"") -> bytes:
    """Build params of `notifications/resources/updated` for a host: the server's, with the host's name of the resource.

    meta: members of `_meta`. The stream that the message came on is ours alone and not mentioned.
    """
    given = {**params, "uri": Raw(json_string(uri))}
    try:
        theirs = _MEMBERS.decode(given.pop("_meta", b"{}"))
    except msgspec.MsgspecError:
        theirs = {}
    theirs.pop(SUBSCRIPTION_ID, None)
    if meta:
        theirs.update(_MEMBERS.decode(b"{%b}" % meta))
    if theirs:
        given["_meta"] = Raw(msgspec.json.encode(theirs))
    return msgspec.json.encode(given)
