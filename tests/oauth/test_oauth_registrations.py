"""A registration that its issuer has forgotten, and says so to the browser alone: how a login gets over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from login_world import ISSUER, SECRET, URL, World, answer, played
from trio.testing import MockClock

from moltis.errors import LoginNeeded
from moltis.oauth.model import ClientConfig, OAuthProblem


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


def clients(world: World) -> list[str]:
    """Give the clients that browsers were opened with, each once."""
    return list(dict.fromkeys(parse_qs(urlsplit(url).query)["client_id"][0] for url in world.opened))


def registered(world: World) -> int:
    return len(world.web.posts("/register"))


async def test_a_login_that_nobody_came_back_from_is_followed_by_one_with_another_registration(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.refresh_tokens.clear()
        await world.needed(login)
        await anyio.sleep(601)
        assert login.state == "failed"
        assert "the next one registers moltis anew" in (login.message or "")
        assert registered(world) == 1
        await world.log_in(login)
        assert (registered(world), len(clients(world))) == (2, 2)
        assert await world.call(login) == 200


async def test_it_is_so_after_a_restart_too(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    world.good.clear()
    world.auth.refresh_tokens.clear()
    async with world.login() as login:
        await world.needed(login)
        await anyio.sleep(601)
    async with world.login() as login:
        await world.log_in(login)
    assert len(clients(world)) == 2


async def test_a_registration_of_this_very_login_is_kept_for_the_next(world: World) -> None:
    async with world.login() as login:
        await world.needed(login)
        await anyio.sleep(601)
        assert "--new-client registers moltis anew" in (login.message or "")
        await world.needed(login)
        assert (registered(world), len(world.opened)) == (1, 2)


async def test_what_was_given_to_the_old_one_is_renewed_as_the_old_one(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await login.begin() is not None
        await anyio.sleep(601)
        assert login.state == "authenticated", "what is held is good"
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    async with world.login() as login:
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    renewed = [sent.form["client_id"] for sent in world.web.posts("/token") if "refresh_token" in sent.form]
    assert renewed == [clients(world)[0]] * 2


async def test_a_person_may_register_anew_at_any_time(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        first = await login.begin()
        assert first == await login.begin(), "who asks meanwhile shares it"
        second = await login.begin(new_client=True)
        assert second not in (None, first)
        assert len(world.listening) == 1
        await world.visit(second or "")
        await world.done.wait()
        assert await world.call(login) == 200
        assert (registered(world), len(clients(world))) == (2, 2)
        await world.log_in(login)
        assert registered(world) == 2, "the new one is kept"


async def test_fifty_who_want_a_new_registration_at_once_end_at_one_login(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(_begin_anew, login)
        assert login.auth_url == world.opened[-1]
        assert len(world.listening) == 1
        await world.visit(login.auth_url or "")
        await anyio.wait_all_tasks_blocked()
        assert login.state == "authenticated"


async def _begin_anew(login: Any) -> None:
    await login.begin(new_client=True)


async def test_a_new_registration_that_is_refused_leaves_what_is_held_alone(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.auth.metadata.pop("registration_endpoint")
        with pytest.raises(OAuthProblem, match="no program register itself"):
            await login.begin(new_client=True)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        assert await world.call(login) == 200


async def test_a_client_of_moltis_toml_cannot_be_registered_anew(world: World) -> None:
    async with world.login(ClientConfig(client_id="ours", client_secret=SECRET)) as login:
        await world.log_in(login)
        with pytest.raises(OAuthProblem, match=r"oauth\.client_id"):
            await login.begin(new_client=True)
        assert await world.call(login) == 200


async def test_what_was_said_to_the_page_is_told_when_nobody_came_back(world: World) -> None:
    world.challenge = 'Bearer scope="read offline_access"'
    async with world.login() as login:
        await world.needed(login)
        await anyio.sleep(601)
        message = login.message or ""
    for word in ("scope read offline_access (oauth.scopes)", f"resource {URL} (oauth.resource)"):
        assert word in message
    assert "prompt consent (oauth.prompt)" in message
    assert "redirect_uri http://127.0.0.1:40001/callback (oauth.redirect_host)" in message
    assert ISSUER not in message


# --- given back


MANAGED = f"{ISSUER}/register/c1"


def manages(world: World, uri: str = MANAGED) -> None:
    """Have registrations come with what ends them (RFC 7592)."""
    world.auth.registers = {"registration_client_uri": uri, "registration_access_token": world.make("registration")}
    world.web.handlers["DELETE", uri] = lambda sent: answer(204, b"")


async def test_a_logout_gives_the_tokens_back_and_keeps_the_registration(world: World) -> None:
    manages(world)
    async with world.login() as login:
        await world.log_in(login)
        await login.forget(client_too=False)
        assert [post.form["token_type_hint"] for post in world.web.posts("/revoke")] == [
            "refresh_token",
            "access_token",
        ]
    world.good.clear()
    async with world.login() as login:
        login.hold("logged out")
        with pytest.raises(LoginNeeded, match="logged out"):
            await world.call(login)
        assert (login.state, login.message, len(world.opened)) == ("failed", "logged out", 1)
        await world.log_in(login)
        assert await world.call(login) == 200
    assert (registered(world), len(clients(world))) == (1, 1)
    assert [sent.url for sent in world.web.sent if sent.method == "DELETE"] == []


async def test_a_logout_that_forgets_the_client_ends_the_registration_where_that_can_be(world: World) -> None:
    manages(world)
    async with world.login() as login:
        await world.log_in(login)
        token = world.auth.registers["registration_access_token"]
        assert token in world.scrubbed
        await login.forget()
    (ended,) = [sent for sent in world.web.sent if sent.method == "DELETE"]
    assert (ended.url, ended.headers["Authorization"]) == (MANAGED, f"Bearer {token}")
    assert world.store.find(URL, None) is None
    async with world.login() as login:
        await world.log_in(login)
    assert registered(world) == 2


@pytest.mark.parametrize("uri", ["https://evil.example/c1", "http://auth.example.com/register/c1", "register/c1", 5])
async def test_the_token_of_a_registration_goes_to_whoever_registered_and_to_nobody_else(
    world: World, uri: Any
) -> None:
    manages(world, uri)
    async with world.login() as login:
        await world.log_in(login)
        await login.forget()
    assert [sent.url for sent in world.web.sent if sent.method == "DELETE"] == []


async def test_a_logout_while_nobody_answers_forgets_all_the_same(world: World) -> None:
    manages(world)
    async with world.login() as login:
        await world.log_in(login)
        world.web.hanging.add("auth.example.com")
        began = anyio.current_time()
        await login.forget()
        assert anyio.current_time() - began < 10
    assert world.store.find(URL, None) is None
