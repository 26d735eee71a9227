"""What an IP address belongs to, and what may be reached on behalf of whom.

The tables are the IANA special-purpose address registries (RFC 6890), not the interpreter's `is_global`: 3.11 calls
multicast, NAT64, 6to4 and site-local addresses global, and later versions judge others anew. What is in no table and
not global for the interpreter is not public either.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address


class Scope(StrEnum):
    """Whose network an address is in.

    FORBIDDEN: link-local (the cloud's metadata service), multicast, unspecified, reserved, and IPv6 prefixes that lead
        to an IPv4 address by way of someone else (NAT64, 6to4, Teredo).
    """

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    FORBIDDEN = "forbidden"


_V4 = (
    (Scope.LOOPBACK, ("127.0.0.0/8",)),
    (
        Scope.FORBIDDEN,
        ("0.0.0.0/8", "169.254.0.0/16", "192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    ),
    (
        Scope.PRIVATE,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
            *("192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        ),
    ),
)
_V6 = (
    (Scope.LOOPBACK, ("::1/128",)),
    (Scope.FORBIDDEN, ("2001::/32", "2002::/16")),
    (Scope.PRIVATE, ("fc00::/7", "2001::/23", "2001:db8::/32", "3fff::/20")),
)
_UNICAST = IPv6Network("2000::/3")
"""All that IANA has given out (RFC 4291 section 2.4); the rest of IPv6 is reserved, link-local or multicast."""

_TABLE_V4 = tuple((scope, IPv4Network(net)) for scope, nets in _V4 for net in nets)
_TABLE_V6 = tuple((scope, IPv6Network(net)) for scope, nets in _V6 for net in nets)


@lru_cache(maxsize=64)  # a login asks a hundred times, of two or three hosts
def scope(ip: str) -> Scope:
    """Say whose network an address is in. What is not an IP address, or has a zone, is FORBIDDEN."""
    try:
        address = ip_address(ip)
    except ValueError:
        return Scope.FORBIDDEN
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return Scope.FORBIDDEN
        if address.ipv4_mapped is None:
            return _scope_v6(address)
        address = address.ipv4_mapped
    return _scope_v4(address)


@lru_cache(maxsize=64)
def host_is_loopback(host: str) -> bool:
    """Say whether a URL's host (no brackets) is this machine by its very name: 127/8, ::1, localhost, *.localhost.

    RFC 6761 section 6.3 keeps the names under `localhost` for that. Nothing is resolved.
    """
    host = host.lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address == IPv6Address(1) or (isinstance(address, IPv4Address) and address.is_loopback)


def neighbours(server: Iterable[Scope]) -> frozenset[Scope]:
    """Say what may be reached on behalf of a server whose host has addresses of these scopes.

    The public Internet always; a private network only for a server in one, or on this machine; this machine only for a
    server on it. A server with addresses of several kinds counts as the one that may reach least.
    """
    scopes = frozenset(server)
    if scopes == {Scope.LOOPBACK}:
        return frozenset({Scope.PUBLIC, Scope.PRIVATE, Scope.LOOPBACK})
    if scopes and scopes <= {Scope.LOOPBACK, Scope.PRIVATE}:
        return frozenset({Scope.PUBLIC, Scope.PRIVATE})
    return frozenset({Scope.PUBLIC})


def _scope_v4(address: IPv4Address) -> Scope:
    for kind, network in _TABLE_V4:
        if address in network:
            return kind
    return Scope.PUBLIC if address.is_global else Scope.PRIVATE


def _scope_v6(address: IPv6Address) -> Scope:
    for kind, network in _TABLE_V6:
        if address in network:
            return kind
    if address not in _UNICAST:
        return Scope.FORBIDDEN
    return Scope.PUBLIC if address.is_global else Scope.PRIVATE
