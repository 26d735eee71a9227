"""A connection of the control socket that becomes an MCP host's."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import anyio
import pytest
from control_fakes import FakeDaemon, FakeHost, Wire

from moltis.control.listener import Listener, Timing
from moltis.gateway import messages
from moltis.gateway.messages import Answer, Tell

Serve = Callable[..., AbstractAsyncContextManager[Listener]]
Dial = Callable[[], AbstractAsyncContextManager[Wire]]

CONNECT = b'{"jsonrpc":"2.0","id":1,"method":"mcp.connect"}\n'
PING = b'{"jsonrpc":"2.0","id":"p%d","method":"ping"}\n'
MIB = 1024 * 1024


def host(daemon: FakeDaemon, index: int = 0) -> FakeHost:
    assert daemon.the_gateway is not None
    return daemon.the_gateway.hosts[index]


async def test_after_the_answer_the_connection_speaks_mcp_both_ways(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    async with serve() as listener, dial() as wire:
        assert await wire.call("mcp.connect") == {"ok": True}
        assert listener.handed_over == 1
        await wire.send(PING % 1)
        assert await wire.line() == b'{"jsonrpc":"2.0","id":"p1","result":{"asked":"ping"}}'
        assert host(daemon).unsolicited(messages.notification("notifications/tools/list_changed"))
        assert (await wire.json())["method"] == "notifications/tools/list_changed"
        await wire.send(b'{"jsonrpc":"2.0","id":9,"method":"daemon.status"}\n')
        assert (await wire.json())["result"] == {"asked": "daemon.status"}
        await wire.send(
            b'{"jsonrpc":"2.0","id":4,"result":{}}\n{"jsonrpc":"2.0","method":"notifications/x"}\n' + PING % 2
        )
        await wire.line()
    assert [type(h) for h in host(daemon).heard if isinstance(h, Answer | Tell)] == [Answer, Tell]
    assert host(daemon).server is None


async def test_a_host_of_one_server_sees_that_one(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve(), dial() as wire:
        assert await wire.call("mcp.connect", server="alpha") == {"ok": True}
        assert host(daemon).server == "alpha"


async def test_a_server_that_is_not_there_is_said_and_the_connection_goes_on(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    async with serve() as listener, dial() as wire:
        assert (await wire.call("mcp.connect", server="alhpa"))["code"] == -32004
        assert listener.handed_over == 0
        assert (await wire.call("daemon.status"))["name"] == "moltis"
        assert await wire.call("mcp.connect", server="alpha") == {"ok": True}


async def test_a_daemon_without_a_gateway_says_so(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    daemon.the_gateway = None
    async with serve(), dial() as wire:
        assert "gateway" in (await wire.call("mcp.connect"))["message"]


async def test_a_gateway_that_is_closed_takes_no_hosts_and_says_to_try_again(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    assert daemon.the_gateway is not None
    daemon.the_gateway.is_closed = True
    async with serve(), dial() as wire:
        assert (await wire.call("mcp.connect"))["data"]["kind"] == "busy"


async def test_what_was_sent_before_the_answer_is_the_hosts_in_order_and_in_any_pieces(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    async with serve(), dial() as wire:
        await wire.send(CONNECT + PING % 1 + b"\r\n" + PING % 2 + (PING % 3)[:20])
        assert (await wire.json())["result"] == {"ok": True}
        assert [(await wire.json())["id"] for _ in range(2)] == ["p1", "p2"]
        await wire.send((PING % 3)[20:])
        assert (await wire.json())["id"] == "p3"


async def test_a_host_that_half_closes_is_answered_and_then_closed(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    async with serve(), dial() as wire:
        await wire.send(CONNECT + b'{"jsonrpc":"2.0","id":5,"method":"wait"}\n' + PING % 1)
        wire.sock.shutdown(socket.SHUT_WR)
        assert (await wire.json())["result"] == {"ok": True}
        assert (await wire.json())["id"] == "p1"
        host(daemon).waiting[0].reply(messages.result(b"5", b"{}"))
        assert (await wire.json())["id"] == 5
        assert await wire.line() == b""
        await host(daemon).was_closed.wait()


@pytest.mark.parametrize(
    "line",
    [
        b'[{"jsonrpc":"2.0","id":1,"method":"mcp.connect"}]\n',
        b'{"jsonrpc":"2.0","method":"mcp.connect"}\n',
        b'{"jsonrpc":"2.0","id":7,"method":"mcp.test","params":{"name":"slow","command":"x"}}\n' + CONNECT,
        b'{"jsonrpc":"2.0","id":7,"method":"mcp.subscribe"}\n' + CONNECT,
    ],
    ids=["batch", "notification", "busy", "subscribed"],
)
async def test_only_a_free_connection_is_handed_over(serve: Serve, dial: Dial, daemon: FakeDaemon, line: bytes) -> None:
    async with serve() as listener, dial() as wire:
        await wire.send(line + b'{"jsonrpc":"2.0","id":"last","method":"daemon.status"}\n')
        said = [await wire.json()]
        while not isinstance(said[-1], dict) or said[-1].get("id") != "last":
            said.append(await wire.json())
        assert listener.handed_over == 0
    errors = [r for r in said if isinstance(r, dict) and "error" in r] + [r[0] for r in said if isinstance(r, list)]
    assert [e["error"]["code"] for e in errors] == [-32602] * (b'"id":1' in line)


async def test_a_lost_connection_ends_its_host(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with serve() as listener:
        async with dial() as wire:
            await wire.call("mcp.connect")
            await wire.send(b'{"jsonrpc":"2.0","id":5,"method":"wait"}\n{"jsonrpc":')
        await host(daemon).was_closed.wait()
        while listener.connections:  # noqa: ASYNC110  # the other side of a socket
            await anyio.sleep(0.005)
        host(daemon).waiting[0].reply(messages.result(b"5", b"{}"))
        assert not host(daemon).unsolicited(b"{}")
    assert len(host(daemon).heard) == 2


async def test_an_idle_host_is_never_closed_to_make_room_and_leaves_room_for_others(
    serve: Serve, dial: Dial, daemon: FakeDaemon
) -> None:
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(serve(max_connections=8))
        hosts = [await stack.enter_async_context(dial()) for _ in range(6)]
        for wire in hosts:
            assert await wire.call("mcp.connect") == {"ok": True}
        one_more = await stack.enter_async_context(dial())
        assert "hosts" in (await one_more.call("mcp.connect"))["message"]
        for _ in range(10):
            fresh = await stack.enter_async_context(dial())
            assert (await fresh.call("daemon.status"))["name"] == "moltis"
        assert listener.handed_over == 6
        for number, wire in enumerate(hosts):
            await wire.send(PING % number)
            assert (await wire.json())["id"] == f"p{number}"


async def test_the_control_sockets_own_limits_do_not_bound_a_host(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    big = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "y" * (10 * MIB)}}).encode() + b"\n"
    async with serve(timing=Timing(sweep_secs=0.02)), dial() as wire:
        await wire.call("mcp.connect")
        await wire.send(b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"wait"}\n' % i for i in range(500)))
        await wire.send(big)
        assert (await wire.json())["id"] == 1
        assert len(host(daemon).waiting) == 500
        for number, outlet in enumerate(host(daemon).waiting):
            outlet.reply(messages.result(b"%d" % number, b'"%b"' % (b"x" * 100_000)))
        assert [len(await wire.line()) > 100_000 for _ in range(500)] == [True] * 500


async def test_a_hosts_connection_is_closed_with_the_listener(serve: Serve, dial: Dial, daemon: FakeDaemon) -> None:
    async with AsyncExitStack() as clients:
        async with serve():
            wire = await clients.enter_async_context(dial())
            assert await wire.call("mcp.connect") == {"ok": True}
        assert await wire.ended()
    await host(daemon).was_closed.wait()
