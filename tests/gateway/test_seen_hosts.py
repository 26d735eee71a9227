"""Which hosts are connected, as the status tells it."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_fakes import FakeOutlet, FakePort, FakeWorld, ask, modern_ask, tool

from moltis.gateway.api import LOCAL, Principal
from moltis.gateway.gateway import MAX_SEEN, Gateway
from moltis.gateway.host import Host
from moltis.gateway.introduction import MAX_SAID_BYTES
from moltis.gateway.messages import CLIENT_INFO
from moltis.gateway.views import ALL, path_of
from moltis.server.status import HostSeen


def made() -> Gateway:
    ports = [FakePort("one"), FakePort("other")]
    for port in ports:
        port.ready(tools=[tool("t")])
    return Gateway(FakeWorld(*ports))


def joined(gateway: Gateway, info: Any, token: str = "", server: str | None = None) -> Host:
    host = gateway.new_host(path_of(server), Principal(token), lambda message: True)
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
    host = gateway.new_host(ALL, LOCAL, lambda message: True)
    host.request(modern_ask("tools/list"), FakeOutlet())
    assert gateway.seen_of("one") == []
    host.request(modern_ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id=2), FakeOutlet())
    assert [(seen.era, seen.token) for seen in gateway.seen_of("one")] == [("modern", None)]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\nb\t c\r\n", "a b c"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u200b" * 500, ("\\u200b" * 20)[:100]),
        (" \n\u2028 ", "unknown"),
        ("caf\u00e9 \u6771", "caf\u00e9 \u6771"),
    ],
)
def test_a_stranger_s_words_are_one_printable_line(said: str, shown: str) -> None:
    gateway = made()
    joined(gateway, {"name": said, "version": said})
    (found,) = gateway.seen_of("one")
    assert (found.name, found.version) == (shown, shown)
    assert found.name.isprintable()


def test_who_says_too_much_of_itself_has_no_name() -> None:
    gateway = made()
    joined(gateway, {"name": "n", "version": "1", "more": "x" * MAX_SAID_BYTES})
    assert gateway.seen_of("one") == [HostSeen("unknown", "unknown", "legacy")]
    host = gateway.new_host(ALL, LOCAL, lambda message: True)
    about = {CLIENT_INFO: {"name": "n", "version": "1", "more": "x" * MAX_SAID_BYTES}}
    host.request(modern_ask("subscriptions/listen", {"notifications": {}}, id=2, **about), FakeOutlet())
    assert gateway.seen_of("one")[1] == HostSeen("unknown", "unknown", "modern")


def test_a_call_is_the_host_s_who_made_it_and_its_words_are_looked_at_once() -> None:
    port = FakePort("one")
    upstream = port.ready(tools=[tool("t")])
    gateway = Gateway(FakeWorld(port))
    first, second = joined(gateway, {"name": "code", "version": "2"}, "laptop"), joined(gateway, {"name": "zed"})
    modern = gateway.new_host(ALL, Principal("box"), lambda message: True)
    for id in (2, 3):
        first.request(ask("tools/call", {"name": "one__t"}, id=id), FakeOutlet())
        modern.request(modern_ask("tools/call", {"name": "one__t"}, id=id), FakeOutlet())
    second.request(ask("tools/call", {"name": "one__t"}, id=2), FakeOutlet())
    seen = [call.caller.seen for call in upstream.calls]
    code, box = HostSeen("code", "2", "legacy", "laptop"), HostSeen("host", "2", "modern", "box")
    assert seen == [code, box, code, box, HostSeen("zed", "unknown", "legacy")]
    assert seen[0] is seen[2]
    assert seen[1] is seen[3]


def test_names_and_their_number_are_bounded() -> None:
    gateway = made()
    for _ in range(MAX_SEEN + 5):
        joined(gateway, {"name": "n" * 5000, "version": "1"})
    found = gateway.seen_of("one")
    assert len(found) == MAX_SEEN
    assert found[0].name == "n" * 100
