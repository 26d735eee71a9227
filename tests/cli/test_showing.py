"""What stands in for the daemon shows what the daemon would show, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from moltis.cli.connect.standin import StandIn
from moltis.config.load import load
from moltis.config.plan import Plan, ServerPlan
from moltis.daemon.memories import Memories
from moltis.gateway.api import Known
from moltis.gateway.showing import showing_of
from moltis.paths import Paths
from moltis.session.handshake import Agreed
from moltis.session.listing import Item

TOML = """
[gateway]
enabled = true

[mcp.servers.files]
command = "files"
exclude_tools = ["write_*"]

[mcp.servers.web]
url = "https://mcp.example.com/mcp"
include_tools = ["read_*"]
transport = "streamable-http"
"""
ALL = {"files__read_a", "web__read_a"}


def listing(server: str) -> Known:
    raws = [f'{{"name":"{name}","inputSchema":{{"type":"object"}}}}'.encode() for name in ("read_a", "write_a")]
    items = tuple(Item(json.loads(raw)["name"], raw) for raw in raws)
    return Known(Agreed("legacy", "2025-11-25", {"name": server}, {"tools": {}}), tools=items)


class Home:
    """A data dir and a moltis.toml, as daemons leave them."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(folder / "moltis.toml", folder / "data", folder / "sock")
        self.paths.config.write_text(TOML)

    def run_daemon(self, config: Path | None = None, overrides: dict[str, str] | None = None) -> None:
        """Have a daemon be ready with all its servers, and end."""
        plan = load(config or self.paths.config, overrides or {}, {}).plan

        async def live() -> None:
            memories = Memories(self.paths.known_dir, listing)
            await memories.load()
            memories.apply(plan)
            for server in plan.servers:
                if server.enabled and server.problem is None:
                    memories.learn(server)
            await memories.write()

        anyio.run(live)

    def tools(self, server: str | None = None) -> set[str]:
        wanted = {} if server is None else {"server": server}
        answers = StandIn(self.paths, wanted).answer(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}')
        return {tool["name"] for tool in json.loads(answers[-1])["result"]["tools"]}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_it_shows_what_the_daemon_shows(home: Home) -> None:
    home.run_daemon()
    assert home.tools() == ALL
    assert (home.tools("files"), home.tools("web")) == ({"read_a"}, {"read_a"})


def test_a_host_with_another_environment_than_the_daemon_is_shown_the_same(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.run_daemon()
    for name in ("HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    assert home.tools() == ALL


def edited(old: str, new: str) -> Callable[[Path], object]:
    return lambda config: config.write_text(config.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("edit", "seen"),
    [
        (edited('command = "files"', 'command = "other"'), {"web__read_a"}),
        (edited("https://mcp.example.com", "https://elsewhere.example.com"), {"files__read_a"}),
        (edited('exclude_tools = ["write_*"]', 'exclude_tools = ["*"]'), {"web__read_a"}),
        (edited('command = "files"', 'command = "files"\nenabled = false'), {"web__read_a"}),
        (edited('["read_*"]', '["*"]'), {*ALL, "web__write_a"}),
        (edited("[mcp.servers.files]", "[mcp.servers.file]"), {"web__read_a"}),
        (edited("enabled = true", "enabled = false"), set()),
        (edited("enabled = true", 'tool_separator = "."'), {"files.read_a", "web.read_a"}),
        (edited(TOML, ""), set()),
    ],
)
def test_an_edited_file_is_gone_by(home: Home, edit: Callable[[Path], object], seen: set[str]) -> None:
    home.run_daemon()
    edit(home.paths.config)
    assert home.tools() == seen


def test_one_server_that_was_made_another_shows_nothing_of_the_one_before(home: Home) -> None:
    home.run_daemon()
    edited('command = "files"', 'command = "other"')(home.paths.config)
    assert home.tools("files") == set()


def be_a_folder(config: Path) -> None:
    config.unlink()
    config.mkdir()


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "not TOML": lambda config: config.write_text("[mcp\n"),
    "not UTF-8": lambda config: config.write_bytes(b"\xff"),
    "a folder": be_a_folder,
    "too large": lambda config: config.write_text("#" * (2 << 20)),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_file_that_cannot_be_read_shows_what_the_daemon_showed_last(home: Home, fault: str) -> None:
    edited("[mcp.servers.web]", '[mcp.servers.off]\ncommand = "off"\n[mcp.servers.web]')(home.paths.config)
    home.run_daemon()
    edited('command = "off"', 'command = "off"\nenabled = false')(home.paths.config)
    edited("enabled = true", 'enabled = true\ntool_separator = "/"')(home.paths.config)
    home.run_daemon()
    UNREADABLE[fault](home.paths.config)
    assert home.tools() == {"files/read_a", "web/read_a"}
    assert home.tools("files") == {"read_a"}


def test_another_file_than_the_daemons_does_not_count(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(TOML.replace('exclude_tools = ["write_*"]', 'exclude_tools = ["read_*"]'))
    home.run_daemon(other)
    assert home.tools() == {"files__write_a", "web__read_a"}


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff", b'{"format":2,"config":"x","separator":"__","servers":[]}', None]
)
def test_where_nobody_knows_what_was_shown_nothing_is(home: Home, damage: bytes | None) -> None:
    home.run_daemon()
    record = home.paths.known_dir / "_shown.json"
    if damage is None:
        record.unlink()
    else:
        record.write_bytes(damage)
    assert home.tools() == ALL, "moltis.toml says it"
    home.paths.config.unlink()
    assert home.tools() == set()


def test_a_server_whose_entry_could_not_be_used_is_not_shown_and_one_that_can_is(home: Home) -> None:
    edited('command = "files"', 'command = "files"\nenv = { KEY = "$KEY" }')(home.paths.config)
    home.run_daemon(overrides={"KEY": "k"})
    assert home.tools() == ALL, "its value is the daemon's to know"
    home.run_daemon()
    assert home.tools() == {"web__read_a"}


def test_how_servers_are_shown_holds_no_value_of_theirs() -> None:
    plan = Plan(servers=(ServerPlan("x", include_tools=("a",)),))
    assert showing_of(plan).servers[0].include == ("a",)
    assert "launch" not in repr(showing_of(plan))


def test_it_lists_servers_under_their_labels(home: Home) -> None:
    home.paths.config.write_text(TOML + 'label = "w"\n')
    home.run_daemon()
    assert home.tools() == {"files__read_a", "w__read_a"}
