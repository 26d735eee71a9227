"""Real sockets on loopback, and no real waiting."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

IDLE_SECS = 0.02
"""For so long nothing must have happened before the clock jumps: a packet may need a moment even on loopback."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time. A module that is about real loops overrides this."""
    return ("trio", {"clock": MockClock(autojump_threshold=IDLE_SECS)})
