from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_certificates import Authority


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop of the daemon."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private certificate authority that nothing on this machine trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def ca_file(authority: Authority) -> str:
    return str(authority.ca_file)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Authority:
    """Another authority."""
    return Authority(tmp_path, "Another Authority")
