"""One process as the daemon sees it, why one did not start, and what a process tree has used (proc(5))."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import anyio

from moltis.transport.wire import Cancellable, call_later

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""Errors of pipe(2), fork(2) and execve(2) that say what this machine lacks, and nothing of the program."""


class SpawnError(OSError):
    """A process could not be started; `message` says why, in words, and what about."""

    @property
    def message(self) -> str:
        return self.strerror or ""


class WardenLost(SpawnError):
    """It may or may not have started, and is gone: the warden process died meanwhile."""


def explain(error: int, stage: str, path: str, detail: str, search_path: str) -> str:
    """Say why a program did not start.

    `stage` is `fork`, `setup`, `chdir` or `exec`; `detail` is empty, or `interpreter` and its name.
    """
    reason = os.strerror(error)
    if stage == "chdir":
        return f"cannot enter the folder {path}: {reason}"
    if stage != "exec":
        return f"cannot start a process: {reason}"
    if detail:
        _word, _, interpreter = detail.partition(" ")
        return f"cannot run {path}: its interpreter {interpreter or '(or loader)'} cannot be run: {reason}"
    if error == errno.ENOENT and "/" not in path:
        return f"command not found: {path} (looked in PATH {search_path})"
    if error == errno.ENOENT:
        return f"no such program: {path}"
    if error == errno.ENOEXEC:
        return f"cannot run {path}: not a program, and no script with a #! line"
    if error == errno.EACCES:
        return f"not permitted to run {path}: it is not executable, or a folder on the way is closed"
    return f"cannot run {path}: {reason}"


def launch_fields(argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> list[bytes]:
    """Return the fields of a spawn message.

    Raises:
        SpawnError: something that no program can be started with.
    """
    words = [cwd or "", str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]
    if not argv or not argv[0] or any("\0" in word for word in words) or any("=" in name or not name for name in env):
        raise SpawnError(
            errno.EINVAL, "cannot start a process: no command, a NUL in a word, or an '=' in a variable's name"
        )
    return [os.fsencode(word) for word in words]


class SpawnedProcess:
    """The leader of one server, and whatever descends from it. The `note_` methods are the warden's."""

    def __init__(self, command: Callable[[bytes], None], on_exit: Callable[[], None] | None) -> None:
        self._command = command
        self._on_exit = on_exit
        self._started = anyio.Event()
        self._exited = anyio.Event()
        self._gone = anyio.Event()
        self._watch: Cancellable | None = None
        self._failure: SpawnError | None = None
        self.pid = 0
        self.exit_code: int | None = None
        """Negative for a signal; None while it runs, and when the code was lost with the warden."""
        self.is_lost = False
        """It ended because the warden process died."""
        self.left_behind = 0
        """Processes that not even SIGKILL ended within 5 s: stuck in a device, or another user's."""

    @property
    def is_started(self) -> bool:
        return self.pid != 0

    @property
    def is_running(self) -> bool:
        return not self._exited.is_set()

    def term(self) -> None:
        """Send SIGTERM to the leader and all its descendants."""
        self._command(b"T")

    def kill(self) -> None:
        """Send SIGKILL to the leader and all its descendants, and to what they leave."""
        self._command(b"K")

    async def wait_started(self) -> None:
        """Wait until the program runs.

        Raises:
            SpawnError: it never will.
        """
        await self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def wait(self) -> int | None:
        """Wait until the leader has ended and give its exit code."""
        await self._exited.wait()
        return self.exit_code

    async def wait_gone(self) -> None:
        """Wait until nothing of it is left; some 6 s after a kill at most."""
        await self._gone.wait()

    def note_spawned(self, pid: int, watch: Cancellable | None) -> None:
        self.pid = pid
        self._watch = watch
        self._started.set()

    def note_failed(self, failure: SpawnError) -> None:
        self._failure = failure
        for event in (self._started, self._exited, self._gone):
            event.set()

    def note_ended(self, code: int | None) -> None:
        if self._exited.is_set():
            return
        self.exit_code = code
        if self._watch is not None:
            self._watch.cancel()
        self._exited.set()
        if self._on_exit is not None:
            call_later(0, self._on_exit)

    def note_lost(self) -> None:
        self.is_lost = self.is_running

    def note_gone(self, left: int) -> None:
        self.note_ended(None)
        self.left_behind = left
        self._gone.set()


MAX_PROCESSES: Final = 64
"""Looked at in one tree: `npx` is three or four."""

_RUNNABLE: Final = b"R"
_TICKS_PER_SEC: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def tree_effort(root: int) -> tuple[float, bool]:
    """Return the processor time of a process tree in seconds, and whether a process of it runs or waits to.

    It costs little whatever a server does: a few small files a process, of the first `MAX_PROCESSES` of the tree.
    Counts what the living have used and what those children had used that were waited for. Nothing where there is no
    proc(5); without CONFIG_PROC_CHILDREN the root alone is looked at.
    """
    ticks, runnable = 0, False
    for pid in _tree(root):
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
                # After the name, which may hold anything: state (3), then utime, stime, cutime and cstime (14 to 17).
                fields = stat.read().rpartition(b")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
            runnable = runnable or fields[0] == _RUNNABLE
        except (OSError, IndexError):
            continue  # it has just ended
    return ticks / _TICKS_PER_SEC, runnable


def tree_rss_bytes(root: int) -> int | None:
    """Return what a process tree holds in memory: its resident sets together, which count shared pages more than once.

    As `tree_effort`; None where nothing can be seen.
    """
    return sum(held) if (held := [rss for pid in _tree(root) if (rss := rss_bytes(pid))]) else None


def rss_bytes(pid: int) -> int | None:
    """Return the resident set of one process; None where it is gone, or there is no proc(5)."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return None


def _tree(root: int) -> Iterator[int]:
    """Yield the first `MAX_PROCESSES` processes of a tree, as it is when each is asked for."""
    waiting, seen = deque([root]), 0
    while waiting and seen < MAX_PROCESSES:
        pid = waiting.popleft()
        seen += 1
        yield pid
        waiting += _children(pid)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found  # it has just ended
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as children:
                found += [int(child) for child in children.read().split()]
        except OSError:
            continue  # that thread has just ended
    return found
