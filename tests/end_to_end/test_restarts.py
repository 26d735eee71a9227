"""What happens to a server that fails: every delay can be checked from what is published and logged."""

from __future__ import annotations

import itertools
import math
import os
import re
import resource
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from harness import PYTHON, QUICK, Daemon, wait_until
from processes import alive

BASE = float(QUICK["restart_backoff_secs"])
CAP = float(QUICK["restart_backoff_max_secs"])
MAX = int(QUICK["max_restart_attempts"])
COOLDOWN = float(QUICK["restart_cooldown_secs"])
LATE = 0.6
"""Seconds by which a start may come after its published instant, if nothing else is tested meanwhile."""


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def assert_backoff_is_as_promised(history: list[dict[str, Any]]) -> None:
    """c_n = min(max, base * 2**(n-1)); a delay lies in [c_n/2, c_n]; a cooldown is exact."""
    for entry in history:
        if entry["to"] == "backoff":
            ceiling = min(CAP, BASE * 2 ** (entry["attempt"] - 1))
            assert ceiling / 2 - 1e-6 <= entry["delay_secs"] <= ceiling + 1e-6, entry
    cooldowns = [e["delay_secs"] for e in history if e["to"] == "cooldown"]
    assert cooldowns == [min(COOLDOWN * 2**n, float(QUICK["restart_cooldown_max_secs"])) for n in range(len(cooldowns))]


def assert_starts_follow_the_published_instants(
    daemon: Daemon, server: str, events: str, late: float = math.inf
) -> None:
    due = [instant(e["next_retry_at"]) for e in daemon.history(server) if e.get("next_retry_at")]
    starts = daemon.starts(events)[1:]
    assert len(starts) >= len(due) - 1
    for planned, actual in zip(due, starts, strict=False):
        assert -0.05 <= actual - planned <= late, (due, starts)


@pytest.mark.parametrize("code", [0, 1, 7])
def test_a_server_that_exits_at_once_backs_off_then_cools_down_with_single_probes(daemon: Daemon, code: int) -> None:
    daemon.write({"s": daemon.evil(f"exit-at-once={code}", events="ev")})
    daemon.start().wait_for("s", "cooldown")
    assert len(daemon.starts("ev")) == MAX + 1
    wait_until("three cooldowns", lambda: [e["to"] for e in daemon.history("s")].count("cooldown") >= 3)
    assert len(daemon.starts("ev")) == MAX + 3, "a cooldown ends with exactly one start"
    history = daemon.history("s")
    assert [e["to"] for e in history].count("backoff") == MAX
    assert_backoff_is_as_promised(history)
    assert_starts_follow_the_published_instants(daemon, "s", "ev")
    status = daemon.status("s")
    assert status["status"] == "error"
    assert status["attempts"] >= MAX + 1
    assert status["last_error"]["exit_code"] == code
    assert "fatal: cannot start" in status["last_error"]["stderr_tail"]


@pytest.mark.alone
def test_a_start_is_not_late(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("exit-at-once=1", events="ev")})
    daemon.start()
    wait_until("two cooldowns", lambda: [e["to"] for e in daemon.history("s")].count("cooldown") >= 2)
    assert_starts_follow_the_published_instants(daemon, "s", "ev", LATE)


def test_a_server_that_exits_soon_after_ready_is_not_forgiven_each_time(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("exit-after-ready=0.5", events="ev")})
    daemon.start().wait_for("s", "cooldown")
    history = daemon.history("s")
    assert len(daemon.starts("ev")) == MAX + 1
    assert [e["to"] for e in history].count("ready") == MAX + 1
    assert_backoff_is_as_promised(history)
    wait_until("the probe fails as well", lambda: len(daemon.starts("ev")) == MAX + 2)
    daemon.wait_for("s", "cooldown")


def test_uninterrupted_ready_time_forgives(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("exit-after-ready=2.5", events="ev", stable_after_secs=0.4)})
    daemon.start()
    wait_until("three starts", lambda: len(daemon.starts("ev")) >= 3)
    delays = [e for e in daemon.history("s") if e["to"] == "backoff"]
    assert {e["attempt"] for e in delays} == {1}
    assert all(BASE / 2 - 1e-6 <= e["delay_secs"] <= BASE + 1e-6 for e in delays)


def test_a_server_that_appears_only_later_is_found_by_the_next_try(daemon: Daemon) -> None:
    program = daemon.folder / "later"
    daemon.write({"s": daemon.real(str(program))})
    daemon.start().wait_for("s", "cooldown")
    status = daemon.status("s")
    assert status["state"] != "invalid"
    assert str(program) in status["last_error"]["message"] or "later" in status["last_error"]["message"]
    evil = daemon.evil()
    program.write_text(f"#!/bin/sh\nexec {PYTHON} {' '.join(evil['args'])}\n")
    program.chmod(0o755)
    daemon.wait_for("s", "ready")


def test_a_missing_folder_is_an_ordinary_failure_until_it_exists(daemon: Daemon) -> None:
    place = daemon.folder / "not-yet"
    daemon.write({"s": daemon.evil(cwd=str(place))})
    daemon.start().wait_for("s", "backoff", "cooldown")
    place.mkdir()
    daemon.wait_for("s", "ready")


def test_a_dependency_that_appears_later_lets_the_probe_succeed(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil(f"appear-later={daemon.folder / 'flag'}", events="ev", restart_cooldown_secs=3.0)})
    daemon.start().wait_for("s", "cooldown")
    (daemon.folder / "flag").touch()
    starts = len(daemon.starts("ev"))
    status = daemon.wait_for("s", "ready")
    assert len(daemon.starts("ev")) == starts + 1
    assert status["attempts"] > 0, "only stable ready time forgives"


def test_restart_by_request_forgives_and_starts_at_once(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("exit-at-once=1", events="ev", restart_cooldown_secs=600.0)})
    daemon.start().wait_for("s", "cooldown")
    before = len(daemon.starts("ev"))
    daemon.rpc("mcp.restart", name="s")
    wait_until("a whole new round", lambda: len(daemon.starts("ev")) == before + MAX + 1)


def test_an_unanswered_handshake_is_a_failure_after_startup_timeout(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("hang-init", events="ev", startup_timeout_secs=2.0, protocol="legacy")})
    daemon.start().wait_for("s", "backoff")
    first = daemon.history("s")
    assert any(e["reason"] == "startup_timeout" for e in first), first
    assert "ready" not in {e["to"] for e in first}
    daemon.wait_for("s", "cooldown")
    assert len(daemon.starts("ev")) == MAX + 1
    assert not [p for p in daemon.event_pids("ev", "start") if alive(p)]


@pytest.mark.alone
def test_a_server_that_stops_answering_is_replaced_after_the_missed_heartbeats(daemon: Daemon) -> None:
    beat = {"heartbeat_interval_secs": 0.3, "heartbeat_timeout_secs": 0.3, "heartbeat_max_missed": 3}
    daemon.write({"s": daemon.evil("hang-after-ready", events="ev", **beat)})
    daemon.start()
    ready = wait_until("a first ready", lambda: [e for e in daemon.history("s") if e["to"] == "ready"])[0]
    failed = wait_until("a failure", lambda: [e for e in daemon.history("s") if e["to"] == "backoff"], 10)[0]
    took = instant(failed["at"]) - instant(ready["at"])
    assert 0.9 <= took <= 3 * 0.6 + 1.0, took
    assert failed["reason"] == "unresponsive"


@pytest.mark.parametrize("mode", ["close-stdout", "no-stdin-read"])
def test_a_server_that_turns_away_is_replaced(daemon: Daemon, mode: str) -> None:
    beat = {"heartbeat_interval_secs": 0.3, "heartbeat_timeout_secs": 0.3}
    daemon.write({"s": daemon.evil(mode, events="ev", **beat)})
    daemon.start()
    wait_until("it is started again", lambda: len(daemon.starts("ev")) >= 2)
    first = daemon.event_pids("ev", "start")[0]
    assert not alive(first)


def test_no_more_than_the_allowed_number_start_at_once(daemon: Daemon) -> None:
    daemon.write({f"s{n}": daemon.evil("slow-start=0.3", events="ev") for n in range(24)})
    daemon.start().wait_all("ready")
    begun = [(at, 1) for at in daemon.starts("ev")]
    listed = [(at, -1) for at, _, words in daemon.events("ev") if words[0] == "tools/list"]
    assert (len(begun), len(listed)) == (24, 24)
    at_once = list(itertools.accumulate(change for _, change in sorted(begun + listed)))
    assert max(at_once) <= 8, "max_concurrent_starts is 8 unless the file says otherwise"
    assert max(at_once) > 2


def test_every_transition_is_one_record_and_the_log_tells_the_same_story_as_the_history(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("exit-at-once=3")})
    daemon.start().wait_for("s", "cooldown")
    daemon.rpc("mcp.stop", name="s")
    daemon.wait_for("s", "stopped")
    history = daemon.history("s")
    wait_until("the log is written", lambda: len(daemon.records("moltis.mcp.lifecycle")) >= len(history))
    records = [r for r in daemon.records("moltis.mcp.lifecycle") if r["message"] == "server_state_changed"]
    keys = ("from", "to", "reason", "attempt", "delay_secs", "pid", "exit_code")
    assert [tuple(r["fields"].get(k) for k in keys) for r in records] == [
        tuple(e.get(k) for k in keys) for e in history
    ]
    for record in records:
        assert record["fields"]["server"] == "s"
        assert "next_retry_at" in record["fields"]
        assert record["level"] in {"DEBUG", "INFO", "WARN", "ERROR"}
        assert abs(record["ts"] / 1000 - time.time()) < 120


def test_why_tells_the_story_in_words(daemon: Daemon) -> None:
    daemon.write({"bad": daemon.evil("exit-at-once=7", restart_cooldown_secs=600.0), "good": daemon.evil()})
    daemon.start().wait_for("bad", "cooldown")
    daemon.wait_for("good", "ready")
    told = daemon.cli("why", "bad")
    assert told.returncode in (0, 1), told.stderr
    for needed in ("exit", "7", "fatal: cannot start", "moltis mcp restart bad"):
        assert needed in told.stdout, told.stdout
    assert re.search(r"cool", told.stdout)
    assert not re.search(r"Traceback|None|\{'", told.stdout)
    assert "ready" in daemon.cli("why", "good").stdout
    unknown = daemon.cli("why", "goood")
    assert unknown.returncode == 4
    assert "good" in unknown.stderr


def test_why_names_a_killed_server_by_its_signal(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    pid = daemon.start().wait_for("s", "ready")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until("it is ready again", lambda: daemon.status("s")["restarts"] == 1)
    daemon.wait_for("s", "ready")
    assert "SIGKILL" in daemon.cli("why", "s").stdout


def test_the_manuals_server_to_the_letter_fails_with_its_own_words(daemon: Daemon, manual_server: Path) -> None:
    """The manual's code does not run on the SDK it imports; a person must be able to see why."""
    daemon.write({"my_server": daemon.real("node", "as-written.js", cwd=str(manual_server))})
    daemon.start().wait_for("my_server", "backoff", "cooldown")
    assert "Schema is missing a method literal" in daemon.cli("why", "my_server").stdout


def test_a_server_is_not_blamed_while_the_daemon_has_no_descriptor_left_to_start_it_with(daemon: Daemon) -> None:
    daemon.write({"a": daemon.evil()}, mcp={**QUICK, "max_restart_attempts": 1})
    pid = daemon.start().wait_for("a", "ready")["pid"]
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
    try:
        os.kill(pid, signal.SIGKILL)
        time.sleep(2.0)  # some tries
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
    status = daemon.wait_for("a", "ready")
    ends = [entry["reason"] for entry in daemon.history("a") if entry["to"] in ("backoff", "cooldown")]
    assert ends[0] == "exited"
    assert len(ends) > 2
    assert set(ends[1:]) == {"no_resources"}
    assert status["attempts"] == 1
