"""The listener in a process of its own with few descriptors, and more clients than it can hold."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024

SERVER = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import anyio
from control_fakes import FakeDaemon
from moltis.control.endpoint import Endpoint, take_data_dir
from moltis.control.listener import Listener
from moltis.control.methods import METHODS
from moltis.paths import Paths

async def main():
    data = Path(sys.argv[1])
    paths = Paths(data / "c", data, data / "run" / "moltis.sock")
    listener = Listener(Endpoint(paths), take_data_dir(paths), METHODS, FakeDaemon(), max_connections=int(sys.argv[3]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    async with anyio.create_task_group() as tasks:
        await tasks.start(listener.run)
        print("up", flush=True)

anyio.run(main, backend="asyncio", backend_options={"use_uvloop": True})
"""


class Besieged:
    """The server under siege."""

    def __init__(self, data: Path, max_connections: int) -> None:
        self.path = data / "run" / "moltis.sock"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(data), str(Path(__file__).parent), str(max_connections)],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"

    def dial(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))  # without a timeout it waits for a place in the backlog
        sock.settimeout(PATIENCE)
        return sock

    def answer(self) -> object:
        with self.dial() as sock:
            sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"mcp.status","params":{"name":"alpha"}}\n')
            return json.loads(sock.makefile("rb").readline())["result"]["state"]

    def resident(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=[64, 256], ids=["within its descriptors", "beyond its descriptors"])
def besieged(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Besieged]:
    server = Besieged(tmp_path / "data", request.param)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident size is read from /proc")
def test_two_thousand_half_open_clients_and_a_50_mb_line_do_not_keep_a_new_client_out(besieged: Besieged) -> None:
    assert besieged.answer() == "ready"
    before = besieged.resident()
    with contextlib.ExitStack() as held:
        for _ in range(2000):
            sock = held.enter_context(besieged.dial())
            with contextlib.suppress(OSError):
                sock.send(b'{"jsonrpc":"2.0","id":1,"meth')
        first = _timed(besieged)  # has all of them before it in the queue
        waits = [_timed(besieged) for _ in range(5)]
        with besieged.dial() as flooder:
            with contextlib.suppress(OSError):
                flooder.sendall(b"x" * (50 * MIB))
            waits.append(_timed(besieged))
            assert b"-32600" in flooder.recv(4096)
        grown = besieged.resident() - before
    print(f"first {first * 1000:.1f} ms, then {max(waits) * 1000:.1f} ms at most; grown by {grown / MIB:.1f} MiB")
    assert grown < 16 * MIB
    assert besieged.answer() == "ready"
    assert len(os.listdir(f"/proc/{besieged.process.pid}/fd")) < 128


def _timed(besieged: Besieged) -> float:
    began = time.monotonic()
    assert besieged.answer() == "ready"
    return time.monotonic() - began
