"""Variables of the environment that set keys: they win over the file, are checked like it, and cost nothing unused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moltis.config.keys import KEYS
from moltis.config.load import Loaded, load, loads
from moltis.config.origins import Origin, read_origins
from moltis.config.plan import RemoteLaunch, StdioLaunch

FILE = """\
[env]
K = "of-the-file"
[gateway]
listen = "127.0.0.1:8000"
[mcp]
request_timeout_secs = 9
[mcp.servers.my-files]
command = "npx"
args = ["-y", "pkg"]
env = { A = "a", B = "$K" }
[mcp.servers.api]
url = "https://h/"
headers = { X = "x" }
"""


def read(text: str = FILE, **variables: str) -> Loaded:
    return loads(text, {}, {"HOME": "/home/me", **variables})


@pytest.mark.parametrize(
    ("variable", "value", "key", "run"),
    [
        ("MOLTIS_GATEWAY__LISTEN", "0.0.0.0:9000", "gateway.listen", "0.0.0.0:9000"),
        ("MOLTIS_GATEWAY__ENABLED", "false", "gateway.enabled", False),
        ("MOLTIS_GATEWAY__RATE_LIMIT_PER_MINUTE", "5", "gateway.rate_limit_per_minute", 5),
        ("MOLTIS_GATEWAY__ALLOWED_ORIGINS", '["https://a"]', "gateway.allowed_origins", ("https://a",)),
        ("MOLTIS_GATEWAY__TOOL_SEPARATOR", ".", "gateway.tool_separator", "."),
        ("MOLTIS_MCP__REQUEST_TIMEOUT_SECS", "5", "defaults.request_timeout_secs", 5),
        ("MOLTIS_MCP__STOP_EOF_SECS", "0.5", "defaults.stop_eof_secs", 0.5),
        ("MOLTIS_MCP__MAX_RESTART_ATTEMPTS", "1_0", "defaults.max_restart_attempts", 10),
        ("MOLTIS_MCP__MAX_CONCURRENT_STARTS", "3", "daemon.max_concurrent_starts", 3),
        ("MOLTIS_DAEMON__LOG_LEVEL", "debug", "daemon.log_level", "debug"),
        ("MOLTIS_DAEMON__BROWSER_COMMAND", "[]", "daemon.browser_command", ()),
        ("MOLTIS_daemon__Log_Level", "debug", "daemon.log_level", "debug"),
        ("MOLTIS_GATEWAY__LISTEN", "", "gateway.listen", "127.0.0.1:8000"),
    ],
)
def test_a_variable_sets_its_key(variable: str, value: str, key: str, run: Any) -> None:
    loaded = read(**{variable: value})
    assert loaded.problems == ()
    section, name = key.split(".")
    assert getattr(getattr(loaded.plan, section), name) == run
    assert loaded.plan.server("my-files").problem is None  # type: ignore[union-attr]  # it is there


def test_variables_set_keys_of_the_servers_that_the_file_has() -> None:
    loaded = read(
        MOLTIS_MCP__SERVERS__MY_FILES__ARGS='["x", "~/y"]',
        MOLTIS_MCP__SERVERS__MY_FILES__STOP_EOF_SECS="1.5",
        MOLTIS_MCP__SERVERS__MY_FILES__ENV__B="${K}-${env:HOME}",
        MOLTIS_MCP__SERVERS__MY_FILES__ENV__lower="c",
        MOLTIS_MCP__SERVERS__API__ENABLED="false",
        MOLTIS_MCP__SERVERS__API__HEADERS__AUTHORIZATION="Bearer $K",
        MOLTIS_MCP__SERVERS__API__OAUTH__CLIENT_SECRET="sesame-open",
        MOLTIS_MCP__SERVERS__API__OAUTH__SCOPES='["a"]',
        MOLTIS_ENV__K="of-a-variable",
    )
    assert loaded.problems == ()
    files, api = loaded.plan.servers
    assert files.launch == StdioLaunch(
        "npx", ("x", "/home/me/y"), (("A", "a"), ("B", "of-a-variable-/home/me"), ("lower", "c"))
    )
    assert files.limits.stop_eof_secs == 1.5
    assert not api.enabled
    assert isinstance(api.launch, RemoteLaunch)
    assert api.launch.headers == (("X", "x"), ("AUTHORIZATION", "Bearer of-a-variable"))
    assert dict(api.launch.oauth) == {"client_secret": "sesame-open", "scopes": ("a",)}
    assert {"of-a-variable", "sesame-open"} <= loaded.plan.secrets
    assert "sesame" not in f"{loaded!r}{loaded.plan!r}{loaded.plan.servers}"


def test_a_table_can_be_set_whole_and_then_member_by_member() -> None:
    loaded = read(MOLTIS_MCP__SERVERS__MY_FILES__ENV='{ C = "c", D = "d" }', MOLTIS_MCP__SERVERS__MY_FILES__ENV__D="e")
    assert loaded.problems == ()
    launch = loaded.plan.servers[0].launch
    assert isinstance(launch, StdioLaunch)
    assert launch.env == (("C", "c"), ("D", "e"))


WRONG = [
    ("MOLTIS_MCP__REQUEST_TIMEOUT_SECS", "soon", "must be a number of seconds"),
    ("MOLTIS_MCP__REQUEST_TIMEOUT_SECS", "0", "must be"),
    ("MOLTIS_MCP__REQUEST_TIMEOUT_SECS", "5\nstop_eof_secs = 1", "must be a number of seconds"),
    ("MOLTIS_GATEWAY__ENABLED", "yes", "must be true or false"),
    ("MOLTIS_GATEWAY__ENABLED", "1", "must be true or false"),
    ("MOLTIS_GATEWAY__ENABLED", "True", "must be true or false"),
    ("MOLTIS_GATEWAY__ALLOWED_ORIGINS", "https://a", "must be a list"),
    ("MOLTIS_GATEWAY__ALLOWED_ORIGINS", "[" * 100_000, "must be a list"),
    ("MOLTIS_GATEWAY__LISTEN", "9000", "must be an address and a port"),
    ("MOLTIS_DAEMON__LOG_LEVEL", "loud", "must be one of"),
    ("MOLTIS_MCP__HEARTBEAT_MAX_MISSED", "1.5", "must be"),
]


@pytest.mark.parametrize(("variable", "value", "words"), WRONG)
def test_a_wrong_value_is_an_error_of_its_variable_and_the_default_stays(variable: str, value: str, words: str) -> None:
    loaded = read("", **{variable: value})
    (problem,) = loaded.problems
    assert (problem.severity, problem.file, problem.line, problem.key) == ("error", "environment", None, variable)
    assert words in problem.message
    assert str(problem).startswith(f"environment: {variable}: ")
    assert loaded.plan.defaults == loads("").plan.defaults
    assert loaded.plan.gateway == loads("").plan.gateway


def test_a_wrong_value_of_a_server_makes_that_one_invalid_and_names_the_variable() -> None:
    loaded = read(MOLTIS_MCP__SERVERS__MY_FILES__ARGS="x", MOLTIS_MCP__SERVERS__API__URL="$NONE")
    keys = {"MOLTIS_MCP__SERVERS__API__URL", "MOLTIS_MCP__SERVERS__MY_FILES__ARGS"}
    assert {(p.file, p.key) for p in loaded.problems} == {("environment", key) for key in keys}
    assert all(server.launch is None for server in loaded.plan.servers)
    assert "$NONE resolves to nothing" in str(loaded.plan.servers[1].problem)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("MOLTIS_GATWAY__LISTEN", "did you mean 'MOLTIS_GATEWAY__LISTEN'"),
        ("MOLTIS_GATEWAY__LISTN", "did you mean 'MOLTIS_GATEWAY__LISTEN'"),
        ("MOLTIS_GATEWAY_LISTEN", "did you mean 'MOLTIS_GATEWAY__LISTEN'"),
        ("MOLTIS__GATEWAY__LISTEN", "did you mean 'MOLTIS_GATEWAY__LISTEN'"),
        ("MOLTIS_MCP_REQUEST_TIMEOUT_SECS", "did you mean 'MOLTIS_MCP__REQUEST_TIMEOUT_SECS'"),
        ("MOLTIS_MCP__SERVERS__MY_FILE__ENABLED", "no one server 'MY_FILE' - did you mean 'my-files'"),
        ("MOLTIS_MCP__SERVERS__NEW__COMMAND", "no one server 'NEW'"),
        ("MOLTIS_MCP__SERVERS__API__ENABELD", "did you mean 'MOLTIS_MCP__SERVERS__API__ENABLED'"),
        ("MOLTIS_MCP__SERVERS__API__OAUTH__CLIENT", "did you mean 'MOLTIS_MCP__SERVERS__API__OAUTH__CLIENT_ID'"),
        ("MOLTIS_MCP__SERVERS", "sets no key"),
        ("MOLTIS_ENV__A__B", "sets no key"),
        ("MOLTIS_GATEWAY__LISTEN__X", "did you mean 'MOLTIS_GATEWAY__LISTEN'"),
    ],
)
def test_a_variable_that_sets_no_key_is_named_with_the_nearest(variable: str, words: str) -> None:
    loaded = read(**{variable: "5"})
    (problem,) = loaded.problems
    assert (problem.file, problem.key, problem.fails_check) == ("environment", variable, True)
    assert words in problem.message
    assert loaded.plan == read().plan


def test_servers_that_a_variable_would_spell_alike_are_not_taken_for_each_other() -> None:
    text = '[mcp.servers.my-x]\ncommand = "x"\n[mcp.servers.my_x]\ncommand = "x"\n'
    loaded = read(text, MOLTIS_MCP__SERVERS__MY_X__ENABLED="false")
    assert [server.enabled for server in loaded.plan.servers] == [True, True]
    assert "no one server 'MY_X'" in loaded.problems[0].message
    loaded = read(text, **{"MOLTIS_MCP__SERVERS__MY-X__ENABLED": "false"})
    assert [server.enabled for server in loaded.plan.servers] == [False, True]
    assert loaded.problems == ()


def test_two_variables_of_one_key_are_told_and_one_is_in_force() -> None:
    loaded = read(MOLTIS_GATEWAY__LISTEN="127.0.0.1:1", MOLTIS_gateway__listen="127.0.0.1:2")
    (problem,) = loaded.problems
    assert "sets the same key as MOLTIS_GATEWAY__LISTEN" in problem.message
    assert loaded.plan.gateway.listen == "127.0.0.1:1"


def test_variables_of_other_kinds_are_no_settings() -> None:
    others = {"MOLTIS_CONFIG": "/x", "MOLTIS_DATA_DIR": "/y", "MOLTIS_TOKEN": "t", "OTHER__GATEWAY__LISTEN": "5"}
    assert (read(**others).plan, read(**others).problems) == (read().plan, ())


def test_a_secret_of_a_variable_does_not_count_as_one_of_a_file_that_others_can_read() -> None:
    text = '[mcp.servers.x]\ncommand = "x"\n'
    variables = {"MOLTIS_ENV__K": "sesame-open", "MOLTIS_MCP__SERVERS__X__ENV__TOKEN": "sesame-too"}
    assert loads(text, {}, variables, mode=0o644).problems == ()


@pytest.mark.parametrize("key", [k for k in KEYS if k.kind in ("seconds", "count", "flag", "choice")], ids=str)
def test_every_key_that_has_a_default_can_be_set_to_it(key: Any) -> None:
    if key.default is None or key.section == "oauth":
        return
    section = "MCP__SERVERS__MY_FILES" if key.section == "server" else key.section.upper()
    value = str(key.default).lower() if key.kind == "flag" else str(key.default)
    assert read(**{f"MOLTIS_{section}__{key.name.upper()}": value}).problems == ()


def test_where_a_value_comes_from_is_known(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    variables = {"MOLTIS_GATEWAY__LISTEN": "127.0.0.1:1", "MOLTIS_MCP__SERVERS__MY_FILES__ENV__A": "x"}
    origins = read_origins(path, variables)
    assert origins.of(("gateway", "listen")) == Origin("environment", "MOLTIS_GATEWAY__LISTEN")
    assert origins.of(("mcp", "request_timeout_secs")) == Origin("file", str(path), 6)
    assert origins.of(("mcp", "servers", "my-files", "env")).kind == "environment"
    assert str(origins.of(("mcp", "servers", "my-files", "args"))) == f"{path}:9"
    assert str(origins.of(("mcp", "stop_eof_secs"))) == "default"
    assert load(path, {}, variables).variables[("gateway", "listen")] == "MOLTIS_GATEWAY__LISTEN"


LOADS = """
import sys
from moltis.config.load import loads
loads("[mcp.servers.x]\\ncommand = 'x'\\n", {}, {"MOLTIS_CONFIG": "x", sys.argv[1]: "5"})
print("pydantic_settings" in sys.modules)
"""


@pytest.mark.parametrize(
    ("variable", "needed"),
    [("HOME", False), ("MOLTIS_TOKEN", False), ("OTHER__X", False), ("MOLTIS_MCP__REQUEST_TIMEOUT_SECS", True)],
)
def test_what_reads_variables_is_imported_only_where_one_is_set(variable: str, needed: bool) -> None:
    done = subprocess.run([sys.executable, "-c", LOADS, variable], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(needed)
