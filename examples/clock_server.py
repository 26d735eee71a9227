"""A small MCP server of protocol revision 2026-07-28, in plain Python: one tool, `now`.

In this revision there is no handshake and no session. Every request says in `_meta` which revision it is written in and
what the client can do, so any request can be answered by itself; `server/discover` tells what the server can do.

stdin and stdout carry JSON-RPC, one message a line; stderr is for people, and moltis writes it to its log.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

VERSION = "2026-07-28"
META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_SERVER = "io.modelcontextprotocol/serverInfo"

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
UNSUPPORTED_VERSION = -32022

Params = dict[str, Any]

NOW = {
    "name": "now",
    "description": "Tells the time",
    "inputSchema": {
        "type": "object",
        "properties": {"timezone": {"type": "string", "description": "IANA name, such as Europe/Berlin; else UTC"}},
    },
    "outputSchema": {
        "type": "object",
        "properties": {"iso": {"type": "string"}, "timezone": {"type": "string"}},
        "required": ["iso", "timezone"],
    },
    "annotations": {"readOnlyHint": True},
}


class RpcError(Exception):
    """Becomes the error of a JSON-RPC response."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({} if data is None else {"data": data})


def discover(_: Params) -> Params:
    return {"supportedVersions": [VERSION], "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "private"}


def list_tools(_: Params) -> Params:
    # A client may keep the list for this long before it asks again.
    return {"tools": [NOW], "ttlMs": 60_000, "cacheScope": "private"}


def call_tool(params: Params) -> Params:
    if params.get("name") != "now":
        raise RpcError(INVALID_PARAMS, f"unknown tool: {params.get('name')}")
    name = (params.get("arguments") or {}).get("timezone", "UTC")
    try:
        zone = UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, TypeError, ValueError):
        # What a model can correct is a result, not an error of the protocol.
        return {"content": [{"type": "text", "text": f"unknown timezone: {name}"}], "isError": True}
    iso = datetime.now(zone).isoformat(timespec="seconds")
    return {"content": [{"type": "text", "text": iso}], "structuredContent": {"iso": iso, "timezone": name}}


METHODS = {"server/discover": discover, "tools/list": list_tools, "tools/call": call_tool}


def check_envelope(request: Params) -> None:
    """Refuse a request that does not say what it is written in, or says something else than `VERSION`."""
    if request["method"] == "initialize":
        # A client of the older revisions: tell it which one this server has.
        asked = (request.get("params") or {}).get("protocolVersion")
        raise RpcError(
            UNSUPPORTED_VERSION, "unsupported protocol version", {"supported": [VERSION], "requested": asked}
        )
    meta = (request.get("params") or {}).get("_meta") or {}
    if META_VERSION not in meta or META_CAPABILITIES not in meta:
        raise RpcError(INVALID_PARAMS, f"params._meta must have {META_VERSION} and {META_CAPABILITIES}")
    if meta[META_VERSION] != VERSION:
        raise unsupported(meta[META_VERSION])


def unsupported(asked: Any) -> RpcError:
    return RpcError(UNSUPPORTED_VERSION, "unsupported protocol version", {"supported": [VERSION], "requested": asked})


def answer(request: Params) -> Params:
    try:
        check_envelope(request)
        method = METHODS.get(request["method"])
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"unknown method: {request['method']}")
        result = method(request["params"])
    except RpcError as error:
        return {"jsonrpc": "2.0", "id": request["id"], "error": error.error}
    result |= {"resultType": "complete", "_meta": {META_SERVER: {"name": "clock", "version": "1.0.0"}}}
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def main() -> None:
    print("clock: ready", file=sys.stderr)
    for line in sys.stdin.buffer:
        try:
            message = json.loads(line)
            if "id" in message and "method" in message:
                print(json.dumps(answer(message)), flush=True)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            print(f"clock: not a message: {error!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
