"""A record that is written thousands of times a second, each time with another number: shaped and scrubbed once.

Shaping a record takes 33 us, which is more than all the rest of a tool call. Its one rule: the line is the one that the
logger itself would have written.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Final

from moltis.logs.record import finish, make_record
from moltis.logs.sink import CALL_LINGER_SECS, LogSink

__all__ = ["Shaped"]

MAX_FRAMES: Final = 4096
"""Servers times tools times outcomes times hosts; when there are more, all are made anew."""

_TS: Final = 8_191_919_191_919
_NUMBER: Final = 7_373_737_373_737
"""Stand for what differs while a line is being shaped."""


class Shaped:
    """One message of one target at one level.

    names: of its fields; number: the name of the one that differs, which is written last, with three decimals.
    """

    def __init__(self, level: str, target: str, message: str, names: tuple[str, ...], number: str) -> None:
        self._head = (level, target, message)
        self._names = names
        self._number = number
        self._frames: dict[tuple[Hashable, ...], tuple[bytes, bytes]] = {}
        self._made_for: tuple[LogSink, int] | None = None

    def put(self, sink: LogSink, values: tuple[Hashable, ...], number: float) -> None:
        """Write it. `values`: of the fields, as their names."""
        made_for = (sink, sink.scrubber_generation)
        if made_for != self._made_for or len(self._frames) >= MAX_FRAMES:
            self._frames.clear()
            self._made_for = made_for
        frame = self._frames.get(values)
        if frame is None:
            frame = self._frames[values] = self._shape(sink, values)
        line = b'{"ts":%d%b%.3f%b' % (time.time_ns() // 1_000_000, frame[0], number, frame[1])
        sink.put(line, CALL_LINGER_SECS)
        if sink.listener is not None:
            sink.listener(line)

    def _shape(self, sink: LogSink, values: tuple[Hashable, ...]) -> tuple[bytes, bytes]:
        """Give what stands between time and number, and what stands behind it."""
        fields = {**dict(zip(self._names, values, strict=True)), self._number: _NUMBER}
        line = finish(make_record(_TS, *self._head, fields), sink.scrubber)
        before, found, after = line.rpartition(b"%d" % _NUMBER)
        start = b'{"ts":%d' % _TS
        assert found, "a record of short fields is never cut"
        assert before.startswith(start)
        return before[len(start) :], after
