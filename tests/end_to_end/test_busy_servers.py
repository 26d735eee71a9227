"""Busy is not dead: nobody at work is ended by a heartbeat, and who is dead still is."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gateway_harness import gateway_url, start
from harness import PYTHON, SERVERS, Daemon, wait_until
from installing import pip_folder
from processes import signal_pid
from raw_hosts import HttpHost

BUSY = SERVERS / "busy_server.py"
BEAT = {"heartbeat_interval_secs": 0.5, "heartbeat_timeout_secs": 0.5, "heartbeat_max_missed": 3}
VERDICT_SECS = 2.0
"""When a server that falls silent is found out by `BEAT`: three intervals, and a timeout."""
LONG_SECS = 3 * VERDICT_SECS


def entry(daemon: Daemon, *words: str, **keys: Any) -> dict[str, Any]:
    return {**daemon.real(PYTHON, "-S", "-E", str(BUSY), *words, protocol="legacy"), **BEAT, **keys}


def run(daemon: Daemon, *words: str, **keys: Any) -> Daemon:
    daemon.write({"s": entry(daemon, *words, **keys)})
    daemon.start().wait_for("s", "ready")
    return daemon


def assert_never_ended(daemon: Daemon, name: str = "s") -> None:
    told = [e["to"] for e in daemon.history(name)]
    assert told == ["starting", "initializing", "ready"], daemon.history(name)


def ended_after(daemon: Daemon, since: float) -> float:
    """Return how many seconds after `since`, by the wall, the server was found unresponsive."""
    (found, *_) = wait_until("it is ended", lambda: [e for e in daemon.history("s") if e["reason"] == "unresponsive"])
    return datetime.fromisoformat(found["at"]).timestamp() - since


@contextlib.contextmanager
def beside(*works: Callable[[], Any]) -> Iterator[list[Any]]:
    """Do something in threads of their own meanwhile; what it returns, or raises, is in the list afterwards."""
    outcomes: list[Any] = [None] * len(works)

    def do(n: int, work: Callable[[], Any]) -> None:
        try:
            outcomes[n] = work()
        except Exception as error:
            outcomes[n] = error

    threads = [threading.Thread(target=do, args=(n, work)) for n, work in enumerate(works)]
    for thread in threads:
        thread.start()
    yield outcomes
    for thread in threads:
        thread.join(60)


@pytest.fixture(scope="session")
def fastmcp1() -> Path:
    """The folder with the newest SDK before 2, whose FastMCP runs a plain function in its event loop.

    MOLTIS_TEST_MCP1 names one that has it; otherwise it is installed beside the tests, once.
    """
    return pip_folder(SERVERS / ".mcp1", "mcp>=1.30,<2", "mcp", "MOLTIS_TEST_MCP1")


FASTMCP = """
import time
from mcp.server.fastmcp import FastMCP

s = FastMCP("blocking")

@s.tool()
def work(secs: float) -> str:
    time.sleep(secs)
    return "done"

@s.tool()
def quick() -> str:
    return "quick"

s.run()
"""


@pytest.fixture
def blocking(daemon: Daemon, fastmcp1: Path) -> Daemon:
    """A daemon with a FastMCP of the SDK's first line, whose tool is a plain `def`."""
    script = daemon.folder / "blocking.py"
    script.write_text(FASTMCP)
    server = daemon.real(PYTHON, str(script), env={"PYTHONPATH": str(fastmcp1)}, startup_timeout_secs=60.0, **BEAT)
    daemon.write({"s": server})
    status = daemon.start().wait_for("s", "ready")
    assert status["server_info"]["version"].startswith("1."), "the SDK that runs tools in its event loop"
    return daemon


@pytest.mark.timeout(600)
def test_a_plain_function_of_fastmcp_works_as_long_as_it_likes(blocking: Daemon) -> None:
    done = blocking.cli("mcp", "call", "s.work", f"secs={LONG_SECS}", "--timeout", "60")
    assert (done.returncode, "done" in done.stdout) == (0, True), done.stderr
    assert_never_ended(blocking)
    wait_until("heartbeats go on", lambda: blocking.status("s")["last_heartbeat_at"])


@pytest.mark.timeout(600)
def test_fastmcp_is_left_to_finish_what_its_caller_gave_up(blocking: Daemon) -> None:
    with blocking.connect() as client:
        client.send(
            json.dumps(
                {
                    "jsonrpc": "2.0",
                    "id": 1,
                    "method": "mcp.call",
                    "params": {"server": "s", "tool": "work", "arguments": {"secs": LONG_SECS}},
                }
            ).encode()
            + b"\n"
        )
        time.sleep(0.5)
    time.sleep(LONG_SECS)
    assert blocking.text("s", "quick") == "quick"
    assert_never_ended(blocking)


def test_whatever_a_busy_server_says_or_not_its_call_is_waited_for(daemon: Daemon) -> None:
    ways = ("nothing", "progress", "log", "stderr", "noise")
    daemon.write({says: entry(daemon) for says in ways})
    daemon.start().wait_all()
    with beside(*(partial(daemon.text, says, "work", secs=LONG_SECS, says=says) for says in ways)) as outcomes:
        pass
    assert outcomes == ["done"] * len(ways)
    for says in ways:
        assert_never_ended(daemon, says)


def test_a_prompt_or_a_resource_may_take_as_long(daemon: Daemon) -> None:
    wanted = {"mcp.get_prompt": {"name": str(LONG_SECS)}, "mcp.read_resource": {"uri": f"busy:/{LONG_SECS}"}}
    names = {method: method.partition("_")[2] for method in wanted}
    daemon.write({name: entry(daemon) for name in names.values()})
    daemon.start().wait_all()

    def ask(method: str) -> Any:
        with daemon.connect() as client:
            return json.loads(client.call_raw(method, {"server": names[method], **wanted[method]}))

    with beside(*(partial(ask, method) for method in wanted)) as outcomes:
        pass
    for name, answer in zip(names.values(), outcomes, strict=True):
        assert "result" in answer, answer
        assert_never_ended(daemon, name)


def test_of_two_calls_at_once_the_longer_one_is_waited_for(daemon: Daemon) -> None:
    """The second is behind the first in the server's queue, and times out there."""
    run(daemon, request_timeout_secs=1.0)

    def long() -> Any:
        return daemon.rpc("mcp.call", server="s", tool="work", arguments={"secs": LONG_SECS}, timeout_secs=60.0)

    with beside(long) as outcomes:
        time.sleep(1.0)  # the longer one is there first
        with pytest.raises(Exception, match="gave neither a reply nor progress"):
            daemon.call("s", "quick")
    assert outcomes[0]["content"][0]["text"] == "done", outcomes
    assert_never_ended(daemon)


def test_a_server_may_go_on_with_what_timed_out_if_it_says_so(daemon: Daemon) -> None:
    run(daemon, request_timeout_secs=1.0)
    with pytest.raises(Exception, match="gave neither a reply nor progress"):
        daemon.call("s", "work", secs=LONG_SECS, says="stderr")
    time.sleep(LONG_SECS)
    assert daemon.text("s", "quick") == "done"
    assert_never_ended(daemon)


@pytest.fixture
def hosted(daemon: Daemon) -> Daemon:
    """A daemon whose server hosts reach by the gateway."""
    start(daemon, {"s": entry(daemon)}).wait_for("s", "ready")
    return daemon


def test_a_person_may_think_longer_than_all_heartbeats_take(hosted: Daemon) -> None:
    """The server reads nothing but the answer to its question."""
    with HttpHost(gateway_url(hosted, "s"), elicitation={"form": {}}) as host:
        replies = []
        for message in host.call("ask").messages():
            if message.get("method") == "elicitation/create":
                time.sleep(LONG_SECS)
                assert host.answer(message["id"], {"action": "accept", "content": {}}) == 202
            elif "method" not in message:
                replies.append(message)
        assert "accept" in replies[0]["result"]["content"][0]["text"]
    assert_never_ended(hosted)


def test_what_a_host_cancels_is_left_to_be_finished(hosted: Daemon) -> None:
    with HttpHost(gateway_url(hosted, "s")) as host, HttpHost(gateway_url(hosted, "s")) as other:
        pending = host.call("work", id=77, secs=LONG_SECS)
        time.sleep(0.5)
        assert host.tell("notifications/cancelled", {"requestId": 77}) == 202
        time.sleep(LONG_SECS)
        assert other.text("quick") == "done"
        pending.close()
    assert_never_ended(hosted)


def test_a_server_that_knows_no_ping_stays_ready(daemon: Daemon) -> None:
    daemon.write({"called": entry(daemon, "--no-ping"), "left": entry(daemon, "--no-ping")})
    daemon.start().wait_all()
    until = time.monotonic() + 3 * VERDICT_SECS
    while time.monotonic() < until:
        time.sleep(0.7)
        assert daemon.text("called", "quick") == "done"
    for name in ("called", "left"):
        assert_never_ended(daemon, name)
        assert daemon.status(name)["heartbeat_latency_ms"] is not None


def test_a_server_that_knows_no_ping_may_work_too(daemon: Daemon) -> None:
    run(daemon, "--no-ping")
    time.sleep(VERDICT_SECS)
    assert daemon.text("s", "work", secs=LONG_SECS) == "done"
    time.sleep(VERDICT_SECS)
    assert_never_ended(daemon)


@pytest.mark.alone
@pytest.mark.parametrize("words", [(), ("--no-ping",)], ids=["ping", "no ping"])
def test_a_hung_server_without_a_request_is_ended_as_soon_as_ever(daemon: Daemon, words: tuple[str, ...]) -> None:
    run(daemon, *words)
    time.sleep(1.2)
    stopped = time.time()
    signal_pid(daemon.status("s")["pid"], signal.SIGSTOP)
    assert VERDICT_SECS - 1.1 < ended_after(daemon, stopped) < VERDICT_SECS + 2.5
    daemon.wait_for("s", "ready")


@pytest.mark.alone
def test_a_server_that_hangs_in_a_call_is_ended_after_its_timeout_and_the_heartbeats(daemon: Daemon) -> None:
    run(daemon, request_timeout_secs=1.5)
    signal_pid(daemon.status("s")["pid"], signal.SIGSTOP)
    began = time.time()
    with pytest.raises(Exception, match="gave neither a reply nor progress"):
        daemon.call("s", "quick")
    assert 1.5 + VERDICT_SECS - 0.1 < ended_after(daemon, began) < 1.5 + VERDICT_SECS + 2.5


@pytest.mark.alone
def test_a_hung_server_is_ended_though_its_callers_do_not_stop(daemon: Daemon) -> None:
    run(daemon, request_timeout_secs=1.0)
    signal_pid(daemon.status("s")["pid"], signal.SIGSTOP)
    began = time.time()
    over = threading.Event()

    def keep_calling() -> None:
        while not over.wait(0.2):
            with contextlib.suppress(Exception):
                daemon.call("s", "quick")

    with beside(*[keep_calling] * 3):
        try:
            assert ended_after(daemon, began) < 2.0 + VERDICT_SECS + 2.5
        finally:
            over.set()


@contextlib.contextmanager
def http_server(answer: str) -> Iterator[str]:
    process = subprocess.Popen(
        [PYTHON, "-S", "-E", str(BUSY), "--http", answer], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


def test_any_answer_to_a_ping_over_http_shows_that_somebody_is_there(daemon: Daemon) -> None:
    """A server error alone is no sign of life: of the last one what else it answers is."""
    answers = ("empty", "open", "202", "204", "400", "405", "404", "502")
    with contextlib.ExitStack() as running:
        urls = {answer: running.enter_context(http_server(answer)) for answer in answers}
        daemon.write({name: {"url": url, "transport": "streamable-http", **BEAT} for name, url in urls.items()})
        daemon.start().wait_all()
        time.sleep(3 * VERDICT_SECS)
        for answer in answers:
            assert_never_ended(daemon, answer)
            assert daemon.text(answer, "quick") == "done"
            assert_never_ended(daemon, answer)
