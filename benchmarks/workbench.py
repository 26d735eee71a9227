"""What every figure needs: servers to supervise, a daemon over them, and the kernel's own accounts of processes.

Every process is started here and ended by its pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
BARE_PYTHON = os.path.realpath(sys.executable)
"""The interpreter without its virtual environment: what a server process costs must not depend on ours."""

Argv = list[str]


def fast_server(*words: str) -> Argv:
    return [BARE_PYTHON, "-S", "-E", str(HERE / "fast_server.py"), *words]


def is_server(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return any(word.endswith(b"/fast_server.py") and b" " not in word for word in words)  # not a shell's command
    return False


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def own_processes(pid: int) -> list[int]:
    """Give a supervisor and its helpers, but not the servers."""
    return [pid, *(p for p in descendants(pid) if not is_server(p))]


def resident_bytes(pids: Iterable[int]) -> int:
    """Add up Rss of smaps_rollup (proc_pid_smaps(5)) in bytes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Rss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            total += int(found[1]) * 1024 if found else 0
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """Add up the processes' CPU clocks: clock_getcpuclockid(3) has nanoseconds where /proc has ticks of 10 ms."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)
    return total


class Line:
    """A connection that carries JSON-RPC, one message a line."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(600)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._buffer = b""

    def close(self) -> None:
        self.socket.close()

    def send(self, method: str, params: Mapping[str, Any]) -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with contextlib.suppress(BrokenPipeError):  # it may have said why before it hung up: that is read next
            self.socket.sendall(json.dumps(request).encode() + b"\n")

    def read(self) -> Any:
        while b"\n" not in self._buffer:
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the daemon closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        if "method" in answer:  # a notification to a host
            return self.read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def call(self, method: str, **params: Any) -> Any:
        self.send(method, params)
        return self.read()


class Daemon:
    """`moltis run` over some servers (argv, or a URL), in its default configuration unless `mcp` says otherwise, or
    `each` of every server.
    """

    def __init__(
        self,
        servers: Mapping[str, Argv | str],
        mcp: Mapping[str, float] | None = None,
        each: Mapping[str, float | str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="moltis-bench-"))
        self.socket = self.folder / "data" / "run" / "moltis.sock"
        lines = [
            "[gateway]",
            'listen = "127.0.0.1:0"',
            "[mcp]",
            *(f"{key} = {value}" for key, value in (mcp or {}).items()),
        ]
        for name, how in servers.items():
            lines.append(f"[mcp.servers.{name}]")
            if isinstance(how, str):
                lines.append(f"url = {json.dumps(how)}")
            else:
                lines += [f"command = {json.dumps(how[0])}", f"args = {json.dumps(how[1:])}"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in (each or {}).items()]
        self.config = self.folder / "moltis.toml"
        self.config.write_text("\n".join(lines) + "\n")
        # Compiled files are kept, as they are for whoever runs it: what is measured is not the compiler.
        dropped = ("MOLTIS", "PYTHONDONTWRITEBYTECODE")
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        self.environ |= {"MOLTIS_CONFIG": str(self.config), "MOLTIS_DATA_DIR": str(self.folder / "data")}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                [moltis_command(), "run"], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environ
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def connect(self) -> Line:
        """Connect as soon as the socket is there; polled every 2 ms."""
        while True:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the daemon has ended: {(self.folder / 'out').read_text()[-2000:]}")
            try:
                return Line(self.socket)
            except OSError:
                time.sleep(0.002)

    def wait_ready(self, count: int, within_secs: float = 120.0) -> None:
        """Return once `count` servers are ready, as `daemon.status` counts them; polled every 5 ms."""
        line = self.connect()
        deadline = time.monotonic() + within_secs
        try:
            while line.call("daemon.status")["servers"].get("ready", 0) < count:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{count} servers are not ready within {within_secs} s")
                time.sleep(0.005)
        finally:
            line.close()

    def stop(self) -> None:
        """End it and whatever it may have left, by pid."""
        if self.process is not None:
            below = descendants(self.pid)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for pid in below:
                if is_server(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running(servers: Mapping[str, Argv | str], mcp: Mapping[str, float] | None = None) -> Iterator[Daemon]:
    """Give a daemon all of whose servers are ready."""
    daemon = Daemon(servers, mcp)
    try:
        daemon.start()
        daemon.wait_ready(len(servers))
        yield daemon
    finally:
        daemon.stop()


def moltis_command() -> str:
    """Give the `moltis` console script beside this interpreter."""
    found = Path(sys.executable).parent / "moltis"
    if not found.exists():
        raise SystemExit(f"{found} is missing: pip install '.[test]' into this environment first")
    return str(found)


def rounds(count: int, one: Callable[[], None], other: Callable[[], None]) -> None:
    """Run two sides alternately, the order reversed every other round, so that a drift of the machine hits both."""
    for n in range(count):
        for side in (one, other) if n % 2 == 0 else (other, one):
            side()
