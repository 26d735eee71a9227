"""The address of the endpoint: bound, or tried again until it can be.

Nothing else of the daemon waits for it. The one rule: hosts that connect are never refused while we are still getting
ready to serve; the socket listens before uvicorn is even imported, and they wait in its backlog.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import TaskStatus

from moltis import logs
from moltis.gateway.http.application import Application

if TYPE_CHECKING:
    from moltis.gateway.http.server import GatewayServer

__all__ = ["GatewayListener"]

log = logs.get("moltis.gateway.http")

RETRY_SECS: Final = 5.0
MAX_CONNECTIONS: Final = 512
BACKLOG: Final = 2048
LAST_WORDS_SECS: Final = 0.5
"""For those who are cut off to be told so."""


class GatewayListener:
    """Serves an application at an address. `run` is its life; it may run once.

    listen: `HOST:PORT` or `[IPV6]:PORT`; port 0: any free one.
    on_change: called whenever `url` or `problem` has changed.
    max_connections: idle ones make room beyond it; when all are busy, a new one gets 503.
    """

    def __init__(
        self,
        app: Application,
        listen: str,
        *,
        on_change: Callable[[], None] = lambda: None,
        max_connections: int = MAX_CONNECTIONS,
        retry_secs: float = RETRY_SECS,
    ) -> None:
        self._app = app
        self._listen = listen
        self._on_change = on_change
        self._max_connections = max_connections
        self._retry_secs = retry_secs
        self._url: str | None = None
        self._problem: str | None = None
        self._server: GatewayServer | None = None
        self._sockets: list[socket.socket] = []
        self._closing = anyio.Event()
        self._over = anyio.Event()

    @property
    def url(self) -> str | None:
        """`http://HOST:PORT/mcp`, with the port that was bound; None while it is not."""
        return self._url

    @property
    def problem(self) -> str | None:
        """Why it does not listen, and what to do; None while it does."""
        return self._problem

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or closed; `started` is said after the first try to bind, whatever came of it."""
        try:
            bound = await self._bind()
            task_status.started()
            while not bound and not self._closing.is_set():
                with anyio.move_on_after(self._retry_secs):
                    await self._closing.wait()
                bound = not self._closing.is_set() and await self._bind()
            if bound:
                await self._serve()
            await self._over.wait()
        finally:
            self._cut_off()

    async def close(self, within_secs: float) -> None:
        """Accept no more, end streams, let replies that are due go out; what is left after that is cut off."""
        self._closing.set()
        server = self._server
        if server is not None:
            server.stop()
            self._app.end_streams()
            with anyio.move_on_after(within_secs):
                await server.drained()
            self._app.close()
            if server.server_state.connections:
                with anyio.move_on_after(LAST_WORDS_SECS):
                    await server.drained()
        self._cut_off()

    async def _serve(self) -> None:
        from moltis.gateway.http.server import GatewayServer

        if self._closing.is_set():
            return
        self._server = GatewayServer(self._app, max_connections=self._max_connections)
        await self._server.listen(self._sockets)

    def _cut_off(self) -> None:
        if self._over.is_set():
            return
        self._closing.set()
        self._over.set()
        if self._server is not None:
            self._server.stop()
            self._app.close()
            self._server.abort()
        for sock in self._sockets:
            sock.close()
        self._say(None, None)

    async def _bind(self) -> bool:
        try:
            host, port = split(self._listen)
            self._sockets = await _listening(host, port)
        except (OSError, UnicodeError, ValueError) as failure:
            self._say(None, _reason(failure, self._listen))
            return False
        self._say(_url(host, self._sockets[0].getsockname()[1]), None)
        return True

    def _say(self, url: str | None, problem: str | None) -> None:
        if (url, problem) == (self._url, self._problem):
            return
        self._url, self._problem = url, problem
        if problem is not None:
            log.error("gateway_not_listening", listen=self._listen, reason=problem)
        elif url is not None:
            log.info("gateway_listening", url=url)
        self._on_change()


def split(listen: str) -> tuple[str, int]:
    """Split `HOST:PORT`; an empty host is `127.0.0.1`.

    Raises:
        ValueError: it is neither `HOST:PORT` nor `[IPV6]:PORT`.
    """
    host, colon, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in bare and host == bare):
        raise ValueError("it is not HOST:PORT")
    return bare or "127.0.0.1", int(port)


async def _listening(host: str, port: int) -> list[socket.socket]:
    """Give listening sockets, one for each address of the host, all on one port.

    Raises:
        OSError: one of them cannot be had; then there is none.
    """
    addresses = await _addresses(host, port)
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]
            sock.listen(BACKLOG)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def _addresses(host: str, port: int) -> list[tuple[int, tuple[str | int, ...]]]:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return list(dict.fromkeys((family, address) for family, _kind, _protocol, _name, address in found))
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/mcp" if ":" in shown else f"http://{shown}:{port}/mcp"


def _reason(failure: Exception, listen: str) -> str:
    if isinstance(failure, OSError):
        if failure.errno == errno.EADDRINUSE:
            return f"{listen} is taken by another program; choose another [gateway] listen, or stop that program"
        if failure.errno == errno.EACCES:
            return f"{listen} may not be used by this user; choose a port above 1023 for [gateway] listen"
        what = failure.strerror or (os.strerror(failure.errno) if failure.errno else "there is no such host")
        return f"cannot listen at {listen}: {what}; see [gateway] listen"
    return f"cannot listen at {listen!r}: it is not HOST:PORT; see [gateway] listen"
