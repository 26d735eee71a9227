"""Parameters that an authorization server does not take: what is left out, by whose word, and that it is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from login_world import SECRET, URL, World, answer, played
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


def said(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def test_the_owner_leaves_resource_out_of_every_request(world: World) -> None:
    config = ClientConfig(resource="", client_id="byhand", scopes=("api://app/x", "offline_access"), prompt="")
    await renewals(world, config, times=2)
    assert all("resource" not in sent.form for sent in world.web.posts("/token"))
    assert [("resource" in said(url), "prompt" in said(url)) for url in world.opened] == [(False, False)]
    machine = ClientConfig(resource="", client_id="machine", client_secret=SECRET, grant="client_credentials")
    async with world.login(machine) as login:
        assert await world.call(login) == 200
    assert all("resource" not in sent.form for sent in world.web.posts("/token"))


async def test_the_owner_names_another_resource_and_the_tokens_stay_this_server_s(world: World) -> None:
    await renewals(world, ClientConfig(resource="api://app"), times=1)
    assert {sent.form["resource"] for sent in world.web.posts("/token")} == {"api://app"}
    assert said(world.opened[0])["resource"] == "api://app"
    found = world.store.find(URL, None)
    assert found is not None
    assert found.key.resource == URL


async def test_a_resource_that_was_refused_is_said_again_when_the_owner_writes_another(world: World) -> None:
    world.auth.objects = lambda form: "invalid_target" if form.get("resource") == URL else None
    await renewals(world, times=1)
    async with world.login(ClientConfig(resource="api://app")) as login:
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    assert world.web.posts("/token")[-1].form["resource"] == "api://app"


async def test_the_way_back_may_be_called_localhost(world: World) -> None:
    async with world.login(ClientConfig(redirect_host="localhost", callback_port=8765)) as login:
        await world.log_in(login)
        assert said(world.opened[0])["redirect_uri"] == "http://localhost:8765/callback"
        assert world.web.posts("/token")[0].form["redirect_uri"] == "http://localhost:8765/callback"
    async with world.login(ClientConfig(callback_port=8765)) as login:
        await world.log_in(login)
    assert len(world.web.posts("/register")) == 2, "another redirect URI is another registration"


async def refused_by_page(world: World, login: Any, **answer: str) -> str:
    """Begin a login whose page answers with an error; give what is said of it."""
    url = await login.begin()
    back = urlsplit(said(url)["redirect_uri"])
    query = "&".join(f"{name}={value}" for name, value in answer.items())
    page = await world.listening[back.port or 0](f"/callback?state={said(url)['state']}&{query}")
    assert page.status == 403
    await anyio.wait_all_tasks_blocked()
    assert login.state == "failed"
    return login.message or ""


async def test_a_scope_too_many_is_told_and_left_out_when_a_person_asks_again(world: World) -> None:
    world.prm = {**(world.prm or {}), "scopes_supported": ["a", "b", "admin"]}
    world.auth.metadata["scopes_supported"] = ["a", "b"]
    async with world.login() as login:
        message = await refused_by_page(world, login, error="invalid_scope")
        assert '(invalid_scope); asked for a b admin; it lists a b; set oauth.scopes = ["a", "b"]' in message
        await anyio.sleep(1000)
        assert len(world.opened) == 1, "no second browser by itself"
        await world.log_in(login)
        assert [said(url)["scope"] for url in world.opened] == ["a b admin", "a b"]


async def test_offline_access_that_is_refused_is_left_out_when_a_person_asks_again(world: World) -> None:
    world.prm = {**(world.prm or {}), "scopes_supported": ["a"]}
    world.auth.metadata["scopes_supported"] = ["a", "offline_access"]
    async with world.login() as login:
        await refused_by_page(world, login, error="invalid_scope")
        await world.log_in(login)
        assert [said(url)["scope"] for url in world.opened] == ["a offline_access", "a"]
        await login.begin()
        assert said(world.opened[-1])["scope"] == "a offline_access", "what was refused once is not refused for ever"


async def test_what_a_registration_does_not_include_is_not_asked_for(world: World) -> None:
    world.prm = {**(world.prm or {}), "scopes_supported": ["a", "b"]}
    world.auth.metadata["scopes_supported"] = ["a", "b", "offline_access"]
    world.auth.registers = {"scope": "a b"}
    async with world.login() as login:
        await world.log_in(login)
    async with world.login() as login:
        await world.log_in(login)
    assert [said(url)["scope"] for url in world.opened] == ["a b", "a b"]
    assert len(world.web.posts("/register")) == 1


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("invalid_target", f'moltis said resource {URL}; oauth.resource = "" leaves it out'),
        ("invalid_client", "the next login registers moltis anew"),
        ("invalid_request", "redirect_uri http://127.0.0.1:40001/callback (oauth.redirect_host)"),
    ],
)
async def test_what_a_page_refuses_is_told_with_the_key(world: World, code: str, told: str) -> None:
    async with world.login() as login:
        assert told in await refused_by_page(world, login, error=code)


async def test_what_the_token_endpoint_refuses_is_told_with_the_key_too(world: World) -> None:
    world.auth.objects = lambda form: "invalid_target"
    async with world.login(ClientConfig(client_id="ours")) as login:
        url = await login.begin()
        await world.visit(url or "")
        await anyio.wait_all_tasks_blocked()
        assert "oauth.resource" in (login.message or "")
