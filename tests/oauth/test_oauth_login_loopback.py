"""A login through the listener that a browser really comes back to."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from login_world import World
from patience import PATIENCE

from moltis.oauth import loopback


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def get(url: str) -> tuple[int, bytes]:
    """Fetch a page as a browser does that comes back from a login."""
    parts = urlsplit(url)
    async with await anyio.connect_tcp("127.0.0.1", parts.port or 0) as stream:
        await stream.send(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        received = b""
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    received += await stream.receive()
                except anyio.EndOfStream:
                    break
    return int(received.split(b" ", 2)[1]), received


async def test_a_person_sees_how_the_login_ended_and_the_listener_is_gone(tmp_path: Path) -> None:
    world = World(tmp_path / "oauth")
    world.comes_back_to = loopback.listen
    async with world.login() as login:
        url = await login.begin()
        back = world.auth.authorize(url or "")
        status, page = await get(back.replace("state=", "state=x"))
        assert (status, login.state) == (400, "awaiting_browser")
        status, page = await get(back)
        assert (status, b"Logged in to notes" in page) == (200, True)
        with anyio.fail_after(PATIENCE):
            await world.done.wait()
        assert login.state == "authenticated"
        with pytest.raises(OSError):
            await get(back)
    assert world.leaks() == []


async def test_a_login_that_comes_to_nothing_says_so_too(tmp_path: Path) -> None:
    world = World(tmp_path / "oauth")
    world.comes_back_to = loopback.listen
    async with world.login() as login:
        url = await login.begin()
        back = world.auth.authorize(url or "")
        world.auth.codes.clear()
        status, _page = await get(back)
        assert status == 403


async def test_closing_closes_the_port(tmp_path: Path) -> None:
    world = World(tmp_path / "oauth")
    world.comes_back_to = loopback.listen
    async with world.login() as login:
        back = world.auth.authorize(await login.begin() or "")
    with pytest.raises(OSError):
        await get(back)
