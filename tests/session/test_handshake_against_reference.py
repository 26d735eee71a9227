"""The reference client and ours, before the same scripted servers: they must come to the same verdict."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from scripted_server import DISCOVERED, INITIALIZED, Message, Out, Running, Script, a_plan, error, result

from moltis.session.description import SERVER_INFO
from moltis.session.handshake import HANDSHAKE_VERSIONS

UNSUPPORTED = -32022


def server(discover: Any, initialize: Any, again: Any = None) -> Script:
    """Answer the first probe with `discover`, later ones with `again`: a result, an error code, or a function."""
    seen: list[str] = []

    def one(request: Message, how: Any) -> Iterable[Out]:
        if how is None:
            return []
        if callable(how):
            answer: Iterable[Out] = how(request)
            return answer
        return [error(request, how)] if isinstance(how, int) else [result(request, how)]

    def script(message: Message) -> Iterable[Out]:
        method = message.get("method", "")
        if "id" not in message:
            return []
        seen.append(method)
        if method == "server/discover":
            return one(message, again if again is not None and seen.count(method) > 1 else discover)
        if method == "initialize":
            return one(message, initialize)
        return [result(message, {"tools": []})] if method == "tools/list" else [error(message, -32601)]

    return script


def unsupported(*versions: str) -> Any:
    return lambda r: [error(r, UNSUPPORTED, data={"supported": list(versions), "requested": "?"})]


def after(secs: float, answer: Any) -> Any:
    return lambda r: [(secs, result(r, answer))]


def at_revision(version: str) -> Message:
    return {**INITIALIZED, "protocolVersion": version}


SERVERS: dict[str, Any] = {
    "modern": lambda: server(DISCOVERED, -32601),
    "modern without a name": lambda: server({**DISCOVERED, "_meta": {}}, -32601),
    "modern with a broken name": lambda: server({**DISCOVERED, "_meta": {SERVER_INFO: 5}}, -32601),
    "modern and old": lambda: server({**DISCOVERED, "supportedVersions": ["2025-11-25", "2026-07-28"]}, INITIALIZED),
    "modern and later": lambda: server({**DISCOVERED, "supportedVersions": ["2026-07-28", "2099-01-01"]}, -32601),
    "discover names old only": lambda: server({**DISCOVERED, "supportedVersions": ["2025-11-25"]}, INITIALIZED),
    "discover names nothing known": lambda: server({**DISCOVERED, "supportedVersions": ["2099-01-01"]}, INITIALIZED),
    "discover answers nonsense": lambda: server({"hello": 1}, INITIALIZED),
    "discover answers without capabilities": lambda: server({"supportedVersions": ["2026-07-28"]}, INITIALIZED),
    "discover refused -32601": lambda: server(-32601, INITIALIZED),
    "discover refused -32602": lambda: server(-32602, INITIALIZED),
    "discover refused -32600": lambda: server(-32600, INITIALIZED),
    "discover refused -32000": lambda: server(-32000, INITIALIZED),
    "discover refused -32022 without data": lambda: server(UNSUPPORTED, INITIALIZED),
    "discover refused, later only": lambda: server(unsupported("2099-01-01"), INITIALIZED),
    "discover refused, no version at all": lambda: server(unsupported(), INITIALIZED),
    "discover refused, old and later": lambda: server(unsupported("2025-06-18", "2099-01-01"), INITIALIZED),
    "discover refused, then accepted": lambda: server(unsupported("2026-07-28"), -32601, DISCOVERED),
    "discover refused twice": lambda: server(unsupported("2026-07-28"), INITIALIZED),
    "discover refused twice, with old": lambda: server(unsupported("2026-07-28", "2025-11-25"), INITIALIZED),
    "discover never answered": lambda: server(None, INITIALIZED),
    "discover answered too late": lambda: server(after(30, DISCOVERED), INITIALIZED),
    "slow start locks modern": lambda: server(None, unsupported("2026-07-28"), DISCOVERED),
    "slow start locks unknown": lambda: server(None, unsupported("2099-01-01"), DISCOVERED),
    "initialize refused after refused probe": lambda: server(-32601, unsupported("2026-07-28"), DISCOVERED),
    "initialize refused twice": lambda: server(-32601, unsupported("2026-07-28")),
    "everything refused": lambda: server(-32601, -32601),
    "initialize answers nonsense": lambda: server(-32601, {"hello": 1}),
    "initialize at a later revision": lambda: server(-32601, at_revision("2099-01-01")),
    "initialize at the modern revision": lambda: server(-32601, at_revision("2026-07-28")),
    **{f"initialize at {v}": (lambda v=v: server(-32601, at_revision(v))) for v in HANDSHAKE_VERSIONS},
}  # fmt: skip


class ReferencePeer:
    """The scripted server as the reference client's transport."""

    def __init__(self, script: Script) -> None:
        self._script = script

    @asynccontextmanager
    async def _streams(self) -> AsyncIterator[Any]:
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage](100)
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage](100)

        async def say(delay: float, message: Message) -> None:
            await anyio.sleep(delay)
            await to_client.send(SessionMessage(jsonrpc_message_adapter.validate_python(message)))

        async def serve() -> None:
            async for sent in from_client:
                message = json.loads(sent.message.model_dump_json(by_alias=True, exclude_none=True))
                for out in self._script(message):
                    assert not isinstance(out, bytes)
                    delay, answer = out if isinstance(out, tuple) else (0, out)
                    tasks.start_soon(say, delay, answer)

        async with to_client, from_server, to_server, from_client, anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield from_server, to_server
            tasks.cancel_scope.cancel()

    async def __aenter__(self) -> Any:
        self._context = self._streams()
        return await self._context.__aenter__()

    async def __aexit__(self, *exc: Any) -> Any:
        return await self._context.__aexit__(*exc)


async def reference_verdict(script: Script) -> str:
    try:
        with anyio.fail_after(300):
            async with Client(ReferencePeer(script), mode="auto", read_timeout_seconds=100) as client:
                return str(client.protocol_version)
    except TimeoutError:
        raise
    except Exception:
        return "failed"


async def our_verdict(script: Script, transport: str = "streamable-http") -> str:
    async with anyio.create_task_group() as tasks:
        running = Running(tasks, script, a_plan(transport=transport))
        ready = await running.until_ready_or_over()
        version = running.session.facts().protocol_version
        tasks.cancel_scope.cancel()
    return str(version) if ready else "failed"


MORE_LENIENT = {"discover answers without capabilities": "2026-07-28"}
"""Differs: it names the revision, and none of its capabilities is needed. Where it has both eras, either works."""


@pytest.mark.parametrize("name", SERVERS)
async def test_both_clients_come_to_the_same_verdict_over_http(name: str) -> None:
    expected = MORE_LENIENT.get(name) or await reference_verdict(SERVERS[name]())
    assert await our_verdict(SERVERS[name]()) == expected


OLDER_OVER_STDIO = {
    "modern and old",
    "discover refused, later only",
    "discover refused, no version at all",
    "discover refused twice",
}
"""Differs: these accept `initialize`, and over stdio we ask that first."""
COUNTS_PROBES = {"slow start locks modern", "initialize refused after refused probe"}
"""They answer the second probe only, and over stdio the first is not sent."""


@pytest.mark.parametrize("name", sorted(SERVERS.keys() - COUNTS_PROBES))
async def test_over_stdio_both_clients_come_to_the_same_verdict_whatever_is_asked_first(name: str) -> None:
    expected = "2025-11-25" if name in OLDER_OVER_STDIO else await reference_verdict(SERVERS[name]())
    assert await our_verdict(SERVERS[name](), "stdio") == expected


async def test_only_ours_adopts_a_modern_server_that_answers_after_ten_seconds() -> None:
    """Differs: the reference client has given the probe up by then; ours listens until `initialize` is answered."""
    script = server(after(12, DISCOVERED), after(30, INITIALIZED))
    assert await our_verdict(script) == "2026-07-28"


async def test_only_ours_accepts_a_server_without_a_name() -> None:
    """Differs: the reference client requires `serverInfo`, which nothing depends on."""
    script = server(-32601, {"protocolVersion": "2025-11-25", "capabilities": {}})
    assert (await our_verdict(script), await reference_verdict(script)) == ("2025-11-25", "failed")
