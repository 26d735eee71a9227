"""env.toml: the values of placeholders that `moltis env set` keeps, beside moltis.toml and out of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from moltis.config.document import NoFile, parse, read_file
from moltis.config.files import one_writer, replace
from moltis.errors import ConfigError
from moltis.redaction import is_env_name

_MODE = 0o600
_SHOWN_CHARS = 40


class EnvOverrides:
    """The store at `path`; a missing file is an empty store. Every call reads the file afresh.

    Writing blocks: on the disk, and up to 5 s on another writer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Give the names that have a value, sorted.

        Raises:
            ConfigError: when the file cannot be read or is not ours.
        """
        return sorted(self.values())

    def values(self) -> dict[str, str]:
        """Give the values by name: all of them secrets.

        Raises:
            ConfigError: when the file cannot be read or is not ours.
        """
        try:
            file = read_file(self._path, instead="it has to be a file: move this away")
        except NoFile:
            return {}
        if file.mode & ~_MODE:
            # Somebody opened it to others, or made it by hand: close it.
            with suppress(OSError):
                os.chmod(self._path, _MODE)
        edit = f'edit {self._path}: each line is NAME = "value"'
        try:
            tables = parse(file.text, str(self._path), has_servers=False).tables
        except ConfigError as error:
            raise ConfigError(error.message, hint=edit) from None
        wrong = [name for name, value in tables.items() if not isinstance(value, str)]
        if wrong:
            named = ", ".join(_shown_name(name) for name in wrong[:3])
            raise ConfigError(f"{self._path}: every value must be text in quotes, unlike {named}", hint=edit)
        return tables

    def set(self, name: str, value: str) -> None:
        """Keep a value.

        Raises:
            ConfigError: when no placeholder can have this name, the value is blank or has a NUL, or writing fails.
        """
        if not is_env_name(name):
            raise ConfigError("a name is made of A-Z a-z 0-9 _ and does not begin with a digit")
        if not value.strip():
            raise ConfigError(f"the value of {name} is blank", hint=f"moltis env unset {name} forgets it")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise ConfigError(f"the value of {name} must be text, with no NUL in it")
        self._change(lambda values: values.__setitem__(name, value))

    def unset(self, name: str) -> bool:
        """Forget a value; say whether there was one.

        Raises:
            ConfigError: when the file cannot be read or written.
        """
        had: list[str | None] = []
        self._change(lambda values: had.append(values.pop(name, None)))
        return had != [None]

    def _change(self, change: Callable[[dict[str, str]], None]) -> None:
        import tomli_w  # only writing needs it

        with one_writer(self._path) as target:
            values = self.values()
            before = dict(values)
            change(values)
            if values != before:
                text = tomli_w.dumps(dict(sorted(values.items())))
                replace(target, text.encode(), lambda path: EnvOverrides(path).values(), _MODE)


def _shown_name(name: str) -> str:
    """Give a key as it may be shown: who edits by hand may have put anything there."""
    return name[:_SHOWN_CHARS] if is_env_name(name) else "one that is no name"
