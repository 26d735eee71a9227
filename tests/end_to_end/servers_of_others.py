"""Servers that people install from npm and PyPI, started as their pages say, under a daemon each.

    python tests/end_to_end/servers_of_others.py [--jobs N] [NAME ...]       prints the table as Markdown

Each is started until it is ready, listed in full at /mcp by the Python and the TypeScript SDK's clients, ended by
SIGKILL and seen back, and stopped with no process left. Of one that needs a backend or a key, what `moltis why` says
first is what counts. Reaches npm and PyPI (through the caches that `npm_config_cache` and `UV_CACHE_DIR` name), and for
the rest this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import anyio
from gateway_harness import gateway_url, new_token, start
from harness import SERVERS, Daemon, wait_until
from installing import npm_folder, uv_programs
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from processes import marked, signal_pid

READY_WITHIN = 480.0
"""Two starts, each ended at `startup_timeout_max_secs` at the latest."""
BACK_WITHIN = 90.0
LISTED_WITHIN = 60.0
SETTLED_WITHIN = 15.0
STAYS_SECS = 10.0
"""How long one that needs something is watched once it is ready: some look for it only then, and end."""
GONE_WITHIN = 10.0
"""Stopping is gentle first: 2 s for the end of its input, 3 s after SIGTERM, and the sweep."""

PASSED = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "HTTPS_PROXY", "NO_PROXY", "npm_config_cache",
    "npm_config_registry", "npm_config_offline", "UV_CACHE_DIR", "UV_DEFAULT_INDEX", "UV_OFFLINE", "UV_PYTHON",
    "UV_TOOL_DIR",
)  # fmt: skip

LISTS_BY_TYPESCRIPT = """
const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
const [url, token] = process.argv.slice(1);
const client = new Client({ name: "lists", version: "1" });
const requestInit = { headers: { authorization: `Bearer ${token}` } };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));
const names = [];
let cursor;
do {
  const page = await client.listTools(cursor ? { cursor } : undefined);
  names.push(...page.tools.map((tool) => tool.name));
  cursor = page.nextCursor;
} while (cursor);
console.log(JSON.stringify(names));
await client.close();
"""


@dataclass(frozen=True)
class Other:
    """One server. `made_with`: SDK or language. `FOLDER` in an argument is a folder of its own.

    needs: what is not here (a backend, a key): it is to say so, not to run.
    """

    name: str
    made_with: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""


def npx(name: str, made_with: str, package: str, *words: str, needs: str = "", **env: str) -> Other:
    return Other(name, made_with, ("npx", "-y", package, *words), env, needs)


def uvx(name: str, made_with: str, package: str, *words: str, needs: str = "", **env: str) -> Other:
    return Other(name, made_with, ("uvx", package, *words), env, needs)


TS1, TS2, BUNDLED, TMCP = "TypeScript SDK 1", "TypeScript SDK 2", "TypeScript SDK, bundled", "tmcp (TypeScript)"
PY1, PY2, MCP_FAST, FAST = "Python SDK 1", "Python SDK 2", "FastMCP of Python SDK 1", "FastMCP (jlowin)"
GO, NET, RUST = "Go", ".NET", "Rust (rmcp)"

OTHERS = (
    npx("everything", TS1, "@modelcontextprotocol/server-everything"),
    npx("filesystem", TS1, "@modelcontextprotocol/server-filesystem", "FOLDER"),
    npx("memory", TS1, "@modelcontextprotocol/server-memory"),
    npx("sequential-thinking", TS1, "@modelcontextprotocol/server-sequential-thinking"),
    npx("github", TS1, "@modelcontextprotocol/server-github"),
    npx("postgres", TS1, "@modelcontextprotocol/server-postgres", "postgresql://127.0.0.1:9/none", needs="backend"),
    npx("context7", TS2, "@upstash/context7-mcp"),
    npx("playwright", BUNDLED, "@playwright/mcp@latest", "--headless"),
    npx("chrome-devtools", BUNDLED, "chrome-devtools-mcp@latest"),
    npx("notion", TS1, "@notionhq/notion-mcp-server", NOTION_TOKEN="ntn_none"),
    npx("tavily", TS1, "tavily-mcp@latest", needs="key"),
    npx("firecrawl", TS2, "firecrawl-mcp", needs="key"),
    npx("eslint", TS1, "@eslint/mcp@latest"),
    npx("chart", TS1, "@antv/mcp-server-chart"),
    npx("figma", TS1, "figma-developer-mcp", "--stdio", needs="key"),
    npx("exa", TS1, "exa-mcp-server"),
    npx("kubernetes-npm", GO, "kubernetes-mcp-server@latest", needs="backend"),
    npx("mcp-server-kubernetes", TS1, "mcp-server-kubernetes"),
    npx("slack", GO, "slack-mcp-server@latest", "--transport", "stdio", needs="key"),
    npx("git-cyanheads", BUNDLED, "@cyanheads/git-mcp-server@latest"),
    npx("brave", TS1, "@brave/brave-search-mcp-server", needs="key"),
    npx("hello-world", TS1, "mcp-hello-world"),
    npx("airbnb", TS1, "@openbnb/mcp-server-airbnb"),
    npx("drawio", TS1, "@drawio/mcp"),
    npx("svelte", TMCP, "@sveltejs/mcp", needs="network"),
    npx("code-runner", TS1, "mcp-server-code-runner@latest"),
    npx("shortcut", TS1, "@shortcut/mcp@latest", needs="key"),
    npx("mysql", TS1, "@benborla29/mcp-server-mysql", needs="backend"),
    npx("perplexity", TS1, "@perplexity-ai/mcp-server", needs="key"),
    npx("currents", TS1, "@currents/mcp", needs="key"),
    npx("argocd", TS1, "argocd-mcp@latest", "stdio", needs="backend"),
    npx("mise", RUST, "@jdxcode/mise", "mcp", MISE_EXPERIMENTAL="1"),
    npx("moon", "Rust", "-p", "@moonrepo/cli", "moon", "mcp", needs="workspace"),
    npx("azure", NET, "@azure/mcp@latest", "server", "start"),
    uvx("time", PY2, "mcp-server-time"),
    uvx("git", PY2, "mcp-server-git"),
    uvx("fetch", PY2, "mcp-server-fetch"),
    uvx("arxiv", PY1, "arxiv-mcp-server"),
    uvx("aws-documentation", PY2, "awslabs.aws-documentation-mcp-server", FASTMCP_LOG_LEVEL="ERROR"),
    uvx("duckduckgo", PY2, "duckduckgo-mcp-server"),
    uvx("excel", PY2, "excel-mcp-server", "stdio"),
    uvx("calculator", MCP_FAST, "mcp-server-calculator"),
    uvx("redis", MCP_FAST, "redis-mcp-server", "--url", "redis://127.0.0.1:9/0"),
    uvx("wikipedia", FAST, "wikipedia-mcp"),
    uvx("text-editor", PY1, "--with", "mcp<2", "mcp-text-editor"),
    uvx("obsidian", PY1, "mcp-obsidian", needs="key"),
    uvx("atlassian", FAST, "mcp-atlassian", needs="key"),
    uvx("nixos", FAST, "mcp-nixos"),
    uvx("word", FAST, "--from", "office-word-mcp-server", "word_mcp_server"),
    uvx("grafana", GO, "mcp-grafana", GRAFANA_URL="http://127.0.0.1:9"),
    uvx("cnb", RUST, "cnb-rs-mcp"),
    uvx("grok-search", RUST, "grok-search-rs", needs="key"),
    uvx("kubernetes-pypi", GO, "kubernetes-mcp-server@latest", needs="network"),
    uvx("motherduck", FAST, "mcp-server-motherduck", "--db-path", ":memory:", "--read-write"),
    uvx("pubmed", FAST, "--with", "mcp<2", "mcp-simple-pubmed", PUBMED_EMAIL="me@example.com"),
    uvx("tree-sitter", MCP_FAST, "--with", "mcp<2", "mcp-server-tree-sitter"),
    uvx("code-index", MCP_FAST, "code-index-mcp"),
)


@dataclass
class Row:
    """What was seen of one server. `told`: what `moltis why` says first of one that was not ready."""

    other: Other
    info: str = ""
    revision: str = ""
    listed: str = ""
    ready_secs: float | None = None
    back_secs: float | None = None
    told: str = ""
    faults: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        started = "—" if self.ready_secs is None else f"{self.ready_secs:.1f}"
        back = "—" if self.back_secs is None else f"{self.back_secs:.1f}"
        needs = f" (needs a {self.other.needs})" if self.other.needs and self.told else ""
        seen = "; ".join(self.faults) or (self.told + needs if self.told else "all seen, nothing left")
        command = " ".join(self.other.command)
        return [
            self.other.name, f"`{command}`", self.other.made_with, self.info, self.revision, self.listed, started, back,
            seen.replace("|", "\\|"),
        ]  # fmt: skip


HEAD = [
    "server",
    "started as",
    "made with",
    "says it is",
    "revision",
    "tools/resources/prompts",
    "ready s",
    "back s",
    "",
]


def table(rows: Iterable[Row]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def look_at(other: Other, daemon: Daemon, node: Path, path: str, cwd: Path | None = None) -> Row:
    """Take one server through it all. Of one that needs something, to end soon after it was ready counts as not ready.

    A daemon of its own runs when this returns, and is for the caller to end.

    node: the folder with the TypeScript SDK. cwd: where the server is started, if not in an empty folder.
    """
    row = Row(other)
    folder = daemon.folder / "own"
    folder.mkdir()
    words = [word.replace("FOLDER", str(folder)) for word in other.command]
    daemon.env["PATH"] = path
    entry = daemon.real(*words, env=dict(other.env), cwd=str(cwd or folder))
    mcp: dict[str, object] = {"startup_timeout_secs": 120.0, "startup_timeout_max_secs": 180.0}
    mcp |= {"env_pass": [name for name in PASSED if name in daemon.env]}
    mcp |= {"restart_cooldown_secs": 600.0, "restart_cooldown_max_secs": 600.0}  # what it waits in is told at leisure
    mcp |= {"stop_eof_secs": 2.0, "stop_term_secs": 3.0, "request_timeout_secs": 30.0, "max_restart_attempts": 1}
    gateway = {"listen": "127.0.0.1:0"}
    began = time.monotonic()
    start(daemon, {other.name: entry}, gateway, mcp=mcp)
    status = wait_until(
        "it is ready or said why not",
        lambda: _settled(daemon.status(other.name)),
        READY_WITHIN,
        every=0.2,
        tell=lambda: daemon.history(other.name),
    )
    if status["state"] != "ready":
        row.told = first_sentence(daemon, other.name)
        if not other.needs:
            row.faults.append(f"not ready: {row.told}")
    elif other.needs and (told := _ends_soon(daemon, other.name)):
        row.told = told
    else:
        row.ready_secs = time.monotonic() - began
        info = status["server_info"] or {}
        row.info = f"{info.get('name', '')} {info.get('version', '')}".strip().replace("|", "\\|")
        row.revision = status["protocol_version"]
        _see(row, lambda: _list(row, daemon, node))
        _see(row, lambda: _kill(row, daemon, status))
    _see(row, lambda: _stop(daemon, other.name))
    return row


def _see(row: Row, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as fault:
        row.faults.append(" ".join(str(fault).split())[:300] or type(fault).__name__)


def _settled(status: dict[str, Any]) -> dict[str, Any] | None:
    """Return the status of a server that is ready, or is not tried again for long; without a network it always is."""
    offline = status["state"] == "backoff" and status["last_error"]["kind"] == "no_network"
    return status if offline or status["state"] in ("ready", "cooldown") else None


def _ends_soon(daemon: Daemon, name: str) -> str:
    """Return what is told of a server that ends by itself soon after it was ready; nothing where it goes on."""
    until = time.monotonic() + STAYS_SECS
    while time.monotonic() < until:
        if daemon.status(name)["state"] != "ready":
            daemon.wait_for(name, "backoff", "cooldown", within=BACK_WITHIN)
            return first_sentence(daemon, name)
        time.sleep(0.5)
    return ""


def first_sentence(daemon: Daemon, server: str) -> str:
    """Return what `moltis why` says of what happened, and to do first."""
    lines = [line.strip() for line in daemon.cli("why", server).stdout.splitlines()]
    found = []
    for head in ("What happened:", "What to do:"):
        if head in lines:
            words = lines[lines.index(head) + 1 :]
            found.append(words[0].removeprefix("| "))
    return " / ".join(found)[:400]


def _list(row: Row, daemon: Daemon, node: Path) -> None:
    token, url, name = new_token(daemon, "lists"), gateway_url(daemon), row.other.name
    tools: list[str] = []

    def alike() -> bool:
        """Whether /mcp lists what the status counts; some servers change their tools a moment after the start."""
        nonlocal tools
        tools, resources, prompts = anyio.run(_listed_by_python, url, token)
        row.listed = f"{len(tools)}/{resources}/{prompts}"
        now = daemon.status(name)
        own = [tool for tool in tools if not tool.startswith("moltis__")]
        left_out = sum(item["kind"].startswith("tool") for item in now["unusable_items"])
        return (len(own), prompts) == (now["tool_count"] - left_out, now["prompt_count"]) and resources >= now[
            "resource_count"
        ]

    wait_until("/mcp lists what the status counts", alike, SETTLED_WITHIN, every=0.5, tell=lambda: row.listed)
    words = ["node", "--input-type=module", "-e", LISTS_BY_TYPESCRIPT, url, token]
    done = subprocess.run(words, cwd=node, capture_output=True, text=True, timeout=LISTED_WITHIN, check=False)
    assert done.returncode == 0, f"the TypeScript client: {done.stderr[-300:]}"
    assert sorted(json.loads(done.stdout)) == sorted(tools), "the TypeScript client lists other tools"


async def _listed_by_python(url: str, token: str) -> tuple[list[str], int, int]:
    with anyio.fail_after(LISTED_WITHIN):
        async with (
            create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(url, http_client=http), cache=None) as client,
        ):
            names: list[list[str]] = []
            for read, member in (
                (client.list_tools, "tools"),
                (client.list_resources, "resources"),
                (client.list_prompts, "prompts"),
            ):
                found, cursor = [], None
                while True:
                    page = await read(cursor=cursor)
                    found += [item.name for item in getattr(page, member)]
                    if (cursor := page.next_cursor) is None:
                        break
                names.append(found)
            tools, resources, prompts = names
            return tools, len(resources), len(prompts)


def _kill(row: Row, daemon: Daemon, status: Mapping[str, object]) -> None:
    name = row.other.name
    before = set(marked(daemon.mark))
    began = time.monotonic()
    signal_pid(int(str(status["pid"])), signal.SIGKILL)
    wait_until("it is started again", lambda: daemon.status(name)["restarts"] > 0, BACK_WITHIN)
    daemon.wait_for(name, "ready", within=BACK_WITHIN)
    row.back_secs = time.monotonic() - began
    assert not before & set(marked(daemon.mark)), "a process of the first start is left"


def _stop(daemon: Daemon, name: str) -> None:
    daemon.rpc("mcp.stop", name=name)
    wait_until("nothing of it is left", lambda: not marked(daemon.mark), GONE_WITHIN, tell=lambda: marked(daemon.mark))


def run(others: Sequence[Other], jobs: int, told: Callable[[Row], None]) -> list[Row]:
    """Look at them, some at a time, each with a daemon of its own."""
    node = npm_folder(SERVERS / "node", ["@modelcontextprotocol/sdk"], "MOLTIS_TEST_NODE")
    path = f"{uv_programs()}{os.pathsep}{os.environ['PATH']}"
    home = Path.home()
    caches = {"npm_config_cache": str(home / ".npm"), "UV_CACHE_DIR": str(home / ".cache" / "uv")}
    speaking = threading.Lock()

    def one(other: Other) -> Row:
        with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as folder:
            daemon = Daemon(Path(folder))
            daemon.env = {**caches, **daemon.env}
            try:
                row = look_at(other, daemon, node, path)
            except Exception as fault:
                row = Row(other, faults=[" ".join(str(fault).split())[:300]])
            finally:
                daemon.end_everything()
        with speaking:
            told(row)
        return row

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, others))


def main() -> int:
    options = argparse.ArgumentParser(description="Run servers of others under moltis, and print what was seen.")
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--jobs", type=int, default=1)
    chosen = options.parse_args()
    others = [other for other in OTHERS if not chosen.names or other.name in chosen.names]
    rows = run(others, chosen.jobs, lambda row: print("|", " | ".join(row.cells()), "|", file=sys.stderr, flush=True))
    print(table(rows))
    ready = sum(row.ready_secs is not None and not row.faults for row in rows)
    needy = sum(bool(row.told) and not row.faults for row in rows)
    wrong = len(rows) - ready - needy
    print(f"\n{len(rows)} servers: {ready} ready, killed, back, and stopped with nothing left; {needy} said what they")
    print(f"need; {wrong} otherwise.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
