"""Reaching a server that may not be ready, or saying why it cannot be reached and what mends that.

A call goes to a ready server at once and without a task; only one that is about to be ready is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio
from msgspec import UNSET, Raw, UnsetType

from moltis.errors import MoltisError, ServerError, UsageError
from moltis.names import did_you_mean
from moltis.operations.api import CallHandle, DaemonApi, ServerApi, SessionApi
from moltis.server import mending
from moltis.server.states import STARTING, TRAITS, State
from moltis.server.status import ServerStatus
from moltis.session.calls import ErrorReply
from moltis.session.envelope import read_error
from moltis.session.listing import Kind
from moltis.slices import Slices

Relayed = CallHandle | Coroutine[Any, Any, CallHandle]
"""A call that was sent, or one that will be when its server is ready."""


def relay(
    name: str, daemon: DaemonApi, send: Callable[[SessionApi], CallHandle], timeout_secs: float | None = None
) -> Relayed:
    """Send at once to a server that is ready; one that is starting is waited for, within the request's time.

    Raises:
        UnknownServer: there is none of that name.
        ServerNotReady, LoginNeeded: it cannot be called now.
    """
    server = daemon.servers.one(name)
    session = server.session()
    if session is not None:
        return send(session)
    if not server.wakes() and (status := server.status()).state not in STARTING:
        raise not_ready(status)

    async def send_when_ready() -> CallHandle:
        return send(await ready_session(server, timeout_secs))

    return send_when_ready()


async def ready_session(server: ServerApi, timeout_secs: float | None = None) -> SessionApi:
    """Return the session of a server, waiting while it starts, at most `timeout_secs` (None: its request timeout).

    One that is idle is started.

    Raises:
        ServerNotReady, LoginNeeded: it cannot be called now.
    """
    session = server.session()
    status = server.status()
    if session is None and (server.wakes() or status.state in STARTING):
        with server.held(), anyio.move_on_after(status.request_timeout_secs if timeout_secs is None else timeout_secs):
            await server.wait_settled()
        session = server.session()
    if session is None:
        raise not_ready(server.status())
    return session


async def listed(kind: Kind, name: str | None, daemon: DaemonApi) -> Raw:
    """Return a list of one server, as `ready_session` finds it, or of all that are ready, as a JSON array.

    Of those that are idle it is what is known of them: nobody needs them for it.
    """
    items: list[bytes] = []
    lists: list[Iterable[bytes]] = []
    if name is not None:
        server = daemon.servers.one(name)
        known = server.last_listed(kind)
        lists = [(await ready_session(server)).listed(kind, name) if known is None else known]
    else:
        for server in daemon.servers.all():
            session = server.session()
            known = server.last_listed(kind) if session is None else session.listed(kind, server.status().name)
            lists.append(known or ())
    slices = Slices()
    for listed in lists:
        for item in listed:
            items.append(item)
            await slices.rest()
    return Raw(b"[%b]" % b",".join(items))


def runnable(name: str, daemon: DaemonApi) -> ServerApi:
    """Return a server that may be started: neither disabled nor invalid.

    Raises:
        UnknownServer: there is none of that name.
        ServerNotReady: it is disabled or invalid.
    """
    server = daemon.servers.one(name)
    status = server.status()
    if status.state in (State.DISABLED, State.INVALID):
        raise not_ready(status)
    return server


def arguments_object(arguments: Raw | UnsetType) -> bytes | None:
    """Return arguments as they came; None for null or none.

    Raises:
        UsageError: they are not an object.
    """
    raw = b"null" if arguments is UNSET else bytes(arguments)
    if raw[:1] != b"{" and raw != b"null":
        raise UsageError("Invalid params: arguments: expected an object")
    return None if raw == b"null" else raw


def not_ready(status: ServerStatus) -> MoltisError:
    """Say why a server cannot be called now, when that changes, and what mends it."""
    advised_as = State.AWAITING_AUTH if mending.waits_for_login(status) else status.state
    if status.state == State.AWAITING_AUTH:
        return mending.unavailable(status, " ".join(mending.commands(status)[0].split()))
    return mending.unavailable(status, TRAITS[advised_as].advice.format(status.name))


def no_such_tool(server: str, tool: str, session: SessionApi) -> UsageError:
    """Say that a tool is not listed, and which ones are alike."""
    near = did_you_mean(tool[:80], (item.name for item in session.items(Kind.TOOLS)))
    return UsageError(
        f"server {server!r} offers no tool {tool[:80]!r}{near}", server=server, hint=f"moltis mcp tools {server}"
    )


def error_of_server(server: str, reply: ErrorReply) -> ServerError:
    """Return a server's own error, which goes on as the bytes it came as."""
    words = read_error(reply.raw).message or "an error without a message"
    return ServerError(
        f"server {server!r} answered with an error: {words}", server=server, error=Raw(reply.raw), hint=reply.hint
    )
