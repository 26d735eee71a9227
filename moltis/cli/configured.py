"""The servers that moltis.toml names, without the checks that cost time.

For answers that must be quick and may be rough while no daemon runs; whether an entry is right is `config check`'s
business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moltis.config import document
from moltis.config.foreign import as_ours
from moltis.config.kinds import KINDS, implied, named
from moltis.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ConfiguredServer:
    """One `[mcp.servers.NAME]`, or a project's own, roughly."""

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
    try:
        tables = document.parse(document.read_file(path).text, str(path)).tables
    except ConfigError as error:
        return Configured(problem=error.message, hint=error.hint or "moltis config check")
    return Configured(servers=tuple(_servers(tables)))


def _servers(tables: dict[str, Any]) -> list[ConfiguredServer]:
    sections = [("", tables.get("mcp"))]
    if isinstance(projects := tables.get("projects"), dict):
        sections += [(f"{project}/", section) for project, section in projects.items()]
    return [
        ConfiguredServer(before + name, _transport(entry), {**entry, **as_ours(entry)}.get("enabled") is not False)
        for before, section in sections
        if isinstance(section, dict) and isinstance(entries := section.get("servers"), dict)
        for name, entry in entries.items()
        if isinstance(entry, dict)
    ]


def _transport(entry: dict[str, Any]) -> str:
    written = entry.get("transport")
    if isinstance(written, str):
        kind = named(written)
        return written if kind is None else kind.name
    return next(iter(implied(entry)), KINDS["stdio"]).name
