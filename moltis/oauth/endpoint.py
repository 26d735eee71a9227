"""What is posted to an authorization server: to its token, revocation and registration endpoints.

A code, a verifier, a token or a secret goes to the endpoint of the issuer it belongs to, in one POST that follows no
redirect, and nowhere else (RFC 6749 section 3.2, RFC 7009). Every token request says which resource it is for (RFC 8707
section 2.2), unless the owner leaves that out, or the endpoint refuses it.

Token requests are put together by authlib, and so is who we are in them (RFC 6749 section 2.3, RFC 7523 section 2.2):
two of the four methods of its `ClientAuth` are its own. `client_secret_basic` is not: its ids and secrets are
form-encoded first, as section 2.3.1 says and authlib does not. Nor is `private_key_jwt`: the assertion is for the
issuer, so that no other authorization server can use it, and lives for a minute. authlib takes 10 ms to import, and
80 ms more where there is a private key; it happens at the first use, in a thread.
"""

from __future__ import annotations

import base64
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import quote_plus

from moltis.http.fetch import Answer, Fetcher, FetchProblem
from moltis.http.heads import retry_after_secs
from moltis.oauth.discovery import in_oauth
from moltis.oauth.grants import is_about_request, read_tokens
from moltis.oauth.jobs import blocking
from moltis.oauth.model import AuthServer, Client, ClientConfig, OAuthProblem, Tokens
from moltis.oauth.registration import Register, choose_client, read_registration, registration_request

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

FORM = "application/x-www-form-urlencoded"

Sending = Callable[[], Awaitable[None]]

ASSERTION_SECS: Final = 60
"""How long an assertion counts; longer than any clock that keeps time is off."""

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_NO_KEY: Final = (
    "the private_key of [oauth] cannot be used: it must be a private key in PEM, without a passphrase:"
    " RSA, EC (P-256, P-384 or P-521) or Ed25519"
)
_EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

_ready = False


class Poster(Protocol):
    """What `http.fetch.Fetcher` does for us."""

    async def post(
        self,
        url: str,
        body: bytes,
        content_type: str,
        headers: Mapping[str, str],
        *,
        trusted: bool,
        sending: Sending | None,
    ) -> Answer:
        """Post a body; never redirected. `sending` is awaited between being connected and the first byte.

        Raises:
            FetchProblem: there is no answer.
        """


async def with_or_without(
    resource: str | None, ask: Callable[[str | None], Awaitable[Tokens]]
) -> tuple[Tokens, str | None]:
    """Ask for tokens for a resource, and once without it, if the refusal is about the request and not about the grant.

    MCP has every request say `resource`, whether the server knows of it or not; some refuse what they do not know, and
    know from the grant what it is for (RFC 8707 section 2.2). Give the tokens and what was said for them.
    """
    if resource is not None:
        try:
            return await ask(resource), resource
        except OAuthProblem as problem:
            if not is_about_request(problem):
                raise
    return await ask(None), None


class TokenEndpoint:
    """One client at one authorization server. Every request is on its own: any number may be under way.

    wall: seconds since the epoch.

    Each of `exchange`, `refresh` and `client_credentials` raises OAuthProblem: `denied` with the code the server gives,
    `outage` when there is no answer that could be one, `refused` when what it says cannot be used, or the request
    cannot be made.
    """

    def __init__(
        self, fetcher: Poster, server: AuthServer, client: Client, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._fetcher = fetcher
        self._server = server
        self._authentication = ClientAuthentication(client, server.issuer, wall)
        self._wall = wall

    async def exchange(
        self,
        code: str,
        verifier: str,
        redirect_uri: str,
        resource: str | None,
        *,
        asked_scope: str | None = None,
        sending: Sending | None = None,
    ) -> Tokens:
        """Turn an authorization code into tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.5).

        asked_scope: what the authorization request asked for; granted, if the answer does not say.
        sending: awaited when the server is reached, just before it is told the code.
        """
        return await self._ask(
            "authorization_code",
            {"code": code, "redirect_uri": redirect_uri, "code_verifier": verifier, "resource": resource},
            asked_scope=asked_scope,
            sending=sending,
        )

    async def refresh(self, tokens: Tokens, resource: str | None, *, sending: Sending | None = None) -> Tokens:
        """Turn a refresh token into new tokens (RFC 6749 section 6), with the scope it has.

        sending: awaited when the server is reached, just before it is told the token.
        """
        if tokens.refresh_token is None:
            raise OAuthProblem("there is no refresh token")
        return await self._ask(
            "refresh_token",
            {"refresh_token": tokens.refresh_token, "resource": resource},
            asked_scope=tokens.scope,
            previous_refresh=tokens.refresh_token,
            sending=sending,
        )

    async def client_credentials(self, scope: str | None, resource: str | None) -> Tokens:
        """Get tokens for ourselves, with nobody logging in (RFC 6749 section 4.4)."""
        return await self._ask("client_credentials", {"scope": scope, "resource": resource}, asked_scope=scope)

    async def revoke(self, token: str, hint: Literal["access_token", "refresh_token"]) -> bool:
        """Revoke a token (RFC 7009), and return whether the server took it. Best effort: never raises."""
        url = self._server.revocation_endpoint
        if url is None:
            return False
        try:
            await prepare()
            from authlib.oauth2.rfc7009.parameters import prepare_revoke_token_request  # type: ignore[import-untyped]

            body, _ = prepare_revoke_token_request(token, hint)
            answer = await self._post(url, body)
        except OAuthProblem:
            return False
        return answer.status == 200

    async def _ask(
        self,
        grant_type: str,
        parameters: Mapping[str, str | None],
        *,
        asked_scope: str | None,
        previous_refresh: str | None = None,
        sending: Sending | None = None,
    ) -> Tokens:
        await prepare()
        from authlib.oauth2.rfc6749.parameters import prepare_token_request  # type: ignore[import-untyped]

        try:
            body = prepare_token_request(grant_type, **parameters)
        except UnicodeEncodeError:
            raise OAuthProblem("what came back from the login is not text") from None
        # Before it is sent, so that the token is never taken to live longer than it does.
        now = self._wall()
        answer = await self._post(self._server.token_endpoint, body, sending)
        return read_tokens(
            answer.status,
            answer.body,
            now=now,
            asked_scope=asked_scope,
            previous_refresh=previous_refresh,
            retry_after_secs=retry_after_secs(answer.headers.get("retry-after"), self._wall()),
        )

    async def _post(self, url: str, form: str, sending: Sending | None = None) -> Answer:
        headers, body = await self._authentication.apply(url, form)
        headers["Accept"] = "application/json"
        try:
            return await self._fetcher.post(
                url, body.encode("ascii"), FORM, headers, trusted=self._server.manual, sending=sending
            )
        except FetchProblem as problem:
            # A redirect is not followed with a secret, and is no word on the grant: captive portals answer so.
            kind = "outage" if 300 <= (problem.status or 0) < 400 else problem.kind
            raise OAuthProblem(problem.message, kind=kind, retry_after_secs=problem.retry_after_secs) from problem


# Who we are, in such a request.


async def prepare() -> None:
    """Import what token requests need, without holding up the event loop; at once when that is done.

    Raises:
        OAuthProblem: `outage`: no thread can be started.
    """
    if not _ready:
        await blocking(_import)


def _import() -> None:
    global _ready
    import authlib.oauth2.auth  # type: ignore[import-untyped]  # noqa: F401

    _ready = True


class ClientAuthentication:
    """One client's authentication to one authorization server."""

    def __init__(self, client: Client, issuer: str, wall: Callable[[], float]) -> None:
        self._client = client
        self._issuer = issuer
        self._wall = wall

    async def apply(self, url: str, body: str) -> tuple[dict[str, str], str]:
        """Return the headers and the body that say who we are, for a POST of this form.

        Raises:
            OAuthProblem: `refused`: the private key cannot be used; `outage`: no thread can be started.
        """
        await prepare()
        client = self._client
        method: str | Callable[..., tuple[str, dict[str, str], str]] = client.auth_method
        if client.auth_method == "client_secret_basic":
            method = _client_secret_basic
        elif client.auth_method == "private_key_jwt":
            key = await blocking(_signing_key, client.private_key)
            method = partial(self._private_key_jwt, key)

        from authlib.oauth2.auth import ClientAuth

        authentication = ClientAuth(client.client_id, client.client_secret or "", method)
        headers: dict[str, str] = {}
        _, headers, body = authentication.prepare("POST", url, headers, body)
        return headers, body

    def _private_key_jwt(
        self, key: _SigningKey, auth: Any, method: str, uri: str, headers: dict[str, str], body: str
    ) -> tuple[str, dict[str, str], str]:
        from authlib.common.urls import add_params_to_qs  # type: ignore[import-untyped]
        from authlib.oauth2.rfc7523 import private_key_jwt_sign  # type: ignore[import-untyped]

        with warnings.catch_warnings():
            # RFC 9864 renames EdDSA for Ed25519 keys; authorization servers know the old name.
            warnings.filterwarnings("ignore", message="EdDSA is deprecated")
            assertion = private_key_jwt_sign(
                key.key,
                self._client.client_id,
                self._issuer,
                alg=key.alg,
                issued_at=int(self._wall()),
                expires_in=ASSERTION_SECS,
            )
        added = [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)]
        return uri, headers, add_params_to_qs(body, added)


@dataclass(frozen=True, slots=True, repr=False)
class _SigningKey:
    key: RSAKey | ECKey | OKPKey
    alg: str


def _client_secret_basic(
    auth: Any, method: str, uri: str, headers: dict[str, str], body: str
) -> tuple[str, dict[str, str], str]:
    pair = f"{quote_plus(auth.client_id)}:{quote_plus(auth.client_secret)}"
    headers["Authorization"] = f"Basic {base64.b64encode(pair.encode('ascii')).decode('ascii')}"
    return uri, headers, body


@lru_cache(maxsize=16)
def _signing_key(pem: str | None) -> _SigningKey:
    """Read a private key. Takes up to 100 ms, with the imports and the checks of an RSA key, which hold the GIL."""
    import authlib.oauth2.rfc7523  # noqa: F401
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    for kind in (RSAKey, ECKey, OKPKey):
        try:
            key = kind.import_key(pem or "")
            alg = _algorithm(key)
        # KeyError: a curve that JOSE has no name for. TypeError: it wants a passphrase.
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if key.is_private and alg is not None:
            return _SigningKey(key, alg)
    raise OAuthProblem(_NO_KEY)


def _algorithm(key: RSAKey | ECKey | OKPKey) -> str | None:
    if key.key_type == "RSA":
        return "RS256"
    curve = str(key["crv"])
    return _EC_ALGORITHMS.get(curve) if key.key_type == "EC" else "EdDSA" if curve == "Ed25519" else None


# Becoming somebody there: what `registration` decides, done.


async def become_client(
    fetcher: Fetcher,
    config: ClientConfig,
    server: AuthServer,
    known: Client | None,
    *,
    redirect_uri: str,
    scope: str | None,
    wall: Callable[[], float],
) -> Client:
    """Return who we are to this authorization server, registered with it if need be (RFC 7591 section 3.1).

    known: what this very issuer registered before.

    Raises:
        OAuthProblem: there is no way to become anyone, or it cannot register us now.
    """
    chosen = choose_client(config, server, known, redirect_uri, wall())
    if not isinstance(chosen, Register):
        return chosen
    register = partial(_register, fetcher, server, chosen, redirect_uri=redirect_uri, wanted=scope, wall=wall)
    try:
        return await register(scope)
    except OAuthProblem as problem:
        # Some take the scope of a registration for one of their own to check, and know nothing of the resource's.
        if scope is None or problem.code != "invalid_client_metadata":
            raise
    return await register(None)


async def _register(
    fetcher: Fetcher,
    server: AuthServer,
    chosen: Register,
    scope: str | None,
    *,
    redirect_uri: str,
    wanted: str | None,
    wall: Callable[[], float],
) -> Client:
    body = registration_request(server, redirect_uri=redirect_uri, scope=scope)
    try:
        answer = await fetcher.post(chosen.endpoint, body, "application/json", {"Accept": "application/json"})
    except FetchProblem as problem:
        raise in_oauth(problem) from None
    return read_registration(
        answer.status,
        answer.body,
        server=server,
        redirect_uri=redirect_uri,
        now=wall(),
        scope=wanted,
        retry_after_secs=retry_after_secs(answer.headers.get("retry-after"), wall()),
    )


async def end_registration(fetcher: Fetcher, client: Client) -> bool:
    """Have an authorization server forget a registration (RFC 7592 section 2.3). Best effort: never raises."""
    if client.registration_uri is None or client.registration_token is None:
        return False
    try:
        answer = await fetcher.delete(client.registration_uri, {"Authorization": f"Bearer {client.registration_token}"})
    except FetchProblem:
        return False
    return answer.status == 204
