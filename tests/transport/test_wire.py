"""What the callback layer promises, on real descriptors and on both loops."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from moltis.transport import wire


async def until(claim: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not claim():  # noqa: ASYNC110 - a callback has no event to wait for
            await anyio.sleep(0.001)


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
    reader = wire.open_pipe_reader(read_fd, log.data_received, log.eof_received)
    writer = wire.open_pipe_writer(write_fd, log.closed)
    payload = os.urandom(1_000_000)
    writer.write(payload[:10])
    writer.write(payload[10:])
    assert writer.buffered > 0
    writer.close()
    await log.until("self.eofs")
    assert (log.data == payload, log.eofs, log.ends) == (True, 1, [])
    assert not reader.is_open
    assert not writer.is_open


async def test_a_paused_pipe_says_nothing_until_resumed() -> None:
    read_fd, write_fd = os.pipe()
    log = Log()
    reader = wire.open_pipe_reader(read_fd, log.data_received, log.eof_received)
    reader.pause()
    os.write(write_fd, b"x")
    await anyio.sleep(0.01)
    assert log.data == b""
    reader.resume()
    await log.until("self.data == b'x'")
    os.write(write_fd, b"yz")
    assert reader.drain(1) == b"y"
    reader.close()
    os.close(write_fd)


async def test_a_reader_that_leaves_is_noticed_though_nothing_is_written() -> None:
    read_fd, write_fd = os.pipe()
    log = Log()
    writer = wire.open_pipe_writer(write_fd, log.closed)
    await anyio.sleep(0.01)
    assert log.ends == []
    os.close(read_fd)
    await log.until("self.ends")
    assert isinstance(log.ends[0], BrokenPipeError)
    assert not writer.is_open
    writer.write(b"dropped")


async def test_a_full_pipe_tells_since_when_it_is_stuck() -> None:
    read_fd, write_fd = os.pipe()
    writer = wire.open_pipe_writer(write_fd, Log().closed)
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

    listener = wire.serve_unix(listening, connected)
    with dial(listening) as client:
        client.setblocking(False)
        client.send(b"hello")
        client.shutdown(socket.SHUT_WR)
        await until(lambda: bool(conns and conns[0].ends))
        assert client.recv(10) == b"hello"
        assert client.recv(10) == b""
    assert (conns[0].conn.peer_uid, conns[0].ends, conns[0].eofs) == (os.getuid(), [None], 1)
    listener.close()
