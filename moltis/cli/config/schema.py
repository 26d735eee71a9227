"""`moltis config schema`: for editors that check TOML by JSON Schema."""

from __future__ import annotations

from moltis.cli import screen
from moltis.cli.commands import command, json_option


@command("schema")
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of moltis.toml, which is JSON with and without `--json`."""
    from moltis.config.keys import schema as build

    screen.data_json(build())
