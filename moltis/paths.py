"""Where things are.

Standard library only: the command line asks here before it may import anything slow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_SOCKET_PATH = 103
"""Bytes a Unix socket's path may have: sun_path is 108 on Linux and 104 on macOS, NUL included."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Every file of one daemon."""

    config: Path
    data_dir: Path
    socket: Path

    @property
    def log(self) -> Path:
        return self.data_dir / "logs.jsonl"

    @property
    def oauth_dir(self) -> Path:
        return self.data_dir / "oauth"

    @property
    def env_overrides(self) -> Path:
        return self.data_dir / "env.toml"

    @property
    def access_tokens(self) -> Path:
        return self.data_dir / "tokens.toml"

    @property
    def known_dir(self) -> Path:
        return self.data_dir / "known"

    @property
    def sessions(self) -> Path:
        return self.data_dir / "sessions.json"

    @property
    def lock(self) -> Path:
        return self.data_dir / "run" / "moltis.pid"

    @property
    def claim(self) -> Path:
        return self.data_dir / "run" / "servers.lock"

    @property
    def errors(self) -> Path:
        """What a daemon that nobody watches says before its log is open, or when that cannot be written."""
        return self.data_dir / "run" / "moltis.err"


def find_paths(
    *,
    config: str | None = None,
    data_dir: str | None = None,
    socket: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Paths:
    """Resolve every path: a flag wins over the environment, which wins over the default.

    A `moltis.toml` in the current folder is never found unless it is named: a checkout must not start commands.
    """
    env = os.environ if environ is None else environ

    def absolute(text: str) -> Path:
        return Path(os.path.abspath(os.path.expanduser(text)))

    config_dir = absolute(env.get("MOLTIS_CONFIG_DIR") or "~/.config/moltis")
    data = absolute(data_dir or env.get("MOLTIS_DATA_DIR") or "~/.moltis")
    named = config or env.get("MOLTIS_CONFIG")
    sock = socket or env.get("MOLTIS_SOCKET")
    return Paths(
        config=absolute(named) if named else config_dir / "moltis.toml",
        data_dir=data,
        socket=absolute(sock) if sock else data / "run" / "moltis.sock",
    )
