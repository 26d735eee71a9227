"""The commands about the daemon itself, and what every command must not do: import what it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon
from samples import DAEMON, TOOLS, ago, failure, mixed, server

pytestmark = pytest.mark.e2e

Start = Callable[[dict[str, Any]], FakeDaemon]

SLOW = {"pydantic", "msgspec", "anyio", "asyncio", "structlog", "mcp", "rich", "uvloop", "tomlkit", "pkg_resources"}

LOADED = """
import sys
before = set(sys.modules)
from moltis.cli.app import run
code = run({words!r})
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}), file=sys.stderr)
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    "words", [["status"], ["status", "filesystem"], ["mcp", "list"], ["mcp", "tools"], ["logs"], ["rpc", "mcp.list"]]
)
@pytest.mark.parametrize("running", [True, False], ids=["running", "down"])
def test_commands_asked_often_import_nothing_slow(shell: Shell, daemon: Start, words: list[str], running: bool) -> None:
    shell.config.write_text('[mcp.servers.files]\ncommand = "x"\n')
    if running:
        daemon({"daemon.status": DAEMON, "mcp.list": mixed(), "mcp.status": mixed()[0], "mcp.tools": TOOLS})
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(words=words)],
        capture_output=True,
        text=True,
        env=shell.environ,
        cwd=shell.home,
        timeout=60,
    )
    imported = set(done.stderr.splitlines()[-1].split())
    assert "moltis" in imported, done.stderr
    assert not imported & SLOW


def test_the_version_costs_no_import_at_all(shell: Shell) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "moltis", "--version"],
        capture_output=True,
        text=True,
        env=shell.environ,
        timeout=60,
    )
    assert done.stdout == "moltis 0.5.0\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"click", "json", "pathlib", "dataclasses", "moltis.cli.app"} & imported


def test_reload_tells_what_became_of_each_server(shell: Shell, daemon: Start) -> None:
    result = {"added": ["a", "b"], "changed": [], "removed": ["c"], "unchanged": ["d"]}
    daemon({"daemon.reload": result})
    assert shell.moltis("reload").stdout == "added:     a, b\nchanged:   -\nremoved:   c\nunchanged: d\n"
    assert json.loads(shell.moltis("reload", "--json").stdout) == result


def test_stop_returns_when_the_daemon_is_gone(shell: Shell, daemon: Start) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None

        def shutdown(_params: object) -> dict[str, bool]:
            process.communicate(b"\n", timeout=30)
            return {"ok": True}

        daemon({"daemon.status": {**DAEMON, "pid": process.pid}, "daemon.shutdown": shutdown})
        done = shell.moltis("stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "moltis: stopped\n")
        assert process.returncode == 0


def test_stop_says_who_does_not_end_and_exits_7(shell: Shell, daemon: Start) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        daemon({"daemon.status": {**DAEMON, "pid": process.pid}, "daemon.shutdown": {"ok": True}})
        done = shell.moltis("stop", "--timeout", "0.1")
        assert done.returncode == 7
        assert f"pid {process.pid}" in done.stderr
        process.communicate(b"\n", timeout=30)


def test_why_is_the_story_of_the_status_and_the_history(shell: Shell, daemon: Start) -> None:
    states = [("stopped", "starting"), ("starting", "backoff")]
    history = [
        {
            "at": ago(30 - n), "from": before, "to": after, "reason": "exited" if after == "backoff" else "start",
            "attempt": n, "delay_secs": 60.0 if n else None, "next_retry_at": None, "pid": 7,
            "exit_code": 3 if n else None, "message": None,
        }
        for n, (before, after) in enumerate(states)
    ]  # fmt: skip
    status = server("x", "backoff", attempts=1, next_retry_at=ago(-60), last_error=failure(exit_code=3))
    fake = daemon({"mcp.status": status, "mcp.history": history})
    done = shell.moltis("why", "x", "-n", "20")
    assert done.returncode == 0, done.stderr
    assert "exit code 3" in done.stdout
    assert fake.asked == [("mcp.status", {"name": "x"}), ("mcp.history", {"name": "x", "limit": 20})]
    assert json.loads(shell.moltis("why", "x", "--json").stdout) == {"status": status, "history": history}


def test_rpc_prints_the_result_as_it_came(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.status": b'{"b" : 1.0,"a":[ ]}'})
    done = shell.moltis("rpc", "mcp.status", '{"name": "x"}')
    assert done.stdout == '{"b" : 1.0,"a":[ ]}\n'
    assert shell.moltis("rpc", "mcp.status", "-", stdin='{"name": "y"}').returncode == 0
    assert fake.asked == [("mcp.status", {"name": "x"}), ("mcp.status", {"name": "y"})]


def test_rpc_lists_the_methods_that_the_daemon_has(shell: Shell, daemon: Start) -> None:
    daemon({"rpc.discover": {"methods": [{"name": "mcp.list", "summary": "Show all."}, {"name": "x"}]}})
    assert shell.moltis("rpc", "--list").stdout == "METHOD    SUMMARY\nmcp.list  Show all.\nx\n"


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_each_shell_has_its_completion_script(shell: Shell, name: str) -> None:
    done = shell.moltis("completion", name)
    assert done.returncode == 0
    assert "_MOLTIS_COMPLETE" in done.stdout


def completed(shell: Shell, *words: str) -> list[str]:
    done = shell.moltis(
        COMP_WORDS=" ".join(("moltis", *words)), COMP_CWORD=str(len(words)), _MOLTIS_COMPLETE="bash_complete"
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_names_are_completed_from_the_running_daemon(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.list": mixed(), "mcp.tools": TOOLS, "rpc.discover": {"methods": [{"name": "mcp.list"}]}})
    assert completed(shell, "sta") == ["status"]
    assert completed(shell, "status", "f") == ["filesystem", "flaky"]
    assert completed(shell, "mcp", "restart", "fl") == ["flaky"]
    assert completed(shell, "mcp", "call", "calc.a") == ["calc.add"]
    assert completed(shell, "rpc", "mc") == ["mcp.list"]
    assert completed(shell, "mcp", "re") == ["remove", "restart", "reauth"]


def test_completion_is_silent_when_no_daemon_runs(shell: Shell) -> None:
    assert completed(shell, "status", "f") == []
    assert completed(shell, "mcp", "call", "x") == []
