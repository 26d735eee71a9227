"""Where each value of a configuration comes from: a line of the file, a variable of the environment, or a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Literal

from moltis.config.document import parse, read_file
from moltis.config.environment import settings
from moltis.config.scan import Path, Scan


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from. `name`: the file, or the variable. `line`: from 1, in a file."""

    kind: Literal["default", "file", "environment"]
    name: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f":{self.line}" if self.line is not None else ""
        return f"{self.name}{place}" if self.name is not None else self.kind


_DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True, repr=False)
class Origins:
    """The origins of the values of one file and one environment."""

    file: str
    scan: Scan
    variables: Mapping[Path, str]

    def of(self, path: Path) -> Origin:
        """Return the origin of the value of a key; of a table, that of its first member, the environment's first."""
        for n in range(len(path), 0, -1):
            if variable := self.variables.get(path[:n]):
                return Origin("environment", variable)
        inner = next((name for key, name in self.variables.items() if key[: len(path)] == path), None)
        if inner is not None:
            return Origin("environment", inner)
        line = self.scan.lines.get(path)
        return Origin("file", self.file, line) if line is not None else _DEFAULT


def read_origins(path: FilePath, environ: Mapping[str, str]) -> Origins:
    """Look where the values of a file and an environment stand.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    document = parse(read_file(path).text, str(path))
    return Origins(str(path), document.scan, settings(environ, document.tables).variables)
