"""Click, made lazy: a command's module is imported when that command runs, and help needs none of them.

The options that name the daemon (`--config`, `--data-dir`, `--socket`) work before and after a sub-command.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from moltis.names import did_you_mean

GLOBALS = {
    "config": ("FILE", "The config file (MOLTIS_CONFIG)."),
    "data-dir": ("DIR", "Where the log, tokens and socket are (MOLTIS_DATA_DIR)."),
    "socket": ("FILE", "The control socket (MOLTIS_SOCKET)."),
}


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().meta[f"moltis.{param.name}"] = value


def _global_options(hidden: bool) -> list[click.Parameter]:
    return [
        click.Option(
            [f"--{name}", f"global_{name.replace('-', '_')}"],
            metavar=metavar,
            help=text,
            hidden=hidden,
            expose_value=False,
            is_eager=True,
            callback=_remember,
        )
        for name, (metavar, text) in GLOBALS.items()
    ]


class Command(click.Command):
    """A command that takes the global options too, unseen in its help."""

    def __init__(self, name: str | None, *, params: Sequence[click.Parameter] | None = None, **attrs: Any) -> None:
        super().__init__(name, params=[*(params or ()), *_global_options(hidden=True)], **attrs)


class LazyGroup(click.Group):
    """A group whose commands are a table of `name: ("module:attribute", summary)`."""

    def __init__(
        self,
        name: str,
        *,
        table: Mapping[str, tuple[str, str]],
        help: str,
        params: Sequence[click.Parameter] = (),
        show_globals: bool = False,
    ) -> None:
        globals_ = _global_options(hidden=not show_globals)
        super().__init__(
            name, help=help, params=[*globals_, *params], context_settings={"help_option_names": ["-h", "--help"]}
        )
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, _, attribute = self._table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self._table and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no such command {args[0]!r}{did_you_mean(args[0], self._table)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        own = [CompletionItem(n, help=s) for n, (_, s) in self._table.items() if n.startswith(incomplete)]
        return own + (click.Command.shell_complete(self, ctx, incomplete) if incomplete.startswith("-") else [])


def command(name: str, **attrs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a `Command`; its docstring is the help."""
    return click.command(name, cls=Command, **attrs)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`, given as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def server_argument(**attrs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a NAME argument that the shell completes with the servers of the running daemon."""
    return click.argument("name", metavar="NAME", shell_complete=_complete_servers, **attrs)


def _complete_servers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from moltis.cli.link import server_names

    return server_names(ctx, incomplete)
