"""Why a host does not see a tool: each reason is found, and what it says changes it does."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import get_args

import msgspec
import pytest
from why_cases import AS_THEY_ARE, CASES, LONG, OFFERED, PLAN, Case

from moltis.cli import why
from moltis.errors import UnknownProject
from moltis.gateway import visibility
from moltis.gateway.visibility import HOSTS, explain
from moltis.server.status import ServerStatus


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_each_reason_is_found_with_what_changes_it(case: Case) -> None:
    answer = case.answer()
    kinds = tuple(reason.kind for reason in answer.reasons)
    assert set(case.kinds) <= set(kinds)
    assert answer.seen == (set(kinds) <= {"renamed"})
    assert all(reason.mends for reason in answer.reasons)


def test_every_kind_of_reason_has_a_case() -> None:
    assert {kind for case in CASES for kind in case.kinds} == set(get_args(visibility.Why))


def test_the_hosts_of_the_command_are_those_that_are_known() -> None:
    assert set(why.HOSTS) == HOSTS.keys()


@pytest.mark.parametrize(("tool", "server"), [("write_all", "files"), ("close", "github")])
def test_the_command_for_a_filter_lets_the_tool_through(tool: str, server: str) -> None:
    case = Case("", (), f"{server}.{tool}")
    [found] = [reason for reason in case.answer().reasons if reason.kind == "filtered"]
    words = shlex.split(found.mends)
    assert words[:3] == ["moltis", "rpc", "mcp.update"]
    changes = json.loads(words[3])
    before = PLAN.server(changes.pop("name"))
    assert before is not None
    after = msgspec.structs.replace(before, **{key: tuple(value) for key, value in changes.items()})
    plan = replace(PLAN, servers=tuple(after if each is before else each for each in PLAN.servers))
    assert explain(plan, status(server), tool, {server: [tool]}).seen


def status(server: str) -> ServerStatus:
    return ServerStatus(
        name=server, display_name=None, transport="stdio", enabled=True, state="ready", status="connected"
    )


def test_a_projects_own_server_is_looked_at_where_it_is_seen() -> None:
    answer = explain(PLAN, status("site/db"), "query", OFFERED)
    assert (answer.seen, answer.path, answer.name) == (True, "/mcp/site", "db__query")
    with pytest.raises(UnknownProject):
        explain(PLAN, status("files"), "read", OFFERED, "sit")


def test_a_name_that_is_longer_than_a_host_takes_is_told() -> None:
    plan = AS_THEY_ARE
    answer = explain(plan, status("github"), LONG, OFFERED, host="cursor")
    assert not answer.seen
    assert answer.reasons[0].mends == "tool_name_chars = 54 in [gateway]"
    assert explain(plan, status("github"), "search", OFFERED, host="cursor").name == "gh__search"
