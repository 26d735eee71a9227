"""Who lets requests in: logins, refusals, redirects, and servers that want to be left alone for a while."""

from __future__ import annotations

import email.utils
import time

import anyio
import pytest
from scripted_remote import LEGACY, MODERN, FakeCredentials, HttpServer, McpServer, Peer, dialled, serving

from moltis.config.limits import Limits
from moltis.errors import LoginNeeded, NotSent, ServerNotReady
from moltis.http.authorized import Refusal
from moltis.transport import ConnectionClosed

pytestmark = pytest.mark.anyio

LOGIN = LoginNeeded("a login is needed", server="scripted", auth_url="https://as.example/authorize")
OUTAGE = NotSent("the authorization server cannot be reached", server="scripted", state="ready")


def guarded(server: HttpServer, *tokens: str, status: int = 401) -> None:
    """Let tools/call in only with one of these tokens."""

    async def call(peer: Peer) -> None:
        if peer.request.headers.get("authorization") in {f"Bearer {token}" for token in tokens}:
            await peer.result()
        else:
            await peer.answer(status, b"denied", kind="text/plain", www_authenticate='Bearer error="x"')

    server.on["tools/call"] = call


# --- 401 and 403


async def test_each_request_carries_the_token_of_the_moment() -> None:
    credentials = FakeCredentials("Bearer one", "Bearer two", "Bearer three")
    async with (
        serving(McpServer(stateful=False)) as server,
        dialled(server.url, credentials=credentials, headers=(("Authorization", "Static s"),)) as dial,
    ):
        await dial.shake_hands(MODERN)
        await dial.ask("tools/list")
        await dial.ask("tools/list")
        sent = [request.headers["authorization"] for request in server.requests]
        assert sent == ["Bearer one", "Bearer two", "Bearer three"]


async def test_a_configured_header_is_sent_where_there_is_no_token() -> None:
    async with (
        serving(McpServer(stateful=False)) as server,
        dialled(server.url, credentials=FakeCredentials(None), headers=(("authorization", "Static s"),)) as dial,
    ):
        await dial.shake_hands(MODERN)
        assert server.requests[0].headers["authorization"] == "Static s"


@pytest.mark.parametrize(
    ("credentials", "headers", "sent"),
    [
        (FakeCredentials(None), (), "Basic dSBzZXI6cEBzcw=="),
        (FakeCredentials(None), (("Authorization", "Static s"),), "Static s"),
        (FakeCredentials("Bearer t"), (), "Bearer t"),
    ],
)
async def test_a_login_in_the_url_is_sent_unless_there_is_a_better_one(
    credentials: FakeCredentials, headers: tuple[tuple[str, str], ...], sent: str
) -> None:
    async with serving(McpServer(stateful=False)) as server:
        url = server.url.replace("127.0.0.1", "u%20ser:p%40ss@127.0.0.1")
        async with dialled(url, credentials=credentials, headers=headers) as dial:
            await dial.shake_hands(MODERN)
        assert server.requests[0].headers["authorization"] == sent
        assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"


async def test_a_refused_request_is_sent_once_more_with_a_new_token() -> None:
    credentials = FakeCredentials("Bearer old", "Bearer old", "Bearer new", verdicts=(True,))
    async with (
        serving(McpServer(stateful=False)) as server,
        dialled(server.url, credentials=credentials) as dial,
    ):
        guarded(server, "new")
        await dial.shake_hands(MODERN)
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.count("tools/call") == 2
        (refusal,) = credentials.refusals
        assert (refusal.status, refusal.challenges, refusal.sent) == (401, ('Bearer error="x"',), "Bearer old")
        assert server.connections == 1


async def test_a_request_is_sent_three_times_at_most() -> None:
    credentials = FakeCredentials("Bearer never", verdicts=(True, True, True, True))
    async with (
        serving(McpServer(stateful=False)) as server,
        dialled(server.url, credentials=credentials) as dial,
    ):
        guarded(server)
        await dial.shake_hands(MODERN)
        id = dial.send("tools/call")
        ended = await dial.connection.wait_closed()
        assert ended.kind == "auth_required"
        assert id in dial.heard.failures
        assert server.count("tools/call") == 3
        assert len(credentials.refusals) == 2


async def test_challenges_are_bounded() -> None:
    async def flood(peer: Peer) -> None:
        challenges = "".join(f"www-authenticate: Bearer x={'y' * 5000}{n}\r\n" for n in range(12))
        await peer.raw(b"HTTP/1.1 401 X\r\ncontent-length: 0\r\n" + challenges.encode() + b"\r\n")

    credentials = FakeCredentials(None, verdicts=(LOGIN,))
    async with serving(McpServer(stateful=False)) as server, dialled(server.url, credentials=credentials) as dial:
        server.on["tools/call"] = flood
        await dial.shake_hands(MODERN)
        assert await dial.ask("tools/call") is LOGIN
        (refusal,) = credentials.refusals
        assert len(refusal.challenges) == 8
        assert all(len(challenge) == 4096 for challenge in refusal.challenges)


async def test_a_needed_login_ends_the_connection_once_the_others_are_done() -> None:
    async def slow(peer: Peer) -> None:
        await anyio.sleep(1)
        await peer.result()

    credentials = FakeCredentials(None, verdicts=(LOGIN,))
    async with serving(McpServer()) as server, dialled(server.url, credentials=credentials) as dial:
        guarded(server)
        server.on["tools/list"] = slow
        await dial.shake_hands()
        listed = dial.send("tools/list")
        await anyio.sleep(0.5)
        began = anyio.current_time()
        assert await dial.ask("tools/call") is LOGIN
        assert anyio.current_time() == began
        with pytest.raises(ConnectionClosed):
            dial.send("ping")
        ended = await dial.connection.wait_closed()
        assert (ended.kind, ended.message) == ("auth_required", "a person must log in")
        assert dial.heard.replies(listed)
        assert server.count("DELETE") == 0


async def test_a_login_that_is_known_to_be_needed_sends_nothing() -> None:
    credentials = FakeCredentials("Bearer one", "Bearer one", LOGIN)
    async with serving(McpServer(stateful=False)) as server, dialled(server.url, credentials=credentials) as dial:
        await dial.shake_hands(MODERN)
        await dial.ask("ping")
        assert await dial.ask("tools/call") is LOGIN
        assert (await dial.connection.wait_closed()).kind == "auth_required"
        assert server.count("tools/call") == 0


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("method", ["initialize", "server/discover"])
async def test_a_login_needed_at_the_handshake_is_told_by_the_end_alone(known: bool, method: str) -> None:
    credentials = FakeCredentials(LOGIN) if known else FakeCredentials(None, verdicts=(LOGIN,))

    async def refuse(peer: Peer) -> None:
        await peer.answer(401)

    async with serving(HttpServer(refuse)) as server, dialled(server.url, credentials=credentials) as dial:
        dial.send(method)
        ended = await dial.connection.wait_closed()
        assert (ended.kind, ended.message) == ("auth_required", "a person must log in")
        assert dial.heard.failures == {}
        assert len(server.requests) == (not known)


async def test_a_step_up_costs_one_request_only() -> None:
    credentials = FakeCredentials("Bearer weak", verdicts=(LOGIN,))
    async with serving(McpServer()) as server, dialled(server.url, credentials=credentials) as dial:
        guarded(server, status=403)
        await dial.shake_hands()
        assert await dial.ask("tools/call") is LOGIN
        assert isinstance(await dial.ask("tools/list"), dict)
        assert credentials.refusals[0].status == 403


@pytest.mark.parametrize("status", [401, 403])
async def test_an_outage_of_the_authorization_server_costs_one_request_only(status: int) -> None:
    credentials = FakeCredentials("Bearer old", verdicts=(OUTAGE,))
    async with serving(McpServer()) as server, dialled(server.url, credentials=credentials) as dial:
        guarded(server, status=status)
        await dial.shake_hands()
        assert await dial.ask("tools/call") is OUTAGE
        assert isinstance(await dial.ask("tools/list"), dict)


async def test_an_outage_of_the_authorization_server_at_the_handshake_is_no_failure_of_the_server() -> None:
    async with serving(McpServer()) as server, dialled(server.url, credentials=FakeCredentials(OUTAGE)) as dial:
        dial.send("initialize")
        ended = await dial.connection.wait_closed()
        assert (ended.kind, ended.message) == ("login_unavailable", "the authorization server cannot be reached")
        assert server.requests == []


@pytest.mark.parametrize(("version", "beat"), [(LEGACY, "ping"), (MODERN, "server/discover")])
async def test_a_heartbeat_for_which_there_is_no_token_was_not_sent(version: str, beat: str) -> None:
    credentials = FakeCredentials("Bearer good")
    async with (
        serving(McpServer(stateful=version == LEGACY)) as server,
        dialled(server.url, credentials=credentials) as dial,
    ):
        await dial.shake_hands(version)
        await dial.ask("tools/list")
        sent = server.count(beat)
        credentials.values = [OUTAGE]
        for _ in range(5):
            id = dial.send(beat)
            assert await dial.outcome(id) is OUTAGE
            assert id in dial.heard.unsent
        assert server.count(beat) == sent
        credentials.values = ["Bearer good"]
        assert "result" in await dial.ask(beat)  # type: ignore[operator]


class SlowCredentials:
    """Lets in after a while, as an authorization server that is slow does."""

    def __init__(self, secs: float) -> None:
        self.secs = 0.0
        self.slow_secs = secs

    async def authorization(self) -> str | None:
        await anyio.sleep(self.secs)
        return "Bearer good"

    async def refused(self, refusal: Refusal) -> bool:
        await anyio.sleep(self.slow_secs)
        return False


@pytest.mark.parametrize(("secs", "sent"), [(1.0, True), (4.0, False), (60.0, False)])
async def test_a_heartbeat_whose_token_comes_too_late_for_an_answer_was_not_sent(secs: float, sent: bool) -> None:
    credentials = SlowCredentials(secs)
    async with (
        serving(McpServer()) as server,
        dialled(server.url, credentials=credentials, limits=Limits(heartbeat_timeout_secs=5.0)) as dial,
    ):
        await dial.shake_hands()
        await dial.ask("tools/list")
        credentials.secs = secs
        began = anyio.current_time()
        id = dial.send("ping")
        reply = await dial.outcome(id)
        assert isinstance(reply, dict) == sent
        assert (id in dial.heard.unsent) != sent
        assert anyio.current_time() - began <= 2.6
        await anyio.sleep(60)
        assert server.count("ping") == sent


async def test_a_heartbeat_refused_while_its_login_is_renewed_slowly_was_not_looked_at() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.answer(401, b"denied", kind="text/plain")

    credentials = SlowCredentials(60.0)
    async with (
        serving(McpServer()) as server,
        dialled(server.url, credentials=credentials, limits=Limits(heartbeat_timeout_secs=5.0)) as dial,
    ):
        await dial.shake_hands()
        server.on["ping"] = refuse
        began = anyio.current_time()
        id = dial.send("ping")
        assert isinstance(await dial.outcome(id), NotSent)
        assert id in dial.heard.unsent
        assert anyio.current_time() - began <= 2.6


async def test_a_stream_for_which_there_was_no_token_is_open_again_soon_after_there_is_one() -> None:
    async def drop(peer: Peer) -> None:
        await peer.begin_events()

    credentials = FakeCredentials("Bearer good")
    async with serving(McpServer()) as server, dialled(server.url, credentials=credentials) as dial:
        server.on["GET"] = drop
        await dial.shake_hands()
        await anyio.sleep(1)
        credentials.values = [OUTAGE]
        await anyio.sleep(5)
        tried = server.count("GET")
        await anyio.sleep(3600)
        assert server.count("GET") == tried
        credentials.values = ["Bearer good"]
        await anyio.sleep(6)
        assert server.count("GET") > tried
        assert not dial.connection.ending


async def test_a_401_that_no_login_mends_says_what_to_check() -> None:
    async with serving(McpServer()) as server, dialled(server.url, headers=(("Authorization", "Bearer s"),)) as dial:
        guarded(server)
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        ended = await dial.connection.wait_closed()
        assert ended.kind == "auth_required"
        assert ended.message == "answers 401: it refuses what moltis.toml sends: check headers.Authorization and url"


async def test_a_403_that_no_login_mends_is_one_failure() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        guarded(server, status=403)
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message == "server 'scripted' refuses tools/call (HTTP 403): denied"
        assert isinstance(await dial.ask("tools/list"), dict)


async def test_a_request_that_waits_for_a_token_holds_up_nothing_and_can_be_cancelled() -> None:
    class Slow(FakeCredentials):
        async def authorization(self) -> str | None:
            value = await super().authorization()
            if value == "slow":
                await anyio.sleep_forever()
            return value

    credentials = Slow(None, None, "slow", None)
    async with serving(McpServer(stateful=False)) as server, dialled(server.url, credentials=credentials) as dial:
        await dial.shake_hands(MODERN)
        await dial.ask("tools/list")
        id = dial.send("tools/call")
        await anyio.sleep(1)
        assert isinstance(await dial.ask("tools/list"), dict)
        dial.tell("notifications/cancelled", cancels=id)
        await anyio.sleep(1)
        assert server.count("tools/call") == 0
        began = anyio.current_time()
        dial.connection.stop()
        await dial.connection.wait_closed()
        assert anyio.current_time() == began


async def test_no_error_holds_what_was_sent_or_received() -> None:
    credentials = FakeCredentials("Bearer SECRET", verdicts=(False,))
    async with serving(McpServer()) as server:
        url = server.url + "?key=SECRET"
        async with dialled(url, credentials=credentials) as dial:

            async def page(peer: Peer) -> None:
                await peer.answer(500, b"SECRET", kind="text/html")

            server.on["tools/call"] = page
            await dial.shake_hands()
            error = await dial.ask("tools/call")
            await server.go_down()
            errors = [error, await dial.ask("tools/list")]
            assert all(isinstance(e, ServerNotReady) for e in errors)
            assert "SECRET" not in repr(errors) + str(errors) + repr(dial.connection.endpoint)


# --- redirects


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_within_the_origin_is_followed(status: int) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        fallback = server._fallback

        async def slash(peer: Peer) -> None:
            if peer.request.path.endswith("/"):
                await fallback(peer)
            else:
                await peer.answer(status, location="/mcp/")

        server.on["tools/call"] = slash
        await dial.shake_hands()
        assert isinstance(await dial.ask("tools/call"), dict)
        first, second = server.of("tools/call")
        assert first.body == second.body
        assert (first.path, second.path) == ("/mcp", "/mcp/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_elsewhere_sends_nothing_there(status: int) -> None:
    async def canary(peer: Peer) -> None:
        await peer.answer(200)

    async with serving(HttpServer(canary)) as elsewhere, serving(McpServer()) as server, dialled(server.url) as dial:

        async def away(peer: Peer) -> None:
            await peer.answer(status, location=elsewhere.url + "?token=SECRET")

        server.on["tools/call"] = away
        await dial.shake_hands()
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message == (
            f"server 'scripted' redirects to {elsewhere.url}?token=[REDACTED]"
            ", which is plain http: nothing is sent there"
        )
        assert elsewhere.requests == []


def _redirecting(server: McpServer, status: int, location: str) -> None:
    """Have all that comes to /mcp redirected; the server is at /mcp/."""
    scripts = dict(server.on)
    fallback = server._fallback

    async def slash(peer: Peer) -> None:
        if peer.request.path == "/mcp":
            await peer.answer(status, location=location)
        else:
            await scripts.get(peer.request.rpc, fallback)(peer)

    for method in ("initialize", "GET", "DELETE", "notifications/initialized", "tools/call"):
        server.on[method] = slash


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("location", ["/mcp/", "mcp/", "http://127.0.0.1:{port}/mcp/"])
@pytest.mark.parametrize(
    ("credentials", "headers"),
    [
        (FakeCredentials("Bearer SECRET"), ()),
        (FakeCredentials(None), (("Authorization", "Bearer SECRET"),)),
        (FakeCredentials(None), (("X-Api-Key", "Bearer SECRET"),)),
    ],
)
async def test_credentials_follow_a_redirect_within_the_origin_and_later_requests_go_there_at_once(
    status: int, location: str, credentials: FakeCredentials, headers: tuple[tuple[str, str], ...]
) -> None:
    async with (
        serving(McpServer(stream=True)) as server,
        dialled(server.url, credentials=credentials, headers=headers) as dial,
    ):
        _redirecting(server, status, location.format(port=server.port))
        await dial.shake_hands()
        for _ in range(3):
            assert isinstance(await dial.ask("tools/call"), dict)
        asked, *rest = server.requests
        assert asked.path == "/mcp"
        assert {request.path for request in rest} == {"/mcp/"}
        assert all("Bearer SECRET" in request.headers.values() for request in server.requests)
        assert len(dial.heard.oddities) == 1
        assert dial.heard.oddities[0].startswith("redirects what is sent to its url to http://127.0.0.1")
        assert "write url" not in dial.heard.oddities[0], "plain http is advised to nobody"


async def test_where_it_was_redirected_to_is_given_up_when_it_is_not_there_any_more() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        _redirecting(server, 307, "/mcp/")
        await dial.shake_hands()
        await dial.ask("tools/call")

        async def moved(peer: Peer) -> None:
            if peer.request.path == "/mcp":
                await peer.result()
            else:
                await peer.answer(410)

        server.on["tools/call"] = moved
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        assert isinstance(await dial.ask("tools/call"), dict)
        assert server.of("tools/call")[-1].path == "/mcp"


@pytest.mark.parametrize("status", [307, 308])
async def test_credentials_do_not_follow_a_redirect_to_another_port(status: int) -> None:
    async def canary(peer: Peer) -> None:
        await peer.answer(200)

    async with (
        serving(HttpServer(canary)) as elsewhere,
        serving(McpServer()) as server,
        dialled(server.url, credentials=FakeCredentials("Bearer SECRET")) as dial,
    ):
        _redirecting(server, status, elsewhere.url)
        dial.send("initialize")
        ended = await dial.connection.wait_lost()
        assert ended.message.startswith(f"redirects to {elsewhere.url}, which is plain http")
        assert elsewhere.requests == []


async def test_that_it_is_redirected_is_said_before_a_person_logs_in() -> None:
    async with serving(McpServer()) as server:
        credentials = FakeCredentials(None, verdicts=(LoginNeeded("log in", server="scripted"),))
        async with dialled(server.url, credentials=credentials) as dial:

            async def refuse(peer: Peer) -> None:
                if peer.request.path == "/mcp":
                    await peer.answer(307, location="/mcp/")
                else:
                    assert dial.heard.oddities, "it is said already"
                    await peer.answer(401, www_authenticate="Bearer")

            server.on["initialize"] = refuse
            dial.send("initialize")
            assert (await dial.connection.wait_lost()).kind == "auth_required"
            assert len(dial.heard.oddities) == 1


async def test_a_loop_of_redirects_ends() -> None:
    async def loop(peer: Peer) -> None:
        await peer.answer(307, location=peer.request.path + "x")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = loop
        await dial.shake_hands()
        assert isinstance(await dial.ask("tools/call"), ServerNotReady)
        assert server.count("tools/call") == 4


# --- Retry-After


async def test_while_a_server_wants_to_be_left_alone_it_is() -> None:
    async def overloaded(peer: Peer) -> None:
        server.on.pop("tools/call")
        await peer.answer(429, retry_after="5")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        server.on["tools/call"] = overloaded
        call = dial.send("tools/call")
        await anyio.sleep(1)
        other = dial.send("tools/list")
        await anyio.sleep(3)
        assert server.seen() == ["server/discover", "tools/call"]
        assert isinstance(await dial.outcome(call), dict)
        assert isinstance(await dial.outcome(other), dict)
        held, *later = server.requests[1:]
        assert all(request.at - held.at >= 5 for request in later)
        assert server.count("tools/call") == 2


async def test_what_may_have_run_is_not_sent_again_after_503() -> None:
    async def unavailable(peer: Peer) -> None:
        await peer.answer(503, retry_after="10")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        server.on["tools/call"] = unavailable
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message == ("server 'scripted' is overloaded (HTTP 503) and wants to be left alone for 10 s")
        began = anyio.current_time()
        assert isinstance(await dial.ask("tools/list"), dict)
        assert anyio.current_time() - began == pytest.approx(10, abs=0.1)
        assert server.count("tools/call") == 1


async def test_what_changes_nothing_is_sent_again_after_503_once() -> None:
    async def unavailable(peer: Peer) -> None:
        await peer.answer(503, retry_after="10")

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        server.on["tools/list"] = unavailable
        assert isinstance(await dial.ask("tools/list"), ServerNotReady)
        assert server.count("tools/list") == 2


@pytest.mark.parametrize(
    ("value", "secs"),
    [("0", 0), ("-1", None), ("soon", None), ("1000000000", 3600), ("DATE", 30)],
)
async def test_how_long_it_is_left_alone(value: str, secs: float | None) -> None:
    if value == "DATE":
        value = email.utils.formatdate(time.time() + 30.5, usegmt=True)

    async def overloaded(peer: Peer) -> None:
        server.on.pop("tools/list")
        await peer.answer(429, retry_after=value)

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        await dial.shake_hands(MODERN)
        server.on["tools/list"] = overloaded
        began = anyio.current_time()
        result = await dial.ask("tools/list")
        assert isinstance(result, dict) == (secs is not None)
        assert anyio.current_time() - began == pytest.approx(secs or 0, abs=2)


async def test_a_stream_that_is_not_welcome_now_holds_up_no_request() -> None:
    async def overloaded(peer: Peer) -> None:
        await peer.answer(503, retry_after="300")

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["GET"] = overloaded
        await dial.shake_hands()
        await anyio.sleep(1)
        began = anyio.current_time()
        assert isinstance(await dial.ask("tools/call"), dict)
        assert anyio.current_time() == began
        await anyio.sleep(1000)
        assert server.count("GET") == 3


@pytest.mark.parametrize("method", ["initialize", "server/discover"])
async def test_at_the_handshake_the_connection_ends_and_says_when_to_come_back(method: str) -> None:
    async def unavailable(peer: Peer) -> None:
        await peer.answer(503, retry_after="120")

    async with serving(HttpServer(unavailable)) as server, dialled(server.url) as dial:
        dial.send(method)
        ended = await dial.connection.wait_closed()
        assert (ended.kind, ended.retry_after_secs) == ("connect_failed", 120)
        assert dial.heard.failures == {}


# --- servers that know no better


async def test_a_server_that_knows_no_discovery_can_still_be_asked_the_older_way() -> None:
    for status in (400, 404, 405, 500):

        async def refuse(peer: Peer, status: int = status) -> None:
            await peer.answer(status, b"<html>", kind="text/html")

        async with serving(McpServer()) as server, dialled(server.url) as dial:
            server.on["server/discover"] = refuse
            reply = await dial.ask("server/discover", version=MODERN)
            assert isinstance(reply, dict)
            assert reply["error"] == {"code": -32601, "message": f"HTTP {status}"}
            await dial.shake_hands()
            assert isinstance(await dial.ask("tools/list"), dict)


@pytest.mark.parametrize("status", [404, 500, 502])
async def test_a_handshake_that_fails_ends_the_connection(status: int) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.answer(status)

    async with serving(HttpServer(refuse)) as server, dialled(server.url) as dial:
        dial.send("initialize")
        ended = await dial.connection.wait_closed()
        assert (ended.kind, ended.message) == ("connect_failed", f"answered initialize with HTTP {status}")


@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("status", [400, 404, 405])
async def test_who_knows_another_way_is_asked_first(takes: bool, status: int) -> None:
    asked: list[tuple[bytes, str, int]] = []

    async def rejected(message: bytes, about: object, given: int) -> bool:
        asked.append((message, getattr(about, "method", ""), given))
        return takes

    async def refuse(peer: Peer) -> None:
        await peer.answer(status)

    async with serving(HttpServer(refuse)) as server, dialled(server.url, rejected=rejected) as dial:
        dial.send("server/discover", version=MODERN)
        await anyio.sleep(1)
        assert asked == [(server.requests[0].body, "server/discover", status)]
        assert len(dial.heard.messages) == (not takes)
        assert not dial.connection.ending


async def test_a_json_rpc_error_at_any_status_is_the_reply() -> None:
    error = {"code": -32602, "message": "no such tool"}

    async def refuse(peer: Peer) -> None:
        await peer.answer(400, {"jsonrpc": "2.0", "id": None, "error": error})

    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on["tools/call"] = refuse
        await dial.shake_hands()
        assert await dial.ask("tools/call") == {"jsonrpc": "2.0", "id": 2, "error": error}
