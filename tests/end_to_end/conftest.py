"""Real processes. Nothing here is skipped: a missing part is a failure that says what to install."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ROOT, SERVERS, Daemon
from installing import npm_folder

NODE_PACKAGES = ("client", "inspector", "sdk", "server", "server-everything", "server-filesystem", "server-memory")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give time for `npm install` to the tests that may be the first to need it."""
    for item in items:
        if "node" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a Unix socket's path has 103 bytes."""
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        yield Path(name)


INTERPRETED = frozenset(
    f"test_{name}"
    for name in (
        "clocks", "cold_start", "fair_turns", "gateway_many_hosts", "gateway_opening", "hostile_servers", "log_file",
        "nothing_left_behind", "readme_commands", "remote_hostile", "secrets", "servers_of_others", "siege",
        "soak", "survival",
    )
)  # fmt: skip
"""The modules that are about how a daemon starts, what it holds in memory, or what others see of its process."""


@pytest.fixture
def new_daemon(folder: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Daemon]]:
    """Make daemons, each in a folder of its own; all are ended, with whatever they left, at the end of the test."""
    made: list[Daemon] = []
    forked = request.module.__name__ not in INTERPRETED

    def make() -> Daemon:
        place = folder / f"d{len(made)}"
        place.mkdir(mode=0o700)
        made.append(Daemon(place, forked=forked))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end_everything()


@pytest.fixture
def daemon(new_daemon: Callable[[], Daemon]) -> Daemon:
    return new_daemon()


@pytest.fixture(scope="session")
def node() -> Path:
    """The folder in which the npm servers and clients are installed, so that `npx -y` finds them without a network.

    MOLTIS_TEST_NODE names one that has them; otherwise they are installed beside the tests, once.
    """
    return npm_folder(SERVERS / "node", [f"@modelcontextprotocol/{name}" for name in NODE_PACKAGES], "MOLTIS_TEST_NODE")


@pytest.fixture
def manual_server(node: Path, folder: Path) -> Path:
    """A folder as the manual leaves it after "Simple Node.js Server": server.js beside its node_modules."""
    place = folder / "my-server"
    place.mkdir()
    beside = SERVERS / "node"
    for source in (ROOT / "examples" / "node" / "server.js", beside / "as-written.js", beside / "package.json"):
        shutil.copy(source, place)
    (place / "node_modules").symlink_to(node / "node_modules")
    return place
