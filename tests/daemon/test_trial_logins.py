"""A try of a server has a login of its own, which ends with the try, and is waited for when the daemon ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from moltis.config.plan import DaemonPlan, RemoteLaunch, ServerPlan
from moltis.daemon.auth import Surroundings
from moltis.daemon.logins import Logins
from moltis.oauth.login import Login
from moltis.transport import OpenFailed

NOTES = ServerPlan("notes", "streamable-http", RemoteLaunch("http://127.0.0.1:9/mcp"))
WRONG = ServerPlan("wrong", "streamable-http", RemoteLaunch("https://127.0.0.1:9/mcp", ca_file="/nowhere/ca.pem"))


class Nobody:
    """Hears nothing of a connection."""

    def __call__(self, message: bytes, during: int | None = None, /) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Login]:
    """Collect the logins that are closed, each once it is."""
    found: list[Login] = []
    real = Login.close

    async def close(login: Login) -> None:
        await real(login)
        await anyio.sleep(0.05)  # as one does whose refresh is under way
        found.append(login)

    monkeypatch.setattr(Login, "close", close)
    return found


def logins_in(folder: Path, tasks: TaskGroup) -> Logins:
    at = Surroundings(
        SimpleNamespace(oauth_dir=folder / "oauth"),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]  # no browser is opened
        scrub=str,
        learn=lambda name, secrets: None,
        moved=lambda name, auth: None,
        done=lambda name, event: None,
    )
    return Logins(at, tasks, DaemonPlan, encrypted=False)


async def test_the_login_of_a_try_ends_with_it(tmp_path: Path, closed: list[Login]) -> None:
    async with anyio.create_task_group() as tasks:
        logins = logins_in(tmp_path, tasks)
        for _ in range(3):
            transport = logins.transport(NOTES, lambda count: None, trial=True)
            connection = await transport.open(Nobody(), Nobody())
            connection.kill()
            await connection.wait_closed()
        await anyio.sleep(0.5)
        assert len(closed) == 3
        await logins.aclose()
        assert len(closed) == 3


async def test_the_login_of_a_try_that_cannot_even_be_opened_ends_too(tmp_path: Path, closed: list[Login]) -> None:
    async with anyio.create_task_group() as tasks:
        logins = logins_in(tmp_path, tasks)
        with pytest.raises(OpenFailed):
            await logins.transport(WRONG, lambda count: None, trial=True).open(Nobody(), Nobody())
        await logins.aclose()
        assert len(closed) == 1


async def test_a_try_that_is_under_way_when_the_daemon_ends_has_its_login_waited_for(
    tmp_path: Path, closed: list[Login]
) -> None:
    async with anyio.create_task_group() as tasks:
        logins = logins_in(tmp_path, tasks)
        await logins.transport(NOTES, lambda count: None, trial=True).open(Nobody(), Nobody())
        await logins.aclose()
        assert len(closed) == 1
        tasks.cancel_scope.cancel()


async def test_a_try_of_a_server_that_is_connected_to_uses_its_login_and_leaves_it(
    tmp_path: Path, closed: list[Login]
) -> None:
    async with anyio.create_task_group() as tasks:
        logins = logins_in(tmp_path, tasks)
        logins.transport(NOTES, lambda count: None, trial=False)
        connection = await logins.transport(NOTES, lambda count: None, trial=True).open(Nobody(), Nobody())
        connection.kill()
        await connection.wait_closed()
        await anyio.sleep(0.2)
        assert closed == []
        await logins.aclose()
        assert len(closed) == 1
