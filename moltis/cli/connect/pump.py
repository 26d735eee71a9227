"""Lines both ways between stdin, stdout and the daemon, and what is done while there is none.

A host never loses its server: without a daemon, requests wait a little, are then answered from what was last known or
refused with what mends it, and all goes on when there is a daemon. Where it is to be started, that is done when there
is none at the beginning, or when the one that was there died; one that was stopped was stopped by somebody.

One thread, one poll(2). Nobody is waited for but in poll. stdin and stdout are never made non-blocking, for that would
be so for whoever shares them (a shell's terminal): a pipe that is ready takes PIPE_BUF bytes at once (pipe(7)), and a
socket is asked not to wait.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Callable

from moltis.cli.connect.door import ANSWER_SECS, Died, Entrance, NotNow
from moltis.cli.connect.ledger import ANSWERABLE, DAEMON_GONE, Ledger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from moltis.cli.connect.start import Outcome, Start
    from moltis.errors import MoltisError

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Of the host, as in the gateway."""

ANSWER_AFTER_SECS = 2.0
"""Without a daemon: then what can be is answered from what was last known. A restart takes less."""

REFUSE_AFTER_SECS = 30.0
"""And then what only a daemon can do is refused. An upgrade takes some seconds; hosts wait for a minute."""

FIRST_REFUSE_AFTER_SECS = 10.0
"""The same where there was no daemon yet: a host may be started together with it."""

STARTING_SECS = 25.0
"""While the daemon is being started, which takes a second, nothing is answered without it; longer than it is tried."""

START_PAUSE_SECS = 2.0
MAX_START_PAUSE_SECS = 60.0
"""Until it is started again, doubled each time; a daemon that was there for so long forgives what was before it."""

QUIET_SECS = 20.0
"""A daemon that owes something and has said nothing for so long is asked whether it is there; as long again is no."""

PAUSE_SECS = 0.1
MAX_PAUSE_SECS = 2.0
LAST_WORDS_SECS = 2.0
"""What a host that has closed stdin may still be answered in; it then waits for this process to end."""

FLUSH_SECS = 0.5
READ_BYTES = 256 * 1024
HELD_BYTES = 4 * 1024 * 1024
"""Beyond this, waiting for one side, nothing more is read from the other; one line may be longer."""

Enter = Callable[[], Entrance]
Answerer = Callable[[bytes], list[bytes]]


class HostLeft(Exception):
    """Nobody reads stdout any more."""


class Lines:
    """Bytes into lines, in linear time."""

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._discarding = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """Return the lines that this completes, without blank ones and newlines; None for one that was too long."""
        *ends, rest = data.split(b"\n")
        lines: list[bytes | None] = []
        for end in ends:
            self._add(end)
            line = b"".join(self._parts)
            if self._discarding:
                lines.append(None)
            elif line and not line.isspace():
                lines.append(line)
            self._parts, self._size, self._discarding = [], 0, False
        self._add(rest)
        return lines

    def _add(self, part: bytes) -> None:
        if part and not self._discarding:
            self._parts.append(part)
            self._size += len(part)
            if self._max_bytes is not None and self._size > self._max_bytes:
                self._parts, self._discarding = [], True


class HostOut:
    """stdout, or what stands for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        mode = os.fstat(fd).st_mode
        self._socket = socket.socket(fileno=os.dup(fd)) if stat.S_ISSOCK(mode) else None
        self._portion = READ_BYTES if stat.S_ISREG(mode) else select.PIPE_BUF
        self._rest = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def is_idle(self, ledger: Ledger) -> bool:
        return not (self._rest or ledger.bytes_for_host)

    def takes_some(self, within_secs: float = 0.0) -> bool:
        """Whether it takes something, or fails, now or soon."""
        return bool(self._poll.poll(within_secs * 1000))

    def write(self, ledger: Ledger) -> None:
        """Write what it takes now; call it only when it takes some.

        Raises:
            HostLeft: its reader is gone.
        """
        if not self._rest:
            self._rest = memoryview(ledger.take_for_host(READ_BYTES))
        try:
            if self._socket is not None:
                written = self._socket.send(self._rest, socket.MSG_DONTWAIT)
            else:
                written = os.write(self.fd, self._rest[: self._portion])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as failure:
            raise HostLeft from failure
        self._rest = self._rest[written:]

    def close(self) -> None:
        """Let go of it; stdout itself stays open."""
        if self._socket is not None:
            self._socket.close()


class Pump:
    """One host's session, from its first byte to its last.

    enter: makes a new connection to the daemon (door.Entrance).
    know: gives what answers requests from what was last known (standin.StandIn); it gets the host's `initialize`, and
        what a host should know of why there is no daemon.
    talk: says something to a person, on stderr.
    start: begins to start a daemon (start.Start); None: that is somebody else's.
    """

    def __init__(
        self,
        enter: Enter,
        know: Callable[[bytes | None, str], Answerer],
        talk: Callable[[str], None],
        host_in: int = 0,
        host_out: int = 1,
        start: Callable[[], Start] | None = None,
    ) -> None:
        self._enter = enter
        self._know = know
        self._talk = talk
        self._start = start
        self._starting: Start | None = None
        self._not_started: Outcome | None = None
        self._starts_at = self._found_at = 0.0
        self._start_pause = START_PAUSE_SECS
        self._died = self._comes = False
        self._in = host_in
        self._out = HostOut(host_out)
        self._ledger = Ledger()
        self._from_host = Lines(MAX_LINE_BYTES)
        self._from_daemon = Lines()
        self._daemon: socket.socket | None = None
        self._sending = memoryview(b"")
        self._is_deaf = False
        self._ends_at: float | None = None
        self._was_connected = False
        self._entrance: Entrance | None = None
        self._gives_up_at = self._tries_at = self._away_since = self._quiet_since = 0.0
        self._was_asked = False
        self._pause = PAUSE_SECS
        self._problem = ""
        self._refusal: MoltisError | None = None
        self._answerer: Answerer | None = None

    def run(self) -> None:
        """Serve until stdin ends, or stdout's reader is gone.

        Raises:
            DaemonNotRunning: there was none in all that time.
            MoltisError: it did not let us in to the end.
        """
        self._away_since = time.monotonic()
        try:
            while not self._is_done():
                if self._daemon is None:
                    self._seek()
                elif self._ledger.awaited:
                    self._doubt(self._daemon)
                self._turn()
        except HostLeft:
            return
        finally:
            self._out.close()
            for connection in (self._daemon, self._entrance, self._starting):
                if connection is not None:
                    connection.close()
        if self._refusal is not None:
            raise self._refusal
        if not self._was_connected:
            from moltis.errors import DaemonNotRunning

            failed = self._not_started
            if failed is not None:
                raise DaemonNotRunning(f"the daemon could not be started: {failed.message}", hint=failed.hint)
            raise DaemonNotRunning(self._problem or "no daemon answers", hint="start it: moltis run")

    # --- one turn

    def _turn(self) -> None:
        poll = select.poll()
        ledger, daemon = self._ledger, self._daemon
        if self._ends_at is None and ledger.bytes_for_daemon <= HELD_BYTES:
            poll.register(self._in, select.POLLIN)
        if not self._out.is_idle(ledger):
            poll.register(self._out.fd, select.POLLOUT)
        if daemon is not None:
            self._load()
            wanted = select.POLLIN if ledger.bytes_for_host <= HELD_BYTES else 0
            wanted |= select.POLLOUT if self._sending else 0
            if wanted:
                poll.register(daemon, wanted)
        for awaited in (self._entrance, self._starting):
            if awaited is not None:
                poll.register(awaited, select.POLLIN)
        for fd, events in poll.poll(self._wait_ms()):
            if fd == self._out.fd and not self._out.is_idle(ledger):
                self._out.write(ledger)
            if fd == self._in and self._ends_at is None and events & ~select.POLLOUT:
                self._read_host()
                self._load()
                if daemon is not None and self._sending:
                    self._send(daemon)
            if daemon is not None and fd == daemon.fileno():
                if events & select.POLLOUT and self._sending:
                    self._send(daemon)
                if events & ~select.POLLOUT:
                    self._read_daemon(daemon)
                    if not self._out.is_idle(ledger) and self._out.takes_some():
                        self._out.write(ledger)

    def _wait_ms(self) -> float | None:
        now = time.monotonic()
        moments = [] if self._ends_at is None else [self._ends_at]
        if self._daemon is None:
            moments.append(self._tries_at if self._entrance is None else self._gives_up_at)
            due_after = self._ledger.wanted_after(*self._patience())
            if due_after is not None:
                moments.append(self._away_since + due_after)
        elif self._ledger.awaited:
            moments.append(self._quiet_since + QUIET_SECS)
        return max(0.0, min(moments) - now) * 1000 + 1 if moments else None

    # --- the host

    def _read_host(self) -> None:
        try:
            data = os.read(self._in, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO of a terminal that is gone
            data = b""
        if not data:
            data = b"\n"  # what `printf '{...}' | moltis connect` leaves without its newline is a line too
            self._ends_at = time.monotonic() + LAST_WORDS_SECS
            if not self._was_connected:
                self._ends_at = max(self._ends_at, self._away_since + FIRST_REFUSE_AFTER_SECS + LAST_WORDS_SECS)
        if not self._ledger.awaited:
            self._quiet_since, self._was_asked = time.monotonic(), False
        for line in self._from_host.feed(data):
            if line is None:
                self._ledger.oversized(MAX_LINE_BYTES)
            else:
                self._ledger.host_said(line)

    def _is_done(self) -> bool:
        if self._ends_at is None:
            return False
        if time.monotonic() >= self._ends_at:
            self._say_last("the host closed its end before there was an answer")
            return True
        if not self._ledger.awaited and not self._sending and self._out.is_idle(self._ledger):
            return self._was_connected or (bool(self._problem) and self._starting is None)
        return False

    def _say_last(self, why: str) -> None:
        """Answer what waits, and let the host have it if it reads."""
        self._ledger.give_up(why)
        until = time.monotonic() + FLUSH_SECS
        try:
            while not self._out.is_idle(self._ledger) and self._out.takes_some(max(0.0, until - time.monotonic())):
                self._out.write(self._ledger)
        except HostLeft:
            pass

    # --- the daemon

    def _seek(self) -> None:
        """Without a daemon: look for one, and do what is due meanwhile."""
        now = time.monotonic()
        try:
            if self._entrance is None and now >= self._tries_at:
                self._entrance, self._gives_up_at = self._enter(), now + ANSWER_SECS
            if self._entrance is not None:
                found = self._entrance.read()
                if found is not None:
                    self._found(*found)
                    return
                if now >= self._gives_up_at:
                    raise NotNow("the daemon did not answer in time")
        except NotNow as failure:
            self._refusal, self._died = None, isinstance(failure, Died)
            self._not_found(str(failure))
        except Exception as failure:
            from moltis.errors import MoltisError

            if not isinstance(failure, MoltisError):
                raise
            self._refusal = failure
            self._not_found(failure.message)
        self._see_to_start()
        self._answer_due()

    def _see_to_start(self) -> None:
        """Begin to start a daemon where one is to be started, and hear what came of that."""
        now = time.monotonic()
        if self._starting is not None:
            outcome = self._starting.read()
            if outcome is None:
                return
            self._starting, self._not_started, self._answerer = None, outcome if outcome.message else None, None
            self._starts_at = now + self._start_pause
            self._start_pause = min(2 * self._start_pause, MAX_START_PAUSE_SECS)
            self._comes = not outcome.message
            if outcome.message:
                self._talk(f"the daemon could not be started: {outcome.message}; {outcome.hint}")
            else:
                self._tries_at = self._away_since = now
                self._pause = PAUSE_SECS
        elif self._start is not None and self._is_to_start(now):
            self._talk("starting the daemon")
            self._starting, self._not_started = self._start(), None

    def _is_to_start(self, now: float) -> bool:
        if self._entrance is not None or self._refusal is not None or not self._problem or now < self._starts_at:
            return False
        if self._was_connected and not self._died:
            return False
        return self._not_started is None or self._ledger.awaited > 0  # where it failed, only for who asks for something

    def _found(self, daemon: socket.socket, said: bytes) -> None:
        if self._was_connected:
            self._talk("the daemon is back")
        self._daemon, self._entrance = daemon, None
        self._was_connected, self._is_deaf, self._was_asked = True, False, False
        self._problem, self._refusal, self._answerer = "", None, None
        self._not_started, self._died, self._comes = None, False, False
        self._pause = PAUSE_SECS
        self._found_at = time.monotonic()
        self._from_daemon = Lines()
        self._quiet_since = now = time.monotonic()
        if self._ends_at is not None:
            self._ends_at = now + LAST_WORDS_SECS
        self._ledger.connected()
        self._daemon_said(said)

    def _not_found(self, why: str) -> None:
        if self._entrance is not None:
            self._entrance.close()
            self._entrance = None
        if why != self._problem and (self._refusal is not None or not self._was_connected):
            self._talk(f"{why}; waiting for it to change")
        self._problem = why
        self._tries_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE_SECS)

    def _patience(self) -> tuple[float, float]:
        """Return for how long requests wait for a daemon, if they can be answered without one and if they cannot."""
        if self._refusal is not None or self._not_started is not None:
            return 0.0, 0.0
        if self._starting is not None or self._comes:
            return STARTING_SECS, STARTING_SECS
        return ANSWER_AFTER_SECS, REFUSE_AFTER_SECS if self._was_connected else FIRST_REFUSE_AFTER_SECS

    def _answer_due(self) -> None:
        ledger, refusal = self._ledger, self._refusal
        for entry in ledger.take_due(time.monotonic() - self._away_since, *self._patience()):
            if refusal is not None:
                mends = f" ({refusal.hint})" if refusal.hint else ""
                ledger.refuse([entry], refusal.message + mends, refusal.data())
                continue
            if entry.method in ANSWERABLE:
                try:
                    self._answerer = self._answerer or self._know(ledger.introduction, self._notice())
                    ledger.answered(entry, self._answerer(entry.line))
                    continue
                except Exception as failure:  # what is not known is no reason to leave the host
                    self._talk(f"nothing is known without the daemon ({type(failure).__name__}: {failure})")
            failed = self._not_started
            if failed is not None:
                told = f"the moltis daemon is not running, and could not be started: {failed.message}"
                mends = failed.hint or "moltis run"
                data = {**DAEMON_GONE, "hint": mends}
                ledger.refuse([entry], f"{told}; nothing was sent. What a person can do: {mends}", data)
                continue
            ledger.refuse(
                [entry], "the moltis daemon is not running; nothing was sent. What a person can do: moltis run"
            )

    def _notice(self) -> str:
        """Return what a model should know of why there is no daemon; it reads that once, and there may be one later."""
        failed = self._not_started
        if failed is None:
            return ""
        return (
            "When this was asked, the moltis daemon, which runs these servers, could not be started: "
            f"{failed.message}. What a person can do: {failed.hint or 'moltis run'}. Calls fail until it runs."
        )

    def _doubt(self, daemon: socket.socket) -> None:
        """Ask a daemon that is silent for long whether it is there; one that says nothing to that is none."""
        if self._ledger.bytes_for_host > HELD_BYTES:  # the host holds things up: the daemon is not listened to
            self._quiet_since = time.monotonic()
        if time.monotonic() < self._quiet_since + QUIET_SECS:
            return
        if self._was_asked:
            self._lost(daemon, "the moltis daemon does not answer")
        else:
            self._was_asked, self._quiet_since = True, time.monotonic()
            self._ledger.probe()

    def _load(self) -> None:
        """Take up the next line, if none is on its way."""
        if not (self._sending or self._is_deaf):
            line = self._ledger.next_line()
            self._sending = memoryview(b"" if line is None else line + b"\n")

    def _send(self, daemon: socket.socket) -> None:
        try:
            while self._sending:
                self._sending = self._sending[daemon.send(self._sending) :]
                if not self._sending:
                    self._ledger.sent()
                    self._load()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # what it said before it went is read yet, and then its end
            self._sending, self._is_deaf = memoryview(b""), True

    def _read_daemon(self, daemon: socket.socket) -> None:
        try:
            data = daemon.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._quiet_since, self._was_asked = time.monotonic(), False
            self._daemon_said(data)
        else:
            self._lost(daemon)

    def _daemon_said(self, data: bytes) -> None:
        for line in self._from_daemon.feed(data):
            if line is not None:
                self._ledger.daemon_said(line)

    def _lost(self, daemon: socket.socket, why: str = "the moltis daemon went away before it answered") -> None:
        daemon.close()
        self._daemon, self._sending = None, memoryview(b"")
        self._ledger.lost(f"{why}; the request may have been carried out, and is not sent again")
        self._away_since = time.monotonic()
        self._tries_at = self._away_since + self._pause
        if self._away_since - self._found_at > MAX_START_PAUSE_SECS:
            self._start_pause = START_PAUSE_SECS
        self._talk("the daemon went away; waiting for it")
