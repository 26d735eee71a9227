"""The protocols between the parts of the gateway, and what it asks of the daemon.

Everything here is called on the event loop; what is not `async` answers at once and neither blocks nor raises, except
where it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from moltis.access import Access
from moltis.gateway.messages import Answer, Ask, Tell
from moltis.server.states import State
from moltis.server.status import ServerStatus
from moltis.session.calls import Caller, OnReply
from moltis.session.face import Face
from moltis.session.handshake import Agreed
from moltis.session.listing import Item, Kind
from moltis.session.wishes import Taken, Wish


class Principal(msgspec.Struct, frozen=True):
    """On whose behalf something is asked.

    name: of the access token, empty where none is needed. is_known: whether it is certain who that is.
    views: paths of the views (`views`) that it may use, and then of nothing else; None: whatever its rights are for.
    """

    name: str = ""
    may_write: bool = True
    is_known: bool = True
    views: frozenset[str] | None = None

    def may(self, access: Access, path: str) -> bool:
        """Whether it may use what is at a path of the endpoint and needs this. `path`: without a slash at its end."""
        if self.views is not None and path not in self.views and access is not Access.PUBLIC:
            return False
        match access:
            case Access.PUBLIC | Access.READ:
                return True
            case Access.CALL:
                return self.may_write
            case Access.ADMIN:
                return False


LOCAL = Principal()
"""A process of the daemon's own user, by the control socket."""

ANYONE = Principal(is_known=False)
"""Whoever reaches the endpoint, where no token is required."""


class CallHandle(Protocol):
    """A request on its way to a server."""

    def cancel(self, reason: str = ...) -> None:
        """Tell the server to give it up; its outcome is not delivered. Idempotent, harmless once it is answered."""


class Known(msgspec.Struct, frozen=True):
    """What a server said of itself and listed when it was last ready. Lists are unfiltered, items byte for byte."""

    agreed: Agreed
    tools: tuple[Item, ...] = ()
    resources: tuple[Item, ...] = ()
    templates: tuple[Item, ...] = ()
    prompts: tuple[Item, ...] = ()

    def of(self, kind: Kind) -> tuple[Item, ...]:
        """Return one of its lists."""
        lists = {Kind.TOOLS: self.tools, Kind.RESOURCES: self.resources, Kind.TEMPLATES: self.templates}
        return lists.get(kind, self.prompts)


class Taker(Protocol):
    """Who takes requests of hosts for a ready server."""

    @property
    def agreed(self) -> Agreed: ...

    def forward(
        self,
        method: str,
        params: dict[str, Raw],
        meta: dict[str, Raw],
        on_reply: OnReply,
        *,
        caller: Caller,
        name: str | None = None,
        tool: str | None = None,
    ) -> CallHandle:
        """Pass a request on. `on_reply` gets the outcome, once, unless it is cancelled.

        params: without `_meta`. Sent byte for byte.
        meta: the host's own; for a server of MCP 2026-07-28 it must hold CLIENT_INFO and CAPABILITIES. The progress
            token is replaced by the session's; members that the server's era does not have are left out.
        name: what it is about (`params.name` or `params.uri`), where there is such a thing.
        tool: the tool's own name, for `tools/call`.

        Raises:
            ServerNotReady: nothing was sent.
            UsageError: the tool is filtered out.
        """

    def tell(self, method: str, params: bytes) -> None:
        """Pass a notification on. `params`: a JSON object, or nothing."""

    def default_answer(self, method: str, params: bytes) -> bytes | None:
        """Answer a question of the server for a host that cannot, if `elicitation = "defaults"` says so."""


class Upstream(Taker, Protocol):
    """A ready server, as `moltis.session.session.Session` is one."""

    def taker(self, *, modern: bool, tool: str | None = None) -> Taker | None:
        """Return who takes the requests of a host of this era; None while that is being opened (`wait_taker`).

        tool: of `tools/call`; one that cannot ask its host in one era is called in the other.
        """

    async def wait_taker(self) -> None:
        """Wait until `taker` may say something else; bounded by what may be waited for."""

    def present_taker(self, *, modern: bool) -> Taker:
        """Return who takes what a host of this era tells; nothing is opened for that."""

    def items(self, kind: Kind) -> tuple[Item, ...]:
        """Return what is listed, less the tools that are filtered out."""

    def listed_all(self, kind: Kind) -> tuple[Item, ...]:
        """Return what is listed, with the tools that are filtered out."""

    def watch_resources(self, uris: frozenset[str]) -> None:
        """Have the server tell of updates of exactly these resources; what it tells goes to `World`'s listener."""

    def want_log_level(self, level: str | None) -> None:
        """Have the server log from this level on (legacy servers that log; others are told with each request)."""

    def taken(self, wish: Wish) -> Taken:
        """Say whether the server has acknowledged what was last wanted of it, or give its own error if it refused."""

    async def wait_taken(self) -> None:
        """Wait until `taken` may say something else."""


class ServerPort(Protocol):
    """One supervised server, whatever its state."""

    @property
    def name(self) -> str: ...

    def upstream(self) -> Upstream | None:
        """Return what requests may be sent to; None unless it is `ready`."""

    def state(self) -> State:
        """Return its state."""

    def status(self) -> ServerStatus:
        """Show it as anyone outside may see it."""

    def known(self) -> Known | None:
        """Return what is known of it: of the present session if it is ready, else of the last one."""

    def allows(self, tool: str) -> bool:
        """Whether `include_tools` and `exclude_tools` let a tool be listed and called."""

    def wakes(self) -> bool:
        """Whether it does not run and will once somebody needs it, as whoever holds it does."""

    def hold(self) -> None:
        """Need it from now on, until `release`: one that is idle starts, and none becomes idle meanwhile."""

    def release(self) -> None:
        """Need it no more, once for each `hold`."""

    async def wait_settled(self) -> None:
        """Wait while it is on its way to another state, for better or worse. The caller bounds the wait."""

    async def wait_up(self) -> None:
        """Wait while it is `starting`, `initializing` or in `backoff`. The caller bounds the wait."""

    def start_secs(self) -> float:
        """Return its `startup_timeout_secs`."""


class World(Protocol):
    """What the gateway asks of the daemon."""

    def ports(self) -> Sequence[ServerPort]:
        """Return all servers, in the order of moltis.toml."""

    def port(self, name: str) -> ServerPort:
        """Give one server.

        Raises:
            UnknownServer: there is none of that name.
        """

    def split(self) -> frozenset[str]:
        """Give the names of the servers that serve each host by an instance of its own."""

    def begin_instance(self, server: str, face: Face) -> ServerPort:
        """Make an instance of a server, for one host; it is idle to begin with.

        Raises:
            UnknownServer: there is none of that name.
            Busy: there are as many of it as may be.
        """

    def outlives(self, name: str) -> bool:
        """Whether an instance goes on until it is idle when its host is gone; one that never is, or rests, does not."""

    def end_instance(self, name: str) -> None:
        """Stop an instance for good."""

    def change_face(self, name: str, face: Face) -> None:
        """Have an instance see its host so from now on; of what it was told at its start, from the next on."""

    def start(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine function in a task of its own, as long as the daemon lives."""


class Outlet(Protocol):
    """The way back to the host for one request of it. Each message is one line, without its newline."""

    def tell(self, message: bytes) -> bool:
        """Send a notification, or a request of ours, ahead of the reply. False: it cannot be sent."""

    def can_ask(self) -> bool:
        """Whether a request of ours can be sent ahead of the reply."""

    def reply(self, message: bytes, status: int = 200) -> None:
        """Send the reply; once. `status`: of HTTP, where it is not on its way as a stream already."""


class HostApi(Protocol):
    """One host, as a front sees it. A host of MCP 2026-07-28 over HTTP lives as long as its request."""

    def request(self, ask: Ask, outlet: Outlet) -> None:
        """Take a request; its reply goes to `outlet`, now or later, unless it is dropped before."""

    def notification(self, tell: Tell) -> None: ...

    def answer(self, answer: Answer) -> None:
        """Take the answer to a question that was put to the host; one that nobody waits for is ignored."""

    def drop(self, id: bytes, reason: str) -> None:
        """Give up a request that waits: the server is told, and no reply follows."""

    def attached(self) -> None:
        """There is a way again for what belongs to no request: what was kept is sent now."""

    def list_changed(self, method: str) -> None:
        """Hear that a list is new. `method`: of the notification."""

    def resource_updated(self, uri: str, params: dict[str, Raw]) -> None:
        """Hear that a resource was updated that it subscribed to; `params`: of the notification, less the URI."""

    def close(self) -> None:
        """It is gone: what it waits for is given up, what it was asked is refused. Idempotent."""


class GatewayApi(Protocol):
    """What the fronts ask for."""

    def new_host(
        self, path: str, principal: Principal, unsolicited: Callable[[bytes], bool], *, lasts: bool = True
    ) -> HostApi:
        """Make a host of the view at a path (`views`).

        lasts: False where it is there for one request: the others of its principal are the same host.
        unsolicited: sends a message that belongs to no request (MCP, Streamable HTTP: the GET stream); False if there
            is no way now.

        Raises:
            UnknownServer: there is none.
        """

    @property
    def is_closed(self) -> bool:
        """Whether it takes no requests any more, and never will."""

    def knows(self, path: str) -> bool:
        """Whether there is a view at a path."""

    def why_unknown(self, path: str) -> str:
        """Say that there is no view at a path, and which projects are called alike."""

    def path_in(self, folder: str) -> str:
        """Return the path of the view for whoever works in a folder, an absolute path with its links resolved."""

    def tool(self, path: str, name: str) -> bytes | None:
        """Return a tool as it is listed to the hosts of a view; None if it is not."""
