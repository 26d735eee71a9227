"""What a host sees, as a value: which servers, what they are called there, how they are shown; and at which path.

Pure. This is the one place that knows paths: whoever has one, or what stands for it on a command line, asks here. A
further kind of view is a further entry of `Views`, and where its path is a new one, of `PATHS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

import msgspec

from moltis import __version__
from moltis.config.plan import Plan
from moltis.errors import UnknownProject, UnknownServer, UsageError
from moltis.gateway.naming import fitted_chars
from moltis.names import split_name
from moltis.session.listing import ToolFilter

ALL: Final = "/mcp"
"""All servers as one."""

_BEFORE: Final = "/servers/"
_BEHIND: Final = "/mcp"
_PROJECTS: Final = f"{ALL}/"

PATHS: Final = (
    ALL,
    f"{_PROJECTS}{{project}}",
    f"{_BEFORE}{{server}}{_BEHIND}",
    f"{_BEFORE}{{project}}/{{server}}{_BEHIND}",
)
"""Where views are served, as routes (`httpd.router`)."""


class Member(msgspec.Struct, frozen=True):
    """One server in a view.

    label: what it is called there, in front of its tools' names and wherever a host reads of it.
    include, exclude: as `include_tools` and `exclude_tools`; what the server's own let through is filtered once more.
    """

    label: str
    server: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def filter(self) -> ToolFilter | None:
        """What it lets through; None where that is everything."""
        return ToolFilter(self.include, self.exclude) if self.include or self.exclude else None


class View(msgspec.Struct, frozen=True):
    """What the hosts at one path see.

    path: tells it from all others, whatever its members are by now: sessions and calls that wait are of a path.
    members: in the order they are listed; no label and no server is there twice.
    left_out: what the cap of a project leaves out, by label.
    separator: between a label and a tool's own name. None: its one member as it is, by its own names and in its own
        words, with all that passes between host and server.
    name_chars: of the two together, at most; 0: as they are. first_list_secs: how long a list waits for servers that
        nothing is known of. name, version: who it says it is. All of them where there is a separator.

    Raises:
        ValueError: its members cannot be told apart, or there is no separator and not one member.
    """

    path: str
    members: tuple[Member, ...]
    separator: str | None = None
    name_chars: int = 0
    first_list_secs: float = 0.0
    name: str = "moltis"
    version: str = __version__
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels, servers = {member.label for member in self.members}, {member.server for member in self.members}
        if not len(labels) == len(servers) == len(self.members) or "" in labels:
            raise ValueError(f"{self.path}: a label or a server is there twice, or a label is empty")
        if self.separator is None and len(self.members) != 1:
            raise ValueError(f"{self.path}: only one server can be shown as it is")


class Project(msgspec.Struct, frozen=True, omit_defaults=True):
    """A project, as hosts see it.

    folders: its own, as written and with links resolved. servers: what it gets, as labels with names; its own first.
    left_out: what its cap leaves out, by label.
    """

    name: str
    folders: tuple[str, ...] = ()
    servers: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True):
    """How servers are shown together; what is not said here, as in `View`."""

    separator: str = "__"
    name_chars: int = 50
    first_list_secs: float = 0.0
    name: str = "moltis"
    version: str = __version__
    labels: tuple[tuple[str, str], ...] = ()
    """Of the servers that are called otherwise there: name and label."""
    projects: tuple[Project, ...] = ()


def settings_of(plan: Plan) -> Settings:
    """Return how moltis.toml wants servers to be shown."""
    return Settings(
        separator=plan.gateway.tool_separator,
        name_chars=fitted_chars(plan.gateway.tool_name_chars),
        first_list_secs=plan.gateway.first_list_secs,
        labels=tuple((server.name, server.label) for server in plan.servers if server.label is not None),
        projects=projects_of(plan) if plan.projects else (),
    )


def projects_of(plan: Plan) -> tuple[Project, ...]:
    """Return what each project gets, as moltis.toml says."""
    from moltis.config.projects import all_rows  # imported where there are projects

    labels = {server.name: server.label for server in plan.servers if server.label is not None}
    found = []
    for project, rows in zip(plan.projects, all_rows(plan), strict=True):
        names = [(labels.get(full := row.full(project.name)) or row.server, full, row) for row in rows]
        found.append(
            Project(
                project.name,
                tuple(dict.fromkeys(path for path in (project.path, project.real) if path)),
                tuple((label, full) for label, full, row in names if row.included),
                tuple(label for label, _, row in names if row.reason == "cap"),
            )
        )
    return tuple(found)


class Views:
    """All views that there are of these servers, which are in the order of moltis.toml."""

    def __init__(self, settings: Settings, servers: Iterable[str]) -> None:
        self._servers = tuple(servers)
        self._projects = settings.projects
        labels = dict(settings.labels)
        members = {name: Member(labels.get(name, name), name) for name in self._servers if split_name(name)[0] is None}
        shown = partial(
            View,
            separator=settings.separator,
            name_chars=settings.name_chars,
            first_list_secs=settings.first_list_secs,
            name=settings.name,
            version=settings.version,
        )
        views = [shown(ALL, tuple(members.values()))]
        views += [View(path_of(name), (Member(name, name),)) for name in self._servers]
        for project in self._projects:
            its = tuple(members.get(name) or Member(label, name) for label, name in project.servers)
            views.append(shown(path_of(project=project.name), its, left_out=project.left_out))
        self._views = {view.path: view for view in views}

    def __contains__(self, path: str) -> bool:
        return path in self._views

    def at(self, path: str) -> View:
        """Return the view at a path, which has no slash at its end.

        Raises:
            UnknownServer, UnknownProject: there is none.
        """
        found = self._views.get(path)
        if found is not None:
            return found
        if path.startswith(_PROJECTS):
            raise UnknownProject(path.removeprefix(_PROJECTS), [project.name for project in self._projects])
        raise UnknownServer(path.removeprefix(_BEFORE).removesuffix(_BEHIND), self._servers)

    def of_folder(self, folder: str) -> str:
        """Return the path of the view for whoever works in a folder, an absolute path with its links resolved."""
        if not self._projects:
            return ALL
        from moltis.config.projects import innermost

        return path_of(project=innermost(folder, [(project.name, project.folders) for project in self._projects]))


def path_of(server: str | None = None, project: str | None = None) -> str:
    """Return the path of what is asked for by names: of a server as it is, of a project, or of all.

    Raises:
        UsageError: of both.
    """
    if server is not None and project is not None:
        raise UsageError("one server is shown as it is, or a project: not both", hint="leave server or project out")
    if project is not None:
        return f"{_PROJECTS}{project}"
    return ALL if server is None else f"{_BEFORE}{server}{_BEHIND}"
