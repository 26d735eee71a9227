"""How a daemon shows its servers, beside what they list: what stands in for it shows no more.

    known/_shown.json  {"format":1,"config":"/home/me/.config/moltis/moltis.toml","separator":"__","servers":[...]}

moltis.toml alone does not say it: it may be damaged by now, or another one than the daemon was started with.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from moltis.config.plan import Plan, ServerPlan, ToolSeparator
from moltis.gateway.views import Project, projects_of

_FORMAT: Final = 1


def mark(plan: ServerPlan) -> str:
    """Name an entry of moltis.toml as it is written; what is known under another mark is of another server.

    No secret goes into it, so neither do the values of arguments: a server that is ready is asked anyway. Nor does what
    is not written there: the environment of a daemon and that of `moltis connect` are not the same.
    """
    written = replace(plan.shown, env_withheld=(), env_sources=())
    return sha256(msgspec.json.encode([plan.transport, plan.protocol, written])).hexdigest()


class ShownServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One server. mark: as `mark` says. invalid: its entry could not be used. include, exclude: as in moltis.toml."""

    name: str
    mark: str
    enabled: bool = True
    invalid: bool = False
    display_name: str | None = None
    transport: str = "stdio"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    label: str | None = None


class Showing(msgspec.Struct, frozen=True):
    """All of them, in their order. config: the moltis.toml that says so."""

    config: str = ""
    separator: ToolSeparator = "__"
    name_chars: int = 50
    servers: tuple[ShownServer, ...] = ()
    projects: tuple[Project, ...] = ()
    format: int = _FORMAT


def showing_of(plan: Plan) -> Showing:
    """Return how the servers of a plan are shown; none is where the gateway is switched off."""
    servers = (
        ShownServer(
            server.name,
            mark(server),
            server.enabled,
            server.problem is not None,
            server.display_name,
            server.transport,
            server.include_tools,
            server.exclude_tools,
            server.label,
        )
        for server in plan.servers
        if plan.gateway.enabled
    )
    gateway = plan.gateway
    projects = projects_of(plan) if plan.projects and gateway.enabled else ()
    return Showing(str(plan.path or ""), gateway.tool_separator, gateway.tool_name_chars, tuple(servers), projects)


def as_shown(now: Showing | None, before: Showing | None) -> Showing:
    """Return how a daemon would show its servers.

    now: by the moltis.toml that is there, None if it cannot be read. before: by the last daemon, as far as is known.
        Whatever there is now does not count where the daemon went by another file.
    """
    if now is None or (before is not None and before.config != now.config):
        return before or Showing()
    # Whether a placeholder has a value is for the daemon to say, whose environment it is looked up in.
    invalid = {(s.name, s.mark) for s in before.servers if s.invalid} if before is not None else set()
    servers = (msgspec.structs.replace(s, invalid=(s.name, s.mark) in invalid) for s in now.servers)
    return msgspec.structs.replace(now, servers=tuple(servers))


def read_showing(data: bytes) -> Showing:
    """Read a file's content; whatever is wrong with it is one of `records.MALFORMED`."""
    showing = msgspec.json.decode(data, type=Showing)
    if showing.format != _FORMAT:
        raise ValueError("not a file of this version")
    return showing
