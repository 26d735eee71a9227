"""The one reading of a URL.

A URL that two programs read differently is how a check is passed with one host and another is connected to. So what is
not plainly `http(s)://host[:port][/path][?query][#fragment]` in printable ASCII is no URL here at all, and whoever
connects uses the parts found here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import urljoin

from moltis.http.addresses import host_is_loopback

MAX_URL_CHARS = 16 * 1024
SHOWN_CHARS = 100
SHOWN_URL_CHARS = 200
UNREADABLE = "an unreadable address"

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"""(?P<scheme>https?)://
        (?P<userinfo>[^/?#@\[\]]*@)?
        (?: (?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*) | \[(?P<v6>[0-9A-Fa-f:.]+)\] )
        (?: :(?P<port>[0-9]{0,5}) )?
        (?P<path>/[^?#]*)?
        (?P<query>\?[^#]*)?
        (?: \#.* )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NOT_IN_URL = re.compile(r"[^\x21-\x7e]|\\")
_NO_HOST = re.compile(r"https?://(?:[^/?#]*@)?(?:[:/?#]|\Z|[^/?#]*:0+(?:[/?#]|\Z))", re.IGNORECASE)


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """An http or https URL, read. It may hold secrets, so its repr does not.

    host: lower case, an IPv6 address without its brackets.
    port: always a number.
    path: as written, empty if there is none. query: with its `?`, or empty.
    userinfo: with its `@`, or empty.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str
    userinfo: str

    def __repr__(self) -> str:
        return "Url(***)"

    @property
    def netloc(self) -> str:
        """`host[:port]`: brackets around IPv6, the default port left out. The value of a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """`https://host[:port]`, lower case, the default port left out (RFC 6454)."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def target(self) -> str:
        """What goes into the request line (RFC 9112 section 3.2.1)."""
        return (self.path or "/") + self.query

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read along: https, or this machine by its very name."""
        return self.scheme == "https" or host_is_loopback(self.host)


def read_url(url: str) -> Url | None:
    """Read a URL; None if it is not one of http or https that every program reads alike."""
    if len(url) > MAX_URL_CHARS or _NOT_IN_URL.search(url) is not None:
        return None
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"] or _PORTS[scheme])
    host = match["host"].lower() if match["v6"] is None else _canonical_v6(match["v6"])
    if host is None or not 0 < port < 65536:
        return None
    return Url(scheme, host, port, match["path"] or "", match["query"] or "", match["userinfo"] or "")


def why_no_url(url: str) -> str | None:
    """Say why `read_url` reads nothing, without a word of the URL: what follows its name; None where it does."""
    if read_url(url) is not None:
        return None
    if _NOT_IN_URL.search(url):
        if not _NOT_IN_URL.search(url.strip()):
            return "begins or ends with a blank or line break: write it without"
        return "has a space, a line break, a NUL, a backslash or a non-ASCII character; percent-encode it"
    if not url.lower().startswith(("https://", "http://")):
        return "must begin with https:// or http://"
    if _NO_HOST.match(url):
        return "has no host, or port 0"
    return "is not a URL: " + (
        "in user and password write %40 for @, %2F for /, %23 for #, %5B for [" if "@" in url else "look at its host"
    )


def origin(url: str) -> str:
    """Return `https://host[:port]` of a URL: lower case, the default port left out (RFC 6454).

    Raises:
        ValueError: it is not an http or https URL; the message does not hold it.
    """
    return _must_read(url).origin


def same_origin(a: str, b: str) -> bool:
    """Say whether two URLs have one scheme, host and port. What is not a URL has no origin."""
    one, other = read_url(a), read_url(b)
    return one is not None and other is not None and one.origin == other.origin


def resolved(base: str, reference: str) -> str | None:
    """Return the URL that a reference, as in a Location header, means where `base` was asked (RFC 3986 section 5.2).

    None if that is not an http or https URL, or if the reference has characters that a URL cannot have.
    """
    if _NOT_IN_URL.search(reference) is not None:
        return None
    try:
        url = urljoin(base, reference)
    except ValueError:
        return None
    return url if read_url(url) is not None else None


def shown_host(url: str) -> str:
    """Name a URL in a message: its host, and its port if that is not the default; at most 100 printable characters."""
    parts = read_url(url)
    if parts is None:
        return UNREADABLE
    netloc = parts.netloc
    return netloc if len(netloc) <= SHOWN_CHARS else netloc[: SHOWN_CHARS - 3] + "..."


def shown_url(url: str) -> str:
    """Show a URL in a message where the host alone would not tell two apart: no userinfo, query value or fragment.

    At most 200 printable characters.
    """
    parts = read_url(url)
    if parts is None:
        return UNREADABLE
    shown = parts.origin + parts.path + ("?..." if parts.query else "")
    return shown if len(shown) <= SHOWN_URL_CHARS else shown[: SHOWN_URL_CHARS - 3] + "..."


def canonical_resource(url: str) -> str:
    """Return the identifier of an MCP server that a token is asked for (RFC 8707; MCP, Canonical Server URI).

    Scheme and host in lower case; no default port, userinfo or fragment, no slash where the path is just that; and no
    query, which may hold secrets that an authorization server must not see.

    Raises:
        ValueError: it is not an http or https URL; the message does not hold it.
    """
    parts = _must_read(url)
    return parts.origin + (parts.path if parts.path != "/" else "")


def _must_read(url: str) -> Url:
    parts = read_url(url)
    if parts is None:
        raise ValueError("not an http or https URL")
    return parts


def _canonical_v6(text: str) -> str | None:
    try:
        return IPv6Address(text).compressed
    except AddressValueError:
        return None
