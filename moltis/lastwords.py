"""What a program said on its terminal, for a person who wants to know why it ended: without colours, and the lines that
tell the cause before those that only stand after it.

Pure. A stack trace is where an error came from and not what it is: Node writes the message above it, Python below.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from moltis.patterns import later

_ESCAPES = later(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # ECMA-48: control sequences, colours among them
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # operating system commands: titles, links
    r"|[PX^_][^\x1b]*(?:\x1b\\)?"  # device control and other strings
    r"|[ -/]*[0-OQ-WYZ\\`-~])"
)

_FRAME = later(
    r"""\s+at\ \S                                           # Node, Java
      | \s+File\ ".*",\ line\ \d | Traceback\ \(most\ recent | \s*[~^]+\s*$ | \s*\|?\s*\+-+
      | (?:During\ handling\ of|The\ above\ exception\ was)\ the
      | \s+\.\.\.\ \d+\ more | \s*\.{3}\s*$
      | Stack\ backtrace:$ | goroutine\ \d | \s+\S+\.go:\d | created\ by\ \S+ | exit\ status\ \d
      | \s+\d+:\s | note:\ (?:run\ with|Some\ details)
      | node:internal/ | Node\.js\ v\d | (?:file://)?/\S+:\d+$ | \s*throw\ \w | \s*[\]})]+[,;]?\s*$
      | \s+(?:code|errno|syscall|path|requireStack|digest|url|hostname)\s*:\s
      | npm\ (?:ERR!|error)\s(?:A\ complete\ log|\s*/\S+_logs/|\s*at\s) | npm\ (?:ERR!|error|notice)\s*$
      | \[?npm\ notice | npm\ http\s
      | \s*\+\ Exception\ Group\ Traceback | (?:[\w.]+\.)?(?:Base)?ExceptionGroup:\ unhandled\ errors
    """,
    re.VERBOSE,
)
"""What only says where: frames of stacks, and what runtimes and npm write around them."""

_TELLING = (
    "error", "err!", "fatal", "panic", "exception", "fail", "cannot", "can not", "can't", "could not", "couldn't",
    "unable", "denied", "refused", "not found", "no such", "missing", "required", "requires", "must ", "invalid",
    "unknown", "unrecognized", "unsupported", "not set", "not supported", "not installed", "not allowed",
    "not permitted", "not provided", "not defined", "not exist", "doesn't", "already in use", "conflict", "timed out",
    "timeout", "please", "usage:", "unauthorized", "expired", "abort",
)  # fmt: skip
"""Substrings, since each line is looked at: a regular expression of as many words takes forty times as long."""
_HEARTBEAT = later(r"\bPingRequest\b|\bmethod\b[=: ]{1,2}['\"]?ping\b|\[Local→Remote\] ping\b")
"""What servers log of a `ping`: those on the SDKs for Python 1, Go and .NET, and mcp-remote."""
_OVERWRITTEN = later(r"\r(?!\n)")
_IN_GROUP = later(r"(?:\s{2})+\|\ ?")
"""How Python draws the exceptions of a group, around lines of a traceback as any other."""
_DEEP = later(r"\s{4}|\t")
"""So deep stand the source lines of a traceback."""

_SOURCE = later(r"\s{4,}(?:raise|throw new)\s")

_LOOKED_AT = 500
"""Characters of a line that are looked at: the word is said early."""


def plain(line: str) -> str:
    """Return a line as a terminal leaves it: without escape sequences, and the last of what was written over (CR)."""
    if "\x1b" in line:
        line = _ESCAPES.sub("", line)
    if "\r" in line:
        line = next((part for part in reversed(_OVERWRITTEN.split(line)) if part.strip()), "")
    return line


def is_frame(line: str) -> bool:
    """Whether a line is one of a stack trace, or of what stands around it."""
    return _FRAME.match(ungrouped(line[:_LOOKED_AT])) is not None


def ungrouped(line: str) -> str:
    """Return a line without what Python draws before it for a group of exceptions."""
    return _IN_GROUP.sub("", line, count=1) if "|" in line and _IN_GROUP.match(line) else line


def is_of_heartbeat(line: str) -> bool:
    """Whether a line says no more than that there was a `ping`, which is what the daemon asks of a healthy server."""
    return "ing" in line and _HEARTBEAT.search(line[:_LOOKED_AT]) is not None and not is_telling(line)


def is_telling(line: str) -> bool:
    """Whether a line looks like what went wrong, and not like where."""
    line = ungrouped(line[:_LOOKED_AT])
    low = line.lower()
    return any(word in low for word in _TELLING) and not _DEEP.match(line) and not is_frame(line)


def spoken(lines: Sequence[str]) -> list[str]:
    """Return what a program says: neither frames of its stack, nor the source that Python shows below each of them."""
    said, below_frame = [], False
    for line in lines:
        inner = ungrouped(line)
        is_source = (below_frame and _DEEP.match(inner)) or _SOURCE.match(inner)
        if not is_source and not is_frame(line):
            said.append(inner)
        below_frame = inner.lstrip().startswith('File "')
    return said


def pick(lines: Sequence[str], most: int, *, whole: bool = True) -> list[str]:
    """Return at most so many of the lines, in their order: those that tell the cause, then the last of the others.

    The first that tells is always kept, for what follows may follow from it; where none does, the very first line.
    whole: whether that is where the program began to speak.
    """
    if len(lines) <= most:
        return list(lines)
    ranks = [2 if is_telling(line) else 0 if is_frame(line) else 1 for line in lines]
    first = ranks.index(2) if 2 in ranks else 0 if whole else len(lines) - 1
    others = sorted((n for n in range(len(lines)) if n != first), key=lambda n: (ranks[n], n), reverse=True)
    return [lines[n] for n in sorted([first, *others[: most - 1]])]
