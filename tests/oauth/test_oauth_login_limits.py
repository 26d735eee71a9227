"""What no server can make happen: browsers without end, or a credential where it does not belong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from login_world import ISSUER, SECRET, URL, AuthorizationServer, World, answer, played
from trio.testing import MockClock

from moltis.errors import LoginNeeded, ServerNotReady
from moltis.oauth.model import ClientConfig, OAuthProblem


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


async def test_a_fresh_token_that_is_refused_opens_no_other_browser(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.judge = lambda authorization: (401, "Bearer")  # type: ignore[method-assign]
        error = await world.needed(login)
        assert error.auth_url is None
        assert "just given" in error.message
        assert (login.state, login.auth_url) == ("failed", None)
        assert "mcp.example.com" in (login.message or "")
        for _ in range(5):
            await world.needed(login)
            await anyio.sleep(1)
        assert len(world.opened) == 1
        assert len(world.web.posts("/token")) == 1


@pytest.mark.parametrize("secs", [0.5, 2, 3.9])
async def test_a_token_that_is_valid_only_a_moment_later_is_tried_again_and_nobody_logs_in_anew(
    world: World, secs: float
) -> None:
    """The resource's clock is behind, or it learns of a token a moment after who issued it."""
    async with world.login() as login:
        await world.log_in(login)
        valid_from = anyio.current_time() + secs
        judge = world.judge
        world.judge = (  # type: ignore[method-assign]
            lambda authorization: judge(authorization) if anyio.current_time() >= valid_from else (401, "Bearer")
        )
        began = anyio.current_time()
        assert await world.call(login) == 200
        assert anyio.current_time() - began < 5
        assert login.state == "authenticated"
        assert await world.call(login) == 200
        assert (len(world.opened), len(world.web.posts("/token"))) == (1, 1)


async def test_a_renewed_token_that_is_valid_only_a_moment_later_is_no_refused_login(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(10)
        judge, valid_from = world.judge, [anyio.current_time()]

        def later(authorization: str | None) -> tuple[int, str]:
            old = authorization == first
            if not old and anyio.current_time() < valid_from[0] + 2:
                return 401, "Bearer"
            return (401, "Bearer") if old else judge(authorization)

        first = await login.authorization()
        world.judge = later  # type: ignore[method-assign]
        assert await world.call(login) == 200
        assert login.state == "authenticated"
        assert [post.form["grant_type"] for post in world.web.posts("/token")][1:] == ["refresh_token"]
        assert len(world.opened) == 1


async def test_a_fresh_token_that_worked_once_is_worth_one_refresh(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        world.judge = lambda authorization: (401, "Bearer")  # type: ignore[method-assign]
        for _ in range(5):
            assert (await world.needed(login)).auth_url is None
        assert [post.form["grant_type"] for post in world.web.posts("/token")][1:] == ["refresh_token"]
        assert len(world.opened) == 1


async def test_a_server_that_refuses_now_and_then_gets_one_refresh_in_five_seconds_and_no_browser(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        outcomes: list[str] = []
        for _ in range(60):
            try:
                outcomes.append(str(await world.call(login)))
            except ServerNotReady as error:
                world.told.append(error.message)
                outcomes.append("not ready" if error.next_retry_at is not None else "not ready, for ever")
            world.good.clear()
            await anyio.sleep(0.5)
        assert login.state == "authenticated"
        assert set(outcomes) == {"200", "not ready"}
        assert "200" in outcomes[-12:]
        assert len(world.web.posts("/token")) <= 30 / 5 + 2
        assert len(world.opened) == 1


async def test_a_server_that_takes_tokens_for_a_while_only_opens_five_browsers_an_hour(world: World) -> None:
    world.auth.with_refresh = False
    async with world.login() as login:
        for _ in range(20):
            error = await world.needed(login)
            if error.auth_url is not None:
                await world.visit(error.auth_url)
                await anyio.wait_all_tasks_blocked()
                assert await world.call(login) == 200
            await anyio.sleep(10)
            world.good.clear()
        assert len(world.opened) == 5
        assert "5 logins within an hour" in (login.message or "")
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(10)
        world.good.clear()
        assert (await world.needed(login)).auth_url is not None, "a person has taken it up"


async def test_another_authorization_server_gets_nothing_of_the_old_one(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        new = AuthorizationServer(world, "https://new.example.net")
        world.prm = {"resource": URL, "authorization_servers": [new.issuer]}
        world.good.clear()
        old_values = [value for value in world.made if not value.startswith("random")]
        before = len(world.web.to("auth.example.com"))
        error = await world.needed(login)
        assert (error.auth_url or "").startswith("https://new.example.net/authorize")
        await world.visit(error.auth_url or "", new)
        await anyio.wait_all_tasks_blocked()
        assert await world.call(login) == 200
        assert len(world.web.to("auth.example.com")) == before, "nor does the old one get anything"
        seen = repr([(sent.url, sent.headers, sent.body) for sent in world.web.to("new.example.net")]) + world.opened[1]
        assert not [value for value in old_values if value in seen]
    async with world.login() as login:
        assert await world.call(login) == 200


async def test_a_configured_client_is_not_taken_to_another_authorization_server(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET)
    async with world.login(config) as login:
        await world.log_in(login)
        await anyio.sleep(60)
        AuthorizationServer(world, "https://evil.example.net")
        world.prm = {"resource": URL, "authorization_servers": ["https://evil.example.net"]}
        world.good.clear()
        error = await world.needed(login)
        assert error.auth_url is None
        assert "belongs to auth.example.com" in error.message
        assert login.state == "failed"
        assert [sent.method for sent in world.web.to("evil.example.net")] == ["GET"]
        assert len(world.opened) == 1


async def test_more_scope_is_asked_for_beside_what_there_was(world: World) -> None:
    world.challenge = 'Bearer scope="read"'
    async with world.login() as login:
        error = await world.needed(login)
        await world.visit(error.auth_url or "")
        await anyio.wait_all_tasks_blocked()
        assert await world.call(login) == 200
        world.needs = "write"
        error = await world.needed(login)
        assert "scope=read%20write" in (error.auth_url or "")
        assert await login.authorization() is not None, "what there is stays in use"
        await world.visit(error.auth_url or "")
        await anyio.wait_all_tasks_blocked()
        assert await world.call(login) == 200
        assert world.authenticated == 2


async def test_the_same_scope_is_asked_for_three_times_and_then_no_more(world: World) -> None:
    world.challenge = 'Bearer scope="admin"'
    world.judge = lambda authorization: (  # type: ignore[method-assign]
        (401, world.challenge) if authorization is None else (403, 'Bearer error="insufficient_scope", scope="admin"')
    )
    async with world.login() as login:
        for _ in range(6):
            error = await world.needed(login)
            if error.auth_url is not None:
                await world.visit(error.auth_url)
                await anyio.wait_all_tasks_blocked()
        assert len(world.opened) == 3
        assert login.state == "failed"
        assert "same scope 3 times" in (login.message or "")


async def test_a_step_up_that_nobody_completes_leaves_the_rest_as_it_was(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.needs = "write"
        await world.needed(login)
        await anyio.sleep(700)
        assert (login.state, login.message) == ("authenticated", None)
        world.needs = ""
        assert await world.call(login) == 200


async def test_a_403_that_asks_for_no_scope_is_an_answer_like_any_other(world: World) -> None:
    world.judge = lambda authorization: (403, "")  # type: ignore[method-assign]
    async with world.login() as login:
        assert await world.call(login) == 403
    assert world.web.sent == []


async def test_a_fresh_token_of_our_own_that_is_refused_is_not_fetched_again(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET, grant="client_credentials")
    world.judge = lambda authorization: (401, "Bearer")  # type: ignore[method-assign]
    async with world.login(config) as login:
        await world.needed(login)
        assert login.state == "failed"
    assert len(world.web.posts("/token")) == 1


async def test_an_outage_of_discovery_is_retried_less_and_less_often(world: World) -> None:
    tries: list[float] = []

    def down(sent: Any) -> Any:
        tries.append(anyio.current_time())
        return answer(503, {})

    world.web.handlers["GET", f"{ISSUER}/.well-known/oauth-authorization-server"] = down
    async with world.login() as login:
        error = await world.needed(login)
        assert error.auth_url is None
        assert "cannot say now" in error.message
        assert login.state == "failed"
        await anyio.sleep(3600)
        gaps = [round(later - earlier) for earlier, later in itertools.pairwise(tries)]
        assert gaps[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
        assert world.opened == []
        world.web.handlers["GET", f"{ISSUER}/.well-known/oauth-authorization-server"] = lambda sent: answer(
            200, world.auth.metadata
        )
        await anyio.sleep(301)
        assert login.auth_url == world.opened[0]


async def test_a_person_need_not_wait_for_the_next_try(world: World) -> None:
    world.web.dead.add("auth.example.com")
    async with world.login() as login:
        await world.needed(login)
        with pytest.raises(OAuthProblem, match="cannot reach"):
            await login.begin()
        await anyio.sleep(1)
        world.web.dead.clear()
        began = anyio.current_time()
        assert await login.begin() == world.opened[0]
        assert anyio.current_time() - began < 1


async def test_what_is_refused_in_discovery_is_not_tried_again_until_a_person_wants_it(world: World) -> None:
    world.auth.metadata["code_challenge_methods_supported"] = ["plain"]
    async with world.login() as login:
        error = await world.needed(login)
        assert "S256" in error.message
        fetches = len(world.web.sent)
        await anyio.sleep(3600)
        await world.needed(login)
        assert len(world.web.sent) == fetches
        assert world.opened == []
        world.auth.metadata["code_challenge_methods_supported"] = ["S256"]
        assert await login.begin() is not None


async def test_a_registration_that_fails_is_repeated_at_most_three_times_a_minute(world: World) -> None:
    world.web.handlers["POST", f"{ISSUER}/register"] = lambda sent: answer(429, {})
    async with world.login() as login:
        await world.needed(login)
        await anyio.sleep(59)
        assert len(world.web.posts("/register")) <= 3


async def test_a_resource_that_names_another_authorization_server_each_time_opens_five_browsers_at_most(
    world: World,
) -> None:
    async with world.login() as login:
        for n in range(12):
            auth = AuthorizationServer(world, f"https://auth{n}.example.net")
            world.prm = {"resource": URL, "authorization_servers": [auth.issuer]}
            error = await world.needed(login)
            if error.auth_url is not None:
                await world.visit(error.auth_url, auth)
                await anyio.wait_all_tasks_blocked()
            world.good.clear()
        assert len(world.opened) == 5
        assert login.state == "failed"


def wanting(scope: str) -> Callable[[str | None], tuple[int, str]]:
    """Return a judge who refuses everybody for want of this scope."""
    return lambda authorization: (403, f'Bearer error="insufficient_scope", scope="{scope}"')


async def test_a_resource_that_wants_another_scope_each_time_gets_five_of_our_own_tokens_at_most(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET, grant="client_credentials")
    async with world.login(config) as login:
        assert await world.call(login) == 200
        for n in range(12):
            world.judge = wanting(f"s{n}")  # type: ignore[method-assign,assignment]
            for _ in range(3):
                try:
                    await world.call(login)
                except LoginNeeded:
                    break
        assert len(world.web.posts("/token")) <= 6


async def test_a_fresh_token_that_was_refused_opens_no_browser_when_it_is_old_either(world: World) -> None:
    world.auth.with_refresh = False
    async with world.login() as login:
        await world.log_in(login)
        world.good.clear()
        for _ in range(3):
            assert (await world.needed(login)).auth_url is None
            await anyio.sleep(100)
        assert "just given" in (login.message or "")
        assert len(world.opened) == 1


async def test_a_fresh_token_without_the_challenged_scope_is_not_fetched_again_where_scopes_are_configured(
    world: World,
) -> None:
    world.auth.with_refresh = False
    world.challenge = 'Bearer scope="b"'
    async with world.login(ClientConfig(scopes=("a",))) as login:
        await world.log_in(login)
        world.good.clear()
        assert (await world.needed(login)).auth_url is None
        assert len(world.opened) == 1


async def test_a_fresh_token_without_the_challenged_scope_is_replaced_by_one_that_has_it(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.good.clear()
        world.challenge = 'Bearer scope="b"'
        assert "scope=b" in ((await world.needed(login)).auth_url or "")


async def test_a_login_that_is_withdrawn_at_once_is_made_again(world: World) -> None:
    """Not the server alone says so: the authorization server does not renew it."""
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        world.good.clear()
        world.auth.refresh_tokens.clear()
        error = await world.needed(login)
        assert error.auth_url is not None
        await world.visit(error.auth_url)
        await anyio.wait_all_tasks_blocked()
        assert await world.call(login) == 200


async def test_logins_that_are_withdrawn_each_time_end_too(world: World) -> None:
    async with world.login() as login:
        for _ in range(10):
            error = await world.needed(login)
            if error.auth_url is not None:
                await world.visit(error.auth_url)
                await anyio.wait_all_tasks_blocked()
                assert await world.call(login) == 200
            world.good.clear()
            world.auth.refresh_tokens.clear()
        assert len(world.opened) == 5


async def test_a_token_of_a_second_is_renewed_as_often_as_it_is_refused(world: World) -> None:
    world.auth.expires_in = 1
    async with world.login() as login:
        await world.log_in(login)
        for _ in range(5):
            assert await world.call(login) == 200
            world.good.clear()
        assert login.state == "authenticated"
        assert len(world.opened) == 1
