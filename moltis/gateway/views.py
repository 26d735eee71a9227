"""What a host sees, as a value: which servers, what they are called there, how they are shown; and at which path.

Pure. This is the one place that knows paths: whoever has one, or what stands for it on a command line, asks here. A
further kind of view is a further entry of `Views`, and where its path is a new one, of `PATHS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from moltis import __version__
from moltis.config.plan import Plan
from moltis.errors import UnknownServer
from moltis.gateway.naming import fitted_chars
from moltis.session.listing import ToolFilter

ALL: Final = "/mcp"
"""All servers as one."""

_BEFORE: Final = "/servers/"
_BEHIND: Final = "/mcp"

PATHS: Final = (ALL, f"{_BEFORE}{{server}}{_BEHIND}")
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

    def __post_init__(self) -> None:
        labels, servers = {member.label for member in self.members}, {member.server for member in self.members}
        if not len(labels) == len(servers) == len(self.members) or "" in labels:
            raise ValueError(f"{self.path}: a label or a server is there twice, or a label is empty")
        if self.separator is None and len(self.members) != 1:
            raise ValueError(f"{self.path}: only one server can be shown as it is")


class Settings(msgspec.Struct, frozen=True):
    """How servers are shown together; what is not said here, as in `View`."""

    separator: str = "__"
    name_chars: int = 50
    first_list_secs: float = 0.0
    name: str = "moltis"
    version: str = __version__
    labels: tuple[tuple[str, str], ...] = ()
    """Of the servers that are called otherwise there: name and label."""


def settings_of(plan: Plan) -> Settings:
    """Return how moltis.toml wants servers to be shown."""
    return Settings(
        separator=plan.gateway.tool_separator,
        name_chars=fitted_chars(plan.gateway.tool_name_chars),
        first_list_secs=plan.gateway.first_list_secs,
        labels=tuple((server.name, server.label) for server in plan.servers if server.label is not None),
    )


class Views:
    """All views that there are of these servers, which are in the order of moltis.toml."""

    def __init__(self, settings: Settings, servers: Iterable[str]) -> None:
        self._servers = tuple(servers)
        labels = dict(settings.labels)
        everything = View(
            ALL,
            tuple(Member(labels.get(name, name), name) for name in self._servers),
            settings.separator,
            settings.name_chars,
            settings.first_list_secs,
            settings.name,
            settings.version,
        )
        each = [View(path_of(name), (Member(name, name),)) for name in self._servers]
        self._views = {view.path: view for view in (everything, *each)}

    def __contains__(self, path: str) -> bool:
        return path in self._views

    def at(self, path: str) -> View:
        """Return the view at a path, which has no slash at its end.

        Raises:
            UnknownServer: there is none.
        """
        try:
            return self._views[path]
        except KeyError:
            raise UnknownServer(path.removeprefix(_BEFORE).removesuffix(_BEHIND), self._servers) from None


def path_of(server: str | None = None) -> str:
    """Return the path of what is asked for by names: of a server as it is, or where none is named, of all."""
    return ALL if server is None else f"{_BEFORE}{server}{_BEHIND}"
