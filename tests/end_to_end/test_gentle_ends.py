"""Every end is gentle first: end of file, SIGTERM, SIGKILL, so that a server can put away or pass on what it has.

What a container engine runs belongs to the engine, not to us: only the client's own SIGTERM ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import PYTHON, SERVERS, Daemon, wait_until
from processes import alive, children, marked, signal_pid

CONTAINERS = str(SERVERS / "containers.py")
CLEANER = """
import json, signal, sys, time
def put_away(*_):
    open(sys.argv[1], "a").write("put away\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, put_away)
for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32603, "message": "no"}}), flush=True)
while True:
    time.sleep(60)
"""
"""Refuses every handshake, ignores the end of file, and has something to put away."""

CLOSER = """
import json, os, signal, sys, time
def put_away(*_):
    open(sys.argv[1], "a").write("put away\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, put_away)
results = {"initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                          "serverInfo": {"name": "x", "version": "1"}},
           "tools/list": {"tools": [{"name": "quick", "inputSchema": {"type": "object"}}]}, "ping": {}}
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    if asked["method"] == "tools/call":
        continue
    if asked["method"] not in results:
        answer = {"error": {"code": -32601, "message": "no such method"}}
    else:
        answer = {"result": results[asked["method"]]}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
    if asked["method"] == "tools/list":
        time.sleep(1.5)
        os.close(1)
        while True:
            time.sleep(60)
"""
"""Closes its stdout when it is ready, runs on, and has something to put away."""

QUICK = {"restart_backoff_secs": 0.1, "restart_backoff_max_secs": 0.2, "max_restart_attempts": 50}


class Engine:
    """The stand-in engine, started outside of moltis."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "engine.sock")
        self.process = subprocess.Popen([PYTHON, "-S", CONTAINERS, "daemon", self.socket])

    def entry(self, *modes: str, **keys: Any) -> dict[str, Any]:
        words = ["-S", CONTAINERS, "run", self.socket, ",".join(modes) or "plain"]
        return {"command": PYTHON, "args": words, **keys}

    def containers(self) -> list[int]:
        return [pid for pid in children(self.process.pid) if alive(pid)]

    def end(self) -> None:
        for pid in [*self.containers(), self.process.pid]:
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        self.process.wait()


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    started = Engine(folder)
    try:
        wait_until("the engine listens", Path(started.socket).exists)
        yield started
    finally:
        started.end()


def failures(daemon: Daemon, number: int) -> None:
    wait_until(f"{number} failures", lambda: daemon.status("c")["attempts"] >= number)


def stopped(daemon: Daemon) -> None:
    daemon.rpc("mcp.stop", name="c")


def restarted(daemon: Daemon) -> None:
    was = daemon.status("c")["pid"]
    daemon.rpc("mcp.restart", name="c")
    wait_until("it runs anew", lambda: daemon.status("c")["pid"] not in (None, was))
    daemon.wait_for("c", "ready")
    daemon.rpc("mcp.stop", name="c")


def reloaded(daemon: Daemon) -> None:
    was = daemon.status("c")["pid"]
    text = daemon.config.read_text()
    daemon.rewrite(text.replace('"FIRST"', '"SECOND"'))
    daemon.rpc("daemon.reload")
    wait_until("it runs anew", lambda: daemon.status("c")["pid"] not in (None, was))
    daemon.wait_for("c", "ready")
    daemon.rpc("mcp.stop", name="c")


def removed(daemon: Daemon) -> None:
    daemon.rpc("mcp.remove", name="c")


def disabled(daemon: Daemon) -> None:
    daemon.rpc("mcp.disable", name="c")


def killed(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGKILL)


def terminated(daemon: Daemon) -> None:
    daemon.stop()


def terminated_twice(daemon: Daemon) -> None:
    daemon.signal(signal.SIGTERM)
    time.sleep(0.1)
    began = time.monotonic()
    with suppress(ProcessLookupError):  # all may be over already
        daemon.signal(signal.SIGTERM)
    daemon.wait_exit()
    assert time.monotonic() - began <= 1.0


@pytest.mark.parametrize("modes", [("plain",), ("ignore-eof",)])
@pytest.mark.parametrize(
    "event",
    [
        stopped,
        restarted,
        reloaded,
        removed,
        disabled,
        killed,
        terminated,
        pytest.param(terminated_twice, marks=pytest.mark.alone),
    ],
)
def test_no_container_that_heeds_sigterm_is_left(
    daemon: Daemon, engine: Engine, modes: tuple[str, ...], event: Callable[[Daemon], None]
) -> None:
    entry = engine.entry(*modes, env={"WORD": "FIRST"})
    daemon.write({"c": entry}, mcp={"stop_eof_secs": 3.0, "stop_term_secs": 3.0})
    daemon.start().wait_for("c", "ready")
    assert len(engine.containers()) == 1
    event(daemon)
    wait_until("no container is left", lambda: not engine.containers(), within=8)


def test_a_failed_handshake_leaves_no_container_however_often_it_is_tried(daemon: Daemon, engine: Engine) -> None:
    daemon.write({"c": engine.entry("ignore-eof", "no-tools")}, mcp=QUICK)
    daemon.start()
    failures(daemon, 4)
    assert len(engine.containers()) <= 1
    assert daemon.status("c")["last_error"]["kind"] == "listing_failed"
    daemon.stop()
    wait_until("no container is left", lambda: not engine.containers())


def test_a_startup_timeout_leaves_no_container(daemon: Daemon, engine: Engine) -> None:
    daemon.write({"c": engine.entry("ignore-eof", "mute")}, mcp={**QUICK, "startup_timeout_secs": 1.0})
    daemon.start()
    failures(daemon, 2)
    assert len(engine.containers()) <= 1
    assert daemon.status("c")["last_error"]["kind"] == "startup_timeout"


def test_a_server_that_its_heartbeat_ends_leaves_no_container(daemon: Daemon, engine: Engine) -> None:
    beats = {"heartbeat_interval_secs": 0.3, "heartbeat_timeout_secs": 0.3, "heartbeat_max_missed": 2}
    daemon.write({"c": engine.entry("ignore-eof", "deaf")}, mcp={**QUICK, **beats, "stop_eof_secs": 0.3})
    daemon.start()
    failures(daemon, 2)
    assert len(engine.containers()) <= 1
    assert daemon.status("c")["last_error"]["kind"] == "unresponsive"
    daemon.stop()
    wait_until("no container is left", lambda: not engine.containers())


def test_a_try_that_fails_leaves_no_container(daemon: Daemon, engine: Engine) -> None:
    daemon.write({})
    daemon.start()
    tried = daemon.rpc("mcp.test", name="c", **engine.entry("ignore-eof", "no-tools"))
    assert tried["ok"] is False
    wait_until("no container is left", lambda: not engine.containers())


@pytest.mark.parametrize("program", [CLEANER, CLOSER])
def test_a_server_that_is_given_up_gets_its_sigterm_before_it_is_killed(daemon: Daemon, program: str) -> None:
    put_away = daemon.folder / "put-away"
    daemon.write({"c": daemon.real(PYTHON, "-S", "-c", program, str(put_away))}, mcp=QUICK)
    daemon.start()
    failures(daemon, 2)
    assert len(put_away.read_text().splitlines()) >= 2


@pytest.mark.alone
def test_a_call_fails_at_once_when_its_server_closes_its_stdout_though_the_server_takes_its_time(
    daemon: Daemon,
) -> None:
    put_away = daemon.folder / "put-away"
    entry = daemon.real(PYTHON, "-S", "-c", CLOSER, str(put_away))
    daemon.write({"c": entry}, mcp={**QUICK, "stop_eof_secs": 5.0, "stop_term_secs": 5.0})
    daemon.start().wait_for("c", "ready")
    began = time.monotonic()
    with pytest.raises(Exception, match=r"not sent again"):
        daemon.call("c", "quick")
    assert time.monotonic() - began < 4.0
    for pid in marked(daemon.mark):  # or the end of the daemon waits for it
        signal_pid(pid, signal.SIGKILL)
