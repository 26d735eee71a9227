"""Proxies: how they are written, in moltis.toml and in the environment, and which of them a URL is reached through.

Pure. What is written in the environment is written for other programs, so it is read as they read it: a proxy may lack
its `http://`, and the entries of NO_PROXY have the forms that curl and Go know.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import quote, unquote

from moltis.http.addresses import host_is_loopback
from moltis.http.origins import Url, read_url
from moltis.names import did_you_mean

NONE: Final = "none"
ENV: Final = "env"

_EXAMPLE: Final = '"http://proxy.example.com:3128"'
_IN_USERINFO: Final = "; in user and password write %40 for @, %2F for /, %23 for #, %5C for \\, %20 for a space"
_HTTPS_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_HTTP_VARIABLES: Final = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
_EXEMPT_VARIABLES: Final = ("no_proxy", "NO_PROXY")
"""The spelling in lower case wins, as for curl; of an empty one the next counts."""


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """One proxy. It may have a password, so its repr shows where it is and nothing else.

    user, password: of RFC 7617, decoded; None where the URL has none.
    """

    scheme: str
    host: str
    port: int
    netloc: str
    """`host[:port]`, as in a message."""
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.netloc!r})"

    @property
    def authorization(self) -> str | None:
        """The value of the Proxy-Authorization header (RFC 9110 section 11.7.2); None without a user."""
        if self.user is None:
            return None
        return "Basic " + base64.b64encode(f"{self.user}:{self.password or ''}".encode()).decode("ascii")

    @property
    def url(self) -> str:
        """The URL with its password, for a program that is to use it."""
        userinfo = "" if self.user is None else f"{quote(self.user, safe='')}:{quote(self.password or '', safe='')}@"
        return f"{self.scheme}://{userinfo}{self.netloc}"


@dataclass(frozen=True, slots=True)
class Way:
    """The way to one origin through a proxy.

    forwards: it is asked for each resource by its whole URL, as for plain http; else for a connection (CONNECT).
    """

    proxy: Proxy
    forwards: bool


@dataclass(frozen=True, slots=True, repr=False)
class Proxies:
    """What `proxy` says of a server, and of where one logs in to it.

    exempt: the entries of NO_PROXY.
    own: the server's own entry says so, and so it is meant for this very server.
    """

    https: Proxy | None = None
    http: Proxy | None = None
    exempt: tuple[str, ...] = ()
    own: bool = False

    def __repr__(self) -> str:
        return "Proxies(***)"

    def __iter__(self) -> Iterator[Proxy]:
        return iter(dict.fromkeys(proxy for proxy in (self.https, self.http) if proxy is not None))

    def way(self, url: Url) -> Way | None:
        """Return the way to a URL; None where it is reached without a proxy.

        This machine is: for a proxy it would be another one. But a proxy on this machine may be named for a server on
        it, to look at what passes.
        """
        proxy = self.https if url.scheme == "https" else self.http
        if proxy is None or _is_exempt(self.exempt, url.host, url.port):
            return None
        if host_is_loopback(url.host) and not (self.own and host_is_loopback(proxy.host)):
            return None
        return Way(proxy, forwards=url.scheme == "http")

    def way_to(self, url: str) -> Way | None:
        """Return the way to a URL as written; None also for what is none."""
        parts = read_url(url)
        return None if parts is None else self.way(parts)


def read_proxy(text: str) -> Proxy:
    """Read the URL of a proxy.

    Raises:
        ValueError: it is none; the message completes "proxy ..." and has nothing of it.
    """
    if text.lower().startswith("socks"):
        raise ValueError(f"is a SOCKS proxy, which is not spoken here: it must be a URL like {_EXAMPLE}")
    url = read_url(text)
    if url is None or url.path not in ("", "/") or url.query or "#" in text:
        odd = (
            "; in user and password write %40 for @, %2F for /, %23 for #, %5C for \\, %20 for a space"
            if "@" in text
            else ""
        )
        raise ValueError(f"must be a URL like {_EXAMPLE}, without a path{odd}")
    user, _, password = url.userinfo.removesuffix("@").partition(":")
    login = (unquote(user), unquote(password)) if url.userinfo else ()
    return Proxy(url.scheme, url.host, url.port, url.netloc, *login)


def setting(text: str, environ: Mapping[str, str], *, own: bool) -> Proxies | None:
    """Read what `proxy` says: none, env or a URL; None where nothing is reached through a proxy.

    own: as `Proxies.own`.

    Raises:
        ValueError: it says something else, or the environment does; the message completes "proxy ..." and has nothing
            of it, for it may be a secret.
    """
    if text == NONE:
        return None
    if text == ENV:
        try:
            return of_environment(environ, own=own)
        except ValueError as error:
            raise ValueError(f'is "{ENV}", and {error}') from None
    try:
        proxy = read_proxy(text)
    except ValueError as error:
        told = str(error).replace("must be", f"must be {NONE}, {ENV} or", 1)
        raise ValueError(told + did_you_mean(text, (NONE, ENV))) from None
    return Proxies(proxy, proxy, own=own)


def of_environment(environ: Mapping[str, str], *, own: bool = False) -> Proxies | None:
    """Return what the environment says; None where it names no proxy. own: as `Proxies.own`.

    Raises:
        ValueError: a variable that counts is no proxy; the message completes "proxy is env, and ...".
    """
    https, http = (_of_variable(environ, names) for names in (_HTTPS_VARIABLES, _HTTP_VARIABLES))
    if https is None and http is None:
        return None
    exempt = _first(environ, _EXEMPT_VARIABLES)
    return Proxies(https, http, tuple(environ[exempt].replace(",", " ").split()) if exempt else (), own)


def unused_variable(environ: Mapping[str, str], url: str) -> str | None:
    """Name the variable by which a URL would be reached through a proxy if `proxy` were `env`; None where none is."""
    name = _first(environ, _HTTPS_VARIABLES if url[:6].lower() == "https:" else _HTTP_VARIABLES)
    parts = read_url(url) if name is not None else None
    if name is None or parts is None or host_is_loopback(parts.host):
        return None
    exempt = _first(environ, _EXEMPT_VARIABLES)
    entries = environ[exempt].replace(",", " ").split() if exempt else ()
    return None if _is_exempt(entries, parts.host, parts.port) else name


def _first(environ: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((name for name in names if environ.get(name, "").strip()), None)


def _of_variable(environ: Mapping[str, str], names: Iterable[str]) -> Proxy | None:
    name = _first(environ, names)
    if name is None:
        return None
    text = environ[name].strip()
    try:
        return read_proxy(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise ValueError(f"{name} in the environment {error}") from None


# NO_PROXY ------------------------------------------------------------------------------------------------------------


def _is_exempt(entries: Iterable[str], host: str, port: int) -> bool:
    host = host.rstrip(".")
    address = _address(host)
    return any(_matches(entry.lower(), host, address, port) for entry in entries)


def _matches(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    """Say whether an entry is about a host: `*`, a name and all below it, an address, a network; each with a port."""
    if entry == "*":
        return True
    name, wanted = _split(entry)
    if wanted is not None and wanted != port:
        return False
    if address is None:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    if "/" not in name:
        return _address(name) == address
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def _split(entry: str) -> tuple[str, int | None]:
    """Take the port off an entry; an IPv6 address has one only behind its brackets."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        return entry, None
    if not port:
        return name, None
    return (name, int(port)) if port.isascii() and port.isdecimal() and len(port) <= 5 else (entry, None)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
