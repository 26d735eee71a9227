"""All hosts and all servers, brought together: what one server says reaches the hosts that it concerns, and what hosts
want of a server, taken together, reaches the server.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
import msgspec
from msgspec import Raw

from moltis import logs
from moltis.errors import UnknownProject, UnknownServer
from moltis.gateway import messages, refusals
from moltis.gateway.api import Principal, ServerPort, Upstream, World
from moltis.gateway.catalogue import Parts
from moltis.gateway.endpoints import Endpoint, endpoint_of
from moltis.gateway.forwarding import Forwarding
from moltis.gateway.host import Host
from moltis.gateway.instances import Instances
from moltis.gateway.levels import Levels, passes
from moltis.gateway.messages import text_of
from moltis.gateway.refusals import Refusal
from moltis.gateway.relay import OnRequest
from moltis.gateway.subscriptions import UPDATED, Subscriptions
from moltis.gateway.views import ALL, Settings, Views, path_of
from moltis.gateway.waits import Refused, Taking
from moltis.names import split_name
from moltis.server.status import HostSeen, UnusableItem
from moltis.session.listing import Kind
from moltis.session.wishes import Wish
from moltis.shares import Shares
from moltis.slices import Slices

log = logs.get("moltis.gateway")

ANNOUNCE_AFTER_SECS: Final = 0.1
"""Servers come up together, and a server that loads plugins says for each that its tools are new."""

UNASKED_LEVEL: Final = "info"
"""What a host gets that never set a level, of a server that logs more because another host wants it."""

MAX_INTRODUCED_BYTES: Final = 16 * 1024 * 1024
"""Of what the hosts of one principal say of themselves when they initialize, each some hundred bytes; see `Shares`."""

MAX_SAID_BYTES: Final = 1024 * 1024
"""Of what a server says unasked to all its hosts. A message may be longer, but not for each of a hundred hosts."""

MAX_SEEN: Final = 100
"""Hosts that the status of one server tells of."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])


class Gateway:
    """The gateway. `on_request` hears of every request that was passed on, for counting."""

    def __init__(self, world: World, settings: Settings | None = None, on_request: OnRequest | None = None) -> None:
        self.world = world
        self.forwarding = Forwarding(world, on_request)
        self.subscriptions = Subscriptions(self._watch, self._missed, lambda: world.start(self._locate))
        self.levels = Levels()
        self.closing: Refusal | None = None
        self._settings = settings or Settings()
        self.introduced = Shares(MAX_INTRODUCED_BYTES)
        self._hosts: dict[Host, None] = {}
        self._views = Views(self._settings, self._names())
        self._endpoints: dict[str, Endpoint] = {}
        self._parts: Parts = {}
        """What the endpoints of servers together have in common: their lists are the same, with others left out."""
        self._surveys = False
        self._watched: dict[str, frozenset[str]] = {}
        self._levelled: dict[str, str] = {}
        self.instances = Instances(world)
        self._held: dict[str, ServerPort] = {}
        """Servers that are needed since hosts subscribe to what they tell."""
        self._announcing = False
        self._generations: dict[str, int] = {}
        self._warned: dict[str, list[UnusableItem]] = {}

    # --- for the fronts

    def new_host(
        self, path: str, principal: Principal, unsolicited: Callable[[bytes], bool], *, lasts: bool = True
    ) -> Host:
        """Make a host of the view at a path.

        Raises:
            UnknownServer: there is none.
        """
        endpoint = self._endpoint(path)
        if endpoint.is_unheard:
            endpoint.hear()
        host = Host(self, endpoint, principal, unsolicited, lasts=lasts)
        self._hosts[host] = None
        return host

    @property
    def is_closed(self) -> bool:
        """Whether it takes no requests any more, and never will."""
        return self.closing is not None

    def knows(self, path: str) -> bool:
        """Whether there is a view at a path."""
        return path in self._views

    def why_unknown(self, path: str) -> str:
        """Say that there is no view at a path, and which projects are called alike."""
        try:
            self._views.at(path)
        except UnknownProject as error:
            return f"there is no project of that name{error.suggestion}"
        except UnknownServer:
            pass
        return "there is no server of that name; see moltis status"

    def path_in(self, folder: str) -> str:
        """Return the path of the view for whoever works in a folder, an absolute path with its links resolved."""
        return self._views.of_folder(folder)

    def tool(self, path: str, name: str) -> bytes | None:
        """Return a tool as it is listed to the hosts of a view; None if it is not."""
        return self._endpoint(path).tool(name) if path in self._views else None

    def watched_of(self, principal: str) -> int:
        """How many resources the hosts of one principal subscribe to."""
        return sum(host.watched for host in self._hosts if host.principal.name == principal)

    # --- for the status

    def survey(self) -> None:
        """Look at what servers list, from now on, whether a host asks for it or not."""
        self._surveys = True
        for path in self._surveyed():
            self._endpoint(path)

    def _surveyed(self) -> set[str]:
        """Return the paths of views that show each server together with others."""
        if not self._surveys:
            return set()
        own = {project for name in self._names() if (project := split_name(name)[0]) is not None}
        return {ALL, *(path for project in own if (path := path_of(project=project)) in self._views)}

    def _names(self) -> list[str]:
        return [port.name for port in self.world.ports()]

    def unusable(self, server: str) -> list[UnusableItem]:
        """Return what a server lists that is not as MCP has it."""
        together = self._endpoints.get(path_of(project=split_name(server)[0]))
        return [] if together is None else together.unusable(server)

    def seen_of(self, server: str) -> list[HostSeen]:
        """Return the hosts that are connected and see a server, those that came first in front."""
        found = (host.seen() for host in self._who_see(server))
        return [host for host in found if host is not None][:MAX_SEEN]

    # --- for metrics

    @property
    def hosts(self) -> int:
        """How many hosts there are."""
        return len(self._hosts)

    @property
    def in_flight(self) -> int:
        """How many requests of hosts wait for their reply."""
        return sum(host.in_flight for host in self._hosts)

    # --- what the daemon tells

    def server_moved(self, name: str) -> None:
        """The server's state has changed."""
        if self._upstream(name) is None:
            self._forget(name)
        self._changed(name)

    def came_up(self, name: str) -> None:
        """The server is ready, by a new session: what hosts want of it is set anew."""
        self._forget(name)
        self._watch(name)
        self._level(name)
        self._missed(name, self.subscriptions.wanted(name))
        self._changed(name)

    def lists_changed(self, name: str) -> None:
        """What the server lists is new."""
        self._changed(name)

    def instance_over(self, name: str) -> None:
        """An instance is no more."""
        self._forget(name)
        self.instances.forget(name)

    def servers_changed(self) -> None:
        """Servers were added, removed or changed."""
        self.instances.look_again()
        self._look_again()
        for server in [*self._held]:
            self._hold(server)  # it may be another server of the same name
        for server in {*self._watched, *self._levelled}:
            if self._port(server) is None:
                self._forget(server)
        self._changed(None)

    def notified(self, name: str, method: str, params: bytes) -> None:
        """The server said something that is about no request (`Hooks.on_notification`)."""
        if len(params) > MAX_SAID_BYTES or name in self.instances.split:
            return  # what a server says that no host uses itself concerns none
        try:
            members = _MEMBERS.decode(params) if params else {}
        except msgspec.MsgspecError:
            return
        if method == UPDATED:
            for watcher, uri in self.subscriptions.updated(name, text_of(members, "uri") or ""):
                watcher.resource_updated(uri, members)
        elif method == "notifications/message":
            message, level = messages.notification(method, params), text_of(members, "level")
            unasked = UNASKED_LEVEL if self.levels.wanted(name) is not None else None
            for host in self._who_see(name):
                if passes(host.log_level or unasked, level):
                    host.say(message)
        else:
            # Whoever was asked to go to a URL hears of its end (MCP, Elicitation: others ignore ids they do not know);
            # what else there may be is for those who deal with this server alone.
            message, everyone = messages.notification(method, params), method == "notifications/elicitation/complete"
            for host in self._who_see(name):
                if everyone or host.endpoint.relays_all:
                    host.say(message)

    def reconfigure(self, settings: Settings) -> None:
        """Show itself differently from now on."""
        if (self._settings.separator, self._settings.name_chars) != (settings.separator, settings.name_chars):
            self._parts.clear()
        self._settings = settings
        self._look_again()
        self._changed(None)

    def close(self, reason: str) -> None:
        """Listens end with their result, waiting requests fail, and so does every later one. Idempotent."""
        if self.closing is not None:
            return
        self.closing = refusals.not_taken(reason)
        for host in [*self._hosts]:
            host.shut(refusals.shutting_down(reason))
        self.forwarding.close(reason)

    # --- what hosts tell

    def level_set(self, host: Host) -> None:
        """A host wants another level of logging."""
        if host.log_level is not None:
            self.levels.want(host, host.sees, host.log_level)
        for port in host.ports():
            self._level(port.name)

    def level_of_request(self, port: ServerPort, level: str) -> None:
        """One request to a server wants a level of logging: servers of MCP 2026-07-28 are told with the request."""
        upstream = port.upstream()
        if upstream is not None and upstream.agreed.era == "legacy" and self.levels.want_once(port.name, level):
            self._level(port.name)

    def left(self, host: Host) -> None:
        """A host is gone."""
        self._hosts.pop(host, None)
        if self.levels.leave(host):
            for port in host.ports():
                self._level(port.name)
        if host.key is host:
            self.instances.leave(host)

    # --- what is told to servers

    def _watch(self, name: str) -> None:
        """Have a server tell of what is wanted of it, if that is another than before."""
        self._hold(name)
        upstream = self._upstream(name)
        if upstream is None:
            return
        wanted = self.subscriptions.wanted(name)
        if wanted == self._watched.get(name, frozenset()):
            return
        if wanted:
            self._watched[name] = wanted
        else:
            del self._watched[name]
        upstream.watch_resources(wanted)

    def _hold(self, name: str) -> None:
        """Need a server for as long as hosts subscribe to what it tells."""
        port = self._port(name) if self.subscriptions.wants(name) else None
        before = self._held.get(name)
        if port is before:
            return
        if before is not None:
            before.release()
        if port is not None:
            self._held[name] = port
            port.hold()
        else:
            del self._held[name]

    def _missed(self, name: str, uris: frozenset[str]) -> None:
        """Tell of what is watched of a server that was not there before, once it tells of it: it may have changed."""
        if not uris:
            return

        def taken(refused: Refused) -> None:
            told = [uri for uri in sorted(uris) if (name, Wish("resource", uri)) not in refused]
            self.world.start(partial(self._may_have_changed, name, told))

        port = self.world.port(name)
        taking = Taking([(port, Wish("resource", uri)) for uri in uris], taken)
        self.world.start(taking.run)

    async def _may_have_changed(self, name: str, uris: list[str]) -> None:
        slices = Slices()
        for uri in uris:
            for watcher, shown in self.subscriptions.watchers(name, uri):
                watcher.resource_updated(shown, {})
            await slices.rest()

    def _level(self, name: str) -> None:
        upstream = self._upstream(name)
        if upstream is None:
            return
        wanted = self.levels.wanted(name)
        if wanted == self._levelled.get(name):
            return
        if wanted is not None:
            self._levelled[name] = wanted
        else:
            del self._levelled[name]
        upstream.want_log_level(wanted)

    def _forget(self, name: str) -> None:
        """Forget what a session was told: there is another one, or none."""
        self._watched.pop(name, None)
        self._levelled.pop(name, None)
        self.levels.restarted(name)

    def _upstream(self, name: str) -> Upstream | None:
        port = self._port(name)
        return None if port is None else port.upstream()

    def _port(self, name: str) -> ServerPort | None:
        try:
            return self.world.port(name)
        except UnknownServer:
            return None

    # --- what is told to hosts

    def _endpoint(self, path: str) -> Endpoint:
        view = self._views.at(path)
        found = self._endpoints.get(path)
        if found is None:
            found = self._endpoints[path] = endpoint_of(self.world, view, self._parts)
        return found

    def _look_again(self) -> None:
        """Find out what is seen at each path now. Hosts whose view is gone keep what they have."""
        names = self._names()
        self._views = Views(self._settings, names)
        for key in [key for key in self._parts if key[1] not in {*names, ""}]:
            del self._parts[key]
        used = self._used()
        for path in self._surveyed():
            self._endpoint(path)
        for path, endpoint in [*self._endpoints.items()]:
            if path in self._views:
                endpoint.show(self._views.at(path))
            elif path not in used:
                del self._endpoints[path]

    def _used(self) -> set[str]:
        """Return the paths of views that some host has."""
        return {host.endpoint.view.path for host in self._hosts}

    def _who_see(self, name: str) -> list[Host]:
        return [host for host in self._hosts if host.sees(name)]

    def _changed(self, name: str | None) -> None:
        """Look anew at what a server lists (None: all), and soon tell the hosts if it is another than before."""
        concerned = [each for each in self._endpoints.values() if name is None or each.sees(name)]
        for endpoint in concerned:
            endpoint.stale()
        if concerned and not self._announcing:
            self._announcing = True
            self.world.start(self._announce)

    async def _announce(self) -> None:
        try:
            await anyio.sleep(ANNOUNCE_AFTER_SECS)
        finally:
            self._announcing = False
        if self.closing is not None:
            return
        slices = Slices()
        heard, generations = self._used() | self._surveyed(), dict[str, int]()
        for path, endpoint in [*self._endpoints.items()]:
            if path in heard or endpoint.relays_all:
                heard.add(path)
                generations[path] = endpoint.generation
                await slices.rest()
            else:
                endpoint.is_unheard = True  # nobody is told: looked at when somebody comes
        if generations != self._generations:
            self._generations = generations
            self.subscriptions.relocate()
        for endpoint in [each for path, each in self._endpoints.items() if path in heard]:
            for kind in Kind:
                for _ in endpoint.preparation(kind, modern=True):
                    await slices.rest()
            methods = endpoint.news()
            for host in [host for host in self._hosts if methods and host.endpoint is endpoint]:
                for method in methods:
                    host.list_changed(method)
        self._warn()

    def _warn(self) -> None:
        """Log what hosts do not get as it is, once for each server and list of such items."""
        found = {port.name: self.unusable(port.name) for port in self.world.ports()}
        for server, items in found.items():
            if items and items != self._warned.get(server):
                names = [item.name for item in items[:3]]
                log.warning("unusable_items", server=server, count=len(items), names=names, reason=items[0].reason)
        self._warned = {server: items for server, items in found.items() if items}

    async def _locate(self) -> None:
        """Find out whose the resources are that hosts watch."""
        slices = Slices()
        while self.closing is None and self.subscriptions.turn():
            await slices.rest()
