"""What a remote server sends without end, or sends elsewhere, costs the daemon little and the other servers nothing."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Daemon, RpcError, wait_until
from processes import resident_bytes
from remote_harness import Browser, Place, place_in, remote

MIB = 1 << 20
FLOODS = ("endless_json", "gzip_bomb", "endless_line", "endless_events", "endless_headers")


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with place_in(folder) as place:
        yield place


class Resident:
    """The most a daemon has held while this was open."""

    def __init__(self, daemon: Daemon) -> None:
        self._pids = daemon.own_pids()
        self.before = self.most = resident_bytes(self._pids)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Resident:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, resident_bytes(self._pids))

    @property
    def growth(self) -> int:
        return self.most - self.before


def call_times(daemon: Daemon, server: str, secs: float) -> list[float]:
    """Call a server for so long, one call after another, and give how long each took."""
    times = []
    with daemon.connect() as client:
        end = time.monotonic() + secs
        while time.monotonic() < end:
            began = time.monotonic()
            client.call("mcp.call", server=server, tool="echo", arguments={"message": "x"})
            times.append(time.monotonic() - began)
            time.sleep(0.01)
    return times


@pytest.mark.parametrize("mode", [pytest.param("modern", marks=pytest.mark.alone), "legacy"])
@pytest.mark.parametrize("flood", FLOODS)
def test_an_answer_without_end_fails_its_call_and_grows_nothing(
    daemon: Daemon, place: Place, flood: str, mode: str
) -> None:
    evil, other = place.evil(mode), place.evil()
    daemon.write({"s": remote(evil.url, request_timeout_secs=2.0), "other": remote(other.url)})
    daemon.start().wait_all()
    assert daemon.text("s", "echo", message="x") == "x"
    with Resident(daemon) as held:
        errors: list[RpcError] = []

        def call() -> None:
            try:
                daemon.call("s", flood)
            except RpcError as error:
                errors.append(error)

        caller = threading.Thread(target=call)
        began = time.monotonic()
        caller.start()
        times = call_times(daemon, "other", 1.5)
        caller.join(20)
    print(f"\n{flood}: {time.monotonic() - began:.1f} s, grew {held.growth / MIB:.0f} MiB")
    assert [e.data["server"] for e in errors] == ["s"]
    assert held.growth < 48 * MIB
    if mode == "modern":  # the machine does nothing else
        assert max(times) < 0.5
    if flood != "gzip_bomb":  # which fits the buffers on the way
        wait_until("the flood is hung up on", lambda: evil.events("hung up", tool=flood))
    assert daemon.text("s", "echo", message="x") == "x"
    assert {status["restarts"] for status in daemon.rpc("mcp.list")} == {0}


@pytest.mark.alone
def test_a_body_that_drips_is_given_up_at_the_deadline_of_the_call(daemon: Daemon, place: Place) -> None:
    evil = place.evil()
    daemon.write({"s": remote(evil.url, request_timeout_secs=1.0)})
    daemon.start().wait_for("s", "ready")
    began = time.monotonic()
    with pytest.raises(RpcError) as late:
        daemon.call("s", "drip", secs=30)
    assert late.value.code == -32006
    assert time.monotonic() - began < 2.5
    assert daemon.text("s", "echo", message="x") == "x"


def test_a_page_instead_of_an_answer_fails_the_call_and_is_shown_nowhere(daemon: Daemon, place: Place) -> None:
    evil, portal = place.evil(), place.evil("login-page")
    daemon.write({"s": remote(evil.url), "portal": remote(portal.url)})
    daemon.start().wait_for("s", "ready")
    with pytest.raises(RpcError) as failed:
        daemon.call("s", "html")
    assert "content-type" in failed.value.message.lower()
    assert daemon.wait_for("portal", "backoff")["last_error"]["message"]
    assert daemon.stop() == 0
    for text in (str(failed.value), daemon.log_text(), daemon.said()):
        assert "sk-page-secret" not in text


def test_redirects_off_the_origin_are_not_followed(daemon: Daemon, place: Place) -> None:
    elsewhere = place.evil()
    targets = (f"http://127.0.0.1:{elsewhere.port}/mcp", "file:///etc/passwd", "http://169.254.169.254/")
    ways = [f"redirect={status}:{to}" for status in (301, 302, 303, 307, 308) for to in targets]
    headers = {"Authorization": "Bearer sk-mine"}
    daemon.write({f"s{n}": remote(place.evil(way).url, headers=headers) for n, way in enumerate(ways)})
    daemon.start()
    for n, way in enumerate(ways):
        shown = daemon.wait_for(f"s{n}", "backoff", "cooldown")["last_error"]["message"]
        assert "redirect" in shown, way
        assert "sk-mine" not in shown, way
    assert elsewhere.events("request") == []


@pytest.mark.alone
def test_waiting_for_a_login_or_for_a_dead_authorization_server_disturbs_nobody(
    new_daemon: Callable[[], Daemon], place: Place
) -> None:
    """Two daemons with the same two servers, of which one has logins under way besides, are called in turns."""
    beside, alone = new_daemon(), new_daemon()
    beat = {"heartbeat_interval_secs": 0.2, "heartbeat_timeout_secs": 1.0}
    browser = Browser(beside.folder, "--only-record")
    for daemon in (beside, alone):
        quiet = {name: remote(place.http_server().url) for name in ("calm", "busy")}
        daemon.write(quiet, mcp=beat, daemon={"browser_command": browser.argv})
        daemon.start().wait_all()
        if daemon is beside:
            hostile = place.hostile("honest", "issuer-dead")
            waiting = {mode: remote(said["url"]) for mode, said in hostile.said.items()}
            daemon.write({**quiet, **waiting}, mcp=beat, daemon={"browser_command": browser.argv})
            daemon.rpc("daemon.reload")
    wait_until("one waits for a person", lambda: beside.status("honest")["auth_url"])
    wait_until("one has nobody to ask", lambda: beside.status("issuer-dead")["auth_state"] == "failed")
    slow = threading.Thread(target=lambda: beside.call("busy", "slow", secs=3.5))
    slow.start()
    among, without = in_turns([beside, alone], "calm", 2.5)
    assert slow.is_alive(), "the slow call was to be under way all the time"
    slow.join()
    after, before = (statistics.median(times) * 1e3 for times in (among, without))
    print(f"\na call: {before:.2f} ms alone, {after:.2f} ms beside the others, {after / before:.2f} times as long")
    assert after / before < 1.5
    assert max(among) < 1.0  # whoever waited for a login or for the slow call would wait longer
    beats: set[str] = set()
    wait_until("its heartbeats go on", lambda: beats.add(beside.status("calm")["last_heartbeat_at"]) or len(beats) > 3)
    states = beside.states()
    assert (states["calm"], states["busy"], states["honest"]) == ("ready", "ready", "awaiting_auth")
    assert {beside.status(name)["restarts"] for name in quiet} == {0}
    assert len(browser.opened()) == 1


def in_turns(daemons: list[Daemon], server: str, secs: float) -> list[list[float]]:
    """Call a server of each daemon in turns for so long, so that what else the machine does delays all alike.

    Return for each daemon how long its calls took.
    """
    times: list[list[float]] = [[] for _ in daemons]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.connect()) for daemon in daemons]
        end = time.monotonic() + secs
        while time.monotonic() < end:
            for client, taken in zip(clients, times, strict=True):
                began = time.monotonic()
                client.call("mcp.call", server=server, tool="echo", arguments={"message": "x"})
                taken.append(time.monotonic() - began)
                time.sleep(0.005)
    return times
