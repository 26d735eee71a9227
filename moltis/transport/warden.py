"""The process below the daemon that starts every local server and sees to it that none outlives the daemon.

Why one warden below the daemon. A process can only be ended reliably by an ancestor that its orphans are handed to
(PR_SET_CHILD_SUBREAPER, prctl(2)) and that is alive: process groups lose whatever calls setsid, and a daemon that was
killed with -9 ends nothing. A shim in front of each server does that too, but costs an interpreter each: 10 MB of
resident memory, 4 of them shared with nobody, and seven times the warden's time to start a server. A warden above the
daemon would have to pass on its signals, its exit code and its readiness, and a supervisor's `kill -9` would hit the
warden, not the daemon. Below it, one process of some 9 MB serves any number of servers; when the daemon dies, end of
file on the socket between them tells the warden, and when the warden dies, the kernel kills the servers
(PR_SET_PDEATHSIG) and hands their orphans to the daemon, which is a subreaper too. Each of the two finishes the
other's work. What they cannot do: survive both being killed in the same instant, and, on systems without subreapers,
find a process that left its server's group.

Run by path, `python -I -S warden.py FD`, with the standard library only, and of that only C modules where there is
one: `signal` and `socket` would add more than a megabyte for names this file does not use. One file, because it is run
without a package around it.

Messages both ways: a length (4 bytes, little endian, of all that follows), one letter, a server's number (8 bytes),
and fields divided by NUL. To the warden, spawn `S` (folder, argument count, arguments, environment; three descriptors
come along), SIGTERM `T` and SIGKILL `K` for a whole tree, ping `P`. From it: spawned `s` (pid), failed `f` (errno,
stage, path, detail), exited `x` (code), gone `g` (how many could not be ended), pong `p`.
"""

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import ctypes
import errno
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

HEADER_BYTES = 13
LETTERS = b"STKPsfxgp"
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""No kernel takes more than 6 MiB of arguments and environment, whatever the limit of the stack (execve(2))."""

EOF_GRACE_SECS = 0.3
"""After the daemon is gone: end of file alone is what most servers need."""
TERM_GRACE_SECS = 1.0
"""After the daemon is gone: then SIGKILL, so that nothing is left within 2 s."""
STRAY_GRACE_SECS = 0.5
"""From SIGTERM to SIGKILL for what a dead server left."""
SWEEP_SECS = 0.05
"""How often SIGKILL is repeated while something forks faster than it is found."""
GIVE_UP_SECS = 5.0
"""After this long with SIGKILL pending, a process is the kernel's (stuck in a device) or another user's."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SIGCONT, SIGKILL, SIGTERM = signal.SIGCONT, signal.SIGKILL, signal.SIGTERM


def encode(letter: bytes, number: int, *fields: bytes) -> bytes:
    """Return one message; no field may hold a NUL.

    Raises:
        ValueError: it is longer than the other side takes.
    """
    length = 9 + sum(map(len, fields)) + max(0, len(fields) - 1)
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes")
    return length.to_bytes(4, "little") + letter + number.to_bytes(8, "little") + b"\0".join(fields)


class Decoder:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._skip = 0
        """Bytes still to come of a message that is too long."""

    def feed(self, data: bytes) -> "list[tuple[bytes, int, list[bytes]]]":
        """Return the messages complete so far, as (letter, number, fields).

        One that is longer than `MAX_MESSAGE_BYTES` has no field at all, and is given at its beginning; its bytes are
        read past and not kept. Any other has one at least.

        Raises:
            ValueError: this is not our stream, and cannot be read on.
        """
        self._held += data
        messages = []
        while True:
            if self._skip:
                skipped = min(self._skip, len(self._held))
                del self._held[:skipped]
                self._skip -= skipped
            if len(self._held) < 4:
                break
            length = int.from_bytes(self._held[:4], "little")
            if length < 9:
                raise ValueError("not a message of ours")
            is_too_long = length > MAX_MESSAGE_BYTES
            taken = HEADER_BYTES if is_too_long else 4 + length
            if len(self._held) < taken:
                break
            if is_too_long and self._held[4] not in LETTERS:
                raise ValueError("not a message of ours")
            body = bytes(self._held[4:taken])
            del self._held[:taken]
            self._skip = 4 + length - taken
            fields: list[bytes] = [] if is_too_long else body[9:].split(b"\0")
            messages.append((body[:1], int.from_bytes(body[1:9], "little"), fields))
        return messages


def prctl(option: int, value: int) -> bool:
    """Call prctl(2) where there is one, and tell whether it worked."""
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)


def become_subreaper(on: bool = True) -> bool:
    """Have orphaned descendants handed to this process; tell whether the system can (Linux 3.4)."""
    return prctl(PR_SET_CHILD_SUBREAPER, int(on))


def _read_all(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


class ProcTree:
    """Who descends from whom, by proc(5)."""

    def __init__(self) -> None:
        # CONFIG_PROC_CHILDREN: without that file every process's stat is read instead.
        self._has_children_files = os.path.exists(f"/proc/self/task/{os.getpid()}/children")

    def children(self, pid: int) -> "list[int]":
        """Return the children of a process, zombies included; none if it is gone."""
        return self._listed(pid) if self._has_children_files else self._scan().get(pid, [])

    def tree(self, root: int) -> "list[int]":
        """Return a process and all its descendants, ancestors first."""
        children = self._listed if self._has_children_files else self._scan_once()
        found = {root: None}  # in order; a process that moves while we look is met twice
        for pid in (pids := [root]):
            new = [child for child in children(pid) if child not in found]
            found.update(dict.fromkeys(new))
            pids += new
        return pids

    def signal(self, root: int, number: int) -> None:
        """Send a signal to a process and all its descendants."""
        for pid in self.tree(root):
            send_signal(pid, number)

    @staticmethod
    def _listed(pid: int) -> "list[int]":
        found = []
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                found += [int(child) for child in _read_all(f"/proc/{pid}/task/{thread}/children").split()]
        except OSError:
            pass  # it has just ended; its children are elsewhere and will be found there
        return found

    def _scan_once(self) -> "Callable[[int], list[int]]":
        parents = self._scan()
        return lambda pid: parents.get(pid, [])

    @staticmethod
    def _scan() -> "dict[int, list[int]]":
        parents: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    stat = _read_all(f"/proc/{name}/stat")
                except OSError:
                    continue
                parents.setdefault(int(stat.rpartition(b")")[2].split()[1]), []).append(int(name))
        return parents


class GroupTree:
    """What there is without proc(5): a server's process group, which a process can leave."""

    def children(self, pid: int) -> "list[int]":
        return []

    def tree(self, root: int) -> "list[int]":
        return [root]

    def signal(self, root: int, number: int) -> None:
        try:
            os.killpg(root, number)
        except OSError:
            pass


def send_signal(pid: int, number: int) -> None:
    """Send a signal; a SIGTERM wakes a stopped process, which could not act on it otherwise."""
    try:
        os.kill(pid, number)
        if number == SIGTERM:
            os.kill(pid, SIGCONT)
    except OSError:
        pass  # gone, or another user's: the caller looks again


class Server:
    """One server, from its fork until nothing of it is left."""

    __slots__ = ("kill_at", "number", "pid", "pipe", "report", "spawned")

    def __init__(self, number: int, pid: int, pipe: int) -> None:
        self.number = number
        self.pid = pid
        self.pipe = pipe
        self.report = b""
        self.spawned = False
        self.kill_at: float | None = None
        """When what is left of it gets SIGKILL; set when its leader is dead, or at once by a kill."""


class Warden:
    """All servers, and the strays of the dead ones.

    A server's leader is a subreaper itself, so orphans of a living server stay below it. What arrives here was left by
    a server whose leader is dead; it belongs to those servers that are ending at that moment.
    """

    def __init__(self, link: "socket.socket", tree: "ProcTree | GroupTree") -> None:
        self._link = link
        self._tree = tree
        self._decoder = Decoder()
        self._out = b""
        self._descriptors: list[list[int]] = []
        self._leaders: dict[int, Server] = {}
        self._ending: dict[int, Server] = {}
        self._strays: dict[int, set[int]] = {}
        self._spawning: dict[int, Server] = {}
        self._daemon_gone_at: float | None = None
        self._terminated = False
        self._poll = select.poll()
        self._wakeup = self._catch_signals()
        self._poll.register(link.fileno(), select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)

    @staticmethod
    def _catch_signals() -> int:
        wakeup, wakeup_in = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(wakeup_in, False)
        signal.set_wakeup_fd(wakeup_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        return wakeup

    def run(self) -> None:
        """Serve until the daemon is gone and nothing of any server is left."""
        while not self._is_done():
            for fd, _events in self._poll.poll(self._poll_ms()):
                if fd == self._link.fileno():
                    self._talk()
                elif fd == self._wakeup:
                    self._drain_wakeup()
                elif fd in self._spawning:
                    self._settle(self._spawning[fd])
            self._reap()
            self._keep_deadlines()
            self._report_gone()

    def _is_done(self) -> bool:
        if self._daemon_gone_at is None:
            return False
        stuck = time.monotonic() > self._daemon_gone_at + TERM_GRACE_SECS + GIVE_UP_SECS
        return stuck or not (self._leaders or self._ending or self._strays)

    def _poll_ms(self) -> "float | None":
        now = time.monotonic()
        waits = [max(server.kill_at - now, SWEEP_SECS) for server in self._ending.values() if server.kill_at]
        if self._daemon_gone_at is not None:
            waits.append(SWEEP_SECS)
        return 1000 * min(waits) if waits else None

    def _drain_wakeup(self) -> None:
        try:
            os.read(self._wakeup, 4096)
        except OSError:
            pass

    # The daemon's messages

    def _talk(self) -> None:
        self._flush()
        try:
            data, ancillary, flags, _address = self._link.recvmsg(65536, socket.CMSG_SPACE(12), _RECV_FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENOBUFS):
                time.sleep(SWEEP_SECS)
                return
            data, ancillary, flags = b"", [], 0
        # One message's descriptors never arrive with another's (unix(7)); those that found no room here are missed
        # by the message they belong to and by no other.
        if ancillary or flags & socket.MSG_CTRUNC:
            self._descriptors.append([fd for _level, _type, raw in ancillary for fd in _ints(raw)])
        try:
            messages = self._decoder.feed(data)
        except ValueError:
            data, messages = b"", []
        if not data:
            self._daemon_is_gone()
        for letter, number, fields in messages:
            self._obey(letter, number, fields)

    def _daemon_is_gone(self) -> None:
        if self._daemon_gone_at is None:
            self._poll.unregister(self._link.fileno())
            self._daemon_gone_at = time.monotonic()

    def _obey(self, letter: bytes, number: int, fields: "list[bytes]") -> None:
        if letter == b"S":
            self._spawn(number, fields)
        elif letter == b"P":
            self._tell(b"p", number)
        elif letter in (b"T", b"K"):
            for server in [*self._leaders.values(), *self._ending.values()]:
                if server.number == number:
                    self._end(server, SIGKILL if letter == b"K" else SIGTERM)

    def _end(self, server: Server, number: int) -> None:
        if number == SIGKILL and (server.kill_at is None or server.kill_at > time.monotonic()):
            server.kill_at = time.monotonic()
        if server.pid in self._leaders:
            self._tree.signal(server.pid, number)
        for stray, owners in self._strays.items():
            if server.number in owners:
                self._tree.signal(stray, number)

    def _tell(self, letter: bytes, number: int, *fields: bytes) -> None:
        self._out += encode(letter, number, *fields)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                self._out = self._out[self._link.send(self._out) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                self._out = b""  # the daemon is gone: reading says so too
        if self._daemon_gone_at is None:
            self._poll.modify(self._link.fileno(), select.POLLIN | (select.POLLOUT if self._out else 0))

    # Starting a server

    def _spawn(self, number: int, fields: "list[bytes]") -> None:
        fds = self._descriptors.pop(0) if self._descriptors else []
        try:
            if not fields:
                raise OSError(errno.E2BIG, "message")
            if len(fds) != 3:
                raise OSError(errno.EMFILE, "descriptors")
            count = int(fields[1])
            argv, env = fields[2 : 2 + count], fields[2 + count :]
            environ = dict(item.split(b"=", 1) for item in env)
            pipe, pipe_in = os.pipe()
            try:
                self._fork(number, fields[0], argv, environ, fds, pipe, pipe_in)
            finally:
                os.close(pipe_in)
        except OSError as error:
            self._tell(b"f", number, b"%d" % (error.errno or errno.EIO), b"fork", b"", b"")
        except (ValueError, IndexError):
            self._tell(b"f", number, b"%d" % errno.EINVAL, b"fork", b"", b"")
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(
        self,
        number: int,
        folder: bytes,
        argv: "list[bytes]",
        environ: "dict[bytes, bytes]",
        fds: "list[int]",
        pipe: int,
        pipe_in: int,
    ) -> None:
        warden = os.getpid()
        try:
            pid = os.fork()
        except BaseException:
            os.close(pipe)
            raise
        if pid == 0:
            become_server(warden, folder, argv, environ, fds, pipe_in)
        server = Server(number, pid, pipe)
        self._leaders[pid] = server
        self._spawning[pipe] = server
        self._poll.register(pipe, select.POLLIN)

    def _settle(self, server: Server) -> None:
        """Read what a child says before its exec: nothing at all means that the exec has happened."""
        part = os.read(server.pipe, 65536)
        server.report += part
        if part:
            return
        self._poll.unregister(server.pipe)
        del self._spawning[server.pipe]
        os.close(server.pipe)
        server.pipe = -1
        if server.report:
            self._tell(b"f", server.number, *server.report.split(b"\0"))
        else:
            server.spawned = True
            self._tell(b"s", server.number, b"%d" % server.pid)

    # Ending them

    def _reap(self) -> None:
        """Take every exit there is, then look for what the dead have left."""
        reaped = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            reaped = True
            self._strays.pop(pid, None)
            server = self._leaders.pop(pid, None)
            if server is not None:
                self._leader_ended(server, os.waitstatus_to_exitcode(status))
        if reaped:
            self._find_strays()

    def _leader_ended(self, server: Server, code: int) -> None:
        while server.pipe >= 0:
            self._settle(server)
        if not server.spawned:
            return
        self._tell(b"x", server.number, b"%d" % code)
        if server.kill_at is None:
            server.kill_at = time.monotonic() + STRAY_GRACE_SECS
        self._ending[server.number] = server
        if isinstance(self._tree, GroupTree):
            self._strays[server.pid] = {server.number}
            self._tree.signal(server.pid, SIGTERM)

    def _find_strays(self) -> None:
        now = time.monotonic()
        for pid in self._tree.children(os.getpid()):
            if pid in self._leaders or pid in self._strays:
                continue
            self._strays[pid] = set(self._ending)
            is_late = any(server.kill_at is not None and server.kill_at <= now for server in self._ending.values())
            self._tree.signal(pid, SIGKILL if is_late or not self._ending else SIGTERM)

    def _keep_deadlines(self) -> None:
        now = time.monotonic()
        for server in self._ending.values():
            if server.kill_at is not None and now >= server.kill_at:
                self._end(server, SIGKILL)
        if self._daemon_gone_at is None:
            return
        if now >= self._daemon_gone_at + TERM_GRACE_SECS:
            for pid in [*self._leaders, *self._strays]:
                self._tree.signal(pid, SIGKILL)
        elif now >= self._daemon_gone_at + EOF_GRACE_SECS and not self._terminated:
            self._terminated = True
            for server in self._leaders.values():
                self._end(server, SIGTERM)

    def _report_gone(self) -> None:
        if not self._ending:
            return
        self._forget_empty_groups()
        now = time.monotonic()
        for server in list(self._ending.values()):
            left = [pid for pid, owners in self._strays.items() if server.number in owners]
            if not left or now > (server.kill_at or now) + GIVE_UP_SECS:
                del self._ending[server.number]
                for pid in left:
                    self._strays[pid].discard(server.number)
                self._tell(b"g", server.number, b"%d" % len(left))

    def _forget_empty_groups(self) -> None:
        if isinstance(self._tree, GroupTree):
            for group in list(self._strays):
                try:
                    os.killpg(group, 0)
                except OSError:
                    del self._strays[group]


_RECV_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _ints(raw: bytes) -> "Iterable[int]":
    for at in range(0, len(raw) - len(raw) % 4, 4):
        fd = int.from_bytes(raw[at : at + 4], sys.byteorder)
        os.set_inheritable(fd, False)
        yield fd


# In the forked child


def become_server(
    warden: int, folder: bytes, argv: "list[bytes]", environ: "dict[bytes, bytes]", fds: "list[int]", pipe: int
) -> "NoReturn":
    """Turn this fresh child into the server, or say why not on `pipe` and exit with 127."""
    stage = b"setup"
    path = b""
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, SIGKILL)
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # outlives the exec, and is not handed on to its own children
        if os.getppid() != warden:
            os._exit(127)
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.dup2(pipe, 3, inheritable=False)
        pipe = 3
        os.closerange(4, min(os.sysconf("SC_OPEN_MAX"), 1 << 20))
        restore_signals()
        stage, path = b"chdir", folder
        if folder:
            os.chdir(folder)
        stage, path = b"exec", argv[0]
        error, path, detail = execute(argv, environ)
    except OSError as failure:
        error, detail = failure.errno or errno.EIO, b""
    except BaseException:
        error, detail = errno.EINVAL, b""
    try:
        os.write(pipe, b"\0".join((b"%d" % error, stage, path, detail)))
    finally:
        os._exit(127)


def restore_signals() -> None:
    """Undo what this interpreter and this program ignore or block: both outlive an exec (signal(7))."""
    for number in signal.valid_signals():
        if number not in (SIGKILL, signal.SIGSTOP) and signal.getsignal(number) != signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def execute(argv: "list[bytes]", environ: "dict[bytes, bytes]") -> "tuple[int, bytes, bytes]":
    """Exec a command found the way execvp(3) finds it, in the server's own PATH; return only if that fails.

    Returns errno, the path it is about, and what is wrong with that file if it is not the file itself: `interpreter`
    and, after a space, the one its first line names. Differs from execvp: a file without `#!` is not fed to a shell.
    """
    command = argv[0]
    search = environ.get(b"PATH", os.fsencode(os.defpath))
    folders = [b""] if b"/" in command else [(folder or b".") + b"/" for folder in search.split(b":")]
    denied = b""
    missing = errno.ENOENT
    for folder in folders:
        path = folder + command
        try:
            os.execve(path, argv, environ)
        except OSError as error:
            is_file = os.path.isfile(path)
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and not is_file:
                missing = error.errno if b"/" in command else errno.ENOENT
            elif error.errno == errno.EACCES and not (is_file and os.access(path, os.X_OK)):
                denied = denied or path
            elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return error.errno, path, b"interpreter " + interpreter(path)
            else:
                return error.errno or errno.EIO, path, b""
    return (errno.EACCES, denied, b"") if denied else (missing, command, b"")


def interpreter(path: bytes) -> bytes:
    """Return the program that a script's first line names, or nothing."""
    try:
        fd = os.open(path, os.O_RDONLY)
        line = os.read(fd, 256).split(b"\n")[0]
    except OSError:
        return b""
    words = line[2:].replace(b"\0", b"").split()
    return words[0] if line.startswith(b"#!") and words else b""


def main(fd: int) -> None:
    try:
        os.setsid()
    except OSError:
        pass  # it leads a session already
    os.set_inheritable(fd, False)  # as are no others: `become_server` closes them all
    link = socket.socket(fileno=fd)
    link.setblocking(False)
    tree = ProcTree() if become_subreaper() else GroupTree()
    Warden(link, tree).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
