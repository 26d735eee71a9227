"""Sessions: the table by itself, under a clock of our own, and what hosts see of it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from gateway_http_fakes import PRINCIPALS, Client, StubGateway, modern, modern_headers, request

from moltis.gateway import messages
from moltis.gateway.http.conversations import Conversations
from moltis.gateway.http.sessions import Session, Sessions
from moltis.gateway.views import ALL, path_of

GOOD = PRINCIPALS["good"]


class Table:
    """A session table whose time the test moves."""

    def __init__(self, gateway: StubGateway, **limits: Any) -> None:
        self.time = 0.0
        self.gateway = gateway
        self.sessions = Sessions(lambda: self.time, **limits)

    def begin(self) -> Session | None:
        self.time += 1
        return self.sessions.begin(ALL, GOOD, self.gateway.new_host)

    def knows(self, session: Session) -> bool:
        return self.sessions.find(session.id, ALL, GOOD) is session


def begun(table: Table) -> Session:
    session = table.begin()
    assert session is not None
    return session


def test_a_session_is_found_by_the_one_who_began_it_where_it_began(gateway: StubGateway) -> None:
    session = begun(Table(gateway))
    table = Table(gateway)
    session = begun(table)
    assert table.sessions.find(session.id, ALL, GOOD) is session
    assert table.sessions.find(session.id, ALL, PRINCIPALS["other"]) is None
    assert table.sessions.find(session.id, path_of("files"), GOOD) is None
    assert table.sessions.find("x", ALL, GOOD) is None


def test_ids_are_long_and_never_the_same(gateway: StubGateway) -> None:
    table = Table(gateway)
    ids = {begun(table).id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(id) == 32 for id in ids)


def test_the_one_that_has_been_idle_longest_makes_room(gateway: StubGateway) -> None:
    table = Table(gateway, max_sessions=3)
    first, second, third = begun(table), begun(table), begun(table)
    table.sessions.enter(first)
    table.time += 1
    table.sessions.enter(second)
    table.sessions.leave(second)
    fourth = begun(table)
    assert [table.knows(session) for session in (first, second, third, fourth)] == [True, True, False, True]
    assert gateway.hosts[2].is_closed


def test_there_is_no_room_when_all_are_in_use(gateway: StubGateway) -> None:
    table = Table(gateway, max_sessions=2)
    for _ in range(2):
        table.sessions.enter(begun(table))
    assert table.begin() is None
    assert len(gateway.hosts) == 2, "and no host was made in vain"


def test_a_session_ends_when_it_was_idle_too_long_and_never_while_it_is_used(gateway: StubGateway) -> None:
    table = Table(gateway, idle_secs=100.0)
    idle, busy = begun(table), begun(table)
    table.sessions.enter(busy)
    table.time += 99
    table.sessions.end_idle()
    assert table.knows(idle)
    table.time += 3
    assert table.sessions.end_idle()
    assert (table.knows(idle), table.knows(busy)) == (False, True)
    table.time += 1000
    table.sessions.leave(busy)
    assert table.sessions.end_idle(), "it is idle from now on"
    table.time += 101
    assert not table.sessions.end_idle(), "none is left"
    assert [host.is_closed for host in gateway.hosts] == [True, True]


def test_ending_twice_is_harmless(gateway: StubGateway) -> None:
    table = Table(gateway)
    session = begun(table)
    table.sessions.end(session)
    table.sessions.end(session)
    table.sessions.end_all()
    assert len(table.sessions) == 0


async def test_a_session_is_one_host(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    for _ in range(3):
        assert (await client.ask("POST", body=request("echo"), headers=session)).status == 200
    tell = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await client.ask("POST", body=tell, headers=session)).status == 202
    (host,) = gateway.hosts
    assert [ask.method for ask in host.asks] == ["initialize", "echo", "echo", "echo"]
    assert [tell.method for tell in host.tells] == ["notifications/initialized"]
    assert served.app.sessions == 1


async def test_a_request_without_a_session_has_a_host_of_its_own(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    for _ in range(2):
        await client.ask("POST", body=request("echo"))
    assert [host.is_closed for host in gateway.hosts] == [True, True]
    assert served.app.sessions == 0


async def test_an_initialize_that_fails_begins_no_session(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=request("initialize", {"wrong": 1}))
    assert (answer.code, "mcp-session-id" in answer.headers) == (-32602, False)
    assert (served.app.sessions, gateway.hosts[0].is_closed) == (0, True)


@pytest.mark.parametrize(
    ("path", "token"), [("/mcp", "other"), ("/servers/files/mcp", "good"), ("/servers/git/mcp", "good")]
)
async def test_a_foreign_session_is_none(served: Any, gateway: StubGateway, path: str, token: str) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    headers = {"Mcp-Session-Id": session, "Authorization": f"Bearer {token}"}
    for method, body in [("POST", request("echo")), ("GET", b""), ("DELETE", b"")]:
        answer = await client.ask(method, path, body, headers)
        assert (answer.status, answer.code) == (404, -32600), method
    assert not gateway.hosts[0].is_closed
    assert len(gateway.hosts) == 1


async def test_a_session_of_one_server_is_at_its_path(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = await client.initialize("/servers/files/mcp")
    assert gateway.hosts[0].server == "files"
    answer = await client.ask("POST", "/servers/files/mcp", request("echo"), {"Mcp-Session-Id": session})
    assert answer.status == 200


async def test_delete_ends_a_session_its_streams_and_its_requests(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    stream: Client = await served.dial()
    await stream.send("GET", headers={**session, "Accept": "text/event-stream"})
    await stream.response_head()
    caller: Client = await served.dial()
    await caller.send("POST", body=request("later"), headers=session)
    await gateway.waiting()
    answer = await client.ask("DELETE", headers=session)
    assert (answer.status, answer.body) == (204, b"")
    assert await stream.event() is None
    assert (await caller.response()).code == -32603
    assert gateway.hosts[0].is_closed
    assert (await client.ask("POST", body=request("echo"), headers=session)).status == 404
    assert (await client.ask("DELETE", headers=session)).status == 404


async def test_an_answer_belongs_to_a_session(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    body = {"jsonrpc": "2.0", "id": 7, "error": {"code": -1, "message": "no"}}
    assert (await client.ask("POST", body=body)).status == 400
    session = {"Mcp-Session-Id": await client.initialize()}
    assert (await client.ask("POST", body=body, headers=session)).status == 202
    (answer,) = gateway.hosts[0].answers
    assert (answer.id, answer.result) == (b"7", None)


async def test_when_all_sessions_are_in_use_a_new_host_is_told_to_come_later(serve: Any, gateway: StubGateway) -> None:
    conversations = Conversations(gateway, Sessions(anyio.current_time, max_sessions=1))
    async with serve(conversations=conversations) as served:
        client = await served.dial()
        session = {"Mcp-Session-Id": await client.initialize()}
        await client.send("POST", body=request("later"), headers=session)
        ((ask, outlet),) = await gateway.waiting()
        other = await served.dial()
        answer = await other.ask("POST", body=request("initialize"))
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, -32603, "5")
        outlet.reply(messages.result(ask.id, b"{}"))
        await client.response()
        assert (await other.ask("POST", body=request("initialize"))).status == 200
        assert gateway.hosts[0].is_closed, "it was idle then, and made room"


async def test_two_requests_of_one_id_both_end(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    other: Client = await served.dial()
    await client.send("POST", body=request("later", id=5), headers=session)
    await gateway.waiting()
    await other.send("POST", body=request("later", id=5), headers=session)
    first, second = await gateway.waiting(2)
    second[1].reply(messages.result(b"5", b'"second"'))
    first[1].reply(messages.result(b"5", b'"first"'))
    assert (await client.response()).json["result"] == "first"
    assert (await other.response()).json["result"] == "second"


async def test_a_principal_whose_token_is_revoked_loses_what_it_has_open_and_others_do_not(
    served: Any, gateway: StubGateway
) -> None:
    clients: dict[str, Client] = {}
    for name in ("good", "other"):
        clients[name] = client = await served.dial()
        token = {"Authorization": f"Bearer {name}"}
        session = await client.initialize(**token)
        headers = {**token, "Mcp-Session-Id": session, "Accept": "text/event-stream"}
        await client.send("GET", headers=headers)
        await client.response_head()
    listener: Client = await served.dial()
    method = "subscriptions/listen"
    await listener.send("POST", body=modern(method), headers=modern_headers(method))
    await gateway.waiting()
    served.app.end_principal("good")
    assert await clients["good"].event() is None
    assert (await listener.response()).code == -32603
    assert [host.is_closed for host in gateway.hosts[:2]] == [True, False]
    assert gateway.hosts[1].unsolicited(messages.notification("notifications/x"))
    assert (await clients["other"].event())["method"] == "notifications/x"


@pytest.mark.parametrize(
    "version", ["2027-01-15", "DRAFT-2026-v2", "2024-10-07", "", "2026-07-28", "2025-06-18", None, "\xe4"]
)
@pytest.mark.parametrize("session", [None, "unknown"])
async def test_initialize_negotiates_whatever_its_version_header_says(
    served: Any, version: str | None, session: str | None
) -> None:
    """MCP 2025-11-25, Lifecycle: the body says what a host speaks; the header is for the requests that follow."""
    client: Client = await served.dial()
    headers = {"MCP-Protocol-Version": version, "Mcp-Session-Id": session}
    answer = await client.ask("POST", body=request("initialize", {"protocolVersion": "2025-06-18"}), headers=headers)
    assert answer.status == 200
    assert answer.json["result"]["protocolVersion"] == "2025-06-18"
    agreed = {
        "MCP-Protocol-Version": answer.headers["mcp-protocol-version"],
        "Mcp-Session-Id": answer.headers["mcp-session-id"],
    }
    assert (await client.ask("POST", body=request("echo", {"text": "a"}), headers=agreed)).status == 200


@pytest.mark.parametrize(("version", "status"), [("2027-01-15", 400), ("", 200), (None, 200), ("2026-07-28", 400)])
async def test_the_requests_after_initialize_say_what_was_agreed(served: Any, version: str | None, status: int) -> None:
    client: Client = await served.dial()
    begun = await client.ask("POST", body=request("initialize", {}))
    headers = {"MCP-Protocol-Version": version, "Mcp-Session-Id": begun.headers["mcp-session-id"]}
    assert (await client.ask("POST", body=request("echo", {"text": "a"}), headers=headers)).status == status


async def test_an_initialize_that_speaks_for_itself_is_of_its_own_era(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=modern("initialize"), headers=modern_headers("initialize"))
    assert "mcp-session-id" not in answer.headers
    assert len(gateway.hosts) == 1


DISCOVER = {"MCP-Protocol-Version": None, "Mcp-Method": None}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Mcp-Method": "server/discover"},
        {"MCP-Protocol-Version": "2026-07-28"},
        {"MCP-Protocol-Version": ""},
        {"Mcp-Name": "x", "Mcp-Session-Id": "unknown"},
    ],
)
async def test_discover_is_answered_when_its_body_is_complete(served: Any, headers: dict[str, str]) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=modern("server/discover"), headers={**DISCOVER, **headers})
    assert answer.status == 200
    assert answer.json["result"] == {"supportedVersions": ["2026-07-28"]}


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Method": "initialize"},
        {"MCP-Protocol-Version": "2025-06-18", "Mcp-Method": "server/discover"},
        {"MCP-Protocol-Version": "2027-01-15"},
    ],
)
async def test_what_discover_says_in_headers_must_agree_with_its_body(served: Any, headers: dict[str, str]) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=modern("server/discover"), headers={**DISCOVER, **headers})
    assert (answer.status, answer.code) == (400, -32020)


@pytest.mark.parametrize("method", ["tools/list", "tools/call", "resources/list"])
async def test_what_is_seen_on_the_way_has_to_be_said_in_headers(served: Any, method: str) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=modern(method, {"name": "x"}), headers=DISCOVER)
    assert (answer.status, answer.code) == (400, -32020)


async def test_discover_without_its_members_is_told_which(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=request("server/discover"), headers=modern_headers("server/discover"))
    assert (answer.status, answer.code) == (400, -32602)
    assert "io.modelcontextprotocol/protocolVersion" in answer.json["error"]["message"]
