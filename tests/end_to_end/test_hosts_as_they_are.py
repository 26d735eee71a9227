"""What hosts get of servers that are not all as MCP has it, and what is seen of the hosts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_harness import GUARDED, gateway_url, new_token, start
from harness import PYTHON, Daemon, wait_until
from raw_hosts import BOTH_ERAS, HttpHost, PipeHost

SERVER = """
import json, sys
TOOLS = json.loads(sys.argv[1])
for line in sys.stdin:
    ask = json.loads(line)
    match ask["method"]:
        case "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "instructions": sys.argv[2],
                      "serverInfo": {"name": "x", "version": "1"}}
        case "tools/list":
            result = {"tools": TOOLS}
        case "tools/call":
            result = {"content": [{"type": "text", "text": ask["params"]["name"]}]}
        case _:
            result = {}
    if "id" in ask:
        print(json.dumps({"jsonrpc": "2.0", "id": ask["id"], "result": result}), flush=True)
"""
OBJECT = {"type": "object"}


def server(*tools: Any, instructions: str = "") -> dict[str, Any]:
    """Return the entry of a server that lists these tools."""
    return {"command": PYTHON, "args": ["-c", SERVER, json.dumps(tools), instructions]}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": OBJECT, **more}


@pytest.mark.parametrize("era", BOTH_ERAS)
def test_a_malformed_tool_is_told_of_and_costs_the_others_nothing(daemon: Daemon, era: str) -> None:
    bad = server(tool("ok"), tool("x", inputSchema={"type": "string"}), tool("y", description=5, title=None))
    start(daemon, {"good": server(tool("t0"), tool("t1")), "bad": bad})
    daemon.wait_all()
    with HttpHost(gateway_url(daemon), era) as host:
        tools = host.request("tools/list")["result"]["tools"]
        assert host.text("bad__y") == "y"
    assert [found["name"] for found in tools] == ["good__t0", "good__t1", "bad__ok", "bad__y"]
    assert "description" not in tools[-1]
    with HttpHost(gateway_url(daemon, "bad"), era) as host:
        assert host.request("tools/list")["result"]["tools"][2]["description"] == 5
    assert [(each["kind"], each["name"]) for each in daemon.status("bad")["unusable_items"]] == [
        ("tool", "x"), ("tool", "y"),
    ]  # fmt: skip
    assert daemon.status("good")["unusable_items"] == []
    wait_until("it is logged", lambda: [r for r in daemon.records() if r["message"] == "unusable_items"])
    assert len([r for r in daemon.records() if r["message"] == "unusable_items"]) == 1
    findings = json.loads(daemon.cli("doctor", "--json").stdout)["findings"]
    told = [each for each in findings if each["message"].startswith("bad: 2 ")]
    assert [each["verdict"] for each in told] == ["warn"]
    assert "inputSchema is not of type object" in told[0]["message"]


def test_the_record_of_a_call_says_whose_it_was(daemon: Daemon) -> None:
    start(daemon, {"s": server(tool("t"))}, GUARDED)
    daemon.wait_all()
    for era in BOTH_ERAS:
        with HttpHost(gateway_url(daemon), era, new_token(daemon, era)) as host:
            host.text("s__t")
    with PipeHost(daemon) as pipe:
        pipe.begin()
        pipe.request("tools/call", {"name": "s__t"}, 1)
    daemon.rpc("mcp.call", server="s", tool="t")
    found = wait_until(
        "the calls are logged",
        lambda: calls if len(calls := daemon.records("moltis.mcp.call")) == 2 + len(BOTH_ERAS) else None,
    )
    assert {found[0]["message"]} == {each["message"] for each in found} == {"tool_called"}
    raw = {"name": "raw-host", "version": "1"}
    pipe_host = {"name": "pipe", "version": "1", "era": "legacy", "token": None}
    assert [each["fields"]["host"] for each in found] == [
        *({**raw, "era": era, "token": era} for era in BOTH_ERAS), pipe_host, None,
    ]  # fmt: skip
    assert "s: t ok in" in (words := daemon.cli("logs").stdout)
    assert ", for raw-host 1 (token legacy)" in words


@pytest.mark.parametrize("era", BOTH_ERAS)
def test_a_tool_that_needs_what_its_host_lacks_is_not_offered_to_it(daemon: Daemon, era: str) -> None:
    needs: dict[str, Any] = {"_meta": {"io.modelcontextprotocol/requiredCapabilities": {"sampling": {}}}}
    start(daemon, {"s": server(tool("plain"), tool("samples", **needs))})
    daemon.wait_all()
    with HttpHost(gateway_url(daemon), era) as host, HttpHost(gateway_url(daemon), era, sampling={}) as able:
        for _ in range(2):
            assert [each["name"] for each in host.request("tools/list")["result"]["tools"]] == ["s__plain"]
            assert [each["name"] for each in able.request("tools/list")["result"]["tools"]] == [
                "s__plain",
                "s__samples",
            ]
        assert able.text("s__samples") == "samples"
        assert "needs sampling, which this host does not have" in json.dumps(host.call("s__samples").reply())
        assert host.text("s__plain") == "plain"


@pytest.mark.parametrize("era", BOTH_ERAS)
def test_every_server_has_its_share_of_what_hosts_keep_of_instructions(daemon: Daemon, era: str) -> None:
    servers = {f"s{n}": server(tool("t"), instructions=f"warning {n} " + "x" * 1400) for n in range(4)}
    start(daemon, {**servers, "typo": {"command": "x", "url": "https://x.example"}})
    wait_until("all are up", lambda: [daemon.status(name)["state"] for name in servers] == ["ready"] * 4)
    with HttpHost(gateway_url(daemon), era) as host:
        method = "server/discover" if era == "modern" else "initialize"
        opening = host.request(method, {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}})
        told = opening["result"]["instructions"]
        listed = [found["uri"] for found in host.request("resources/list")["result"]["resources"]]
        read = host.request("resources/read", {"uri": "moltis://instructions/s3"})
        whole = read["result"]["contents"][0]["text"]
    assert len(told) <= 2000
    assert all(f"warning {n} " in told for n in range(4))
    assert "typo (its entry in moltis.toml is wrong: moltis config check)" in told
    assert listed == [f"moltis://instructions/s{n}" for n in range(4)]
    assert whole == "warning 3 " + "x" * 1400
