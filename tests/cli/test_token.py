"""`moltis token`: the value alone on stdout, everything else beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cli_shell import Shell
from click.testing import CliRunner
from fake_daemon import FakeDaemon, RpcError

from moltis.cli.app import root
from moltis.cli.token import COMMANDS, _days
from moltis.errors import UsageError

Start = Callable[[dict[str, Any]], FakeDaemon]

VALUE = "mlt_" + "v" * 43


def made(params: dict[str, Any]) -> dict[str, Any]:
    ends = "2027-01-01T00:00:00.000Z" if "expires_days" in params else None
    return {"token": VALUE, "name": params["name"], "scope": params["scope"], "expires_at": ends}


def ago(**length: float) -> str:
    return (datetime.now(UTC) - timedelta(**length)).isoformat()


def test_the_token_alone_is_on_stdout(shell: Shell, daemon: Start) -> None:
    fake = daemon({"token.create": made})
    done = shell.moltis("token", "create", "editor", "--scope", "write", "--expires", "30d")
    assert (done.returncode, done.stdout) == (0, VALUE + "\n")
    assert VALUE not in done.stderr
    assert "editor" in done.stderr
    assert "2027-01-01" in done.stderr
    assert fake.asked == [("token.create", {"name": "editor", "scope": "write", "expires_days": 30.0})]


def test_a_token_is_for_reading_and_for_good_unless_more_is_said(shell: Shell, daemon: Start) -> None:
    fake = daemon({"token.create": made})
    done = shell.moltis("token", "create", "editor", "--json")
    assert json.loads(done.stdout) == {"token": VALUE, "name": "editor", "scope": "read", "expires_at": None}
    assert "until it is revoked" in done.stderr
    assert fake.asked == [("token.create", {"name": "editor", "scope": "read"})]


@pytest.mark.parametrize(
    ("text", "days"), [("12h", 0.5), ("1d", 1), ("1.5d", 1.5), ("2w", 14), ("100y", 36500), ("never", None)]
)
def test_a_length_of_time_has_a_unit(text: str, days: float | None) -> None:
    assert _days(text) == (None if days is None else pytest.approx(days))


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0d", "30m", "101y", "1e3d", "inf", "nan", "30 d", "30D"])
def test_another_length_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="--expires"):
        _days(text)


@pytest.mark.parametrize(
    "words",
    [
        ("token",), ("token", "create"), ("token", "create", "x", "--scope", "admin"), ("token", "revoke"),
        ("token", "create", "x", "--expires", "30"), ("token", "no-such"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_exit_2(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.moltis(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("create", "x"), ("list",), ("revoke", "x")], ids=" ".join)
def test_without_the_daemon_it_is_exit_3(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.moltis("token", *words)
    assert (done.returncode, done.stdout) == (3, "")


def test_the_list_says_what_each_is_for_and_what_has_expired(shell: Shell, daemon: Start) -> None:
    tokens = [
        {"name": "a", "scope": "read", "created_at": ago(days=2), "expires_at": None, "last_used_at": None},
        {
            "name": "b",
            "scope": "write",
            "created_at": ago(days=40),
            "expires_at": ago(days=10),
            "last_used_at": ago(hours=240.5),
        },
        {
            "name": "c",
            "scope": "write",
            "created_at": ago(hours=1),
            "expires_at": ago(hours=-49.5),
            "last_used_at": ago(seconds=3),
        },
    ]
    daemon({"token.list": tokens})
    done = shell.moltis("token", "list")
    assert done.returncode == 0
    header, *rows = [line.split("  ") for line in done.stdout.splitlines()]
    assert [each.strip() for each in header if each] == ["NAME", "SCOPE", "CREATED", "EXPIRES", "LAST USED"]
    cells = [[each.strip() for each in row if each.strip()] for row in rows]
    assert cells[0] == ["a", "read", "2d0h ago", "never", "never"]
    assert cells[1] == ["b", "write", "40d0h ago", "expired", "10d0h ago"]
    assert cells[2][:4] == ["c", "write", "1h00m ago", "in 2d1h"]
    assert json.loads(shell.moltis("token", "list", "--json").stdout) == tokens


def test_an_empty_list_is_empty_data(shell: Shell, daemon: Start) -> None:
    daemon({"token.list": []})
    done = shell.moltis("token", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "moltis token create" in done.stderr
    assert shell.moltis("token", "list", "--json").stdout == "[]\n"


def test_several_are_revoked_and_the_first_failure_ends_it(shell: Shell, daemon: Start) -> None:
    def revoke(params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] == "b":
            raise RpcError(-32602, "no token is called 'b'", kind="invalid_params", hint="moltis token list")
        return {"ok": True}

    fake = daemon({"token.revoke": revoke})
    done = shell.moltis("token", "revoke", "a", "b", "c")
    assert (done.returncode, done.stdout) == (2, "")
    said = ["moltis: token a is revoked", "moltis: no token is called 'b'", "hint: moltis token list"]
    assert done.stderr.splitlines() == said
    assert [params["name"] for _, params in fake.asked] == ["a", "b"]


def test_every_command_has_help() -> None:
    for name in COMMANDS:
        result = CliRunner().invoke(root, ["token", name, "--help"])
        assert (result.exit_code, "Usage: " in result.output) == (0, True)


def test_the_shell_completes_names_of_tokens(shell: Shell, daemon: Start) -> None:
    daemon({"token.list": [{"name": "laptop"}, {"name": "ci"}]})
    done = shell.moltis(_MOLTIS_COMPLETE="bash_complete", COMP_WORDS="moltis token revoke l", COMP_CWORD="3")
    assert done.stdout.split() == ["plain,laptop"]
