"""Whose child is it: the daemon's own, a harmless one that came to it, or what a dead warden has left.

While the warden lives no process of a server can become the daemon's child, so whatever is there then is harmless (a
browser that was opened for a login and went to the background). What is new after the warden's death is a stray.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from moltis.transport.warden import GroupTree, ProcTree


class Strays:
    """The children of this process, told apart."""

    def __init__(self, tree: ProcTree | GroupTree) -> None:
        self._tree = tree
        self._own: set[int] = set()
        self._benign: set[int] = set()
        self._own_spawns = 0

    def register_own(self, pid: int) -> None:
        self._own.add(pid)

    def unregister_own(self, pid: int) -> None:
        self._own.discard(pid)

    @contextmanager
    def own_spawn(self) -> Iterator[Callable[[int], None]]:
        """Hold off sweeping while a child of our own is being started; call what this gives with its pid."""
        self._own_spawns += 1
        try:
            yield self.register_own
        finally:
            self._own_spawns -= 1

    def look_around(self, warden_is_alive: Callable[[], bool]) -> None:
        """Learn which children are harmless, and reap those of them that have died since the last time."""
        if self._own_spawns:
            return
        for pid in self._benign:
            _reap(pid)
        found = set(self._tree.children(os.getpid())) - self._own
        if warden_is_alive():  # asked last: its end of the socket closes before its children are handed on
            self._benign = found

    def sweep(self, leaders: Iterable[int]) -> tuple[dict[int, int], int]:
        """Kill and reap what is a stray; give the exit codes learnt, by pid, and how many strays there still are.

        `leaders` are the process groups to end where a group is all there is to go by.
        """
        if self._own_spawns:
            return {}, 1
        codes: dict[int, int] = {}
        for pid in self._strangers():
            self._tree.signal(pid, signal.SIGKILL)
            code = _reap(pid)
            if code is not None:
                codes[pid] = code
        left = len(self._strangers())
        if isinstance(self._tree, GroupTree):
            left += sum(_kill_group(pid) for pid in leaders)
        return codes, left

    def _strangers(self) -> list[int]:
        known = self._own | self._benign
        return [pid for pid in self._tree.children(os.getpid()) if pid not in known]


def _reap(pid: int) -> int | None:
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if reaped else None


def _kill_group(leader: int) -> bool:
    """Kill a process group and tell whether it still had members."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except OSError:
        return False
    return True
