from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.oauth.documents import MAX_DOCUMENT_BYTES
from moltis.oauth.model import AuthServer, Client, ClientConfig, OAuthProblem
from moltis.oauth.registration import Register, choose_client, read_registration, registration_request

REDIRECT = "http://127.0.0.1:43210/callback"
DOCUMENT = "https://moltis.example/client.json"
NOW = 1_800_000_000.0
SECRET = "s3cr3t-canary"
KEY = "-----BEGIN PRIVATE KEY-----"


def server(**more: Any) -> AuthServer:
    return AuthServer(issuer="https://auth.example.com", token_endpoint="https://auth.example.com/token", **more)


REGISTERS = server(registration_endpoint="https://auth.example.com/register", client_id_metadata_supported=True)
KNOWN = Client(client_id="known", redirect_uri=REDIRECT)


def choose(
    config: ClientConfig, at: AuthServer = REGISTERS, known: Client | None = None, redirect_uri: str = REDIRECT
) -> Client | Register:
    return choose_client(config, at, known, redirect_uri, NOW)


def answer(members: dict[str, Any]) -> bytes:
    document = {"client_id": "c1", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", **members}
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


def read(status: int = 201, at: AuthServer = REGISTERS, **members: Any) -> Client:
    return read_registration(status, answer(members), server=at, redirect_uri=REDIRECT, now=NOW)


def refusal(status: int = 201, body: bytes | None = None, **members: Any) -> OAuthProblem:
    outcome = read_or_problem(status, answer(members) if body is None else body)
    assert isinstance(outcome, OAuthProblem)
    assert SECRET not in outcome.message
    return outcome


def read_or_problem(status: int, body: bytes) -> Client | OAuthProblem:
    try:
        return read_registration(status, body, server=REGISTERS, redirect_uri=REDIRECT, now=NOW, retry_after_secs=7.0)
    except OAuthProblem as problem:
        return problem


def test_who_is_configured_is_that_whatever_else_there_is() -> None:
    config = ClientConfig(client_id="mine", client_metadata_url=DOCUMENT)
    assert choose(config, known=KNOWN) == Client(client_id="mine", source="configured")


def test_then_comes_a_document_of_our_own_where_it_is_understood() -> None:
    config = ClientConfig(client_metadata_url=DOCUMENT)
    assert choose(config, known=KNOWN) == Client(client_id=DOCUMENT, source="metadata_document")
    assert choose(config, server(registration_endpoint="https://auth.example.com/r"), KNOWN) == KNOWN


def test_then_what_is_known_then_a_registration() -> None:
    assert choose(ClientConfig(), known=KNOWN) == KNOWN
    assert choose(ClientConfig()) == Register("https://auth.example.com/register")


def test_without_any_way_the_remedy_is_named() -> None:
    with pytest.raises(OAuthProblem) as caught:
        choose(ClientConfig(), server())
    for hint in ("auth.example.com", "oauth.client_id", "oauth.callback_port", "http://127.0.0.1:PORT/callback"):
        assert hint in caught.value.message
    with pytest.raises(OAuthProblem, match=r"43210/callback.*oauth\.callback_port = 43210"):
        choose(ClientConfig(callback_port=43210), server())
    with pytest.raises(OAuthProblem, match="names a registration_endpoint: its address is not https: register one"):
        choose(ClientConfig(), server(unusable=("registration_endpoint: its address is not https",)))
    with pytest.raises(OAuthProblem, match=r"register itself at auth\.example\.com is not known"):
        choose(ClientConfig(), server(manual=True))
    assert caught.value.kind == "refused"


@pytest.mark.parametrize(
    ("known", "serves"),
    [
        (Client(client_id="k", redirect_uri=REDIRECT, secret_expires_at=None), True),
        (Client(client_id="k", redirect_uri=REDIRECT, secret_expires_at=0), True),
        (Client(client_id="k", redirect_uri=REDIRECT, secret_expires_at=NOW + 3600), True),
        (Client(client_id="k", redirect_uri=REDIRECT, secret_expires_at=NOW + 60), False),
        (Client(client_id="k", redirect_uri=REDIRECT, secret_expires_at=NOW - 1), False),
        (Client(client_id="k", redirect_uri="http://127.0.0.1:1/callback"), False),
        (Client(client_id="k", redirect_uri=None), False),
        # What is in moltis.toml no more is not used any more.
        (Client(client_id="k", redirect_uri=REDIRECT, source="configured"), False),
        (Client(client_id="k", redirect_uri=REDIRECT, source="metadata_document"), False),
    ],
)
def test_a_registration_serves_while_it_is_valid_for_its_redirect_uri(known: Client, serves: bool) -> None:
    assert choose(ClientConfig(), known=known) == (known if serves else Register("https://auth.example.com/register"))


@pytest.mark.parametrize(
    ("listed", "method"),
    [
        (None, "client_secret_basic"),
        (("client_secret_post", "client_secret_basic"), "client_secret_basic"),
        (("client_secret_post",), "client_secret_post"),
        (("none",), "client_secret_basic"),
        ((), "client_secret_basic"),
        (("private_key_jwt", "client_secret_post", "none"), "client_secret_post"),
    ],
)
def test_a_configured_secret_is_used_as_the_server_says(listed: tuple[str, ...] | None, method: str) -> None:
    client = choose(ClientConfig(client_id="mine", client_secret=SECRET), server(auth_methods=listed))
    assert isinstance(client, Client)
    assert (client.auth_method, client.client_secret) == (method, SECRET)
    assert SECRET not in repr(client)


@pytest.mark.parametrize("listed", [None, ("client_secret_basic",), ("none",)])
def test_a_configured_client_without_a_secret_has_none(listed: tuple[str, ...] | None) -> None:
    client = choose(ClientConfig(client_id="mine"), server(auth_methods=listed))
    assert client == Client(client_id="mine", source="configured")


def test_a_key_is_preferred_to_a_secret_which_is_then_not_used() -> None:
    client = choose(ClientConfig(client_id="mine", client_secret=SECRET, private_key=KEY))
    expected = Client(client_id="mine", private_key=KEY, auth_method="private_key_jwt", source="configured")
    assert client == expected
    of_document = choose(ClientConfig(client_metadata_url=DOCUMENT, private_key=KEY))
    assert isinstance(of_document, Client)
    assert (of_document.auth_method, of_document.private_key) == ("private_key_jwt", KEY)


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        (ClientConfig(grant="client_credentials"), "client_id"),
        (ClientConfig(grant="client_credentials", client_metadata_url=DOCUMENT), "client_id"),
        (ClientConfig(grant="client_credentials", client_id="mine"), "client_secret"),
    ],
)
def test_a_client_on_its_own_behalf_must_be_configured_whole(config: ClientConfig, missing: str) -> None:
    with pytest.raises(OAuthProblem, match=missing):
        choose(config, known=KNOWN)


@pytest.mark.parametrize(
    "url",
    [
        "http://moltis.example/client.json",
        "http://127.0.0.1/client.json",
        "https://moltis.example",
        "https://moltis.example/",
        "https://moltis.example/a/../client.json",
        "https://u@moltis.example/client.json",
        "https://moltis.example/client.json#x",
        "not a url",
        "",
    ],
)
def test_a_document_of_our_own_is_at_an_https_url_with_a_path(url: str) -> None:
    with pytest.raises(OAuthProblem, match="client_metadata_url"):
        choose(ClientConfig(client_metadata_url=url))


def test_a_registration_asks_for_a_native_client_with_one_redirect_uri() -> None:
    assert json.loads(registration_request(server(), redirect_uri=REDIRECT, scope="a b")) == {
        "client_name": "moltis",
        "application_type": "native",
        "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "scope": "a b",
    }


@pytest.mark.parametrize(
    ("listed", "method"),
    [
        (None, "client_secret_basic"),
        (("none",), "none"),
        (("client_secret_basic", "client_secret_post", "none"), "none"),
        (("client_secret_post", "client_secret_basic"), "client_secret_basic"),
        (("client_secret_post",), "client_secret_post"),
        (("private_key_jwt", "tls_client_auth"), "none"),
    ],
)
def test_a_registration_asks_for_the_least_that_the_server_lists(listed: tuple[str, ...] | None, method: str) -> None:
    asked = json.loads(registration_request(server(auth_methods=listed), redirect_uri=REDIRECT, scope=None))
    assert asked["token_endpoint_auth_method"] == method
    assert "scope" not in asked


@pytest.mark.parametrize(
    ("listed", "grants"),
    [
        (("authorization_code",), ["authorization_code"]),
        (("authorization_code", "refresh_token"), ["authorization_code", "refresh_token"]),
        ((), ["authorization_code"]),
    ],
)
def test_a_registration_asks_for_refreshing_unless_it_is_not_offered(
    listed: tuple[str, ...], grants: list[str]
) -> None:
    asked = json.loads(registration_request(server(grant_types=listed), redirect_uri=REDIRECT, scope=None))
    assert asked["grant_types"] == grants


def test_a_registered_client_is_read() -> None:
    assert read() == Client(client_id="c1", redirect_uri=REDIRECT)
    assert read(200, client_secret=SECRET, token_endpoint_auth_method="client_secret_post") == Client(
        client_id="c1", client_secret=SECRET, auth_method="client_secret_post", redirect_uri=REDIRECT
    )


def test_a_secret_that_is_not_needed_is_not_kept() -> None:
    assert read(client_secret=SECRET) == Client(client_id="c1", redirect_uri=REDIRECT)


@pytest.mark.parametrize(
    ("listed", "secret", "method"),
    [
        (None, SECRET, "client_secret_basic"),
        (None, ..., "none"),
        (("none",), SECRET, "none"),
        (("client_secret_post",), SECRET, "client_secret_post"),
        (("none", "client_secret_basic"), SECRET, "client_secret_basic"),
        (("client_secret_post",), "", "none"),
    ],
)
def test_where_the_method_is_left_out_a_secret_is_for_use_if_that_is_offered(
    listed: tuple[str, ...] | None, secret: Any, method: str
) -> None:
    client = read(at=server(auth_methods=listed), client_secret=secret, token_endpoint_auth_method=...)
    assert client.auth_method == method
    assert client.client_secret == (SECRET if method != "none" else None)


@pytest.mark.parametrize(
    ("expires", "kept"), [(..., None), (None, None), (0, None), (0.0, None), (NOW + 3600, NOW + 3600), (10**400, 1e12)]
)
def test_when_a_secret_ends_is_kept(expires: Any, kept: float | None) -> None:
    client = read(
        client_secret=SECRET, token_endpoint_auth_method="client_secret_basic", client_secret_expires_at=expires
    )
    assert client.secret_expires_at == kept


@pytest.mark.parametrize(
    "members",
    [
        {"client_id": ...},
        {"client_id": None},
        {"client_id": ""},
        {"client_id": 7},
        {"client_id": ["c1"]},
        {"client_id": "a\r\nHost: evil"},
        {"client_id": "né"},
        {"client_id": "x" * 3000},
        {"redirect_uris": ["https://evil.example/callback"]},
        {"redirect_uris": [REDIRECT + "/"]},
        {"redirect_uris": []},
        {"redirect_uris": [1]},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"token_endpoint_auth_method": "tls_client_auth"},
        {"token_endpoint_auth_method": "client_secret_basic", "client_secret": SECRET + "\n"},
        {"token_endpoint_auth_method": "client_secret_basic", "client_secret": "x" * 5000},
        {"token_endpoint_auth_method": "client_secret_basic", "client_secret": 5},
    ],
)
def test_a_client_that_cannot_be_used_is_refused(members: dict[str, Any]) -> None:
    assert refusal(**members).kind == "refused"


@pytest.mark.parametrize("members", [{}, {"client_secret": ""}, {"client_secret": None}])
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_client_that_is_given_no_secret_has_none_whatever_method_is_repeated(
    method: str, members: dict[str, Any]
) -> None:
    client = read(token_endpoint_auth_method=method, **members)
    assert (client.client_id, client.auth_method, client.client_secret) == ("c1", "none", None)


@pytest.mark.parametrize(
    ("expires", "said"),
    [
        *((at, "expired already") for at in (NOW - 1, NOW, NOW + 60, -1)),
    ],
)
def test_a_secret_that_has_ended_or_ends_nobody_knows_when_is_refused(expires: Any, said: str) -> None:
    members: dict[str, Any] = {"client_secret": SECRET, "token_endpoint_auth_method": "client_secret_basic"}
    assert said in refusal(**members, client_secret_expires_at=expires).message


@pytest.mark.parametrize("expires", [True, False, "0", "tomorrow", [0], {}, 0, 0.0, None])
def test_a_secret_whose_end_is_not_said_or_illegible_is_tried(expires: Any) -> None:
    members: dict[str, Any] = {"client_secret": SECRET, "token_endpoint_auth_method": "client_secret_basic"}
    assert read(**members, client_secret_expires_at=expires).secret_expires_at is None


@pytest.mark.parametrize("given", [..., None, REDIRECT, {}, 5])
def test_redirect_uris_that_are_not_repeated_are_taken_as_asked(given: Any) -> None:
    assert read(redirect_uris=given).redirect_uri == REDIRECT


@pytest.mark.parametrize("method", [1, ["none"], {}])
def test_a_method_that_is_malformed_counts_as_left_out(method: Any) -> None:
    assert read(token_endpoint_auth_method=method, client_secret=...).auth_method == "none"


@pytest.mark.parametrize(
    ("wanted", "given", "denied"),
    [
        ("a b offline_access", "a b", ("offline_access",)),
        ("a b", "b a c", ()),
        ("a", ..., ()),
        ("a", None, ()),
        ("a", "", ()),
        ("a", ["b"], ()),
        (None, "a", ()),
    ],
)
def test_what_a_client_is_not_registered_for_is_known(wanted: str | None, given: Any, denied: tuple[str, ...]) -> None:
    document = {"client_id": "c1", "scope": given}
    body = json.dumps({name: value for name, value in document.items() if value is not ...}).encode()
    client = read_registration(201, body, server=server(), redirect_uri=REDIRECT, now=NOW, scope=wanted)
    assert client.scopes_denied == denied


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, b'{"error": "invalid_redirect_uri"}', "denied", "invalid_redirect_uri"),
        (401, b'{"error": "invalid_token", "error_description": "s3cr3t-canary"}', "denied", "invalid_token"),
        (400, b'{"error": "s3cr3t-canary in a sentence"}', "refused", None),
        (400, b'{"error": ["x"]}', "refused", None),
        (403, b"<html>s3cr3t-canary</html>", "refused", None),
        (404, b"", "refused", None),
        (302, b"", "refused", None),
        (429, b'{"error": "slow_down"}', "outage", None),
        (500, b'{"error": "invalid_client_metadata"}', "outage", None),
        (503, b"", "outage", None),
        (201, b"<html></html>", "outage", None),
        (201, b"", "outage", None),
        (201, b"[]", "outage", None),
        (201, b"[" * 200_000, "outage", None),
        (201, b" " * (MAX_DOCUMENT_BYTES + 1), "refused", None),
    ],
)
def test_a_registration_that_fails_says_whose_fault_it_is(status: int, body: bytes, kind: str, code: str) -> None:
    problem = refusal(status, body)
    assert (problem.kind, problem.code) == (kind, code)
    if status in (429, 500, 503):
        assert problem.retry_after_secs == 7.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = (
    "client_id",
    "client_secret",
    "client_secret_expires_at",
    "redirect_uris",
    "token_endpoint_auth_method",
    "error",
)


@given(
    st.integers(100, 599) | st.just(201),
    st.binary(max_size=200)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(MEMBERS, JSON)).map(
        lambda members: json.dumps(members).encode()
    ),
)
def test_no_answer_raises_anything_else(status: int, body: bytes) -> None:
    outcome = read_or_problem(status, body)
    if isinstance(outcome, OAuthProblem):
        assert len(outcome.message) < 500
        assert outcome.message.isprintable()
