"""A local server over its standard streams (MCP 2025-11-25, Transports, stdio).

It knows lines, not JSON: whether a line is a message is the session's business. Whatever the server does, its stdout
and stderr are read, the loop never waits for it and never works long for it in one turn, and it is over within bounds
that have names.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

import anyio
import msgspec

from moltis import jsonrpc
from moltis.config.limits import Limits
from moltis.config.plan import ServerPlan, StdioLaunch
from moltis.errors import RpcCode
from moltis.lastwords import plain
from moltis.nesting import ENDS, answered_id
from moltis.server.states import FailureKind
from moltis.slices import Sliced
from moltis.transport import (
    PLAIN,
    ConnectionClosed,
    ConnectionFull,
    Effort,
    Ended,
    Notices,
    OpenFailed,
    Outgoing,
    Receiver,
    exit_words,
)
from moltis.transport.containment import Warden
from moltis.transport.frames import JOIN_BYTES, Framer, StderrLines
from moltis.transport.kinds import Given
from moltis.transport.spawned import SHORTAGES, SpawnedProcess, SpawnError, WardenLost, tree_effort
from moltis.transport.wire import (
    Cancellable,
    PipeReader,
    PipeWriter,
    call_later,
    now,
)

BASE_ENV: Final = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER"})
"""What a server gets of the daemon's environment, with every LC_*; the rest may hold what is none of its business."""

STDOUT_PIPE_BYTES: Final = 256 * 1024
F_SETPIPE_SZ: Final = 1031
"""fcntl(2), Linux: a 1 MB answer is then handed over in four pieces instead of sixteen."""

HALF_CLOSED_SECS: Final = 0.5
"""A server closes its streams a moment before it exits; one that lives on after this long is of no use any more."""
MIN_STALL_SECS: Final = 1.0
MAX_BUFFERED_BYTES: Final = 64 * 1024 * 1024
SMALL_BYTES: Final = 64 * 1024
SPARE_BYTES: Final = 8 * 1024 * 1024
"""Beyond `MAX_BUFFERED_BYTES`, for small messages: a cancellation or a ping gets through where a file does not."""
DRAIN_BYTES: Final = 1024 * 1024
"""What is still read after the exit: all that a pipe can hold, while a grandchild may be writing for ever."""
DROPPED_REPORT_SECS: Final = 1.0

UNFINISHED_BYTES: Final = 8 * 1024
"""Of a last line without its end, which may be a question to whoever sits before a terminal."""

TURN_LINES: Final = 64
TURN_SECS: Final = 0.002
"""What one server's stdout gets of one turn of the loop. Whoever writes more is read on in the next turn, after all the
others: a flood of short lines then fills its own pipe, and no neighbour's call waits for it."""
STDERR_TURN_LINES: Final = 16
"""The same for stderr, whose lines cost the same each: that of a log record."""


def open_program(plan: ServerPlan, given: Given) -> StdioTransport:
    """Return how a local server is started."""
    assert isinstance(plan.launch, StdioLaunch)
    return StdioTransport(
        plan.name,
        plan.launch,
        plan.limits,
        given.warden,
        scrub=given.scrub,
        on_stderr_line=given.on_stderr_line,
        on_stderr_dropped=given.on_stderr_dropped,
        on_oversized=given.on_oversized,
    )


class _Reports(msgspec.Struct, frozen=True):
    scrub: Callable[[str], str]
    on_stderr_line: Callable[[str], None]
    on_stderr_dropped: Callable[[int], None]
    on_oversized: Callable[[int], None]


class StdioTransport:
    """Starts one local server through the warden and speaks to it; implements `transport.Transport`."""

    def __init__(
        self,
        name: str,
        launch: StdioLaunch,
        limits: Limits,
        warden: Warden,
        *,
        scrub: Callable[[str], str],
        on_stderr_line: Callable[[str], None],
        on_stderr_dropped: Callable[[int], None],
        on_oversized: Callable[[int], None] = lambda count: None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`scrub` takes the secrets out of a text. The reports are called on the loop: each stderr line, scrubbed;
        how many lines of stderr were not reported, at most once a second; how many messages were over
        `max_message_bytes` and ignored. `environ` is the daemon's own environment.
        """
        self._name = name
        self._launch = launch
        self._limits = limits
        self._warden = warden
        self._reports = _Reports(scrub, on_stderr_line, on_stderr_dropped, on_oversized)
        self._environ = environ

    def __repr__(self) -> str:
        return f"StdioTransport({self._name!r}, {self._launch!r})"

    async def open(self, receive: Receiver, notices: Notices) -> StdioConnection:
        """Start the server. It has been executed when this returns; cancelling leaves nothing behind.

        Raises:
            OpenFailed: it could not be started (`spawn_failed`, `no_resources` or `warden_lost`).
        """
        connection = StdioConnection(self._limits, receive, self._reports, notices.busy_until)
        pipes: list[int] = []
        try:
            for _ in range(3):
                pipes += os.pipe()
            stdin_fd, stdin, stdout, stdout_fd, stderr, stderr_fd = pipes
            _widen(stdout)
            process = await self._warden.spawn(
                [self._launch.command, *self._launch.args],
                child_environment(self._environ, self._launch.env),
                self._launch.cwd or own_folder(),
                stdin_fd,
                stdout_fd,
                stderr_fd,
                connection.exited,
            )
            for fd in (stdin, stdout, stderr):
                pipes.remove(fd)
        except WardenLost as error:
            raise OpenFailed(Ended(FailureKind.WARDEN_LOST, error.message)) from error
        except SpawnError as error:
            raise OpenFailed(Ended(_kind(error), self._reports.scrub(error.message))) from error
        except OSError as error:
            raise OpenFailed(Ended(_kind(error), f"cannot open pipes: {error.strerror}")) from error
        finally:
            for fd in pipes:
                os.close(fd)
        connection.begin(process, stdin, stdout, stderr)
        return connection


def _kind(error: OSError) -> FailureKind:
    return FailureKind.NO_RESOURCES if error.errno in SHORTAGES else FailureKind.SPAWN_FAILED


class StdioConnection:
    """One running server; implements `transport.Connection`."""

    def __init__(self, limits: Limits, receive: Receiver, reports: _Reports, busy_until: Callable[[], float]) -> None:
        """`busy_until`: as in `transport.Notices`."""
        self._limits = limits
        self._busy_until = busy_until
        self._receive = receive
        self._reports = reports
        self._framer = Framer(limits.max_message_bytes, ENDS)
        self._long: Sliced[bool] | None = None
        """A long message that is being taken."""
        self._stderr_lines = StderrLines(self._clean)
        self._process: SpawnedProcess | None = None
        self._stdin: PipeWriter | None = None
        self._stdout: PipeReader | None = None
        self._stderr: PipeReader | None = None
        self._timers: dict[str, Cancellable] = {}
        self._trouble: tuple[FailureKind, str] | None = None
        self.stderr_at = -math.inf
        self._dropped_told = 0
        self._oversized_told = 0
        self._ending = False
        self._exited = False
        self._said = 0
        self._undrained = 2
        self._drained = anyio.Event()
        self._lost = anyio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def ending(self) -> bool:
        """Whether it was told to end, or has ended by itself."""
        return self._ending or self._exited

    @property
    def buffered(self) -> int:
        """Bytes queued for a server that is not reading them."""
        return self._stdin.buffered if self._stdin is not None else 0

    @property
    def in_session(self) -> bool:
        """Whether the server knows what belongs together: a pipe is one session."""
        return True

    @property
    def has_read(self) -> bool:
        return self._stdin is not None and not self._stdin.unread

    def send(self, message: bytes, about: Outgoing = PLAIN) -> None:
        """Queue one message (no newline inside, none at the end).

        Raises:
            ConnectionClosed: it is over or ending.
            ConnectionFull: 64 MiB are waiting to be read by the server already. That is nobody's fault yet: a few
                long messages at once will do it. A server that does not read at all is ended by `_check_stall`.
        """
        if self.ending or self._stdin is None:
            raise ConnectionClosed
        most = MAX_BUFFERED_BYTES if len(message) > SMALL_BYTES else MAX_BUFFERED_BYTES + SPARE_BYTES
        if self._stdin.buffered + len(message) > most:
            raise ConnectionFull
        if len(message) <= JOIN_BYTES:
            self._stdin.write(message + b"\n")
        else:
            self._stdin.write(message)
            self._stdin.write(b"\n")
        if self._stdin.buffered and "stall" not in self._timers:
            self._later("stall", self._stall_secs, self._check_stall)

    def stderr_tail(self) -> tuple[str, ...]:
        """Return the last lines of stderr, at most 20, scrubbed; also those that were too many to be reported."""
        return self._stderr_lines.tail()

    def effort(self) -> Effort:
        """Say what it has written, and what processor time its process tree has used."""
        if self._process is None or self._exited:
            return Effort(self._said)
        cpu_secs, runnable = tree_effort(self._process.pid)
        return Effort(self._said, cpu_secs, runnable)

    def stop(self) -> None:
        """Close stdin; after `stop_eof_secs` SIGTERM, after another `stop_term_secs` SIGKILL, to the whole tree."""
        if self.ending:
            return
        self._ending = True
        self._cancel_timers()
        if self._stdin is not None:
            self._stdin.close()
        self._later("term", self._limits.stop_eof_secs, self._term)

    def hurry(self) -> None:
        """Send SIGTERM now if it has yet to come; SIGKILL follows as in any stop, if nobody calls `kill` before."""
        if self._ending and not self._exited and "term" in self._timers:
            self._timers.pop("term").cancel()
            self._term()

    def kill(self) -> None:
        """End the whole tree with SIGKILL now."""
        self._ending = True
        if self._process is not None and not self._exited:
            self._cancel_timers()
            self._process.kill()

    async def wait_lost(self) -> Ended:
        """Wait until the leader has ended and its pipes are read empty, or it is given up."""
        await self._lost.wait()
        assert self._process is not None
        return self._ended(self._process)

    async def wait_closed(self) -> Ended:
        """Wait until no process of it is left, and say how it ended. May be waited for by many, and again."""
        await self._drained.wait()
        assert self._process is not None
        await self._process.wait_gone()
        return self._ended(self._process)

    # What the transport tells

    def begin(self, process: SpawnedProcess, stdin: int, stdout: int, stderr: int) -> None:
        """Take over a running process and our ends of its pipes."""
        self._process = process
        self._stdin = PipeWriter(stdin, self._stdin_broken)
        self._stdout = PipeReader(stdout, self._heard, self._stdout_ended)
        self._stderr = PipeReader(stderr, self._complained, self._stderr_ended)
        if self._exited:
            self.exited()

    def exited(self) -> None:
        """Take note that the leader has ended: what its pipes still hold is read, by turns, and they are closed.

        Whatever else holds them (a grandchild) is being ended by the warden, and is not waited for here.
        """
        self._exited = True
        if self._stdin is None or self._stdout is None or self._stderr is None:
            return  # it was faster than `begin`, which comes here again
        self._cancel_timers()
        self._stdin.abort()
        self._stdout.finish(DRAIN_BYTES, self._pipe_drained)
        self._stderr.finish(DRAIN_BYTES, self._pipe_drained)

    # What its pipes say

    def _heard(self, data: bytes) -> bool:
        """Hand on messages for one turn at most, and say whether some are left for the next."""
        self._said += len(data)
        framer = self._framer
        framer.push(data)
        if self._long is not None:
            if not self._long.is_done():
                return True
            self._long = None
        until = time.monotonic() + TURN_SECS  # not the loop's clock, which may stand still during a turn
        for _ in range(TURN_LINES):
            line = framer.next_line()
            if line:
                rest = self._receive(line)
                if rest is not None and not isinstance(rest, bool):  # an abstract class costs a microsecond to ask for
                    self._long = Sliced(rest)
                    return True
            elif line is not None and (ends := framer.ends()):
                self._refuse(ends)
            if not framer.waiting or time.monotonic() > until:
                break
        if framer.oversized > self._oversized_told:
            new = framer.oversized - self._oversized_told
            self._oversized_told = framer.oversized
            self._reports.on_oversized(new)
        return framer.waiting

    def _refuse(self, ends: bytes) -> None:
        """Have a reply that is too long be an answer all the same: whoever asked would wait for it in vain."""
        id = answered_id(ends)
        if id is not None:
            most = self._limits.max_message_bytes
            told = f"the server answered, and its answer has more than {most} bytes (max_message_bytes)"
            self._receive(jsonrpc.error(id, RpcCode.INTERNAL_ERROR, told))

    def _stdout_ended(self) -> None:
        if not self._ending:
            self._later("half", HALF_CLOSED_SECS, lambda: self._half_closed("stdout"))

    def _stdin_broken(self, error: OSError) -> None:
        if not self._ending and "half" not in self._timers:
            self._later("half", HALF_CLOSED_SECS, lambda: self._half_closed("stdin"))

    def _complained(self, data: bytes) -> bool:
        self.stderr_at = now()
        self._said += len(data)
        self._stderr_lines.push(data)
        for line in self._stderr_lines.take(self.stderr_at, STDERR_TURN_LINES):
            self._reports.on_stderr_line(line)
        if self._stderr_lines.dropped_lines > self._dropped_told and "dropped" not in self._timers:
            self._later("dropped", DROPPED_REPORT_SECS, self._tell_dropped)
        return self._stderr_lines.waiting

    def _stderr_ended(self) -> None:
        for line in self._stderr_lines.finish():
            self._reports.on_stderr_line(line)

    def _pipe_drained(self) -> None:
        self._undrained -= 1
        if not self._undrained:
            self._stderr_ended()
            self._cancel_timers()
            self._tell_dropped()
            self._drained.set()
            self._lost.set()

    def _tell_dropped(self) -> None:
        new = self._stderr_lines.dropped_lines - self._dropped_told
        self._dropped_told += new
        if new:
            self._reports.on_stderr_dropped(new)

    def _clean(self, line: bytes) -> str:
        return self._reports.scrub(plain(line.decode("utf-8", errors="replace")))

    # How it ends

    @property
    def _stall_secs(self) -> float:
        return max(MIN_STALL_SECS, self._limits.request_timeout_secs)

    def _check_stall(self) -> None:
        """End a server that reads nothing, unless it may be busy: one that works through its requests one at a time
        reads no other meanwhile.
        """
        assert self._stdin is not None
        if not self._stdin.buffered:
            return
        left = max(self._stall_secs - self._stdin.stuck_secs, self._busy_until() - now())
        if left > 0:
            self._later("stall", min(left, self._stall_secs), self._check_stall)  # it may be done any time
        else:
            waited = f"{self._stall_secs:g} s"
            self._fail(
                FailureKind.WRITE_STALLED,
                f"read nothing for {waited} while {self._stdin.buffered} bytes wait in its stdin",
            )

    def _half_closed(self, what: str) -> None:
        self._fail(FailureKind.DISCONNECTED, f"closed its {what} and ran on")

    def _fail(self, kind: FailureKind, message: str) -> None:
        """Give it up: no answer is waited for any more, and it ends as in `stop`."""
        if self._trouble is None:
            self._trouble = (kind, message)
        if self._stdin is not None:
            self._stdin.abort()  # what it does not read would hold back the end of file
        self.stop()
        self._lost.set()

    def _term(self) -> None:
        assert self._process is not None
        self._process.term()
        self._later("kill", self._limits.stop_term_secs, self.kill)

    def _later(self, what: str, secs: float, callback: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.pop(what, None)
            callback()

        self._timers[what] = call_later(secs, fire)

    def _cancel_timers(self) -> None:
        while self._timers:
            self._timers.popitem()[1].cancel()

    def _ended(self, process: SpawnedProcess) -> Ended:
        kind, message = FailureKind.EXITED, exit_words(process.exit_code)
        if process.is_lost:
            kind, message = FailureKind.WARDEN_LOST, "was ended with the warden process, which died"
        elif self._trouble is not None:
            kind, message = self._trouble
        if process.left_behind:
            message += f"; {process.left_behind} of its processes could not be ended"
        unfinished = self._framer.unfinished(UNFINISHED_BYTES)
        return Ended(kind, message, process.exit_code, self.stderr_tail(), unfinished=unfinished)


def child_environment(environ: Mapping[str, str], own: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return the whole environment of a server: a few names of the daemon's, then the server's own."""
    base = {name: value for name, value in environ.items() if name in BASE_ENV or name.startswith("LC_")}
    return base | dict(own)


def own_folder() -> str:
    """Return the folder that this program was started in, or the root where that one is gone."""
    try:
        return os.getcwd()
    except OSError:  # it was removed under us
        return "/"


def _widen(fd: int) -> None:
    try:
        fcntl.fcntl(fd, F_SETPIPE_SZ, STDOUT_PIPE_BYTES)
    except OSError:
        pass  # not Linux, or this user's pipes have had their share: it works with less
