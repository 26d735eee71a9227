"""The methods of the control socket: every operation of the daemon, and four that are about the connection itself."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Raw, Struct

from moltis.access import Access
from moltis.control import registry
from moltis.control.registry import Caller, Registry
from moltis.errors import Busy, MoltisError, UsageError
from moltis.gateway.lines import LineHost
from moltis.gateway.views import ALL, path_of
from moltis.operations.api import DaemonApi
from moltis.operations.definitions import OPERATIONS
from moltis.operations.events import MAX_SUBSCRIPTIONS
from moltis.operations.params import Nothing, Ok, Params

METHODS: Final = Registry(OPERATIONS)
"""All of them; complete once this module is imported, and never changed after that."""


class Connect(Params, frozen=True):
    """What an MCP host is to see."""

    server: Annotated[str | None, Meta(description="one server as it is; all of them when left out")] = None
    project: Annotated[str | None, Meta(description="what a project gets")] = None
    folder: Annotated[
        str | None, Meta(description="what the project gets that this folder is in, all servers if in none")
    ] = None


class Subscribe(Params, frozen=True):
    """Which events."""

    events: Annotated[
        list[str] | None, Meta(description="types: state, auth, lists, servers, log; all but log when left out")
    ] = None


class Unsubscribe(Params, frozen=True):
    """A subscription of this connection."""

    subscription_id: Annotated[str, Meta(description="as mcp.subscribe gave it")]


class Subscribed(Struct, frozen=True):
    """What its notifications are told apart by."""

    subscription_id: str


@METHODS.method(
    "mcp.connect",
    Access.CALL,
    exposes="`ok`, and from then on MCP: this connection is a host's, as over stdio",
    before="logs.tail",
)
def connect(params: Connect, daemon: DaemonApi, caller: Caller) -> Ok:
    """Make this connection an MCP host's, of all servers, a project's or one; what follows the answer is MCP."""
    gateway = daemon.hosts.gateway()
    if gateway is None:
        raise MoltisError("this daemon runs without its gateway", hint="[gateway] enabled = true in moltis.toml")
    if gateway.is_closed:
        raise Busy("the daemon is stopping", hint="try again in a moment")
    path = path_of(params.server, params.project)
    if path == ALL and params.folder is not None:
        path = gateway.path_in(params.folder)
    caller.hand_over(lambda conn: LineHost(conn, gateway, path))
    return Ok()


@METHODS.method(
    "mcp.subscribe",
    Access.ADMIN,
    exposes="`subscription_id`, then notifications `mcp.event`; the first is a snapshot",
)
def subscribe(params: Subscribe, daemon: DaemonApi, caller: Caller) -> Subscribed:
    """Have events sent to this connection as notifications, first of all a snapshot of all servers."""
    if len(caller.subscriptions) >= MAX_SUBSCRIPTIONS:
        raise UsageError(f"this connection has {MAX_SUBSCRIPTIONS} subscriptions already", hint="mcp.unsubscribe")
    subscription = daemon.events.subscribe(params.events, caller.sink)
    caller.subscriptions[subscription.id] = subscription
    caller.after_reply(lambda: subscription.open(lambda: [server.status() for server in daemon.servers.all()]))
    return Subscribed(subscription_id=subscription.id)


@METHODS.method("mcp.unsubscribe", Access.ADMIN)
def unsubscribe(params: Unsubscribe, daemon: DaemonApi, caller: Caller) -> Ok:
    """End a subscription of this connection."""
    subscription = caller.subscriptions.pop(params.subscription_id, None)
    if subscription is None:
        raise UsageError(f"this connection has no subscription {params.subscription_id[:80]!r}")
    subscription.close()
    return Ok()


@METHODS.method("rpc.discover", Access.READ, exposes="an OpenRPC document")
def discover(params: Nothing, daemon: DaemonApi, caller: Caller) -> Raw:
    """Describe all methods, as an OpenRPC document."""
    return registry.document(METHODS)
