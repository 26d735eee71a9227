"""`moltis completion`: the script a shell needs."""

from __future__ import annotations

import click

from moltis.cli import screen
from moltis.cli.commands import command

WHERE = {
    "bash": 'eval "$(moltis completion bash)"                                # in ~/.bashrc',
    "zsh": 'eval "$(moltis completion zsh)"                                 # in ~/.zshrc',
    "fish": "moltis completion fish > ~/.config/fish/completions/moltis.fish",
}


@command("completion")
@click.argument("shell", type=click.Choice(tuple(WHERE)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell; server names are asked of the running daemon."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has had all three since 8.0
    screen.data(kind(ctx.find_root().command, {}, "moltis", "_MOLTIS_COMPLETE").source())
    screen.talk(f"hint: {WHERE[shell]}")
