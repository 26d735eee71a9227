"""Why a host does not see a tool: what keeps it out of a view, changes its name, or is too much for that host. Pure.

Asked by a person, about one tool; every answer has the command, or the line of moltis.toml, that changes it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal

import msgspec

from moltis.config.plan import Plan, ServerPlan
from moltis.config.projects import project_named, rows_of
from moltis.gateway.naming import MAX_TAKEN_CHARS, fitted, fitted_chars, join
from moltis.gateway.views import path_of
from moltis.gateway.wellformed import checked
from moltis.names import did_you_mean, entry_of, split_name
from moltis.server import mending
from moltis.server.states import LISTED, State
from moltis.server.status import ServerStatus
from moltis.session.listing import Item, Kind, ToolFilter

Why = Literal[
    "not_running", "other_project", "disabled", "excluded", "cap", "invalid", "filtered", "no_such_tool", "malformed",
    "renamed", "name_too_long", "too_many_tools",
]  # fmt: skip


class Limits(msgspec.Struct, frozen=True):
    """What a host takes, where moltis is called `moltis`. name_chars: of a tool's name here. tools: 0: any number."""

    name_chars: int
    tools: int = 0


HOSTS: Final[Mapping[str, Limits]] = {
    "claude-code": Limits(MAX_TAKEN_CHARS - len("mcp__moltis__"), 128),
    "codex": Limits(MAX_TAKEN_CHARS - len("mcp__moltis__"), 128),
    "cursor": Limits(60 - len("moltis"), 80),
    "vscode": Limits(MAX_TAKEN_CHARS, 128),
    "gemini": Limits(MAX_TAKEN_CHARS),
    "zed": Limits(MAX_TAKEN_CHARS),
}
"""By the names that `moltis why --host` takes."""


class Reason(msgspec.Struct, frozen=True):
    """One thing that keeps a tool from being seen, or changes it. mends: the command or line that changes that."""

    kind: Why
    told: str
    mends: str


class Answer(msgspec.Struct, frozen=True):
    """Whether a tool is seen at a path, and as what. reasons: why not, and what else there is to know."""

    server: str
    tool: str
    path: str
    name: str
    seen: bool
    reasons: list[Reason]


def explain(
    plan: Plan,
    status: ServerStatus,
    tool: str,
    offered: Mapping[str, Collection[str]],
    project: str | None = None,
    host: str | None = None,
    listed: bytes | None = None,
) -> Answer:
    """Say whether the hosts of a project, or of all servers, see a tool, and why not.

    status: of its server. offered: the tools that each server lists by now, filtered, by the servers' names.
    listed: the tool itself, as its server lists it, if it is known.

    Raises:
        UnknownProject: there is no such project.
    """
    server = plan.server(status.name) or ServerPlan(status.name)
    project = project if project is not None else server.project
    path, gateway = path_of(project=project), plan.gateway
    label = server.label or split_name(server.name)[1]
    most = fitted_chars(gateway.tool_name_chars)
    name = fitted(label, tool, gateway.tool_separator, most)
    gone = [*_of_project(plan, server, project), *_of_server(server, status, tool, offered.get(server.name))]
    told = list[Reason]()
    if listed is not None:
        left, fault = checked(Kind.TOOLS, Item(tool, listed))
        if fault:
            what = "it is not as MCP has it" if left is None else "it is listed without what is not as MCP has it"
            (gone if left is None else told).append(Reason("malformed", f"{what}: {fault}", _AUTHOR))
    if name != join(split_name(server.name)[1], tool, gateway.tool_separator):
        cut = (
            "label names it so" if name == join(label, tool, gateway.tool_separator) else "tool_name_chars shortens it"
        )
        where = f"label in {entry_of(server.name)}" if cut.startswith("label") else "tool_name_chars in [gateway]"
        told.append(Reason("renamed", f"it is called {name} there: {cut}", f"{where} of moltis.toml"))
    if host is not None:
        limit, count = HOSTS[host], _count(plan, project, offered)
        if len(name) > limit.name_chars:
            most_told = f"its name has {len(name)} characters, and {host} takes {limit.name_chars}"
            gone.append(Reason("name_too_long", most_told, f"tool_name_chars = {limit.name_chars} in [gateway]"))
        if limit.tools and count > limit.tools:
            mends = f"exclude_tools in {entry_of(server.name)}, or moltis connect --server {server.name}"
            gone.append(Reason("too_many_tools", f"{count} tools are listed, and {host} takes {limit.tools}", mends))
    return Answer(server.name, tool, path, name, not gone, [*gone, *told])


def _of_project(plan: Plan, server: ServerPlan, project: str | None) -> list[Reason]:
    if project is None:
        return []
    own = split_name(server.name)[1]
    if server.project not in (None, project):
        told = f"{server.name} is the project {server.project}'s own"
        return [Reason("other_project", told, f"moltis mcp add {project}/{own} -- COMMAND")]
    scope = "global" if server.project is None else "project"
    rows = rows_of(plan, project_named(plan, project))
    reason = next((row.reason for row in rows if (row.server, row.scope) == (own, scope)), None)
    match reason:
        case "excluded":
            told, mends = f"{project} excludes {own}", f"moltis project include {project} {own}"
        case "cap":
            told = f"{project} has its {plan.max_servers_per_project} servers without {own}"
            mends = f"moltis project exclude {project} OTHER, or max_servers_per_project in [mcp] of moltis.toml"
        case State.INVALID:
            told, mends = f"{own} is named like a server of all projects", "moltis config check"
        case _:
            return []  # that it is disabled is its state
    return [Reason(reason, told, mends)]


def _of_server(server: ServerPlan, status: ServerStatus, tool: str, offered: Collection[str] | None) -> list[Reason]:
    found = list[Reason]()
    state = State(status.state)
    if state not in LISTED:
        fallback = f"moltis mcp {'enable' if state is State.DISABLED else 'start'} {server.name}"
        mends = next(iter(mending.commands(status)), "") or fallback
        kind: Why = "disabled" if state is State.DISABLED else "not_running"
        found.append(Reason(kind, f"{server.name} is {state}", " ".join(mends.split())))
    if not ToolFilter(server.include_tools, server.exclude_tools).allows(tool):
        found.append(_filtered(server, tool))
        return found
    if offered is not None and tool not in offered:
        near = did_you_mean(tool[:80], offered)
        found.append(
            Reason("no_such_tool", f"{server.name} lists no such tool{near}", f"moltis mcp tools {server.name}")
        )
    return found


_AUTHOR: Final = "tell its author; moltis connect --server NAME shows it as it is"


def _filtered(server: ServerPlan, tool: str) -> Reason:
    by = [pattern for pattern in server.exclude_tools if fnmatchcase(tool, pattern)]
    if by:
        told = f"exclude_tools leaves it out: {', '.join(by)}"
        changes: dict[str, object] = {"exclude_tools": [each for each in server.exclude_tools if each not in by]}
    else:
        told, changes = "include_tools does not name it", {"include_tools": [*server.include_tools, tool]}
    params = json.dumps({"name": server.name, **changes})
    return Reason("filtered", told, f"moltis rpc mcp.update '{params}'")


def _count(plan: Plan, project: str | None, offered: Mapping[str, Collection[str]]) -> int:
    if project is None:
        return sum(len(tools) for name, tools in offered.items() if split_name(name)[0] is None)
    rows = rows_of(plan, project_named(plan, project))
    return sum(len(offered.get(row.full(project), ())) for row in rows if row.included)
