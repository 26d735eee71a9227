"""`moltis token create`, `list` and `revoke`: a token's value goes out once, to stdout, and never comes in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

from moltis.cli import link, screen
from moltis.cli.commands import LazyGroup, command, json_option
from moltis.cli.phrases import duration, instant
from moltis.cli.table import Cell, render
from moltis.errors import UsageError

COMMANDS = {
    "create": ("moltis.cli.token:create", "Make a token and print it, this once."),
    "list": ("moltis.cli.token:list_", "List the tokens, never their values."),
    "revoke": ("moltis.cli.token:revoke", "Forget tokens; whoever has one is let in no more."),
}

group = LazyGroup(
    "token",
    table=COMMANDS,
    help="Access tokens of the HTTP endpoint. `moltis connect`, the same over stdio, needs none.",
)

DAYS: Final = {"h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.0}
MAX_DAYS: Final = 36500.0
"""What the daemon takes at most."""


@command("create")
@click.argument("name", metavar="NAME")
@click.option(
    "--scope", type=click.Choice(["read", "write"]), default="read", show_default=True, help="What it allows."
)
@click.option(
    "--project",
    "projects",
    metavar="PROJECT",
    multiple=True,
    help="Only what this project gets; may be given several times.",
    shell_complete=lambda ctx, _param, word: link.project_names(ctx, word),
)
@click.option("--expires", metavar="TIME", default="never", show_default=True, help="Such as 12h, 30d, 4w, 1y.")
@json_option
@click.pass_context
def create(ctx: click.Context, name: str, scope: str, projects: tuple[str, ...], expires: str, as_json: bool) -> None:
    """Make an access token called NAME and print it; nobody can read it again.

    With scope `read` a host lists and reads; `write` lets it call tools too. The token alone is on stdout, so that
    `TOKEN=$(moltis token create editor)` works.
    """
    params: dict[str, Any] = {"name": name, "scope": scope}
    if projects:
        params["projects"] = list(projects)
    days = _days(expires)
    with link.connect(ctx) as daemon:
        made = daemon.call("token.create", params if days is None else {**params, "expires_days": days})
    if as_json:
        screen.data_json(made)
    else:
        screen.data(made["token"])
    until = made.get("expires_at")
    ends = f"until {until}" if until else "until it is revoked"
    of = f" at {', '.join(f'/mcp/{project}' for project in projects)}" if projects else ""
    screen.talk(f"moltis: token {made['name']} is for {made['scope']}{of}, {ends}; this is the only time it is shown")
    screen.talk("hint: hosts send it as `Authorization: Bearer TOKEN`")


@command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List the access tokens, oldest first: what each allows, until when, and when it was used last."""
    with link.connect(ctx) as daemon:
        tokens = daemon.call("token.list")
    if as_json:
        screen.data_json(tokens)
        return
    if not tokens:
        screen.talk("moltis: no tokens")
        screen.talk("hint: moltis token create NAME --scope read|write")
        return
    now = datetime.now(UTC)
    rows = [_row(token, now) for token in tokens]
    header = ("NAME", "SCOPE", "CREATED", "EXPIRES", "LAST USED")
    for line in render(header, rows, width=screen.width(), colour=screen.coloured()):
        screen.data(line)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    try:
        with link.connect(ctx, link.COMPLETION_SECS) as daemon:
            names = [str(token["name"]) for token in daemon.call("token.list")]
    except Exception:  # a shell's completion must stay silent, whatever is wrong
        return []
    return [name for name in names if name.startswith(incomplete)]


@command("revoke")
@click.argument("names", metavar="NAME", nargs=-1, required=True, shell_complete=_complete)
@click.pass_context
def revoke(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Forget access tokens, by their names; at once, and for good."""
    with link.connect(ctx) as daemon:
        for name in names:
            daemon.call("token.revoke", {"name": name})
            screen.talk(f"moltis: token {name} is revoked")


def _days(text: str) -> float | None:
    """Read how long a token is valid, in days; None: for ever."""
    if text == "never":
        return None
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([hdwy])", text)
    days = float(found[1]) * DAYS[found[2]] if found else 0.0
    if not 0 < days <= MAX_DAYS:
        raise UsageError(
            f"--expires {text!r}: a number and one of h d w y, at most 100y, or never", hint="--expires 30d"
        )
    return days


def _row(token: Mapping[str, Any], now: datetime) -> list[str | Cell]:
    expires = instant(token.get("expires_at"))
    if expires is None:
        ends = Cell("never", "dim")
    elif expires <= now:
        ends = Cell("expired", "red")
    else:
        ends = Cell(f"in {duration((expires - now).total_seconds())}")
    used = _ago(token.get("last_used_at"), now)
    made = _ago(token.get("created_at"), now)
    scope = str(token.get("scope")) + "".join(f" /mcp/{project}" for project in token.get("projects") or ())
    return [screen.one_line(str(token.get("name"))), screen.one_line(scope), made, ends, used]


def _ago(text: str | None, now: datetime) -> str | Cell:
    moment = instant(text)
    return Cell("never", "dim") if moment is None else f"{duration((now - moment).total_seconds())} ago"
