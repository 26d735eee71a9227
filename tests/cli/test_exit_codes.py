"""Every exit code that the command line promises, and its one line on stderr; never a traceback."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon, RpcError
from samples import DAEMON, mixed

pytestmark = pytest.mark.e2e

Start = Callable[[dict[str, Any]], FakeDaemon]

ERRORS = [
    (RpcError(-32603, "broken", kind="internal"), 1),
    (RpcError(-32005, "it is backing off", kind="not_ready", server="x", state="backoff", hint="moltis why x"), 1),
    (RpcError(-32009, "server said no", kind="server_error", error={"code": 5, "message": "no"}), 1),
    (RpcError(-32602, "no such parameter", kind="invalid_params"), 2),
    (RpcError(-32601, "no such method"), 2),
    (RpcError(-32004, "no server is called 'x'", kind="unknown_server"), 4),
    (RpcError(-32603, "not yours", kind="not_permitted"), 5),
    (RpcError(-32008, "moltis.toml:3: mcp.x: wrong", kind="config"), 6),
    (RpcError(-32006, "no reply in 30 s", kind="timeout"), 7),
    (RpcError(-32007, "log in first", kind="login_needed", hint="moltis mcp reauth x"), 8),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=[f"{e.wire['code']} {c}" for e, c in ERRORS])
@pytest.mark.parametrize(
    "words", [("mcp", "restart", "x"), ("mcp", "call", "x.y"), ("rpc", "mcp.restart")], ids=" ".join
)
def test_the_daemons_error_is_one_line_and_an_exit_code(
    shell: Shell, daemon: Start, words: tuple[str, ...], error: RpcError, code: int
) -> None:
    daemon({"mcp.restart": error, "mcp.call": error})
    done = shell.moltis(*words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first == f"moltis: {error.wire['message']}"
    data: Any = error.wire["data"]
    hint = data.get("hint")
    assert rest == ([f"hint: {hint}"] if hint else [])


@pytest.mark.parametrize(
    "words",
    [
        ("status",), ("status", "x"), ("why", "x"), ("reload",), ("stop",), ("mcp", "list"), ("mcp", "get", "x"),
        ("mcp", "tools"), ("mcp", "call", "x.y"), ("mcp", "start", "x"), ("mcp", "stop", "x"), ("mcp", "restart", "x"),
        ("mcp", "reauth", "x"), ("mcp", "test", "x"), ("rpc", "daemon.status"), ("rpc", "--list"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_needs_the_daemon_exits_3_without_it(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.interpreted(*words)  # what is imported for others must not be missing here
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("moltis: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (), ("no-such",), ("mcp",), ("mcp", "no-such"), ("status", "--no-such"), ("why",), ("mcp", "call"),
        ("mcp", "call", "nodot"), ("mcp", "call", "x.y", "novalue"), ("mcp", "call", "x.y", "--json", "["),
        ("mcp", "call", "x.y", "--json", "[]"), ("mcp", "call", "x.y", "a=1", "--json", "{}"), ("rpc",),
        ("rpc", "m", "["), ("rpc", "m", "[]"), ("mcp", "add", "x"), ("mcp", "add", "a__b", "--", "c"),
        ("mcp", "add", "x", "http://h", "-e", "K=V"), ("mcp", "add", "x", "-H", "K: V", "--", "c"),
        ("mcp", "add", "x", "-e", "KEY", "--", "c"), ("completion", "tcsh"), ("logs", "-n", "-5"),
        ("env", "set", "X", ""),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_exit_2(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.moltis(*words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_mistyped_command_names_the_nearest(shell: Shell) -> None:
    assert "did you mean 'status'?" in shell.moltis("statsu").stderr
    assert "did you mean 'restart'" in shell.moltis("mcp", "restrat").stderr


def test_a_secret_in_an_option_written_wrong_is_not_repeated(shell: Shell) -> None:
    for words in (("-e", "CANARY", "--", "c"), ("http://h", "-H", "CANARY")):
        assert "CANARY" not in shell.moltis("mcp", "add", "x", *words).stderr


def test_a_socket_that_is_not_ours_to_use_is_exit_5_or_a_plain_no(shell: Shell) -> None:
    shell.socket.parent.mkdir(parents=True)
    shell.socket.write_text("not a socket")
    done = shell.moltis("status")
    assert done.returncode in (3, 5)
    assert "Traceback" not in done.stderr


def test_a_daemon_that_hangs_up_or_talks_nonsense_is_no_traceback(shell: Shell, daemon: Start) -> None:
    daemon({"daemon.status": b"{]"})
    done = shell.moltis("rpc", "daemon.status")
    assert done.returncode in (0, 1)
    done = shell.moltis("status")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_help_is_data_and_version_is_one_line(shell: Shell) -> None:
    done = shell.moltis("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "doctor" in done.stdout
    assert "--socket" in done.stdout
    for words in (("--version",), ("-V",), ("--socket", "x", "--version")):
        assert shell.moltis(*words).stdout == "moltis 0.5.0\n"


def test_every_command_has_help(shell: Shell) -> None:
    # In this process: forty interpreters would say nothing more.
    from click.testing import CliRunner

    from moltis.cli.app import COMMANDS, root
    from moltis.cli.config import COMMANDS as CONFIG
    from moltis.cli.env import COMMANDS as ENV
    from moltis.cli.mcp import COMMANDS as MCP

    nested = {"mcp": MCP, "config": CONFIG, "env": ENV}
    for name in COMMANDS:
        for words in [[name]] if name not in nested else [[name, sub] for sub in nested[name]]:
            result = CliRunner().invoke(root, [*words, "--help"])
            assert result.exit_code == 0, (words, result.output)
            assert "Usage: " in result.output


def test_global_options_work_before_and_after_the_command(shell: Shell, daemon: Start) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": []})
    other = {"MOLTIS_DATA_DIR": "/nonexistent"}
    assert shell.moltis("status", **other).returncode == 3
    assert shell.moltis("--socket", str(shell.socket), "status", **other).returncode == 0
    assert shell.moltis("status", "--socket", str(shell.socket), **other).returncode == 0
    assert shell.moltis("mcp", "list", "--data-dir", str(shell.data_dir), **other).returncode == 0


def test_a_reader_that_leaves_is_no_error_message(shell: Shell, daemon: Start) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": mixed() * 2000})
    process = subprocess.Popen(
        shell.command("status"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=shell.environ, cwd=shell.home
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 141


def test_interrupting_is_130(shell: Shell, daemon: Start) -> None:
    import signal
    import threading

    asked = threading.Event()
    release = threading.Event()

    def hang(_params: object) -> object:
        asked.set()
        release.wait(30)
        return {}

    daemon({"mcp.call": hang})
    process = subprocess.Popen(
        shell.command("mcp", "call", "x.y"), stderr=subprocess.PIPE, env=shell.environ, cwd=shell.home
    )
    assert asked.wait(30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    release.set()
    assert process.returncode == 130
    assert b"Traceback" not in said


def test_debug_shows_where(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.restart": RpcError(-32603, "broken", kind="internal")})
    assert "Traceback" in shell.moltis("mcp", "restart", "x", MOLTIS_DEBUG="1").stderr
