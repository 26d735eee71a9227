"""What the command line does to the files itself while no daemon runs, and what it says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from cli_shell import Shell
from fake_daemon import FakeDaemon
from samples import DAEMON, server

Start = Callable[[dict[str, Any]], FakeDaemon]


def configured(shell: Shell) -> list[str]:
    return [s["name"] for s in json.loads(shell.moltis("status", "--json").stdout)["servers"]]


def test_init_writes_a_private_file_once(shell: Shell) -> None:
    done = shell.moltis("init")
    assert done.returncode == 0
    assert "moltis mcp add" in done.stderr
    assert shell.config.stat().st_mode & 0o777 == 0o600
    assert shell.moltis("config", "check").returncode == 0
    shell.config.write_text("# mine\n")
    done = shell.moltis("init")
    assert done.returncode == 6
    assert "is there already" in done.stderr
    assert shell.config.read_text() == "# mine\n"


def test_init_makes_the_folder_it_needs(shell: Shell) -> None:
    path = shell.home / "new" / "folder" / "moltis.toml"
    assert shell.moltis("init", "--config", str(path)).returncode == 0
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_servers_are_added_changed_and_removed_in_the_file_and_comments_stay(shell: Shell) -> None:
    shell.config.write_text('# precious\n[mcp.servers.old]\ncommand = "x" # why\n')
    done = shell.moltis("mcp", "add", "files", "-e", "T=$TOKEN", "--", "npx", "-y", "pkg")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("hint: moltis run\n")
    assert configured(shell) == ["old", "files"]
    assert shell.moltis("mcp", "disable", "old").returncode == 0
    assert "enabled = false" in shell.config.read_text()
    assert shell.moltis("mcp", "enable", "old").returncode == 0
    assert shell.moltis("mcp", "remove", "files").returncode == 0
    assert configured(shell) == ["old"]
    text = shell.config.read_text()
    assert "# precious" in text
    assert "# why" in text


def test_add_makes_the_file_when_there_is_none(shell: Shell) -> None:
    assert shell.moltis("mcp", "add", "x", "--", "true").returncode == 0
    assert shell.config.stat().st_mode & 0o777 == 0o600
    assert shell.moltis("mcp", "add", "x", "--", "true").returncode == 6


@pytest.mark.parametrize("verb", ["remove", "enable", "disable"])
def test_changing_a_server_the_file_does_not_have_is_exit_4(shell: Shell, verb: str) -> None:
    shell.config.write_text('[mcp.servers.files]\ncommand = "x"\n')
    done = shell.moltis("mcp", verb, "fils")
    assert done.returncode == 4
    assert "files" in done.stderr


def test_adding_a_server_tells_what_is_odd_about_it(shell: Shell) -> None:
    done = shell.moltis("mcp", "add", "x", "-e", "A=$HOME", "--", "npx", "-y pkg", "--api-key=CANARY-123")
    assert done.returncode == 0
    assert 'args[0]: an option and its value are two arguments: write "-y", "…"' in done.stderr
    assert "args[1]: this looks like a secret" in done.stderr
    assert "CANARY" not in done.stderr
    done = shell.moltis("mcp", "add", "y", "npx -y pkg")
    assert done.returncode == 6
    assert 'arguments go into args: write command = "npx"' in done.stderr
    assert "[mcp.servers.y]" not in shell.config.read_text()


def test_values_come_from_stdin_and_never_go_out(shell: Shell) -> None:
    assert shell.moltis("env", "set", "TOKEN", stdin="CANARY-123\n").returncode == 0
    assert shell.moltis("env", "set", "OTHER", "CANARY-456").returncode == 0
    assert (shell.data_dir / "env.toml").stat().st_mode & 0o777 == 0o600
    assert 'TOKEN = "CANARY-123"' in (shell.data_dir / "env.toml").read_text()
    shell.config.write_text('[mcp.servers.x]\ncommand = "sh"\nenv = { T = "$TOKEN" }\nargs = ["$OTHER"]\n')
    said = []
    for words in ("env list", "config show", "config check", "doctor", "status"):
        for done in (shell.moltis(*words.split()), shell.moltis(*words.split(), "--json")):
            said.append(done.stdout + done.stderr)
    assert said[0] == "OTHER\nTOKEN\n"
    assert json.loads(said[1]) == ["OTHER", "TOKEN"]
    assert "CANARY" not in "".join(said)
    assert shell.moltis("env", "unset", "TOKEN", "OTHER").returncode == 0
    assert shell.moltis("env", "unset", "TOKEN").returncode == 2
    assert shell.moltis("env", "list").stdout == ""


def test_values_go_to_the_daemon_when_it_runs(shell: Shell, daemon: Start) -> None:
    fake = daemon({"env.set": {"ok": True}, "env.unset": {"ok": True}, "env.list": ["A"]})
    assert shell.moltis("env", "set", "A", stdin="v\r\n").returncode == 0
    assert shell.moltis("env", "unset", "A").returncode == 0
    assert shell.moltis("env", "list").stdout == "A\n"
    assert fake.asked[:2] == [("env.set", {"name": "A", "value": "v"}), ("env.unset", {"name": "A"})]
    assert not (shell.data_dir / "env.toml").exists()


def test_check_names_file_line_and_key_and_exits_6(shell: Shell) -> None:
    shell.config.write_text('[mcp]\nrequest_timeout = 5\n[mcp.servers.x]\ncommand = "$NOPE"\nargs = ["$NOPE"]\n')
    done = shell.moltis("config", "check")
    assert done.returncode == 6
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"{shell.config}:2: mcp.request_timeout: ")
    assert "did you mean" in first
    assert any("NOPE" in line for line in rest)
    document = json.loads(shell.moltis("config", "check", "--json").stdout)
    assert document["ok"] is False
    assert document["problems"][0]["line"] == 2
    assert document["problems"][0]["key"] == "mcp.request_timeout"


def test_check_of_what_is_not_toml_is_one_line(shell: Shell) -> None:
    shell.config.write_text("[mcp\n")
    done = shell.moltis("config", "check")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith(f"moltis: {shell.config}:1")
    assert json.loads(shell.moltis("config", "check", "--json").stdout)["ok"] is False


def test_check_of_a_good_file_is_quiet_on_stdout(shell: Shell) -> None:
    shell.config.write_text('[mcp.servers.x]\ncommand = "sh"\n')
    shell.config.chmod(0o600)
    done = shell.moltis("config", "check")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(shell.moltis("config", "check", "--json").stdout) == {"ok": True, "problems": []}


def test_run_with_a_bad_or_missing_file_is_exit_6_in_one_line(shell: Shell) -> None:
    for text in (None, "[mcp\n"):
        if text is not None:
            shell.config.write_text(text)
        done = shell.moltis("run")
        assert done.returncode == 6, done.stderr
        assert done.stderr.startswith("moltis: ")
        assert "Traceback" not in done.stderr


def test_show_fills_in_the_defaults(shell: Shell) -> None:
    shell.config.write_text(
        "[mcp]\nrequest_timeout_secs = 7\n"
        '[mcp.servers.x]\ncommand = "npx"\nargs = ["a", "b"]\nstop_eof_secs = 1\nenv = { K = "v" }\n'
    )
    document = json.loads(shell.moltis("config", "show", "--json").stdout)
    assert document["mcp"]["request_timeout_secs"] == 7
    assert document["mcp"]["stop_eof_secs"] == 2
    x = document["mcp"]["servers"]["x"]
    assert (x["command"], x["arg_count"], x["env_names"], x["stop_eof_secs"]) == ("npx", 2, ["K"], 1)
    assert "request_timeout_secs" not in x
    text = shell.moltis("config", "show").stdout
    import tomli

    origins = document.pop("origins")
    assert tomli.loads(text) == document
    assert origins["mcp.request_timeout_secs"] == {"kind": "file", "name": str(shell.config), "line": 2}
    assert origins["mcp.servers.x.arg_count"]["line"] == 5
    assert origins["mcp.servers.x.env_names"]["line"] == 7
    assert origins["mcp.stop_eof_secs"] == {"kind": "default", "name": None, "line": None}
    assert re.search(rf"(?m)^request_timeout_secs = 7.0 +# {re.escape(str(shell.config))}:2$", text)
    assert re.search(r"(?m)^enabled = true +# default$", text)


def test_show_says_which_variable_sets_a_value(shell: Shell) -> None:
    shell.config.write_text('[gateway]\nlisten = "127.0.0.1:1"\n[mcp.servers.my-x]\ncommand = "npx"\n')
    shell.environ |= {
        "MOLTIS_GATEWAY__LISTEN": "0.0.0.0:9000",
        "MOLTIS_MCP__REQUEST_TIMEOUT_SECS": "5",
        "MOLTIS_MCP__SERVERS__MY_X__ENV__TOKEN": "sesame-open",
        "MOLTIS_ENV__KEY": "sesame-too",
    }
    text = shell.moltis("config", "show").stdout
    assert 'listen = "0.0.0.0:9000"' in text
    assert "# MOLTIS_GATEWAY__LISTEN\n" in text
    assert "# MOLTIS_MCP__REQUEST_TIMEOUT_SECS\n" in text
    assert "# MOLTIS_MCP__SERVERS__MY_X__ENV__TOKEN\n" in text
    assert "sesame" not in text
    document = json.loads(shell.moltis("config", "show", "--json").stdout)
    listen = {"kind": "environment", "name": "MOLTIS_GATEWAY__LISTEN", "line": None}
    assert document["origins"]["gateway.listen"] == listen
    assert document["mcp"]["request_timeout_secs"] == 5


def test_schema_prints_json_with_and_without_saying_so(shell: Shell) -> None:
    plain, asked = shell.moltis("config", "schema"), shell.moltis("config", "schema", "--json")
    assert (asked.returncode, asked.stdout) == (0, plain.stdout)
    assert json.loads(asked.stdout)["title"] == "moltis.toml"


def test_path_tells_every_place(shell: Shell) -> None:
    found = json.loads(shell.moltis("config", "path", "--json").stdout)
    assert found["config"] == str(shell.config)
    assert found["socket"] == str(shell.socket)
    text = shell.moltis("config", "path").stdout
    assert [line.split()[1] for line in text.splitlines()] == list(found.values())


def test_schema_is_a_json_schema(shell: Shell) -> None:
    assert "mcp" in json.loads(shell.moltis("config", "schema").stdout)["properties"]


def test_doctor_fails_on_what_a_person_must_mend(shell: Shell) -> None:
    shell.config.write_text('[mcp.servers.good]\ncommand = "sh"\n[mcp.servers.bad]\ncommand = "no-such-program"\n')
    shell.config.chmod(0o600)
    done = shell.moltis("doctor")
    assert done.returncode == 1
    assert "[ok]   good: " in done.stdout
    assert "[fail] bad: not on PATH: no-such-program" in done.stdout
    assert "[warn] not running -> moltis run" in done.stdout
    document = json.loads(shell.moltis("doctor", "--json").stdout)
    assert document["ok"] is False
    assert set(document["findings"][0]) == {"section", "verdict", "message", "hint"}


def test_doctor_is_content_with_a_daemon_that_is_well(shell: Shell, daemon: Start) -> None:
    shell.config.write_text('[mcp.servers.good]\ncommand = "sh"\n')
    shell.config.chmod(0o600)
    status = {**DAEMON, "pid": 999_999_999, "config_path": str(shell.config)}
    daemon({"daemon.status": status, "mcp.list": [server("good", "ready")]})
    shell.data_dir.chmod(0o700)
    done = shell.moltis("doctor")
    assert done.returncode == 0, done.stdout
    assert "[fail]" not in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("config", "path"), ("config", "show"), ("config", "check"), ("config", "schema"), ("env", "list"),
        ("env", "set", "A", "b"), ("env", "unset", "A"), ("token", "create", "x"), ("token", "list"), ("init",),
        ("doctor",), ("logs",), ("completion", "bash"), ("mcp", "add", "y", "--", "true"), ("mcp", "remove", "x"),
        ("mcp", "disable", "x"), ("mcp", "logout", "x"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_command_needs_nothing_that_others_have_imported(shell: Shell, words: tuple[str, ...]) -> None:
    shell.config.write_text('[mcp.servers.x]\ncommand = "true"\n')
    done = shell.interpreted(*words)
    assert "Traceback" not in done.stderr
    assert "fault of moltis" not in done.stderr
