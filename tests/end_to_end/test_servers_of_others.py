"""Thirteen of the servers of `servers_of_others.py`: seven SDKs, four languages, both launchers, no network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from harness import SERVERS, Daemon
from installing import npm_folder, uv_programs, uv_tools
from servers_of_others import OTHERS, look_at

OFFICIAL = ("everything", "filesystem", "memory")
NPM = ("chart", "context7", "drawio", "hello-world")
PYPI = ("time", "calculator", "nixos", "grafana", "fetch", "cnb")

pytestmark = pytest.mark.timeout(900)  # whichever comes first installs for all


@pytest.fixture(scope="session")
def npm_others() -> Path:
    """The folder in which `npx -y` finds the servers of npm that are not the official ones."""
    folder = SERVERS / "others"
    named = json.loads((folder / "package.json").read_bytes())
    return npm_folder(folder, list(named["dependencies"]), "MOLTIS_TEST_OTHERS")


@pytest.fixture(scope="session")
def pypi_others() -> Path:
    """The folder from which `uvx` starts the servers of PyPI."""
    packages = [other.command[1] for other in OTHERS if other.name in PYPI]
    return uv_tools(SERVERS / "uv-tools", packages, "MOLTIS_TEST_UV_TOOLS")


@pytest.mark.parametrize("name", [*OFFICIAL, *NPM, *PYPI])
def test_it_gets_ready_is_listed_in_full_comes_back_and_leaves_nothing(
    daemon: Daemon, node: Path, npm_others: Path, pypi_others: Path, name: str
) -> None:
    (other,) = [other for other in OTHERS if other.name == name]
    daemon.env |= {"npm_config_offline": "true", "UV_OFFLINE": "1", "UV_TOOL_DIR": str(pypi_others)}
    cwd = {**dict.fromkeys(OFFICIAL, node), **dict.fromkeys(NPM, npm_others)}.get(name)
    row = look_at(other, daemon, node, f"{uv_programs()}{os.pathsep}{os.environ['PATH']}", cwd)
    assert row.faults == []
    assert row.told == ""
    assert row.ready_secs is not None
    assert row.back_secs is not None
    assert int(row.listed.partition("/")[0]) > 0
