"""A cookie goes back to where it came from, under what it came under, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.http.cookies import MAX_COOKIE_CHARS, MAX_COOKIES, Cookies

URL = "https://h.example:8443/api/mcp"
NOW = 1_000_000.0


def after(*fields: str, url: str = URL, own: str | None = None, of: str = URL) -> Cookies:
    cookies = Cookies(of, own)
    cookies.field(of, None, NOW)
    cookies.take(fields, url, None, NOW)
    return cookies


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("AWSALB=a; Path=/; HttpOnly", "AWSALB=a"),
        ("a=b", "a=b"),
        (" a = b c ; secure", "a=b c"),
        ('a="b"', 'a="b"'),
        ("a=", "a="),
        ("a=b=c", "a=b=c"),
        ("a=b; Domain=h.example", "a=b"),
        ("a=b; Domain=.example", "a=b"),
        ("a=b; Domain=evil.example", None),
        ("a=b; Path=/api", "a=b"),
        ("a=b; Path=/api/", "a=b"),
        ("a=b; Path=/ap", None),
        ("a=b; Path=/api/mcp/x", None),
        ("a=b; Path=x", "a=b"),
        ("a=b; Max-Age=10", "a=b"),
        ("a=b; Max-Age=0", None),
        ("a=b; Max-Age=-1; Expires=Fri, 31 Dec 9999 23:59:59 GMT", None),
        ("a=b; Expires=Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("a=b; Expires=Thu, 01-Jan-1970 00:00:00 GMT", None),
        ("a=b; Expires=Fri, 31 Dec 9999 23:59:59 GMT", "a=b"),
        ("a=b; Expires=nonsense", "a=b"),
        ("a", None),
        ("=b", None),
        ("a b=c", None),
        ("a=b\x01", None),
        ("a=b\r\nX: y", None),
        ("a=" + "x" * MAX_COOKIE_CHARS, None),
    ],
)
def test_what_is_kept_of_a_field(field: str, sent: str | None) -> None:
    assert after(field).field(URL, None, NOW + 1) == sent


def test_a_cookie_that_is_set_again_is_replaced_and_one_that_expires_is_not_sent() -> None:
    cookies = after("a=1; Path=/", "a=2; Path=/", "b=3; Path=/; Max-Age=10")
    assert cookies.field(URL, None, NOW + 1) == "a=2; b=3"
    assert cookies.field(URL, None, NOW + 11) == "a=2"
    cookies.take(["a=gone; Path=/; Max-Age=0"], URL, None, NOW)
    assert cookies.field(URL, None, NOW + 11) is None


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://h.example:8443/api/mcp",
        "https://h.example/api/mcp",
        "https://a.h.example:8443/api/mcp",
        "https://h2:8443/",
        "x",
    ],
)
def test_another_origin_sets_nothing_and_gets_nothing(elsewhere: str) -> None:
    assert after("a=b; Path=/", url=elsewhere).field(URL, None, NOW) is None
    assert after("a=b; Path=/").field(elsewhere, None, NOW) is None


def test_a_secure_cookie_is_not_kept_where_others_can_read_along() -> None:
    plain, local = "http://h.example/mcp", "http://127.0.0.1:9/mcp"
    assert after("a=b; Secure", url=plain, of=plain).field(plain, None, NOW) is None
    assert after("a=b; Secure", url=local, of=local).field(local, None, NOW) == "a=b"


def test_other_credentials_forget_all_and_a_late_answer_to_the_old_ones_sets_nothing() -> None:
    cookies = after("a=b; Path=/")
    assert cookies.field(URL, "Bearer 1", NOW) is None
    cookies.take(["a=late; Path=/"], URL, None, NOW)
    assert cookies.field(URL, "Bearer 1", NOW) is None
    cookies.take(["a=c; Path=/"], URL, "Bearer 1", NOW)
    assert cookies.field(URL, "Bearer 1", NOW) == "a=c"
    assert cookies.field(URL, None, NOW) is None


def test_what_moltis_toml_says_is_sent_first_and_set_by_nobody() -> None:
    cookies = after("mine=theirs; Path=/", "a=b; Path=/", own="mine=1; too=2")
    assert cookies.field(URL, None, NOW) == "mine=1; too=2; a=b"
    assert cookies.field(URL, "Bearer 1", NOW) == "mine=1; too=2"


def test_only_so_many_are_kept_the_latest_ones() -> None:
    cookies = after(*(f"c{number}=x; Path=/" for number in range(10 * MAX_COOKIES)))
    sent = cookies.field(URL, None, NOW)
    assert sent is not None
    assert sent.split("; ") == [f"c{number}=x" for number in range(9 * MAX_COOKIES, 10 * MAX_COOKIES)]
    assert "x" not in repr(cookies)


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), max_size=20))
def test_whatever_is_set_is_sent_as_one_plain_field(fields: list[str]) -> None:
    sent = after(*fields).field(URL, None, NOW)
    assert sent is None or (sent.isprintable() and sent.isascii())
