"""The cookies of one connection: what a load balancer knows the backend by that has the session (RFC 6265).

Pure but for the time, which it is given. A cookie goes back to the very origin that set it, on the connection that it
was set on, and under the credentials that it was set under; nothing of it is kept anywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import inf
from typing import Final

from moltis.http.origins import Url, read_url

MAX_COOKIES: Final = 16
MAX_COOKIE_CHARS: Final = 4096
"""Of a whole Set-Cookie field; a longer one is not kept."""

_PAIR = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*([\x20-\x3a\x3c-\x7e]*)")
_MAX_AGE = re.compile(r"-?[0-9]{1,15}")


@dataclass(frozen=True, slots=True, repr=False)
class _Cookie:
    value: str
    until: float


class Cookies:
    """The cookies of one connection.

    url: of the server; only what comes from its origin is kept. own: a Cookie field of moltis.toml, which is sent
        first, and whose names no server sets.
    """

    def __init__(self, url: str, own: str | None = None) -> None:
        self._origin = _origin(read_url(url))
        self._own = own
        self._own_names = {part.partition("=")[0].strip() for part in (own or "").split(";")}
        self._kept: dict[tuple[str, str], _Cookie] = {}
        self._credentials: str | None = None

    def __repr__(self) -> str:
        return f"Cookies({len(self._kept)} of {MAX_COOKIES})"

    def forget(self) -> None:
        """Forget what was set."""
        self._kept.clear()

    def take(self, fields: Iterable[str], url: str, credentials: str | None, now: float) -> None:
        """Keep what an answer sets, or what of it may be kept.

        fields: the Set-Cookie values. credentials: what its request carried. now: seconds since the epoch.
        """
        parts = read_url(url)
        if parts is None or _origin(parts) != self._origin or credentials != self._credentials:
            return
        for field in fields:
            self._set(field, parts, now)

    def field(self, url: str, credentials: str | None, now: float) -> str | None:
        """Return the Cookie field of the next request, None for none. With other credentials all is forgotten."""
        if credentials != self._credentials:
            self.forget()
            self._credentials = credentials
        if not self._kept:
            return self._own
        parts = read_url(url)
        if parts is None or _origin(parts) != self._origin:
            return self._own
        path = parts.path or "/"
        found = [
            (name, at, cookie) for (name, at), cookie in self._kept.items() if cookie.until > now and _covers(at, path)
        ]
        found.sort(key=lambda entry: -len(entry[1]))  # RFC 6265 section 5.4: longer paths first
        pairs = [f"{name}={cookie.value}" for name, _, cookie in found]
        return "; ".join([*([self._own] if self._own else []), *pairs]) or None

    def _set(self, field: str, parts: Url, now: float) -> None:
        pair, *rest = field.split(";") if len(field) <= MAX_COOKIE_CHARS else [""]
        found = _PAIR.fullmatch(pair)
        if found is None or found[1] in self._own_names:
            return
        attributes = {name.strip().lower(): value.strip() for name, _, value in (part.partition("=") for part in rest)}
        if "secure" in attributes and not parts.secure:
            return
        domain = attributes.get("domain", "").removeprefix(".").lower()
        if domain and domain != parts.host and not parts.host.endswith(f".{domain}"):
            return
        at = attributes.get("path", "")
        at = at if at.startswith("/") else parts.path.rpartition("/")[0] or "/"  # section 5.1.4
        until = _until(attributes, now)
        self._kept.pop((found[1], at), None)
        if until > now:
            self._kept[found[1], at] = _Cookie(found[2].rstrip(), until)
            if len(self._kept) > MAX_COOKIES:
                del self._kept[next(iter(self._kept))]


def _origin(parts: Url | None) -> str:
    return parts.origin if parts is not None else ""


def _covers(at: str, path: str) -> bool:
    """Whether a cookie of one path goes to another (RFC 6265 section 5.1.4)."""
    return path == at or (path.startswith(at) and (at.endswith("/") or path[len(at)] == "/"))


def _until(attributes: dict[str, str], now: float) -> float:
    """Return when a cookie expires; Max-Age counts before Expires (section 5.3)."""
    if _MAX_AGE.fullmatch(attributes.get("max-age", "")):
        return now + int(attributes["max-age"])
    try:
        return parsedate_to_datetime(attributes["expires"].replace("-", " ")).timestamp()
    except (KeyError, ValueError, OverflowError, TypeError, IndexError):
        return inf
