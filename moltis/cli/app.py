"""The root command, and the one place where an error becomes a message and an exit code.

Commands raise; `run` translates. No traceback reaches a person unless MOLTIS_DEBUG is set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from moltis import __version__
from moltis.cli import screen
from moltis.cli.commands import LazyGroup
from moltis.errors import ExitCode, MoltisError

INTERRUPTED = 130
"""128 + SIGINT, as shells report a command ended by Ctrl-C."""

BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells report a command whose reader went away (`moltis logs | head`)."""

COMMANDS = {
    "run": ("moltis.cli.daemon:run", "Run the daemon in the foreground."),
    "status": ("moltis.cli.status:status", "Show the daemon and its servers."),
    "logs": ("moltis.cli.logs:logs", "Show the log, or one server's part of it."),
    "why": ("moltis.cli.why:why", "Tell what happened to a server, in words."),
    "reload": ("moltis.cli.daemon:reload", "Read moltis.toml again; only what changed restarts."),
    "stop": ("moltis.cli.daemon:stop", "Stop the daemon and all its servers."),
    "init": ("moltis.cli.init:init", "Write a commented moltis.toml."),
    "doctor": ("moltis.cli.doctor:doctor", "Look for what is wrong, and say what mends it."),
    "mcp": ("moltis.cli.mcp:group", "List, call, add, change, start and stop servers."),
    "project": ("moltis.cli.project:group", "Say which servers each project gets."),
    "connect": ("moltis.cli.connect.command:connect", "Be an MCP server on stdin and stdout, for hosts."),
    "config": ("moltis.cli.config:group", "Check and show the configuration."),
    "env": ("moltis.cli.env:group", "Keep values for placeholders, out of moltis.toml."),
    "token": ("moltis.cli.token:group", "Make, list and revoke access tokens of the endpoint."),
    "openapi": ("moltis.cli.openapi:group", "See what tools an OpenAPI document gives."),
    "rpc": ("moltis.cli.rpc:rpc", "Call any method of the control socket."),
    "completion": ("moltis.cli.completion:completion", "Print a shell completion script."),
}

root = LazyGroup(
    "moltis",
    table=COMMANDS,
    help="""Keep MCP servers alive.

    `moltis run` supervises the servers of moltis.toml; every other command asks it, or reads its files.

    Exit codes: 0 ok, 1 failure or unhealthy, 2 usage, 3 daemon not running, 4 no such server, 5 not permitted,
    6 bad config, 7 timeout, 8 login needed.
    """,
    show_globals=True,
    params=[
        click.Option(
            ["-V", "--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Show the version and exit.",
            callback=lambda ctx, _param, value: _show_version(ctx) if value else None,
        )
    ],
)


def _show_version(ctx: click.Context) -> None:
    screen.data(f"moltis {__version__}")
    ctx.exit()


def run(args: Sequence[str]) -> int:
    """Run one command line and give the exit code; never raises but for shell completion's own SystemExit."""
    screen.prepare()
    try:
        code = _run(args)
        screen.flush()
    except screen.ReaderLeft:
        # The reader has all it wants. Without this the interpreter complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def _run(args: Sequence[str]) -> int:
    try:
        result = root.main(list(args), "moltis", complete_var="_MOLTIS_COMPLETE", standalone_mode=False)
    except MoltisError as error:
        _traceback_if_asked()
        return complain(error.message, error.hint, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        screen.talk(error.format_message())
        return ExitCode.USAGE
    except click.ClickException as error:
        return complain(error.format_message(), _usage_hint(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except screen.ReaderLeft:
        raise
    except PermissionError as error:
        _traceback_if_asked()
        return complain(_os_message(error), "", ExitCode.NOT_PERMITTED)
    except OSError as error:
        _traceback_if_asked()
        return complain(_os_message(error), "", ExitCode.FAILURE)
    except Exception as error:
        _traceback_if_asked()
        message = f"unexpected {type(error).__name__}: {error}"
        return complain(message, "this is a fault of moltis; MOLTIS_DEBUG=1 shows where", ExitCode.FAILURE)
    return result if isinstance(result, int) else ExitCode.OK


def complain(message: str, hint: str, code: int) -> int:
    """Say on stderr what went wrong and what to do, each on one line."""
    screen.talk(f"moltis: {screen.one_line(message)}")
    if hint:
        screen.talk(f"hint: {screen.one_line(hint)}")
    return int(code)


def _usage_hint(error: click.ClickException) -> str:
    if not isinstance(error, click.UsageError):
        return ""
    return f"{error.ctx.command_path if error.ctx else 'moltis'} --help"


def _os_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason


def _traceback_if_asked() -> None:
    if os.environ.get("MOLTIS_DEBUG"):
        import traceback

        traceback.print_exc()
