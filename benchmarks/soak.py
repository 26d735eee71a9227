"""A daemon with sixteen servers, hosts that call all the time, and a nemesis: is any healthy server harmed?

    soak.py [--seconds 60] [--seed N]

The nemesis draws from the seed: long calls, sessions lost by any status with and without a word, broken streams,
probes that are muted or die, floods, hosts that vanish in mid-call, cancelled calls, `kill -9` of servers marked as
victims, outages of a server and of the authorization server behind two others, edits of moltis.toml, SIGHUP, files of
the daemon that cannot be opened, read, written or renamed, no thread that can be started, no descriptor left, bursts of
300 connections. Whatever it draws, no server but a victim may be started twice or end its connection, no call may run
twice or be left without an answer, no call of an unharmed server may fail, a lost session must be begun anew, no login
may be asked for, and the daemon may not grow. Exit 1 names what did not hold. The draws follow from the seed; how they
meet is up to the machine.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import json
import math
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soak_growth import WINDOWS, Sample, growth
from soak_hosts import ANSWERED_WITHIN_SECS, LEGACY, MODERN, HttpHost, PipeHost
from workbench import BARE_PYTHON, HERE, Daemon, descendants, resident_bytes

MCP = {
    "request_timeout_secs": 10,
    "request_timeout_max_secs": 20,
    "startup_timeout_secs": 30,
    "heartbeat_interval_secs": 1,
    "heartbeat_timeout_secs": 5,
    "heartbeat_max_missed": 3,
    "restart_backoff_secs": 0.2,
    "restart_backoff_max_secs": 1,
    "restart_cooldown_secs": 1,
    "restart_cooldown_max_secs": 2,
    "stable_after_secs": 2,
    "stop_eof_secs": 0.5,
    "stop_term_secs": 0.5,
}
READY_WITHIN_SECS = 120.0
BEGUN_ANEW_WITHIN_SECS = 60.0
"""After a session was lost without a word. A look is taken at once, or 5 s after the last one."""
QUIET_SECS = 20.0
"""Before what the daemon holds is counted, at most: connections close, idle threads end."""

SAMPLE_SECS = 2.0
PLATEAU_FROM_SECS = 900.0
"""A run so long is judged by its samples too."""
MAX_HALVES_BYTES = 6 << 20
"""By which the second half may be above the first."""
MAX_SLOPE_BYTES = 24 << 20
"""Of the second half, an hour."""

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
SESSIONS: dict[str, list[str]] = {
    "h1": [],
    "h2": ["--stream"],
    "h3": ["--stream", "--ping", "never"],
    "h4": ["--ping", "bare"],
}
HTTP: dict[str, list[str]] = SESSIONS | {"away": ["--stream"]}
LOGINS = ("a0", "a1")
ALL = (*STDIO, *HTTP, *LOGINS)
VICTIMS = ("victim1", "victim2", "away")
UNHARMED = ("plain", "second", "noping", "unknown", "changes", "chatty")
"""Each of their quick calls must succeed: nothing is done to them but what a healthy server stands."""

TOKEN_SECS = 10.0
BROWSER = [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()"]
FILES = ("/moltis.toml", "/known/", "/oauth/", "/tokens.toml", "/sessions.json", "/logs.jsonl")
ENOUGH_SECS = 4.0
"""Of a fault of the machine, at most."""

BY_THREAD = ("daemon.reload", "logs.tail", "env.list", "mcp.test", "mcp.config.get")
"""Methods, most of which need a thread."""
WEIGHTS = {"issuer away": 0.2, "issuer refuses": 0.2, "no descriptors": 0.5, "files fail": 2.0, "session dropped": 2.0}
"""How often, against the others: outages leave time in which all is well."""

FAULTS = re.compile(r"fault of moltis|unexpected|traceback", re.IGNORECASE)


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
        self.issuer_turn = threading.Lock()
        self.session_turns = {name: threading.Lock() for name in SESSIONS}
        self.files_turn = threading.Lock()
        self.threads_turn = threading.Lock()
        self.descriptors_turn = threading.Lock()
        self.helpers: list[threading.Thread] = []
        self.counter = 0
        self.drops: collections.Counter[str] = collections.Counter()
        self.held: dict[str, tuple[int, int, int]] = {}

        self.samples: list[Sample] = []
        self.steady_at = 0.0
        self.short_until = 0.0
        self.turned_away: set[str] = set()

        self.daemon = Daemon({}, None)
        self.folder = self.daemon.folder
        self.faults = self.folder / "faults"
        self.faults.mkdir()
        script = str(HERE / "soak_server.py")
        self.argv = {
            name: [BARE_PYTHON, "-S", "-E", script, str(self.folder), name, *words]
            for name, words in (STDIO | {name: ["--http", *words] for name, words in HTTP.items()}).items()
        }
        self.servers: dict[str, subprocess.Popen[str]] = {}
        self.issuer = ""
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
            self.steady_at = time.time()
            threading.Thread(target=self._sample, daemon=True).start()
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
            for server in self.servers.values():
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
        issuer = [BARE_PYTHON, "-E", str(HERE / "outage_server.py"), str(len(LOGINS)), str(TOKEN_SECS)]
        argvs = {name: self.argv[name] for name in HTTP} | {"issuer": [*issuer, f"ledger={self.folder}/ledger"]}
        for name, argv in argvs.items():
            self.servers[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        for name, server in self.servers.items():
            assert server.stdout is not None
            said = json.loads(server.stdout.readline())
            if name == "issuer":
                self.issuer = said["issuer"]
                self.urls |= dict(zip(LOGINS, said["urls"], strict=True))
            else:
                self.urls[name] = said["url"]
        self._write()
        plain = self.daemon.environ
        self.daemon.environ = plain | {"PYTHONPATH": str(HERE / "soak_faults"), "SOAK_FAULTS": str(self.faults)}
        self.daemon.start()
        self.daemon.environ = plain
        self.daemon.wait_ready(len(ALL))
        line = self.daemon.connect()
        self.gateway: str = line.call("daemon.status")["gateway_url"]
        self.token: str = line.call("token.create", name="soak", scope="write")["token"]
        line.close()

    def _write(self) -> None:
        """Write moltis.toml anew; `edits` stands in the entries of the victims."""
        lines = ["[gateway]", 'listen = "127.0.0.1:0"', "[daemon]", "log_max_bytes = 500000000"]
        lines.append(f"browser_command = {json.dumps(BROWSER)}")
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
        one = self.gateway.removesuffix("/mcp") + "/servers/{}/mcp"
        names = list(ALL)
        makers: list[tuple[str, Callable[[], HttpHost | PipeHost], list[str], str]] = [
            ("http1", lambda: self.host(LEGACY), names, "__"),
            ("http2", lambda: self.host(LEGACY), names, "__"),
            ("modern", lambda: self.host(MODERN), names, "__"),
            ("plain", lambda: self.host(LEGACY, one.format("plain")), ["plain"], ""),
            ("h2", lambda: self.host(MODERN, one.format("h2")), ["h2"], ""),
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
            self.judge_unanswered(id, server, error)
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
            "probe dies": self.die,
            "server away": self.go_away,
            "issuer away": self.issuer_away,
            "issuer refuses": self.issuer_refuses,
            "files fail": self.files_fail,
            "no threads": self.no_threads,
            "no descriptors": self.no_descriptors,
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
                if not (self.is_short() and isinstance(error, ConnectionError)):
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
        weights = [WEIGHTS.get(name, 1.0) for name in names]
        while time.monotonic() < until:
            self._do(self.random.choices(names, weights)[0])
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
        host = self.host(draw.choice([LEGACY, MODERN]))
        self.call(host, server, f"{server}__work", self.fresh(), secs, **meta)
        host.close()

    def drop(self, draw: random.Random) -> None:
        name, bare = draw.choice(list(SESSIONS)), draw.random() < 0.6
        statuses = [400, 400, 403, 404, 409, 422] if bare else [404, 401, 400, 409]
        status = draw.choice(statuses)
        # One after the other: a 401 to what is asked in a session that has just been begun means a login.
        with self.session_turns[name]:
            self.drops[name] += 1
            self.order(name, do="drop", status=status, bare=bare)
            self.usable(name, BEGUN_ANEW_WITHIN_SECS, f"session lost by {status}")

    def cut(self, draw: random.Random) -> None:
        self.order(draw.choice(["h2", "h3"]), do="cut")

    def mute(self, draw: random.Random) -> None:
        self.order(draw.choice(["plain", "second", "busy", "chatty", "h1", "h2"]), do="mute", pings=draw.randint(1, 2))
        time.sleep(3.0 if self.seconds < 60 else 2 * (MCP["heartbeat_interval_secs"] + MCP["heartbeat_timeout_secs"]))

    def die(self, draw: random.Random) -> None:
        how = draw.choice(["reset", "400", "404", "500", "503"])
        self.order(draw.choice(["h1", "h2"]), do="die", pings=draw.randint(1, 2), how=how)

    def go_away(self, draw: random.Random) -> None:
        self.order("away", do="away", secs=draw.uniform(0.3, 6.0), how=draw.choice(["closed", "hung", "500", "503"]))

    def issuer_away(self, draw: random.Random) -> None:
        with self.issuer_turn:
            secs = draw.uniform(0.5, 2.0 if self.seconds < 60 else 25.0)
            self._tell_issuer(f"away?{secs}")
            time.sleep(secs + 0.5)

    def issuer_refuses(self, draw: random.Random) -> None:
        with self.issuer_turn:
            self._tell_issuer(f"refuse?{draw.choice([400, 401, 403, 404, 429, 500, 503])}")
            time.sleep(draw.uniform(0.5, 2.0 if self.seconds < 60 else 15.0))
            self._tell_issuer("refuse?0")

    def _tell_issuer(self, what: str) -> None:
        request = urllib.request.Request(f"{self.issuer}/{what}", method="POST")
        until = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    response.read()
                return
            except OSError:  # it is not back yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def files_fail(self, draw: random.Random) -> None:
        chosen = draw.sample(FILES, draw.randint(1, 3))
        rows = [f"{draw.choice(['open', 'read', 'write', 'rename'])} {what}" for what in chosen]
        with self.files_turn:
            if "/logs.jsonl" in chosen:  # so that it is opened anew
                with contextlib.suppress(FileNotFoundError):
                    log = self.folder / "data" / "logs.jsonl"
                    log.rename(log.with_name(f"logs.jsonl.aside-{self.fresh()}"))
            fresh = self.faults / "fresh"
            fresh.write_text("\n".join(rows))
            fresh.rename(self.faults / "files")
            until = time.monotonic() + draw.uniform(0.5, 2 * ENOUGH_SECS)
            while time.monotonic() < until:  # have them read and written
                self.edit(draw)
                os.kill(self.daemon.pid, signal.SIGHUP)
                self.host(LEGACY).close()
                time.sleep(0.5)
            (self.faults / "files").unlink()

    def no_threads(self, draw: random.Random) -> None:
        with self.threads_turn:
            (self.faults / "threads").touch()
            self.edit(draw)
            until = time.monotonic() + draw.uniform(0.5, ENOUGH_SECS)
            while time.monotonic() < until:  # work for more threads than are idle
                asks = [threading.Thread(target=self.ask_daemon, args=(draw.choice(BY_THREAD),)) for _ in range(6)]
                for ask in asks:
                    ask.start()
                for ask in asks:
                    ask.join()
                time.sleep(0.2)
            (self.faults / "threads").unlink()

    def ask_daemon(self, method: str) -> None:
        """Ask by the control socket; an error is an answer."""
        with contextlib.closing(self.daemon.connect()) as line:
            try:
                line.call(method, **({"name": "victim1"} if method == "mcp.test" else {}))
            except RuntimeError as error:
                self.account.refusal(method, str(error))
            except OSError as error:
                if not self.is_short():
                    self.account.violation("request without an answer", f"{method}: {error!r}")

    def no_descriptors(self, draw: random.Random) -> None:
        """Leave the daemon, and nobody else, no descriptor, or a few."""
        with self.descriptors_turn:
            soft, hard = resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE)
            self.short_until = math.inf
            open_now = len(os.listdir(f"/proc/{self.daemon.pid}/fd"))
            resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, (open_now + draw.choice([0, 0, 2, 8]), hard))
            time.sleep(draw.uniform(0.5, ENOUGH_SECS))
            resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))
            self.short_until = time.monotonic() + 2.0

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
        host = self.host(draw.choice([LEGACY, MODERN]))
        server, token = draw.choice(["busy", "plain", "h1", "h2"]), self.fresh()
        params = {"name": f"{server}__work", "arguments": {"token": token, "secs": 2.0}}
        connection = host.send("tools/call", params, token)
        time.sleep(draw.uniform(0.0, 0.5))
        if connection.sock is not None and draw.random() < 0.5:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def cancel(self, draw: random.Random) -> None:
        host = self.host(LEGACY)
        server, token = draw.choice(["busy", "plain", "h1", "h2"]), self.fresh()
        params = {"name": f"{server}__work", "arguments": {"token": token, "secs": draw.uniform(0.5, 5.0)}}
        connection = host.send("tools/call", params, token)
        time.sleep(draw.uniform(0.0, 0.5))
        host.tell("notifications/cancelled", {"requestId": token, "reason": "soak"})
        began = time.monotonic()
        with contextlib.closing(connection), contextlib.closing(host):
            try:
                connection.getresponse().read()
            except TimeoutError:
                took = time.monotonic() - began
                self.account.violation("cancelled call left open", f"{token} {server} after {took:.1f} s")

    def kill_victim(self, draw: random.Random) -> None:
        name = draw.choice(VICTIMS[:2])
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
        """See that what is called ready is of use."""
        for server in ALL:
            self.usable(server, READY_WITHIN_SECS, "at the end")

    def usable(self, server: str, within_secs: float, when: str) -> None:
        """Call a server until it answers."""
        host = self.host(LEGACY)
        deadline, reply = time.monotonic() + within_secs, {}
        with contextlib.closing(host):
            while not self.over.is_set():
                token = self.fresh()
                params = {"name": f"{server}__quick", "arguments": {"token": token}}
                try:
                    reply = host.ask("tools/call", params, token)
                    if "error" not in reply and not reply["result"].get("isError"):
                        return
                except (OSError, http.client.HTTPException) as error:
                    self.judge_unanswered(token, server, error)
                if time.monotonic() > deadline:
                    self.account.violation("ready server of no use", f"{server} ({when}): {reply}")
                    return
                time.sleep(0.5)

    def host(self, era: str, url: str = "") -> HttpHost:
        """Begin a host; as often as it takes while there are no descriptors."""
        while True:
            try:
                return HttpHost(url or self.gateway, self.token, era)
            except (OSError, http.client.HTTPException):
                if not self.is_short():
                    raise
                time.sleep(0.5)

    def is_short(self) -> bool:
        """Whether the daemon is, or was a moment ago, left without descriptors: what knocks then is turned away."""
        return time.monotonic() < self.short_until

    def judge_unanswered(self, token: str, server: str, error: Exception) -> None:
        if self.is_short() and isinstance(error, ConnectionError):  # http.client's own are of that kind too
            self.turned_away.add(token)
            self.account.outcome("turned", "away", 0.0)
        else:
            self.account.violation("request without an answer", f"{token} {server}: {error!r}")

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self.over.wait(SAMPLE_SECS):
            with contextlib.suppress(OSError):
                size = int(Path(f"/proc/{self.daemon.pid}/statm").read_text().split()[1]) * page
                self.samples.append((time.monotonic(), size))

    def _judge_states(self) -> None:
        line = self.daemon.connect()
        with contextlib.closing(line):
            for status in line.call("mcp.list"):
                name = status["name"]
                if name in VICTIMS:
                    continue
                history = line.call("mcp.history", name=name)
                for entry in history:
                    late = datetime.fromisoformat(entry["at"]).timestamp() >= self.steady_at
                    if late and entry["to"] in ("stopping", "backoff", "cooldown", "awaiting_auth"):
                        self.account.violation("healthy server ended", f"{name}: {entry}")
        found = growth(self.samples) if self.seconds >= PLATEAU_FROM_SECS else None
        if found is not None and (found.second - found.first > MAX_HALVES_BYTES or found.per_hour > MAX_SLOPE_BYTES):
            self.account.violation("growth", str(found))
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
        for token in self.turned_away & set(self.runs):
            self.account.violation("request without an answer", f"{token}: turned away, and run")
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

    def _met(self) -> dict[str, int]:
        done = self.faults / "done"
        lines = done.read_text().replace(str(self.folder), "").splitlines() if done.exists() else []
        return dict(sorted(collections.Counter(re.sub(r"(?<=/)known/.*|[0-9]+", "", line) for line in lines).items()))

    def _tell(self) -> int:
        account = self.account
        print(f"\n{'server':<10}{'starts':>8}{'sessions':>10}{'drops':>7}  outcomes of host requests")
        for name in ALL:
            told = {key.split()[1]: n for key, n in sorted(account.outcomes.items()) if key.split()[0] == name}
            print(f"{name:<10}{self.starts[name]:>8}{self.opens[name]:>10}{self.drops[name]:>7}  {told}")
        rest = {k: n for k, n in sorted(account.outcomes.items()) if k.split()[0] not in ALL}
        print(f"others: {rest}")
        print(f"nemesis: {dict(sorted(account.actions.items()))}")
        for text in account.refusals.values():
            print(f"  refused: {text[:200]}")
        print(f"calls run: {len(self.runs)}, of them twice: {sum(n > 1 for n in self.runs.values())}")
        print(f"slowest answer: {account.slowest:.1f} s of {ANSWERED_WITHIN_SECS:g} s allowed")
        for what, before, after in zip(("resident", "descriptors", "threads"), *self.held.values(), strict=True):
            print(f"{what}: {before} after warm-up, {after} at the end")
        if (found := growth(self.samples)) is not None:
            print(f"resident, the least of each of {2 * WINDOWS} windows: {found}")
        print(f"faults of the machine that the daemon met: {self._met()}")
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
