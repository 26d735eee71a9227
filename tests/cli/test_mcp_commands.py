"""`moltis mcp`: what is asked of the daemon, and what is made of its answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon, RpcError
from samples import TOOLS, mixed, server

Start = Callable[[dict[str, Any]], FakeDaemon]

RESULT = b'{"content":[ {"type":"text","text":"5"},{"type":"image","data":""}],  "isError":false,"n":1.0}'


def test_a_call_prints_the_very_bytes_of_the_result(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.tools": TOOLS, "mcp.call": RESULT})
    done = shell.moltis("mcp", "call", "calc.add", "a=2", "b=3", "note=4")
    assert done.stdout.encode() == RESULT + b"\n"
    assert (done.returncode, done.stderr) == (0, "")
    arguments = {"a": 2, "b": 3, "note": "4"}
    assert fake.asked == [
        ("mcp.tools", {"name": "calc"}),
        ("mcp.call", {"server": "calc", "tool": "add", "arguments": arguments}),
    ]


@pytest.mark.parametrize(
    ("words", "stdin", "arguments"),
    [
        (["--json", '{"a": 1, "b": [2]}'], "", {"a": 1, "b": [2]}),
        (["--json", "-"], '{"a": 1}', {"a": 1}),
        (["a:=1", 'b:={"c": null}'], "", {"a": 1, "b": {"c": None}}),
        ([], "", {}),
    ],
)
def test_arguments_given_as_json_need_no_schema(
    shell: Shell, daemon: Start, words: list[str], stdin: str, arguments: dict[str, Any]
) -> None:
    fake = daemon({"mcp.call": RESULT})
    assert shell.moltis("mcp", "call", "calc.a.b", *words, stdin=stdin).returncode == 0
    assert fake.asked == [("mcp.call", {"server": "calc", "tool": "a.b", "arguments": arguments})]


def test_a_value_the_schema_refuses_is_never_sent(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.tools": TOOLS, "mcp.call": RESULT})
    done = shell.moltis("mcp", "call", "calc.add", "a=two")
    assert (done.returncode, done.stderr) == (2, "moltis: argument 'a' must be integer, not 'two'\n")
    assert [method for method, _ in fake.asked] == ["mcp.tools"]


def test_a_result_that_says_error_is_exit_1_and_is_printed(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.call": {"content": [{"type": "text", "text": "no"}], "isError": True}})
    done = shell.moltis("mcp", "call", "calc.add")
    assert done.returncode == 1
    assert json.loads(done.stdout)["isError"] is True


def test_the_text_of_a_result_can_be_had_alone(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.call": RESULT})
    done = shell.moltis("mcp", "call", "calc.add", "--text")
    assert (done.stdout, done.stderr) == ("5\n", "moltis: a part of type image is not text\n")


def test_a_timeout_goes_to_the_daemon(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.call": RESULT})
    shell.moltis("mcp", "call", "calc.add", "--timeout", "2.5")
    assert fake.asked[0][1]["timeout_secs"] == 2.5


def test_list_is_the_table_alone_and_never_judges(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.list": mixed()})
    done = shell.moltis("mcp", "list")
    assert done.returncode == 0
    assert done.stdout.startswith("NAME        TRANSPORT")
    assert len(done.stdout.splitlines()) == 6
    assert [s["name"] for s in json.loads(shell.moltis("mcp", "list", "--json").stdout)] == [s["name"] for s in mixed()]


def test_an_empty_list_is_an_empty_array(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.list": [], "mcp.tools": [], "env.list": []})
    for words in (("mcp", "list"), ("mcp", "tools"), ("env", "list")):
        assert shell.moltis(*words, "--json").stdout == "[]\n"
        assert shell.moltis(*words).stdout == ""


def test_get_shows_a_sick_server_without_failing(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.status": server("x", "backoff")})
    assert shell.moltis("mcp", "get", "x").returncode == 0


def test_tools_are_told_with_their_arguments(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.tools": TOOLS})
    assert shell.moltis("mcp", "tools", "calc").stdout == (
        "TOOL      ARGUMENTS   DESCRIPTION\n"
        "calc.add  a b [note]  Add two numbers.\n"
        "calc.now\n"
    )  # fmt: skip
    assert json.loads(shell.moltis("mcp", "tools", "--json").stdout) == TOOLS


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        (["--", "npx", "-y", "pkg", "--", "-e"], {"command": "npx", "args": ["-y", "pkg", "--", "-e"]}),
        (
            ["-e", "A=1", "-e", "B=x=y", "--cwd", "/srv", "--timeout", "90", "--disabled", "--", "c"],
            {
                "command": "c", "env": {"A": "1", "B": "x=y"}, "cwd": "/srv", "request_timeout_secs": 90.0,
                "enabled": False,
            },
        ),
        (["https://h/mcp"], {"url": "https://h/mcp"}),
        (
            ["-t", "http", "https://h/mcp", "-H", "Authorization: Bearer $T"],
            {"url": "https://h/mcp", "transport": "streamable-http", "headers": {"Authorization": "Bearer $T"}},
        ),
        (["-t", "sse", "$URL"], {"url": "$URL", "transport": "sse"}),
        (["-t", "stdio", "--", "c"], {"command": "c", "transport": "stdio"}),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_add_sends_the_entry_that_the_words_mean(
    shell: Shell, daemon: Start, words: list[str], entry: dict[str, Any]
) -> None:
    fake = daemon({"mcp.add": {"ok": True, "name": "x"}})
    done = shell.moltis("mcp", "add", "x", *words)
    assert done.returncode == 0, done.stderr
    assert fake.asked == [("mcp.add", {"name": "x", **entry})]


def test_a_secret_written_out_is_pointed_at_and_not_repeated(shell: Shell, daemon: Start) -> None:
    daemon({"mcp.add": {"ok": True, "name": "x"}})
    said = shell.moltis("mcp", "add", "x", "-e", "API_TOKEN=CANARY", "-e", "MODE=fast", "--", "c").stderr
    assert "API_TOKEN" in said
    assert "CANARY" not in said
    assert "MODE" not in said
    assert "placeholder" not in shell.moltis("mcp", "add", "x", "-e", "API_TOKEN=$T", "--", "c").stderr


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "remove", "enable", "disable"])
def test_several_servers_are_changed_in_one_command(shell: Shell, daemon: Start, verb: str) -> None:
    fake = daemon({f"mcp.{verb}": {"ok": True}})
    done = shell.moltis("mcp", verb, "a", "b")
    assert (done.returncode, done.stdout) == (0, "")
    assert fake.asked == [(f"mcp.{verb}", {"name": "a"}), (f"mcp.{verb}", {"name": "b"})]


@pytest.mark.parametrize(
    ("result", "code", "words"),
    [
        (
            {
                "ok": True, "protocol_version": "2025-11-25", "server_info": {"name": "t", "version": "1"},
                "tool_count": 3, "latency_ms": 41.7, "error": None,
            },
            0,
            "x: ok, 3 tools in 42 ms, MCP 2025-11-25, t 1\n",
        ),
        (
            {
                "ok": False, "protocol_version": None, "server_info": None, "tool_count": 0, "latency_ms": None,
                "error": "it ended with exit code 1",
            },
            1,
            "x: failed: it ended with exit code 1\n",
        ),
        (
            {
                "ok": True, "protocol_version": "2025-11-25", "server_info": None, "tool_count": 3, "latency_ms": 1.2,
                "running": True, "error": None,
            },
            0,
            "x: ok, 3 tools in 1 ms, MCP 2025-11-25, the running one\n",
        ),
    ],
    ids=["ok", "failed", "running"],
)  # fmt: skip
def test_one_try_is_told_in_a_line_and_in_the_exit_code(
    shell: Shell, daemon: Start, result: dict[str, Any], code: int, words: str
) -> None:
    daemon({"mcp.test": result})
    done = shell.moltis("mcp", "test", "x")
    assert (done.returncode, done.stdout) == (code, words)
    assert json.loads(shell.moltis("mcp", "test", "x", "--json").stdout) == result


def test_a_try_that_failed_names_what_mends_it(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.test": {"ok": False, "error": "exited with code 1", "hints": ["moltis env set X", "and more"]}})
    done = shell.moltis("mcp", "test", "x", "--copy")
    assert done.returncode == 1
    assert done.stderr == "hint: moltis env set X\nhint: and more\n"
    assert fake.asked[-1] == ("mcp.test", {"name": "x", "copy": True})


def test_reauth_prints_the_address_or_the_daemons_no(shell: Shell, daemon: Start) -> None:
    fake = daemon({"mcp.reauth": {"ok": True, "oauth_pending": True, "auth_url": "https://as/authorize?state=1"}})
    assert shell.moltis("mcp", "reauth", "x").stdout == "https://as/authorize?state=1\n"
    fake.replies["mcp.reauth"] = RpcError(-32602, "server 'x' is a local program and needs no login")
    done = shell.moltis("mcp", "reauth", "x")
    assert done.returncode == 2
    assert "needs no login" in done.stderr
