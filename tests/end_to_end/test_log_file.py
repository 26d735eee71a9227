"""logs.jsonl: whatever happens to the file, the daemon neither stops nor waits."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable

import pytest
from harness import PYTHON, Daemon, wait_until


def stays_quick(daemon: Daemon) -> None:
    """Make it log a lot and ask it for its status meanwhile: who waits for a log is not late, but hangs."""
    for n in range(30):
        daemon.text("s", "say", text=f"line {n} " + "x" * 200)
        assert daemon.status("s")["state"] == "ready"
    daemon.rpc("mcp.restart", name="s")
    daemon.wait_for("s", "ready")


def started(daemon: Daemon, **settings: object) -> Daemon:
    daemon.write({"s": daemon.evil()}, daemon=settings)
    daemon.start().wait_for("s", "ready")
    return daemon


def test_every_line_is_an_object_with_the_promised_members(daemon: Daemon) -> None:
    started(daemon)
    nasty = 'two\\nlines {"level":"forged"} \u2028 \x1b[31m \x00 \ud83d'.encode("utf-8", "surrogatepass").decode(
        "utf-8", "replace"
    )
    daemon.text("s", "say", text=nasty)
    daemon.text("s", "echo", message="the-argument")
    wait_until("the calls are logged", lambda: len(daemon.records("moltis.mcp.call")) == 2)
    wait_until("stderr is logged", lambda: "forged" in str(daemon.records("moltis.mcp.stderr")))
    for line in daemon.log_text().split("\n"):
        record = json.loads(line)
        assert set(record) == {"ts", "level", "target", "message", "fields"}
        assert isinstance(record["ts"], int)
        assert record["target"].startswith("moltis.")
    calls = [r["fields"] for r in daemon.records("moltis.mcp.call")]
    assert {(c["server"], c["tool"], c["outcome"]) for c in calls} >= {("s", "echo", "ok")}
    assert all(c["duration_ms"] >= 0 for c in calls)
    assert "the-argument" not in daemon.log.read_text()
    (line,) = [r["fields"] for r in daemon.records("moltis.mcp.stderr") if "lines" in r["fields"]["line"]]
    assert line["server"] == "s"


def test_a_deleted_log_is_made_again(daemon: Daemon) -> None:
    started(daemon).log.unlink()
    stays_quick(daemon)
    wait_until("a new file is written to", lambda: daemon.text("s", "say", text="more") and daemon.log.exists())
    wait_until("its lines are whole", lambda: daemon.records("moltis.mcp.stderr"))


@pytest.mark.parametrize("when", ["before the start", "while it runs"])
def test_a_fifo_in_its_place_blocks_nothing(daemon: Daemon, when: str) -> None:
    if when == "before the start":
        daemon.data_dir.mkdir(mode=0o700)
        os.mkfifo(daemon.log)
        started(daemon)
    else:
        started(daemon).log.unlink()
        os.mkfifo(daemon.log)
    stays_quick(daemon)
    assert daemon.stop() == 0


def test_a_symbolic_link_in_its_place_is_not_followed(daemon: Daemon) -> None:
    target = daemon.folder / "precious"
    target.write_text("untouched")
    started(daemon).log.unlink()
    daemon.log.symlink_to(target)
    stays_quick(daemon)
    assert target.read_text() == "untouched"


def test_a_full_disk_stops_nothing(daemon: Daemon) -> None:
    """RLIMIT_FSIZE stands for the full disk: every write beyond it fails, and by default it even kills by SIGXFSZ."""
    daemon.write({"s": daemon.evil()})
    daemon.start({resource.RLIMIT_FSIZE: 4096}).wait_for("s", "ready")
    stays_quick(daemon)
    assert daemon.log.stat().st_size <= 4096
    assert daemon.stop() == 0


def test_rotation_keeps_a_follower_and_the_number_of_backups(daemon: Daemon) -> None:
    started(daemon, log_max_bytes=65536, log_backups=2)
    inode = daemon.log.stat().st_ino
    for _ in range(40):
        daemon.text("s", "say", text="\n".join("y" * 300 for _ in range(20)))
    wait_until("two backups", lambda: len(list(daemon.data_dir.glob("logs.jsonl.*"))) >= 2)
    assert daemon.log.stat().st_ino == inode, "truncated in place, so that tail -f goes on"
    assert daemon.log.stat().st_size <= 2 * 65536
    assert len(list(daemon.data_dir.glob("logs.jsonl.*"))) == 2
    assert daemon.stop() == 0  # or a line might be half written
    for path in daemon.data_dir.glob("logs.jsonl*"):
        assert path.stat().st_mode & 0o077 == 0
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_logs_command_shows_a_servers_lines_and_follows(daemon: Daemon) -> None:
    started(daemon)
    daemon.text("s", "say", text="hello from stderr")
    wait_until("it is logged", lambda: daemon.records("moltis.mcp.stderr"))
    assert "hello from stderr" in daemon.cli("logs", "s", "-n", "50").stdout
    records = daemon.rpc("logs.tail", server="s", limit=5)
    assert len(records) <= 5
    assert all(r["fields"]["server"] == "s" for r in records)


def test_the_records_that_are_asked_for_include_what_has_just_happened(daemon: Daemon) -> None:
    started(daemon)
    with daemon.connect() as client:
        for method in ("mcp.stop", "mcp.start") * 5:
            client.call(method, name="s")
            history = client.call("mcp.history", name="s")
            records = client.call("logs.tail", server="s", limit=500)
            assert [r["message"] for r in records].count("server_state_changed") >= len(history)


def test_daemons_may_share_nothing_but_the_machine(new_daemon: Callable[[], Daemon]) -> None:
    one, other = started(new_daemon()), started(new_daemon())
    one.text("s", "say", text="only-in-one")
    wait_until("it is logged", lambda: "only-in-one" in one.log.read_text())
    assert "only-in-one" not in other.log.read_text()


SAYS_WHAT_IT_IS_ASKED = """
import json, sys
info = {"name": "x", "version": "1"}
results = {
    "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info},
    "tools/list": {"tools": []},
}
kinds = {"initialize": "Initialize", "tools/list": "ListTools", "ping": "Ping"}
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        kind = kinds.get(message["method"], "Other")
        print("INFO Processing request of type %sRequest" % kind, file=sys.stderr, flush=True)
        result = results.get(message["method"], {})
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_a_server_says_of_each_heartbeat_is_for_whoever_wants_it_all(daemon: Daemon, level: str) -> None:
    entry = daemon.real(PYTHON, "-S", "-c", SAYS_WHAT_IT_IS_ASKED, heartbeat_interval_secs=0.1)
    daemon.write({"s": entry}, daemon={"log_level": level})
    daemon.start().wait_for("s", "ready")
    beats: set[str | None] = {None}
    wait_until("some heartbeats", lambda: beats.add(daemon.status("s")["last_heartbeat_at"]) or len(beats) > 4)
    daemon.stop()
    said = [(r["level"], r["fields"]["line"].split()[-1]) for r in daemon.records("moltis.mcp.stderr")]
    assert ("INFO", "ListToolsRequest") in said
    of_heartbeats = [told for told, what in said if what == "PingRequest"]
    assert (set(of_heartbeats), len(of_heartbeats) >= 3) == (({"DEBUG"}, True) if level == "debug" else (set(), False))
