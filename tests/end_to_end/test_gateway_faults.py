"""Servers that die, come back, take too long or change their lists, hosts that give up: what each side is told."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from gateway_harness import OPEN, fixture, gateway_url, start
from harness import PYTHON, TEE, Daemon, wait_until
from patience import PATIENCE
from processes import signal_pid
from raw_hosts import BOTH_ERAS, HttpHost, Pending, PipeHost, send

AT_ONCE = 1.0
IDLE_SECS = 0.6
CAP_SECS = 1.8
TOOLS_CHANGED = "notifications/tools/list_changed"


def teed(daemon: Daemon, name: str, *modes: str, **keys: Any) -> dict[str, Any]:
    """Give the entry of an evil server whose every byte is kept; `sent` reads it."""
    (daemon.folder / name).mkdir()
    entry = daemon.evil(*modes, **keys)
    return {**entry, "command": PYTHON, "args": [str(TEE), str(daemon.folder / name), PYTHON, *entry["args"]]}


def sent(daemon: Daemon, name: str) -> list[Any]:
    """Give the messages that a teed server was sent, whole lines only."""
    path = daemon.folder / name / "sent"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def calls_to(daemon: Daemon, name: str, tool: str) -> list[Any]:
    return [m for m in sent(daemon, name) if m.get("method") == "tools/call" and m["params"]["name"] == tool]


def cancels_to(daemon: Daemon, name: str) -> list[Any]:
    return [m["params"]["requestId"] for m in sent(daemon, name) if m.get("method") == "notifications/cancelled"]


def names(reply: Any) -> set[str]:
    return {tool["name"] for tool in reply["result"]["tools"]}


def failed(reply: Any) -> tuple[str, Any]:
    """Give text and data of a tool's result that is an error of ours."""
    result = reply["result"]
    assert result["isError"] is True
    return result["content"][0]["text"], result["_meta"]["moltis/error"]


# -- servers that die


def kill(daemon: Daemon, server: str) -> int:
    """Kill a server and give its pid."""
    pid: int = daemon.status(server)["pid"]
    signal_pid(pid, signal.SIGKILL)
    return pid


def back_again(daemon: Daemon, server: str, pid: int) -> None:
    """Wait until a server is ready in another process."""

    def ready() -> bool:
        status = daemon.status(server)
        return bool(status["state"] == "ready" and status["pid"] != pid)

    wait_until(f"{server} is back", ready, tell=lambda: daemon.history(server))


@pytest.mark.alone
@pytest.mark.parametrize("server", ["evil", "old", "new"])
def test_a_call_whose_server_is_killed_fails_with_that_and_the_next_succeeds(daemon: Daemon, server: str) -> None:
    entries = {"evil": daemon.evil(), "old": fixture(daemon, protocol="legacy"), "new": fixture(daemon)}
    start(daemon, {server: entries[server]})
    daemon.wait_all()
    tool, arguments = ("slow" if server == "evil" else "sleep"), {"secs": 30}
    echoed = {"message": "again"} if server == "evil" else {"text": "again"}
    url = gateway_url(daemon)
    for era in BOTH_ERAS:
        with HttpHost(url, era) as host, ThreadPoolExecutor(5) as pool:
            waiting = [host.call(f"{server}__{tool}", **arguments) for _ in range(5)]
            time.sleep(0.2)
            pid = kill(daemon, server)
            began = time.monotonic()
            for reply in pool.map(Pending.reply, waiting):
                text, data = failed(reply)
                assert server in text
                assert data["server"] == server
                assert data["kind"]
            assert time.monotonic() - began < 2 * AT_ONCE
            back_again(daemon, server, pid)
            assert "again" in host.text(f"{server}__echo", **echoed)


def test_a_server_that_ends_in_the_call_itself_is_named_with_its_exit_code(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil()})
    daemon.wait_all()
    with HttpHost(gateway_url(daemon)) as host:
        text, data = failed(host.call("s__die", code=9, say="boom").reply())
    assert "9" in text or "exit" in json.dumps(data)


def test_a_prompt_or_a_resource_of_a_server_that_dies_is_a_jsonrpc_error(daemon: Daemon) -> None:
    start(
        daemon,
        {"s": daemon.evil("hang-after-ready")},
        mcp={"request_timeout_secs": 20.0, "heartbeat_interval_secs": 60.0},
    )
    daemon.wait_all()
    with HttpHost(gateway_url(daemon)) as host, ThreadPoolExecutor(1) as pool:
        reply = pool.submit(host.request, "prompts/get", {"name": "s__p"})
        time.sleep(0.3)
        kill(daemon, "s")
        error = reply.result(PATIENCE)["error"]
    assert error["data"]["server"] == "s"
    assert error["message"]


def test_a_servers_own_errors_pass_as_they_are(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil()})
    daemon.wait_all()
    for era in BOTH_ERAS:
        with HttpHost(gateway_url(daemon), era) as host:
            error = host.call("s__rpc_error", text="why not").reply()["error"]
            assert error == {"code": -32042, "message": "why not", "data": {"why": "why not"}}
            result = host.call("s__fail", text="it is so").reply()["result"]
            assert (result["isError"], result["content"][0]["text"]) == (True, "it is so")
            assert "_meta" not in result


# -- lists that change


class Ears:
    """Hears in a thread what is said on a stream."""

    def __init__(self, pool: ThreadPoolExecutor, stream: Pending) -> None:
        assert stream.response.status == 200
        self.heard: list[str] = []
        self._listening = pool.submit(self._listen, stream.messages())

    def _listen(self, messages: Iterator[Any]) -> None:
        for message in messages:
            self.heard.append(message.get("method", "reply"))

    def wait(self, times: int) -> None:
        wait_until(
            f"{times} changes are told", lambda: self.heard.count(TOOLS_CHANGED) >= times, tell=lambda: self.heard
        )


def settled(ears: Sequence[Ears], secs: float = 1.0) -> list[int]:
    """Give how often each has heard that the tools changed, once for so long nobody has heard more."""
    told, since = [0], time.monotonic()

    def quiet() -> bool:
        nonlocal told, since
        if (now := [ear.heard.count(TOOLS_CHANGED) for ear in ears]) != told:
            told, since = now, time.monotonic()
        return time.monotonic() - since > secs

    wait_until("nothing more is told", quiet)
    return told


def test_hosts_hear_that_a_servers_tools_go_and_come_and_nothing_when_it_only_restarts(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil(restart_backoff_secs=2.0), "other": daemon.evil()})
    daemon.wait_all()
    url = gateway_url(daemon)
    with ThreadPoolExecutor(2) as pool, HttpHost(url) as legacy, HttpHost(url, "modern") as modern:
        ears = [Ears(pool, legacy.listen()), Ears(pool, modern.listen(toolsListChanged=True))]
        before = settled(ears)  # what is told of their first start is told by then
        pid = kill(daemon, "s")
        daemon.wait_for("s", "backoff", "starting", "initializing")
        assert "s__echo" in names(legacy.request("tools/list"))
        back_again(daemon, "s", pid)
        assert settled(ears) == before
        for times, (method, there) in enumerate([("mcp.stop", False), ("mcp.start", True)], 1):
            daemon.rpc(method, name="s")
            for ear, told in zip(ears, before, strict=True):
                ear.wait(told + times)
            assert ("s__echo" in names(legacy.request("tools/list"))) is there
            assert ("s__echo" in names(modern.request("tools/list"))) is there
        assert "other__echo" in names(legacy.request("tools/list"))


# -- tools that are filtered out


def test_a_server_that_is_removed_is_ended_and_the_others_go_on(daemon: Daemon) -> None:
    start(daemon, {"kept": daemon.evil(), "gone": daemon.evil()}, OPEN)
    daemon.wait_all()
    with HttpHost(gateway_url(daemon)) as host:
        daemon.rpc("mcp.remove", name="gone")
        assert host.request("tools/call", {"name": "gone__echo"})["error"]["code"] == -32602
        daemon.write({"kept": daemon.evil(), "gone": daemon.evil()}, gateway=OPEN)
        daemon.rpc("daemon.reload")
        daemon.wait_all()
        assert host.text("gone__echo", message="back") == "back"
        assert host.text("kept__echo", message="still") == "still"


@pytest.mark.parametrize("era", BOTH_ERAS)
def test_tools_that_are_filtered_out_are_neither_listed_nor_called(daemon: Daemon, era: str) -> None:
    keys = {"include_tools": ["e*", "dump", "say"], "exclude_tools": ["say"]}
    start(daemon, {"s": teed(daemon, "tee", **keys)})
    daemon.wait_all()
    for url, prefix in ((gateway_url(daemon), "s__"), (gateway_url(daemon, "s"), "")):
        with HttpHost(url, era) as host:
            assert names(host.request("tools/list")) == {f"{prefix}echo", f"{prefix}dump"}
            assert host.text(f"{prefix}echo", message="in") == "in"
            for tool in ("say", "fail"):
                reply = host.call(f"{prefix}{tool}", text="out").reply()
                assert reply["error"]["code"] == -32602 if "error" in reply else failed(reply)
    assert calls_to(daemon, "tee", "echo")
    assert not calls_to(daemon, "tee", "say")
    assert not calls_to(daemon, "tee", "fail")


def test_a_filter_that_is_changed_is_obeyed_and_told(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil()})
    daemon.wait_all()
    with ThreadPoolExecutor(1) as pool, HttpHost(gateway_url(daemon)) as host:
        ear = Ears(pool, host.listen())
        assert "s__dump" in names(host.request("tools/list"))
        daemon.write({"s": daemon.evil(exclude_tools=["dump"])}, gateway=OPEN)
        daemon.rpc("daemon.reload")
        ear.wait(1)
        wait_until("it is gone", lambda: "s__dump" not in names(host.request("tools/list")))
        reply = host.call("s__dump").reply()
        assert "error" in reply or failed(reply)


# -- time


@pytest.mark.alone
@pytest.mark.parametrize("era", BOTH_ERAS)
def test_progress_keeps_a_call_alive_up_to_the_cap_though_the_host_asked_for_none(daemon: Daemon, era: str) -> None:
    limits = {"request_timeout_secs": IDLE_SECS, "request_timeout_max_secs": CAP_SECS}
    start(daemon, {"s": teed(daemon, "tee", **limits)})
    daemon.wait_all()
    with HttpHost(gateway_url(daemon), era) as host, ThreadPoolExecutor(3) as pool:
        wanted = [
            host.call("s__progress", secs=2 * IDLE_SECS, every=0.12),
            host.call("s__slow", secs=2 * IDLE_SECS),
            host.call("s__progress", secs=4 * CAP_SECS, every=0.12),
        ]
        began = time.monotonic()

        def timed(pending: Pending) -> tuple[float, Any]:
            messages = list(pending.messages())
            assert len(messages) == 1, messages
            return time.monotonic() - began, messages[0]

        kept, idle, capped = pool.map(timed, wanted)
    assert kept[1]["result"]["content"][0]["text"] == "late"
    for (took, reply), secs in ((idle, IDLE_SECS), (capped, CAP_SECS)):
        text, data = failed(reply)
        assert data["kind"] == "timeout", text
        assert secs - 0.1 < took < secs + AT_ONCE
    slow, long = calls_to(daemon, "tee", "slow")[0], calls_to(daemon, "tee", "progress")[1]
    wait_until("the server is told", lambda: len(cancels_to(daemon, "tee")) >= 2)
    assert cancels_to(daemon, "tee") == [slow["id"], long["id"]]


# -- hosts that give up


@pytest.fixture
def patient(daemon: Daemon) -> Daemon:
    start(daemon, {"s": teed(daemon, "tee")}, mcp={"request_timeout_secs": 60.0})
    daemon.wait_all()
    return daemon


def upstream_id(daemon: Daemon, number: int) -> Any:
    """Give the id of the call that has this number among its arguments, as the server knows it."""

    def found() -> list[Any]:
        return [m["id"] for m in calls_to(daemon, "tee", "never") if m["params"]["arguments"] == {"n": number}]

    return wait_until("the call is there", found)[0]


def test_a_host_of_2026_that_hangs_up_cancels_and_a_legacy_one_does_not(patient: Daemon) -> None:
    url = gateway_url(patient)
    with HttpHost(url, "modern") as modern, HttpHost(url) as legacy:
        kept, given_up, left = modern.call("s__never", n=1), modern.call("s__never", n=2), legacy.call("s__never", n=3)
        ids = [upstream_id(patient, n) for n in (1, 2, 3)]
        left.vanish()
        time.sleep(0.3)
        given_up.vanish()
        wait_until("the server is told", lambda: cancels_to(patient, "tee"))
        time.sleep(0.3)
        assert cancels_to(patient, "tee") == [ids[1]]
        assert legacy.text("s__echo", message="still here") == "still here"
        kept.vanish()
        wait_until("the other too", lambda: cancels_to(patient, "tee") == [ids[1], ids[0]])


def test_a_legacy_host_that_cancels_gives_up_its_own_call_of_that_id_and_no_other(patient: Daemon) -> None:
    url = gateway_url(patient)
    with HttpHost(url) as one, HttpHost(url) as two:
        calls = [one.call("s__never", 7, n=1), two.call("s__never", 7, n=2), one.call("s__never", "7", n=3)]
        ids = [upstream_id(patient, n) for n in (1, 2, 3)]
        assert two.tell("notifications/cancelled", {"requestId": 7, "reason": "enough"}) == 202
        wait_until("the server is told", lambda: cancels_to(patient, "tee"))
        assert one.tell("notifications/cancelled", {"requestId": "7"}) == 202
        assert one.tell("notifications/cancelled", {"requestId": 8}) == 202
        wait_until("of the other too", lambda: len(cancels_to(patient, "tee")) == 2)
        time.sleep(0.2)
        assert cancels_to(patient, "tee") == [ids[1], ids[2]]
        assert list(calls[1].messages())[-1].get("result") is None
        assert one.text("s__echo", message="x") == "x"


def test_a_host_on_a_pipe_that_cancels_or_goes_gives_up_its_calls(patient: Daemon) -> None:
    with PipeHost(patient) as pipe:
        pipe.begin()
        for n in (1, 2):
            params = {"name": "s__never", "arguments": {"n": n}}
            pipe.send({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": params})
        ids = [upstream_id(patient, n) for n in (1, 2)]
        pipe.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}})
        wait_until("the server is told", lambda: cancels_to(patient, "tee") == [ids[1]])
    wait_until("of the other too", lambda: cancels_to(patient, "tee") == [ids[1], ids[0]])


def test_the_end_of_a_session_gives_up_its_calls(patient: Daemon) -> None:
    with HttpHost(gateway_url(patient)) as host, ThreadPoolExecutor(1) as pool:
        pending = host.call("s__never", n=1)
        id = upstream_id(patient, 1)
        ended = pool.submit(lambda: list(pending.messages()))
        assert send(host.url, "DELETE", None, host.headers()).status in (200, 204)
        wait_until("the server is told", lambda: cancels_to(patient, "tee") == [id])
        assert all("result" not in message for message in ended.result(PATIENCE))


# -- the control socket


def test_a_subscriber_of_the_control_socket_hears_which_lists_changed(daemon: Daemon) -> None:
    start(daemon, {"old": fixture(daemon, protocol="legacy"), "new": fixture(daemon)})
    daemon.wait_all()
    with daemon.connect() as control, HttpHost(gateway_url(daemon)) as host:
        control.call("mcp.subscribe", events=["lists", "state"])
        assert json.loads(control.read_line())["params"]["type"] == "snapshot"
        for server in ("old", "new"):
            for kind, wanted in (
                ("resource", {"resources", "templates"}),
                ("tool", {"tools"}),
                ("prompt", {"prompts"}),
            ):
                host.text(f"{server}__test_trigger_{kind}_change")
                event = json.loads(control.read_line())["params"]
                assert (event["type"], event["server"]) == ("lists", server), event
                assert set(event["lists"]) <= wanted
                assert set(event["lists"])
        assert daemon.states() == {"old": "ready", "new": "ready"}
        uris = {resource["uri"] for resource in host.request("resources/list")["result"]["resources"]}
        assert "test://extra" in uris
