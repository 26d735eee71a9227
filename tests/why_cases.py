"""Each reason why a host does not see a tool, as it comes about: tried by a test, and the table of docs/why.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from moltis.config.load import loads
from moltis.config.plan import Plan
from moltis.gateway.visibility import Answer, explain
from moltis.server.status import ServerStatus

TOML = """
[mcp]
max_servers_per_project = 2
[mcp.servers.files]
command = "files"
exclude_tools = ["write_*", "*_all"]
[mcp.servers.github]
command = "github"
label = "gh"
include_tools = ["search", "{long}"]
[mcp.servers.mail]
command = "mail"
[mcp.servers.off]
command = "off"
enabled = false
[projects.site]
path = "/src/site"
exclude = ["files"]
[projects.site.servers.db]
command = "db"
[projects.site.servers.MAIL]
command = "db"
[projects.shop]
path = "/src/shop"
"""
LONG = "list_all_the_pull_requests_of_an_organisation_with_their_reviews"
PLAN = loads(TOML.replace("{long}", LONG)).plan
AS_THEY_ARE = replace(PLAN, gateway=msgspec.structs.replace(PLAN.gateway, tool_name_chars=0))
OFFERED = {
    "files": ["read", *(f"read_{n}" for n in range(120))],
    "github": ["search", LONG],
    "mail": [f"send_{n}" for n in range(10)],
    "site/db": ["query"],
}


class Case(NamedTuple):
    """What is asked, and the reasons in the answer, the first of which is the one that the case is about."""

    what: str
    kinds: tuple[str, ...]
    name: str
    project: str | None = None
    host: str | None = None
    status: Mapping[str, Any] = MappingProxyType({})
    listed: bytes | None = None
    plan: Plan = PLAN

    def answer(self) -> Answer:
        server, _, tool = self.name.partition(".")
        more = {"state": "ready", "status": "connected", **self.status}
        shown = ServerStatus(name=server, display_name=None, transport="stdio", enabled=True, **more)
        return explain(self.plan, shown, tool, OFFERED, self.project, self.host, self.listed)


BAD = b'{"name":"read","inputSchema":"none"}'
CASES = (
    Case("it is seen", (), "files.read"),
    Case("it is seen, under another name", ("renamed",), "github.search"),
    Case("its name is shortened", ("renamed",), f"github.{LONG}"),
    Case("its server does not run", ("not_running",), "mail.send_1", status={"state": "stopped", "status": "error"}),
    Case("its server is disabled", ("disabled",), "off.x", status={"state": "disabled"}),
    Case("filtered by `exclude_tools`", ("filtered",), "files.write_all"),
    Case("filtered by `include_tools`", ("filtered", "renamed"), "github.close"),
    Case("no such tool", ("no_such_tool",), "files.reed"),
    Case("malformed", ("malformed",), "files.read", listed=BAD),
    Case("the project excludes its server", ("excluded",), "files.read", project="site"),
    Case("over the cap", ("cap",), "mail.send_1", project="shop"),
    Case("another project's own", ("other_project",), "site/db.query", project="shop"),
    Case("named like a server of all", ("invalid",), "site/MAIL.query", status={"state": "stopped"}),
    Case("its name is too long for the host", ("name_too_long",), f"github.{LONG}", host="cursor", plan=AS_THEY_ARE),
    Case("more tools than the host takes", ("too_many_tools",), "files.read", host="vscode"),
)


def table() -> str:
    """Return the table of docs/why.md."""
    rows = ["| why | `moltis why` says | what changes it |", "|---|---|---|"]
    for case in CASES:
        answer = case.answer()
        asked = f"`{case.name}`" + (f" `--project {case.project}`" if case.project else "")
        asked += f" `--host {case.host}`" if case.host else ""
        reason = answer.reasons[0] if answer.reasons else None
        said = f"is seen at {answer.path} as {answer.name}" if reason is None else reason.told
        rows.append(f"| {case.what}: {asked} | {said} | {f'`{reason.mends}`' if reason else ''} |")
    return "\n".join(rows).replace(LONG, "list_all_…_reviews")
