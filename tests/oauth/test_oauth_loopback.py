"""The redirect URI on 127.0.0.1: what it takes for a callback, and what everything else that connects gets."""

from __future__ import annotations

import errno
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from moltis.oauth import loopback
from moltis.oauth.loopback import MAX_CONNECTIONS, listen
from moltis.oauth.model import OAuthProblem
from moltis.oauth.pages import Page, success

CANARY = "c4n4ry"
"""Somewhere in every request, and never in an answer."""

BACKENDS: list[Any] = [
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


virtual_time = pytest.mark.parametrize(
    # Sockets are real: the clock jumps only when they have been silent for a moment.
    "anyio_backend",
    [pytest.param(("trio", {"clock": MockClock(autojump_threshold=0.05)}), id="virtual")],
)


class Listener:
    """A listener, and what came to it."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.redirect_uri = ""
        self.answering: Callable[[], Awaitable[None]] | None = None

    @property
    def port(self) -> int:
        return int(self.redirect_uri.rpartition(":")[2].partition("/")[0])

    async def on_callback(self, target: str) -> Page:
        self.targets.append(target)
        if self.answering is not None:
            await self.answering()
        return success("linear")

    async def connect(self) -> anyio.abc.SocketStream:
        return await anyio.connect_tcp("127.0.0.1", self.port)

    async def exchange(self, request: bytes) -> bytes:
        """Send a whole request and give all that comes back until the connection ends."""
        async with await self.connect() as stream:
            with anyio.move_on_after(1):  # it may be refused half-way
                try:
                    await stream.send(request)
                except anyio.BrokenResourceError:
                    pass
            return await read_all(stream)

    def callback(self, target: str = "/callback?code=1&state=2") -> bytes:
        return f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()


async def read_all(stream: anyio.abc.SocketStream) -> bytes:
    data = b""
    while True:
        try:
            data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return data


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    async with listen(0, listener.on_callback) as listener.redirect_uri:
        yield listener


def status(response: bytes) -> int:
    assert response.startswith(b"HTTP/1.1 "), response[:80]
    return int(response[9:12])


def head(response: bytes) -> dict[str, str]:
    lines = response.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


# What is a callback --------------------------------------------------------------------------------------------------


async def test_a_callback_is_handed_on_with_its_target_alone_and_answered_with_the_page() -> None:
    async with listening() as listener:
        response = await listener.exchange(listener.callback("/callback?code=a%20b&state=x"))
    assert listener.targets == ["/callback?code=a%20b&state=x"]
    assert status(response) == 200
    assert response.partition(b"\r\n\r\n")[2] == success("linear").html


async def test_every_answer_forbids_scripts_caches_and_referrers() -> None:
    async with listening() as listener:
        answers = [
            await listener.exchange(listener.callback()),
            await listener.exchange(listener.callback("/elsewhere")),
        ]
    for response in answers:
        fields = head(response)
        policy = [part.strip() for part in fields.pop("content-security-policy").split(";")]
        assert policy[:2] == ["default-src 'none'", "style-src 'unsafe-inline'"]
        assert int(fields.pop("content-length")) == len(response.partition(b"\r\n\r\n")[2])
        assert fields.pop("date").endswith(" GMT")
        assert fields == {
            "content-type": "text/html; charset=utf-8",
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "connection": "close",
        }


HOST = "Host: 127.0.0.1:PORT\r\n"
GOOD = f"/callback?code={CANARY}"


def get(target: str, fields: str = HOST, version: str = "HTTP/1.1") -> str:
    return f"GET {target} {version}\r\n{fields}X-Any: {CANARY}\r\n\r\n"


HOSTILE: list[tuple[str, str, int]] = [
    # methods
    ("post", f"POST {GOOD} HTTP/1.1\r\n{HOST}Content-Length: 6\r\n\r\n{CANARY}", 405),
    ("post that waits for a go-ahead", f"POST {GOOD} HTTP/1.1\r\n{HOST}Expect: 100-continue\r\n\r\n", 405),
    ("head", f"HEAD {GOOD} HTTP/1.1\r\n{HOST}\r\n", 405),
    ("options", f"OPTIONS {GOOD} HTTP/1.1\r\n{HOST}Origin: https://{CANARY}\r\n\r\n", 405),
    ("options for all", f"OPTIONS * HTTP/1.1\r\n{HOST}X-Any: {CANARY}\r\n\r\n", 405),
    ("trace", f"TRACE {GOOD} HTTP/1.1\r\n{HOST}\r\n", 405),
    ("put", f"PUT {GOOD} HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n", 405),
    ("delete", f"DELETE {GOOD} HTTP/1.1\r\n{HOST}\r\n", 405),
    ("connect", f"CONNECT {CANARY}:443 HTTP/1.1\r\n{HOST}\r\n", 405),
    ("lower case", f"get {GOOD} HTTP/1.1\r\n{HOST}\r\n", 405),
    ("no method of this world", f"{CANARY} {GOOD} HTTP/1.1\r\n{HOST}\r\n", 405),
    # paths
    ("root", get(f"/?{CANARY}"), 404),
    ("favicon", get("/favicon.ico"), 404),
    ("longer path", get(f"/callback/{CANARY}"), 404),
    ("slash at the end", get(f"/callback/?{CANARY}"), 404),
    ("upper case", get(f"/CALLBACK?{CANARY}"), 404),
    ("two slashes", get(f"//callback?{CANARY}"), 404),
    ("dot", get(f"/./callback?{CANARY}"), 404),
    ("up and down", get(f"/{CANARY}/../callback"), 404),
    ("percent letter", get(f"/%63allback?{CANARY}"), 404),
    ("percent question mark", get(f"/callback%3f{CANARY}"), 404),
    ("percent nul", get(f"/callback%00?{CANARY}"), 404),
    ("percent line break", get(f"/callback%0d%0aSet-Cookie:%20{CANARY}=1"), 404),
    ("path parameter", get(f"/callback;{CANARY}"), 404),
    ("fragment", get(f"/callback?code=1#{CANARY}"), 404),
    ("backslash", get(f"\\callback?{CANARY}"), 404),
    ("markup", get(f"/<script>{CANARY}</script>"), 404),
    ("absolute form", get("http://127.0.0.1:PORT/callback"), 404),
    ("absolute form of another", get(f"http://{CANARY}.example/callback"), 404),
    # hosts
    ("other host", get(GOOD, f"Host: {CANARY}.example\r\n"), 421),
    ("other host, this port", get(GOOD, f"Host: {CANARY}.example:PORT\r\n"), 421),
    ("localhost", get(GOOD, "Host: localhost:PORT\r\n"), 421),
    ("no port", get(GOOD, "Host: 127.0.0.1\r\n"), 421),
    ("other port", get(GOOD, "Host: 127.0.0.1:1\r\n"), 421),
    ("short address", get(GOOD, "Host: 127.1:PORT\r\n"), 421),
    ("address as a number", get(GOOD, "Host: 2130706433:PORT\r\n"), 421),
    ("dot at the end", get(GOOD, "Host: 127.0.0.1.:PORT\r\n"), 421),
    ("ipv6", get(GOOD, "Host: [::1]:PORT\r\n"), 421),
    ("userinfo", get(GOOD, f"Host: {CANARY}@127.0.0.1:PORT\r\n"), 421),
    ("list of hosts", get(GOOD, f"Host: 127.0.0.1:PORT, {CANARY}\r\n"), 421),
    ("empty host", get(GOOD, "Host:\r\n"), 421),
    ("forwarded host", get(GOOD, f"Host: {CANARY}\r\nX-Forwarded-Host: 127.0.0.1:PORT\r\n"), 421),
    ("no host", get(GOOD, ""), 400),
    ("two hosts", get(GOOD, HOST + f"Host: {CANARY}\r\n"), 400),
    ("twice the same host", get(GOOD, HOST + HOST), 400),
    ("http/1.0 without host", get(GOOD, "", "HTTP/1.0"), 421),
    # no http
    ("http/0.9", f"GET {GOOD}\r\n\r\n", 400),
    ("http/2", f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{CANARY}", 421),
    ("http/11", get(GOOD, version="HTTP/11"), 400),
    ("tls", f"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03{CANARY}", 400),
    ("line break first, then rubbish", f"\r\n{CANARY}\r\n\r\n", 400),
    ("nul in the target", get(f"/callback?{CANARY}\x00"), 400),
    ("space in the target", get(f"/callback?{CANARY} x"), 400),
    ("tab in the target", get(f"/callback?{CANARY}\tx"), 400),
    ("not ascii in the target", get(f"/callback?{CANARY}\xe9"), 400),
    ("field without a colon", get(GOOD, HOST + f"{CANARY}\r\n"), 400),
    ("space before the colon", get(GOOD, HOST + f"{CANARY} : x\r\n"), 400),
    ("nul in a field", get(GOOD, HOST + f"X: {CANARY}\x00\r\n"), 400),
    ("field continued on the next line, at the top", get(GOOD, f" {CANARY}\r\n" + HOST), 400),
    ("length that is no number", get(GOOD, HOST + f"Content-Length: {CANARY}\r\n"), 400),
    ("two lengths", get(GOOD, HOST + "Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
    # sizes
    ("long target", get(f"/callback?{CANARY}=" + "a" * 8192), 414),
    ("target of a megabyte", get(f"/callback?{CANARY}=" + "a" * 1_000_000), 431),
    ("field of a megabyte", get(GOOD, HOST + "X: " + "a" * 1_000_000 + "\r\n"), 431),
    ("ten thousand fields", get(GOOD, HOST + f"X: {CANARY}\r\n" * 10_000), 431),
    ("no end of line for a megabyte", CANARY * 170_000, 431),
]


@pytest.mark.parametrize(("request_text", "code"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
async def test_what_is_no_callback_gets_a_fixed_page_and_changes_nothing(request_text: str, code: int) -> None:
    async with listening() as listener:
        request = request_text.replace("PORT", str(listener.port)).encode("latin-1")
        response = await listener.exchange(request)
        assert status(response) == code
        assert CANARY.encode() not in response
        assert "access-control-allow-origin" not in head(response)
        assert ("allow" in head(response)) == (code == 405)
        assert response.count(b"HTTP/1.1 ") == 1
        body = response.partition(b"\r\n\r\n")[2]
        assert body.startswith(b"<!doctype html>") != request.startswith(b"HEAD ")
        assert listener.targets == []
        assert status(await listener.exchange(listener.callback())) == 200


HARMLESS: list[tuple[str, str]] = [
    ("http/1.0 with the right host", get(GOOD, version="HTTP/1.0")),
    ("no query", get("/callback").replace(GOOD, "/callback")),
    ("field names in capitals", get(GOOD, "HOST: 127.0.0.1:PORT\r\n")),
    ("lines that end in line feeds", get(GOOD).replace("\r\n", "\n")),
    ("a body", f"GET {GOOD} HTTP/1.1\r\n{HOST}Content-Length: 6\r\n\r\n{CANARY}"),
    ("an endless body", f"GET {GOOD} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nffffffff\r\n" + "a" * 100_000),
    ("an upgrade", get(GOOD, HOST + "Connection: Upgrade\r\nUpgrade: websocket\r\n")),
    ("the next request behind it", get(GOOD) + get(f"/callback?code=2&{CANARY}")),
    ("rubbish behind it", get(GOOD) + "\x00" * 500_000),
    ("16 KiB of cookies", get(GOOD, HOST + f"Cookie: {CANARY}=" + "a" * 16_384 + "\r\n")),
]


@pytest.mark.parametrize("request_text", [row[1] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
async def test_what_comes_with_a_callback_is_ignored_and_it_counts_once(request_text: str) -> None:
    async with listening() as listener:
        request = request_text.replace("PORT", str(listener.port)).encode("latin-1")
        response = await listener.exchange(request)
        assert status(response) == 200
        assert response.count(b"HTTP/1.1 ") == 1
        assert CANARY.encode() not in response
        assert listener.targets == ["/callback" if "GET /callback HTTP" in request_text else GOOD]


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
async def test_localhost_is_listened_at_whatever_the_browser_takes_it_for(family: str) -> None:
    listener = Listener()
    async with listen(0, listener.on_callback, "localhost") as uri:
        listener.redirect_uri = uri
        assert uri == f"http://localhost:{listener.port}/callback"
        request = listener.callback().replace(b"Host: 127.0.0.1", b"Host: localhost")
        try:
            stream = await anyio.connect_tcp(family, listener.port)
        except OSError:
            assert family == "::1"
            pytest.skip("this machine has no ::1")
        async with stream:
            await stream.send(request)
            assert status(await read_all(stream)) == 200
    assert len(listener.targets) == 1


async def test_localhost_is_no_name_of_a_listener_at_127_0_0_1() -> None:
    async with listening() as listener:
        request = listener.callback().replace(b"Host: 127.0.0.1", b"Host: localhost")
        assert status(await listener.exchange(request)) == 421
        assert listener.targets == []


async def test_a_browser_may_leave_out_port_80() -> None:
    """RFC 9110 section 7.2. Not every user may listen there, so this looks at what is accepted only."""
    assert loopback._Desk(8080, "127.0.0.1", Listener().on_callback)._hosts == {b"127.0.0.1:8080"}
    assert loopback._Desk(80, "127.0.0.1", Listener().on_callback)._hosts == {b"127.0.0.1:80", b"127.0.0.1"}
    names = loopback._Desk(80, "localhost", Listener().on_callback)._hosts
    assert names == {b"127.0.0.1:80", b"127.0.0.1", b"localhost:80", b"localhost"}


async def test_nobody_is_answered_who_leaves_at_once() -> None:
    async with listening() as listener:
        for part in (b"", b"GET /call", listener.callback()):
            async with await listener.connect() as stream:
                await stream.send(part) if part else None
        assert status(await listener.exchange(listener.callback("/callback?last"))) == 200
        assert listener.targets[-1] == "/callback?last"


async def test_a_reset_connection_upsets_nobody() -> None:
    async with listening() as listener:
        for part in (b"", b"GET /call", listener.callback(), listener.callback("/else")):
            with socket.create_connection(("127.0.0.1", listener.port)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                sock.sendall(part)
        assert status(await listener.exchange(listener.callback())) == 200


# How long, and how many ----------------------------------------------------------------------------------------------


@virtual_time
async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with listening() as listener:
        begun = anyio.current_time()
        async with await listener.connect() as stream:
            assert await read_all(stream) == b""
        assert anyio.current_time() - begun == pytest.approx(loopback.REQUEST_SECS, abs=0.5)


@virtual_time
async def test_a_request_that_comes_byte_by_byte_is_not_waited_for() -> None:
    async with listening() as listener, await listener.connect() as stream, anyio.create_task_group() as tasks:
        begun = anyio.current_time()

        async def trickle() -> None:
            for byte in listener.callback():
                try:
                    await stream.send(bytes([byte]))
                except anyio.BrokenResourceError:
                    return
                await anyio.sleep(0.5)

        tasks.start_soon(trickle)
        assert await read_all(stream) == b""
        assert anyio.current_time() - begun == pytest.approx(loopback.REQUEST_SECS, abs=0.5)
        tasks.cancel_scope.cancel()
    assert listener.targets == []


@virtual_time
async def test_an_answer_may_take_longer_than_a_request() -> None:
    async with listening() as listener:
        listener.answering = partial(anyio.sleep, 10 * loopback.REQUEST_SECS)
        assert status(await listener.exchange(listener.callback())) == 200


async def test_an_answer_is_not_lost_to_a_reset_because_of_what_is_unread() -> None:
    async with listening() as listener, await listener.connect() as stream:
        await stream.send(f"POST /callback HTTP/1.1\r\nHost: 127.0.0.1:{listener.port}\r\n\r\n".encode())
        await stream.send(b"a" * 100_000)
        await stream.send_eof()
        answer = b""
        async for part in stream:  # which would end in a BrokenResourceError
            answer += part
        assert status(answer) == 405


@virtual_time
async def test_who_has_its_answer_and_goes_on_sending_is_closed() -> None:
    async with listening() as listener, await listener.connect() as stream:
        await stream.send(listener.callback("/else"))

        async def go_on() -> None:
            for _ in range(round(loopback.ANSWER_SECS) + 2):
                await stream.send(b"x")
                await anyio.sleep(1)

        with pytest.raises(anyio.BrokenResourceError):
            await go_on()


async def test_who_has_its_answer_and_sends_more_and_more_is_closed() -> None:
    async with listening() as listener, await listener.connect() as stream:
        await stream.send(listener.callback("/else"))

        async def go_on() -> None:
            for _ in range(1000):
                await stream.send(b"x" * 65536)

        with anyio.fail_after(loopback.ANSWER_SECS / 2), pytest.raises(anyio.BrokenResourceError):
            await go_on()


async def test_idle_connections_never_keep_the_browser_out() -> None:
    async with listening() as listener:
        idle = [await listener.connect() for _ in range(50)]
        with anyio.fail_after(loopback.REQUEST_SECS / 2):
            assert status(await listener.exchange(listener.callback())) == 200
            ended = [await read_all(stream) for stream in idle[: -(MAX_CONNECTIONS - 1)]]
        assert ended == [b""] * (50 - MAX_CONNECTIONS + 1)
        for stream in idle:
            await stream.aclose()


async def test_a_callback_that_is_being_answered_never_gives_way() -> None:
    async with listening() as listener:
        going_on = anyio.Event()
        listener.answering = going_on.wait
        async with await listener.connect() as browser:
            await browser.send(listener.callback())
            crowd = [await listener.connect() for _ in range(20)]
            going_on.set()
            assert status(await read_all(browser)) == 200
        for stream in crowd:
            await stream.aclose()


async def test_more_callbacks_at_once_than_there_is_room_for_are_turned_away() -> None:
    async with listening() as listener:
        going_on = anyio.Event()
        listener.answering = going_on.wait
        streams = [await listener.connect() for _ in range(MAX_CONNECTIONS)]
        for stream in streams:
            await stream.send(listener.callback())
        while len(listener.targets) < MAX_CONNECTIONS:  # noqa: ASYNC110  # what is waited for is behind sockets
            await anyio.sleep(0.01)
        with anyio.fail_after(loopback.REQUEST_SECS / 2):
            async with await listener.connect() as late:
                assert await read_all(late) == b""
        going_on.set()
        assert [status(await read_all(stream)) for stream in streams] == [200] * MAX_CONNECTIONS
        for stream in streams:
            await stream.aclose()


async def test_it_goes_on_when_no_descriptor_was_left() -> None:
    async with listening() as listener:
        warm = await listener.connect()  # what connecting needs is there from now on
        client = socket.socket()
        client.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        taken: list[int] = []

        def take_all() -> None:
            while True:
                taken.append(os.dup(client.fileno()))

        try:
            with pytest.raises(OSError) as full:
                take_all()
            assert full.value.errno == errno.EMFILE
            assert client.connect_ex(("127.0.0.1", listener.port)) in (0, errno.EINPROGRESS)
            await anyio.sleep(3 * loopback.ACCEPT_PAUSE_SECS)
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        stream = await anyio.abc.SocketStream.from_socket(client)
        await stream.send(listener.callback())
        assert status(await read_all(stream)) == 200
        await stream.aclose()
        await warm.aclose()


# From the beginning to the end ---------------------------------------------------------------------------------------


async def test_the_redirect_uri_is_on_127_0_0_1_and_on_no_other_address() -> None:
    async with listening() as listener:
        assert listener.redirect_uri == f"http://127.0.0.1:{listener.port}/callback"
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.2", listener.port)


async def test_logins_at_the_same_time_have_a_port_each() -> None:
    async with listening() as one, listening() as other:
        await one.exchange(one.callback("/callback?one"))
        await other.exchange(other.callback("/callback?other"))
        crossed = await one.exchange(other.callback())
    assert (one.targets, other.targets) == (["/callback?one"], ["/callback?other"])
    assert status(crossed) == 421


async def test_a_port_that_is_taken_is_said_with_the_key_that_names_it() -> None:
    async with listening() as listener:
        with pytest.raises(OAuthProblem, match="callback_port") as problem:
            async with listen(listener.port, listener.on_callback):
                pass
    assert problem.value.kind == "refused"
    assert str(listener.port) in problem.value.message


async def test_a_port_of_ones_own_can_be_used_again_at_once() -> None:
    async with listening() as listener:
        port = listener.port
        assert status(await listener.exchange(listener.callback())) == 200
    for _ in range(3):
        async with listen(port, listener.on_callback) as listener.redirect_uri:
            assert listener.port == port
            assert status(await listener.exchange(listener.callback())) == 200


async def test_the_page_is_delivered_though_the_login_is_over_by_then() -> None:
    """What ends the block is the callback itself, before its page has been sent."""
    listener, done, pages = Listener(), anyio.Event(), []

    async def complete() -> None:
        done.set()
        await anyio.sleep(0.01)

    listener.answering = complete

    async def browse() -> None:
        pages.append(await listener.exchange(listener.callback()))

    async with anyio.create_task_group() as tasks, listen(0, listener.on_callback) as listener.redirect_uri:
        tasks.start_soon(browse)
        await done.wait()
    assert [status(page) for page in pages] == [200]


@virtual_time
async def test_a_browser_that_has_its_page_and_keeps_the_connection_holds_up_nothing() -> None:
    async with listening() as listener:
        browser = await listener.connect()
        await browser.send(listener.callback())
        assert status(await browser.receive()) == 200
        begun = anyio.current_time()
    assert anyio.current_time() == begun
    await browser.aclose()


@pytest.fixture
def set_aside() -> Iterator[None]:
    """What is there before is not looked through by `gc.collect`: all tests and modules, a quarter of a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("set_aside")
@pytest.mark.parametrize("steps", range(8))
async def test_a_connection_that_was_only_just_accepted_is_closed_too(steps: int) -> None:
    """However far it got. Python warns of a socket that nobody has closed, which fails this test."""
    async with listening() as listener:
        with socket.create_connection(("127.0.0.1", listener.port)):
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
    gc.collect()


async def test_nothing_listens_and_nothing_is_open_when_the_login_is_over() -> None:
    async with listening() as listener:
        stream = await listener.connect()
        half = await listener.connect()
        await half.send(b"GET /callback")
    for left in (stream, half):
        assert await read_all(left) == b""
        await left.aclose()
    with pytest.raises(OSError):
        await listener.connect()


@virtual_time
async def test_an_answer_that_never_comes_holds_up_the_end_for_a_bounded_time() -> None:
    listener = Listener()
    listener.answering = anyio.sleep_forever
    async with listen(0, listener.on_callback) as listener.redirect_uri:
        stream = await listener.connect()
        await stream.send(listener.callback())
        while not listener.targets:  # noqa: ASYNC110  # what is waited for is behind a socket
            await anyio.sleep(0.01)
        begun = anyio.current_time()
    assert anyio.current_time() - begun == pytest.approx(loopback.LAST_PAGE_SECS, abs=0.5)
    await stream.aclose()


async def test_what_the_login_fails_with_comes_out_as_it_is() -> None:
    with pytest.raises(OAuthProblem, match=r"^too late$"):
        async with listening():
            raise OAuthProblem("too late", kind="expired")


async def test_a_cancelled_login_ends_at_once_with_everything_it_had_open() -> None:
    listener = Listener()
    listener.answering = anyio.sleep_forever
    with anyio.CancelScope() as login:
        async with listen(0, listener.on_callback) as listener.redirect_uri:
            streams = [await listener.connect() for _ in range(3)]
            await streams[0].send(listener.callback())
            while not listener.targets:  # noqa: ASYNC110  # what is waited for is behind a socket
                await anyio.sleep(0.01)
            login.cancel()
            await anyio.sleep_forever()
    assert login.cancelled_caught
    for stream in streams:
        assert await read_all(stream) == b""
        await stream.aclose()
