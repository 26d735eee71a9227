"""Who is let in: pure tables."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway.doors import ALLOW_HEADERS, BadRequest, Doors, Forbidden, Refusals, bearer

PORT = b"127.0.0.1:8642"


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1:8642",
        b"127.0.0.1",
        b"127.9.9.9:1",
        b"localhost:8642",
        b"LOCALHOST",
        b"localhost.:80",
        b"[::1]:8642",
        b"[::1]",
        b"gateway.lan:8642",
        b"tunnel.example:443",
    ],
)
def test_loopback_names_and_what_is_configured_are_good_hosts(host: bytes) -> None:
    doors = Doors(["https://tunnel.example"], "gateway.lan")
    assert doors.admit(host, None) == ()
    assert doors.admit(host, None) == (), "and so they are the second time"


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8642",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"192.168.1.5:8642",
        b"[2001:db8::1]",
        b"localhost@evil.example",
        b"localhost:8642:1",
        b"user@localhost",
        b"localhost/",
        b"local host",
        b"[::1",
        b"0x7f.1",
        b"\xff",
    ],
)
def test_any_other_host_is_forbidden(host: bytes) -> None:
    doors = Doors((), "127.0.0.1")
    for _ in range(2):
        with pytest.raises(Forbidden):
            doors.admit(host, None)


@pytest.mark.parametrize(
    "host", [b"mcp.example.com", b"MCP.Example.COM.:443", b"host.docker.internal:8642", b"172.17.0.1", b"[fd00::1]:1"]
)
def test_a_name_that_moltis_toml_allows_is_good_at_any_port(host: bytes) -> None:
    doors = Doors((), "127.0.0.1", ["mcp.example.com", "host.docker.internal", "172.17.0.1", "fd00::1"])
    assert doors.admit(host, None) == ()
    with pytest.raises(Forbidden):
        doors.admit(b"x" + host, None)


def test_a_name_that_is_refused_is_told_with_the_line_that_lets_it_in() -> None:
    with pytest.raises(Forbidden) as failure:
        Doors().admit(b"MyBox.tailnet.ts.net:8642", None)
    assert failure.value.reason == (
        "this Host (mybox.tailnet.ts.net) is not served here; if it is yours, write"
        ' allowed_hosts = ["mybox.tailnet.ts.net"] in [gateway] of moltis.toml'
    )
    assert (failure.value.key, failure.value.name) == ("allowed_hosts", "mybox.tailnet.ts.net")


@pytest.mark.parametrize("host", [b"a<script>b", b"a b", b"\xff", b"a" * 280])
def test_a_name_that_is_none_is_not_repeated(host: bytes) -> None:
    with pytest.raises(Forbidden) as failure:
        Doors().admit(host, None)
    assert failure.value.reason == "this Host is not served here: it is no name that moltis.toml could allow"


@pytest.mark.parametrize("origin", ["app://localhost.example", "tauri://tunnel.example", "chrome-extension://abc"])
def test_an_origin_of_another_scheme_names_no_host(origin: str) -> None:
    doors = Doors([origin])
    name = origin.partition("://")[2].encode()
    assert dict(doors.admit(PORT, origin.encode()))[b"access-control-allow-origin"] == origin.encode()
    with pytest.raises(Forbidden):
        doors.admit(name, None)


def test_an_origin_that_is_refused_is_told_with_the_line_that_lets_it_in() -> None:
    with pytest.raises(Forbidden) as failure:
        Doors().admit(PORT, b"app://obsidian.md")
    assert 'allowed_origins = ["app://obsidian.md"]' in failure.value.reason
    assert (failure.value.key, failure.value.name) == ("allowed_origins", "app://obsidian.md")


@pytest.mark.parametrize("origin", [b"null", b"file://", b"", b"https://a/<b>"])
def test_an_origin_that_no_key_lets_in_is_told_why(origin: bytes) -> None:
    with pytest.raises(Forbidden) as failure:
        Doors().admit(PORT, origin)
    assert "allowed_origins = " not in failure.value.reason
    assert ("any page" in failure.value.reason) is (origin in (b"null", b"file://"))


def test_a_refusal_is_told_once_a_minute_for_each_name_and_not_without_end() -> None:
    refused = Refusals()
    told = [refused.tell("allowed_hosts", "a", at) for at in (0.0, 1.0, 59.9, 60.1, 61.0)]
    assert told == [0, None, None, 2, None]
    assert refused.tell("allowed_origins", "a", 61.0) == 0, "another key"
    assert sum(refused.tell("allowed_hosts", f"n{n}", 62.0) is not None for n in range(1000)) < 70
    assert refused.tell("allowed_hosts", "late", 200.0) == 0


@pytest.mark.parametrize("host", [None, b"", b"a" * 301])
def test_a_request_without_a_usable_host_is_a_bad_one(host: bytes | None) -> None:
    with pytest.raises(BadRequest) as failure:
        Doors().admit(host, None)
    assert not isinstance(failure.value, Forbidden)


@pytest.mark.parametrize("listen", ["0.0.0.0", "::", "[::]"])
def test_at_a_wildcard_address_any_address_is_good_and_a_name_is_not(listen: str) -> None:
    doors = Doors((), listen)
    assert doors.admit(b"192.168.1.5:8642", None) == ()
    assert doors.admit(b"[2001:db8::1]:8642", None) == ()
    with pytest.raises(Forbidden):
        doors.admit(b"evil.example", None)


def test_the_good_hosts_that_are_remembered_are_bounded() -> None:
    doors = Doors()
    for port in range(1, 1000):
        assert doors.admit(b"localhost:%d" % port, None) == ()
    assert len(doors._good_hosts) <= 64


@pytest.mark.parametrize("origin", [b"http://127.0.0.1:8642", b"HTTP://127.0.0.1:8642"])
def test_a_page_from_here_is_no_cross_origin_use(origin: bytes) -> None:
    assert Doors().admit(PORT, origin) == ()


@pytest.mark.parametrize("origin", [b"https://app.example", b"https://APP.example"])
def test_an_allowed_origin_is_named_in_the_answer(origin: bytes) -> None:
    headers = dict(Doors(["https://app.example/"]).admit(PORT, origin))
    assert headers[b"access-control-allow-origin"] == origin
    assert b"mcp-session-id" in headers[b"access-control-expose-headers"]
    assert headers[b"vary"] == b"origin"


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"https://evil.example",
        b"http://app.example",
        b"https://app.example:8443",
        b"https://app.example.evil.example",
        b"http://localhost:3000",
        b"http://127.0.0.1:8643",
        b"chrome-extension://abc",
    ],
)
def test_any_other_origin_is_forbidden(origin: bytes) -> None:
    with pytest.raises(Forbidden):
        Doors(["https://app.example"]).admit(PORT, origin)


def test_a_star_allows_every_origin() -> None:
    assert dict(Doors(["*"]).admit(PORT, b"null"))[b"access-control-allow-origin"] == b"null"


def test_a_preflight_is_answered_with_the_manuals_headers_and_ours() -> None:
    doors = Doors(["https://app.example"])
    headers = dict(doors.preflight(doors.admit(PORT, b"https://app.example"), b"authorization,X-Evil,Mcp-Param-City"))
    allowed = headers[b"access-control-allow-headers"]
    assert allowed == ALLOW_HEADERS + b", mcp-param-city"
    assert allowed.startswith(b"authorization, content-type, mcp-protocol-version, mcp-session-id")
    assert headers[b"access-control-allow-methods"] == b"GET, HEAD, POST, DELETE, OPTIONS"
    assert headers[b"access-control-allow-origin"] == b"https://app.example"


def test_options_from_no_other_origin_only_says_what_may_be_sent() -> None:
    assert Doors().preflight((), None) == ((b"allow", b"GET, HEAD, POST, DELETE, OPTIONS"),)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        (b"", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (b"Bearer mlt_abc-_.~+/=", "mlt_abc-_.~+/="),
        (b"bearer mlt_a", "mlt_a"),
        (b"BEARER   mlt_a  ", "mlt_a"),
        (b"Basic bWx0", None),
        (b"Bearer a b", None),
        (b"Bearer a,b", "a,b"),
        (b"Bearer \xff", None),
        (b"Bearer " + b"a" * 5000, None),
    ],
)
def test_a_bearer_token_is_read_as_rfc_6750_has_it(header: bytes | None, token: str | None) -> None:
    assert bearer(header) == token


@given(st.binary(max_size=60), st.binary(max_size=60) | st.none())
def test_no_header_makes_the_doors_fail(host: bytes, origin: bytes | None) -> None:
    with contextlib.suppress(BadRequest):
        Doors(["https://app.example"]).admit(host, origin)
