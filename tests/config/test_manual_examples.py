"""Every TOML example of the Moltis manual's chapter on MCP servers works as it stands there."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from moltis.config.load import loads
from moltis.config.plan import RemoteLaunch, StdioLaunch

ENVIRON = {"HOME": "/home/me"}
OVERRIDES = {"REMOTE_MCP_KEY": "the-key-9f3Z", "REMOTE_MCP_TOKEN": "the-token-7c1Q"}

VIA_CONFIGURATION = """\
[mcp]
request_timeout_secs = 30

[mcp.servers.filesystem]
command = "npx"
args = ["-y", "@modelcontextprotocol/server-filesystem", "/Users/me/projects"]

[mcp.servers.github]
command = "npx"
args = ["-y", "@modelcontextprotocol/server-github"]
env = { GITHUB_TOKEN = "ghp_..." }
request_timeout_secs = 90

[mcp.servers.remote_api]
transport = "sse"
url = "https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"
headers = { Authorization = "Bearer ${REMOTE_MCP_TOKEN}" }
"""
OPTIONS = """\
[mcp]
request_timeout_secs = 30       # Global default timeout for MCP requests

[mcp.servers.my_server]
command = "node"                # Required for stdio transport
args = ["server.js"]            # Optional arguments

# Optional environment variables
env = { API_KEY = "secret", DEBUG = "true" }

# Optional: per-server timeout override
request_timeout_secs = 90

# Optional: remote transport
transport = "sse"               # "stdio" (default) or "sse"
url = "https://mcp.example.com/mcp"  # Required when transport = "sse"
headers = { "x-api-key" = "$REMOTE_MCP_KEY" }  # Optional request headers
"""
TIMEOUTS = """\
[mcp]
request_timeout_secs = 30

[mcp.servers.remote_api]
transport = "sse"
url = "https://mcp.example.com/mcp"
request_timeout_secs = 120
"""
SECRETS = """\
[mcp.servers.linear_remote]
transport = "sse"
url = "https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"
headers = {
  Authorization = "Bearer ${REMOTE_MCP_TOKEN}",
  "x-workspace" = "team-a",
}
"""
NODE_SERVER = """\
[mcp.servers.my_server]
command = "node"
args = ["server.js"]
"""
OAUTH = """\
[mcp.servers.private_api]
url = "https://mcp.example.com/mcp"
transport = "sse"

[mcp.servers.private_api.oauth]
client_id = "your-client-id"
auth_url = "https://auth.example.com/authorize"
token_url = "https://auth.example.com/token"
scopes = ["mcp:read", "mcp:write"]
"""
EXAMPLES = {
    "via configuration": VIA_CONFIGURATION,
    "configuration options": OPTIONS,
    "request timeouts": TIMEOUTS,
    "remote secrets": SECRETS,
    "a node server": NODE_SERVER,
    "oauth": OAUTH,
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_right_as_it_stands(example: str) -> None:
    loaded = loads(EXAMPLES[example], OVERRIDES, ENVIRON)
    assert [str(p) for p in loaded.problems if p.fails_check] == []
    assert [s.problem for s in loaded.plan.servers] == [None] * len(loaded.plan.servers)


def launches(text: str, overrides: Mapping[str, str] = OVERRIDES) -> dict[str, object]:
    return {s.name: s.launch for s in loads(text, overrides, ENVIRON).plan.servers}


def test_local_servers_of_the_manual_are_started_as_written() -> None:
    assert launches(VIA_CONFIGURATION)["github"] == StdioLaunch(
        "npx", ("-y", "@modelcontextprotocol/server-github"), (("GITHUB_TOKEN", "ghp_..."),)
    )
    assert launches(NODE_SERVER) == {"my_server": StdioLaunch("node", ("server.js",))}


def test_remote_servers_of_the_manual_get_their_placeholders() -> None:
    remote = RemoteLaunch(
        "https://mcp.example.com/mcp?api_key=the-key-9f3Z",
        (("Authorization", "Bearer the-token-7c1Q"), ("x-workspace", "team-a")),
    )
    assert launches(SECRETS) == {"linear_remote": remote}


def test_the_manuals_entry_with_command_and_url_is_what_its_transport_says() -> None:
    assert launches(OPTIONS) == {
        "my_server": RemoteLaunch("https://mcp.example.com/mcp", (("x-api-key", "the-key-9f3Z"),))
    }


def test_a_server_overrides_the_global_timeout_and_only_that_server() -> None:
    servers = {s.name: s.limits.request_timeout_secs for s in loads(VIA_CONFIGURATION, OVERRIDES, ENVIRON).plan.servers}
    assert servers == {"filesystem": 30, "github": 90, "remote_api": 30}


def test_oauth_of_the_manual_is_planned_with_all_its_keys() -> None:
    launch = launches(OAUTH)["private_api"]
    assert isinstance(launch, RemoteLaunch)
    assert dict(launch.oauth) == {
        "client_id": "your-client-id",
        "auth_url": "https://auth.example.com/authorize",
        "token_url": "https://auth.example.com/token",
        "scopes": ("mcp:read", "mcp:write"),
    }


def test_only_a_sanitized_url_and_names_are_shown() -> None:
    (server,) = loads(SECRETS, OVERRIDES, ENVIRON).plan.servers
    assert server.shown.url == "https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"
    assert server.shown.header_names == ("Authorization", "x-workspace")
    assert "the-key" not in repr(server)
    assert "the-token" not in repr(server)


def test_without_its_values_the_remote_server_is_invalid_and_names_them() -> None:
    loaded = loads(VIA_CONFIGURATION, {"REMOTE_MCP_KEY": "x"}, ENVIRON)
    problems = {s.name: s.problem for s in loaded.plan.servers}
    assert problems["filesystem"] is problems["github"] is None
    assert "$REMOTE_MCP_TOKEN resolves to nothing" in str(problems["remote_api"])
    assert loaded.plan.servers[2].launch is None
