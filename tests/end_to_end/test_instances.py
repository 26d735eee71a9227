"""`share = "host"`: each host has an instance of its own, and none sees, reads or disturbs another's."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gateway_harness import GUARDED, OPEN, connect_command, connect_env, gateway_url, new_token, plain, start
from harness import PYTHON, SERVERS, Daemon, RpcError, wait_until
from mcp import Client, StdioServerParameters
from processes import marked, signal_pid
from raw_hosts import HttpHost, PipeHost

STATEFUL = SERVERS / "stateful_server.py"
OWN: dict[str, Any] = {"share": "host", "idle_stop_secs": 60.0}
SOON = {"share": "host", "idle_stop_secs": 0.5}


def stateful(daemon: Daemon, **keys: Any) -> dict[str, Any]:
    return daemon.real(PYTHON, str(STATEFUL), **keys)


def rest(daemon: Daemon) -> str:
    """Wait until the server has been seen and is idle, and return where hosts are served."""
    daemon.wait_for("own", "idle")
    assert not marked(daemon.mark)
    return gateway_url(daemon)


def serve(daemon: Daemon, entry: dict[str, Any], gateway: dict[str, Any] = OPEN) -> str:
    """Have a server seen with a short life, and then let it have its own."""
    start(daemon, {}, gateway)
    daemon.write({"own": {**entry, "idle_stop_secs": 0.3}}, gateway=gateway)
    daemon.rpc("daemon.reload")
    url = rest(daemon)
    daemon.write({"own": entry}, gateway=gateway)
    daemon.rpc("daemon.reload")
    assert daemon.states() == {"own": "idle"}
    return url


def piped(host: PipeHost, tool: str, id: int, **arguments: Any) -> str:
    """Call a tool of a host over a pipe, and answer what it is asked for its folders."""
    host.send({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
    while (message := host.read()).get("id") != id or "method" in message:
        if message.get("method") == "roots/list":
            host.send({"jsonrpc": "2.0", "id": message["id"], "result": {"roots": [{"uri": "file:///home/zoe"}]}})
    text: str = message["result"]["content"][0]["text"]
    return text


def test_each_host_has_a_state_of_its_own_whatever_its_era_and_way(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon()
    url = serve(daemon, stateful(daemon, protocol="legacy", **OWN), GUARDED)
    one, two = new_token(daemon, "one"), new_token(daemon, "two")
    with PipeHost(daemon) as pipe, HttpHost(url, token=one) as session, HttpHost(url, token=one) as other:
        pipe.begin(roots={})
        first, second = HttpHost(url, "modern", one), HttpHost(url, "modern", two)
        assert "own__count" in {tool["name"] for tool in session.request("tools/list")["result"]["tools"]}
        assert daemon.states() == {"own": "idle"}, "lists start nothing"
        assert [piped(pipe, "own__count", n) for n in (1, 2, 3)] == ["1", "2", "3"]
        assert (session.text("own__count"), other.text("own__count")) == ("1", "1")
        assert (first.text("own__count"), second.text("own__count")) == ("1", "1")
        assert (first.text("own__count"), HttpHost(url, "modern", one).text("own__count")) == ("2", "3")
        assert session.text("own__go", folder="/srv/a") == "/srv/a"
        assert other.text("own__where") != "/srv/a"
        pids = {piped(pipe, "own__pid", 9), *(h.text("own__pid") for h in (session, other, first, second))}
        assert len(pids) == 5
        assert {int(pid) for pid in pids} <= set(marked(daemon.mark))
        assert daemon.states() == {"own": "idle"} | {f"own@{n}": "ready" for n in range(1, 6)}
        read = session.request("resources/read", {"uri": "state://count"})
        assert read["result"]["contents"][0]["text"] == "1"
        assert daemon.text("own", "count") == "1", "a person who calls by the control socket disturbs none either"
        assert [host["name"] for host in daemon.status("own@1")["hosts"]] == ["pipe"]
        assert daemon.status("own@1")["rss_bytes"] > 1e6
        assert json.loads(piped(pipe, "own__host", 10)) == {"name": "pipe", "capabilities": ["roots"]}
        assert json.loads(session.text("own__host")) == {"name": "raw-host", "capabilities": []}
        assert piped(pipe, "own__roots", 11) == "file:///home/zoe"


def test_what_an_instance_says_reaches_its_own_host_alone(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon()
    serve(daemon, stateful(daemon, protocol="legacy", **OWN))
    with PipeHost(daemon) as one, PipeHost(daemon) as two:
        one.begin()
        two.begin()
        assert piped(two, "own__count", 1) == "1"
        for n in range(3):
            assert piped(one, "own__announce", n) == "announced"
        two.send({"jsonrpc": "2.0", "id": "after", "method": "ping", "params": {}})
        heard = two.read()
        assert heard["id"] == "after", heard


def test_instances_end_when_they_are_idle_and_a_host_that_calls_again_gets_another_one(
    new_daemon: Callable[[], Daemon],
) -> None:
    daemon = new_daemon()
    url = serve(daemon, plain(daemon, **SOON))
    with HttpHost(url) as one, HttpHost(url) as two:
        for names in ({"own@1", "own@2"}, {"own@3", "own@4"}):
            assert one.text("own__echo", text="x") == two.text("own__echo", text="x") == '{"text": "x"}'
            assert set(daemon.states()) == {"own", *names}
            wait_until("they are gone", lambda: daemon.states() == {"own": "idle"}, tell=daemon.states)
            assert not marked(daemon.mark)
    records = [r["fields"] for r in daemon.records("moltis.mcp.lifecycle") if r["fields"]["server"] == "own@1"]
    assert ("ready", "stopping", "not_needed") in [(f["from"], f["to"], f["reason"]) for f in records]


def test_there_are_no_more_than_max_instances_and_those_of_hosts_that_are_gone_make_room(
    new_daemon: Callable[[], Daemon],
) -> None:
    daemon = new_daemon()
    url = serve(daemon, plain(daemon, max_instances=2, **OWN))
    with HttpHost(url) as one:
        assert one.text("own__echo", text="x")
        with HttpHost(url) as two, HttpHost(url) as three:
            assert two.text("own__echo", text="x")
            refused = three.call("own__echo", text="x").reply()["result"]
            assert refused["isError"]
            assert "already runs for 2 hosts" in refused["content"][0]["text"]
            assert "max_instances" in refused["content"][0]["text"]
            assert two.text("own__echo", text="y"), "which costs the others nothing"
        with HttpHost(url) as four:
            assert four.text("own__echo", text="x") == '{"text": "x"}'
        assert one.text("own__echo", text="z") == '{"text": "z"}'
    wait_until("one has ended for it", lambda: len(daemon.states()) == 3, tell=daemon.states)


def test_what_is_done_with_the_server_is_done_with_its_instances(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon()
    entry = plain(daemon, **OWN)
    url = serve(daemon, entry)
    with HttpHost(url) as host:
        assert host.text("own__echo", text="x")
        before = daemon.status("own@1")["pid"]
        daemon.rpc("mcp.restart", name="own")
        wait_until("it is another", lambda: daemon.status("own@1")["pid"] not in (None, before))
        assert host.text("own__echo", text="x")
        daemon.write({"own": {**entry, "args": [*entry["args"], "--mark", "b"]}}, gateway=OPEN)
        before = daemon.status("own@1")["pid"]
        daemon.rpc("daemon.reload")
        wait_until("it is another", lambda: daemon.status("own@1")["pid"] not in (None, before))
        assert host.text("own__echo", text="x")
        for method, keys in (("mcp.update", {"display_name": "x"}), ("mcp.disable", {}), ("mcp.remove", {})):
            with pytest.raises(RpcError) as refused:
                daemon.rpc(method, name="own@1", **keys)
            assert "is an instance of own" in refused.value.message
        daemon.rpc("mcp.stop", name="own")
        assert daemon.states() == {"own": "stopped"}
        assert not marked(daemon.mark)
        assert host.call("own__echo", text="x").reply()["result"]["isError"]
        daemon.rpc("mcp.start", name="own")
        assert host.text("own__echo", text="x") == '{"text": "x"}'
        daemon.write({}, gateway=OPEN)
        daemon.rpc("daemon.reload")
        wait_until("nothing runs", lambda: not marked(daemon.mark))
        assert daemon.states() == {}


def test_none_survives_a_daemon_that_is_killed_with_twenty_of_them(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon()
    url = serve(daemon, plain(daemon, max_instances=20, **OWN))
    hosts = [HttpHost(url) for _ in range(20)]
    for host in hosts:
        host.begin()
    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(lambda host: host.text("own__echo", text="x"), hosts)) == {'{"text": "x"}'}
    assert len(marked(daemon.mark)) == 20
    signal_pid(daemon.pid, signal.SIGKILL)
    daemon.wait_exit()
    daemon.assert_nothing_left()
    for host in hosts:
        host.hang_up()


def test_a_host_that_crashes_its_instance_hurts_nobody_else(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon()
    url = serve(daemon, daemon.evil(**OWN))
    with HttpHost(url) as one, HttpHost(url) as two:
        assert (one.text("own__echo", message="a"), two.text("own__echo", message="b")) == ("a", "b")
        before = daemon.status("own@2")["pid"]
        died = one.call("own__die", code=3, say="bye").reply()["result"]
        assert died["isError"]
        assert two.text("own__echo", message="c") == "c"
        assert daemon.status("own@2")["pid"] == before
        wait_until("it was started again", lambda: daemon.status("own@1")["restarts"] == 1)
        daemon.wait_for("own@1", "ready")
        assert one.text("own__echo", message="d") == "d"
        pending = one.call("own__never")
        time.sleep(0.2)
        assert two.tell("notifications/cancelled", {"requestId": pending.id}) == 202
        time.sleep(0.2)
        assert daemon.text("own@1", "cancelled") == "[]"
        pending.vanish()


@pytest.mark.filterwarnings("ignore::UserWarning")
async def test_the_clients_of_the_reference_sdk_count_each_for_itself(new_daemon: Callable[[], Daemon]) -> None:
    daemon = new_daemon()
    url = serve(daemon, stateful(daemon, **OWN))
    program, *arguments = connect_command(daemon)
    piped = StdioServerParameters(command=program, args=arguments, env=connect_env(daemon), cwd=daemon.folder)
    counts: list[list[str]] = []
    ways: list[tuple[Any, Any]] = [(url, "legacy"), (url, "auto"), (piped, "legacy"), (piped, "auto")]
    for target, mode in ways:
        async with Client(target, mode=mode, cache=None) as client:
            called: list[Any] = [await client.call_tool("own__count", {}) for _ in range(2)]
            counts.append([result.content[0].text for result in called])
    assert counts == [["1", "2"]] * 4
    assert set(daemon.states()) == {"own", "own@1", "own@2", "own@3", "own@4"}
