"""Whatever the other side is and does, a fetch ends, in bounds, with an answer or with one kind of problem."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from bombs import gzip_bomb
from made_certificates import DAY, Authority
from patience import PATIENCE
from ports import free_port
from scripted_http import (
    CHUNKED,
    JSON,
    OK,
    Heard,
    Script,
    Server,
    blurting,
    canary,
    ending,
    repeating,
    saying,
    serving,
    silent,
    within_memory,
)

from moltis import __version__
from moltis.http import pinned
from moltis.http.addresses import Scope, neighbours, scope
from moltis.http.fetch import Answer, Fetcher, FetchProblem

SECRET = "s3cret"
HERE = neighbours({Scope.LOOPBACK})
INTERNET = neighbours({Scope.PUBLIC})
ONLY_HERE = frozenset({Scope.LOOPBACK})
"""Where a test could otherwise connect to a network that is really there."""

NAMES: dict[str, list[str]] = {
    "as.example": ["127.0.0.1"],
    "other.example": ["127.0.0.1"],
    "private.example": ["10.1.2.3"],
    "metadata.example": ["169.254.169.254"],
    "mixed.example": ["1.1.1.1", "127.0.0.2"],
    "localhost": ["127.0.0.1"],
    "app.localhost": ["127.0.0.1"],
    "127.0.0.1": ["127.0.0.1"],
    "public.example": ["1.1.1.1"],
    "strange.localhost": ["1.1.1.1"],
}


async def stub(host: str, port: int) -> Sequence[str]:
    if host not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return NAMES[host]


def fetcher(
    allowed: frozenset[Scope] = HERE,
    *,
    ca_file: str | None = None,
    total_secs: float = PATIENCE,
    max_bytes: int = 1 << 20,
) -> Fetcher:
    return Fetcher(ca_file, allowed, total_secs=total_secs, max_bytes=max_bytes, resolve=stub)


async def problem_of(fetch: Fetcher, url: str, kind: str, body: bytes | None = None) -> str:
    """The message of a problem that must come, of that kind, and that shows nothing of the URL but its host."""
    with pytest.raises(FetchProblem) as caught:
        await (fetch.get(url) if body is None else fetch.post(url, body, "text/plain"))
    problem = caught.value
    assert problem.kind == kind, problem.message
    assert str(problem) == problem.message
    assert SECRET not in problem.message
    assert problem.__cause__ is None
    assert problem.message.isprintable()
    return problem.message


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


async def test_an_outage_of_threads_is_one_of_the_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for body in (None, b"grant_type=refresh_token"):
        message = await problem_of(fetcher(), f"https://as.example/{SECRET}", "outage", body)
        assert message.startswith("no thread can be started")


# What is asked, and what comes ----------------------------------------------------------------------------------------


async def test_a_document_is_fetched_by_name_from_the_address_that_was_judged(
    authority: Authority, ca_file: str
) -> None:
    async with serving(saying(JSON), authority.server("as.example")) as server:
        url = f"https://as.example:{server.port}/.well-known/x?a=b#part"
        answer = await fetcher(ca_file=ca_file).get(url, {"MCP-Protocol-Version": "2026-07-28"})
    assert answer == Answer(
        200, {"content-type": "application/json", "content-length": "11"}, b'{"ok":true}', url.removesuffix("#part")
    )
    (heard,) = server.heard
    assert heard.line == "GET /.well-known/x?a=b HTTP/1.1"
    assert heard.sni == "as.example"
    assert heard.body == b""
    assert heard.headers == {
        "host": f"as.example:{server.port}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "connection": "close",
        "mcp-protocol-version": "2026-07-28",
        "user-agent": f"moltis/{__version__}",
    }


async def test_a_form_is_posted() -> None:
    async with serving(saying(JSON)) as server:
        answer = await fetcher().post(
            f"http://localhost:{server.port}/token",
            b"grant_type=x&code=y",
            "application/x-www-form-urlencoded",
            {"Authorization": "Basic eDp5", "accept": "application/json;q=1", "host": "evil.example"},
        )
    assert answer.status == 200
    (heard,) = server.heard
    assert heard.line == "POST /token HTTP/1.1"
    assert heard.body == b"grant_type=x&code=y"
    assert heard.headers == {
        "host": f"localhost:{server.port}",
        "accept": "application/json;q=1",
        "accept-encoding": "identity",
        "authorization": "Basic eDp5",
        "connection": "close",
        "content-length": "19",
        "content-type": "application/x-www-form-urlencoded",
        "user-agent": f"moltis/{__version__}",
    }


@pytest.mark.parametrize("status", [201, 204, 300, 304, 400, 401, 404, 429, 500, 503, 599])
async def test_any_status_is_an_answer(status: int) -> None:
    head = b"HTTP/1.1 %d X\r\nRetry-After: 7\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n" % status
    async with serving(saying(head)) as server:
        answer = await fetcher().get(f"http://localhost:{server.port}/")
    assert answer.status == status
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-a"] == "1, 2"


def test_an_answer_does_not_show_its_body() -> None:
    assert repr(Answer(200, {"a": SECRET}, SECRET.encode(), SECRET)) == "Answer(200, 6 bytes)"


async def test_each_exchange_has_a_connection_of_its_own() -> None:
    """One that is closed while it idles would leave open whether a token request was acted upon."""
    async with serving(saying(JSON)) as server:
        fetch = fetcher()
        for _ in range(3):
            await fetch.get(f"http://localhost:{server.port}/")
    assert server.connections == 3


async def test_many_fetches_at_once() -> None:
    async with serving(saying(JSON)) as server, anyio.create_task_group() as tasks:
        fetch = fetcher()
        for n in range(30):
            tasks.start_soon(fetch.get, f"http://localhost:{server.port}/{n}")
    assert {heard.line for heard in server.heard} == {f"GET /{n} HTTP/1.1" for n in range(30)}


@pytest.mark.parametrize("name", ["Authorization", "cookie", "PROXY-AUTHORIZATION"])
async def test_a_document_is_never_fetched_with_credentials(name: str) -> None:
    with pytest.raises(ValueError, match="without credentials"):
        await fetcher().get("https://as.example/", {name: SECRET})


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\r\nY": "b"}, {"X": "a\0b"}])
async def test_a_header_cannot_break_out_of_its_line(headers: Mapping[str, str]) -> None:
    async with serving(saying(JSON)) as server:
        with pytest.raises(FetchProblem) as caught:
            await fetcher().get(f"http://localhost:{server.port}/", headers)
    assert caught.value.kind == "refused"
    assert server.heard == []


# Where ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ftp://as.example/s3cret",
        "file:///etc/s3cret",
        "javascript:s3cret",
        "s3cret",
        "",
        "http://as.example/s3cret",
        "http://1.1.1.1/s3cret",
        "http://localhost.example/s3cret",
        "http://127.1/s3cret",
        "https://user:s3cret@as.example/",
        "https://s3cret@localhost/",
        "https://as.example\\@s3cret/",
        "https://as.example/\r\ns3cret",
        "https://as.example:0/s3cret",
        "https://münchen.example/s3cret",
    ],
)
async def test_a_url_that_is_not_safe_is_not_even_resolved(url: str) -> None:
    asked = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    fetch = Fetcher(None, HERE, resolve=resolve)
    await problem_of(fetch, url, "refused")
    await problem_of(fetch, url, "refused", b"s3cret")
    assert asked == []


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        (INTERNET, "as.example"),
        (INTERNET, "localhost"),
        (INTERNET, "127.0.0.1"),
        (INTERNET, "private.example"),
        (INTERNET, "metadata.example"),
        (INTERNET, "mixed.example"),
        (HERE, "metadata.example"),
        (neighbours({Scope.PRIVATE}), "as.example"),
    ],
)
async def test_nothing_is_fetched_from_where_this_server_must_not_lead(allowed: frozenset[Scope], host: str) -> None:
    with canary() as (port, touched):
        for scheme in ("https", "http"):
            await problem_of(fetcher(allowed), f"{scheme}://{host}:{port}/s3cret", "refused")
            await problem_of(fetcher(allowed), f"{scheme}://{host}:{port}/s3cret", "refused", b"s3cret")
        assert not touched()


async def test_plain_http_reaches_this_machine_whatever_the_name_resolves_to() -> None:
    message = await problem_of(fetcher(), "http://strange.localhost:1/s3cret", "refused")
    assert message.startswith("strange.localhost is on the Internet")


async def test_a_url_of_the_configuration_may_be_anywhere_that_is_safe(authority: Authority, ca_file: str) -> None:
    async with serving(saying(JSON), authority.server("as.example")) as server:
        url = f"https://as.example:{server.port}/token"
        await problem_of(fetcher(INTERNET, ca_file=ca_file), url, "refused", b"x")
        answer = await fetcher(INTERNET, ca_file=ca_file).post(url, b"x", "text/plain", trusted=True)
        assert answer.status == 200
        with pytest.raises(FetchProblem, match="plain http"):
            await fetcher().post("http://as.example/token", b"x", "text/plain", trusted=True)
    assert len(server.heard) == 1


async def test_what_is_allowed_is_asked_each_time() -> None:
    fetch = Fetcher(None, INTERNET, resolve=stub)
    async with serving(saying(JSON)) as server:
        url = f"http://localhost:{server.port}/"
        await problem_of(fetch, url, "refused")
        fetch.allowed = HERE
        assert (await fetch.get(url)).status == 200


@pytest.mark.parametrize(
    ("url", "scopes"),
    [
        ("https://public.example/mcp", {Scope.PUBLIC}),
        ("https://private.example/", {Scope.PRIVATE}),
        ("https://metadata.example/", {Scope.FORBIDDEN}),
        ("http://localhost:3000/mcp", {Scope.LOOPBACK}),
        ("http://127.0.0.1/", {Scope.LOOPBACK}),
        ("https://as.example/", {Scope.FORBIDDEN}),
        ("https://mixed.example/", {Scope.PUBLIC, Scope.FORBIDDEN}),
    ],
)
async def test_a_server_is_where_its_addresses_are_and_here_only_by_name(url: str, scopes: set[Scope]) -> None:
    assert await fetcher().scopes_of(url) == scopes


async def test_the_scopes_of_nothing_are_a_problem() -> None:
    with pytest.raises(FetchProblem, match="its name cannot be resolved") as caught:
        await fetcher().scopes_of("https://nothing.example/s3cret")
    assert caught.value.kind == "outage"
    with pytest.raises(FetchProblem, match="not an http or https URL"):
        await fetcher().scopes_of("s3cret")


# Redirects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_three_redirects_are_followed(status: int) -> None:
    chain = saying(redirect("/2", status), redirect("3?x", status), redirect("/4", status), JSON)
    async with serving(chain) as server:
        answer = await fetcher().get(f"http://localhost:{server.port}/1")
    assert answer.status == 200
    assert answer.url == f"http://localhost:{server.port}/4"
    assert [heard.line.split()[1] for heard in server.heard] == ["/1", "/2", "/3?x", "/4"]


async def test_a_redirect_that_never_ends_is_refused() -> None:
    async with serving(saying(redirect("/s3cret"))) as server:
        message = await problem_of(fetcher(), f"http://localhost:{server.port}/s3cret", "refused")
    assert message == f"localhost:{server.port} redirects more than 3 times"
    assert len(server.heard) == 4


@pytest.mark.parametrize(
    "location",
    [
        "https://private.example:{port}/s3cret",
        "https://metadata.example/latest/meta-data/s3cret",
        "http://public.example/s3cret",
        "https://user:s3cret@localhost:{port}/",
        "ftp://localhost/s3cret",
        "file:///etc/s3cret",
        "http://localhost:{port}\\s3cret",
        "http://[::1/s3cret",
        "//private.example:{port}/s3cret",
        "https://\xfc.example/s3cret",
    ],
)
async def test_a_redirect_is_judged_like_the_first_url(location: str) -> None:
    with canary() as (port, touched):
        async with serving(saying(redirect(location.format(port=port)))) as server:
            await problem_of(fetcher(ONLY_HERE), f"http://localhost:{server.port}/s3cret", "refused")
        assert len(server.heard) == 1
        assert not touched()


async def test_a_public_server_cannot_redirect_into_this_machine(
    authority: Authority, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack is made to believe that one address of this machine is on the Internet."""
    monkeypatch.setattr(pinned, "scope", lambda ip: Scope.PUBLIC if ip == "127.0.0.1" else scope(ip))
    monkeypatch.setitem(NAMES, "inside.example", ["127.0.0.2"])
    with canary() as (port, touched):
        for target in (
            f"https://inside.example:{port}/",
            f"http://127.0.0.2:{port}/",
            f"https://mixed.example:{port}/",
        ):
            async with serving(saying(redirect(target)), authority.server("as.example")) as server:
                fetch = fetcher(INTERNET, ca_file=ca_file)
                await problem_of(fetch, f"https://as.example:{server.port}/s3cret", "refused")
            assert len(server.heard) == 1
        assert not touched()


async def test_https_is_not_left_for_http(authority: Authority, ca_file: str) -> None:
    async with serving(saying(JSON)) as plain:
        target = f"http://localhost:{plain.port}/s3cret"
        async with serving(saying(redirect(target)), authority.server("localhost")) as server:
            message = await problem_of(fetcher(ca_file=ca_file), f"https://localhost:{server.port}/", "refused")
    assert message.endswith("which is not https")
    assert plain.connections == 0


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_post_is_never_redirected(status: int) -> None:
    async with serving(saying(JSON)) as other:
        target = f"http://localhost:{other.port}/s3cret"
        async with serving(saying(redirect(target, status))) as server:
            url = f"http://localhost:{server.port}/token"
            with pytest.raises(FetchProblem) as caught:
                await fetcher().post(url, b"s3cret", "text/plain", trusted=True)
            await problem_of(fetcher(), url, "refused", b"s3cret")
    assert caught.value.status == status
    assert other.connections == 0


# How long -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        silent,
        repeating(b"", b"H", 0.02),
        repeating(OK, b"X-A: b\r\n", 0.02),
        repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        repeating(CHUNKED, b"1\r\nx\r\n", 0.02),
        repeating(OK + b"Content-Length: 1000\r\n\r\n", b"x", 0.02),
    ],
    ids=["silent", "status line", "headers", "informational", "chunks", "body"],
)
@pytest.mark.parametrize("method", ["get", "post"])
async def test_a_slow_answer_ends_with_the_total_deadline(script: Script, method: str) -> None:
    async with serving(script) as server:
        url = f"http://localhost:{server.port}/s3cret"
        with anyio.fail_after(PATIENCE):
            message = await problem_of(fetcher(total_secs=0.6), url, "outage", None if method == "get" else b"s3cret")
            await server.hung_up.wait()
    assert message == f"no answer from localhost:{server.port} within 0.6 s"


async def test_the_deadline_is_for_all_redirects_together() -> None:
    async def slow(stream: anyio.abc.ByteStream, heard: Heard) -> None:
        await anyio.sleep(0.15)
        await stream.send(redirect("/"))

    async with serving(slow) as server:
        message = await problem_of(fetcher(total_secs=0.3), f"http://localhost:{server.port}/", "outage")
    assert message == f"no answer from localhost:{server.port} within 0.3 s"
    assert len(server.heard) < 4


async def test_a_handshake_that_is_never_answered_ends_and_is_hung_up() -> None:
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
        hung_up = anyio.Event()

        async def serve(stream: anyio.abc.ByteStream) -> None:
            async with stream:
                await stream.receive()
                try:
                    await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    hung_up.set()

        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await problem_of(fetcher(total_secs=1.0), f"https://localhost:{port}/s3cret", "outage")
        with anyio.fail_after(PATIENCE):
            await hung_up.wait()
        tasks.cancel_scope.cancel()


async def test_a_resolver_that_never_answers_ends_with_the_deadline() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        raise AssertionError

    fetch = Fetcher(None, HERE, total_secs=0.1, resolve=resolve)
    await problem_of(fetch, "https://as.example/s3cret", "outage")
    with pytest.raises(FetchProblem):
        await fetch.scopes_of("https://as.example/s3cret")


async def test_closing_gives_up_what_is_under_way() -> None:
    async with serving(silent) as server:
        fetch = fetcher()
        messages = []

        async def get() -> None:
            messages.append(await problem_of(fetch, f"http://localhost:{server.port}/s3cret", "outage"))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(get)
                tasks.start_soon(get)
                while len(server.heard) < 2:
                    await anyio.lowlevel.checkpoint()
                await fetch.aclose()
        assert messages == ["nothing is fetched any more"] * 2
        await problem_of(fetch, f"http://localhost:{server.port}/s3cret", "outage")
        assert len(server.heard) == 2


async def test_being_cancelled_is_no_problem_of_the_other_side() -> None:
    async with serving(silent) as server:
        with anyio.CancelScope() as waited:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.give_up, waited)
                await fetcher().get(f"http://localhost:{server.port}/")
        assert waited.cancelled_caught
        with anyio.fail_after(PATIENCE):
            await server.hung_up.wait()


# How much -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        repeating(CHUNKED, b"8000\r\n" + b"x" * 0x8000 + b"\r\n"),
        repeating(CHUNKED, b"1\r\nx\r\n" * 10_000),
        repeating(OK + b"\r\n", b"x" * 65536),
        repeating(OK + b"Content-Length: 99999999999\r\n\r\n", b"x" * 65536),
        repeating(OK + b"Content-Length: 20001\r\n\r\n", b"", 0.01),
        ending(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip_bomb(100)),
    ],
    ids=["chunks", "tiny chunks", "no length", "absurd length", "length", "gzip bomb"],
)
async def test_a_body_that_is_too_much_is_refused_within_little_memory(script: Script) -> None:
    with within_memory(1_000_000):
        async with serving(script) as server:
            message = await problem_of(fetcher(max_bytes=20_000), f"http://localhost:{server.port}/s3cret", "refused")
    assert "longer than 20000 bytes" in message or "compressed" in message


# What breaks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "the connection broke off before the answer"),
        (OK + b"Content-Length: 10\r\n\r\n{", "the connection broke off in the middle of the answer"),
        (CHUNKED + b"5\r\nab", "the connection broke off in the middle of the answer"),
        (CHUNKED + b"zz\r\n", "what it answers is not HTTP"),
        (b"SSH-2.0-s3cret\r\n\r\n", "what it answers is not HTTP"),
        (OK + b"s3cret\x00: x\r\n\r\n", "what it answers is not HTTP"),
        (OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n", "what it answers is not HTTP"),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "what it answers is not HTTP"),
        (OK + b"Content-Length: x\r\n\r\n", "what it answers is not HTTP"),
        (b"\x00\xff" * 100 + b"\r\n\r\n", "what it answers is not HTTP"),
    ],
)
async def test_what_breaks_off_or_is_not_http_is_an_outage(answer: bytes, words: str) -> None:
    async with serving(ending(answer)) as server:
        for body in (None, b"s3cret"):
            message = await problem_of(fetcher(), f"http://localhost:{server.port}/s3cret", "outage", body)
            assert message == f"no usable answer from localhost:{server.port}: {words}"


async def test_nobody_there_is_an_outage() -> None:
    port = free_port()
    message = await problem_of(fetcher(), f"http://localhost:{port}/s3cret", "outage")
    assert message == f"no usable answer from localhost:{port}: connection refused"


async def test_a_certificate_that_cannot_be_believed_gets_no_request(
    authority: Authority, ca_file: str, elsewhere: Authority
) -> None:
    """And is an outage: a hotel's network shows one for every host, until one has paid."""
    bad = {
        "its certificate has expired": authority.server("as.example", starts=-2 * DAY, ends=-DAY),
        "its certificate is not for this host": authority.server("other.example"),
        "its certificate is signed by nobody": authority.server("as.example", self_signed=True),
        "its certificate is signed by nobody ": elsewhere.server("as.example"),
    }
    for words, context in bad.items():
        async with serving(saying(JSON), context) as server:
            url = f"https://as.example:{server.port}/s3cret"
            for body in (None, b"s3cret"):
                assert words in await problem_of(fetcher(ca_file=ca_file), url, "outage", body)
        assert server.heard == []


async def test_a_port_that_does_not_speak_tls_gets_no_request() -> None:
    async with blurting(b"HTTP/1.1 400 s3cret\r\n\r\n") as server:
        message = await problem_of(fetcher(), f"https://localhost:{server.port}/", "outage", b"s3cret")
    assert "does not speak TLS" in message


async def test_a_ca_file_that_is_missing_is_named(tmp_path: Path) -> None:
    message = await problem_of(fetcher(ca_file=f"{tmp_path}/none.pem"), "https://as.example/s3cret", "refused")
    assert message == f"ca_file '{tmp_path}/none.pem' cannot be read: No such file or directory"


async def test_nothing_is_left_open_after_a_failure() -> None:
    server: Server
    for script in (ending(b"SSH-2.0\r\n\r\n"), repeating(CHUNKED, b"8000\r\n" + b"x" * 0x8000 + b"\r\n")):
        async with serving(script) as server:
            with pytest.raises(FetchProblem):
                await fetcher(max_bytes=1000).get(f"http://localhost:{server.port}/")
            with anyio.fail_after(PATIENCE):
                await server.hung_up.wait()
