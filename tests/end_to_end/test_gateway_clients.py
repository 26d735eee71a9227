"""The clients that hosts are made of, at the gateway: the reference SDKs of Python and TypeScript, and the Inspector.

Each speaks both eras where it can, over HTTP and over `moltis connect`, with a server of either era behind the gateway:
`new` is one of MCP 2026-07-28, `old` is the same program held to 2025-11-25.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from gateway_harness import GUARDED, connect_command, connect_env, fixture, gateway_url, new_token, start
from harness import SERVERS, Daemon
from installing import node_program
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from patience import PATIENCE

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ERAS = {"legacy": "2025-11-25", "modern": "2026-07-28"}
WITHIN = PATIENCE
RUN_WITHIN = 2 * PATIENCE
INSPECTOR = Path("@modelcontextprotocol") / "inspector" / "clients" / "launcher" / "build" / "index.js"


@dataclass
class Gateway:
    daemon: Daemon
    token: str
    url: str


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """A daemon with both servers, at which nobody gets in without a token."""
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        daemon = Daemon(Path(name))
        try:
            start(
                daemon,
                {"new": fixture(daemon, protocol="2026-07-28"), "old": fixture(daemon, protocol="legacy")},
                GUARDED,
            )
            daemon.wait_all()
            yield Gateway(daemon, new_token(daemon, "clients"), gateway_url(daemon))
        finally:
            daemon.end_everything()


# -- the Python SDK


@dataclass
class Host:
    """What a host answers, and what it was told."""

    told: list[str] = field(default_factory=list)
    heard: anyio.Event = field(default_factory=anyio.Event)

    async def elicit(self, _context: Any, params: Any) -> types.ElicitResult:
        wanted = params.requested_schema["properties"]
        return types.ElicitResult(action="accept", content={name: f"my {name}" for name in wanted})

    async def sample(self, _context: Any, _params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult(role="assistant", content=types.TextContent(text="sampled"), model="a-model")

    async def roots(self, _context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///home/zoe")])

    async def log(self, params: types.LoggingMessageNotificationParams) -> None:
        self._note(params.data)

    async def hear(self, message: Any) -> None:
        self._note(getattr(message, "method", ""))

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
class Reach:
    """One way to the gateway, in one era."""

    gateway: Gateway
    way: str
    era: str

    @contextlib.asynccontextmanager
    async def client(self, host: Host | None = None, *, server: str | None = None) -> AsyncIterator[Client]:
        answers: dict[str, Any] = {}
        if host is not None:
            answers = {
                "elicitation_callback": host.elicit,
                "sampling_callback": host.sample,
                "list_roots_callback": host.roots,
                "logging_callback": host.log,
                "message_handler": host.hear,
                "log_level": "info",
            }
        async with contextlib.AsyncExitStack() as stack:
            if self.way == "http":
                bearer = {"authorization": f"Bearer {self.gateway.token}"}
                http = await stack.enter_async_context(create_mcp_http_client(headers=bearer))
                target: Any = streamable_http_client(gateway_url(self.gateway.daemon, server), http_client=http)
            else:
                program, *arguments = connect_command(self.gateway.daemon, server)
                target = StdioServerParameters(
                    command=program,
                    args=arguments,
                    env=connect_env(self.gateway.daemon),
                    cwd=self.gateway.daemon.folder,
                )
            mode = "legacy" if self.era == "legacy" else "auto"
            client = await stack.enter_async_context(Client(target, mode=mode, cache=None, **answers))
            assert client.protocol_version == ERAS[self.era]
            yield client


@pytest.fixture(params=["http", "connect"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(ERAS))
def reach(gateway: Gateway, way: str, request: pytest.FixtureRequest) -> Reach:
    return Reach(gateway, way, request.param)


@pytest.fixture(params=["new", "old"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def said(result: Any) -> str:
    text: str = result.content[0].text
    return text


async def test_a_host_lists_what_both_servers_offer(reach: Reach) -> None:
    async with reach.client() as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        prompts = [prompt.name for prompt in (await client.list_prompts()).prompts]
        resources = [str(resource.uri) for resource in (await client.list_resources()).resources]
        templates = [template.uri_template for template in (await client.list_resource_templates()).resource_templates]
    assert {"new__echo", "old__echo"} <= set(tools)
    assert sorted(t.removeprefix("new__") for t in tools if t.startswith("new__")) == sorted(
        t.removeprefix("old__") for t in tools if t.startswith("old__")
    )
    assert {"new__test_simple_prompt", "old__test_simple_prompt"} <= set(prompts)
    assert {"test://static-text", "test://static-binary"} <= set(resources)
    assert "test://template/{id}/data" in templates


async def test_a_host_sees_one_server_as_it_is(reach: Reach, server: str) -> None:
    async with reach.client(server=server) as client:
        assert client.server_info is not None
        assert (client.server_info.name, client.instructions) == (
            "fixture",
            "Everything the conformance suite asks for.",
        )
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["json_schema_2020_12_tool"].input_schema["$defs"]["address"]["$anchor"] == "addressDef"
        assert said(await client.call_tool("echo", {"text": "Grüße 👋"})) == '{"text": "Grüße 👋"}'


async def test_a_host_calls_reads_prompts_and_completes(reach: Reach, server: str) -> None:
    async with reach.client() as client:
        assert said(await client.call_tool(f"{server}__echo", {"text": "\u2028"})) == '{"text": "\u2028"}'
        failed = await client.call_tool(f"{server}__test_error_handling", {})
        assert failed.is_error
        with pytest.raises(MCPError) as unknown:
            await client.call_tool(f"{server}__no_such_tool", {})
        assert unknown.value.error.code == types.INVALID_PARAMS
        prompt = await client.get_prompt(f"{server}__test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
        assert prompt.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"
        read = await client.read_resource("test://template/7/data")
        assert json.loads(read.contents[0].text)["id"] == "7"
        about = types.PromptReference(name=f"{server}__test_prompt_with_arguments")
        completed = await client.complete(about, {"name": "arg1", "value": "par"})
        assert completed.completion.values == ["paris", "park", "party"]


async def test_a_host_hears_of_progress(reach: Reach, server: str) -> None:
    heard: list[tuple[float, float | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total))

    async with reach.client() as client:
        await client.call_tool(f"{server}__test_tool_with_progress", {}, progress_callback=on_progress)
    assert heard == [(0, 100), (50, 100), (100, 100)]


async def test_a_host_answers_what_a_server_asks(reach: Reach, server: str) -> None:
    async with reach.client(Host()) as client:
        asked = await client.call_tool(f"{server}__test_elicitation", {"message": "Who?"})
        assert '"username": "my username"' in said(asked)
        thrice = await client.call_tool(f"{server}__test_input_required_result_multiple_inputs", {})
        assert said(thrice) == 'sampled my name ["file:///home/zoe"]'
        rounds = await client.call_tool(f"{server}__test_input_required_result_multi_round", {})
        assert said(rounds) == "my name likes my color"
        prompt = await client.get_prompt(f"{server}__test_input_required_result_prompt")
        assert prompt.messages[0].content.text == "Context: my context"


async def test_a_host_that_answers_nothing_gets_an_error_and_goes_on(reach: Reach, server: str) -> None:
    async with reach.client() as client:
        with contextlib.suppress(MCPError):
            asked = await client.call_tool(f"{server}__test_elicitation", {"message": "Who?"})
            assert asked.is_error
        assert said(await client.call_tool(f"{server}__echo", {"text": "x"})) == '{"text": "x"}'


async def test_a_host_gets_the_log_of_its_own_call(reach: Reach, server: str) -> None:
    host = Host()
    async with reach.client(host) as client:
        if reach.era == "legacy":
            await client.set_logging_level("info")
        await client.call_tool(f"{server}__test_logging_tool", {"level": "debug", "data": "quiet"})
        await client.call_tool(f"{server}__test_logging_tool", {"level": "warning", "data": "loud"})
        await host.wait_for("loud")
    assert "quiet" not in host.told


async def test_a_host_hears_that_a_list_changed(reach: Reach, server: str) -> None:
    host = Host()
    async with reach.client(host) as client, contextlib.AsyncExitStack() as stack:
        if reach.era == "modern":
            await stack.enter_async_context(client.listen(tools_list_changed=True))
        for expected in (True, False):
            await client.call_tool(f"{server}__test_trigger_tool_change", {})
            await host.wait_for("notifications/tools/list_changed")
            host.told.clear()
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert (f"{server}__test_extra_tool" in names) is expected


async def test_a_host_hears_that_a_resource_it_watches_was_updated(reach: Reach, server: str) -> None:
    host, uri = Host(), "test://watched-resource"
    async with reach.client(host, server=server) as client, contextlib.AsyncExitStack() as stack:
        if reach.era == "modern":
            await stack.enter_async_context(client.listen(resource_subscriptions=[uri]))
        else:
            await client.subscribe_resource(uri)
        for _ in range(int(WITHIN / 0.2)):  # the daemon's own subscription takes a moment
            await client.call_tool("test_touch_resource", {})
            with contextlib.suppress(TimeoutError):
                await host.wait_for("notifications/resources/updated", 0.2)
                break
    assert "notifications/resources/updated" in host.told


# -- TypeScript


@pytest.fixture
def run_node(node: Path, folder: Path) -> Any:
    """Run a script of tests/servers/node, or one of the installed packages, and give what it printed as JSON."""
    shutil.copy(SERVERS / "node" / "client.js", folder)
    shutil.copy(SERVERS / "node" / "package.json", folder)
    (folder / "node_modules").symlink_to(node / "node_modules")
    program = node_program()

    def run(script: Path, *words: str, env: dict[str, str] | None = None) -> Any:
        done = subprocess.run(
            [program, str(script), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "HOME": str(folder), **(env or {})},
            cwd=folder,
            timeout=RUN_WITHIN,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize(("sdk", "era"), [(1, "legacy"), (2, "legacy"), (2, "modern")])
def test_the_typescript_sdk_does_all_that_a_host_does(
    gateway: Gateway, way: str, server: str, sdk: int, era: str, run_node: Any
) -> None:
    wanted: dict[str, Any] = {"sdk": sdk, "era": era, "prefix": f"{server}__"}
    wanted |= {"url": gateway.url, "token": gateway.token} if way == "http" else {}
    wanted |= {"command": connect_command(gateway.daemon)} if way == "connect" else {}
    found = run_node(Path("client.js"), json.dumps(wanted), env=connect_env(gateway.daemon))
    assert found["server"]["name"] == "moltis"
    assert {"new__echo", "old__echo"} <= set(found["tools"])
    assert {"new__test_simple_prompt", "old__test_simple_prompt"} <= set(found["prompts"])
    assert "test://static-text" in found["resources"]
    assert "test://template/{id}/data" in found["templates"]
    assert found["echo"] == '{"text": "Grüße 👋"}'
    assert found["failed"] is True
    assert found["prompt"] == "Prompt with arguments: arg1='one', arg2='two'"
    assert json.loads(found["read"])["id"] == "123"
    # This SDK forgets a progress that it reads in one piece with the reply.
    assert found["progress"][:2] == [0, 50]
    assert set(found["progress"]) <= {0, 50, 100}
    assert '"username": "zoe"' in found["elicited"]
    assert found["sampled"] == "LLM response: sampled"
    assert found["roots"] == '["file:///home/zoe"]'
    assert found["completed"] == ["paris", "park", "party"]
    assert found["seen"]["version"] == (ERAS["modern"] if server == "new" else ERAS["legacy"])
    if server == "new":
        assert found["seen"]["client"]["name"] == "ts-host"


@pytest.mark.parametrize("era", list(ERAS))
def test_the_inspector_lists_calls_and_reads(gateway: Gateway, way: str, era: str, node: Path, run_node: Any) -> None:
    script = node / "node_modules" / INSPECTOR
    options = ["--cli", "--protocol-era", era, "--format", "json", "--quiet"]
    daemon = gateway.daemon
    places = ["-e", f"MOLTIS_CONFIG={daemon.config}", "-e", f"MOLTIS_DATA_DIR={daemon.data_dir}"]
    target = [*places, "--", *connect_command(daemon)]
    if way == "http":
        bearer = f"authorization: Bearer {gateway.token}"
        target = ["--transport", "http", "--server-url", gateway.url, "--header", bearer]

    def inspect(method: str, *words: str) -> Any:
        return run_node(script, *options, "--method", method, *words, *target)["result"]

    assert {"new__echo", "old__echo"} <= {tool["name"] for tool in inspect("tools/list")["tools"]}
    called = inspect("tools/call", "--tool-name", "old__echo", "--tool-arg", "text=Zoë")
    assert called["content"][0]["text"] == '{"text": "Zoë"}'
    if way == "http":
        prompt = inspect("prompts/get", "--prompt-name", "new__test_simple_prompt")
        assert prompt["messages"][0]["content"]["text"] == "This is a simple prompt for testing."
        read = inspect("resources/read", "--uri", "test://static-text")
        assert read["contents"][0]["text"] == "This is the content of the static text resource."
