"""`moltis mcp add`: a server into moltis.toml, through the daemon when it runs and by hand when it does not."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from moltis.cli import link, screen
from moltis.cli.commands import command, json_option
from moltis.config.credentials import named_secret
from moltis.config.kinds import KINDS, Kind, aliases, implied, named
from moltis.errors import DaemonNotRunning, UsageError
from moltis.names import supervised_name_problem

TRANSPORTS = (*KINDS, *aliases())

_LOOKS_REMOTE = re.compile(r"https?://", re.IGNORECASE)


@command("add")
@click.argument("name", metavar="NAME")
@click.argument("words", metavar="URL | -- COMMAND [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-e", "--env", "env", multiple=True, metavar="KEY=VALUE", help="Environment of the server.")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="HTTP header of a remote server."
)
@click.option("-t", "--transport", type=click.Choice(TRANSPORTS), help="Default: stdio for a command, sse for a URL.")
@click.option("--timeout", "timeout_secs", type=click.FloatRange(min=0.05), metavar="SECS", help="Request timeout.")
@click.option("--cwd", metavar="DIR", help="Where the command runs.")
@click.option("--disabled", is_flag=True, help="Add it without starting it.")
@json_option
@click.pass_context
def add(ctx: click.Context, /, name: str, as_json: bool, **given: Any) -> None:
    """Add a server to moltis.toml, comments kept, and start it when the daemon runs.

    Values may hold placeholders such as '$TOKEN' (quoted, for the shell): `moltis env set TOKEN` keeps the value.

    \b
    moltis mcp add files -- npx -y @modelcontextprotocol/server-filesystem /srv
    moltis mcp add issues https://mcp.example.com/mcp -H 'Authorization: Bearer $TOKEN'
    """
    wrong = supervised_name_problem(name)
    if wrong:
        raise UsageError(wrong)
    entry = entry_from(**given)
    try:
        with link.connect(ctx, link.CHANGE_SECS) as daemon:
            daemon.call("mcp.add", {"name": name, **entry})
        hint = f"moltis status {name}"
    except DaemonNotRunning:
        from moltis.cli import offline

        offline.add_server(link.paths(ctx), name, entry)
        hint = "moltis run"
    if as_json:
        screen.data_json({"ok": True, "name": name})
    screen.talk(f"moltis: added {name} to {link.paths(ctx).config}")
    for secret in _literal_secrets(entry):
        screen.talk(f"moltis: {secret} is written to the file as it stands; a placeholder keeps it out")
    from moltis.config.load import warnings_of

    for problem in warnings_of(name, entry, os.environ):
        screen.talk(f"moltis: {problem.key}: {problem.message}")
    screen.talk(f"hint: {hint}")


def entry_from(
    words: tuple[str, ...],
    env: tuple[str, ...],
    headers: tuple[str, ...],
    transport: str | None,
    timeout_secs: float | None,
    cwd: str | None,
    disabled: bool,
) -> dict[str, Any]:
    """Return the entry of moltis.toml that the words of a command line mean.

    Raises:
        UsageError: an option that does not fit the kind of server, or is not written as it should be.
    """
    meant = named(transport) if transport else implied(("url",) if _LOOKS_REMOTE.match(words[0]) else ("command",))[0]
    assert meant is not None, "click has looked at the word"
    _refuse(meant, {"env": ("-e", env), "headers": ("-H", headers), "cwd": ("--cwd", cwd)})
    _refuse(meant, {"args": ("more than one word", words[1:])})
    entry: dict[str, Any] = {meant.needs: words[0]}
    if words[1:]:
        entry["args"] = list(words[1:])
    if transport:
        entry["transport"] = meant.name
    if env:
        entry["env"] = dict(_split(word, "=", "-e KEY=VALUE") for word in env)
    if headers:
        entry["headers"] = dict(_split(word, ":", "-H 'NAME: VALUE'") for word in headers)
    if cwd is not None:
        entry["cwd"] = cwd
    if timeout_secs is not None:
        entry["request_timeout_secs"] = timeout_secs
    if disabled:
        entry["enabled"] = False
    return entry


def _refuse(kind: Kind, options: dict[str, tuple[str, object]]) -> None:
    for key, (option, value) in options.items():
        if value and key not in kind.keys:
            raise UsageError(f"{option} does not apply to a {kind.called} server", hint="moltis mcp add --help")


def _split(word: str, separator: str, form: str) -> tuple[str, str]:
    key, found, value = word.partition(separator)
    if not found or not key.strip():
        # The word itself may be a secret that lost its name: it is not repeated.
        raise UsageError(f"an option is not written as {form}")
    return key.strip(), value if separator == "=" else value.strip()


def _literal_secrets(entry: dict[str, Any]) -> list[str]:
    """Name the env variables and headers that look like secrets and hold no placeholder."""
    pairs = [*entry.get("env", {}).items(), *entry.get("headers", {}).items()]
    return [key for key, value in pairs if named_secret(key) and value and "$" not in value]
