"""What is held stays good: expiry, outages, other processes, restarts, and refreshes that are cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from login_world import ISSUER, SECRET, URL, AuthorizationServer, World, answer, played
from msgspec.structs import replace
from trio.testing import MockClock

from moltis.errors import ServerNotReady
from moltis.http.fetch import FetchProblem
from moltis.oauth.grants import read_tokens
from moltis.oauth.login import Login
from moltis.oauth.model import ClientConfig
from moltis.oauth.store import StoreProblem


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


async def test_ten_calls_with_an_expired_token_make_one_refresh(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        statuses: list[int] = []
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                statuses.append(await world.call(login))

            for _ in range(10):
                tasks.start_soon(call)
        assert statuses == [200] * 10
    assert [post.form["grant_type"] for post in world.web.posts("/token")] == ["authorization_code", "refresh_token"]


async def test_ten_calls_refused_with_a_token_that_seemed_good_make_one_refresh(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(60)
        world.good.clear()
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(world.call, login)
    assert len(world.web.posts("/token")) == 2
    assert len(world.opened) == 1


async def test_a_token_is_renewed_ahead_of_its_end_while_it_is_still_used(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        first = await login.authorization()
        await anyio.sleep(3550)
        world.auth.delay_secs = 3
        began = anyio.current_time()
        assert await login.authorization() == first
        assert await login.authorization() == first
        assert anyio.current_time() == began
        await anyio.sleep(4)
        assert await login.authorization() != first
    assert len(world.web.posts("/token")) == 2


async def test_a_refresh_goes_on_when_the_call_that_wanted_it_is_given_up(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.delay_secs = 3
        with anyio.move_on_after(1):
            await world.call(login)
        assert await world.call(login) == 200
    assert len(world.web.posts("/token")) == 2
    assert world.auth.reused == []


async def test_a_token_that_was_refreshed_and_is_refused_at_once_is_not_refreshed_again(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await world.call(login)
        await anyio.sleep(60)
        world.judge = lambda authorization: (401, "Bearer")  # type: ignore[method-assign]
        await world.needed(login)
        assert login.state == "failed"
    assert len(world.web.posts("/token")) == 2
    assert len(world.opened) == 1


async def test_an_outage_is_never_a_logout(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        outages = [answer(503, {}, retry_after="20"), answer(200, b"<html>hotel</html>"), answer(502, b"bad gateway")]
        for outage in outages:
            world.auth.token_answers.append(outage)
            with pytest.raises(ServerNotReady) as caught:
                await world.call(login)
            world.told.append(caught.value.message)
            assert caught.value.next_retry_at is not None
            posts = len(world.web.posts("/token"))
            with pytest.raises(ServerNotReady):
                await world.call(login)
            assert len(world.web.posts("/token")) == posts, "not again so soon"
            assert login.state == "authenticated"
            await anyio.sleep(30)
            assert len(world.web.posts("/token")) == posts + 1, "it is tried again by itself"
            assert await world.call(login) == 200
            await anyio.sleep(4000)
        world.web.dead.add("auth.example.com")
        with pytest.raises(ServerNotReady):
            await world.call(login)
        world.web.dead.clear()
        await anyio.sleep(100)
        assert await world.call(login) == 200
        assert len(world.opened) == 1


async def test_an_outage_while_a_good_token_is_renewed_ahead_is_noticed_by_nobody(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(3550)
        world.web.dead.add("auth.example.com")
        for _ in range(40):
            assert await world.call(login) == 200
            await anyio.sleep(1)
        assert len(world.web.posts("/token")) <= 10


async def test_a_refresh_that_is_refused_on_the_way_costs_no_login(world: World) -> None:
    """A proxy that redirects, or a name that points into the hotel: nothing of it comes from the issuer."""
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.token_answers.append(FetchProblem("redirects, which is not followed", kind="refused"))
        with pytest.raises(ServerNotReady):
            await world.call(login)
        await anyio.sleep(10)
        assert await world.call(login) == 200


async def test_a_refresh_token_that_is_over_leads_to_a_login(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.refresh_tokens.clear()
        error = await world.needed(login)
        assert error.auth_url is not None
        assert "its login could not be renewed: the token endpoint refuses (invalid_grant)" in error.message
        assert len(world.web.posts("/token")) == 2
        await world.needed(login)
        assert len(world.web.posts("/token")) == 2, "it is not presented again"
        record = world.store.find(URL, None)
        assert record is not None
        assert record.tokens is None


async def test_an_access_token_outlives_its_refresh_token(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(3550)
        world.auth.refresh_tokens.clear()
        assert await world.call(login) == 200
        await anyio.sleep(1)
        assert await world.call(login) == 200
        assert login.state == "authenticated"
    assert len(world.web.posts("/token")) == 2


async def test_invalid_grant_while_another_process_was_faster_takes_what_that_one_got(world: World) -> None:
    async with world.login() as login, world.login() as other:
        await world.log_in(login)
        assert await world.call(other) == 200
        await anyio.sleep(4000)
        # As if there were no lock: the other one refreshes between our reading and our presenting.
        real, done = world.auth.token, False

        async def overtaken(sent: Any) -> Any:
            nonlocal done
            if done:
                return await real(sent)
            done = True
            record = world.store.find(URL, None)
            assert record is not None
            assert record.tokens is not None
            fresh = await real(sent)
            world.store.save(replace(record, tokens=read_tokens(200, fresh.body, now=world.wall())))
            return answer(400, {"error": "invalid_grant"})

        world.web.handlers["POST", f"{ISSUER}/token"] = overtaken
        assert await world.call(login) == 200
        assert await world.call(other) == 200
    assert len(world.opened) == 1
    assert len(world.web.posts("/token")) == 2


async def test_many_processes_that_share_a_store_never_present_a_token_twice(world: World) -> None:
    async with world.login() as first:
        await world.log_in(first)
        async with world.login() as second, world.login() as third:
            for _ in range(5):
                await anyio.sleep(4000)
                async with anyio.create_task_group() as tasks:
                    for login in (first, second, third):
                        tasks.start_soon(world.call, login)
    assert world.auth.reused == []
    assert len(world.opened) == 1
    assert len(world.web.posts("/token")) == 6


async def test_after_a_restart_nobody_logs_in_again(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    async with world.login() as login:
        assert await world.call(login) == 200
        assert login.state == "authenticated"
    await anyio.sleep(10_000)
    async with world.login() as login:
        assert await world.call(login) == 200
    assert len(world.opened) == 1
    assert len(world.web.posts("/register")) == 1


async def test_after_a_restart_a_revoked_login_is_made_again(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    world.good.clear()
    world.auth.refresh_tokens.clear()
    async with world.login() as login:
        assert (await world.needed(login)).auth_url is not None
        assert len(world.web.posts("/register")) == 1, "the registration is good still"


async def test_an_interrupted_refresh_is_not_presented_again(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.delay_secs = 30  # longer than what a refresh has when everything ends
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expecting_nothing, world, login)
            await anyio.sleep(1)
            await _killed(world, login)
    world.auth.delay_secs = 0
    async with world.login() as login:
        assert (await world.needed(login)).auth_url is not None
    assert [post.form["grant_type"] for post in world.web.posts("/token")] == ["authorization_code", "refresh_token"]


async def _killed(world: World, login: Login) -> None:
    """Leave the disk as a process leaves it that is killed."""
    with pytest.MonkeyPatch.context() as dead:
        dead.setattr(world.store, "end_refresh", lambda key: None)
        await login.close()


@pytest.mark.parametrize("trouble", ["it does not answer", "its name is looked up for ever"])
async def test_a_refresh_given_up_in_good_order_costs_no_login(world: World, trouble: str) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        if trouble == "it does not answer":
            world.auth.delay_secs = 30
        else:
            world.web.hanging.add("auth.example.com")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expecting_nothing, world, login)
            await anyio.sleep(1)
            await login.close()
    world.auth.delay_secs = 0
    world.web.hanging.clear()
    async with world.login() as login:
        assert await world.call(login) == 200
    assert len(world.opened) == 1


async def test_a_refresh_that_was_never_sent_was_not_interrupted(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.web.hanging.add("auth.example.com")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expecting_nothing, world, login)
            await anyio.sleep(1)
            await _killed(world, login)
    world.web.hanging.clear()
    async with world.login() as login:
        assert await world.call(login) == 200
    assert len(world.opened) == 1


async def _expecting_nothing(world: World, login: Login) -> None:
    with pytest.raises(ServerNotReady):
        await world.call(login)


async def test_an_interrupted_refresh_is_repeated_where_refresh_tokens_are_not_replaced(world: World) -> None:
    world.auth.rotate = False
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.auth.delay_secs = 30
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expecting_nothing, world, login)
            await anyio.sleep(1)
            await _killed(world, login)
    world.auth.delay_secs = 0
    async with world.login() as login:
        assert await world.call(login) == 200
    assert len(world.opened) == 1


async def test_closing_lets_a_refresh_finish(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(3550)
        world.auth.delay_secs = 1
        await login.authorization()
        await anyio.sleep(0.5)
    world.auth.delay_secs = 0
    async with world.login() as login:
        await anyio.sleep(3000)
        assert await world.call(login) == 200
    assert len(world.web.posts("/token")) == 2


async def test_after_a_restart_too_a_refresh_token_stays_unsent_when_the_authorization_server_changed(
    world: World,
) -> None:
    async with world.login() as login:
        await world.log_in(login)
    new = AuthorizationServer(world, "https://new.example.net")
    world.prm = {"resource": URL, "authorization_servers": [new.issuer]}
    await anyio.sleep(4000)
    async with world.login() as login:
        assert (await world.needed(login)).auth_url is not None
    assert len(world.web.posts("/token")) == 1


async def test_client_credentials_in_an_outage_are_tried_again_later(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET, grant="client_credentials")
    async with world.login(config) as login:
        world.web.dead.add("auth.example.com")
        with pytest.raises(ServerNotReady):
            await world.call(login)
        world.web.dead.clear()
        await anyio.sleep(10)
        assert await world.call(login) == 200


async def test_what_is_kept_by_nobody_is_used_all_the_same(world: World, tmp_path: Path) -> None:
    (tmp_path / "oauth").mkdir()
    (tmp_path / "oauth").chmod(0o777)  # the store refuses to use it
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    warned = [message for message, _ in world.logged if message in ("login_not_saved", "login_not_loaded")]
    assert 1 <= len(warned) <= 4


async def test_a_person_is_told_why_what_was_kept_of_a_login_is_not_used(world: World, tmp_path: Path) -> None:
    async with world.login() as login:
        await world.log_in(login)
    [record] = (tmp_path / "oauth").glob("*.json")
    record.rename(tmp_path / "elsewhere")
    record.symlink_to(tmp_path / "elsewhere")
    async with world.login() as login:
        await world.needed(login)
        assert "is a symbolic link; it was set aside as" in (login.message or "")
        await world.visit(login.auth_url or "")
        await world.done.wait()
        assert (login.state, login.message) == ("authenticated", None)
    async with world.login() as login:
        assert await world.call(login) == 200
    assert len(world.opened) == 2


async def test_a_login_that_nobody_asks_for_any_more_is_no_trouble_when_it_cannot_be_used(
    world: World, tmp_path: Path
) -> None:
    async with world.login() as login:
        await world.log_in(login)
    [record] = (tmp_path / "oauth").glob("*.json")
    record.write_bytes(b"half")
    world.open = True
    async with world.login() as login:
        assert await world.call(login) == 200
        assert (login.state, login.message) == ("not_required", None)


async def test_endpoints_that_have_moved_are_found_again(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.web.handlers["POST", f"{ISSUER}/v2/token"] = world.web.handlers.pop(("POST", f"{ISSUER}/token"))
        world.auth.metadata["token_endpoint"] = f"{ISSUER}/v2/token"
        await anyio.sleep(4000)
        with pytest.raises(ServerNotReady):
            await world.call(login)
        await anyio.sleep(15)
        assert await world.call(login) == 200
        record = world.store.find(URL, None)
        assert record is not None
        assert record.server.token_endpoint == f"{ISSUER}/v2/token"


async def test_after_a_restart_a_token_is_still_asked_for_under_the_name_the_resource_has_for_itself(
    world: World,
) -> None:
    world.prm = {"resource": "https://mcp.example.com/", "authorization_servers": [ISSUER]}
    async with world.login() as login:
        await world.log_in(login)
    await anyio.sleep(4000)
    async with world.login() as login:
        assert await world.call(login) == 200
    assert [post.form["resource"] for post in world.web.posts("/token")] == ["https://mcp.example.com/"] * 2


async def test_a_new_login_is_saved_though_another_process_is_busy_with_the_old_one(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        record = world.store.find(URL, None)
        assert record is not None
        url = await login.begin()
        began = anyio.current_time()
        async with world.store.lock(record.key):
            await world.visit(url or "")
        assert anyio.current_time() - began < 2.5
        saved = world.store.load(record.key)
        assert saved is not None
        assert saved.tokens is not None
        assert saved.tokens.authorization == await login.authorization()


async def test_another_process_that_never_lets_go_is_an_outage(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        record = world.store.find(URL, None)
        assert record is not None
        await anyio.sleep(4000)
        async with world.store.lock(record.key):
            with pytest.raises(ServerNotReady, match="another program"):
                await world.call(login)
        await anyio.sleep(10)
        assert await world.call(login) == 200


async def test_an_interrupted_refresh_is_not_presented_again_where_refresh_tokens_were_seen_to_be_replaced(
    world: World,
) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.auth.delay_secs = 30
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_expecting_nothing, world, login)
            await anyio.sleep(1)
            await _killed(world, login)
    world.auth.delay_secs = 0
    async with world.login() as login:
        assert (await world.needed(login)).auth_url is not None
    assert len(world.web.posts("/token")) == 3


async def test_a_refresh_token_that_is_over_is_not_presented_again_though_the_disk_still_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(record: object) -> None:
        raise StoreProblem("no space left")

    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.refresh_tokens.clear()
        world.good.clear()
        monkeypatch.setattr(world.store, "save", full)
        for _ in range(3):
            await world.needed(login)
            await anyio.sleep(10)
    assert len(world.web.posts("/token")) == 2


async def test_a_login_ends_the_wait_that_an_outage_before_it_imposed(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.token_answers.append(answer(503, {}, retry_after="3600"))
        await _expecting_nothing(world, login)
        world.auth.expires_in = 60
        await world.log_in(login)
        await anyio.sleep(61)
        assert await world.call(login) == 200


async def test_a_refused_token_that_nobody_replaces_is_no_login(world: World) -> None:
    world.auth.with_refresh = False
    async with world.login() as login:
        await world.log_in(login)
        assert await world.call(login) == 200
        await anyio.sleep(60)
        world.good.clear()
        await world.needed(login)
        await anyio.sleep(700)
        assert login.state == "failed"
