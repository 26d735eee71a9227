"""Many hosts share one session of a server, and none of them ever sees anything of another's."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from gateway_harness import OPEN, fixture, gateway_url, start
from harness import Daemon, wait_until
from patience import PATIENCE
from processes import signal_pid
from raw_hosts import ABLE, BOTH_ERAS, HttpHost, PipeHost, gauge

T = TypeVar("T")
SERVERS = ("old", "new")
MANY = 200
CALLS = 40
MIB = 1 << 20
MAX_GROWTH = 12 * MIB
"""What two hundred hosts may leave in memory when two hundred have been there before them."""
CERTAIN_WITHIN = 2.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        made = Daemon(Path(name))
        try:
            start(
                made,
                {"old": fixture(made, protocol="legacy"), "new": fixture(made, protocol="2026-07-28")},
                OPEN,
                mcp={"request_timeout_secs": 30.0},
            )
            made.wait_all()
            yield made
        finally:
            made.end_everything()


def together(*work: Callable[[], T]) -> list[T]:
    """Do all at the same time, each in a thread of its own; give the results in order."""
    gate = threading.Barrier(len(work))

    def at_once(one: Callable[[], T]) -> T:
        gate.wait(30)
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(at_once, work))


def said(reply: Any) -> str:
    text: str = reply["result"]["content"][0]["text"]
    return text


# -- the same ids


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("eras", [("legacy", "legacy"), ("modern", "modern"), ("legacy", "modern")], ids="+".join)
def test_hosts_that_use_the_same_ids_get_each_its_own_answers_and_progress(
    daemon: Daemon, eras: Sequence[str], server: str
) -> None:
    def one(name: str, era: str) -> Callable[[], None]:
        def work() -> None:
            with HttpHost(gateway_url(daemon), era) as host:
                for id in range(CALLS):
                    text = f"{name} {id}"
                    assert json.loads(host.text(f"{server}__echo", id, text=text)) == {"text": text}
                params = {"name": f"{server}__test_tool_with_progress", "arguments": {}}
                pending = host.start("tools/call", params, 7, {"progressToken": "the-same"})
                heard = [m["params"] for m in pending.messages() if m.get("method") == "notifications/progress"]
            assert [(p["progress"], p["progressToken"]) for p in heard] == [(n, "the-same") for n in (0, 50, 100)]

        return work

    together(one("a", eras[0]), one("b", eras[1]))


def test_hosts_on_a_pipe_and_over_http_that_use_the_same_ids_do_not_meet(daemon: Daemon) -> None:
    with PipeHost(daemon) as pipe, HttpHost(gateway_url(daemon)) as other:
        pipe.begin()
        for id in range(1, 20):
            params = {"name": "old__echo", "arguments": {"text": f"pipe {id}"}}
            pipe.send({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
            assert json.loads(other.text("old__echo", id, text=f"http {id}")) == {"text": f"http {id}"}
            reply = pipe.answer()
            assert (reply["id"], json.loads(said(reply))) == (id, {"text": f"pipe {id}"})


def test_an_id_that_waits_may_not_be_used_again_and_the_first_goes_on(daemon: Daemon) -> None:
    with HttpHost(gateway_url(daemon)) as host:
        first = host.call("old__sleep", "one", secs=3)
        time.sleep(0.5)
        assert host.call("old__echo", "one", text="x").reply()["error"]["code"] == -32600
        assert said(first.reply()) == "slept"


# -- questions at the same time


def ask(daemon: Daemon, era: str, server: str, name: str) -> tuple[str | None, Any]:
    """Have a server ask a host who it is; give what it was asked, and the reply."""
    with HttpHost(gateway_url(daemon), era, **ABLE) as host:
        answer = {"action": "accept", "content": {"username": name, "email": f"{name}@example.com"}}
        asked, reply = host.call_answering(f"{server}__test_elicitation", answer, 1, message=f"Are you {name}?")
        return (asked or {}).get("message"), reply


@pytest.mark.parametrize("eras", list(itertools.product(BOTH_ERAS, BOTH_ERAS)), ids="+".join)
def test_a_server_of_2026_asks_two_hosts_at_the_same_time_and_each_answers_for_itself(
    daemon: Daemon, eras: Sequence[str]
) -> None:
    names = ("ann", "bob")
    found = together(*(lambda e=e, n=n: ask(daemon, e, "new", n) for e, n in zip(eras, names, strict=True)))
    for name, (asked, reply) in zip(names, found, strict=True):
        assert asked == f"Are you {name}?"
        assert f'"username": "{name}"' in said(reply)


@pytest.mark.alone
@pytest.mark.parametrize("era", BOTH_ERAS)
def test_a_legacy_server_that_asks_a_second_host_meanwhile_is_answered_by_it_once_that_is_certain(
    daemon: Daemon, era: str
) -> None:
    """On stdio nothing says whose a question is. The second waits until the first host's call is over."""
    with HttpHost(gateway_url(daemon), **ABLE) as first:
        pending = first.call("old__test_elicitation", 1, message="Are you ann?")
        stream = pending.messages()
        question = next(stream)
        assert question["params"]["message"] == "Are you ann?"
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(ask, daemon, era, "old", "bob")
            time.sleep(0.3)
            assert not second.done()
            began = time.monotonic()
            assert first.answer(question["id"], {"action": "accept", "content": {"username": "ann"}}) == 202
            assert '"username": "ann"' in said(next(stream))
            asked, reply = second.result(30)
            assert time.monotonic() - began < CERTAIN_WITHIN
    assert asked == "Are you bob?"
    assert '"username": "bob"' in said(reply)


def test_a_legacy_server_that_asks_two_hosts_at_once_never_asks_the_wrong_one(daemon: Daemon) -> None:
    """Neither question can be told apart, and neither call ends without its answer: both are refused.

    When, to the tenth of a second, is shown in virtual time. Here it is before their requests have timed out.
    """
    pid = daemon.status("old")["pid"]
    signal_pid(pid, signal.SIGSTOP)  # so that both calls are there before it asks anything
    try:
        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask, daemon, "legacy", "old", name) for name in ("ann", "bob")]
            wait_until("both wait", lambda: gauge(gateway_url(daemon), "moltis_gateway_requests_in_flight") == 2)
            time.sleep(0.1)
            signal_pid(pid, signal.SIGCONT)
            found = [future.result(PATIENCE) for future in asking]
    finally:
        signal_pid(pid, signal.SIGCONT)
    for asked, reply in found:
        assert asked is None
        assert "nothing says which of them" in json.dumps(reply)


@pytest.mark.parametrize("server", SERVERS)
def test_log_messages_never_reach_the_wrong_host(daemon: Daemon, server: str) -> None:
    def one(name: str) -> Callable[[], list[str]]:
        def work() -> list[str]:
            heard = []
            with HttpHost(gateway_url(daemon)) as host:
                host.request("logging/setLevel", {"level": "info"})
                for n in range(20):
                    pending = host.call(f"{server}__test_logging_tool", 1, level="warning", data=f"{name} {n}")
                    heard += [m["params"]["data"] for m in pending.messages() if "method" in m]
            return heard

        return work

    heard = together(one("ann"), one("bob"))
    for name, lines in zip(("ann", "bob"), heard, strict=True):
        assert {line.split()[0] for line in lines} <= {name}
        assert len(set(lines)) == len(lines)


# -- two hundred


def resident(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def crowd(url: str, round: int) -> None:
    """Two hundred hosts, all there at once; every second one is killed while its call is under way."""
    gate = threading.Barrier(MANY)
    left: list[HttpHost] = []

    def one(number: int) -> None:
        era, server = BOTH_ERAS[number % 4 // 2], SERVERS[number // 4 % 2]
        with contextlib.ExitStack() as stack:
            host = HttpHost(url, era).__enter__()
            gate.wait(4 * PATIENCE)
            mine = f"{round}-{number}"
            assert json.loads(host.text(f"{server}__echo", 1, text=mine)) == {"text": mine}
            if number % 2:
                stack.push(host)
                assert host.text(f"{server}__sleep", 2, secs=0.5) == "slept"
                assert json.loads(host.text(f"{server}__echo", 1, text=f"{mine} again")) == {"text": f"{mine} again"}
            else:
                stream = host.listen(toolsListChanged=True)
                assert stream.response.status == 200
                calls = [host.call(f"{server}__sleep", id, secs=2) for id in (2, 3)]
                time.sleep(0.2)
                for pending in (stream, *calls):
                    pending.vanish()
                left.append(host)

    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(one, range(MANY)))
    for host in left:
        host.__exit__()  # a session that nobody ends is kept for half an hour, so that its host may come back


def test_two_hundred_hosts_get_right_answers_and_leave_nothing_behind(daemon: Daemon) -> None:
    url = gateway_url(daemon)
    before = descriptors(daemon.pid)
    memory = []
    for round in range(2):
        began = time.monotonic()
        crowd(url, round)
        for name in ("moltis_gateway_sessions", "moltis_gateway_requests_in_flight"):
            wait_until(f"{name} is 0", lambda name=name: gauge(url, name) == 0, tell=lambda name=name: gauge(url, name))
        wait_until("all is closed", lambda: descriptors(daemon.pid) <= before, tell=lambda: descriptors(daemon.pid))
        memory.append(resident(daemon.pid))
        print(f"{MANY} hosts in {time.monotonic() - began:.1f} s, resident {memory[-1] / MIB:.1f} MiB")
    assert memory[1] - memory[0] < MAX_GROWTH
    assert daemon.states() == dict.fromkeys(SERVERS, "ready")
    with HttpHost(url) as host:
        assert host.text("old__echo", text="x")
