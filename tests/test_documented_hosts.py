"""The entries for agent hosts in docs/hosts.md: what stands there can be pasted, and names a command that exists."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from typing import Any

import pytest
from click.testing import CliRunner
from documented_hosts import ENDPOINT, SECTION, Entry, by_command, by_http, snippets

from moltis.cli.app import root
from moltis.config.load import loads

ENTRIES: list[tuple[str, dict[str, Any]]] = [
    *((next(iter(found)), found[next(iter(found))]["moltis"]) for found in map(json.loads, snippets("json"))),
    *(
        ("mcp_servers", found["mcp_servers"]["moltis"])
        for found in map(tomllib.loads, snippets("toml"))
        if "mcp_servers" in found
    ),
]
HOSTS = (
    "Claude Code", "Cursor", "Gemini CLI", "Qwen Code", "VS Code", "Codex", "Zed", "Copilot CLI", "opencode",
    "Kilo Code", "Continue", "Mistral Vibe",
)  # fmt: skip


def test_each_kind_of_host_has_its_entry() -> None:
    """Claude Desktop, Cursor and Gemini CLI; VS Code; Zed; Codex."""
    assert sorted(key for key, _ in ENTRIES) == ["context_servers", "mcpServers", "mcp_servers", "servers"]
    extra = {"servers": {"type": "stdio"}, "context_servers": {"source": "custom"}}
    for key, entry in ENTRIES:
        assert entry == {"command": "moltis", "args": ["connect"], **extra.get(key, {})}


def test_each_host_stands_in_both_tables() -> None:
    """Claude Desktop's file takes commands alone."""
    assert set(by_http()) == set(HOSTS)
    assert set(by_command()) == {*HOSTS, "Claude Desktop"}


def own(entry: Entry) -> dict[str, Any]:
    """Return what an entry that is settings says of moltis, whatever the host has around it."""
    (around,) = entry.settings.values()
    if isinstance(around, list):
        (found,) = around
        assert found.pop("name") == "moltis"
        return dict(found)
    assert set(around) == {"moltis"}
    return dict(around["moltis"])


@pytest.mark.parametrize("host", [*HOSTS, "Claude Desktop"])
def test_each_entry_starts_moltis_connect(host: str) -> None:
    entry = by_command()[host]
    if entry.command:
        words = shlex.split(entry.command)
        assert words[1:3] == ["mcp", "add"]
        assert [word for word in words if word in ("moltis", "connect")] == ["moltis", "moltis", "connect"]
    else:
        assert own(entry) in (
            {"command": "moltis", "args": ["connect"]},
            {"type": "stdio", "command": "moltis", "args": ["connect"]},
            {"source": "custom", "command": "moltis", "args": ["connect"]},
            {"type": "local", "command": ["moltis", "connect"]},
        )


@pytest.mark.parametrize("host", HOSTS)
def test_each_entry_over_http_is_whole(host: str) -> None:
    entry = by_http()[host]
    if entry.command:
        words = shlex.split(entry.command)
        assert words[1:3] == ["mcp", "add"]
        assert ENDPOINT in words
        headers = [word for word in words if word.startswith("Authorization: ")]
        assert headers in (["Authorization: Bearer ${MOLTIS_TOKEN}"], [])
        assert '"' not in entry.command, "the shell would write the token itself into the host's file"
        assert headers or words[-2:] == ["--api-key-env", "MOLTIS_TOKEN"]
        return
    found = own(entry)
    (url,) = [found[key] for key in ("url", "httpUrl") if key in found]
    assert url == ENDPOINT
    if host == "Codex":
        assert found["bearer_token_env_var"] == "MOLTIS_TOKEN"
    else:
        headers = found.get("requestOptions", found)["headers"]
        assert re.fullmatch(r"Bearer (\$|\$?\{+(env:| secrets\.))?(MOLTIS_TOKEN|\.\.\.) ?\}*", headers["Authorization"])


def test_the_commands_it_names_exist() -> None:
    named = set(re.findall(r"`?moltis ((?:connect|token (?:create|list|revoke)))", SECTION))
    assert named == {"connect", "token create", "token list", "token revoke"}
    for command in named:
        assert CliRunner().invoke(root, [*command.split(), "--help"]).exit_code == 0


def test_what_it_writes_for_a_proxy_and_for_containers_is_right() -> None:
    (text,) = (text for text in snippets("toml") if "[gateway]" in text)
    loaded = loads(text)
    assert loaded.problems == ()
    (snippet,) = snippets("nginx")
    (name,) = re.findall(r"server_name (\S+);", snippet)
    assert name in loaded.plan.gateway.allowed_hosts
