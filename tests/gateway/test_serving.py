"""The gateway of a daemon without servers: opened, moved to other addresses, closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from patience import PATIENCE
from ports import free_port

from moltis.config.plan import GatewayPlan, Plan
from moltis.daemon import serving as serving_module
from moltis.daemon.serving import Serving
from moltis.daemon.watch import Watch
from moltis.errors import ConfigError
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
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            unknown: Any = None
            watch = Watch()
            serving = Serving(
                paths,
                plan,
                supervisor,
                tasks,
                status=unknown,
                statuses=list,
                changed=lambda: None,
                scrub=str,
                watch=watch,
            )
            await serving.start()
            yield serving
            watch.cancel()


async def reached(serving: Serving, port: int) -> None:
    while serving.url != f"http://127.0.0.1:{port}/mcp":  # noqa: ASYNC110 - what is waited for has no event
        await anyio.sleep(0.005)


@pytest.fixture
def ports() -> list[int]:
    """Three ports that were free a moment ago."""
    return [free_port() for _ in range(3)]


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
            serving.apply(replace(plan, gateway=msgspec.structs.replace(plan.gateway, listen=f"127.0.0.1:{port}")))
        await reached(serving, third)
        await anyio.sleep(0.05)
        assert serving.url == f"http://127.0.0.1:{third}/mcp"
        await serving.aclose()


async def test_no_other_address_is_opened_once_it_is_closed(tmp_path: Path, ports: list[int]) -> None:
    first, second, _ = ports
    plan = listening_at(first)
    async with opened(tmp_path, plan) as serving:
        await reached(serving, first)
        serving.apply(replace(plan, gateway=msgspec.structs.replace(plan.gateway, listen=f"127.0.0.1:{second}")))
        await serving.aclose()
        await anyio.sleep(0.05)
        assert serving.url is None


class Ended:
    """What was ended for a token that is over: its sessions and streams, and its parked calls."""

    def __init__(self, serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
        self.principals: list[str] = []
        self.parked: list[str] = []
        monkeypatch.setattr(serving._application, "end_principal", self.principals.append)
        monkeypatch.setattr(serving.gateway.forwarding, "give_up", self.parked.append)

    async def of(self, name: str) -> None:
        with anyio.fail_after(PATIENCE):
            while self.principals != [name]:  # noqa: ASYNC110 - what is waited for has no event
                await anyio.sleep(0.02)
        assert self.parked == [name]


@pytest.mark.parametrize("how", ["taken out", "removed", "made narrower", "expired"])
async def test_what_a_token_let_in_ends_within_a_second_of_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with opened(tmp_path, listening_at(0)) as serving:
        path = Paths(config=tmp_path, data_dir=tmp_path, socket=tmp_path).access_tokens
        serving.tokens.create("stays", "read")
        token = serving.tokens.create("a", "write", expires_days=0.5 / 86400 if how == "expired" else None).token
        ended = Ended(serving, monkeypatch)
        assert serving.tokens.verify(token)
        text = path.read_text()
        if how == "taken out":
            path.write_text(text[: text.index("[tokens.a]")])
        elif how == "made narrower":
            path.write_text(text.replace('scope = "write"', 'scope = "read"'))
        elif how == "removed":
            path.write_text(text[: text.index("[tokens.stays]")])
        if how == "removed":
            with anyio.fail_after(PATIENCE):
                while sorted(ended.principals) != ["a", "stays"]:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
        else:
            await ended.of("a")
        principal = serving.tokens.verify(token)
        assert principal is None or (how == "made narrower" and not principal.may_write)
        await serving.aclose()


async def test_listing_tokens_and_reloading_go_by_the_file_as_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path, listening_at(0)) as serving:
        token = serving.tokens.create("a", "read").token
        Paths(config=tmp_path, data_dir=tmp_path, socket=tmp_path).access_tokens.unlink()
        await serving.reread_tokens()
        assert (serving.tokens.verify(token), serving.tokens.tokens()) == (None, [])
        await serving.aclose()


async def test_a_file_that_cannot_be_read_changes_nothing_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(serving_module.log, "error", lambda event, **more: said.append(event))
    async with opened(tmp_path, listening_at(0)) as serving:
        token = serving.tokens.create("a", "read").token
        Paths(config=tmp_path, data_dir=tmp_path, socket=tmp_path).access_tokens.write_bytes(b"{")
        for _ in range(3):
            await serving.reread_tokens()
        assert serving.tokens.verify(token)
        assert said == ["tokens_not_read"]
        await serving.aclose()


async def test_what_a_revoked_token_let_in_ends_though_the_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, listening_at(0)) as serving:
        token = serving.tokens.create("a", "read").token
        Paths(config=tmp_path, data_dir=tmp_path, socket=tmp_path).access_tokens.write_bytes(b"{")
        ended = Ended(serving, monkeypatch)
        with pytest.raises(ConfigError, match="invalid from now on"):
            await serving.revoke_token("a")
        assert (serving.tokens.verify(token), ended.principals, ended.parked) == (None, ["a"], ["a"])
        await serving.aclose()
