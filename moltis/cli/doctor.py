"""`moltis doctor`: every check, with what mends what."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
import msgspec

from moltis import __version__
from moltis.cli import link, screen
from moltis.cli.commands import command, json_option
from moltis.cli.table import paint
from moltis.config.plan import Plan
from moltis.doctor import (
    Answer,
    Finding,
    Problem,
    Verdict,
    check_config,
    check_daemon,
    check_files,
    check_servers,
    daemon_search_path,
)
from moltis.errors import DaemonNotRunning, ExitCode, MoltisError
from moltis.paths import Paths
from moltis.server.status import ServerStatus

STYLE = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red", Verdict.SKIP: "dim"}


@command("doctor")
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Look for what is wrong with the configuration, the servers' programs, the files and the daemon.

    Looks at commands the way the running daemon sees them, or a service would. Exits 1 when something fails.
    """
    findings = list(_examine(ctx))
    failed = sum(f.verdict is Verdict.FAIL for f in findings)
    warned = sum(f.verdict is Verdict.WARN for f in findings)
    if as_json:
        rows = [{"section": f.section, "verdict": f.verdict, "message": f.message, "hint": f.hint} for f in findings]
        screen.data_json({"ok": not failed, "findings": rows})
    else:
        _print(findings)
        screen.talk(f"moltis: {failed} failed, {warned} warning{'s' if warned != 1 else ''}")
    return ExitCode.FAILURE if failed else ExitCode.OK


def _examine(ctx: click.Context) -> Iterator[Finding]:
    paths = link.paths(ctx)
    answer = _ask(ctx)
    plan, problems = _load(paths)
    yield from check_config(paths, plan, problems)
    if plan is not None:
        running = daemon_search_path(int(answer.status["pid"])) if answer.status else None
        yield from check_servers(plan, os.environ, running)
    yield from check_files(paths, os.getuid())
    yield from check_daemon(paths, answer, __version__)


def _ask(ctx: click.Context) -> Answer:
    try:
        with link.connect(ctx) as daemon:
            status, servers = daemon.call("daemon.status"), daemon.call("mcp.list")
            return Answer(status=status, servers=msgspec.convert(servers, list[ServerStatus]), is_running=True)
    except DaemonNotRunning as error:
        return Answer(trouble=error.message)
    except MoltisError as error:
        return Answer(trouble=error.message, is_running=True)


def _load(paths: Paths) -> tuple[Plan | None, list[Problem]]:
    from moltis.cli import offline

    try:
        loaded = offline.load(paths)
    except MoltisError as error:
        return None, [Problem(error.message, is_error=True)]
    return loaded.plan, [Problem(str(p), p.fails_check) for p in loaded.problems]


def _print(findings: list[Finding]) -> None:
    colour = screen.coloured()
    section = ""
    for finding in findings:
        if finding.section != section:
            section = finding.section
            screen.data(paint(section, "bold", colour))
        verdict = paint(f"[{finding.verdict}]".ljust(6), STYLE[finding.verdict], colour)
        hint = f" -> {finding.hint}" if finding.hint else ""
        screen.data(f"  {verdict} {screen.one_line(finding.message)}{paint(hint, 'cyan', colour)}")
