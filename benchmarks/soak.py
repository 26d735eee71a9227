"""A daemon with a dozen servers, hosts that call all the time, and a nemesis: is any healthy server harmed?

    soak.py [--seconds 60] [--seed N]

The nemesis draws from the seed: long calls, dropped sessions, broken streams, unanswered pings, floods, hosts that
vanish in mid-call, cancelled calls, `kill -9` of servers marked as victims, edits of moltis.toml, SIGHUP, a moltis.toml
that cannot be read, bursts of 300 connections. Whatever it draws, no server but a victim may be started twice, no call
may run twice or be left without an answer, no call of an unharmed server may fail, and the daemon may not grow. Exit 1
names what did not hold. The draws follow from the seed; how they meet is up to the machine.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workbench import BARE_PYTHON, HERE, Daemon, descendants, moltis_command, resident_bytes

MCP = {
    "request_timeout_secs": 10,
    "request_timeout_max_secs": 20,
    "startup_timeout_secs": 30,
    "heartbeat_interval_secs": 1,
    "heartbeat_timeout_secs": 3,
    "heartbeat_max_missed": 3,
    "restart_backoff_secs": 0.2,
    "restart_backoff_max_secs": 1,
    "restart_cooldown_secs": 1,
    "restart_cooldown_max_secs": 2,
    "stable_after_secs": 2,
    "stop_eof_secs": 0.5,
    "stop_term_secs": 0.5,
}
ANSWERED_WITHIN_SECS = MCP["request_timeout_max_secs"] + 10.0
READY_WITHIN_SECS = 60.0
QUIET_SECS = 20.0
"""Before what the daemon holds is counted, at most: connections close, idle threads end."""

MAX_GROWTH_BYTES = 32 << 20
MAX_MORE_DESCRIPTORS = 24
MAX_MORE_THREADS = 8

STDIO = {
    "plain": [],
    "second": [],
    "busy": ["--busy"],
    "noping": ["--ping", "never"],
    "unknown": ["--ping", "unknown"],
    "changes": ["--changes"],
    "chatty": ["--chatty"],
    "victim1": [],
    "victim2": ["--chatty"],
}
HTTP: dict[str, list[str]] = {"h1": [], "h2": ["--stream"], "h3": ["--stream", "--ping", "never"]}
VICTIMS = ("victim1", "victim2")
UNHARMED = ("plain", "second", "noping", "unknown", "changes", "chatty")
"""Each of their quick calls must succeed: nothing is done to them but what a healthy server stands."""

LEGACY, MODERN = "2025-11-25", "2026-07-28"
FAULTS = re.compile(r"fault of moltis|unexpected|traceback", re.IGNORECASE)
Reply = dict[str, Any]


class Account:
    """What has been seen, by everybody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.violations: collections.Counter[str] = collections.Counter()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.actions: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self.refusals: dict[str, str] = {}
        """One text each of what went wrong where it may."""

    def violation(self, kind: str, detail: object = "") -> None:
        with self._lock:
            self.violations[kind] += 1
            if self.violations[kind] <= 5:
                print(f"{time.strftime('%H:%M:%S')} VIOLATION {kind}: {detail}", flush=True)

    def outcome(self, server: str, what: str, secs: float) -> None:
        with self._lock:
            self.outcomes[f"{server} {what}"] += 1
            self.slowest = max(self.slowest, secs)

    def refusal(self, server: str, text: str) -> None:
        with self._lock:
            kind = f"{server}: " + re.sub(r"\d+", "N", text)[:120]
            if len(self.refusals) < 60:
                self.refusals.setdefault(kind, f"{server}: {text}")

    def action(self, name: str) -> None:
        with self._lock:
            self.actions[name] += 1


class HttpHost:
    """A host over HTTP, one connection a request, so that nothing is ever sent again by the client."""

    def __init__(self, url: str, token: str, era: str) -> None:
        self.url, self.era = urlsplit(url), era
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": era,
        }
        if era == LEGACY:
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}
            connection = self.send("initialize", params, "begin")
            with contextlib.closing(connection):
                response = connection.getresponse()
                self._headers["mcp-session-id"] = response.headers["mcp-session-id"]
                response.read()
            self.tell("notifications/initialized", {})

    def send(self, method: str, params: Mapping[str, Any], id: str | None) -> http.client.HTTPConnection:
        headers, message = dict(self._headers), {"jsonrpc": "2.0", "method": method, "params": dict(params)}
        if id is not None:
            message["id"] = id
        if self.era == MODERN:
            headers |= {"mcp-method": method, "mcp-name": str(params.get("name", ""))}
            prefix = "io.modelcontextprotocol/"
            message["params"]["_meta"] = {
                f"{prefix}protocolVersion": MODERN,
                f"{prefix}clientInfo": {"name": "soak", "version": "1"},
                f"{prefix}clientCapabilities": {},
                **message["params"].get("_meta", {}),
            }
        assert self.url.hostname is not None
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=ANSWERED_WITHIN_SECS)
        connection.request("POST", self.url.path, json.dumps(message).encode(), headers)
        return connection

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        with contextlib.closing(self.send(method, params, None)) as connection:
            connection.getresponse().read()

    def ask(self, method: str, params: Mapping[str, Any], id: str) -> Reply:
        """Return the reply.

        Raises:
            OSError: there was none.
        """
        with contextlib.closing(self.send(method, params, id)) as connection:
            return self.reply(connection, id)

    @staticmethod
    def reply(connection: http.client.HTTPConnection, id: str) -> Reply:
        response = connection.getresponse()
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            body = response.read()
            try:
                found: Reply = json.loads(body)
            except ValueError:
                raise OSError(f"HTTP {response.status} {body[:200]!r}") from None
            return found
        for line in iter(response.readline, b""):
            if line.startswith(b"data:") and line[5:].strip():
                found = json.loads(line[5:])
                if found.get("id") == id and "method" not in found:
                    return found
        raise OSError("the stream ended without a reply")

    def close(self) -> None:
        pass


class PipeHost:
    """A host over `moltis connect`."""

    def __init__(self, daemon: Daemon) -> None:
        self.process = subprocess.Popen(
            [moltis_command(), "connect"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=daemon.environ,
            cwd=daemon.folder,
        )
        self._buffer = b""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}
        self.ask("initialize", params, "begin")
        self.tell("notifications/initialized", {})

    def tell(self, method: str, params: Mapping[str, Any], **id: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(
            json.dumps({"jsonrpc": "2.0", **id, "method": method, "params": params}).encode() + b"\n"
        )
        self.process.stdin.flush()

    def ask(self, method: str, params: Mapping[str, Any], id: str) -> Reply:
        self.tell(method, params, id=id)
        assert self.process.stdout is not None
        deadline = time.monotonic() + ANSWERED_WITHIN_SECS
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                found: Reply = json.loads(line)
                if found.get("id") == id and "method" not in found:
                    return found
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError("timed out")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise EOFError("moltis connect has ended")
            self._buffer += data

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Soak:
    """One run."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.random = random.Random(seed)
        self.account = Account()
        self.over = threading.Event()
        self.going = threading.Event()
        self.going.set()
        self.config_turn = threading.Lock()
        self.helpers: list[threading.Thread] = []
        self.counter = 0
        self.drops: collections.Counter[str] = collections.Counter()
        self.held: dict[str, tuple[int, int, int]] = {}

        self.daemon = Daemon({}, None)
        self.folder = self.daemon.folder
        script = str(HERE / "soak_server.py")
        self.argv = {
            name: [BARE_PYTHON, "-S", "-E", script, str(self.folder), name, *words]
            for name, words in (STDIO | {name: ["--http", *words] for name, words in HTTP.items()}).items()
        }
        self.http: dict[str, subprocess.Popen[str]] = {}
        self.urls: dict[str, str] = {}
        self.edits = 0

    # -- setting up and down

    def play(self) -> int:
        try:
            self._start()
            hosts = self._hosts()
            for host in hosts:
                host.start()
            self._warm_up()
            self.held["warm"] = self._quiet("warm")
            self._nemesis(time.monotonic() + self.seconds)
            for helper in self.helpers:
                helper.join(ANSWERED_WITHIN_SECS + 10)
            self.held["end"] = self._quiet("end")
            self._all_usable()
            self.over.set()
            self.going.set()
            for host in hosts:
                host.join(ANSWERED_WITHIN_SECS + 10)
            self._judge_states()
            self._end_daemon()
            self._judge_files()
            return self._tell()
        finally:
            self.over.set()
            self.going.set()
            for server in self.http.values():
                server.kill()
                server.communicate()
            for file in ("logs.jsonl", "out"):
                found = self.folder / ("data" if file == "logs.jsonl" else "") / file
                if self.account.violations and found.exists():
                    with contextlib.suppress(OSError):
                        (HERE / "out").mkdir(exist_ok=True)
                        (HERE / "out" / f"soak-{file}").write_bytes(found.read_bytes()[-(64 << 20) :])
            self.daemon.stop()

    def _start(self) -> None:
        for name in HTTP:
            self.http[name] = subprocess.Popen(
                self.argv[name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        for name, server in self.http.items():
            assert server.stdout is not None
            self.urls[name] = json.loads(server.stdout.readline())["url"]
        self._write()
        self.daemon.start()
        self.daemon.wait_ready(len(STDIO) + len(HTTP))
        line = self.daemon.connect()
        self.gateway: str = line.call("daemon.status")["gateway_url"]
        self.token: str = line.call("token.create", name="soak", scope="write")["token"]
        line.close()

    def _write(self) -> None:
        """Write moltis.toml anew; `edits` stands in the entries of the victims."""
        lines = ["[gateway]", 'listen = "127.0.0.1:0"', "[daemon]", "log_max_bytes = 500000000", "browser_command = []"]
        lines += ["[mcp]", *(f"{key} = {value}" for key, value in MCP.items())]
        for name in STDIO:
            argv = self.argv[name]
            lines += [f"[mcp.servers.{name}]", f"command = {json.dumps(argv[0])}", f"args = {json.dumps(argv[1:])}"]
            if name in VICTIMS:
                lines.append(f'env = {{ EDIT = "{self.edits}" }}')
        for name, url in self.urls.items():
            lines += [f"[mcp.servers.{name}]", f'url = "{url}"']
        fresh = self.folder / "moltis.new"
        fresh.write_text("\n".join(lines) + "\n")
        fresh.chmod(0o600)
        fresh.rename(self.daemon.config)

    def _end_daemon(self) -> None:
        process = self.daemon.process
        assert process is not None
        if process.poll() is not None:
            self.account.violation("the daemon ended", process.returncode)
            return
        process.terminate()
        try:
            if process.wait(20) != 0:
                self.account.violation("exit code of the daemon", process.returncode)
        except subprocess.TimeoutExpired:
            self.account.violation("the daemon does not end")
            return
        time.sleep(2)
        for pid in self._pids("start"):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if str(self.folder).encode() in words and b"--http" not in words:
                    self.account.violation("process left behind", pid)

    # -- hosts

    def _hosts(self) -> list[threading.Thread]:
        gateway, one = self.gateway, self.gateway.removesuffix("/mcp") + "/servers/{}/mcp"
        names = list(STDIO) + list(HTTP)
        makers: list[tuple[str, Callable[[], HttpHost | PipeHost], list[str], str]] = [
            ("http1", lambda: HttpHost(gateway, self.token, LEGACY), names, "__"),
            ("http2", lambda: HttpHost(gateway, self.token, LEGACY), names, "__"),
            ("modern", lambda: HttpHost(gateway, self.token, MODERN), names, "__"),
            ("plain", lambda: HttpHost(one.format("plain"), self.token, LEGACY), ["plain"], ""),
            ("h2", lambda: HttpHost(one.format("h2"), self.token, MODERN), ["h2"], ""),
            ("pipe1", lambda: PipeHost(self.daemon), names, "__"),
            ("pipe2", lambda: PipeHost(self.daemon), names, "__"),
        ]
        return [
            threading.Thread(target=self._host, args=(*maker, random.Random(self.random.random())), daemon=True)
            for maker in makers
        ]

    def _host(
        self,
        host_name: str,
        make: Callable[[], HttpHost | PipeHost],
        servers: list[str],
        separator: str,
        draw: random.Random,
    ) -> None:
        try:
            host = make()
        except Exception as error:
            self.account.violation("host cannot begin", f"{host_name}: {error!r}")
            return
        n = 0
        while not self.over.is_set():
            self.going.wait()
            server, n = draw.choice(servers), n + 1
            tool = "quick" if draw.random() < 0.9 else "work"
            secs = draw.uniform(0.05, 0.4)
            if draw.random() < 0.02:
                self.request(host, server, "tools/list", {}, f"{host_name}-list-{n}", f"{host_name} list")
            name = f"{server}{separator}{tool}" if separator else tool
            token = f"{host_name}-{n}"
            if not self.call(host, server, name, token, secs):
                with contextlib.suppress(OSError):
                    host.close()
                try:
                    host = make()
                except Exception as error:
                    self.account.violation("host cannot begin again", f"{host_name}: {error!r}")
                    return
            self.over.wait(draw.uniform(0.02, 0.15))
        host.close()

    def call(self, host: HttpHost | PipeHost, server: str, tool: str, token: str, secs: float, **meta: Any) -> bool:
        params = {"name": tool, "arguments": {"token": token, "secs": secs}}
        if meta:
            params["_meta"] = meta
        return self.request(host, server, "tools/call", params, token, server)

    def request(
        self, host: HttpHost | PipeHost, server: str, method: str, params: Mapping[str, Any], id: str, label: str
    ) -> bool:
        """Ask, and keep the account of it. Return whether there was an answer."""
        began = time.monotonic()
        try:
            reply = host.ask(method, params, id)
        except (OSError, EOFError, http.client.HTTPException) as error:
            self.account.outcome(label, "unanswered", time.monotonic() - began)
            self.account.violation(
                "request without an answer", f"{id} {server} {method} after {time.monotonic() - began:.1f} s: {error!r}"
            )
            return False
        took = time.monotonic() - began
        if took > ANSWERED_WITHIN_SECS:
            self.account.violation("answer too late", f"{id} {server} {took:.1f} s")
        if "error" in reply:
            self.account.outcome(label, str(reply["error"].get("code")), took)
            self.account.refusal(server, reply["error"]["message"])
            if server in UNHARMED:
                self.account.violation("call of an unharmed server failed", f"{id} {server}: {reply['error']}")
            return True
        if reply["result"].get("isError"):
            self.account.outcome(label, "isError", took)
            self.account.refusal(server, reply["result"]["content"][0]["text"])
            if server in UNHARMED:
                self.account.violation("call of an unharmed server failed", f"{id} {server}: {reply['result']}")
            return True
        if method == "tools/call" and reply["result"]["content"][0]["text"] != id:
            self.account.violation("answer of another call", f"{id}: {reply['result']}")
        self.account.outcome(label, "ok", took)
        return True

    # -- the nemesis

    def _actions(self) -> dict[str, Callable[[random.Random], None]]:
        return {
            "long call": self.long_call,
            "session dropped": self.drop,
            "stream cut": self.cut,
            "pings muted": self.mute,
            "flood": self.flood,
            "pipe host killed": self.kill_pipe_host,
            "http host vanished": self.vanish,
            "call cancelled": self.cancel,
            "victim killed": self.kill_victim,
            "SIGHUP": self.hup,
            "victim edited": self.edit,
            "config touched": self.touch,
            "config unreadable": self.unreadable,
            "connections": self.burst,
        }

    def _do(self, name: str) -> None:
        action, draw = self._actions()[name], random.Random(self.random.random())
        self.account.action(name)

        def play() -> None:
            try:
                action(draw)
            except Exception as error:
                self.account.violation("nemesis failed", f"{name}: {error!r}")

        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        self.helpers = [helper for helper in self.helpers if helper.is_alive()] + [thread]

    def _warm_up(self) -> None:
        """Do everything once, so that what the daemon holds afterwards is what it needs."""
        for name in self._actions():
            self._do(name)
            time.sleep(0.3)
        for helper in self.helpers:
            helper.join(ANSWERED_WITHIN_SECS + 10)

    def _nemesis(self, until: float) -> None:
        names = list(self._actions())
        while time.monotonic() < until:
            self._do(self.random.choice(names))
            time.sleep(self.random.uniform(0.1, 1.2))
            process = self.daemon.process
            if process is None or process.poll() is not None:
                self.account.violation("the daemon ended", (self.folder / "out").read_text()[-2000:])
                return

    def fresh(self) -> str:
        self.counter += 1
        return f"nemesis-{self.counter}"

    def order(self, name: str, **order: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(json.dumps(order).encode(), str(self.folder / f"{name}.ctl"))

    def long_call(self, draw: random.Random) -> None:
        server = draw.choice(["busy", "plain", "second", *HTTP])
        meta = {"progressToken": self.fresh()} if draw.random() < 0.5 else {}
        # Without progress a call may take ten seconds; how long it waits for its turn at a busy server counts too.
        secs = draw.uniform(11.0, 14.0) if meta and server not in ("busy", "h1") else draw.uniform(1.0, 6.0)
        if self.seconds < 60:
            secs = min(secs, 4.0)
        host = HttpHost(self.gateway, self.token, draw.choice([LEGACY, MODERN]))
        self.call(host, server, f"{server}__work", self.fresh(), secs, **meta)

    def drop(self, draw: random.Random) -> None:
        name = draw.choice(list(HTTP))
        self.drops[name] += 1
        self.order(name, do="drop", status=draw.choice([404, 401, 400]))

    def cut(self, draw: random.Random) -> None:
        self.order(draw.choice(["h2", "h3"]), do="cut")

    def mute(self, draw: random.Random) -> None:
        self.order(draw.choice(["plain", "second", "busy", "chatty", "h1", "h2"]), do="mute", pings=draw.randint(1, 2))
        time.sleep(2 * (MCP["heartbeat_interval_secs"] + MCP["heartbeat_timeout_secs"]))

    def flood(self, draw: random.Random) -> None:
        name = draw.choice(["chatty", "second", "changes", "victim1"])
        with contextlib.suppress(OSError):  # a victim may be away
            self.order(name, do="flood", how=draw.choice(["stderr", "notices", "noise"]), lines=draw.randint(100, 5000))

    def kill_pipe_host(self, draw: random.Random) -> None:
        host = PipeHost(self.daemon)
        server, token = draw.choice(["busy", "plain", "h1", "h2"]), self.fresh()
        host.tell("tools/call", {"name": f"{server}__work", "arguments": {"token": token, "secs": 2.0}}, id=token)
        time.sleep(draw.uniform(0.0, 0.5))
        host.close()

    def vanish(self, draw: random.Random) -> None:
        host = HttpHost(self.gateway, self.token, draw.choice([LEGACY, MODERN]))
        server, token = draw.choice(["busy", "plain", "h1", "h2"]), self.fresh()
        params = {"name": f"{server}__work", "arguments": {"token": token, "secs": 2.0}}
        connection = host.send("tools/call", params, token)
        time.sleep(draw.uniform(0.0, 0.5))
        if connection.sock is not None and draw.random() < 0.5:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def cancel(self, draw: random.Random) -> None:
        host = HttpHost(self.gateway, self.token, LEGACY)
        server, token = draw.choice(["busy", "plain", "h1", "h2"]), self.fresh()
        params = {"name": f"{server}__work", "arguments": {"token": token, "secs": draw.uniform(0.5, 5.0)}}
        connection = host.send("tools/call", params, token)
        time.sleep(draw.uniform(0.0, 0.5))
        host.tell("notifications/cancelled", {"requestId": token, "reason": "soak"})
        began = time.monotonic()
        with contextlib.closing(connection):
            try:
                connection.getresponse().read()
            except TimeoutError:
                took = time.monotonic() - began
                self.account.violation("cancelled call left open", f"{token} {server} after {took:.1f} s")

    def kill_victim(self, draw: random.Random) -> None:
        name = draw.choice(VICTIMS)
        pid = self._pids("start", name)[-1]
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if str(self.folder).encode() in words and name.encode() in words:
                os.kill(pid, signal.SIGKILL)

    def hup(self, _draw: random.Random) -> None:
        os.kill(self.daemon.pid, signal.SIGHUP)

    def edit(self, _draw: random.Random) -> None:
        with self.config_turn:
            self.edits += 1
            self._write()

    def touch(self, _draw: random.Random) -> None:
        with self.config_turn:
            self._write()

    def unreadable(self, draw: random.Random) -> None:
        with self.config_turn:
            link = self.folder / "moltis.link"
            link.unlink(missing_ok=True)
            link.symlink_to("/proc/self/mem")
            link.rename(self.daemon.config)
            try:
                if draw.random() < 0.5:
                    os.kill(self.daemon.pid, signal.SIGHUP)
                time.sleep(draw.uniform(0.3, 1.5))
            finally:
                self._write()

    def burst(self, draw: random.Random) -> None:
        where = urlsplit(self.gateway)
        half = draw.random() < 0.5
        with contextlib.ExitStack() as opened:
            for _ in range(300):
                connection = socket.socket()
                opened.callback(connection.close)
                connection.settimeout(10)
                try:
                    connection.connect((where.hostname, where.port))
                    if half:
                        connection.sendall(b"POST /mcp HTTP/1.1\r\nhost: ")
                except OSError as error:
                    self.account.outcome("burst", type(error).__name__, 0.0)
            time.sleep(draw.uniform(0.0, 1.0))

    # -- judging

    def _ledger(self) -> list[list[str]]:
        return [line.split() for line in (self.folder / "ledger").read_text().splitlines()]

    def _pids(self, what: str, name: str | None = None) -> list[int]:
        return [int(line[2]) for line in self._ledger() if line[0] == what and name in (None, line[1])]

    def _own(self) -> list[int]:
        """Return the daemon and the warden, but not servers or hosts."""
        servers = set(self._pids("start"))
        return [pid for pid in (self.daemon.pid, *descendants(self.daemon.pid)) if pid not in servers]

    def _holds(self) -> tuple[int, int, int]:
        """Return the daemon's resident bytes (with its warden), descriptors and threads."""
        pid = self.daemon.pid
        try:
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            threads = len(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            return 0, 0, 0
        return resident_bytes(self._own()), descriptors, threads

    def _quiet(self, when: str) -> tuple[int, int, int]:
        """Let the hosts rest until all servers are ready again, and return the least that the daemon holds then."""
        self.going.clear()
        try:
            self._all_ready(when)
            seen: list[tuple[int, int, int]] = []
            deadline = time.monotonic() + (QUIET_SECS if self.seconds > 60 else 3.0)
            while time.monotonic() < deadline:
                seen.append(self._holds())
                time.sleep(0.5)
            rss, descriptors, threads = zip(*seen, strict=True)
            return min(rss), min(descriptors), min(threads)
        finally:
            self.going.set()

    def _all_ready(self, when: str) -> None:
        deadline = time.monotonic() + READY_WITHIN_SECS
        line = self.daemon.connect()
        with contextlib.closing(line):
            while bad := [s for s in line.call("mcp.list") if s["state"] != "ready"]:
                if time.monotonic() > deadline:
                    for status in bad:
                        told = f"{status['name']} is {status['state']}: {status['last_error']}"
                        self.account.violation("server not ready", f"{when}: {told}")
                    return
                time.sleep(0.2)

    def _all_usable(self) -> None:
        """Call each server until it answers: what is called ready must be of use."""
        host = HttpHost(self.gateway, self.token, LEGACY)
        for server in [*STDIO, *HTTP]:
            deadline = time.monotonic() + READY_WITHIN_SECS
            while True:
                token = self.fresh()
                reply = host.ask("tools/call", {"name": f"{server}__quick", "arguments": {"token": token}}, token)
                if "error" not in reply and not reply["result"].get("isError"):
                    break
                if time.monotonic() > deadline:
                    self.account.violation("ready server of no use", f"{server}: {reply}")
                    break
                time.sleep(0.5)

    def _judge_states(self) -> None:
        line = self.daemon.connect()
        with contextlib.closing(line):
            for status in line.call("mcp.list"):
                name = status["name"]
                if name in VICTIMS:
                    continue
                history = line.call("mcp.history", name=name)
                for entry in history:
                    if entry["reason"] == "unresponsive" or (name in STDIO and entry["to"] in ("backoff", "cooldown")):
                        self.account.violation("healthy server ended", f"{name}: {entry}")
        first, last = self.held["warm"], self.held["end"]
        for what, bound, before, after in zip(
            ("resident bytes", "descriptors", "threads"),
            (MAX_GROWTH_BYTES, MAX_MORE_DESCRIPTORS, MAX_MORE_THREADS),
            first,
            last,
            strict=True,
        ):
            if after - before > bound:
                self.account.violation("growth", f"{what} {before} -> {after}, allowed {bound}")

    def _judge_files(self) -> None:
        ledger = self._ledger()
        self.starts = collections.Counter(line[1] for line in ledger if line[0] == "start")
        self.opens = collections.Counter(line[1] for line in ledger if line[0] == "open")
        self.runs = collections.Counter(line[2] for line in ledger if line[0] == "call")
        for name, count in self.starts.items():
            if name not in VICTIMS and count != 1:
                self.account.violation("healthy server started again", f"{name}: {count} starts")
        for token, count in self.runs.items():
            if count != 1:
                self.account.violation("call run twice", f"{token}: {count} times")
        for log in sorted((self.folder / "data").glob("logs.jsonl*")):
            with log.open(errors="replace") as lines:
                for text in lines:
                    if FAULTS.search(text) and json.loads(text)["target"] != "moltis.mcp.stderr":
                        self.account.violation("fault in the log", text.strip()[:2000])
        said = (self.folder / "out").read_text(errors="replace")
        if FAULTS.search(said):
            self.account.violation("fault in the output", said[-2000:])

    def _tell(self) -> int:
        account = self.account
        print(f"\n{'server':<10}{'starts':>8}{'sessions':>10}{'drops':>7}  outcomes of host requests")
        for name in [*STDIO, *HTTP]:
            told = {key.split()[1]: n for key, n in sorted(account.outcomes.items()) if key.split()[0] == name}
            print(f"{name:<10}{self.starts[name]:>8}{self.opens[name]:>10}{self.drops[name]:>7}  {told}")
        rest = {
            k: n for k, n in sorted(account.outcomes.items()) if k.split()[0] not in STDIO and k.split()[0] not in HTTP
        }
        print(f"others: {rest}")
        print(f"nemesis: {dict(sorted(account.actions.items()))}")
        for text in account.refusals.values():
            print(f"  refused: {text[:200]}")
        print(f"calls run: {len(self.runs)}, of them twice: {sum(n > 1 for n in self.runs.values())}")
        print(f"slowest answer: {account.slowest:.1f} s of {ANSWERED_WITHIN_SECS:g} s allowed")
        for what, before, after in zip(("resident", "descriptors", "threads"), *self.held.values(), strict=True):
            print(f"{what}: {before} after warm-up, {after} at the end")
        for kind, count in account.violations.items():
            print(f"VIOLATED {count} x {kind}")
        print("not harmed" if not account.violations else "HARMED")
        return 1 if account.violations else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the nemesis, after the warm-up")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.seconds:g} s", flush=True)
    sys.exit(Soak(given.seconds, given.seed).play())


if __name__ == "__main__":
    main()
