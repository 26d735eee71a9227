"""What anyone outside may see of a server.

Nothing here can hold a secret: names and numbers, text as written, and messages that passed the scrubber.
"""

from __future__ import annotations

from typing import Any

import msgspec

from moltis.server.states import WANTING


class LastError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a server is not well. `at` is RFC 3339 UTC.

    stderr_tail: of its last lines at most 20, those that tell why first to be kept.
    stdout: what it wrote to stdout that is no MCP message, in words; else null.
    """

    kind: str
    message: str
    at: str
    exit_code: int | None = None
    stderr_tail: list[str] = []
    stdout: str | None = None


class HostSeen(msgspec.Struct, frozen=True, cache_hash=True):
    """A host: what it says of itself, as one printable line each, and its access token; null of `moltis connect`."""

    name: str
    version: str
    era: str
    token: str | None = None


class UnusableItem(msgspec.Struct, frozen=True):
    """Something that a server lists and hosts of all servers do not get as it is.

    kind: tool, resource, "resource template" or prompt. name: the server's own; of a resource or template its URI.
    """

    kind: str
    name: str
    reason: str


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One server as `mcp.status` shows it. Instants are RFC 3339 UTC or null.

    env_withheld: variables for proxies and certificates that the daemon has and the server does not get.
    env_sources: of each variable of `env` where its value comes from, and another has to go: `env set NAME`,
        `[env] NAME`, `environment NAME` (the daemon's), or `moltis.toml`.
    proxy: of a remote server, as written: none, env, or a URL less its password; null of a local one.
    progress: what a start is doing, in words, once it takes longer than a moment; else null.
    remarks: what is odd about a server though it works, a sentence each.
    stdout: what this run of it has written to stdout that is no MCP message, in words; else null. It was passed over.
    hosts: who is connected and sees it, as far as that can be told: with a session, or listening.
    rss_bytes: what its process tree holds in memory, where that can be seen (Linux) and was asked for.
    rss_idle_bytes: of one that is idle, what its process tree held when it was stopped.
    unusable_items: what it lists that is not as MCP has it; hosts of `/mcp` get it without that, or not at all. And
        tools whose names many hosts refuse, where they are not shortened.
    """

    name: str
    display_name: str | None
    transport: str
    enabled: bool
    state: str
    status: str
    pid: int | None = None
    url: str | None = None
    header_names: list[str] = []
    header_count: int = 0
    command: str | None = None
    arg_count: int = 0
    env_names: list[str] = []
    env_withheld: list[str] = []
    env_sources: dict[str, str] = {}
    proxy: str | None = None
    tool_count: int = 0
    resource_count: int = 0
    prompt_count: int = 0
    server_info: dict[str, Any] | None = None
    protocol_version: str | None = None
    auth_state: str = "not_required"
    auth_url: str | None = None
    attempts: int = 0
    max_restart_attempts: int = 5
    restarts: int = 0
    next_retry_at: str | None = None
    started_at: str | None = None
    ready_since: str | None = None
    last_error: LastError | None = None
    recent_errors: list[LastError] = []
    remarks: list[str] = []
    stdout: str | None = None
    unusable_items: list[UnusableItem] = []
    hosts: list[HostSeen] = []
    rss_bytes: int | None = None
    rss_idle_bytes: int | None = None
    progress: str | None = None
    last_heartbeat_at: str | None = None
    heartbeat_latency_ms: float | None = None
    request_timeout_secs: float = 30.0

    @property
    def failing(self) -> bool:
        """Whether the failures before this try still say something of it."""
        return self.last_error is not None and (self.attempts > 0 or self.last_error.kind in WANTING)


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One transition, as `mcp.history` lists it and as one record of logs.jsonl holds it."""

    at: str
    from_: str
    to: str
    reason: str
    attempt: int = 0
    delay_secs: float | None = None
    next_retry_at: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    message: str | None = None
