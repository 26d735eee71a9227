"""Servers that allow one of them: `moltis mcp test` asks the one that runs, and starts a copy only when told to."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import Any

import pytest
from harness import PYTHON, Daemon, wait_until
from processes import signal_pid

ONE = """
import fcntl, os, signal, sys, runpy
place, how, *argv = sys.argv[1:]
lock = open(place, "a+")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    if how == "exits":
        sys.exit("Error: profile is already in use by another process")
    lock.seek(0)
    os.kill(int(lock.read().split()[-1]), signal.SIGTERM)
    fcntl.flock(lock, fcntl.LOCK_EX)
lock.truncate(0)
lock.write(f"{os.getpid()}\\n")
lock.flush()
sys.argv = argv
runpy.run_path(argv[0], run_name="__main__")
"""


def only_one(daemon: Daemon, how: str, *modes: str) -> dict[str, Any]:
    entry = daemon.evil(*modes)
    server = entry["args"][2:]  # less -S and -E
    return {"command": PYTHON, "args": ["-c", ONE, str(daemon.folder / "lock"), how, *server]}


@pytest.mark.parametrize("how", ["exits", "ends the holder"])
def test_a_test_of_a_server_that_runs_harms_neither_it_nor_a_call(daemon: Daemon, how: str) -> None:
    daemon.write({"x": only_one(daemon, how)})
    daemon.start()
    pid = daemon.wait_for("x", "ready")["pid"]
    answers: list[str] = []
    call = threading.Thread(target=lambda: answers.append(daemon.text("x", "slow", secs=1.0)))
    call.start()
    done = daemon.cli("mcp", "test", "x", "--json")
    call.join()
    tried = json.loads(done.stdout)
    assert (done.returncode, tried["ok"], tried["running"]) == (0, True, True)
    assert tried["tool_count"] == daemon.status("x")["tool_count"]
    assert len(answers) == 1
    status = daemon.status("x")
    assert (status["pid"], status["attempts"], status["restarts"]) == (pid, 0, 0)


def test_a_copy_that_is_asked_for_and_fails_says_that_one_is_running(daemon: Daemon) -> None:
    daemon.write({"x": only_one(daemon, "exits")})
    daemon.start()
    daemon.wait_for("x", "ready")
    done = daemon.cli("mcp", "test", "x", "--copy")
    assert done.returncode == 1
    assert "profile is already in use by another process" in done.stdout
    assert "it is running, and may not allow a second copy" in done.stdout
    assert "hint: pgrep -af" in done.stderr
    assert daemon.status("x")["state"] == "ready"


def test_a_test_while_the_server_starts_waits_for_that_one(daemon: Daemon) -> None:
    daemon.write({"x": only_one(daemon, "exits", "slow-start=1.5")})
    daemon.start()
    tried = daemon.rpc("mcp.test", name="x")
    assert (tried["ok"], tried["running"]) == (True, True)
    assert daemon.status("x")["attempts"] == 0


def test_a_server_that_does_not_run_is_started_for_its_test(daemon: Daemon) -> None:
    daemon.write({"x": only_one(daemon, "exits")})
    daemon.start()
    daemon.wait_for("x", "ready")
    daemon.rpc("mcp.stop", name="x")
    tried = daemon.rpc("mcp.test", name="x")
    assert (tried["ok"], tried["running"]) == (True, False)
    assert daemon.status("x")["state"] == "stopped"


def test_a_test_that_fails_says_what_why_would(daemon: Daemon) -> None:
    script = "echo 'Error: API_TOKEN is required' >&2; seq -f '    at f (x.js:1:%g)' 30 >&2; exit 1"
    daemon.write({"x": daemon.real("sh", "-c", script)})
    daemon.start()
    daemon.wait_for("x", "backoff", "cooldown")
    done = daemon.cli("mcp", "test", "x")
    assert done.returncode == 1
    assert "its last words: Error: API_TOKEN is required" in done.stdout
    assert "hint: moltis env set API_TOKEN" in done.stderr


def test_status_wait_waits_for_what_stops_and_says_what_it_gave_up(daemon: Daemon) -> None:
    daemon.write({"x": daemon.evil("eof-ignoring")})
    daemon.start()
    daemon.wait_for("x", "ready")
    daemon.rpc("mcp.restart", name="x")
    done = daemon.cli("status", "--wait")
    assert done.returncode == 0
    assert daemon.status("x")["state"] == "ready"


@pytest.mark.parametrize(
    "modes",
    [("eof-ignoring", "ignterm"), ("stubborn-grandchild=setsid",), ("stubborn-grandchild=daemon",), ()],
    ids=["a server that ignores its end", "its child", "an orphan of it", "a server"],
)
def test_the_next_daemon_waits_for_what_is_left_of_the_one_that_was_killed(
    daemon: Daemon, modes: tuple[str, ...]
) -> None:
    daemon.write({"x": only_one(daemon, "exits", *modes)})
    daemon.start()
    old = daemon.wait_for("x", "ready")["pid"]
    warden = daemon.warden_pid()
    signal_pid(warden, signal.SIGSTOP)  # on a machine that is loaded enough it takes its time by itself
    try:
        daemon.signal(signal.SIGKILL)
        daemon.wait_exit()
        daemon.start()
        time.sleep(1.0)
        assert daemon.status("x")["state"] == "starting"
        wait_until(
            "it is said",
            lambda: "earlier_servers_are_ending" in [r["message"] for r in daemon.records("moltis.daemon")],
        )
    finally:
        signal_pid(warden, signal.SIGCONT)
    status = daemon.wait_for("x", "ready")
    assert status["pid"] != old
    assert (status["attempts"], status["restarts"], status["recent_errors"]) == (0, 0, [])
    assert [entry["to"] for entry in daemon.history("x")] == ["starting", "initializing", "ready"]


def test_the_next_daemon_keeps_nobody_waiting_but_local_servers(daemon: Daemon) -> None:
    daemon.write({"x": only_one(daemon, "exits", "eof-ignoring", "ignterm")})
    daemon.start()
    daemon.wait_for("x", "ready")
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.start()
    assert daemon.rpc("mcp.stop", name="x") == {"ok": True}
    assert daemon.status("x")["state"] == "stopped"
    assert daemon.stop() == 0
