"""What reaches the disk whatever happens to whoever wanted it there."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from login_world import ISSUER, URL, World

from moltis.oauth.model import AuthServer, Key, Record, Tokens
from moltis.oauth.store import Shelf

KEY = Key(URL, ISSUER)
RECORD = Record(
    key=KEY,
    server=AuthServer(issuer=ISSUER, token_endpoint=f"{ISSUER}/token"),
    tokens=Tokens(access_token="a", obtained_at=0.0),
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_what_was_obtained_is_saved_by_a_task_that_is_being_cancelled(tmp_path: Path) -> None:
    world = World(tmp_path / "oauth")
    shelf = Shelf("notes", world.store, world)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await shelf.begin_refresh(KEY, "mark")
        assert world.store.interrupted(KEY) == "mark"
        await shelf.save(RECORD)
    assert world.store.load(KEY) == RECORD
    assert world.store.interrupted(KEY) is None


async def test_what_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "oauth").mkdir()
    (tmp_path / "oauth").chmod(0o777)
    world = World(tmp_path / "oauth")
    shelf = Shelf("notes", world.store, world)
    for _ in range(3):
        await shelf.save(RECORD)
    assert await shelf.load(KEY) is None
    assert [message for message, _ in world.logged] == ["login_not_saved"]
