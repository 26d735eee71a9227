"""What an outage of one authorization server does to the N servers behind it, and how soon they go on after it.

    outage.py [--servers 20] [--minutes 1] [--life 12] [--json]

A daemon with its defaults logs in to N servers whose tokens live for LIFE seconds; then the port of the authorization
server is closed for so many minutes. Each server is called every second or so. Printed: servers that were ended or
started anew, logins that were asked for, calls that were answered before, in and after the outage, and, for each
server, the seconds from the end of the outage to its first good call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

from workbench import HERE, Daemon

BROWSER = [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()"]
CALL_EVERY_SECS = 1.0
WATCH_SECS = 120.0
"""After the outage, at most, until every server has answered a call."""


@dataclass
class Outcome:
    """deaths: of ready servers; failures: attempts counted; logins: asked for since the outage began."""

    servers: int
    minutes: float
    deaths: int
    failures: int
    logins: int
    good_during: int
    refused_during: int
    never: int
    secs_to_first_good_call: list[float]


def measure(servers: int, minutes: float, life_secs: float) -> Outcome:
    """Play one outage."""
    argv = [sys.executable, "-E", str(HERE / "outage_server.py"), str(servers), str(life_secs)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as world:
        assert world.stdout is not None
        said = json.loads(world.stdout.readline())
        names = {f"s{number}": url for number, url in enumerate(said["urls"])}
        daemon = Daemon(names)
        try:
            daemon.config.write_text(daemon.config.read_text() + f"[daemon]\nbrowser_command = {json.dumps(BROWSER)}\n")
            daemon.start()
            return _watch(daemon, list(names), said["issuer"], minutes)
        finally:
            daemon.stop()
            world.terminate()


def _watch(daemon: Daemon, names: list[str], issuer: str, minutes: float) -> Outcome:
    line = daemon.connect()
    deadline = time.monotonic() + 120
    while {status["state"] for status in line.call("mcp.list")} != {"ready"}:
        time.sleep(0.2)
        if time.monotonic() > deadline:
            raise RuntimeError([status["last_error"] for status in line.call("mcp.list")])
    before = {status["name"]: status["restarts"] for status in line.call("mcp.list")}
    request = urllib.request.Request(f"{issuer}/away?{minutes * 60}", method="POST")
    urllib.request.urlopen(request, timeout=10).read()
    back_at = time.monotonic() + minutes * 60
    calls: dict[str, list[tuple[float, bool]]] = {name: [] for name in names}
    over = threading.Event()

    def call(name: str) -> None:
        own = daemon.connect()
        while not over.is_set():
            began = time.monotonic()
            try:
                own.call("mcp.call", server=name, tool="echo")
                calls[name].append((time.monotonic(), True))
            except Exception:
                calls[name].append((began, False))
            over.wait(CALL_EVERY_SECS)
        own.close()

    callers = [threading.Thread(target=call, args=(name,), daemon=True) for name in names]
    for caller in callers:
        caller.start()
    while time.monotonic() < back_at + WATCH_SECS:
        time.sleep(0.5)
        if all(made and made[-1][1] and made[-1][0] > back_at for made in calls.values()):
            break
    over.set()
    for caller in callers:
        caller.join(60)
    history = {name: line.call("mcp.history", name=name) for name in names}
    statuses: dict[str, dict[str, Any]] = {status["name"]: status for status in line.call("mcp.list")}
    line.close()
    first = [[at - back_at for at, good in made if good and at >= back_at] for made in calls.values()]
    during = [good for made in calls.values() for at, good in made if at < back_at]
    return Outcome(
        servers=len(names),
        minutes=minutes,
        deaths=sum(statuses[name]["restarts"] - before[name] for name in names),
        failures=sum(len(statuses[name]["recent_errors"]) for name in names),
        # One is from before the outage.
        logins=sum(sum(entry["to"] == "awaiting_auth" for entry in history[name]) - 1 for name in names),
        good_during=sum(during),
        refused_during=len(during) - sum(during),
        never=sum(not good for good in first),
        secs_to_first_good_call=sorted(round(good[0], 2) for good in first if good),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--life", type=float, default=12.0, help="of a token, in seconds")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.servers, given.minutes, given.life)
    if given.json:
        print(json.dumps(asdict(found)))
        return
    secs = found.secs_to_first_good_call
    print(f"{found.servers} servers, authorization server away for {found.minutes:g} min")
    print(f"  server deaths {found.deaths}, failures counted {found.failures}, logins asked for {found.logins}")
    print(f"  calls while it was away: {found.good_during} good, {found.refused_during} refused at once")
    if secs:
        print(f"  first good call after it was back: median {statistics.median(secs):.2f} s, at most {secs[-1]:.2f} s")
    print(f"  each: {secs}; never within {WATCH_SECS:g} s: {found.never}")


if __name__ == "__main__":
    main()
