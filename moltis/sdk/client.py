"""`python -m moltis.sdk.client`: ask one server by the official SDK's client, for `moltis mcp test --sdk`.

Reads one `Ask` from stdin, writes one `Answer` to stdout, and ends; sooner when its stdin is closed. What the server
says on stderr goes to its own. This is the only module that imports the SDK, and nothing imports this module.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import msgspec

from moltis.sdk.messages import LISTS, Answer, Ask, AskLocal, AskRemote, Found

INSTALL = "moltis is installed without the official SDK that it is asked by: pip install 'mcp>=2.3,<3' beside it"
MAX_PAGES = 100
"""Of one list, as the daemon reads it."""
CONNECT_SECS = 30.0


def main() -> None:
    """Answer the one question."""
    ask: Ask = msgspec.json.decode(sys.stdin.buffer.readline(), type=Ask)
    logging.disable(logging.CRITICAL)  # the SDK logs lines of the server as they are, and addresses with their queries
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        _say(Answer(trouble="missing", error=f"{INSTALL} ({error})"))
        return
    anyio.run(_answer_unless_closed, ask)


async def _answer_unless_closed(ask: Ask) -> None:
    """Answer, or end gracefully when whoever asked has gone or had enough."""
    async with anyio.create_task_group() as tasks:

        async def ask_and_end() -> None:
            await _answer(ask)
            tasks.cancel_scope.cancel()

        tasks.start_soon(ask_and_end)
        await anyio.wait_readable(sys.stdin.fileno())
        tasks.cancel_scope.cancel()


async def _answer(ask: Ask) -> None:
    version = importlib.metadata.version("mcp")
    problems: list[str] = []
    for way in _ways(ask):
        told = False

        def tell(found: Found, note: str | None = way.note) -> None:
            nonlocal told
            told = True
            _say(Answer(sdk_version=version, found=msgspec.structs.replace(found, note=note)))

        try:
            await _once(ask, way, tell)
        except Exception as fault:
            problem = way.last_status() or _words(fault)
            if problem not in problems:
                problems.append(problem)
        if told:
            return
    _say(Answer(sdk_version=version, trouble="server", error="; then ".join(problems)))


class _Way(msgspec.Struct):
    """One way to ask: over which transport, and whether by `initialize` alone."""

    legacy: bool
    sse: bool = False
    note: str | None = None
    statuses: list[int] = []

    def last_status(self) -> str | None:
        return f"HTTP {self.statuses[-1]}" if self.statuses else None


def _ways(ask: Ask) -> list[_Way]:
    """Return the ways in order: a server that minds the SDK's first question is asked by the older one."""
    ways = [_Way(legacy=ask.legacy)]
    if isinstance(ask, AskRemote):
        if ask.falls_back:
            ways.append(_Way(legacy=ask.legacy, sse=True, note="by HTTP+SSE, after Streamable HTTP had failed"))
    elif not ask.legacy:
        ways.append(_Way(legacy=True, note="by initialize alone, after server/discover had ended it"))
    return ways


async def _once(ask: Ask, way: _Way, tell: Callable[[Found], None]) -> None:
    import mcp

    decline: Any = _decline
    started = time.monotonic()
    async with mcp.Client(
        _transport(ask, way),
        mode="legacy" if way.legacy else "auto",
        read_timeout_seconds=ask.request_timeout_secs,
        elicitation_callback=decline if ask.elicits else None,
        cache=None,
    ) as client:
        lists: dict[str, list[str]] = {}
        declared = client.server_capabilities.model_dump(exclude_none=True)
        for name, capability, key in _LISTED:
            wanted = capability in declared or (name == "tools" and not declared)
            lists[name] = await _pages(getattr(client, f"list_{name}"), name, key) if wanted else []
        info = client.server_info
        tell(
            Found(
                protocol_version=client.protocol_version,
                server_info=info.model_dump(mode="json", by_alias=True, exclude_none=True) if info else None,
                lists=lists,
                latency_ms=round((time.monotonic() - started) * 1000, 1),
            )
        )


_LISTED = tuple(
    zip(LISTS, ("tools", "resources", "resources", "prompts"), ("name", "uri", "uri_template", "name"), strict=True)
)
"""Each list, what a server declares that has it, and what its members are called by."""


async def _pages(read: Callable[..., Awaitable[Any]], member: str, key: str) -> list[str]:
    from mcp import MCPError

    names: list[str] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        try:
            page = await read(cursor=cursor)
        except MCPError as error:
            if error.code != -32601 or member == LISTS[0]:
                raise
            break  # declared as a whole, and this list of it is not there
        names += [str(getattr(item, key)) for item in getattr(page, member)]
        cursor = page.next_cursor
        if cursor is None:
            break
    return names


async def _decline(_context: Any, _params: Any) -> Any:
    from mcp import types

    return types.ElicitResult(action="decline")


def _transport(ask: Ask, way: _Way) -> AbstractAsyncContextManager[Any]:
    if isinstance(ask, AskLocal):
        return _local(ask)
    return _remote(ask, way)


def _local(ask: AskLocal) -> AbstractAsyncContextManager[Any]:
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    return stdio_client(StdioServerParameters(command=ask.command, args=ask.args, env=ask.env, cwd=ask.cwd))


@asynccontextmanager
async def _remote(ask: AskRemote, way: _Way) -> AsyncIterator[Any]:
    import httpx2
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamable_http_client

    verify = ssl.create_default_context()
    if ask.ca_file is not None:
        verify.load_verify_locations(ask.ca_file)
        verify.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN

    proxy = None
    if ask.proxy is not None:
        proxy = httpx2.Proxy(ask.proxy, ssl_context=verify if ask.proxy.startswith("https:") else None)

    async def note_status(response: Any) -> None:
        way.statuses.clear()
        if response.status_code >= 400:
            way.statuses.append(response.status_code)

    def client(*_args: Any, **_how: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=ask.headers,
            verify=verify,
            proxy=proxy,
            timeout=httpx2.Timeout(CONNECT_SECS, read=None),
            trust_env=False,
            event_hooks={"response": [note_status]},
        )

    if way.sse:
        async with sse_client(ask.url, httpx_client_factory=client) as streams:
            yield streams
    else:
        async with client() as http, streamable_http_client(ask.url, http_client=http) as streams:
            yield streams


def _words(fault: BaseException) -> str:
    """Say what went wrong, of a group what is innermost and first; without an address, which may hold a secret."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror + (f": {fault.filename}" if fault.filename else "")
    return str(fault) or type(fault).__name__


def _say(answer: Answer) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
