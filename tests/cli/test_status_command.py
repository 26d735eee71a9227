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

from moltis.cli.savings import savings

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


def test_savings_are_what_each_host_s_own_server_would_hold_less_what_is_held_now() -> None:
    hosts = [{"name": "a"}] * 3
    servers = [
        {**server("shared", "ready"), "hosts": hosts, "rss_bytes": 40_000_000},
        {**server("resting", "idle"), "hosts": hosts, "rss_idle_bytes": 10_000_000},
        {**server("lonely", "ready"), "hosts": [], "rss_bytes": 5_000_000},
        {**server("remote", "ready"), "hosts": hosts},
    ]
    found = savings({"rss_bytes": 60_000_000}, servers)
    assert [(row["name"], row["own_bytes"], row["rss_bytes"], row["saved_bytes"]) for row in found["servers"]] == [
        ("shared", 120_000_000, 40_000_000, 80_000_000),
        ("resting", 30_000_000, 0, 30_000_000),
        ("lonely", 0, 5_000_000, -5_000_000),
    ]
    assert (found["own_bytes"], found["rss_bytes"], found["saved_bytes"]) == (150_000_000, 105_000_000, 45_000_000)


def test_savings_are_a_table_for_people_and_numbers_for_programs(shell: Shell, daemon: Start) -> None:
    one = {**server("files", "ready"), "hosts": [{"name": "a"}] * 2, "rss_bytes": 40_000_000}
    daemon({"daemon.status": {**DAEMON, "rss_bytes": 60_000_000}, "mcp.list": [one]})
    table = [line.split() for line in shell.moltis("status", "--savings").stdout.splitlines()]
    assert table[1:] == [
        ["files", "2", "80", "MB", "40", "MB", "40", "MB"],
        ["moltis", "itself", "60", "MB"],
        ["together", "80", "MB", "100", "MB", "-20", "MB"],
    ]
    assert json.loads(shell.moltis("status", "--savings", "--json").stdout)["saved_bytes"] == -20_000_000
    assert shell.moltis("status", "--savings", "files").returncode == 2


def test_what_a_server_holds_and_how_often_a_host_is_there_is_shown(shell: Shell, daemon: Start) -> None:
    hosts = [{"name": "claude-code", "version": "2", "token": None}] * 2 + [{"name": "zed", "version": "1"}]
    daemon({"mcp.status": {**server("files", "ready"), "hosts": hosts, "rss_bytes": 1_250_000_000}})
    shown = shell.moltis("status", "files").stdout
    assert "1.2 GB" in shown
    assert "2 times claude-code 2, zed 1" in shown
