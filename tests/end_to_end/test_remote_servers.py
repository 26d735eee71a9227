"""Remote servers people run and write into moltis.toml: both transports, both eras, placeholders as in the manual."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, wait_until
from remote_harness import Place, Program, place_in, remote

MODERN = "2026-07-28"


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with place_in(folder) as place:
        yield place


def mcp_requests(program: Program) -> list[dict[str, Any]]:
    """Give the POSTs that a server noted."""
    return program.events("request", method="POST")


@pytest.mark.parametrize("transport", ["streamableHttp", "sse"])
def test_server_everything_is_served_over_both_transports(
    daemon: Daemon, place: Place, node: Path, transport: str
) -> None:
    _, url = place.everything(node, transport)
    daemon.write({"e": {"url": url, "transport": "sse"}}, mcp={"heartbeat_interval_secs": 0.5})
    status = daemon.start().wait_for("e", "ready")
    assert status["protocol_version"] == "2025-11-25"
    assert status["server_info"]["name"]
    assert daemon.text("e", "echo", message="Grüße 👋") == "Echo: Grüße 👋"
    assert daemon.text("e", "get-sum", a=0.1, b=0.2).startswith("The sum of 0.1 and 0.2 is")
    assert status["resource_count"] == len(daemon.rpc("mcp.resources", name="e")) > 0
    wait_until("heartbeats are answered", lambda: daemon.status("e")["last_heartbeat_at"])
    assert daemon.status("e")["restarts"] == 0
    assert daemon.stop() == 0


def test_streamable_http_never_falls_back_to_the_older_transport(daemon: Daemon, place: Place) -> None:
    old = {alias: place.evil("old-sse") for alias in ("streamable-http", "streamable_http", "http")}
    daemon.write({alias: {"url": server.url, "transport": alias} for alias, server in old.items()})
    daemon.start()
    for alias, server in old.items():
        status = daemon.wait_for(alias, "backoff", "cooldown")
        assert status["last_error"]["message"]
        assert server.events("request", method="GET") == []


def test_sse_means_the_older_transport_where_a_server_knows_only_that(daemon: Daemon, place: Place) -> None:
    old = place.evil("old-sse")
    daemon.write({"s": {"url": old.url, "transport": "sse"}})
    daemon.start().wait_for("s", "ready")
    assert daemon.text("s", "echo", message="x") == "x"
    assert [e["tool"] for e in old.events("ran")] == ["echo"]


@pytest.mark.parametrize("flags", [(), ("--json",), ("--stateless",)])
def test_the_sdks_server_speaks_the_new_revision(daemon: Daemon, place: Place, flags: tuple[str, ...]) -> None:
    server = place.http_server(*flags)
    daemon.write({}, mcp={"heartbeat_interval_secs": 0.5})
    daemon.start()
    for transport in ("sse", "streamable-http"):
        before = len(mcp_requests(server))
        daemon.rpc("mcp.add", name="s", url=server.url, transport=transport)
        status = daemon.wait_for("s", "ready")
        assert (status["protocol_version"], status["tool_count"]) == (MODERN, 6)
        assert daemon.text("s", "echo", message="x") == "x"
        sent = json.loads(daemon.text("s", "headers"))
        assert (sent["mcp-protocol-version"], sent["mcp-method"], sent["mcp-name"]) == (MODERN, "tools/call", "headers")
        assert not {"mcp-session-id", "authorization", "cookie"} & set(sent)
        assert daemon.rpc("mcp.read_resource", server="s", uri="fixture://note")["contents"][0]["text"] == "a note"
        prompt = daemon.rpc("mcp.get_prompt", server="s", name="greet", arguments={"name": "Zoë"})
        assert "Zoë" in prompt["messages"][0]["content"]["text"]
        wait_until("a heartbeat", lambda: daemon.status("s")["last_heartbeat_at"])
        daemon.rpc("mcp.remove", name="s")
        wait_until("it is gone", lambda: daemon.states() == {})
        methods = {request.get("mcp-method") for request in mcp_requests(server)[before:]}
        assert "server/discover" in methods
        assert not methods & {"initialize", "ping", None}
    assert server.events("request", method="GET") == []


def test_the_sdks_server_speaks_the_older_revision_when_the_file_says_so(daemon: Daemon, place: Place) -> None:
    server = place.http_server()
    daemon.write({"s": remote(server.url, protocol="legacy")})
    status = daemon.start().wait_for("s", "ready")
    assert status["protocol_version"] == "2025-11-25"
    assert "mcp-session-id" in json.loads(daemon.text("s", "headers"))
    assert daemon.stop() == 0
    assert server.events("request", method="DELETE"), "the session was not ended"


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_a_new_tool_is_seen_when_it_is_announced(daemon: Daemon, place: Place, protocol: str) -> None:
    server = place.http_server()
    daemon.write({"s": remote(server.url, protocol=protocol)}, mcp={"heartbeat_interval_secs": 60.0})
    daemon.start().wait_for("s", "ready")
    if protocol == "legacy":
        wait_until("the GET stream is open", lambda: server.events("request", method="GET", status=200))
    else:
        listening = {"mcp-method": "subscriptions/listen"}
        wait_until("it listens", lambda: server.events("request", status=200, **listening))
    daemon.text("s", "grow", name="grown")
    wait_until("the tool is listed", lambda: "grown" in {t["name"] for t in daemon.rpc("mcp.tools", name="s")})
    assert daemon.text("s", "grown") == "grown"


def test_an_era_is_found_out_by_asking(daemon: Daemon, place: Place) -> None:
    programs = {"both": place.evil(), "old": place.evil("legacy"), "new": place.evil("modern")}
    daemon.write({name: remote(program.url) for name, program in programs.items()})
    running = daemon.start().wait_all()
    versions = {name: status["protocol_version"] for name, status in running.items()}
    assert versions == {"both": MODERN, "old": "2025-11-25", "new": MODERN}
    assert {daemon.text(name, "echo", message=name) for name in programs} == set(programs)


MANUAL = """
[env]
REMOTE_MCP_KEY = "k-URL-0123456789"
REMOTE_MCP_TOKEN = "t-HEADER-0123456789"

[mcp]
request_timeout_secs = 30

[mcp.servers.remote_api]
transport = "sse"
url = "https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"
headers = { Authorization = "Bearer ${REMOTE_MCP_TOKEN}" }

[mcp.servers.my_server]
# Optional: remote transport
transport = "sse"               # "stdio" (default) or "sse"
url = "https://mcp.example.com/mcp"  # Required when transport = "sse"
headers = { "x-api-key" = "$REMOTE_MCP_KEY" }  # Optional request headers

[mcp.servers.slow_api]
transport = "sse"
url = "https://mcp.example.com/mcp"
request_timeout_secs = 120

[mcp.servers.linear_remote]
transport = "sse"
url = "https://mcp.example.com/mcp?api_key=$REMOTE_MCP_KEY"
headers = {
  Authorization = "Bearer ${REMOTE_MCP_TOKEN}",
  "x-workspace" = "team-a",
}
"""
"""The manual's remote examples, letter for letter but for the second `remote_api`, which has another name here."""

SENT = {
    "remote_api": ("/mcp?api_key=k-URL-0123456789", {"authorization": "Bearer t-HEADER-0123456789"}),
    "my_server": ("/mcp", {"x-api-key": "k-URL-0123456789"}),
    "slow_api": ("/mcp", {}),
    "linear_remote": (
        "/mcp?api_key=k-URL-0123456789",
        {"authorization": "Bearer t-HEADER-0123456789", "x-workspace": "team-a"},
    ),
}


@pytest.mark.parametrize("mode", ["modern", "legacy"])
def test_the_manuals_urls_and_headers_are_sent_as_written_there(daemon: Daemon, place: Place, mode: str) -> None:
    server = place.evil(mode)
    daemon.rewrite(MANUAL.replace("https://mcp.example.com", server.url.removesuffix("/mcp")))
    daemon.config.chmod(0o600)
    running = daemon.start().wait_all()
    for name in SENT:
        assert daemon.text(name, "echo", message=name) == name
    assert [sent(event) for event in server.events("request") if sent(event) not in SENT.values()] == []
    called = [sent(event) for event in server.events("request", mcp="tools/call")]
    assert called == list(SENT.values())
    for name, (target, headers) in SENT.items():
        status = running[name]
        assert (status["header_count"], {h.lower() for h in status["header_names"]}) == (len(headers), set(headers))
        assert status["url"] == server.url + ("?api_key=$REMOTE_MCP_KEY" if "?" in target else "")
    assert running["slow_api"]["request_timeout_secs"] == 120
    assert daemon.stop() == 0
    for secret in ("k-URL-0123456789", "t-HEADER-0123456789"):
        assert secret not in json.dumps(running)
        assert secret not in daemon.said()
        assert secret not in daemon.log_text()


def sent(event: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Give what a request carried of what moltis.toml says: its target, and the headers named there."""
    headers = {name.lower(): value for name, value in event["headers"].items()}
    return event["target"], {n: v for n, v in headers.items() if n in ("authorization", "x-api-key", "x-workspace")}


def test_a_placeholder_that_resolves_to_nothing_sends_nothing(daemon: Daemon, place: Place) -> None:
    server = place.evil()
    daemon.env["MISSING_KEY"] = "only-in-the-process"
    daemon.write(
        {
            "url": remote(server.url + "?key=$MISSING_KEY"),
            "header": remote(server.url, headers={"x-key": "${MISSING_KEY}"}),
            "named": remote(server.url, headers={"x-key": "${env:MISSING_KEY}"}),
            "default": remote(server.url, headers={"x-key": "${MISSING_KEY:-fallback}"}),
        }
    )
    daemon.start()
    for name in ("url", "header"):
        status = daemon.wait_for(name, "invalid")
        assert "MISSING_KEY" in status["last_error"]["message"]
    for name in ("named", "default"):
        daemon.wait_for(name, "ready")
    keys = {event["headers"].get("X-Key") or event["headers"].get("x-key") for event in server.events("request")}
    assert keys == {"only-in-the-process", "fallback"}


def test_headers_that_are_the_protocols_own_are_refused(daemon: Daemon, place: Place) -> None:
    server = place.evil()
    headers = ("Mcp-Session-Id", "accept", "CONTENT-TYPE")
    daemon.write({header: remote(server.url, headers={header: "x"}) for header in headers})
    daemon.start()
    for header in headers:
        assert daemon.wait_for(header, "invalid")["last_error"]
    assert server.events("request") == []
