"""What a service manager is told, through sockets of our own."""

from __future__ import annotations

import configparser
import os
import plistlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
import trio.testing

from moltis.config.limits import Limits
from moltis.errors import ExitCode
from moltis.service import Notifier

EXAMPLES = Path(__file__).parent.parent / "examples"
ABSTRACT = sys.platform == "linux"


class Manager:
    """A service manager's end: a datagram socket and the name children find it by."""

    def __init__(self, address: str | bytes, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(5)

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def heard_nothing_more(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", pytest.param("abstract", marks=pytest.mark.skipif(not ABSTRACT, reason="Linux only"))])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "path":
        address = str(tmp_path / "notify")
        made = Manager(address, address)
    else:
        made = Manager(f"\0moltis-test-{os.getpid()}", f"@moltis-test-{os.getpid()}")
    yield made
    made.socket.close()


def test_readiness_and_its_status_are_one_datagram(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.name}).ready("3 of 5 servers ready")
    assert manager.heard() == ["READY=1", "STATUS=3 of 5 servers ready"]


def test_reloading_and_its_time_are_one_datagram(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.name}, monotonic_usec=lambda: 1234567).reloading()
    assert manager.heard() == ["RELOADING=1", "MONOTONIC_USEC=1234567"]


def test_stopping_is_told(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.name}).stopping()
    assert manager.heard() == ["STOPPING=1"]


def test_a_status_is_one_line_and_is_not_repeated(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    notifier.status("all\nREADY=1 is well")
    notifier.status("all READY=1 is well")
    notifier.status("")
    assert manager.heard() == ["STATUS=all READY=1 is well"]
    assert manager.heard_nothing_more()


def test_children_never_see_the_variables() -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/h"}
    notifier = Notifier(environ)
    assert environ == {"HOME": "/h"}
    assert notifier.watchdog_secs == 1.0


TELL: list[Callable[[Notifier], None]] = [Notifier.ready, Notifier.reloading, Notifier.stopping]


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234"])
@pytest.mark.parametrize("tell", TELL)
def test_telling_nobody_is_harmless(name: str, tell: Callable[[Notifier], None]) -> None:
    environ = {"NOTIFY_SOCKET": name} if name else {}
    tell(Notifier(environ))


@pytest.mark.skipif(sys.platform != "linux", reason="how much a socket takes is measured on Linux")
def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    for number in range(5000):
        notifier.status(f"{number}")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", "", 30.0),
        ("30000000", "own", 30.0),
        ("30000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("soon", "", None),
    ],
)
def test_the_watchdog_counts_only_for_the_process_it_names(usec: str, pid: str, expected: float | None) -> None:
    pid = str(os.getpid()) if pid == "own" else pid
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert Notifier(environ).watchdog_secs == expected


def test_without_a_socket_there_is_no_watchdog() -> None:
    assert Notifier({"WATCHDOG_USEC": "30000000"}).watchdog_secs is None


@pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}), id="virtual")]
)
async def test_the_watchdog_is_fed_at_half_its_interval(manager: Manager, anyio_backend: object) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "30000000"})
    with anyio.move_on_after(50):
        await notifier.run_watchdog()
    assert [manager.heard() for _ in range(4)] == [["WATCHDOG=1"]] * 4  # at 0, 15, 30 and 45 s
    assert manager.heard_nothing_more()


@pytest.mark.parametrize("anyio_backend", [pytest.param("asyncio", id="asyncio")])
async def test_without_a_watchdog_its_loop_ends_at_once(anyio_backend: object) -> None:
    with anyio.fail_after(5):
        await Notifier({}).run_watchdog()


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's keys have capitals
    parser.read(EXAMPLES / "moltis.service", encoding="utf-8")
    return parser


def test_the_unit_reloads_on_every_systemd_and_stops_the_daemon_alone_first() -> None:
    service = unit()["Service"]
    assert service["Type"] == "notify"  # notify-reload needs systemd 253
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["KillMode"] == "mixed"
    assert service["UMask"] == "0077"
    assert service["Restart"] == "on-failure"


def test_the_unit_gives_servers_the_time_they_are_promised() -> None:
    limits = Limits()
    assert float(unit()["Service"]["TimeoutStopSec"]) > limits.stop_eof_secs + limits.stop_term_secs + 1


def test_a_bad_configuration_does_not_restart_for_ever() -> None:
    assert unit()["Service"]["RestartPreventExitStatus"].split() == [str(int(ExitCode.BAD_CONFIG))]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    # systemd wants the program to exist; where moltis is installed is the user's affair.
    text = (EXAMPLES / "moltis.service").read_text(encoding="utf-8").replace("%h/.local/bin/moltis", sys.executable)
    (tmp_path / "moltis.service").write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "moltis.service")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in found.stderr.splitlines() if "moltis.service" in line] == []


def test_the_launchd_agent_says_what_the_unit_says() -> None:
    with (EXAMPLES / "org.moltis.daemon.plist").open("rb") as file:
        agent = plistlib.load(file)
    assert agent["Label"] == "org.moltis.daemon"  # org.moltis.gateway is the Rust Moltis
    assert agent["ProgramArguments"][1:] == ["run"]
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ThrottleInterval"] >= 10
    assert agent["ExitTimeOut"] > 6
    assert agent["Umask"] == 0o077
    assert "PATH" in agent["EnvironmentVariables"]
