"""What people write who know another host's files, or a shell: near misses of this syntax, and the line to write.

Pure. Most of it would be taken literally and without a word, and fail far from here. A message has the names of
programs, options, variables and placeholders, and never a value: any value may be a secret. Where it says "write X",
`moltis why` gives X as what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from moltis.config.credentials import named_secret
from moltis.config.scan import Path
from moltis.redaction import Bare, Template


class Miss(msgspec.Struct, frozen=True):
    """One near miss. `is_sure`: it can mean nothing else, and `moltis config check` fails on it."""

    key: Path
    message: str
    is_sure: bool = False


# Placeholders --------------------------------------------------------------------------------------------------------

_PREFIXED: Final = re.compile(r"\{?\s*(?P<prefix>[A-Za-z_.]+)\s*[:.]\s*(?P<name>[A-Za-z_][\w.-]{0,63})\s*")
_FILE: Final = re.compile(r"\s*file:")
_OF_ENVIRONMENT: Final = frozenset({"env", "localenv", "containerenv", "process.env", "environment"})
_OF_A_SHELL: Final = re.compile(r"(?P<name>[A-Za-z_]\w{0,63})(?::?[?=+]|-|[#%/^,@])")
_PADDED: Final = re.compile(r"\{?\s*(?P<name>[A-Za-z_][\w.-]{0,63})\s*")
_EDITORS: Final = re.compile(r"workspace[A-Z]\w*|userHome|cwd|pathSeparator|file[A-Z]\w*|selectedText|CLAUDE_\w+")
"""Variables that VS Code, Cursor and Claude Code fill in by themselves."""


def in_braces(inner: str) -> str | None:
    """Say what stands in a `${…}` that is none of our placeholders, and what to write; None where that is unknown.

    inner: what follows the `${`, up to the next `}` if there is one.
    """
    if _FILE.match(inner):
        return "a '${file:…}' is not known here: write $NAME, and keep the text of the file with `moltis env set NAME`"
    if found := _PREFIXED.fullmatch(inner):
        name = _variable(found["name"])
        if found["prefix"].lower() in _OF_ENVIRONMENT:
            return f"a variable of the daemon's environment has another form here: write ${{env:{name}}}"
        return f"a '${{{found['prefix'][:20]}…}}' is not known here: {_kept(name)}"
    if found := _OF_A_SHELL.match(inner):
        return f"of the shell's forms only one is known here: write ${{{found['name']}:-default}}"
    if found := _PADDED.fullmatch(inner):
        return f"a placeholder has no blanks, and no signs but '_': {_kept(_variable(found['name']))}"
    return None


def unresolved(name: str, template: Template, key: Path, environ: Mapping[str, str]) -> str:
    """Say what to write for a placeholder that has no value."""
    if name.startswith("env:"):
        own = name.removeprefix("env:")
        return f"${{{name}}} resolves to nothing: the daemon's environment has no {own}"
    if name.startswith("project:"):
        return f"${{{name}}} has no value here: this server is shared by all projects, or its own project has no path"
    asked = f"set it in [env], or with `moltis env set {name}`"
    if name == "env" and "$env:" in template.text:
        return "$env resolves to nothing: a variable of the daemon's environment has another form: write ${env:NAME}"
    if _EDITORS.fullmatch(name):
        instead = "~" if name == "userHome" else "the folder itself, or ~ for yours"
        return f"${name} resolves to nothing, for only an editor knows it: write {instead}"
    if any(bare.name == name and _is_glued(bare) for bare in template.bare()) and _is_secret(key):
        return f"${name} resolves to nothing: if the '$' is part of the value, write $$ for it; else {asked}"
    if key[0] == "args" and len(template.text.split()) > 1:
        for_shell = f"$${{{name}}}" if f"${{{name}}}" in template.text else f"$${name}"
        return f"${name} resolves to nothing: if a shell is to fill it in, write {for_shell}; else {asked}"
    if environ.get(name, "").strip():
        return (
            f"${name} resolves to nothing: if the daemon's own variable is meant, write ${{env:{name}}}; else {asked}"
        )
    return f"${name} resolves to nothing: {asked}"


def _kept(name: str) -> str:
    return f"write ${name}, and keep its value with `moltis env set {name}`"


def _variable(name: str) -> str:
    """Return the name of a variable as one writes it: `apiKey`, `api-key` -> `API_KEY`."""
    return re.sub(r"\W+|(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


# Any value -----------------------------------------------------------------------------------------------------------

_STRAIGHT: Final = "\"'`"
_CURLY: Final = "“”„‟‘’‚«»＂"
_FOREIGN: Final = (
    (re.compile(r"(?<!\$)\{env:([A-Za-z_]\w{0,63})\}"), "write ${{env:{0}}}"),
    (re.compile(r"(?<!\$)\{file:"), "write $NAME, and keep the text of the file with `moltis env set NAME`"),
    (
        re.compile(r"(?<!\$)\{\{\s*(?:[\w-]+\.)*([A-Za-z_][\w-]{0,63})\s*\}\}"),
        "write ${0}, and keep its value with `moltis env set {0}`",
    ),
    (re.compile(r"%([A-Z][A-Z0-9_]{2,63})%"), "write ${{env:{0}}}"),
    (re.compile(r"(?<!\$)\$\((?:env:)?([A-Za-z_]\w{0,63})\)"), "write ${{env:{0}}}, or ${0} with `moltis env set {0}`"),
    (re.compile(r"(?<!\$)\$\("), "write $NAME, and keep what the command prints with `moltis env set NAME`"),
)  # fmt: skip
"""Placeholders of opencode, Mustache, Windows, Kubernetes and shells, which are plain text here."""
_TEMPLATE: Final = re.compile(
    r"<[A-Za-z][^<>/=]{1,60}>|\[[A-Z][A-Z0-9_ ]{3,60}\]|(?:https?://)?your[-_ ].{1,80}|.{0,60}[-_](?:goes[-_])?here"
    r"|x{4,}|\*{4,}|…|\.{3}|change[-_]?me|replace[-_](?:me|this|with[-_].{1,60})",
    re.IGNORECASE,
)
_SEPARATORS: Final = frozenset(" \t\n/:=,;@&?|()[]{}<>\"'.-")


_PLACEHOLDER: Final = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^{}]{1,200}\})", re.ASCII)
_BLANKS: Final = "begins or ends with a blank or line break, which is part of the value: write it without"
_OF_AN_EXAMPLE: Final = "looks like the words of an example, which stand for a value: write the value itself"


def in_text(key: Path, template: Template, *, is_trimmed: bool = False) -> Iterator[Miss]:
    """Yield what is odd about one value as it is written. `is_trimmed`: blanks around it do not count."""
    text = template.text
    core = text.strip()
    if _is_padded(text) and not is_trimmed:
        yield Miss(key, _BLANKS)
    if _is_quoted(core):
        yield Miss(key, f"the quotes inside ({core[0]}) are part of the value: write it without them")
    for pattern, instead in _FOREIGN:
        m = pattern.search(text)
        if m:
            name = _variable(m[1]) if m.groups() else ""
            yield Miss(key, f"another program's placeholder, which is plain text here: {instead.format(name)}")
            break
    if _TEMPLATE.fullmatch(core):
        yield Miss(key, _OF_AN_EXAMPLE)
    if not _is_secret(key):
        return
    if "$$" in text:
        yield Miss(key, "'$$' stands for one '$': if the value has two, write $$$$")
    for bare in template.bare():
        if _is_glued(bare):
            told = f"${bare.name} in the middle of it is replaced by that placeholder's value"
            yield Miss(key, f"{told}: if the '$' is part of the value, write $$; if not, write ${{{bare.name}}}")


def in_values(values: Mapping[str, str]) -> Iterator[Miss]:
    """Yield what is odd about values of placeholders, which are taken as they stand: a `$` in them is a `$`."""
    for name, text in values.items():
        if _PLACEHOLDER.fullmatch(text.strip()):
            told = "a placeholder is not expanded in [env]: write it where the value is used"
            yield Miss(("env", name), told)
        elif _is_padded(text):
            yield Miss(("env", name), _BLANKS)
        elif _is_quoted(text) and "\n" not in text:
            yield Miss(("env", name), f"the quotes inside ({text[0]}) are part of the value: write it without them")
        elif _TEMPLATE.fullmatch(text) and text != "...":
            yield Miss(("env", name), _OF_AN_EXAMPLE)


def _is_padded(text: str) -> bool:
    """Whether a text of one line has blanks or a line break around it; one of several, a PEM key, may end with one."""
    core = text.strip()
    return core not in ("", text) and "\n" not in core


def _is_quoted(text: str) -> bool:
    """Whether a text has quotes of its own around it; curly ones come from a word processor, often one alone."""
    if len(text) < 2:
        return False
    return text[0] in _CURLY or text[-1] in _CURLY or (text[0] in _STRAIGHT and text[0] == text[-1])


def _is_glued(bare: Bare) -> bool:
    """Whether a `$NAME` follows a letter, digit or sign as one of a password would, rather than a separator."""
    return bare.before != "" and bare.before not in _SEPARATORS


def _is_secret(key: Path) -> bool:
    """Whether the value of a key is a credential by its name: of a variable, a header, a key of `oauth`."""
    return isinstance(key[-1], str) and named_secret(key[-1])


# Local servers -------------------------------------------------------------------------------------------------------

_LAUNCHERS: Final = frozenset({"npx", "bunx", "pnpx", "uvx", "pipx"})
_PROGRAMS: Final = _LAUNCHERS | {
    "node", "python", "python3", "uv", "docker", "podman", "deno", "bun", "npm", "pnpm", "yarn", "java", "ruby", "go",
    "dotnet", "cargo", "php", "perl", "ssh", "env", "nix", "wsl", "cmd",
}  # fmt: skip
_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "pwsh", "powershell"})
_SEVERAL: Final = re.compile(r"([A-Za-z][\w.-]*)\s+(--?[A-Za-z][\w-]*)(?=\s|=|$)")
"""A first argument that is a word with its options, as `run -i --rm`."""
_OPTION: Final = re.compile(r"(--?[A-Za-z][\w-]*)\s+\S")
_DASH: Final = re.compile(r"[‐‑‒–—―−](?=[-‐‑‒–—―−]*[A-Za-z])")
_ARGUMENT_FIRST: Final = ("-", "/", "~", "./", "../", "$", "@", "http:", "https:", '"', "'")
_OF_SCRIPT: Final = frozenset({"-c", "-lc", "-ic", "-e", "--call", "--eval", "-Command", "--from", "--with"})


def in_launch(command: str, args: Sequence[Template], env: Mapping[str, Template]) -> Iterator[Miss]:
    """Yield what is odd about how a local server is started."""
    yield from _in_command(command)
    program = _program(command)
    if args and args[0].text == command:
        yield Miss(("args", 0), f"the program is named in command already: write args without {program[:40]!r}", True)
    for n, argument in enumerate(args):
        key, text = ("args", n), argument.text
        if n and args[n - 1].text in _OF_SCRIPT:
            continue  # a script, or a requirement, which have blanks and signs of their own
        if _is_garbled(text):
            yield Miss(key, f"{_GARBLED}: write each twice, or the whole in 'single quotes'")
        elif dash := _DASH.match(text):
            yield Miss(key, f"begins with a dash of a word processor ({dash[0]}): write it with - or --")
        elif option := _OPTION.match(text):
            yield Miss(key, f'an option and its value are two arguments: write "{option[1][:40]}", "…"')
        elif program in _LAUNCHERS and re.match(r"\S+\s+\S", text) and all(a.text[:1] == "-" for a in args[:n]):
            yield Miss(key, 'the package and its arguments are one each: write "PACKAGE", "ARGUMENT"')
        elif not n and program in _PROGRAMS and (words := _SEVERAL.match(text)):
            yield Miss(key, f'its words are an argument each: write "{words[1][:40]}", "{words[2][:40]}", …')
        elif program not in _SHELLS:
            yield from in_text(key, argument)
    for name, value in env.items():
        if _is_garbled(value.text):
            yield Miss(("env", name), f"{_GARBLED}: write each twice, or the whole in 'single quotes'")
        yield from in_text(("env", name), value)


def _program(command: str) -> str:
    return command.rpartition("/")[2]


_DRIVE: Final = re.compile(r"([A-Za-z]):[\\/\t\n\r\b\f\x1b]")
_ESCAPED: Final = str.maketrans({"\t": r"\t", "\n": r"\n", "\r": r"\r", "\b": r"\b", "\f": r"\f", "\x1b": r"\e"})
"""What a lone backslash and a letter became that mean another sign in a TOML string."""
_GARBLED: Final = "its backslashes became tabs or line breaks"
_EXTENSION: Final = re.compile(r"(.*\.(?:exe|cmd|bat|com|ps1))(?:\s+\S.*)?", re.IGNORECASE | re.DOTALL)


def _is_garbled(text: str) -> bool:
    return _DRIVE.match(text) is not None and text[2] not in "\\/"


def of_windows(command: str) -> str | None:
    """Return the keys to write for a command that is a path of Windows, as WSL has it; None for any other."""
    path = command.strip().translate(_ESCAPED)
    if not (drive := _DRIVE.match(path)):
        return None
    program = _EXTENSION.fullmatch(path)
    here = "/mnt/" + drive[1].lower() + (program[1] if program else path)[2:].replace("\\", "/")
    quote = '"' if "'" in here else "'"
    args = " and args = […]" if program and program[1] != path else ""
    return f"command = {quote}{here[:200]}{quote}{args}"


def _in_command(command: str) -> Iterator[Miss]:
    if line := of_windows(command):
        told = _GARBLED if _is_garbled(command.strip()) else "is a path of Windows, which is none here"
        yield Miss(("command",), f"{told}: in WSL write {line}", True)
    elif _program(command).lower() in ("cmd", "cmd.exe"):
        yield Miss(("command",), "cmd is a program of Windows: write what follows its /c, as in npx", True)
    elif line := in_one_line(command):
        yield Miss(("command",), f"arguments go into args: write {line}", True)
    elif _is_quoted(command.strip()):
        yield Miss(("command",), "the quotes inside are part of the name: write it without them", True)
    elif command != command.strip():
        yield Miss(("command",), "begins or ends with a blank: write it without", True)


def in_one_line(command: str) -> str | None:
    """Return the keys to write for a command with its arguments in it; None for a name, which may have blanks too."""
    first, *more = command.split(maxsplit=1)[:2] or [""]
    rest = more[0].strip() if more else ""
    if not rest or ("/" in first and _program(first) not in _PROGRAMS and not rest.startswith(_ARGUMENT_FIRST)):
        return None
    option = re.match(r"--?[A-Za-z][\w-]*(?=\s|$)", rest)  # what is not an option may be a secret
    words = [f'"{option[0]}"', *(["…"] if option.end() < len(rest) else [])] if option else ["…"]
    return f'command = "{first[:80]}" and args = [{", ".join(words)}]'


# Headers -------------------------------------------------------------------------------------------------------------

_SCHEMES: Final = ("bearer", "basic", "token", "apikey")


def in_headers(headers: Iterable[tuple[str, str]]) -> Iterator[Miss]:
    """Yield what is odd about headers as they would be sent; placeholders have their values by now."""
    for name, value in headers:
        words = value.split()
        if named_secret(name) and words and words[0].lower().rstrip(":=") in _SCHEMES:
            yield from _in_credentials(("headers", name), words)
        elif words and words[0].lower() == f"{name.lower()}:":
            yield Miss(("headers", name), f"has the header's name in its value: write only what follows '{name[:40]}:'")


def _in_credentials(key: Path, words: Sequence[str]) -> Iterator[Miss]:
    scheme = words[0]
    if len(words) == 1 and scheme.lower().rstrip(":=") in ("bearer", "basic"):
        yield Miss(key, f"has no credential after {scheme!r}: write {scheme} $TOKEN, and `moltis env set TOKEN`")
    elif scheme.endswith((":", "=")):
        yield Miss(key, f"no sign follows the scheme: write {scheme.rstrip(':=')} and a blank before the credential")
    elif words[1:2] and words[1].lower() == scheme.lower():
        told = f"has {scheme!r} twice"
        yield Miss(key, f"{told}: write it once, in the header or in the value of the placeholder")
    elif words[1:2] and _is_quoted(words[1]):
        yield Miss(key, "the quotes inside are part of the credential: write it without them")
