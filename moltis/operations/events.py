"""Events: what happens in the daemon, told to whoever subscribed.

    publish -> one bounded queue per subscriber -> its sink, as fast as that takes it

A publisher never waits and never sees an error. A subscriber that is too slow loses its oldest events and is told how
many: `seq` counts every event that was meant for it, `dropped` those that it will never see. When `dropped` grows, what
it knows may be stale: `mcp.list` tells the present.

An event is a struct, and a JSON object with a member `type`; what it is wrapped in on its way is the sink's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from moltis.errors import UsageError
from moltis.names import did_you_mean
from moltis.server.status import HistoryEntry, ServerStatus


class StateMoved(HistoryEntry, frozen=True, kw_only=True, tag_field="type", tag="state"):
    """A transition of a server."""

    server: str


class LoginMoved(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="auth"):
    """A server's login stands otherwise."""

    server: str
    auth_state: str
    auth_url: str | None
    message: str | None


class ListsChanged(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="lists"):
    """Lists of a server whose content is new: `tools`, `resources`, `templates`, `prompts`."""

    server: str
    lists: list[str]


class ConfigChanged(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="servers"):
    """A reload changed something: which servers, and which other sections of moltis.toml say something else."""

    server: None = None
    added: list[str]
    changed: list[str]
    removed: list[str]
    sections: list[str]


class Logged(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="log"):
    """A log record, as it stands in logs.jsonl."""

    server: None = None
    record: msgspec.Raw


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="snapshot"):
    """How all servers are when a subscription begins: its first event."""

    server: None = None
    servers: list[ServerStatus]


Event = StateMoved | LoginMoved | ListsChanged | ConfigChanged | Logged | Snapshot

TYPES: Final = ("state", "auth", "lists", "servers", "log")
"""What can be subscribed to."""

DEFAULT_TYPES: Final = ("state", "auth", "lists", "servers")
"""All but `log`, which is only for who asks: it is the whole log."""

QUEUE_EVENTS: Final = 256
"""Kept for a slow subscriber: five transitions each of fifty servers that fail together."""

MAX_SUBSCRIPTIONS: Final = 16
"""Per connection. One sees everything; more are a loop that forgot to unsubscribe."""


class Sink(Protocol):
    """Where a subscriber's events go."""

    def has_room(self) -> bool:
        """Tell whether an event can be sent now. When it cannot, `Subscription.flush` is called once it can."""

    def tell(self, subscription_id: str, seq: int, dropped: int, event: bytes) -> None:
        """Send one event, a JSON object; must not block and must not raise."""


class Subscription:
    """One subscriber's queue. Nothing is queued before `open`, nor after `close`."""

    def __init__(self, bus: EventBus, id: str, types: frozenset[str], sink: Sink) -> None:
        self.id = id
        self.types = types
        self.dropped = 0
        self._bus = bus
        self._sink = sink
        self._seq = 0
        self._closed = False
        self._queue: deque[tuple[int, bytes]] = deque()

    def open(self, snapshot: Callable[[], Iterable[ServerStatus]]) -> None:
        """Begin, with the present status of all servers. Called once the subscriber knows its subscription's id."""
        if not self._closed:
            self.offer(_encode(Snapshot(servers=list(snapshot()))))
            self._bus.add(self)

    def offer(self, event: bytes) -> None:
        """Queue an event, a JSON object, and send what can be sent."""
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
            self._sink.tell(self.id, seq, self.dropped, event)

    def close(self) -> None:
        """End it; one that was not open yet never opens. Idempotent."""
        self._closed = True
        self._queue.clear()
        self._bus.discard(self)


class EventBus:
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

    def publish(self, event: Event) -> None:
        """Tell all subscribers of its type what happened. Neither blocks nor raises."""
        type = event.__struct_config__.tag
        if type not in self._wanted:
            return
        try:
            encoded = _encode(event)
        except Exception:
            self.unencodable += 1
            return
        for subscription in tuple(self._open.values()):
            if type in subscription.types:
                subscription.offer(encoded)

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


def _encode(event: Event) -> bytes:
    """Return what is the same for all subscribers."""
    return msgspec.json.encode(event, enc_hook=str)
