"""What a person can do for a server that is not well: most telling first, each with what is to be typed or written.

From the state and the kind of the failure; what a server's own words mean is in `causes`.
"""

from __future__ import annotations

import re
import shlex

from moltis.config import surroundings
from moltis.config.keys import REVISIONS
from moltis.config.near_misses import in_one_line, of_windows
from moltis.config.plan import Shown
from moltis.errors import LoginNeeded, MoltisError, ServerNotReady
from moltis.lastwords import is_telling, spoken
from moltis.names import entry_of
from moltis.printable import one_line
from moltis.server.causes import About, Way, is_warning, recognised
from moltis.server.states import LOGIN_FAILED, STATUS, TRAITS, FailureKind, State
from moltis.server.status import LastError, ServerStatus

PLACEHOLDER = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\}|\{env:([A-Za-z_]\w*)\})", re.ASCII)
INSTEAD = re.compile(r"[:,] write ([^;]+)")
"""How a message of the configuration says what should stand there instead."""
REDIRECTED = re.compile(r"redirects to .*write (url = \"https://[^\"]+\") in its entry")
COMPRESSED = re.compile(r"compressed by ([\w., -]{1,40}), though")
MISLABELLED = re.compile(r"unexpected content-type: (none|'[^']{1,70}')")
LOGIN_KEY = re.compile(r"\boauth\.([a-z_]+)(?: = (\"[^\"]*\"|\[[^\]]*\]|[A-Za-z0-9_]+))?")
"""A key of [mcp.servers.NAME.oauth] in a message, with what to write there, if it says so."""


def waits_for_login(status: ServerStatus) -> bool:
    """Whether it goes on by itself once its login can be renewed."""
    error = status.last_error
    unavailable = error is not None and error.kind == FailureKind.LOGIN_UNAVAILABLE
    return unavailable and status.state in (State.READY, State.BACKOFF)


def refuses_header(status: ServerStatus) -> bool:
    """Whether it answers 401 to the Authorization that moltis.toml gives, so that no login changes anything."""
    failed = status.state == State.AWAITING_AUTH and status.auth_state == "failed"
    return failed and not login_failed(status)


def login_failed(status: ServerStatus) -> bool:
    """Whether a login came to nothing, and its error says why."""
    return status.last_error is not None and status.last_error.kind == LOGIN_FAILED


def login_keys(message: str, name: str) -> list[str]:
    """Return the keys of moltis.toml that a failed login names, each as it is to be written, or where to look."""
    where, named = f"in {entry_of(name, 'oauth')} of moltis.toml", dict.fromkeys(LOGIN_KEY.findall(message))
    settings = [f"{key} = {value}    ({where})" for key, value in named if value]
    others = list(dict.fromkeys(key for key, value in named if not value and not any(k == key and v for k, v in named)))
    return [*settings, *([f"look at {', '.join(others)} {where}"] if others else [])]


def commands(status: ServerStatus) -> list[str]:
    """Return what mends a server, or [] when nothing is to be done."""
    name, error = status.name, status.last_error
    if waits_for_login(status):
        return [
            *_for_way(status, error),
            f"moltis mcp reauth {name}    (if it does not come back by itself: a new login)",
        ]
    match State(status.state):
        case State.INVALID:
            return [
                *_for_placeholder(error),
                f"moltis config check    (says what is wrong in {entry_of(name)})",
            ]
        case State.DISABLED | State.STOPPED as state:
            return [TRAITS[state].advice.format(name)]
        case State.AWAITING_AUTH if refuses_header(status):
            return [_correct_header(name), f"moltis mcp restart {name}    (once it is mended)"]
        case State.AWAITING_AUTH | State.READY if login_failed(status) and error is not None:
            return [*_for_way(status, error), *login_keys(error.message, name), f"moltis mcp reauth {name}"]
        case State.AWAITING_AUTH as state:
            return [TRAITS[state].advice.format(name)]
        case State.READY if status.auth_state == "awaiting_browser":
            return [f"moltis mcp reauth {name}    (shows the address of the login that is pending)"]
        case State.BACKOFF | State.COOLDOWN:
            return _mending(status)
        case State.IDLE | State.STARTING | State.INITIALIZING | State.STOPPING if status.failing:
            return _mending(status)
        case State.STARTING | State.INITIALIZING if status.stdout:
            return list(recognised(_about(status, (status.stdout,))).advice)
        case State.IDLE | State.STARTING | State.INITIALIZING | State.READY | State.STOPPING:
            return []


CAUSE_CHARS = 240
MAX_NAMED = 5
SILENT = "it said nothing"
"""What is told in place of the words of a server that failed without any."""
_USAGE = re.compile(r"\s*usage:", re.IGNORECASE)


def in_its_words(status: ServerStatus) -> str:
    """Return the line of its last output that tells why it ended, or nothing where none does."""
    error = status.last_error
    if error is None:
        return ""
    if not error.stderr_tail:
        return SILENT if not error.stdout and (error.exit_code or 0) > 0 else ""
    line = recognised(_about(status, tuple(error.stderr_tail), error)).line
    if not line or _USAGE.match(line):  # how it is called is not why it ended
        said = [said for said in spoken(error.stderr_tail) if is_telling(said) and not _USAGE.match(said)]
        line = min(said, key=is_warning, default=line)
    told = one_line(line)
    return told if len(told) <= CAUSE_CHARS else told[: CAUSE_CHARS - 1] + "…"


def _correct_header(name: str) -> str:
    return f"correct headers.Authorization, or url, in {entry_of(name)}    (no login is made there)"


def hints(name: str, shown: Shown, error: LastError, transport: str = "stdio") -> list[str]:
    """Return what mends a failure of a server whose entry shows this, most telling first; [] where nothing is known."""
    status = ServerStatus(
        name=name,
        display_name=None,
        transport=transport,
        enabled=True,
        state=State.BACKOFF,
        status=STATUS[State.BACKOFF],
        command=shown.command,
        env_names=list(shown.env_names),
        env_withheld=list(shown.env_withheld),
        env_sources=dict(shown.env_sources),
    )
    return _guesses(status, error)


def _mending(status: ServerStatus) -> list[str]:
    guesses = _guesses(status, status.last_error) if status.last_error is not None else []
    return [
        *guesses,
        f"moltis logs {status.name}",
        f"moltis mcp restart {status.name}    (once it is mended)",
    ]


def unavailable(status: ServerStatus, hint: str) -> MoltisError:
    """Say why a server takes no request now, and when that changes. `hint`: what mends it."""
    name, state = status.name, status.state
    if refuses_header(status):
        message = f"server {name!r} answers 401 to the Authorization that moltis.toml gives"
        return ServerNotReady(message, server=name, state=state, hint=hint)
    if state == State.AWAITING_AUTH:
        why = f": {status.last_error.message}" if login_failed(status) and status.last_error is not None else ""
        message = f"server {name!r} waits for a person to log in{why}"
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


def _guesses(status: ServerStatus, error: LastError) -> list[str]:
    seen = _from_words(status, error)
    entry = entry_of(status.name)
    if advice := _for_answer(status, error):
        return advice
    if not status.command and (advice := surroundings.proxy_advice(status.name, error.message, status.proxy)):
        return advice
    if not status.command and (variable := surroundings.remote_advice(status.name, error.message, status.env_withheld)):
        seen = [variable, *(seen or [_for_address(error.message, entry)])]
    match FailureKind.of(error.kind):
        case FailureKind.EXITED:
            return seen or _for_exit(status, error)
        case FailureKind.SPAWN_FAILED:
            return _for_spawn(status, error)
        case FailureKind.STARTUP_TIMEOUT:
            return _for_timeout(status, error, seen)
        case FailureKind.HANDSHAKE_FAILED:
            return seen or _for_stdout(status, error) or _for_revision(error.message, entry)
        case FailureKind.LISTING_FAILED:
            return seen or [f"moltis logs {status.name}    (it is there, and cannot list its tools: see what it says)"]
        case FailureKind.UNRESPONSIVE:
            return [
                f"heartbeat_timeout_secs = 30 in {entry}    (or heartbeat_max_missed; if it was busy, with no request, "
                "rather than hung)"
            ]
        case FailureKind.CONNECT_FAILED:
            older = _for_revision(error.message, entry) if "initialize" in error.message else []
            return seen or older or [_for_address(error.message, entry)]
        case FailureKind.NO_NETWORK:
            return seen
        case FailureKind.NO_RESOURCES:
            return [_for_shortage(error.message)]
        case FailureKind.INTERNAL:
            return ["moltis logs    (this is a fault of moltis; please report it with these lines)"]
        case FailureKind.AUTH_REQUIRED if "headers.Authorization" in error.message:
            return [_correct_header(status.name)]
        case FailureKind.AUTH_REQUIRED | FailureKind.LOGIN_UNAVAILABLE:
            return [f"moltis mcp reauth {status.name}"]
        case FailureKind.LOCKED_OUT:
            return [
                f"look at url and headers in {entry}    (if it wants a key by now; otherwise it comes back by itself)"
            ]
        case FailureKind.DISCONNECTED | FailureKind.WRITE_STALLED | FailureKind.WARDEN_LOST:
            return seen


def _from_words(status: ServerStatus, error: LastError) -> list[str]:
    """Read what the server said on stderr and stdout, and the failure's message, for what such words often mean."""
    lines = (*error.stderr_tail, *filter(None, [error.stdout]), error.message)
    found = recognised(_about(status, lines, error))
    passing = surroundings.advice(status.name, lines, status.env_withheld) if status.command else None
    if passing is None or (found.advice and found.way is Way.NONE):
        return list(found.advice)
    if not passing.startswith("env_pass"):  # nothing of the daemon's would help
        return list(found.advice) or [passing]
    return [passing, *found.advice]


def _about(status: ServerStatus, lines: tuple[str, ...], error: LastError | None = None) -> About:
    kind, exit_code = (error.kind, error.exit_code) if error is not None else ("", None)
    sources = {**dict.fromkeys(status.env_names, ""), **status.env_sources}
    return About(status.name, lines, status.command or "", tuple(sources.items()), kind, exit_code)


def _for_timeout(status: ServerStatus, error: LastError, seen: list[str]) -> list[str]:
    if seen or (mismatch := _for_stdout(status, error)):
        return seen or mismatch
    limit = re.search(r"(startup_timeout_(?:max_)?secs) \(([\d.]{1,9}) s\)", error.message)
    key, secs = (limit[1], float(limit[2])) if limit is not None else ("startup_timeout_secs", 60.0)
    longer = f"{key} = {secs * 5:g} in {entry_of(status.name)}"
    if not status.command:
        return [f"{longer}    (if it is slow)", "look whether its `url` answers"]
    return [
        f"{longer}    (if its first start downloads packages, or reads much)",
        f"run `{status.command}` with its args by hand: a server waits silently for input on stdin. One that says "
        "nothing to a line of JSON either may want a flag such as --stdio, or speak LSP framing",
    ]


def _for_address(message: str, entry: str) -> str:
    """Say what mends a remote server that is not reached, or reached in part."""
    if " wants messages at " in f" {message}":
        return (
            "proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header Host $host;    (in nginx, or the like in the "
            f"proxy before it; else the server's own public URL. Messages go to the origin of url in {entry} alone)"
        )
    if re.search(r"(?:HTTP 4(?:04|05|10)\b.*|\(text/html\)) at http", message):
        return (
            f"root_path, or base path, in the server's settings    (behind a proxy its paths begin as url in {entry})"
        )
    return "look whether its `url` is right and answers"


def _for_revision(message: str, entry: str) -> list[str]:
    """Name the `protocol` that may mend a handshake that failed; nothing where none does."""
    if ruled_out := _RULED_OUT.search(message):
        theirs = next((version for version in reversed(REVISIONS) if version in ruled_out[1]), None)
        return [f'protocol = "auto" in {entry}    (what stands there rules out {theirs})'] if theirs else []
    if "server/discover was answered with error" in message:
        return [f'protocol = "auto" in {entry}    (if a revision stands there: it does not have that one)']
    offered = _OFFERED.search(message)
    if (offered and offered[2]) or not _REFUSES_REVISION.search(message):
        return []
    older = [version for version in reversed(REVISIONS) if version < (offered[1] if offered else _NEWEST_OFFERED)]
    if not older:
        return []
    rest = f"; if not that: {', '.join(older[1:])}" if older[1:] else ""
    return [f'protocol = "{older[0]}" in {entry}    (it may have older revisions alone{rest})']


_RULED_OUT = re.compile(r"the server speaks MCP ([^;]{1,200}); protocol = ")
_OFFERED = re.compile(r"\(it was offered ([\d-]{10})(, and then [\d-]{10})?\)$")
_NEWEST_OFFERED = "2025-11-25"
"""By `initialize`, where the entry says nothing."""
_REFUSES_REVISION = re.compile(
    r"initialize was answered with error -32602|(?:error -?\d+|HTTP \d+): .*protocol ?version", re.IGNORECASE
)
"""As the specification has it: -32602 "Unsupported protocol version" (MCP 2025-11-25, Lifecycle, Error Handling)."""

_MISMATCHES = {
    "LSP framing": "write the flag for MCP in args of {entry}    (it speaks LSP framing, Content-Length headers, as "
    "language servers do; MCP has one JSON message a line)",
    "UTF-16": 'env = {{ PYTHONIOENCODING = "utf-8" }} in {entry}    (it writes UTF-16, and MCP is UTF-8; if it is no '
    "Python program: set its encoding)",
    "JSON over several lines": "report it to who makes it    (its JSON has line breaks; MCP has one message a line: "
    "look for a flag such as --compact for args in {entry})",
    "JSON text sequences": "report it to who makes it    (it puts a record separator, RFC 7464, before each message; "
    "MCP has one message a line and nothing else: look for a flag such as --ndjson for args in {entry})",
    "server-sent events": 'add "--stdio" to args in {entry}, as the last    (it writes server-sent events to stdout, '
    "which are for HTTP)",
    "several messages on one line": "report it to who makes it    (each message must end in a newline; look for a "
    "newer version of it for args in {entry})",
    "messages with something before them": "have it log to stderr, by a flag in args or a variable in env of {entry}"
    "    (it puts a log prefix before its messages on stdout)",
    "lines that end in CR": "report it to who makes it    (its lines must end in LF, not in CR alone; look for a flag "
    "for line ends for args in {entry})",
    "NaN or Infinity in a message": "report it to who makes it    (JSON has neither NaN nor Infinity, though json of "
    "Python writes them; look for a newer version of it for args in {entry})",
    "messages with something behind them": "report it to who makes it    (nothing may follow a message but a newline; "
    "look for a newer version of it for args in {entry})",
    "messages without `jsonrpc`: `2.0`": 'report it to who makes it    (each message must hold "jsonrpc": "2.0"; look '
    "for a newer version of it for args in {entry})",
    "a message without a newline after it": "report it to who makes it    (each message must end in a newline; "
    "look for a newer version of it for args in {entry})",
}
"""What helps against what its stdout looks like (`session.oddities`)."""


def _for_stdout(status: ServerStatus, error: LastError) -> list[str]:
    """Say what helps where it speaks on stdout, and not MCP."""
    if not error.stdout:
        return []
    entry = entry_of(status.name)
    shape = next((told for shape, told in _MISMATCHES.items() if f"({shape})" in error.stdout), None)
    if shape is not None:
        return [shape.format(entry=entry)]
    return [
        f'add "--stdio" to args in {entry}, as the last    (what is on its stdout is no MCP; it may need such a flag)'
    ]


def _for_placeholder(error: LastError | None) -> list[str]:
    if error is None:
        return []
    if instead := INSTEAD.search(error.message):
        return [f"write {instead[1]}    (in moltis.toml)"]
    lines = []
    for bare, braced, of_environment in PLACEHOLDER.findall(error.message):
        if of_environment:
            lines.append(f"set {of_environment} in the environment that the daemon is started with, and start it again")
        else:
            lines.append(f"moltis env set {bare or braced}")
    return list(dict.fromkeys(lines))


def _for_exit(status: ServerStatus, error: LastError) -> list[str]:
    entry = entry_of(status.name)
    complained = any(is_telling(line) for line in error.stderr_tail)
    match error.exit_code:
        case 0 if not complained and (status.command or "").rpartition("/")[2] in ("docker", "podman"):
            return [
                f'add "-i" to args in {entry}, right after "run"    (without it a container has no stdin, and ends)'
            ]
        case 0 if not complained:
            return [
                f'add "--stdio" to args in {entry}, as the last    (it ended by itself, without complaint: is it a '
                "server, and does it need such a flag?)"
            ]
        case 126:
            return [f"moltis logs {status.name}    (it starts a program that is not executable: chmod +x that one)"]
        case 127:
            return ["moltis doctor    (it starts a program that is not installed, or not on the daemon's PATH)"]
        case -9 | 137:
            return ["dmesg | grep -i -e oom -e killed    (it was killed from outside, perhaps for want of memory)"]
        case -4 | -6 | -7 | -11 | 132 | 134 | 135 | 139:
            return [f"pin another version of it in args of {entry}    (it crashed; a fault of the program itself)"]
        case _ if not error.stderr_tail and not error.stdout and status.command:
            return [
                f"run `{status.command}` with its args by hand    (it ended without a word: mostly it lacks a setting, "
                f"or what it connects to; {_settings(status, entry)}; its page may name others, and one for logging)"
            ]
        case _:
            return _for_stdout(status, error)


def _settings(status: ServerStatus, entry: str) -> str:
    """Say which variables an entry sets, beside those that are passed on to all."""
    names = list(status.env_sources)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"env of {entry} has {', '.join(names[:MAX_NAMED])}{more}" if names else f"{entry} has no env"


def _for_spawn(status: ServerStatus, error: LastError) -> list[str]:
    """Tell what `transport.spawned` says of why a program could not be started, with what mends it."""
    command, entry = shlex.quote(status.command or "COMMAND"), entry_of(status.name)
    folder = re.search(r"cannot enter the folder (.+?): ", error.message)
    if folder is not None or "chdir" in error.message:
        make = [f"mkdir -p {shlex.quote(folder[1])}    (or correct `cwd` in {entry})"] if folder is not None else []
        return [*make, f"correct `cwd` in {entry}, or make that folder"]
    if re.search(r"EACCES|[Pp]ermission denied|not (?:permitted|executable)", error.message):
        return [f'chmod +x "$(command -v {command})"    (it is there, but may not be run)']
    if re.search(r"#!|[Ee]xec format|interpreter", error.message):
        why = "a script must begin with #! and its interpreter; a program must be built for this machine"
        return [f'head -n 1 "$(command -v {command})"    ({why})']
    if line := of_windows(status.command or ""):
        return [f"write {line} in {entry}    (in WSL; it is a path of Windows)"]
    if line := in_one_line(status.command or ""):
        return [f"write {line} in {entry}    (arguments go into args)"]
    return [f"which {command}    (it must be installed, and on the daemon's PATH)", "moltis doctor"]


def _for_shortage(message: str) -> str:
    """Tell who has what the machine lacks. A limit of one's own is the usual cause, and a leak of somebody else's."""
    if re.search(r"open files|file descriptor", message):
        return "ulimit -n 8192; moltis run    (or LimitNOFILE=8192 in its unit: the daemon has no file descriptor left)"
    if re.search(r"memory|[Bb]uffer", message):
        return "free -h    (there is no memory left to start a process with)"
    return "ps -eo user,nlwp,args --sort=-nlwp | head    (ulimit -u is reached: who runs so many processes or threads?)"


def _for_way(status: ServerStatus, error: LastError | None) -> list[str]:
    """Say what is to be done about a proxy, or the want of one, on the way to where one logs in."""
    if status.command is not None or error is None:
        return []
    if of_proxy := surroundings.proxy_advice(status.name, error.message, status.proxy):
        return of_proxy
    variable = surroundings.remote_advice(status.name, error.message, status.env_withheld)
    return [] if variable is None else [variable]


def _for_answer(status: ServerStatus, error: LastError) -> list[str]:
    """Say what can be done about an answer that came and could not be taken."""
    if status.command is not None:
        return []
    if found := REDIRECTED.search(error.message):
        return [f"write {found[1]} in {entry_of(status.name)}    (if that is the server)"]
    if found := COMPRESSED.search(error.message):
        return [
            f"have compression by {found[1]} switched off for its `url`, at the server or the proxy or CDN before it"
        ]
    if found := MISLABELLED.search(error.message):
        return [f"look at what answers at its `url` with content-type {found[1]}: a page, a login, or another path's"]
    return []
