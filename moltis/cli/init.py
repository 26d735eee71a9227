"""`moltis init`: a first moltis.toml, with every key commented out."""

from __future__ import annotations

from pathlib import Path

import click

from moltis import private
from moltis.cli import link, screen
from moltis.cli.commands import command
from moltis.errors import ConfigError


@command("init")
@click.pass_context
def init(ctx: click.Context) -> None:
    """Write a moltis.toml with every key commented out (mode 0600); one that is there stays as it is."""
    from moltis.config.keys import example_toml

    path = link.paths(ctx).config
    write_new(path, example_toml())
    screen.talk(f"moltis: wrote {path}")
    screen.talk("hint: moltis mcp add NAME -- COMMAND ARGS..., then moltis run")


def write_new(path: Path, text: str) -> None:
    """Write a file that must not be there yet; nothing is ever overwritten.

    Raises:
        ConfigError: it is there.
    """
    private.make_folder(path.parent)
    try:
        descriptor = private.create(path)
    except FileExistsError:
        hint = "moltis config check, or moltis mcp add NAME -- COMMAND"
        raise ConfigError(f"{path} is there already", hint=hint) from None
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
