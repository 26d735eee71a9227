"""The reference SDKs, which hosts are made of, while the daemon ends and comes back with other servers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from gateway_harness import GUARDED, connect_command, connect_env, gateway_url, new_token, plain
from harness import SERVERS, Daemon, wait_until
from installing import node_program
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from patience import PATIENCE
from ports import free_port
from raw_hosts import PipeHost

WITHIN = PATIENCE
ERAS = {"legacy": "2025-11-25", "modern": "2026-07-28"}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Life:
    """A daemon that ends and comes back at the same address."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.listen = f"127.0.0.1:{free_port()}"
        self.start("one")
        self.token = new_token(daemon, "host")

    def start(self, *servers: str) -> None:
        entries = {name: plain(self.daemon) for name in servers}
        self.daemon.write(entries, gateway={**GUARDED, "listen": self.listen})
        self.daemon.start()
        self.daemon.wait_all()
        gateway_url(self.daemon)

    def restart(self, how: str, *servers: str) -> None:
        """End it, as `how` says, and start the next one with these servers."""
        if how.startswith("stop"):
            self.daemon.stop()
        else:
            kept = self.daemon.data_dir / "sessions.json"
            if "http" in how:
                wait_until("the session is kept", kept.exists)
            self.daemon.signal(signal.SIGKILL)
            self.daemon.wait_exit()
        self.start(*servers)


@pytest.fixture
def life(daemon: Daemon) -> Life:
    return Life(daemon)


@contextlib.asynccontextmanager
async def python_client(life: Life, way: str, era: str, hear: Any) -> AsyncIterator[Client]:
    async with contextlib.AsyncExitStack() as stack:
        if way == "http":
            bearer = {"authorization": f"Bearer {life.token}"}
            http = await stack.enter_async_context(create_mcp_http_client(headers=bearer))
            target: Any = streamable_http_client(f"http://{life.listen}/mcp", http_client=http)
        else:
            program, *arguments = connect_command(life.daemon)
            target = StdioServerParameters(
                command=program, args=arguments, env=connect_env(life.daemon), cwd=life.daemon.folder
            )
        mode = "legacy" if era == "legacy" else "auto"
        client = await stack.enter_async_context(Client(target, mode=mode, cache=None, message_handler=hear))
        assert client.protocol_version == ERAS[era]
        yield client


@pytest.mark.parametrize("era", list(ERAS))
@pytest.mark.parametrize(("way", "how"), [("http", "stop"), ("http", "kill"), ("connect", "stop"), ("connect", "kill")])
async def test_the_python_sdk_goes_on(life: Life, way: str, how: str, era: str) -> None:
    changed = anyio.Event()

    async def hear(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            changed.set()

    async with python_client(life, way, era, hear) as client, contextlib.AsyncExitStack() as stack:
        assert not (await client.call_tool("one__echo", {"text": "x"})).is_error
        if way == "connect" and era == "modern":
            await stack.enter_async_context(client.listen(tools_list_changed=True))
        await anyio.to_thread.run_sync(partial(life.restart, how if era == "modern" else f"{how} {way}", "one", "two"))
        with anyio.fail_after(WITHIN):
            assert (await client.call_tool("two__echo", {"text": "y"})).content[0].text == '{"text": "y"}'
            assert "two__echo" in {tool.name for tool in (await client.list_tools()).tools}
            if way == "connect":
                await changed.wait()


@pytest.mark.parametrize("way", ["http", "connect"])
@pytest.mark.parametrize(("sdk", "era"), [(1, "legacy"), (2, "legacy"), (2, "modern")])
def test_the_typescript_sdk_goes_on(life: Life, node: Path, folder: Path, way: str, sdk: int, era: str) -> None:
    shutil.copy(SERVERS / "node" / "restarts.js", folder)
    shutil.copy(SERVERS / "node" / "package.json", folder)
    (folder / "node_modules").symlink_to(node / "node_modules")
    wanted: dict[str, Any] = {"sdk": sdk, "era": era}
    if way == "http":
        wanted |= {"url": f"http://{life.listen}/mcp", "token": life.token}
    else:
        wanted["command"] = connect_command(life.daemon)
    with subprocess.Popen(
        [node_program(), "restarts.js", json.dumps(wanted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **connect_env(life.daemon)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], WITHIN)[0]
            assert process.stdout.readline() == b"ready\n"
            life.restart("kill" if era == "modern" else f"kill {way}", "one", "two")
            process.stdin.write(b"go\n")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], WITHIN)[0]
            said = json.loads(process.stdout.readline())
        finally:
            process.kill()
    assert said["echo"] == '{"text": "two"}'
    assert "two__echo" in said["tools"]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_call_under_way_when_the_daemon_ends_fails_once_and_reached_its_server_once(
    daemon: Daemon, sign: signal.Signals
) -> None:
    daemon.write({"evil": daemon.evil(events="events")}, gateway={**GUARDED, "listen": "127.0.0.1:0"})
    daemon.start()
    daemon.wait_all()

    def calls(tool: str) -> int:
        return sum(words == ["call", tool] for _time, _pid, words in daemon.events("events"))

    with PipeHost(daemon) as host:
        host.begin()
        host.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "evil__never"}})
        wait_until("the call is under way", lambda: calls("never") == 1)
        daemon.signal(sign)
        lost = host.answer()
        assert lost["id"] == 1
        assert ("not sent again" if sign == signal.SIGKILL else "moltis is stopping") in json.dumps(lost)
        daemon.wait_exit()
        daemon.start()
        daemon.wait_all()
        params = {"name": "evil__echo", "arguments": {"message": "x"}}
        assert host.request("tools/call", params, 2)["result"]["content"][0]["text"] == "x"
    assert (calls("never"), calls("echo")) == (1, 1)


def test_a_server_that_is_not_there_is_said_to_the_host_until_it_is(daemon: Daemon) -> None:
    daemon.write({"one": plain(daemon)}, gateway={**GUARDED, "listen": "127.0.0.1:0"})
    daemon.start()
    with PipeHost(daemon, "later") as host:
        params = {"protocolVersion": ERAS["legacy"], "capabilities": {}, "clientInfo": {"name": "h", "version": "1"}}
        assert "later" in host.request("initialize", params, 1)["error"]["message"]
        daemon.write({"later": plain(daemon)}, gateway={**GUARDED, "listen": "127.0.0.1:0"})
        daemon.rpc("daemon.reload")
        daemon.wait_for("later", "ready")
        wait_until("it is let in", lambda: "result" in host.request("initialize", params, 2))
        assert host.request("tools/call", {"name": "echo", "arguments": {"text": "x"}}, 3)["result"]["content"]
