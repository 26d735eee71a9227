"""A reload touches only what changed; a file that is wrong changes nothing and the error says where."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest
from harness import Daemon, RpcError, wait_until


def fifty(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {f"s{n:02}": daemon.evil() for n in range(50)}


def pids(daemon: Daemon) -> dict[str, int]:
    return {s["name"]: s["pid"] for s in daemon.rpc("mcp.list")}


def test_what_a_variable_of_the_environment_sets_is_in_force_and_no_command_changes_it(daemon: Daemon) -> None:
    daemon.env |= {"MOLTIS_MCP__SERVERS__OFF__ENABLED": "false", "MOLTIS_MCP__REQUEST_TIMEOUT_SECS": "7"}
    daemon.write({"off": daemon.evil(), "on": daemon.evil()})
    daemon.start().wait_for("on", "ready")
    assert daemon.status("off")["state"] == "disabled"
    assert daemon.rpc("mcp.config.get") == {"request_timeout_secs": 7.0}
    before = daemon.config.read_bytes()
    for method, params in (
        ("mcp.enable", {"name": "off"}),
        ("mcp.update", {"name": "off", "enabled": True}),
        ("mcp.config.update", {"request_timeout_secs": 9}),
    ):
        with pytest.raises(RpcError, match="in the daemon's environment sets") as refused:
            daemon.rpc(method, **params)
        assert refused.value.code == -32008
    assert daemon.config.read_bytes() == before
    daemon.rpc("mcp.update", name="off", display_name="Off")
    assert daemon.status("off")["display_name"] == "Off"


def test_reload_with_one_of_fifty_changed_leaves_forty_nine_pids_alone(daemon: Daemon) -> None:
    servers = fifty(daemon)
    daemon.write(servers)
    daemon.start().wait_all("ready")
    for how in ("rpc", "sighup", "file"):
        before = pids(daemon)
        servers["s17"] = daemon.evil(env={"CHANGED": how})
        daemon.write(servers)
        if how == "rpc":
            answer = daemon.rpc("daemon.reload")
            assert (answer["added"], answer["changed"], answer["removed"]) == ([], ["s17"], [])
            assert len(answer["unchanged"]) == 49
        elif how == "sighup":
            daemon.signal(signal.SIGHUP)
        old = before["s17"]
        wait_until(f"s17 is another process by {how}", lambda old=old: pids(daemon)["s17"] not in (None, old))
        daemon.wait_all("ready")
        after = pids(daemon)
        assert {n: p for n, p in after.items() if n != "s17"} == {n: p for n, p in before.items() if n != "s17"}
        assert f'"CHANGED": "{how}"' in daemon.text("s17", "dump")


def test_servers_are_added_and_removed_by_reload(daemon: Daemon) -> None:
    daemon.write({"stays": daemon.evil(), "goes": daemon.evil()})
    before = daemon.start().wait_all("ready")
    daemon.write({"stays": daemon.evil(), "comes": daemon.evil()})
    answer = daemon.rpc("daemon.reload")
    assert (answer["added"], answer["changed"], answer["removed"], answer["unchanged"]) == (
        ["comes"], [], ["goes"], ["stays"],
    )  # fmt: skip
    daemon.wait_for("comes", "ready")
    assert pids(daemon)["stays"] == before["stays"]["pid"]
    with pytest.raises(RpcError) as raised:
        daemon.status("goes")
    assert raised.value.code == -32004


def test_a_change_outside_of_the_servers_leaves_a_record_and_an_event(daemon: Daemon) -> None:
    servers = {"s": daemon.evil(request_timeout_secs=5.0)}
    daemon.write(servers)
    pid = daemon.start().wait_for("s", "ready")["pid"]
    edits: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"daemon": {"log_backups": 3}}, ["daemon"]),
        ({"daemon": {"log_backups": 3}, "gateway": {"enabled": False, "tool_separator": "."}}, ["gateway"]),
        ({"mcp": {"max_concurrent_starts": 3}}, ["gateway", "daemon", "mcp"]),
        ({"mcp": {"max_concurrent_starts": 3, "first_list_secs": 0.1}}, ["mcp"]),
    )
    with daemon.connect() as subscriber:
        subscriber.call("mcp.subscribe", events=["servers"])
        assert json.loads(subscriber.read_line())["params"]["type"] == "snapshot"
        for sections, changed in edits:
            daemon.write(servers, **sections)
            for _ in range(2):  # the second time nothing is another, and nothing is said
                answer = daemon.rpc("daemon.reload")
                assert answer == {"added": [], "changed": [], "removed": [], "unchanged": ["s"]}
            told = {"added": [], "changed": [], "removed": [], "sections": changed}
            event = json.loads(subscriber.read_line())["params"]
            assert {name: event[name] for name in ("type", "server", *told)} == {
                "type": "servers", "server": None, **told,
            }  # fmt: skip
            wait_until("the log has it", lambda told=told: _reloads(daemon)[-1:] == [told], tell=daemon.said)
        daemon.write({**servers, "t": daemon.evil()})
        wait_until("the file is read by itself", lambda: len(_reloads(daemon)) == 5, tell=daemon.said)
        assert _reloads(daemon)[-1] == {"added": ["t"], "changed": [], "removed": [], "sections": ["mcp"]}
    assert daemon.status("s")["pid"] == pid


def _reloads(daemon: Daemon) -> list[dict[str, Any]]:
    return [r["fields"] for r in daemon.records("moltis.daemon") if r["message"] == "config_reloaded"]


def test_a_changed_number_does_not_restart_the_process(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil(request_timeout_secs=5.0)})
    before = daemon.start().wait_for("s", "ready")
    daemon.write({"s": daemon.evil(request_timeout_secs=0.2)})
    assert daemon.rpc("daemon.reload")["changed"] == ["s"]
    assert daemon.status("s")["pid"] == before["pid"]
    assert daemon.status("s")["request_timeout_secs"] == 0.2
    with pytest.raises(RpcError) as raised:
        daemon.call("s", "never")
    assert raised.value.code == -32006


@pytest.mark.parametrize("how", ["rpc", "sighup", "file"])
def test_an_invalid_file_changes_nothing_and_the_error_says_where(daemon: Daemon, how: str) -> None:
    daemon.write({"a": daemon.evil(), "b": daemon.evil()})
    daemon.start().wait_all("ready")
    before = pids(daemon)
    good = daemon.config.read_text()
    daemon.rewrite(good + '\n\n[mcp.servers.c]\ncommand = "unfinished\n')
    bad_line = good.count("\n") + 4
    if how == "rpc":
        with pytest.raises(RpcError) as raised:
            daemon.rpc("daemon.reload")
        assert raised.value.code == -32008
        assert f"moltis.toml:{bad_line}" in raised.value.message
    else:
        if how == "sighup":
            daemon.signal(signal.SIGHUP)
        wait_until("the log says where", lambda: f"moltis.toml:{bad_line}" in daemon.log.read_text(), tell=daemon.said)
    time.sleep(0.3)
    assert pids(daemon) == before
    checked = daemon.cli("config", "check")
    assert checked.returncode == 6
    assert f"moltis.toml:{bad_line}" in checked.stdout + checked.stderr
    daemon.rewrite(good)
    assert daemon.rpc("daemon.reload")["unchanged"] == ["a", "b"]


def test_a_wrong_entry_makes_that_server_invalid_and_no_other(daemon: Daemon) -> None:
    daemon.write(
        {
            "good": daemon.evil(),
            "unresolved": daemon.evil(events="ev", env={"KEY": "$NOBODY_SET_THIS"}),
            "nothing": {"enabled": True},
            "typed": {"command": "x", "request_timeout_secs": "soon"},
        }
    )
    daemon.start().wait_for("good", "ready")
    for name, word in (("unresolved", "NOBODY_SET_THIS"), ("nothing", "command"), ("typed", "request_timeout_secs")):
        status = daemon.status(name)
        assert (status["state"], status["status"], status["pid"]) == ("invalid", "error", None)
        assert word in status["last_error"]["message"]
    assert daemon.events("ev") == []


def test_a_placeholder_set_by_env_set_mends_an_invalid_server(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil(env={"KEY": "$LATE_VALUE"})})
    daemon.start().wait_for("s", "invalid")
    assert daemon.rpc("env.set", name="LATE_VALUE", value="here-at-last")["ok"] is True
    daemon.wait_for("s", "ready")
    assert daemon.rpc("env.list") in (["LATE_VALUE"], {"names": ["LATE_VALUE"]})
    assert (daemon.data_dir / "env.toml").stat().st_mode & 0o777 == 0o600
    assert daemon.rpc("env.unset", name="LATE_VALUE")["ok"] is True
    daemon.wait_for("s", "invalid")


def test_what_is_written_to_the_persons_file_keeps_its_comments(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    commented = "# my servers, do not lose this line\n" + daemon.config.read_text() + "\n# the end\n"
    daemon.rewrite(commented)
    daemon.start().wait_for("s", "ready")
    entry = daemon.evil()
    daemon.rpc("mcp.add", name="added", **entry)
    daemon.wait_for("added", "ready")
    daemon.rpc("mcp.disable", name="s")
    daemon.wait_for("s", "disabled")
    daemon.rpc("mcp.update", name="added", request_timeout_secs=7)
    assert daemon.status("added")["request_timeout_secs"] == 7
    daemon.rpc("mcp.update", name="added", request_timeout_secs=None)
    text = daemon.config.read_text()
    assert "# my servers, do not lose this line\n" in text
    assert "# the end" in text
    assert "enabled = false" in text
    assert daemon.config.stat().st_mode & 0o777 == 0o600
    daemon.rpc("mcp.enable", name="s")
    daemon.wait_for("s", "ready")
    daemon.rpc("mcp.remove", name="added")
    assert "added" not in daemon.states()
    assert "[mcp.servers.added]" not in daemon.config.read_text()


def test_a_try_of_one_server_keeps_nothing(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    daemon.start().wait_for("s", "ready")
    tried = daemon.rpc("mcp.test", name="tried", **daemon.evil("grandchild=daemon"))
    assert tried["ok"] is True
    assert tried["tool_count"] > 5
    assert tried["protocol_version"] == "2025-11-25"
    failed = daemon.rpc("mcp.test", name="tried", **daemon.evil("exit-at-once=5"))
    assert failed["ok"] is False
    assert "5" in str(failed["error"])
    assert set(daemon.states()) == {"s"}
    daemon.assert_nothing_left(but=[daemon.status("s")["pid"]])
