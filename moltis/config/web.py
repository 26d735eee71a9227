"""What `[gateway]` names: `listen`, an address and a port; `allowed_hosts` and `allowed_origins`, as in headers."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final


def split_listen(text: str) -> tuple[str, int]:
    """Return host (without brackets) and port of `127.0.0.1:8642`, `[::1]:8642` or `localhost:8642`.

    Raises:
        ValueError: it is none of these; the message completes "listen ...".
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError('must be an address and a port, like "127.0.0.1:8642"')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError('must have an IPv6 address in brackets, like "[::1]:8642"')
    if host == "localhost":
        return host, int(port)
    try:
        ip_address(host)
    except ValueError:
        raise ValueError('must be an IP address or localhost, and a port, like "127.0.0.1:8642"') from None
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that `split_listen` gave."""
    return host == "localhost" or ip_address(host).is_loopback


NO_ORIGIN: Final = "is what any page from a file, a sandbox or a redirect is called: who lets one in lets in all"
"""Of `null` (RFC 6454 section 7.1), which pages of `file://` have too; completes a sentence that begins with it."""

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]+)")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*")
_PORT = re.compile(r":[0-9]{1,5}$")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_PUNYCODE: Final = 'must be in ASCII, as browsers send it: "xn--..." for letters that are none'


def page_origin(text: str) -> str:
    """Return the origin of web pages, of any scheme, as browsers send it (RFC 6454 section 6.2).

    Raises:
        ValueError: it is none; the message completes "allowed_origins ...".
    """
    lowered = text.lower()
    if lowered == "null" or lowered.startswith("file:"):
        raise ValueError(f"must not have {'null' if lowered == 'null' else 'file://'}, which {NO_ORIGIN}")
    if not lowered.isascii():
        raise ValueError(_PUNYCODE)
    if "*" in lowered:  # no browser sends one, so nothing would be let in by it
        raise ValueError('must be whole origins, like "app://obsidian.md": the log names one that was refused')
    match = _ORIGIN.fullmatch(lowered.removesuffix("/"))
    if match is None:
        raise ValueError('must be origins, like "https://app.example.com" or "app://obsidian.md", without a path')
    scheme, authority = match.groups()
    return f"{scheme}://{authority.removesuffix(_DEFAULT_PORTS.get(scheme, ' '))}"


def host_name(text: str) -> str:
    """Return a name or an address without its port, brackets and the dot at its end, in lower case.

    Raises:
        ValueError: it is none; the message completes "allowed_hosts ...".
    """
    lowered = text.lower()
    if not lowered.isascii():
        raise ValueError(f'{_PUNYCODE}, like "mcp.example.com"')
    try:
        return str(ip_address(lowered.strip("[]")))
    except ValueError:
        pass
    name = _PORT.sub("", lowered) if lowered.count(":") == 1 or lowered.startswith("[") else lowered
    try:
        return str(ip_address(name.strip("[]")))
    except ValueError:
        pass
    name = name.removesuffix(".")
    if "*" in name:
        raise ValueError('must be whole names, like "mcp.example.com": a pattern lets in what others may point here')
    if _NAME.fullmatch(name) is None:
        raise ValueError('must be names, like "mcp.example.com", without https:// and a path')
    return name
