"""`moltis mcp reauth` and `logout`: a person logs in, in a browser of this machine or of another."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import click

from moltis.cli import link, phrases, screen
from moltis.cli.commands import command, json_option, server_argument
from moltis.errors import ExitCode, MoltisError, UsageError
from moltis.http.origins import read_url

LOOK_SECS = 0.3
"""How often it is asked whether the login is done: a person turns from the browser to the terminal no faster."""


@command("reauth")
@server_argument()
@click.option("--no-wait", is_flag=True, help="Print the address and end; the login goes on in the daemon.")
@click.option(
    "--callback",
    "callback_url",
    metavar="URL",
    help="Complete the login under way with the address that the browser was sent to last; '-' reads it from stdin.",
)
@click.option(
    "--new-client", is_flag=True, help="Register moltis anew, for when the page says that it does not know moltis."
)
@json_option
@click.pass_context
def reauth(
    ctx: click.Context, name: str, no_wait: bool, callback_url: str | None, new_client: bool, as_json: bool
) -> int:
    """Log in to a remote server: print the address to open, and wait until the login is done.

    The daemon opens the browser too, if it can. With a browser on another machine, the last page does not load there:
    its address completes the login, given to --callback.
    """
    if callback_url is not None:
        return _complete(ctx, name, callback_url, as_json)
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        started = daemon.call("mcp.reauth", {"name": name, **({"new_client": True} if new_client else {})})
        url = str(started.get("auth_url") or "")
        if as_json:
            screen.data_json(started)
        elif url:
            _show(name, url)
        if not started.get("oauth_pending"):
            screen.talk(f"moltis: {name} is logged in")
            return ExitCode.OK
        if no_wait:
            if not url:
                screen.talk(f"moltis: the login is being prepared; moltis status {name} shows its address")
            return ExitCode.OK
        try:
            screen.talk("moltis: waiting for the login (Ctrl-C ends the waiting, not the login)")
            return _wait(daemon, name, url, as_json)
        except KeyboardInterrupt:
            screen.talk(f"moltis: the login can still be completed; moltis status {name} shows how it stands")
            raise


def _complete(ctx: click.Context, name: str, callback_url: str, as_json: bool) -> int:
    url = (sys.stdin.read() if callback_url == "-" else callback_url).strip()
    if not url:
        raise UsageError("no address given", hint="paste the one that the browser shows after the login")
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        done = daemon.call("mcp.oauth.complete", {"callback_url": url})
    if as_json:
        screen.data_json(done)
    # The address says which login it belongs to; that may be another server's than the one named.
    screen.talk(f"moltis: {done.get('name') or name} is logged in")
    return ExitCode.OK


def _wait(daemon: link.Daemon, name: str, url: str, as_json: bool) -> int:
    import time

    told = ""
    while True:
        status = daemon.call("mcp.status", {"name": name}, link.REPLY_SECS)
        match status.get("auth_state"):
            case "authenticated":
                screen.talk(f"moltis: {name} is logged in")
                return ExitCode.OK
            case "not_required":
                screen.talk(f"moltis: {name} wants no login any more")
                return ExitCode.OK
            case "failed":
                raise _failed(name, status)
        if (now := str(status.get("auth_url") or "")) not in ("", url):
            url = now
            if not as_json:
                _show(name, url)
        if (why := phrases.login_failure(status)) not in ("", told):
            told = why
            screen.talk(f"moltis: an answer was refused, and the login still waits: {screen.one_line(why)}")
        time.sleep(LOOK_SECS)


def _failed(name: str, status: Mapping[str, Any]) -> MoltisError:
    why = phrases.login_failure(status)
    return MoltisError(
        f"the login to {name} failed{why and ': '}{why}",
        hint=f"moltis why {name}" if "oauth." in why else f"to try again: moltis mcp reauth {name}",
        server=name,
    )


def _show(name: str, url: str) -> None:
    screen.talk(f"moltis: to log in to {name}, open this address, if no browser has:")
    screen.data(screen.one_line(url))
    screen.talk("hint: in a browser on another machine the last page cannot load; give its address to")
    screen.talk(f"hint:   moltis mcp reauth {name} --callback 'ADDRESS'")
    screen.talk(f"hint: if the page does not know moltis: moltis mcp reauth {name} --new-client")
    port = _callback_port(url)
    if port is not None:
        screen.talk(f"hint: or connect that machine to this one before: ssh -L {port}:127.0.0.1:{port} THIS-MACHINE")


def _callback_port(url: str) -> int | None:
    """Return the port that the browser comes back to, where the address says it."""
    page = read_url(url)
    told = parse_qs(page.query.removeprefix("?")) if page is not None else {}
    callback = read_url(told.get("redirect_uri", [""])[0])
    return callback.port if callback is not None and callback.scheme == "http" else None


@command("logout")
@server_argument(nargs=-1, required=True)
@click.option(
    "--forget-client",
    is_flag=True,
    help="End the registration of moltis too, where it made one; the next login makes another.",
)
@click.pass_context
def logout(ctx: click.Context, name: tuple[str, ...], forget_client: bool) -> None:
    """Log out of remote servers: revoke their tokens where that can be, and forget them.

    Each then waits for a login; none begins by itself until moltis mcp reauth, or the next start of the daemon.
    """
    with link.connect(ctx, link.CHANGE_SECS) as daemon:
        for server in name:
            daemon.call("mcp.logout", {"name": server, **({"forget_client": True} if forget_client else {})})
            screen.talk(f"moltis: logged out of {server}; moltis mcp reauth {server} logs in again")
