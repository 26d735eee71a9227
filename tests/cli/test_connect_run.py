"""`moltis connect --run` starts the daemon where none runs: real processes, each ended by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_shell import Shell

from moltis import private
from moltis.cli.connect import pump, starter
from moltis.cli.connect.door import NotNow
from moltis.cli.connect.pump import Pump
from moltis.cli.connect.start import Outcome, Start
from moltis.paths import Paths, find_paths

pytestmark = pytest.mark.e2e

SECS = 60.0
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
INITIALIZE = {
    "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "h", "version": "1"},
}  # fmt: skip


SLOW_TO_START = """
import json, sys, time
time.sleep(1.5)
for line in sys.stdin:
    ask = json.loads(line)
    who = {"name": "x", "version": "1"}
    found = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": who}
    if ask["method"] == "tools/list":
        found = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
    if "id" in ask:
        print(json.dumps({"jsonrpc": "2.0", "id": ask["id"], "result": found}), flush=True)
"""


class Host:
    """A host, with `moltis connect --run` for its server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self._buffer = b""

    def say(self, **message: Any) -> None:
        self.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def answer(self, id: int) -> Any:
        """Return the reply to a request; all that comes before it are notifications."""
        while True:
            while b"\n" not in self._buffer:
                assert select.select([self.stdout], [], [], SECS)[0], "it does not say anything"
                data = os.read(self.stdout.fileno(), 1 << 20)
                assert data, "it ended"
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\n")
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == id:
                return message

    def ask(self, id: int, method: str, **params: Any) -> Any:
        self.say(id=id, method=method, params=params)
        return self.answer(id)

    def initialize(self) -> Any:
        found = self.ask(0, "initialize", **INITIALIZE)["result"]
        self.say(method="notifications/initialized")
        return found

    def leave(self) -> tuple[int, str]:
        """Close stdin, and return the exit code and what was said to a person."""
        self.stdin.close()
        code = self.process.wait(SECS)
        return code, self.stderr.read().decode()


class House:
    """A home in which daemons are started, and ended by pid when the test is over."""

    def __init__(self, shell: Shell, stack: contextlib.ExitStack) -> None:
        self.shell = shell
        self._stack = stack
        self.configure()

    def configure(self, text: str = "") -> None:
        self.shell.config.write_text(f'[gateway]\nlisten = "127.0.0.1:0"\n{text}', encoding="utf-8")

    def connect(self, *words: str, run: bool = True, environ: dict[str, str] | None = None) -> Host:
        process = subprocess.Popen(
            self.shell.command("connect", *(["--run"] if run else []), *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ or self.shell.environ,
            cwd=self.shell.home,
            bufsize=0,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return Host(process)

    def pid(self, socket_path: Path | None = None) -> int | None:
        """Return the pid of the daemon that answers."""
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(SECS)
            try:
                one.connect(str(socket_path or self.shell.socket))
                one.sendall(b'{"jsonrpc":"2.0","id":1,"method":"daemon.status"}\n')
                said = b""
                while not said.endswith(b"\n"):
                    data = one.recv(1 << 16)
                    if not data:
                        return None
                    said += data
            except OSError:
                return None
        return int(json.loads(said)["result"]["pid"])

    def daemon(self, socket_path: Path | None = None) -> int:
        pid = wait_for("a daemon answers", lambda: self.pid(socket_path))
        return int(pid)

    def end(self) -> None:
        for path in (self.shell.socket, self.shell.home / ".moltis" / "run" / "moltis.sock"):
            pid = self.pid(path)
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
                wait_for("it is gone", lambda pid=pid: not lives(pid))  # type: ignore[misc]


@pytest.fixture
def house(shell: Shell) -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        one = House(shell, stack)
        stack.callback(one.end)
        yield one


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECS
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# --- it is started


@LINUX
def test_a_host_that_finds_no_daemon_gets_one_that_is_nobodys_child(house: House) -> None:
    host = house.connect()
    assert host.initialize()["serverInfo"]["name"] == "moltis"
    assert host.ask(1, "tools/list")["result"]["tools"] == []
    pid = house.daemon()
    assert parent_of(pid) not in (host.process.pid, os.getpid())
    assert os.getsid(pid) == pid
    for fd in range(3):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") in ("/dev/null", str(house.shell.data_dir / "run" / "moltis.err"))
    assert os.readlink(f"/proc/{pid}/cwd") == str(house.shell.home)
    assert stat.S_IMODE((house.shell.data_dir / "run" / "moltis.err").stat().st_mode) == 0o600
    assert (house.shell.data_dir / "logs.jsonl").exists()
    code, words = host.leave()
    assert code == 0, words
    assert "could not" not in words
    assert lives(pid)
    assert house.pid() == pid


@LINUX
def test_the_daemon_outlives_a_host_that_kills_all_that_it_started(house: House) -> None:
    host = house.connect()
    host.initialize()
    pid = house.daemon()
    os.kill(host.process.pid, signal.SIGKILL)
    host.process.wait(SECS)
    again = house.connect()
    again.initialize()
    assert house.pid() == pid


def test_a_daemon_that_runs_already_is_used(house: House) -> None:
    first = house.connect()
    first.initialize()
    pid = house.daemon()
    second = house.connect()
    second.initialize()
    assert house.pid() == pid
    assert not (house.shell.data_dir / "run" / "moltis.err").read_bytes()


@LINUX
def test_many_hosts_at_once_start_one_daemon(house: House) -> None:
    hosts = [house.connect() for _ in range(5)]
    for host in hosts:
        assert host.initialize()["serverInfo"]["name"] == "moltis"
    pid = house.daemon()
    found = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if (words := command_of(folder)) and words[-1] == "run" and str(house.shell.data_dir) in words
    ]
    assert found == [pid]


def command_of(folder: Path) -> list[str]:
    try:
        return [os.fsdecode(word) for word in (folder / "cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []


def test_it_is_the_daemon_of_the_places_that_connect_was_given(house: House, tmp_path: Path) -> None:
    other = house.shell.home / "o"
    config = house.shell.home / "other.toml"
    config.write_text('[gateway]\nlisten = "127.0.0.1:0"\n', encoding="utf-8")
    # Relative: the daemon is started in another folder.
    host = house.connect("--data-dir", "o", "--config", "other.toml")
    host.initialize()
    path = other / "run" / "moltis.sock"
    pid = house.daemon(path)
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))
        one.sendall(b'{"jsonrpc":"2.0","id":1,"method":"daemon.status"}\n')
        status = json.loads(one.recv(1 << 16))["result"]
    assert status["config_path"] == str(config)
    assert status["data_dir"] == str(other)
    os.kill(pid, signal.SIGTERM)
    wait_for("it is gone", lambda: not lives(pid))


def test_the_first_list_of_all_has_the_tools_of_a_server_that_starts_slowly(house: House) -> None:
    entry = f'[mcp.servers.slow]\ncommand = "{sys.executable}"\nargs = ["-c", {json.dumps(SLOW_TO_START)}]\n'
    house.configure(f"[mcp]\nfirst_list_secs = 30\n{entry}")
    host = house.connect()
    host.initialize()
    assert [each["name"] for each in host.ask(1, "tools/list")["result"]["tools"]] == ["slow__t"]


@LINUX
def test_what_makes_a_host_a_service_is_not_handed_down(house: House) -> None:
    environ = {**house.shell.environ, "NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "KEPT": "yes"}
    house.connect(environ=environ).initialize()
    names = {one.partition(b"=")[0] for one in Path(f"/proc/{house.daemon()}/environ").read_bytes().split(b"\0")}
    assert b"KEPT" in names
    assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC"}


def test_without_run_nothing_is_started(house: House) -> None:
    host = house.connect(run=False)
    assert host.initialize()["serverInfo"]["name"] == "moltis"  # by what was last known
    assert not house.shell.data_dir.exists()


# --- it cannot be started


def test_why_it_cannot_be_started_is_told_in_words_with_the_remedy(house: House) -> None:
    house.shell.config.write_text("[gateway\n", encoding="utf-8")
    host = house.connect()
    instructions = host.initialize()["instructions"]
    assert "could not be started" in instructions
    assert str(house.shell.config) in instructions
    assert "What a person can do: moltis config check" in instructions
    refused = host.ask(1, "tools/call", name="a__b")["result"]
    assert refused["isError"] is True
    assert "could not be started" in refused["content"][0]["text"]
    assert "moltis config check" in refused["content"][0]["text"]
    assert refused["_meta"]["moltis/error"]["hint"] == "moltis config check"
    # Once it is mended, who asks next gets a daemon; until a while has passed it is not tried again.
    house.configure()
    id = 2
    while "error" in host.ask(id, "resources/read", uri="a:b") and house.pid() is None:
        time.sleep(0.1)
        id += 1
    assert house.daemon()
    assert host.ask(id + 1, "tools/list")["result"]["tools"] == []


def test_a_daemon_that_somebody_starts_after_all_is_found(house: House) -> None:
    house.shell.config.write_text("[gateway\n", encoding="utf-8")
    host = house.connect()
    assert "could not be started" in host.initialize()["instructions"]
    house.configure()
    house.connect().initialize()
    assert host.ask(1, "tools/list")["result"]["tools"] == []
    assert "error" in host.ask(2, "resources/read", uri="a:b")


def test_what_is_said_of_it_when_the_host_is_done(house: House) -> None:
    house.shell.config.write_text("[gateway\n", encoding="utf-8")
    host = house.connect()
    host.initialize()
    code, words = host.leave()
    assert code == 3
    assert "could not be started" in words
    assert "hint: moltis config check" in words


def test_a_folder_that_cannot_be_written_is_such_a_reason(house: House) -> None:
    nowhere = "/proc/moltis"  # where root may not write either
    assert nowhere in house.connect("--data-dir", nowhere).initialize()["instructions"]


def test_a_data_dir_that_is_a_file_is_such_a_reason(house: House) -> None:
    house.shell.data_dir.write_text("", encoding="utf-8")
    instructions = house.connect().initialize()["instructions"]
    assert str(house.shell.data_dir) in instructions
    house.shell.data_dir.unlink()


# --- it ends


def test_a_daemon_that_died_is_started_again_and_one_that_was_stopped_is_not(house: House) -> None:
    host = house.connect()
    host.initialize()
    first = house.daemon()
    os.kill(first, signal.SIGKILL)
    wait_for("it is gone", lambda: not lives(first))
    assert host.ask(1, "tools/list")["result"]["tools"] == []
    second = house.daemon()
    assert second != first
    os.kill(second, signal.SIGTERM)
    wait_for("it is gone", lambda: not lives(second))
    host.ask(2, "tools/list")  # from what was last known
    assert house.pid() is None
    later = house.connect()  # and whoever comes later wants one
    later.initialize()
    assert house.daemon() not in (first, second)


def test_one_that_is_on_its_way_out_is_waited_for(house: House) -> None:
    slow = Path(__file__).with_name("slow_to_end.py")
    entry = f'[mcp]\nstop_eof_secs = 1\nstop_term_secs = 1\n[mcp.servers.slow]\ncommand = "{sys.executable}"\n'
    house.configure(f'{entry}args = ["{slow}"]\n')
    first = house.connect()
    first.initialize()
    pid = house.daemon()
    wait_for("its server has been started", lambda: "slow" in house.shell.moltis("status").stdout)
    os.kill(pid, signal.SIGTERM)
    second = house.connect()
    assert second.initialize()["serverInfo"]["name"] == "moltis"
    assert house.daemon() != pid


# --- a service manager


@pytest.fixture
def at_home(house: House) -> dict[str, str]:
    """The environment of somebody who named no places, and of a `systemctl` that writes down what it is told."""
    programs = house.shell.home / "bin"
    programs.mkdir()
    environ = {name: value for name, value in house.shell.environ.items() if not name.startswith("MOLTIS")}
    folder = house.shell.home / ".config" / "moltis"
    folder.mkdir(parents=True)
    (folder / "moltis.toml").write_text('[gateway]\nlisten = "127.0.0.1:0"\n', encoding="utf-8")
    return {**environ, "PATH": f"{programs}:{environ['PATH']}"}


def systemctl(house: House, *, enabled: bool, starts: str) -> None:
    program = house.shell.home / "bin" / "systemctl"
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{house.shell.home}/told\n'
        f'case "$*" in *is-enabled*) exit {0 if enabled else 1};; esac\n{starts}\n',
        encoding="utf-8",
    )
    program.chmod(0o755)


def told(house: House) -> list[str]:
    path = house.shell.home / "told"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


ENABLED, STARTED = "--user --quiet is-enabled moltis.service", "--user start moltis.service"


@LINUX
def test_a_service_is_started_by_its_manager_and_not_doubled(house: House, at_home: dict[str, str]) -> None:
    systemctl(house, enabled=True, starts=f"setsid {sys.executable} -m moltis run </dev/null >/dev/null 2>&1 &")
    host = house.connect(environ=at_home)
    host.initialize()
    assert told(house) == [ENABLED, STARTED]
    assert not (house.shell.home / ".moltis" / "run" / "moltis.err").exists()  # nobody but it started one


@LINUX
def test_a_service_that_cannot_be_started_is_told_and_not_doubled(house: House, at_home: dict[str, str]) -> None:
    systemctl(house, enabled=True, starts="exit 1")
    instructions = house.connect(environ=at_home).initialize()["instructions"]
    assert "`systemctl --user start moltis.service` failed" in instructions
    assert "systemctl --user status moltis.service" in instructions
    assert house.pid(house.shell.home / ".moltis" / "run" / "moltis.sock") is None


@LINUX
@pytest.mark.parametrize("why", ["not enabled", "other places"])
def test_where_the_service_is_not_of_these_places_it_is_left_alone(
    house: House, at_home: dict[str, str], why: str
) -> None:
    systemctl(house, enabled=why != "not enabled", starts="exit 1")
    words = ["--data-dir", str(house.shell.data_dir)] if why == "other places" else []
    house.connect(*words, environ=at_home).initialize()
    assert told(house) == ([] if words else [ENABLED])


def test_each_platform_has_its_manager() -> None:
    linux, mac = starter.manager_of("linux", 1000), starter.manager_of("darwin", 501)
    assert linux is not None
    assert mac is not None
    assert linux.starts == ("systemctl", "--user", "start", "moltis.service")
    assert mac.starts == ("launchctl", "kickstart", "gui/501/org.moltis.daemon")
    assert starter.manager_of("freebsd14", 1000) is None


# --- what it said before it ended


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("moltis: it is wrong\nhint: moltis config check\n", ("it is wrong", "moltis config check")),
        ("noise\nmoltis: first\nmoltis: it is \x1b[31mwrong\n", ("it is \\x1b[31mwrong", "moltis doctor")),
        ("Traceback\n  File x\nImportError: no y\n", ("it ended with exit code 1; its last words: ImportError: no y",)),
        ("", ("it ended with exit code 1",)),
        ("moltis: " + "x" * 5000, ("x" * (starter.MAX_WORDS - 8), "moltis doctor")),
    ],
)
def test_its_words_are_read_as_every_command_says_them(tmp_path: Path, said: str, found: tuple[str, ...]) -> None:
    errors = tmp_path / "moltis.err"
    errors.write_text(said, encoding="utf-8")
    assert starter._why(errors, 1)[: len(found)] == found


def test_an_attempt_without_processes_is_an_outcome_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "no room")

    monkeypatch.setattr(os, "fork", fork)
    outcome = Start({}).read()
    assert outcome is not None
    assert "no room" in outcome.message


def test_where_somebody_else_starts_it_for_too_long_that_is_said(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "START_SECS", 0.3)
    paths = find_paths(environ={"MOLTIS_DATA_DIR": str(shell.data_dir)})
    assert isinstance(paths, Paths)
    paths.lock.parent.mkdir(parents=True, mode=0o700)
    paths.data_dir.chmod(0o700)
    folder = os.open(paths.lock.parent, os.O_RDONLY)
    try:
        assert private.try_lock(folder)
        message, hint = starter.bring_up({"data_dir": str(shell.data_dir)})
    finally:
        os.close(folder)
    assert "somebody else" in message
    assert "moltis status" in hint


class Attempt:
    """Stands for `start.Start`: it takes a while, and then there is a daemon."""

    def __init__(self, secs: float) -> None:
        self._pipe, theirs = os.pipe()
        self._until = time.monotonic() + secs
        threading.Timer(secs, os.close, [theirs]).start()

    def fileno(self) -> int:
        return self._pipe

    def close(self) -> None:
        os.close(self._pipe)

    def read(self) -> Outcome | None:
        if time.monotonic() < self._until:
            return None
        self.close()
        return Outcome()


class SlowEntrance:
    """Stands for `door.Entrance` of a daemon that was started a moment ago."""

    def __init__(self, secs: float) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._until = time.monotonic() + secs
        threading.Timer(secs, self.theirs.send, [b"\n"]).start()

    def fileno(self) -> int:
        return self._ours.fileno()

    def close(self) -> None:
        self._ours.close()

    def read(self) -> tuple[socket.socket, bytes] | None:
        if time.monotonic() < self._until:
            return None
        self._ours.setblocking(False)
        threading.Thread(target=self._serve).start()
        return self._ours, b""

    def _serve(self) -> None:
        with self.theirs:
            for line in self.theirs.makefile("rb"):
                id = json.loads(line)["id"]
                self.theirs.sendall(b'{"jsonrpc":"2.0","id":%d,"result":{"by":"the daemon"}}\n' % id)


def test_a_daemon_that_was_started_and_is_slow_to_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the host has waited for longer than without a daemon, and is not answered by what was last known."""
    monkeypatch.setattr(pump, "ANSWER_AFTER_SECS", 0.05)
    monkeypatch.setattr(pump, "FIRST_REFUSE_AFTER_SECS", 0.1)
    ready_at = time.monotonic() + 0.5

    def enter() -> Any:
        if time.monotonic() < ready_at:
            raise NotNow("nobody there")
        return SlowEntrance(0.5)

    def know(introduction: bytes | None, notice: str) -> Any:
        raise AssertionError("it is answered without the daemon")

    (host_in, ours), (theirs, host_out) = os.pipe(), os.pipe()
    os.write(ours, b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n')
    os.write(ours, b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"a"}}\n')
    os.close(ours)
    said: list[str] = []
    starts: Any = lambda: Attempt(ready_at - time.monotonic())  # noqa: E731
    Pump(enter, know, said.append, host_in, host_out, start=starts).run()
    os.close(host_out)
    with os.fdopen(theirs, "rb") as read:
        answers = [json.loads(line) for line in read]
    assert [(each["id"], each["result"]) for each in answers] == [(1, {"by": "the daemon"}), (2, {"by": "the daemon"})]
    assert "starting the daemon" in said
    os.close(host_in)
