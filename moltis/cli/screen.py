"""Where output goes: data on stdout, talk on stderr, and neither able to upset a terminal.

Knows nothing of servers. Text that came from elsewhere passes `printable` before a person sees it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from moltis.printable import indented, json_text, one_line, printable

__all__ = [
    "ReaderLeft",
    "coloured",
    "data",
    "data_bytes",
    "data_json",
    "flush",
    "indented",
    "one_line",
    "prepare",
    "printable",
    "talk",
    "width",
]


class ReaderLeft(Exception):
    """Whoever read the output has closed it. Not an OSError, which click would end the process for by itself."""


def prepare() -> None:
    """Make both streams unable to fail on a character that the locale cannot write."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def data(text: str = "") -> None:
    """Write one line, or several, to stdout."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        raise ReaderLeft from None


def flush() -> None:
    """Hand on what stdout still holds."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderLeft from None


def data_bytes(raw: bytes) -> None:
    """Write JSON and a newline to stdout exactly as it came; to a terminal with what cannot be seen escaped."""
    flush()
    if sys.stdout.isatty():
        data(json_text(raw.decode("utf-8", "replace")))
        return
    try:
        sys.stdout.buffer.write(raw + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise ReaderLeft from None


def data_json(value: Any) -> None:
    """Write one JSON document: indented for a person, on one line for a program."""
    indent = 2 if sys.stdout.isatty() else None
    data(json_text(json.dumps(value, ensure_ascii=False, indent=indent)))


def talk(text: str) -> None:
    """Write one line to stderr, after what stdout already holds."""
    flush()
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        raise ReaderLeft from None


def coloured(stream: TextIO | None = None) -> bool:
    """Say whether colour is wanted: NO_COLOR (no-color.org) wins, then FORCE_COLOR, then whether it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"


def width() -> int | None:
    """Return the columns to fit into: COLUMNS, or the terminal's; None means that nothing may be cut."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    if not sys.stdout.isatty():
        return None
    import shutil  # with its archives and their compressions, 3 ms

    return shutil.get_terminal_size().columns
