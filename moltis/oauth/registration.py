"""Who we are to an authorization server: told by moltis.toml, by a document of our own, or by registering (RFC 7591).

In that order (MCP, Client Registration). What one authorization server gave is for that one alone; to find it again is
the caller's part.
"""

from __future__ import annotations

import msgspec

from moltis.http.origins import read_url, same_origin, shown_host
from moltis.oauth.documents import (
    Document,
    error_code,
    is_visible,
    read_object,
    scope_tokens,
    text_if_any,
    text_member,
    texts_if_any,
)
from moltis.oauth.model import AuthMethod, AuthServer, Client, ClientConfig, OAuthProblem, Record
from moltis.oauth.urls import MAX_GIVEN_CHARS, url_problem

NOWHERE = "http://127.0.0.1/callback"
"""The redirect URI where none is of any matter."""

CLIENT_NAME = "moltis"
"""What a person reads on the page that asks for consent."""

MAX_CLIENT_ID_CHARS = 2 * 1024
MAX_SECRET_CHARS = 4 * 1024

EXPIRY_MARGIN_SECS = 60.0
"""A registration that ends sooner than this is not begun a login with."""

FAR_FUTURE = 1e12
"""Seconds since the epoch that a later expiry counts as; it fits every calendar."""

_WITH_SECRET: tuple[AuthMethod, ...] = ("client_secret_basic", "client_secret_post")
_USABLE: tuple[AuthMethod, ...] = ("none", *_WITH_SECRET)
"""In order of preference: a program on a person's machine cannot keep a secret that is worth one (RFC 8252, 8.5)."""


class Register(msgspec.Struct, frozen=True):
    """No client is known: POST `registration_request(...)` (application/json) to `endpoint`."""

    endpoint: str


def choose_client(
    config: ClientConfig, server: AuthServer, known: Client | None, redirect_uri: str, now: float
) -> Client | Register:
    """Decide who we are: configured, a client ID metadata document, known from before, or to be registered.

    known: what was registered with this very issuer, if anything. It serves while its secret is valid and for the
        redirect URI that it was registered with.
    now: seconds since the epoch.

    Raises:
        OAuthProblem: there is no way to become anyone; it names the remedy.
    """
    if config.client_id is not None:
        return _configured(config, server, config.client_id)
    if config.grant == "client_credentials":
        raise OAuthProblem('grant = "client_credentials" needs oauth.client_id in moltis.toml')
    if config.client_metadata_url is not None and server.client_id_metadata_supported:
        return _document(config, config.client_metadata_url)
    if known is not None and _still_valid(known, redirect_uri, now):
        return known
    if server.registration_endpoint is not None:
        return Register(server.registration_endpoint)
    raise OAuthProblem(_cannot_register(config, server, redirect_uri))


def _cannot_register(config: ClientConfig, server: AuthServer, redirect_uri: str) -> str:
    host = shown_host(server.issuer)
    why = f"{host} lets no program register itself"
    if server.manual:
        why = f"where a program can register itself at {host} is not known"
    for unusable in server.unusable:
        if unusable.startswith("registration_endpoint"):
            why = f"{host} names a {unusable}"
    # Any free port was taken, which is another one at the next login.
    shown = redirect_uri if config.callback_port else f"http://{config.redirect_host}:PORT/callback"
    return (
        f"{why}: register one there by hand, with the redirect URI {shown}, and set oauth.client_id and "
        f"oauth.callback_port = {config.callback_port or 'PORT'} in moltis.toml"
    )


def registration_request(server: AuthServer, *, redirect_uri: str, scope: str | None) -> bytes:
    """Return the JSON body that asks for a client (RFC 7591 section 2).

    `application_type` is `native`: without it OpenID providers take us for a web site and refuse a redirect URI on this
    machine (OpenID Connect Dynamic Client Registration section 2; MCP). `refresh_token` is among the grants unless the
    server lists grants without it.
    """
    refreshes = server.grant_types is None or "refresh_token" in server.grant_types
    metadata: dict[str, object] = {
        "client_name": CLIENT_NAME,
        "application_type": "native",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", *(["refresh_token"] if refreshes else [])],
        "response_types": ["code"],
        "token_endpoint_auth_method": _method_to_ask(server),
    }
    if scope is not None:
        metadata["scope"] = scope
    return msgspec.json.encode(metadata)


def read_registration(
    status: int,
    body: bytes,
    *,
    server: AuthServer,
    redirect_uri: str,
    now: float,
    scope: str | None = None,
    retry_after_secs: float | None = None,
) -> Client:
    """Read the answer to a registration (RFC 7591 section 3.2).

    scope: what the login is to ask for.

    The server may have replaced what was asked for; what cannot be worked with is refused here rather than at the token
    endpoint, after a person has logged in.

    Raises:
        OAuthProblem: `denied` with the code it gave; `outage` for 429, 5xx and what is not JSON; `refused` for a client
            that cannot be used.
    """
    host = shown_host(server.issuer)
    what = f"the answer of {host} to a registration"
    if status not in (200, 201):
        raise _failure(status, body, host, retry_after_secs)
    document = read_object(body, what)
    client_id = text_member(document, "client_id", what)
    if not client_id or len(client_id) > MAX_CLIENT_ID_CHARS or not is_visible(client_id.replace(" ", "")):
        raise OAuthProblem(f"{what} has no usable client_id")
    redirect_uris = texts_if_any(document, "redirect_uris")
    if redirect_uris is not None and redirect_uri not in redirect_uris:
        raise OAuthProblem(f"{host} registered another redirect URI than the one that was asked for")
    secret = text_if_any(document, "client_secret") or None
    denied = _denied(document, scope)
    uri, token = _management(document, server)
    method = _method_given(document, secret, server, what)
    # A server that gives no secrets may repeat the method that it was asked for all the same.
    if method == "none" or (method in _WITH_SECRET and not document.get("client_secret")):
        return Client(
            client_id=client_id,
            redirect_uri=redirect_uri,
            scopes_denied=denied,
            registration_uri=uri,
            registration_token=token,
        )
    if secret is None or len(secret) > MAX_SECRET_CHARS or not is_visible(secret.replace(" ", "")):
        raise OAuthProblem(f"{host} registered a client with {method}, but gave no usable client_secret")
    return Client(
        client_id=client_id,
        client_secret=secret,
        auth_method=method,
        redirect_uri=redirect_uri,
        secret_expires_at=_expiry(document, now, host),
        scopes_denied=denied,
        registration_uri=uri,
        registration_token=token,
    )


def client_of(config: ClientConfig, record: Record, now: float) -> Client | None:
    """Return who we are to a login's issuer, for a refresh or a revocation; None if that is not known any more."""
    known = record.client
    try:
        redirect_uri = known.redirect_uri if known is not None else None
        chosen = choose_client(config, record.server, known, redirect_uri or NOWHERE, now)
    except OAuthProblem:
        return None
    return None if isinstance(chosen, Register) else chosen


def _configured(config: ClientConfig, server: AuthServer, client_id: str) -> Client:
    method: AuthMethod = "none"
    if config.private_key is not None:
        method = "private_key_jwt"
    elif config.client_secret is not None:
        # RFC 6749 section 2.3.1: every server takes Basic from who has a password, so that is it when in doubt.
        method = next((method for method in _WITH_SECRET if method in _listed(server)), "client_secret_basic")
    elif config.grant == "client_credentials":
        raise OAuthProblem('grant = "client_credentials" needs oauth.client_secret or oauth.private_key in moltis.toml')
    return Client(
        client_id=client_id,
        client_secret=config.client_secret if method in _WITH_SECRET else None,
        private_key=config.private_key,
        auth_method=method,
        source="configured",
    )


def _document(config: ClientConfig, url: str) -> Client:
    """Be known by a document of our own (draft-ietf-oauth-client-id-metadata-document, section 3)."""
    parts = read_url(url)
    dotted = parts is not None and {".", ".."} & set(parts.path.split("/"))
    if (
        parts is None
        or parts.scheme != "https"
        or parts.path in ("", "/")
        or dotted
        or len(url) > MAX_GIVEN_CHARS
        or url_problem(url) is not None
    ):
        raise OAuthProblem("oauth.client_metadata_url in moltis.toml must be an https URL with a path")
    return Client(
        client_id=url,
        private_key=config.private_key,
        auth_method="private_key_jwt" if config.private_key is not None else "none",
        source="metadata_document",
    )


def _still_valid(known: Client, redirect_uri: str, now: float) -> bool:
    if known.source != "registered" or known.redirect_uri != redirect_uri:
        return False
    return not known.secret_expires_at or known.secret_expires_at > now + EXPIRY_MARGIN_SECS


def _listed(server: AuthServer) -> tuple[str, ...]:
    """Return how a client may say who it is; a server that does not say means Basic (RFC 8414 section 2)."""
    return ("client_secret_basic",) if server.auth_methods is None else server.auth_methods


def _method_to_ask(server: AuthServer) -> AuthMethod:
    """Return the method that we prefer of those listed; `none` if we know none of them: the server may object."""
    return next((method for method in _USABLE if method in _listed(server)), "none")


def _method_given(document: Document, secret: str | None, server: AuthServer, what: str) -> AuthMethod:
    """Return the method that was registered.

    Servers that leave it out of their answer are common. A secret is then for use, by a method that is listed, and
    without one there is nothing to use.
    """
    given = text_if_any(document, "token_endpoint_auth_method")
    if given is None:
        with_secret = (method for method in _WITH_SECRET if method in _listed(server))
        return next(with_secret, "none") if secret is not None else "none"
    for method in _USABLE:
        if given == method:
            return method
    raise OAuthProblem(f"{what} wants a way of authentication that moltis has no key for")


def _management(document: Document, server: AuthServer) -> tuple[str | None, str | None]:
    """Return where a registration can be ended, and the token for that (RFC 7592 section 3); nothing, if not both.

    It must be on the origin that registered: the token goes nowhere else.
    """
    uri = text_if_any(document, "registration_client_uri")
    token = text_if_any(document, "registration_access_token")
    if not uri or not token or len(token) > MAX_SECRET_CHARS or not is_visible(token):
        return None, None
    if url_problem(uri) is not None or not same_origin(uri, server.registration_endpoint or ""):
        return None, None
    return uri, token


def _denied(document: Document, scope: str | None) -> tuple[str, ...]:
    """Return the scopes that were wanted and that the client is not registered for (RFC 7591 section 3.2.1)."""
    given = text_if_any(document, "scope")
    if not given:
        return ()
    registered = scope_tokens(given)
    return tuple(wanted for wanted in scope_tokens(scope or "") if wanted not in registered)


def _expiry(document: Document, now: float, host: str) -> float | None:
    """Return when the secret ends, None for never (RFC 7591 section 3.2.1: seconds since the epoch, 0 for never).

    What is no number says nothing: the token endpoint will, should it have ended.
    """
    value = document.get("client_secret_expires_at")
    if value == 0 or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value <= now + EXPIRY_MARGIN_SECS:
        raise OAuthProblem(f"{host} registered a client whose secret has expired already")
    return float(min(value, FAR_FUTURE))


def _failure(status: int, body: bytes, host: str, retry_after_secs: float | None) -> OAuthProblem:
    remedy = "oauth.client_id in moltis.toml takes one that was registered by hand"
    if status == 429 or status >= 500:
        return OAuthProblem(
            f"{host} cannot register a client now (HTTP {status})", kind="outage", retry_after_secs=retry_after_secs
        )
    try:
        code = error_code(read_object(body, "").get("error"))
    except OAuthProblem:
        code = None
    if code is None:
        return OAuthProblem(f"{host} does not register clients (HTTP {status}): {remedy}")
    return OAuthProblem(f"{host} refuses to register a client ({code}): {remedy}", kind="denied", code=code)
