"""What the last words of a server mean, and the line or the command that mends it.

Pure. A table of what programs write when they cannot go on: npx, uvx, docker, Node, Python, shells, and servers
themselves. The order is that of what has to be mended first: what can be told for sure stands above what is likely, and
a cause above what follows from it. All of it is a guess from another program's words: what is taken from them into an
advice is a path, a name or a number of a narrow form, quoted for a shell.
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from moltis.lastwords import is_frame, spoken
from moltis.names import entry_of
from moltis.server.states import FailureKind

LOOKED_AT = 400
"""Characters of a line that are looked at: what is wrong is said early, and this runs on the daemon's loop."""


class About(msgspec.Struct, frozen=True):
    """What else is known of the server and its failure.

    command: as written in moltis.toml; empty for a remote server.
    env: what its entry passes on, each with where its value comes from, as `ServerStatus.env_sources`.
    lines: its last lines, what it wrote to stdout that is no MCP, and the message of the failure.
    """

    name: str
    lines: tuple[str, ...]
    command: str = ""
    env: tuple[tuple[str, str], ...] = ()
    kind: str = ""
    exit_code: int | None = None

    @property
    def entry(self) -> str:
        return entry_of(self.name)

    @property
    def program(self) -> str:
        """The command without its folder."""
        return self.command.rpartition("/")[2]

    @property
    def env_names(self) -> list[str]:
        return [name for name, _ in self.env]

    def give(self, name: str, why: str) -> str:
        """Say how the server gets another value of a variable, where its entry has it from; `why` in a few words."""
        how, _, of = dict(self.env).get(name, "").rpartition(" ")
        match how:
            case "env set":
                return f"moltis env set {of}    ({why})"
            case "[env]":
                return f'{of} = "..." in [env] of moltis.toml    ({why}; what stands there wins over moltis env set)'
            case "environment":
                return f"set {of} in the environment that the daemon is started with, and start it again    ({why})"
            case _:
                instead = ", in place of what stands there" if of else ""
                return f'moltis env set {name}    (and env = {{ {name} = "${name}" }} in {self.entry}{instead}: {why})'

    def first(self, pattern: str) -> re.Match[str] | None:
        """Return where the pattern is found first."""
        return next((found for line in self.lines if (found := re.search(pattern, line[:LOOKED_AT]))), None)


class Way(enum.Enum):
    """What of the way out is missing."""

    NONE = "nothing"
    NETWORK = "there is no network"
    TRUST = "a certificate is not trusted"


Found = re.Match[str]
Advice = Callable[[Found, About], list[str] | None]
"""Returns what mends it, most telling first; None where it is something else after all."""


class Cause(msgspec.Struct, frozen=True):
    """What is looked for in each line; `way`: it is about the way out, to a network or to one that is trusted.

    The pattern is compiled when it is first looked for: no server may ever fail.
    """

    pattern: str
    advice: Advice
    way: Way = Way.NONE
    flags: int = 0

    def search(self, line: str) -> Found | None:
        return re.search(self.pattern, line, self.flags)


_SHORTAGES: Final = ("no file descriptor left", "no thread can be started", "Cannot allocate memory")


class Recognised(NamedTuple):
    """The first cause that was recognised: what mends it, whether it is about the way out, and the line that tells it,
    as far as it was looked at; nothing for none.
    """

    advice: tuple[str, ...] = ()
    way: Way = Way.NONE
    line: str = ""


def is_shortage(message: str) -> bool:
    """Return whether a message of ours (`http.words`, `threads`) says that this machine has not the means to try."""
    return any(words in message for words in _SHORTAGES)


def is_offline(lines: Sequence[str]) -> bool:
    """Whether a program ended because it does not get to the network, and for nothing that a person could mend."""
    if not any(NETWORK.search(line[:LOOKED_AT]) for line in lines):
        return False
    return recognised(About("", tuple(lines))).way is Way.NETWORK


@lru_cache(maxsize=256)
def recognised(about: About) -> Recognised:
    """Return the cause that has to be mended first."""
    lines = [line[:LOOKED_AT] for line in spoken(about.lines)]
    warnings = [line for line in lines if is_warning(line)]
    for said in ([line for line in lines if line not in warnings], warnings):
        for cause in CAUSES:
            for line in said:
                found = cause.search(line)
                mending = cause.advice(found, about) if found is not None else None
                if mending:
                    return Recognised(tuple(mending), cause.way, line)
    return Recognised()


def is_warning(line: str) -> bool:
    """Whether a line only warns."""
    return _WARNING.search(line[:LOOKED_AT]) is not None


_WARNING = re.compile(r"\bwarn(?:ing)?\b(?!.*\b(?:error|fatal)\b)", re.IGNORECASE)
"""What does not say why it ended, unless nothing else does."""


# --- npx, npm


def _answer_npx(found: Found, about: About) -> list[str]:
    return [f'add "-y" to args in {about.entry}, as the first    (npx asks before it installs, and nobody answers)']


_NPX_FOLDER = re.compile(
    r"'(?P<a>(?:/|file:/|\[REDACTED\])[^'\n]*/_npx/[0-9a-f]{4,64})[/']"
    r"|\"(?P<b>(?:/|file:/|\[REDACTED\])[^\"\n]*/_npx/[0-9a-f]{4,64})[/\"]"
    r"|(?P<c>[^\s'\"(`]*/_npx/[0-9a-f]{4,64})(?:[/\s:)`]|$)"
)
_NOT_FOUND = re.compile(r"Cannot find (?:module|package) '([^']+)'")


def _install_anew(found: Found, about: About) -> list[str] | None:
    missing = _NOT_FOUND.search(found.string)
    if missing and missing[1].startswith("/") and "/_npx/" not in missing[1]:
        return None
    if "ENOENT" in found[0] and "/_npx/" not in found.string:
        return None
    if is_frame(found.string):
        return None
    folder = next((m for line in about.lines if (m := _NPX_FOLDER.search(line[:LOOKED_AT]))), None)
    if folder is None:
        return None
    path = (folder["a"] or folder["b"] or folder["c"]).removeprefix("file://")
    where = shlex.quote(path)
    if not path.startswith("/"):  # its beginning was taken out as a secret, or is not told
        where = '"$(npm config get cache)"/_npx/' + path.rpartition("/")[2]
    elif ".." in path.split("/"):
        return None
    return [f"rm -rf {where}    (npx's copy of the package is incomplete; the next start installs it anew)"]


def _no_such_package(found: Found, about: About) -> list[str]:
    named = about.first(
        r"['\"](@?[\w.-]+(?:/[\w.-]+)?)@[^'\"]*['\"] is not in|Because ([\w.-]+) was not found"
        r"|distribution found for ([\w.-]+)|package '?(@?[\w./-]+)'? (?:was )?not found"
    )
    package = next((group for group in named.groups() if group), None) if named is not None else None
    which = f'"{package}"' if package else "the package"
    return [f"correct {which} in args of {about.entry}    (there is no package of that name)"]


def _npm_login(found: Found, about: About) -> list[str]:
    return ["npm login    (as the user of the daemon: its registry wants to know who asks)"]


def _own_npm_cache(found: Found, about: About) -> list[str]:
    return ['sudo chown -R "$(id -u):$(id -g)" ~/.npm    (files in npm\'s cache belong to another user)']


def _npm_program(found: Found, about: About) -> list[str]:
    if about.program == "bunx":
        what = 'write "--package", "PACKAGE", "PROGRAM" as args in'
        return [f"{what} {about.entry}    (the package has no program of its own name)"]
    what = 'write "-y", "-p", "PACKAGE", "PROGRAM" as args in'
    return [f"{what} {about.entry}    (the package has no program of its own name: npm view PACKAGE bin)"]


# --- uvx, Python


def _uv_program(found: Found, about: About) -> list[str]:
    wrong, package = found[1], found[2]
    listed = [m[1] for line in about.lines if (m := re.match(r"\s*-\s+([\w.-]+)\s*$", line))]
    right = listed[0] if listed else "PROGRAM"
    more = f"; it has: {', '.join(listed[:5])}" if len(listed) > 1 else ""
    return [f'replace "{wrong}" in args of {about.entry} by "--from", "{package}", "{right}"'
            f"    (the package has no program of that name{more})"]  # fmt: skip


def _python_version(found: Found, about: About) -> list[str]:
    versions = re.findall(r"([<>=!~]=?)\s*(\d+)\.(\d+)", found.string)
    low = next((f"{major}.{minor}" for how, major, minor in versions if how in (">=", "==", "~=", ">")), None)
    if low is None:
        high = next(((major, int(minor)) for how, major, minor in versions if how in ("<", "<=")), ("3", 14))
        low = f"{high[0]}.{high[1] - 1}"
    if about.program not in ("uvx", "uv"):
        return [f"{about.command or 'python3'} --version    (it needs Python {low}: write another one as command)"]
    return [f'add "--python", "{low}" to args in {about.entry}, as the first    (it needs that version of Python)']


def _older_mcp(found: Found, about: About) -> list[str]:
    why = "(it was written for version 1 of the package mcp, and got version 2)"
    if about.program == "uvx":
        return [f'add "--with", "mcp<2" to args in {about.entry}, as the first    {why}']
    return [f"{_python(about)} -m pip install 'mcp<2'    {why}"]


def _python_module(found: Found, about: About) -> list[str]:
    module = found[1].partition(".")[0]
    if about.program == "uvx":
        return [f'add "--with", "{module}" to args in {about.entry}, as the first    (it needs that package)']
    return [f"{_python(about)} -m pip install {module}    (for the Python that `command` starts)"]


def _python(about: About) -> str:
    return about.command if re.fullmatch(r"[\w./-]*python[\d.]*", about.command) else "python3"


def _not_built(found: Found, about: About) -> list[str]:
    tools = "apt-get install build-essential python3-dev    (a package is to be compiled; its words say what else)"
    if about.program not in ("uvx", "uv"):
        return [tools]
    return [f'add "--no-build" to args in {about.entry}, as the first    (so that nothing has to be compiled)', tools]


# --- what is not there


def _no_such_script(found: Found, about: About) -> list[str]:
    return [f"correct {shlex.quote(found[1])} in args of {about.entry}    (there is no such file; or cwd is wrong)"]


def _node_module(found: Found, about: About) -> list[str]:
    module = found[1]
    if module.startswith("/") and "/node_modules/" not in module:
        return _no_such_script(found, about)
    place = module if module.startswith("/") else None
    if place is None:
        asker = about.first(r"imported from (?:file://)?(/[^\s'\"]+)|^\s*- (/\S+)$")
        place = next((group for group in asker.groups() if group), None) if asker is not None else None
    if place is None:
        return [f"npm install {shlex.quote(module)}    (in the folder of the server: it needs that package)"]
    folder = place.partition("/node_modules/")[0] if "/node_modules/" in place else place.rpartition("/")[0]
    return [f"(cd {shlex.quote(folder or '/')} && npm install)    (a package that it needs is not there)"]


def _no_such_program(found: Found, about: About) -> list[str] | None:
    program = next(group for group in found.groups() if group)
    if not re.fullmatch(r"[\w@./+-]+", program):
        return None
    return [
        f"which {program}    (it starts {program}, which must be installed)",
        f'env = {{ PATH = "FOLDER_OF_{re.sub("[^A-Z0-9]", "_", program.upper())}:${{env:PATH}}" }} in {about.entry}'
        "    (if that finds it: it is not on the daemon's PATH)",
    ]


def _no_such_path(found: Found, about: About) -> list[str] | None:
    path = _path_in(found.string)
    if path is None:
        return None
    return [
        f"ls -ld {path}    (there is no such file or folder: make it, or correct it in {about.entry})",
    ]


_PATH = re.compile(r"'(/[^'\n]+)'|\"(/[^\"\n]+)\"|`(/[^`\n]+)`|(?:^|[\s(=:])((?:~|/)[^\s:'\"`,;()]+)")


def _path_in(line: str) -> str | None:
    """Return the last path that a line names, quoted for a shell."""
    paths = [next(g for g in m.groups() if g) for m in _PATH.finditer(line[:LOOKED_AT])]
    paths = [path for path in paths if len(path) > 1 and not path.startswith("//")]
    return shlex.quote(paths[-1].rstrip(".")) if paths else None


def _may_not(found: Found, about: About) -> list[str]:
    path = _path_in(found.string)
    if path is None:
        return ["look at the permissions of its files and folders for the user of the daemon: id; ls -ld FILE"]
    return [f'chmod u+rwX {path}    (it may not use it; if it is another user\'s: sudo chown "$(id -u)" {path})']


# --- docker


def _docker_name(found: Found, about: About) -> list[str]:
    return [f'docker rm -f {found[1]}    (a container of an earlier start is left; with "--rm" in args none is)']


# --- what it holds or has run out of


_PORT = re.compile(r":(\d{2,5})\b|\bport (\d{2,5})\b|, (\d{2,5})\)")


def _port(found: Found, about: About) -> list[str]:
    port = _PORT.search(found.string)
    if port is None:
        return ["ss -ltnp    (another process holds the port that it wants: end that one, or give it another port)"]
    number = port[1] or port[2] or port[3]
    return [f"ss -ltnp 'sport = :{number}'    (shows who holds the port: end that one, or give it another port)"]


def _second_copy(found: Found, about: About) -> list[str]:
    program = shlex.quote(about.program or about.name)
    return [f"pgrep -af {program}    (another copy of it runs, and it allows only one: end that one)"]


def _memory(found: Found, about: About) -> list[str]:
    return [f'env = {{ NODE_OPTIONS = "--max-old-space-size=4096" }} in {about.entry}    (Node ran out of memory)']


# --- what it was given


def _certificate(found: Found, about: About) -> list[str]:
    spoken = re.search(r"npm|_IN_CHAIN|_CERT|_ZERO", found.string) is not None
    of_node = about.program in ("npx", "npm", "node", "bunx", "pnpm") or spoken
    node = of_node and re.match(r"uvx?$|pipx$|python", about.program) is None
    name = "NODE_EXTRA_CA_CERTS" if node else "SSL_CERT_FILE"
    why = "(it does not trust a certificate; that variable names the file of your own CA)"
    return [f'env = {{ {name} = "${{env:{name}}}" }} in {about.entry}    {why}']


VARIABLE = re.compile(r"(?<![A-Za-z0-9_$])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?![A-Za-z0-9_])")
_CODES = re.compile(
    r"(?:E[A-Z]*|ERR|UND_ERR|CERT|UNABLE|SELF|DEPTH|MODULE|NODE_MODULE|HTTP|STATUS|JSON|INVALID)_|.*_NOT_FOUND$"
)


def _variable(found: Found, about: About) -> list[str] | None:
    for name in VARIABLE.findall(found.string):
        if _CODES.match(name):
            continue
        passed = name in about.env_names
        return [about.give(name, "what it gets is nothing that it can use" if passed else "it is not given that one")]
    return None


_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|PAT$|AUTH|CREDENTIAL")


def _refused(found: Found, about: About) -> list[str]:
    if not about.command:
        return [f'headers = {{ Authorization = "Bearer $TOKEN" }} in {about.entry}    (with moltis env set TOKEN)']
    named = [name for name in VARIABLE.findall(found.string) if not _CODES.match(name)]
    name = next((n for n in [*named, *about.env_names] if _SECRET.search(n)), None)
    if name is None:
        return [f"give it a key that is valid, in env of {about.entry}    (the service behind it refuses its login)"]
    return [about.give(name, "the service behind it refuses its login: give it a valid one")]


def _key_wanted(found: Found, about: About) -> list[str]:
    why = "it wants a key"
    if not about.command:
        return _refused(found, about)
    name = next((name for name in about.env_names if _SECRET.search(name)), None)
    return [about.give(name, why) if name is not None else about.give("NAME", f"{why}; its page has the NAME for it")]


def _cluster(found: Found, about: About) -> list[str]:
    why = "it knows no cluster; `kubectl config get-contexts` lists those of a file"
    if "KUBECONFIG" in about.env_names:
        return [about.give("KUBECONFIG", why)]
    return [f'env = {{ KUBECONFIG = "~/.kube/config" }} in {about.entry}    ({why})']


def _usage(found: Found, about: About) -> list[str] | None:
    """Many say what is wrong and then how they are called, which is then not what is wrong."""
    wrong = about.first(r"(?i)^\W*(?:error|fatal)\b[^:]{0,40}:.*")
    if wrong is not None and not re.search(r"(?i)\barg|flag|option|command|parameter|positional|usage", wrong[0]):
        return None
    return [f"correct args in {about.entry}    (it does not accept them; its words say what it takes)"]


def _arguments(found: Found, about: About) -> list[str]:
    option = re.search(r"(--?[A-Za-z][\w-]*)", found.string[found.start() :])
    if option is not None:
        return [f'remove "{option[1]}" from args in {about.entry}    (it knows no such option)']
    return [f"correct args in {about.entry}    (it does not accept them; its words say what it takes)"]


def _serves_http(found: Found, about: About) -> list[str] | None:
    if about.kind != FailureKind.STARTUP_TIMEOUT:
        return None
    return [
        f'add "--stdio" to args in {about.entry}, as the last    (it serves HTTP; perhaps "--transport", "stdio")',
        f'url = "http://..." in {about.entry}, in place of command and args    (if it is to serve HTTP)',
    ]


def _node_version(found: Found, about: About) -> list[str]:
    wants = re.search(r"(?:required: |>=? ?|v|Node(?:\.js)? )v?(\d{2})\b", found.string)
    version = wants[1] if wants and "required" in found.string else "22"
    return [f"node --version    (too old: install Node.js {version} or newer, and write that one's path as command)"]


# --- the network


NETWORK = re.compile(
    r"EAI_AGAIN|ENOTFOUND|ENETUNREACH|EHOSTUNREACH|ENETDOWN|ERR_INTERNET_DISCONNECTED"
    r"|(?:[Tt]emporary failure in name|failure in name) resolution|Name or service not known|nodename nor servname"
    r"|dns error|failed to lookup address|no such host|[Nn]etwork is (?:unreachable|down)|[Nn]o route to host"
    r"|[Cc]ould not resolve (?:host|proxy)|name cannot be resolved|there is no route to it|network is down"
    r"|npm (?:error|ERR!) (?:code|errno) (?:ECONN\w+|ETIMEDOUT|ERR_SOCKET_TIMEOUT|EIDLETIMEOUT)"
    r"|error sending request for url|[Ff]ailed to fetch: [`'\"]https?:|TypeError: fetch failed|\bfetch failed\b"
)


def _network(found: Found, about: About) -> list[str]:
    if not about.command and about.kind:
        return [
            "ping -c 1 1.1.1.1    (is there a network? then correct `url`; without one: it is tried again each minute)"
        ]
    return [
        "ping -c 1 1.1.1.1    (it does not get to the network; it is tried again each minute, and goes on by itself)",
        f'env = {{ HTTPS_PROXY = "${{env:HTTPS_PROXY}}" }} in {about.entry}    (where the way out is a proxy)',
    ]


def _backend(found: Found, about: About) -> list[str]:
    where = re.search(r"ECONNREFUSED (\S+)|\b((?:\d{1,3}\.){3}\d{1,3}:\d+)|(localhost:\d+)|port (\d+)", found.string)
    place = next((g for g in where.groups() if g), None) if where is not None else None
    what = f"what listens at {place}" if place and re.fullmatch(r"[\w.:\[\]-]+", place) else "the service behind it"
    return [f"start {what}, or correct its address in {about.entry}    (nothing answers there: connection refused)"]


def _says(*lines: str) -> Advice:
    return lambda found, about: [line.format(entry=about.entry, command=about.command or "COMMAND") for line in lines]


def _cause(pattern: str, advice: Advice, *, way: Way = Way.NONE, flags: int = 0) -> Cause:
    return Cause(pattern, advice, way, flags)


CAUSES = (
    _cause(r"Ok to proceed\?|npx canceled due to missing|Need to install the following packages", _answer_npx),
    _cause(r"npm (?:error|ERR!) canceled", _answer_npx),
    _cause(
        r"Corepack is about to download",
        _says(
            'env = {{ COREPACK_ENABLE_DOWNLOAD_PROMPT = "0" }} in {entry}    (it asks before it downloads, and nobody '
            "answers)"
        ),
    ),
    _cause(
        r"(?:NotCapable|PermissionDenied): Requires (\w+) access",
        lambda found, about: [
            f'add "--allow-{found[1]}" to args in {about.entry}, right after "run"    (deno lets it have nothing '
            "by itself)"
        ],
    ),
    # uvx and docker say best what they want
    _cause(r"An executable named [`'\"]([\w.-]+)[`'\"] is not provided by package [`'\"]([\w.-]+)[`'\"]", _uv_program),
    _cause(
        r"(?:does not satisfy|requires?(?:-| a different )?) ?Python ?[<>=!~]|requires a different Python",
        _python_version,
    ),
    _cause(r"Failed to build[: ]|[Ff]ailed (?:building|to build) wheel|Failed to build installable wheels", _not_built),
    _cause(
        r"'Server' object has no attribute '(?:list|call|get|read|set|subscribe|complet|progress)"
        r"|cannot import name '\w+' from '?mcp\b|No module named '?mcp\.",
        _older_mcp,
    ),
    _cause(
        r"permission denied while trying to connect to the [Dd]ocker|docker\.sock: connect: permission denied",
        _says(
            'sudo usermod -aG docker "$USER"    (then log in anew, and start the daemon again: your user may not use '
            "docker)"
        ),
    ),
    _cause(
        r"Cannot connect to the Docker daemon|docker daemon is not running|failed to connect to the docker API",
        _says("sudo systemctl start docker    (docker's own daemon does not run; Docker Desktop: start it)"),
    ),
    _cause(r"container name \"?/?([\w.-]+)\"? is already in use", _docker_name),
    _cause(
        r"the input device is not a TTY|cannot enable tty mode",
        _says('replace "-it" by "-i" in args of {entry}    (there is no terminal: "-t" cannot be had)'),
    ),
    _cause(
        r"pull access denied for ([\w./:@-]+?),|Unable to find image '([\w./:@-]+)'",
        lambda found, about: (
            [
                f"docker pull {found[1] or found[2]}    (there is no such image: correct its name in "
                "args, or docker login)"
            ]
            if about.first("denied|not found|unknown|does not exist")
            else None
        ),
    ),
    _cause(
        r"exec format error|[Ee]xec format error|Bad CPU type",
        _says(
            'file "$(command -v {command})"    (built for another processor; docker: add "--platform", "linux/amd64")'
        ),
    ),
    # npx's copy, npm
    _cause(
        r"ENOTEMPTY|EEXIST|EINTEGRITY|ENOENT|ENOTDIR|MODULE_NOT_FOUND|Cannot find (?:module|package)"
        r"|NODE_MODULE_VERSION"
        r"|ERR_(?:INVALID_PACKAGE|PACKAGE_PATH)|Unexpected end of JSON|invalid ELF|wrong ELF|ERR_DLOPEN",
        _install_anew,
    ),
    _cause(
        r"\bE404\b|is not in (?:this|the npm) registry|No matching distribution|not found in the package registry",
        _no_such_package,
    ),
    _cause(
        r"No matching version found for (@?[\w./-]+)@|there is no version of ([\w.-]+)==",
        lambda found, about: [
            f'correct the version of "{found[1] or found[2]}" in args of {about.entry}'
            "    (there is none of that number)"
        ],
    ),
    _cause(r"npm (?:error|ERR!) code E(?:401|403|NEEDAUTH)\b", _npm_login),
    _cause(r"cache folder contains root-owned files", _own_npm_cache),
    _cause(r"could not determine executable to run", _npm_program),
    _cause(
        r"EBADENGINE|Unsupported engine|node: bad option|\b(?:fetch|File|WebSocket|ReadableStream|CustomEvent) is "
        r"not defined|does not provide an export named|withResolvers is not a function"
        r"|requires? Node|Node\.js (?:v?\d\S* )?(?:or \w+ )?(?:is )?required",
        _node_version,
        flags=re.IGNORECASE,
    ),
    _cause(
        r"SyntaxError: (?:Unexpected (?:token|identifier|reserved)|Invalid (?:or unexpected|regular))(?!.*JSON)",
        _node_version,
    ),
    # what must be there
    _cause(r"can't open file '([^']+)'", _no_such_script),
    _cause(r"Cannot find (?:module|package) '([^'\n]+)'", _node_module),
    _cause(r"No module named '?([A-Za-z_][\w.]*)", _python_module),
    _cause(r"spawn ([\w@./+-]+) ENOENT|No such file or directory: '([\w.+-]+)'$", _no_such_program),
    _cause(r"env: [‘'\"]?([\w.+-]+)[’'\"]?: No such file", _no_such_program),
    _cause(
        r"^(?:\S*/)?(?:ba|da|z|a|k)?sh: (?:line )?(?:\d+: )?(?:exec: )?([^\s:]+): (?:command )?not found",
        _no_such_program,
    ),
    _cause(
        r"Executable doesn't exist at|playwright install|Could not find Chrom|browser .{0,30}is not (?:found|install)",
        _says("npx playwright install chromium    (its browser is not installed)"),
        flags=re.IGNORECASE,
    ),
    _cause(
        r"Missing X server|\$DISPLAY|cannot open display|no display",
        _says('add "--headless" to args in {entry}, as the last    (there is no screen for its window)'),
        flags=re.IGNORECASE,
    ),
    _cause(
        r"error while loading shared libraries: ([\w.+-]+)",
        lambda found, about: [
            f"apt-file search {found[1]}    (a library that it needs is not installed: install the package that has it)"
        ],
    ),
    _cause(
        r"version [`'\"]?(GLIBC(?:XX)?_[\d.]+)[`'\"]? not found",
        _says("ldd --version    (this system is too old for its program: another build of it, or its docker image)"),
    ),
    # what it holds, or has run out of
    _cause(
        r"EADDRINUSE|[Aa]ddress (?:is )?already in use|[Pp]ort \d+ is (?:already )?in use|port is already "
        r"allocated",
        _port,
    ),
    _cause(
        r"file watchers|inotify",
        _says("sudo sysctl fs.inotify.max_user_watches=524288    (it watches more files than the system allows)"),
    ),
    _cause(r"ENOSPC|No space left", _says("df -h    (the disk is full: make room)")),
    _cause(r"EMFILE|Too many open files", _says("ulimit -n    (it has more files open than it may: raise it)")),
    _cause(r"heap out of memory|Reached heap limit", _memory),
    _cause(
        r"already (?:in use by|running|locked|open by)|is locked\b|locked by|SingletonLock"
        r"|[Aa]nother (?:instance|process|copy)",
        _second_copy,
    ),
    # what it was given
    _cause(
        r"ca_file names a private CA",
        _says('ca_file = "/etc/ssl/YOUR_CA.pem" in {entry}    (the certificate of your own CA, in PEM)'),
    ),
    _cause(
        r"SELF_SIGNED_CERT|UNABLE_TO_(?:GET_ISSUER|VERIFY_LEAF)|DEPTH_ZERO_SELF|UnknownIssuer|CERTIFICATE_VERIFY_FAILED"
        r"|self[- ]signed certificate|unable to get (?:local )?issuer|certificate (?:is not trusted|signed by unknown)",
        _certificate,
        way=Way.TRUST,
    ),
    _cause(
        r"no current-context is set|no contexts are defined|no configuration has been provided, try setting KUBERNETES_"
        r"|unable to load in-cluster configuration"
        r"|\bkubeconfig\b.{0,80}(?:no such file|not found|does not exist|not set)",
        _cluster,
        flags=re.IGNORECASE,
    ),
    _cause(
        r"required|missing|not set|must be set|undefined|not defined|not found|please (?:set|provide)|provide|no value"
        r"|is empty",
        _variable,
        flags=re.IGNORECASE,
    ),
    _cause(
        r"\b(?:api|access|auth|bearer|personal)[ _-]?(?:access[ _-])?(?:key|token|secret)s?\b.{0,40}"
        r"\b(?:required|missing|not (?:set|provided|found|configured|specified|given))"
        r"|\b(?:no|missing|required?s?|provide|specify|set) (?:an? |your |the )?(?:\w+ )?"
        r"(?:api|access)[ _-]?(?:key|token)\b",
        _key_wanted,
        flags=re.IGNORECASE,
    ),
    # the network
    _cause(NETWORK.pattern, _network, way=Way.NETWORK, flags=NETWORK.flags),
    _cause(r"ECONNREFUSED|[Cc]onnection refused", _backend),
    _cause(
        r"invalid_auth|[Bb]ad credentials|\b401\b.{0,20}[Uu]nauthori[sz]ed|[Uu]nauthori[sz]ed|[Ii]nvalid (?:api[ _]?)?"
        r"(?:key|token|credentials)|[Aa]uthentication failed|(?:status|code|HTTP) 40[13]\b|[Tt]oken (?:has )?expired",
        _refused,
    ),
    # likely, at least
    _cause(
        r"(?:stdin|standard input|stdout|input device) is not a (?:terminal|tty)\b"
        r"|\b(?:requires|needs) an? (?:terminal|tty)",
        _says(
            "correct args in {entry}    (what they start is for a person at a terminal: its MCP server may be another "
            'command of it, such as "mcp")'
        ),
        flags=re.IGNORECASE,
    ),
    _cause(
        r"[Uu]n(?:recognized|known) (?:argument|option|flag)|no such option|invalid choice|unexpected argument|flag "
        r"provided but not defined",
        _arguments,
        flags=re.IGNORECASE,
    ),
    _cause(r"EACCES|EPERM|[Pp]ermission denied|[Oo]peration not permitted", _may_not),
    _cause(r"ENOENT|[Nn]o such file or directory|does not exist|[Ee]rror accessing", _no_such_path),
    _cause(
        r"[Nn]o config(?:uration)? file|config(?:uration)? file .{0,60}(?:not found|missing)",
        _says("give it its configuration file, in args or by cwd in {entry}    (it finds none)"),
    ),
    _cause(
        r"^\s*usage:",
        _usage,
        flags=re.IGNORECASE,
    ),
    _cause(r"SyntaxError", _says("{command} --version    (perhaps too old for it)")),
    _cause(
        r"(?:listening|running|serving|started|available|server).{0,60}(?:https?://|port \d|:\d{4})|Uvicorn running",
        _serves_http,
        flags=re.IGNORECASE,
    ),
)
"""What is recognised, first what has to be mended first."""
