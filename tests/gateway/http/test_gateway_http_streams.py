"""Streams: replies that something precedes, questions, unsolicited messages, and those who do not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from gateway_http_fakes import BOTH, Client, StubGateway, modern, modern_headers, request

from moltis.gateway import messages
from moltis.gateway.http.conversations import Conversations

PROGRESS = messages.notification("notifications/progress", b'{"progress":1}')


async def until(claim: Callable[[], bool]) -> None:
    while not claim():  # noqa: ASYNC110 - what is waited for is in the server, and has no event
        await anyio.sleep(0.002)


async def test_a_reply_that_comes_first_is_json(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=request("later"))
    ((ask, outlet),) = await gateway.waiting()
    outlet.reply(messages.result(ask.id, b'{"late":true}'))
    answer = await client.response()
    assert (answer.headers["content-type"], answer.json["result"]) == ("application/json", {"late": True})


async def test_a_notification_before_the_reply_makes_it_a_stream_that_ends_with_the_reply(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=request("later"))
    ((ask, outlet),) = await gateway.waiting()
    assert outlet.tell(PROGRESS)
    head = await client.response_head()
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert (await client.event())["method"] == "notifications/progress"
    outlet.reply(messages.error(ask.id, -32601, "no"), 404)
    assert (await client.event())["error"]["code"] == -32601
    assert await client.event() is None
    assert not outlet.tell(PROGRESS), "after the reply nothing is sent"
    assert (await client.ask("POST", body=request("echo"))).status == 200, "the connection goes on"


async def test_what_precedes_a_reply_that_is_there_at_once_still_precedes_it(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=request("chatty"))
    assert [event.get("method", "reply") for event in answer.events] == ["notifications/progress", "reply"]


async def test_a_host_that_takes_no_stream_gets_json_and_nothing_else(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    await client.send("POST", body=request("later"), headers={"Accept": "application/json", "Mcp-Session-Id": session})
    ((ask, outlet),) = await gateway.waiting()
    assert (outlet.tell(PROGRESS), outlet.can_ask()) == (False, False)
    outlet.reply(messages.result(ask.id, b"{}"))
    assert (await client.response()).json["result"] == {}


async def test_a_host_that_takes_only_a_stream_gets_one(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=request("echo"), headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.events[0]["result"] == {"echo": None}


async def test_a_question_goes_out_on_the_stream_and_its_answer_comes_by_post(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    await client.send("POST", body=request("later"), headers=session)
    ((ask, outlet),) = await gateway.waiting()
    assert outlet.can_ask()
    assert outlet.tell(messages.request(77, "roots/list"))
    await client.response_head()
    assert (await client.event())["id"] == 77
    other: Client = await served.dial()
    answer = await other.ask("POST", body={"jsonrpc": "2.0", "id": 77, "result": {"roots": []}}, headers=session)
    assert (answer.status, answer.body) == (202, b"")
    assert [(found.id, found.result) for found in gateway.hosts[0].answers] == [(b"77", b'{"roots": []}')]
    outlet.reply(messages.result(ask.id, b"{}"))
    assert (await client.event())["id"] == 1


async def test_without_a_session_a_host_cannot_be_asked(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=request("later"))
    await client.stream.send(b"")
    other: Client = await served.dial()
    await other.send("POST", body=modern("later"), headers=modern_headers("later"))
    for _, outlet in await gateway.waiting(2):
        assert not outlet.can_ask()


async def test_get_opens_a_stream_for_what_belongs_to_no_request(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    (host,) = gateway.hosts
    assert not host.unsolicited(PROGRESS)
    host.kept.append(messages.notification("notifications/tools/list_changed"))
    listener: Client = await served.dial()
    await listener.send("GET", headers={"Mcp-Session-Id": session, "Accept": "text/event-stream"})
    head = await listener.response_head()
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert (await listener.event())["method"] == "notifications/tools/list_changed"
    assert host.times_attached == 1
    assert host.unsolicited(PROGRESS)
    assert (await listener.event())["method"] == "notifications/progress"
    await listener.stream.aclose()
    await until(lambda: not host.unsolicited(PROGRESS))


async def test_what_belongs_to_no_request_goes_to_the_newest_stream_alone(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    headers = {"Mcp-Session-Id": session, "Accept": "text/event-stream"}
    listeners: list[Client] = [await served.dial() for _ in range(5)]
    for listener in listeners:
        await listener.send("GET", headers=headers)
        await listener.response_head()
    assert await listeners[0].event() is None, "there may be four, and the oldest made room"
    (host,) = gateway.hosts
    assert host.unsolicited(PROGRESS)
    assert (await listeners[4].event())["method"] == "notifications/progress"
    await listeners[4].stream.aclose()
    await until(lambda: len(served.app._conversations._flows) == 3)
    assert host.unsolicited(PROGRESS)
    assert (await listeners[3].event())["method"] == "notifications/progress"


async def test_get_wants_a_stream_to_be_acceptable(served: Any) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    answer = await client.ask("GET", headers={"Mcp-Session-Id": session, "Accept": "application/json"})
    assert answer.status == 406


async def test_a_silent_stream_gets_comments_and_so_does_a_silent_request(serve: Any, gateway: StubGateway) -> None:
    async with serve(conversations=Conversations(gateway, pulse_secs=0.01)) as served:
        client = await served.dial()
        session = await client.initialize()
        await client.send("GET", headers={"Mcp-Session-Id": session, "Accept": "text/event-stream"})
        await client.response_head()
        chunks = client.chunks()
        first = b"retry: 3000\n\n"  # when to open it again; of the stream of a request that would be no use
        assert [await anext(chunks) for _ in range(3)] == [first, b": still here\n\n", b": still here\n\n"]
        other = await served.dial()
        await other.send("POST", body=request("later"))
        assert (await other.response_head()).headers["content-type"] == "text/event-stream"
        ((ask, outlet),) = await gateway.waiting()
        outlet.reply(messages.result(ask.id, b"{}"))
        assert (await other.event())["id"] == 1
        plain = await served.dial()
        await plain.send("POST", body=request("later"), headers={"Accept": "application/json"})
        ask, outlet = (await gateway.waiting(2))[1]
        await anext(chunks)
        await anext(chunks)
        outlet.reply(messages.result(ask.id, b"{}"))
        assert (await plain.response()).headers["content-type"] == "application/json"


async def test_nothing_ticks_when_nothing_is_open(serve: Any, gateway: StubGateway) -> None:
    conversations = Conversations(gateway, pulse_secs=0.01)
    async with serve(conversations=conversations) as served:
        client = await served.dial()
        await client.send("POST", body=request("later"), headers={"Accept": "application/json"})
        ((ask, outlet),) = await gateway.waiting()
        outlet.reply(messages.result(ask.id, b"{}"))
        await client.response()
        await until(lambda: conversations._pulse._timer is None)
        assert conversations.in_flight == 0


async def test_a_reader_that_stops_reading_is_cut_off_when_too_much_waits_for_it(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    await client.send("POST", body=request("later"), headers={"Mcp-Session-Id": session})
    ((_, outlet),) = await gateway.waiting()
    message = messages.notification("notifications/message", b'{"data":"%b"}' % (b"x" * 100_000))
    sent = 0
    while outlet.tell(message):
        sent += 1
        assert sent < 300, "it must end some time"
        await anyio.lowlevel.checkpoint()
    assert sent >= 40
    await until(lambda: not served.app._conversations._flows)
    assert not outlet.tell(PROGRESS)
    (host,) = gateway.hosts
    assert not host.is_closed, "its session can be used on"
    assert (await (await served.dial()).ask("POST", body=request("echo"), headers={"Mcp-Session-Id": session})).status


async def test_what_belongs_to_no_request_waits_for_a_slow_reader_and_cuts_it_off_never(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    await client.send("GET", headers={"Mcp-Session-Id": session, "Accept": "text/event-stream"})
    await client.response_head()
    (host,) = gateway.hosts
    message = messages.notification("notifications/message", b'{"data":"%b"}' % (b"x" * 100_000))
    sent = 0
    while host.unsolicited(message):
        sent += 1
        assert sent < 300, "it must end some time"
        await anyio.lowlevel.checkpoint()
    host.kept.append(PROGRESS)
    times = host.times_attached
    read = b""
    async for chunk in client.chunks():
        read += chunk
        if b"notifications/progress" in read:
            break
    assert read.count(b"notifications/message") == sent
    assert host.times_attached > times, "it was told that there is room"


async def test_one_message_is_taken_however_large_it_is(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=request("later"))
    ((ask, outlet),) = await gateway.waiting()
    huge = b'"%b"' % (b"x" * 6_000_000)
    assert outlet.tell(messages.notification("notifications/message", huge))
    outlet.reply(messages.result(ask.id, huge))
    answer = await client.response()
    assert [len(str(event)) > 6_000_000 for event in answer.events] == [True, True]


async def test_a_reader_that_takes_nothing_of_a_large_reply_is_cut_off_after_a_while(
    served: Any, gateway: StubGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moltis.httpd.server import HttpServer

    monkeypatch.setattr(HttpServer, "stuck_secs", 0.05)
    client: Client = await served.dial()
    await client.send("POST", body=request("later"))
    ((ask, outlet),) = await gateway.waiting()
    outlet.reply(messages.result(ask.id, b'"%b"' % (b"x" * 16_000_000)))
    server = served.listener._server
    await until(lambda: not server.server_state.connections)


async def test_a_request_of_2026_07_28_is_given_up_when_its_connection_is_lost(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=modern("later"), headers=modern_headers("later"))
    await gateway.waiting()
    (host,) = gateway.hosts
    assert not host.is_closed
    await client.stream.aclose()
    await until(lambda: host.is_closed)
    await until(lambda: served.app.in_flight == 0)


async def test_a_stream_of_2026_07_28_is_given_up_when_its_connection_is_lost(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    await client.send("POST", body=modern("subscriptions/listen"), headers=modern_headers("subscriptions/listen"))
    ((_, outlet),) = await gateway.waiting()
    assert outlet.tell(PROGRESS)
    await client.response_head()
    assert (await client.event())["method"] == "notifications/progress"
    await client.stream.aclose()
    (host,) = gateway.hosts
    await until(lambda: host.is_closed)
    assert not outlet.tell(PROGRESS)


async def test_a_host_of_2026_07_28_lives_as_long_as_its_request(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    for _ in range(2):
        assert (await client.ask("POST", body=modern("echo"), headers=modern_headers("echo"))).status == 200
    await until(lambda: all(host.is_closed for host in gateway.hosts))
    assert len(gateway.hosts) == 2
    await client.stream.aclose()


@pytest.mark.parametrize("in_session", [True, False])
async def test_a_legacy_request_goes_on_when_its_connection_is_lost(
    served: Any, gateway: StubGateway, in_session: bool
) -> None:
    client: Client = await served.dial()
    headers = {"Mcp-Session-Id": await client.initialize()} if in_session else {}
    await client.send("POST", body=request("later"), headers=headers)
    ((ask, outlet),) = await gateway.waiting()
    await client.stream.aclose()
    server = served.listener._server
    await until(lambda: not server.server_state.connections)
    host = gateway.hosts[0]
    assert not host.is_closed
    outlet.reply(messages.result(ask.id, b"{}"))
    await until(lambda: served.app.in_flight == 0)
    assert host.is_closed is not in_session


async def test_a_legacy_stream_that_is_lost_takes_no_more_and_its_request_goes_on(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    session = await client.initialize()
    await client.send("POST", body=request("later"), headers={"Mcp-Session-Id": session})
    ((ask, outlet),) = await gateway.waiting()
    assert outlet.tell(PROGRESS)
    await client.response_head()
    await client.event()
    await client.stream.aclose()
    await until(lambda: not outlet.tell(PROGRESS))
    assert (outlet.can_ask(), gateway.hosts[0].is_closed) == (False, False)
    outlet.reply(messages.result(ask.id, b"{}"))


async def test_a_request_that_its_host_cancelled_is_answered_so_that_its_post_ends(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    await client.send("POST", body=request("later", id="a"), headers=session)
    ((_, outlet),) = await gateway.waiting()
    other: Client = await served.dial()
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}}
    assert (await other.ask("POST", body=body, headers=session)).status == 202
    answer = await client.response()
    assert (answer.code, answer.json["id"]) == (-32800, "a")
    assert [tell.method for tell in gateway.hosts[0].tells] == ["notifications/cancelled"]
    outlet.reply(b"too late")


async def test_accept_of_both_is_what_hosts_send(served: Any) -> None:
    assert BOTH == "application/json, text/event-stream"
    client: Client = await served.dial()
    answer = await client.ask("POST", body=request("echo"))
    assert answer.headers["content-type"] == "application/json"
