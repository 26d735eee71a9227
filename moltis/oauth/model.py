"""What a login is about: who asks, whom, with what, and what came of it.

Values only. Whatever holds a secret does not show it in its `repr`. Instants are seconds since the epoch.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Grant = Literal["authorization_code", "client_credentials"]
AuthMethod = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
AuthState = Literal["not_required", "awaiting_browser", "authenticated", "failed"]
RedirectHost = Literal["127.0.0.1", "localhost"]
Kind = Literal["refused", "outage", "denied", "expired"]


class OAuthProblem(Exception):
    """A login or a refresh cannot go on.

    message: what happened and what to do, one sentence, no secret and no text of the other side but short, printable
        names (hosts, OAuth error codes).
    kind: `refused`: what the other side says is wrong or unsafe, and trying again changes nothing;
        `outage`: it cannot be reached or is broken for now (no answer, 5xx, 429, something that is not JSON);
        `denied`: the authorization server says no (`access_denied`, `invalid_grant`, ...), in `code`;
        `expired`: the person took too long.
    code: the OAuth error code of RFC 6749 section 5.2 or 4.1.2.1, when there is one.
    retry_after_secs: when it said so.
    unclear: the HTTP status of a refusal that does not say why: neither an outage nor, yet, the end of a login.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = "refused",
        code: str | None = None,
        retry_after_secs: float | None = None,
        unclear: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind: Kind = kind
        self.code = code
        self.retry_after_secs = retry_after_secs
        self.unclear = unclear


class _Hidden(msgspec.Struct, frozen=True, kw_only=True):
    """A struct whose repr names its type only."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class ClientConfig(_Hidden, frozen=True, kw_only=True):
    """`[mcp.servers.NAME.oauth]`, expanded.

    private_key: PEM, for client authentication by `private_key_jwt`.
    resource, prompt: None: as the specifications have it; empty: left out.
    offline_access: None: added where nobody has written the scopes.
    """

    client_id: str | None = None
    client_secret: str | None = None
    private_key: str | None = None
    auth_url: str | None = None
    token_url: str | None = None
    scopes: tuple[str, ...] = ()
    client_metadata_url: str | None = None
    grant: Grant = "authorization_code"
    callback_port: int = 0
    redirect_host: RedirectHost = "127.0.0.1"
    issuer: str | None = None
    resource: str | None = None
    prompt: str | None = None
    offline_access: bool | None = None

    def resource_to_say(self, identifier: str) -> str | None:
        """Return the RFC 8707 parameter for a server with this identifier, None to leave it out."""
        return (identifier if self.resource is None else self.resource) or None

    @property
    def manual(self) -> bool:
        """Whether the endpoints are given, so that nothing is discovered."""
        needed = (self.auth_url, self.token_url) if self.grant == "authorization_code" else (self.token_url,)
        return all(needed)


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """A `Bearer` challenge of WWW-Authenticate (RFC 9110 section 11.6.1, RFC 6750 section 3, RFC 9728 section 5.1)."""

    resource_metadata: str | None = None
    scope: str | None = None
    error: str | None = None


class ProtectedResource(msgspec.Struct, frozen=True, kw_only=True):
    """Protected resource metadata, validated (RFC 9728 section 2). `resource`: the identifier to ask tokens for."""

    resource: str
    authorization_servers: tuple[str, ...]
    scopes_supported: tuple[str, ...] | None = None


class AuthServer(msgspec.Struct, frozen=True, kw_only=True):
    """Authorization server metadata, validated (RFC 8414 section 2).

    issuer: for endpoints given by hand, the token endpoint stands for it.
    iss_supported: `authorization_response_iss_parameter_supported` (RFC 9207 section 3).
    manual: the endpoints come from moltis.toml, which is trusted.
    unusable: endpoints that it names and that count as absent, each with the reason.
    """

    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: tuple[str, ...] | None = None
    auth_methods: tuple[str, ...] | None = None
    grant_types: tuple[str, ...] | None = None
    iss_supported: bool = False
    client_id_metadata_supported: bool = False
    manual: bool = False
    unusable: tuple[str, ...] = ()


class Client(_Hidden, frozen=True, kw_only=True):
    """Who we are to one authorization server (RFC 7591 section 3.2.1).

    source: where that comes from. Only what was `registered` is kept on disk and may be registered anew.
    redirect_uri: the one it was registered with, None if it is of no matter.
    secret_expires_at: 0 or None: never.
    scopes_denied: what was asked for with it, and it is not registered for.
    registration_uri, registration_token: where and by what the registration can be ended (RFC 7592).
    """

    client_id: str
    client_secret: str | None = None
    private_key: str | None = None
    auth_method: AuthMethod = "none"
    redirect_uri: str | None = None
    secret_expires_at: float | None = None
    scopes_denied: tuple[str, ...] = ()
    registration_uri: str | None = None
    registration_token: str | None = None
    source: Literal["configured", "metadata_document", "registered"] = "registered"


class Tokens(_Hidden, frozen=True, kw_only=True):
    """What a token endpoint gave (RFC 6749 section 5.1). `expires_at` None: it did not say."""

    access_token: str
    refresh_token: str | None = None
    scope: str | None = None
    obtained_at: float
    expires_at: float | None = None

    @property
    def authorization(self) -> str:
        """The value of the Authorization header (RFC 6750 section 2.1)."""
        return f"Bearer {self.access_token}"


class Key(msgspec.Struct, frozen=True):
    """What a login is kept under: never a server's name, so that no renaming moves a token to another resource.

    resource: the canonical URI of the MCP server (RFC 8707).
    issuer: the authorization server it belongs to; nothing of this record is ever sent to another.
    client_id: the configured one, or None: two entries for one server may be two accounts.
    """

    resource: str
    issuer: str
    client_id: str | None = None


class Record(_Hidden, frozen=True, kw_only=True):
    """Everything kept of one login.

    rotates: this issuer replaces refresh tokens by each use, or may.
    resource_refused: the RFC 8707 `resource` that its token endpoint refused, and gave tokens without.
    """

    key: Key
    server: AuthServer
    client: Client | None = None
    tokens: Tokens | None = None
    rotates: bool = False
    resource_refused: str | None = None

    def resource_to_ask(self, resource: str | None) -> str | None:
        """Return what to say to the token endpoint of a resource: nothing, where that very word was refused."""
        return None if resource == self.resource_refused else resource
