"""The address: taken, freed, closed; and what is imported when."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from gateway_http_fakes import Client, StubGateway, authenticate, request
from patience import PATIENCE

from moltis.gateway import messages
from moltis.gateway.doors import Doors
from moltis.gateway.http.application import Application, HttpSettings
from moltis.gateway.http.listener import GatewayListener, url_of


async def until(claim: Callable[[], bool]) -> None:
    while not claim():  # noqa: ASYNC110 - what is waited for is in the server, and has no event
        await anyio.sleep(0.002)


def application(gateway: StubGateway) -> Application:
    return Application(gateway, Doors(), authenticate, HttpSettings(), lambda: True)


def taken() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


async def test_a_taken_address_is_a_problem_that_is_told_and_it_is_had_when_it_is_free(gateway: StubGateway) -> None:
    changes: list[tuple[str | None, str | None]] = []
    with taken() as sock, anyio.fail_after(PATIENCE):
        port = sock.getsockname()[1]
        listener = GatewayListener(
            application(gateway),
            f"127.0.0.1:{port}",
            on_change=lambda: changes.append((listener.url, listener.problem)),
            retry_secs=0.01,
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(listener.run)
            assert listener.url is None
            assert listener.problem == (
                f"127.0.0.1:{port} is taken by another program; choose another [gateway] listen, or stop that program"
            )
            await anyio.sleep(0.05)
            assert len(changes) == 1, "said once"
            sock.close()
            await until(lambda: listener.url is not None)
            assert (listener.url, listener.problem) == (f"http://127.0.0.1:{port}/mcp", None)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                answer = await Client(stream, port).ask("POST", body=request("echo"))
            assert answer.status == 200
            tasks.cancel_scope.cancel()
    assert changes[1:] == [(f"http://127.0.0.1:{port}/mcp", None), (None, None)]


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:99999", "::1:80", "127.0.0.1:", "no.such.host.invalid:80"])
async def test_an_address_that_is_none_is_a_problem_and_not_a_crash(gateway: StubGateway, listen: str) -> None:
    listener = GatewayListener(application(gateway), listen)
    async with anyio.create_task_group() as tasks:
        await tasks.start(listener.run)
        assert listener.problem is not None
        assert listen in listener.problem
        await listener.close(0)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:0", "http://127.0.0.1:7/mcp"),
        ("[::1]:0", "http://[::1]:7/mcp"),
        ("0.0.0.0:0", "http://127.0.0.1:7/mcp"),
        ("[::]:0", "http://[::1]:7/mcp"),
        ("localhost:0", "http://localhost:7/mcp"),
    ],
)
def test_its_url_is_one_that_this_machine_can_reach(listen: str, url: str) -> None:
    assert url_of(listen, 7) == url


async def test_all_addresses_of_a_name_are_served_on_one_port(gateway: StubGateway) -> None:
    listener = GatewayListener(application(gateway), "localhost:0")
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(listener.run)
            assert listener.url is not None
            assert listener.url.startswith("http://localhost:")
            addresses = {sock.getsockname()[:2] for sock in listener._sockets}
            assert len({port for _, port in addresses}) == 1
            for host, port in addresses:
                async with await anyio.connect_tcp(host, port) as stream:
                    assert (await Client(stream, port).ask("POST", body=request("echo"))).status == 200
            await listener.close(1)


async def test_closing_ends_streams_lets_replies_out_and_refuses_new_connections(
    served: Any, gateway: StubGateway
) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    stream: Client = await served.dial()
    await stream.send("GET", headers={**session, "Accept": "text/event-stream"})
    await stream.response_head()
    caller: Client = await served.dial()
    await caller.send("POST", body=request("later"), headers=session)
    ((ask, outlet),) = await gateway.waiting()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(served.listener.close, 10.0)
        assert await stream.event() is None
        assert await client.is_closed(), "it was idle"
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.1", served.port)
        outlet.reply(messages.result(ask.id, b'"last"'))
        answer = await caller.response()
        assert (answer.json["result"], answer.headers["connection"]) == ("last", "close")
    assert served.listener.url is None
    assert gateway.hosts[0].is_closed


async def test_closing_does_not_wait_longer_than_it_may(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    session = {"Mcp-Session-Id": await client.initialize()}
    await client.send("POST", body=request("later"), headers=session)
    stuck: Client = await served.dial()
    await stuck.send("POST", body=request("later"))
    await gateway.waiting(2)
    with anyio.fail_after(PATIENCE):
        await served.listener.close(0.05)
    assert (await client.response()).code == -32603, "it is told that there will be no reply"
    assert await client.is_closed()
    assert not served.listener._server.server_state.tasks or all(
        task.done() or task.cancelling() for task in served.listener._server.server_state.tasks
    )


async def test_being_cancelled_cuts_everything_off_at_once(gateway: StubGateway) -> None:
    listener = GatewayListener(application(gateway), "127.0.0.1:0")
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(listener.run)
            assert listener.url is not None
            port = int(listener.url.split(":")[2].split("/")[0])
            stream = await anyio.connect_tcp("127.0.0.1", port)
            client = Client(stream, port)
            await client.send("POST", body=request("later"))
            await gateway.waiting()
            tasks.cancel_scope.cancel()
        assert await client.is_closed()
        await stream.aclose()
    assert gateway.hosts[0].is_closed


async def test_hosts_that_connect_before_it_serves_wait_and_are_served(gateway: StubGateway) -> None:
    listener = GatewayListener(application(gateway), "127.0.0.1:0")
    early: list[socket.socket] = []

    def connect() -> None:
        assert listener._server is None, "uvicorn is not even imported for it yet"
        assert listener.url is not None
        port = int(listener.url.split(":")[2].split("/")[0])
        early.append(socket.create_connection(("127.0.0.1", port)))

    listener._on_change = connect
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(listener.run)
            listener._on_change = lambda: None
            await until(lambda: listener._server is not None)
            port = early[0].getpeername()[1]
            head = Client(None, port).head("POST", "/mcp", {"Content-Length": "2"})  # type: ignore[arg-type]
            early[0].setblocking(False)
            early[0].send(head + b"[]")
            await anyio.wait_readable(early[0])
            assert early[0].recv(100).startswith(b"HTTP/1.1 400 ")
            early[0].close()
            await listener.close(1)


def test_importing_the_listener_imports_no_server_and_no_framework() -> None:
    script = "import sys, moltis.gateway.http.listener; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"uvicorn", "starlette", "httptools", "h11", "click", "httpx2"} & set(loaded)


def test_serving_imports_neither_the_framework_nor_what_is_not_spoken() -> None:
    script = "import sys, moltis.httpd.server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "uvicorn.protocols.http.httptools_impl" in loaded
    assert not {"starlette", "h11", "websockets", "wsproto", "uvicorn.protocols.http.h11_impl"} & set(loaded)
