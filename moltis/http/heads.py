"""What the head of an answer asks for: to be left alone for a while, or to be asked elsewhere. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from moltis.http.origins import UNREADABLE, Url, read_url, resolved
from moltis.redaction import REDACTED

FOLLOWED: Final = frozenset({307, 308})
"""The redirects that keep method and body (RFC 9110 section 15.4)."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS: Final = 3
SHOWN_URL_CHARS: Final = 300
SHOWN_CHARS: Final = 60
"""Of a header field of the server's."""

_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,40}/[a-z0-9!#$&^_.+-]{1,40}")
_SECONDS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_LONGEST_DATE = 64


def retry_after_secs(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After value asks for, 0 or more; None if it asks for nothing intelligible.

    Any length is passed on, even years: the cap is the caller's. A fraction, which some servers send though the
    standard has none, is understood. An instant that has passed is 0.

    now: seconds since the epoch.
    """
    if value is None:
        return None
    value = value.strip(" \t")
    if _SECONDS.fullmatch(value):
        return float(value)
    if len(value) > _LONGEST_DATE or ":" not in value:
        return None
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def redirect_target(status: int, location: str | None, url: str, *, hops: int) -> str | None:
    """Return the URL that a redirect of `url` leads to if it may be followed, None otherwise: one of the same origin.

    hops: how many were followed already.
    """
    if status not in FOLLOWED or not location or hops >= MAX_REDIRECTS:
        return None
    target = resolved(url, location) or ""
    here, there = read_url(url), read_url(target)
    if here is None or there is None or here.origin != there.origin:
        return None
    return target.partition("#")[0].replace(there.userinfo, "", 1)  # a login in it is not ours to send


def redirect_words(location: str | None, url: str) -> str:
    """Say where a redirect leads that is not followed, and what to write, as what follows the server's name.

    Query values are left out. Nobody is told to write a URL of plain http.
    """
    target = resolved(url, location) if location else None
    here, there = read_url(url), read_url(target or "")
    if here is None or there is None or target is None:
        return f"redirects to {UNREADABLE}" if location else "redirects, and does not say where to"
    shown = shown_target(there)
    if there.scheme == "https":
        return f"redirects to {shown}; if that is the server, {_line(there)}"
    if there.origin == here.origin:
        return f"redirects to {shown}; if that is the server, that is what its url has to be"
    words = f"redirects to {shown}, which is plain http: nothing is sent there"
    if here.scheme == "https" and there.host == here.host:
        straight = replace(there, scheme="https", port=here.port)
        words += (
            f"; a proxy before it does not tell it that it is reached by https (X-Forwarded-Proto): {_line(straight)}"
        )
    return words


def followed_words(target: str) -> str:
    """Say that a redirect was followed, which is odd, as what follows the server's name."""
    there = read_url(target)
    if there is None:
        return f"redirects to {UNREADABLE}"
    advice = f"; {_line(there)}, and nothing is redirected any more" if there.scheme == "https" else ""
    return f"redirects what is sent to its url to {shown_target(there)}{advice}"


def shown_target(there: Url) -> str:
    """Show where a redirect leads: the whole URL but its query values, at most 300 printable ASCII characters."""
    shown = there.origin + there.path
    if there.query[1:]:
        pairs = (pair.partition("=") for pair in there.query[1:].split("&"))
        shown += "?" + "&".join(f"{name}={REDACTED}" if equals else REDACTED for name, equals, _ in pairs)
    return shown if len(shown) <= SHOWN_URL_CHARS else shown[: SHOWN_URL_CHARS - 3] + "..."


def _line(there: Url) -> str:
    """Return what to write in moltis.toml."""
    shown = shown_target(there)
    if there.query or shown.endswith("...") or '"' in shown:
        return "that is what its url has to be (query values are left out here)"
    return f'write url = "{shown}" in its entry'


def media_type(content_type: str | None) -> str:
    """Return the media type of a Content-Type, lower case and without parameters; empty if it is none."""
    kind = (content_type or "").partition(";")[0].strip(" \t").lower()
    return kind if _TYPE.fullmatch(kind) else ""


def shown_field(value: str | None) -> str:
    """Return a header field as it may be shown: quoted, at most 60 printable ASCII characters; empty for none."""
    if not value:
        return ""
    shown = "".join(c if " " <= c <= "~" else "?" for c in value[:SHOWN_CHARS])
    return f"'{shown}...'" if len(value) > SHOWN_CHARS else f"'{shown}'"
