"""moltis.toml -> `Plan`: what is to run, and every problem on the way with its line.

A file that is not TOML raises; anything wrong inside of it is a `Problem`: a wrong server is an invalid plan beside the
others, and a wrong key of `[daemon]` or `[mcp]` leaves the default in force.
The same text, overrides and environment always give an equal plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from os.path import normpath
from pathlib import Path
from typing import Any

import msgspec

from moltis.config import near_misses
from moltis.config.document import parse, read_file
from moltis.config.environment import overlaid, settings
from moltis.config.expand import Planned, env_name_problem, merged_limits, plan_server
from moltis.config.expansion import Base, Room
from moltis.config.foreign import servers_elsewhere
from moltis.config.local import folder
from moltis.config.model import DaemonSection, GatewaySection, McpSection, ProjectSection, ServerSection, read_section
from moltis.config.plan import DEFAULT_CAP, DaemonPlan, GatewayPlan, Plan, ProjectPlan
from moltis.config.problem import Problem, Report
from moltis.config.remote import default_proxy
from moltis.config.scan import Path as KeyPath
from moltis.config.sensitive import is_literal_proxy, literal_secret, worth_hiding
from moltis.config.web import is_loopback, split_listen
from moltis.errors import ConfigError
from moltis.names import did_you_mean, name_problem, section_of, split_name, supervised_name_problem

SERVERS = ("mcp", "servers")
PROJECTS = ("projects",)
_READ_BY_OTHERS = 0o044

MIN_NAME_CHARS = 24
"""Of names at /mcp, however few somebody wrote (`gateway.naming.MIN_FITTED_CHARS`)."""
HASH_CHARS = 9
"""That a shortened one ends with, the `_` before them among them."""
MAX_NAME_CHARS = 64
"""That most providers take."""
TOOL_CHARS = 8
"""Of a tool's own name that are worth having."""


@dataclass(frozen=True, slots=True, repr=False)
class Loaded:
    """A plan, what is wrong with the file it came from, and what further entries can be planned on."""

    plan: Plan
    problems: tuple[Problem, ...] = ()
    base: Base = field(default_factory=Base)
    variables: Mapping[KeyPath, str] = field(default_factory=dict)
    """The variables of the environment that set a key, by its path; they win over the file."""


def load(path: Path, env_overrides: Mapping[str, str], environ: Mapping[str, str]) -> Loaded:
    """Read moltis.toml.

    Args:
        path: the file; a relative `cwd` in it is relative to its folder.
        env_overrides: the values of `moltis env set`.
        environ: the process environment, for `${env:NAME}` and `~`.

    Raises:
        ConfigError: when it is missing, unreadable, not TOML, or would cost too much to parse.
    """
    from moltis.config.projects import real_folders

    file = read_file(path)
    return loads(file.text, env_overrides, environ, path=path, mode=file.mode, look=real_folders)


def loads(
    text: str,
    env_overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    path: Path | None = None,
    mode: int = 0o600,
    look: Look = lambda paths: {},
) -> Loaded:
    """Read the text of a moltis.toml; without a `path`, a relative `cwd` stays as it is.

    look: gives folders with their links resolved, None for what is none; what it leaves out is taken as it is.

    Raises:
        ConfigError: when it is not TOML, or would cost too much to parse.
    """
    source = str(path) if path else "moltis.toml"
    document = parse(text, source)
    given = settings(environ or {}, document.tables)
    tables = overlaid(document.tables, given.values)
    report = Report(source, document.scan, given.variables)
    for variable, problem in given.unknown.items():
        report.of_variable(variable, problem)
    env = _env(tables.get("env", {}), report)
    daemon = read_section(DaemonSection, tables.get("daemon", {}), ("daemon",), report)
    gateway = _gateway_plan(read_section(GatewaySection, tables.get("gateway", {}), ("gateway",), report))
    if gateway.problem is not None:
        report.error(("gateway", "require_token"), gateway.problem)
    mcp, entries = _mcp(tables, report)
    if mcp.first_list_secs is not None:
        gateway = msgspec.structs.replace(gateway, first_list_secs=mcp.first_list_secs)
    folder = str(path.absolute().parent) if path else None
    base = Base(env, dict(env_overrides or {}), dict(environ or {}), mcp.limits(), folder, tuple(mcp.env_pass))
    is_wrong = mcp.proxy is None and isinstance(tables.get("mcp"), dict) and "proxy" in tables["mcp"]
    base = replace(base, proxy=default_proxy(mcp.proxy, base, report, is_wrong=is_wrong))
    room = Room()
    planned, sections = _servers(entries, base, report, room)
    projects, own, of_projects = _projects(tables.get("projects", {}), planned, base, report, room, look)
    planned += own
    sections += of_projects
    for each in planned:
        if told := _long_name(each.server.label or split_name(each.server.name)[1], gateway):
            report.warning(section_of(each.server.name), told)
    defaults, capped = merged_limits(base.limits)
    for key, cap in capped:
        report.warning(("mcp", key), f"is above {cap}, which caps it")
    if mode & _READ_BY_OTHERS:
        _warn_of_exposure(env, mcp, sections, report)
    plan = Plan(
        daemon=_daemon_plan(daemon, mcp),
        gateway=gateway,
        defaults=defaults,
        env_pass=base.env_pass,
        proxy=base.proxy.shown,
        servers=tuple(p.server for p in planned),
        projects=tuple(projects),
        max_servers_per_project=DEFAULT_CAP if mcp.max_servers_per_project is None else mcp.max_servers_per_project,
        secrets=_secrets(base, planned),
        path=path,
    )
    return Loaded(plan, tuple(sorted(report.problems, key=lambda p: p.line or 0)), base, given.variables)


def plan_entry(name: str, entry: Mapping[str, Any], base: Base) -> Planned:
    """Plan a server that is not in the file: an entry of `mcp.add` or `mcp.test`.

    Keys whose value is None are left out. A placeholder without a value gives a plan with `problem`, since the value
    may be set later.

    Raises:
        ConfigError: when the name or a key is wrong or unknown; the message names the key.
    """
    if problem := supervised_name_problem(name[:160]):
        raise ConfigError(problem, server=None)
    report = Report(name)
    section = read_section(ServerSection, {k: v for k, v in entry.items() if v is not None}, (), report)
    planned = plan_server(name, section, (), base, report, Room())
    wrong = [p for p in report.problems if p.fails_check]
    if wrong and not planned.only_unresolved:
        text = "; ".join(f"{p.key}: {p.message}" if p.key else p.message for p in wrong[:3])
        raise ConfigError(text, server=name, hint="moltis config schema lists every key")
    return planned


def warnings_of(name: str, entry: Mapping[str, Any], environ: Mapping[str, str]) -> list[Problem]:
    """Return what is odd about an entry that is not wrong; its keys are named without the section."""
    report = Report(name)
    section = read_section(ServerSection, entry, (), report)
    plan_server(name, section, (), Base(environ=dict(environ)), report, Room())
    if told := _long_name(name, GatewayPlan()):
        report.warning((), told)
    return [problem for problem in report.problems if problem.severity == "warning"]


def same_but_for_case(name: str, names: Iterable[str]) -> str | None:
    """Return the name among `names` that differs from `name` by case at most, or None."""
    return next((other for other in names if other.lower() == name.lower()), None)


def _env(raw: object, report: Report) -> dict[str, str]:
    if not isinstance(raw, dict):
        report.error(("env",), "must be a table: write it as a [section]")
        return {}
    values: dict[str, str] = {}
    for name, value in raw.items():
        if not isinstance(value, str):
            report.error(("env", name), "must be text in quotes")
        elif problem := env_name_problem(name):
            report.error(("env", name), problem)
        else:
            values[name] = value
    for miss in near_misses.in_values(values):
        report.warning(miss.key, miss.message)
    return values


def _mcp(tables: Mapping[str, Any], report: Report) -> tuple[McpSection, dict[str, Any]]:
    raw = tables.get("mcp", {})
    for path, name in servers_elsewhere(tables):
        written = name if name_problem(name) is None else "NAME"
        told = f"holds servers as another program names them, and is not read: write [mcp.servers.{written}]"
        report.warning(path, told, fails_check=True)
        if path[0] == "mcp":
            raw = {key: value for key, value in raw.items() if key != path[1]}
    section = read_section(McpSection, raw, ("mcp",), report)
    entries = raw.get("servers", {}) if isinstance(raw, dict) else {}
    if not isinstance(entries, dict):
        report.error(SERVERS, "must be a table: write each server as [mcp.servers.NAME]")
        return section, {}
    return section, entries


Sections = list[tuple[KeyPath, ServerSection]]
Look = Callable[[Iterable[str]], Mapping[str, str | None]]


def _servers(
    entries: Mapping[str, Any],
    base: Base,
    report: Report,
    room: Room,
    project: str | None = None,
    everybodys: Mapping[str, str] | None = None,
) -> tuple[list[Planned], Sections]:
    """Plan the servers of a section: of all, or a project's own.

    everybodys: of a project's own, what servers of all are called, in lower case, with their names.
    """
    within = SERVERS if project is None else (*PROJECTS, project, "servers")
    planned: dict[str, Planned] = {}
    taken: dict[str, str] = {}
    sections: Sections = []
    others = everybodys or {}
    for name, raw in entries.items():
        path, start = (*within, name), len(report.problems)
        other = taken.setdefault(name.lower(), name)
        clash = others.get(name.lower())
        if problem := name_problem(name[:80]) or _clash(name, other):
            report.error(path, problem)
        elif clash is not None:
            report.error(path, f"is what the server {clash!r} of all projects is called: give it another name")
        section = read_section(ServerSection, raw, path, report)
        sections.append((path, section))
        shown = _presentable(name)
        shown = shown if project is None else f"{project}/{shown.replace('/', '?')}"
        plan = plan_server(shown, section, path, base, report, room, wrong=start)
        if project is not None:
            server = msgspec.structs.replace(plan.server, project=project, clashes=clash is not None)
            plan = replace(plan, server=server)
        planned.setdefault(shown, plan)
    return labelled(list(planned.values()), within, others, report), sections


def _projects(
    raw: object, everybodys: list[Planned], base: Base, report: Report, room: Room, look: Look
) -> tuple[list[ProjectPlan], list[Planned], Sections]:
    """Plan the projects, with their own servers. One whose name is wrong is none; what else is wrong costs no other."""
    names = [each.server.name for each in everybodys]
    called = {name.lower(): name for name in names}
    called |= {each.server.label.lower(): each.server.name for each in everybodys if each.server.label}
    read = _project_sections(raw, report)
    paths = {name: normpath(folder(section.path, base)) for name, (_, section) in read.items() if section.path}
    real = look(paths.values()) if paths else {}
    owners: dict[str, str] = {}
    projects: list[ProjectPlan] = []
    planned: list[Planned] = []
    sections: Sections = []
    for name, (entry, section) in read.items():
        key = (*PROJECTS, name)
        path = paths.get(name, "")
        found = real.get(path, path)
        if found is None:
            report.error((*key, "path"), f"there is no folder {path}")
        elif path and (first := owners.setdefault(found, name)) != name:
            report.error((*key, "path"), f"is the folder of the project {first!r} too: in it, that one is found")
            path = found = ""
        own = entry.get("servers", {})
        if not isinstance(own, dict):
            report.error((*key, "servers"), f"must be a table: write each server as [projects.{name}.servers.NAME]")
            own = {}
        for at, excluded in enumerate(section.exclude):
            if excluded not in names:
                report.error((*key, "exclude", at), _not_excluded(excluded, own, names))
        projects.append(ProjectPlan(name, path, found or path, tuple(section.exclude)))
        of_project = replace(base, project=(name, paths.get(name, "")))
        servers, read_here = _servers(own, of_project, report, room, name, called)
        planned += servers
        sections += read_here
    return projects, planned, sections


def _project_sections(raw: object, report: Report) -> dict[str, tuple[dict[str, Any], ProjectSection]]:
    """Read the sections of projects, but for their servers; those whose name is wrong are left out."""
    if not isinstance(raw, dict):
        report.error(PROJECTS, "must be a table: write each project as [projects.NAME]")
        return {}
    read: dict[str, tuple[dict[str, Any], ProjectSection]] = {}
    taken: dict[str, str] = {}
    for name, entry in raw.items():
        path, other = (*PROJECTS, name), taken.setdefault(name.lower(), name)
        problem = name_problem(name[:80], "project name")
        if problem or other != name:
            report.error(path, problem or f"differs from the project {other!r} only by case")
            continue
        section = read_section(ProjectSection, entry, path, report)
        if isinstance(entry, dict) and "path" not in entry:
            report.error(path, "needs a path, which is its folder")
        read[name] = (entry if isinstance(entry, dict) else {}, section)
    return read


def _not_excluded(name: str, own: Mapping[str, Any], names: Iterable[str]) -> str:
    if name in own:
        return f"{name[:64]!r} is its own: enabled = false there switches it off"
    return f"no server of all projects is called {name[:64]!r}{did_you_mean(name[:64], names)}"


def labelled(planned: list[Planned], section: KeyPath, taken: Mapping[str, str], report: Report) -> list[Planned]:
    """Return the servers of a section without the labels that are another's name or label, in whatever case.

    Such a server runs all the same, under its own name: no name is a label of another, so that is always free.

    taken: what servers of other sections are called, in lower case, with their names.
    """
    own = {split_name(each.server.name)[1].lower(): each.server.name for each in planned}
    names = {**own, **taken}
    found = list[Planned]()
    for each in planned:
        server = each.server
        other = names.setdefault(server.label.lower(), server.name) if server.label else server.name
        if other != server.name:
            told = f"servers {other!r} and {server.name!r} would have one name: give each its own"
            report.error((*section, split_name(server.name)[1], "label"), told)
            each = replace(each, server=msgspec.structs.replace(server, label=None))
        found.append(each)
    return found


def _long_name(name: str, gateway: GatewayPlan) -> str | None:
    """Say that a server's name leaves hardly any room for those of its tools at /mcp."""
    most = max(gateway.tool_name_chars, MIN_NAME_CHARS) - HASH_CHARS if gateway.tool_name_chars else MAX_NAME_CHARS
    room = most - len(name) - len(gateway.tool_separator)
    if not gateway.enabled or room >= TOOL_CHARS:
        return None
    ends = "cut there, and end as a hash" if gateway.tool_name_chars else "refused by many hosts"
    fits = most - len(gateway.tool_separator) - TOOL_CHARS
    return f"its name is so long that its tools' names at /mcp are {ends}: {fits} characters leave room for them"


def _clash(name: str, other: str) -> str | None:
    return None if name == other else f"differs from the server {other!r} only by case"


def _presentable(name: str) -> str:
    """Return what a server of a forbidden name is called in the status, where it must do no harm."""
    return "".join(c if c.isprintable() else "?" for c in name[:64]) or '""'


def _daemon_plan(daemon: DaemonSection, mcp: McpSection) -> DaemonPlan:
    values = daemon.written()
    if mcp.max_concurrent_starts is not None:
        values["max_concurrent_starts"] = mcp.max_concurrent_starts
    return DaemonPlan(**values)


def _gateway_plan(section: GatewaySection) -> GatewayPlan:
    plan = GatewayPlan(**{key: value for key, value in section.written().items() if value is not None})
    host, _port = split_listen(plan.listen)
    if plan.enabled and not plan.require_token and not is_loopback(host):
        told = f"must be true: other machines can reach {plan.listen}, and would need no token"
        return msgspec.structs.replace(plan, problem=told)
    return plan


def _secrets(base: Base, planned: Iterable[Planned]) -> frozenset[str]:
    plans = list(planned)
    values = {*base.env.values(), *base.overrides.values(), *base.proxy.secrets}.union(*(p.secrets for p in plans))
    return worth_hiding(values, (p.server.name for p in plans))


def _warn_of_exposure(env: Mapping[str, str], mcp: McpSection, sections: Sections, report: Report) -> None:
    written: list[KeyPath] = [("env", name) for name, value in env.items() if value.strip()]
    if is_literal_proxy(mcp.proxy):
        written.append(("mcp", "proxy"))
    written += [(*path, *key) for path, section in sections if (key := literal_secret(section))]
    if where := next((path for path in written if not report.is_set_by_variable(path)), None):
        report.warning(where, f"other users of this machine can read this secret: chmod 600 {report.file}")
