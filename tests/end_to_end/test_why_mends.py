"""Real programs that fail as people's do: following the first advice of `moltis why` to the letter mends each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from failures import FAILURES, Trial
from harness import PYTHON, Daemon, wait_until


@pytest.mark.timeout(600)
def test_what_why_says_first_mends_each_of_these_failures(daemon: Daemon) -> None:
    assert len(FAILURES) >= 40
    trial = Trial(daemon)
    trial.start()
    wrong = []
    for number, failure in enumerate(FAILURES):
        name = f"f{number}"
        advice = trial.first_advice(name)
        if failure.first not in advice:
            wrong.append(f"{failure.name}: says {advice!r}, not {failure.first!r}")
            continue
        if (state := trial.mend(name, failure, advice)) != "ready" and not failure.by:
            wrong.append(
                f"{failure.name}: {advice!r} was followed, and it is in {state}: {daemon.status(name)['last_error']}"
            )
    assert wrong == []


@pytest.mark.parametrize("command", ["failures", "servers_of_others", "hosts_of_others"])
def test_the_command_that_prints_a_table_runs_by_itself(command: str) -> None:
    """Not as the tests import it: with a path of its own, from anywhere."""
    words = [PYTHON, str(Path(__file__).with_name(f"{command}.py")), "--help"]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout[:6]) == (0, "usage:"), done.stderr


def test_without_a_network_a_server_comes_back_by_itself_soon_after_that_does(daemon: Daemon) -> None:
    there = daemon.folder / "net"
    script = f"[ -e {there} ] || {{ echo 'npm error code EAI_AGAIN' >&2; exit 1; }}; exec \"$@\""
    server = daemon.evil()
    entry = daemon.real("sh", "-c", script, "sh", server["command"], *server["args"])
    daemon.write({"x": entry}, mcp={"max_restart_attempts": 1, "restart_cooldown_secs": 300.0})
    daemon.start()
    for _ in range(4):
        seen = daemon.wait_for("x", "backoff", "cooldown")
        assert (seen["state"], seen["attempts"], seen["last_error"]["kind"]) == ("backoff", 0, "no_network")
        daemon.wait_for("x", "starting", "initializing")
    wait_until("it is shown, if not while it is tried again", lambda: "no network" in daemon.cli("status").stdout)
    there.touch()
    daemon.wait_for("x", "ready")
