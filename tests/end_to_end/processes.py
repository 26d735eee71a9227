"""Processes as /proc shows them: who lives, who is whose child, who carries a mark. Knows nothing of the product."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path


def alive(pid: int) -> bool:
    """Say whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parents() -> dict[int, int]:
    """Return the parent of every process, zombies included."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return found


def children(pid: int) -> list[int]:
    """Give the pids whose parent is `pid`, zombies included."""
    return [child for child, parent in parents().items() if parent == pid]


def descendants(pid: int) -> list[int]:
    """Return the pids of all that hangs below `pid`, each before its own children, as /proc shows them at one look."""
    found: list[int] = []
    below: dict[int, list[int]] = {}
    for child, parent in parents().items():
        below.setdefault(parent, []).append(child)

    def walk(of: int) -> None:
        for child in below.get(of, ()):
            found.append(child)
            walk(child)

    walk(pid)
    return found


def marked(mark: str) -> dict[int, str]:
    """Give the living processes that carry `mark` in their arguments or environment, with their arguments."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (folder / "cmdline").read_bytes()
            if mark.encode() in arguments or mark.encode() in (folder / "environ").read_bytes():
                pid = int(folder.name)
                if alive(pid):
                    found[pid] = arguments.replace(b"\0", b" ").decode(errors="replace")
    return found


def signal_pid(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def resident_bytes(pids: Iterable[int]) -> int:
    """Give the resident set of some processes together, from smaps_rollup."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Rss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            total += int(found[1]) * 1024 if found else 0
    return total


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process with SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_pid(pid, signal.SIGCONT)
