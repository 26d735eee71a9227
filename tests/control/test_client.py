"""The command line's end of the socket, against the real other end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from control_fakes import FakeDaemon, moved

from moltis.control.client import Client, connect, error_from
from moltis.errors import (
    ConfigError,
    DaemonNotRunning,
    ExitCode,
    MoltisError,
    NotPermitted,
    RequestTimeout,
    ServerError,
    ServerNotReady,
    UnknownServer,
    UsageError,
)
from moltis.paths import Paths

Serve = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def scripted() -> Iterator[tuple[Client, socket.socket]]:
    """A client whose daemon is the test."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with here, there, Client(here, Path("s"), 5.0) as client:
        yield client, there


async def test_results_are_given_as_they_were_sent_and_decoded(serve: Serve, paths: Paths, daemon: FakeDaemon) -> None:
    daemon.all["alpha"].the_session.result = b'{ "a" : 1.50 , "b":"\xc3\xa9"}'

    def talk() -> tuple[bytes, Any, Any]:
        with connect(paths.socket) as client:
            raw = client.call_raw("mcp.call", {"server": "alpha", "tool": "echo"}, None)
            return raw, client.call("mcp.call", {"server": "alpha", "tool": "echo"}), client.call("daemon.status")

    async with serve():
        raw, decoded, status = await anyio.to_thread.run_sync(talk)
    assert raw == daemon.all["alpha"].the_session.result
    assert decoded == {"a": 1.5, "b": "é"}
    assert status["name"] == "moltis"


async def test_errors_are_of_the_daemons_classes(serve: Serve, paths: Paths, daemon: FakeDaemon) -> None:
    daemon.all["alpha"].state = "backoff"
    daemon.all["alpha"].next_retry_at = "soon"

    def attempt(method: str, params: dict[str, Any]) -> MoltisError:
        with connect(paths.socket) as client, pytest.raises(MoltisError) as caught:
            client.call(method, params)
        return caught.value

    async with serve():
        unknown = await anyio.to_thread.run_sync(attempt, "mcp.status", {"name": "nobody"})
        unready = await anyio.to_thread.run_sync(attempt, "mcp.call", {"server": "alpha", "tool": "echo"})
        misused = await anyio.to_thread.run_sync(attempt, "no.such", {})
    assert isinstance(unknown, UnknownServer)
    assert (unknown.exit_code, unknown.server) == (ExitCode.NO_SUCH_SERVER, "nobody")
    assert isinstance(unready, ServerNotReady)
    assert (unready.state, unready.next_retry_at, unready.hint) == ("backoff", "soon", "moltis why alpha")
    assert isinstance(misused, UsageError)


async def test_events_are_kept_while_a_reply_is_awaited(serve: Serve, paths: Paths, daemon: FakeDaemon) -> None:
    def talk() -> list[str]:
        with connect(paths.socket) as client:
            client.call("mcp.subscribe")
            client.call("mcp.list")
            anyio.from_thread.run_sync(lambda: daemon.events.publish(moved("alpha")))
            return [event["type"] for event in client.events(timeout_secs=2.0)]

    async with serve():
        assert await anyio.to_thread.run_sync(talk) == ["snapshot", "state"]


def test_nothing_listening_is_a_daemon_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(DaemonNotRunning, match="no daemon answers"):
        connect(tmp_path / "none.sock")
    with pytest.raises(DaemonNotRunning):
        connect(tmp_path / ("x" * 200))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with pytest.raises(DaemonNotRunning):
        connect(tmp_path / "dead.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_socket_is_not_permitted(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o011)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        path.chmod(0o600)
        code = (
            "import os, sys, pathlib\nfrom moltis.control import client\nos.setgid(65534); os.setuid(65534)\n"
            "try: client.connect(pathlib.Path(sys.argv[1]))\nexcept client.NotPermitted: print('refused')"
        )
        said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, timeout=20)
    assert said.stdout == b"refused\n"


def test_a_daemon_that_does_not_answer_is_a_timeout(scripted: tuple[Client, socket.socket]) -> None:
    client, _there = scripted
    with pytest.raises(RequestTimeout):
        client.call("daemon.status", timeout_secs=0.05)


def test_a_daemon_that_hangs_up_is_not_running(scripted: tuple[Client, socket.socket]) -> None:
    client, there = scripted
    there.close()
    with pytest.raises(DaemonNotRunning, match="ended the connection"):
        client.call("daemon.status")


def test_what_a_daemon_says_before_it_hangs_up_is_heard(scripted: tuple[Client, socket.socket]) -> None:
    client, there = scripted
    reply = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Invalid Request: too long"}}
    there.sendall(json.dumps(reply).encode() + b"\n")
    there.close()
    with pytest.raises(UsageError, match="too long"):
        client.call("mcp.add", {"name": "x"})


def test_the_reply_to_a_call_that_was_given_up_is_not_taken_for_the_next(
    scripted: tuple[Client, socket.socket],
) -> None:
    client, there = scripted
    with pytest.raises(RequestTimeout):
        client.call("first", timeout_secs=0.05)
    there.sendall(b'{"jsonrpc":"2.0","id":1,"result":"late"}\n{"jsonrpc":"2.0","id":2,"result":"mine"}\n')
    assert client.call("second") == "mine"


@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        ({"code": -32700, "message": "m"}, UsageError, 2),
        ({"code": -32603, "message": "m", "data": "odd"}, MoltisError, 1),
        ({"code": -32008, "message": "m", "data": {"hint": "h"}}, ConfigError, 6),
        ({"code": -32009, "message": "m", "data": {"server": "s", "error": {"code": 1}}}, ServerError, 1),
        ({"code": -32603, "message": "m", "data": {"kind": "not_permitted"}}, NotPermitted, 5),
        ({"code": 17, "message": "m"}, MoltisError, 1),
    ],
)
def test_each_code_ends_in_its_exit_code(error: dict[str, Any], kind: type[MoltisError], exit_code: int) -> None:
    found = error_from(error)
    assert (type(found), found.exit_code, found.message) == (kind, exit_code, "m")


def test_the_client_imports_nothing_slow() -> None:
    code = "import sys; import moltis.control.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"anyio", "asyncio", "click", "msgspec", "pydantic", "structlog", "uvloop", "pathlib"} & set(loaded)
