"""Time: the wall clock decides nothing, and time in which the daemon could not run is held against no server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import Daemon, wait_until
from patience import PATIENCE
from processes import stopped

JUMPING_CLOCK = '''
"""Let a file say by how many seconds Python's wall clock is wrong; the monotonic clock stays right."""
import datetime, time

def wrong():
    try:
        with open({path!r}) as f:
            return float(f.read() or 0)
    except (OSError, ValueError):
        return 0.0

right_time, right_ns, right_datetime = time.time, time.time_ns, datetime.datetime

class JumpingDatetime(right_datetime):
    @classmethod
    def now(cls, tz=None):
        return right_datetime.fromtimestamp(right_time() + wrong(), tz)

time.time = lambda: right_time() + wrong()
time.time_ns = lambda: right_ns() + int(wrong() * 1e9)
datetime.datetime = JumpingDatetime
'''


@pytest.fixture
def jumping(daemon: Daemon) -> Path:
    """Give the file that sets this daemon's wall clock wrong."""
    offset = daemon.folder / "offset"
    site = daemon.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(JUMPING_CLOCK.format(path=str(offset)))
    daemon.env["PYTHONPATH"] = str(site)
    return offset


@pytest.mark.alone
def test_a_jump_of_the_wall_clock_neither_restarts_nor_stalls_anything(daemon: Daemon, jumping: Path) -> None:
    beat = {"heartbeat_interval_secs": 0.2, "heartbeat_timeout_secs": 1.0}
    daemon.write(
        {
            "steady": daemon.evil(**beat),
            "waiting": daemon.evil("exit-at-once=1", events="ev", restart_backoff_secs=0.5, max_restart_attempts=50),
        },
        mcp={"restart_backoff_max_secs": 0.5},
    )
    daemon.start().wait_for("steady", "ready")
    for jump in (3600, -3600, 31_536_000, -31_536_000):
        daemon.wait_for("waiting", "backoff")
        shown_before = daemon.rpc("daemon.status")["uptime_secs"]
        began, starts = time.monotonic(), len(daemon.starts("ev"))
        jumping.write_text(str(jump))
        wait_until(f"the next try comes in time in spite of {jump}", lambda n=starts: len(daemon.starts("ev")) > n, 3)
        time.sleep(0.7)
        assert daemon.status("steady")["restarts"] == 0
        assert daemon.status("steady")["state"] == "ready"
        uptime = daemon.rpc("daemon.status")["uptime_secs"] - shown_before
        assert abs(uptime - (time.monotonic() - began)) < 0.5
        jumping.write_text("0")
        time.sleep(0.5)
        assert daemon.status("steady")["restarts"] == 0
    assert daemon.stop() == 0


def test_the_clock_of_the_test_really_jumps(daemon: Daemon, jumping: Path) -> None:
    daemon.write({"s": daemon.evil()})
    jumping.write_text("31536000")
    daemon.start().wait_for("s", "ready")
    assert daemon.history("s")[0]["at"] > time.strftime("%Y-%m-%dT", time.gmtime(time.time() + 30_000_000))


def test_a_daemon_that_was_suspended_restarts_nobody(daemon: Daemon) -> None:
    """As after a laptop's lid: more heartbeats were missed than end a server, but by the daemon, not by the servers."""
    beat = {"heartbeat_interval_secs": 0.5, "heartbeat_timeout_secs": 1.0, "heartbeat_max_missed": 3}
    daemon.write({f"s{n}": daemon.evil(**beat) for n in range(20)})
    before = daemon.start().wait_all("ready")
    with stopped(daemon.pid):
        time.sleep(7)
    time.sleep(2)
    after = daemon.wait_all("ready")
    assert {n: s["pid"] for n, s in after.items()} == {n: s["pid"] for n, s in before.items()}
    assert {s["restarts"] for s in after.values()} == {0}


def test_an_answer_that_came_while_the_daemon_was_suspended_is_taken(daemon: Daemon) -> None:
    """It has run, and says so: told that there was no reply, somebody would run it once more."""
    daemon.write({"s": daemon.evil(request_timeout_secs=2.0)})
    daemon.start().wait_for("s", "ready")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(daemon.text, "s", "slow", secs=1.0)
        time.sleep(0.5)
        with stopped(daemon.pid):
            time.sleep(4)
        assert answer.result(PATIENCE)
    assert daemon.status("s")["restarts"] == 0


def test_servers_that_were_suspended_with_the_daemon_are_given_time(daemon: Daemon) -> None:
    beat = {"heartbeat_interval_secs": 0.4, "heartbeat_timeout_secs": 1.0, "heartbeat_max_missed": 3}
    daemon.write({"s": daemon.evil(**beat)})
    pid = daemon.start().wait_for("s", "ready")["pid"]
    with stopped(daemon.pid), stopped(pid):
        time.sleep(6)
    time.sleep(1.5)
    status = daemon.status("s")
    assert (status["pid"], status["restarts"], status["state"]) == (pid, 0, "ready")


def test_a_suspended_warden_delays_but_breaks_nothing(daemon: Daemon) -> None:
    daemon.write({"a": daemon.evil(), "b": daemon.evil()})
    daemon.start().wait_all("ready")
    with stopped(daemon.warden_pid()):
        assert daemon.text("a", "echo", message="x") == "x"
        daemon.rpc("mcp.list")
        time.sleep(1)
    daemon.rpc("mcp.restart", name="a")
    daemon.wait_for("a", "ready")
    assert daemon.status("b")["restarts"] == 0
