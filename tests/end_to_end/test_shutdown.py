"""Ending within stop_eof + stop_term + 1 s whatever the number of servers, exit 0, nothing left; service manners."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import QUICK, Connection, Daemon, RpcError, wait_until

BOUND = float(QUICK["stop_eof_secs"]) + float(QUICK["stop_term_secs"]) + 1.0
STUBBORN = ("eof-ignoring", "ignterm")


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_thirty_servers_that_ignore_sigterm_end_within_the_promised_bound(daemon: Daemon, number: int) -> None:
    daemon.write({f"s{n}": daemon.evil(*STUBBORN) for n in range(30)})
    daemon.start().wait_all("ready", within=60)
    began = time.monotonic()
    daemon.signal(number)
    assert daemon.wait_exit(BOUND + 5) == 0
    took = time.monotonic() - began
    daemon.assert_nothing_left(0.2)
    assert took <= BOUND, f"{took:.2f} s"
    assert not daemon.socket.exists()


@pytest.mark.alone
def test_well_behaved_servers_do_not_make_it_wait(daemon: Daemon) -> None:
    daemon.write({f"s{n}": daemon.evil() for n in range(10)}, mcp={"stop_eof_secs": 5.0, "stop_term_secs": 5.0})
    daemon.start().wait_all("ready")
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 2.5


@pytest.mark.alone
def test_a_second_sigterm_ends_at_once(daemon: Daemon) -> None:
    servers = {f"s{n}": daemon.evil(*STUBBORN) for n in range(10)}
    daemon.write(servers, mcp={"stop_eof_secs": 20.0, "stop_term_secs": 20.0})
    daemon.start().wait_all("ready")
    daemon.signal(signal.SIGTERM)
    time.sleep(0.5)
    assert daemon.process is not None
    assert daemon.process.poll() is None
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    daemon.wait_exit(5)
    assert time.monotonic() - began <= 1.0
    daemon.assert_nothing_left(1.0)


def test_a_daemon_that_is_stopping_starts_nothing_more(daemon: Daemon) -> None:
    daemon.write({"old": daemon.evil(*STUBBORN)})
    daemon.start().wait_all("ready")
    with daemon.connect() as open_since_before:
        daemon.signal(signal.SIGTERM)
        wait_until("it is stopping", lambda: open_since_before.call("mcp.status", name="old")["state"] == "stopping")
        daemon.write({"old": daemon.evil(*STUBBORN), "new": daemon.evil(events="new")})
        daemon.signal(signal.SIGHUP)
        for method, params in (("daemon.reload", {}), ("mcp.add", {"name": "newer", **daemon.evil(events="new")})):
            with pytest.raises((RpcError, EOFError, OSError)):
                open_since_before.call(method, **params)
    assert daemon.wait_exit(BOUND + 5) == 0
    assert daemon.events("new") == []


def test_shutdown_by_request_and_by_command(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    daemon.start().wait_for("s", "ready")
    assert daemon.rpc("daemon.shutdown")["ok"] is True
    assert daemon.wait_exit(BOUND) == 0
    daemon.start().wait_for("s", "ready")
    assert daemon.cli("stop").returncode == 0
    assert daemon.wait_exit(BOUND) == 0
    assert daemon.cli("stop").returncode == 3
    assert not {"moltis.pid", "moltis.sock"} & {path.name for path in daemon.socket.parent.iterdir()}
    daemon.assert_nothing_left()


@pytest.mark.alone
def test_sigterm_at_any_moment_ends_cleanly(new_daemon: Callable[[], Daemon]) -> None:
    """While starting, in the handshake, in backoff, in a reload: twelve moments, drawn from a printed seed.

    Four daemons at a time: nearly all of it is waiting.
    """
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    chance = random.Random(seed)
    modes = [("slow-start=0.2",), ("hang-init",), ("exit-at-once=1",), ("grandchild=daemon",), STUBBORN, ()]

    def end_at(moment: float, reload: bool, daemon: Daemon) -> None:
        daemon.write({f"s{n}": daemon.evil(*m) for n, m in enumerate(modes)})
        daemon.start()
        time.sleep(moment)
        if reload:
            daemon.write({"other": daemon.evil()})
            daemon.signal(signal.SIGHUP)
        began = time.monotonic()
        assert daemon.stop(BOUND + 5) == 0
        assert time.monotonic() - began <= BOUND + 0.3
        daemon.assert_nothing_left(0.5)

    with ThreadPoolExecutor(4) as pool:
        tried = [pool.submit(end_at, chance.uniform(0, 0.8), chance.random() < 0.5, new_daemon()) for _ in range(12)]
    for one in tried:
        one.result()


def test_a_storm_of_sighup_and_strange_signals_changes_nothing(daemon: Daemon) -> None:
    daemon.write({f"s{n}": daemon.evil() for n in range(5)})
    before = daemon.start().wait_all("ready")
    for _ in range(100):
        daemon.signal(signal.SIGHUP)
    for number in (signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGWINCH):
        daemon.signal(number)
    time.sleep(0.5)
    after = daemon.wait_all("ready")
    assert {n: s["pid"] for n, s in after.items()} == {n: s["pid"] for n, s in before.items()}
    assert daemon.stop() == 0


@pytest.fixture
def manager(folder: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(folder / "notify"))
        s.settimeout(0.05)
        yield s


def heard(manager: socket.socket) -> list[str]:
    lines: list[str] = []
    while True:
        try:
            lines += manager.recv(65536).decode().splitlines()
        except TimeoutError:
            return lines


def test_the_service_manager_is_told(daemon: Daemon, manager: socket.socket) -> None:
    daemon.env |= {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "400000"}
    daemon.write({"s": daemon.evil("slow-start=0.3")})
    daemon.start().wait_for("s", "ready")
    lines: list[str] = []

    def has(*wanted: str) -> bool:
        lines.extend(heard(manager))
        return all(any(line.startswith(w) for line in lines) for w in wanted)

    wait_until("READY and STATUS", lambda: has("READY=1", "STATUS="), tell=lambda: lines)
    assert lines.count("READY=1") == 1
    has()
    lines.clear()
    began = time.monotonic()
    wait_until("WATCHDOG", lambda: has("WATCHDOG=1") and lines.count("WATCHDOG=1") >= 3, tell=lambda: lines)
    assert lines.count("WATCHDOG=1") <= 2 + 10 * (time.monotonic() - began), "half of WATCHDOG_USEC lies between them"
    lines.clear()
    daemon.signal(signal.SIGHUP)
    wait_until("RELOADING", lambda: has("RELOADING=1", "MONOTONIC_USEC=", "READY=1"), tell=lambda: lines)
    assert lines.index("RELOADING=1") < lines.index("READY=1")
    lines.clear()
    assert daemon.stop() == 0
    wait_until("STOPPING", lambda: has("STOPPING=1"), tell=lambda: lines)


def test_servers_are_not_given_the_service_managers_socket(daemon: Daemon, manager: socket.socket) -> None:
    daemon.env |= {"NOTIFY_SOCKET": manager.getsockname()}
    daemon.write({"s": daemon.evil()})
    daemon.start().wait_for("s", "ready")
    assert "NOTIFY_SOCKET" not in daemon.text("s", "dump")


def test_a_second_daemon_is_refused_and_names_the_first(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    pid = daemon.start().wait_for("s", "ready")["pid"]
    second = daemon.spawn()
    assert second.wait(10) == 1
    assert str(daemon.pid) in daemon.said()
    assert "Traceback" not in daemon.said()
    assert daemon.status("s")["pid"] == pid


def test_a_stale_socket_is_taken_over(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil("eof-ignoring")})
    daemon.start().wait_for("s", "ready")
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    assert daemon.socket.exists()
    status = daemon.start().wait_for("s", "ready")
    daemon.assert_nothing_left(but=[status["pid"]])


def test_a_deleted_socket_is_bound_again(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    daemon.start().wait_for("s", "ready")
    with daemon.connect() as old:
        daemon.socket.unlink()

        def answered() -> bool:
            try:
                with Connection(daemon.socket) as fresh:
                    return bool(fresh.call("mcp.status", name="s"))
            except OSError:
                return False

        wait_until("a new client is answered", answered, every=0.1)
        assert old.call("mcp.status", name="s")["state"] == "ready"
    assert daemon.socket.stat().st_mode & 0o777 == 0o600


def test_the_folders_and_files_are_private(daemon: Daemon) -> None:
    daemon.write({"s": daemon.evil()})
    daemon.start().wait_for("s", "ready")
    assert daemon.data_dir.stat().st_mode & 0o777 == 0o700
    assert daemon.socket.parent.stat().st_mode & 0o777 == 0o700
    assert daemon.socket.stat().st_mode & 0o777 == 0o600
    assert daemon.log.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["[mcp.servers.a\ncommand = 1", "\x00", "a" * 2 + " = [" * 5000])
def test_a_file_that_is_not_toml_stops_the_start_with_one_line_that_says_where(daemon: Daemon, text: str) -> None:
    daemon.rewrite(text)
    assert daemon.spawn().wait(10) == 6
    assert f"{daemon.config}:" in daemon.said()
    assert "Traceback" not in daemon.said()
    assert len(daemon.said().strip().splitlines()) <= 3
