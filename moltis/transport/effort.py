"""How much processor time a process and all its descendants have used, by proc(5).

One rule: it costs little whatever a server does. A look reads a few small files a process, of the first
`MAX_PROCESSES` of a tree.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

MAX_PROCESSES: Final = 64
"""Looked at in one tree: `npx` is three or four."""

_RUNNABLE: Final = b"R"
_TICKS_PER_SEC: Final = os.sysconf("SC_CLK_TCK")


def tree_effort(root: int) -> tuple[float, bool]:
    """Return the processor time of a process tree in seconds, and whether a process of it runs or waits to.

    Counts what the living have used and what those children had used that were waited for. Nothing where there is no
    proc(5); without CONFIG_PROC_CHILDREN the root alone is looked at.
    """
    ticks, runnable, seen = 0, False, 0
    waiting = deque([root])
    while waiting and seen < MAX_PROCESSES:
        pid = waiting.popleft()
        seen += 1
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
                # After the name, which may hold anything: state (3), then utime, stime, cutime and cstime (14 to 17).
                fields = stat.read().rpartition(b")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
            runnable = runnable or fields[0] == _RUNNABLE
            waiting += _children(pid)
        except (OSError, IndexError):
            continue  # it has just ended
    return ticks / _TICKS_PER_SEC, runnable


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as children:
                found += [int(child) for child in children.read().split()]
        except OSError:
            continue  # that thread has just ended
    return found
