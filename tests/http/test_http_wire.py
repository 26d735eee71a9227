"""A request is one write, whatever the stack above makes of it."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import anyio
import httpcore2
import pytest
from made_certificates import Authority
from scripted_http import JSON, Heard, saying, serving
from trio.testing import MockClock

from moltis.http.carrier import JOINED_BYTES, Backend, Stream
from moltis.http.clients import server_client
from moltis.http.dialing import Resolve

VIRTUAL = ("trio", {"clock": MockClock(autojump_threshold=0)})


class Recorder(httpcore2.AsyncNetworkStream):
    """Keeps what is written; answers each read with how many writes there were before it."""

    def __init__(self, broken: bool = False) -> None:
        self.written: list[bytes] = []
        self.broken = broken

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self.broken:
            raise httpcore2.WriteError
        if buffer:
            self.written.append(buffer)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return b"%d" % len(self.written)


async def test_a_head_waits_for_its_body() -> None:
    plain = Recorder()
    stream = Stream(plain)
    for _ in range(2):
        await stream.write(b"head")
        assert b"head" not in plain.written
        await stream.write(b"body")
        await stream.write(b"")
        await stream.read(100)
        await stream.read(100)
        assert plain.written == [b"headbody"]
        plain.written.clear()


async def test_a_head_without_a_body_is_written_before_anything_is_read() -> None:
    plain = Recorder()
    stream = Stream(plain)
    await stream.write(b"head")
    assert await stream.read(100) == b"1"
    await stream.write(b"head")
    await stream.write(b"")
    assert plain.written == [b"head", b"head"]


async def test_a_long_body_is_not_copied() -> None:
    plain = Recorder()
    body = bytes(JOINED_BYTES + 1)
    stream = Stream(plain)
    await stream.write(b"head")
    await stream.write(body)
    assert plain.written == [b"head", body]
    assert plain.written[1] is body


async def test_a_body_in_pieces_is_written_piece_by_piece() -> None:
    plain = Recorder()
    stream = Stream(plain)
    for piece in (b"head", b"one", b"two", b"three"):
        await stream.write(piece)
    assert plain.written == [b"headone", b"two", b"three"]


async def test_what_a_server_said_before_it_hung_up_is_read() -> None:
    stream = Stream(Recorder(broken=True))
    await stream.write(b"head")
    assert await stream.read(100) == b"0"
    await stream.write(b"head")
    with pytest.raises(httpcore2.WriteError):
        await stream.write(b"body")


@pytest.mark.parametrize("secure", [False, True])
async def test_a_server_receives_a_request_at_once(secure: bool, authority: Authority, ca_file: str) -> None:
    received = []

    async def one_read(stream: anyio.abc.ByteStream, heard: Heard) -> None:
        await stream.send(JSON)
        received.append(await stream.receive())
        await stream.send(JSON)

    tls = authority.server("localhost") if secure else None
    async with serving(one_read, tls) as server, server_client(ca_file) as client:
        url = f"{'https' if secure else 'http'}://localhost:{server.port}/"
        for _ in range(2):
            assert (await client.post(url, content=b"the body")).status_code == 200
    assert received[0].startswith(b"POST / HTTP/1.1")
    assert received[0].endswith(b"the body")


async def test_long_bodies_arrive_whole() -> None:
    async with serving(saying(JSON)) as server, server_client(None) as client:
        for size in (0, 1, JOINED_BYTES, JOINED_BYTES + 1, 3_000_000):
            await client.post(f"http://127.0.0.1:{server.port}/", content=b"x" * size)
    assert [len(heard.body) for heard in server.heard] == [0, 1, JOINED_BYTES, JOINED_BYTES + 1, 3_000_000]


# Connections ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
async def test_a_server_whose_machine_is_gone_is_noticed(secure: bool, authority: Authority, ca_file: str) -> None:
    """A stream of events has no deadline."""
    tls = authority.server("localhost") if secure else None
    async with serving(saying(JSON), tls) as server, server_client(ca_file) as client:
        url = f"{'https' if secure else 'http'}://localhost:{server.port}/"
        async with client.stream("GET", url) as response:
            raw = response.extensions["network_stream"].get_extra_info("socket")
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
                if hasattr(socket, name):
                    assert raw.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


def names(*addresses: str) -> Resolve:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


async def test_a_dead_address_does_not_keep_a_server_from_being_reached() -> None:
    async with serving(saying(JSON)) as server:
        stream = await Backend(names("127.0.0.2", "127.0.0.1")).connect_tcp("mcp.example", server.port, 5.0)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        await stream.aclose()


@pytest.mark.parametrize("error", [socket.gaierror(-2, "no"), UnicodeError(), OSError(), None])
async def test_a_name_without_an_address_is_an_ordinary_failure(error: Exception | None) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if error is not None:
            raise error
        return []

    with pytest.raises(httpcore2.ConnectError):
        await Backend(resolve).connect_tcp("mcp.example", 443, 5.0)


@pytest.mark.parametrize("anyio_backend", [VIRTUAL])
async def test_a_name_and_a_connection_take_ten_seconds_together(
    anyio_backend: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(httpcore2.AsyncNetworkBackend):
        async def connect_tcp(self, *args: object, **more: object) -> httpcore2.AsyncNetworkStream:
            await anyio.sleep_forever()
            raise AssertionError

    async def resolve(host: str, port: int) -> Sequence[str]:
        await anyio.sleep(7)
        return ["1.1.1.1"]

    monkeypatch.setattr(httpcore2, "AnyIOBackend", Dead)
    began = anyio.current_time()
    with pytest.raises(httpcore2.ConnectTimeout):
        await Backend(resolve).connect_tcp("mcp.example", 443, 10.0)
    assert anyio.current_time() - began == pytest.approx(10)
