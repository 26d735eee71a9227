"""Every command line test has a home of its own, and daemons that answer what they are told to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_shell import REPOSITORY, Shell
from fake_daemon import FakeDaemon


@pytest.fixture
def shell() -> Iterator[Shell]:
    # Not pytest's tmp_path: its length leaves no room for a socket's path (108 bytes).
    with tempfile.TemporaryDirectory(prefix="moltis-cli-") as folder:
        home = Path(folder)
        environ = {
            "HOME": folder,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "MOLTIS_CONFIG": str(home / "moltis.toml"),
            "MOLTIS_DATA_DIR": str(home / "data"),
            "LC_ALL": "C.UTF-8",
        }
        yield Shell(home, environ)


@pytest.fixture
def daemon(shell: Shell) -> Iterator[Callable[[dict[str, Any]], FakeDaemon]]:
    """Start a fake daemon on the shell's socket, with these replies."""
    started: list[FakeDaemon] = []

    def start(replies: dict[str, Any]) -> FakeDaemon:
        started.append(FakeDaemon(shell.socket, replies))
        return started[-1]

    yield start
    for one in started:
        one.close()
