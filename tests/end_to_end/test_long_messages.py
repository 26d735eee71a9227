"""No message of a host or of a server, however it is made, holds the event loop for long.

A daemon on asyncio's own loop writes down the processor time of each turn of it. Hosts and servers send it what takes
longest, up to the limits, through every entrance. Each is answered, and no turn works for more than 50 ms.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from gateway_harness import gateway_url
from harness import PYTHON, SERVERS, Connection, Daemon

sys.path.insert(0, str(SERVERS))

from shaper import FRAMES
from shapes import SHAPES

pytestmark = pytest.mark.timeout(600)

MAX_TURN_MS = 50.0
MIB = 1024 * 1024
SIZE = 15 * MIB
LINE = 1024 * 1024 - 4096
"""Of the control socket."""
WITHIN = 60.0
TRIES = 4
MCP = {"request_timeout_secs": 30, "heartbeat_interval_secs": 60, "max_message_bytes": 16 * MIB}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
ERAS = ["legacy", "modern"]

ASKED: dict[str, bytes] = {
    "arguments": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@NAME@","arguments":{"a":@}@META@}}',
    "bare arguments": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@NAME@","arguments":@@META@}}',
    "last": b'{"params":{"arguments":{"a":@},"name":"@NAME@"@META@},"method":"tools/call","id":1,"jsonrpc":"2.0"}',
    "params": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":@}',
    "other params": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"@NAME@","a":@@META@}}',
    "meta": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":@}}',
    "in meta": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"a":@}}}',
    "id": b'{"jsonrpc":"2.0","id":@,"method":"tools/list"}',
    "method": b'{"jsonrpc":"2.0","id":1,"method":@}',
    "name": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":@@META@}}',
    "uri": b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":@@META@}}',
    "cursor": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":@@META@}}',
    "beside": b'{"jsonrpc":"2.0","a":@,"id":1,"method":"tools/list"}',
    "other method": b'{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"a":@@META@}}',
    "bare": b"@",
    "batch": b'[{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":@}}]',
    "answer": b'{"jsonrpc":"2.0","id":1,"result":{"a":@}}',
    "refusal": b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","data":@}}',
    "cancelled": b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":@}}',
    "progress": b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"a":@}}',
    "roots": b'{"jsonrpc":"2.0","method":"notifications/roots/list_changed","params":{"a":@}}',
    "other notification": b'{"jsonrpc":"2.0","method":"x/y","params":{"a":@}}',
}
NOT_ASKED = {"answer", "refusal", "cancelled", "progress", "roots", "other notification"}
EVERY = 1 if os.environ.get("MOLTIS_ALL_SHAPES") else 5
"""One shape of so many is tried, and every other frame over stdio: all take some minutes."""
FEW = ["escaped quotes", "rows"]
"""For all frames."""


class Turns:
    """The long turns of a daemon's loop since they were last asked for, the longest first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = 0

    def new(self) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._seen)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._seen += len(whole)
        lines = whole.decode().splitlines()
        return sorted((line for line in lines if ms(line) > MAX_TURN_MS), key=ms, reverse=True)


def ms(line: str) -> float:
    return float(line.split(" ", 1)[0])


@pytest.fixture
def measured(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> tuple[Daemon, Turns]:
    """A daemon that is not started yet."""
    path = daemon.folder / "turns"
    path.touch()
    spawn = subprocess.Popen

    def spawn_measured(argv: list[str], **keys: Any) -> subprocess.Popen[bytes]:
        if argv[:3] != [PYTHON, "-m", "moltis"]:
            return spawn(argv, **keys)
        return spawn([PYTHON, str(Path(__file__).with_name("long_turns.py")), str(path), *argv[3:]], **keys)

    monkeypatch.setattr(subprocess, "Popen", spawn_measured)
    return daemon, Turns(path)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


class Failures:
    """What took too long each time, told at the end. What is measured once may be the machine's doing."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._told: list[str] = []
        turns.new()

    def of(self, what: str, send: Callable[[], bytes]) -> bytes:
        """Send something until no turn took too long, at most `TRIES` times, and return the answer."""
        found: list[str] = []
        for _ in range(TRIES):
            try:
                answer = send()
            except TimeoutError:
                raise AssertionError(f"{what} has no answer") from None
            found = [line for line in self._turns.new() if ms(line) > MAX_TURN_MS]
            if not found:
                return answer
        self._told.append(f"{what}: {found[0][:300]}")
        return answer

    def none(self) -> None:
        assert not self._told, "\n".join(self._told)


class Http:
    """A host by HTTP."""

    def __init__(self, url: str, *, modern: bool) -> None:
        self._where = urlsplit(url)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        self._modern = modern
        if not modern:
            hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            _, headers, _ = self._post(json.dumps(asked("initialize", hello)).encode())
            self._headers["Mcp-Session-Id"] = headers["mcp-session-id"]

    def say(self, message: bytes, method: str = "", name: str = "", *, is_asked: bool = True) -> bytes:
        """Send a message, and return the body of the answer."""
        if self._modern:
            more = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, **({"Mcp-Name": name} if name else {})}
        else:
            more = {}
        return self._post(message, more)[2]

    def close(self) -> None:
        """It has a connection for each message."""

    def _post(self, body: bytes, more: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._where.hostname or "", self._where.port, timeout=WITHIN)
        try:
            connection.request("POST", self._where.path, body, {**self._headers, **(more or {})})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()


class Line:
    """A host at the control socket, as `moltis connect` is one."""

    def __init__(self, daemon: Daemon) -> None:
        self._connection = Connection(daemon.socket, WITHIN)
        self._connection.call("mcp.connect")
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        self.say(json.dumps(asked("initialize", hello)).encode())

    def close(self) -> None:
        self._connection.__exit__()

    def say(self, message: bytes, method: str = "", name: str = "", *, is_asked: bool = True) -> bytes:
        self._connection.send(message.replace(b"\n", b" ") + b"\n")
        if not is_asked:
            message = b'{"jsonrpc":"2.0","id":"after","method":"ping"}'
            self._connection.send(message + b"\n")
        while b'"method"' in (said := self._connection.read_line())[:40]:
            pass  # a notification
        return said


def asked(method: str, params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": "x", "method": method, "params": params}


def framed(frame: bytes, name: str, shape: bytes, *, modern: bool) -> bytes:
    meta = b',"_meta":%b' % json.dumps(META).encode() if modern else b""
    return frame.replace(b"@NAME@", name.encode()).replace(b"@META@", meta).replace(b"@", shape)


def servers(daemon: Daemon, port: int = 0, path: str = "") -> dict[str, Any]:
    if port:
        return {"s": {"transport": "streamable-http", "url": f"http://127.0.0.1:{port}{path}"}}
    return {"s": daemon.real(PYTHON, str(SERVERS / "shaper.py"))}


@contextlib.contextmanager
def over_http() -> Iterator[int]:
    with subprocess.Popen([PYTHON, str(SERVERS / "shaper.py"), "--http"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def started(daemon: Daemon, entries: dict[str, Any]) -> None:
    gateway = {"listen": "127.0.0.1:0", "require_token": False, "max_body_bytes": 16 * MIB}
    daemon.write(entries, gateway=gateway, mcp=MCP)
    daemon.start()
    daemon.wait_for("s", "ready")


Hosts = dict[str, Callable[[Daemon], Any]]
HOSTS: Hosts = {
    "http legacy": lambda daemon: Http(gateway_url(daemon), modern=False),
    "http modern": lambda daemon: Http(gateway_url(daemon), modern=True),
    "connect": Line,
}


@pytest.mark.parametrize("host", HOSTS)
def test_no_request_of_a_host_holds_the_loop(
    measured: tuple[Daemon, Turns], host: str, stack: contextlib.ExitStack
) -> None:
    daemon, turns = measured
    started(daemon, servers(daemon))
    failures, modern = Failures(turns), host == "http modern"
    speaker = stack.enter_context(contextlib.closing(HOSTS[host](daemon)))
    for frame, wanted in ASKED.items() if host == "connect" else [*ASKED.items()][:4]:
        method = json.loads(found) if (found := _method(wanted)) else ""
        called = "s__swallow" if b"@NAME@" in wanted else ""
        for name in [*SHAPES][::EVERY] if host == "connect" and frame == "arguments" else FEW:
            message = framed(wanted, "s__swallow", SHAPES[name](SIZE), modern=modern)
            send = partial(speaker.say, message, method, called, is_asked=frame not in NOT_ASKED)
            assert b'"jsonrpc"' in failures.of(f"{frame} / {name}", send)[:200] or frame not in ("arguments", "bare")
    failures.none()


def _method(frame: bytes) -> bytes:
    return frame.partition(b'"method":')[2].partition(b",")[0].rstrip(b"}") if b'"method":"' in frame else b""


def test_no_line_of_the_control_socket_holds_the_loop(measured: tuple[Daemon, Turns]) -> None:
    daemon, turns = measured
    started(daemon, servers(daemon))
    failures = Failures(turns)
    frames = {
        **ASKED,
        "call": b'{"jsonrpc":"2.0","id":1,"method":"mcp.call","params":{"server":"s","tool":"t","arguments":{"a":@}}}',
        "request": b'{"jsonrpc":"2.0","id":1,"method":"mcp.request","params":{"server":"s","method":"x","params":@}}',
        "status": b'{"jsonrpc":"2.0","id":1,"method":"mcp.status","params":{"name":@}}',
    }
    with daemon.connect(WITHIN) as connection:

        def send(message: bytes) -> bytes:
            connection.send(message.replace(b"\n", b" ") + b"\n")
            connection.send(b'{"jsonrpc":"2.0","id":"after","method":"daemon.status"}\n')
            while b'"after"' not in connection.read_line()[:100]:
                pass
            return b""

        for frame, wanted in frames.items():
            for name, shape in [*SHAPES.items()][::EVERY]:
                message = framed(wanted, "s__swallow", shape(LINE - len(wanted)), modern=False)
                failures.of(f"{frame} / {name}", partial(send, message))
    failures.none()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["", "/json", "/events"], ids=["stdio", "JSON", "events"])
def test_no_answer_of_a_server_holds_the_loop(measured: tuple[Daemon, Turns], path: str, era: str) -> None:
    daemon, turns = measured
    with over_http() if path else contextlib.nullcontext(0) as port:
        started(daemon, servers(daemon, port, path))
        failures, modern = Failures(turns), era == "modern"
        speaker = Http(gateway_url(daemon), modern=modern)
        for frame in [*FRAMES][:: 2 if EVERY > 1 and not path else 1]:
            for name in [*SHAPES][::EVERY] if frame == "reply" and not path and not modern else FEW[:1]:
                arguments = {"shape": name, "frame": frame, "size": SIZE}
                meta = {"_meta": META} if modern else {}
                call = {"name": "s__shape", "arguments": arguments, **meta}
                message = json.dumps(asked("tools/call", call), separators=(",", ":")).encode()
                send = partial(speaker.say, message, "tools/call", "s__shape")
                said = failures.of(f"{frame} / {name}", send)
                assert b'"jsonrpc"' in said[:200], (frame, name, said[:200])
        failures.none()
