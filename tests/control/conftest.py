"""Real sockets, on the loop that the daemon runs on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from control_fakes import FakeDaemon, Wire
from patience import PATIENCE

from moltis.control.conversation import Limits
from moltis.control.endpoint import Endpoint, take_data_dir
from moltis.control.listener import Listener, Timing
from moltis.control.methods import METHODS
from moltis.control.registry import Registry
from moltis.paths import Paths

Serve = Callable[..., AbstractAsyncContextManager[Listener]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "moltis.toml", tmp_path / "data", tmp_path / "data" / "run" / "moltis.sock")


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def serve(paths: Paths, daemon: FakeDaemon) -> Serve:
    """A context in which the control socket of `daemon` is served."""

    @asynccontextmanager
    async def served(
        *,
        max_connections: int = 256,
        limits: Limits | None = None,
        timing: Timing | None = None,
        registry: Registry = METHODS,
    ) -> AsyncIterator[Listener]:
        lock = take_data_dir(paths)
        listener = Listener(
            Endpoint(paths), lock, registry, daemon, max_connections=max_connections, limits=limits, timing=timing
        )
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(listener.run)
                with anyio.fail_after(PATIENCE):
                    yield listener
                tasks.cancel_scope.cancel()
        finally:
            lock.release()

    return served


@pytest.fixture
def dial(paths: Paths) -> Callable[[], AbstractAsyncContextManager[Wire]]:
    """A context with a new raw connection to the socket."""

    @asynccontextmanager
    async def dialled() -> AsyncIterator[Wire]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        with sock:
            sock.connect(str(paths.socket))
            yield Wire(sock)

    return dialled
