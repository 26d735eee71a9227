"""Authorization server metadata (RFC 8414, OpenID Connect Discovery): where it is, and whether it may be believed.

It must be what its issuer says of itself, promise PKCE with S256, and name endpoints that a secret may be sent to. An
endpoint that a login can do without counts as absent where it may not be used: nothing is ever sent there.

MCP 2025-03-26 knew no protected resource metadata: the MCP server's origin is the authorization server. There is no
identifier then that `issuer` could be identical to, so it need only be on that origin, which has published it; all else
is as strict. That revision requires PKCE of everyone, and metadata without `code_challenge_methods_supported` says that
there is none (RFC 8414 section 2), so it is refused like any other. Only where there is no metadata at all is PKCE
taken on that revision's word.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from moltis.http.origins import Url, read_url, same_origin, shown_host, shown_url
from moltis.oauth.documents import (
    flag_if_any,
    read_object,
    scope_tokens,
    text_if_any,
    text_member,
    texts_if_any,
    texts_member,
)
from moltis.oauth.model import AuthServer, ClientConfig, Grant, OAuthProblem
from moltis.oauth.urls import given_url_problem, url_problem

OAUTH = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the addresses to try, in order; what is not there (404, or no JSON) sends one to the next.

    RFC 8414 section 3.1 first, then OpenID Connect Discovery inserted (RFC 8414 section 5) and appended (OpenID Connect
    Discovery section 4.1), as MCP orders them. A slash that ends the issuer is left out.

    Raises:
        OAuthProblem: `issuer` is not an http or https URL.
    """
    parts = _parts(issuer)
    path = parts.path.removesuffix("/")
    if not path:
        return (parts.origin + OAUTH, parts.origin + OPENID)
    return (parts.origin + OAUTH + path, parts.origin + OPENID + path, parts.origin + path + OPENID)


def legacy_metadata_url(server_url: str) -> str:
    """Return where MCP 2025-03-26 has the metadata: at the root of the MCP server's own origin.

    Raises:
        OAuthProblem: `server_url` is not an http or https URL.
    """
    return _parts(server_url).origin + OAUTH


def read_server(
    body: bytes, issuer: str, *, at: str | None = None, legacy: bool = False, grant: Grant = "authorization_code"
) -> AuthServer:
    """Read the metadata found at one of `metadata_urls(issuer)`.

    at: where it was found, the issuer's own place where that is not said. Who is on this machine may name what is.
    legacy: it was found at `legacy_metadata_url`; `issuer` is the MCP server's URL, and only the origin counts.
    grant: what it is wanted for. A client on its own behalf needs neither an authorization endpoint nor PKCE.

    Raises:
        OAuthProblem: `outage` if it is not a JSON object; `refused` if it is another issuer's, lacks PKCE with S256, or
            names a login page or token endpoint that must not be used.
    """
    what = f"the metadata of the authorization server {shown_host(issuer)}"
    document = read_object(body, what)
    named = text_member(document, "issuer", what)
    if named is None:
        raise OAuthProblem(f"{what} does not say whose it is (issuer)")
    if not (same_issuer(named, issuer) or (legacy and _is_at(issuer, named))):
        raise OAuthProblem(
            f"{what} is another's: it names {shown_url(named)} as its issuer, and {shown_url(issuer)} was asked; "
            f"they must be the same to the letter{_if_trusted(named)}",
        )
    giver = at or named
    unusable: list[str] = []
    person = grant == "authorization_code"
    token = _endpoint(document, "token_endpoint", giver, what)
    authorization = (
        _endpoint(document, "authorization_endpoint", giver, what)
        if person
        else _spare_endpoint(document, "authorization_endpoint", giver, unusable)
    )
    if token is None:
        raise OAuthProblem(f"{what} names no token_endpoint")
    methods = texts_member(document, "code_challenge_methods_supported", what) or ()
    if person:
        if authorization is None:
            raise OAuthProblem(f"{what} names no authorization_endpoint")
        if "S256" not in methods:
            raise OAuthProblem(
                f"{what} does not offer PKCE with S256, without which a login is not safe; "
                "who runs it can turn it on, or auth_url and token_url in moltis.toml vouch for it"
            )
    scopes = texts_if_any(document, "scopes_supported")
    return AuthServer(
        issuer=named,
        token_endpoint=token,
        authorization_endpoint=authorization,
        registration_endpoint=_spare_endpoint(document, "registration_endpoint", giver, unusable),
        revocation_endpoint=_spare_endpoint(document, "revocation_endpoint", giver, unusable),
        scopes_supported=scope_tokens(" ".join(scopes)) if scopes is not None else None,
        auth_methods=texts_if_any(document, "token_endpoint_auth_methods_supported"),
        grant_types=texts_if_any(document, "grant_types_supported"),
        iss_supported=flag_if_any(document, "authorization_response_iss_parameter_supported", malformed=True),
        client_id_metadata_supported=flag_if_any(document, "client_id_metadata_document_supported"),
        unusable=tuple(unusable),
    )


def same_issuer(one: str, other: str) -> bool:
    """Say whether two spellings name one issuer: the same to the letter, but for the slash of an empty path.

    RFC 8414 section 4 compares code point by code point. An origin with that slash and without it is one URL, though
    (RFC 3986 section 6.2.3), and has one metadata address (RFC 8414 section 3.1), so that nobody else can be meant.
    """
    if one == other:
        return True
    parts = read_url(one)
    bare = parts is not None and parts.path in ("", "/") and not (parts.query or parts.userinfo or "#" in one)
    return bare and one.removesuffix("/") == other.removesuffix("/")


def default_endpoints(server_url: str) -> AuthServer:
    """Return the endpoints that MCP 2025-03-26 assumes where there is no metadata at all.

    Raises:
        OAuthProblem: the server is not reached by https, nor on this machine.
    """
    base = _parts(server_url).origin
    problem = url_problem(base)
    if problem is not None:
        raise OAuthProblem(f"{shown_host(server_url)} wants a login, but its address {problem}")
    return AuthServer(
        issuer=base,
        authorization_endpoint=f"{base}/authorize",
        token_endpoint=f"{base}/token",
        registration_endpoint=f"{base}/register",
    )


def manual_endpoints(config: ClientConfig) -> AuthServer:
    """Return the endpoints of moltis.toml, for a `config` that is `manual`. They are trusted as they are.

    Raises:
        OAuthProblem: there is no token_url.
    """
    if config.token_url is None:
        raise OAuthProblem("oauth.token_url is missing in moltis.toml")
    return AuthServer(
        issuer=config.issuer or config.token_url,
        token_endpoint=config.token_url,
        authorization_endpoint=config.auth_url,
        manual=True,
    )


def _if_trusted(named: str) -> str:
    """Return the key that takes a document of another issuer, for one that can be written there."""
    usable = url_problem(named) is None and "?" not in named and shown_url(named) == named
    return f'; if you trust it: oauth.issuer = "{named}"' if usable else ""


def read_beside(body: bytes, server: AuthServer, at: str) -> AuthServer | None:
    """Read metadata for what endpoints of moltis.toml leave open: how to register, and to give tokens back.

    It counts if it names the very token endpoint of `server`, or registers on its origin; whose it is otherwise is of
    no matter, for a registration sends no secret, and the owner vouches for the rest.
    """
    try:
        document = read_object(body, "metadata")
    except OAuthProblem:
        return None
    unusable: list[str] = []
    registration = _spare_endpoint(document, "registration_endpoint", at, unusable)
    same = text_if_any(document, "token_endpoint") == server.token_endpoint
    if not same and (registration is None or not same_origin(registration, server.token_endpoint)):
        return None
    return replace(
        server,
        registration_endpoint=registration,
        revocation_endpoint=_spare_endpoint(document, "revocation_endpoint", at, unusable) if same else None,
        auth_methods=texts_if_any(document, "token_endpoint_auth_methods_supported"),
        grant_types=texts_if_any(document, "grant_types_supported"),
        client_id_metadata_supported=flag_if_any(document, "client_id_metadata_document_supported"),
        unusable=tuple(unusable),
    )


def _endpoint(document: Mapping[str, object], name: str, giver: str, what: str) -> str | None:
    """Return an endpoint (RFC 6749 section 3: absolute, a query is kept, no fragment; https)."""
    url = text_member(document, name, what)
    if url is None:
        return None
    problem = given_url_problem(url, giver)
    if problem is not None:
        raise OAuthProblem(f"{what} names a {name} that must not be used: its address {problem}")
    return url


def _spare_endpoint(document: Mapping[str, object], name: str, giver: str, unusable: list[str]) -> str | None:
    """Return an endpoint that a login can do without; if it may not be used, `unusable` gets it with the reason."""
    if document.get(name) is None:
        return None
    url = text_if_any(document, name)
    problem = given_url_problem(url, giver) if url is not None else "is not a string"
    if problem is None:
        return url
    unusable.append(f"{name}: its address {problem}")
    return None


def _is_at(server_url: str, issuer: str) -> bool:
    """Say whether an issuer is one that the origin of an MCP server may name in its own place."""
    return same_origin(issuer, server_url) and "?" not in issuer and given_url_problem(issuer, server_url) is None


def _parts(url: str) -> Url:
    parts = read_url(url)
    if parts is None:
        raise OAuthProblem("an authorization server is named by something that is not an http or https URL")
    return parts
