"""env.toml: the values of placeholders that `moltis env set` keeps, beside moltis.toml and out of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moltis.config.document import decoded, parse
from moltis.config.files import one_writer, read_own, replace
from moltis.config.scan import MAX_BYTES
from moltis.errors import ConfigError
from moltis.redaction import is_env_name

_SHOWN_CHARS = 40


class EnvOverrides:
    """The store at `path`; a missing file is an empty store. Every call reads the file afresh.

    Writing blocks: on the disk, and up to 5 s on another writer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Return the names that have a value, sorted.

        Raises:
            ConfigError: when the file cannot be read or is not ours.
        """
        return sorted(self.values())

    def values(self) -> dict[str, str]:
        """Return the values by name: all of them secrets.

        Raises:
            ConfigError: when the file cannot be read or is not ours.
        """
        raw = read_own(self._path, MAX_BYTES)
        if raw is None:
            return {}
        edit = f'edit {self._path}: each line is NAME = "value"'
        try:
            tables = parse(decoded(raw, self._path), str(self._path), has_servers=False).tables
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
                replace(target, text.encode(), lambda path: EnvOverrides(path).values())


def _shown_name(name: str) -> str:
    """Return a key as it may be shown: who edits by hand may have put anything there."""
    return name[:_SHOWN_CHARS] if is_env_name(name) else "one that is no name"
