"""The client of a server does what it is told and nothing besides."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import aclosing, suppress
from itertools import pairwise

import anyio
import anyio.lowlevel
import httpx2
import pytest
from patience import PATIENCE
from scripted_http import CHUNKED, JSON, OK, repeating, saying, serving, silent

from moltis import __version__
from moltis.http.bodies import PIECES_IN_A_ROW
from moltis.http.clients import server_client


async def test_a_request_carries_what_it_was_given_and_who_we_are() -> None:
    async with serving(saying(JSON)) as server, server_client(None, [("X-Key", "käse"), ("Accept", "a/b")]) as client:
        await client.post(f"http://127.0.0.1:{server.port}/mcp?k=v", content=b"{}", headers={"Accept": "c/d"})
    (heard,) = server.heard
    assert heard.line == "POST /mcp?k=v HTTP/1.1"
    assert heard.body == b"{}"
    assert heard.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "c/d",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "content-length": "2",
        "user-agent": f"moltis/{__version__}",
        "x-key": "käse".encode().decode("latin-1"),
    }


async def test_the_configuration_may_say_who_we_are_but_not_what_we_accept() -> None:
    headers = [("User-Agent", "me"), ("accept-encoding", "gzip")]
    async with serving(saying(JSON)) as server, server_client(None, headers) as client:
        await client.get(f"http://127.0.0.1:{server.port}/")
    assert server.heard[0].headers["user-agent"] == "me"
    assert server.heard[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "location",
    [
        b"/elsewhere",
        b"https://other.example/",
        b"http://[::1",
        b"//",
        b"http:///x",
        b"javascript:alert(1)",
        b"http://a@b@c/",
        b"http://x:99999999/",
        b"\xff\xfe",
        b"http://\xc3\xbc.example/",
        b"http://" + b"a" * 90_000,
        b"http://xn--\xff/",
        b"",
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_wherever_it_points(status: int, location: bytes) -> None:
    answer = b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location)
    async with serving(saying(answer)) as server, server_client(None) as client:
        response = await client.post(f"http://127.0.0.1:{server.port}/", content=b"{}")
        assert response.status_code == status
    assert len(server.heard) == 1


async def test_no_cookie_is_kept() -> None:
    answer = OK + b"Set-Cookie: a=b; Path=/\r\nSet-Cookie: c=d; Max-Age=1000\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(answer)) as server, server_client(None) as client:
        for _ in range(3):
            await client.get(f"http://127.0.0.1:{server.port}/")
        assert not client.cookies
    assert all("cookie" not in heard.headers for heard in server.heard)


async def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(saying(JSON)) as server, server_client(None) as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 200


async def test_an_answer_may_take_as_long_as_the_caller_waits() -> None:
    async with serving(silent) as server, server_client(None) as client:
        assert client.timeout.as_dict() == {"connect": 10.0, "write": 30.0, "read": None, "pool": None}
        with anyio.CancelScope() as waited:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.give_up, waited)
                await client.get(f"http://127.0.0.1:{server.port}/")
        assert waited.cancelled_caught
        with anyio.fail_after(PATIENCE):
            await server.hung_up.wait()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_stream_that_is_left_is_closed_and_leaves_nothing_behind(anyio_backend: str) -> None:
    """Were a generator left to the garbage collector, trio would warn, and a warning is an error here."""
    endless = OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    async with serving(saying(endless)) as server, server_client(None) as client:
        async with client.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"x"
            await pieces.aclose()
        with anyio.fail_after(PATIENCE):
            await server.hung_up.wait()


async def test_a_stream_in_a_million_pieces_leaves_the_loop_to_others() -> None:
    pieces = 0
    seen = []

    async def watch() -> None:
        while True:
            seen.append(pieces)
            await anyio.lowlevel.checkpoint()

    async with (
        serving(repeating(CHUNKED, b"1\r\nx\r\n" * 10_000)) as server,
        server_client(None) as client,
        anyio.create_task_group() as tasks,
        client.stream("GET", f"http://127.0.0.1:{server.port}/") as response,
        aclosing(response.aiter_raw()) as body,
    ):
        tasks.start_soon(watch)
        async for _ in body:
            pieces += 1
            if pieces == 20_000:
                break
        tasks.cancel_scope.cancel()
    assert max(later - earlier for earlier, later in pairwise(seen)) <= PIECES_IN_A_ROW


async def test_a_connection_is_used_again() -> None:
    async with serving(saying(JSON)) as server, server_client(None) as client:
        for _ in range(3):
            assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 200
    assert server.connections == 1
    assert len(server.heard) == 3


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True}), ("asyncio", {}), ("trio", {})])
async def test_a_connection_that_is_given_up_in_its_handshake_is_closed(anyio_backend: object) -> None:
    """uvloop would keep it for ever."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    hung_up = anyio.Event()
    waited = anyio.CancelScope()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
                waited.cancel()
                while True:
                    await stream.receive()
        hung_up.set()

    async with listener, anyio.create_task_group() as tasks, server_client(None) as client:
        tasks.start_soon(listener.serve, serve)
        with waited:
            await client.get(f"https://127.0.0.1:{port}/")
        assert waited.cancelled_caught
        with anyio.fail_after(PATIENCE):
            await hung_up.wait()
        tasks.cancel_scope.cancel()


async def test_errors_are_those_of_httpx_and_say_nothing() -> None:
    async with server_client(None) as client:
        with pytest.raises(httpx2.ConnectError) as caught:
            await client.get("http://nothing.invalid/?k=s3cret")
        assert "s3cret" not in str(caught.value)
        with pytest.raises(httpx2.UnsupportedProtocol):
            await client.get("ftp://127.0.0.1/?k=s3cret")


async def test_the_libraries_print_no_url(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with serving(saying(JSON)) as server, server_client(None) as client:
            await client.get(f"http://127.0.0.1:{server.port}/?k=s3cret")
    assert "s3cret" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith(("httpx2", "httpcore2"))]


def test_they_are_silent_from_the_import_on() -> None:
    code = "import logging, moltis.http.clients; print(*[logging.getLogger(n).level for n in %r])"
    names = ("httpx2", "httpcore2", "authlib")
    done = subprocess.run([sys.executable, "-c", code % (names,)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(logging.WARNING)] * 3
