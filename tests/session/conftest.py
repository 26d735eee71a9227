from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time: the clock jumps to the next deadline as soon as nothing else is left to do."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}
