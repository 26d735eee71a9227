from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.oauth.authserver import (
    default_endpoints,
    legacy_metadata_url,
    manual_endpoints,
    metadata_urls,
    read_server,
    same_issuer,
)
from moltis.oauth.documents import MAX_DOCUMENT_BYTES
from moltis.oauth.model import AuthServer, ClientConfig, OAuthProblem

ISSUER = "https://auth.example.com/tenant1"
SERVER = "https://mcp.example.com/v1/mcp"
LOCAL = "http://localhost:9000"


def document(issuer: str = ISSUER, **members: Any) -> bytes:
    whole = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        **members,
    }
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def refusal(body: bytes, issuer: str = ISSUER, **more: Any) -> OAuthProblem:
    with pytest.raises(OAuthProblem) as caught:
        read_server(body, issuer, **more)
    return caught.value


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            "https://auth.example.com",
            (
                "https://auth.example.com/.well-known/oauth-authorization-server",
                "https://auth.example.com/.well-known/openid-configuration",
            ),
        ),
        (
            "https://auth.example.com/",
            (
                "https://auth.example.com/.well-known/oauth-authorization-server",
                "https://auth.example.com/.well-known/openid-configuration",
            ),
        ),
        (
            "https://auth.example.com/tenant1",
            (
                "https://auth.example.com/.well-known/oauth-authorization-server/tenant1",
                "https://auth.example.com/.well-known/openid-configuration/tenant1",
                "https://auth.example.com/tenant1/.well-known/openid-configuration",
            ),
        ),
        (
            "http://localhost:9000/a/b/",
            (
                "http://localhost:9000/.well-known/oauth-authorization-server/a/b",
                "http://localhost:9000/.well-known/openid-configuration/a/b",
                "http://localhost:9000/a/b/.well-known/openid-configuration",
            ),
        ),
    ],
)
def test_metadata_is_looked_for_in_the_order_of_the_specification(issuer: str, urls: tuple[str, ...]) -> None:
    assert metadata_urls(issuer) == urls


def test_the_older_revision_has_it_at_the_root_of_the_server() -> None:
    assert legacy_metadata_url(SERVER) == "https://mcp.example.com/.well-known/oauth-authorization-server"


@pytest.mark.parametrize("url", ["", "auth.example.com", "file:///etc/passwd", "https://a b"])
def test_what_is_no_web_address_has_no_metadata(url: str) -> None:
    for look in (metadata_urls, legacy_metadata_url, default_endpoints):
        with pytest.raises(OAuthProblem):
            look(url)


def test_metadata_is_read_with_all_that_matters() -> None:
    body = document(
        registration_endpoint=f"{ISSUER}/register",
        revocation_endpoint=f"{ISSUER}/revoke",
        scopes_supported=["openid", "offline_access"],
        token_endpoint_auth_methods_supported=["none"],
        grant_types_supported=["authorization_code", "refresh_token"],
        authorization_response_iss_parameter_supported=True,
        client_id_metadata_document_supported=True,
        jwks_uri="file:///etc/passwd",
    )
    assert read_server(body, ISSUER) == AuthServer(
        issuer=ISSUER,
        token_endpoint=f"{ISSUER}/token",
        authorization_endpoint=f"{ISSUER}/authorize",
        registration_endpoint=f"{ISSUER}/register",
        revocation_endpoint=f"{ISSUER}/revoke",
        scopes_supported=("openid", "offline_access"),
        auth_methods=("none",),
        grant_types=("authorization_code", "refresh_token"),
        iss_supported=True,
        client_id_metadata_supported=True,
    )


def test_what_is_absent_or_null_is_not_there() -> None:
    bare = AuthServer(issuer=ISSUER, token_endpoint=f"{ISSUER}/token", authorization_endpoint=f"{ISSUER}/authorize")
    assert read_server(document(), ISSUER) == bare
    nulls = document(
        registration_endpoint=None, scopes_supported=None, authorization_response_iss_parameter_supported=None
    )
    assert read_server(nulls, ISSUER) == bare


@pytest.mark.parametrize(
    "named",
    [
        "https://attacker.example.com",
        ISSUER + "/",
        "https://auth.example.com",
        "https://auth.example.com/Tenant1",
        "https://AUTH.example.com/tenant1",
        "HTTPS://auth.example.com/tenant1",
        "https://auth.example.com:443/tenant1",
        "https://auth.example.com/tenant%31",
        "https://auth.example.com/tenant1?",
        "https://auth.example.com/tenant1#",
        " " + ISSUER,
        "",
    ],
)
def test_an_issuer_that_is_not_the_same_to_the_letter_is_refused(named: str) -> None:
    problem = refusal(document(issuer=ISSUER).replace(f'"{ISSUER}"'.encode(), json.dumps(named).encode()))
    assert problem.kind == "refused"
    assert "issuer" in problem.message


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("https://auth.example.com", "https://auth.example.com/"),
        ("https://auth.example.com/", "https://auth.example.com"),
        ("https://auth.example.com:8443/", "https://auth.example.com:8443"),
        (LOCAL, LOCAL + "/"),
    ],
)
def test_the_slash_of_an_empty_path_is_no_other_issuer(asked: str, named: str) -> None:
    assert read_server(document(named), asked).issuer == named


@pytest.mark.parametrize(
    "named",
    [
        "https://auth.example.com//",
        "https://AUTH.example.com/",
        "https://auth.example.com:443/",
        "http://auth.example.com/",
        "https://auth.example.com/?",
        "https://auth.example.com/#",
        "https://x@auth.example.com/",
        "https://auth.example.com/a",
        "https://auth.example.com.",
    ],
)
def test_beyond_that_slash_a_bare_issuer_is_the_same_to_the_letter_too(named: str) -> None:
    for one, other in ((named, "https://auth.example.com"), ("https://auth.example.com", named)):
        assert not same_issuer(one, other)
        assert refusal(document(one, token_endpoint="https://a.example/t", authorization_endpoint=...), other)


def test_where_two_issuers_differ_both_are_shown_whole() -> None:
    message = refusal(document("https://auth.example.com/other?x=1"), ISSUER).message
    assert "names https://auth.example.com/other?... as its issuer" in message
    assert f"and {ISSUER} was asked" in message


@pytest.mark.parametrize("methods", [..., None, [], ["plain"], ["s256"], ["S256 "], ["plain", "RS256"]])
@pytest.mark.parametrize("legacy", [False, True])
def test_without_pkce_by_s256_there_is_no_login_in_either_revision(methods: Any, legacy: bool) -> None:
    problem = refusal(document(code_challenge_methods_supported=methods), legacy=legacy)
    assert problem.kind == "refused"
    assert "PKCE" in problem.message


def test_a_client_on_its_own_behalf_needs_neither_pkce_nor_a_login_page() -> None:
    body = document(code_challenge_methods_supported=..., authorization_endpoint=...)
    server = read_server(body, ISSUER, grant="client_credentials")
    assert (server.token_endpoint, server.authorization_endpoint) == (f"{ISSUER}/token", None)
    assert "authorization_endpoint" in refusal(body).message


HOSTILE_ENDPOINTS = [
    "javascript:alert(1)",
    "file:///etc/passwd",
    "data:text/html,x",
    "http://auth.example.com/x",
    "http://10.0.0.1/x",
    "https://bank.example@evil.example/x",
    "https://auth.example.com/x#fragment",
    "https://auth.example.com/x\r\nHost: evil",
    "https://auth.example.com/x y",
    "https://auth.example.com\\.evil.example/",
    "https://аuth.example.com/x",
    "https:///x",
    "https://",
    "//auth.example.com/x",
    "/authorize",
    "",
    "https://localhost/x",
    "http://127.0.0.1:631/x",
    "https://127.1/x",
    "https://2130706433/x",
    "https://169.254.169.254/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[::]/x",
    "https://auth.example.com:0/x",
    "https://auth.example.com:99999/x",
    "https://auth.example.com/" + "x" * 3000,
]


@pytest.mark.parametrize("url", HOSTILE_ENDPOINTS)
@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint"])
def test_an_endpoint_that_must_not_be_used_is_refused_with_the_whole_document(name: str, url: str) -> None:
    problem = refusal(document(**{name: url}))
    assert problem.kind == "refused"
    assert name in problem.message
    assert not url or url not in problem.message


@pytest.mark.parametrize("url", [*HOSTILE_ENDPOINTS, {}, 0, ["https://auth.example.com/x"]])
@pytest.mark.parametrize("name", ["registration_endpoint", "revocation_endpoint"])
def test_an_endpoint_that_a_login_can_do_without_counts_as_absent_and_says_why(name: str, url: Any) -> None:
    server = read_server(document(**{name: url}), ISSUER)
    assert getattr(server, name) is None
    assert [unusable.partition(":")[0] for unusable in server.unusable] == [name]
    assert not url or str(url) not in repr(server.unusable)


@pytest.mark.parametrize("url", HOSTILE_ENDPOINTS)
def test_a_client_on_its_own_behalf_is_not_refused_for_a_login_page(url: str) -> None:
    server = read_server(document(authorization_endpoint=url), ISSUER, grant="client_credentials")
    assert (server.authorization_endpoint, server.token_endpoint) == (None, f"{ISSUER}/token")


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example.net/authorize",
        "https://auth.example.com/authorize?tenant=1",
        "https://auth.example.com:8443/a",
        "https://auth.example.com/$(id)",
    ],
)
def test_an_endpoint_may_be_elsewhere_on_the_internet_and_have_a_query(url: str) -> None:
    assert read_server(document(authorization_endpoint=url), ISSUER).authorization_endpoint == url


def test_only_who_is_on_this_machine_has_endpoints_on_it() -> None:
    assert read_server(document(LOCAL), LOCAL).token_endpoint == f"{LOCAL}/token"
    assert refusal(document(token_endpoint="https://localhost/token")).kind == "refused"


@pytest.mark.parametrize(
    "members",
    [
        {"issuer": None},
        {"issuer": 1},
        {"issuer": [ISSUER]},
        {"token_endpoint": None},
        {"token_endpoint": ["https://a/"]},
        {"authorization_endpoint": None},
        {"authorization_endpoint": True},
        {"code_challenge_methods_supported": "S256"},
        {"code_challenge_methods_supported": {"S256": True}},
        {"code_challenge_methods_supported": ["S256", 1]},
    ],
)
def test_members_that_are_missing_or_of_a_wrong_type_are_refused(members: dict[str, Any]) -> None:
    assert refusal(document(**members)).kind == "refused"


@pytest.mark.parametrize("wrong", ["a b", True, 5, {}, {"a": 1}])
def test_members_that_nobody_needs_and_that_are_malformed_count_as_absent(wrong: Any) -> None:
    names = (
        "scopes_supported",
        "token_endpoint_auth_methods_supported",
        "grant_types_supported",
        "client_id_metadata_document_supported",
        "ui_locales_supported",
    )
    for name in names[: 3 if wrong is True else None]:
        assert read_server(document(**{name: wrong}), ISSUER) == read_server(document(), ISSUER)
    found = read_server(document(scopes_supported=["a", wrong, "b"], grant_types_supported=[None, wrong]), ISSUER)
    assert found.scopes_supported == ("a", "b")
    assert found.grant_types == (() if wrong != "a b" else ("a b",))


@pytest.mark.parametrize("wrong", ["true", 1, 0, [], {}, "false"])
def test_a_promise_of_iss_that_is_malformed_is_kept_to(wrong: Any) -> None:
    assert read_server(document(authorization_response_iss_parameter_supported=wrong), ISSUER).iss_supported


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>Not Found</html>", b"\xff\xfe", b"[" * 200_000])
def test_what_is_no_json_object_is_no_statement_of_the_server(body: bytes) -> None:
    assert refusal(body).kind == "outage"


def test_a_document_that_is_too_large_is_refused_unread() -> None:
    assert refusal(document(x="x" * MAX_DOCUMENT_BYTES)).kind == "refused"


@pytest.mark.parametrize(
    "named", ["https://mcp.example.com", "https://mcp.example.com/", "https://mcp.example.com/oauth"]
)
def test_in_the_older_revision_the_issuer_may_be_anything_on_the_origin_of_the_server(named: str) -> None:
    assert read_server(document(named), SERVER, legacy=True).issuer == named
    assert "issuer" in refusal(document(named), "https://mcp.example.com/other").message


@pytest.mark.parametrize(
    "named",
    [
        "https://attacker.example.com",
        "https://mcp.example.com:8443",
        "http://mcp.example.com",
        "https://evil.mcp.example.com",
        "https://x@mcp.example.com",
        "https://mcp.example.com/?x",
        "https://mcp.example.com/#x",
    ],
)
def test_in_the_older_revision_the_issuer_may_be_nobody_else(named: str) -> None:
    assert "issuer" in refusal(document(named), SERVER, legacy=True).message


def test_without_any_metadata_the_older_revision_assumes_endpoints_at_the_root() -> None:
    assert default_endpoints("https://MCP.example.com:443/v1/mcp?key=s3cret") == AuthServer(
        issuer="https://mcp.example.com",
        authorization_endpoint="https://mcp.example.com/authorize",
        token_endpoint="https://mcp.example.com/token",
        registration_endpoint="https://mcp.example.com/register",
    )
    assert default_endpoints("http://127.0.0.1:8000/mcp").token_endpoint == "http://127.0.0.1:8000/token"


def test_endpoints_are_not_assumed_where_anyone_may_read_along() -> None:
    with pytest.raises(OAuthProblem, match="not https"):
        default_endpoints("http://mcp.example.com/mcp")


def test_endpoints_of_the_configuration_are_taken_as_they_are() -> None:
    config = ClientConfig(auth_url="https://a.example/auth", token_url="http://10.0.0.1/token")
    assert manual_endpoints(config) == AuthServer(
        issuer="http://10.0.0.1/token",
        authorization_endpoint="https://a.example/auth",
        token_endpoint="http://10.0.0.1/token",
        manual=True,
    )
    with pytest.raises(OAuthProblem, match="token_url"):
        manual_endpoints(ClientConfig(auth_url="https://a.example/auth"))


NAMES = [*json.loads(document()), "registration_endpoint", "scopes_supported", "client_id_metadata_document_supported"]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([ISSUER, *HOSTILE_ENDPOINTS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.binary(max_size=200)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, JSON)).map(lambda changed: document(**changed)),
    st.sampled_from([ISSUER, LOCAL]) | st.text(),
    st.booleans(),
)
def test_no_document_raises_anything_else(body: bytes, issuer: str, legacy: bool) -> None:
    outcome = read_or_problem(body, issuer, legacy)
    if isinstance(outcome, OAuthProblem):
        assert len(outcome.message) < 500
        assert outcome.message.isprintable()
    else:
        assert legacy or same_issuer(outcome.issuer, issuer)


def read_or_problem(body: bytes, issuer: str, legacy: bool) -> AuthServer | OAuthProblem:
    try:
        return read_server(body, issuer, legacy=legacy)
    except OAuthProblem as problem:
        return problem
