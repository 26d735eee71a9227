"""Which hosts are connected, as the status tells it."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_fakes import FakeOutlet, FakePort, FakeWorld, ask, modern_ask, tool

from moltis.gateway.api import LOCAL, Principal
from moltis.gateway.gateway import MAX_SEEN, Gateway
from moltis.gateway.host import Host
from moltis.server.status import HostSeen


def made() -> Gateway:
    ports = [FakePort("one"), FakePort("other")]
    for port in ports:
        port.ready(tools=[tool("t")])
    return Gateway(FakeWorld(*ports))


def joined(gateway: Gateway, info: Any, token: str = "", server: str | None = None) -> Host:
    host = gateway.new_host(server, Principal(token), lambda message: True)
    host.request(
        ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}), FakeOutlet()
    )
    return host


def test_hosts_of_all_and_of_one_server_are_told_of_as_long_as_they_are_there() -> None:
    gateway = made()
    code = joined(gateway, {"name": "code", "version": "2.1"}, "laptop")
    local = joined(gateway, {"name": "zed", "version": "1"}, server="one")
    assert gateway.seen_of("one") == [
        HostSeen("code", "2.1", "legacy", "laptop"),
        HostSeen("zed", "1", "legacy", None),
    ]
    assert gateway.seen_of("other") == [HostSeen("code", "2.1", "legacy", "laptop")]
    code.close()
    local.close()
    assert gateway.seen_of("one") == []


@pytest.mark.parametrize("info", [{}, None, 5, {"name": 5, "version": None}, {"name": ""}, "x"])
def test_a_host_that_does_not_say_who_it_is_is_there_all_the_same(info: Any) -> None:
    gateway = made()
    joined(gateway, info)
    assert gateway.seen_of("one") == [HostSeen("unknown", "unknown", "legacy")]


def test_of_hosts_that_have_no_session_those_are_told_of_that_listen() -> None:
    gateway = made()
    host = gateway.new_host(None, LOCAL, lambda message: True)
    host.request(modern_ask("tools/list"), FakeOutlet())
    assert gateway.seen_of("one") == []
    host.request(modern_ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id=2), FakeOutlet())
    assert [(seen.era, seen.token) for seen in gateway.seen_of("one")] == [("modern", None)]


def test_names_and_their_number_are_bounded() -> None:
    gateway = made()
    for _ in range(MAX_SEEN + 5):
        joined(gateway, {"name": "n" * 5000, "version": "1"})
    found = gateway.seen_of("one")
    assert len(found) == MAX_SEEN
    assert found[0].name == "n" * 100
