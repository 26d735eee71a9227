"""What a person at a terminal gets: colour, a table that fits, a prompt without echo, a view that renews itself."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon
from samples import DAEMON, mixed

pytestmark = pytest.mark.e2e

Start = Callable[[dict[str, Any]], FakeDaemon]

ROWS, COLUMNS = 24, 90


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a pseudo-terminal: ours, and the one a program runs on."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    yield ours, theirs
    for end in (ours, theirs):
        os.close(end)


def read_until(end: int, mark: bytes) -> str:
    seen = b""
    while mark not in seen:
        seen += os.read(end, 65536)
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(("extra", "painted"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_has_colour_and_its_own_width(
    shell: Shell, daemon: Start, terminal: tuple[int, int], extra: dict[str, str], painted: bool
) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": mixed()})
    ours, theirs = terminal
    environ = {**shell.environ, "TERM": "xterm", **extra}
    done = subprocess.run(
        shell.command("status"), stdout=theirs, stderr=subprocess.PIPE, env=environ, cwd=shell.home, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, b"")
    shown = read_until(ours, b"mcp enable old")
    assert ("\x1b[" in shown) is painted
    assert "..." in shown
    if not painted:
        assert max(map(len, shown.split("\n\n")[1].splitlines())) <= COLUMNS


def test_a_value_is_asked_for_without_showing_it(shell: Shell, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    with subprocess.Popen(
        shell.command("env", "set", "TOKEN"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=shell.environ,
        cwd=shell.home,
        start_new_session=True,
    ) as process:
        shown = read_until(ours, b"TOKEN: ")
        os.write(ours, b"CANARY\n")
        shown += read_until(ours, b"is set")
        assert process.wait(30) == 0
    assert "CANARY" not in shown
    assert 'TOKEN = "CANARY"' in (shell.data_dir / "env.toml").read_text()


def test_watching_shows_it_again_until_it_is_interrupted(
    shell: Shell, daemon: Start, terminal: tuple[int, int]
) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": []})
    ours, theirs = terminal
    with subprocess.Popen(
        shell.command("status", "--watch"), stdout=theirs, stderr=subprocess.DEVNULL, env=shell.environ, cwd=shell.home
    ) as process:
        for _ in range(2):
            read_until(ours, b"no servers")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_json_on_a_terminal_cannot_move_its_cursor(shell: Shell, daemon: Start, terminal: tuple[int, int]) -> None:
    said = "\x9b2J\u202e\x7f\u200b"
    daemon({"mcp.list": [{**server, "display_name": said} for server in mixed()[:1]]})
    ours, theirs = terminal
    for words in (("mcp", "list", "--json"), ("rpc", "mcp.list")):
        done = subprocess.run(
            shell.command(*words), stdout=theirs, stderr=subprocess.PIPE, env=shell.environ, cwd=shell.home, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")
        shown = read_until(ours, b"]")
        assert said not in shown
        assert '"display_name": "\\u009b2J\\u202e\\u007f\\u200b"' in shown.replace('":"', '": "')
