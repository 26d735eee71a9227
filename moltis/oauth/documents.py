"""JSON from another party: read with bounds, its members by type. Nothing here raises anything but `OAuthProblem`.

A member that is null counts as absent, as most servers mean it. One of a wrong type that decides about a login is
refused with its name; where a login can do without it, it counts as absent: nothing is guessed from it either way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice

import msgspec

from moltis.oauth.model import OAuthProblem

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_ITEMS = 256
"""Of a list; more are not looked at."""

MAX_ITEM_CHARS = 2 * 1024
"""Of one string in a list; a longer one is left out."""

MAX_SCOPES = 512
MAX_SCOPE_CHARS = 4 * 1024
"""Of a whole `scope` parameter."""

_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
"""RFC 6749 section 3.3."""

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LIKE_A_CODE = re.compile(r"[a-z][a-z0-9_]{2,39}")
"""An error code as all that are registered look; RFC 6749 section 5.2 would have it be any printable text."""

_REGISTERED = frozenset(
    """access_denied account_selection_required authorization_pending consent_required expired_token
    insufficient_scope insufficient_user_authentication interaction_required invalid_authorization_details
    invalid_client invalid_client_metadata invalid_dpop_proof invalid_grant invalid_redirect_uri invalid_request
    invalid_request_object invalid_request_uri invalid_scope invalid_software_statement invalid_target invalid_token
    login_required registration_not_supported request_not_supported request_uri_not_supported server_error slow_down
    temporarily_unavailable unapproved_software_statement unauthorized_client unmet_authentication_requirements
    unsupported_grant_type unsupported_response_type unsupported_token_type use_dpop_nonce""".split()  # noqa: SIM905
)
"""IANA, OAuth Extensions Error Registry, and OpenID Connect."""

UNREGISTERED = "unregistered_code"
"""What a code is called that is neither registered nor looks like one that is: it might repeat a secret."""

_VISIBLE = re.compile(r"[\x21-\x7e]+")

Document = Mapping[str, object]


def read_object(body: bytes, what: str) -> Document:
    """Read a JSON object; `what` names it in the message.

    Raises:
        OAuthProblem: `outage`: it is none. A proxy's error page, or a site that answers every path, is no statement of
            the party asked.
    """
    if len(body) > MAX_DOCUMENT_BYTES:
        raise OAuthProblem(f"{what} is larger than 1 MiB")
    try:
        document = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))  # RFC 8259 section 8.1 lets it be skipped
    except (msgspec.DecodeError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise OAuthProblem(f"{what} is not a JSON object", kind="outage")
    return document


def text_member(document: Document, name: str, what: str) -> str | None:
    """Return a member that is a string, None if it is absent.

    Raises:
        OAuthProblem: `refused`: it is something else.
    """
    value = document.get(name)
    if value is None or isinstance(value, str):
        return value
    raise OAuthProblem(f"{what} is malformed: {name} is not a string")


def texts_member(document: Document, name: str, what: str) -> tuple[str, ...] | None:
    """Return a member that is a list of strings, at most `MAX_ITEMS` of them, None if it is absent.

    Raises:
        OAuthProblem: `refused`: it is something else.
    """
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, list):
        items = tuple(item for item in value[:MAX_ITEMS] if isinstance(item, str))
        if len(items) == min(len(value), MAX_ITEMS):
            return tuple(item for item in items if len(item) <= MAX_ITEM_CHARS)
    raise OAuthProblem(f"{what} is malformed: {name} is not a list of strings")


def text_if_any(document: Document, name: str) -> str | None:
    """Return a member that is a string, None if it is absent or something else."""
    value = document.get(name)
    return value if isinstance(value, str) else None


def texts_if_any(document: Document, name: str) -> tuple[str, ...] | None:
    """Return the strings of a member that is a list, at most `MAX_ITEMS`, None if it is absent or something else."""
    value = document.get(name)
    if not isinstance(value, list):
        return None
    return tuple(item for item in value[:MAX_ITEMS] if isinstance(item, str) and len(item) <= MAX_ITEM_CHARS)


def flag_if_any(document: Document, name: str, *, malformed: bool = False) -> bool:
    """Return a member that is true or false, False if it is absent.

    malformed: what anything else counts as; True where that is the stricter reading.
    """
    value = document.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    return malformed


def scope_tokens(text: str) -> tuple[str, ...]:
    """Return the scopes in a `scope` value, each once, in order (RFC 6749 section 3.3).

    What cannot be one is left out, and so is what comes after the first `MAX_SCOPES`.
    """
    tokens = dict.fromkeys(part for part in text.split() if _SCOPE_TOKEN.fullmatch(part))
    return tuple(islice(tokens, MAX_SCOPES))


def error_code(value: object) -> str | None:
    """Return an OAuth error code as it may be shown; None if it is no code at all.

    Most providers have codes of their own, which say more than that there was one. What is not shaped like a code is
    called `UNREGISTERED`; secrets that are known are taken out of whatever is shown besides.
    """
    if not isinstance(value, str) or not _CODE.fullmatch(value):
        return None
    return value if value in _REGISTERED or _LIKE_A_CODE.fullmatch(value) else UNREGISTERED


def is_visible(text: str) -> bool:
    """Say whether a value may go into a header or a form as it is: visible ASCII, no space (RFC 6749 appendix A)."""
    return _VISIBLE.fullmatch(text) is not None
