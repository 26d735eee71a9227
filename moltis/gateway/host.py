"""One host: which era each of its requests is of, what it is asked, what it wants to hear of.

What can be answered from what is known is answered here and at once; the rest is passed on. A host of MCP 2026-07-28
says in each request who it is, so nothing of it is remembered between two; what `initialize` said is for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Final, Protocol

import anyio
import msgspec
from msgspec import Raw

from moltis import logs
from moltis.errors import MoltisError, RpcCode
from moltis.gateway import abilities, failures, introduction, messages, refusals
from moltis.gateway.abilities import Able, HostCannot, Lack
from moltis.gateway.api import Outlet, Principal, ServerPort, World
from moltis.gateway.catalogue import Owner
from moltis.gateway.endpoints import Endpoint, Route
from moltis.gateway.forwarding import Forwarding, Running
from moltis.gateway.instances import Instances
from moltis.gateway.levels import LEVELS
from moltis.gateway.listens import Listens
from moltis.gateway.messages import CAPABILITIES, CLIENT_INFO, LOG_LEVEL, PROTOCOL_VERSION, Answer, Ask, Tell, text_of
from moltis.gateway.outbox import Outbox, Questions
from moltis.gateway.refusals import Refusal, bad_params, refuse
from moltis.gateway.revisions import LEGACY
from moltis.gateway.subscriptions import MAX_WATCHED_OF_ALL, UPDATED, Subscriptions, updated_params
from moltis.gateway.waits import Refused, Settling, Taking
from moltis.printable import unbroken
from moltis.server.states import AT_REST, State
from moltis.server.status import HostSeen
from moltis.session.face import NO_ROOTS, Face
from moltis.session.handshake import MODERN_VERSIONS
from moltis.session.listing import Kind
from moltis.session.wishes import Wish
from moltis.shares import Shares
from moltis.slices import Slices

log = logs.get("moltis.gateway")

MAX_INTRODUCTION_BYTES: Final = 256 * 1024
"""Of what a host says of itself and what it can, which is kept for as long as it is there."""

MAX_TOLD_BYTES: Final = 16 * 1024
"""Of params of what all servers are told at once."""

MAX_WATCHED_OF_ONE: Final = MAX_WATCHED_OF_ALL // 2
"""Resources that the hosts of one principal subscribe to; whoever has so many begins no more. The rest is others'."""
_SHARE: Final = f"the hosts of one access token subscribe to no more than {MAX_WATCHED_OF_ONE} resources together"

_NAMELESS: Final = b'{"name":"unknown","version":"unknown"}'
_GONE: Final = refusals.shutting_down("this session is over")
_FAILED: Final = Refusal(RpcCode.INTERNAL_ERROR, "moltis failed at this request; its log says more")
_UNNAMED: Final = Raw(_NAMELESS)
_AT_REST: Final = AT_REST - {State.IDLE}


class Hub(Protocol):
    """What hosts share, as one of them sees it; `gateway.Gateway` is it."""

    @property
    def world(self) -> World: ...

    @property
    def forwarding(self) -> Forwarding: ...

    @property
    def subscriptions(self) -> Subscriptions: ...

    @property
    def introduced(self) -> Shares:
        """Bytes of what hosts said of themselves."""

    def watched_of(self, principal: str) -> int:
        """How many resources the hosts of one principal subscribe to."""

    @property
    def instances(self) -> Instances:
        """Which instance of a server serves which host."""

    @property
    def closing(self) -> Refusal | None:
        """Why nothing is taken any more."""

    def level_set(self, host: Host) -> None:
        """A host wants another level of logging."""

    def level_of_request(self, port: ServerPort, level: str) -> None:
        """One request to a server wants a level of logging."""

    def left(self, host: Host) -> None:
        """A host is gone."""


class Host:
    """One host; made by `Gateway.new_host`. Fits `api.HostApi` and `forwarding.HostSide`."""

    def __init__(
        self,
        hub: Hub,
        endpoint: Endpoint,
        principal: Principal,
        unsolicited: Callable[[bytes], bool],
        *,
        lasts: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.principal = principal
        self.key: Hashable = self if lasts else principal.name
        """What it is told apart by from those that have other instances."""
        self.client_info = _NAMELESS
        self.capabilities = b"{}"
        self.log_level: str | None = None
        self.revision = LEGACY
        """What its `initialize` agreed on; requests of 2026-07-28 say it themselves."""
        self.in_session = False
        """It has sent `initialize`: it is told what is new, without being asked for it in a request."""
        self._hub = hub
        self._unsolicited = unsolicited
        self._outbox: Outbox | None = None
        self._waiting: dict[bytes, tuple[Running | None, Outlet, bool]] = {}
        self._listens = Listens(hub.subscriptions, self.locate)
        self._questions = Questions()
        self._introduced = 0
        self._said: bytes | None = None
        """What it said of itself when it began to listen (2026-07-28)."""
        self._closed = False

    @property
    def in_flight(self) -> int:
        """How many requests wait for their reply; listens do not."""
        return len(self._waiting)

    def seen(self) -> HostSeen | None:
        """Return who it is, if it stays connected: in a session, or as long as it listens."""
        if not self.in_session and self._said is None:
            return None
        said = self.client_info if self.in_session else self._said or b""
        return introduction.seen(said, modern=not self.in_session, token=self.principal.name)

    @property
    def watched(self) -> int:
        """How many resources it subscribes to, in either era's way."""
        return self._hub.subscriptions.count(self) + self._listens.watched()

    # --- what the front hands over

    def request(self, ask: Ask, outlet: Outlet) -> None:
        """Take a request."""
        modern = PROTOCOL_VERSION in ask.meta
        refusal = _GONE if self._closed else self._hub.closing
        if refusal is None and (ask.id in self._waiting or ask.id in self._listens):
            refusal = Refusal(RpcCode.INVALID_REQUEST, "a request with this id has no reply yet")
        if refusal is None and modern:
            refusal = refusals.unfit(ask)
        if refusal is not None:
            refuse(outlet, ask.id, refusal, modern=modern)
            return
        if modern:
            ask.meta.setdefault(CLIENT_INFO, _UNNAMED)  # it may be missing; servers are told something
        if self._outbox is not None and self._outbox.held and not modern and ask.method not in _BEFORE_READY:
            self._ready()
        try:
            self._handle(ask, outlet, modern)
        except Exception as fault:
            self._failed(ask, outlet, modern, fault)

    def _failed(self, ask: Ask, outlet: Outlet, modern: bool, fault: Exception) -> None:
        """Reply that there is no better reply: one is owed."""
        log.error("request_failed", method=ask.method[:100], error=type(fault).__name__, exc_info=True)
        self.drop(ask.id, "moltis failed at it")
        refuse(outlet, ask.id, _FAILED, modern=modern)

    def _handle(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        handler = (_MODERN if modern else _LEGACY).get(ask.method)
        if handler is not None:
            handler(self, ask, outlet, modern)
        elif ask.method in _KNOWN:
            hint = "" if modern else f"before MCP {MODERN_VERSIONS[0]}; params._meta says which version a request is of"
            refuse(outlet, ask.id, refusals.no_such_method(ask.method, hint), modern=modern)
        else:
            self._unknown(ask, outlet, modern)

    def notification(self, tell: Tell) -> None:
        """Take a notification. One that is not known goes to the only server, if there is but one to see."""
        match tell.method:
            case "notifications/initialized":
                self._ready()
            case "notifications/cancelled":
                id = bytes(tell.params.get("requestId", b""))
                self.drop(id, text_of(tell.params, "reason") or "the host cancelled it")
            case "notifications/progress":
                self._hub.forwarding.host_progressed(self, tell.params)
            case "notifications/roots/list_changed":
                self._roots_changed(tell)
            case _ if self.endpoint.relays_all and self.principal.may_write:
                self._tell_servers(tell, legacy_only=False)
            case _:
                pass

    def answer(self, answer: Answer) -> None:
        """Take the answer to a question."""
        self._questions.answered(answer)

    def drop(self, id: bytes, reason: str) -> None:
        """Give up a request that waits."""
        self._listens.drop(id)
        waiting = self._waiting.pop(id, None)
        if waiting is not None and waiting[0] is not None:
            waiting[0].cancel(reason)

    def attached(self) -> None:
        """Send what was kept."""
        if self._outbox is not None:
            self._outbox.flush()

    def close(self) -> None:
        """It is gone."""
        if self._closed:
            return
        self._closed = True
        self.in_session = False
        for id in [*self._waiting]:
            self.drop(id, "the host is gone")
        self._listens.close()
        self._questions.close()
        self._hub.subscriptions.leave(self)
        self._hub.introduced.give(self.principal.name, self._introduced)
        self._introduced = 0
        self._outbox = None
        self._hub.left(self)

    # --- what the gateway tells

    def list_changed(self, method: str) -> None:
        """Hear that a list is new."""
        if self.in_session:
            self._out().put(messages.notification(method), once=True)
        self._listens.list_changed(method)

    def say(self, message: bytes) -> None:
        """Tell something that belongs to no request, if it is in a session. `message`: a notification."""
        if self.in_session:
            self._out().put(message)

    def locate(self, uri: str) -> Owner | None:
        """Say whose resource it is now; of a server that has instances, of this host's."""
        owner = self.endpoint.locate(uri)
        if owner is None or owner.server not in self._hub.instances.split:
            return owner
        try:
            port = self._own(owner.server)
        except MoltisError:
            return None
        return Owner(port.name, owner.name)

    def sees(self, server: str) -> bool:
        """Whether what a server says may concern it: it belongs to its view, or is an instance of its own."""
        return self.endpoint.sees(server) or self._hub.instances.is_of(server, self.key)

    def ports(self) -> list[ServerPort]:
        """Return the servers that it sees; of one that has instances, its own, if there is one."""
        instances, ports = self._hub.instances, self.endpoint.ports()
        if not instances.split:
            return ports
        found = (instances.find(port.name, self.key) if port.name in instances.split else port for port in ports)
        return [port for port in found if port is not None]

    def resource_updated(self, uri: str, params: dict[str, Raw]) -> None:
        """Hear that a resource was updated that it subscribed to."""
        if not self._closed:
            self._out().put(messages.notification(UPDATED, updated_params(uri, params)), once=True)

    def shut(self, refusal: Refusal) -> None:
        """Reply to all that waits: the gateway closes."""
        self._listens.end()
        for id, (_, outlet, modern) in [*self._waiting.items()]:
            self.drop(id, refusal.message)
            refuse(outlet, id, refusal, modern=modern)

    # --- what forwarding asks

    def ask_host(self, method: str, params: bytes, outlet: Outlet, on_answer: Callable[[Answer], None]) -> int | None:
        """Send a question; see `HostSide`."""
        return self._questions.ask(method, params, outlet, on_answer)

    def take_back(self, id: int, reason: bytes) -> None:
        """Take a question back; see `HostSide`."""
        self._questions.take_back(id, reason)

    def done(self, id: bytes) -> None:
        """Forget a request that has had its reply."""
        self._waiting.pop(id, None)

    # --- answered here

    def _initialize(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        client_info = _object(ask.params, "clientInfo", _NAMELESS)
        capabilities = _object(ask.params, "capabilities", b"{}")
        if len(client_info) + len(capabilities) > MAX_INTRODUCTION_BYTES:
            told = f"params: clientInfo and capabilities have at most {MAX_INTRODUCTION_BYTES} bytes together"
            refuse(outlet, ask.id, bad_params(told), modern=modern)
            return
        if not self._introduce(len(client_info) + len(capabilities)):
            told = "the hosts of this access token say too much of themselves: end some sessions, or say less"
            refuse(outlet, ask.id, Refusal(RpcCode.INTERNAL_ERROR, told), modern=modern)
            return
        self.client_info, self.capabilities = client_info, capabilities
        self.in_session = True
        self._out().held = True
        version = self.revision = introduction.version_for(text_of(ask.params, "protocolVersion"))

        def reply() -> None:
            outlet.reply(messages.result(ask.id, self.endpoint.introduction().initialized(version)))

        self._when_settled(ask, outlet, modern, reply)

    def _introduce(self, size: int) -> bool:
        """Count what is kept of its introduction, if there is room for it."""
        introduced, who = self._hub.introduced, self.principal.name
        introduced.give(who, self._introduced)
        if introduced.take(who, size):
            self._introduced = size
            return True
        if not introduced.take(who, self._introduced):
            self._introduced = 0
        return False

    def _discover(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        def reply() -> None:
            outlet.reply(messages.result(ask.id, self.endpoint.introduction().discovered()))

        self._when_settled(ask, outlet, modern, reply)

    def _ping(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        outlet.reply(messages.result(ask.id, b"{}"))

    def _list(self, kind: Kind, ask: Ask, outlet: Outlet, modern: bool) -> None:
        cursor = text_of(ask.params, "cursor")
        if cursor is None and bytes(ask.params.get("cursor", b"null")) != b"null":
            refuse(outlet, ask.id, bad_params("params.cursor must be a string"), modern=modern)
            return

        def reply() -> None:
            page = self.endpoint.page(kind, cursor, modern=modern, able=partial(self._able, ask, modern))
            if isinstance(page, Refusal):
                refuse(outlet, ask.id, page, modern=modern)
            else:
                outlet.reply(messages.result(ask.id, page))

        self._when_settled(ask, outlet, modern, lambda: self._when_prepared(ask, outlet, modern, kind, reply))

    def _set_level(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        level = text_of(ask.params, "level")
        if level not in LEVELS:
            refuse(outlet, ask.id, bad_params(f"params.level must be one of {', '.join(LEVELS)}"), modern=modern)
            return
        self.log_level = level
        self._hub.level_set(self)
        self._when_taken(ask, outlet, modern, [(port, Wish("level")) for port in self.ports()])

    def _subscribe(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        uri = text_of(ask.params, "uri")
        if uri is None:
            refuse(outlet, ask.id, bad_params("params.uri must be a string"), modern=modern)
        elif self._has_its_share():
            refuse(outlet, ask.id, refusals.too_many(_SHARE), modern=modern)
        elif (why := self._hub.subscriptions.refusal(self.watched, (uri,))) is not None:
            refuse(outlet, ask.id, refusals.too_many(why), modern=modern)
        elif (full := self._no_instance(uri)) is not None:
            refuse(outlet, ask.id, full, modern=modern)
        elif not self.endpoint.may_watch(uri):
            refuse(outlet, ask.id, refusals.no_such_resource(uri, modern=modern), modern=modern)
        else:
            self._waiting[ask.id] = waiting = None, outlet, modern

            def located() -> None:
                if self._waiting.get(ask.id) is not waiting:
                    return
                owner = self._hub.subscriptions.place(self, uri)
                wishes = self._of_resources([owner] if owner is not None else [])
                self._when_taken(ask, outlet, modern, wishes, lambda: self._hub.subscriptions.unwatch(self, uri))

            self._hub.subscriptions.watch(self, uri, then=self._guarded(ask, outlet, modern, located))

    def _unsubscribe(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        uri = text_of(ask.params, "uri")
        if uri is None:
            refuse(outlet, ask.id, bad_params("params.uri must be a string"), modern=modern)
        else:
            self._hub.subscriptions.unwatch(self, uri)
            outlet.reply(messages.result(ask.id, b"{}"))

    def _listen(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        refusal = refusals.too_many(_SHARE) if self._has_its_share() else None
        if refusal is None:
            then = self._guarded(ask, outlet, modern, lambda: self._listening(ask, outlet, modern))
            refusal = self._listens.open(ask, outlet, watched=self.watched, then=then)
            self._said = bytes(ask.meta.get(CLIENT_INFO, b""))[: introduction.MAX_SAID_BYTES + 1]
        if refusal is not None:
            refuse(outlet, ask.id, refusal, modern=modern)

    def _listening(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        """Acknowledge a stream once the servers have taken what it is about. It is known whose its resources are."""
        lists, places = self._listens.wanted(ask.id)
        wishes = self._of_resources(places.values())
        if lists:
            wishes += [(port, Wish("lists")) for port in self.ports()]

        def taken(refused: Refused) -> None:
            if ask.id not in self._listens:
                return
            errors = {
                uri: refused[owner.server, Wish("resource", owner.name)]
                for uri, owner in places.items()
                if (owner.server, Wish("resource", owner.name)) in refused
            }
            if errors and not lists and len(errors) == len(self._listens.uris(ask.id)):
                self._listens.drop(ask.id)
                outlet.reply(messages.relayed_error(ask.id, next(iter(errors.values()))))
                return
            refusal = self._listens.acknowledge(ask.id, errors)
            if refusal is not None:
                refuse(outlet, ask.id, refusal, modern=modern)

        taking = Taking(wishes, taken)
        if taking.look():
            taking.finish()
        else:
            self._hub.world.start(taking.run)

    # --- passed on

    def _forward(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        if ask.method == "tools/call" and not self.principal.may_write:
            refuse(outlet, ask.id, refusals.forbidden("tools/call"), modern=modern)
        else:
            self._pass_on(ask, outlet, modern, self.endpoint.route(ask.method, ask.params, modern=modern))

    def _read(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        own = self.endpoint.own(ask.params, modern=modern)
        if own is not None:
            outlet.reply(messages.result(ask.id, own))
        else:
            self._forward(ask, outlet, modern)

    def _unknown(self, ask: Ask, outlet: Outlet, modern: bool) -> None:
        route = self.endpoint.route(ask.method, ask.params, modern=modern)
        if not self.principal.may_write and not isinstance(route, Refusal):
            route = refusals.forbidden("a method that moltis does not know")
        self._pass_on(ask, outlet, modern, route)

    def _pass_on(self, ask: Ask, outlet: Outlet, modern: bool, route: Route | Refusal) -> None:
        if isinstance(route, Refusal):
            refuse(outlet, ask.id, route, modern=modern)
            return
        need = self.endpoint.need_of(route.port.name, route.tool) if route.tool is not None else None
        if need is not None and "task" not in route.params:
            lack = self.endpoint.lacking(route.port.name, need, self._able(ask, modern))
            if lack is not None:
                self._cannot(ask, outlet, modern, route, lack)
                return
        split = self._hub.instances.split
        if split and route.port.name in split:
            self._by_instance(ask, outlet, modern, route)
        else:
            self._begin(ask, outlet, modern, route)

    def _begin(self, ask: Ask, outlet: Outlet, modern: bool, route: Route) -> None:
        id = ask.id
        if modern and LOG_LEVEL in ask.meta:
            level = text_of(ask.meta, LOG_LEVEL)
            if level in LEVELS:
                self._hub.level_of_request(route.port, level)
        self._waiting[id] = None, outlet, modern
        running = self._hub.forwarding.begin(
            self,
            ask,
            outlet,
            route.port,
            params=route.params,
            name=route.name,
            tool=route.tool,
            view=self.endpoint.view.path,
        )
        if running is None:
            self._waiting.pop(id, None)
        elif id in self._waiting:
            self._waiting[id] = running, outlet, modern

    # --- by an instance of its own

    def _by_instance(self, ask: Ask, outlet: Outlet, modern: bool, route: Route) -> None:
        """Pass a request on to its instance of a server, which is made if there is none.

        It is asked for its folders first, if it has said that it has some: servers want to know them when they start.
        """
        server = route.port.name
        found = self._hub.instances.find(server, self.key)
        if found is not None or route.port.state() in _AT_REST:
            self._begin(ask, outlet, modern, msgspec.structs.replace(route, port=found or route.port))
            return

        def go_on(roots: bytes) -> None:
            try:
                port = self._own(server, roots, ask.meta)
            except MoltisError as error:
                outlet.reply(*failures.answered(ask.id, ask.method, error, modern=modern))
            else:
                self._begin(ask, outlet, modern, msgspec.structs.replace(route, port=port))

        if modern or not abilities.can_answer(self.capabilities, _ROOTS, b""):
            go_on(NO_ROOTS)
            return
        asking = _AskingRoots(self, outlet, lambda roots: self._settled_by(ask, outlet, modern, go_on, roots))
        self._waiting[ask.id] = asking, outlet, modern
        self._hub.world.start(asking.run)

    def _settled_by(
        self, ask: Ask, outlet: Outlet, modern: bool, then: Callable[[bytes], None], roots: bytes | None
    ) -> None:
        self.done(ask.id)
        self._guarded(ask, outlet, modern, lambda: then(roots or NO_ROOTS))()

    def _own(self, server: str, roots: bytes = NO_ROOTS, meta: dict[str, Raw] | None = None) -> ServerPort:
        """Return its instance of a server; one that is made sees it as it is.

        Raises:
            MoltisError: there is none, and none can be made now.
        """
        found = self._hub.instances.find(server, self.key)
        if found is not None:
            return found
        template, meta = self._hub.world.port(server), meta or {}
        if template.state() in _AT_REST:
            raise failures.not_ready(template.status())
        client_info = bytes(meta.get(CLIENT_INFO, self.client_info))
        capabilities = bytes(meta.get(CAPABILITIES, self.capabilities))
        return self._hub.instances.begin(server, self.key, Face(unbroken(client_info), unbroken(capabilities), roots))

    def _no_instance(self, uri: str) -> Refusal | None:
        """Say why no instance of its own can tell it of a resource; None if one can, or none is needed."""
        owner = self.endpoint.locate(uri)
        if owner is None or owner.server not in self._hub.instances.split:
            return None
        try:
            self._own(owner.server)
        except MoltisError as error:
            return refusals.of_error(error)
        return None

    def _roots_changed(self, tell: Tell) -> None:
        """Ask for its folders anew, before those who know them hear that they are others."""
        names = self._hub.instances.of(self.key)
        if not names or not abilities.can_answer(self.capabilities, _ROOTS, b""):
            self._tell_servers(tell, legacy_only=True)
            return

        def then(roots: bytes | None) -> None:
            if roots is not None:
                face = Face(self.client_info, self.capabilities, roots)
                for name in self._hub.instances.of(self.key):
                    self._hub.world.change_face(name, face)
            self._tell_servers(tell, legacy_only=True)

        self._hub.world.start(_AskingRoots(self, _Unasked(self._unsolicited), then).run)

    def _able(self, ask: Ask, modern: bool) -> Able:
        """Return what it can: a host of 2026-07-28 says so in each request."""
        if modern:
            return Able(bytes(ask.meta.get(CAPABILITIES, b"{}")))
        return Able(self.capabilities, tasks=self.revision == LEGACY)

    def _cannot(self, ask: Ask, outlet: Outlet, modern: bool, route: Route, lack: Lack) -> None:
        tool, server = route.tool, route.port.name
        told = (
            f"tool {tool!r} of server {server!r} needs {lack.words}, which this host does not have; it was not called"
        )
        error = HostCannot(told, server=server, hint="use a host that has it")
        if modern and not lack.as_task:
            outlet.reply(*failures.incapable(ask.id, error, lack.capabilities))
        else:
            outlet.reply(*failures.answered(ask.id, ask.method, error, modern=modern))

    # --- how

    def _guarded(self, ask: Ask, outlet: Outlet, modern: bool, step: Callable[[], None]) -> Callable[[], None]:
        """Return the step as one that may be taken in another turn of the loop: a request that it fails has a reply."""

        def guarded() -> None:
            try:
                step()
            except Exception as fault:
                self._failed(ask, outlet, modern, fault)

        return guarded

    def _when_settled(self, ask: Ask, outlet: Outlet, modern: bool, reply: Callable[[], None]) -> None:
        """Reply, but wait a little for servers that are starting for the first time: many hosts read a list once."""
        secs, waits = self.endpoint.patience()
        if not waits or secs <= 0:
            reply()
            return

        def settled() -> None:
            self.done(ask.id)
            self.endpoint.stale()
            try:
                reply()
            except Exception as fault:
                self._failed(ask, outlet, modern, fault)

        settling = Settling(waits, secs, settled)
        self._waiting[ask.id] = settling, outlet, modern
        self._hub.world.start(settling.run)

    def _when_prepared(self, ask: Ask, outlet: Outlet, modern: bool, kind: Kind, reply: Callable[[], None]) -> None:
        """Reply, at once unless the list is so long that to make it would hold up everybody."""
        if self.endpoint.is_ready(kind, modern=modern):
            reply()
            return
        self._waiting[ask.id] = waiting = None, outlet, modern

        async def prepare() -> None:
            slices = Slices()
            for _ in self.endpoint.preparation(kind, modern=modern):
                await slices.rest()
                if self._waiting.get(ask.id) is not waiting:
                    return
            self.done(ask.id)
            self._guarded(ask, outlet, modern, reply)()

        self._hub.world.start(prepare)

    def _when_taken(
        self,
        ask: Ask,
        outlet: Outlet,
        modern: bool,
        wishes: list[tuple[ServerPort, Wish]],
        undo: Callable[[], None] = lambda: None,
    ) -> None:
        """Reply once the servers have taken what is wanted of them; with an only server's error if it refuses."""

        def taken(refused: Refused) -> None:
            self.done(ask.id)
            try:
                if refused and len(wishes) == 1:
                    undo()
                    outlet.reply(messages.relayed_error(ask.id, next(iter(refused.values()))))
                else:
                    outlet.reply(messages.result(ask.id, b"{}"))
            except Exception as fault:
                self._failed(ask, outlet, modern, fault)

        taking = Taking(wishes, taken)
        if taking.look():
            taking.finish()
        else:
            self._waiting[ask.id] = taking, outlet, modern
            self._hub.world.start(taking.run)

    def _of_resources(self, owners: Iterable[Owner]) -> list[tuple[ServerPort, Wish]]:
        ports = {port.name: port for port in self.ports()}
        return [(ports[owner.server], Wish("resource", owner.name)) for owner in owners if owner.server in ports]

    def _ready(self) -> None:
        if self._outbox is not None:
            self._outbox.held = False
            self._outbox.flush()

    def _out(self) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox(self._unsolicited)
        return self._outbox

    def _has_its_share(self) -> bool:
        return self._hub.watched_of(self.principal.name) >= MAX_WATCHED_OF_ONE

    def _tell_servers(self, tell: Tell, *, legacy_only: bool) -> None:
        params = msgspec.json.encode(tell.params) if tell.params else b""
        if legacy_only and len(params) > MAX_TOLD_BYTES:
            params = b""  # it says nothing but `_meta` (MCP, Roots), and each server would get a copy
        for port in self.ports():
            upstream = port.upstream()
            taker = upstream.present_taker(modern=not self.in_session) if upstream is not None else None
            if taker is not None and not (legacy_only and taker.agreed.era != "legacy"):
                taker.tell(tell.method, params)


ROOTS_SECS: Final = 5.0
"""How long a host may take to say what its folders are; then its server is told of none."""
_ROOTS: Final = "roots/list"


class _AskingRoots:
    """Asks a host for its folders, and gives its result; None where it does not say."""

    def __init__(self, host: Host, outlet: Outlet, then: Callable[[bytes | None], None]) -> None:
        self._host = host
        self._outlet = outlet
        self._then = then
        self._answered = anyio.Event()
        self._roots: bytes | None = None
        self._given_up = False

    async def run(self) -> None:
        """Ask, and wait."""
        if self._given_up:
            return
        id = self._host.ask_host(_ROOTS, b"{}", self._outlet, self._answer)
        if id is not None:
            with anyio.move_on_after(ROOTS_SECS) as waited:
                await self._answered.wait()
            if waited.cancelled_caught or self._given_up:
                self._host.take_back(id, b"")
        if not self._given_up:
            self._then(self._roots)

    def cancel(self, reason: str = "") -> None:
        """Give nothing any more."""
        self._given_up = True
        self._answered.set()

    def _answer(self, answer: Answer) -> None:
        if answer.result is not None and answer.result[:1] == b"{":
            self._roots = unbroken(answer.result)
        self._answered.set()


class _Unasked:
    """The way to a host for what belongs to no request of it; fits `Outlet` but for the reply."""

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self._send = send

    def tell(self, message: bytes) -> bool:
        return self._send(message)

    def can_ask(self) -> bool:
        return True

    def reply(self, message: bytes, status: int = 200) -> None:
        raise RuntimeError("nobody has asked")


def _object(params: dict[str, Raw], name: str, otherwise: bytes) -> bytes:
    found = bytes(params.get(name, b""))
    return unbroken(found) if found[:1] == b"{" else otherwise


_Handler = Callable[[Host, Ask, Outlet, bool], None]


def _lister(kind: Kind) -> _Handler:
    def handler(host: Host, ask: Ask, outlet: Outlet, modern: bool) -> None:
        host._list(kind, ask, outlet, modern)

    return handler


_BOTH: Final[dict[str, _Handler]] = {
    **dict.fromkeys(("tools/call", "prompts/get", "completion/complete"), Host._forward),
    "resources/read": Host._read,
    **{kind.method: _lister(kind) for kind in Kind},
}
_LEGACY: Final[dict[str, _Handler]] = {
    **_BOTH,
    "initialize": Host._initialize,
    "ping": Host._ping,
    "logging/setLevel": Host._set_level,
    "resources/subscribe": Host._subscribe,
    "resources/unsubscribe": Host._unsubscribe,
}
_MODERN: Final[dict[str, _Handler]] = {
    **_BOTH,
    "server/discover": Host._discover,
    "subscriptions/listen": Host._listen,
}
_KNOWN: Final = _LEGACY.keys() | _MODERN.keys()
_BEFORE_READY: Final = frozenset({"initialize", "ping"})
"""What a host may send before it is told anything (MCP 2025-11-25, Lifecycle)."""
