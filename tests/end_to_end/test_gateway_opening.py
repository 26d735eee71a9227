"""What hosts find while servers are not ready: the lists of the run before, a wait that ends, or a word at once."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import OPEN, gateway_url, start
from harness import Daemon, wait_until
from patience import PATIENCE
from ports import free_port
from raw_hosts import BOTH_ERAS, JSON, HttpHost, PipeHost, gauge, send

SERVERS = 12
OPENS_WITHIN = 2.0
"""From launch to the first list, on a busy machine; what it really takes is the benchmark's affair."""
AT_ONCE = 1.0
SLOW_SECS = 30
LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()


HELD = """#!/bin/sh
# held.sh FILE COMMAND...: waits, for half a minute, as long as FILE is there.
hold=$1; shift; n=0
while [ -e "$hold" ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done
exec "$@" $(cat "$hold.more" 2>/dev/null)
"""


def held(daemon: Daemon, hold: Path, *modes: str, **keys: Any) -> dict[str, Any]:
    """Give the entry of a server that does not begin as long as a file is there. What FILE.more says is its to read."""
    script = daemon.folder / "held.sh"
    script.write_text(HELD)
    entry = daemon.evil(*modes, startup_timeout_secs=60.0, **keys)
    return {**entry, "command": "/bin/sh", "args": [str(script), str(hold), entry["command"], *entry["args"]]}


def names(reply: Any) -> set[str]:
    return {tool["name"] for tool in reply["result"]["tools"]}


# -- before anything is ready


@pytest.mark.alone
def test_the_lists_of_the_run_before_are_there_at_once(daemon: Daemon) -> None:
    hold, port = daemon.folder / "hold", free_port()
    servers = {f"s{n}": held(daemon, hold) for n in range(SERVERS)}
    start(daemon, servers, {**OPEN, "listen": f"127.0.0.1:{port}"})
    daemon.wait_all()
    url = gateway_url(daemon)
    with HttpHost(url) as host:
        before = host.request("tools/list")
    assert len(names(before)) > SERVERS
    assert daemon.stop() == 0

    hold.touch()
    began = time.monotonic()
    daemon.process = daemon.spawn()
    first = until_answered(url, began + 10)
    took = time.monotonic() - began
    print(f"{SERVERS} servers that take {SLOW_SECS} s: first tools/list {1000 * took:.0f} ms after launch")
    assert first.json["result"]["tools"] == before["result"]["tools"]
    assert set(daemon.states().values()) <= {"starting", "initializing"}
    for era in BOTH_ERAS:
        with HttpHost(url, era) as host:
            assert names(host.request("tools/list")) == names(before)
        with HttpHost(url.replace("/mcp", "/servers/s3/mcp"), era) as host:
            assert "echo" in names(host.request("tools/list"))
    assert took < OPENS_WITHIN

    with (
        PipeHost(daemon) as pipe,
        HttpHost(url) as host,
        HttpHost(url, "modern") as modern,
        ThreadPoolExecutor(3) as pool,
    ):
        pipe.begin()
        params = {"name": "s1__echo", "arguments": {"message": "waited"}}
        waiting = [
            pool.submit(host.text, "s1__echo", message="waited"),
            pool.submit(modern.text, "s2__echo", message="waited"),
            pool.submit(lambda: pipe.request("tools/call", params, 1)["result"]["content"][0]["text"]),
        ]
        time.sleep(0.3)
        assert not any(future.done() for future in waiting)
        hold.unlink()
        assert [future.result(PATIENCE) for future in waiting] == ["waited"] * 3
    daemon.wait_all()


@pytest.mark.alone
def test_hosts_that_read_a_list_once_find_in_it_whoever_is_up_in_time(daemon: Daemon) -> None:
    hold, soon = daemon.folder / "hold", daemon.folder / "soon"
    hold.touch()
    soon.touch()
    servers = {"quick": daemon.evil(), "slow": held(daemon, soon), "slowest": held(daemon, hold)}
    daemon.write(servers, gateway=OPEN, mcp={"first_list_secs": 3.0})
    daemon.start()
    url = gateway_url(daemon)
    with PipeHost(daemon) as pipe, ThreadPoolExecutor(3) as pool:
        hosts = [pool.submit(HttpHost(url, era).request, "tools/list") for era in BOTH_ERAS]
        hosts.append(pool.submit(lambda: (pipe.begin(), pipe.request("tools/list", {}, 1))[1]))
        daemon.wait_for("quick", "ready")
        time.sleep(0.5)
        assert not any(host.done() for host in hosts)
        soon.unlink()
        for host in hosts:
            assert {name.split("__")[0] for name in names(host.result(30))} == {"quick", "slow"}
    began = time.monotonic()
    with HttpHost(url, "modern") as late:
        told = late.request("server/discover")["result"]["instructions"]
        assert {name.split("__")[0] for name in names(late.request("tools/list"))} == {"quick", "slow"}
    assert told.startswith("Still starting: slowest;")
    assert time.monotonic() - began < 1.5
    hold.unlink()
    daemon.wait_all()


def until_answered(url: str, deadline: float) -> Any:
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return send(url, "POST", LIST, JSON)
        assert time.monotonic() < deadline, "nobody listens"
        time.sleep(0.01)


def test_hosts_on_pipes_that_come_before_the_daemon_are_served_by_it(daemon: Daemon) -> None:
    """They try again and again, so that some come while it opens; none of them gives up for that."""
    daemon.write({"s": daemon.evil()}, gateway=OPEN)
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(PipeHost(daemon)) for _ in range(8)]
        time.sleep(0.3)
        daemon.start().wait_for("s", "ready")
        for pipe in pipes:
            assert pipe.begin()["serverInfo"]["name"] == "moltis"
            called = pipe.request("tools/call", {"name": "s__echo", "arguments": {"message": "x"}}, 1)
            assert called["result"]["content"][0]["text"] == "x"


def test_lists_that_were_learnt_just_before_the_end_are_kept(daemon: Daemon) -> None:
    """A server that is ready a moment after the others: what it lists is not lost because the daemon ends then."""
    late = daemon.folder / "late"
    late.touch()
    hold = daemon.folder / "hold"
    start(daemon, {"early": held(daemon, hold), "late": held(daemon, late)})
    daemon.wait_for("early", "ready")
    late.unlink()
    daemon.wait_for("late", "ready")
    assert daemon.stop() == 0
    late.touch()
    hold.touch()
    daemon.start()
    with HttpHost(gateway_url(daemon)) as host:
        assert {"early__echo", "late__echo"} <= names(host.request("tools/list"))


def test_what_was_known_of_another_entry_is_not_shown(daemon: Daemon) -> None:
    hold = daemon.folder / "hold"
    start(daemon, {"s": held(daemon, hold)})
    daemon.wait_all()
    assert daemon.stop() == 0
    hold.touch()
    daemon.write({"s": held(daemon, hold, "many-tools=3")}, gateway=OPEN)
    daemon.start()
    with HttpHost(gateway_url(daemon)) as host:
        assert names(host.request("tools/list")) == set()


def test_broken_memories_do_no_harm(daemon: Daemon) -> None:
    hold = daemon.folder / "hold"
    start(daemon, {"s": held(daemon, hold), "t": held(daemon, hold)})
    daemon.wait_all()
    assert daemon.stop() == 0
    kept = list((daemon.data_dir / "known").iterdir())
    assert {path.name for path in kept} == {"s.json", "s.era", "t.json", "t.era", "_shown.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    (daemon.data_dir / "known/s.json").write_bytes(b'{"half": ')
    (daemon.data_dir / "known/t.era").write_bytes(b"\0")
    hold.touch()
    daemon.start()
    with HttpHost(gateway_url(daemon)) as host:
        found = names(host.request("tools/list"))
        assert len({name.split("__")[0] for name in found}) == 1
        hold.unlink()
        daemon.wait_all()
        assert {"s__echo", "t__echo"} <= names(host.request("tools/list"))
    assert daemon.stop() == 0
    left = {path.name for path in (daemon.data_dir / "known").iterdir()}
    assert left == {"s.json", "s.era", "t.json", "t.era", "_shown.json", "s.json.broken", "t.era.broken"}


def test_a_list_that_is_new_after_the_start_is_told_of(daemon: Daemon) -> None:
    """The server lists other tools than in the run before; hosts that came early hear it."""
    hold = daemon.folder / "hold"
    start(daemon, {"s": held(daemon, hold)})
    daemon.wait_all()
    assert daemon.stop() == 0
    hold.with_suffix(".more").write_text("--mode many-tools=3")
    hold.touch()
    daemon.start()
    with HttpHost(gateway_url(daemon)) as host, HttpHost(gateway_url(daemon), "modern") as modern:
        streams = [host.listen(), modern.listen(toolsListChanged=True)]
        assert "s__tool_2" not in names(host.request("tools/list"))
        with ThreadPoolExecutor(2) as pool:
            told = [pool.submit(first_list_changed, stream.messages()) for stream in streams]
            hold.unlink()
            for future in told:
                future.result(PATIENCE)
        assert "s__tool_2" in names(host.request("tools/list"))


def first_list_changed(messages: Iterator[Any]) -> None:
    for message in messages:
        if message.get("method") == "notifications/tools/list_changed":
            return
    raise EOFError("it was not told")


# -- states in which nothing is waited for


@pytest.fixture
def locked() -> Iterator[str]:
    """A remote server that lets nobody in."""

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self._refuse()

        def do_GET(self) -> None:
            self._refuse()

        def _refuse(self) -> None:
            self.send_response(401 if self.path == "/mcp" else 404)
            self.send_header("www-authenticate", "Bearer")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def resting(daemon: Daemon, locked: str) -> Daemon:
    """A gateway whose servers are each in another state in which they take no calls."""
    slow = {"restart_backoff_secs": 300.0, "restart_backoff_max_secs": 300.0}
    long = {"restart_cooldown_secs": 300.0, "restart_cooldown_max_secs": 300.0}
    dead = daemon.evil("exit-at-once=7")
    servers = {
        "backoff": {**dead, **slow},
        "cooldown": {**dead, **long, "max_restart_attempts": 1, "restart_backoff_secs": 0.1},
        "stopped": daemon.evil(),
        "disabled": daemon.evil(enabled=False),
        "invalid": {"command": "/nowhere/at/all"},
        "awaiting_auth": {"url": locked, "transport": "streamable-http"},
        "ready": daemon.evil(),
    }  # fmt: skip
    start(daemon, servers)
    daemon.wait_for("stopped", "ready")
    daemon.rpc("mcp.stop", name="stopped")
    print(daemon.states())
    return daemon


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


@pytest.mark.alone
def test_a_call_to_a_server_that_takes_none_fails_at_once_and_says_why(resting: Daemon) -> None:
    states = ["backoff", "cooldown", "stopped", "disabled", "awaiting_auth"]
    for state in states:
        resting.wait_for(state, state)
    url = gateway_url(resting)
    for era in BOTH_ERAS:
        with HttpHost(url, era) as host:
            shown = {name.split("__")[0] for name in names(host.request("tools/list"))}
            assert shown == {"ready"}
            for state in states:
                began = time.monotonic()
                reply = host.call(f"{state}__echo", message="x").reply()
                assert time.monotonic() - began < AT_ONCE
                check_tool_error(reply, state)
        for state in states:
            with HttpHost(url.replace("/mcp", f"/servers/{state}/mcp"), era) as host:
                check_tool_error(host.call("echo", message="x").reply(), state)
                error = host.request("prompts/get", {"name": "p"})["error"]
                assert error["data"]["server"] == state
    status = resting.states()
    assert status["invalid"] in ("invalid", "backoff", "cooldown")


def check_tool_error(reply: Any, state: str) -> None:
    result = reply["result"]
    assert result["isError"] is True
    text, data = result["content"][0]["text"], result["_meta"]["moltis/error"]
    print(text)
    assert data["server"] == state
    assert f"'{state}'" in text
    if state == "awaiting_auth":
        assert data["kind"] == "login_needed"
        assert "log in" in text
        return
    assert data["state"] == state
    assert state in text.replace(f"'{state}'", "")
    if state in ("backoff", "cooldown"):
        assert TIME.search(data["next_retry_at"])
        assert TIME.search(text)
        assert "7" in text  # the exit code is the reason
    assert "moltis " in text


@pytest.mark.alone
def test_a_call_to_a_server_that_does_not_come_up_in_time_ends_with_that(daemon: Daemon) -> None:
    hold = daemon.folder / "hold"
    hold.touch()
    slow = {
        **held(daemon, hold),
        "startup_timeout_secs": 1.0,
        "restart_backoff_secs": 60.0,
        "restart_backoff_max_secs": 60.0,
    }
    start(daemon, {"s": slow})
    began = time.monotonic()
    with HttpHost(gateway_url(daemon)) as host:
        reply = host.call("s__echo", message="x").reply()
    assert time.monotonic() - began < 4.0
    assert reply["result"]["isError"] is True
    data = reply["result"]["_meta"]["moltis/error"]
    assert (data["kind"], data["server"]) == ("not_ready", "s")
    assert data["state"] in ("starting", "initializing", "stopping", "backoff")


def test_a_host_that_leaves_while_it_waits_for_a_start_leaves_nothing(daemon: Daemon) -> None:
    hold = daemon.folder / "hold"
    hold.touch()
    start(daemon, {"s": held(daemon, hold)})
    url = gateway_url(daemon)
    with HttpHost(url, "modern") as host:
        waiting = [host.call("s__die", code=3) for _ in range(20)]
        wait_until("all wait", lambda: gauge(url, "moltis_gateway_requests_in_flight") == 20)
        for pending in waiting:
            pending.vanish()
        wait_until("nobody waits any more", lambda: gauge(url, "moltis_gateway_requests_in_flight") == 0)
        hold.unlink()
        daemon.wait_for("s", "ready")
        assert host.text("s__echo", message="alive") == "alive"
    assert [row["to"] for row in daemon.history("s")].count("ready") == 1


def test_a_server_that_is_added_is_there_for_hosts_that_came_before(daemon: Daemon) -> None:
    start(daemon, {"one": daemon.evil()})
    daemon.wait_all()
    with HttpHost(gateway_url(daemon)) as host:
        stream = host.listen()
        assert stream.response.status == 200
        assert {name.split("__")[0] for name in names(host.request("tools/list"))} == {"one"}
        daemon.rpc("mcp.add", name="two", **daemon.evil())
        daemon.wait_for("two", "ready")
        first_list_changed(stream.messages())
        assert host.text("two__echo", message="x") == "x"
        assert host.call("three__echo", message="x").reply()["error"]["code"] == -32602
        url = gateway_url(daemon, "two")
        wait_until("its own endpoint is there", lambda: send(url, "POST", LIST, JSON).status == 200)
        daemon.rpc("mcp.remove", name="two")
        wait_until("its endpoint is gone", lambda: send(url, "POST", LIST, JSON).status == 404)


def test_a_host_on_a_pipe_goes_on_when_the_gateway_is_switched_off_and_on_again(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil()})
    daemon.wait_all()
    with PipeHost(daemon) as host:
        host.begin()
        for gateway in ({**OPEN, "enabled": False}, OPEN):
            daemon.write({"s": daemon.evil()}, gateway=gateway)
            daemon.rpc("daemon.reload")
        ids = itertools.count()
        wait_until("it is served again", lambda: "result" in host.request("tools/list", {}, next(ids)))
