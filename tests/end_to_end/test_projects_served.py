"""Projects as hosts meet them: over HTTP in both eras, by `moltis connect` in folders, and while they change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from gateway_harness import GUARDED, connect_command, connect_env, gateway_url, plain, start
from harness import Daemon, wait_until
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from patience import PATIENCE

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@dataclass
class Sites:
    """A daemon with two projects: `site`, which has a server of its own and a label, and `shop`, which has none."""

    daemon: Daemon
    site: Path
    shop: Path
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, *projects: str) -> str:
        name = "-".join(projects) or "all"
        if name not in self.tokens:
            more = {"projects": list(projects)} if projects else {}
            made = self.daemon.rpc("token.create", name=name, scope="write", **more)
            self.tokens[name] = made["token"]
        return self.tokens[name]

    @contextlib.asynccontextmanager
    async def over_http(self, path: str, mode: str, token: str, hear: Any = None) -> AsyncIterator[Client]:
        url = gateway_url(self.daemon).removesuffix("/mcp") + path
        async with create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http:
            target: Any = streamable_http_client(url, http_client=http)
            async with Client(
                target, mode=mode, cache=None, **({} if hear is None else {"message_handler": hear})
            ) as one:
                yield one

    def connects(self, folder: Path, *words: str, **env: str) -> Client:
        program, *arguments = connect_command(self.daemon)
        environ = {**connect_env(self.daemon), **env}
        target = StdioServerParameters(command=program, args=[*arguments, *words], env=environ, cwd=folder)
        return Client(target, mode="legacy", cache=None)


@pytest.fixture
def sites(daemon: Daemon, folder: Path, node: Path) -> Sites:
    site, shop = folder / "site", folder / "shop"
    for each in (site / "deep" / "er", shop, folder / "elsewhere"):
        each.mkdir(parents=True)
    (site / "here.txt").write_text("of the site")
    (folder / "link").symlink_to(site)
    entries = {name: plain(daemon) for name in ("a", "b", "c")}
    entries["b"]["label"] = "bee"
    npx = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "${project:path}"]
    own = daemon.real(*npx, cwd=str(node))
    projects = {
        "site": {"path": str(folder / "link"), "exclude": ["a"], "servers": {"files": own}},
        "shop": {"path": str(shop)},
    }
    start(daemon, entries, GUARDED, mcp={"max_servers_per_project": 2}, projects=projects)
    daemon.wait_all()
    return Sites(daemon, site, shop)


async def listed(client: Client) -> list[str]:
    return [tool.name for tool in (await client.list_tools()).tools]


def before(names: list[str]) -> list[str]:
    """Return what tools are named after, each once."""
    return list(dict.fromkeys(name.partition("__")[0] for name in names))


def rows(daemon: Daemon, project: str) -> list[tuple[str, str | None]]:
    return [(row["server"], row["reason"]) for row in daemon.rpc("project.show", name=project)]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.anyio
async def test_each_project_gets_its_own_servers_and_what_it_does_not_exclude(sites: Sites, mode: str) -> None:
    async with sites.over_http("/mcp/site", mode, sites.token()) as site:
        assert before(await listed(site)) == ["files", "bee"]
        assert "max_servers_per_project: c" in str(site.instructions)
        found = await site.call_tool("files__read_text_file", {"path": str(sites.site.resolve() / "here.txt")})
        assert not found.is_error
        assert "of the site" in str(found.content)
        found = await site.call_tool("bee__echo", {"text": "x"})
        assert "x" in str(found.content)
        with pytest.raises(Exception, match="Unknown tool"):
            await site.call_tool("a__echo", {})
    async with sites.over_http("/mcp/shop", mode, sites.token("shop")) as shop:
        assert before(await listed(shop)) == ["a", "bee"]
    async with sites.over_http("/mcp", mode, sites.token()) as everything:
        assert before(await listed(everything)) == ["a", "bee", "c"]
    assert rows(sites.daemon, "site") == [("files", None), ("a", "excluded"), ("b", None), ("c", "cap")]
    assert [each["name"] for each in sites.daemon.rpc("mcp.list", project="site")] == ["site/files", "b"]
    assert sites.daemon.text("site/files", "list_allowed_directories").find(str(sites.site.resolve())) != -1


@pytest.mark.anyio
async def test_connect_finds_the_project_by_its_folder_in_three_at_once(sites: Sites, folder: Path) -> None:
    async with (
        sites.connects(sites.site / "deep" / "er") as site,
        sites.connects(sites.shop) as shop,
        sites.connects(folder / "elsewhere") as neither,
        sites.connects(folder / "elsewhere", CLAUDE_PROJECT_DIR=str(folder / "link" / "deep")) as opened_in_site,
        sites.connects(sites.site, "--project", "shop") as named,
    ):
        found = [before(await listed(each)) for each in (site, shop, neither, opened_in_site, named)]
    assert found == [["files", "bee"], ["a", "bee"], ["a", "bee", "c"], ["files", "bee"], ["a", "bee"]]


@pytest.mark.anyio
async def test_without_a_daemon_it_answers_what_was_known_of_the_project(sites: Sites) -> None:
    wait_until("it is kept", lambda: (sites.daemon.data_dir / "known" / "site+files.json").exists(), PATIENCE)
    sites.daemon.stop()
    async with sites.connects(sites.site) as site, sites.connects(sites.shop) as shop:
        assert before(await listed(site)) == ["files", "bee"]
        assert before(await listed(shop)) == ["a", "bee"]


def test_a_token_that_is_bound_to_a_project_opens_nothing_else(sites: Sites) -> None:
    base, bound = gateway_url(sites.daemon).removesuffix("/mcp"), sites.token("site")
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    def asked(path: str, token: str) -> tuple[int, int | None]:
        headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
        answer = httpx2.post(f"{base}{path}", json=body, headers=headers, timeout=PATIENCE)
        return answer.status_code, answer.json().get("error", {}).get("code")

    assert asked("/mcp/site", bound)[0] not in (401, 403, 404)
    for path in ("/mcp", "/mcp/shop", "/mcp/nothing", "/servers/b/mcp", "/servers/site/files/mcp", "/metrics"):
        assert asked(path, bound) == (403, -32003), path
    assert asked("/mcp/sit", sites.token()) == (404, -32004)
    [listed_one] = [each for each in sites.daemon.rpc("token.list") if each["name"] == "site"]
    assert listed_one["projects"] == ["site"]
    refused = sites.daemon.cli("token", "create", "x", "--project", "sit")
    assert refused.returncode == 4
    assert "did you mean site" in refused.stderr


@pytest.mark.anyio
async def test_what_changes_is_told_to_whom_it_concerns_and_touches_no_other_server(sites: Sites) -> None:
    daemon, heard = sites.daemon, list[str]()

    async def hear(message: Any) -> None:
        heard.append(str(getattr(message, "method", "")))

    pids = {name: daemon.status(name)["pid"] for name in ("a", "b", "c", "site/files")}
    async with sites.over_http("/mcp/site", "legacy", sites.token(), hear) as site:
        assert before(await listed(site)) == ["files", "bee"]
        done = await anyio.to_thread.run_sync(daemon.cli, "project", "exclude", "site", "b")
        assert done.returncode == 0, done.stderr
        with anyio.fail_after(PATIENCE):
            while "notifications/tools/list_changed" not in heard:  # noqa: ASYNC110  # told on the loop of the client
                await anyio.sleep(0.01)
        assert before(await listed(site)) == ["files", "c"]
        await anyio.to_thread.run_sync(daemon.cli, "mcp", "disable", "site/files")
        with anyio.fail_after(PATIENCE):
            while before(await listed(site)) != ["c"]:  # noqa: ASYNC110  # seen by asking again
                await anyio.sleep(0.01)
    assert rows(daemon, "site")[0] == ("files", "disabled")
    assert {name: daemon.status(name)["pid"] for name in "abc"} == {name: pids[name] for name in "abc"}
    assert daemon.cli("project", "remove", "site").returncode == 0
    assert sorted(daemon.states()) == ["a", "b", "c"]
    shown = json.loads(daemon.cli("project", "list", "--json").stdout)
    assert shown == [{"name": "shop", "path": str(sites.shop), "servers": ["a", "b"]}]
    assert {name: daemon.status(name)["pid"] for name in "abc"} == {name: pids[name] for name in "abc"}


def test_why_says_what_keeps_a_tool_from_a_projects_hosts_and_what_changes_that(sites: Sites) -> None:
    def asked(*words: str) -> tuple[int, str]:
        done = sites.daemon.cli("why", *words)
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    assert asked("b.echo") == (
        0,
        "b.echo is seen at /mcp as bee__echo\n  it is called bee__echo there: label names it so\n"
        "    label in [mcp.servers.b] of moltis.toml\n",
    )
    assert asked("site/files.read_text_file", "--host", "cursor")[0] == 0
    code, said = asked("a.echo", "--project", "site")
    assert (code, said.splitlines()[0]) == (1, "a.echo is not seen at /mcp/site")
    assert "    moltis project include site a\n" in said
    code, said = asked("c.echo", "--project", "site", "--json")
    assert (code, [reason["kind"] for reason in json.loads(said)["reasons"]]) == (1, ["cap"])
    code, said = asked("a.ecko")
    assert (code, "did you mean 'echo'" in said) == (1, True)
    sites.daemon.rpc("mcp.stop", name="a")
    code, said = asked("a.echo")
    assert (code, "moltis mcp start a" in said) == (1, True)
    assert sites.daemon.cli("why", "a", "--project", "site").returncode == 2
    assert sites.daemon.cli("why", "nobody.x").returncode == 4
