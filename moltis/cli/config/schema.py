"""`moltis config schema`: for editors that check TOML by JSON Schema."""

from __future__ import annotations

from moltis.cli import screen
from moltis.cli.commands import command


@command("schema")
def schema() -> None:
    """Print the JSON Schema of moltis.toml."""
    from moltis.config.keys import schema as build

    screen.data_json(build())
