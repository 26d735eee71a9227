"""What the callback layer promises, on real descriptors and on both loops."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from moltis.transport import wire
from moltis.transport.wire import whole_second
from moltis.transport.wire.sockets import ACCEPT_PAUSE_SECS


async def until(claim: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not claim():  # noqa: ASYNC110 - a callback has no event to wait for
            await anyio.sleep(0.001)


def lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


class Log:
    """What was called back, and a way to wait for it."""

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[BaseException | None] = []
        self.eofs = 0

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.eofs += 1

    def closed(self, exc: BaseException | None) -> None:
        self.ends.append(exc)

    async def until(self, claim: str) -> None:
        await until(lambda: bool(eval(claim, {}, {"self": self})))


class Echo(Log):
    def __init__(self, conn: wire.PeerConn) -> None:
        super().__init__()
        self.conn = conn

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.conn.write(data)

    def eof_received(self) -> None:
        super().eof_received()
        self.conn.close()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen(100)
        yield sock


def dial(listening: socket.socket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(listening.getsockname())
    return client


async def test_a_pipe_delivers_everything_and_then_one_end() -> None:
    read_fd, write_fd = os.pipe()
    log = Log()
    reader = wire.PipeReader(read_fd, log.data_received, log.eof_received)
    writer = wire.PipeWriter(write_fd, log.closed)
    payload = os.urandom(1_000_000)
    writer.write(payload[:10])
    writer.write(payload[10:])
    assert writer.buffered > 0
    writer.close()
    await log.until("self.eofs")
    assert (log.data == payload, log.eofs, log.ends) == (True, 1, [])
    assert not reader.is_open
    assert not writer.is_open


class Slow(Log):
    """Needs a turn more for each byte it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.todo = 0
        self.turns = 0
        self.on_turn: Callable[[], None] = lambda: None

    def take(self, data: bytes) -> bool:
        if data:
            assert not self.todo, "nothing is read before it is done"
            self.sizes.append(len(data))
            self.data += data
            self.todo = len(data)
        self.todo = max(0, self.todo - 1)
        self.turns += 1
        self.on_turn()
        return self.todo > 0

    def ended(self) -> None:
        self.ends.append(None)


async def test_who_has_more_to_do_gets_one_turn_after_another_and_all_others_theirs() -> None:
    read_fd, write_fd = os.pipe()
    slow = Slow()
    wire.PipeReader(read_fd, slow.take, slow.eof_received)
    os.write(write_fd, b"abcde")
    await until(lambda: slow.turns > 0)
    os.write(write_fd, b"fg")
    os.close(write_fd)
    turns = [slow.turns]
    while not slow.eofs:
        await anyio.lowlevel.checkpoint()
        turns.append(slow.turns)
    assert slow.sizes == [5, 2]
    assert all(after - before <= 1 for before, after in itertools.pairwise(turns))
    assert (slow.data, slow.turns, slow.eofs) == (b"abcdefg", 7, 1)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="a pipe of this system has one size")
@pytest.mark.parametrize(("busy", "largest"), [(False, 256 * 1024), (True, 64 * 1024)])
async def test_reads_grow_only_for_who_is_done_in_one_turn(busy: bool, largest: int) -> None:
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(read_fd, fcntl.F_SETPIPE_SZ, 1024 * 1024)
    sizes: list[int] = []

    def take(data: bytes) -> bool:
        if data:
            sizes.append(len(data))
        return busy and bool(data)

    log = Log()
    os.write(write_fd, b"x" * 1024 * 1024)
    os.close(write_fd)
    wire.PipeReader(read_fd, take, log.eof_received)
    await log.until("self.eofs")
    assert (max(sizes), sum(sizes)) == (largest, 1024 * 1024)


@pytest.mark.parametrize("eof", [True, False], ids=["left alone", "still held by another"])
async def test_a_pipe_that_is_finished_gives_what_it_held_and_then_one_end(eof: bool) -> None:
    read_fd, write_fd = os.pipe()
    slow = Slow()
    reader = wire.PipeReader(read_fd, slow.take, slow.eof_received)
    os.write(write_fd, b"abc")
    await until(lambda: slow.turns > 0)
    os.write(write_fd, b"defgh")
    if eof:
        os.close(write_fd)
    reader.finish(4, slow.ended)
    assert slow.ends == [], "never called from inside a method"
    await until(lambda: bool(slow.ends))
    assert (slow.data, slow.todo, slow.eofs, slow.ends) == (b"abcdefg", 0, 0, [None])
    assert not reader.is_open
    if not eof:
        os.close(write_fd)


async def test_finishing_a_pipe_that_had_its_end_ends_too() -> None:
    read_fd, write_fd = os.pipe()
    slow = Slow()
    reader = wire.PipeReader(read_fd, slow.take, slow.eof_received)
    os.close(write_fd)
    await until(lambda: bool(slow.eofs))
    reader.finish(100, slow.ended)
    await until(lambda: bool(slow.ends))
    assert (slow.eofs, slow.ends, slow.data) == (1, [None], b"")


@pytest.mark.parametrize("finishing", [False, True])
@pytest.mark.parametrize("inside", [False, True])
async def test_a_pipe_that_is_closed_calls_nobody_any_more(finishing: bool, inside: bool) -> None:
    read_fd, write_fd = os.pipe()
    slow = Slow()
    reader = wire.PipeReader(read_fd, slow.take, slow.eof_received)
    os.write(write_fd, b"x" * 60_000)  # turns enough
    await until(lambda: slow.turns > 0)
    if finishing:
        reader.finish(100, slow.ended)
    if inside:
        slow.on_turn = reader.close
        await until(lambda: not reader.is_open)
    else:
        reader.close()
    turns = slow.turns
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert (slow.turns, slow.eofs, slow.ends) == (turns, 0, [])
    reader.close()
    os.close(write_fd)


async def test_a_reader_that_leaves_is_noticed_though_nothing_is_written() -> None:
    read_fd, write_fd = os.pipe()
    log = Log()
    writer = wire.PipeWriter(write_fd, log.closed)
    await anyio.sleep(0.01)
    assert log.ends == []
    os.close(read_fd)
    await log.until("self.ends")
    assert isinstance(log.ends[0], BrokenPipeError)
    assert not writer.is_open
    writer.write(b"dropped")


async def test_a_full_pipe_tells_since_when_it_is_stuck() -> None:
    read_fd, write_fd = os.pipe()
    writer = wire.PipeWriter(write_fd, Log().closed)
    assert writer.stuck_secs == 0.0
    writer.write(b"x" * 1_000_000)
    await anyio.sleep(0.02)
    assert writer.stuck_secs > 0.01
    writer.abort()
    assert (writer.buffered, writer.stuck_secs) == (0, 0.0)
    os.close(read_fd)


async def test_a_client_is_served_and_its_user_known(listening: socket.socket) -> None:
    conns: list[Echo] = []

    def connected(conn: wire.PeerConn) -> Echo:
        conns.append(Echo(conn))
        return conns[-1]

    listener = wire.UnixListener(listening, connected)
    with dial(listening) as client:
        client.setblocking(False)
        client.send(b"hello")
        client.shutdown(socket.SHUT_WR)
        await until(lambda: bool(conns and conns[0].ends))
        assert client.recv(10) == b"hello"
        assert client.recv(10) == b""
    assert (conns[0].conn.peer_uid, conns[0].ends, conns[0].eofs) == (os.getuid(), [None], 1)
    listener.close()


async def test_a_listener_outlives_running_out_of_descriptors(
    listening: socket.socket,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    conns: list[Echo] = []

    def connected(conn: wire.PeerConn) -> Echo:
        conns.append(Echo(conn))
        return conns[-1]

    listener = wire.UnixListener(listening, connected)
    clients = [dial(listening) for _ in range(8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free() + 2, hard))
    try:
        await anyio.sleep(0.12)
        assert len(conns) < len(clients)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await until(lambda: len(conns) == len(clients))
    for client in clients:
        client.close()
    await until(lambda: all(echo.ends for echo in conns))
    listener.close()
    listener.close()


async def test_a_listener_closed_while_it_pauses_stays_closed(listening: socket.socket) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = wire.UnixListener(listening, lambda conn: None)
    with dial(listening) as client:
        client.setblocking(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free(), hard))
        try:
            await anyio.sleep(0.02)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        listener.close()
        await anyio.sleep(0.1)
        with pytest.raises(BlockingIOError):
            client.recv(1)


async def test_a_client_that_is_refused_sees_the_end_at_once(listening: socket.socket) -> None:
    listener = wire.UnixListener(listening, lambda conn: None)
    with dial(listening) as client:
        client.setblocking(False)
        await until(lambda: is_over(client))
    listener.close()


def is_over(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


async def test_a_reader_that_does_not_read_can_be_told_and_dropped(listening: socket.socket) -> None:
    conns: list[Echo] = []
    drained: list[int] = []

    def connected(conn: wire.PeerConn) -> Echo:
        conns.append(Echo(conn))
        conn.write(b"x" * 3_000_000)
        conn.on_drain = lambda: drained.append(conn.buffered)
        return conns[-1]

    listener = wire.UnixListener(listening, connected)
    with dial(listening) as slow, dial(listening) as late:
        await until(lambda: len(conns) == 2)
        await anyio.sleep(0.02)
        assert all(echo.conn.buffered > 0 for echo in conns)
        assert all(echo.conn.stuck_secs > 0.01 for echo in conns)
        conns[0].conn.abort()
        assert conns[0].ends == [], "never called from inside a method"
        await until(lambda: conns[0].ends == [None])
        late.settimeout(PATIENCE)
        read = 0
        while read < 3_000_000:
            read += len(await anyio.to_thread.run_sync(late.recv, 65536))
        await until(lambda: drained == [0])
        assert slow.fileno() >= 0
    await until(lambda: bool(conns[1].ends))
    listener.close()


async def test_closing_lets_the_peer_have_what_is_queued(listening: socket.socket) -> None:
    conns: list[Echo] = []

    def connected(conn: wire.PeerConn) -> Echo:
        conns.append(Echo(conn))
        conn.write(b"x" * 1_000_000)
        conn.close()
        conn.write(b"dropped")
        return conns[-1]

    listener = wire.UnixListener(listening, connected)
    with dial(listening) as client:
        client.settimeout(PATIENCE)
        read = 0
        while data := await anyio.to_thread.run_sync(client.recv, 65536):
            read += len(data)
        assert read == 1_000_000
    await until(lambda: conns[0].ends == [None])
    listener.close()


async def test_closing_does_not_wait_for_ever(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moltis.transport.wire.sockets.LINGER_SECS", 0.05)
    conns: list[Echo] = []

    def connected(conn: wire.PeerConn) -> Echo:
        conns.append(Echo(conn))
        conn.write(b"x" * 3_000_000)
        conn.close()
        return conns[-1]

    listener = wire.UnixListener(listening, connected)
    with dial(listening):
        await until(lambda: bool(conns) and conns[0].ends == [None])
    listener.close()


async def test_an_exit_is_called_back_once_and_never_after_cancelling() -> None:
    calls: list[str] = []
    with subprocess.Popen(["sleep", "50"]) as process:
        wire.watch_pidfd(process.pid, lambda: calls.append("a"))
        watch = wire.watch_pidfd(process.pid, lambda: calls.append("b"))
        if watch is None:
            process.kill()
            pytest.skip("this system has no pidfds")
        watch.cancel()
        watch.cancel()
        process.kill()
        await until(lambda: calls == ["a"])
    assert wire.watch_pidfd(process.pid, lambda: None) is None


async def test_a_link_carries_descriptors_even_when_it_is_full() -> None:
    ours, theirs = socket.socketpair()
    log = Log()
    link = wire.Link(ours, log.data_received, log.eof_received)
    read_fd, write_fd = os.pipe()
    link.send(b"x" * 1_000_000)
    link.send(b"with", [write_fd])
    os.close(write_fd)
    theirs.settimeout(PATIENCE)
    received, fds = b"", []
    while len(received) < 1_000_004:
        data, new, _flags, _address = await anyio.to_thread.run_sync(socket.recv_fds, theirs, 65536, 1)
        received += data
        fds += new
    assert received.endswith(b"with")
    os.write(fds[0], b"through")
    assert os.read(read_fd, 10) == b"through"
    assert not link.is_severed
    theirs.close()
    assert link.is_severed
    await log.until("self.eofs == 1")
    for fd in (read_fd, *fds):
        os.close(fd)


LAST_WORDS = {"a word": b"last words", "one read": b"x" * 65536, "several reads": b"x" * 150_000}


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=LAST_WORDS)
@pytest.mark.parametrize("busy", [False, True], ids=["alone", "while much is queued"])
async def test_the_end_of_a_link_is_heard_after_the_last_words_though_ours_were_not_read(
    words: bytes, busy: bool
) -> None:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    log = Log()
    link = wire.Link(ours, log.data_received, log.eof_received)
    if busy:
        link.send(b"x" * 2_000_000)
    else:
        link.send(b"never read")
    theirs.send(words)
    theirs.close()
    await log.until("self.eofs == 1")
    assert log.data == words
    assert link.is_severed
    link.close()


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=LAST_WORDS)
async def test_the_end_of_a_client_is_heard_after_its_last_words_though_ours_were_not_read(
    listening: socket.socket, words: bytes
) -> None:
    conns: list[wire.PeerConn] = []
    log = Log()
    log.eof_received = lambda: conns[0].close()  # type: ignore[method-assign]

    def connected(conn: wire.PeerConn) -> Log:
        conns.append(conn)
        return log

    listener = wire.UnixListener(listening, connected)
    client = dial(listening)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    await until(lambda: bool(conns))
    conns[0].write(b"never read")
    client.send(words)
    client.close()
    await until(lambda: bool(log.ends))
    assert log.data == words
    listener.close()


async def test_a_client_that_leaves_while_it_is_not_read_is_read_to_its_end_later(listening: socket.socket) -> None:
    conns: list[Echo] = []

    def connected(conn: wire.PeerConn) -> Echo:
        conns.append(Echo(conn))
        return conns[-1]

    listener = wire.UnixListener(listening, connected)
    client = dial(listening)
    await until(lambda: bool(conns))
    conn = conns[0].conn
    conn.pause_reading()
    conn.write(b"never read")
    client.send(b"last words")
    client.close()
    assert conn.has_hung_up
    assert not conn.look_again()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert (conns[0].data, conns[0].ends) == (b"", [])
    conn.resume_reading()
    await until(lambda: bool(conns[0].ends))
    assert conns[0].data == b"last words"
    assert conn.has_hung_up
    listener.close()


async def test_who_sends_without_end_leaves_others_their_turn(listening: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    turns: list[int] = []

    def refill(data: bytes) -> None:
        turns.append(len(data))
        with contextlib.suppress(BlockingIOError):
            theirs.send(b"x" * 32_768)

    link = wire.Link(ours, refill, lambda: None)
    theirs.send(b"x" * 32_768)
    await until(lambda: len(turns) > 20)
    link.close()
    theirs.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
async def test_a_shortage_is_told_once_and_a_client_that_is_gone_is_none(listening: socket.socket, number: int) -> None:
    failures = [OSError(number, os.strerror(number))] * 3
    told: list[int | None] = []
    accepted: list[socket.socket] = []

    class Failing:
        setblocking = listening.setblocking
        fileno = listening.fileno

        def accept(self) -> Any:
            if failures:
                raise failures.pop()
            return listening.accept()

    acceptor = wire.Acceptor(cast(socket.socket, Failing()), accepted.append, lambda error: told.append(error.errno))
    with dial(listening):
        await until(lambda: bool(accepted))
    assert told == ([] if number == errno.ECONNABORTED else [number])
    acceptor.close()
    accepted[0].close()


async def test_a_listener_that_is_closed_while_it_pauses_accepts_nobody_afterwards(listening: socket.socket) -> None:
    told: list[OSError] = []
    accepted: list[socket.socket] = []

    class Failing:
        setblocking = listening.setblocking
        fileno = listening.fileno

        def accept(self) -> Any:
            if not told:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return listening.accept()

    acceptor = wire.Acceptor(cast(socket.socket, Failing()), accepted.append, told.append)
    with dial(listening):
        await until(lambda: bool(told))
        acceptor.close()
        acceptor.close()
        await anyio.sleep(2 * ACCEPT_PAUSE_SECS)
    assert accepted == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENETDOWN])
async def test_a_listener_outlives_whatever_accepting_says(
    listening: socket.socket, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(number, os.strerror(number))] * 2
    conns: list[Echo] = []

    class Failing:
        setblocking = listening.setblocking
        fileno = listening.fileno

        def accept(self) -> Any:
            if failures:
                raise failures.pop()
            return listening.accept()

    def connected(conn: wire.PeerConn) -> Echo:
        conns.append(Echo(conn))
        return conns[-1]

    listener = wire.UnixListener(cast(socket.socket, Failing()), connected)
    with dial(listening):
        await until(lambda: bool(conns))
    assert not failures
    await until(lambda: bool(conns[0].ends))
    listener.close()


@given(moment=st.floats(0, 1e7), secs=st.floats(1, 100))
def test_what_is_done_now_and_then_is_due_on_a_whole_second_about_when_it_should(moment: float, secs: float) -> None:
    due = whole_second(moment, secs)
    assert due == int(due)
    assert abs(due - (moment + secs)) <= 0.5


@given(moment=st.floats(0, 1e7), secs=st.floats(0, 0.99))
def test_what_is_done_more_often_is_due_exactly_then(moment: float, secs: float) -> None:
    assert whole_second(moment, secs) == moment + secs
