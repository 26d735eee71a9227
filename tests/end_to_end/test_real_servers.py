"""Servers that people use, started as their manuals say: two from PyPI (both eras), three from npm (2025-11-25)."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import PYTHON, TEE, Daemon, wait_until
from processes import alive, descendants

CALLS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "time": [
        ("convert_time", {"source_timezone": "Europe/Kyiv", "time": "12:30", "target_timezone": "Asia/Kathmandu"}),
        ("get_current_time", {"timezone": "Pacific/Chatham"}),
        ("get_current_time", {"timezone": "Not/AZone"}),
    ],
    "git": [("git_log", {"repo_path": "REPO", "max_count": 5}), ("git_status", {"repo_path": "REPO"})],
    "everything": [
        ("echo", {"message": "Grüße 👋 \u2028 </script> \u0000 \\ \" 1e400"}),
        ("get-tiny-image", {}),
        ("get-structured-content", {"location": "New York"}),
        ("get-annotated-message", {"messageType": "error", "includeImage": True}),
        ("get-sum", {"a": 0.1, "b": 1e300}),
        ("get-resource-links", {"count": 3}),
    ],
    "filesystem": [
        ("read_text_file", {"path": "FILES/a.txt"}),
        ("directory_tree", {"path": "FILES"}),
        ("read_text_file", {"path": "/etc/hostname"}),
    ],
    "memory": [
        ("create_entities", {"entities": [{"name": "Zoë", "entityType": "cat", "observations": ["naps", "7.0"]}]}),
        ("read_graph", {}),
    ],
}  # fmt: skip
"""What each is asked. `REPO` and `FILES` stand for folders of the test."""


class Response(msgspec.Struct):
    """The members of a JSON-RPC response, results kept as the bytes they were."""

    id: int | str | None = None
    method: str | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


def results_sent(received: Path) -> list[bytes]:
    """Give every result in what a server wrote, verbatim and in order."""
    found = []
    for line in received.read_bytes().split(b"\n")[:-1]:  # the last one may be half written
        response = msgspec.json.decode(line, type=Response)
        if bytes(response.result):
            found.append(bytes(response.result))
    return found


def command_of(name: str, places: dict[str, str]) -> list[str]:
    scripts = Path(sysconfig.get_path("scripts"))
    npx = ["npx", "-y"]
    return {
        "time": [PYTHON, "-m", "mcp_server_time"],
        "git": [str(scripts / "mcp-server-git"), "--repository", places["REPO"]],
        "everything": [*npx, "@modelcontextprotocol/server-everything"],
        "filesystem": [*npx, "@modelcontextprotocol/server-filesystem", places["FILES"]],
        "memory": [*npx, "@modelcontextprotocol/server-memory"],
    }[name]


@pytest.fixture
def places(folder: Path) -> dict[str, str]:
    """A folder with files and a git repository with two commits."""
    files, repo = folder / "files", folder / "repo"
    files.mkdir()
    repo.mkdir()
    (files / "a.txt").write_text("first\n\ttab “quotes” \x7f\nlast, without newline")
    identity = ["-c", "user.name=Tester", "-c", "user.email=t@example.com"]
    for words in (
        ["init", "-q"],
        ["commit", "-q", "--allow-empty", "-m", "first"],
        ["commit", "-q", "--allow-empty", "-m", "second ✓"],
    ):
        subprocess.run(["git", *identity, *words], cwd=repo, check=True, capture_output=True)
    return {"REPO": str(repo), "FILES": str(files)}


def entry(daemon: Daemon, name: str, node: Path, places: dict[str, str], *, teed: bool) -> dict[str, Any]:
    """Give the server's entry; teed, every byte that passes is kept in the folder `name`."""
    argv = command_of(name, places)
    if teed:
        (daemon.folder / name).mkdir()
        argv = [PYTHON, "-S", "-E", str(TEE), str(daemon.folder / name), *argv]
    env = {"npm_config_offline": "true", "MEMORY_FILE_PATH": str(daemon.folder / "memory.jsonl")}
    return daemon.real(*argv, env=env, cwd=str(node))


def substituted(arguments: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    text = json.dumps(arguments)
    for word, path in places.items():
        text = text.replace(word, path)
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_tools_are_given_as_the_server_sent_them_and_results_byte_for_byte(
    daemon: Daemon, name: str, node: Path, places: dict[str, str]
) -> None:
    daemon.write({name: entry(daemon, name, node, places, teed=True)}, mcp={"startup_timeout_secs": 60.0})
    status = daemon.start().wait_for(name, "ready")
    received = daemon.folder / name / "received"
    listed = [r for r in map(json.loads, results_sent(received)) if "tools" in r]
    assert [{**t, "server": name} for t in listed[-1]["tools"]] == daemon.rpc("mcp.tools")
    assert status["tool_count"] == len(listed[-1]["tools"])
    for tool, template in CALLS[name]:
        arguments = substituted(template, places)
        with daemon.connect() as client:
            line = client.call_raw("mcp.call", {"server": name, "tool": tool, "arguments": arguments})
        on_the_socket = bytes(msgspec.json.decode(line, type=Response).result)
        assert on_the_socket in results_sent(received), tool
        printed = daemon.cli("mcp", "call", f"{name}.{tool}", "--json", json.dumps(arguments))
        assert printed.returncode == (1 if json.loads(printed.stdout).get("isError") else 0), printed.stderr
        assert printed.stdout.encode().removesuffix(b"\n") in results_sent(received), tool


def test_all_five_and_the_manuals_own_run_side_by_side_in_their_eras(
    daemon: Daemon, node: Path, places: dict[str, str], manual_server: Path
) -> None:
    servers = {name: entry(daemon, name, node, places, teed=False) for name in CALLS}
    servers["my_server"] = daemon.real("node", "server.js", cwd=str(manual_server))
    beat = {"heartbeat_interval_secs": 1.0, "heartbeat_timeout_secs": 2.0, "startup_timeout_secs": 60.0}
    daemon.write(servers, mcp=beat)
    running = daemon.start().wait_all("ready", within=90)
    versions = {name: s["protocol_version"] for name, s in running.items()}
    assert versions == {
        "time": "2025-11-25", "git": "2025-11-25", "everything": "2025-11-25", "filesystem": "2025-11-25",
        "memory": "2025-11-25", "my_server": "2025-11-25",
    }  # fmt: skip
    assert running["my_server"]["server_info"]["name"] == "my-server"
    assert daemon.text("my_server", "hello", name="World") == "Hello, World!"
    wait_until("all have answered a heartbeat", lambda: all(s["last_heartbeat_at"] for s in daemon.rpc("mcp.list")))
    assert {s["restarts"] for s in daemon.rpc("mcp.list")} == {0}
    assert all(s["heartbeat_latency_ms"] > 0 for s in daemon.rpc("mcp.list"))
    everyone = [p for s in running.values() for p in (s["pid"], *descendants(s["pid"]))]
    assert daemon.stop() == 0
    daemon.assert_nothing_left()
    assert not any(map(alive, everyone))


def test_a_server_of_the_new_era_is_asked_neither_to_initialize_nor_for_ping(
    daemon: Daemon, node: Path, places: dict[str, str]
) -> None:
    daemon.write(
        {
            "time": entry(
                daemon,
                "time",
                node,
                places,
                teed=True,
            )
            | {"protocol": "2026-07-28"}
        },
        mcp={"heartbeat_interval_secs": 0.3},
    )
    daemon.start().wait_for("time", "ready")
    wait_until("heartbeats", lambda: daemon.status("time")["last_heartbeat_at"])
    sent = [json.loads(line) for line in (daemon.folder / "time" / "sent").read_bytes().split(b"\n")[:-1]]
    methods = {m.get("method") for m in sent}
    assert "server/discover" in methods
    assert not methods & {"initialize", "ping", "notifications/initialized"}
    assert all("_meta" in m["params"] for m in sent if "id" in m and "method" in m)


@pytest.mark.parametrize(
    ("protocol", "spoken"),
    [
        pytest.param("auto", "2025-11-25", marks=pytest.mark.alone),  # one that takes long to begin is asked both
        ("legacy", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
    ],
)
def test_a_server_of_both_eras_is_asked_to_initialize_alone(
    daemon: Daemon, node: Path, places: dict[str, str], protocol: str, spoken: str
) -> None:
    daemon.write({"time": {**entry(daemon, "time", node, places, teed=True), "protocol": protocol}})
    status = daemon.start().wait_for("time", "ready")
    assert status["protocol_version"] == spoken
    sent = (daemon.folder / "time" / "sent").read_text()
    assert "server/discover" not in sent
    assert daemon.call("time", "get_current_time", timezone="UTC")["content"]


def test_resources_and_prompts_come_through(daemon: Daemon, node: Path, places: dict[str, str]) -> None:
    daemon.write({"e": entry(daemon, "everything", node, places, teed=False)}, mcp={"startup_timeout_secs": 60.0})
    status = daemon.start().wait_for("e", "ready")
    resources, prompts = daemon.rpc("mcp.resources", name="e"), daemon.rpc("mcp.prompts", name="e")
    assert (status["resource_count"], status["prompt_count"]) == (len(resources), len(prompts))
    assert resources
    assert {r["server"] for r in resources} == {"e"}
    read = daemon.rpc("mcp.read_resource", server="e", uri=resources[0]["uri"])
    assert read["contents"][0]["uri"] == resources[0]["uri"]
    simple = next(p for p in prompts if not p.get("arguments"))
    assert daemon.rpc("mcp.get_prompt", server="e", name=simple["name"])["messages"]
