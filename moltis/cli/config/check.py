"""`moltis config check`: every problem, where it is, and what would be right."""

from __future__ import annotations

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option
from moltis.errors import ConfigError, ExitCode


@command("check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> int:
    """Check moltis.toml without starting anything.

    Prints FILE:LINE: KEY: MESSAGE for each problem, and exits 6 if any must be mended.
    """
    from moltis.cli import offline

    paths = link.paths(ctx)
    try:
        loaded = offline.load(paths)
    except ConfigError as error:
        if not as_json:
            raise
        only = {"severity": "error", "file": str(paths.config), "line": None, "key": "", "message": error.message}
        screen.data_json({"ok": False, "problems": [only]})
        return ExitCode.BAD_CONFIG
    wrong = sum(problem.fails_check for problem in loaded.problems)
    if as_json:
        keys = ("severity", "file", "line", "key", "message")
        problems = [
            {key: value if (value := getattr(p, key)) is None or key == "line" else str(value) for key in keys}
            for p in loaded.problems
        ]
        screen.data_json({"ok": not wrong, "problems": problems})
    else:
        for problem in loaded.problems:
            kind = "" if problem.fails_check else " (warning)"
            screen.data(screen.one_line(f"{problem}{kind}"))
        count = len(loaded.plan.servers)
        verdict = f"{wrong} to mend" if wrong else "ok"
        screen.talk(f"moltis: {paths.config}: {verdict}, {count} server{'s' if count != 1 else ''}")
    return ExitCode.BAD_CONFIG if wrong else ExitCode.OK
