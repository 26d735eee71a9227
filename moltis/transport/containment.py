"""The daemon's side of the warden: starts it, asks it for processes, and finishes its work when it dies.

It refuses to know what runs in the processes. Every process handed out is reported ended and gone, whatever happens to
the warden, and no process of a server outlives that report.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Final

import anyio

from moltis import private
from moltis.transport import warden as protocol
from moltis.transport.spawned import SpawnedProcess, SpawnError, WardenLost, explain, launch_fields
from moltis.transport.warden import GIVE_UP_SECS, TERM_GRACE_SECS, GroupTree, ProcTree
from moltis.transport.wire import Cancellable, Link, call_about, call_later, watch_pidfd

LOOK_SECS: Final = 0.02
GIVE_UP_AFTER_SECS: Final = TERM_GRACE_SECS + GIVE_UP_SECS + 1.0
"""The longest that an orphaned warden lives, and a second. What it has not ended by then nobody can end."""


class Claim:
    """What a daemon and its warden hold together: the right to run one data dir's servers, by the file at `path`.

    A warden ends the servers of a daemon that was killed, which takes it up to two seconds. Who starts the next daemon
    meanwhile, as systemd does, must not have a second copy of each server beside the first: it may be one that allows
    only one. flock(2) on a file belongs to the open file, which both processes have; the kernel frees it with the last
    of them. Without a file nothing is waited for.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._fd = -1
        if path is not None:
            try:
                self._fd = private.open_private(path, os.O_RDWR | os.O_CREAT)
            except OSError:
                pass
        self._is_clear = self._fd < 0
        self._turn: anyio.Lock | None = None

    @property
    def descriptor(self) -> int | None:
        """For the warden to inherit; None where there is none."""
        return self._fd if self._fd >= 0 else None

    def take(self) -> bool:
        """Take it unless somebody has it; return whether servers may be started."""
        if not self._is_clear:
            try:
                if not private.try_lock(self._fd):
                    return False
            except OSError:
                pass  # not every file system knows locks
            self._is_clear = True
        return True

    async def wait(self) -> None:
        """Wait until servers may be started: nothing of an earlier daemon's is left, or nobody can end it."""
        if self.take():
            return
        if self._turn is None:
            self._turn = anyio.Lock()
        async with self._turn:  # one looks for all
            give_up_at = anyio.current_time() + GIVE_UP_AFTER_SECS
            while not self.take():
                if anyio.current_time() >= give_up_at:
                    self._is_clear = True
                await anyio.sleep(LOOK_SECS)

    def close(self) -> None:
        """Let go of it; the warden, if there is one, has it for as long as it lives. Idempotent."""
        fd, self._fd, self._is_clear = self._fd, -1, True
        if fd >= 0:
            os.close(fd)


class Strays:
    """Whose child is it: the daemon's own, a harmless one that came to it, or what a dead warden has left.

    While the warden lives no process of a server can become the daemon's child, so whatever is there then is harmless
    (a browser that was opened for a login and went to the background). What is new after its death is a stray.
    """

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


ANSWER_SECS: Final = 5.0
"""A warden that has not answered a ping for so long is stopped or stuck; an idle one answers in under 1 ms."""
SECOND_CHANCE_SECS: Final = 0.5
"""The answer may be waiting unread, when it is this process that was stopped."""
HEARTBEAT_SECS: Final = 10.0
CLOSE_SECS: Final = 2.0
"""What the warden takes to end everything by itself is 1 s."""
CANCEL_SECS: Final = 1.0
LOADER_ENV: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Without these an interpreter that lies in an odd place may not start; the rest is none of its business."""

LAST_WORDS_SECS: Final = 0.05
"""What a dead warden said last is read in some turns of the loop; its end of file is not waited for any longer."""

SWEEP_SECS: Final = 0.02
SWEEP_LIMIT_SECS: Final = 5.0


class Warden:
    """Starts processes through the warden process, which is started when first needed and again after its death.

    All methods are called on the event loop. Every other process that this program starts must be made known with
    `own_spawn` or `register_own`: an unknown child is taken for something a server left behind.

    max_descriptors: the soft limit of the warden and of every process it starts; None: this process's own (Linux).
    claim: without which no process is started; the warden process holds it too.
    """

    def __init__(self, *, max_descriptors: int | None = None, claim: Claim | None = None) -> None:
        self._max_descriptors = max_descriptors
        self.claim = claim if claim is not None else Claim()
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._decoder = protocol.Decoder()
        self._number = 0
        self._servers: dict[int, SpawnedProcess] = {}
        self._search_paths: dict[int, str] = {}
        self._strays = Strays(protocol.ProcTree() if sys.platform == "linux" else protocol.GroupTree())
        self._unanswered = 0
        self._patience: Cancellable | None = None
        self._heartbeat: Cancellable | None = None
        self._exit: Cancellable | None = None
        self._over = anyio.Event()
        """Set when there is no warden process, and nothing left of the last one."""
        self._over.set()
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
        if self._process is not None or self._closing or not self._over.is_set():
            return
        protocol.become_subreaper()
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # vfork: it returns at the exec, a millisecond later
                [sys.executable, "-I", "-S", "-E", _script(), str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *([] if self.claim.descriptor is None else [self.claim.descriptor])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in LOADER_ENV if name in os.environ},
                cwd="/",
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon alone
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._strays.register_own(self._process.pid)
        self._limit_descriptors(self._process.pid)
        self._over = anyio.Event()
        self._decoder = protocol.Decoder()
        self._link = Link(ours, self._heard, self._warden_died)
        self._exit = watch_pidfd(self._process.pid, self._look_at_warden)
        self._ping()
        self._beat()

    def _limit_descriptors(self, pid: int) -> None:
        if self._max_descriptors is not None and sys.platform == "linux":
            _soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (self._max_descriptors, hard))

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
        fields = launch_fields(argv, env, cwd)
        await self.claim.wait()
        link = await self._ready_link()
        self._number += 1
        number = self._number
        try:
            message = protocol.encode(b"S", number, *fields)
        except ValueError as error:  # which the kernel would say too
            raise SpawnError(errno.E2BIG, explain(errno.E2BIG, "fork", "", "", "")) from error
        server = SpawnedProcess(lambda letter: self._command(letter, number), on_exit)
        try:
            link.send(message, (stdin_fd, stdout_fd, stderr_fd))
        except OSError as error:
            raise SpawnError(error.errno, f"cannot start a process: {error.strerror}") from error
        self._servers[number] = server
        self._search_paths[number] = env.get("PATH", os.defpath)
        self._ping()
        try:
            await server.wait_started()
        except SpawnError:
            raise
        except BaseException:
            server.kill()
            with anyio.move_on_after(CANCEL_SECS, shield=True):
                await server.wait_gone()
            raise
        finally:
            self._search_paths.pop(number, None)
        return server

    def register_own(self, pid: int) -> None:
        """Make a child of this process known as none of a server's, until `unregister_own`."""
        self._strays.register_own(pid)

    def unregister_own(self, pid: int) -> None:
        """Forget a child that has been waited for; what it leaves behind is taken for harmless."""
        self._strays.unregister_own(pid)
        self._look_around()

    def own_spawn(self) -> AbstractContextManager[Callable[[int], None]]:
        """Hold off sweeping while a child of our own is being started; call what this gives with its pid."""
        return self._strays.own_spawn()

    async def aclose(self) -> None:
        """End every process and the warden; within 1 s, or 2 s and a sweep if the warden is stuck. Idempotent."""
        self._closing = True
        deadline = call_later(CLOSE_SECS, self._kill_warden)
        if self._link is not None:
            self._link.finish()
        try:
            with anyio.CancelScope(shield=True):  # bounded by the deadline above and SWEEP_LIMIT_SECS
                await self._over.wait()
        finally:
            deadline.cancel()
            self.claim.close()
        protocol.become_subreaper(False)

    async def _ready_link(self) -> Link:
        if self._process is None:
            await self._over.wait()  # bounded by SWEEP_LIMIT_SECS
        if self._closing:
            raise SpawnError(errno.ESHUTDOWN, "cannot start a process: shutting down")
        try:
            self.start()
        except OSError as error:
            raise SpawnError(error.errno, f"cannot start the warden process: {error.strerror}") from error
        assert self._link is not None
        return self._link

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
            elif fields and number in self._servers:  # none: too long, and no warden of ours says so much
                self._report(letter, number, [os.fsdecode(field) for field in fields])

    def _report(self, letter: bytes, number: int, fields: list[str]) -> None:
        server = self._servers[number]
        if letter == b"s":
            pid = int(fields[0])
            server.note_spawned(pid, watch_pidfd(pid, self._leader_seen_dead))
        elif letter == b"f":
            code, (stage, path, detail) = int(fields[0]), fields[1:4]
            del self._servers[number]
            words = explain(code, stage, path, detail, self._search_paths.get(number, ""))
            server.note_failed(SpawnError(code, words))
        elif letter == b"x":
            server.note_ended(int(fields[0]))
        elif letter == b"g":
            del self._servers[number]
            server.note_gone(int(fields[0]))

    def _command(self, letter: bytes, number: int) -> None:
        if number in self._servers and self._link is not None:
            self._link.send(protocol.encode(letter, number))
            self._ping()

    # Whether it is well

    def _ping(self) -> None:
        """Ask for a sign of life; the answer also says that all before it has been heard."""
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
        self._look_at_warden()
        if self._process is None:
            return
        self._look_around()
        if self._servers and not self._unanswered:
            self._ping()
        self._heartbeat = call_about(HEARTBEAT_SECS, self._beat)

    def _look_around(self) -> None:
        if self._link is not None:
            self._strays.look_around(lambda: self._link is not None and not self._link.is_severed)

    def _leader_seen_dead(self) -> None:
        """The kernel says that a leader is dead; if the warden cannot say so too, it is the warden that is stuck."""
        self._ping()

    def _kill_warden(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._look_at_warden(self._process)

    def _look_at_warden(self, awaited: subprocess.Popen[bytes] | None = None) -> None:
        """See whether the warden process is dead, which ends it whatever the link between us says.

        awaited: the process that has been killed, to be looked at until it is dead.
        """
        process = self._process
        if process is None or (awaited is not None and awaited is not process):
            return
        if process.poll() is None:
            if awaited is not None:
                call_later(SWEEP_SECS, lambda: self._look_at_warden(awaited))
        elif self._link is not None:
            self._link.look_again()  # what it said last is heard first
            call_later(LAST_WORDS_SECS, lambda: self._warden_gone(process))

    def _warden_gone(self, process: subprocess.Popen[bytes]) -> None:
        if self._process is process:
            self._warden_died()

    # After its death

    def _warden_died(self) -> None:
        process, self._process = self._process, None
        link, self._link = self._link, None
        assert process is not None
        assert link is not None
        link.close()
        process.kill()
        process.wait()  # at once: it is dead, or has just been killed
        self._strays.unregister_own(process.pid)
        for timer in (self._patience, self._heartbeat, self._exit):
            if timer is not None:
                timer.cancel()
        self._patience, self._unanswered = None, 0
        self.deaths += not self._closing
        for server in self._servers.values():
            server.note_lost()
        self._sweep(SWEEP_LIMIT_SECS)

    def _sweep(self, remaining_secs: float) -> None:
        """Kill and reap what the warden's death has handed to us, until nothing is left of it."""
        codes, left = self._strays.sweep([server.pid for server in self._servers.values() if server.is_started])
        for server in self._servers.values():
            if server.pid in codes:
                server.note_ended(codes[server.pid])
        if left and remaining_secs > 0:
            call_later(SWEEP_SECS, lambda: self._sweep(remaining_secs - SWEEP_SECS))
            return
        servers, self._servers = self._servers, {}
        for server in servers.values():
            if server.is_started:
                server.note_gone(left)
            else:
                server.note_failed(WardenLost(errno.EPIPE, "cannot start a process: the warden process died"))
        self._over.set()


def _script() -> str:
    """Return the file to run: compiled when it can be, which saves the warden 1.6 MB and 4 ms."""
    source, spec = protocol.__file__, protocol.__spec__
    if spec is None or spec.cached is None:
        return source
    try:
        with open(spec.cached, "rb") as compiled:
            head = compiled.read(16)
        stat = os.stat(source)
    except OSError:
        return source
    # PEP 552: magic, flags, then the source's mtime and size. Run by path, nothing else would notice a stale one.
    fresh = MAGIC_NUMBER + struct.pack("<III", 0, int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
    return spec.cached if head == fresh else source
