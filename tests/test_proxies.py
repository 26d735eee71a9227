"""How proxies are written, and what is reached through which of them: as curl and Go read the same variables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.proxies import Proxies, Proxy, Way, of_environment, read_proxy, setting, unused_variable

SECRET = "s3cr3t-word"
AT = Proxy("http", "proxy.example", 3128, "proxy.example:3128")


def way(proxies: Proxies | None, url: str) -> str | None:
    """Where the way to a URL leads through, with `*` where requests are sent on."""
    found = None if proxies is None else proxies.way_to(url)
    return None if found is None else found.proxy.netloc + ("*" if found.forwards else "")


@pytest.mark.parametrize(
    ("text", "user", "password", "netloc"),
    [
        ("http://proxy.example:3128", None, None, "proxy.example:3128"),
        ("HTTP://Proxy.Example:3128/", None, None, "proxy.example:3128"),
        ("http://proxy.example", None, None, "proxy.example"),
        ("https://proxy.example", None, None, "proxy.example"),
        ("https://proxy.example:8443", None, None, "proxy.example:8443"),
        ("http://[fd00::1]:3128", None, None, "[fd00::1]:3128"),
        ("http://10.0.0.1:3128", None, None, "10.0.0.1:3128"),
        (f"http://me:{SECRET}@proxy.example:3128", "me", SECRET, "proxy.example:3128"),
        ("http://corp%5Cme:p%40ss%3Aw%2Frd@proxy.example:3128", "corp\\me", "p@ss:w/rd", "proxy.example:3128"),
        (f"http://{SECRET}@proxy.example:3128", SECRET, "", "proxy.example:3128"),
        ("http://me:@proxy.example:3128", "me", "", "proxy.example:3128"),
        ("http://:pw@proxy.example:3128", "", "pw", "proxy.example:3128"),
    ],
)
def test_a_proxy_is_read_from_its_url(text: str, user: str | None, password: str | None, netloc: str) -> None:
    proxy = read_proxy(text)
    assert (proxy.user, proxy.password, proxy.netloc) == (user, password, netloc)
    assert read_proxy(proxy.url) == proxy
    assert (proxy.authorization is None) == (user is None)


def test_its_credentials_are_those_of_the_basic_scheme_and_are_in_no_repr() -> None:
    proxy = read_proxy("http://Aladdin:open%20sesame@proxy.example:3128")
    assert proxy.authorization == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617 section 2
    shown = repr((proxy, Way(proxy, forwards=False), Proxies(proxy, proxy)))
    assert "sesame" not in shown
    assert "Aladdin" not in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("proxy.example:3128", "must be none, env or a URL like"),
        ("", "must be none, env or a URL like"),
        ("None", "did you mean 'none'?"),
        ("ENV", "did you mean 'env'?"),
        ("environment", "must be none, env or a URL"),
        ("ftp://proxy.example", "must be none, env or a URL like"),
        (f"socks5://me:{SECRET}@proxy.example:1080", "is a SOCKS proxy, which is not spoken here"),
        ("socks5h://proxy.example", "is a SOCKS proxy"),
        (f"http://me:{SECRET}@@proxy.example:3128", "write %40 for @"),
        (f"http://me:{SECRET}/x@proxy.example:3128", "%2F for /"),
        (f"http://me:{SECRET}#x@proxy.example:3128", "%23 for #"),
        (f"http://corp\\me:{SECRET}@proxy.example:3128", "%5C for \\"),
        (f"http://me:{SECRET} x@proxy.example:3128", "%20 for a space"),
        (f"http://proxy.example:3128/{SECRET}", "without a path"),
        (f"http://proxy.example:3128?{SECRET}", "without a path"),
        (f"http://proxy.example:3128#{SECRET}", "without a path"),
        ("http://proxy.example:0", "must be none, env or a URL"),
        ("http://proxy.example:99999", "must be none, env or a URL"),
        ("http://", "must be none, env or a URL"),
        ("http://pro xy", "must be none, env or a URL"),
    ],
)
def test_what_is_none_is_refused_in_words_that_say_what_to_write_and_hold_nothing_of_it(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        setting(text, {}, own=True)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_is_anything_but_a_proxy_or_refused(text: str) -> None:
    try:
        proxy = read_proxy(text)
    except ValueError:
        return
    assert read_proxy(proxy.url) == proxy


def test_none_is_no_proxy_and_a_url_is_one_for_all() -> None:
    assert setting("none", {"HTTPS_PROXY": AT.url}, own=True) is None
    proxies = setting(AT.url, {"NO_PROXY": "*"}, own=False)
    assert way(proxies, "https://a.example/mcp") == "proxy.example:3128"
    assert way(proxies, "http://a.example/mcp") == "proxy.example:3128*"


# The environment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "https", "http"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": ""}, None, None),
        ({"HTTPS_PROXY": "  "}, None, None),
        ({"HTTPS_PROXY": "http://s:1"}, "s:1", None),
        ({"HTTP_PROXY": "http://h:1"}, None, "h:1*"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, "low:1", None),
        ({"https_proxy": "", "HTTPS_PROXY": "http://up:1"}, "up:1", None),
        ({"http_proxy": "http://low:1", "HTTP_PROXY": "http://up:1"}, None, "low:1*"),
        ({"ALL_PROXY": "http://all:1"}, "all:1", "all:1*"),
        ({"all_proxy": "http://all:1", "HTTPS_PROXY": "http://s:1"}, "s:1", "all:1*"),
        ({"HTTPS_PROXY": "proxy:3128"}, "proxy:3128", None),
        ({"HTTPS_PROXY": " http://s:1 "}, "s:1", None),
        ({"HTTPS_PROXY": "http://s:1", "HTTP_PROXY": "h:1", "ALL_PROXY": "socks://x:1"}, "s:1", "h:1*"),
        ({"NO_PROXY": "*"}, None, None),
    ],
)
def test_the_variables_are_read_as_other_programs_read_them(
    environ: dict[str, str], https: str | None, http: str | None
) -> None:
    proxies = of_environment(environ)
    assert (way(proxies, "https://a.example/"), way(proxies, "http://a.example/")) == (https, http)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"])
@pytest.mark.parametrize("value", [f"socks5://me:{SECRET}@h:1", f"http://me:{SECRET}@h:1/x", f"ftp://{SECRET}"])
def test_a_variable_that_is_no_proxy_is_named_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(ValueError) as caught:
        setting("env", {name: value}, own=False)
    assert str(caught.value).startswith(f'is "env", and {name} in the environment ')
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("exempt", "url", "is_exempt"),
    [
        ("*", "https://a.example/", True),
        ("a.example", "https://a.example/", True),
        ("A.Example", "https://a.example/", True),
        ("a.example", "https://A.EXAMPLE/", True),
        ("a.example", "https://x.a.example/", True),
        ("a.example", "https://ba.example/", False),
        ("a.example", "https://a.example.org/", False),
        (".a.example", "https://x.a.example/", True),
        (".a.example", "https://a.example/", True),
        ("*.a.example", "https://x.a.example/", True),
        ("a.example.", "https://a.example/", True),
        ("a.example", "https://a.example./", True),
        ("a.example:443", "https://a.example/", True),
        ("a.example:8443", "https://a.example/", False),
        ("a.example:8443", "https://a.example:8443/", True),
        ("a.example:", "https://a.example/", True),
        ("a.example:https", "https://a.example/", False),
        ("b.example,a.example", "https://a.example/", True),
        ("b.example a.example", "https://a.example/", True),
        (" b.example ,, a.example ,", "https://a.example/", True),
        ("b.example", "https://a.example/", False),
        ("example", "https://a.example/", True),
        ("", "https://a.example/", False),
        (".", "https://a.example/", False),
        ("10.1.2.3", "https://10.1.2.3/", True),
        ("10.1.2.3", "https://10.1.2.30/", False),
        ("10.1.2.3:8443", "https://10.1.2.3:8443/", True),
        ("10.1.2.3:8443", "https://10.1.2.3/", False),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.1.2.3/8", "https://10.9.9.9/", True),
        ("fd00::/8", "https://[fd00::1]/", True),
        ("fd00::/8", "https://10.1.2.3/", False),
        ("[fd00::1]", "https://[fd00:0::1]/", True),
        ("fd00::1", "https://[fd00::1]/", True),
        ("[fd00::1]:8443", "https://[fd00::1]:8443/", True),
        ("[fd00::1]:8443", "https://[fd00::1]/", False),
        ("2.3", "https://10.1.2.3/", False),
        ("10.0.0.0/99", "https://10.1.2.3/", False),
    ],
)
def test_no_proxy_has_the_forms_that_it_has_elsewhere(exempt: str, url: str, is_exempt: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        proxies = of_environment({"HTTPS_PROXY": "http://s:1", name: exempt})
        assert (way(proxies, url) is None) is is_exempt


@given(st.text(max_size=40), st.sampled_from(["https://a.example/", "https://10.1.2.3:8443/", "https://[fd00::1]/"]))
def test_no_entry_of_no_proxy_does_harm(entries: str, url: str) -> None:
    proxies = of_environment({"HTTPS_PROXY": "http://s:1", "NO_PROXY": entries})
    assert way(proxies, url) in (None, "s:1")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "https://localhost/", "https://x.localhost/", "http://[::1]/"])
def test_this_machine_is_reached_without_one_but_where_its_own_entry_names_one_on_it(url: str) -> None:
    here = "http://127.0.0.1:8080"
    assert way(setting("env", {"ALL_PROXY": "http://s:1"}, own=True), url) is None
    assert way(setting("env", {"ALL_PROXY": here}, own=False), url) is None
    assert way(setting(AT.url, {}, own=True), url) is None
    assert way(setting(here, {}, own=False), url) is None
    for proxies in (setting(here, {}, own=True), setting("env", {"ALL_PROXY": here}, own=True)):
        assert way(proxies, url) == "127.0.0.1:8080" + ("*" if url.startswith("http:") else "")
    assert way(setting("env", {"ALL_PROXY": here, "NO_PROXY": "localhost,127.0.0.0/8,::1"}, own=True), url) is None


@pytest.mark.parametrize(
    ("environ", "url", "named"),
    [
        ({"HTTPS_PROXY": "http://s:1"}, "https://a.example/", "HTTPS_PROXY"),
        ({"https_proxy": "http://s:1", "HTTPS_PROXY": "x"}, "https://a.example/", "https_proxy"),
        ({"ALL_PROXY": "socks5://s:1"}, "https://a.example/", "ALL_PROXY"),
        ({"HTTPS_PROXY": "http://s:1"}, "http://a.example/", None),
        ({"HTTP_PROXY": "http://s:1"}, "HTTPS://a.example/", None),
        ({"HTTP_PROXY": "http://s:1"}, "http://a.example/", "HTTP_PROXY"),
        ({"HTTPS_PROXY": "http://s:1", "NO_PROXY": ".example"}, "https://a.example/", None),
        ({"HTTPS_PROXY": "http://s:1"}, "https://localhost/", None),
        ({"HTTPS_PROXY": "http://s:1"}, "nothing", None),
        ({"NO_PROXY": "x"}, "https://a.example/", None),
    ],
)
def test_the_variable_that_would_be_used_is_named(environ: dict[str, str], url: str, named: str | None) -> None:
    assert unused_variable(environ, url) == named
