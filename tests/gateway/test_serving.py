"""The gateway of a daemon without servers: opened, moved to other addresses, closed."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from moltis.config.plan import GatewayPlan, Plan
from moltis.daemon.serving import Serving
from moltis.paths import Paths
from moltis.server.supervisor import Supervisor
from moltis.session.session import Session

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop of the daemon."""
    return "asyncio", {"use_uvloop": True}


def listening_at(port: int) -> Plan:
    return Plan(gateway=GatewayPlan(listen=f"127.0.0.1:{port}"))


@asynccontextmanager
async def opened(folder: Path, plan: Plan) -> AsyncIterator[Serving]:
    """Open a gateway. That the context is left means that nothing of it runs any more."""
    paths = Paths(config=folder / "moltis.toml", data_dir=folder, socket=folder / "moltis.sock")
    nothing_begins: Any = None
    supervisor: Supervisor[Session] = Supervisor(
        nothing_begins,
        max_concurrent_starts=1,
        wall=partial(datetime.now, UTC),
        roll=lambda: 0.5,
        on_transition=lambda name, entry: None,
    )
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            unknown: Any = None
            serving = Serving(
                paths, plan, supervisor, tasks, status=unknown, statuses=list, changed=lambda: None, scrub=str
            )
            await serving.start()
            yield serving


async def reached(serving: Serving, port: int) -> None:
    while serving.url != f"http://127.0.0.1:{port}/mcp":  # noqa: ASYNC110 - what is waited for has no event
        await anyio.sleep(0.005)


@pytest.fixture
def ports() -> list[int]:
    """Three ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return found


async def test_what_is_closed_leaves_nothing_running(tmp_path: Path) -> None:
    async with opened(tmp_path, listening_at(0)) as serving:
        await serving.aclose()
        assert serving.gateway.is_closed


async def test_of_two_addresses_in_quick_succession_the_last_is_listened_at(tmp_path: Path, ports: list[int]) -> None:
    first, second, third = ports
    plan = listening_at(first)
    async with opened(tmp_path, plan) as serving:
        await reached(serving, first)
        for port in (second, third):
            serving.apply(replace(plan, gateway=replace(plan.gateway, listen=f"127.0.0.1:{port}")))
        await reached(serving, third)
        await anyio.sleep(0.05)
        assert serving.url == f"http://127.0.0.1:{third}/mcp"
        await serving.aclose()


async def test_no_other_address_is_opened_once_it_is_closed(tmp_path: Path, ports: list[int]) -> None:
    first, second, _ = ports
    plan = listening_at(first)
    async with opened(tmp_path, plan) as serving:
        await reached(serving, first)
        serving.apply(replace(plan, gateway=replace(plan.gateway, listen=f"127.0.0.1:{second}")))
        await serving.aclose()
        await anyio.sleep(0.05)
        assert serving.url is None
