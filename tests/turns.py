"""Which tests are run by which of several processes, and when: what needs rest is first, what takes long begins early.

pytest-xdist gives each process an equal part of what was collected, in that order; whoever is done takes over the end
of the longest part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

OPENERS = 20
"""Quick tests at the beginning of every part but the first, which go on until the first asks for the machine."""


@dataclass(frozen=True)
class Collected:
    """A test as it was collected."""

    id: str
    lane: str

    @property
    def module(self) -> str:
        return self.id.partition("::")[0]


def modules(folder: Path, passed_over: Sequence[str]) -> list[Path]:
    """Return the test modules in a folder, sorted; `passed_over`: globs of folders that are not entered.

    What tests install lies in such folders (`.mcp1`, node_modules), and has test modules of its own. To import one of
    them is to have what it came with instead of what is installed.
    """
    found: list[Path] = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not any(fnmatchcase(name, pattern) for pattern in passed_over)]
        found += [Path(path, name) for name in files if name.startswith("test_") and name.endswith(".py")]
    return sorted(found)


def deal(tests: Sequence[Collected], processes: int) -> list[int]:
    """Return the numbers of the tests, in the order in which so many processes share them out.

    The lane perf is the beginning of the first part: all of it comes one after the other while the other processes
    wait, rather than each when it comes up, after what the others have just begun. Then every part has its share of the
    modules of the lane e2e; the rest fills the parts up. Modules stay together, but for what is of the lane perf.
    """
    alone = [n for n, test in enumerate(tests) if test.lane == "perf"]
    heavy: dict[str, list[int]] = {}
    quick: list[int] = []
    for n, test in enumerate(tests):
        if test.lane != "perf":
            group = heavy.setdefault(test.module, []) if test.lane == "e2e" else quick
            group.append(n)
    parts: list[list[int]] = [[] for _ in range(processes)]
    parts[0] += alone
    for part in parts[1:]:
        part += quick[:OPENERS]
        del quick[:OPENERS]
    # The first part is dealt to last: the first modules are those that take minutes.
    for turn, numbers in enumerate(heavy.values()):
        parts[(turn + 1) % processes] += numbers
    order: list[int] = []
    for turn, part in enumerate(parts):
        size = (len(tests) - len(order)) // (processes - turn)
        room = max(0, size - len(part))
        order += part + quick[:room]
        del quick[:room]
    return order + quick
