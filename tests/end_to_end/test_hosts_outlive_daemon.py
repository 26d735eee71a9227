"""The daemon is stopped, upgraded or killed, and its hosts go on as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import OPEN, gateway_url, new_token, plain
from harness import SERVERS, Daemon, wait_until
from installing import node_program
from ports import free_port
from raw_hosts import META, MODERN, HttpHost, PipeHost, send

ENDS = ("stop", "kill")


def start(daemon: Daemon, *servers: str, **gateway: Any) -> None:
    """Start it, at one address in all its lives."""
    daemon.write({name: plain(daemon) for name in servers}, gateway=gateway)
    daemon.start()
    daemon.wait_all()
    gateway_url(daemon)


def end(daemon: Daemon, how: str) -> None:
    if how == "stop":
        assert daemon.stop() == 0
    else:
        daemon.signal(signal.SIGKILL)
        daemon.wait_exit()


@pytest.fixture
def listen() -> str:
    return f"127.0.0.1:{free_port()}"


# --- over HTTP


def status(host: HttpHost) -> int:
    """Return the status of a ping."""
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    return send(host.url, "POST", message, host.headers()).status


@pytest.mark.parametrize("how", ENDS)
def test_a_session_over_http_goes_on_with_the_next_daemon(daemon: Daemon, listen: str, how: str) -> None:
    start(daemon, "one", listen=listen)
    token, other = new_token(daemon, "host"), new_token(daemon, "other")
    url = gateway_url(daemon)
    host = HttpHost(url, token=token).__enter__()
    host.request("logging/setLevel", {"level": "error"})
    assert host.text("one__echo", text="x")
    kept = daemon.data_dir / "sessions.json"
    wait_until("the session is on disk", lambda: kept.exists() and b'"error"' in kept.read_bytes())
    assert kept.stat().st_mode & 0o777 == 0o600
    end(daemon, how)
    start(daemon, "one", "two", listen=listen)
    foreign = HttpHost(url, token=other)
    foreign.session = host.session
    assert send(url, "GET", None, foreign.headers()).status == 404
    stream = host.listen().messages()
    told = {next(stream)["method"] for _ in range(3)}
    assert told == {f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts")}
    assert host.text("two__echo", text="y")
    assert send(url, "DELETE", None, host.headers()).status == 204
    end(daemon, "stop")
    start(daemon, "one", listen=listen)
    assert status(host) == 404
    host.hang_up()


def test_a_session_is_not_lost_with_a_daemon_that_is_killed_at_that_very_moment(daemon: Daemon, listen: str) -> None:
    start(daemon, "one", listen=listen, require_token=False)
    hosts = [HttpHost(gateway_url(daemon)).__enter__() for _ in range(5)]
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    start(daemon, "one", listen=listen, require_token=False)
    assert [status(host) for host in hosts] == [200] * 5
    for host in hosts:
        host.hang_up()


def test_a_token_that_was_revoked_or_made_anew_takes_up_no_session(daemon: Daemon, listen: str) -> None:
    start(daemon, "one", listen=listen)
    url = gateway_url(daemon)
    host = HttpHost(url, token=new_token(daemon, "host")).__enter__()
    end(daemon, "stop")
    (daemon.data_dir / "tokens.toml").unlink()
    start(daemon, "one", listen=listen)
    assert status(host) == 401
    again = HttpHost(url, token=new_token(daemon, "host"))
    again.session = host.session
    assert status(again) == 404
    host.hang_up()


def test_damaged_sessions_harm_nobody(daemon: Daemon, listen: str) -> None:
    start(daemon, "one", listen=listen, require_token=False)
    host = HttpHost(gateway_url(daemon)).__enter__()
    end(daemon, "stop")
    kept = daemon.data_dir / "sessions.json"
    kept.write_bytes(kept.read_bytes()[:-5])
    start(daemon, "one", listen=listen, require_token=False)
    assert status(host) == 404
    host.begin()
    assert host.text("one__echo", text="x")
    end(daemon, "kill")
    start(daemon, "one", listen=listen, require_token=False)
    assert host.text("one__echo", text="x")
    host.hang_up()


AWAY_SECS = 3.0
"""Longer than the SDKs of hosts try to listen again unless they are told to wait (2.5 s), shorter than if they are."""


@pytest.mark.alone  # when the host tries and when the daemon is there is counted in seconds
@pytest.mark.parametrize("how", ENDS)
def test_hosts_on_the_typescript_sdks_go_on_listening_over_http(
    daemon: Daemon, listen: str, node: Path, how: str
) -> None:
    start(daemon, "one", listen=listen)
    script = shutil.copy(SERVERS / "node" / "listens.js", daemon.folder / "listens.mjs")
    (daemon.folder / "node_modules").symlink_to(node / "node_modules")
    with contextlib.ExitStack() as stack:
        files = []
        for sdk in ("1", "2"):
            words = [node_program(), str(script), sdk, gateway_url(daemon), new_token(daemon, f"host-{sdk}")]
            files.append(daemon.folder / f"heard by {sdk}")
            output = stack.enter_context(files[-1].open("wb"))
            host = stack.enter_context(subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT))
            stack.callback(host.kill)

        def heard() -> list[str]:
            return [file.read_text() for file in files]

        wait_until("they listen", lambda: all({"listens", "one__echo"} <= set(said.split()) for said in heard()), 20.0)
        end(daemon, how)
        time.sleep(AWAY_SECS)
        start(daemon, "one", "two", listen=listen)
        wait_until("they hear of the other", lambda: all("two__echo" in said for said in heard()), 10.0, tell=heard)


# --- over `moltis connect`

CHANGED = {f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts")}


def names(reply: Any) -> set[str]:
    return {tool["name"] for tool in reply["result"]["tools"]}


def meta() -> dict[str, Any]:
    return {"_meta": {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}}


def listened(host: PipeHost) -> list[str]:
    """Listen to all lists, and return what is heard first."""
    wanted = {f"{kind}ListChanged": True for kind in ("tools", "resources", "prompts")}
    params = {"notifications": wanted, **meta()}
    host.send({"jsonrpc": "2.0", "id": "listen", "method": "subscriptions/listen", "params": params})
    while "_meta" not in (said := host.read()).get("params", {}):
        pass  # to the session that has just begun, not to who listens
    return [said["method"]]


def remembered(daemon: Daemon, *servers: str) -> None:
    wait_until("the lists are kept", lambda: {f"{s}.json" for s in servers} <= known(daemon))


def known(daemon: Daemon) -> set[str]:
    folder = daemon.data_dir / "known"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_host_that_is_started_without_a_daemon_sees_what_was_last_known(daemon: Daemon) -> None:
    daemon.write(
        {
            "one": plain(daemon, exclude_tools=["sleep"]),
            "off": plain(daemon),
        },
        gateway=dict(OPEN),
    )
    daemon.start()
    daemon.wait_all()
    remembered(daemon, "one", "off")
    with PipeHost(daemon) as host:
        host.begin()
        with_daemon = {
            method: host.request(method, {}, method)["result"]
            for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
        }
        modern_with = host.request("server/discover", meta(), "d")["result"]
    end(daemon, "kill")
    with PipeHost(daemon) as host:
        introduced = host.begin()
        assert introduced["capabilities"] == modern_with["capabilities"]
        for method, result in with_daemon.items():
            assert host.request(method, {}, method)["result"] == result
        assert host.request("server/discover", meta(), "d")["result"] == modern_with
        assert "one__sleep" not in {tool["name"] for tool in with_daemon["tools/list"]["tools"]}
        assert listened(host) == ["notifications/subscriptions/acknowledged"]
        called = host.request("tools/call", {"name": "one__echo", "arguments": {"text": "x"}}, 5)["result"]
        assert (called["isError"], "moltis run" in called["content"][0]["text"]) == (True, True)
        start(daemon, "two", **OPEN)
        heard = [host.read() for _ in range(6)]
        assert {m["method"] for m in heard} == CHANGED
        assert sum("_meta" in m.get("params", {}) for m in heard) == 3
        assert {name.partition("__")[0] for name in names(host.request("tools/list", {}, 6))} == {"two"}
        called = host.request("tools/call", {"name": "two__echo", "arguments": {"text": "x"}}, 7)["result"]
        assert called["content"][0]["text"] == '{"text": "x"}'


def test_one_server_is_shown_as_it_was_and_one_that_nothing_is_known_of_is_expected(daemon: Daemon) -> None:
    start(daemon, "one", **OPEN)
    remembered(daemon, "one")
    with PipeHost(daemon, "one") as host:
        with_daemon = host.begin()
        tools = names(host.request("tools/list", {}, 1))
    end(daemon, "stop")
    for server, expected in (("one", tools), ("never", set())):
        with PipeHost(daemon, server) as host:
            introduced = host.begin()
            assert names(host.request("tools/list", {}, 1)) == expected
            assert introduced["capabilities"]["tools"]["listChanged"] is True
            assert (introduced == with_daemon) is (server == "one")


@pytest.mark.parametrize("damage", ["nothing", "no folder", "no file", "broken", "other file"])
def test_whatever_is_on_disk_a_host_has_its_answers(daemon: Daemon, damage: str) -> None:
    start(daemon, "one", **OPEN)
    remembered(daemon, "one")
    end(daemon, "stop")
    match damage:
        case "no folder":
            shutil.rmtree(daemon.data_dir / "known")
        case "no file":
            daemon.config.unlink()
        case "broken":
            (daemon.data_dir / "known" / "one.json").write_bytes(b'{"format":1,')
            daemon.rewrite("[mcp\n")
        case "other file":
            daemon.write({"other": plain(daemon)})
    with PipeHost(daemon) as host:
        host.begin()
        found = {name.partition("__")[0] for name in names(host.request("tools/list", {}, 1))}
    assert found == (set() if damage in ("no folder", "broken", "other file") else {"one"})


@pytest.mark.parametrize("how", ENDS)
def test_a_listen_and_an_old_session_go_on_over_two_restarts_in_a_row(daemon: Daemon, how: str) -> None:
    start(daemon, "one", **OPEN)
    with PipeHost(daemon) as host:
        host.begin()
        assert listened(host) == ["notifications/subscriptions/acknowledged"]
        for servers in (("one",), ("one", "two")):
            end(daemon, how)
            start(daemon, *servers, **OPEN)
        heard: list[Any] = []
        while len(heard) < 6 or {m["method"] for m in heard[-6:]} != CHANGED:
            heard.append(host.read())
            assert "id" not in heard[-1], "the listen is still open"
        called = host.request("tools/call", {"name": "two__echo", "arguments": {"text": "y"}}, 9)
        assert json.loads(called["result"]["content"][0]["text"]) == {"text": "y"}


def test_a_call_that_comes_while_the_daemon_stops_is_done_by_the_next_one(daemon: Daemon) -> None:
    daemon.write(
        {"stubborn": daemon.evil("eof-ignoring", "ignterm"), "one": plain(daemon)},
        gateway=dict(OPEN),
    )
    daemon.start()
    daemon.wait_all()
    with PipeHost(daemon) as host:
        host.begin()
        daemon.signal(signal.SIGTERM)
        for id in range(10):
            params = {"name": "one__echo", "arguments": {"text": str(id)}}
            host.send({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
            time.sleep(0.05)
        daemon.wait_exit()
        daemon.start()
        daemon.wait_all()
        replies: dict[int, str] = {}
        while len(replies) < 10:
            said = host.read()
            if "id" in said:
                # What was under way when the daemon was told to end is failed by it; the next ones wait.
                result, error = said.get("result"), said.get("error")
                replies[said["id"]] = result["content"][0]["text"] if result is not None else error["message"]
    done = {id for id, text in replies.items() if text == json.dumps({"text": str(id)})}
    refused = set(replies) - done
    assert all("carried out" in replies[id] or "going away" in replies[id] for id in refused), replies
    assert len(done) >= 8, replies
