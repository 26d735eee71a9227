"""An issuer that is spelled in two ways, and what is held of it: over refreshes, restarts and changes of spelling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from broker_world import ISSUER, URL, World, answer, played
from trio.testing import MockClock

from moltis.oauth.model import ClientConfig, OAuthProblem


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


def spelled(world: World, resource: str, metadata: str) -> None:
    """Have the resource and the authorization server spell the issuer like this."""
    world.prm = {"resource": URL, "authorization_servers": [resource]}
    world.auth.metadata["issuer"] = metadata


SPELLINGS = [(ISSUER + "/", ISSUER), (ISSUER, ISSUER + "/"), (ISSUER + "/", ISSUER + "/")]


async def test_an_issuer_is_not_left_for_what_lies_behind_an_address_that_fails(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(20)
    path = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"
    other = {"resource": URL, "authorization_servers": ["https://other.example.com"]}
    world.web.handlers["GET", path.removesuffix("/mcp")] = lambda sent: answer(200, other)
    for _ in range(2):  # by what was there before, and from nothing
        for status in (502, 503):
            world.web.handlers["GET", path] = lambda sent, status=status: answer(status, b"")
            async with world.login() as login:
                world.good.clear()
                assert await world.call(login) == 200
                await anyio.sleep(20)
                world.good.clear()
                assert await world.call(login) == 200
    assert len(world.opened) == 1
    assert world.web.to("other.example.com") == []


@pytest.mark.parametrize(("resource", "metadata"), SPELLINGS)
async def test_a_slash_more_or_less_costs_no_login_ever(world: World, resource: str, metadata: str) -> None:
    spelled(world, resource, metadata)
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        for _ in range(3):
            world.good.clear()
            await anyio.sleep(20)
            assert await world.call(login) == 200
    async with world.login() as login:
        world.good.clear()
        assert await world.call(login) == 200
    assert len(world.opened) == 1
    assert len(world.web.posts("/register")) == 1
    assert len([sent for sent in world.web.posts("/token") if sent.form["grant_type"] == "refresh_token"]) == 4
    assert world.auth.reused == []


async def test_a_resource_that_spells_it_differently_from_one_day_to_the_next_has_not_moved(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    for resource, metadata in SPELLINGS:
        spelled(world, resource, metadata)
        async with world.login() as login:
            world.good.clear()
            assert await world.call(login) == 200
            world.good.clear()
            await anyio.sleep(20)
            assert await world.call(login) == 200
    assert len(world.opened) == 1
    spelled(world, "https://other.example.com", ISSUER)
    async with world.login() as login:
        world.good.clear()
        with pytest.raises(OAuthProblem):
            await login.begin()


async def test_a_new_login_at_the_other_spelling_keeps_the_registration_and_its_file(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    spelled(world, ISSUER + "/", ISSUER)
    async with world.login(ClientConfig()) as login:
        await world.log_in(login)
    assert len(world.web.posts("/register")) == 1
    found = world.store.find(URL, None)
    assert found is not None
    assert found.key.issuer == ISSUER


async def test_a_configured_client_belongs_to_both_spellings_and_to_no_other_issuer(world: World) -> None:
    config = ClientConfig(client_id="by-hand")
    async with world.login(config) as login:
        await world.log_in(login)
    spelled(world, ISSUER + "/", ISSUER)
    async with world.login(config) as login:
        await world.log_in(login)


async def test_the_answer_must_come_from_the_issuer_as_it_spells_itself(world: World) -> None:
    spelled(world, ISSUER + "/", ISSUER)
    async with world.login() as login:
        url = await login.begin()
        assert url is not None
        assert parse_qs(urlsplit(url).query)["resource"] == [URL]
        assert (await world.visit(url, iss=ISSUER + "/")).status == 400
        assert (await world.visit(url, iss=ISSUER)).status == 200
