"""What is told before a request is sent: exactly then, or never."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.streams.tls
import httpcore2
import pytest
from made_certificates import Authority
from patience import PATIENCE
from ports import free_port
from scripted_http import JSON, blurting, ending, saying, serving, silent

from moltis.http.addresses import Scope
from moltis.http.dialing import Resolve
from moltis.http.fetch import Fetcher, FetchProblem

HERE = frozenset({Scope.LOOPBACK})


class Told:
    """Counts how often it was told; does what it is given besides."""

    def __init__(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        self.times = 0
        self.then = then

    async def __call__(self) -> None:
        self.times += 1
        if self.then is not None:
            await self.then()


async def here(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def fetcher(ca_file: str | None = None, *, resolve: Resolve = here, total_secs: float = PATIENCE) -> Fetcher:
    return Fetcher(ca_file, HERE, resolve=resolve, total_secs=total_secs)


@pytest.mark.parametrize("secure", [False, True])
async def test_it_is_told_once_when_the_connection_is_there_and_nothing_was_sent(
    secure: bool, authority: Authority, ca_file: str
) -> None:
    async def then() -> None:
        assert server.heard == []

    told = Told(then)
    async with serving(saying(JSON), authority.server("as.example") if secure else None) as server:
        url = f"https://as.example:{server.port}/" if secure else f"http://localhost:{server.port}/"
        answer = await fetcher(ca_file).post(url, b"a body", "text/plain", sending=told)
    assert answer.status == 200
    assert [heard.body for heard in server.heard] == [b"a body"]
    assert told.times == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        TimeoutError(),
        httpcore2.WriteError(),
        httpcore2.ConnectError(),
        FetchProblem("x"),
        KeyError("x"),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
async def test_if_it_raises_nothing_is_sent_and_that_comes_out(
    secure: bool, error: Exception, authority: Authority, ca_file: str
) -> None:
    received = []
    over = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                received.append(await stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            over.set()

    async def then() -> None:
        raise error from cause

    cause = ValueError()
    told = Told(then)
    listener: anyio.abc.Listener[anyio.abc.ByteStream] = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if secure:
        listener = anyio.streams.tls.TLSListener(listener, authority.server("as.example"), standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        url = f"https://as.example:{port}/" if secure else f"http://localhost:{port}/"
        with pytest.raises(type(error)) as caught:
            await fetcher(ca_file).post(url, b"s3cret", "text/plain", sending=told)
        assert caught.value is error
        assert caught.value.__cause__ is cause
        with anyio.fail_after(PATIENCE):
            await over.wait()
        tasks.cancel_scope.cancel()
    assert received == []
    assert told.times == 1


async def not_told(fetch: Fetcher, url: str, headers: dict[str, str] | None = None) -> None:
    told = Told()
    with pytest.raises(FetchProblem):
        await fetch.post(url, b"s3cret", "text/plain", headers or {}, sending=told)
    assert told.times == 0


async def test_it_is_not_told_without_a_connection(authority: Authority, ca_file: str, elsewhere: Authority) -> None:
    async def nameless(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def forbidden(host: str, port: int) -> Sequence[str]:
        return ["169.254.169.254"]

    url = f"https://as.example:{free_port()}/"
    await not_told(fetcher(resolve=nameless), url)
    await not_told(fetcher(resolve=forbidden), url)
    await not_told(fetcher(), url)
    await not_told(fetcher("no such file"), url)
    await not_told(fetcher(), "http://as.example/")
    await not_told(fetcher(), "no url")
    closed = fetcher()
    await closed.aclose()
    await not_told(closed, url)
    async with serving(saying(JSON), authority.server("other.example")) as server:
        await not_told(fetcher(ca_file), f"https://as.example:{server.port}/")
    async with serving(saying(JSON), elsewhere.server("as.example")) as server:
        await not_told(fetcher(ca_file), f"https://as.example:{server.port}/")
    async with blurting(b"HTTP/1.1 400 No\r\n\r\n") as server:
        await not_told(fetcher(ca_file), f"https://as.example:{server.port}/")


async def test_it_is_not_told_of_a_request_that_cannot_be_sent() -> None:
    async with serving(saying(JSON)) as server:
        await not_told(fetcher(), f"http://localhost:{server.port}/", {"X-Bad": "a\r\nb"})
    assert server.heard == []


async def test_it_is_not_told_when_it_is_given_up_before() -> None:
    async def hanging(host: str, port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        raise AssertionError

    async def cancelling(host: str, port: int) -> Sequence[str]:
        waited.cancel()
        return ["127.0.0.1"]

    await not_told(fetcher(resolve=hanging, total_secs=0.1), "https://as.example/")
    async with serving(silent) as server:
        url = f"https://localhost:{server.port}/"
        await not_told(fetcher(total_secs=0.1), url)
        for resolve in (hanging, cancelling, here):
            told = Told()
            with anyio.move_on_after(0.1) as waited:
                await fetcher(resolve=resolve).post(url, b"s3cret", "text/plain", sending=told)
            assert waited.cancelled_caught
            assert told.times == 0
    assert server.heard == []


async def test_it_is_told_once_whatever_the_answer() -> None:
    for answer in (b"HTTP/1.1 307 No\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", b"", b"nonsense\r\n\r\n"):
        told = Told()
        async with serving(ending(answer)) as server:
            with pytest.raises(FetchProblem):
                await fetcher().post(f"http://localhost:{server.port}/", b"x", "text/plain", sending=told)
        assert told.times == len(server.heard) == 1


async def test_it_is_part_of_the_total() -> None:
    told = Told(anyio.sleep_forever)
    async with serving(saying(JSON)) as server:
        url = f"http://localhost:{server.port}/"
        with pytest.raises(FetchProblem, match=r"within 0\.1 s") as caught:
            await fetcher(total_secs=0.1).post(url, b"x", "text/plain", sending=told)
    assert caught.value.kind == "outage"
    assert server.heard == []
