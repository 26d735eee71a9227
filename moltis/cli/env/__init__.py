"""`moltis env`: values for placeholders."""

from __future__ import annotations

from moltis.cli.commands import LazyGroup

COMMANDS = {
    "list": ("moltis.cli.env.values:list_", "List the names that have a value."),
    "set": ("moltis.cli.env.values:set_", "Keep a value, read from a prompt or stdin."),
    "unset": ("moltis.cli.env.values:unset", "Forget values."),
}

group = LazyGroup(
    "env",
    table=COMMANDS,
    help="Keep values for placeholders such as $TOKEN, out of moltis.toml. Values are never shown.",
)
