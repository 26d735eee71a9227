"""What is wrong with a configuration, and where. Never holds a value: any value may be a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from moltis.config.scan import Path, Scan
from moltis.names import did_you_mean

_BARE = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `key` is dotted, "" for the file itself; `line` is from 1, None when there is no text."""

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
    """Give a key path as TOML writes it, with `[n]` for elements of an array."""
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

    def __init__(self, file: str, scan: Scan | None = None) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._scan = scan

    def line(self, path: Path) -> int | None:
        return self._scan.line_of(path) if self._scan else None

    def error(self, path: Path, message: str) -> None:
        self.problems.append(Problem("error", self.file, self.line(path), dotted(path), message))

    def warning(self, path: Path, message: str, *, fails_check: bool = False) -> None:
        self.problems.append(Problem("warning", self.file, self.line(path), dotted(path), message, fails_check))

    def unknown_key(self, path: Path, known: Iterable[str], message: str | None = None) -> None:
        """Take note of a key that is not ours; without a `message`, the nearest of the known ones is named."""
        message = message or f"unknown key{did_you_mean(str(path[-1]), known)}"
        self.warning(path, message, fails_check=True)
