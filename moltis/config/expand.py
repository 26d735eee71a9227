"""One server's entry, as written, to a `ServerPlan`, as run: placeholders, defaults, and the rules between keys.

Pure but for `~user`, which asks the password database. A wrong entry is a plan with `problem`; it hurts no other.
"""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from moltis.config import credentials, near_misses
from moltis.config.limits import DECLARED, Limits
from moltis.config.model import OAuthSection, ServerSection
from moltis.config.near_misses import unresolved
from moltis.config.plan import (
    Asked,
    Elicitation,
    Launch,
    Protocol,
    RemoteLaunch,
    ServerPlan,
    Shown,
    StdioLaunch,
    TransportName,
)
from moltis.config.problem import Report, dotted
from moltis.config.scan import Path
from moltis.config.sensitive import is_public, launch_secrets, literal_secrets, proxy_secrets
from moltis.config.surroundings import certificate_files, names_a_proxy, withheld
from moltis.redaction import REDACTED, Malformed, Template, TooLong, Unresolved, is_env_name, shown_url, utf8_bytes

if TYPE_CHECKING:
    from moltis.proxies import Proxies

_CAPS = tuple((limit.name, limit.cap) for limit in DECLARED if limit.cap)
_LOCAL_KEYS = ("command", "args", "env", "env_pass", "cwd")
_REMOTE_KEYS = ("url", "headers", "oauth", "ca_file", "proxy")

MAX_STRING_BYTES: Final = 128 * 1024
"""Of one argument or `NAME=value`, the NUL at its end included: MAX_ARG_STRLEN of execve(2)."""
MAX_LAUNCH_BYTES: Final = 2 * 1024 * 1024
"""Of all arguments and the environment, a pointer to each included: a quarter of the usual stack (execve(2))."""
MAX_PATH_BYTES: Final = 4096
"""Of a command or folder, the NUL included: PATH_MAX of path_resolution(7)."""
MAX_URL_BYTES: Final = 8192
"""RFC 9110 section 4.1 asks for 8000 at least, and few servers take more. It holds for the texts of `oauth` too."""
MAX_HEADER_BYTES: Final = 64 * 1024
"""Of one header's value; most servers take 8 to 16 KiB of all."""
MAX_HEADERS_BYTES: Final = 256 * 1024
"""Of what is expanded of a remote server's entry, all together."""
MAX_GROWTH_BYTES: Final = 8 * 1024 * 1024
"""Of all entries of a file together: what they expand to beyond what is written. A daemon keeps it all in memory, and a
secret in some twenty spellings."""
FREE_GROWTH_BYTES: Final = 8 * 1024
"""Of each entry, whatever the others expand to."""
_POINTER_BYTES: Final = 8
_MAX_HOST_CHARS: Final = 1024

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
"""A token of RFC 9110 section 5.6.2."""
_RESERVED_HEADERS = re.compile(r"accept|content-type|mcp-.*|content-length|transfer-encoding|connection", re.IGNORECASE)
"""What the MCP transport sets itself, and what would break the framing of HTTP."""
_NOT_IN_HEADER = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_NOT_IN_URL = re.compile(r"[^\x21-\x7e]|\\")


@dataclass(frozen=True, slots=True, repr=False)
class DefaultProxy:
    """`proxy` of `[mcp]`. shown: as it may be. problem: why no server that relies on it can be reached.

    is_written: somebody has decided, be it for none.
    """

    proxies: Proxies | None = None
    shown: str = "none"
    problem: str | None = None
    is_written: bool = False
    secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, repr=False)
class Base:
    """What entries are planned on: the values for placeholders, the limits of `[mcp]`, and where the file is."""

    env: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None
    env_pass: tuple[str, ...] = ()
    proxy: DefaultProxy = DefaultProxy()
    _found: dict[str, str | None] = field(default_factory=dict, init=False, compare=False)

    def lookup(self, name: str) -> str | None:
        """Return the value of `NAME` or `env:NAME`; a blank value is none, as for the shell's `:-`."""
        if name not in self._found:  # a long value that is blank takes a millisecond to be seen as that
            self._found[name] = self._look_up(name)
        return self._found[name]

    def _look_up(self, name: str) -> str | None:
        if name.startswith("env:"):
            values = [self.environ.get(name.removeprefix("env:"))]
        else:
            values = [self.env.get(name), self.overrides.get(name)]
        return next((value for value in values if value and not value.isspace()), None)


@dataclass(slots=True)
class Room:
    """What the entries of one file may still expand to, beyond what is written (bytes)."""

    left: int = MAX_GROWTH_BYTES


@dataclass(slots=True)
class _Expansion:
    """Expands the values of one launch and keeps what is wrong with them, by key path within the entry.

    After the first that is too long no other is expanded: the entry is wrong already, and costs nothing more.
    """

    base: Base
    room: Room
    left: int
    """Bytes that may still come."""
    together: str
    """What is wrong when more come."""
    free: int = FREE_GROWTH_BYTES
    is_full: bool = False
    used: set[str] = field(default_factory=set)
    wrong: list[tuple[Path, str]] = field(default_factory=list)
    unresolved: bool = False

    def text(
        self,
        template: Template | None,
        *key: str | int,
        most: int,
        check: Callable[[str], str | None] | None = None,
    ) -> str:
        """Return the text as run, empty where it cannot be expanded.

        most: bytes that it may have.
        check: says what is wrong with it.
        """
        if template is None or self.is_full:
            return ""
        try:
            expanded = template.expand(self._lookup, most)
        except TooLong:
            self._fill(key, f"is longer than {_size(most)}, which is the most that can be used")
            return ""
        except Unresolved as error:
            self.unresolved = True
            self.wrong += [(key, unresolved(name, template, key, self.base.environ)) for name in error.names]
            return ""
        size = utf8_bytes(expanded, most)
        if not self.take(size, key) or not self._grow(size - len(template.text), key):
            return ""
        problem = "the value of a placeholder has a NUL" if "\0" in expanded else check and check(expanded)
        if problem:
            self.wrong.append((key, problem))
        return expanded

    def take(self, size: int, key: Path) -> bool:
        """Count bytes of the launch, and say whether there is room for them."""
        if self.is_full:
            return False
        self.left -= size
        if self.left < 0:
            self._fill(key, self.together)
        return not self.is_full

    def _grow(self, size: int, key: Path) -> bool:
        free = min(max(0, size), self.free)
        self.free -= free
        beyond = max(0, size) - free
        if beyond > self.room.left:
            most = _size(MAX_GROWTH_BYTES)
            self._fill(key, f"is too long: the placeholders of all servers together would expand to more than {most}")
            return False
        self.room.left -= beyond
        return True

    def _fill(self, key: Path, problem: str) -> None:
        self.is_full = True
        self.wrong.append((key, problem))

    def _lookup(self, name: str) -> str | None:
        value = self.base.lookup(name)
        if value and not (name.startswith("env:") and is_public(name.removeprefix("env:"), value)):
            self.used.add(value)
        return value


def _size(size: int) -> str:
    """Return a number of bytes in words, rounded to the unit."""
    mib, kib = 1024 * 1024, 1024
    return f"{size // mib} MiB" if size >= mib else f"{(size + kib - 1) // kib} KiB"


@dataclass(frozen=True, slots=True, repr=False)
class Planned:
    """A server's plan, with the values in it that must never be shown.

    `only_unresolved`: the entry is right as written, but a placeholder in it has no value.
    """

    server: ServerPlan
    secrets: frozenset[str]
    only_unresolved: bool = False


def plan_server(
    name: str, entry: ServerSection, path: Path, base: Base, report: Report, room: Room, *, wrong: int = 0
) -> Planned:
    """Plan one server; its problems go to `report`, where those from index `wrong` on are already about it."""
    local = _Expansion(base, room, MAX_LAUNCH_BYTES, _TOO_MANY_WORDS)
    remote = _Expansion(base, room, MAX_HEADERS_BYTES, _TOO_MANY_HEADERS)
    launches: dict[bool, Launch] = {True: _local(entry, local), False: _remote(entry, remote)}
    found_before = _errors(report, wrong)
    transport, problem = _transport(entry)
    if problem and not found_before:
        report.error(path, problem)
    used = local if transport == "stdio" else remote
    for key, message in used.wrong:
        report.error((*path, *key), message)
    named = {key for key, _ in _errors(report, wrong)}
    _warn(entry, transport, path, report, named)
    inherited = base.proxy.problem if transport != "stdio" and entry.proxy is None else None
    _warn_of_no_proxy(entry.proxy, launches[False], (*path, "proxy"), report)
    for miss in _near_misses(entry, transport, launches[False]):
        if dotted((*path, *miss.key)) not in named:
            report.warning((*path, *miss.key), miss.message, fails_check=miss.is_sure)
    limits = _limits(entry, base, path, report)
    errors = _errors(report, wrong)
    server = ServerPlan(
        name=name,
        transport=transport,
        launch=None if errors or inherited else launches[transport == "stdio"],
        limits=limits,
        shown=_shown(entry, transport, launches, base),
        display_name=entry.display_name,
        enabled=entry.enabled,
        protocol=cast(Protocol, entry.protocol),
        elicitation=cast(Elicitation, entry.elicitation),
        sampling=cast(Asked, entry.sampling),
        roots=cast(Asked, entry.roots),
        include_tools=tuple(entry.include_tools),
        exclude_tools=tuple(entry.exclude_tools),
        proxy=None if transport == "stdio" else _shown_proxy(entry.proxy) or base.proxy.shown,
        problem="; ".join(_within(error, dotted(path)) for error in errors[:3]) or inherited,
        launch_mark=_launch_mark(entry, transport),
    )
    # A host's name is shown in lower case.
    lower = {value.lower() for value in remote.used if len(value) <= _MAX_HOST_CHARS}
    secrets = {*local.used, *remote.used, *lower, *launch_secrets(launches[True]), *launch_secrets(launches[False])}
    only_unresolved = used.unresolved and len(errors) == sum("resolves to nothing" in m for _, m in used.wrong)
    return Planned(server, frozenset(secrets), only_unresolved)


def _errors(report: Report, start: int) -> list[tuple[str, str]]:
    return [(p.key, p.message) for p in report.problems[start:] if p.severity == "error"]


def _within(error: tuple[str, str], entry: str) -> str:
    """Give `KEY: MESSAGE` with the key as it is called inside of the entry."""
    key, message = error
    inner = key.removeprefix(entry).removeprefix(".")
    return f"{inner}: {message}" if inner else message


# Rules between keys --------------------------------------------------------------------------------------------------


def _transport(entry: ServerSection) -> tuple[TransportName, str | None]:
    """Give the transport and what is wrong with it.

    Differs from Rust Moltis, where a url without transport is an error: here it is `sse`, any remote server.
    A remote transport with a command is allowed, since the manual's own example has both.
    """
    has_command, has_url = entry.command is not None, entry.url is not None
    match entry.transport:
        case None if has_command and has_url:
            return "stdio", "has both command and url: remove one, or set transport"
        case None if has_url:
            return "sse", None
        case None if has_command:
            return "stdio", None
        case None:
            return "stdio", "needs a command (a local server) or a url (a remote one)"
        case "stdio" if not has_command:
            return "stdio", "transport stdio needs a command"
        case "stdio" if has_url:
            return "stdio", "has both command and url: remove the url, or set transport to sse"
        case "stdio":
            return "stdio", None
        case remote:
            missing = None if has_url else f"transport {remote} needs a url"
            return cast(TransportName, remote), missing


def _warn(entry: ServerSection, transport: TransportName, path: Path, report: Report, named: Container[str]) -> None:
    kind, unused = ("local", _REMOTE_KEYS) if transport == "stdio" else ("remote", _LOCAL_KEYS)
    for key in unused:
        if key in entry.model_fields_set:
            report.warning((*path, key), f"is not used by a {kind} server (transport {transport})")
    if transport != "stdio":
        return
    for n, template in enumerate(entry.args):
        if template.names and dotted((*path, "args", n)) not in named:
            value = f"the value of ${template.names[0]}"
            report.warning((*path, "args", n), f"{value} can be read by every user of this machine; use env instead")
    for n in literal_secrets(entry.command, entry.args):
        report.warning((*path, "args", n) if n >= 0 else (*path, "command"), _READABLE)
    if _has_placeholder(entry.command or ""):
        report.warning((*path, "command"), "placeholders are not expanded in command; use args, env or cwd")


def _near_misses(entry: ServerSection, transport: TransportName, remote: Launch) -> Iterator[near_misses.Miss]:
    if transport == "stdio":
        yield from near_misses.in_launch(entry.command or "", entry.args, entry.env)
        if entry.cwd is not None:
            yield from near_misses.in_text(("cwd",), entry.cwd)
        return
    if entry.proxy is not None:
        yield from near_misses.in_text(("proxy",), entry.proxy)
    if entry.url is not None and "%" not in entry.url.text:  # with it a URL has %41%42, which is no %VARIABLE%
        yield from near_misses.in_text(("url",), entry.url)
    for name, value in entry.headers.items():
        yield from near_misses.in_text(("headers", name), value, is_trimmed=True)
    if isinstance(remote, RemoteLaunch):
        yield from near_misses.in_headers(remote.headers)


_READABLE: Final = (
    "this looks like a secret, and every user of this machine can read it: if the program takes it from a variable, "
    '`moltis env set NAME` and env = { NAME = "$NAME" } keep it out of sight'
)


def _has_placeholder(text: str) -> bool:
    try:
        return bool(Template(text).names)
    except Malformed:
        return True


def _limits(entry: ServerSection, base: Base, path: Path, report: Report) -> Limits:
    limits, capped = merged_limits(base.limits, entry.limits())
    for key, cap in capped:
        report.warning((*path, key), f"is above {cap}, which caps it")
    return limits


def merged_limits(*layers: Mapping[str, Any]) -> tuple[Limits, list[tuple[str, str]]]:
    """Lay limits over the defaults, the most specific last; give also the pairs where a value is above its own cap.

    A cap that is not written where its value is rises with it: `request_timeout_secs = 900` alone means 900 seconds.
    """
    values = {limit.name: limit.default for limit in DECLARED}
    capped: list[tuple[str, str]] = []
    for layer in layers:
        values |= layer
        for key, cap in _CAPS:
            if values[key] > values[cap] and cap not in layer:
                values[cap] = values[key]
        own = [(key, cap) for key, cap in _CAPS if key in layer or cap in layer]
        capped = [(key, cap) for key, cap in own if values[key] > values[cap]]
    return Limits(**cast(Any, values)), capped


# Local servers -------------------------------------------------------------------------------------------------------


def _local(entry: ServerSection, expansion: _Expansion) -> StdioLaunch:
    for name in entry.env:
        if not name or "=" in name or "\0" in name:
            expansion.wrong.append((("env", name), "a variable's name must not be empty or contain '='"))
    command = _home(entry.command or "", expansion.base)
    if utf8_bytes(command, MAX_PATH_BYTES) >= MAX_PATH_BYTES:
        expansion.wrong.append((("command",), _TOO_LONG_PATH))
    expansion.take(_in_memory(utf8_bytes(command, MAX_PATH_BYTES)), ("command",))
    args = []
    for n, arg in enumerate(entry.args):
        expansion.take(_in_memory(0), ("args", n))
        args.append(expansion.text(_at_home(arg, expansion.base), "args", n, most=MAX_STRING_BYTES - 1))
    env = _passed(entry, expansion)
    for name, value in entry.env.items():
        prefix = utf8_bytes(name, MAX_STRING_BYTES) + 1
        expansion.take(_in_memory(prefix), ("env", name))
        value = _at_home(value, expansion.base, of=name)
        env.append((name, expansion.text(value, "env", name, most=MAX_STRING_BYTES - 1 - prefix)))
    cwd = expansion.text(entry.cwd, "cwd", most=MAX_PATH_BYTES - 1, check=_folder_problem)
    return StdioLaunch(
        command=command,
        args=tuple(args),
        env=tuple(env),
        cwd=_folder(cwd, expansion.base) if entry.cwd is not None else None,
    )


def _passed(entry: ServerSection, expansion: _Expansion) -> list[tuple[str, str]]:
    """Give what a server gets of the daemon's environment because `env_pass` says so; what `env` sets wins."""
    environ = expansion.base.environ
    names = expansion.base.env_pass if entry.env_pass is None else entry.env_pass
    passed = [(name, environ[name]) for name in dict.fromkeys(names) if name in environ and name not in entry.env]
    for name, value in passed:
        expansion.take(_in_memory(len(name) + 1 + utf8_bytes(value, MAX_LAUNCH_BYTES)), ("env_pass",))
    return passed


_TOO_LONG_PATH: Final = f"is longer than {MAX_PATH_BYTES} bytes, which no path can be"
_TOO_MANY_WORDS: Final = (
    f"is where arguments and environment get longer than {_size(MAX_LAUNCH_BYTES)} together: no program can be started "
    "with so much; put it in a file"
)
_TOO_MANY_HEADERS: Final = f"is where url and headers get longer than {_size(MAX_HEADERS_BYTES)} together"


def _in_memory(size: int) -> int:
    """Return what the kernel counts for a word of so many bytes: the NUL behind it and the pointer to it."""
    return size + 1 + _POINTER_BYTES


def _folder_problem(text: str) -> str | None:
    return None if text.strip() else "must not be empty"


_TILDE: Final = re.compile(
    r"(?P<before>--?[A-Za-z][\w-]*=|[A-Za-z_]\w*=)?(?P<home>~(?:[a-z_][a-z0-9_-]*(?=/))?)(?=/|$)"
)
_TILDES: Final = re.compile(r"(?:(?<=:)|^)~(?=/|:|$)")
_HOME_PATH: Final = re.compile(r"~(?:/[\w.@+-]+)*/?")


def _at_home(template: Template, base: Base, of: str | None = None) -> Template:
    """Write out the `~` with which a path begins, as a shell would: of an argument, of its value after `OPTION=`, of a
    variable (named `of`), of each path in a list of them. What a placeholder stands for is left alone.
    """
    text = template.text
    if "~" not in text or (of and credentials.named_secret(of) and not _HOME_PATH.fullmatch(text)):
        return template
    if of is not None:
        return Template(_TILDES.sub(lambda _: _home("~", base).replace("$", "$$"), text))
    if m := _TILDE.match(text):
        text = text[: m.start("home")] + _home(m["home"], base).replace("$", "$$") + text[m.end("home") :]
    return Template(text)


def _home(path: str, base: Base) -> str:
    if path == "~" or path.startswith("~/"):
        home = base.environ.get("HOME")
        return (home.rstrip("/") + path[1:] or "/") if home else os.path.expanduser(path)
    return os.path.expanduser(path) if path.startswith("~") else path


def _folder(path: str, base: Base) -> str:
    path = _home(path, base)
    return os.path.normpath(os.path.join(base.folder, path)) if base.folder and not os.path.isabs(path) else path


# Remote servers ------------------------------------------------------------------------------------------------------


def _remote(entry: ServerSection, expansion: _Expansion) -> RemoteLaunch:
    headers: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for name, value in entry.headers.items():
        if problem := _header_name_problem(name, seen):
            expansion.wrong.append((("headers", name), problem))
        seen[name.lower()] = name
        text = expansion.text(value, "headers", name, most=MAX_HEADER_BYTES, check=_header_value_problem)
        headers.append((name, text.strip(" \t")))
    return RemoteLaunch(
        url=expansion.text(entry.url, "url", most=MAX_URL_BYTES, check=url_problem),
        headers=tuple(headers),
        oauth=tuple(_oauth(entry.oauth, expansion)) if entry.oauth else (),
        ca_file=_folder(entry.ca_file, expansion.base) if entry.ca_file else None,
        proxies=expansion.base.proxy.proxies if entry.proxy is None else _proxies(entry.proxy, expansion, own=True),
    )


def default_proxy(proxy: Template | None, base: Base, report: Report, *, is_wrong: bool) -> DefaultProxy:
    """Return what `proxy` of `[mcp]` means to the servers that have none of their own; what is wrong is reported once.

    is_wrong: it is written, and something that was reported already. Nobody goes without a proxy because of that.
    """
    wrong = "proxy of [mcp] is wrong: moltis config check says how"
    if proxy is None:
        return DefaultProxy(problem=wrong, is_written=True) if is_wrong else DefaultProxy()
    expansion = _Expansion(base, Room(), MAX_HEADERS_BYTES, _TOO_MANY_HEADERS)
    proxies = _proxies(proxy, expansion, own=False)
    for key, message in expansion.wrong:
        report.error(("mcp", *key), message)
    problem = f"proxy of [mcp]: {expansion.wrong[0][1]}" if expansion.wrong else None
    if problem is None:
        _warn_of_no_proxy(proxy, RemoteLaunch("", proxies=proxies), ("mcp", "proxy"), report)
    secrets = frozenset({*expansion.used, *proxy_secrets(proxies)})
    return DefaultProxy(proxies, _shown_proxy(proxy) or "none", problem, is_written=True, secrets=secrets)


def _proxies(proxy: Template, expansion: _Expansion, *, own: bool) -> Proxies | None:
    text = expansion.text(proxy, "proxy", most=MAX_URL_BYTES)
    if text in ("", "none"):
        return None
    from moltis import proxies

    try:
        return proxies.setting(text, expansion.base.environ, own=own)
    except ValueError as error:
        expansion.wrong.append((("proxy",), str(error)))
        return None


def _warn_of_no_proxy(proxy: Template | None, launch: Launch, path: Path, report: Report) -> None:
    if proxy is not None and proxy.text == "env" and isinstance(launch, RemoteLaunch) and launch.proxies is None:
        report.warning(path, "the environment has no HTTPS_PROXY: nothing is reached through a proxy")


def _header_name_problem(name: str, seen: Mapping[str, str]) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return "is not a header's name: letters, digits and '-' are safe"
    if _RESERVED_HEADERS.fullmatch(name):
        return "is reserved: the transport sets this header itself"
    if name.lower() in seen:
        return f"is the same header as {seen[name.lower()]}: names of headers have no case"
    return None


def _header_value_problem(value: str) -> str | None:
    if _NOT_IN_HEADER.search(value):
        return "has a line break, a NUL, or another character that a header cannot carry"
    return None


def url_problem(url: str) -> str | None:
    """Say what is wrong with an expanded URL, without a word of it; None when it can be connected to."""
    if _NOT_IN_URL.search(url):
        return "has a space, a line break, a NUL, a backslash or a non-ASCII character; percent-encode it"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with https:// or http://"
    if not parts.hostname or port == 0:
        return "has no host, or port 0"
    return None


def _login_url_problem(url: str) -> str | None:
    """RFC 8252 and RFC 9700: authorization endpoints are https, and http on this machine only."""
    parts = urlsplit(url) if (problem := url_problem(url)) is None else None
    if parts is None:
        return problem
    if parts.scheme == "https" or _is_loopback(parts.hostname or ""):
        return None
    return "must begin with https://; http:// is for this machine only"


def _issuer_problem(url: str) -> str | None:
    """RFC 8414 section 2: an https URL without a query or a fragment; http on this machine only."""
    return "must have no query and no fragment" if set(url) & set("?#") else _login_url_problem(url)


def _resource_problem(uri: str) -> str | None:
    """RFC 8707 section 2: an absolute URI without a fragment; nothing, where the parameter is to be left out."""
    if not uri:
        return None
    absolute = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+", uri)
    return None if absolute and "#" not in uri else "must be an absolute URI without a fragment"


_OAUTH_CHECKS = {
    "auth_url": _login_url_problem,
    "token_url": _login_url_problem,
    "client_metadata_url": _login_url_problem,
    "issuer": _issuer_problem,
    "resource": _resource_problem,
}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _oauth(oauth: OAuthSection, expansion: _Expansion) -> Iterator[tuple[str, object]]:
    for key in OAuthSection.model_fields:
        value = getattr(oauth, key)
        if key not in oauth.model_fields_set or value is None:
            continue
        if key == "scopes":
            yield (
                key,
                tuple(expansion.text(scope, "oauth", key, n, most=MAX_URL_BYTES) for n, scope in enumerate(value)),
            )
        elif isinstance(value, Template):
            check = _OAUTH_CHECKS.get(key)
            yield (
                key,
                expansion.text(
                    value, "oauth", key, most=MAX_HEADER_BYTES if check is None else MAX_URL_BYTES, check=check
                ),
            )
        else:
            yield key, value


# What is shown -------------------------------------------------------------------------------------------------------


def _launch_mark(entry: ServerSection, transport: TransportName) -> str:
    """Name how a server is reached: another command, argument, folder or URL is another server; another `env` is not.

    Of the text as written, so that no value of a placeholder is in it, and one way, for it is kept on disk.
    """
    if transport == "stdio":
        how = [entry.command, *(argument.text for argument in entry.args), entry.cwd and entry.cwd.text]
    else:
        how = [entry.url and entry.url.text]
    return sha256(json.dumps([transport, how]).encode()).hexdigest()


def _shown(entry: ServerSection, transport: TransportName, launches: Mapping[bool, Launch], base: Base) -> Shown:
    local, remote = launches[True], launches[False]
    if transport == "stdio" and isinstance(local, StdioLaunch):
        names = tuple(name for name, _ in local.env)
        return Shown(
            command=_shown_command(entry.command),
            arg_count=len(entry.args),
            env_names=names,
            env_withheld=withheld(base.environ, names),
            env_sources=tuple((name, _source(entry.env[name], base)) for name in names if name in entry.env),
        )
    return Shown(
        url=shown_url(entry.url.text) if entry.url else None,
        header_names=tuple(entry.headers),
        env_withheld=_withheld_remote(entry, remote, base),
    )


def _withheld_remote(entry: ServerSection, remote: Launch, base: Base) -> tuple[str, ...]:
    """Return the variables that would say how a remote server is reached, where nobody has decided about that."""
    names: list[str] = []
    if entry.proxy is None and not base.proxy.is_written and names_a_proxy(base.environ):
        from moltis.proxies import unused_variable

        assert isinstance(remote, RemoteLaunch)
        names += filter(None, [unused_variable(base.environ, remote.url)])
    return (*names, *(certificate_files(base.environ) if entry.ca_file is None else ()))


def _shown_proxy(proxy: Template | None) -> str | None:
    if proxy is None:
        return None
    return proxy.text if proxy.text in ("none", "env") else shown_url(proxy.text)


def _source(template: Template, base: Base) -> str:
    """Say where the value of a variable comes from; as `Shown.env_sources`."""
    if len(template.names) != 1:
        return "moltis.toml"
    (name,) = template.names
    if name.startswith("env:"):
        return f"environment {name.removeprefix('env:')}"
    return f"[env] {name}" if base.env.get(name, "").strip() else f"env set {name}"


def _shown_command(command: str | None) -> str | None:
    """Give a command without the secrets that stand in it where arguments were written into it."""
    if command is not None:
        for secret in credentials.in_text(command):
            command = command.replace(secret, REDACTED)
    return command


def env_name_problem(name: str) -> str | None:
    """Say why a name in `[env]` could never be asked for, or None."""
    return None if is_env_name(name) else "cannot be asked for by a placeholder: A-Z a-z 0-9 _, not a digit first"
