"""Records of the log as lines for a person; a record that is not what it should be is a line too."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from cli_shell import Shell

from moltis.cli.log_lines import sentence

TS = 1_795_262_400_000


def record(target: str, message: str, **fields: Any) -> dict[str, Any]:
    return {"ts": TS, "level": "INFO", "target": target, "message": message, "fields": fields}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            record(
                "moltis.mcp.lifecycle", "server_state_changed", server="files", to="backoff", reason="it ended",
                attempt=2, delay_secs=1.53, next_retry_at=None, pid=7, exit_code=-9, **{"from": "ready"},
            ),
            "files: ready -> backoff: it ended (SIGKILL, attempt 2, next in 1.5s, pid 7)",
        ),
        (record("moltis.mcp.stderr", "stderr", server="x", line="fatal: \x1b[31mno"), "x: | fatal: no"),
        (record("moltis.mcp.stderr", "stderr", server="x", line="    at a   b"), "x: |     at a   b"),
        (
            record("moltis.mcp.call", "tool_called", server="files", tool="read", duration_ms=12.3, outcome="ok"),
            "files: read ok in 12 ms",
        ),
        (
            record(
                "moltis.mcp.call", "tool_called", server="files", tool="read", duration_ms=12.3, outcome="ok",
                host={"name": "claude-code", "version": "2.1", "era": "modern", "token": "laptop"},
            ),
            "files: read ok in 12 ms, for claude-code 2.1 (token laptop)",
        ),
        (
            record(
                "moltis.mcp.call", "tool_called", server="files", tool="read", duration_ms=12.3, outcome="ok",
                host={"name": "unknown", "version": "unknown", "era": "legacy", "token": None},
            ),
            "files: read ok in 12 ms, for a host without a name",
        ),
        (record("moltis.daemon", "daemon_started", pid=5, note="a b", l=[1]), "daemon_started pid=5 note=a b l=[1]"),
    ],
    ids=["transition", "stderr", "stack", "call", "call of a host", "call of nobody", "other"],
)  # fmt: skip
def test_a_record_is_a_sentence(found: dict[str, Any], words: str) -> None:
    line = sentence(found)
    assert line.endswith(f" INFO  {words}")
    assert line.startswith("2026-11-")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('  File "x.py", line 1, in <module>', '|   File "x.py", line 1, in <module>'),
        ("        ^^^^^", "|         ^^^^^"),
        ("a\tb  c ", "| a       b  c"),
        ("", "| "),
        ("one\ntwo\r\nthree\u2028four\x0bfive", "| one two three four five"),
        ("back\x08 \u202e\x9b", "| back\\x08 \\u202e\\x9b"),
    ],
)
def test_what_a_server_wrote_keeps_its_blanks_and_stays_one_line(line: str, shown: str) -> None:
    told = sentence(record("moltis.mcp.stderr", "stderr", server="x", line=line))
    assert told.endswith(f" INFO  x: {shown}")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    "found",
    [
        {}, {"ts": "x", "level": 5, "fields": []}, {"ts": 1e300, "target": None},
        record("moltis.mcp.call", "m", tool=None),
        record("moltis.mcp.call", "m", tool="t", host={"name": 5, "token": []}),
        record("moltis.mcp.call", "m", tool="t", host=["x"]),
        record("moltis.mcp.lifecycle", "server_state_changed", exit_code="x", delay_secs="y"),
        record("moltis.mcp.lifecycle", "server_state_changed", exit_code=-(10**400), delay_secs=10**400),
        record("moltis.mcp.call", "m", tool="t", duration_ms=-(10**400)), {"ts": 10**400},
    ],
)  # fmt: skip
def test_a_strange_record_is_one_line_all_the_same(found: dict[str, Any]) -> None:
    assert "\n" not in sentence(found)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_record_that_is_barely_shallow_enough_to_be_read_is_one_line(opening: str) -> None:
    shown = read = 0
    for depth in range(1, 1100):
        nested = opening * depth + "1" + {"[": "]"}.get(opening, "}") * depth
        try:
            found = json.loads(f'{{"message":"m","fields":{{"x":{nested}}}}}')
        except RecursionError:
            break  # where that is, other tests of the process have a say in
        read += 1
        shown += "\n" not in sentence(found)
    assert shown == read > 0


def written(shell: Shell, *records: dict[str, Any]) -> None:
    shell.data_dir.mkdir(exist_ok=True)
    with (shell.data_dir / "logs.jsonl").open("a") as file:
        file.writelines(json.dumps(r, separators=(",", ":")) + "\n" for r in records)


def test_logs_are_read_without_a_daemon_and_chosen_by_server_number_and_level(shell: Shell) -> None:
    lines = [record("moltis.mcp.stderr", "stderr", server=s, line=f"{s}{n}") for n in range(3) for s in ("a", "b")]
    written(shell, *lines, {**record("moltis.daemon", "bad"), "level": "ERROR"})
    assert [x.split("| ")[1] for x in shell.moltis("logs", "a", "-n", "2").stdout.splitlines()] == ["a1", "a2"]
    assert shell.moltis("logs", "--level", "warn").stdout.splitlines()[0].endswith("ERROR bad")
    raw = shell.moltis("logs", "b", "--json").stdout
    assert raw.splitlines() == [json.dumps(x, separators=(",", ":")) for x in lines if x["fields"]["server"] == "b"]


def test_logs_of_a_server_nobody_knows_is_exit_4(shell: Shell) -> None:
    shell.config.write_text('[mcp.servers.files]\ncommand = "x"\n')
    assert shell.moltis("logs", "files").returncode == 0
    done = shell.moltis("logs", "fils")
    assert done.returncode == 4
    assert "did you mean files?" in done.stderr


def test_following_goes_on_until_it_is_interrupted(shell: Shell) -> None:
    import signal
    import subprocess

    written(shell, record("moltis.daemon", "first"))
    process = subprocess.Popen(
        shell.command("logs", "-f"), stdout=subprocess.PIPE, text=True, env=shell.environ, cwd=shell.home
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    assert process.stdout is not None
    assert "first" in process.stdout.readline()
    written(shell, record("moltis.daemon", "second"))
    assert "second" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stdout.close()
    watchdog.cancel()
