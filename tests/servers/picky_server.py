"""A stdio server that minds what it is asked to begin with. Needs nothing but Python.

--knows legacy|modern|both     the eras that it speaks; `both` speaks the one that it was asked for last
--exits initialize|other CODE  it exits on `initialize`, or on whatever else comes before it
--ignores METHOD               it says nothing to it
--only REVISION                it refuses to `initialize` with any other, and names it
--then-exits                   after that
--sleeps SECS                  before it reads anything
--log FILE                     a line for each process, and for each method that it read
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

TOOL = {"name": "quick", "inputSchema": {"type": "object"}}
ABOUT = {"name": "picky", "version": "1"}
LEGACY = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": ABOUT}
MODERN = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "ttlMs": 0,
    "cacheScope": "private",
    "_meta": {"io.modelcontextprotocol/serverInfo": ABOUT},
}
MODERN_VERSION = "io.modelcontextprotocol/protocolVersion"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--mark")
    options.add_argument("--knows", default="legacy")
    options.add_argument("--exits", nargs=2, default=("", "0"))
    options.add_argument("--ignores", default="")
    options.add_argument("--only", default="")
    options.add_argument("--then-exits", action="store_true")
    options.add_argument("--sleeps", type=float, default=0)
    options.add_argument("--log", default=os.devnull)
    chosen = options.parse_args()

    def note(what: str) -> None:
        with open(chosen.log, "a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {what}\n")

    note("started")
    time.sleep(chosen.sleeps)
    era = ""
    for line in sys.stdin:
        message = json.loads(line)
        method = message.get("method", "")
        note(method)
        mind, code = chosen.exits
        if (mind == "initialize" and method == mind) or (mind == "other" and not era and method != "initialize"):
            print("Error: ExpectedSomethingElse", file=sys.stderr)
            sys.exit(int(code))
        if "id" not in message or method == chosen.ignores:
            continue
        answer: dict[str, Any] = {"error": {"code": -32601, "message": "Method not found"}}
        in_modern = MODERN_VERSION in message.get("params", {}).get("_meta", {})
        offered = message.get("params", {}).get("protocolVersion")
        if method == "initialize" and chosen.only and offered != chosen.only:
            data = {"expected": chosen.only, "received": offered}
            answer = {"error": {"code": -32602, "message": "Unsupported protocol version", "data": data}}
        elif method == "initialize" and chosen.only:
            era, answer = "legacy", {"result": {**LEGACY, "protocolVersion": offered}}
        elif method == "initialize" and chosen.knows != "modern":
            era, answer = "legacy", {"result": LEGACY}
        elif method == "server/discover" and chosen.knows != "legacy":
            era, answer = "modern", {"result": MODERN}
        elif in_modern is not (era == "modern"):
            answer = {"error": {"code": -32600, "message": "that is not the era that was agreed on"}}
        elif method == "tools/list":
            answer = {"result": {"tools": [TOOL], **({"resultType": "complete"} if in_modern else {})}}
        elif method == "tools/call":
            done = {"content": [{"type": "text", "text": era}]}
            answer = {"result": {**done, **({"resultType": "complete"} if in_modern else {})}}
        elif method == "ping":
            answer = {"result": {}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
        if chosen.then_exits and "error" in answer and method == "initialize":
            sys.exit(1)


main()
