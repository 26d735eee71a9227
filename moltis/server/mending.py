"""What a person can do for a server that is not well: commands first, most telling first.

Guesses from the failure, its message and the server's last lines. A guess is worth a line only if it names something
to look at or to type.
"""

from __future__ import annotations

import re

from moltis.config.near_misses import in_one_line
from moltis.config.surroundings import advice
from moltis.errors import LoginNeeded, MoltisError, ServerNotReady
from moltis.server.lifecycle import FailureKind, State
from moltis.server.status import LastError, ServerStatus

TELLING = (
    (
        r"EADDRINUSE|[Aa]ddress already in use",
        "another process holds the port it wants; end that one or change the port",
    ),
    (
        r"E404|is not in this registry|No matching distribution|not found in the package registry",
        "the package in `args` seems to have another name; correct it in moltis.toml",
    ),
    (
        r"Cannot find module|ModuleNotFoundError|No module named|ERR_MODULE_NOT_FOUND",
        "a package that it needs is not installed; install it for the interpreter that `command` starts",
    ),
    (
        r"EAI_AGAIN|ENOTFOUND|getaddrinfo|name resolution|ECONNREFUSED|ENETUNREACH",
        "it needs the network, and does not get there",
    ),
    (r"EACCES|EPERM|[Pp]ermission denied", "it may not use a file or folder; look at the permissions for your user"),
    (r"ENOSPC|No space left", "the disk is full: df -h"),
    (r"EBADENGINE|Unsupported engine|requires Python|SyntaxError", "its interpreter may be too old or too new for it"),
    (r"[Uu]nrecognized (argument|option)|unknown option|invalid choice|[Uu]sage:", "it does not accept its `args`"),
)
"""What is often found in the last lines of a server, and what it means."""

VARIABLE = re.compile(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b")
PLACEHOLDER = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\}|\{env:([A-Za-z_]\w*)\})", re.ASCII)
INSTEAD = re.compile(r"[:,] write ([^;]+)")
"""How a message of the configuration says what should stand there instead."""
MISSING = re.compile(r"required|missing|not set|must be set|undefined|not defined|not found|please set|provide", re.I)


def waits_for_login(status: ServerStatus) -> bool:
    """Whether it goes on by itself once its login can be renewed."""
    error = status.last_error
    unavailable = error is not None and error.kind == FailureKind.LOGIN_UNAVAILABLE
    return unavailable and status.state in (State.READY, State.BACKOFF)


def commands(status: ServerStatus) -> list[str]:
    """Give what mends a server, or [] when nothing is to be done."""
    name, error = status.name, status.last_error
    if waits_for_login(status):
        return [f"moltis mcp reauth {name}    (if it does not come back by itself: a new login)"]
    match State(status.state):
        case State.INVALID:
            return [
                *_for_placeholder(error),
                f"moltis config check    (says what is wrong in [mcp.servers.{name}])",
            ]
        case State.DISABLED:
            return [f"moltis mcp enable {name}"]
        case State.STOPPED:
            return [f"moltis mcp start {name}"]
        case State.AWAITING_AUTH:
            return [f"moltis mcp reauth {name}"]
        case State.BACKOFF | State.COOLDOWN:
            guesses = [*_for_surroundings(status, error), *_guesses(status, error)] if error is not None else []
            return [
                *guesses,
                f"moltis logs {name}",
                f"moltis mcp restart {name}    (once it is mended)",
            ]
        case State.STARTING | State.INITIALIZING | State.READY | State.STOPPING:
            return []


def unavailable(status: ServerStatus, hint: str) -> MoltisError:
    """Say why a server takes no request now, and when that changes. `hint`: what mends it."""
    name, state = status.name, status.state
    if state == State.AWAITING_AUTH:
        message = f"server {name!r} waits for a person to log in"
        return LoginNeeded(message, server=name, auth_url=status.auth_url, hint=hint)
    if state == State.READY:
        message = f"the connection to server {name!r} was lost just now"  # it has not been told to its owner yet
    else:
        message = f"server {name!r} is {'in ' if state in (State.BACKOFF, State.COOLDOWN) else ''}{state}"
    if status.next_retry_at is not None:
        message += f" until {status.next_retry_at}"
    if status.last_error is not None and state not in (State.DISABLED, State.STOPPED, State.READY):
        message += f": {status.last_error.message}"
    return ServerNotReady(message, server=name, state=state, next_retry_at=status.next_retry_at, hint=hint)


def _for_surroundings(status: ServerStatus, error: LastError) -> list[str]:
    """Say what of the daemon's environment a local server lacks that fails for want of a network or of trust."""
    if status.command is None:
        return []
    found = advice(status.name, (*error.stderr_tail, error.message), status.env_withheld)
    return [found] if found is not None else []


def _guesses(status: ServerStatus, error: LastError) -> list[str]:
    match FailureKind.of(error.kind):
        case FailureKind.EXITED:
            return _for_exit(error)
        case FailureKind.SPAWN_FAILED:
            return _for_spawn(status, error)
        case FailureKind.STARTUP_TIMEOUT:
            return [
                *_from_output(error),
                f"raise {_start_limit(error)} in [mcp.servers.{status.name}] if its first start downloads packages",
                f"run `{status.command}` with its args by hand: a server waits silently for input on stdin"
                if status.command
                else "look whether its `url` answers",
            ]
        case FailureKind.HANDSHAKE_FAILED:
            return [*_from_output(error), 'try protocol = "legacy" in its entry, if it is an MCP server at all']
        case FailureKind.UNRESPONSIVE:
            return [
                "raise heartbeat_timeout_secs or heartbeat_max_missed if it was busy, with no request, rather than hung"
            ]
        case FailureKind.CONNECT_FAILED:
            return ["look whether its `url` is right and answers"]
        case FailureKind.INTERNAL:
            return ["moltis logs    (this is a fault of moltis; please report it with these lines)"]
        case FailureKind.AUTH_REQUIRED | FailureKind.LOGIN_UNAVAILABLE:
            return [f"moltis mcp reauth {status.name}"]
        case FailureKind.DISCONNECTED | FailureKind.WRITE_STALLED | FailureKind.WARDEN_LOST:
            return _from_output(error)


def _start_limit(error: LastError) -> str:
    """Give the key that ended a start: the cap, where it was working to the last."""
    return "startup_timeout_max_secs" if "startup_timeout_max_secs" in error.message else "startup_timeout_secs"


def _for_placeholder(error: LastError | None) -> list[str]:
    if error is None:
        return []
    if instead := INSTEAD.search(error.message):
        return [f"write {instead[1]}    (in moltis.toml)"]
    found = PLACEHOLDER.search(error.message)
    if found is None:
        return []
    bare, braced, of_environment = found.groups()
    if of_environment:
        return [f"set {of_environment} in the environment that the daemon is started with, and start it again"]
    return [f"moltis env set {bare or braced}"]


def _for_exit(error: LastError) -> list[str]:
    guesses = _from_output(error)
    if guesses:
        return guesses
    match error.exit_code:
        case 0:
            return ["it ended by itself, without complaint: is it a server, and does it need a flag such as --stdio?"]
        case 126:
            return ["it starts a program that is not executable"]
        case 127:
            return ["it starts a program that is not installed, or not on the daemon's PATH: moltis doctor"]
        case -9:
            return ["it was killed from outside, perhaps for want of memory: dmesg | grep -i -e oom -e killed"]
        case _:
            return []


def _for_spawn(status: ServerStatus, error: LastError) -> list[str]:
    command = status.command or "COMMAND"
    if re.search(r"cwd|folder|directory .*does not exist|chdir", error.message):
        return [f"correct `cwd` in [mcp.servers.{status.name}], or make that folder"]
    if re.search(r"EACCES|[Pp]ermission denied|not executable", error.message):
        return [f'chmod +x "$(command -v {command})"    (it is there, but may not be run)']
    if line := in_one_line(command):
        return [f"write {line} in [mcp.servers.{status.name}]    (arguments go into args)"]
    return [f"which {command}    (it must be installed, and on the daemon's PATH)", "moltis doctor"]


def _from_output(error: LastError) -> list[str]:
    """Read the server's last lines, and the message, for what they often say."""
    lines = [*error.stderr_tail, error.message]
    missing = next((v for line in lines if MISSING.search(line) for v in VARIABLE.findall(line)), None)
    if missing is not None:
        return [f'moltis env set {missing}    (and env = {{ {missing} = "${missing}" }} in its entry)']
    text = "\n".join(lines)
    return [advice for pattern, advice in TELLING if re.search(pattern, text)][:1]
