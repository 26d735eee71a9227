"""Who wants to hear of updates of which resource.

One rule: what a server is to tell of is the union of what hosts want to hear of it, and follows from this table alone.

A host names a resource as it sees it; which server has it, and how that one calls it, may change while it is watched
(a server appears, or moves up in the order). So the host's name is what is kept, and where it leads is looked up anew
by `relocate`; one that leads nowhere for now stays where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from moltis.gateway.catalogue import Owner
from moltis.gateway.messages import SUBSCRIPTION_ID
from moltis.session.envelope import json_string

__all__ = [
    "MAX_URI_CHARS",
    "MAX_WATCHED",
    "MAX_WATCHED_OF_ALL",
    "UPDATED",
    "Subscriptions",
    "Watcher",
    "updated_params",
]

UPDATED: Final = "notifications/resources/updated"

MAX_WATCHED: Final = 1000
"""Of one host."""

MAX_WATCHED_OF_ALL: Final = 10_000
"""Of all hosts together. Every change of what is wanted of a server is a look at all that is."""

MAX_URI_CHARS: Final = 8192
"""Of what is watched: it is kept for as long as the host likes."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_SEPARATORS: Final = frozenset("/?#")


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

    def watch(self, watcher: Watcher, *uris: str) -> None:
        """Tell a watcher of resources from now on. A server is told once of all that are its."""
        new: list[str | None] = []
        for uri in uris:
            watched = self._watched.setdefault(watcher, {})
            if uri not in watched:
                watched[uri] = owner = watcher.locate(uri)
                if owner is not None:
                    new.append(self._enter(watcher, uri, owner))
        self._tell_wanted(*new)

    def refusal(self, watched: int, uris: Collection[str]) -> str | None:
        """Say why a host that watches so many already may not watch these too; None if it may."""
        if watched + len(uris) > MAX_WATCHED:
            return f"no more than {MAX_WATCHED} resources can be subscribed to"
        if any(len(uri) > MAX_URI_CHARS for uri in uris):
            return f"a URI that is subscribed to has at most {MAX_URI_CHARS} characters"
        if uris and len(self) + len(uris) > MAX_WATCHED_OF_ALL:
            return f"no more than {MAX_WATCHED_OF_ALL} resources can be subscribed to by all hosts together"
        return None

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

    def place(self, watcher: Watcher, uri: str) -> Owner | None:
        """Return which server is to tell a watcher of a resource, and how that one calls it."""
        return self._watched.get(watcher, {}).get(uri)

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
        # By the lengths of what is watched, not by the parts that the URI could be cut into: those the server chooses.
        for length in sorted({len(whole) for whole in places}):
            if length < len(uri) and (uri[length] in _SEPARATORS or uri[length - 1 : length] in _SEPARATORS):
                whole = uri[:length]
                for watcher, shown in places.get(whole, ()):
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
