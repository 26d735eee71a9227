"""An issuer that is spelled in two ways, and what is held of it: over refreshes, restarts and changes of spelling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from login_world import ISSUER, URL, Handler, World, answer, played
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

    def answering(status: int) -> Handler:
        return lambda sent: answer(status, b"")

    for _ in range(2):  # by what was there before, and from nothing
        for status in (502, 503):
            world.web.handlers["GET", path] = answering(status)
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


# --- an issuer that moltis.toml names


MINE = "https://cf.mcp.test"
"""What the metadata calls itself, wherever it lies."""


def published(world: World, at: str, **members: Any) -> None:
    """Have the metadata of the authorization server lie there, and nowhere else, as that of another issuer."""
    for method, url in list(world.web.handlers):
        if ".well-known/o" in url and "protected" not in url:
            del world.web.handlers[method, url]
    document = {**world.auth.metadata, "issuer": MINE, **members}
    world.web.handlers["GET", at] = lambda sent: answer(200, document)


PLACES = {
    "c": ([f"{ISSUER}/VCeDsk8Z"], f"{ISSUER}/.well-known/oauth-authorization-server/VCeDsk8Z"),
    "d": (None, "https://mcp.example.com/.well-known/oauth-authorization-server"),
    "e": (["https://mcp.example.com/ads"], "https://mcp.example.com/.well-known/oauth-authorization-server/ads"),
    "own": (["https://other.example.com"], f"{MINE}/.well-known/openid-configuration"),
    "unnamed": ([], f"{MINE}/.well-known/oauth-authorization-server"),
}


@pytest.mark.parametrize("place", PLACES)
async def test_the_issuer_that_the_owner_names_is_trusted_wherever_its_metadata_lies(world: World, place: str) -> None:
    named, at = PLACES[place]
    world.prm = {"resource": URL, "authorization_servers": named} if named is not None else None
    published(world, at)
    async with world.login() as login:
        with pytest.raises(OAuthProblem) as caught:
            await login.begin()
        if place in "cde":
            assert f'oauth.issuer = "{MINE}"' in caught.value.message
    config = ClientConfig(issuer=MINE)
    async with world.login(config) as login:
        url = await login.begin()
        assert (await world.visit(url or "", iss=ISSUER)).status == 400
        assert (await world.visit(url or "", iss=MINE)).status == 200
        await anyio.wait_all_tasks_blocked()
        assert await world.call(login) == 200
        for _ in range(3):
            world.good.clear()
            await anyio.sleep(20)
            assert await world.call(login) == 200
    async with world.login(config) as login:
        world.good.clear()
        assert await world.call(login) == 200
    assert len(world.opened) == 1
    assert len(world.web.posts("/register")) == 1


@pytest.mark.parametrize("wrong", [ISSUER, MINE + "/x", "https://cf.mcp.test.evil.example"])
async def test_it_is_that_one_and_no_other(world: World, wrong: str) -> None:
    published(world, f"{ISSUER}/.well-known/oauth-authorization-server", issuer=wrong)
    async with world.login(ClientConfig(issuer=MINE)) as login:
        with pytest.raises(OAuthProblem, match="another's"):
            await login.begin()
    assert world.web.posts() == []


async def test_pkce_and_safe_endpoints_are_wanted_of_it_too(world: World) -> None:
    for members in ({"code_challenge_methods_supported": ["plain"]}, {"token_endpoint": "http://127.0.0.1:1/token"}):
        published(world, f"{ISSUER}/.well-known/oauth-authorization-server", **members)
        async with world.login(ClientConfig(issuer=MINE)) as login:
            with pytest.raises(OAuthProblem):
                await login.begin()
    assert world.web.posts() == []


async def test_what_is_held_of_another_issuer_is_not_used_for_the_one_that_the_owner_names(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    published(world, f"{ISSUER}/.well-known/oauth-authorization-server")
    async with world.login(ClientConfig(issuer=MINE)) as login:
        assert (await world.needed(login)).auth_url is not None
    assert len(world.opened) == 2


# --- endpoints by hand, and a client that registers itself


def by_hand(**more: Any) -> ClientConfig:
    return ClientConfig(auth_url=f"{ISSUER}/authorize", token_url=f"{ISSUER}/token", **more)


@pytest.mark.parametrize(
    ("prm", "at", "issuer"),
    [
        (
            {"resource": URL, "authorization_servers": [f"{ISSUER}/x"]},
            f"{ISSUER}/.well-known/openid-configuration/x",
            None,
        ),
        (None, f"{ISSUER}/.well-known/oauth-authorization-server", None),
        (None, f"{MINE}/.well-known/oauth-authorization-server", MINE),
        ({"resource": "https://other.example.com/"}, f"{ISSUER}/.well-known/openid-configuration", None),
    ],
)
async def test_beside_endpoints_by_hand_a_client_is_registered_where_metadata_says(
    world: World, prm: Any, at: str, issuer: str | None
) -> None:
    world.prm = prm
    published(world, at, issuer="https://anything.example")
    async with world.login(by_hand(issuer=issuer)) as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    async with world.login(by_hand(issuer=issuer)) as login:
        assert await world.call(login) == 200
    assert len(world.web.posts("/register")) == 1
    assert len(world.opened) == 1


async def test_a_registration_of_other_endpoints_is_not_used(world: World) -> None:
    other = {"token_endpoint": "https://other.example/token", "registration_endpoint": "https://other.example/register"}
    published(world, f"{ISSUER}/.well-known/oauth-authorization-server", **other)
    async with world.login(by_hand()) as login:
        with pytest.raises(OAuthProblem, match="is not known: register one there by hand"):
            await login.begin()
    assert world.web.posts() == []


async def test_where_it_cannot_be_found_out_now_how_to_register_it_is_tried_again(world: World) -> None:
    at = f"{ISSUER}/.well-known/oauth-authorization-server"
    world.web.handlers["GET", at] = lambda sent: answer(503, b"")
    async with world.login(by_hand()) as login:
        with pytest.raises(OAuthProblem) as caught:
            await login.begin()
        assert caught.value.kind == "outage"
        published(world, at)
        await anyio.sleep(60)
        assert login.auth_url is not None


async def test_with_a_client_of_its_own_nothing_is_looked_up(world: World) -> None:
    async with world.login(by_hand(client_id="mine")) as login:
        await world.log_in(login)
    assert [sent.method for sent in world.web.sent] == ["POST"]
