"""A login from its first 401 on, as those who wait for it see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from login_world import ISSUER, SECRET, URL, AuthorizationServer, World, answer, played
from trio.testing import MockClock

from moltis.errors import LoginNeeded
from moltis.http.addresses import Scope
from moltis.http.authorized import Refusal
from moltis.http.fetch import FetchProblem
from moltis.oauth.callback import Callback, parse_callback
from moltis.oauth.model import ClientConfig, OAuthProblem


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from played(tmp_path, monkeypatch)


async def test_a_server_that_never_refuses_costs_no_request_and_needs_no_login(world: World) -> None:
    world.open = True
    async with world.login() as login:
        assert await world.call(login) == 200
        assert login.state == "not_required"
        assert (login.auth_url, login.message, world.web.sent, world.changes) == (None, None, [], [])


async def test_from_a_401_to_a_call_that_works(world: World) -> None:
    async with world.login() as login:
        error = await world.needed(login)
        assert error.auth_url == login.auth_url == world.opened[0]
        assert login.state == "awaiting_browser"
        page = await world.visit(error.auth_url or "")
        await anyio.wait_all_tasks_blocked()
        assert (page.status, login.state, world.authenticated) == (200, "authenticated", 1)
        assert await world.call(login) == 200
        assert [state for state, _, _ in world.changes] == ["awaiting_browser", "awaiting_browser", "authenticated"]
    assert len(world.opened) == 1


async def test_the_url_is_there_within_the_second_that_a_refused_request_waits(world: World) -> None:
    async with world.login() as login:
        began = anyio.current_time()
        assert (await world.needed(login)).auth_url is not None
        assert anyio.current_time() - began < 0.5


async def test_when_finding_out_takes_longer_the_request_does_not_wait_for_it(world: World) -> None:
    async def slow(sent: Any) -> Any:
        await anyio.sleep(4)
        return answer(200, world.prm)

    world.web.handlers["GET", "https://mcp.example.com/.well-known/oauth-protected-resource/mcp"] = slow
    async with world.login() as login:
        began = anyio.current_time()
        assert (await world.needed(login)).auth_url is None
        assert anyio.current_time() - began == pytest.approx(1.0)
        assert login.state == "awaiting_browser"
        await anyio.sleep(5)
        assert login.auth_url == world.opened[0]


async def test_fifty_who_begin_at_once_share_one_login_and_one_browser(world: World) -> None:
    urls: list[str | None] = []
    async with world.login() as login, anyio.create_task_group() as tasks:

        async def begin() -> None:
            urls.append(await login.begin())

        for _ in range(50):
            tasks.start_soon(begin)
    assert len(urls) == 50
    assert set(urls) == set(world.opened)
    assert len(world.opened) == 1
    assert len(world.web.posts("/register")) == 1


async def test_fifty_refused_at_once_share_one_login(world: World) -> None:
    errors: list[LoginNeeded] = []
    async with world.login() as login, anyio.create_task_group() as tasks:

        async def call() -> None:
            errors.append(await world.needed(login))

        for _ in range(50):
            tasks.start_soon(call)
    assert {error.auth_url for error in errors} == set(world.opened)
    assert len(world.opened) == 1


async def test_who_gives_up_waiting_ends_nothing_for_the_others(world: World) -> None:
    async with world.login() as login:
        with anyio.move_on_after(0.005):
            await login.begin()
        assert await login.begin() == world.opened[0]


async def test_a_person_may_always_begin_anew(world: World) -> None:
    world.auth.with_refresh = False
    async with world.login() as login:
        await world.log_in(login)
        world.good.clear()
        await world.needed(login)
        await world.log_in(login)
        assert await world.call(login) == 200
        assert len(world.opened) == 2


async def test_a_login_expires(world: World) -> None:
    async with world.login() as login:
        url = (await world.needed(login)).auth_url or ""
        await anyio.sleep(599)
        assert login.state == "awaiting_browser"
        await anyio.sleep(2)
        assert (login.state, login.auth_url) == ("failed", None)
        assert (login.message or "").startswith("the login was not completed within 10 min; ")
        assert not world.listening
        with pytest.raises(OAuthProblem):
            await login.complete(parse_callback(world.auth.authorize(url)))
        # The next start of the server may ask a person again.
        assert (await world.needed(login)).auth_url not in (None, url)


async def test_a_configured_authorization_header_makes_logging_in_nobodys_business(world: World) -> None:
    async with world.login(static=True) as login:
        assert await login.authorization() is None
        assert await login.refused(Refusal(401, ("Bearer",), "Bearer mine")) is False
        with pytest.raises(OAuthProblem, match="Authorization"):
            await login.begin()
        assert login.state == "not_required"
    assert world.web.sent == []


async def test_client_credentials_need_nobody(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET, grant="client_credentials", scopes=("a", "b"))
    async with world.login(config) as login:
        assert await world.call(login) == 200
        assert login.state == "authenticated"
        await anyio.sleep(4000)
        assert await world.call(login) == 200
    forms = [post.form for post in world.web.posts("/token")]
    assert [form["grant_type"] for form in forms] == ["client_credentials"] * 2
    assert forms[0]["scope"] == "a b"
    assert forms[0]["resource"] == URL
    assert world.opened == []


async def test_client_credentials_that_are_refused_fail_and_a_person_may_try_again(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET, grant="client_credentials")
    async with world.login(config) as login:
        world.auth.token_answers.append(answer(401, {"error": "invalid_client"}))
        error = await world.needed(login)
        assert (error.auth_url, login.state) == (None, "failed")
        assert "invalid_client" in error.message
        assert await login.begin() is None
        assert (login.state, world.authenticated) == ("authenticated", 1)
        assert await world.call(login) == 200


async def test_configured_endpoints_skip_discovery_and_registration(world: World) -> None:
    async def unresolved(url: str) -> frozenset[Scope]:
        raise FetchProblem("its name cannot be resolved")

    world.web.scopes_of = unresolved  # type: ignore[method-assign]
    world.web.handlers = {("POST", "https://10.0.0.7/token"): world.auth.token}
    config = ClientConfig(client_id="mine", auth_url="https://10.0.0.7/auth?x=1", token_url="https://10.0.0.7/token")
    async with world.login(config) as login:
        error = await world.needed(login)
        assert (error.auth_url or "").startswith("https://10.0.0.7/auth?x=1&")
        await world.visit(error.auth_url or "")
        await anyio.wait_all_tasks_blocked()
        assert await world.call(login) == 200
    assert [sent.url for sent in world.web.sent] == world.web.trusted == ["https://10.0.0.7/token"]
    await anyio.sleep(4000)
    async with world.login(config) as login:
        assert await world.call(login) == 200


async def test_a_client_id_alone_skips_registration(world: World) -> None:
    async with world.login(ClientConfig(client_id="mine", callback_port=7777)) as login:
        url = await login.begin()
        assert "client_id=mine" in (url or "")
        assert "127.0.0.1%3A7777" in (url or "")
    assert world.web.posts("/register") == []


async def test_a_client_id_metadata_document_is_who_we_are_where_that_is_supported(world: World) -> None:
    config = ClientConfig(client_metadata_url="https://me.example.org/client.json")
    world.auth.metadata["client_id_metadata_document_supported"] = True
    async with world.login(config) as login:
        assert "client_id=https%3A%2F%2Fme.example.org%2Fclient.json" in (await login.begin() or "")
    assert world.web.posts("/register") == []


async def test_servers_of_mcp_2025_03_26_are_their_own_authorization_servers(world: World) -> None:
    own = AuthorizationServer(world, "https://mcp.example.com")
    world.prm = None
    async with world.login() as login:
        error = await world.needed(login)
        assert (error.auth_url or "").startswith("https://mcp.example.com/authorize")
        await world.visit(error.auth_url or "", own)
        await anyio.wait_all_tasks_blocked()
        assert await world.call(login) == 200
        await anyio.sleep(4000)
        assert await world.call(login) == 200


async def test_a_401_without_any_way_to_log_in_says_what_to_check(world: World) -> None:
    world.web.handlers.clear()
    async with world.login() as login:
        error = await world.needed(login)
        assert "check url and headers" in error.message
        assert login.state == "failed"
        assert world.opened == []


async def test_a_login_whose_code_is_not_good_fails_and_says_so(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        world.auth.token_answers.append(answer(400, {"error": "invalid_grant"}))
        page = await world.visit(url or "")
        await anyio.wait_all_tasks_blocked()
        assert page.status == 403
        assert login.state == "failed"
        assert "invalid_grant" in (login.message or "")
        assert world.authenticated == 0


async def test_a_login_whose_code_meets_an_outage_fails_and_opens_no_second_browser(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        world.auth.token_answers.append(answer(503, {}))
        page = await world.visit(url or "")
        await anyio.sleep(3600)
        assert page.status >= 400
        assert (login.state, login.auth_url) == ("failed", None)
        assert "503" in (login.message or "")
        assert len(world.opened) == 1


async def test_client_credentials_that_are_taken_after_all_are_told_to_whoever_gave_up(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET, grant="client_credentials")
    async with world.login(config) as login:
        world.auth.token_answers.append(answer(401, {"error": "invalid_client"}))
        await world.needed(login)
        assert (login.state, world.renewed) == ("failed", 0)
        assert await world.call(login) == 200
        assert (login.state, world.renewed) == ("authenticated", 1)
        assert await world.call(login) == 200
        assert world.renewed == 1


async def test_client_credentials_that_give_nothing_usable_fail_each_time(world: World) -> None:
    config = ClientConfig(client_id="mine", client_secret=SECRET, grant="client_credentials")
    async with world.login(config) as login:
        for _ in range(2):
            world.auth.token_answers.append(answer(200, {"access_token": "x", "token_type": "mac"}))
            error = await world.needed(login)
            assert "Bearer" in error.message


async def test_a_person_who_declines_is_not_asked_again(world: World) -> None:
    async with world.login() as login:
        url = (await world.needed(login)).auth_url or ""
        state = url.partition("state=")[2].partition("&")[0]
        with pytest.raises(OAuthProblem) as caught:
            await login.complete(Callback(state=state, error="access_denied"))
        assert (caught.value.kind, login.state) == ("denied", "failed")
        assert "declined" in (login.message or "")
        assert (await world.needed(login)).auth_url is None
        assert len(world.opened) == 1


async def test_a_login_is_completed_by_a_pasted_callback(world: World) -> None:
    world.lingers_secs = 1
    async with world.login() as login:
        url = await login.begin()
        callback = parse_callback(world.auth.authorize(url or ""))
        assert login.awaits(callback.state)
        await login.complete(callback)
        assert (login.state, world.authenticated) == ("authenticated", 1)
        assert not login.awaits(callback.state)
        with pytest.raises(OAuthProblem, match="no login is waiting"):
            await login.complete(callback)


async def test_a_callback_for_an_unknown_state_changes_nothing(world: World) -> None:
    async with world.login() as login:
        with pytest.raises(OAuthProblem, match="no login is waiting"):
            await login.complete(Callback(state="x", code="y"))
        url = await login.begin()
        for state in ("x", "", "\udc80", "é"):
            assert not login.awaits(state)
            with pytest.raises(OAuthProblem, match="no login is waiting"):
                await login.complete(Callback(state=state, code="y"))
        assert login.auth_url == url
        assert world.web.posts("/token") == []
        assert (await world.visit(url or "")).status == 200


async def test_an_answer_of_another_issuer_is_refused_and_the_login_goes_on(world: World) -> None:
    world.auth.metadata["authorization_response_iss_parameter_supported"] = True
    async with world.login() as login:
        url = await login.begin()
        for extra in ({"iss": "https://evil.example.net"}, {}):
            page = await world.visit(url or "", None, **extra)
            assert page.status == 400
        assert world.web.posts("/token") == []
        assert (login.state, login.auth_url) == ("awaiting_browser", url)
        assert "iss" in (login.message or "")
        assert (await world.visit(url or "", iss=ISSUER)).status == 200


async def test_a_second_answer_does_not_count(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        world.auth.delay_secs = 1
        pages: list[int] = []
        async with anyio.create_task_group() as tasks:

            async def visit() -> None:
                pages.append((await world.visit(url or "")).status)

            tasks.start_soon(visit)
            tasks.start_soon(visit)
        assert sorted(pages) == [200, 400]
    assert len(world.web.posts("/token")) == 1


async def test_states_and_verifiers_are_new_each_time_and_never_the_same(world: World) -> None:
    async with world.login() as login:
        urls = []
        for _ in range(2):
            urls.append(await login.begin() or "")
            await anyio.sleep(601)
        states = {url.partition("state=")[2].partition("&")[0] for url in urls}
        challenges = {url.partition("code_challenge=")[2].partition("&")[0] for url in urls}
        assert len(states) == len(challenges) == 2
        assert states <= world.scrubbed


async def test_a_registration_serves_again_at_its_own_port(world: World) -> None:
    async with world.login() as login:
        await login.begin()
        await anyio.sleep(601)
        await login.begin()
        assert len(world.web.posts("/register")) == 1
        await anyio.sleep(601)
        world.taken.add(40001)
        await login.begin()
        assert len(world.web.posts("/register")) == 2, "the port is taken now"


async def test_a_new_registration_does_not_spoil_what_the_old_one_got(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.taken.add(40001)
        await login.begin()
        await anyio.sleep(4000)
        assert await world.call(login) == 200
        ids = {post.form["client_id"] for post in world.web.posts("/token")}
        assert len(ids) == 1


async def test_a_second_login_replaces_the_first_only_when_it_is_done(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        first = await login.authorization()
        assert await login.begin(force=False) is None
        url = await login.begin()
        assert url is not None
        assert await login.authorization() == first
        await world.visit(url)
        assert await login.authorization() != first


async def test_forgetting_deletes_and_revokes(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        await login.forget()
        assert login.state == "not_required"
    assert world.store.find(URL, None) is None
    hints = [post.form["token_type_hint"] for post in world.web.posts("/revoke")]
    assert hints == ["refresh_token", "access_token"]


async def test_forgetting_works_without_the_authorization_server(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.web.dead.add("auth.example.com")
        await login.forget()
    assert world.store.find(URL, None) is None


async def test_closing_ends_a_login_under_way(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        await login.close()
        assert (login.auth_url, world.listening) == (None, {})
        with pytest.raises(OAuthProblem):
            await login.begin()
        assert not login.awaits((url or "").partition("state=")[2].partition("&")[0])
        assert await login.refused(Refusal(401, (), None)) is False


async def test_closing_ends_whatever_was_to_be_tried_again(world: World) -> None:
    world.web.dead.add("auth.example.com")
    async with world.login() as login:
        await world.needed(login)


async def test_a_fault_of_this_program_is_one_failed_login(world: World) -> None:
    async with world.login() as login:

        async def broken(url: str) -> bool:
            raise ZeroDivisionError

        world.opens = broken
        await world.needed(login)
        await anyio.sleep(1)
        assert login.state == "failed"
        assert ("login_faulted", "login") in [(message, fields.get("work")) for message, fields in world.logged]


async def test_the_fetcher_may_go_only_where_such_a_server_may_send_it(world: World) -> None:
    async with world.login() as login:
        assert world.web.allowed == frozenset()
        await login.begin()
        assert world.web.allowed == {Scope.PUBLIC}


async def test_a_configured_port_that_is_taken_is_said(world: World) -> None:
    world.taken.add(7777)
    async with world.login(ClientConfig(callback_port=7777)) as login:
        error = await world.needed(login)
        assert "port 7777 is in use" in error.message
        assert world.opened == []


async def test_two_servers_log_in_at_the_same_time_without_mixing_anything_up(world: World) -> None:
    other_url = "https://mcp.example.com/other"
    world.web.handlers["GET", "https://mcp.example.com/.well-known/oauth-protected-resource/other"] = lambda sent: (
        answer(200, {"resource": other_url, "authorization_servers": [ISSUER]})
    )
    async with world.login() as one, world.login(url=other_url) as other:
        urls = (await one.begin() or "", await other.begin() or "")
        callback = parse_callback(world.auth.authorize(urls[0]))
        assert (one.awaits(callback.state), other.awaits(callback.state)) == (True, False)
        with pytest.raises(OAuthProblem):
            await other.complete(callback)
        await one.complete(callback)
        assert (one.state, other.state) == ("authenticated", "awaiting_browser")
        await world.visit(urls[1])
        await anyio.wait_all_tasks_blocked()
        assert (one.state, other.state) == ("authenticated", "authenticated")


async def test_beginning_again_while_a_person_is_at_it_opens_nothing(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        await anyio.sleep(300)
        assert await login.begin() == url
        assert len(world.opened) == 1


async def test_a_person_who_begins_in_an_outage_is_told_and_what_works_goes_on_working(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
        world.web.dead.add("auth.example.com")
        with pytest.raises(OAuthProblem) as caught:
            await login.begin()
        assert caught.value.kind == "outage"
        assert await world.call(login) == 200
        await anyio.sleep(1)
        assert login.message is None


async def test_beginning_without_force_keeps_what_is_good_even_unseen(world: World) -> None:
    async with world.login() as login:
        await world.log_in(login)
    async with world.login() as login:
        assert await login.begin(force=False) is None
        assert login.state == "authenticated"
    assert len(world.opened) == 1


async def test_no_secret_is_in_any_repr(world: World) -> None:
    async with world.login(ClientConfig(client_id="x", client_secret=SECRET)) as login:
        await world.log_in(login)
        await login.begin()
        keeper, flow = login._keeper, login._attempt and login._attempt.flow
        seen = " ".join(map(repr, (keeper.record, keeper.tokens, flow, login, flow and flow._request)))
        assert not [value for value in (*world.made, SECRET) if value in seen]


async def test_what_is_held_is_scrubbed_from_whatever_is_logged(world: World) -> None:
    async with world.login(ClientConfig(client_id="x", client_secret=SECRET)) as login:
        await world.log_in(login)
        await anyio.sleep(4000)
        await world.call(login)
    kinds = ("access", "refresh", "code", "random")
    assert {value for value in world.made if value.startswith(kinds)} <= world.scrubbed
    assert SECRET in world.scrubbed


async def test_who_waits_for_a_login_is_told_when_everything_ends(world: World) -> None:
    world.web.dead.add("auth.example.com")
    async with world.login() as login:
        await world.needed(login)
        async with anyio.create_task_group() as tasks:

            async def begin() -> None:
                with pytest.raises(OAuthProblem, match="given up"):
                    await login.begin()

            tasks.start_soon(begin)
            await anyio.sleep(0.001)
            await login.close()


async def test_an_answer_that_is_refused_is_one_record(world: World) -> None:
    async with world.login() as login:
        url = await login.begin()
        assert url is not None
        page = await world.visit(url, iss="https://evil.example")
        assert page.status >= 400
        (told,) = [fields for message, fields in world.logged if message == "login_answer_refused"]
        assert told == {"server": "notes", "problem": login.message}
