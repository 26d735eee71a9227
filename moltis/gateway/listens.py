"""`subscriptions/listen` of MCP 2026-07-28: requests of one host that stay open, on which it hears what it asked for.

Nothing is replayed. Whoever opens a stream asks for what it is about after the acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

import msgspec
from msgspec import Raw

from moltis.errors import RpcCode
from moltis.gateway import messages
from moltis.gateway.api import Outlet
from moltis.gateway.catalogue import Owner
from moltis.gateway.messages import SUBSCRIPTION_ID, Ask
from moltis.gateway.refusals import Refusal, bad_params, too_many
from moltis.gateway.subscriptions import UPDATED, Subscriptions, updated_params

ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"

MAX_LISTENS: Final = 64
"""Of one host."""

MAX_EARLY: Final = 1000
"""Messages that wait for the acknowledgement, which comes first; each resource and list counts once."""


class Filter(msgspec.Struct, rename="camel", frozen=True):
    """What a host wants to hear of, in the words of `subscriptions/listen`. Members it does not know are ignored."""

    tools_list_changed: bool | None = None
    prompts_list_changed: bool | None = None
    resources_list_changed: bool | None = None
    resource_subscriptions: list[str] | None = None

    def methods(self) -> frozenset[str]:
        """Return the notifications that it wants, but `notifications/resources/updated`."""
        wanted = {
            "tools": self.tools_list_changed,
            "prompts": self.prompts_list_changed,
            "resources": self.resources_list_changed,
        }
        return frozenset(f"notifications/{name}/list_changed" for name, yes in wanted.items() if yes)

    def uris(self) -> frozenset[str]:
        """Return the resources that it wants to hear of."""
        return frozenset(self.resource_subscriptions or ())

    def honored(self, refused: Collection[str] = ()) -> bytes:
        """Return it as JSON for the acknowledgement: what was not asked for is left out, and so is what was refused."""
        shown = {f"{name}ListChanged": True for name in ("tools", "prompts", "resources") if self._wants(name)}
        uris = [uri for uri in self.resource_subscriptions or () if uri not in refused]
        return msgspec.json.encode({**shown, **({"resourceSubscriptions": uris} if uris else {})})

    def _wants(self, name: str) -> bool:
        return f"notifications/{name}/list_changed" in self.methods()


class Listen:
    """One request that stays open, on which a host hears what it asked for (MCP 2026-07-28, Subscriptions).

    id: of the request, JSON; on every message it says what stream that belongs to.
    on_gone: called when it ends because something could not be sent.
    """

    __slots__ = ("_early", "_id", "_locate", "_methods", "_on_gone", "_outlet", "filter")

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
        self._early: dict[tuple[str, str], bytes] | None = {}

    def acknowledge(self, refused: Collection[str] = ()) -> bool:
        """Say what is listened to; it is the first message, and what was heard before follows it.

        refused: resources that their servers do not tell of. False: there is no way to say anything.
        """
        params = b'{"notifications":%b,"_meta":{%b}}' % (self.filter.honored(refused), self._meta())
        if not self._outlet.tell(messages.notification(ACKNOWLEDGED, params)):
            return False
        early, self._early = self._early, None
        for (method, _), params in (early or {}).items():
            if not self._tell(method, params):
                break
        return True

    def list_changed(self, method: str) -> None:
        """Hear that a list is new."""
        if method in self._methods:
            self._hear(method, "", b'{"_meta":{%b}}' % self._meta())

    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is now."""
        return self._locate(uri)

    def resource_updated(self, uri: str, params: dict[str, Raw]) -> None:
        """Hear that a resource was updated."""
        self._hear(UPDATED, uri, updated_params(uri, params, self._meta()))

    def end(self) -> None:
        """End it in order: the host gets the result."""
        result = b'{"resultType":"complete","_meta":{%b}}' % self._meta()
        self._outlet.reply(messages.result(self._id, result))

    def _hear(self, method: str, uri: str, params: bytes) -> None:
        if self._early is None:
            self._tell(method, params)
        elif len(self._early) < MAX_EARLY:
            self._early[method, uri] = params

    def _tell(self, method: str, params: bytes) -> bool:
        if self._outlet.tell(messages.notification(method, params)):
            return True
        # A stream with a gap would be worse than none: at its end a host that is still there asks for everything.
        self._on_gone()
        self.end()
        return False

    def _meta(self) -> bytes:
        return b'"%b":%b' % (SUBSCRIPTION_ID.encode(), self._id)


class Listens:
    """The streams of one host. `locate` says whose a resource is that the host sees."""

    def __init__(self, subscriptions: Subscriptions, locate: Callable[[str], Owner | None]) -> None:
        self._subscriptions = subscriptions
        self._locate = locate
        self._open: dict[bytes, Listen] = {}

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def __contains__(self, id: bytes) -> bool:
        """Whether the request of this id is one of them."""
        return id in self._open

    def watched(self) -> int:
        """Return how many resources they watch."""
        return sum(map(self._subscriptions.count, self._open.values()))

    def open(
        self, ask: Ask, outlet: Outlet, *, watched: int, then: Callable[[], None] = lambda: None
    ) -> Refusal | None:
        """Open one, or say why not; it is to be acknowledged.

        watched: how many resources the host watches in all.
        then: called when it is known whose its resources are, perhaps at once; not if it is given up before.
        """
        try:
            wanted = _FILTER.decode(ask.params["notifications"])
        except (KeyError, msgspec.MsgspecError):
            return bad_params("params.notifications must be an object that says what is listened to")
        if len(self._open) >= MAX_LISTENS:
            return too_many(f"{MAX_LISTENS} streams are open")
        uris = sorted(wanted.uris())
        refusal = self._subscriptions.refusal(watched, uris)
        if refusal is not None:
            return too_many(refusal)
        listen = Listen(ask.id, outlet, wanted, self._locate, partial(self.drop, ask.id))
        self._open[ask.id] = listen
        self._subscriptions.watch(listen, *uris, then=then)
        return None

    def wanted(self, id: bytes) -> tuple[bool, dict[str, Owner]]:
        """Say whether one is about lists, and which server is to tell of each resource; of those that have one."""
        listen = self._open[id]
        places = {uri: self._subscriptions.place(listen, uri) for uri in listen.filter.uris()}
        return bool(listen.filter.methods()), {uri: owner for uri, owner in places.items() if owner is not None}

    def uris(self, id: bytes) -> frozenset[str]:
        """Return the resources that one is about."""
        return self._open[id].filter.uris()

    def acknowledge(self, id: bytes, refused: Collection[str] = ()) -> Refusal | None:
        """Say what is listened to, or say why that cannot be said. No effect if it is not open any more.

        refused: resources that their servers do not tell of, and that are not watched any more.
        """
        listen = self._open.get(id)
        if listen is None:
            return None
        self._subscriptions.unwatch(listen, *refused)
        if not listen.acknowledge(refused):
            self.drop(id)
            return Refusal(RpcCode.INVALID_REQUEST, _NO_STREAM)
        return None

    def drop(self, id: bytes) -> None:
        """End one; the host hears nothing more on it. No effect if it is not open."""
        listen = self._open.pop(id, None)
        if listen is not None:
            self._subscriptions.leave(listen)

    def list_changed(self, method: str) -> None:
        """Hear that a list is new."""
        for listen in [*self._open.values()]:
            listen.list_changed(method)

    def end(self) -> None:
        """End all in order."""
        for id, listen in [*self._open.items()]:
            self.drop(id)
            listen.end()

    def close(self) -> None:
        """End all of them."""
        for id in [*self._open]:
            self.drop(id)


_NO_STREAM: Final = "subscriptions/listen needs a stream to write on: over HTTP, accept text/event-stream"
_FILTER: Final = msgspec.json.Decoder(Filter)
