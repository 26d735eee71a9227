"""`moltis env`: values for placeholders; names go out, values only in."""

from __future__ import annotations

import sys

import click

from moltis.cli import link, screen
from moltis.cli.commands import LazyGroup, command, json_option
from moltis.errors import DaemonNotRunning, UsageError

COMMANDS = {
    "list": ("moltis.cli.env:list_", "List the names that have a value."),
    "set": ("moltis.cli.env:set_", "Keep a value, read from a prompt or stdin."),
    "unset": ("moltis.cli.env:unset", "Forget values."),
}

group = LazyGroup(
    "env",
    table=COMMANDS,
    help="Keep values for placeholders such as $TOKEN, out of moltis.toml. Values are never shown.",
)


@command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the names that have a value; a value is never shown."""
    try:
        with link.connect(ctx) as daemon:
            names = [str(name) for name in daemon.call("env.list")]
    except DaemonNotRunning:
        from moltis.cli import offline

        names = offline.env_names(link.paths(ctx))
    if as_json:
        screen.data_json(names)
        return
    for name in names:
        screen.data(screen.one_line(name))


@command("set")
@click.argument("name", metavar="NAME")
@click.argument("value", required=False)
@click.pass_context
def set_(ctx: click.Context, name: str, value: str | None) -> None:
    """Keep a value for the placeholder $NAME.

    Without VALUE it is asked for unseen, or read from stdin up to the end; other users can read the arguments of a
    process, so a secret does not belong there.
    """
    value = _read_value(name) if value is None else value
    if not value:
        raise UsageError(f"the value of {name} is empty", hint=f"moltis env unset {name} forgets it")
    try:
        with link.connect(ctx, link.CHANGE_SECS) as daemon:
            daemon.call("env.set", {"name": name, "value": value})
    except DaemonNotRunning:
        from moltis.cli import offline

        offline.set_env(link.paths(ctx), name, value)
    screen.talk(f"moltis: {name} is set")


@command("unset")
@click.argument("names", metavar="NAME", nargs=-1, required=True)
@click.pass_context
def unset(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Forget values."""
    try:
        with link.connect(ctx, link.CHANGE_SECS) as daemon:
            for name in names:
                daemon.call("env.unset", {"name": name})
                screen.talk(f"moltis: {name} is unset")
    except DaemonNotRunning:
        from moltis.cli import offline

        for name in names:
            offline.unset_env(link.paths(ctx), name)
            screen.talk(f"moltis: {name} is unset")


def _read_value(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    import getpass

    try:
        return getpass.getpass(f"{name}: ")
    except EOFError:
        raise UsageError("no value given") from None
