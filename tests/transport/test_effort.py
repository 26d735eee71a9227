"""What processor time a process tree has used, as real processes use it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from moltis.transport.spawned import tree_effort

pytestmark = pytest.mark.e2e

BUSY = "import time; until = time.process_time() + 0.5\nwhile time.process_time() < until: pass"
SLEEP = "import time; time.sleep(60)"


def parent_of(program: str, *, afterwards: str = "") -> str:
    return f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {program!r}]); {afterwards}"


def used_in_the_end(program: str, enough_secs: float) -> float:
    """Return what a tree has used once it is enough, or after some time."""
    process = subprocess.Popen([sys.executable, "-S", "-c", program])
    try:
        deadline = time.monotonic() + 20
        while (used := tree_effort(process.pid)[0]) < enough_secs and time.monotonic() < deadline:
            time.sleep(0.05)
        return used
    finally:
        for pid in [process.pid, *_below(process.pid)]:
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        process.wait()


def _below(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        found = [int(child) for child in children.read().split()]
    return found + [below for child in found for below in _below(child)]


@pytest.mark.parametrize("program", [BUSY, parent_of(BUSY), parent_of(parent_of(BUSY))])
def test_what_a_grandchild_uses_is_counted_for_the_tree(program: str) -> None:
    assert used_in_the_end(program, 0.3) >= 0.3


def test_what_a_child_had_used_that_has_ended_is_counted() -> None:
    assert used_in_the_end(parent_of(BUSY, afterwards=SLEEP), 0.5) >= 0.5


def test_a_process_that_is_gone_has_used_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    assert tree_effort(process.pid) == (0.0, False)
