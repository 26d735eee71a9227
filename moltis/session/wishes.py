"""What a server of MCP up to 2025-11-25 is to do for as long as somebody wants it: tell of resources, log from a level.

Level-triggered: what is wanted is compared with what the server was last told, and the difference is told, one request
at a time for each thing, so that two never overtake each other. A server that refuses is not asked again for the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from moltis.errors import MoltisError
from moltis.session import envelope
from moltis.session.calls import OnReply, Reply

__all__ = ["LogLevel", "Watch"]

AT_ONCE: Final = 16
"""Requests under way for one list of wishes."""

Tell = Callable[[str, bytes, OnReply], object]
"""Sends a request. Raises MoltisError when nothing was sent."""


class Watch:
    """The resources that a server tells updates of (MCP, Resources, Subscriptions)."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._wanted: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self._busy: set[str] = set()
        self._due: deque[str] = deque()

    @property
    def wanted(self) -> frozenset[str]:
        """What is to be watched."""
        return self._wanted

    def want(self, uris: frozenset[str], *, quietly: bool = False) -> None:
        """Watch these, and no others. `quietly`: the server learns it in another way."""
        self._wanted = uris
        if not quietly:
            self._differ(uris ^ self._told)

    def again(self) -> None:
        """Tell all anew: the server may have forgotten it."""
        self._told.clear()
        self._differ(self._wanted)

    def _differ(self, uris: Iterable[str]) -> None:
        self._due = deque(sorted(uris))
        self._work()

    def _work(self) -> None:
        while self._due and len(self._busy) < AT_ONCE:
            uri = self._due.popleft()
            wanted = uri in self._wanted
            if uri in self._busy or wanted is (uri in self._told):
                continue  # one under way is looked at again when it is answered
            method = "resources/subscribe" if wanted else "resources/unsubscribe"
            self._busy.add(uri)
            try:
                self._tell(method, b'{"uri":%b}' % envelope.json_string(uri), partial(self._replied, uri, wanted))
            except MoltisError:
                self._busy.discard(uri)
                self._due.clear()  # the connection is over, or as good as
                return

    def _replied(self, uri: str, wanted: bool, reply: Reply) -> None:
        self._busy.discard(uri)
        if wanted:
            self._told.add(uri)
        else:
            self._told.discard(uri)
        if wanted is not (uri in self._wanted):
            self._due.append(uri)
        self._work()


class LogLevel:
    """The level from which a server logs (MCP, Logging). There is no way to tell it that nobody listens any more."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._wanted: str | None = None
        self._told: str | None = None
        self._busy = False

    def want(self, level: str | None) -> None:
        """Log from this level on; None leaves it as it is."""
        self._wanted = level
        self._work()

    def again(self) -> None:
        """Tell it anew: the server may have forgotten it."""
        self._told = None
        self._work()

    def _work(self) -> None:
        level = self._wanted
        if self._busy or level is None or level == self._told:
            return
        self._busy = True
        self._told = level
        try:
            self._tell("logging/setLevel", b'{"level":%b}' % envelope.json_string(level), self._replied)
        except MoltisError:
            self._busy = False

    def _replied(self, reply: Reply) -> None:
        self._busy = False
        self._work()
