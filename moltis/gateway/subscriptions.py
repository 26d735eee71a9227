"""Who wants to hear of updates of which resource.

What a server is to tell of is the union of what hosts want to hear of it, and follows from this table alone.

A host names a resource as it sees it; which server has it, and how that one calls it, may change while it is watched
(a server appears, or moves up in the order). So the host's name is what is kept, and where it leads is looked up anew
by `relocate`; one that leads nowhere for now stays where it was.

To look up one URI takes up to 15 ms for each server that lists templates made to take long, and 10,000 may be watched.
So it is done in slices, one in a turn of the event loop; what fits into the first is done at once.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from moltis.gateway.catalogue import Owner
from moltis.gateway.messages import SUBSCRIPTION_ID
from moltis.jsonrpc import json_string
from moltis.slices import SLICE_SECS

UPDATED: Final = "notifications/resources/updated"

MAX_WATCHED: Final = 1000
"""Of one host."""

MAX_WATCHED_OF_ALL: Final = 10_000
"""Of all hosts together. Every change of what is wanted of a server is a look at all that is."""

MAX_URI_CHARS: Final = 8192
"""Of what is watched: it is kept for as long as the host likes."""

SLICES_UNTOLD: Final = 64
"""After so many slices of one piece of work, servers are told what is wanted of them so far."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_SEPARATORS: Final = frozenset("/?#")


class Watcher(Protocol):
    """Whoever wants to hear of resources."""

    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is now."""

    def resource_updated(self, uri: str, params: dict[str, Raw]) -> None:
        """Hear that it was updated. `uri`: as the host knows it; `params`: of the server's notification."""


class _Work:
    """URIs to be located, in order. `watcher`: whose; None for those that may have moved, whoever watches them."""

    __slots__ = ("changed", "moved", "slices", "then", "waiting", "watcher")

    def __init__(self, watcher: Watcher | None, then: Callable[[], None]) -> None:
        self.watcher = watcher
        self.then = then
        self.waiting: OrderedDict[tuple[Watcher, str], None] = OrderedDict()
        self.changed: dict[str, None] = {}
        """Servers to be told that other resources are wanted of them."""
        self.moved: dict[str, dict[str, None]] = {}
        """What each of those was not wanted to tell of before."""
        self.slices = 0


class Subscriptions:
    """All watched resources.

    on_wanted: told of a server whose wanted set is another than before.
    on_moved: told of resources, by their server's own URIs, that it is wanted to tell of since `relocate`.
    on_more: called when there is more to locate than fits into one slice; `turn` is to be called, once in each turn of
        the event loop, until it says that nothing is left. None: everything is located at once.
    clock: gives seconds, as that of `Slices`.
    """

    def __init__(
        self,
        on_wanted: Callable[[str], None],
        on_moved: Callable[[str, frozenset[str]], None] = lambda server, uris: None,
        on_more: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._on_wanted = on_wanted
        self._on_moved = on_moved
        self._on_more = on_more
        self._clock = clock
        self._watched: dict[Watcher, dict[str, Owner | None]] = {}
        self._places: dict[str, dict[str, dict[tuple[Watcher, str], None]]] = {}
        self._lengths: dict[str, Counter[int]] = {}
        """How many of a server's URIs that are watched are so long."""
        self._work: deque[_Work] = deque()
        """What is left, each a slice in turn, so that no host waits for all that another asked for."""
        self._again = _Work(None, lambda: None)
        self._pacing = False

    def __len__(self) -> int:
        """How many resources are watched, each counted for everyone who does."""
        return sum(len(uris) for uris in self._watched.values())

    def watch(self, watcher: Watcher, *uris: str, then: Callable[[], None] = lambda: None) -> None:
        """Tell a watcher of resources from now on. A server is told once of all that are its.

        then: called when all have been located, perhaps at once; not if the watcher leaves before.
        """
        work = _Work(watcher, then)
        if uris:
            watched = self._watched.setdefault(watcher, {})
            for uri in uris:
                if watched.setdefault(uri, None) is None:
                    work.waiting[watcher, uri] = None
        self._begin(work)

    def refusal(self, watched: int, uris: Collection[str]) -> str | None:
        """Say why a host that watches so many already may not watch these too; None if it may."""
        if watched + len(uris) > MAX_WATCHED:
            return f"no more than {MAX_WATCHED} resources can be subscribed to"
        if any(len(uri) > MAX_URI_CHARS for uri in uris):
            return f"a URI that is subscribed to has at most {MAX_URI_CHARS} characters"
        if uris and len(self) + len(uris) > MAX_WATCHED_OF_ALL:
            return f"no more than {MAX_WATCHED_OF_ALL} resources can be subscribed to by all hosts together"
        return None

    def unwatch(self, watcher: Watcher, *uris: str) -> None:
        """Tell it of these no more. No effect on what it was not told of. A server is told once."""
        watched = self._watched.get(watcher)
        if watched is None:
            return
        owners = [(uri, watched.pop(uri)) for uri in uris if uri in watched]
        if not watched:
            del self._watched[watcher]
        self._tell_wanted(*[self._strike(watcher, uri, owner) for uri, owner in owners if owner is not None])

    def leave(self, watcher: Watcher) -> None:
        """Tell a watcher of nothing any more."""
        if self._work:
            self._work = deque(work for work in self._work if work.watcher is not watcher)
        left = self._watched.pop(watcher, {})
        self._tell_wanted(*[self._strike(watcher, uri, owner) for uri, owner in left.items() if owner is not None])

    def place(self, watcher: Watcher, uri: str) -> Owner | None:
        """Return which server is to tell a watcher of a resource, and how that one calls it."""
        return self._watched.get(watcher, {}).get(uri)

    def count(self, watcher: Watcher) -> int:
        """Return how many resources it watches."""
        return len(self._watched.get(watcher, ()))

    def relocate(self) -> None:
        """Look up again whose each resource is: what servers list has changed. What waits for that keeps its place."""
        for watcher, uris in self._watched.items():
            for uri in uris:
                self._again.waiting[watcher, uri] = None
        if self._again not in self._work:
            self._begin(self._again)

    def turn(self) -> bool:
        """Locate for one slice, and return whether more is left."""
        if self._work:
            self._slice(self._work.popleft())
        self._pacing = bool(self._work)
        return self._pacing

    def _begin(self, work: _Work) -> None:
        self._slice(work)
        if self._work and not self._pacing:
            self._pacing = True
            if self._on_more is not None:
                self._on_more()
            else:
                while self.turn():
                    pass

    def _slice(self, work: _Work) -> None:
        """Locate some, and put the rest behind what others wait for."""
        until = self._clock() + SLICE_SECS
        while work.waiting:
            (watcher, uri), _ = work.waiting.popitem(last=False)
            self._locate(work, watcher, uri)
            if self._clock() >= until:
                break
        work.slices += 1
        if not work.waiting or work.slices % SLICES_UNTOLD == 0:
            self._tell_located(work)
        if work.waiting:
            self._work.append(work)
        else:
            work.then()

    def _locate(self, work: _Work, watcher: Watcher, uri: str) -> None:
        uris = self._watched.get(watcher, {})
        if uri not in uris:
            return  # it has left meanwhile
        before, owner = uris[uri], watcher.locate(uri)
        if owner is None or owner == before:
            return
        uris[uri] = owner
        if self._enter(watcher, uri, owner) is not None:
            work.changed[owner.server] = None
            if work.watcher is None:
                work.moved.setdefault(owner.server, {})[owner.name] = None
        if before is not None and self._strike(watcher, uri, before) is not None:
            work.changed[before.server] = None

    def _tell_located(self, work: _Work) -> None:
        changed, work.changed = work.changed, {}
        moved, work.moved = work.moved, {}
        self._tell_wanted(*changed)
        for server, uris in moved.items():
            wanted = self._places.get(server, {})
            still = frozenset(uri for uri in uris if uri in wanted)
            if still:
                self._on_moved(server, still)

    def wanted(self, server: str) -> frozenset[str]:
        """Return the resources that a server is to tell of, by its own URIs."""
        return frozenset(self._places.get(server, ()))

    def wants(self, server: str) -> bool:
        """Whether a server is to tell of anything."""
        return server in self._places

    def updated(self, server: str, uri: str) -> list[tuple[Watcher, str]]:
        """Return who wants to hear of an update, each with the host's own name for what was updated.

        A server may name a part of what was subscribed to (MCP, Resources); whoever watches the whole hears of it.
        """
        places = self._places.get(server)
        if places is None:
            return []
        found: dict[tuple[Watcher, str], None] = dict(places.get(uri, {}))
        # By the lengths of what is watched, not by the parts that the URI could be cut into: those the server chooses.
        for length in sorted(self._lengths[server]):
            if length < len(uri) and (uri[length] in _SEPARATORS or uri[length - 1 : length] in _SEPARATORS):
                whole = uri[:length]
                for watcher, shown in places.get(whole, ()):
                    found[watcher, uri if shown == whole else shown] = None
        return list(found)

    def watchers(self, server: str, uri: str) -> list[tuple[Watcher, str]]:
        """Return who watches exactly that, each with the host's own name for it."""
        return list(self._places.get(server, {}).get(uri, ()))

    def _enter(self, watcher: Watcher, uri: str, owner: Owner) -> str | None:
        """Enter one, and give the server if it is to tell of more than before."""
        places = self._places.setdefault(owner.server, {})
        watchers = places.get(owner.name)
        if watchers is not None:
            watchers[watcher, uri] = None
            return None
        places[owner.name] = {(watcher, uri): None}
        self._lengths.setdefault(owner.server, Counter())[len(owner.name)] += 1
        return owner.server

    def _strike(self, watcher: Watcher, uri: str, owner: Owner) -> str | None:
        """Strike one, and give the server if it is to tell of less than before."""
        places, lengths = self._places[owner.server], self._lengths[owner.server]
        watchers = places[owner.name]
        del watchers[watcher, uri]
        if watchers:
            return None
        del places[owner.name]
        lengths[len(owner.name)] -= 1
        if not lengths[len(owner.name)]:
            del lengths[len(owner.name)]
        if not places:
            del self._places[owner.server], self._lengths[owner.server]
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
