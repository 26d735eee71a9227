"""Who we are, said in a token request (RFC 6749 section 2.3, RFC 7523 section 2.2), by authlib's `ClientAuth`.

Two of the four methods are authlib's own. `client_secret_basic` is not: its ids and secrets are form-encoded first, as
section 2.3.1 says and authlib does not. Nor is `private_key_jwt`: the assertion is for the issuer, so that no other
authorization server can use it, and lives for a minute.

authlib takes 10 ms to import, and 80 ms more where there is a private key; it happens at the first use, in a thread.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from moltis.oauth.blocking import blocking
from moltis.oauth.model import Client, OAuthProblem

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

__all__ = ["ClientAuthentication", "prepare"]

ASSERTION_SECS: Final = 60
"""How long an assertion counts; longer than any clock that keeps time is off."""

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

_NO_KEY: Final = (
    "the private_key of [oauth] cannot be used: it must be a private key in PEM, without a passphrase:"
    " RSA, EC (P-256, P-384 or P-521) or Ed25519"
)
_EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}

_ready = False


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
        """Give the headers and the body that say who we are, for a POST of this form.

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
