"""The real server on a loopback port, with a stub of everything behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from gateway_http_fakes import Client, StubGateway, authenticate
from patience import PATIENCE

from moltis.gateway.doors import Doors
from moltis.gateway.http.application import Application, HttpSettings
from moltis.gateway.http.conversations import Conversations
from moltis.gateway.http.listener import GatewayListener
from moltis.gateway.http.reading import Inbound
from moltis.httpd.router import Route

Serve = Callable[..., AbstractAsyncContextManager["Served"]]


class Served:
    def __init__(self, app: Application, listener: GatewayListener, port: int, stack: AsyncExitStack) -> None:
        self.app = app
        self.listener = listener
        self.port = port
        self._stack = stack

    async def dial(self) -> Client:
        stream = await self._stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", self.port))
        return Client(stream, self.port)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop of the daemon."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def gateway() -> StubGateway:
    return StubGateway()


@pytest.fixture
def serve(gateway: StubGateway) -> Serve:
    """A context in which `gateway` is served; keywords are those of `HttpSettings` and of the listener."""

    @asynccontextmanager
    async def served(
        *,
        max_connections: int = 512,
        conversations: Conversations | None = None,
        metrics: Callable[[], Callable[[], bytes]] | None = None,
        ready: bool = True,
        routes: Sequence[Route[Inbound]] = (),
        **settings: Any,
    ) -> AsyncIterator[Served]:
        given = HttpSettings(**settings)
        doors = Doors(given.allowed_origins, given.listen_host, given.allowed_hosts)
        app = Application(
            gateway, doors, authenticate, given, lambda: ready, metrics, conversations=conversations, routes=routes
        )
        listener = GatewayListener(app, "127.0.0.1:0", max_connections=max_connections)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
                await tasks.start(listener.run)
                assert listener.url is not None
                port = int(listener.url.split(":")[2].split("/")[0])
                yield Served(app, listener, port, stack)
                tasks.cancel_scope.cancel()

    return served


@pytest.fixture
async def served(serve: Serve) -> AsyncIterator[Served]:
    async with serve() as running:
        yield running
