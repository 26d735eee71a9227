"""Which instance of a server serves which host, where hosts do not share one (`share`).

A host is told apart by its key: itself where it lasts (a `moltis connect`, an HTTP session), else the access token by
which its requests come. The one rule: an instance is found by the key of its host and by nothing else, so that no host
reaches another's.
"""

from __future__ import annotations

from collections.abc import Hashable

from moltis.errors import Busy, UnknownServer
from moltis.gateway.api import ServerPort, World
from moltis.session.face import Face


class Instances:
    """All instances of all servers. `split`: the servers that have such; where there are none nothing else is asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.split = world.split()
        self._names: dict[tuple[str, Hashable], str] = {}
        self._keys: dict[str, Hashable] = {}
        self._left: dict[str, None] = {}
        """Those whose hosts are gone, the longest gone first."""

    def look_again(self) -> None:
        """Go by the servers as they are now."""
        self.split = self._world.split()
        for name in [*self._keys]:
            try:
                self._world.port(name)
            except UnknownServer:
                self.forget(name)

    def find(self, server: str, key: Hashable) -> ServerPort | None:
        """Return the instance of a server that serves a host; None if there is none yet."""
        name = self._names.get((server, key))
        return None if name is None else self._world.port(name)

    def begin(self, server: str, key: Hashable, face: Face) -> ServerPort:
        """Make the instance that serves a host from now on. One that nobody can reach any more makes room.

        Raises:
            UnknownServer: there is no such server.
            Busy: there are as many instances of it as may be.
        """
        try:
            port = self._world.begin_instance(server, face)
        except Busy:
            left = next((name for name in self._left if (server, self._keys[name]) in self._names), None)
            if left is None:
                raise
            self.forget(left)
            self._world.end_instance(left)
            port = self._world.begin_instance(server, face)
        self._names[server, key] = port.name
        self._keys[port.name] = key
        return port

    def is_of(self, name: str, key: Hashable) -> bool:
        """Whether it is the instance of this host."""
        return name in self._keys and self._keys[name] == key

    def of(self, key: Hashable) -> list[str]:
        """Return the names of a host's instances."""
        return [name for name, own in self._keys.items() if own == key]

    def leave(self, key: Hashable) -> None:
        """Take note that a host is gone for good: its instances end when they are idle, or make room before."""
        for name in self.of(key):
            if self._world.outlives(name):
                self._left[name] = None
            else:
                self.forget(name)
                self._world.end_instance(name)

    def forget(self, name: str) -> None:
        """Take note that an instance is over: its host gets another one when it needs it."""
        key = self._keys.pop(name, None)
        self._left.pop(name, None)
        for place in [place for place, own in self._names.items() if own == name and place[1] == key]:
            del self._names[place]
