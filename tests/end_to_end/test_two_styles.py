"""Which tools may ask their host, in which style, whoever the host is: directly, and through the daemon.

The server is one program on the reference SDK, in both eras. A tool that asks by a request can be had up to 2025-11-25
alone, one that returns its question from 2026-07-28 on; what a host can do directly is the first part of the table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_harness import connect_command, connect_env, gateway_url, start
from harness import PYTHON, Daemon
from mcp import StdioServerParameters
from styles_harness import ANSWERS, BY_REQUEST, MODES, PROGRAM, Web, a_host, outcome

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Daemon, Web]]:
    """One daemon, with the server over stdio in the era that it chooses and in each one alone, and over HTTP."""
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        daemon = Daemon(Path(name))
        web = Web(Path(name), mark=daemon.mark)
        try:
            piped = daemon.real(PYTHON, str(PROGRAM))
            remote = {"url": web.url, "transport": "streamable-http"}
            servers = {"pipe": piped, "web": remote}
            for server, entry in (("pipe", piped), ("web", remote)):
                servers[f"{server}-old"] = {**entry, "protocol": "legacy"}
                servers[f"{server}-new"] = {**entry, "protocol": "2026-07-28"}
            start(daemon, servers)
            daemon.wait_all()
            yield daemon, web
        finally:
            web.end()
            daemon.end_everything()


WORKS: dict[tuple[str, str], frozenset[str]] = {
    # directly, by the era of the host
    ("direct pipe", "legacy"): frozenset({"quick", *BY_REQUEST}),
    ("direct pipe", "modern"): frozenset({"quick", "by_return"}),
    ("direct web", "legacy"): frozenset({"quick", *BY_REQUEST}),
    ("direct web", "modern"): frozenset({"quick", "by_return"}),
    # through the daemon: one session over stdio, so the style depends on its era and on `protocol`, not on the host
    ("pipe", "legacy"): frozenset({"quick", *BY_REQUEST}),
    ("pipe", "modern"): frozenset({"quick", *BY_REQUEST}),
    ("pipe-old", "legacy"): frozenset({"quick", *BY_REQUEST}),
    ("pipe-old", "modern"): frozenset({"quick", *BY_REQUEST}),
    ("pipe-new", "legacy"): frozenset({"quick", "by_return"}),
    ("pipe-new", "modern"): frozenset({"quick", "by_return"}),
    ("web-old", "legacy"): frozenset({"quick", *BY_REQUEST}),
    ("web-old", "modern"): frozenset({"quick", *BY_REQUEST}),
    ("web-new", "legacy"): frozenset({"quick", "by_return"}),
    ("web-new", "modern"): frozenset({"quick", "by_return"}),
    # over HTTP in the host's own era, and from the second call on in the one in which the tool can ask
    ("web", "legacy"): frozenset(ANSWERS),
    ("web", "modern"): frozenset(ANSWERS),
}
DOORS = ("http", "connect")
CELLS = [(where, era, door) for where, era in WORKS for door in DOORS if door == "http" or where in ("pipe", "web")]


def target_of(daemon: Daemon, web: Web, where: str, door: str) -> StdioServerParameters | str:
    if where == "direct pipe":
        return StdioServerParameters(command=PYTHON, args=[str(PROGRAM)])
    if where == "direct web":
        return web.url
    if door == "http":
        return gateway_url(daemon, where)
    program, *arguments = connect_command(daemon, where)
    return StdioServerParameters(command=program, args=arguments, env=connect_env(daemon), cwd=daemon.folder)


@pytest.mark.parametrize("tool", list(ANSWERS))
@pytest.mark.parametrize(("where", "era", "door"), CELLS)
async def test_a_tool_that_asks_can_be_had_where_the_table_says_so(
    place: tuple[Daemon, Web], where: str, era: str, door: str, tool: str
) -> None:
    async with a_host(era, target_of(*place, where, door)) as client:
        told = await outcome(client, tool)
        if where == "web" and tool not in WORKS["direct web", era] and told != ANSWERS[tool]:
            assert "call it again" in told
            told = await outcome(client, tool)
    assert (told == ANSWERS[tool]) == (tool in WORKS[where, era]), told


@pytest.mark.parametrize(
    ("where", "tool", "key"), [("pipe-new", "by_elicit", "legacy"), ("pipe-old", "by_return", "2026-07-28")]
)
@pytest.mark.parametrize("era", list(MODES))
async def test_a_tool_that_cannot_ask_in_this_era_is_told_with_the_key_that_may_mend_it(
    place: tuple[Daemon, Web], where: str, tool: str, key: str, era: str
) -> None:
    daemon, _ = place
    named = f'protocol = "{key}" in the entry of server {where!r}'
    async with a_host(era, gateway_url(daemon, where)) as client:
        for _ in range(2):
            assert named in await outcome(client, tool)
        assert await outcome(client, "quick") == "quick"
    remarks = [remark for remark in daemon.status(where)["remarks"] if f"{tool!r}" in remark]
    assert len(remarks) == 1
    assert named in remarks[0]
    logged = [record for record in daemon.records() if record["message"] == "tool_cannot_ask"]
    of_it = [r for r in logged if (r["fields"]["server"], r["fields"]["tool"]) == (where, tool)]
    assert [record["level"] for record in of_it] == ["WARN"]
    assert named in of_it[0]["fields"]["hint"]
    why = daemon.cli("why", where)
    assert "protocol" in why.stdout
    called = daemon.cli("mcp", "call", f"{where}.{tool}")
    assert called.returncode == 1
    assert named in called.stderr
