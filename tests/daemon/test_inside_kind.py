"""A server may live in the daemon's own process: its kind is a row and a package, and it is supervised like any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import kind_of_echoes as kind
import pytest
from kind_of_echoes import LIST_CHANGED, Echoes

from moltis import logs
from moltis.cli.configured import read_servers
from moltis.config.kinds import KINDS
from moltis.config.load import load
from moltis.config.overrides import EnvOverrides
from moltis.daemon.world import Daemon
from moltis.doctor import Verdict, check_servers
from moltis.errors import UsageError
from moltis.operations.definitions import reauth
from moltis.operations.params import BeginLogin
from moltis.paths import Paths
from moltis.redaction import Scrubber
from moltis.server.states import State
from moltis.session.calls import ErrorReply, Reply, Result

pytestmark = pytest.mark.anyio

TEXT = '[gateway]\nenabled = false\n\n[mcp.servers.mine]\ntransport = "echoes"\nrestart_backoff_secs = 0.05\n'


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop of the daemon."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def of_that_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "echoes", kind.KIND)
    monkeypatch.setattr(Echoes, "made", [])


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "moltis.toml").write_text(TEXT)
    return Paths(config=tmp_path / "moltis.toml", data_dir=tmp_path, socket=tmp_path / "moltis.sock")


@asynccontextmanager
async def running(paths: Paths) -> AsyncIterator[Daemon]:
    scrubber = Scrubber(frozenset())
    sink = logs.configure(paths.log, "info", 1_000_000, 1, scrubber)
    paths.claim.parent.mkdir(parents=True, exist_ok=True)
    try:
        daemon = Daemon(paths, load(paths.config, {}, {}), EnvOverrides(paths.env_overrides), scrubber, sink)
        daemon.warden.start()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                await tasks.start(daemon.supervisor.run)
                daemon.start(tasks)
                await daemon.supervisor.actor("mine").wait_state(State.READY)
                yield daemon
                daemon.supervisor.shutdown()
                await daemon.supervisor.actor("mine").wait_state()
                tasks.cancel_scope.cancel()
        await daemon.warden.aclose()
    finally:
        logs.close()


async def called(daemon: Daemon, tool: str, arguments: bytes = b"{}") -> Reply:
    session = daemon.servers.one("mine").session()
    assert session is not None
    replies: list[Reply] = []
    arrived = anyio.Event()

    def take(reply: Reply) -> None:
        replies.append(reply)
        arrived.set()

    session.call_tool(tool, arguments, 5.0, take)
    await arrived.wait()
    return replies[0]


async def test_it_is_supervised_listed_and_called(paths: Paths) -> None:
    async with running(paths) as daemon:
        status = daemon.servers.one("mine").status()
        assert (status.transport, status.state, status.tool_count, status.pid) == ("echoes", "ready", 4, None)
        reply = await called(daemon, "echo", b'{"text":"out and back"}')
        assert isinstance(reply, Result)
        assert b"out and back" in bytes(reply.raw)


async def test_what_it_raises_or_leaves_unanswered_costs_one_call_and_shows_nothing(paths: Paths) -> None:
    async with running(paths) as daemon:
        for tool in ("fail", "mute"):
            reply = await called(daemon, tool)
            assert isinstance(reply, ErrorReply)
            assert b"-32603" in bytes(reply.raw)
            assert b"secret" not in bytes(reply.raw)
        assert daemon.servers.one("mine").status().state == State.READY


async def test_a_restart_makes_another_and_closes_the_first_with_what_was_under_way(paths: Paths) -> None:
    async with running(paths) as daemon:
        session = daemon.servers.one("mine").session()
        assert session is not None
        replies: list[Reply] = []
        session.call_tool("wait", b"{}", 20.0, replies.append)
        await anyio.sleep(0.05)
        await daemon.servers.one("mine").restart()
        while len(Echoes.made) < 2:  # noqa: ASYNC110 - what is waited for has no event
            await anyio.sleep(0.01)
        assert (Echoes.made[0].is_closed, Echoes.made[0].cancelled) == (True, 1)
        assert len(replies) == 1
        await daemon.supervisor.actor("mine").wait_state(State.READY)


async def test_what_it_says_of_its_own_accord_is_heard(paths: Paths) -> None:
    async with running(paths) as daemon:
        Echoes.made[0].tools.append("another")
        Echoes.made[0].tell(LIST_CHANGED)
        while daemon.servers.one("mine").status().tool_count != 5:  # noqa: ASYNC110 - what is waited for has no event
            await anyio.sleep(0.01)


async def test_whoever_asks_about_its_kind_is_told_by_its_row(paths: Paths) -> None:
    assert [(s.name, s.transport) for s in read_servers(paths.config).servers] == [("mine", "echoes")]
    found = list(check_servers(load(paths.config, {}, {}).plan, {}, None))
    assert [(f.verdict, f.message) for f in found] == [(Verdict.OK, "mine: is always there")]
    async with running(paths) as daemon:
        with pytest.raises(UsageError, match="is a part of moltis and needs no login"):
            await reauth(BeginLogin(name="mine"), daemon)
