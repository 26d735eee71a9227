"""A login while no thread can be started: what can wait fails as an outage, and what cannot be had again is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from login_world import ISSUER, URL, World, answer, played
from trio.testing import MockClock

from moltis.errors import NotSent, ServerNotReady
from moltis.http.fetch import FetchProblem
from moltis.oauth.endpoint import ClientAuthentication, TokenEndpoint
from moltis.oauth.folder import Folder, StoreProblem
from moltis.oauth.model import AuthServer, Client, ClientConfig, Key, OAuthProblem, Record, Tokens
from moltis.oauth.store import Shelf

KEY = Key(URL, ISSUER)
SERVER = AuthServer(issuer=ISSUER, token_endpoint=f"{ISSUER}/token", revocation_endpoint=f"{ISSUER}/revoke")
RECORD = Record(key=KEY, server=SERVER, tokens=Tokens(access_token="a", refresh_token="r", obtained_at=0.0))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


READS: dict[str, Callable[[Shelf], Awaitable[Any]]] = {
    "load": lambda shelf: shelf.load(KEY),
    "find": lambda shelf: shelf.find(URL, None),
    "interrupted": lambda shelf: shelf.interrupted(KEY),
    "begin_refresh": lambda shelf: shelf.begin_refresh(KEY, "mark"),
}


@pytest.mark.parametrize("name", READS)
async def test_what_can_be_done_later_is_an_outage(world: World, name: str) -> None:
    world.store.save(RECORD)
    world.out_of_threads = True
    with pytest.raises(OAuthProblem, match="no thread") as caught:
        await READS[name](Shelf("notes", world.store, world))
    assert caught.value.kind == "outage"
    assert world.store.interrupted(KEY) is None


async def test_a_lock_that_no_thread_can_open_is_an_outage_and_not_gone_without(world: World) -> None:
    world.out_of_threads = True
    with pytest.raises(OAuthProblem, match="no thread") as caught:
        async with world.store.lock(KEY):
            raise AssertionError
    assert caught.value.kind == "outage"


async def test_what_cannot_be_had_again_is_written_without_a_thread(world: World) -> None:
    shelf = Shelf("notes", world.store, world)
    await shelf.begin_refresh(KEY, "mark")
    world.out_of_threads = True
    await shelf.end_refresh(KEY)
    assert world.store.interrupted(KEY) is None
    await shelf.save(RECORD)
    assert world.store.load(KEY) == RECORD
    await shelf.delete(KEY)
    assert world.store.load(KEY) is None


async def test_a_refresh_whose_end_cannot_be_taken_down_is_known_to_be_over_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Folder, name: str) -> None:
        raise StoreProblem("Read-only file system")

    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.auth.token_answers.append(answer(503, {}))
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", refuse)
            with pytest.raises(NotSent):
                await world.call(login)
        await anyio.sleep(15)
        assert await world.call(login) == 200
    assert (len(world.opened), world.auth.reused) == (1, [])


async def test_a_refresh_waits_for_threads_and_presents_nothing_before(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        world.out_of_threads = True
        with pytest.raises(ServerNotReady, match="no thread") as caught:
            await world.call(login)
        assert caught.value.next_retry_at is not None
        await anyio.sleep(60)
        assert len(world.web.posts("/token")) == 1
        assert login.state == "authenticated"
        world.out_of_threads = False
        await anyio.sleep(15)
        assert world.renewed == 1, "it is tried again by itself"
        assert await world.call(login) == 200
    assert (len(world.opened), world.auth.reused) == (1, [])


async def test_a_token_that_was_replaced_while_threads_ran_out_is_on_disk(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        token = world.web.handlers["POST", f"{ISSUER}/token"]

        def run_out(sent: Any) -> Any:
            world.out_of_threads = True
            return token(sent)

        world.web.handlers["POST", f"{ISSUER}/token"] = run_out
        assert await world.call(login) == 200
        kept = world.store.find(URL, None)
        assert kept is not None
        assert kept.tokens is not None
        assert kept.tokens.refresh_token in world.auth.refresh_tokens
        assert world.store.interrupted(kept.key) is None


async def test_a_refresh_that_fails_while_threads_run_out_does_not_count_as_interrupted(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await anyio.sleep(4000)

        def run_out(sent: Any) -> Any:
            world.out_of_threads = True
            world.web.handlers["POST", f"{ISSUER}/token"] = world.auth.token
            return answer(503, {})

        world.web.handlers["POST", f"{ISSUER}/token"] = run_out
        with pytest.raises(NotSent):
            await world.call(login)
        world.out_of_threads = False
        await anyio.sleep(15)
        assert await world.call(login) == 200
    assert len(world.opened) == 1


async def test_a_login_that_nobody_can_look_for_is_not_taken_for_none(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    world.out_of_threads = True
    async with world.login() as login:
        for _ in range(3):
            with pytest.raises(NotSent, match="no thread"):
                await world.call(login)
        world.out_of_threads = False
        await anyio.sleep(5)
        assert world.renewed == 1, "whoever waits for it is told"
        assert await world.call(login) == 200
    assert len(world.opened) == 1


async def test_a_refused_token_has_nobody_log_in_before_the_disk_was_seen(world: World) -> None:
    async with world.login() as first, world.login() as second:
        await world.log_in(first)
        assert await world.call(second) == 200
        world.good.clear()
        world.out_of_threads = True
        with pytest.raises(NotSent, match="no thread"):
            await world.call(second)
        world.out_of_threads = False
        assert await world.call(second) == 200
    assert len(world.opened) == 1


async def test_a_login_that_a_person_begins_is_tried_again_when_there_are_threads(world: World) -> None:
    async with world.login() as login:
        world.out_of_threads = True
        with pytest.raises(OAuthProblem, match="no thread"):
            await login.begin()
        assert world.opened == []
        world.out_of_threads = False
        await anyio.sleep(10)
        assert login.auth_url is not None
        await world.visit(login.auth_url)
        await world.done.wait()
        assert await world.call(login) == 200


async def test_a_login_that_comes_back_while_there_are_no_threads_is_kept_when_there_are(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        assert url is not None
        world.out_of_threads = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.visit, url)
            await anyio.sleep(5)
            assert world.web.posts("/token") == []
            world.out_of_threads = False
        await world.done.wait()
        assert await world.call(login) == 200
    assert world.store.find(URL, None) is not None
    assert len(world.web.posts("/token")) == 1


async def test_a_login_whose_code_nobody_can_send_ends_within_the_minute(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        assert url is not None
        world.out_of_threads = True
        began = anyio.current_time()
        page = await world.visit(url)
        assert (page.status >= 400, anyio.current_time() - began < 60) == (True, True)
        await anyio.wait_all_tasks_blocked()
        assert login.state == "failed"
        assert "no thread" in (login.message or "")


async def test_an_authorization_server_that_is_away_when_the_browser_comes_back_costs_no_login(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        assert url is not None
        world.web.dead.add("auth.example.com")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.visit, url)
            await anyio.sleep(5)
            world.web.dead.clear()
        await world.done.wait()
        assert await world.call(login) == 200


async def test_a_code_that_somebody_may_have_got_is_not_sent_again(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        assert url is not None
        world.auth.token_answers.append(FetchProblem("the connection broke off"))
        await world.visit(url)
        await anyio.wait_all_tasks_blocked()
        assert login.state == "failed"
        await anyio.sleep(60)
    assert len(world.web.posts("/token")) == 1


async def test_tokens_of_our_own_wait_for_threads_too(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret="client-secret-0123456789", grant="client_credentials")
    async with world.login(config) as login:
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        world.out_of_threads = True
        with pytest.raises(NotSent, match="no thread"):
            await world.call(login)
        world.out_of_threads = False
        await anyio.sleep(10)
        assert await world.call(login) == 200


async def test_a_private_key_that_no_thread_can_read_is_an_outage(world: World) -> None:
    client = Client(client_id="c", private_key="pem", auth_method="private_key_jwt", source="configured")
    world.out_of_threads = True
    with pytest.raises(OAuthProblem, match="no thread") as caught:
        await ClientAuthentication(client, ISSUER, world.wall).apply(f"{ISSUER}/token", "a=b")
    assert caught.value.kind == "outage"


async def test_a_token_that_is_given_back_costs_nobody_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moltis.oauth.endpoint._ready", False)
    world.out_of_threads = True
    endpoint = TokenEndpoint(world.web, SERVER, Client(client_id="c"), wall=world.wall)
    assert await endpoint.revoke("t", "access_token") is False


async def test_a_server_that_is_removed_meanwhile_costs_nobody_an_error(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    async with world.login() as login:
        world.out_of_threads = True
        await login.forget()
    assert "login_not_forgotten" in [message for message, _ in world.logged]
