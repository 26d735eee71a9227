"""How many connections there is room for, whatever the limit of descriptors is."""

from __future__ import annotations

import resource

import pytest

from moltis.daemon.descriptors import control_connections, http_connections


@pytest.mark.parametrize(
    ("soft", "control", "http"), [(64, 8, 16), (256, 136, 64), (1024, 904, 256), (resource.RLIM_INFINITY, 65_416, 512)]
)
def test_room_is_left_for_ten_servers(monkeypatch: pytest.MonkeyPatch, soft: int, control: int, http: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, resource.RLIM_INFINITY))
    assert (control_connections(10), http_connections(512)) == (control, http)
