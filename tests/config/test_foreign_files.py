"""Files of other hosts: sections, keys and syntax are named with what is written here; what withholds is obeyed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moltis.cli.configured import read_servers
from moltis.config import edit
from moltis.config.load import loads, plan_entry
from moltis.errors import ConfigError

# Sections ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("mcpServers.files", "mcpServers"),
        ("mcp_servers.files", "mcp_servers"),
        ("mcp-servers.files", "mcp-servers"),
        ("servers.files", "servers"),
        ("server.files", "server"),
        ("context_servers.files", "context_servers"),
        ('"mcp.servers".files', '"mcp.servers"'),
        ("mcp.files", "mcp.files"),
    ],
)
def test_a_section_of_another_host_fails_the_check_and_names_ours(header: str, key: str) -> None:
    loaded = loads(f'[{header}]\ncommand = "npx"\n[mcp.servers.ok]\ncommand = "x"\n')
    (problem,) = loaded.problems
    assert (problem.key, problem.line, problem.fails_check) == (key, 1, True)
    assert "write [mcp.servers.files]" in problem.message
    assert [server.name for server in loaded.plan.servers] == ["ok"]


def test_a_server_under_a_misspelt_section_of_ours_is_named_by_the_nearest() -> None:
    for header in ("mcp.server.x", "mcp.mcpServers.x", "mcp.Servers.x"):
        (problem,) = loads(f'[{header}]\ncommand = "npx"\n').problems
        assert problem.fails_check
        assert "did you mean 'servers'" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        '[server]\nport = 80\nbind = "127.0.0.1"\n',
        '[servers]\ncount = 5\n[servers.web]\nport = 80\n',
        '[[hooks]]\ncommand = "x"\n',
        '[tools.exec]\ncommand = "x"\n',
        '[agents.presets.a.mcp]\nallow_servers = ["x"]\n',
    ],
)  # fmt: skip
def test_a_section_of_another_program_that_holds_no_servers_is_left_alone(text: str) -> None:
    assert loads(text).problems == ()


# Keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("type", '"stdio"', "write transport"),
        ("autoApprove", "[]", "write nothing: your host asks"),
        ("alwaysAllow", "[]", "write nothing: your host asks"),
        ("timeout", "60", "write request_timeout_secs"),
        ("startup_timeout_sec", "60", "write startup_timeout_secs"),
        ("tool_timeout_sec", "60", "write request_timeout_secs"),
        ("serverUrl", '"https://h/"', "write url"),
        ("httpUrl", '"https://h/"', "write url"),
        ("environment", "{}", "write env"),
        ("envFile", '".env"', "moltis env set NAME"),
        ("bearer_token_env_var", '"T"', 'headers = { Authorization = "Bearer ${env:VARIABLE}" }'),
        ("http_headers", "{}", "write headers"),
        ("workingDirectory", '"/x"', "write cwd"),
        ("disabled", "false", "write enabled = true, or nothing"),
    ],
)
def test_a_key_of_another_host_is_named_with_ours(key: str, value: str, words: str) -> None:
    loaded = loads(f'[mcp.servers.x]\ncommand = "npx"\n{key} = {value}\n')
    (problem,) = loaded.problems
    assert (problem.key, problem.line, problem.fails_check) == (f"mcp.servers.x.{key}", 3, True)
    assert words in problem.message
    assert loaded.plan.servers[0].problem is None
    assert loaded.plan.servers[0].enabled


@pytest.mark.parametrize(
    ("keys", "enabled"),
    [
        ("disabled = true", False),
        ("Disabled = true", False),
        ('disabled = "true"', False),
        ("disabled = 1", False),
        ("disabled = true\nenabled = true", False),
        ("disabled = false\nenabled = false", False),
        ("disabled = false", True),
        ('disabled = "false"', True),
        ("enabled = false", False),
    ],
)
def test_a_server_that_somebody_switched_off_does_not_run(keys: str, enabled: bool, tmp_path: Path) -> None:
    text = f'[mcp.servers.x]\ncommand = "npx"\n{keys}\n'
    loaded = loads(text)
    assert loaded.plan.servers[0].enabled is enabled
    assert loaded.plan.servers[0].problem is None
    written = [line for line in keys.split("\n") if "isabled" in line]
    for problem, line in zip(loaded.problems, written, strict=True):
        assert ("write enabled = true" if "false" in line else "write enabled = false; until") in problem.message
    assert all(p.fails_check for p in loaded.problems)
    path = tmp_path / "moltis.toml"
    path.write_text(text)
    assert [server.enabled for server in read_servers(path).servers] == [enabled]


@pytest.mark.parametrize(
    ("keys", "enabled"),
    [
        ("active = false", False),
        ("isActive = false", False),
        ("is_active = 0", False),
        ('enable = "false"', False),
        ("isEnabled = false", False),
        ("Enabled = false", False),
        ("disable = true", False),
        ("active = false\nenabled = true", False),
        ("active = true", True),
        ("enable = true", True),
        ("disable = false", True),
        ("active = true\nenabled = false", False),
    ],
)
def test_it_is_so_in_whatever_words_and_who_enables_it_has_it_run(keys: str, enabled: bool, tmp_path: Path) -> None:
    text = f'[mcp.servers.x]\ncommand = "npx"\n{keys}\n'
    loaded = loads(text)
    assert loaded.plan.servers[0].enabled is enabled
    (problem,) = loaded.problems
    assert problem.fails_check
    assert "of another program: write enabled = " in problem.message
    path = tmp_path / "moltis.toml"
    path.write_text(text)
    edit.set_enabled(path, "x", True)
    assert loads(path.read_text()).plan.servers[0].enabled


def test_a_server_that_was_switched_off_in_other_words_can_be_enabled(tmp_path: Path) -> None:
    path = tmp_path / "moltis.toml"
    changes: tuple[Callable[[], object], ...] = (
        lambda: edit.set_enabled(path, "x", True),
        lambda: edit.update_server(path, "x", {"enabled": True}),
    )
    for change in changes:
        path.write_text('# mine\n[mcp.servers.x]\ncommand = "npx"\ndisabled = true   # for now\n')
        change()
        assert loads(path.read_text()).plan.servers[0].enabled
        assert path.read_text().startswith('# mine\n[mcp.servers.x]\ncommand = "npx"\n')


def test_tools_that_somebody_switched_off_stay_off() -> None:
    (server,) = loads('[mcp.servers.x]\ncommand="npx"\nexclude_tools=["a"]\ndisabledTools=["b"]\n').plan.servers
    assert server.exclude_tools == ("a", "b")
    (server,) = loads('[mcp.servers.x]\ncommand="npx"\nenabled_tools=["a"]\n').plan.servers
    assert server.include_tools == ("a",)
    (server,) = loads('[mcp.servers.x]\ncommand="npx"\ninclude_tools=["b"]\nenabled_tools=["a"]\n').plan.servers
    assert server.include_tools == ("b",)


def test_a_command_that_is_a_list_says_where_its_words_go() -> None:
    (problem,) = loads('[mcp.servers.x]\ncommand = ["npx", "-y", "pkg"]\n').problems
    assert "its first word here, and the others as args" in problem.message


def test_a_key_of_another_host_in_a_request_is_refused_with_ours() -> None:
    with pytest.raises(ConfigError, match="type: unknown key, of another program: write transport"):
        plan_entry("a", {"command": "x", "type": "stdio"}, loads("").base)


# Syntax --------------------------------------------------------------------------------------------------------------

PASTED = {"mcpServers": {"files": {"command": "npx", "args": ["-y", "pkg"], "env": {"TOKEN": "sesame-open"}}}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(PASTED), "this is JSON, and moltis.toml is TOML: write [mcp.servers.files]"),
        (json.dumps(PASTED, indent=2), "write [mcp.servers.files]"),
        (json.dumps({"servers": PASTED["mcpServers"]}), "write [mcp.servers.files]"),
        (json.dumps(PASTED["mcpServers"]), "write [mcp.servers.NAME]"),
        ('{\n  "mcpServers": { // mine\n', "write [mcp.servers.NAME]"),
        ("\n\n{}", "this is JSON"),
        ('[mcp]\n"mcpServers": {\n', ":2:13: this is JSON"),
        ('[mcp.servers.x]\n"command": "npx",\n', "this is JSON"),
        ('[mcp.servers.x]\nenv = { "A": "b" }\n', '{ NAME = "value" }'),
        ("[mcp.servers.x]\ncommand: npx\n", "this is YAML"),
        ("mcp:\n  servers:\n", "this is YAML"),
        ('[mcp.servers.x]\n// mine\ncommand = "x"\n', "a comment begins with #"),
        ("[mcp.servers.x]\nenabled = True\n", "in lower case"),
        ("[mcp.servers.x]\nenabled = yes\n", "in lower case"),
        ("[mcp.servers.x]\ncwd = null\n", "TOML has no null"),
        ("[mcp.servers.x]\ncommand = “npx”\n", "curly quote"),
        ('[mcp.servers.x]\ncommand = "npx",\n', "remove the sign"),
        ('[mcp.servers.x]\ncommand = "C:\\Users\\me\\x.exe"\n', "a lone backslash in a string"),
        ('[mcp.servers.x]\ncwd = "C:\\x"\n', "a lone backslash in a string"),
        ("[mcp.servers.x]\ncommand = npx\n", "text needs quotes"),
    ],
)
def test_what_is_no_toml_is_named_as_what_it_is(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loads(text)
    assert words in raised.value.message
    assert raised.value.message.startswith("moltis.toml:")
    assert "sesame" not in raised.value.message


def test_a_long_text_that_is_no_toml_is_refused_in_no_time() -> None:
    for text in ("{" * 100_000, "\n" * 200_000 + "a: b", '"' + "a" * 200_000, "x" * 200_000 + ":", "[" * 50_000):
        with pytest.raises(ConfigError):
            loads(text)
