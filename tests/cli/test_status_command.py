"""`moltis status`: what a person reads, what a program reads, and what the exit code says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon, RpcError
from samples import DAEMON, ago, failure, mixed, server

Start = Callable[[dict[str, Any]], FakeDaemon]

GOLDEN = """\
moltis 0.1.0 - running 2h15m - pid 4711 - /etc/moltis.toml - 5 servers: 1 ready, 1 backing off, 1 needing login, \
1 invalid, 1 disabled

NAME        TRANSPORT        TOOLS  STATUS                               UP/RESTARTS  ACTION
filesystem  stdio            14     ready                                2h15m / 0
linear      streamable-http  -      awaiting_auth, login needed          - / 0        moltis mcp reauth linear
flaky       stdio            -      backoff, retry in 32s (3/5), exit 1  - / 3        moltis why flaky
typo        stdio            -      invalid, no value for $GITHUB_TOKEN  - / 0        moltis env set GITHUB_TOKEN
old         stdio            -      disabled                             - / 0        moltis mcp enable old
"""


def steady(text: str) -> str:
    """Give the text with its countdown set back to where it began: the test may have been slow."""
    return re.sub(r"retry in \d\ds", "retry in 32s", text)


def test_the_table_is_this_one(shell: Shell, daemon: Start) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": mixed()})
    done = shell.moltis("status")
    assert steady(done.stdout) == GOLDEN
    assert (done.returncode, done.stderr) == (1, "")


def test_a_narrow_screen_cuts_the_status_and_never_the_command(shell: Shell, daemon: Start) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": mixed()})
    table = shell.moltis("status", COLUMNS="100").stdout.split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= 100
    assert [line.split()[-1] for line in table[2:]] == ["linear", "flaky", "GITHUB_TOKEN", "old"]
    assert "..." in table[3]


def test_all_servers_well_is_exit_0_and_stopped_ones_are_well(shell: Shell, daemon: Start) -> None:
    daemon(
        {"daemon.status": DAEMON, "mcp.list": [server("a", "ready"), server("b", "stopped"), server("c", "disabled")]}
    )
    assert shell.moltis("status").returncode == 0


def test_json_is_everything_the_daemon_said(shell: Shell, daemon: Start) -> None:
    servers = mixed()
    daemon({"daemon.status": DAEMON, "mcp.list": servers})
    done = shell.moltis("status", "--json")
    assert json.loads(done.stdout) == {"running": True, "daemon": DAEMON, "servers": servers}
    assert done.returncode == 1


def test_one_server_is_shown_in_full(shell: Shell, daemon: Start) -> None:
    one = server(
        "flaky",
        "backoff",
        attempts=3,
        next_retry_at=ago(-32.9),
        env_names=["TOKEN"],
        last_error=failure(stderr_tail=["fatal: no\x1b]0;title\x07 token", "bye"], at=ago(20.2)),
    )
    fake = daemon({"mcp.status": one})
    done = shell.moltis("status", "flaky")
    assert fake.asked == [("mcp.status", {"name": "flaky"})]
    assert done.returncode == 1
    assert "status           backoff, retry in 32s (3/5), exit 1\n" in steady(done.stdout)
    assert "action           moltis why flaky\n" in done.stdout
    assert "command          npx (2 arguments)\n" in done.stdout
    assert "| fatal: no\\x1b]0;title\\x07 token\n" in done.stdout, "a server's text must not steer the terminal"
    assert json.loads(shell.moltis("status", "flaky", "--json").stdout) == one


def test_with_the_daemon_down_the_configured_servers_are_shown(shell: Shell) -> None:
    shell.config.write_text(
        '[mcp.servers.files]\ncommand = "npx"\n'
        '[mcp.servers.far]\nurl = "https://x"\ntransport = "http"\nenabled = false\n'
    )
    done = shell.moltis("status")
    assert done.returncode == 3
    assert done.stdout == (
        "moltis 0.5.0 - not running - ~/moltis.toml\n"
        "\n"
        "NAME   TRANSPORT        TOOLS  STATUS       UP/RESTARTS\n"
        "files  stdio            -      not running  -\n"
        "far    streamable-http  -      disabled     -\n"
    )
    assert done.stderr.endswith("hint: moltis run\n")
    document = json.loads(shell.moltis("status", "--json").stdout)
    assert document == {
        "running": False,
        "daemon": None,
        "config_path": str(shell.config),
        "servers": [
            {"name": "files", "transport": "stdio", "enabled": True},
            {"name": "far", "transport": "streamable-http", "enabled": False},
        ],
    }


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (None, "no configuration", "moltis init"),
        ("[mcp", "moltis.toml:1", "moltis config check"),
        ("\udcff", "not UTF-8", "moltis config check"),
        ("mcp = 3", "", "moltis run"),
        ("[mcp]\nservers = []", "", "moltis run"),
        ("[mcp.servers]\nx = 5", "", "moltis run"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_so_and_is_still_exit_3(
    shell: Shell, text: str | None, said: str, hint: str
) -> None:
    if text is not None:
        shell.config.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = shell.moltis("status")
    assert done.returncode == 3
    assert said in done.stderr
    assert done.stderr.endswith(f"hint: {hint}\n")
    assert json.loads(shell.moltis("status", "--json").stdout)["servers"] == []


def test_no_servers_is_an_answer_too(shell: Shell, daemon: Start) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": []})
    done = shell.moltis("status")
    assert (done.returncode, done.stdout) == (
        0,
        "moltis 0.1.0 - running 2h15m - pid 4711 - /etc/moltis.toml - no servers\n",
    )
    assert "moltis mcp add" in done.stderr


def test_no_colour_unless_asked_for(shell: Shell, daemon: Start) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": mixed()})
    assert "\x1b" not in shell.moltis("status").stdout
    assert "\x1b[31mbackoff" in shell.moltis("status", FORCE_COLOR="1").stdout
    assert "\x1b" not in shell.moltis("status", FORCE_COLOR="1", NO_COLOR="1").stdout


def test_a_locale_without_the_characters_is_no_error(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.status": server("x", "ready", display_name="日本")})
    done = shell.moltis("status", "x", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\u65e5" in done.stdout


def test_an_unknown_server_is_exit_4_with_the_daemons_own_words(shell: Shell, daemon: Start) -> None:
    unknown = RpcError(-32004, "no server is called 'flakey'", kind="unknown_server", hint="known servers: flaky")
    daemon({"mcp.status": unknown})
    done = shell.moltis("status", "flakey")
    assert done.returncode == 4
    assert done.stderr == "moltis: no server is called 'flakey'\nhint: known servers: flaky\n"


@pytest.mark.parametrize("state", ["starting", "initializing", "stopping"])
def test_waiting_for_servers_in_vain_is_a_timeout_that_names_them(shell: Shell, daemon: Start, state: str) -> None:
    daemon({"daemon.status": DAEMON, "mcp.list": [server("slow", state), server("fine", "ready")]})
    done = shell.moltis("status", "--wait", "--timeout", "0.3")
    assert done.returncode == 7
    assert "still starting after 0.3 s: slow" in done.stderr


def test_waiting_ends_when_no_server_is_under_way(shell: Shell, daemon: Start) -> None:
    states = iter(["stopping", "starting", "initializing"])
    daemon({"daemon.status": DAEMON, "mcp.list": lambda _: [server("a", next(states, "ready"))]})
    done = shell.moltis("status", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ready" in done.stdout


def test_waiting_for_a_daemon_that_is_not_there_says_that(shell: Shell) -> None:
    assert shell.moltis("status", "--wait", "--timeout", "0.3").returncode == 3
