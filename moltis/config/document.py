"""From a file to its tables: read, scanned, parsed. Says what is wrong with the file as a file, and with its TOML.

Knows nothing of keys. The parser never sees a text that the scan refused or did not understand.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from moltis.config import foreign
from moltis.config.scan import MAX_BYTES, Scan, TooMuch, scan
from moltis.errors import ConfigError
from moltis.private import Unusable, open_file

_STATEMENT = "a line is `key = value`, a [section] or a # comment"
_BACKSLASH = "a lone backslash in a string: write \\\\, or use 'single quotes'"
_MAX_LINE = 4096
_MEANINGS = {
    "Invalid statement": f"not TOML: {_STATEMENT}",
    "Invalid initial character for a key part": f"not TOML: {_STATEMENT}; a key with other signs needs quotes",
    "Expected '=' after a key": f"'=' is missing: {_STATEMENT}; a key with other signs needs quotes",
    "Expected newline or end of document": "something follows the value: one `key = value` a line, and text in quotes",
    "Expected ']": "']' is missing at the end of the [section]",
    "Invalid value": 'not a value: text needs quotes, as in key = "text"',
    "Cannot overwrite a value": "this key is there twice: keep one",
    "Duplicate inline table key": "this key is there twice: keep one",
    "Cannot declare": "this section is there twice: make them one",
    "Cannot mutate": "this adds to a table that is already complete: write it in one place",
    "Cannot redefine": "this adds to a table that is already complete: write it in one place",
    "Unclosed array": "the array has no end: ']' or ',' is missing",
    "Unclosed inline table": "the inline table has no end: '}' or ',' is missing",
    'Expected "': "the string has no end: a closing quote is missing",
    "Unterminated string": "the string has no end: a closing quote is missing",
    "Illegal character '\\n'": "the string has no end on its line: a closing quote is missing",
    "Illegal character": "a control character: write it as an escape, such as \\u0007",
    "Found invalid character": "a control character: remove it",
    "Unescaped '\\' in a string": _BACKSLASH,
    "Invalid hex value": _BACKSLASH,
}
"""What the parser's words mean to a person, and what to do; the first that fits. They never quote the file."""


class NoFile(ConfigError):
    """There is no such file."""


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """A TOML text that was understood."""

    text: str
    tables: dict[str, Any]
    scan: Scan


@dataclass(frozen=True, slots=True, repr=False)
class FileText:
    """A file's text as it is on disk, but for a byte order mark; `mode` is its permission bits."""

    text: str
    raw: bytes
    mode: int


def read_file(path: Path) -> FileText:
    """Read a configuration file.

    Raises:
        NoFile: when it is missing.
        ConfigError: when it is no regular file, unreadable, too large, or not UTF-8.
    """
    try:
        with open(open_file(path, os.O_RDONLY, follows=True), "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NoFile(f"no configuration at {path}; create one with `moltis init`", hint="moltis init") from None
    except Unusable as fault:
        raise ConfigError(f"{path} {fault}; name the file itself with --config") from None
    except OSError as error:  # not permitted, a bad disk, a file system of a network or a program that is away
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: the file is larger than {MAX_BYTES} bytes")
    return FileText(decoded(raw, path), raw, mode)


def decoded(raw: bytes, path: Path) -> str:
    """Return a file's text, less a byte order mark.

    Raises:
        ConfigError: it is not UTF-8; with its line.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None


def parse(text: str, source: str, *, has_servers: bool = True) -> Document:
    """Parse TOML 1.1; `source` names the text in messages.

    has_servers: whether servers stand in it, so that what looks like another host's file is told as that.

    Raises:
        ConfigError: with source, line and column, and what to write instead. It never quotes the text.
    """
    try:
        found = scan(text)
    except TooMuch as error:
        raise ConfigError(f"{source}:{error.line}: {error.message}", hint="split the file or shorten it") from None
    understood = text if found.stopped_at is None else text[: found.stopped_at]
    try:
        tables = tomli.loads(understood)
    except tomli.TOMLDecodeError as error:
        # `from None`: the cause holds the whole text, secrets and all.
        raise _syntax_error(error, source, text, has_servers=has_servers) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{source}: a value is out of range") from None
    if found.stopped_at is not None:
        line = text.count("\n", 0, found.stopped_at) + 1
        raise ConfigError(f"{source}:{line}: not TOML")
    return Document(text, tables, found)


def _syntax_error(error: tomli.TOMLDecodeError, source: str, text: str, *, has_servers: bool) -> ConfigError:
    meaning = None
    if has_servers:
        meaning = foreign.of_json(text) or foreign.of_line(_line(text, error.lineno), error.colno)
    if meaning is None:
        meaning = next((m for start, m in _MEANINGS.items() if error.msg.startswith(start)), f"not TOML: {error.msg}")
    return ConfigError(f"{source}:{error.lineno}:{error.colno}: {meaning}")


def _line(text: str, number: int) -> str:
    """Return a line of a text, from 1, as far as anyone reads one."""
    start = 0
    for _ in range(number - 1):
        start = text.find("\n", start) + 1
    return text[start : start + _MAX_LINE].partition("\n")[0]
