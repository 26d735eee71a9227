"""A 403 that is about a token which is over: it is refreshed before a person is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from login_world import World, played
from trio.testing import MockClock

from moltis.http.authorized import Refusal


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


def refreshes(world: World) -> int:
    return len([sent for sent in world.web.posts("/token") if sent.form["grant_type"] == "refresh_token"])


async def logged_in(world: World, login: Any) -> None:
    """Log in because a request was refused: with the scope of the challenge."""
    await world.visit((await world.needed(login)).auth_url or "")
    await world.done.wait()


def answers(world: World, challenge: str) -> None:
    """Have a token that is over answered 403, with this challenge."""
    judge = world.judge

    def forbids(authorization: str | None) -> tuple[int, str]:
        status, said = judge(authorization)
        return (403, challenge) if status == 401 and authorization is not None else (status, said)

    world.judge = forbids  # type: ignore[method-assign]


@pytest.mark.parametrize("after_secs", [0.0, 60.0])
@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer error="insufficient_scope", scope="mcp:read"',
        'Bearer error="insufficient_scope"',
        'Bearer error="invalid_token"',
        'Bearer error="invalid_token", scope="mcp:read"',
    ],
)
async def test_a_token_that_ends_early_is_refreshed_though_the_server_says_403(
    world: World, challenge: str, after_secs: float
) -> None:
    world.challenge = 'Bearer scope="mcp:read"'
    answers(world, challenge)
    async with world.login() as login:
        await logged_in(world, login)
        assert await world.call(login) == 200
        await anyio.sleep(after_secs)
        world.good.clear()
        assert await world.call(login) == 200
        assert (refreshes(world), len(world.opened)) == (1, 1)
        await anyio.sleep(60)
        world.good.clear()
        assert await world.call(login) == 200
        assert (refreshes(world), len(world.opened), login.state) == (2, 1, "authenticated")


async def test_what_is_refused_after_the_refresh_too_is_a_step_up(world: World) -> None:
    world.challenge = 'Bearer scope="mcp:read"'
    async with world.login() as login:
        await logged_in(world, login)
        assert await world.call(login) == 200
        await anyio.sleep(60)
        world.judge = lambda authorization: (  # type: ignore[method-assign]
            (403, 'Bearer error="insufficient_scope", scope="mcp:read"')
        )
        for _ in range(3):
            await world.needed(login)
        assert (refreshes(world), len(world.opened)) == (1, 2)


async def test_a_token_that_was_never_taken_is_not_refreshed(world: World) -> None:
    world.challenge = 'Bearer scope="mcp:read"'
    async with world.login() as login:
        await logged_in(world, login)
        world.judge = lambda authorization: (403, 'Bearer error="insufficient_scope", scope="mcp:read"')  # type: ignore[method-assign]
        await world.needed(login)
        assert (refreshes(world), len(world.opened)) == (0, 2)


async def test_scope_that_the_token_never_had_is_asked_of_a_person_at_once(world: World) -> None:
    world.challenge = 'Bearer scope="mcp:read"'
    async with world.login() as login:
        await logged_in(world, login)
        world.needs = "mcp:write"
        assert (await world.needed(login)).auth_url is not None
        assert refreshes(world) == 0


async def test_a_403_that_is_no_matter_of_tokens_costs_nothing(world: World) -> None:
    async with world.login() as login:
        await logged_in(world, login)
        assert await login.refused(Refusal(403, (), await login.authorization())) is False
        assert await login.refused(Refusal(403, ('Bearer error="invalid_token"',), None)) is False
        assert (refreshes(world), len(world.opened)) == (0, 1)
