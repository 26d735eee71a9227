"""How many connections there is room for, whatever the limit of descriptors is."""

from __future__ import annotations

import resource

import pytest

from moltis.control import listener as control_listener
from moltis.daemon.process import CONTROL, control_connections, http_connections
from moltis.gateway.http.application import MOST_OF_ONE
from moltis.gateway.http.listener import MAX_CONNECTIONS


@pytest.mark.parametrize(
    ("soft", "control", "http"),
    [
        (64, 8, 16),
        (256, 136, 64),
        (1024, 904, 648),
        (4096, 3976, 3720),
        (65_536, 65_416, 8192),
        (resource.RLIM_INFINITY, 65_416, 8192),
    ],
)
def test_room_is_left_for_ten_servers(monkeypatch: pytest.MonkeyPatch, soft: int, control: int, http: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, resource.RLIM_INFINITY))
    assert (control_connections(10), http_connections(10, 8192)) == (control, http)


@pytest.mark.parametrize("servers", [0, 10, 50])
def test_two_hundred_hosts_with_a_stream_and_a_call_each_have_room_under_the_usual_limit(
    monkeypatch: pytest.MonkeyPatch, servers: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (65_536, 524_288))
    one = min(http_connections(servers, MAX_CONNECTIONS) * 3 // 4, MOST_OF_ONE)
    assert one >= 400, "though all of them have one access token"


def test_the_control_socket_keeps_its_own_whatever_comes_by_http(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft in range(1024, 10_000, 500):
        monkeypatch.setattr(resource, "getrlimit", lambda which, soft=soft: (soft, soft))
        for servers in (0, 5, 30):
            assert soft - http_connections(servers, MAX_CONNECTIONS) - 8 * servers >= CONTROL
    assert CONTROL == control_listener.MAX_CONNECTIONS
