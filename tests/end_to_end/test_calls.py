"""A call ends: with the server's answer, with its error, at its time limit, or with the server's death."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Daemon, RpcError, a_daemon, wait_until


def serving(daemon: Daemon) -> Daemon:
    daemon.write({"s": daemon.evil(events="ev")})
    daemon.start().wait_for("s", "ready")
    return daemon


@pytest.fixture
def served(daemon: Daemon) -> Daemon:
    return serving(daemon)


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """The daemon of those tests that end nothing and look at no call but their own."""
    with a_daemon() as daemon:
        yield serving(daemon)


def call_in_background(daemon: Daemon, tool: str, **arguments: Any) -> tuple[threading.Thread, list[Any]]:
    """Start a call and give its thread, and a list that will hold its result or RpcError and the seconds it took."""
    ended: list[Any] = []

    def run() -> None:
        began = time.monotonic()
        try:
            outcome: Any = daemon.call("s", tool, **arguments)
        except RpcError as error:
            outcome = error
        ended.extend((outcome, time.monotonic() - began))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def test_a_call_in_flight_fails_at_once_with_exit_code_and_last_words(served: Daemon) -> None:
    with pytest.raises(RpcError) as raised:
        served.call("s", "die", code=9, say="disk on fire")
    message = raised.value.message + json.dumps(raised.value.data)
    assert "9" in message
    assert "disk on fire" in message
    assert raised.value.data["server"] == "s"


@pytest.mark.alone
def test_calls_in_flight_fail_within_milliseconds_of_kill_9_and_are_not_replayed(served: Daemon) -> None:
    threads = [call_in_background(served, "never") for _ in range(5)]
    wait_until("all are in flight", lambda: len(served.event_pids("ev", "call")) == 5)
    began = time.monotonic()
    os.kill(served.status("s")["pid"], signal.SIGKILL)
    for thread, _ in threads:
        thread.join(5)
    assert time.monotonic() - began < 0.7
    for _, (outcome, _took) in threads:
        assert isinstance(outcome, RpcError)
        assert "SIGKILL" in outcome.message or "-9" in outcome.message + json.dumps(outcome.data)
    served.wait_for("s", "ready")
    time.sleep(0.3)
    assert len(served.event_pids("ev", "call")) == 5


def test_a_call_while_the_server_is_away_says_when_it_is_tried_again(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("exit-at-once=1", restart_cooldown_secs=600.0)})
    daemon.start().wait_for("s", "cooldown")
    with pytest.raises(RpcError) as raised:
        daemon.call("s", "echo")
    assert raised.value.code == -32005
    assert raised.value.data["state"] == "cooldown"
    assert raised.value.data["next_retry_at"] == daemon.status("s")["next_retry_at"]
    assert "moltis" in raised.value.data["hint"]


def test_an_error_of_the_server_is_given_as_it_was_sent(shared: Daemon) -> None:
    with pytest.raises(RpcError) as raised:
        shared.call("s", "rpc_error", text="no such row")
    assert raised.value.code == -32009
    assert raised.value.data["error"] == {"code": -32042, "message": "no such row", "data": {"why": "no such row"}}
    failed = shared.call("s", "fail", text="tool says no")
    assert failed == {"content": [{"type": "text", "text": "tool says no"}], "isError": True}


@pytest.mark.alone
def test_a_call_without_answer_ends_at_its_limit_and_the_server_is_told(served: Daemon) -> None:
    began = time.monotonic()
    with pytest.raises(RpcError) as raised:
        served.rpc("mcp.call", server="s", tool="never", timeout_secs=0.4)
    assert raised.value.code == -32006
    assert 0.35 <= time.monotonic() - began < 1.5
    wait_until("the server knows", lambda: len(json.loads(served.text("s", "cancelled"))) == 1)
    assert served.status("s")["restarts"] == 0


@pytest.mark.alone
def test_progress_extends_a_call_up_to_the_cap(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil(request_timeout_secs=0.4, request_timeout_max_secs=1.3)})
    daemon.start().wait_for("s", "ready")
    assert daemon.text("s", "progress", every=0.1, secs=0.9) == "late"
    began = time.monotonic()
    with pytest.raises(RpcError) as raised:
        daemon.call("s", "progress", every=0.1, secs=30)
    assert raised.value.code == -32006
    assert 1.2 <= time.monotonic() - began < 2.8


def test_a_client_that_leaves_cancels_what_it_asked_for(served: Daemon) -> None:
    with served.connect() as client:
        request = {"server": "s", "tool": "never"}
        client.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "mcp.call", "params": request}).encode() + b"\n")
        wait_until("it is in flight", lambda: "never" in str(served.events("ev")))
    wait_until("the server knows", lambda: served.event_pids("ev", "cancelled"))


def test_answers_go_to_whoever_asked_whatever_their_ids(shared: Daemon) -> None:
    threads = [call_in_background(shared, "echo", message=f"mine-{n}") for n in range(40)]
    for n, (thread, ended) in enumerate(threads):
        thread.join(20)
        assert ended[0]["content"][0]["text"] == f"mine-{n}"


def test_one_connection_may_have_many_calls_and_a_slow_one_holds_up_no_other(shared: Daemon) -> None:
    with shared.connect() as client:
        for ident, arguments in ((1, {"secs": 1.0}), (2, {"secs": 0.0})):
            params = {"server": "s", "tool": "slow", "arguments": arguments}
            client.send(
                json.dumps({"jsonrpc": "2.0", "id": ident, "method": "mcp.call", "params": params}).encode() + b"\n"
            )
        assert [json.loads(client.read_line())["id"] for _ in range(2)] == [2, 1]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["mcp", "call", "s.echo", "message=hi"], 0),
        (["mcp", "call", "s.fail"], 1),
        (["mcp", "call", "s.rpc_error", "text=x"], 1),
        (["mcp", "call", "nobody.echo"], 4),
        (["mcp", "call", "s.never", "--timeout", "0.3"], 7),
        (["mcp", "call"], 2),
        (["status"], 0),
        (["status", "nobody"], 4),
        (["no-such-command"], 2),
        (["rpc", "daemon.status"], 0),
        (["rpc", "no.such"], 2),
        (["--version"], 0),
        (["--help"], 0),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_commands_end_with_the_promised_codes(shared: Daemon, words: list[str], code: int) -> None:
    done = shared.cli(*words)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_every_json_output_parses_and_is_never_null(shared: Daemon) -> None:
    for words in (["status"], ["mcp", "list"], ["mcp", "tools"], ["logs"], ["env", "list"], ["doctor"], ["why", "s"]):
        done = shared.cli(*words, "--json")
        for line in done.stdout.splitlines() if words == ["logs"] else [done.stdout]:
            assert json.loads(line) is not None, words


def test_status_with_the_daemon_down_says_so_and_how_to_start_it(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    done = daemon.cli("status")
    assert done.returncode == 3
    assert "moltis run" in done.stdout + done.stderr
    assert daemon.cli("status", "--json").returncode == 3


def test_an_unhealthy_row_says_which_command_mends_it(daemon: Daemon) -> None:
    daemon.write({"bad": daemon.evil("exit-at-once=1", restart_cooldown_secs=600.0), "off": daemon.evil(enabled=False)})
    daemon.start().wait_for("bad", "cooldown")
    done = daemon.cli("status")
    assert done.returncode == 1
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "moltis" in rows["bad"]
    assert "bad" in rows["bad"].split("moltis", 1)[1]
    assert "moltis mcp enable off" in rows["off"]
