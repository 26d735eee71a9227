"""What a server writes is counted and contained; neither the daemon nor a neighbour notices."""

from __future__ import annotations

import json
import statistics
import time

import pytest
from harness import Daemon, RpcError, wait_until
from processes import resident_bytes

MIB = 1 << 20


def test_garbage_around_the_messages_is_ignored_and_never_logged_raw(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("garbage", "dup-ids")})
    status = daemon.start().wait_for("s", "ready")
    assert status["attempts"] == 0
    assert daemon.text("s", "echo", message="through it all") == "through it all"
    assert daemon.text("s", "echo", message="and again") == "and again"
    assert daemon.status("s")["restarts"] == 0
    assert "welcome to evil server" not in daemon.log_text()


@pytest.mark.parametrize("mib", [20, 64])
def test_an_overlong_line_is_dropped_and_the_next_message_is_read(daemon: Daemon, mib: int) -> None:
    daemon.write({"s": daemon.evil(), "other": daemon.evil()})
    daemon.start().wait_all("ready")
    before = resident_bytes(daemon.own_pids())
    assert daemon.text("s", "big_line", mib=mib) == "done"
    assert daemon.text("other", "echo", message="x") == "x"
    assert resident_bytes(daemon.own_pids()) - before < 32 * MIB
    assert {s["restarts"] for s in daemon.rpc("mcp.list")} == {0}


def test_an_answer_over_the_cap_fails_that_call_and_no_other(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil(max_message_bytes=MIB, request_timeout_secs=3.0)})
    daemon.start().wait_for("s", "ready")
    assert len(daemon.text("s", "blob", size=MIB // 2)) == MIB // 2
    with pytest.raises(RpcError):
        daemon.call("s", "blob", size=2 * MIB)
    assert daemon.text("s", "echo", message="x") == "x"


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["flood-stderr=300", "flood-stderr-noline=300"])
def test_a_neighbour_flooding_stderr_disturbs_nobody(daemon: Daemon, mode: str) -> None:
    daemon.write({"calm": daemon.evil(), "flood": daemon.evil(mode)})
    daemon.start().wait_for("calm", "ready")
    own = daemon.own_pids()
    before = most = resident_bytes(own)
    times: list[float] = []
    with daemon.connect() as client:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            began = time.monotonic()
            client.call("mcp.status", name="calm")
            times.append(time.monotonic() - began)
            if len(times) % 20 == 0:
                most = max(most, resident_bytes(own))
            time.sleep(0.005)
    assert statistics.median(times) < 0.05
    assert statistics.quantiles(times, n=20)[18] < 0.25
    assert most - before < 32 * MIB
    assert daemon.wait_for("flood", "ready")["restarts"] == 0
    assert daemon.status("calm")["restarts"] == 0
    assert sum(p.stat().st_size for p in daemon.data_dir.glob("logs.jsonl*")) < 16 * MIB


def test_a_catalogue_without_end_is_cut_and_the_server_is_ready(daemon: Daemon) -> None:
    daemon.write({"endless": daemon.evil("endless-cursor", events="ev"), "many": daemon.evil("many-tools=12000")})
    daemon.start()
    endless = daemon.wait_for("endless", "ready")
    assert endless["tool_count"] > 0
    assert len(daemon.event_pids("ev", "tools/list")) <= 100
    many = daemon.wait_for("many", "ready")
    assert 0 < many["tool_count"] <= 10_000


def test_a_storm_of_list_changed_is_coalesced(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("list-changed-storm=1000", events="ev")})
    daemon.start().wait_for("s", "ready")
    before, began = len(daemon.event_pids("ev", "tools/list")), time.monotonic()
    wait_until("it is listed again", lambda: len(daemon.event_pids("ev", "tools/list")) > before)
    time.sleep(3)
    listed, spent = len(daemon.event_pids("ev", "tools/list")) - before, time.monotonic() - began
    assert listed <= 8 * spent / 3
    assert daemon.text("s", "echo", message="x") == "x"


def test_requests_from_a_server_are_answered(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("unsolicited")})
    daemon.start().wait_for("s", "ready")
    replies = wait_until(
        "all are answered", lambda: (r := json.loads(daemon.text("s", "replies"))) and len(r) == 5 and r
    )
    by_id = {r["id"]: r for r in replies}
    assert by_id["unasked-0"]["result"] == {}
    for n in range(1, 5):
        assert by_id[f"unasked-{n}"]["error"]["code"] == -32601


@pytest.mark.alone
def test_a_server_that_reads_no_more_fails_its_calls_in_time_and_stalls_nobody(daemon: Daemon) -> None:
    daemon.write({"deaf": daemon.evil(request_timeout_secs=1.0), "other": daemon.evil()})
    daemon.start().wait_all("ready")
    daemon.text("deaf", "stop_reading")
    with daemon.connect() as one, daemon.connect() as two:
        for n in range(4):
            arguments = {"message": "x" * 900_000}
            request = {"server": "deaf", "tool": "echo", "arguments": arguments}
            one.send(json.dumps({"jsonrpc": "2.0", "id": n, "method": "mcp.call", "params": request}).encode() + b"\n")
        began = time.monotonic()
        assert two.call("mcp.call", server="other", tool="echo", arguments={"message": "x"})
        assert time.monotonic() - began < 0.5
        errors = [json.loads(one.read_line())["error"] for _ in range(4)]
    assert time.monotonic() - began < 6
    assert {e["data"]["server"] for e in errors} == {"deaf"}


def test_tools_come_as_the_server_sent_them_and_filters_hide_the_rest(daemon: Daemon) -> None:
    daemon.write(
        {
            "all": daemon.evil(),
            "some": daemon.evil(include_tools=["e*", "slow"], exclude_tools=["s*"]),
        }
    )
    daemon.start().wait_all("ready")
    tools = daemon.rpc("mcp.tools", name="all")
    echo = next(t for t in tools if t["name"] == "echo")
    assert echo == {
        "name": "echo",
        "description": "tool echo",
        "inputSchema": {"type": "object", "properties": {"message": {"type": "string"}}},
        "server": "all",
    }
    assert [t["name"] for t in daemon.rpc("mcp.tools", name="some")] == ["echo"]
    assert {t["server"] for t in daemon.rpc("mcp.tools")} == {"all", "some"}
    with pytest.raises(RpcError):
        daemon.call("some", "slow", secs=0)
