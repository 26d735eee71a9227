"""A remote server goes and comes: the next call works, once, and nothing is sent again that may have run."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from harness import Daemon, RpcError, a_daemon, wait_until
from ports import free_port
from remote_harness import Place, Program, place_in, remote

NOT_READY = -32005
MODERN = "2026-07-28"
SLOW_START = {"restart_backoff_secs": 0.2, "restart_backoff_max_secs": 0.5, "max_restart_attempts": 1000}


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with place_in(folder) as place:
        yield place


@pytest.fixture(scope="module")
def house() -> Iterator[Daemon]:
    """The daemon of those tests that need none for themselves; each has a server of its own, by `join`."""
    with a_daemon() as daemon:
        daemon.write({})
        yield daemon.start()


@pytest.fixture
def join(house: Daemon, place: Place) -> Iterator[Callable[..., str]]:
    """Add a server to the house, with these keys, and give its name once it is ready. The test's end removes it."""
    names: list[str] = []

    def add(server: Program, until: str = "ready", **keys: object) -> str:
        names.append(f"s-{uuid.uuid4().hex}")
        house.rpc("mcp.add", name=names[-1], **remote(server.url, **keys))
        house.wait_for(names[-1], until)
        return names[-1]

    yield add
    for name in names:
        house.rpc("mcp.remove", name=name)


def since(daemon: Daemon, server: str) -> tuple[int, int]:
    """Give what a disturbance would change in another server's status."""
    status = daemon.status(server)
    return status["restarts"], status["attempts"]


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_after_an_upstream_has_restarted_the_next_call_works_once(daemon: Daemon, place: Place, protocol: str) -> None:
    server, other = place.http_server(), place.evil()
    daemon.write({"s": remote(server.url, protocol=protocol), "other": remote(other.url)})
    daemon.start().wait_all()
    assert daemon.text("s", "count") == "1"
    server.restart()
    assert daemon.text("s", "count") == "1", "a new process counts from 1"
    assert len(server.events("ran", tool="count")) == 2
    assert daemon.status("s")["state"] == "ready"
    assert since(daemon, "s") == since(daemon, "other") == (0, 0)


@pytest.mark.parametrize("said", ["401:Session not found", "401", "200:Session not found", "409:Invalid session ID"])
def test_a_lost_session_costs_no_call_and_no_login_whatever_word_says_it(
    house: Daemon, place: Place, join: Callable[..., str], said: str
) -> None:
    server = place.evil("legacy", "forget=3", f"lost={said}", "get=401")
    s = join(server)
    assert [house.text(s, "count") for _ in range(8)] == [str(n) for n in range(1, 9)]
    assert len(server.events("ran", tool="count")) == 8
    status = house.status(s)
    assert (status["state"], since(house, s)) == ("ready", (0, 0))
    assert len(server.events("request", mcp="initialize")) == 3


@pytest.mark.parametrize("register", ["", "502"])
def test_a_server_that_needed_no_login_and_does_not_say_how_is_tried_again_by_itself(
    house: Daemon, place: Place, join: Callable[..., str], register: str
) -> None:
    lock = place.folder / "lock"
    server = place.evil("legacy", f"locked={lock}")
    s = join(server, restart_backoff_secs=0.05, restart_cooldown_secs=0.1, restart_cooldown_max_secs=0.4)
    assert house.text(s, "count") == "1"
    lock.write_text(register)
    with pytest.raises(RpcError, match="a person must log in"):
        house.call(s, "count")
    asked = len(server.events("request", method="POST", target="/mcp"))
    wait_until("more tries", lambda: len(server.events("request", method="POST", target="/mcp")) >= asked + 3)
    waiting = house.wait_for(s, "backoff")
    assert (waiting["attempts"], waiting["last_error"]["kind"]) == (0, "locked_out")
    assert waiting["last_error"]["message"].startswith("it needed no login before, and now ")
    assert waiting["next_retry_at"]
    if not register:
        registrations = len(server.events("request", target="/register"))
        assert registrations == 1, "what nobody offers is asked for once"
    lock.unlink()
    ready = house.wait_for(s, "ready")
    assert (ready["auth_state"], ready["attempts"]) == ("not_required", 0)
    assert house.text(s, "count") == "2"


def test_a_server_that_has_never_served_a_request_without_a_login_waits_for_a_person(
    house: Daemon, place: Place, join: Callable[..., str]
) -> None:
    lock = place.folder / "lock"
    lock.touch()
    server = place.evil("legacy", f"locked={lock}")
    s = join(server, until="awaiting_auth", restart_backoff_secs=0.05)
    wait_until("it has been looked for", lambda: house.status(s)["auth_state"] == "failed")
    time.sleep(0.5)
    assert house.status(s)["state"] == "awaiting_auth"
    assert len(server.events("request", target="/register")) == 1


@pytest.mark.parametrize("ping", [(), ("ping=400",)])
@pytest.mark.parametrize("status", [400, 422])
def test_a_session_that_is_lost_without_a_word_costs_one_call_and_no_restart(
    house: Daemon, place: Place, join: Callable[..., str], status: int, ping: tuple[str, ...]
) -> None:
    server = place.evil("legacy", "forget=2", f"lost={status}", *ping)
    s = join(server, heartbeat_interval_secs=60.0)
    for lost in (1, 2):
        assert house.text(s, "count") == str(2 * lost - 1)
        assert house.text(s, "count") == str(2 * lost)
        with pytest.raises(RpcError, match=f"HTTP {status}"):
            house.call(s, "count")
        begun = 1 + lost
        wait_until("another", lambda n=begun: len(server.events("request", mcp="initialize")) == n)
    assert house.text(s, "count") == "5"
    assert len(server.events("ran", tool="count")) == 5
    status_ = house.status(s)
    assert (status_["state"], since(house, s)) == ("ready", (0, 0))


def test_a_server_that_refuses_one_call_without_a_word_keeps_its_session(
    house: Daemon, place: Place, join: Callable[..., str]
) -> None:
    server = place.evil("legacy", "ping=400")
    s = join(server)
    for _ in range(3):
        with pytest.raises(RpcError, match="HTTP 400"):
            house.call(s, "refuse", status=400)
    assert house.text(s, "count") == "1"
    assert len(server.events("request", mcp="initialize")) == 1


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize("message", ["browser session expired", "Session not found"])
def test_a_call_that_ran_is_not_run_again_for_words_about_a_session(
    house: Daemon, place: Place, join: Callable[..., str], status: int, message: str
) -> None:
    server = place.evil("legacy")
    s = join(server)
    with pytest.raises(RpcError):
        house.call(s, "expired", status=status, message=message)
    assert house.text(s, "count") == "1"
    assert len(server.events("ran", tool="expired")) == 1
    assert len(server.events("request", mcp="initialize")) == 1


def test_an_answer_that_is_cut_fails_its_call_at_once_and_is_logged_once(daemon: Daemon, place: Place) -> None:
    server = place.evil("legacy")
    daemon.write({"s": remote(server.url)})
    daemon.start().wait_all()
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(RpcError, match="something that is not JSON"):
            daemon.call("s", "cut")
        assert time.monotonic() - began < 10  # request_timeout_secs is 30
    assert len(server.events("ran", tool="cut")) == 3
    assert daemon.log_text().count("answer_is_not_json") == 1


@pytest.mark.alone
def test_a_call_to_an_upstream_that_is_away_fails_at_once_and_the_next_works(daemon: Daemon, place: Place) -> None:
    server = place.http_server()
    beat = {"heartbeat_interval_secs": 60.0, "heartbeat_timeout_secs": 10.0}
    daemon.write({"s": remote(server.url)}, mcp=beat)
    daemon.start().wait_for("s", "ready")
    server.kill()
    began = time.monotonic()
    with pytest.raises(RpcError) as refused:
        daemon.call("s", "count")
    assert time.monotonic() - began < 2
    assert refused.value.code == NOT_READY
    assert daemon.status("s")["state"] == "ready", "one failed POST does not condemn a server"
    server.start()
    assert daemon.text("s", "count") == "1"
    assert since(daemon, "s") == (0, 0)


def test_an_upstream_that_stays_away_is_noticed_by_the_heartbeat_and_found_again(daemon: Daemon, place: Place) -> None:
    server, other = place.http_server(), place.evil()
    beat = {"heartbeat_interval_secs": 0.2, "heartbeat_timeout_secs": 2.0, "heartbeat_max_missed": 3}
    daemon.write({"s": remote(server.url), "other": remote(other.url)}, mcp={**SLOW_START, **beat})
    daemon.start().wait_all()
    server.kill()
    daemon.wait_for("s", "backoff", "starting")
    server.start()
    daemon.wait_for("s", "ready")
    assert daemon.text("s", "echo", message="x") == "x"
    assert since(daemon, "other") == (0, 0)


@pytest.mark.parametrize("forget", [1, 3])
def test_a_forgotten_session_is_begun_anew_and_the_call_runs_once(
    house: Daemon, place: Place, join: Callable[..., str], forget: int
) -> None:
    server = place.evil("legacy", f"forget={forget}")
    s = join(server)
    assert [house.text(s, "count") for _ in range(7)] == list("1234567")
    assert len(server.events("request", mcp="initialize")) == 1 + 6 // forget
    assert since(house, s) == (0, 0)


def test_calls_that_find_the_session_gone_together_begin_one_new_one(
    house: Daemon, place: Place, join: Callable[..., str]
) -> None:
    server = place.http_server()
    s = join(server, protocol="legacy")
    server.restart()
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(house.text(s, "count"))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(int, results)) == list(range(1, 11))
    refused = server.events("request", method="POST", status=404)
    begun = [e for e in server.events("request", method="POST") if "mcp-protocol-version" not in e]
    assert 1 <= len(refused) <= 10
    assert len(begun) == 2, "one initialize before the restart and one after"


def test_a_port_that_opens_late_is_found(daemon: Daemon, place: Place) -> None:
    port, other = free_port(), place.evil()
    daemon.write({"s": remote(f"http://127.0.0.1:{port}/mcp"), "other": remote(other.url)}, mcp=SLOW_START)
    daemon.start().wait_for("other", "ready")
    status = daemon.wait_for("s", "backoff")
    assert "refused" in status["last_error"]["message"]
    server = place.evil(port=port)
    assert daemon.wait_for("s", "ready")["protocol_version"] == MODERN, "nobody was there to know an older one only"
    assert daemon.text("s", "echo", message="x") == "x"
    assert len(server.events("ran")) == 1
    assert since(daemon, "other") == (0, 0)


def test_streams_dropped_every_two_seconds_lose_no_answer_and_double_none(
    house: Daemon, place: Place, join: Callable[..., str]
) -> None:
    server = place.evil("legacy", "drop=2")
    s = join(server)
    began = time.monotonic()
    assert house.text(s, "later", secs=5, message="it came") == "it came"
    assert time.monotonic() - began >= 5
    assert house.text(s, "count") == "1"
    assert [e["tool"] for e in server.events("ran")] == ["later", "count"]
    opened = [e["at"] for e in server.events("request", method="GET")]
    spent = time.monotonic() - began
    assert 2 < len(opened) <= 2 * spent + 4, "at most one attempt a second, for each of the two streams"
    assert since(house, s) == (0, 0)


def test_an_older_server_whose_stream_ends_is_connected_to_again(daemon: Daemon, place: Place) -> None:
    server = place.evil("old-sse", "drop=2")
    daemon.write({"s": {"url": server.url, "transport": "sse"}}, mcp=SLOW_START)
    daemon.start().wait_for("s", "ready")
    daemon.wait_for("s", "backoff", "starting")
    daemon.wait_for("s", "ready")
    assert daemon.text("s", "echo", message="x") == "x"


@pytest.mark.alone
@pytest.mark.parametrize("after", ["1", "date"])
def test_a_call_that_was_refused_for_now_is_sent_again_when_the_server_says(
    house: Daemon, place: Place, join: Callable[..., str], after: str
) -> None:
    server = place.evil()
    s = join(server)
    began = time.time()
    # A date has whole seconds: this one is between 1 and 2 s away.
    value = format_datetime(datetime.fromtimestamp(int(began) + 2, UTC), usegmt=True) if after == "date" else after
    assert house.text(s, "busy", status=429, retry_after=value, message="at last") == "at last"
    assert 0.9 <= time.time() - began < 4
    calls = server.events("request", mcp="tools/call")
    assert len(calls) == 2
    assert len(server.events("ran", tool="busy")) == 1
    assert since(house, s) == (0, 0)


def test_a_call_that_may_have_run_is_not_sent_again(house: Daemon, place: Place, join: Callable[..., str]) -> None:
    server = place.evil()
    s = join(server)
    for tool, arguments in {
        "busy": {"status": 503, "retry_after": "1"},
        "refuse": {"status": 500},
        "reset": {},
        "truncate": {},
    }.items():
        with pytest.raises(RpcError) as failed:
            house.call(s, tool, **arguments)
        assert failed.value.code == NOT_READY, tool
        assert failed.value.data["server"] == s
        called = [e for e in server.events("request", mcp="tools/call") if e["headers"].get("Mcp-Name") == tool]
        assert len(called) <= 1, tool
        wait_until("the next call works", lambda: house.text(s, "echo", message="x") == "x")
    assert len(server.events("request", mcp="tools/call")) == 4 + len(server.events("ran", tool="echo"))
    assert since(house, s) == (0, 0)


@pytest.mark.parametrize(("status", "after", "least"), [
    (503, "2", 1.9),
    (429, "2", 1.9),
    (503, "", 0),
    (503, "-5", 0),
    (503, "soon", 0),
])  # fmt: skip
def test_a_server_that_asks_to_be_left_alone_is_started_when_it_says(
    house: Daemon, place: Place, join: Callable[..., str], status: int, after: str, least: float
) -> None:
    server = place.evil(f"busy={status}:{after}:1")
    s = join(server, **SLOW_START)
    assert house.status(s)["protocol_version"] == MODERN
    first, second = [e["at"] for e in server.events("request")][:2]
    assert least <= second - first < 20, "what was misread would be minutes"


def test_no_server_is_left_alone_for_longer_than_an_hour(house: Daemon, place: Place, join: Callable[..., str]) -> None:
    server = place.evil("busy=503:1000000000:1000")
    s = join(server, "backoff", **SLOW_START, restart_cooldown_max_secs=3600.0)
    status = house.status(s)
    assert len(server.events("request")) == 1
    ahead = datetime.fromisoformat(status["next_retry_at"]) - datetime.now(UTC)
    assert 3500 < ahead.total_seconds() <= 3601
