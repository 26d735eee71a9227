"""`npx -y PACKAGE` with a cold cache, as a model: an install takes some seconds of work, which all that run share.

Standard library only. fake_npx.py CACHE PACKAGE TICK_SECS WORK. An install needs WORK ticks of work and gains 1/n of
one in each tick while n installs run, as on a machine whose processors they share. It says a line on stderr each tick.
One that is killed leaves a `.tmp-PID` behind; with such a thing there the next one fails every other time as npm does.
CACHE/log tells what happened: `begin`, `done` and `enotempty`, a line each.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
INITIALIZE["serverInfo"] = {"name": "fake", "version": "1"}
TOOLS = {"tools": [{"name": "quick", "inputSchema": {"type": "object"}}]}


def note(cache: str, what: str, package: str) -> None:
    with open(f"{cache}/log", "a") as log:
        log.write(f"{what} {package} {os.getpid()}\n")


def running(cache: str) -> int:
    """Count the installs that run now."""
    found = 0
    for pid in os.listdir(f"{cache}/running"):
        try:
            os.kill(int(pid), 0)
            found += 1
        except ProcessLookupError:
            pass
    return max(1, found)


def install(cache: str, package: str, tick_secs: float, work: float) -> None:
    folder = f"{cache}/{package}"
    os.makedirs(folder, exist_ok=True)
    if any(name.startswith(".tmp-") for name in os.listdir(folder)) and random.random() < 0.5:
        note(cache, "enotempty", package)
        sys.stderr.write("npm error code ENOTEMPTY\n")
        sys.exit(190)
    mark, mine = f"{cache}/running/{os.getpid()}", f"{folder}/.tmp-{os.getpid()}"
    for path in (mark, mine):
        with open(path, "w"):
            pass
    note(cache, "begin", package)
    gained = 0.0
    while gained < work and not os.path.exists(f"{folder}/done"):
        time.sleep(tick_secs)
        gained += 1 / running(cache)
        sys.stderr.write("npm http fetch GET 200 https://registry.npmjs.org/thing\n")
        sys.stderr.flush()
    os.replace(mine, f"{folder}/done")
    os.unlink(mark)
    note(cache, "done", package)


def serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        answer = {"initialize": INITIALIZE, "tools/list": TOOLS, "ping": {}}.get(asked.get("method"))
        result = {"result": answer} if answer is not None else {"error": {"code": -32601, "message": "no such method"}}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **result}) + "\n")
        sys.stdout.flush()


def main() -> None:
    cache, package, tick_secs, work = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    os.makedirs(f"{cache}/running", exist_ok=True)
    if not os.path.exists(f"{cache}/{package}/done"):
        install(cache, package, tick_secs, work)
    serve()


if __name__ == "__main__":
    main()
