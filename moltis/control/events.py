"""Events: what happens in the daemon, told to whoever subscribed.

    publish -> one bounded queue per subscriber -> the connection, as fast as its reader takes it

The one rule: a publisher never waits and never sees an error. A subscriber that is too slow loses its oldest events and
is told how many: `seq` counts every event that was meant for it, `dropped` those that it will never see. When `dropped`
grows, what it knows may be stale: `mcp.list` tells the present.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from moltis.control import jsonrpc
from moltis.errors import UsageError
from moltis.names import did_you_mean

TYPES: Final = ("state", "auth", "lists", "servers", "log")
"""A transition; a login's state; lists whose content is new; a reload that changed something: which servers were added,
changed or removed, and which other sections of moltis.toml say something else; a log record."""

DEFAULT_TYPES: Final = ("state", "auth", "lists", "servers")
"""All but `log`, which is only for who asks: it is the whole log."""

QUEUE_EVENTS: Final = 256
"""Kept for a slow subscriber: five transitions each of fifty servers that fail together."""

MAX_SUBSCRIPTIONS: Final = 16
"""Per connection. One sees everything; more are a loop that forgot to unsubscribe."""


class Sink(Protocol):
    """Where a subscriber's notifications go."""

    def has_room(self) -> bool:
        """Tell whether a line can be sent now. When it cannot, `Subscription.flush` is called once it can."""

    def send(self, line: bytes) -> None:
        """Send one message; must not block and must not raise."""


class Subscription:
    """One subscriber's queue. Nothing is queued before `open`, nor after `close`."""

    def __init__(self, hub: Hub, id: str, types: frozenset[str], sink: Sink) -> None:
        self.id = id
        self.types = types
        self.dropped = 0
        self._hub = hub
        self._head = b'{"subscription_id":%b,"seq":' % msgspec.json.encode(id)
        self._sink = sink
        self._seq = 0
        self._closed = False
        self._queue: deque[tuple[int, bytes]] = deque()

    def open(self, snapshot: Callable[[], Iterable[Any]]) -> None:
        """Begin, with the present status of all servers. Called once the subscriber knows its subscription's id."""
        if not self._closed:
            self.offer(encode_event("snapshot", None, {"servers": list(snapshot())}))
            self._hub.add(self)

    def offer(self, event: bytes) -> None:
        """Queue an event made by `encode_event`, and send what can be sent."""
        self._seq += 1
        if len(self._queue) >= QUEUE_EVENTS:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append((self._seq, event))
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as there is room."""
        while self._queue and self._sink.has_room():
            seq, event = self._queue.popleft()
            params = b'%b%d,"dropped":%d,%b' % (self._head, seq, self.dropped, event[1:])
            self._sink.send(jsonrpc.notification("mcp.event", params))

    def close(self) -> None:
        """End it; one that was not open yet never opens. Idempotent."""
        self._closed = True
        self._queue.clear()
        self._hub.discard(self)


class Hub:
    """Everyone who subscribed. All methods are called on the event loop."""

    def __init__(self) -> None:
        self._open: dict[str, Subscription] = {}
        self._last_id = 0
        self._wanted: frozenset[str] = frozenset()
        self.unencodable = 0
        """Events that could not be written as JSON, and that nobody got."""

    def wants(self, type: str) -> bool:
        """Tell whether anyone subscribed to a type: a publisher of costly events asks first."""
        return type in self._wanted

    def publish(self, type: str, server: str | None, **fields: Any) -> None:
        """Tell all subscribers of a type what happened. Neither blocks nor raises."""
        if type not in self._wanted:
            return
        try:
            event = encode_event(type, server, fields)
        except Exception:
            self.unencodable += 1
            return
        for subscription in tuple(self._open.values()):
            if type in subscription.types:
                subscription.offer(event)

    def subscribe(self, types: Iterable[str] | None, sink: Sink) -> Subscription:
        """Make a subscription, to be opened when its id has been told; None subscribes to all but the log.

        Raises:
            UsageError: there is no such type of event.
        """
        wanted = frozenset(DEFAULT_TYPES if types is None else types)
        for unknown in sorted(wanted - {*TYPES, "snapshot"}):
            known = f"the types are {', '.join(TYPES)}"
            raise UsageError(f"events: no event is of type {unknown!r}{did_you_mean(unknown, TYPES)}", hint=known)
        self._last_id += 1
        return Subscription(self, f"sub-{self._last_id}", wanted, sink)

    def add(self, subscription: Subscription) -> None:
        self._open[subscription.id] = subscription
        self._count()

    def discard(self, subscription: Subscription) -> None:
        if self._open.pop(subscription.id, None) is not None:
            self._count()

    def _count(self) -> None:
        self._wanted = frozenset().union(*(s.types for s in self._open.values()))


def encode_event(type: str, server: str | None, fields: dict[str, Any]) -> bytes:
    """Give the part of an event that is the same for all subscribers, as a JSON object; `fields` cannot rename it."""
    return msgspec.json.encode({**fields, "type": type, "server": server}, enc_hook=str)
