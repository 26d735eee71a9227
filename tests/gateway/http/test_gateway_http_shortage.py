"""No descriptor is left in the process: who connects waits in the backlog, and is served as soon as there is one."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

SERVER = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import anyio
from gateway_http_fakes import StubGateway, authenticate
from moltis.gateway.doors import Doors
from moltis.gateway.http import listener as module
from moltis.gateway.http.application import Application
from moltis.gateway.http.application import HttpSettings

def warn(message, **fields):
    print("WARN", message, fields["reason"], flush=True)

module.log.warning = warn

async def main():
    app = Application(StubGateway(), Doors(), authenticate, HttpSettings(), lambda: True)
    listener = module.GatewayListener(app, "127.0.0.1:0", max_connections=512)
    async with anyio.create_task_group() as tasks:
        await tasks.start(listener.run)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        print(listener.url, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        await listener.close(1.0)
        tasks.cancel_scope.cancel()

anyio.run(main, backend="asyncio", backend_options={"use_uvloop": sys.argv[2] == "uvloop"})
"""
BODY = b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"text":1}}'
CLIENTS = 100


class Short:
    """An endpoint in a process with few descriptors."""

    def __init__(self, loop: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(Path(__file__).parent), loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split(":")[2].split("/")[0])

    def dial(self, stack: ExitStack) -> socket.socket:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=30))
        self.ask(sock)
        return sock

    def ask(self, sock: socket.socket) -> None:
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer good\r\n"
            f"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"Content-Length: {len(BODY)}\r\n\r\n"
        )
        sock.sendall(head.encode() + BODY)

    def finish(self) -> tuple[list[str], str]:
        """End it, and return what it told and what it wrote to stderr."""
        out, err = self.process.communicate("\n", timeout=30)
        return out.splitlines(), err


@pytest.fixture(params=["uvloop", "asyncio"])
def short(request: pytest.FixtureRequest) -> Iterator[Short]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    server = Short(request.param)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answer(sock: socket.socket) -> str:
    """Return the status line of an answer that is read to its end."""
    data = b""
    while b'"result":{"echo":1}}' not in data:
        more = sock.recv(65536)
        assert more, "the connection was closed"
        data += more
    return data.split(b"\r\n", 1)[0].decode()


def test_who_waits_for_a_descriptor_is_served_when_there_is_one_and_who_is_connected_goes_on(short: Short) -> None:
    with ExitStack() as stack:
        first = short.dial(stack)
        assert answer(first) == "HTTP/1.1 200 OK"
        waiting = [short.dial(stack) for _ in range(CLIENTS)]
        for _ in range(3):
            short.ask(first)
            assert answer(first) == "HTTP/1.1 200 OK"
        for sock in waiting:
            assert answer(sock) == "HTTP/1.1 200 OK"
            sock.close()
        late = short.dial(stack)
        assert answer(late) == "HTTP/1.1 200 OK"
    told, errors = short.finish()
    assert told == ["WARN gateway_cannot_accept Too many open files"]
    assert errors == ""


def test_an_endpoint_that_is_closed_in_a_shortage_keeps_nobody_waiting(short: Short) -> None:
    with ExitStack() as stack:
        waiting = [short.dial(stack) for _ in range(CLIENTS)]
        assert answer(waiting[0]) == "HTTP/1.1 200 OK"
        short.finish()
        with pytest.raises((ConnectionError, AssertionError)):
            answer(waiting[-1])
        with pytest.raises(ConnectionRefusedError):
            short.dial(stack)
