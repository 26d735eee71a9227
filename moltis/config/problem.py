"""What is wrong with a configuration, and where. Never holds a value: any value may be a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from moltis.config.scan import Path, Scan
from moltis.names import did_you_mean

ENVIRONMENT = "environment"
"""Stands for the file where a variable sets the key."""

_BARE = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Problem(msgspec.Struct, frozen=True):
    """One finding. `key` is dotted, "" for the file itself; `line` is from 1, None when there is no text.

    Of what a variable sets, `file` is "environment" and `key` begins with the variable.
    """

    severity: Literal["error", "warning"]
    file: str
    line: int | None
    key: str
    message: str
    fails_check: bool = True
    """Whether `moltis config check` fails on it: on every error, and on a warning about an unknown key."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


def dotted(path: Path) -> str:
    """Return a key path as TOML writes it, with `[n]` for elements of an array."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        shown = part if _BARE.fullmatch(part) else json.dumps(part[:80])
        text += f".{shown}" if text else shown
    return text


class Report:
    """Collects the problems of one file."""

    def __init__(self, file: str, scan: Scan | None = None, variables: Mapping[Path, str] | None = None) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._scan = scan
        self._variables = variables or {}

    def line(self, path: Path) -> int | None:
        return self._scan.line_of(path) if self._scan else None

    def error(self, path: Path, message: str) -> None:
        self._add("error", path, message, True)

    def warning(self, path: Path, message: str, *, fails_check: bool = False) -> None:
        self._add("warning", path, message, fails_check)

    def of_variable(self, variable: str, message: str) -> None:
        """Take note of a variable of the environment that sets nothing."""
        self.problems.append(Problem("warning", ENVIRONMENT, None, variable, message))

    def is_set_by_variable(self, path: Path) -> bool:
        return any(path[:n] in self._variables for n in range(1, len(path) + 1))

    def _add(self, severity: Literal["error", "warning"], path: Path, message: str, fails_check: bool) -> None:
        file, line, key = self.file, self.line(path), dotted(path)
        for n in range(len(path), 0, -1) if self._variables else ():
            if variable := self._variables.get(path[:n]):
                file, line = ENVIRONMENT, None
                key = variable + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[n:])
                break
        self.problems.append(Problem(severity, file, line, key, message, fails_check))

    def unknown_key(self, path: Path, known: Iterable[str], message: str | None = None) -> None:
        """Take note of a key that is not ours; without a `message`, the nearest of the known ones is named."""
        message = message or f"unknown key{did_you_mean(str(path[-1]), known)}"
        self.warning(path, message, fails_check=True)
