"""Runs `moltis` the way a person does: as a process, in a home of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import forked

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
        """Run it as a process that need not import everything first."""
        return forked.run(args, env={**self.environ, **environ}, cwd=self.home, stdin=stdin)

    def interpreted(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run it in an interpreter of its own, as a person does: several times as slow."""
        return subprocess.run(
            self.command(*args),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environ,
            cwd=self.home,
        )
