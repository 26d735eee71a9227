"""The projects of a daemon: what each gets, and what is written of them in moltis.toml. Loaded when first asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from moltis.config.plan import Plan, ServerPlan
from moltis.config.projects import all_rows, project_named, rows_of
from moltis.daemon.configuration import Configuration
from moltis.operations.api import ProjectRow, ProjectShown


class Projects:
    """All of them; fits `operations.api.ProjectsApi`. forget: ends what is kept of a server that is removed."""

    def __init__(self, configuration: Configuration, forget: Callable[[ServerPlan], Awaitable[None]]) -> None:
        self._configuration = configuration
        self._forget = forget

    @property
    def _plan(self) -> Plan:
        return self._configuration.plan

    def all(self) -> list[ProjectShown]:
        rows = zip(self._plan.projects, all_rows(self._plan), strict=True)
        return [ProjectShown(each.name, each.path, [row.server for row in its if row.included]) for each, its in rows]

    def rows(self, name: str) -> list[ProjectRow]:
        found = rows_of(self._plan, project_named(self._plan, name))
        return [ProjectRow(row.server, row.scope, row.included, row.reason) for row in found]

    def servers_of(self, name: str) -> list[str]:
        return [row.full(name) for row in rows_of(self._plan, project_named(self._plan, name)) if row.included]

    async def add(self, name: str, path: str) -> None:
        await self._configuration.edit("add_project", name, path)

    async def remove(self, name: str) -> None:
        own = [server for server in self._plan.servers if server.project == name]
        await self._configuration.edit("remove_project", name)
        for server in own:
            await self._forget(server)

    async def exclude(self, name: str, server: str) -> None:
        await self._configuration.edit("exclude_server", name, server)

    async def include(self, name: str, server: str) -> None:
        await self._configuration.edit("include_server", name, server)
