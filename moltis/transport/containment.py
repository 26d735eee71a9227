"""The daemon's side of the warden: starts it, asks it for processes, and finishes its work when it dies.

It refuses to know what runs in the processes. The one rule: every process handed out is reported ended and gone,
whatever happens to the warden, and no process of a server outlives that report.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import anyio

from moltis.transport import warden as protocol
from moltis.transport.wire import Cancellable, Link, call_later, watch_pidfd

ANSWER_SECS: Final = 5.0
"""A warden that has not answered a ping for so long is stopped or stuck; an idle one answers in under 1 ms."""
SECOND_CHANCE_SECS: Final = 0.5
"""The answer may be waiting unread, when it is this process that was stopped."""
HEARTBEAT_SECS: Final = 10.0
CLOSE_SECS: Final = 2.0
"""What the warden takes to end everything by itself is 1 s."""
SWEEP_SECS: Final = 0.02
SWEEP_LIMIT_SECS: Final = 5.0


class SpawnError(OSError):
    """A process could not be started; `strerror` says why, in words, and what about."""


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


class SpawnedProcess:
    """The leader of one server, and whatever descends from it."""

    def __init__(self, warden: Warden, number: int, on_exit: Callable[[], None] | None) -> None:
        self._warden = warden
        self._number = number
        self._on_exit = on_exit
        self._started = anyio.Event()
        self._exited = anyio.Event()
        self._gone = anyio.Event()
        self._watch: Cancellable | None = None
        self.pid = 0
        self.exit_code: int | None = None
        """Negative for a signal; None while it runs, and when the code was lost with the warden."""
        self.left_behind = 0
        """Processes that not even SIGKILL ended within 5 s: stuck in a device, or another user's."""
        self.failure: SpawnError | None = None

    @property
    def is_running(self) -> bool:
        return not self._exited.is_set()

    def term(self) -> None:
        """Send SIGTERM to the leader and all its descendants."""
        self._warden._command(b"T", self._number)

    def kill(self) -> None:
        """Send SIGKILL to the leader and all its descendants, and to what they leave."""
        self._warden._command(b"K", self._number)

    async def wait(self) -> int | None:
        """Wait until the leader has ended and give its exit code."""
        await self._exited.wait()
        return self.exit_code

    async def wait_gone(self) -> None:
        """Wait until nothing of it is left; some 6 s after a kill at most."""
        await self._gone.wait()

    def _spawned(self, pid: int) -> None:
        self.pid = pid
        self._watch = watch_pidfd(pid, self._warden._leader_seen_dead)
        self._started.set()

    def _failed(self, failure: SpawnError) -> None:
        self.failure = failure
        self._started.set()
        self._exited.set()
        self._gone.set()

    def _ended(self, code: int | None) -> None:
        if self._exited.is_set():
            return
        self.exit_code = code
        if self._watch is not None:
            self._watch.cancel()
        self._exited.set()
        if self._on_exit is not None:
            call_later(0, self._on_exit)

    def _is_gone(self, left: int) -> None:
        self._ended(None)
        self.left_behind = left
        self._gone.set()


class Warden:
    """Starts processes through the warden process, which is started when first needed and again after its death.

    All methods are called on the event loop. Every other process that this program starts must be made known with
    `own_spawn` or `register_own`: an unknown child is taken for something a server left behind.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._decoder = protocol.Decoder()
        self._number = 0
        self._servers: dict[int, SpawnedProcess] = {}
        self._search_paths: dict[int, str] = {}
        self._own: set[int] = set()
        self._benign: set[int] = set()
        self._own_spawns = 0
        self._tree = protocol.ProcTree() if sys.platform == "linux" else protocol.GroupTree()
        self._unanswered = 0
        self._patience: Cancellable | None = None
        self._heartbeat: Cancellable | None = None
        self._swept = anyio.Event()
        self._swept.set()
        self._closing = False
        self.deaths = 0
        """How many wardens died while they were needed."""

    @property
    def pid(self) -> int | None:
        """The warden process, if it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the warden process unless it runs; it boots while the caller goes on.

        Raises:
            OSError: this process cannot fork, or has no descriptor left.
        """
        if self._process is not None or self._closing:
            return
        protocol.become_subreaper()
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # posix_spawn or vfork: it returns at exec, within a millisecond or two
                [sys.executable, "-I", "-S", "-E", _script(), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._decoder = protocol.Decoder()
        self._link = Link(ours, self._heard, self._warden_died)
        self._ping()
        self._beat()

    async def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        stdin_fd: int,
        stdout_fd: int,
        stderr_fd: int,
        on_exit: Callable[[], None] | None = None,
    ) -> SpawnedProcess:
        """Start a program in its own session, with these three descriptors, this environment and nothing else.

        The command is looked up in the PATH of `env`, from `cwd`. The descriptors stay the caller's, who closes them
        after this. `on_exit` is called once when the leader has ended. Cancelling leaves nothing behind.

        Raises:
            SpawnError: it did not start.
        """
        await self._swept.wait()
        if self._closing:
            raise SpawnError(errno.ESHUTDOWN, "cannot start a process: shutting down")
        fields = _launch_fields(argv, env, cwd)
        try:
            self.start()
        except OSError as error:
            raise SpawnError(error.errno, f"cannot start the warden process: {error.strerror}") from error
        assert self._link is not None
        self._number += 1
        number = self._number
        server = self._servers[number] = SpawnedProcess(self, number, on_exit)
        self._search_paths[number] = env.get("PATH", os.defpath)
        self._link.send(protocol.encode(b"S", number, *fields), (stdin_fd, stdout_fd, stderr_fd))
        self._ping()
        try:
            await server._started.wait()
        except BaseException:
            server.kill()
            raise
        finally:
            self._search_paths.pop(number, None)
        if server.failure is not None:
            raise server.failure
        return server

    def register_own(self, pid: int) -> None:
        """Make a child of this process known as none of a server's, until `unregister_own`."""
        self._own.add(pid)

    def unregister_own(self, pid: int) -> None:
        self._own.discard(pid)
        self._look_around()

    @contextmanager
    def own_spawn(self) -> Iterator[Callable[[int], None]]:
        """Hold off sweeping while a child of our own is being started; call what this gives with its pid."""
        self._own_spawns += 1
        try:
            yield self.register_own
        finally:
            self._own_spawns -= 1

    async def aclose(self) -> None:
        """End every process and the warden; within 1 s, or 2 s and a sweep if the warden is stuck. Idempotent."""
        self._closing = True
        if self._link is not None:
            self._link.finish()
            deadline = call_later(CLOSE_SECS, self._kill_warden)
            try:
                with anyio.CancelScope(shield=True):  # bounded by the line above
                    while self._process is not None:
                        await anyio.sleep(SWEEP_SECS / 4)
            finally:
                deadline.cancel()
        with anyio.CancelScope(shield=True):  # bounded by SWEEP_LIMIT_SECS
            await self._swept.wait()
        for timer in (self._patience, self._heartbeat):
            if timer is not None:
                timer.cancel()
        protocol.become_subreaper(False)

    # What the warden says

    def _heard(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except ValueError:
            self._kill_warden()
            return
        for letter, number, fields in messages:
            if letter == b"p":
                self._answered()
            elif number in self._servers:
                self._report(letter, number, [os.fsdecode(field) for field in fields])

    def _report(self, letter: bytes, number: int, fields: list[str]) -> None:
        server = self._servers[number]
        if letter == b"s":
            server._spawned(int(fields[0]))
        elif letter == b"f":
            code, stage, path, detail = int(fields[0]), *fields[1:4]
            words = explain(code, stage, path, detail, self._search_paths.get(number, ""))
            del self._servers[number]
            server._failed(SpawnError(code, words))
        elif letter == b"x":
            server._ended(int(fields[0]))
        elif letter == b"g":
            del self._servers[number]
            server._is_gone(int(fields[0]))

    def _command(self, letter: bytes, number: int) -> None:
        if number in self._servers and self._link is not None:
            self._link.send(protocol.encode(letter, number))
            self._ping()

    # Whether it is well

    def _ping(self) -> None:
        """Ask for a sign of life; it also says that all before it has been heard."""
        if self._link is None:
            return
        self._unanswered += 1
        self._link.send(protocol.encode(b"P", 0))
        if self._patience is None:
            self._patience = call_later(ANSWER_SECS, self._doubt)

    def _answered(self) -> None:
        self._unanswered -= 1
        if self._patience is not None:
            self._patience.cancel()
        self._patience = call_later(ANSWER_SECS, self._doubt) if self._unanswered else None

    def _doubt(self) -> None:
        self._patience = call_later(SECOND_CHANCE_SECS, self._kill_warden)

    def _beat(self) -> None:
        self._look_around()
        if self._servers and not self._unanswered:
            self._ping()
        self._heartbeat = call_later(HEARTBEAT_SECS, self._beat)

    def _leader_seen_dead(self) -> None:
        """The kernel says that a leader is dead; if the warden cannot say so too, it is the warden that is stuck."""
        self._ping()

    def _kill_warden(self) -> None:
        if self._process is not None:
            self._process.kill()

    # After its death

    def _warden_died(self) -> None:
        process, self._process, self._link = self._process, None, None
        assert process is not None
        process.kill()
        process.wait()  # at once: it is dead, or has just been killed
        for timer in (self._patience, self._heartbeat):
            if timer is not None:
                timer.cancel()
        self._patience, self._unanswered = None, 0
        self.deaths += not self._closing
        self._swept = anyio.Event()
        self._sweep(SWEEP_LIMIT_SECS)

    def _sweep(self, remaining_secs: float) -> None:
        """Kill and reap what the warden's death has handed to us, until nothing is left of it."""
        left = 1
        if not self._own_spawns:
            codes = self._reap_strangers(kill=True)
            for server in self._servers.values():
                if server.pid in codes:
                    server._ended(codes[server.pid])
            left = len(self._strangers()) + self._groups_left()
        if left and remaining_secs > 0:
            call_later(SWEEP_SECS, lambda: self._sweep(remaining_secs - SWEEP_SECS))
            return
        servers, self._servers = self._servers, {}
        for server in servers.values():
            if server._started.is_set():
                server._is_gone(left)
            else:
                server._failed(SpawnError(errno.EPIPE, "cannot start a process: the warden process died"))
        self._swept.set()

    def _strangers(self) -> list[int]:
        known = self._own | self._benign
        return [pid for pid in self._tree.children(os.getpid()) if pid not in known and pid != self.pid]

    def _groups_left(self) -> int:
        """Count the process groups that still have members, where there is nothing better to go by."""
        if sys.platform == "linux":
            return 0
        left = 0
        for server in self._servers.values():
            try:
                os.killpg(server.pid, signal.SIGKILL)
                left += 1
            except OSError:
                continue
        return left

    def _reap_strangers(self, *, kill: bool) -> dict[int, int]:
        codes: dict[int, int] = {}
        for pid in self._strangers():
            if kill:
                self._tree.signal(pid, signal.SIGKILL)
            try:
                reaped, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
            if reaped:
                codes[pid] = os.waitstatus_to_exitcode(status)
        return codes

    def _look_around(self) -> None:
        """Learn which children are adopted but harmless: while the warden lives, no server's process comes here.

        A browser that was opened for a login and went to the background is one; a sweep must not end it.
        """
        if self._process is None or self._process.poll() is not None:
            return
        self._benign.clear()
        self._reap_strangers(kill=False)
        self._benign.update(self._strangers())


def _launch_fields(argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> list[bytes]:
    words = [cwd or "", str(len(argv)), *argv, *(f"{name}={value}" for name, value in env.items())]
    if any("\0" in word for word in words):
        raise SpawnError(errno.EINVAL, "cannot start a process: a NUL in the command, its arguments or environment")
    return [os.fsencode(word) for word in words]


def _script() -> str:
    """Give the file to run: compiled when it can be, which saves the warden 1.6 MB and 4 ms."""
    spec = protocol.__spec__
    cached = spec.cached if spec is not None else None
    return cached if cached and os.path.exists(cached) else protocol.__file__
