"""Requests through a proxy: what it is asked, what it and the server get to see, and what is said when it does not."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import anyio
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_certificates import Authority
from patience import PATIENCE
from ports import free_port
from scripted_http import JSON, ending, saying, serving, silent
from stand_in_proxy import stand_in_proxy

from moltis.http import clients, fetch
from moltis.http.addresses import Scope, neighbours, scope
from moltis.http.clients import server_client
from moltis.http.fetch import Answer, Fetcher, FetchProblem
from moltis.http.words import network_words
from moltis.proxies import Proxies, setting

INTERNET = neighbours({Scope.PUBLIC})
USER = "me:s3cr3t"


def own(url: str) -> Proxies:
    proxies = setting(url, {}, own=True)
    assert proxies is not None
    return proxies


def client(proxy: str, url: str, ca_file: str | None = None) -> httpx2.AsyncClient:
    way = own(proxy).way_to(url)
    assert way is not None
    return server_client(ca_file, (("X-Key", "k"),), way)


async def words_of(proxy: str, url: str, ca_file: str | None = None) -> str:
    """What is said of a request that must fail before it gets to the server."""
    async with client(proxy, url, ca_file) as http:
        with pytest.raises(httpx2.ConnectError) as caught:
            await http.post(url, content=b"{}")
    return network_words(caught.value)


async def unknown(host: str, port: int) -> Sequence[str]:
    """The resolver of a machine that reaches nothing but its proxy."""
    if scope(host) is Scope.FORBIDDEN and not host.startswith("169."):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return [host]


def fetcher(
    proxies: Proxies, ca_file: str | None, allowed: frozenset[Scope] = INTERNET, total_secs: float = PATIENCE
) -> Fetcher:
    return Fetcher(ca_file, allowed, proxies=proxies, resolve=unknown, total_secs=total_secs)


# Servers -------------------------------------------------------------------------------------------------------------


async def test_https_goes_through_a_connection_that_the_proxy_makes(authority: Authority, ca_file: str) -> None:
    async with serving(saying(JSON), authority.server("mcp.example")) as server:
        with stand_in_proxy(names={"mcp.example": server.port}, login=USER) as proxy:
            url = "https://mcp.example/mcp?a=b"
            async with client(proxy.url_with(USER), url, ca_file) as http:
                for _ in range(3):
                    answer = await http.post(url, content=b"{}", headers={"Authorization": "Bearer of-the-server"})
                    assert answer.json() == {"ok": True}
    (connect,) = proxy.asked
    assert connect.line == "CONNECT mcp.example:443 HTTP/1.1"
    assert connect.headers["host"] == "mcp.example:443"
    assert "x-key" not in connect.headers
    assert "authorization" not in connect.headers
    assert [heard.line for heard in server.heard] == ["POST /mcp?a=b HTTP/1.1"] * 3
    assert {heard.sni for heard in server.heard} == {"mcp.example"}
    assert not any("proxy-authorization" in heard.headers for heard in server.heard)
    assert server.connections == 1


async def test_http_is_sent_on_by_the_proxy_which_alone_gets_its_credentials(authority: Authority) -> None:
    async with serving(ending(JSON.replace(b"Content-Type", b"Connection: close\r\nContent-Type"))) as server:
        with stand_in_proxy(names={"mcp.example": server.port}, login=USER) as proxy:
            url = "http://mcp.example:8080/mcp?a=b"
            async with client(proxy.url_with(USER), url) as http:
                for body in (b"one", b"two"):
                    assert (await http.post(url, content=body)).json() == {"ok": True}
    assert [asked.line for asked in proxy.asked] == [f"POST {url} HTTP/1.1"] * 2
    assert [(heard.line, heard.body) for heard in server.heard] == [
        ("POST /mcp?a=b HTTP/1.1", b"one"),
        ("POST /mcp?a=b HTTP/1.1", b"two"),
    ]
    assert {heard.headers["host"] for heard in server.heard} == {"mcp.example:8080"}
    assert {heard.headers["x-key"] for heard in server.heard} == {"k"}


async def test_an_ipv6_address_keeps_its_brackets() -> None:
    with stand_in_proxy() as proxy:
        assert "does not get there" in await words_of(proxy.url, "https://[fd00::1]:8443/")
        async with client(proxy.url, "http://[fd00::1]:8080/x") as http:
            assert (await http.get("http://[fd00::1]:8080/x")).status_code == 502
    assert proxy.targets == ["[fd00::1]:8443", "http://[fd00::1]:8080/x"]


async def test_a_proxy_may_be_reached_by_https_itself(authority: Authority, ca_file: str) -> None:
    async with serving(saying(JSON), authority.server("mcp.example")) as server:
        with stand_in_proxy(authority.server("127.0.0.1"), names={"mcp.example": server.port}) as proxy:
            at = proxy.url.replace("http:", "https:")
            async with client(at, "https://mcp.example/", ca_file) as http:
                assert (await http.get("https://mcp.example/")).json() == {"ok": True}
            said = await words_of(at, "https://mcp.example/")
    assert said.startswith(f"the proxy 127.0.0.1:{proxy.port} gives no connection: its certificate is signed by nobody")


async def test_the_server_is_verified_as_without_a_proxy(
    authority: Authority, ca_file: str, elsewhere: Authority
) -> None:
    async with serving(saying(JSON), elsewhere.server("mcp.example")) as server:
        with stand_in_proxy(names={"mcp.example": server.port}) as proxy:
            said = await words_of(proxy.url, "https://mcp.example/", ca_file)
    assert said.startswith("its certificate is signed by nobody")
    async with serving(saying(JSON), authority.server("other.example")) as server:
        with stand_in_proxy(names={"mcp.example": server.port}) as proxy:
            assert await words_of(proxy.url, "https://mcp.example/", ca_file) == "its certificate is not for this host"
    assert server.heard == []


ANSWER = b"HTTP/1.1 %b\r\nContent-Length: 0\r\n%b\r\n"


@pytest.mark.parametrize("url", ["https://mcp.example/", "http://mcp.example/"], ids=["connect", "sent-on"])
@pytest.mark.parametrize(
    ("login", "challenge", "said"),
    [
        ("", b'Proxy-Authenticate: Basic realm="x, y"\r\n', "wants a user and a password (HTTP 407)"),
        ("", b"", "wants a user and a password (HTTP 407)"),
        (USER, b"Proxy-Authenticate: Basic\r\n", "refuses the user and the password that it is given (HTTP 407)"),
        (
            USER,
            b"Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n",
            "wants a login by Negotiate, NTLM, and only Basic is spoken here (HTTP 407)",
        ),
        (USER, b'Proxy-Authenticate: Negotiate, BASIC realm="a"\r\n', "refuses the user and the password that"),
        ("", b'Proxy-Authenticate: Digest realm="a", nonce="b"\r\n', "wants a login by Digest, and only Basic"),
    ],
)  # fmt: skip
async def test_a_proxy_that_wants_a_login_is_told_from_the_server(
    url: str, login: str, challenge: bytes, said: str
) -> None:
    with stand_in_proxy(says=ANSWER % (b"407 s3cr3t-of-its-own", challenge)) as proxy:
        words = await words_of(proxy.url_with(login) if login else proxy.url, url)
    assert words.startswith(f"the proxy 127.0.0.1:{proxy.port} {said}")
    assert "s3cr3t" not in words


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ANSWER % (b"403 Forbidden", b""), "does not let this through (HTTP 403)"),
        (ANSWER % (b"405 No", b""), "does not let this through (HTTP 405)"),
        (ANSWER % (b"302 Found", b"Location: http://login.example/\r\n"), "does not let this through (HTTP 302)"),
        (ANSWER % (b"502 Bad", b""), "does not get there (HTTP 502)"),
        (ANSWER % (b"503 Bad", b""), "does not get there (HTTP 503)"),
        (b"", "gives no connection: the connection broke off before the answer"),
        (b"HTTP/1.1 200", "gives no connection: the connection broke off"),
        (b"SSH-2.0-x\r\n\r\n", "gives no connection: what it answers is not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3, "gives no connection: the connection broke off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, "gives no connection: "),
    ],
)
async def test_a_proxy_that_makes_no_connection_is_named(answer: bytes, said: str) -> None:
    with stand_in_proxy(says=answer) as proxy:
        words = await words_of(proxy.url_with(USER), "https://mcp.example/")
    assert words.startswith(f"the proxy 127.0.0.1:{proxy.port} {said}")
    assert "s3cr3t" not in words


@settings(max_examples=40)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda data: b"HTTP/1.1 " + data + b"\r\n\r\n"))
def test_whatever_a_proxy_says_ends_in_words_of_ours(answer: bytes) -> None:
    """But for what is a connection, with nothing behind it."""
    with stand_in_proxy(says=answer) as proxy:
        words = anyio.run(words_of, proxy.url_with(USER), "https://mcp.example/")
    assert words.startswith(f"the proxy 127.0.0.1:{proxy.port} ") or words == "the connection broke off"
    assert words.isprintable()
    assert "s3cr3t" not in words


async def test_a_connection_with_nobody_behind_it_is_the_servers_fault(ca_file: str) -> None:
    with stand_in_proxy(says=ANSWER % (b"200 OK", b"")) as proxy:
        words = await words_of(proxy.url, "https://mcp.example/", ca_file)
    assert words == "the connection broke off"


async def test_a_proxy_that_is_not_there_is_named() -> None:
    for url in ("https://mcp.example/", "http://mcp.example/"):
        port = free_port()
        words = await words_of(f"http://127.0.0.1:{port}", url)
        assert words == f"the proxy 127.0.0.1:{port} gives no connection: connection refused"
    assert "gives no connection: its name cannot be resolved" in await words_of(
        "http://x.invalid:1", "https://a.example/"
    )


async def test_a_proxy_that_says_nothing_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CONNECT_SECS", 0.3)
    with stand_in_proxy(hangs=True) as proxy:
        words = await words_of(proxy.url, "https://mcp.example/")
        assert words == f"the proxy 127.0.0.1:{proxy.port} gives no connection within 0.3 s"


async def test_a_request_that_is_given_up_leaves_no_connection_to_the_proxy(ca_file: str) -> None:
    async with serving(silent) as server:
        for how in ({"hangs": True}, {"names": {"mcp.example": server.port}}):
            with stand_in_proxy(**how) as proxy:
                async with client(proxy.url, "https://mcp.example/", ca_file) as http:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(http.get, "https://mcp.example/")
                        while not proxy.asked:  # noqa: ASYNC110 - a thread sets no event here
                            await anyio.sleep(0.01)
                        await anyio.sleep(0.1)
                        tasks.cancel_scope.cancel()
                    await anyio.to_thread.run_sync(proxy.wait_closed)


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_proxy_that_dies_in_the_middle_of_an_answer_breaks_it_off(
    scheme: str, authority: Authority, ca_file: str
) -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    async with serving(saying(long), authority.server("mcp.example") if scheme == "https" else None) as server:
        with stand_in_proxy(names={"mcp.example": server.port}, dies_after=100_000) as proxy:
            url = f"{scheme}://mcp.example/"
            async with client(proxy.url, url, ca_file) as http:
                with pytest.raises(httpx2.TransportError) as caught:
                    await http.get(url)
                assert "broke off" in network_words(caught.value)
                proxy.dies_after = None
                assert len((await http.get(url)).content) == 1_000_000


# Logins --------------------------------------------------------------------------------------------------------------


async def test_documents_and_tokens_are_fetched_through_it(authority: Authority, ca_file: str) -> None:
    async with serving(saying(JSON), authority.server("as.example")) as server:
        with stand_in_proxy(names={"as.example": server.port}, login=USER) as proxy:
            fetch = fetcher(own(proxy.url_with(USER)), ca_file)
            assert (await fetch.get("https://as.example/x")).body == b'{"ok":true}'
            heard_before: list[int] = []

            async def sending() -> None:
                heard_before.append(len(server.heard))

            answer = await fetch.post("https://as.example/token", b"secret", "text/plain", sending=sending)
            assert answer.status == 200
            assert heard_before == [1]
    assert proxy.targets == ["as.example:443"] * 2
    assert [heard.line for heard in server.heard] == ["GET /x HTTP/1.1", "POST /token HTTP/1.1"]
    assert "proxy-authorization" not in server.heard[1].headers


async def test_a_token_request_that_the_proxy_refuses_was_not_sent(ca_file: str) -> None:
    called: list[None] = []

    async def sending() -> None:
        called.append(None)

    with stand_in_proxy(login=USER) as proxy, pytest.raises(FetchProblem) as caught:
        await fetcher(own(proxy.url), ca_file).post("https://as.example/", b"s3cr3t", "text/plain", sending=sending)
    assert caught.value.kind == "outage"
    assert caught.value.message == (
        f"no usable answer from as.example: the proxy 127.0.0.1:{proxy.port} wants a user and a password (HTTP 407)"
    )
    assert called == []


async def test_an_exempt_host_is_fetched_from_directly_and_judged_by_its_address(
    authority: Authority, ca_file: str
) -> None:
    async with serving(saying(JSON), authority.server("127.0.0.1")) as server:
        with stand_in_proxy() as proxy:
            proxies = setting("env", {"HTTPS_PROXY": proxy.url, "NO_PROXY": "127.0.0.1,10.0.0.0/8"}, own=True)
            assert proxies is not None
            here = fetcher(proxies, ca_file, neighbours({Scope.LOOPBACK}))
            assert (await here.get(f"https://127.0.0.1:{server.port}/")).status == 200
            for url in (f"https://127.0.0.1:{server.port}/", "https://10.1.2.3/"):
                with pytest.raises(FetchProblem, match="where nothing is fetched from") as caught:
                    await fetcher(proxies, ca_file).get(url)
                assert caught.value.kind == "refused"
    assert proxy.connections == 0


@pytest.mark.parametrize("host", ["10.1.2.3", "169.254.169.254", "[fd00::1]", "[::ffff:10.1.2.3]", "intern.example"])
async def test_what_is_not_to_be_reached_is_not_asked_of_the_proxy_either(host: str, ca_file: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return {"intern.example": ["10.1.2.3"]}.get(host, [host])

    with stand_in_proxy() as proxy:
        for work in ("get", "post"):
            fetch = Fetcher(ca_file, INTERNET, proxies=own(proxy.url), resolve=resolve)
            with pytest.raises(FetchProblem, match="where nothing is fetched from") as caught:
                await (fetch.get(f"https://{host}/") if work == "get" else fetch.post(f"https://{host}/", b"", "a/b"))
            assert caught.value.kind == "refused"
        assert proxy.connections == 0
        with pytest.raises(FetchProblem, match="does not get there"):
            await fetch.post(f"https://{host}/", b"", "a/b", trusted=True)  # of moltis.toml
        assert len(proxy.asked) == 1


async def test_a_redirect_is_judged_before_the_proxy_is_asked(authority: Authority, ca_file: str) -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: https://169.254.169.254/x\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(answer), authority.server("as.example")) as server:
        with (
            stand_in_proxy(names={"as.example": server.port}) as proxy,
            pytest.raises(FetchProblem, match="special use"),
        ):
            await fetcher(own(proxy.url), ca_file).get("https://as.example/")
    assert proxy.targets == ["as.example:443"]


async def test_plain_http_goes_nowhere_through_a_proxy_but_on_this_machine(ca_file: str) -> None:
    async with serving(saying(JSON)) as server:
        with stand_in_proxy(names={"127.0.0.1": server.port}, login=USER) as proxy:
            fetch = fetcher(own(proxy.url_with(USER)), ca_file, neighbours({Scope.LOOPBACK}))
            with pytest.raises(FetchProblem, match="only https is safe"):
                await fetch.get("http://as.example/")
            assert proxy.connections == 0
            answer = await fetch.get(f"http://127.0.0.1:{server.port}/x")
            assert answer == Answer(200, answer.headers, b'{"ok":true}', f"http://127.0.0.1:{server.port}/x")
            proxy.login = "another:one"
            with pytest.raises(FetchProblem, match="refuses the user and the password"):
                await fetch.get(f"http://127.0.0.1:{server.port}/x")
    assert proxy.targets == [f"http://127.0.0.1:{server.port}/x"] * 2
    assert len(server.heard) == 1


@pytest.mark.parametrize(
    ("addresses", "scopes"),
    [
        ([], {Scope.PUBLIC}),
        (["1.1.1.1"], {Scope.PUBLIC}),
        (["10.1.2.3"], {Scope.PRIVATE}),
        (["127.0.0.1"], {Scope.FORBIDDEN}),
    ],
)
async def test_a_server_that_the_proxy_alone_knows_counts_as_one_of_the_internet(
    addresses: list[str], scopes: set[Scope]
) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return addresses

    fetch = Fetcher(None, INTERNET, proxies=own("http://127.0.0.1:9"), resolve=resolve)
    assert await fetch.scopes_of("https://mcp.example/") == scopes


async def test_a_name_that_nobody_here_can_look_up_costs_a_moment(
    authority: Authority, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        if host != "127.0.0.1":
            await anyio.sleep_forever()
        return [host]

    monkeypatch.setattr(fetch, "KNOWN_HERE_SECS", 0.05)
    async with serving(saying(JSON), authority.server("as.example")) as server:
        with stand_in_proxy(names={"as.example": server.port}) as proxy:
            fetching = Fetcher(ca_file, INTERNET, proxies=own(proxy.url), resolve=never)
            assert await fetching.scopes_of("https://as.example/") == {Scope.PUBLIC}
            assert (await fetching.get("https://as.example/")).status == 200


async def test_a_proxy_that_says_nothing_ends_a_fetch_in_time_and_is_named(ca_file: str) -> None:
    with stand_in_proxy(hangs=True) as proxy, pytest.raises(FetchProblem) as caught:
        await fetcher(own(proxy.url), ca_file, total_secs=0.3).get("https://as.example/s3cr3t")
    said = f"no answer from as.example through the proxy 127.0.0.1:{proxy.port} within 0.3 s"
    assert caught.value.message == said
    assert caught.value.kind == "outage"
