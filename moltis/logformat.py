"""What the log looks like from outside: its levels and the names of its files.

Standard library only, so that `moltis logs` need not load what the daemon writes the log with.
"""

from __future__ import annotations

from pathlib import Path

LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40}
"""The levels of a record, lowest first, with the numbers of the standard library's logging."""


def level_number(name: str) -> int:
    """Give the number of a level, by its name in any case; `warning` and `critical` are understood.

    Raises:
        ValueError: There is no such level.
    """
    word = {"warning": "warn", "critical": "error"}.get(name.lower(), name.lower())
    if word not in LEVELS:
        raise ValueError(f"log level {name!r} is none of {', '.join(LEVELS)}")
    return LEVELS[word]


def level_name(number: int) -> str:
    """Give the name of the highest level not above `number`."""
    return max((name for name in LEVELS if LEVELS[name] <= number), key=LEVELS.__getitem__, default="debug")


def backup_path(path: Path, number: int) -> Path:
    """Name the n-th backup of the log, 1 being the youngest: logs.jsonl.1."""
    return path.with_name(f"{path.name}.{number}")
