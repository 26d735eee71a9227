"""A URL is read in one way, or it is none."""

from __future__ import annotations

import string
from ipaddress import IPv6Address
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.http.origins import (
    UNREADABLE,
    canonical_resource,
    origin,
    read_url,
    resolved,
    same_origin,
    shown_host,
    why_no_url,
)

NO_URLS = [
    "",
    "example.com",
    "//example.com/",
    "https:/example.com",
    "https:example.com",
    "https://",
    "https:///path",
    "https://:443/",
    "ftp://example.com/",
    "javascript:alert(1)",
    "file:///etc/passwd",
    "https://exa mple.com/",
    "https://example.com/a b",
    "https://example.com\\@evil.example/",
    "https:\\\\example.com",
    "https://example.com\t.evil.example/",
    "https://example.com/\r\nX: y",
    "https://example.com/\x00",
    "https://münchen.example/",
    "https://example.com/ü",
    "https://a@b@example.com/",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:44a/",
    "https://example.com:-1/",
    "https://exam%70le.com/",
    "https://[::1/",
    "https://[::1%25lo]/",
    "https://[::1%lo]/",
    "https://[nonsense]/",
    "https://[127.0.0.1]/",
    "https://::1/",
    "https://-x.example/",
    "https://example.com" + "/a" * 10_000,
]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_not_plainly_a_url_is_none(url: str) -> None:
    assert read_url(url) is None
    why = why_no_url(url)
    assert why is not None
    assert not url or url not in why
    assert not same_origin(url, url)
    assert shown_host(url) == UNREADABLE
    with pytest.raises(ValueError, match=r"^not an http or https URL$"):
        origin(url)
    with pytest.raises(ValueError, match=r"^not an http or https URL$"):
        canonical_resource(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://EXAMPLE.com:443/Path", "https://example.com"),
        ("https://example.com:/", "https://example.com"),
        ("http://example.com:80/", "http://example.com"),
        ("https://example.com:80/", "https://example.com:80"),
        ("https://example.com:8443?q#f", "https://example.com:8443"),
        ("https://user:password@example.com/", "https://example.com"),
        ("https://[2001:DB8:0::1]:443/", "https://[2001:db8::1]"),
        ("http://[::1]:3000/mcp", "http://[::1]:3000"),
        ("https://my_host.example./", "https://my_host.example."),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, expected: str) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("https://a.example/x", "HTTPS://A.example:443/y?z", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "https://b.a.example", False),
        ("https://a.example", "https://a.example.", False),
        ("https://a.example", "https://a.example@b.example", False),
        ("https://a.example", "https://a.example\\.b.example", False),
        ("http://127.0.0.1", "http://localhost", False),
    ],
)
def test_two_urls_are_of_one_origin(a: str, b: str, expected: bool) -> None:
    assert same_origin(a, b) is same_origin(b, a) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com", True),
        ("https://10.0.0.1/", True),
        ("http://localhost:3000/", True),
        ("http://127.0.0.1/", True),
        ("http://[::1]:1/", True),
        ("http://app.localhost/", True),
        ("http://example.com/", False),
        ("http://localhost.example.com/", False),
        ("http://localhost@example.com/", False),
        ("http://127.1/", False),
        ("http://0.0.0.0/", False),
        ("ws://localhost/", False),
    ],
)
def test_a_secret_may_travel_to(url: str, expected: bool) -> None:
    parts = read_url(url)
    assert (parts is not None and parts.secure) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://MCP.Example.com", "https://mcp.example.com"),
        ("https://mcp.example.com/", "https://mcp.example.com"),
        ("https://mcp.example.com/mcp", "https://mcp.example.com/mcp"),
        ("https://mcp.example.com/mcp/", "https://mcp.example.com/mcp/"),
        ("https://mcp.example.com/Server/MCP", "https://mcp.example.com/Server/MCP"),
        ("https://mcp.example.com:443/mcp", "https://mcp.example.com/mcp"),
        ("https://mcp.example.com:8443", "https://mcp.example.com:8443"),
        ("https://mcp.example.com/mcp?api_key=s3cret#part", "https://mcp.example.com/mcp"),
        ("https://mcp.example.com?api_key=s3cret", "https://mcp.example.com"),
        ("https://user:s3cret@mcp.example.com/mcp", "https://mcp.example.com/mcp"),
    ],
)
def test_the_resource_of_a_server_is_its_canonical_url(url: str, expected: str) -> None:
    assert canonical_resource(url) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("/other?x=1", "https://a.example/other?x=1"),
        ("next", "https://a.example/b/next"),
        ("//c.example/d", "https://c.example/d"),
        ("https://c.example/d", "https://c.example/d"),
        ("http://c.example/d", "http://c.example/d"),
        ("javascript:alert(1)", None),
        ("https://c.example\\d", None),
        ("ht\ttps://c.example/", None),
        ("//[", None),
        ("/ü", None),
    ],
)
def test_a_reference_is_resolved(reference: str, expected: str | None) -> None:
    assert resolved("https://a.example/b/c?q", reference) == expected


def test_a_host_is_shown_without_its_url() -> None:
    assert shown_host("https://user:s3cret@Example.com:8443/s3cret?k=s3cret#s3cret") == "example.com:8443"
    assert len(shown_host("https://" + "a" * 5000 + "/")) <= 100


def test_a_url_that_was_read_does_not_show_itself() -> None:
    assert "s3cret" not in repr(read_url("https://example.com/?k=s3cret"))


URL_TEXT = st.text(string.ascii_letters + string.digits + ":/?#[]@\\%.-_ \t\r\nüß", max_size=40)


@given(st.sampled_from(["https://", "http://", "HTTP://", "https:/", ""]), URL_TEXT)
def test_what_is_read_is_read_alike_by_others(scheme: str, rest: str) -> None:
    """The standard library and the HTTP stack see the same host and port, or there is no URL."""
    url = scheme + rest
    parts = read_url(url)
    if parts is None:
        return
    library = urlsplit(url)
    assert (library.hostname or "").lower() in (parts.host, _expanded(library.hostname or "", parts.host))
    assert (library.port or {"http": 80, "https": 443}[parts.scheme]) == parts.port
    stack = httpx2.URL(url)
    assert stack.host.lower() in (parts.host, _expanded(stack.host, parts.host))
    assert (stack.port or {"http": 80, "https": 443}[parts.scheme]) == parts.port
    assert read_url(parts.origin) is not None
    assert origin(parts.origin) == parts.origin
    assert canonical_resource(canonical_resource(url)) == canonical_resource(url)


def _expanded(host: str, canonical: str) -> str:
    """The other spelling of the same IPv6 address, if both are that."""
    try:
        return canonical if IPv6Address(host) == IPv6Address(canonical) else host
    except ValueError:
        return host
