"""README's entries for agent hosts: what stands there can be pasted, and names a command that exists."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from moltis.cli.app import root
from moltis.config.load import loads

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## One endpoint for every host")[2].partition("\n## ")[0]


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.S)


ENTRIES: list[tuple[str, dict[str, Any]]] = [
    *((next(iter(found)), found[next(iter(found))]["moltis"]) for found in map(json.loads, snippets("json"))),
    *(
        ("mcp_servers", found["mcp_servers"]["moltis"])
        for found in map(tomllib.loads, snippets("toml"))
        if "mcp_servers" in found
    ),
]


def test_each_kind_of_host_has_its_entry() -> None:
    """Claude Desktop, Cursor and Gemini CLI; VS Code; Zed; Codex."""
    assert sorted(key for key, _ in ENTRIES) == ["context_servers", "mcpServers", "mcp_servers", "servers"]
    extra = {"servers": {"type": "stdio"}, "context_servers": {"source": "custom"}}
    for key, entry in ENTRIES:
        assert entry == {"command": "moltis", "args": ["connect"], **extra.get(key, {})}


@pytest.mark.parametrize("host", ["Claude Code", "VS Code", "Cursor", "Codex", "Gemini CLI", "Zed"])
def test_each_entry_over_http_is_whole(host: str) -> None:
    table = SECTION.partition("Over HTTP, with the token")[2]
    (entry,) = re.findall(rf"^\| {host} \| (.*) \|$", table, re.M)
    assert "http://127.0.0.1:8642/mcp" in entry
    for text in re.findall(r'`("moltis": .*?)`', entry):
        (found,) = json.loads(f"{{{text}}}").values()
        assert found["headers"]["Authorization"].startswith("Bearer ")
        assert {"url", "httpUrl"} & found.keys()
    if host == "Codex":
        parts = "\n".join(re.findall(r"`([^`]*)`", entry))
        assert tomllib.loads(parts)["mcp_servers"]["moltis"]["bearer_token_env_var"] == "MOLTIS_TOKEN"


def test_the_commands_it_names_exist() -> None:
    named = set(re.findall(r"`?moltis ((?:connect|token (?:create|list|revoke)))", SECTION))
    assert named == {"connect", "token create", "token list", "token revoke"}
    for command in named:
        assert CliRunner().invoke(root, [*command.split(), "--help"]).exit_code == 0


def test_what_it_writes_for_a_proxy_and_for_containers_is_right() -> None:
    (text,) = (text for text in snippets("toml") if "[gateway]" in text)
    loaded = loads(text)
    assert loaded.problems == ()
    (name,) = re.findall(r"server_name (\S+);", *snippets("nginx"))
    assert name in loaded.plan.gateway.allowed_hosts
