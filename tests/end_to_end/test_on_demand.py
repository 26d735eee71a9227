"""Servers that run only while a host needs them: idle, started by the first call, stopped when nobody uses them."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gateway_harness import OPEN, fixture, gateway_url, plain, start
from harness import Daemon, RpcError, wait_until
from processes import marked, resident_bytes, signal_pid
from raw_hosts import BOTH_ERAS, HttpHost, PipeHost, send

SOON = {"start": "on_demand", "idle_stop_secs": 0.5}
LATE = {"start": "on_demand", "idle_stop_secs": 60.0}
NAMES = {"files__echo", "files__sleep"}


def listed(host: HttpHost) -> set[str]:
    return {tool["name"] for tool in host.request("tools/list")["result"]["tools"]}


def reasons(daemon: Daemon, server: str) -> list[tuple[str, str]]:
    return [(entry["to"], entry["reason"]) for entry in daemon.history(server)]


@pytest.mark.parametrize("era", BOTH_ERAS)
def test_a_server_is_started_once_to_be_seen_and_then_by_each_first_call_and_is_listed_all_the_time(
    new_daemon: Callable[[], Daemon], era: str
) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({"files": plain(daemon, **SOON)}, gateway=OPEN, mcp={"heartbeat_interval_secs": 0.1})
    daemon.rpc("daemon.reload")
    daemon.wait_for("files", "idle")
    assert reasons(daemon, "files")[0] == ("starting", "needed")
    assert not marked(daemon.mark)
    with HttpHost(gateway_url(daemon), era) as host:
        for round in range(2):
            assert listed(host) == NAMES
            assert daemon.status("files")["state"] == "idle", "lists are no use"
            assert host.text("files__echo", text=str(round)) == json.dumps({"text": str(round)})
            assert len(marked(daemon.mark)) == 1
            until = time.monotonic() + 5
            while daemon.status("files")["state"] != "idle":  # being looked at is no use
                assert listed(host) == NAMES
                assert time.monotonic() < until
            assert not marked(daemon.mark)
    assert [entry for entry in reasons(daemon, "files") if entry[1] == "not_needed"] == [("stopping", "not_needed")] * 3
    assert daemon.status("files")["attempts"] == 0


def test_one_that_is_known_is_not_started_by_a_daemon_that_begins_and_looks_well_to_everybody(
    new_daemon: Callable[[], Daemon],
) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({"files": plain(daemon, **SOON)}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("files", "idle")
    wait_until("it is on disk", lambda: (daemon.data_dir / "known" / "files.json").exists())
    daemon.stop()
    daemon.start()
    url = gateway_url(daemon)
    status = daemon.status("files")
    assert (status["state"], status["status"], status["restarts"], status["started_at"]) == (
        "idle", "disconnected", 0, None,
    )  # fmt: skip
    assert status["tool_count"] == 2
    assert re.search(r"^files +stdio +2 +idle", daemon.cli("status").stdout, re.MULTILINE)
    assert re.search(r"^offers +2 tools", daemon.cli("status", "files").stdout, re.MULTILINE)
    with HttpHost(url) as host:
        assert listed(host) == NAMES
    assert [tool["name"] for tool in daemon.rpc("mcp.tools", name="files")] == ["echo", "sleep"]
    assert [tool["server"] for tool in daemon.rpc("mcp.tools")] == ["files"] * 2
    assert daemon.history("files") == []
    assert send(url.replace("/mcp", "/readyz"), "GET").status == 200
    assert (
        'moltis_mcp_server_state{server="files",state="idle"} 1.0'
        in send(url.replace("/mcp", "/metrics"), "GET").body.decode()
    )
    shown = daemon.cli("status")
    assert (shown.returncode, "1 server: 1 idle" in shown.stdout + shown.stderr) == (0, True)
    assert daemon.cli("doctor").returncode == 0
    assert "files is idle: nobody needs it now" in daemon.cli("why", "files").stdout
    assert not marked(daemon.mark)
    assert daemon.text("files", "echo", text="socket") == '{"text": "socket"}', "by the control socket too"


def test_calls_that_come_together_start_it_once_and_all_are_answered(new_daemon: Callable[[], Daemon]) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({"files": plain(daemon, **SOON)}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("files", "idle")
    url, before = gateway_url(daemon), daemon.status("files")["restarts"]

    def one(n: int) -> str:
        with HttpHost(url, BOTH_ERAS[n % 2]) as host:
            return host.text("files__echo", text=str(n))

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(20))) == [json.dumps({"text": str(n)}) for n in range(20)]
    assert daemon.status("files")["restarts"] == before + 1


def test_a_call_that_comes_while_it_is_being_stopped_is_answered_by_the_next_process(
    new_daemon: Callable[[], Daemon],
) -> None:
    daemon = start(new_daemon(), {}, mcp={"stop_eof_secs": 1.5})
    entry = daemon.evil("eof-ignoring", events="events", **SOON)
    daemon.write({"slow": entry}, gateway=OPEN, mcp={"stop_eof_secs": 1.5})
    daemon.rpc("daemon.reload")
    with HttpHost(gateway_url(daemon)) as host:
        asks: list[Callable[[], str]] = [
            lambda: host.text("slow__echo", message="now"),
            lambda: daemon.text("slow", "echo", message="now"),
        ]
        for ask in asks:
            daemon.wait_for("slow", "stopping")
            assert ask() == "now"
            assert daemon.status("slow")["state"] == "ready"
    assert daemon.status("slow")["attempts"] == 0
    calls = [pid for _, pid, words in daemon.events("events") if words[0] == "call"]
    assert len(calls) == len(set(calls)) == 2, "each by a process of its own, once"


def test_a_start_that_fails_fails_the_call_with_the_reason_and_the_call_is_made_once(
    new_daemon: Callable[[], Daemon],
) -> None:
    daemon = start(new_daemon(), {})
    gate = daemon.folder / "gate"
    gate.touch()
    daemon.write({"shy": daemon.evil(f"appear-later={gate}", events="events", **SOON)}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("shy", "idle")
    gate.unlink()
    with HttpHost(gateway_url(daemon)) as host:
        result = host.call("shy__echo", message="x").reply()["result"]
        assert result["isError"]
        assert "in backoff" in result["content"][0]["text"]
        with pytest.raises(RpcError) as refused:
            daemon.call("shy", "echo", message="x")
        assert refused.value.data["kind"] == "not_ready"
        daemon.wait_for("shy", "idle")
        assert daemon.status("shy")["last_error"]["kind"] == "exited"
        gate.touch()
        assert host.text("shy__echo", message="back") == "back"
    assert sum(words[0] == "call" for _, _, words in daemon.events("events")) == 1


def test_a_long_call_a_question_and_a_subscription_are_use(new_daemon: Callable[[], Daemon]) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({"all": fixture(daemon, protocol="legacy", **SOON)}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("all", "idle")
    with HttpHost(gateway_url(daemon), elicitation={"form": {}}) as host:
        pending = host.call("all__test_elicitation", message="who?")
        messages = pending.messages()
        question = next(message for message in messages if "method" in message and "id" in message)
        time.sleep(2)
        assert daemon.status("all")["state"] == "ready", "a person thinks"
        host.answer(question["id"], {"action": "decline"})
        assert any("result" in message for message in messages)
        daemon.wait_for("all", "idle")
        assert "result" in host.request("resources/subscribe", {"uri": "test://watched-resource"})
        daemon.wait_for("all", "ready")
        time.sleep(2)
        assert daemon.status("all")["state"] == "ready", "a subscription is use"
        host.request("resources/unsubscribe", {"uri": "test://watched-resource"})
        daemon.wait_for("all", "idle")


def test_people_start_stop_and_restart_it_as_any_other(new_daemon: Callable[[], Daemon]) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({"files": plain(daemon, **SOON)}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("files", "idle")
    for method in ("mcp.start", "mcp.restart"):
        daemon.rpc(method, name="files")
        daemon.wait_for("files", "ready")
        daemon.wait_for("files", "idle")
    daemon.rpc("mcp.stop", name="files")
    assert daemon.status("files")["state"] == "stopped"
    with HttpHost(gateway_url(daemon)) as host:
        assert listed(host) == set(), "it was stopped by a person"
        assert host.call("files__echo", text="x").reply()["result"]["isError"]
    daemon.rpc("mcp.start", name="files")
    daemon.wait_for("files", "idle")
    daemon.rpc("mcp.disable", name="files")
    assert daemon.status("files")["state"] == "disabled"
    daemon.rpc("mcp.enable", name="files")
    daemon.wait_for("files", "idle")
    assert daemon.rpc("mcp.test", name="files")["ok"]
    assert daemon.status("files")["state"] == "idle"
    assert not marked(daemon.mark)


def test_a_reload_starts_one_that_has_become_another_server_and_no_other(new_daemon: Callable[[], Daemon]) -> None:
    daemon = start(new_daemon(), {})
    files, other = plain(daemon, **SOON), plain(daemon, env={"A": "a"}, **SOON)
    daemon.write({"files": files, "other": other}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    for name in ("files", "other"):
        daemon.wait_for(name, "idle")
    before = daemon.history("other")
    files["args"] = [*files["args"], "--mark", "another"]
    other["env"] = {"A": "b"}
    daemon.write({"files": files, "other": other}, gateway=OPEN)
    assert daemon.rpc("daemon.reload")["changed"] == ["files", "other"]
    daemon.wait_for("files", "ready", "idle")
    wait_until(
        "it was started", lambda: daemon.history("files")[-1]["to"] == "idle" and len(daemon.history("files")) > 5
    )
    assert daemon.history("other") == before
    daemon.write({"files": {**files, "start": "always"}, "other": other}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("files", "ready")
    time.sleep(1)
    assert daemon.status("files")["state"] == "ready"


def test_a_daemon_that_is_killed_leaves_none_and_the_next_starts_none(new_daemon: Callable[[], Daemon]) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({f"s{n}": plain(daemon, **LATE) for n in range(5)}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_all()
    wait_until("they are on disk", lambda: len(list((daemon.data_dir / "known").glob("s*.json"))) == 5)
    signal_pid(daemon.pid, signal.SIGKILL)
    daemon.wait_exit()
    daemon.assert_nothing_left()
    daemon.start()
    gateway_url(daemon)
    assert set(daemon.states().values()) == {"idle"}
    assert not marked(daemon.mark)


def test_over_moltis_connect_an_idle_server_is_there_and_its_first_call_starts_it(
    new_daemon: Callable[[], Daemon],
) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({"files": plain(daemon, **SOON)}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("files", "idle")
    with PipeHost(daemon) as host:
        instructions: Any = host.begin().get("instructions") or ""
        assert "Not to be had" not in instructions
        tools = host.request("tools/list", {}, 1)["result"]["tools"]
        assert {tool["name"] for tool in tools} == NAMES
        assert daemon.status("files")["state"] == "idle"
        reply = host.request("tools/call", {"name": "files__echo", "arguments": {"text": "x"}}, 2)
        assert reply["result"]["content"][0]["text"] == '{"text": "x"}'


def test_what_a_server_holds_is_told_and_what_its_hosts_save(new_daemon: Callable[[], Daemon]) -> None:
    daemon = start(new_daemon(), {})
    daemon.write({"files": plain(daemon, **SOON), "away": {"url": "http://127.0.0.1:9/mcp"}}, gateway=OPEN)
    daemon.rpc("daemon.reload")
    daemon.wait_for("files", "ready")
    held = resident_bytes(marked(daemon.mark))
    assert held * 0.7 < daemon.status("files")["rss_bytes"] < held * 1.5
    daemon.wait_for("files", "idle")
    status, other = daemon.rpc("mcp.list")
    assert (status["rss_bytes"], other["rss_bytes"]) == (None, None)
    assert held * 0.7 < status["rss_idle_bytes"] < held * 1.5
    with HttpHost(gateway_url(daemon)), HttpHost(gateway_url(daemon)):
        assert len(daemon.status("files")["hosts"]) == 2
        told = json.loads(daemon.cli("status", "--savings", "--json").stdout)
    (row,) = told["servers"]
    assert (row["name"], row["hosts"], row["rss_bytes"]) == ("files", 2, 0)
    assert row["saved_bytes"] == row["own_bytes"] == 2 * status["rss_idle_bytes"]
    assert 10e6 < told["daemon_rss_bytes"] < 500e6
