"""`moltis completion`: the script a shell needs, and the names it then asks for."""

from __future__ import annotations

import click

from moltis.cli import link, screen
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

    from moltis.cli.app import root

    kind = get_completion_class(shell)
    assert kind is not None  # click has had all three since 8.0
    screen.data(kind(root, {}, "moltis", "_MOLTIS_COMPLETE").source())
    screen.talk(f"hint: {WHERE[shell]}")


def server_names(ctx: click.Context, incomplete: str) -> list[str]:
    """Give the servers of the running daemon that begin so; none when it cannot be asked quickly."""
    try:
        with link.connect(ctx, link.COMPLETION_SECS) as daemon:
            names = [str(server["name"]) for server in daemon.call("mcp.list")]
    except Exception:  # a shell's completion must stay silent, whatever is wrong
        return []
    return [name for name in names if name.startswith(incomplete)]


def tool_names(ctx: click.Context, incomplete: str) -> list[str]:
    """Give `SERVER.TOOL` for every tool that begins so; none when they cannot be asked quickly."""
    try:
        with link.connect(ctx, link.COMPLETION_SECS) as daemon:
            tools = daemon.call("mcp.tools")
    except Exception:  # a shell's completion must stay silent, whatever is wrong
        return []
    return [name for t in tools if (name := f"{t['server']}.{t['name']}").startswith(incomplete)]
