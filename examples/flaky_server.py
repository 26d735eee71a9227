"""An MCP server that does not live long: it shows what moltis does about one.

    python3 flaky_server.py [SECONDS]     serves for so long (default 5), then exits with code 3; 0 exits at once

Once started by moltis, `moltis why flaky` tells its story.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

EXIT_CODE = 3


def give_up() -> None:
    print("flaky: that was too much for me", file=sys.stderr, flush=True)
    # Not sys.exit, which would end this thread only.
    os._exit(EXIT_CODE)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    results: dict[str, Any] = {
        "initialize": {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "flaky", "version": "1.0.0"},
        },
        "ping": {},
        "tools/list": {"tools": []},
    }
    response: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
    if request["method"] in results:
        return response | {"result": results[request["method"]]}
    return response | {"error": {"code": -32601, "message": f"unknown method: {request['method']}"}}


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    if seconds <= 0:
        give_up()
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    print(f"flaky: I feel well, for {seconds:g} s", file=sys.stderr)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" in message and "method" in message:
            print(json.dumps(answer(message)), flush=True)


if __name__ == "__main__":
    main()
