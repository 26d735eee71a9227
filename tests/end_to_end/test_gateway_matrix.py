"""What a host and a server can do together, through the gateway: every pair of eras, every feature, every way.

The hosts are the Python SDK's client; the servers are one program, held to 2025-11-25 where it is to be a legacy one.
Ways: `one` is /servers/NAME/mcp with the server on stdio, `web` the same with the server behind Streamable HTTP, `all`
is /mcp with its prefixed names, `connect` is `moltis connect`; `auto` is `web` with a server that is held to no era, so
that each host is served in its own. With -s the matrix is printed at the end.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import mcp_types as types
import pytest
from gateway_harness import connect_command, connect_env, fixture, fixture_over_http, gateway_url, start
from harness import Daemon
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ERAS = {"legacy": "2025-11-25", "modern": "2026-07-28"}
MODES = {"legacy": "legacy", "modern": "2026-07-28"}
WAYS = ("one", "web", "all", "connect", "auto")
SERVERS = {
    ("legacy", "stdio"): "old",
    ("modern", "stdio"): "new",
    ("legacy", "web"): "oldweb",
    ("modern", "web"): "newweb",
    ("modern", "auto"): "autoweb",
}
FIRST = "new"
"""The first in moltis.toml: at /mcp its resources keep their addresses."""
WITHIN = 20.0
TRY_AGAIN_SECS = (0.25, 1.0, 4.0, 16.0)
TIMES = 20
"""An update that is lost is lost now and then."""


# -- a host


@dataclass
class Host:
    """What a host answers, and what it was told."""

    told: list[str] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    heard: anyio.Event = field(default_factory=anyio.Event)

    async def elicit(self, _context: Any, params: Any) -> types.ElicitResult:
        wanted = params.requested_schema["properties"]
        return types.ElicitResult(action="accept", content={name: f"my {name}" for name in wanted})

    async def sample(self, _context: Any, params: Any) -> types.CreateMessageResult:
        prompt = params.messages[0].content.text
        said = types.TextContent(text=f"sampled: {prompt}")
        return types.CreateMessageResult(role="assistant", content=said, model="a-model")

    async def roots(self, _context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///home/zoe")])

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        self._note(f"{params.level}: {params.data}")

    async def hear(self, message: Any) -> None:
        if isinstance(message, Exception):
            self.faults.append(message)
        elif message.method == "notifications/resources/updated":
            self._note(f"{message.method} {message.params.uri}")
        else:
            self._note(message.method)

    def _note(self, what: str) -> None:
        self.told.append(what)
        self.heard.set()

    async def wait_for(self, what: str, within: float = WITHIN) -> None:
        """Wait until it was told of something.

        Raises:
            TimeoutError: it was not.
        """
        with anyio.fail_after(within):
            while what not in self.told:
                self.heard = anyio.Event()
                await self.heard.wait()


@dataclass
class Cell:
    """One host at one server. `prefix` stands before the names of tools and prompts."""

    client: Client
    host: Host
    era: str
    server: str
    prefixed: bool

    def name(self, name: str) -> str:
        return f"{self.server}__{name}" if self.prefixed else name

    def uri(self, uri: str) -> str:
        if not self.prefixed or self.server == FIRST:
            return uri
        return f"moltis://{self.server}/{quote(uri, safe='')}"

    async def call(self, tool: str, /, progress: Any = None, **arguments: Any) -> str:
        result = await self.client.call_tool(self.name(tool), arguments, progress_callback=progress)
        assert not result.is_error, result
        text: str = result.content[0].text
        return text

    async def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.call("seen"))
        return found


# -- the rows


async def tools(cell: Cell) -> None:
    listed = {tool.name: tool for tool in (await cell.client.list_tools()).tools}
    schema = listed[cell.name("json_schema_2020_12_tool")].input_schema
    assert schema["$defs"]["address"]["$anchor"] == "addressDef"
    assert await cell.call("echo", text="Grüße \u2028 👋") == '{"text": "Grüße \u2028 👋"}'
    failed = await cell.client.call_tool(cell.name("test_error_handling"), {})
    assert failed.is_error


async def resources(cell: Cell) -> None:
    listed = [str(resource.uri) for resource in (await cell.client.list_resources()).resources]
    assert cell.uri("test://static-text") in listed
    templates = [t.uri_template for t in (await cell.client.list_resource_templates()).resource_templates]
    assert "test://template/{id}/data" in templates or cell.prefixed
    read = await cell.client.read_resource(cell.uri("test://static-text"))
    assert read.contents[0].text == "This is the content of the static text resource."
    binary = await cell.client.read_resource(cell.uri("test://static-binary"))
    assert binary.contents[0].blob
    of_template = await cell.client.read_resource(cell.uri("test://template/Zoë/data"))
    assert "Zo" in json.loads(of_template.contents[0].text)["id"]


async def prompts(cell: Cell) -> None:
    listed = {prompt.name for prompt in (await cell.client.list_prompts()).prompts}
    assert cell.name("test_prompt_with_arguments") in listed
    prompt = await cell.client.get_prompt(cell.name("test_prompt_with_arguments"), {"arg1": "a", "arg2": "b"})
    assert prompt.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"


async def completion(cell: Cell) -> None:
    prompt = types.PromptReference(name=cell.name("test_prompt_with_arguments"))
    completed = await cell.client.complete(prompt, {"name": "arg1", "value": "par"})
    assert completed.completion.values == ["paris", "park", "party"]


async def progress(cell: Cell) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        heard.append((done, total, message))

    assert "successfully" in await cell.call("test_tool_with_progress", on_progress)
    assert heard == [(done, 100, f"{done} of 100") for done in (0, 50, 100)]


async def cancel(cell: Cell) -> None:
    before = (await cell.seen())["cancelled"]
    for secs in (0.1, 1.0, 5.0):  # that it takes until the server has the call
        with anyio.move_on_after(secs):
            await cell.call("sleep", secs=60)
        with anyio.move_on_after(WITHIN / 2):
            while (await cell.seen())["cancelled"] == before:
                pass
            return
    raise AssertionError("the server was not told")


async def log(cell: Cell) -> None:
    if cell.era == "legacy":
        await cell.client.set_logging_level("info")
    for (
        secs
    ) in TRY_AGAIN_SECS:  # on stdio a message is dropped while another host's call, just cancelled, may be its cause
        await cell.call("test_logging_tool", level="debug", data="quiet")
        await cell.call("test_logging_tool", level="warning", data="loud")
        with contextlib.suppress(TimeoutError):
            await cell.host.wait_for("warning: loud", secs)
            break
    assert "warning: loud" in cell.host.told
    assert "debug: quiet" not in cell.host.told


async def sampling(cell: Cell) -> None:
    assert await cell.call("test_sampling", prompt="Who?") == "LLM response: sampled: Who?"


async def elicitation(cell: Cell) -> None:
    assert '"username": "my username"' in await cell.call("test_elicitation", message="Who?")
    assert await cell.call("test_input_required_result_multi_round") == "my name likes my color"


async def roots(cell: Cell) -> None:
    assert await cell.call("test_input_required_result_list_roots") == '["file:///home/zoe"]'


@contextlib.asynccontextmanager
async def listening(cell: Cell, **what: Any) -> AsyncIterator[None]:
    """Listen, in the era in which one has to."""
    if cell.era == "legacy":
        yield
        return
    async with cell.client.listen(**what):
        yield


async def list_changed(cell: Cell) -> None:
    method = "notifications/tools/list_changed"
    async with listening(cell, tools_list_changed=True):
        for expected in (True, False):
            cell.host.told.clear()
            await cell.call("test_trigger_tool_change")
            await cell.host.wait_for(method)
            listed = [tool.name for tool in (await cell.client.list_tools()).tools]
            assert (cell.name("test_extra_tool") in listed) is expected


async def subscription(cell: Cell) -> None:
    uri = cell.uri("test://watched-resource")
    told = f"notifications/resources/updated {uri}"
    for _ in range(TIMES):
        async with listening(cell, resource_subscriptions=[uri]):
            if cell.era == "legacy":
                await cell.client.subscribe_resource(uri)
            cell.host.told.clear()
            await cell.call("test_touch_resource")  # at once: what is acknowledged is in force
            await cell.host.wait_for(told)
            if cell.era == "legacy":
                await cell.client.unsubscribe_resource(uri)


Row = Callable[[Cell], Awaitable[None]]
ROWS: dict[str, Row] = {
    row.__name__: row
    for row in (
        tools, resources, prompts, completion, progress, cancel, log, sampling, elicitation, roots, list_changed,
        subscription,
    )
}  # fmt: skip


# -- the columns


@dataclass(frozen=True)
class Column:
    way: str
    host: str
    server: str

    def __str__(self) -> str:
        return f"{self.way}: {self.host} host, {self.server} server"


COLUMNS = [
    Column(way, host, server) for way in WAYS for host in ERAS for server in ERAS if (way, server) != ("auto", "legacy")
]


class Matrix:
    """What came of each cell."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, Column], str] = {}

    def __str__(self) -> str:
        lines = []
        for way in WAYS:
            columns = [column for column in COLUMNS if column.way == way]
            heads = [f"{column.host}-{column.server}" for column in columns]
            lines += ["", f"{way:>14} " + " ".join(f"{head:>15}" for head in heads)]
            for row in ROWS:
                cells = [self.cells.get((row, column), "-") for column in columns]
                lines.append(f"{row:>14} " + " ".join(f"{cell:>15}" for cell in cells))
        passed = sum(cell.startswith("ok") for cell in self.cells.values())
        return "\n".join([*lines, "", f"host-server; {passed} of {len(self.cells)} cells pass"])


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    made = Matrix()
    yield made
    print(made)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Daemon]:
    """One daemon, with all four servers."""
    with (
        tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name,
        contextlib.ExitStack() as stack,
    ):
        daemon = Daemon(Path(name))
        entries: dict[str, dict[str, Any]] = {}
        for server in ("new", "old", "newweb", "oldweb", "autoweb"):
            keys = {"protocol": {"o": "legacy", "n": "2026-07-28", "a": "auto"}[server[0]]}
            if server.endswith("web"):
                url = stack.enter_context(fixture_over_http(daemon.mark))
                entries[server] = {"url": url, "transport": "streamable-http", **keys}
            else:
                entries[server] = fixture(daemon, **keys)
        try:
            start(daemon, entries)
            daemon.wait_all()
            yield daemon
        finally:
            daemon.end_everything()


@contextlib.asynccontextmanager
async def open_cell(daemon: Daemon, column: Column) -> AsyncIterator[Cell]:
    host = Host()
    server = SERVERS[column.server, column.way if column.way in ("web", "auto") else "stdio"]
    prefixed = column.way == "all"
    seen = None if prefixed else server
    async with contextlib.AsyncExitStack() as stack:
        target: Any
        if column.way == "connect":
            program, *arguments = connect_command(daemon, seen)
            target = StdioServerParameters(command=program, args=arguments, env=connect_env(daemon), cwd=daemon.folder)
        else:
            http = await stack.enter_async_context(create_mcp_http_client())
            target = streamable_http_client(gateway_url(daemon, seen), http_client=http)
        client = Client(
            target,
            mode=MODES[column.host],
            cache=None,
            elicitation_callback=host.elicit,
            sampling_callback=host.sample,
            list_roots_callback=host.roots,
            logging_callback=host.log,
            message_handler=host.hear,
            log_level="info",
            client_info=types.Implementation(name=f"{column.host}-host", version="1"),
        )
        await stack.enter_async_context(client)
        assert client.protocol_version == ERAS[column.host]
        yield Cell(client, host, column.host, server, prefixed)
    assert host.faults == []


@pytest.mark.parametrize("row", list(ROWS))
@pytest.mark.parametrize("column", COLUMNS, ids=str)
async def test_a_host_and_a_server_of_any_era_do_it_together(
    gateway: Daemon, matrix: Matrix, column: Column, row: str
) -> None:
    matrix.cells[row, column] = "FAILED"
    began = time.monotonic()
    with anyio.fail_after(10 * WITHIN):
        async with open_cell(gateway, column) as cell:
            await ROWS[row](cell)
    matrix.cells[row, column] = f"ok {1000 * (time.monotonic() - began):.0f} ms"


MODERN_SERVERS = [c for c in COLUMNS if c.server == "modern" and c.way != "auto"]


@pytest.mark.parametrize("column", MODERN_SERVERS, ids=str)
async def test_a_server_of_2026_is_told_who_the_host_is_and_what_it_can(gateway: Daemon, column: Column) -> None:
    async with open_cell(gateway, column) as cell:
        seen = await cell.seen()
    assert seen["version"] == ERAS["modern"]
    assert seen["client"]["name"] == f"{column.host}-host"
    assert {"elicitation", "sampling", "roots"} <= seen["capabilities"].keys()
