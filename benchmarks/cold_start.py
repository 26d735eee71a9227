"""A fleet of `npx -y` servers with a cold cache, from launch to all ready: does it converge, and in what time?

.venv/bin/python benchmarks/cold_start.py [--servers 60] [--packages 60] [--scale 1.0] [--minutes 20]

`fake_npx.py` is the model of an install: 8 s of work, shared by all that run. At scale 1 the daemon is in its default
configuration; at another scale its start and restart times are scaled too. Run by itself: at scale 1 it takes as long
as a person would wait, some eight minutes for sixty servers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from workbench import BARE_PYTHON, HERE, Daemon

TICK_SECS = 1.0
WORK = 8.0
SCALED = {
    "startup_timeout_secs": 60.0,
    "startup_timeout_max_secs": 600.0,
    "restart_backoff_secs": 1.0,
    "restart_backoff_max_secs": 60.0,
    "restart_cooldown_secs": 300.0,
    "restart_cooldown_max_secs": 3600.0,
}
"""The defaults that a model in less time needs scaled."""


@dataclass(frozen=True)
class Row:
    """The fleet at one moment; secs since launch. killed: installs that began and neither ended nor run any more."""

    secs: float
    ready: int
    cooldown: int
    installing: int
    begun: int
    killed: int
    enotempty: int

    def __str__(self) -> str:
        return (
            f"{self.secs / 60:6.2f} min | ready {self.ready:3} | cooldown {self.cooldown:3} | installing "
            f"{self.installing:3} | begun {self.begun:3} | killed {self.killed:3} | ENOTEMPTY {self.enotempty:3}"
        )


@dataclass(frozen=True)
class Outcome:
    """rows: one each `every_secs`, and the last. most_installing: at once, at any moment. ready_secs: None if never."""

    rows: list[Row]
    most_installing: int
    ready_secs: float | None


def cold_start(
    servers: int, packages: int, *, scale: float = 1.0, within_secs: float, every_secs: float, tell: bool = False
) -> Outcome:
    """Start a fleet with an empty cache and watch it, until all are ready or the time is over."""
    cache = Path(tempfile.mkdtemp(prefix="moltis-bench-cache-"))
    fleet = {
        f"s{n}": [
            *(BARE_PYTHON, "-S", "-E", str(HERE / "fake_npx.py")),
            *(str(cache), f"pkg{n % packages}", str(TICK_SECS * scale), str(WORK)),
        ]
        for n in range(servers)
    }
    daemon = Daemon(fleet, {} if scale == 1 else {key: value * scale for key, value in SCALED.items()})
    began = time.monotonic()
    rows: list[Row] = []
    most = 0
    try:
        daemon.start()
        line = daemon.connect()
        while True:
            counts, now = line.call("daemon.status")["servers"], time.monotonic() - began
            row = _look(cache, counts, now)
            most = max(most, row.installing)
            over = row.ready == servers or now > within_secs
            if over or now >= len(rows) * every_secs:
                rows.append(row)
                if tell:
                    print(row, flush=True)
            if over:
                return Outcome(rows, most, now if row.ready == servers else None)
            time.sleep(0.2 * min(1.0, scale * 2))
    finally:
        daemon.stop()
        shutil.rmtree(cache, ignore_errors=True)


def _look(cache: Path, counts: dict[str, int], now: float) -> Row:
    told: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError):
        told.update(line.split()[0] for line in (cache / "log").read_text().splitlines())
    installing = 0
    with contextlib.suppress(FileNotFoundError):
        installing = sum(_is_alive(pid) for pid in os.listdir(cache / "running"))
    killed = max(0, told["begin"] - told["done"] - installing)
    return Row(
        now, counts.get("ready", 0), counts.get("cooldown", 0), installing, told["begin"], killed, told["enotempty"]
    )


def _is_alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--servers", type=int, default=60)
    parser.add_argument("--packages", type=int, help="how many different ones (default: one each)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all times; default 1")
    parser.add_argument("--minutes", type=float, default=20.0, help="at most; at scale 1")
    asked = parser.parse_args()
    packages = asked.packages or asked.servers
    outcome = cold_start(
        asked.servers,
        packages,
        scale=asked.scale,
        within_secs=asked.minutes * 60 * asked.scale,
        every_secs=30 * asked.scale,
        tell=True,
    )
    last = outcome.rows[-1]
    took = "never" if outcome.ready_secs is None else f"{outcome.ready_secs:.1f} s"
    print(f"{asked.servers} servers of {packages} packages, {packages * WORK * TICK_SECS * asked.scale:g} s of work")
    print(f"all ready: {took}; killed {last.killed}; most installing at once {outcome.most_installing}")
    return 0 if outcome.ready_secs is not None else 1


if __name__ == "__main__":
    sys.exit(main())
