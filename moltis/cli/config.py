"""`moltis config`: the file, as moltis understands it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from moltis.cli import link, screen
from moltis.cli.commands import LazyGroup, command, json_option
from moltis.config.origins import Origins
from moltis.config.plan import GatewayPlan, Plan, ProjectPlan, ServerPlan
from moltis.config.problem import dotted
from moltis.config.scan import Path
from moltis.errors import ConfigError, ExitCode
from moltis.names import split_name

COMMANDS = {
    "check": ("moltis.cli.config:check", "Check moltis.toml; every problem with its line."),
    "show": ("moltis.cli.config:show", "Show what runs, without its secrets."),
    "path": ("moltis.cli.config:path", "Show where everything is."),
    "schema": ("moltis.cli.config:schema", "Print the JSON Schema of moltis.toml."),
}

group = LazyGroup("config", table=COMMANDS, help="Check and show the configuration.")


@command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> int:
    """Check moltis.toml without starting anything.

    Prints FILE:LINE: KEY: MESSAGE for each problem, and exits 6 if any must be mended.
    """
    from moltis.cli import offline

    paths = link.paths(ctx)
    try:
        loaded = offline.load(paths)
    except ConfigError as error:
        if not as_json:
            raise
        only = {"severity": "error", "file": str(paths.config), "line": None, "key": "", "message": error.message}
        screen.data_json({"ok": False, "problems": [only]})
        return ExitCode.BAD_CONFIG
    wrong = sum(problem.fails_check for problem in loaded.problems)
    if as_json:
        keys = ("severity", "file", "line", "key", "message")
        problems = [
            {key: value if (value := getattr(p, key)) is None or key == "line" else str(value) for key in keys}
            for p in loaded.problems
        ]
        screen.data_json({"ok": not wrong, "problems": problems})
    else:
        for problem in loaded.problems:
            kind = "" if problem.fails_check else " (warning)"
            screen.data(screen.one_line(f"{problem}{kind}"))
        count = len(loaded.plan.servers)
        verdict = f"{wrong} to mend" if wrong else "ok"
        screen.talk(f"moltis: {paths.config}: {verdict}, {count} server{'s' if count != 1 else ''}")
    return ExitCode.BAD_CONFIG if wrong else ExitCode.OK


@command("path")
@json_option
@click.pass_context
def path(ctx: click.Context, as_json: bool) -> None:
    """Show every path that this command line would use."""
    paths = link.paths(ctx)
    named = {
        "config": str(paths.config),
        "data_dir": str(paths.data_dir),
        "socket": str(paths.socket),
        "log": str(paths.log),
        "oauth_dir": str(paths.oauth_dir),
        "env_overrides": str(paths.env_overrides),
    }
    if as_json:
        screen.data_json(named)
        return
    for key, value in named.items():
        screen.data(f"{key:<14} {screen.printable(value)}")


@command("schema")
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of moltis.toml, which is JSON with and without `--json`."""
    from moltis.config.keys import schema as build

    screen.data_json(build())


@command("show")
@json_option
@click.pass_context
def show(ctx: click.Context, as_json: bool) -> None:
    """Show the configuration as moltis understands it, defaults filled in and secrets left out.

    Says of each value where it comes from: the file with its line, a variable of the environment, or the default.
    """
    from moltis.cli import offline

    paths = link.paths(ctx)
    document = shown(offline.load(paths).plan)
    origins = offline.origins(paths)
    if as_json:
        told = {dotted(path): dataclasses.asdict(origins.of(_written(path))) for path, _ in _values(document)}
        screen.data_json({**document, "origins": told})
    else:
        screen.data(screen.printable("\n".join(_toml(document, origins)).lstrip("\n")))


def shown(plan: Plan) -> dict[str, Any]:
    """Return the plan as a document with the sections and keys of moltis.toml, and names for what may be secret."""
    daemon = msgspec.structs.asdict(plan.daemon)
    starts = daemon.pop("max_concurrent_starts")
    gateway = _gateway(plan.gateway)
    servers = {server.name: _server(server, plan) for server in plan.servers if server.project is None}
    mcp_only = {
        "first_list_secs": gateway.pop("first_list_secs"),
        "env_pass": list(plan.env_pass),
        "proxy": plan.proxy,
    }
    return {
        "daemon": {**daemon, "browser_command": list(plan.daemon.browser_command)},
        "gateway": gateway,
        "mcp": {
            **dataclasses.asdict(plan.defaults),
            **mcp_only,
            "max_concurrent_starts": starts,
            "max_servers_per_project": plan.max_servers_per_project,
            "servers": servers,
        },
        **({"projects": {project.name: _project(project, plan) for project in plan.projects}} if plan.projects else {}),
    }


def _project(project: ProjectPlan, plan: Plan) -> dict[str, Any]:
    own = [server for server in plan.servers if server.project == project.name]
    return {
        "path": project.path,
        "exclude": list(project.exclude),
        "servers": {split_name(server.name)[1]: _server(server, plan) for server in own},
    }


def _gateway(plan: GatewayPlan) -> dict[str, Any]:
    section = msgspec.structs.asdict(plan).items()
    return {key: list(v) if isinstance(v, tuple) else v for key, v in section if v is not None}


def _server(server: ServerPlan, plan: Plan) -> dict[str, Any]:
    own = dataclasses.asdict(server.limits)
    limits = {key: value for key, value in own.items() if value != getattr(plan.defaults, key)}
    entry: dict[str, Any] = {
        "enabled": server.enabled,
        "display_name": server.display_name,
        "label": server.label,
        "transport": server.transport,
        "protocol": server.protocol,
        "elicitation": server.elicitation,
        "sampling": server.sampling,
        "roots": server.roots,
        "share": server.share,
        "max_instances": server.max_instances if server.has_instances else None,
        "start": server.start,
        "idle_stop_secs": server.idle_stop_secs if server.on_demand else None,
        "command": server.shown.command,
        "arg_count": server.shown.arg_count,
        "env_names": list(server.shown.env_names),
        "url": server.shown.url,
        "header_names": list(server.shown.header_names),
        "proxy": server.proxy if server.proxy != plan.proxy else None,
        "include_tools": list(server.include_tools),
        "exclude_tools": list(server.exclude_tools),
        **limits,
        "problem": server.problem,
    }
    return {key: value for key, value in entry.items() if value is not None}


_WRITTEN = {"arg_count": "args", "env_names": "env", "header_names": "headers"}
"""The keys of moltis.toml of which a count or names are shown."""


def _written(path: Path) -> Path:
    """Return the path in the file of a value that is shown; what a server has of `[mcp]` is written there."""
    return (*path[:-1], _WRITTEN.get(str(path[-1]), path[-1]))


def _values(section: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _values(value, (*path, key))
        elif key != "problem":
            yield (*path, key), value


def _toml(section: Mapping[str, Any], origins: Origins, path: Path = ()) -> Iterator[str]:
    """Yield TOML lines: the plain values of a section first, then its sub-sections; each with where it comes from.

    A JSON string is a TOML basic string too (TOML 1.0, "String"), but for DEL, which `printable` shows.
    """
    plain = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
    if path and plain:
        yield f"\n[{dotted(path)}]"
    for key, value in plain.items():
        setting = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        origin = "" if key == "problem" else f" # {origins.of(_written((*path, key)))}"
        yield f"{setting:<41}{origin}".rstrip()
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _toml(value, origins, (*path, key))
