"""A stdio MCP server of the handshake era with a bit of everything, for tests that are about whoever stands before it.

    plain_server.py [--mark TEXT]

Standard library only; starts fast as `python -S -E plain_server.py`. Its tool `echo` gives its arguments back as JSON,
as that of fixture_server.py does. `--mark` does nothing: a test finds the process by it.
"""

from __future__ import annotations

import json
import os
import sys

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
LISTS = {
    "tools/list": {"tools": [{"name": name, "inputSchema": TEXT} for name in ("echo", "sleep")]},
    "prompts/list": {"prompts": [{"name": "simple", "description": "A prompt."}]},
    "resources/list": {"resources": [{"uri": "test://static-text", "name": "static-text", "mimeType": "text/plain"}]},
    "resources/templates/list": {"resourceTemplates": [{"uriTemplate": "test://template/{id}/data", "name": "t"}]},
}
CAPABILITIES = {
    "logging": {},
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
}


def answer(method: str, params: dict[str, object]) -> dict[str, object]:
    if method == "initialize":
        wanted = params["protocolVersion"]
        version = wanted if wanted in VERSIONS else VERSIONS[-1]
        info = {"name": "plain", "version": "1"}
        return {"result": {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": info}}
    if method in LISTS:
        return {"result": LISTS[method]}
    if method in ("ping", "logging/setLevel"):
        return {"result": {}}
    if method == "tools/call" and params["name"] == "echo":
        return {"result": {"content": [{"type": "text", "text": json.dumps(params["arguments"])}]}}
    return {"error": {"code": -32601, "message": f"Method not found: {method}"}}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "method" in asked and "id" in asked:
            reply = {"jsonrpc": "2.0", "id": asked["id"], **answer(asked["method"], asked.get("params") or {})}
            os.write(1, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main()
