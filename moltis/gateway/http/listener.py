"""The address of the endpoint: bound, or tried again until it can be.

Nothing else of the daemon waits for it. Hosts that connect are never refused while we are still getting ready to serve;
the socket listens before uvicorn is even imported, and they wait in its backlog.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import TaskStatus

from moltis import logs
from moltis.config.web import split_listen
from moltis.gateway.http.application import Application
from moltis.httpd.address import listening

if TYPE_CHECKING:
    from moltis.httpd.server import HttpServer


log = logs.get("moltis.gateway.http")

RETRY_SECS: Final = 5.0
MAX_CONNECTIONS: Final = 8192
"""However many descriptors there are: each costs memory too, and who reaches the address needs no token to connect."""
LAST_WORDS_SECS: Final = 0.5
"""For those who are cut off to be told so."""


class GatewayListener:
    """Serves an application at an address. `run` is its life; it may run once.

    listen: `HOST:PORT` or `[IPV6]:PORT`; port 0: any free one. sockets: that listen there already, if there are any.
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
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self._app = app
        self._listen = listen
        self._on_change = on_change
        self._max_connections = max_connections
        self._retry_secs = retry_secs
        self._url: str | None = None
        self._problem: str | None = None
        self._server: HttpServer | None = None
        self._sockets = list(sockets)
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
            bound = not self._closing.is_set() and self._bind()
            task_status.started()
            while not bound and not self._closing.is_set():
                with anyio.move_on_after(self._retry_secs):
                    await self._closing.wait()
                bound = not self._closing.is_set() and self._bind()
            if bound:
                self._serve()
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

    def _serve(self) -> None:
        from moltis.httpd.server import HttpServer

        if self._closing.is_set():
            return
        self._server = HttpServer(self._app, max_connections=self._max_connections, on_shortage=self._tell_of_shortage)
        self._server.listen(self._sockets)

    def _tell_of_shortage(self, error: OSError) -> None:
        connections = len(self._server.server_state.connections) if self._server is not None else 0
        log.warning("gateway_cannot_accept", reason=error.strerror, connections=connections)

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

    def _bind(self) -> bool:
        try:
            if not self._sockets:
                self._sockets = listening(self._listen)
        except (OSError, ValueError) as failure:
            self._say(None, _reason(failure, self._listen))
            return False
        self._say(url_of(self._listen, self._sockets[0].getsockname()[1]), None)
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


def url_of(listen: str, port: int) -> str:
    """Return the address of `/mcp`, with the port that was bound."""
    host = split_listen(listen)[0]
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
    return f"cannot listen at {listen!r}: it {failure}; see [gateway] listen"
