"""`moltis init`: a first moltis.toml, which says what it can hold."""

from __future__ import annotations

import os
from pathlib import Path

import click

from moltis.cli import link, screen
from moltis.cli.commands import command
from moltis.errors import ConfigError

TEMPLATE = """\
# moltis.toml: the MCP servers that moltis keeps running.
# moltis config check   says what is wrong here, with the line
# moltis config schema  prints the JSON Schema, which lists every key
# moltis reload         applies a change; saving the file does so too

# Values for placeholders ($NAME) are best kept out of this file: moltis env set NAME

# [daemon]
# log_level = "info"               # debug, info, warn, error

[mcp]
# request_timeout_secs = 30        # without a reply or progress
# startup_timeout_secs = 60        # spawn or connect, until ready
# max_restart_attempts = 5         # failures in a row before the long pause
# restart_backoff_secs = 1         # first pause; doubled each time

# A local server: a command that speaks MCP on its stdin and stdout.
# [mcp.servers.files]
# command = "npx"
# args = ["-y", "@modelcontextprotocol/server-filesystem", "/srv"]
# env = { LOG_LEVEL = "warn" }     # nothing else of your environment but HOME, PATH and the like
# cwd = "~/src"

# A remote server.
# [mcp.servers.issues]
# url = "https://mcp.example.com/mcp"
# transport = "streamable-http"
# headers = { Authorization = "Bearer $ISSUES_TOKEN" }
"""


@command("init")
@click.pass_context
def init(ctx: click.Context) -> None:
    """Write a commented moltis.toml (mode 0600); one that is there stays as it is."""
    path = link.paths(ctx).config
    write_new(path, TEMPLATE)
    screen.talk(f"moltis: wrote {path}")
    screen.talk("hint: moltis mcp add NAME -- COMMAND ARGS..., then moltis run")


def write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet; nothing is ever overwritten.

    Raises:
        ConfigError: it is there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        hint = "moltis config check, or moltis mcp add NAME -- COMMAND"
        raise ConfigError(f"{path} is there already", hint=hint) from None
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
