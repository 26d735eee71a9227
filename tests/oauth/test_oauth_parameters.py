"""Parameters that an authorization server does not take: what is left out, by whose word, and that it is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from broker_world import SECRET, URL, World, answer, played
from trio.testing import MockClock

from moltis.oauth.model import ClientConfig


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


def without_resource(code: str, *grants: str) -> Callable[[Mapping[str, str]], str | None]:
    """Refuse these grants where `resource` is said."""
    return lambda form: code if "resource" in form and form["grant_type"] in grants else None


def tokens_asked(world: World) -> list[tuple[str, bool]]:
    """Give the token requests: their grant, and whether they said `resource`."""
    return [(sent.form["grant_type"], "resource" in sent.form) for sent in world.web.posts("/token")]


async def renewals(world: World, config: ClientConfig | None = None, times: int = 3) -> None:
    """Log in, and have the token run out so often."""
    async with world.login(config) as login:
        await world.log_in(login)
        for _ in range(times):
            await anyio.sleep(4000)
            assert await world.call(login) == 200


@pytest.mark.parametrize(
    "code", ["invalid_target", "invalid_request", "invalid_resource", "unsupported_parameter", "unsupported_resource"]
)
async def test_a_refresh_that_is_refused_for_its_resource_is_asked_for_once_without_it(world: World, code: str) -> None:
    world.auth.objects = without_resource(code, "refresh_token")
    await renewals(world)
    assert tokens_asked(world) == [
        ("authorization_code", True),
        ("refresh_token", True),
        ("refresh_token", False),
        ("refresh_token", False),
        ("refresh_token", False),
    ]
    assert (len(world.opened), world.auth.reused) == (1, [])


async def test_it_is_remembered_over_a_restart(world: World) -> None:
    world.auth.objects = without_resource("invalid_target", "refresh_token")
    await renewals(world, times=1)
    async with world.login() as login:
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    assert tokens_asked(world)[-2:] == [("refresh_token", False), ("refresh_token", False)]


async def test_a_code_is_not_lost_with_a_parameter_either(world: World) -> None:
    world.auth.objects = without_resource("invalid_target", "authorization_code", "refresh_token")
    await renewals(world, times=1)
    assert tokens_asked(world) == [
        ("authorization_code", True),
        ("authorization_code", False),
        ("refresh_token", False),
    ]


async def test_a_token_of_our_own_is_asked_for_without_it_too(world: World) -> None:
    world.auth.objects = without_resource("invalid_target", "client_credentials")
    config = ClientConfig(client_id="machine", client_secret=SECRET, grant="client_credentials")
    async with world.login(config) as login:
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    assert tokens_asked(world) == [
        ("client_credentials", True),
        ("client_credentials", False),
        ("client_credentials", False),
    ]


@pytest.mark.parametrize("code", ["invalid_grant", "invalid_client", "unauthorized_client", "access_denied"])
async def test_what_is_said_of_the_grant_or_the_client_is_asked_once(world: World, code: str) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.objects = lambda form: code
        await world.needed(login)
    assert tokens_asked(world) == [("authorization_code", True), ("refresh_token", True)]


async def test_what_is_refused_without_it_too_is_over_after_two_requests(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.objects = lambda form: "invalid_request"
        await world.needed(login)
        await world.needed(login)
    assert tokens_asked(world)[1:] == [("refresh_token", True), ("refresh_token", False)]
    assert len(world.opened) == 2


async def test_an_outage_in_between_keeps_the_refresh_token(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.token_answers.extend([answer(400, {"error": "invalid_target"}), answer(503, b"")])
        with pytest.raises(Exception, match="cannot be renewed now"):
            await world.call(login)
        await anyio.sleep(10)
        assert await world.call(login) == 200
    assert len(world.opened) == 1


async def test_a_server_that_spends_the_token_before_it_refuses_costs_one_login(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)

        def spend(form: Mapping[str, str]) -> str | None:
            if "resource" not in form:
                return None
            world.auth.refresh_tokens.clear()
            return "invalid_target"

        world.auth.objects = spend
        await world.needed(login)
        assert len(world.opened) == 2
    record = world.store.find(URL, None)
    assert record is not None
    assert record.resource_refused is None, "nothing was given without it"
