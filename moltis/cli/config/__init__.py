"""`moltis config`: the file, as moltis understands it."""

from __future__ import annotations

from moltis.cli.commands import LazyGroup

COMMANDS = {
    "check": ("moltis.cli.config.check:check", "Check moltis.toml; every problem with its line."),
    "show": ("moltis.cli.config.show:show", "Show what runs, without its secrets."),
    "path": ("moltis.cli.config.path:path", "Show where everything is."),
    "schema": ("moltis.cli.config.schema:schema", "Print the JSON Schema of moltis.toml."),
}

group = LazyGroup("config", table=COMMANDS, help="Check and show the configuration.")
