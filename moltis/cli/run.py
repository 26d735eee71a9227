"""`moltis run`: the daemon, in this process."""

from __future__ import annotations

import gc

import click

from moltis.cli import link
from moltis.cli.commands import command


@command("run")
@click.pass_context
def run(ctx: click.Context) -> int:
    """Run the daemon in the foreground, until SIGTERM, SIGINT or `moltis stop`."""
    # Hundreds of modules are about to be imported, and stay: a collection of them finds nothing, a dozen times. The
    # daemon switches it on again once it is up.
    gc.disable()
    from moltis.daemon import main

    return int(main(link.paths(ctx)))
