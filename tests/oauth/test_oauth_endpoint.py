"""What is said to a token endpoint, how, and what its answers mean: against a scripted one on 127.0.0.1."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import anyio
import anyio.abc
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from patience import PATIENCE

from moltis.http.addresses import Scope
from moltis.http.fetch import Answer, Fetcher
from moltis.oauth.endpoint import FORM, TokenEndpoint, prepare
from moltis.oauth.model import AuthServer, Client, OAuthProblem, Tokens

NOW = 1_000_000.0
RESOURCE = "https://mcp.example.com/mcp"
TOKENS = Tokens(access_token="access-canary", refresh_token="refresh-canary", scope="a b", obtained_at=NOW - 9)
GRANTED = {"access_token": "new-access", "token_type": "Bearer", "expires_in": 60, "refresh_token": "new-refresh"}
SECRETS = ("canary", "new-access", "new-refresh")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- the other side


@dataclass
class Request:
    """What arrived."""

    line: str
    headers: dict[str, str]
    body: str

    @property
    def form(self) -> dict[str, str]:
        pairs = parse_qsl(self.body, keep_blank_values=True, strict_parsing=True)
        assert len(dict(pairs)) == len(pairs), "no parameter twice (RFC 6749 section 3.2)"
        return dict(pairs)


@dataclass
class Server:
    """A token endpoint that answers what it is told to, and takes down what it was asked."""

    port: int = 0
    answer: bytes = b""
    requests: list[Request] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def says(self, status: int, body: object, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.answer = "\r\n".join([*lines, "", ""]).encode() + data

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                received += await stream.receive()
            head, _, body = received.partition(b"\r\n\r\n")
            line, *rest = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
            while len(body) < int(headers.get("content-length", "0")):
                body += await stream.receive()
            self.requests.append(Request(line, headers, body.decode()))
            if not self.answer:
                await anyio.sleep_forever()
            # Whoever has read enough may hang up.
            with suppress(anyio.BrokenResourceError):
                await stream.send(self.answer)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    server.says(200, GRANTED)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


def endpoint_of(server: Server, client: Client, *, total_secs: float = PATIENCE, **more: Any) -> TokenEndpoint:
    metadata = AuthServer(
        issuer="https://as.example.com",
        token_endpoint=f"{server.origin}/token?tenant=1",
        revocation_endpoint=f"{server.origin}/revoke",
    )
    fetcher = Fetcher(None, frozenset({Scope.LOOPBACK}), total_secs=total_secs)
    return TokenEndpoint(fetcher, msgspec.structs.replace(metadata, **more), client, wall=lambda: NOW)


PUBLIC = Client(client_id="me")
BASIC = Client(client_id="me", client_secret="secret-canary", auth_method="client_secret_basic")
POSTED = Client(client_id="me", client_secret="secret-canary", auth_method="client_secret_post")

Ask = Callable[[TokenEndpoint], Any]
EXCHANGE: Ask = lambda endpoint: endpoint.exchange(  # noqa: E731
    "code-canary", "verifier-canary", "http://127.0.0.1:1/callback", RESOURCE, asked_scope="x"
)
REFRESH: Ask = lambda endpoint: endpoint.refresh(TOKENS, RESOURCE)  # noqa: E731
FOR_OURSELVES: Ask = lambda endpoint: endpoint.client_credentials("x y", RESOURCE)  # noqa: E731

GRANTS: dict[str, tuple[Ask, dict[str, str]]] = {
    "exchange": (
        EXCHANGE,
        {
            "grant_type": "authorization_code",
            "code": "code-canary",
            "code_verifier": "verifier-canary",
            "redirect_uri": "http://127.0.0.1:1/callback",
            "resource": RESOURCE,
        },
    ),
    "refresh": (REFRESH, {"grant_type": "refresh_token", "refresh_token": "refresh-canary", "resource": RESOURCE}),
    "client_credentials": (
        FOR_OURSELVES,
        {"grant_type": "client_credentials", "scope": "x y", "resource": RESOURCE},
    ),
}
every_grant = pytest.mark.parametrize(("ask", "form"), GRANTS.values(), ids=GRANTS)


# --- what is sent


@every_grant
@pytest.mark.parametrize(
    ("client", "added"),
    [
        pytest.param(PUBLIC, {"client_id": "me"}, id="none"),
        pytest.param(POSTED, {"client_id": "me", "client_secret": "secret-canary"}, id="client_secret_post"),
        pytest.param(BASIC, {}, id="client_secret_basic"),
    ],
)
async def test_each_grant_is_asked_for_in_one_post_that_says_the_resource(
    ask: Ask, form: dict[str, str], client: Client, added: dict[str, str]
) -> None:
    async with serving() as server:
        tokens = await ask(endpoint_of(server, client))
    [request] = server.requests
    assert request.line == "POST /token?tenant=1 HTTP/1.1"
    assert request.form == {**form, **added}
    assert request.headers["content-type"] == FORM
    assert request.headers["accept"] == "application/json"
    if client is BASIC:
        assert request.headers["authorization"] == "Basic " + base64.b64encode(b"me:secret-canary").decode()
    else:
        assert "authorization" not in request.headers
    assert (tokens.access_token, tokens.refresh_token) == ("new-access", "new-refresh")
    assert (tokens.obtained_at, tokens.expires_at) == (NOW, NOW + 60)


async def test_what_the_answer_leaves_out_stays_as_it_was() -> None:
    async with serving() as server:
        server.says(200, {"access_token": "new-access", "token_type": "bearer"})
        endpoint = endpoint_of(server, PUBLIC)
        refreshed = await REFRESH(endpoint)
        assert (refreshed.refresh_token, refreshed.scope) == ("refresh-canary", "a b")
        exchanged = await EXCHANGE(endpoint)
        assert (exchanged.refresh_token, exchanged.scope) == (None, "x")
        own = await FOR_OURSELVES(endpoint)
        assert (own.refresh_token, own.scope) == (None, "x y")


async def test_a_scope_that_nobody_wants_is_not_asked_for() -> None:
    async with serving() as server:
        await endpoint_of(server, BASIC).client_credentials(None, RESOURCE)
    assert server.requests[0].form == {"grant_type": "client_credentials", "resource": RESOURCE}


async def test_without_a_refresh_token_nothing_is_sent() -> None:
    async with serving() as server:
        with pytest.raises(OAuthProblem, match="no refresh token"):
            await endpoint_of(server, PUBLIC).refresh(Tokens(access_token="a", obtained_at=NOW), RESOURCE)
    assert server.requests == []


class Recorder:
    """Answers every POST, without a network."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes, Mapping[str, str], bool]] = []

    async def post(
        self, url: str, body: bytes, content_type: str, headers: Mapping[str, str], *, trusted: bool, sending: Any
    ) -> Answer:
        self.posts.append((url, body, headers, trusted))
        return Answer(200, {}, json.dumps(GRANTED).encode(), url)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(text, text)
def test_an_id_and_a_secret_are_form_encoded_before_they_are_joined(id: str, secret: str) -> None:
    """RFC 6749 section 2.3.1: without that, a colon in the id makes another client of it."""
    recorder = Recorder()
    client = Client(client_id=id, client_secret=secret, auth_method="client_secret_basic")
    metadata = AuthServer(issuer="https://a", token_endpoint="https://a/token")
    anyio.run(TokenEndpoint(recorder, metadata, client).refresh, TOKENS, RESOURCE)
    [(_, body, headers, _)] = recorder.posts
    scheme, _, pair = headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    parts = base64.b64decode(pair).decode("ascii").split(":")
    assert [unquote_plus(part) for part in parts] == [id, secret]
    assert b"client_" not in body


@given(text, text, text)
def test_any_code_arrives_as_it_is(code: str, verifier: str, secret: str) -> None:
    recorder = Recorder()
    client = Client(client_id="me", client_secret=secret, auth_method="client_secret_post")
    metadata = AuthServer(issuer="https://a", token_endpoint="https://a/token")
    anyio.run(TokenEndpoint(recorder, metadata, client).exchange, code, verifier, "http://127.0.0.1:1/c", RESOURCE)
    form = dict(parse_qsl(recorder.posts[0][1].decode("ascii"), keep_blank_values=True))
    assert (form["code"], form["code_verifier"], form["client_secret"]) == (code, verifier, secret)
    assert (form["grant_type"], form["resource"], form["client_id"]) == ("authorization_code", RESOURCE, "me")


def test_what_is_not_text_is_refused_and_not_sent() -> None:
    recorder = Recorder()
    metadata = AuthServer(issuer="https://a", token_endpoint="https://a/token")
    with pytest.raises(OAuthProblem, match="is not text"):
        anyio.run(TokenEndpoint(recorder, metadata, PUBLIC).exchange, "\ud800", "v", "http://127.0.0.1:1/c", RESOURCE)
    assert recorder.posts == []


@pytest.mark.parametrize("manual", [False, True])
def test_only_endpoints_of_moltis_toml_may_be_anywhere(manual: bool) -> None:
    recorder = Recorder()
    metadata = AuthServer(issuer="https://a", token_endpoint="https://a/token", manual=manual)
    anyio.run(TokenEndpoint(recorder, metadata, PUBLIC).refresh, TOKENS, RESOURCE)
    assert [(url, trusted) for url, _, _, trusted in recorder.posts] == [("https://a/token", manual)]


# --- private_key_jwt


def pem(key: Any, format: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> str:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return str(key.private_bytes(Encoding.PEM, format, encryption), "ascii")


RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SIGNING = {
    "RSA": ("RS256", RSAKey, pem(RSA_KEY)),
    "RSA, PKCS #1": ("RS256", RSAKey, pem(RSA_KEY, PrivateFormat.TraditionalOpenSSL)),
    "P-256": ("ES256", ECKey, pem(EC_KEY)),
    "P-256, SEC 1": ("ES256", ECKey, pem(EC_KEY, PrivateFormat.TraditionalOpenSSL)),
    "P-384": ("ES384", ECKey, pem(ec.generate_private_key(ec.SECP384R1()))),
    "P-521": ("ES512", ECKey, pem(ec.generate_private_key(ec.SECP521R1()))),
    "Ed25519": ("EdDSA", OKPKey, pem(ed25519.Ed25519PrivateKey.generate())),
}


@pytest.mark.parametrize(("alg", "kind", "key"), SIGNING.values(), ids=SIGNING)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_assertion_is_signed_by_the_key_for_the_issuer_and_for_a_minute(
    alg: str, kind: type[RSAKey | ECKey | OKPKey], key: str, anyio_backend: str
) -> None:
    client = Client(client_id="me", private_key=key, auth_method="private_key_jwt")
    async with serving() as server:
        endpoint = endpoint_of(server, client)
        await FOR_OURSELVES(endpoint)
        await REFRESH(endpoint)
    claims = []
    for request in server.requests:
        form = request.form
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assert "client_secret" not in form
        assert form["resource"] == RESOURCE
        assert "authorization" not in request.headers
        # joserfc reads the public part only, so that nothing but the signature can make this pass.
        public = kind.import_key(kind.import_key(key).as_pem(private=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            token = jwt.decode(form["client_assertion"], public, algorithms=[alg])
        assert token.header["alg"] == alg
        claims.append(token.claims)
    for one in claims:
        assert {name: one[name] for name in ("iss", "sub", "aud", "iat", "exp")} == {
            "iss": "me",
            "sub": "me",
            "aud": "https://as.example.com",
            "iat": NOW,
            "exp": NOW + 60,
        }
    assert claims[0]["jti"] != claims[1]["jti"]


UNUSABLE = {
    "none": None,
    "empty": "",
    "text": "key-canary",
    "cut off": pem(EC_KEY)[:60],
    "encrypted": pem(EC_KEY, password=b"key-canary"),
    "public": EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    "X25519": pem(x25519.X25519PrivateKey.generate()),
    "secp256k1": pem(ec.generate_private_key(ec.SECP256K1())),
    "DSA": pem(dsa.generate_private_key(1024)),
    "JWK": json.dumps({"kty": "oct", "k": "a2V5LWNhbmFyeQ"}),
}


@pytest.mark.parametrize("key", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_unusable_key_is_refused_and_nothing_is_sent(key: str | None, anyio_backend: str) -> None:
    client = Client(client_id="me", private_key=key, auth_method="private_key_jwt")
    async with serving() as server:
        with pytest.raises(OAuthProblem, match=r"private_key of .oauth. cannot be used") as refused:
            await FOR_OURSELVES(endpoint_of(server, client))
        assert await endpoint_of(server, client).revoke("access-canary", "access_token") is False
    assert server.requests == []
    assert refused.value.kind == "refused"
    assert "canary" not in "".join(traceback.format_exception(refused.value))


# --- what comes back


def kind_of(problem: pytest.ExceptionInfo[OAuthProblem]) -> tuple[str, str | None]:
    shown = "".join(traceback.format_exception(problem.value)) + repr(problem.value) + repr(problem.value.args)
    assert not [secret for secret in SECRETS if secret in shown]
    return problem.value.kind, problem.value.code


HTML = b"<html><body>Please log in to the network</body></html>"
ANSWERS: dict[str, tuple[int, object, tuple[str, str | None]]] = {
    "500": (500, b"", ("outage", None)),
    "502 with HTML": (502, HTML, ("outage", None)),
    "503 with JSON that says no": (503, {"error": "invalid_grant"}, ("outage", None)),
    "429": (429, {"error": "invalid_grant"}, ("outage", None)),
    "200 with HTML": (200, HTML, ("outage", None)),
    "200 with nothing": (200, b"", ("outage", None)),
    "400 with HTML": (400, HTML, ("outage", None)),
    "403 with HTML": (403, HTML, ("outage", None)),
    "invalid_grant": (400, {"error": "invalid_grant", "error_description": "canary"}, ("denied", "invalid_grant")),
    "invalid_client": (401, {"error": "invalid_client"}, ("denied", "invalid_client")),
    "what was sent, sent back": (400, {"error": "refresh-canary code-canary"}, ("outage", None)),
    "a token of another type": (200, {**GRANTED, "token_type": "DPoP"}, ("refused", None)),
    "a token with a line break": (200, {**GRANTED, "access_token": "new-access\r\nX: y"}, ("refused", None)),
}


@pytest.mark.parametrize(("status", "body", "expected"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("ask", [EXCHANGE, REFRESH, FOR_OURSELVES], ids=list(GRANTS))
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_only_a_legible_refusal_is_one(
    ask: Ask, status: int, body: object, expected: tuple[str, str | None], anyio_backend: str
) -> None:
    async with serving() as server:
        server.says(status, body)
        with pytest.raises(OAuthProblem) as problem:
            await ask(endpoint_of(server, POSTED))
    assert kind_of(problem) == expected
    assert len(server.requests) == 1, "it is the caller who decides about another try"


@pytest.mark.parametrize(("value", "secs"), [("7", 7.0), ("soon", None), ("Mon, 12 Jan 1970 13:47:40 GMT", 60.0)])
async def test_how_long_the_server_wants_to_be_left_alone_is_passed_on(value: str, secs: float | None) -> None:
    async with serving() as server:
        server.says(503, b"", Retry_After=value)
        with pytest.raises(OAuthProblem) as problem:
            await REFRESH(endpoint_of(server, PUBLIC))
    assert problem.value.retry_after_secs == secs


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with serving() as server, serving() as canary:
        server.says(status, b"", Location=f"{canary.origin}/token")
        for ask in (EXCHANGE, REFRESH, FOR_OURSELVES):
            with pytest.raises(OAuthProblem, match="redirect") as problem:
                await ask(endpoint_of(server, POSTED))
            assert kind_of(problem)[0] != "denied"
        assert await endpoint_of(server, POSTED).revoke("access-canary", "access_token") is False
    assert len(server.requests) == 4
    assert canary.requests == []


async def test_no_answer_is_an_outage() -> None:
    async with serving() as server:
        server.answer = b""
        with pytest.raises(OAuthProblem) as problem:
            await REFRESH(endpoint_of(server, PUBLIC, total_secs=0.2))
        assert kind_of(problem) == ("outage", None)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", b"220 smtp ESMTP\r\n", b"\0" * 100],
    ids=["cut off", "another protocol", "zeros"],
)
async def test_an_answer_that_is_cut_off_or_is_not_http_is_an_outage(answer: bytes) -> None:
    async with serving() as server:
        server.answer = answer
        with pytest.raises(OAuthProblem) as problem:
            await REFRESH(endpoint_of(server, PUBLIC))
    assert kind_of(problem) == ("outage", None)


async def test_where_nothing_listens_it_is_an_outage() -> None:
    async with serving() as server:
        pass
    with pytest.raises(OAuthProblem, match="connection refused") as problem:
        await REFRESH(endpoint_of(server, PUBLIC))
    assert kind_of(problem) == ("outage", None)


async def test_an_answer_without_end_is_not_read_to_it() -> None:
    async with serving() as server:
        server.says(200, b" " * (1 << 21))
        with pytest.raises(OAuthProblem) as problem:
            await REFRESH(endpoint_of(server, PUBLIC))
    assert kind_of(problem)[0] != "denied"


# --- giving back


@pytest.mark.parametrize(("status", "taken"), [(200, True), (400, False), (503, False), (302, False)])
async def test_a_token_is_given_back_by_the_client_it_was_given_to(status: int, taken: bool) -> None:
    async with serving() as server:
        server.says(status, {"error": "unsupported_token_type"})
        assert await endpoint_of(server, POSTED).revoke("refresh-canary", "refresh_token") is taken
    [request] = server.requests
    assert request.line == "POST /revoke HTTP/1.1"
    assert request.form == {
        "token": "refresh-canary",
        "token_type_hint": "refresh_token",
        "client_id": "me",
        "client_secret": "secret-canary",
    }


async def test_giving_back_is_no_matter_where_it_cannot_be_done() -> None:
    async with serving() as server:
        endpoint = endpoint_of(server, POSTED, revocation_endpoint=None)
        assert await endpoint.revoke("refresh-canary", "refresh_token") is False
    assert server.requests == []
    assert await endpoint_of(server, POSTED).revoke("refresh-canary", "refresh_token") is False


# --- what it costs to begin

IMPORTING = """
import sys, threading

class Witness:
    seen = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"authlib", "joserfc", "cryptography"}:
            self.seen.append((name, threading.current_thread() is threading.main_thread()))

sys.meta_path.insert(0, Witness())

import anyio
from moltis.oauth.endpoint import prepare
assert Witness.seen == [], Witness.seen

async def main():
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(prepare)
    assert "authlib.oauth2.auth" in sys.modules
    assert [name for name, in_main in Witness.seen if in_main] == []
    count = len(Witness.seen)
    from authlib.oauth2.auth import ClientAuth
    from authlib.oauth2.rfc6749.parameters import prepare_token_request
    from authlib.oauth2.rfc7009.parameters import prepare_revoke_token_request
    assert len(Witness.seen) == count, "all that a request needs was there"
    heavy = {"authlib.integrations", "cryptography", "joserfc", "requests", "httpx"} & sys.modules.keys()
    assert not heavy, heavy

anyio.run(main)
"""


def test_what_token_requests_need_is_imported_when_needed_and_never_on_the_event_loop() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", IMPORTING], check=True)


async def test_preparing_again_is_nothing() -> None:
    await prepare()
    before = sys.modules.keys() | set()
    await prepare()
    assert sys.modules.keys() == before
