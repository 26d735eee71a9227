"""The example servers, spoken to over their pipes and by the SDK's client, each in its own protocol revision."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import TextContent, TextResourceContents

from moltis.config.load import load
from moltis.config.plan import StdioLaunch

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parent.parent / "examples"


ENVELOPE = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}
PATIENCE_SECS = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    """An example's process, its pipes, and what it wrote."""

    def __init__(self, *command: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, stderr=pipe, cwd=EXAMPLES)

    def say(self, *messages: object) -> None:
        assert self.process.stdin is not None
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        heard: dict[str, Any] = json.loads(self.process.stdout.readline())
        return heard

    def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        self.say({"jsonrpc": "2.0", "id": 1, "method": method, **({} if params is None else {"params": params})})
        return self.hear()


@pytest.fixture
def hello() -> Iterator[Server]:
    yield from _serving("hello_server.py")


@pytest.fixture
def clock() -> Iterator[Server]:
    yield from _serving("clock_server.py")


def _serving(*command: str) -> Iterator[Server]:
    server = Server(*command)
    with server.process:
        yield server
        server.process.kill()


@asynccontextmanager
async def sdk_client(*command: str, program: str = sys.executable, **options: Any) -> AsyncIterator[Client]:
    server = StdioServerParameters(command=program, args=list(command), cwd=EXAMPLES)
    with anyio.fail_after(PATIENCE_SECS):
        async with Client(server, **options) as client:
            yield client


def text_of(result: Any) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


# hello.toml


def test_the_example_configuration_has_no_problems_and_runs_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(EXAMPLES / "hello.toml", {}, {})
    assert loaded.problems == ()
    assert [s.name for s in loaded.plan.servers if s.enabled] == ["hello", "clock"]
    for server in loaded.plan.servers:
        assert isinstance(server.launch, StdioLaunch)
        assert server.launch.command == "python3"
        assert server.launch.cwd is not None
        assert (Path(server.launch.cwd) / server.launch.args[0]).samefile(EXAMPLES / server.launch.args[0])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_an_example_needs_nothing_but_python(path: Path) -> None:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    assert roots <= set(sys.stdlib_module_names)


# hello_server.py: the revisions with a handshake


@pytest.mark.parametrize(
    ("asked", "given"), [("2025-06-18", "2025-06-18"), ("2024-11-05", "2024-11-05"), ("1999-01-01", "2025-11-25")]
)
def test_hello_agrees_on_a_revision(hello: Server, asked: str, given: str) -> None:
    params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    result = hello.ask("initialize", params)["result"]
    assert result["protocolVersion"] == given
    assert result["serverInfo"]["name"] == "hello"
    assert set(result["capabilities"]) == {"tools", "resources", "prompts"}


def test_hello_answers_by_hand_as_its_docstring_says() -> None:
    command = [sys.executable, "hello_server.py"]
    request = '{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'
    for _ in range(20):  # end of file comes right behind the request: the answer must win that race every time
        done = subprocess.run(
            command, input=request, capture_output=True, text=True, timeout=PATIENCE_SECS, cwd=EXAMPLES, check=True
        )
        assert json.loads(done.stdout) == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_hello_survives_what_is_no_message(hello: Server) -> None:
    hello.say(b"garbage", b"\xff", b"[]", b"7", b"{}", {"method": "notifications/cancelled"})
    assert hello.ask("ping")["result"] == {}


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("server/discover", ENVELOPE, -32601),
        ("tools/call", {"name": "nothing"}, -32602),
        ("resources/read", {"uri": "hello://nothing"}, -32602),
        ("prompts/get", {"name": "introduce"}, -32602),
    ],
)
def test_hello_refuses_with_the_codes_of_the_protocol(
    hello: Server, method: str, params: dict[str, Any], code: int
) -> None:
    assert hello.ask(method, params)["error"]["code"] == code


def test_hello_tells_a_model_what_is_wrong_with_its_arguments(hello: Server) -> None:
    result = hello.ask("tools/call", {"name": "hello", "arguments": {}})["result"]
    assert result["isError"] is True
    assert "name" in result["content"][0]["text"]


def test_a_long_sleep_holds_up_nobody_and_can_be_cancelled(hello: Server) -> None:
    sleep = {"name": "sleep", "arguments": {"seconds": 3600}}
    hello.say({"jsonrpc": "2.0", "id": "long", "method": "tools/call", "params": sleep})
    assert hello.ask("ping")["id"] == 1
    hello.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "long"}})
    short = {"name": "sleep", "arguments": {"seconds": 0.2}}
    assert hello.ask("tools/call", short)["id"] == 1  # and never an answer to the cancelled one
    assert hello.process.stdin is not None
    hello.process.stdin.close()
    assert hello.process.wait(PATIENCE_SECS) == 0


async def test_hello_is_whole_to_the_sdk() -> None:
    async with sdk_client("hello_server.py") as client:
        assert client.protocol_version == "2025-11-25"
        assert [tool.name for tool in (await client.list_tools()).tools] == ["hello", "echo", "sleep"]
        assert text_of(await client.call_tool("hello", {"name": "World"})) == "Hello, World!"
        assert text_of(await client.call_tool("echo", {"text": "é\u2028\n"})) == "é\u2028\n"

        (resource,) = (await client.list_resources()).resources
        (contents,) = (await client.read_resource(resource.uri)).contents
        assert isinstance(contents, TextResourceContents)
        assert contents.text == "Hello!"

        (prompt,) = (await client.list_prompts()).prompts
        answer = await client.get_prompt(prompt.name, {"name": "Ada"})
        assert isinstance(answer.messages[0].content, TextContent)
        assert "Ada" in answer.messages[0].content.text

        with pytest.raises(MCPError, match="unknown tool"):
            await client.call_tool("nothing", {})


async def test_hello_reports_progress() -> None:
    seen: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))

    async with sdk_client("hello_server.py") as client:
        await client.call_tool("sleep", {"seconds": 0.35}, progress_callback=note)
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {0.35}


# clock_server.py: 2026-07-28


def test_the_clock_needs_no_handshake(clock: Server) -> None:
    assert clock.ask("tools/list", ENVELOPE)["result"]["tools"][0]["name"] == "now"
    result = clock.ask("server/discover", ENVELOPE)["result"]
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["resultType"] == "complete"


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("initialize", {"protocolVersion": "2025-11-25"}, -32022),
        ("tools/list", {}, -32602),
        ("ping", ENVELOPE, -32601),
        ("tools/list", {"_meta": {**ENVELOPE["_meta"], "io.modelcontextprotocol/protocolVersion": "1999"}}, -32022),
        ("tools/call", {"name": "then", **ENVELOPE}, -32602),
    ],
)
def test_the_clock_refuses_with_the_codes_of_the_protocol(
    clock: Server, method: str, params: dict[str, Any], code: int
) -> None:
    error = clock.ask(method, params)["error"]
    assert error["code"] == code
    if code == -32022:
        assert error["data"]["supported"] == ["2026-07-28"]


async def test_the_clock_is_whole_to_the_sdk() -> None:
    async with sdk_client("clock_server.py") as client:
        assert client.protocol_version == "2026-07-28"
        assert [tool.name for tool in (await client.list_tools()).tools] == ["now"]
        result = await client.call_tool("now", {})
        assert result.structured_content == {"iso": text_of(result), "timezone": "UTC"}
        assert datetime.fromisoformat(text_of(result)).utcoffset() is not None
        assert (await client.call_tool("now", {"timezone": "../etc/passwd"})).is_error


# flaky_server.py


def test_flaky_exits_at_once_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "flaky_server.py", "0"], capture_output=True, text=True, cwd=EXAMPLES, check=False, timeout=20
    )
    assert done.returncode == 3
    assert done.stderr == "flaky: that was too much for me\n"
    assert done.stdout == ""


async def test_flaky_serves_the_sdk_and_then_dies() -> None:
    async with sdk_client("flaky_server.py", "1.5", mode="legacy") as client:
        with pytest.raises(MCPError, match="closed"):
            await _list_tools_for_ever(client)


async def _list_tools_for_ever(client: Client) -> None:
    while True:
        assert (await client.list_tools()).tools == []
        await anyio.sleep(0.05)
