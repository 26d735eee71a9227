from __future__ import annotations

import string
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.oauth.authorize import (
    Authorization,
    authorization_request,
    code_challenge,
    opening_problem,
    scope_of_client,
    scope_to_ask,
)
from moltis.oauth.model import AuthServer, Challenge, Client, ClientConfig, OAuthProblem, ProtectedResource
from moltis.oauth.urls import MAX_GIVEN_CHARS, MAX_URL_CHARS, given_url_problem

STATE = "state-canary-" + "s" * 30
VERIFIER = "verifier-canary-" + "v" * 40
RESOURCE = "https://mcp.example.com/mcp"
REDIRECT = "http://127.0.0.1:43210/callback"


def server(endpoint: str | None = "https://auth.example.com/authorize", **more: Any) -> AuthServer:
    return AuthServer(
        issuer="https://auth.example.com",
        authorization_endpoint=endpoint,
        token_endpoint="https://auth.example.com/token",
        **more,
    )


def request(endpoint: str | None = "https://auth.example.com/authorize", **more: Any) -> Authorization:
    fields = {
        "redirect_uri": REDIRECT,
        "scope": None,
        "resource": RESOURCE,
        "state": STATE,
        "verifier": VERIFIER,
        **more,
    }
    return authorization_request(server(endpoint), Client(client_id="c1"), **fields)


def query(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True)


ASKED = [
    ("response_type", "code"),
    ("client_id", "c1"),
    ("redirect_uri", REDIRECT),
    ("state", STATE),
    ("code_challenge", code_challenge(VERIFIER)),
    ("code_challenge_method", "S256"),
    ("resource", RESOURCE),
]


def test_the_challenge_is_the_one_of_the_rfc() -> None:
    """RFC 7636 appendix B."""
    assert (
        code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )


def test_a_request_asks_for_a_code_with_pkce_and_the_resource() -> None:
    asked = request()
    assert asked.url.startswith("https://auth.example.com/authorize?")
    assert query(asked.url) == ASKED
    assert VERIFIER not in asked.url
    assert (asked.state, asked.verifier, asked.redirect_uri) == (STATE, VERIFIER, REDIRECT)
    assert (asked.issuer, asked.iss_supported, asked.resource) == ("https://auth.example.com", False, RESOURCE)


def test_nothing_of_a_request_is_in_its_repr() -> None:
    assert repr(request()) == "Authorization(***)"


def test_a_scope_is_asked_for_only_if_there_is_one() -> None:
    assert dict(query(request(scope="a b:c/d").url))["scope"] == "a b:c/d"
    assert "scope" not in dict(query(request(scope=None).url))


def test_offline_access_is_asked_for_with_consent() -> None:
    assert dict(query(request(scope="read offline_access").url))["prompt"] == "consent"
    assert "prompt" not in dict(query(request(scope="read offline_access2").url))


def test_whom_the_answer_must_come_from_is_kept_with_the_request() -> None:
    def asked(of: AuthServer) -> Authorization:
        return authorization_request(
            of,
            Client(client_id="c1"),
            redirect_uri=REDIRECT,
            scope=None,
            resource=RESOURCE,
            state=STATE,
            verifier=VERIFIER,
        )

    assert asked(server(iss_supported=True)).iss_supported
    assert asked(server(manual=True)).issuer is None


@pytest.mark.parametrize(
    ("endpoint", "kept"),
    [
        ("https://auth.example.com/a?tenant=1", [("tenant", "1")]),
        ("https://auth.example.com/a?tenant=1&x=%26%3D+y", [("tenant", "1"), ("x", "&= y")]),
        ("https://auth.example.com/a?", []),
        ("https://auth.example.com/a?&&x=1&", [("x", "1")]),
        ("https://auth.example.com/a?x=?y", [("x", "?y")]),
        # What the endpoint says of our own parameters does not count.
        ("https://auth.example.com/a?state=evil&x=1&redirect_uri=https://evil.example", [("x", "1")]),
        ("https://auth.example.com/a?%73tate=evil&code_challenge_method=plain&resource=evil&response_type", []),
    ],
)
def test_the_query_of_the_endpoint_is_kept_and_ours_joined_to_it(endpoint: str, kept: list[tuple[str, str]]) -> None:
    url = request(endpoint).url
    assert url.startswith("https://auth.example.com/a?")
    assert query(url) == kept + ASKED


@pytest.mark.parametrize("verifier", ["", "short", "v" * 42, "v" * 129, "v" * 42 + "!", STATE, "é" * 50])
def test_a_verifier_that_is_none_or_is_the_state_is_a_fault_of_the_caller(verifier: str) -> None:
    with pytest.raises(ValueError) as caught:
        request(verifier=verifier)
    assert not verifier or verifier not in str(caught.value)


def test_without_a_login_page_there_is_no_request() -> None:
    with pytest.raises(OAuthProblem, match="authorization endpoint"):
        request(None)


OPENABLE = [
    "https://auth.example.com",
    "https://auth.example.com/authorize?x=1",
    "HTTPS://AUTH.EXAMPLE.COM:8443/a",
    "https://xn--bcher-kva.example/a",
    "https://203.0.113.7/a",
    "https://[2001:db8::1]/a",
    "https://auth.example.com/$(id);rm%20-rf&'x'!*",
    "https://auth.example.com/a?x=https://other.example/@y",
    "http://localhost:9000/a",
    "http://127.0.0.1:9000/a",
    "http://[::1]:9000/a",
]
HOSTILE = [
    "",
    " ",
    "auth.example.com/a",
    "//auth.example.com/a",
    "/authorize",
    "javascript:alert(document.domain)//https://auth.example.com",
    "JavaScript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "file:///etc/passwd",
    "ftp://auth.example.com/",
    "vbscript:x",
    "chrome://settings",
    "ms-settings:",
    "smb://evil.example/share",
    "view-source:https://auth.example.com",
    "--renderer-cmd-prefix=touch /tmp/owned",
    "-https://auth.example.com",
    "http://auth.example.com/a",
    "http://evil.example/a",
    "http://10.0.0.1/a",
    "http://127.0.0.1.evil.example/a",
    "http://localhost.evil.example/a",
    "http://127.0.0.1@evil.example/a",
    "https://bank.example@evil.example/a",
    "https://bank.example:443@evil.example/a",
    "https://@evil.example/a",
    "https://user:password@auth.example.com/a",
    "https://",
    "https:///a",
    "https://?x",
    "https:auth.example.com",
    "https:/auth.example.com",
    "https://:443/a",
    "https://auth.example.com:0/a",
    "https://auth.example.com:65536/a",
    "https://auth.example.com:80a/a",
    "https://auth.example.com\\@evil.example/a",
    "https:\\\\evil.example\\a",
    "https://auth.example.com/a b",
    "https://auth.example.com/a\tb",
    "https://auth.example.com/a\nb",
    "https://auth.example.com/a\r\nX: y",
    "https://auth.example.com/\x00",
    "https://auth.example.com/\x1b[2J",
    "https://auth.example.com/\x7f",
    " https://auth.example.com/",
    "https://auth.example.com/ ",
    "https://аuth.example.com/a",
    "https://auth。example.com/a",
    "https://auth.example.com/\u202ea",
    "https://auth.example.com/é",
    "https://auth.example.com/#fragment",
    'https://auth.example.com/"a',
    "https://auth.example.com/`id`",
    "https://auth.example.com/<a>",
    "https://auth.example.com/{a}",
    "https://auth.example.com/a|b",
    "https://%61uth.example.com/a",
    "https://auth.example.com%2f.evil.example/a",
    "https://-auth.example.com/a",
    "https://2130706433/a",
    "https://127.1/a",
    "https://0x7f000001/a",
    "https://0177.0.0.1/a",
    "https://1.2.3.4.5/a",
    "https://256.1.1.1/a",
    "https://0.0.0.0/a",
    "https://169.254.169.254/a",
    "https://[::]/a",
    "https://[fe80::1%25eth0]/a",
    "https://[::1/a",
    "https://[not-an-address]/a",
    "https://[64:ff9b::7f00:1]/a",
]


@pytest.mark.parametrize("url", OPENABLE)
def test_a_plain_https_url_may_be_opened_and_http_on_this_machine(url: str) -> None:
    assert opening_problem(url) is None


@pytest.mark.parametrize("url", HOSTILE)
def test_any_other_url_may_not_be_opened_and_is_not_repeated(url: str) -> None:
    problem = opening_problem(url)
    assert problem is not None
    assert problem.isascii()
    assert problem.isprintable()
    assert len(url) < 4 or url not in problem


@pytest.mark.parametrize("endpoint", [url for url in HOSTILE if url])
def test_no_request_is_made_for_a_page_that_may_not_be_opened(endpoint: str) -> None:
    with pytest.raises(OAuthProblem) as caught:
        request(endpoint)
    assert caught.value.kind == "refused"
    assert "canary" not in caught.value.message


def test_a_url_may_be_opened_up_to_its_limit() -> None:
    url = "https://auth.example.com/"
    assert opening_problem(url + "x" * (MAX_URL_CHARS - len(url))) is None
    assert opening_problem(url + "x" * (MAX_URL_CHARS - len(url) + 1)) is not None
    with pytest.raises(OAuthProblem, match="longer"):
        request(scope="x" * MAX_URL_CHARS)


@given(st.text() | st.sampled_from(HOSTILE + OPENABLE).flatmap(lambda url: st.text(max_size=3).map(url.__add__)))
def test_what_may_be_opened_is_always_a_plain_secure_url(url: str) -> None:
    if opening_problem(url) is None:
        parts = urlsplit(url)
        assert url.isascii()
        assert url.isprintable()
        assert parts.hostname
        assert parts.username is None
        assert parts.scheme == "https" or parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")


@pytest.mark.parametrize(
    ("url", "giver", "usable"),
    [
        ("https://a.example/", "https://b.example/", True),
        ("https://a.example/", "http://localhost:1/", True),
        ("http://localhost:1/", "http://127.0.0.1:2/", True),
        ("https://[::ffff:127.0.0.1]/", "http://[::1]:2/", True),
        ("http://localhost:1/", "https://b.example/", False),
        ("https://127.0.0.2/", "https://b.example/", False),
        ("https://[::ffff:127.0.0.1]/", "https://b.example/", False),
        ("http://localhost:1/", "nobody", False),
        ("http://b.example/", "http://localhost:1/", False),
        ("https://a.example/".ljust(MAX_GIVEN_CHARS, "x"), "https://b.example/", True),
        ("https://a.example/".ljust(MAX_GIVEN_CHARS + 1, "x"), "https://b.example/", False),
    ],
)
def test_only_who_is_on_this_machine_points_to_this_machine(url: str, giver: str, usable: bool) -> None:
    assert (given_url_problem(url, giver) is None) is usable


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
NAME = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"<>^`{|}\\#&+%'), max_size=8)


@given(TEXT, TEXT, TEXT, st.lists(st.tuples(NAME.filter(lambda name: "=" not in name), NAME), max_size=4))
def test_the_query_parses_back_to_exactly_what_was_asked(
    client_id: str, scope: str, resource: str, own: list[tuple[str, str]]
) -> None:
    endpoint = "https://auth.example.com/a?" + "&".join(f"{name}={value}" for name, value in own)
    asked = authorization_request(
        server(endpoint),
        Client(client_id=client_id),
        redirect_uri=REDIRECT,
        scope=scope,
        resource=resource,
        state=STATE,
        verifier=VERIFIER,
    )
    pairs = query(asked.url)
    ours = dict(pairs[-len(ASKED) - 1 - ("offline_access" in scope.split()) :])
    assert ours.pop("prompt", None) == ("consent" if "offline_access" in scope.split() else None)
    assert ours == dict(ASKED) | {"client_id": client_id, "scope": scope, "resource": resource}
    assert pairs[: -len(ours)] == [(name, value) for name, value in own if unquote_plus(name) not in ours]
    assert asked.url.count("?") == 1 + sum(f"{name}{value}".count("?") for name, value in own)


LISTED = ProtectedResource(
    resource=RESOURCE, authorization_servers=("https://auth.example.com",), scopes_supported=("list:a", "list:b")
)
UNLISTED = ProtectedResource(resource=RESOURCE, authorization_servers=("https://auth.example.com",))
OFFLINE = server(scopes_supported=("openid", "offline_access"))
CONFIGURED = ClientConfig(scopes=("conf:a", "conf:b"))
NEEDS_MORE = Challenge(scope="chal", error="insufficient_scope")


@pytest.mark.parametrize(
    ("config", "challenge", "resource", "at", "granted", "asked"),
    [
        (ClientConfig(), None, None, server(), None, None),
        (ClientConfig(), Challenge(), UNLISTED, server(), None, None),
        (ClientConfig(), None, LISTED, server(), None, "list:a list:b"),
        (ClientConfig(), Challenge(scope="chal"), LISTED, server(), None, "chal"),
        (CONFIGURED, Challenge(scope="chal"), LISTED, server(), None, "conf:a conf:b"),
        (CONFIGURED, None, LISTED, server(), None, "conf:a conf:b"),
        (ClientConfig(), None, UNLISTED, server(scopes_supported=("as:a",)), None, None),
        # offline_access: only where the authorization server lists it, and something else is asked for.
        (ClientConfig(), None, LISTED, OFFLINE, None, "list:a list:b offline_access"),
        # Not to those that a person has written, unless that person says so; never if that person says so.
        (CONFIGURED, None, None, OFFLINE, None, "conf:a conf:b"),
        (ClientConfig(scopes=("conf:a",), offline_access=True), None, None, OFFLINE, None, "conf:a offline_access"),
        (ClientConfig(offline_access=True), None, LISTED, OFFLINE, None, "list:a list:b offline_access"),
        (ClientConfig(offline_access=True), None, LISTED, server(), None, "list:a list:b"),
        (ClientConfig(offline_access=False), None, LISTED, OFFLINE, None, "list:a list:b"),
        (ClientConfig(offline_access=False, scopes=("offline_access",)), None, None, OFFLINE, None, "offline_access"),
        (ClientConfig(), None, UNLISTED, OFFLINE, None, None),
        (ClientConfig(), Challenge(scope="offline_access x"), None, OFFLINE, None, "offline_access x"),
        (ClientConfig(), None, LISTED, server(scopes_supported=("a",)), None, "list:a list:b"),
        (
            ClientConfig(),
            Challenge(scope="chal"),
            None,
            server(scopes_supported=("offline_access",), grant_types=("authorization_code",)),
            None,
            "chal",
        ),
        (
            ClientConfig(),
            Challenge(scope="chal"),
            None,
            server(scopes_supported=("offline_access",), grant_types=("authorization_code", "refresh_token")),
            None,
            "chal offline_access",
        ),
        (ClientConfig(grant="client_credentials"), Challenge(scope="chal"), None, OFFLINE, None, "chal"),
        # Step-up: what was there before, and what is needed now.
        (ClientConfig(), NEEDS_MORE, LISTED, server(), "basic", "basic chal"),
        (ClientConfig(), NEEDS_MORE, LISTED, server(), "chal basic", "chal basic"),
        (ClientConfig(), NEEDS_MORE, LISTED, server(), None, "chal"),
        (CONFIGURED, NEEDS_MORE, LISTED, server(), "basic", "basic conf:a conf:b chal"),
        (ClientConfig(), NEEDS_MORE, LISTED, OFFLINE, "basic offline_access", "basic offline_access chal"),
        (ClientConfig(), Challenge(error="insufficient_scope"), LISTED, server(), "basic", "basic list:a list:b"),
        (ClientConfig(), None, UNLISTED, server(), "basic", "basic"),
    ],
)
def test_scopes_are_chosen_by_the_strategy_of_the_specification(
    config: ClientConfig,
    challenge: Challenge | None,
    resource: ProtectedResource | None,
    at: AuthServer,
    granted: str | None,
    asked: str | None,
) -> None:
    assert scope_to_ask(config, challenge, resource, at, granted=granted) == asked


BOTH = server(scopes_supported=("list:a", "offline_access"))


@pytest.mark.parametrize(
    ("config", "challenge", "at", "asked"),
    [
        # Each in turn, once the one before was refused.
        (ClientConfig(), None, server(scopes_supported=("list:a",)), ["list:a list:b", "list:a", "list:a list:b"]),
        (
            ClientConfig(),
            None,
            BOTH,
            ["list:a list:b offline_access", "list:a offline_access", "list:a list:b", "list:a"],
        ),
        (ClientConfig(), None, server(), ["list:a list:b", "list:a list:b"]),
        (ClientConfig(), None, server(scopes_supported=("x",)), ["list:a list:b", None]),
        (CONFIGURED, None, BOTH, ["conf:a conf:b", "conf:a conf:b"]),
        (
            ClientConfig(scopes=("conf:a",), offline_access=True),
            None,
            BOTH,
            ["conf:a offline_access", "conf:a", "conf:a offline_access"],
        ),
        (ClientConfig(), NEEDS_MORE, BOTH, ["chal offline_access", "chal", "chal offline_access"]),
    ],
)
def test_what_was_refused_is_asked_for_without_what_nobody_has_asked_of_us(
    config: ClientConfig, challenge: Challenge | None, at: AuthServer, asked: list[str | None]
) -> None:
    refused: set[frozenset[str]] = set()
    for scope in asked:
        assert scope_to_ask(config, challenge, LISTED, at, refused=refused) == scope
        refused.add(frozenset((scope or "").split()))


@pytest.mark.parametrize(
    ("scope", "denied", "challenge", "asked"),
    [
        ("a b offline_access", ("offline_access",), None, "a b"),
        ("a b", ("b",), Challenge(scope="b"), "a"),
        ("a b", ("b",), Challenge(scope="b", error="insufficient_scope"), "a b"),
        ("a", ("a",), None, "a"),
        ("a", (), None, "a"),
        (None, ("a",), None, None),
    ],
)
def test_what_a_client_is_not_registered_for_is_not_asked_for_unless_it_is_needed(
    scope: str | None, denied: tuple[str, ...], challenge: Challenge | None, asked: str | None
) -> None:
    assert scope_of_client(scope, Client(client_id="c", scopes_denied=denied), challenge) == asked


@pytest.mark.parametrize(
    ("scope", "prompt", "sent"),
    [
        ("a offline_access", None, "consent"),
        ("a offline_access", "", None),
        ("a offline_access", "select_account", "select_account"),
        ("a", None, None),
        ("a", "login consent", "login consent"),
        (None, "none", "none"),
    ],
)
def test_the_owner_may_choose_the_prompt(scope: str | None, prompt: str | None, sent: str | None) -> None:
    assert dict(query(request(scope=scope, prompt=prompt).url)).get("prompt") == sent


def test_what_is_left_out_is_left_to_the_query_of_the_endpoint() -> None:
    endpoint = "https://auth.example.com/a?prompt=login&resource=x"
    pairs = query(request(endpoint, resource=None, prompt="", scope="offline_access").url)
    assert [pair for pair in pairs if pair[0] in ("prompt", "resource")] == [("prompt", "login"), ("resource", "x")]


def test_more_scopes_than_a_url_holds_are_refused_with_the_remedy() -> None:
    many = ProtectedResource(resource=RESOURCE, authorization_servers=(), scopes_supported=("x" * 200,) * 1)
    assert scope_to_ask(ClientConfig(), None, many, server()) == "x" * 200
    too_many = ProtectedResource(
        resource=RESOURCE, authorization_servers=(), scopes_supported=tuple(f"{n:0200}" for n in range(30))
    )
    with pytest.raises(OAuthProblem, match=r"oauth\.scopes"):
        scope_to_ask(ClientConfig(), None, too_many, server())


@given(st.text(string.ascii_lowercase + " ", max_size=20), st.text(string.ascii_lowercase + " ", max_size=20))
def test_a_step_up_loses_nothing_and_asks_for_nothing_twice(before: str, needed: str) -> None:
    challenge = Challenge(scope=" ".join(needed.split()) or None, error="insufficient_scope")
    asked = scope_to_ask(ClientConfig(), challenge, None, server(), granted=before)
    scopes = (asked or "").split()
    assert set(scopes) == set(before.split()) | set(needed.split())
    assert len(scopes) == len(set(scopes))
