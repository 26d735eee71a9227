"""What the command line does itself while no daemon runs: the same files, by the same functions."""

from __future__ import annotations

import os
from typing import Any

from moltis.config import edit
from moltis.config.load import Loaded
from moltis.config.load import load as load_config
from moltis.config.origins import Origins, read_origins
from moltis.config.overrides import EnvOverrides
from moltis.errors import UsageError
from moltis.names import did_you_mean
from moltis.paths import Paths


def load(paths: Paths) -> Loaded:
    """Read the configuration as the daemon would.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    return load_config(paths.config, EnvOverrides(paths.env_overrides).values(), os.environ)


def origins(paths: Paths) -> Origins:
    """Look where the values of the configuration come from.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    return read_origins(paths.config, os.environ)


def add_server(paths: Paths, name: str, entry: dict[str, Any]) -> None:
    """Write a new `[mcp.servers.NAME]`, making the file if there is none."""
    edit.add_server(paths.config, name, entry)


def change_server(paths: Paths, verb: str, name: str) -> None:
    """Remove, enable or disable a server in the file.

    Raises:
        UnknownServer: the file has no such server.
    """
    if verb == "remove":
        edit.remove_server(paths.config, name)
    else:
        edit.set_enabled(paths.config, name, verb == "enable")


def change_project(paths: Paths, function: str, *arguments: str) -> None:
    """Change the projects in the file, by a function of `config.edit`."""
    getattr(edit, function)(paths.config, *arguments)


def env_names(paths: Paths) -> list[str]:
    """Return the names that have a value."""
    return EnvOverrides(paths.env_overrides).names()


def set_env(paths: Paths, name: str, value: str) -> None:
    """Keep a value."""
    EnvOverrides(paths.env_overrides).set(name, value)


def unset_env(paths: Paths, name: str) -> None:
    """Forget a value.

    Raises:
        UsageError: none is kept under that name.
    """
    overrides = EnvOverrides(paths.env_overrides)
    if not overrides.unset(name):
        near = did_you_mean(name, overrides.names())
        raise UsageError(f"no value is kept for {name!r}{near}", hint="moltis env list")
