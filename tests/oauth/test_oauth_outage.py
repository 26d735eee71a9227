"""An authorization server that is away, or refuses without a reason: nobody is logged out, and it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from login_world import SECRET, World, answer, played
from trio.testing import MockClock

from moltis.errors import LoginNeeded, NotSent
from moltis.http.fetch import Answer, FetchProblem
from moltis.oauth.decisions import (
    DOUBTED_AFTER_SECS,
    DOUBTED_SECS,
    DOUBTED_TIMES,
    RENEWAL_MAX_SECS,
    Unclear,
    renewal_delay_secs,
)
from moltis.oauth.login import Login
from moltis.oauth.model import ClientConfig, OAuthProblem

Trouble = Callable[[World], None]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


def always(world: World, made: Callable[[], Answer | FetchProblem]) -> None:
    """Have the token endpoint answer everything so, until `mend`."""

    async def token(sent: Any) -> Answer:
        found = made()
        if isinstance(found, FetchProblem):
            raise found
        return found

    world.web.handlers["POST", f"{world.auth.issuer}/token"] = token


def mend(world: World) -> None:
    world.web.handlers["POST", f"{world.auth.issuer}/token"] = world.auth.token


OUTAGES: dict[str, Callable[[], Answer | FetchProblem]] = {
    "connection refused": lambda: FetchProblem("cannot reach auth.example.com: connection refused"),
    "timeout": lambda: FetchProblem("gave no answer within 10 s"),
    "a captive portal that redirects": lambda: FetchProblem("redirects", kind="refused", status=302),
    "a captive portal": lambda: answer(200, b"<html>hotel</html>"),
    "503": lambda: answer(503, b""),
    "503 with Retry-After": lambda: answer(503, b"", retry_after="5"),
    "429": lambda: answer(429, {}),
}


@pytest.mark.parametrize(
    ("outage", "minutes", "grant"),
    [
        *((outage, 1, "authorization_code") for outage in OUTAGES),
        *((outage, 5, "client_credentials") for outage in OUTAGES),
        ("connection refused", 60, "authorization_code"),
        ("503", 60, "client_credentials"),
    ],
)
async def test_after_an_outage_the_login_is_renewed_by_itself_within_seconds(
    world: World, outage: str, minutes: int, grant: Any
) -> None:
    config = ClientConfig(grant=grant, client_id="ours", client_secret=SECRET) if grant[0] == "c" else None
    world.auth.expires_in = 12
    async with world.login(config) as login:
        if config is None:
            await world.log_in(login)
        else:
            assert await world.call(login) == 200
        await anyio.sleep(20)
        always(world, OUTAGES[outage])
        posts = len(world.web.posts("/token"))
        with pytest.raises(NotSent) as caught:
            await world.call(login)
        world.told.append(caught.value.message)
        assert caught.value.next_retry_at is not None
        assert "moltis mcp reauth notes" in caught.value.hint
        await anyio.sleep(minutes * 60)
        assert (login.state, login.message) == ("authenticated", None)
        assert login.unavailable is not None
        assert len(world.web.posts("/token")) - posts <= minutes * 60 / (RENEWAL_MAX_SECS / 2) + 8
        mend(world)
        back = anyio.current_time()
        while not world.renewed:
            await anyio.sleep(0.1)
            assert anyio.current_time() - back <= 15
        assert await world.call(login) == 200
        assert login.unavailable is None
        assert len(world.opened) == (config is None)


async def test_an_outage_while_a_token_is_still_good_is_noticed_when_it_is_not_any_more(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(3550)
        always(world, OUTAGES["503"])
        assert await world.call(login) == 200
        assert login.unavailable is None
        await anyio.sleep(100)
        with pytest.raises(NotSent):
            await world.call(login)
        await anyio.sleep(15)
        assert login.unavailable is not None
        assert login.next_try_at is not None
        mend(world)
        await anyio.sleep(15)
        assert await world.call(login) == 200


async def test_a_closed_login_tries_nothing_again(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        always(world, OUTAGES["503"])
        with pytest.raises(NotSent):
            await world.call(login)
        await login.close()
        posts = len(world.web.posts("/token"))
        await anyio.sleep(3600)
        assert len(world.web.posts("/token")) == posts


async def test_entries_that_share_a_login_are_both_let_in_by_the_refresh_of_one(world: World) -> None:
    async with world.login() as login, world.login() as other:
        await world.log_in(login)
        assert await world.call(other) == 200
        await anyio.sleep(4000)
        always(world, OUTAGES["connection refused"])
        for each in (login, other):
            with pytest.raises(NotSent):
                await world.call(each)
        await anyio.sleep(300)
        mend(world)
        await anyio.sleep(25)
        assert world.renewed == 2
        assert await world.call(login) == await world.call(other) == 200
        assert world.auth.reused == []
        assert [post.form["grant_type"] for post in world.web.posts("/token")][-1] == "refresh_token"


async def test_many_that_wait_for_one_authorization_server_try_no_more_often_and_come_back_together(
    world: World,
) -> None:
    chance = random.Random(20)
    world.roll = chance.random
    number = 60
    async with AsyncExitStack() as stack:
        logins = [await stack.enter_async_context(world.login()) for _ in range(number)]
        await world.log_in(logins[0])
        for login in logins:
            assert await world.call(login) == 200
        await anyio.sleep(4000)
        always(world, OUTAGES["connection refused"])
        for login in logins:
            with pytest.raises(NotSent):
                await world.call(login)
        await anyio.sleep(120)
        before, secs = len(world.web.posts("/token")), 200.0
        await anyio.sleep(secs)
        assert (len(world.web.posts("/token")) - before) / secs <= 3.0
        mend(world)
        await anyio.sleep(15)
        assert world.renewed == number
        assert world.auth.reused == []


@pytest.mark.parametrize("jump_secs", [-86400.0, -3600.0, 3600.0, 86400.0])
async def test_a_clock_that_jumps_during_an_outage_costs_no_login(world: World, jump_secs: float) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        always(world, OUTAGES["503"])
        with pytest.raises(NotSent):
            await world.call(login)
        world.offset_secs = jump_secs
        world.good.clear()
        await anyio.sleep(60)
        with pytest.raises(NotSent):
            await world.call(login)
        mend(world)
        await anyio.sleep(15)
        assert await world.call(login) == 200
        assert len(world.opened) == 1


async def test_a_person_who_asks_for_a_login_during_an_outage_needs_none_when_it_is_over(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.web.dead.update(("auth.example.com", "mcp.example.com"))
        with pytest.raises(NotSent):
            await world.call(login)
        with pytest.raises(OAuthProblem):
            await login.begin()
        await anyio.sleep(600)
        world.web.dead.clear()
        await anyio.sleep(15)
        assert await world.call(login) == 200
        await anyio.sleep(600)
        assert len(world.opened) == 1
        assert (login.state, login.message) == ("authenticated", None)


async def test_a_token_that_has_expired_unused_is_not_called_worthless(
    world: World,
) -> None:
    world.auth.expires_in = 12
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(60)
        world.good.clear()
        always(world, UNCLEAR["400 in HTML"])
        assert await asked(world, login, 400) is not None
        assert login.state == "awaiting_browser"


UNCLEAR: dict[str, Callable[[], Answer]] = {
    "400 of Supabase": lambda: answer(400, {"code": 400, "error_code": "refresh_token_not_found", "msg": "Invalid"}),
    "401 of a gateway": lambda: answer(401, {"message": "Unauthorized"}),
    "400 in HTML": lambda: answer(400, b"<html>"),
    "403 of a firewall": lambda: answer(403, b"<html>"),
    "404": lambda: answer(404, b"not found"),
    "405": lambda: answer(405, b""),
}


async def asked(world: World, login: Login, secs: float) -> float | None:
    """Call every 5 s; give after how many a person was asked, None if nobody was."""
    began = anyio.current_time()
    while anyio.current_time() - began < secs:
        try:
            await world.call(login)
        except NotSent:
            pass
        except LoginNeeded as error:
            world.told.append(error.message)
            return anyio.current_time() - began
        await anyio.sleep(5)
    return None


@pytest.mark.parametrize("refusal", UNCLEAR)
async def test_a_refusal_without_a_reason_again_and_again_has_a_person_asked_and_keeps_the_refresh_token(
    world: World, refusal: str
) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.good.clear()
        always(world, UNCLEAR[refusal])
        after = await asked(world, login, 400)
        assert after is not None
        assert DOUBTED_AFTER_SECS <= after <= DOUBTED_AFTER_SECS + 30
        status = UNCLEAR[refusal]().status
        assert login.message == f"the token endpoint answers HTTP {status} and does not say why (refresh)"
        assert login.state == "awaiting_browser"
        assert len(world.opened) == 2
        posts = len(world.web.posts("/token"))
        await anyio.sleep(DOUBTED_SECS * 1.9)
        assert 1 <= len(world.web.posts("/token")) - posts <= 3
        mend(world)
        await anyio.sleep(DOUBTED_SECS + 1)
        assert world.renewed == 1
        assert (login.state, login.auth_url, login.message) == ("authenticated", None, None)
        assert await world.call(login) == 200
        assert world.authenticated == 1, "by the refresh token of the first login"
        assert len(world.opened) == 2


async def test_a_person_who_logs_in_meanwhile_ends_the_doubt(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.good.clear()
        always(world, UNCLEAR["403 of a firewall"])
        assert await asked(world, login, 400) is not None
        mend(world)
        assert login.auth_url is not None
        await world.visit(login.auth_url)
        await anyio.wait_all_tasks_blocked()
        assert (login.state, login.message, login.unavailable) == ("authenticated", None, None)
        posts = len(world.web.posts("/token"))
        await anyio.sleep(1000)
        assert len(world.web.posts("/token")) == posts, "there is nothing to be tried again"
        assert await world.call(login) == 200


async def test_a_login_that_a_person_asked_for_goes_on_though_the_old_one_works_again(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.good.clear()
        always(world, UNCLEAR["404"])
        assert await asked(world, login, 400) is not None
        url = await login.begin()
        assert url is not None
        mend(world)
        await anyio.sleep(DOUBTED_SECS + 1)
        assert world.renewed == 1
        assert login.auth_url == url
        assert (await world.visit(url)).status == 200


async def test_refusals_with_other_troubles_among_them_are_an_outage(world: World) -> None:
    troubles = [*OUTAGES.values(), *UNCLEAR.values()] * 100
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.good.clear()
        always(world, lambda: troubles.pop()())
        assert await asked(world, login, 1000) is None
        assert len(world.opened) == 1


@pytest.mark.parametrize(
    ("said", "doubted"),
    [
        ([(0, 400), (60, 400), (119, 400)], False),
        ([(0, 400), (60, 400), (120, 400)], True),
        ([(0, 400), (200, 400)], False),
        ([(0, 400), (60, 403), (120, 400), (180, 400)], False),
        ([(0, 400), (60, None), (120, 400), (180, 400)], False),
        ([(0, 400), (60, 400), (120, 400), (130, None)], True),
    ],
)
def test_how_often_and_how_long_makes_doubt(said: list[tuple[float, int | None]], doubted: bool) -> None:
    unclear = Unclear()
    for at, status in said:
        unclear = unclear.and_then(status, at)
    assert unclear.doubted(said[-1][0]) is doubted
    assert DOUBTED_TIMES == 3


@pytest.mark.parametrize("failures", [1, 2, 3, 4, 5, 50, 5000])
def test_a_renewal_is_tried_again_soon_and_never_later_than_its_limit(failures: int) -> None:
    soonest, latest = renewal_delay_secs(failures, roll=0.0), renewal_delay_secs(failures, roll=0.999)
    assert 0.5 <= soonest < latest <= RENEWAL_MAX_SECS
    assert renewal_delay_secs(failures, roll=0.0, retry_after_secs=7200) == 60


# --- a client that is not known any more


def forgets(world: World) -> list[str]:
    """Give the clients that were registered so far."""
    return [sent.url for sent in world.web.posts("/register")]


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
async def test_a_client_that_a_refresh_finds_forgotten_is_registered_anew(world: World, code: str) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.token_answers.append(answer(401, {"error": code}))
        assert (await world.needed(login)).auth_url is not None
        assert len(forgets(world)) == 2
        assert len(world.opened) == 2


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
@pytest.mark.parametrize("by", ["callback", "code"])
async def test_a_client_that_a_login_finds_forgotten_is_registered_anew_when_a_person_asks_again(
    world: World, code: str, by: str
) -> None:
    async with world.login() as login:
        await world.log_in(login)
        url = await login.begin()
        assert url is not None
        if by == "code":
            world.auth.token_answers.append(answer(401, {"error": code}))
            await world.visit(url)
        else:
            back = world.auth.authorize(url)
            port, state = int(back.split(":")[2].split("/")[0]), back.partition("state=")[2]
            await world.listening[port](f"/callback?error={code}&state={state}")
        await anyio.wait_all_tasks_blocked()
        assert len(forgets(world)) == 1
        await anyio.sleep(100)
        assert len(world.opened) == 2, "no second browser by itself"
        await world.log_in(login)
        assert len(forgets(world)) == 2


async def test_an_error_under_another_state_forgets_no_client(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        url = await login.begin()
        assert url is not None
        port = int(world.auth.authorize(url).split(":")[2].split("/")[0])
        await world.listening[port]("/callback?error=invalid_client&state=forged")
        await world.visit(url)
        await anyio.wait_all_tasks_blocked()
        await world.log_in(login)
        assert len(forgets(world)) == 1


async def test_a_client_of_moltis_toml_is_never_replaced(world: World) -> None:
    async with world.login(ClientConfig(client_id="ours", client_secret=SECRET)) as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.token_answers.append(answer(401, {"error": "invalid_client"}))
        await world.needed(login)
        assert forgets(world) == []
