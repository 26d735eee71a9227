"""Token responses (RFC 6749 sections 5.1 and 5.2), and when a token is due for refreshing.

Only a legible refusal says that a grant is over. Whatever else goes wrong is the server's trouble, and a token that is
there stays.
"""

from __future__ import annotations

import math

from moltis.oauth.documents import Document, error_code, is_visible, read_object, scope_tokens
from moltis.oauth.model import OAuthProblem, Tokens

WHAT = "the answer of the token endpoint"

MAX_TOKEN_CHARS = 16 * 1024
"""More than fits the header of a request to most servers."""

MAX_LIFE_SECS = 10 * 365 * 86400.0
"""What a longer `expires_in` counts as."""

DUE_AT = 0.8
"""Of its life, the age at which a token is refreshed ahead."""

DUE_SECS_BEFORE = 60.0
"""A long-lived token is refreshed only this long before its end."""

MIN_LIFE_SECS = 10.0
"""Of a token that is refreshed ahead at all: of a shorter one there would be no end of refreshing."""

LEEWAY_SECS = 5.0
"""A token counts as expired this long before its end, or a tenth of its life: a request takes time to arrive."""

_TRANSIENT = frozenset({"temporarily_unavailable", "server_error", "slow_down", "rate_limited", "too_many_requests"})
"""Codes with which a server speaks of itself."""

_ABOUT_REQUEST = frozenset({"invalid_request", "invalid_resource", "invalid_scope", "invalid_target"})
"""RFC 6749 section 5.2, RFC 8707 section 2, and one that is in use though nobody has registered it."""

_NOT_NOW = frozenset({408, 425, 429})
"""Statuses that say nothing of the grant (RFC 9110 section 15.5.9, RFC 8470 section 5.2, RFC 6585 section 4)."""


def read_tokens(
    status: int,
    body: bytes,
    *,
    now: float,
    asked_scope: str | None = None,
    previous_refresh: str | None = None,
    retry_after_secs: float | None = None,
) -> Tokens:
    """Read the answer of a token endpoint.

    now: seconds since the epoch, taken before the request was sent.
    asked_scope: what is granted when the answer does not say (RFC 6749 section 5.1).
    previous_refresh: the refresh token that was used; it stays in use if none came (section 6).
    retry_after_secs: what the answer's Retry-After says, for `OAuthProblem.retry_after_secs`.

    Raises:
        OAuthProblem: `denied` with its code for an error of section 5.2; `outage` for 5xx, 408, 425, 429 and what
            is not JSON; `refused` for tokens that cannot be used.
    """
    if status in _NOT_NOW or status >= 500:
        raise OAuthProblem(
            f"the token endpoint cannot answer now (HTTP {status})", kind="outage", retry_after_secs=retry_after_secs
        )
    try:
        document = read_object(body, f"{WHAT} (HTTP {status})")
    except OAuthProblem as problem:
        if 400 <= status < 500:
            raise _unclear(status) from problem
        raise
    if status not in (200, 201) or ("error" in document and "access_token" not in document):
        raise _refusal(status, document, retry_after_secs)
    access = document.get("access_token")
    if not isinstance(access, str) or not _is_token(access):
        raise OAuthProblem(_without_token(document))
    kind = document.get("token_type")
    if kind is not None and (not isinstance(kind, str) or kind.lower() != "bearer"):
        raise OAuthProblem(f"{WHAT} has tokens of another type than Bearer, which moltis cannot use")
    refresh = document.get("refresh_token")
    if not isinstance(refresh, str) or not _is_token(refresh):
        refresh = None  # one can do without it until the access token ends
    life = _life_secs(document.get("expires_in"))
    scope = document.get("scope")
    return Tokens(
        access_token=access,
        refresh_token=refresh or previous_refresh,
        scope=_granted(scope, asked_scope),
        obtained_at=now,
        expires_at=None if life is None else now + life,
    )


def is_about_request(problem: OAuthProblem) -> bool:
    """Say whether a refusal is about a parameter, so that the grant may still be good (RFC 6749 section 5.2).

    Of the codes there `invalid_grant` alone says that a grant is over, and two speak of the client.
    """
    code = problem.code or ""
    return problem.kind == "denied" and (code in _ABOUT_REQUEST or code.startswith("unsupported_"))


def refresh_due(tokens: Tokens, now: float) -> bool:
    """Say whether it is time to refresh ahead of expiry: in the last minute, or the last fifth of a short life.

    Never true of a token just obtained, nor of one that lives so shortly that refreshing ahead would not end.
    """
    if tokens.expires_at is None:
        return False
    life = tokens.expires_at - tokens.obtained_at
    if life < MIN_LIFE_SECS:
        return expired(tokens, now)
    return now >= max(tokens.obtained_at + DUE_AT * life, tokens.expires_at - DUE_SECS_BEFORE)


def expired(tokens: Tokens, now: float) -> bool:
    """Say whether the access token is past its use. One whose end is not known never is; a 401 tells."""
    if tokens.expires_at is None:
        return False
    life = tokens.expires_at - tokens.obtained_at
    return now >= tokens.expires_at - min(LEEWAY_SECS, life / 10)


def _is_token(text: str) -> bool:
    return 0 < len(text) <= MAX_TOKEN_CHARS and is_visible(text)


def _without_token(document: Document) -> str:
    """Say that there is no token where it belongs, and where there is one."""
    problem = f"{WHAT} has no usable access_token"
    inside = [name for name, member in document.items() if isinstance(member, dict) and "access_token" in member]
    if "authed_user" in inside:
        return (
            f"{problem} at its top, only one under authed_user: that is the answer for a bot; oauth.auth_url and "
            "oauth.token_url of Slack's .../v2_user/... give tokens of a person"
        )
    shown = error_code(inside[0]) if inside else None
    return f"{problem} at its top, only one under {shown}" if shown is not None else problem


def _granted(scope: object, asked: str | None) -> str | None:
    """Return the scope of a token; a list that is separated by commas, as some write it, is read as one.

    Such a list has a comma in place of each blank, or before it; a scope may have one in it, and is asked for so then.
    """
    if not isinstance(scope, str) or not scope:
        return asked
    parts = scope.split()
    listed = "," in scope and all(part.endswith(",") for part in parts[:-1])
    if listed and not set(parts) & set((asked or "").split()):
        scope = scope.replace(",", " ")
    return " ".join(scope_tokens(scope))


def _life_secs(value: object) -> float | None:
    """Return `expires_in` in seconds, None where it says nothing of use: no number, none above 0.

    Servers write 0 for "never" as well as for what they have no number for; were it believed, each use would refresh.
    """
    if isinstance(value, str) and len(value) <= 32:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(min(value, MAX_LIFE_SECS)) if 0 < value < math.inf else None


def _unclear(status: int) -> OAuthProblem:
    """Return a refusal that is no answer of RFC 6749 section 5.2: of a proxy, a captive portal, or of the server."""
    return OAuthProblem(f"the token endpoint answers HTTP {status} and does not say why", kind="outage", unclear=status)


def _refusal(status: int, document: Document, retry_after_secs: float | None) -> OAuthProblem:
    code = error_code(document.get("error"))
    if code is None and 400 <= status < 500:
        return _unclear(status)
    if code is None or code in _TRANSIENT:
        shown = f"HTTP {status}" if code is None else code
        return OAuthProblem(
            f"the token endpoint cannot answer now ({shown})", kind="outage", retry_after_secs=retry_after_secs
        )
    return OAuthProblem(f"the token endpoint refuses ({code})", kind="denied", code=code)
