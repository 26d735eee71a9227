"""What a daemon says, for tests of what the command line makes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any


def ago(seconds: float) -> str:
    """Give the RFC 3339 instant so many seconds before now; after it when negative."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def server(name: str, state: str, **more: Any) -> dict[str, Any]:
    """Give a server status as the daemon sends it."""
    connected = {"ready": "connected", "backoff": "error", "cooldown": "error", "invalid": "error"}
    base: dict[str, Any] = {
        "name": name,
        "display_name": None,
        "transport": "stdio",
        "enabled": state != "disabled",
        "state": state,
        "status": "error" if state == "awaiting_auth" else connected.get(state, "disconnected"),
        "pid": None,
        "url": None,
        "header_names": [],
        "header_count": 0,
        "command": "npx",
        "arg_count": 2,
        "env_names": [],
        "tool_count": 0,
        "resource_count": 0,
        "prompt_count": 0,
        "server_info": None,
        "protocol_version": None,
        "auth_state": "not_required",
        "auth_url": None,
        "attempts": 0,
        "max_restart_attempts": 5,
        "restarts": 0,
        "next_retry_at": None,
        "started_at": None,
        "ready_since": None,
        "last_error": None,
        "recent_errors": [],
        "last_heartbeat_at": None,
        "heartbeat_latency_ms": None,
        "request_timeout_secs": 30.0,
    }
    return {**base, **more}


def failure(**more: Any) -> dict[str, Any]:
    base = {"kind": "exited", "message": "it ended with exit code 1", "at": ago(20), "exit_code": 1, "stderr_tail": []}
    return {**base, **more}


DAEMON: dict[str, Any] = {
    "name": "moltis",
    "version": "0.1.0",
    "pid": 4711,
    "started_at": "2026-11-21T09:00:00Z",
    "uptime_secs": 8100.4,
    "config_path": "/etc/moltis.toml",
    "data_dir": "/var/moltis",
    "socket_path": "/var/moltis/run/moltis.sock",
    "gateway_url": None,
    "gateway_problem": None,
    "servers": {"total": 4},
}


def mixed() -> list[dict[str, Any]]:
    """Give one server of each kind of row. The half seconds keep countdowns off the edge of a second."""
    return [
        server("filesystem", "ready", tool_count=14, ready_since=ago(8100.5), pid=4712),
        server("linear", "awaiting_auth", transport="streamable-http"),
        server("flaky", "backoff", attempts=3, restarts=3, next_retry_at=ago(-32.9), last_error=failure()),
        server(
            "typo", "invalid", last_error=failure(kind="config", message="no value for $GITHUB_TOKEN", exit_code=None)
        ),
        server("old", "disabled"),
    ]


TOOLS: list[dict[str, Any]] = [
    {
        "name": "add",
        "description": "Add two numbers.\nIn detail.",
        "inputSchema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "note": {"type": "string"}},
            "required": ["a", "b"],
        },
        "server": "calc",
    },
    {"name": "now", "inputSchema": {"type": "object"}, "server": "calc"},
]
