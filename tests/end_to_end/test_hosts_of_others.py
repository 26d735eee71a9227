"""A few of the hosts of `hosts_of_others.py`: those that are installed in seconds. The others are for its command.

The Inspector is in test_gateway_clients.py.
"""

from __future__ import annotations

import pytest
from harness import Daemon
from hosts_of_others import HOSTS, WAYS, look_at

FEW = ("openai-agents", "pydantic-ai", "langchain", "gemini-cli")

pytestmark = pytest.mark.timeout(600)  # whichever comes first installs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FEW)
def test_it_lists_calls_and_calls_again_after_a_restart(daemon: Daemon, name: str, way: str) -> None:
    (host,) = [host for host in HOSTS if host.name == name]
    row = look_at(host, way, daemon, host.install())
    assert row.faults == []
    assert row.client != "", "the records of its calls do not say who called"
    assert row.calls[:3] == [True, True, True]
    if name == "openai-agents":  # the one of them that reads the list again for each turn, told or not
        assert row.calls[3:] == [True]
    assert row.listed == row.tools > 0
