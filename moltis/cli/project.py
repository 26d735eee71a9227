"""`moltis project list`, `show`, `add`, `remove`, `exclude`, `include`: which servers each project gets.

They are shown and written by hand where no daemon runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from moltis.cli import link, screen
from moltis.cli.commands import LazyGroup, command, json_option
from moltis.cli.table import Cell, render
from moltis.errors import DaemonNotRunning
from moltis.server.states import State

if TYPE_CHECKING:
    from moltis.config.plan import Plan

COMMANDS = {
    "list": ("moltis.cli.project:list_", "List the projects, and what each gets."),
    "show": ("moltis.cli.project:show", "Show which servers a project gets, and why not the others."),
    "add": ("moltis.cli.project:add", "Add a project to moltis.toml."),
    "remove": ("moltis.cli.project:remove", "Take projects out of moltis.toml, with their own servers."),
    "exclude": ("moltis.cli.project:exclude", "Have a project do without servers."),
    "include": ("moltis.cli.project:include", "Exclude servers no more."),
}

group = LazyGroup("project", table=COMMANDS, help="Say which servers each project gets, at /mcp/PROJECT.")

WHY: Final = {
    State.DISABLED: ("disabled", "moltis mcp enable {full}"),
    "excluded": ("excluded", "moltis project include {project} {server}"),
    "cap": ("left out: the cap", "max_servers_per_project in [mcp], or moltis project exclude {project} OTHER"),
    State.INVALID: ("named like another", "moltis config check"),
}
"""Why a project does not get a server, and what changes it."""


def _complete_projects(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return link.project_names(ctx, incomplete)


def _complete_globals(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in link.server_names(ctx, incomplete) if "/" not in name]


def _project_argument(**attrs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.argument("project", metavar="PROJECT", shell_complete=_complete_projects, **attrs)


@command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the projects, their folders, and the servers that each gets."""
    try:
        with link.connect(ctx) as daemon:
            projects = daemon.call("project.list")
    except DaemonNotRunning:
        projects = _all(_plan(ctx))
    if as_json:
        screen.data_json(projects)
    elif projects:
        rows: list[list[str | Cell]] = [
            [screen.one_line(str(each["name"])), screen.one_line(str(each["path"])), ", ".join(each["servers"]) or "-"]
            for each in projects
        ]
        for line in render(("NAME", "PATH", "SERVERS"), rows, width=screen.width(), colour=screen.coloured()):
            screen.data(line)
    else:
        screen.talk("moltis: no projects")
        screen.talk("hint: moltis project add NAME PATH")


@command("show")
@_project_argument()
@json_option
@click.pass_context
def show(ctx: click.Context, project: str, as_json: bool) -> None:
    """Show which servers a project gets, which not and why: its own first, then those of all."""
    try:
        with link.connect(ctx) as daemon:
            rows = daemon.call("project.show", {"name": project})
    except DaemonNotRunning:
        rows = _rows(_plan(ctx), project)
    if as_json:
        screen.data_json(rows)
        return
    if not rows:
        screen.talk(f"moltis: no servers for {project}")
        screen.talk("hint: moltis mcp add NAME -- COMMAND ARGS...")
        return
    shown = [_row(project, row) for row in rows]
    for line in render(("SERVER", "SCOPE", "INCLUDED", "NEXT"), shown, width=screen.width(), colour=screen.coloured()):
        screen.data(line)


def _row(project: str, row: Mapping[str, Any]) -> list[str | Cell]:
    server, scope = str(row["server"]), str(row["scope"])
    if row["included"]:
        return [screen.one_line(server), scope, Cell("yes", "green"), ""]
    said, mends = WHY.get(str(row["reason"]), (str(row["reason"]), ""))
    full = server if scope == "global" else f"{project}/{server}"
    return [
        screen.one_line(server),
        scope,
        Cell(f"no: {said}", "yellow"),
        Cell(mends.format(full=full, project=project, server=server), "cyan"),
    ]


@command("add")
@click.argument("name", metavar="NAME")
@click.argument("path", metavar="[PATH]", default=".")
@click.pass_context
def add(ctx: click.Context, name: str, path: str) -> None:
    """Add a project to moltis.toml, comments kept. PATH is its folder; the current one when left out."""
    folder = os.path.abspath(os.path.expanduser(path))
    where = _change(ctx, "project.add", "add_project", {"name": name, "path": folder})
    screen.talk(f"moltis: added project {name}, {folder}{where}")
    screen.talk(f"hint: `moltis connect` in it shows what it gets: moltis project show {name}")


@command("remove")
@_project_argument(nargs=-1, required=True)
@click.pass_context
def remove(ctx: click.Context, project: tuple[str, ...]) -> None:
    """Take projects out of moltis.toml, and stop their own servers; the folders stay as they are."""
    for name in project:
        where = _change(ctx, "project.remove", "remove_project", {"name": name})
        screen.talk(f"moltis: removed project {name}{where}")


@command("exclude")
@_project_argument()
@click.argument("servers", metavar="SERVER", nargs=-1, required=True, shell_complete=_complete_globals)
@click.pass_context
def exclude(ctx: click.Context, project: str, servers: tuple[str, ...]) -> None:
    """Have a project do without servers that all others get."""
    for server in servers:
        where = _change(ctx, "project.exclude", "exclude_server", {"project": project, "server": server})
        screen.talk(f"moltis: {project} does without {server}{where}")


@command("include")
@_project_argument()
@click.argument("servers", metavar="SERVER", nargs=-1, required=True, shell_complete=_complete_globals)
@click.pass_context
def include(ctx: click.Context, project: str, servers: tuple[str, ...]) -> None:
    """Exclude servers no more."""
    for server in servers:
        where = _change(ctx, "project.include", "include_server", {"project": project, "server": server})
        screen.talk(f"moltis: {project} does not exclude {server}{where}")


def _change(ctx: click.Context, method: str, edit: str, params: Mapping[str, str]) -> str:
    """Have the daemon do it, or write it by hand where none runs; return where, in that case."""
    try:
        with link.connect(ctx, link.CHANGE_SECS) as daemon:
            daemon.call(method, dict(params))
        return ""
    except DaemonNotRunning:
        from moltis.cli import offline

        offline.change_project(link.paths(ctx), edit, *params.values())
        return f", in {link.paths(ctx).config}"


def _plan(ctx: click.Context) -> Plan:
    from moltis.cli import offline

    return offline.load(link.paths(ctx)).plan


def _all(plan: Plan) -> Sequence[Mapping[str, Any]]:
    from moltis.config.projects import all_rows

    return [
        {"name": each.name, "path": each.path, "servers": [row.server for row in rows if row.included]}
        for each, rows in zip(plan.projects, all_rows(plan), strict=True)
    ]


def _rows(plan: Plan, project: str) -> Sequence[Mapping[str, Any]]:
    import msgspec

    from moltis.config.projects import project_named, rows_of

    return [msgspec.structs.asdict(row) for row in rows_of(plan, project_named(plan, project))]
