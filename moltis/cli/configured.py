"""The servers that moltis.toml names, read with the TOML parser alone.

For answers that must be quick and may be rough while no daemon runs; whether an entry is right is `config check`'s
business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20
"""A configuration is a few kilobytes; more is a mistake, or a trap for the parser."""


@dataclass(frozen=True, slots=True)
class ConfiguredServer:
    """One `[mcp.servers.NAME]`, roughly."""

    name: str
    transport: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class Configured:
    """What could be read; `problem` says what could not, `hint` which command helps."""

    servers: tuple[ConfiguredServer, ...] = ()
    problem: str = ""
    hint: str = ""


def read_servers(path: Path) -> Configured:
    """Read the names; never raises."""
    import tomli

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            return Configured(problem=f"{path}: larger than {MAX_BYTES} bytes", hint="moltis config check")
        document = tomli.loads(raw.decode("utf-8"))
    except FileNotFoundError:
        return Configured(problem=f"{path}: no such file", hint="moltis init")
    except OSError as error:
        return Configured(problem=f"{path}: {error.strerror}", hint="moltis config check")
    except (ValueError, RecursionError):
        return Configured(problem=f"{path}: not valid TOML", hint="moltis config check")
    return Configured(servers=tuple(_servers(document)))


def _servers(document: dict[str, Any]) -> list[ConfiguredServer]:
    mcp = document.get("mcp")
    entries = mcp.get("servers") if isinstance(mcp, dict) else None
    if not isinstance(entries, dict):
        return []
    return [
        ConfiguredServer(name, _transport(entry), entry.get("enabled") is not False)
        for name, entry in entries.items()
        if isinstance(entry, dict)
    ]


def _transport(entry: dict[str, Any]) -> str:
    written = entry.get("transport")
    if isinstance(written, str):
        return "streamable-http" if written in ("http", "streamable_http") else written
    return "stdio" if "command" in entry or "url" not in entry else "sse"
