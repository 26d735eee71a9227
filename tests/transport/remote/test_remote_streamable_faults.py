"""Connections that fail in every way, on the loops that the daemon runs on."""

from __future__ import annotations

import anyio
import pytest
from no_credentials import NoCredentials
from ports import free_port
from scripted_remote import LEGACY, Heard, HttpServer, McpServer, Peer, dialled, serving, until

from moltis.config.limits import Limits
from moltis.errors import ServerNotReady
from moltis.http.clients import server_client
from moltis.transport import Outgoing
from moltis.transport.remote.base import Endpoint
from moltis.transport.remote.streamable import StreamableConnection

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Real time: resets and refusals come from the operating system."""
    return ("asyncio", {"use_uvloop": request.param})


async def test_a_port_that_opens_late_is_a_failure_to_connect_until_then() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    async with dialled(url) as dial:
        dial.send("initialize")
        ended = await dial.connection.wait_closed()
        assert ended.kind == "connect_failed"
        assert ended.message == f"cannot be reached at 127.0.0.1:{port}: connection refused"
        assert dial.heard.failures == {}
    server = McpServer()
    server.port = port
    async with serving(server), dialled(url) as dial:
        await dial.shake_hands()
        assert isinstance(await dial.ask("tools/call"), dict)


async def _reset_before(peer: Peer) -> None:
    peer.reset()


async def _end_before(peer: Peer) -> None:
    peer.hang_up()


async def _reset_in_json(peer: Peer) -> None:
    await peer.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"jsonrpc":')
    await anyio.sleep(0.05)
    peer.reset()


async def _end_in_json(peer: Peer) -> None:
    await peer.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"jsonrpc":')
    peer.hang_up()


async def _end_in_chunk(peer: Peer) -> None:
    await peer.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n10\r\ndat")
    peer.hang_up()


async def _reset_in_stream(peer: Peer) -> None:
    await peer.begin_events()
    await peer.event({"jsonrpc": "2.0", "method": "notifications/message"})
    await anyio.sleep(0.05)
    peer.reset()


async def _no_http(peer: Peer) -> None:
    await peer.raw(b"SSH-2.0-OpenSSH\r\n")
    peer.hang_up()


FAULTS = [_reset_before, _end_before, _reset_in_json, _end_in_json, _end_in_chunk, _reset_in_stream, _no_http]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_connection_that_breaks_costs_one_request_and_it_is_not_sent_again(fault: object) -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        server.on["tools/call"] = fault  # type: ignore[assignment]
        error = await dial.ask("tools/call")
        assert isinstance(error, ServerNotReady)
        assert error.message.endswith(" is not sent again")
        assert server.count("tools/call") == 1
        assert isinstance(await dial.ask("tools/list"), dict)
        assert not dial.connection.ending


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_connection_that_breaks_at_the_handshake_is_a_failure_to_connect(fault: object) -> None:
    async with serving(HttpServer(fault)) as server, dialled(server.url) as dial:  # type: ignore[arg-type]
        dial.send("initialize")
        assert (await dial.connection.wait_closed()).kind == "connect_failed"


async def test_idle_connections_that_the_server_closed_cost_nothing() -> None:
    async def closing(peer: Peer) -> None:
        await peer.result()
        peer.hang_up()

    async with serving(McpServer(stateful=False)) as server, dialled(server.url) as dial:
        server.on["tools/call"] = closing
        await dial.shake_hands()
        for _ in range(20):
            assert isinstance(await dial.ask("tools/call"), dict)
            await anyio.sleep(0.01)


async def test_ten_calls_that_find_the_session_lost_begin_one_new_session_on_a_real_loop() -> None:
    async with serving(McpServer(stream=True)) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        for round in range(5):
            ids = [dial.send("tools/call") for _ in range(10)]
            for id in ids:
                assert isinstance(await dial.outcome(id), dict)
            assert server.begun == round + 1
            server.forget()


async def test_killing_leaves_no_socket_and_no_task() -> None:
    async def slow(peer: Peer) -> None:
        await peer.begin_events()
        await peer.gone()
        gone.append(peer.request.rpc)

    gone: list[str] = []
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        server.on.update({"tools/call": slow, "GET": slow})
        await dial.shake_hands()
        for _ in range(5):
            dial.send("tools/call")
        await until(lambda: len(server.requests) == 8)
        began = anyio.current_time()
        dial.connection.kill()
        await dial.connection.wait_closed()
        assert anyio.current_time() - began < 0.2
        await until(lambda: len(gone) == 6, 1)


async def test_being_cancelled_from_outside_closes_it() -> None:
    async with serving(McpServer()) as server:
        heard = Heard()
        endpoint = Endpoint("scripted", server.url, Limits(), NoCredentials(), lambda: server_client(None))
        connection = StreamableConnection(endpoint, heard.receive, heard)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            connection.send(b'{"jsonrpc":"2.0","id":1,"method":"initialize"}', Outgoing(1, "initialize"))
            await heard.wait(lambda: heard.messages, 5)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(1):
            assert (await connection.wait_closed()).kind == "disconnected"
        assert connection.client.is_closed


async def test_a_fault_beside_the_messages_ends_the_connection_and_raises_nothing() -> None:
    class Faulty(StreamableConnection):
        async def serve(self) -> None:
            raise RuntimeError("SECRET")

    async with serving(McpServer()) as server, dialled(server.url, make=Faulty) as dial:
        ended = await dial.connection.wait_closed()
        assert (ended.kind, ended.message) == ("internal", "a fault of moltis: RuntimeError")


async def test_a_thousand_calls_at_once_are_all_answered() -> None:
    async with serving(McpServer()) as server, dialled(server.url) as dial:
        await dial.shake_hands()
        ids = [dial.send("tools/call") for _ in range(1000)]
        for id in ids:
            assert isinstance(await dial.outcome(id), dict)
        assert server.connections <= 66
        assert {r.headers["mcp-protocol-version"] for r in server.of("tools/call")} == {LEGACY}
