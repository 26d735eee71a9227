"""What a server of MCP up to 2025-11-25 is to do for as long as somebody wants it: tell of resources, log from a level.

Level-triggered: what is wanted is compared with what the server was last told, and the difference is told, one request
at a time for each thing, so that two never overtake each other. A server that refuses is not asked again for the same;
what could not be sent is still to be told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, NamedTuple

import anyio

from moltis import jsonrpc
from moltis.errors import MoltisError
from moltis.session.calls import ErrorReply, Failed, OnReply, Reply

AT_ONCE: Final = 16
"""Requests under way for one list of wishes."""

Tell = Callable[[str, bytes, OnReply], object]
"""Sends a request. Raises MoltisError when nothing was sent."""

Taken = bool | bytes
"""Whether the server has acknowledged what was last wanted; its own error if it has refused that."""


class Wish(NamedTuple):
    """One thing that is wanted of a server: updates of a resource, news of its lists, logs from some level on."""

    what: Literal["resource", "lists", "level"]
    uri: str = ""


class Stirred:
    """Wakes whoever waits for something to change."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def stir(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()


class Watch:
    """The resources that a server tells updates of (MCP, Resources, Subscriptions). `on_taken`: it has replied."""

    def __init__(self, tell: Tell, on_taken: Callable[[], None] = lambda: None) -> None:
        self._tell = tell
        self._on_taken = on_taken
        self._refused: dict[str, bytes] = {}
        self._wanted: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self._held: set[str] = set()
        """What it may tell of: what it was told, and what it was told before it may have forgotten all."""
        self._busy: set[str] = set()
        self._due: deque[str] = deque()
        self._unsent = False

    @property
    def wanted(self) -> frozenset[str]:
        """What is to be watched."""
        return self._wanted

    def want(self, uris: frozenset[str], *, quietly: bool = False) -> None:
        """Watch these, and no others. `quietly`: the server learns it in another way."""
        self._wanted = uris
        if not quietly:
            self._differ()

    def taken(self, uri: str) -> Taken:
        """Return whether the server tells of a resource. What is not wanted of it is not waited for."""
        if uri not in self._wanted or (uri in self._told and uri not in self._busy):
            return self._refused.get(uri, True)
        return False

    def again(self) -> None:
        """Tell all anew, and take back what is wanted no more: the server may have forgotten it, or not."""
        self._told.clear()
        self._differ()

    def retry(self) -> None:
        """Tell what could not be told: what was in the way may be gone."""
        if self._unsent:
            self._unsent = False
            self._differ()

    def _differ(self) -> None:
        """Have told whatever differs from what is wanted."""
        self._due = deque(sorted((self._wanted - self._told) | (self._held - self._wanted)))
        self._work()

    def _work(self) -> None:
        while self._due and len(self._busy) < AT_ONCE:
            uri = self._due.popleft()
            wanted = uri in self._wanted
            settled = uri in self._told if wanted else uri not in self._held
            if settled or uri in self._busy:
                continue  # one under way is looked at again when it is answered
            method = "resources/subscribe" if wanted else "resources/unsubscribe"
            self._busy.add(uri)
            try:
                self._tell(method, b'{"uri":%b}' % jsonrpc.json_string(uri), partial(self._replied, uri, wanted))
            except MoltisError:
                self._busy.discard(uri)
                self._due.clear()  # the connection is over, or as good as
                return

    def _replied(self, uri: str, wanted: bool, reply: Reply) -> None:
        self._busy.discard(uri)
        if _unsent(reply):
            self._unsent = True
            self._due.clear()  # the rest could not be sent either
            return
        self._refused.pop(uri, None)
        if wanted:
            self._told.add(uri)
            self._held.add(uri)
            if isinstance(reply, ErrorReply):
                self._refused[uri] = reply.raw
        else:
            self._told.discard(uri)
            self._held.discard(uri)
        if wanted is not (uri in self._wanted):
            self._due.append(uri)
        self._work()
        self._on_taken()


class LogLevel:
    """The level from which a server logs (MCP, Logging). There is no way to tell it that nobody listens any more.

    on_taken: it has replied.
    """

    def __init__(self, tell: Tell, on_taken: Callable[[], None] = lambda: None) -> None:
        self._tell = tell
        self._on_taken = on_taken
        self._refused: bytes | None = None
        self._wanted: str | None = None
        self._told: str | None = None
        self._busy = False
        self._unsent = False

    def want(self, level: str | None) -> None:
        """Log from this level on; None leaves it as it is."""
        self._wanted = level
        self._work()

    def taken(self) -> Taken:
        """Return whether the server logs from that level on."""
        return not self._busy and not self._unsent and (self._refused or True)

    def again(self) -> None:
        """Tell it anew: the server may have forgotten it."""
        self._told = None
        self._work()

    def retry(self) -> None:
        """Tell it if it could not be told: what was in the way may be gone."""
        if self._unsent:
            self._work()

    def _work(self) -> None:
        level = self._wanted
        if self._busy or level is None or level == self._told:
            return
        self._busy, self._unsent = True, False
        self._told = level
        try:
            self._tell("logging/setLevel", b'{"level":%b}' % jsonrpc.json_string(level), self._replied)
        except MoltisError:
            self._busy = False

    def _replied(self, reply: Reply) -> None:
        self._busy = False
        if _unsent(reply):
            self._told, self._unsent = None, True
            return
        self._refused = reply.raw if isinstance(reply, ErrorReply) else None
        self._work()
        self._on_taken()


def _unsent(reply: Reply) -> bool:
    return isinstance(reply, Failed) and not reply.sent
