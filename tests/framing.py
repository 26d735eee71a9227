"""All lines that some bytes complete, at once: what runs takes one after the other, with something else in between."""

from __future__ import annotations

from moltis.transport.frames import Framer, StderrLines


def whole_lines(framer: Framer, data: bytes) -> list[bytes]:
    """Return the lines that are complete with these bytes."""
    framer.push(data)
    lines: list[bytes] = []
    while (line := framer.next_line()) is not None:
        if line:
            lines.append(line)
    return lines


def logged_of(lines: StderrLines, data: bytes, now: float) -> list[str]:
    """Return the lines of stderr to be logged by these bytes."""
    lines.push(data)
    return lines.take(now, len(data) + 1)
