"""The daemon ends: whoever waits for something is told so, in the form of its era, and in the time promised."""

from __future__ import annotations

import contextlib
import http.client
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from gateway_harness import fixture, gateway_url, start
from harness import QUICK, Daemon, wait_until
from raw_hosts import ABLE, META, MODERN, HttpHost, Pending, PipeHost

BOUND = float(QUICK["stop_eof_secs"]) + float(QUICK["stop_term_secs"]) + 1.0
Hosts = Callable[..., tuple[HttpHost, ...]]
STUBBORN = ("eof-ignoring", "ignterm")


ERAS = {"old": "legacy", "new": "2026-07-28"}


def with_servers(daemon: Daemon, *eras: str) -> Daemon:
    """Start a gateway with a server that answers nothing and does not want to end, and one of each of these eras.

    Those have to import the official SDK, which takes a second of a processor.
    """
    servers = {"stubborn": daemon.evil(*STUBBORN), **{era: fixture(daemon, protocol=ERAS[era]) for era in eras}}
    start(daemon, servers, mcp={"request_timeout_secs": 60.0})
    daemon.wait_all()
    return daemon


@pytest.fixture
def serving(daemon: Daemon) -> Daemon:
    return with_servers(daemon, "old", "new")


@pytest.fixture
def serving_old(daemon: Daemon) -> Daemon:
    return with_servers(daemon, "old")


@pytest.fixture
def serving_new(daemon: Daemon) -> Daemon:
    return with_servers(daemon, "new")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Have hosts begin, and hang up in the end."""
    made: list[HttpHost] = []

    def begin(*wanted: HttpHost) -> tuple[HttpHost, ...]:
        made.extend(wanted)
        for host in wanted:
            host.__enter__()
        return wanted

    yield begin
    for host in made:
        host.hang_up()


def in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Do it in a thread that nobody waits for."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as failure:
            future.set_exception(failure)

    threading.Thread(target=run, daemon=True).start()
    return future


def all_messages(pending: Pending) -> tuple[int, list[Any], bool]:
    """Give the status, what came, and whether the answer ended as HTTP wants it."""
    status, found = pending.response.status, []
    try:
        for message in pending.messages():
            found.append(message)
    except (OSError, http.client.HTTPException):
        return status, found, False
    return status, found, True


def ended(reply: Any) -> str:
    """Give what is said in a reply that ends a request: an error of ours, or a tool's result that says so."""
    if "error" in reply:
        assert reply["error"]["message"], reply
        said: str = reply["error"]["message"]
        return said
    assert reply["result"]["isError"] is True, reply
    assert reply["result"]["_meta"]["moltis/error"]["kind"], reply
    text: str = reply["result"]["content"][0]["text"]
    return text


def end(daemon: Daemon) -> float:
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit(BOUND + 5) == 0
    return time.monotonic() - began


@pytest.mark.alone
def test_everyone_over_http_is_given_a_clear_end_in_time(serving: Daemon, hosts: Hosts) -> None:
    url = gateway_url(serving)
    legacy, modern = hosts(HttpHost(url, **ABLE), HttpHost(url, "modern", **ABLE))
    tools: Sequence[tuple[str, dict[str, Any]]] = (
        ("stubborn__never", {}),
        ("stubborn__progress", {"secs": 50, "every": 0.1}),
        ("old__sleep", {"secs": 50}),
        ("new__sleep", {"secs": 50}),
    )
    calls = {}
    for host in (legacy, modern):
        for tool, arguments in tools:
            params = {"name": tool, "arguments": arguments}
            calls[host.era, tool] = host.start("tools/call", params, meta={"progressToken": tool})
    calls["legacy", "asked"] = legacy.call("old__test_elicitation", message="Who?")
    reads = {key: in_thread(lambda p=pending: all_messages(p)) for key, pending in calls.items()}
    streams = {"legacy": legacy.listen(), "modern": modern.listen(toolsListChanged=True)}
    for stream in streams.values():
        assert stream.response.status == 200
    ends = {era: in_thread(lambda p=pending: all_messages(p)) for era, pending in streams.items()}
    time.sleep(0.5)
    assert not any(future.done() for future in (*reads.values(), *ends.values()))

    took = end(serving)
    print(f"ended after {took:.2f} s")
    assert took <= BOUND
    for key, future in reads.items():
        status, messages, whole = future.result(2)
        assert whole, key
        assert status == 200 or "error" in messages[-1], key
        assert messages[-1]["id"] == calls[key].id
        assert ended(messages[-1]), key
    _, messages, whole = ends["legacy"].result(2)
    assert whole
    _, messages, whole = ends["modern"].result(2)
    assert whole
    assert messages[0]["method"] == "notifications/subscriptions/acknowledged"
    assert messages[-1]["id"] == streams["modern"].id
    assert messages[-1]["result"]["resultType"] == "complete"
    serving.assert_nothing_left(0.2)


@pytest.mark.alone
def test_a_question_that_is_open_ends_with_its_call(serving_old: Daemon, hosts: Hosts) -> None:
    (host,) = hosts(HttpHost(gateway_url(serving_old), **ABLE))
    pending = host.call("old__test_elicitation", message="Who?")
    stream = pending.messages()
    assert next(stream)["method"] == "elicitation/create"
    took = end(serving_old)
    assert took <= BOUND
    rest = list(stream)
    assert ended(rest[-1])
    assert rest[-1]["id"] == pending.id


def test_a_host_on_a_pipe_is_given_a_clear_end_and_its_command_stays(serving: Daemon) -> None:
    """It stays for the next daemon: a restart is not the end of a host's session."""
    with PipeHost(serving) as legacy, PipeHost(serving, "new") as modern:
        legacy.begin()
        about = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}
        waiting = {"name": "stubborn__never", "arguments": {}}
        legacy.send({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": waiting})
        slept = {"name": "sleep", "arguments": {"secs": 50}, "_meta": about}
        modern.send({"jsonrpc": "2.0", "id": "b", "method": "tools/call", "params": slept})
        wanted = {"notifications": {"toolsListChanged": True}, "_meta": about}
        modern.send({"jsonrpc": "2.0", "id": "c", "method": "subscriptions/listen", "params": wanted})
        assert modern.read()["method"] == "notifications/subscriptions/acknowledged"
        time.sleep(0.3)
        assert end(serving) <= BOUND
        assert ended(reply_to(legacy, "a"))
        over = modern.read()
        assert over["id"] == "b"
        assert ended(over)
        assert legacy.process.poll() is None
        serving.start()
        again = legacy.request("tools/call", {"name": "new__echo", "arguments": {"text": "x"}}, "d")
        assert again["result"]["content"][0]["text"] == '{"text": "x"}'
        changed = modern.read()
        assert changed["method"] == "notifications/tools/list_changed", "the listen goes on"
        assert changed["params"]["_meta"] == {f"{META}subscriptionId": "c"}
        later = modern.request("tools/call", {"name": "echo", "arguments": {"text": "y"}, "_meta": about}, "e")
        assert later["result"]["content"][0]["text"] == '{"text": "y"}'


def reply_to(host: PipeHost, id: str) -> Any:
    while (message := host.read()).get("id") != id or "method" in message:
        pass
    return message


def test_hosts_on_pipes_and_such_that_come_meanwhile_live_through_restarts(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil(), "stubborn": daemon.evil(*STUBBORN)})
    daemon.wait_all()
    call = {"name": "s__echo", "arguments": {"message": "x"}}
    with contextlib.ExitStack() as stack:
        pipes: list[PipeHost] = []

        def more() -> None:
            for _ in range(4):
                pipes.append(stack.enter_context(PipeHost(daemon)))
                time.sleep(0.15)

        more()
        for pipe in pipes:
            pipe.begin()
        for turn in range(2):
            begun = len(pipes)
            with ThreadPoolExecutor(1) as pool:
                coming = pool.submit(more)
                assert end(daemon) <= BOUND
                coming.result()
            daemon.start().wait_for("s", "ready")
            for pipe in pipes[begun:]:
                assert pipe.begin()["serverInfo"]["name"] == "moltis"
            for pipe in pipes:
                assert pipe.request("tools/call", call, f"turn {turn}")["result"]["content"][0]["text"] == "x"


@pytest.mark.alone
def test_hosts_that_keep_asking_while_it_ends_are_answered_or_refused_and_never_left_hanging(
    serving_new: Daemon,
) -> None:
    url, over = gateway_url(serving_new), threading.Event()

    def ask() -> int:
        replies = 0
        while not over.is_set():
            with HttpHost(url, "modern") as host:
                try:
                    reply = host.call("new__echo", text="x").reply()
                except (EOFError, OSError, http.client.HTTPException):
                    continue
            assert "result" in reply or "error" in reply
            replies += 1
        return replies

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask) for _ in range(8)]
        time.sleep(0.3)
        took = end(serving_new)
        over.set()
        assert all(future.result(5) > 0 for future in asking)
    assert took <= BOUND


@pytest.mark.alone
def test_connections_that_do_nothing_and_hosts_that_read_nothing_delay_nothing(
    serving_old: Daemon, hosts: Hosts
) -> None:
    url = gateway_url(serving_old)
    idle = hosts(*(HttpHost(url) for _ in range(20)))
    kept = [host.listen() for host in idle]
    for stream in kept:
        assert stream.response.status == 200
    for host in idle:
        host.call("old__big", bytes=8_000_000)  # far more than a socket buffers, and nobody reads it
    wait_until("the calls are under way", lambda: serving_old.status("old")["pid"])
    time.sleep(0.5)
    took = end(serving_old)
    assert took <= BOUND
    serving_old.assert_nothing_left(0.2)


@pytest.mark.alone
def test_with_no_one_waiting_and_servers_that_go_it_ends_at_once(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil()}, mcp={"stop_eof_secs": 5.0, "stop_term_secs": 5.0})
    daemon.wait_all()
    with HttpHost(gateway_url(daemon)) as host:
        assert host.text("s__echo", message="x") == "x"
        stream = host.listen()
        assert stream.response.status == 200
        took = end(daemon)
        assert took < 1.5, took
        assert list(stream.messages()) == []
