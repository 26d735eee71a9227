from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.oauth.documents import MAX_DOCUMENT_BYTES
from moltis.oauth.model import Challenge, OAuthProblem, ProtectedResource
from moltis.oauth.resource import MAX_AUTHORIZATION_SERVERS, metadata_urls, read_resource

URL = "https://mcp.example.com/v1/mcp"
AS = "https://auth.example.com"
WELL_KNOWN = "https://mcp.example.com/.well-known/oauth-protected-resource"


def read(server_url: str = URL, **members: Any) -> ProtectedResource:
    document = {"resource": server_url, "authorization_servers": [AS], **members}
    return read_resource(json.dumps(document).encode(), server_url)


def refusal(body: bytes, server_url: str = URL) -> OAuthProblem:
    with pytest.raises(OAuthProblem) as caught:
        read_resource(body, server_url)
    return caught.value


def named(url: str) -> Challenge:
    return Challenge(resource_metadata=url)


@pytest.mark.parametrize(
    ("server_url", "challenge", "urls"),
    [
        (URL, None, (f"{WELL_KNOWN}/v1/mcp", WELL_KNOWN)),
        (URL, Challenge(scope="r"), (f"{WELL_KNOWN}/v1/mcp", WELL_KNOWN)),
        ("https://MCP.example.com:443", None, (WELL_KNOWN,)),
        ("https://mcp.example.com/", None, (WELL_KNOWN,)),
        ("https://mcp.example.com/mcp/", None, (f"{WELL_KNOWN}/mcp/", WELL_KNOWN)),
        ("https://user:pw@mcp.example.com/mcp?api_key=s3cret#x", None, (f"{WELL_KNOWN}/mcp", WELL_KNOWN)),
        (URL, named(f"{WELL_KNOWN}/v1/mcp"), (f"{WELL_KNOWN}/v1/mcp", WELL_KNOWN)),
        (URL, named(WELL_KNOWN), (WELL_KNOWN, f"{WELL_KNOWN}/v1/mcp")),
        (URL, named("https://meta.example.net/x"), ("https://meta.example.net/x", f"{WELL_KNOWN}/v1/mcp", WELL_KNOWN)),
        # A server far away names what listens on this machine.
        (URL, named("https://localhost/x"), (f"{WELL_KNOWN}/v1/mcp", WELL_KNOWN)),
        (URL, named("http://127.0.0.1:631/x"), (f"{WELL_KNOWN}/v1/mcp", WELL_KNOWN)),
    ],
)
def test_metadata_is_looked_for_where_the_challenge_says_then_below_the_path_then_at_the_root(
    server_url: str, challenge: Challenge | None, urls: tuple[str, ...]
) -> None:
    assert metadata_urls(server_url, challenge) == urls


def test_a_server_on_this_machine_names_metadata_on_its_own_origin_only() -> None:
    own, other = "http://127.0.0.1:8000/custom.json", "http://127.0.0.1:9000/admin"
    assert metadata_urls("http://127.0.0.1:8000/mcp", named(own))[0] == own
    assert other not in metadata_urls("http://127.0.0.1:8000/mcp", named(other))
    assert "http://localhost:8000/x" not in metadata_urls("http://127.0.0.1:8000/mcp", named("http://localhost:8000/x"))


@pytest.mark.parametrize("url", ["", "mcp.example.com", "ftp://x/", "https://a b/"])
def test_a_server_that_has_no_web_address_has_no_metadata(url: str) -> None:
    with pytest.raises(OAuthProblem):
        metadata_urls(url, None)
    assert refusal(b'{"resource": "https://a/"}', url).kind == "refused"


@pytest.mark.parametrize(
    ("server_url", "resource"),
    [
        (URL, URL),
        (URL, "https://mcp.example.com/v1/mcp/"),
        (URL, "https://mcp.example.com/v1"),
        (URL, "https://mcp.example.com/"),
        (URL, "https://mcp.example.com"),
        (URL, "HTTPS://MCP.Example.Com:443/v1/mcp"),
        ("https://mcp.example.com/mcp/", "https://mcp.example.com/mcp"),
        ("https://mcp.example.com/mcp?tenant=1", "https://mcp.example.com/mcp"),
        ("https://mcp.example.com/mcp?tenant=1", "https://mcp.example.com/mcp?tenant=1"),
        ("http://localhost:8000/mcp", "http://localhost:8000/mcp"),
    ],
)
def test_metadata_about_the_server_or_what_contains_it_is_believed_and_kept_to_the_letter(
    server_url: str, resource: str
) -> None:
    body = json.dumps({"resource": resource, "authorization_servers": [AS]}).encode()
    assert read_resource(body, server_url) == ProtectedResource(resource=resource, authorization_servers=(AS,))


@pytest.mark.parametrize(
    "resource",
    [
        "https://evil.example.com/mcp",
        "https://mcp.example.com.evil.example/v1/mcp",
        "https://mcp.example.com:8443/v1/mcp",
        "http://mcp.example.com/v1/mcp",
        "https://mcp.example.com/v1/mcp/deeper",
        "https://mcp.example.com/v1/mc",
        "https://mcp.example.com/v",
        "https://mcp.example.com/V1/mcp",
        "https://mcp.example.com/v1/../v1/mcp",
        "https://mcp.example.com/v1%2Fmcp",
        "https://mcp.example.com/v1/mcp?tenant=2",
        "https://mcp.example.com/v1/mcp#x",
        "https://evil@mcp.example.com/v1/mcp",
        "https://mcp.example.com\\@evil.example/v1/mcp",
        "urn:mcp",
        "mcp.example.com",
        "",
        "https://mcp.example.com/v1/mcp" + " ",
        "https://мср.example.com/v1/mcp",
    ],
)
def test_metadata_about_another_resource_is_refused(resource: str) -> None:
    problem = refusal(json.dumps({"resource": resource, "authorization_servers": [AS]}).encode())
    assert problem.kind == "refused"
    assert "about another resource" in problem.message
    assert problem.message.isascii()
    assert problem.message.isprintable()


def test_a_server_and_a_resource_that_differ_by_little_are_both_shown() -> None:
    message = refusal(
        json.dumps({"resource": "http://mcp.example.com/v1/mcp", "authorization_servers": [AS]}).encode()
    ).message
    assert "it says http://mcp.example.com/v1/mcp, and url in moltis.toml is https://mcp.example.com/v1/mcp" in message


@pytest.mark.parametrize(
    ("listed", "read_as"), [("read", None), (True, None), ({}, None), (["a", 1, None, "b"], ("a", "b")), ([["a"]], ())]
)
def test_scopes_that_are_malformed_count_as_absent_and_a_list_keeps_its_strings(listed: Any, read_as: Any) -> None:
    assert read(scopes_supported=listed).scopes_supported == read_as


def test_a_resource_that_no_request_has_room_for_is_refused() -> None:
    long = URL + "?" + "x" * 3000
    assert refusal(json.dumps({"resource": long, "authorization_servers": [AS]}).encode(), long).kind == "refused"


@pytest.mark.parametrize("resource", ["https://canary@evil.example/other?canary#canary", URL, "canary", None])
def test_no_user_name_query_or_fragment_of_an_address_is_in_a_message(resource: str | None) -> None:
    server_url = "https://canary:canary@mcp.example.com/v1/mcp?key=canary"
    body = json.dumps({"resource": resource, "authorization_servers": ["http://x.example/canary"]}).encode()
    assert "canary" not in refusal(body, server_url).message


@pytest.mark.parametrize(
    "members",
    [
        {"resource": None},
        {"resource": 1},
        {"resource": [URL]},
        {"resource": {"url": URL}},
        {"authorization_servers": None},
        {"authorization_servers": []},
        {"authorization_servers": AS},
        {"authorization_servers": [1]},
        {"authorization_servers": [AS, None]},
        {"authorization_servers": {"0": AS}},
    ],
)
def test_members_that_are_missing_or_of_a_wrong_type_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(OAuthProblem) as caught:
        read(**members)
    assert caught.value.kind == "refused"


@pytest.mark.parametrize(
    "issuer",
    [
        "http://auth.example.com",
        "https://user:pw@auth.example.com",
        "https://auth.example.com/?tenant=1",
        "https://auth.example.com/#x",
        "https://localhost:9000",
        "https://127.0.0.1",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]",
        "https://0.0.0.0",
        "https://169.254.169.254",
        "https://2130706433",
        "https://127.1",
        "https://0x7f.0.0.1",
        "javascript:alert(1)",
        "auth.example.com",
        "",
        "https://a\nb",
        "https://" + "a" * 2100,
    ],
)
def test_an_authorization_server_that_may_not_be_used_is_left_out(issuer: str) -> None:
    with pytest.raises(OAuthProblem, match="no authorization server"):
        read(authorization_servers=[issuer])
    assert read(authorization_servers=[issuer, AS]).authorization_servers == (AS,)


def test_a_server_on_this_machine_may_name_an_authorization_server_on_it() -> None:
    read_one = read("http://127.0.0.1:8000/mcp", authorization_servers=["http://localhost:9000/tenant"])
    assert read_one.authorization_servers == ("http://localhost:9000/tenant",)


def test_authorization_servers_keep_their_order_each_once_and_not_without_end() -> None:
    many = [f"https://as{n}.example.com" for n in range(100)]
    assert read(authorization_servers=[many[1], many[0], many[1]]).authorization_servers == (many[1], many[0])
    assert read(authorization_servers=many).authorization_servers == tuple(many[:MAX_AUTHORIZATION_SERVERS])


def test_scopes_are_taken_as_listed() -> None:
    assert read(scopes_supported=["b", "a", "b", "c d", "né"]).scopes_supported == ("b", "a", "c", "d")
    assert read(scopes_supported=[]).scopes_supported == ()
    assert read().scopes_supported is None
    assert read(scopes_supported=None).scopes_supported is None


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"x"', b"<!doctype html>", b"\xff", b"{" * 9000, b"[" * 200_000, b'{"resource":']
)
def test_what_is_no_json_object_is_no_statement_of_the_server(body: bytes) -> None:
    assert refusal(body).kind == "outage"


def test_a_document_that_is_too_large_is_refused_unread() -> None:
    body = json.dumps({"resource": URL, "authorization_servers": [AS], "x": "x" * MAX_DOCUMENT_BYTES}).encode()
    assert refusal(body).kind == "refused"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.binary(max_size=200)
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("resource", "authorization_servers", "scopes_supported"), JSON)
    ).map(lambda document: json.dumps(document).encode()),
    st.sampled_from([URL, "http://localhost:1/", "not a url"]) | st.text(),
)
def test_no_document_raises_anything_else(body: bytes, server_url: str) -> None:
    outcome = read_or_problem(body, server_url)
    if isinstance(outcome, OAuthProblem):
        assert len(outcome.message) < 500
        assert outcome.message.isprintable()


def read_or_problem(body: bytes, server_url: str) -> ProtectedResource | OAuthProblem:
    try:
        return read_resource(body, server_url)
    except OAuthProblem as problem:
        return problem
