"""Every command line test has a home of its own, and daemons that answer what they are told to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import FakeDaemon

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Shell:
    """Runs `moltis` as a process, in a home of its own."""

    home: Path
    environ: dict[str, str]

    @property
    def config(self) -> Path:
        return self.home / "moltis.toml"

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def socket(self) -> Path:
        return self.data_dir / "run" / "moltis.sock"

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "moltis", *args]

    def moltis(self, *args: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={**self.environ, **environ},
            cwd=self.home,
        )


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
