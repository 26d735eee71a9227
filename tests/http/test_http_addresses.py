"""Every address belongs somewhere, and what is nowhere is forbidden."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.http.addresses import Scope, host_is_loopback, neighbours, scope

PUBLIC, PRIVATE, LOOPBACK, FORBIDDEN = Scope.PUBLIC, Scope.PRIVATE, Scope.LOOPBACK, Scope.FORBIDDEN

ADDRESSES = {
    # IPv4
    "1.1.1.1": PUBLIC,
    "93.184.216.34": PUBLIC,
    "172.15.255.255": PUBLIC,
    "172.32.0.1": PUBLIC,
    "100.63.255.255": PUBLIC,
    "100.128.0.1": PUBLIC,
    "223.255.255.255": PUBLIC,
    "10.0.0.1": PRIVATE,
    "10.255.255.255": PRIVATE,
    "172.16.0.1": PRIVATE,
    "172.31.255.255": PRIVATE,
    "192.168.1.1": PRIVATE,
    "100.64.0.1": PRIVATE,
    "100.127.255.255": PRIVATE,
    "192.0.0.1": PRIVATE,
    "192.0.2.1": PRIVATE,
    "198.18.0.1": PRIVATE,
    "198.51.100.7": PRIVATE,
    "203.0.113.7": PRIVATE,
    "127.0.0.1": LOOPBACK,
    "127.255.255.254": LOOPBACK,
    "0.0.0.0": FORBIDDEN,
    "0.1.2.3": FORBIDDEN,
    "169.254.169.254": FORBIDDEN,
    "169.254.0.1": FORBIDDEN,
    "192.88.99.1": FORBIDDEN,
    "224.0.0.1": FORBIDDEN,
    "239.255.255.255": FORBIDDEN,
    "240.0.0.1": FORBIDDEN,
    "255.255.255.255": FORBIDDEN,
    # IPv6
    "2606:4700::1111": PUBLIC,
    "2a00:1450:4001:81b::200e": PUBLIC,
    "fd12:3456::1": PRIVATE,
    "fc00::1": PRIVATE,
    "2001:db8::1": PRIVATE,
    "2001:1::1": PRIVATE,
    "2001:20::1": PRIVATE,
    "3fff::1": PRIVATE,
    "::1": LOOPBACK,
    "::": FORBIDDEN,
    "::2": FORBIDDEN,
    "fe80::1": FORBIDDEN,
    "fe80::1%eth0": FORBIDDEN,
    "::1%lo": FORBIDDEN,
    "febf::1": FORBIDDEN,
    "fec0::1": FORBIDDEN,
    "ff02::1": FORBIDDEN,
    "64:ff9b::7f00:1": FORBIDDEN,
    "64:ff9b::808:808": FORBIDDEN,
    "64:ff9b:1::1": FORBIDDEN,
    "2002:7f00:1::1": FORBIDDEN,
    "2001::1": FORBIDDEN,
    "100::1": FORBIDDEN,
    "5f00::1": FORBIDDEN,
    "4000::1": FORBIDDEN,
    # IPv4 in IPv6
    "::ffff:127.0.0.1": LOOPBACK,
    "::ffff:169.254.169.254": FORBIDDEN,
    "::ffff:10.0.0.1": PRIVATE,
    "::ffff:1.1.1.1": PUBLIC,
    "::127.0.0.1": FORBIDDEN,
    # No addresses
    "": FORBIDDEN,
    "localhost": FORBIDDEN,
    "127.1": FORBIDDEN,
    "2130706433": FORBIDDEN,
    "0177.0.0.1": FORBIDDEN,
    "[::1]": FORBIDDEN,
}


@pytest.mark.parametrize(("address", "expected"), ADDRESSES.items())
def test_an_address_belongs_to(address: str, expected: Scope) -> None:
    assert scope(address) is expected


@given(st.ip_addresses())
def test_what_is_public_is_public_for_the_interpreter_too(address: IPv4Address | IPv6Address) -> None:
    if scope(str(address)) is PUBLIC and getattr(address, "ipv4_mapped", None) is None:
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_when_mapped_into_ipv6(address: IPv4Address) -> None:
    assert scope(f"::ffff:{address}") is scope(str(address))


@given(st.text(max_size=40))
def test_any_text_has_a_scope(text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        assert scope(text) is FORBIDDEN
    else:
        scope(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("localhost", True),
        ("LocalHost", True),
        ("app.localhost", True),
        ("127.1", False),
        ("0.0.0.0", False),
        ("::ffff:127.0.0.1", False),
        ("localhost.example.com", False),
        ("notlocalhost", False),
        ("localhost.", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_a_host_is_this_machine_by_name(host: str, expected: bool) -> None:
    assert host_is_loopback(host) is expected


@pytest.mark.parametrize(
    ("server", "reachable"),
    [
        ((), {PUBLIC}),
        ((PUBLIC,), {PUBLIC}),
        ((FORBIDDEN,), {PUBLIC}),
        ((PRIVATE,), {PUBLIC, PRIVATE}),
        ((LOOPBACK,), {PUBLIC, PRIVATE, LOOPBACK}),
        ((LOOPBACK, PRIVATE), {PUBLIC, PRIVATE}),
        ((PUBLIC, LOOPBACK), {PUBLIC}),
        ((PUBLIC, PRIVATE), {PUBLIC}),
        ((FORBIDDEN, LOOPBACK), {PUBLIC}),
    ],
)
def test_a_server_leads_only_to_its_like_and_to_the_internet(server: tuple[Scope, ...], reachable: set[Scope]) -> None:
    assert neighbours(server) == reachable


@pytest.mark.parametrize("server", [c for n in range(5) for c in itertools.combinations(Scope, n)])
def test_no_server_leads_to_what_is_forbidden(server: tuple[Scope, ...]) -> None:
    assert FORBIDDEN not in neighbours(server)
    assert LOOPBACK not in neighbours(server) or set(server) == {LOOPBACK}
