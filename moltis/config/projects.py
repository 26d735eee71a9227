"""Which servers a project gets, and which project a folder belongs to. Pure, but for `real_folders`.

A project gets the enabled servers of all, less those that it excludes, and its own enabled ones. A cap keeps its own
first and then the oldest, which are those that stand first in moltis.toml.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from moltis.config.plan import Plan, ProjectPlan, ServerPlan
from moltis.errors import UnknownProject
from moltis.names import split_name

Scope = Literal["global", "project"]
Reason = Literal["disabled", "excluded", "cap", "invalid"]

LOOK_SECS: Final = 1.0
"""For all folders: one on a file system that does not answer holds up nobody's start."""


class Offer(msgspec.Struct, frozen=True):
    """A server that a project may get. is_capped: it counts for the cap. clashes: its name is another's there."""

    server: str
    enabled: bool = True
    is_capped: bool = True
    clashes: bool = False


class Row(msgspec.Struct, frozen=True):
    """Whether a project gets a server, and why not: it is disabled, excluded, beyond the cap, or (`invalid`) named like
    another one there. `server`: as it is called in the project.
    """

    server: str
    scope: Scope
    included: bool
    reason: Reason | None = None

    def full(self, project: str) -> str:
        """Return what the server is supervised as."""
        return self.server if self.scope == "global" else f"{project}/{self.server}"


def resolve(everybodys: Iterable[Offer], own: Iterable[Offer], excluded: Collection[str], cap: int) -> list[Row]:
    """Decide what a project gets; its own are first, each group in the order of moltis.toml. `cap` 0: no cap."""
    rows: list[Row] = []
    left = cap
    offered: list[tuple[Scope, Iterable[Offer]]] = [("project", own), ("global", everybodys)]
    for scope, offers in offered:
        for offer in offers:
            reason = _reason(offer, scope, excluded)
            if reason is None and cap and offer.is_capped:
                reason = None if left else "cap"
                left -= reason is None
            rows.append(Row(offer.server, scope, reason is None, reason))
    return rows


def _reason(offer: Offer, scope: Scope, excluded: Collection[str]) -> Reason | None:
    if not offer.enabled:
        return "disabled"
    if offer.clashes:
        return "invalid"
    return "excluded" if scope == "global" and offer.server in excluded else None


def project_named(plan: Plan, name: str) -> ProjectPlan:
    """Return a project.

    Raises:
        UnknownProject: there is none of that name.
    """
    found = next((project for project in plan.projects if project.name == name), None)
    if found is None:
        raise UnknownProject(name, [project.name for project in plan.projects])
    return found


def rows_of(plan: Plan, project: ProjectPlan) -> list[Row]:
    """Return what a project of a plan gets."""
    return next(_rows(plan, (project,)))


def all_rows(plan: Plan) -> Iterator[list[Row]]:
    """Return what each project of a plan gets, in their order."""
    return _rows(plan, plan.projects)


def _rows(plan: Plan, projects: Sequence[ProjectPlan]) -> Iterator[list[Row]]:
    everybodys = [_offer(server, server.name) for server in plan.servers if server.project is None]
    own: dict[str, list[Offer]] = {}
    for server in plan.servers:
        if server.project is not None:
            own.setdefault(server.project, []).append(_offer(server, split_name(server.name)[1]))
    for project in projects:
        yield resolve(everybodys, own.get(project.name, ()), project.exclude, plan.max_servers_per_project)


def _offer(server: ServerPlan, name: str) -> Offer:
    return Offer(name, server.enabled, server.kind.is_capped, server.clashes)


# Folders -------------------------------------------------------------------------------------------------------------


def within(folder: str, around: str) -> bool:
    """Whether a folder is another one or below it; both absolute."""
    return folder == around or folder.startswith(around.rstrip("/") + "/")


def innermost(folder: str, projects: Iterable[tuple[str, Collection[str]]]) -> str | None:
    """Return the project that a folder belongs to: whose folder around it is the longest. None: it is in none.

    projects: names, each with the folders that are its own, one as written and one with links resolved.
    """
    found = ((len(own), name) for name, folders in projects for own in folders if own and within(folder, own))
    return max(found, key=lambda each: each[0], default=(0, None))[1]


def real_folders(paths: Iterable[str]) -> Mapping[str, str | None]:
    """Return each path with its links resolved, None where there is no such folder; what takes long is left out."""
    found: dict[str, str | None] = {}

    def look() -> None:
        for path in paths:
            found[path] = os.path.realpath(path) if os.path.isdir(path) else None

    looking = threading.Thread(target=look, daemon=True)
    try:
        looking.start()
    except RuntimeError:
        return {}
    looking.join(LOOK_SECS)
    return found.copy()
