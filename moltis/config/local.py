"""Local servers: a command, its arguments and its environment, as written and as run.

Pure but for `~user`, which asks the password database.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Container, Iterator
from typing import Final

from moltis.config import credentials, near_misses
from moltis.config.expansion import Base, Expansion, Planner, size_in_words
from moltis.config.model import ServerSection
from moltis.config.plan import Launch, Shown, StdioLaunch
from moltis.config.problem import Report, dotted
from moltis.config.scan import Path
from moltis.config.sensitive import literal_secrets, program_secrets
from moltis.config.surroundings import withheld
from moltis.redaction import REDACTED, Malformed, Template, utf8_bytes

MAX_STRING_BYTES: Final = 128 * 1024
"""Of one argument or `NAME=value`, the NUL at its end included: MAX_ARG_STRLEN of execve(2)."""
MAX_LAUNCH_BYTES: Final = 2 * 1024 * 1024
"""Of all arguments and the environment, a pointer to each included: a quarter of the usual stack (execve(2))."""
MAX_PATH_BYTES: Final = 4096
"""Of a command or folder, the NUL included: PATH_MAX of path_resolution(7)."""
_POINTER_BYTES: Final = 8


def _passed(entry: ServerSection, expansion: Expansion) -> list[tuple[str, str]]:
    """Return what a server gets of the daemon's environment because `env_pass` says so; what `env` sets wins."""
    environ = expansion.base.environ
    names = expansion.base.env_pass if entry.env_pass is None else entry.env_pass
    passed = [(name, environ[name]) for name in dict.fromkeys(names) if name in environ and name not in entry.env]
    for name, value in passed:
        expansion.take(_in_memory(len(name) + 1 + utf8_bytes(value, MAX_LAUNCH_BYTES)), ("env_pass",))
    return passed


_TOO_LONG_PATH: Final = f"is longer than {MAX_PATH_BYTES} bytes, which no path can be"
_TOO_MANY_WORDS: Final = (
    f"is where arguments and environment get longer than {size_in_words(MAX_LAUNCH_BYTES)} together: no program can be "
    "started with so much; put it in a file"
)


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


def folder(path: str, base: Base) -> str:
    """Return a path as it is meant: `~` written out, and a relative one from the file's folder on."""
    path = _home(path, base)
    return os.path.normpath(os.path.join(base.folder, path)) if base.folder and not os.path.isabs(path) else path


def _source(template: Template, base: Base) -> str:
    """Say where the value of a variable comes from; as `Shown.env_sources`."""
    if len(template.names) != 1:
        return "moltis.toml"
    (name,) = template.names
    if name.startswith("project:"):
        return "moltis.toml"
    if name.startswith("env:"):
        return f"environment {name.removeprefix('env:')}"
    return f"[env] {name}" if base.env.get(name, "").strip() else f"env set {name}"


def _shown_command(command: str | None) -> str | None:
    """Return a command without the secrets that stand in it where arguments were written into it."""
    if command is not None:
        for secret in credentials.in_text(command):
            command = command.replace(secret, REDACTED)
    return command


_READABLE: Final = (
    "this looks like a secret, and every user of this machine can read it: if the program takes it from a variable, "
    '`moltis env set NAME` and env = { NAME = "$NAME" } keep it out of sight'
)


def _has_placeholder(text: str) -> bool:
    try:
        return bool(Template(text).names)
    except Malformed:
        return True


class _Local(Planner):
    most = MAX_LAUNCH_BYTES
    too_much = _TOO_MANY_WORDS

    def launch(self, entry: ServerSection, expansion: Expansion) -> StdioLaunch:
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
            cwd=folder(cwd, expansion.base) if entry.cwd is not None else None,
        )

    def shown(self, entry: ServerSection, launch: Launch, base: Base) -> Shown:
        assert isinstance(launch, StdioLaunch)
        names = tuple(name for name, _ in launch.env)
        return Shown(
            command=_shown_command(entry.command),
            arg_count=len(entry.args),
            env_names=names,
            env_withheld=withheld(base.environ, names),
            env_sources=tuple((name, _source(entry.env[name], base)) for name in names if name in entry.env),
        )

    def written(self, entry: ServerSection) -> list[str | None]:
        return [
            entry.command,
            *(argument.text for argument in entry.args),
            None if entry.cwd is None else entry.cwd.text,
        ]

    def secrets(self, launch: Launch, used: set[str]) -> Iterator[str]:
        assert isinstance(launch, StdioLaunch)
        yield from used
        yield from program_secrets(launch)

    def warn(self, entry: ServerSection, path: Path, report: Report, named: Container[str]) -> None:
        for n, template in enumerate(entry.args):
            private = [name for name in template.names if not name.startswith("project:")]
            if private and dotted((*path, "args", n)) not in named:
                value = f"the value of ${private[0]}"
                told = f"{value} can be read by every user of this machine; use env instead"
                report.warning((*path, "args", n), told)
        for n in literal_secrets(entry.command, entry.args):
            report.warning((*path, "args", n) if n >= 0 else (*path, "command"), _READABLE)
        if _has_placeholder(entry.command or ""):
            told = "placeholders are not expanded in command; use args, env or cwd"
            report.warning((*path, "command"), told)

    def near_misses(self, entry: ServerSection, launch: Launch) -> Iterator[near_misses.Miss]:
        yield from near_misses.in_launch(entry.command or "", entry.args, entry.env)
        if entry.cwd is not None:
            yield from near_misses.in_text(("cwd",), entry.cwd)


PLANNER: Final = _Local()
