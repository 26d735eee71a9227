"""A real daemon with real servers in a folder of its own, seen only through its promises: files, socket, command line.

Everything is started by pid, found again by a mark in its arguments and environment, and ended by pid. The client here
is not the product's, so that the wire itself is what is tested.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import forked
import tomli_w
from forked import Process
from patience import PATIENCE
from processes import alive, descendants, marked, signal_pid

SERVERS = Path(__file__).parent.parent / "servers"
EVIL = SERVERS / "evil_server.py"
TEE = SERVERS / "tee.py"
ROOT = Path(__file__).parent.parent.parent
PYTHON = sys.executable

QUICK = {
    "request_timeout_secs": 10.0,
    "startup_timeout_secs": 20.0,
    "heartbeat_interval_secs": 2.0,
    "heartbeat_timeout_secs": 2.0,
    "max_restart_attempts": 3,
    "restart_backoff_secs": 0.2,
    "restart_backoff_max_secs": 2.0,
    "restart_cooldown_secs": 1.0,
    "restart_cooldown_max_secs": 4.0,
    "stable_after_secs": 60.0,
    "stop_eof_secs": 0.4,
    "stop_term_secs": 0.6,
    "first_list_secs": 0.05,
}
"""`[mcp]` in test time: waits are short, but what decides whether a server is at fault has room on a busy box."""

GONE_WITHIN = 2.0
"""Seconds within which nothing of a server is left, however it or the daemon ended: for tests that are `alone`."""


class RpcError(Exception):
    """The daemon answered with an error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(error))
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


class Connection:
    """One connection to the control socket."""

    def __init__(self, path: Path, timeout_secs: float = PATIENCE) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_secs)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._buffer = bytearray()
        self._next_id = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_line(self) -> bytes:
        """Give the next line without its newline.

        Raises:
            EOFError: the daemon closed the connection.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def call_raw(self, method: str, params: Mapping[str, Any]) -> bytes:
        """Give the whole answer as it came."""
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}
        self.send(json.dumps(request).encode() + b"\n")
        return self.read_line()

    def call(self, method: str, **params: Any) -> Any:
        answer = json.loads(self.call_raw(method, params))
        assert answer["id"] == self._next_id, answer
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]


def wait_until(
    what: str,
    condition: Callable[[], Any],
    within: float = PATIENCE,
    every: float = 0.02,
    tell: Callable[[], object] = str,
) -> Any:
    """Give the first true value of `condition`; fail with `what` and `tell()` after `within` seconds.

    It is looked at `every` so many seconds, and what takes longer than a second less often, up to each 50 ms: asking a
    daemon costs both sides a millisecond or two, which others could use.
    """
    begun = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - begun
        assert waited < within, f"not within {within} s: {what}\n{tell()}"
        time.sleep(max(every, min(waited / 50, 0.05)))


class Daemon:
    """`moltis run` in a folder of its own.

    forked: whether `start` and `cli` may have it forked from a process that has imported everything (see forked.py),
    which is most of what a start takes: not in tests of the start, and not of what a daemon holds in memory.
    """

    def __init__(self, folder: Path, *, forked: bool = False) -> None:
        self.folder = folder
        self.forked = forked
        self.config = folder / "moltis.toml"
        self.data_dir = folder / "data"
        self.socket = self.data_dir / "run" / "moltis.sock"
        self.log = self.data_dir / "logs.jsonl"
        self.output = folder / "daemon.out"
        self.mark = f"mark-{uuid.uuid4().hex}"
        self.process: subprocess.Popen[bytes] | Process | None = None
        self.env: dict[str, str] = {
            k: v for k, v in os.environ.items() if not k.startswith(("MOLTIS", "COV", "PYTEST", "NOTIFY_", "COLUMNS"))
        }
        self.env |= {"HOME": str(folder), "NO_COLOR": "1"}
        self._configs: dict[str, Any] = {}

    # -- what to run

    def evil(self, *modes: str, events: str | None = None, **keys: Any) -> dict[str, Any]:
        """Give the entry of an evil server. `events` is the name of the file in which it keeps its own account."""
        args = ["-S", "-E", str(EVIL), "--mark", self.mark]
        for mode in modes:
            args += ["--mode", mode]
        if events:
            args += ["--events", str(self.folder / events)]
        return {"command": PYTHON, "args": args, **keys}

    def real(self, *argv: str, **keys: Any) -> dict[str, Any]:
        """Give the entry of any other program, marked through its environment."""
        env = {"MOLTIS_TEST_MARK": self.mark, **keys.pop("env", {})}
        return {"command": argv[0], "args": list(argv[1:]), "env": env, **keys}

    def write(self, servers: Mapping[str, Mapping[str, Any]], **sections: Any) -> None:
        """Write moltis.toml: quick `[mcp]` values, no gateway, `sections` over them, and the servers."""
        sections.setdefault("gateway", {"enabled": False})
        mcp = {**QUICK, **sections.pop("mcp", {}), "servers": dict(servers)}
        self.rewrite(tomli_w.dumps({**sections, "mcp": mcp}))

    def rewrite(self, text: str) -> None:
        """Put another moltis.toml in the place of what is there, at once: a daemon that runs may look at any moment."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.rename(self.config)

    def at_home(self) -> None:
        """Have it in the places that `moltis` looks at by itself, of a user whose home is the folder."""
        self.config = self.folder / ".config" / "moltis" / "moltis.toml"
        self.config.parent.mkdir(parents=True, mode=0o700)
        self.data_dir = self.folder / ".moltis"
        self.socket = self.data_dir / "run" / "moltis.sock"
        self.log = self.data_dir / "logs.jsonl"

    # -- running it

    def spawn(self, limits: Mapping[int, int] | None = None) -> subprocess.Popen[bytes]:
        """Start a daemon on this folder and wait for nothing. `limits` are by RLIMIT_ number."""

        def limit() -> None:
            for number, value in (limits or {}).items():
                resource.setrlimit(number, (value, value))

        with self.output.open("ab") as out:
            return subprocess.Popen(
                [PYTHON, "-m", "moltis", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.env,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=limit if limits else None,
            )

    def fork(self, limits: Mapping[int, int] | None = None) -> Process:
        """Start a daemon as `spawn` does, in a process that need not import everything first."""
        with self.output.open("ab") as out, open(os.devnull, "rb") as nothing:
            return forked.start(
                self.arguments,
                env=self.env,
                cwd=self.folder,
                streams=(nothing.fileno(), out.fileno(), out.fileno()),
                session=True,
                limits=limits,
            )

    @property
    def arguments(self) -> list[str]:
        return ["run", "--config", str(self.config), "--data-dir", str(self.data_dir)]

    def start(self, limits: Mapping[int, int] | None = None) -> Daemon:
        """Start it and wait until the socket answers."""
        self.process = self.fork(limits) if self.forked else self.spawn(limits)
        wait_until("the control socket answers", self.answers, tell=self.said)
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}\n{self.said()}"
        try:
            self.rpc("daemon.status")
        except OSError:
            return False
        return True

    def said(self) -> str:
        return self.output.read_text(errors="replace")[-4000:] if self.output.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def own_pids(self) -> list[int]:
        """Give the daemon and what stands between it and the servers, but not the servers."""
        servers = marked(self.mark)
        return [self.pid, *(p for p in descendants(self.pid) if p not in servers and alive(p))]

    def warden_pid(self) -> int:
        (warden,) = [p for p in self.own_pids() if p != self.pid]
        return warden

    def wait_exit(self, within: float = PATIENCE) -> int:
        assert self.process is not None
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon still runs after {within} s\n{self.said()}") from None

    def stop(self, within: float = PATIENCE) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.wait_exit(within)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end_everything(self) -> None:
        """End what a test left: the daemon, then every marked process and whatever hangs below, by pid."""
        if self.process and self.process.poll() is None:
            signal_pid(self.pid, signal.SIGCONT)
            with contextlib.suppress(AssertionError):
                self.stop(8)
        leftovers = set(marked(self.mark))
        if self.process:
            leftovers |= set(descendants(self.pid))
            if self.process.poll() is None:
                leftovers.add(self.pid)
        for pid in leftovers:
            signal_pid(pid, signal.SIGKILL)
        if self.process:
            self.process.wait(10)

    # -- asking it

    def connect(self, timeout_secs: float = PATIENCE) -> Connection:
        return Connection(self.socket, timeout_secs)

    def rpc(self, method: str, **params: Any) -> Any:
        with self.connect() as connection:
            return connection.call(method, **params)

    def status(self, server: str) -> dict[str, Any]:
        found: dict[str, Any] = self.rpc("mcp.status", name=server)
        return found

    def call(self, server: str, tool: str, **arguments: Any) -> Any:
        return self.rpc("mcp.call", server=server, tool=tool, arguments=arguments)

    def text(self, server: str, tool: str, **arguments: Any) -> str:
        """Call a tool and give the text of its first content."""
        found: str = self.call(server, tool, **arguments)["content"][0]["text"]
        return found

    def history(self, server: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rpc("mcp.history", name=server)
        return found

    def states(self) -> dict[str, str]:
        return {s["name"]: s["state"] for s in self.rpc("mcp.list")}

    def wait_for(self, server: str, *states: str, within: float = PATIENCE) -> dict[str, Any]:
        """Give the server's status once its state is one of `states`."""

        def reached() -> dict[str, Any] | None:
            status = self.status(server)
            return status if status["state"] in states else None

        found: dict[str, Any] = wait_until(
            f"{server} is {' or '.join(states)}", reached, within, tell=lambda: self.history(server)
        )
        return found

    def wait_all(self, state: str = "ready", within: float = PATIENCE) -> dict[str, dict[str, Any]]:
        wait_until(
            f"all are {state}", lambda: set(self.states().values()) == {state}, within, every=0.05, tell=self.states
        )
        return {s["name"]: s for s in self.rpc("mcp.list")}

    def cli(self, *words: str, within: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run the `moltis` command against this daemon, forked if the daemon is."""
        env = self.env | {"MOLTIS_CONFIG": str(self.config), "MOLTIS_DATA_DIR": str(self.data_dir)}
        if self.forked:
            return forked.run(words, env=env, cwd=self.folder, within=within)
        return subprocess.run(
            [PYTHON, "-m", "moltis", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=env,
            cwd=self.folder,
            timeout=within,
            check=False,
        )

    # -- what it left behind

    def log_text(self) -> str:
        """Give the log, with all that the daemon has logged by now."""
        with contextlib.suppress(OSError, EOFError):  # one that has ended has written it all
            self.rpc("logs.tail", limit=1)
        # Meanwhile it goes on: the last line may be half written.
        return self.log.read_bytes().rpartition(b"\n")[0].decode()

    def records(self, target: str = "moltis.") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log_text().split("\n") if line]
        return [r for r in lines if r["target"].startswith(target)]

    def events(self, name: str) -> list[tuple[float, int, list[str]]]:
        """Give what a server wrote into its events file: time, pid, words."""
        path = self.folder / name
        if not path.exists():
            return []
        whole = path.read_text().rpartition("\n")[0]  # the last line may be half written
        rows = [line.split() for line in whole.splitlines()]
        return [(float(at), int(pid), words) for at, pid, *words in rows]

    def event_pids(self, name: str, word: str) -> list[int]:
        return [pid for _, pid, words in self.events(name) if words[0] == word]

    def wait_event_pid(self, name: str, word: str) -> int:
        """Give the pid of the first process that has written `word`, once one has: it need not be the leader."""
        pids: list[int] = wait_until(f"{word} in {name}", lambda: self.event_pids(name, word))
        return pids[0]

    def starts(self, name: str) -> list[float]:
        return [at for at, _, words in self.events(name) if words[0] == "start"]

    def assert_nothing_left(self, within: float = PATIENCE, *, but: Iterable[int] = ()) -> None:
        """Fail if a process that a server of this daemon started outlives `within` seconds."""
        spared = set(but)
        wait_until(
            "nothing is left",
            lambda: not set(marked(self.mark)) - spared,
            within,
            tell=lambda: {p: a for p, a in marked(self.mark).items() if p not in spared},
        )


@contextlib.contextmanager
def a_daemon() -> Iterator[Daemon]:
    """Give a daemon, not yet started, in a folder of its own, for tests that share one. It ends with the block."""
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        made = Daemon(Path(name))
        try:
            yield made
        finally:
            made.end_everything()
