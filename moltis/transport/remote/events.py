"""Server-sent events: bytes into events (WHATWG HTML, section 9.2.6, "Interpreting an event stream").

Pure: no clock, no I/O. Hostile input costs linear time and bounded memory, however it is chunked, and a large
event is never looked at byte by byte.
"""

from __future__ import annotations

from typing import Final

import msgspec

BOM: Final = b"\xef\xbb\xbf"
MAX_NAME_BYTES: Final = 64
"""Of an event's name. MCP has two, `message` and `endpoint`; a name that is cut here is none of them."""
MAX_ID_BYTES: Final = 1024
MAX_RETRY_MS: Final = 3_600_000
"""An hour. Who says more says so by mistake."""
MARGIN_BYTES: Final = 64
"""What a line may have besides the data in it: `data: `, a byte order mark."""
LONG_PART_BYTES: Final = 4096
"""Shorter pieces of a line are joined as they come: each that is kept by itself costs 40 bytes more than it has."""
NOTHING: Final = b":"
"""An empty comment: a line that is not blank and means nothing."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event.

    event: its name, `message` if it has none.
    data: its `data` lines, joined by newlines; empty for an event that only says where to resume, or when.
    id: its own `id` field, None if it has none. Empty: nothing can be resumed from here, because the server says so or
        because its id cannot be sent back in a header.
    retry_ms: how long to wait before reconnecting, at most `MAX_RETRY_MS`; None if it does not say.
    """

    event: str = "message"
    data: bytes = b""
    id: str | None = None
    retry_ms: int | None = None


class EventTooLarge(Exception):
    """An event has more bytes than is allowed; it is skipped, and the stream may be fed on.

    events: what else the same bytes completed, before it and after it.
    """

    def __init__(self, events: list[Event]) -> None:
        super().__init__("an event is too large")
        self.events = events


class EventStream:
    """One event stream from its beginning. Lines end with LF, CR or CRLF; an event at the very end that no blank line
    follows is none. `max_event_bytes` is how much data an event may have.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._parts: list[bytes | bytearray] = []  # of an unfinished line
        self._size = 0
        self._after_cr = False
        self._at_start = True
        self._skipping = False
        self._overflowed = False
        self._begun = False
        self._data: bytes | bytearray | None = None
        self._name = "message"
        self._id: str | None = None
        self._retry_ms: int | None = None

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished event is held."""
        return self._size + len(self._data or b"")

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes and give the events they complete.

        Raises:
            EventTooLarge: one of them, or the one that is still incomplete, is; the others are in the exception.
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = data.split(b"\n")
        events: list[Event] = []
        if lines and self._parts:
            lines[0] = self._whole(lines[0])
        for line in lines:
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(BOM)
            if line:
                self._field(line)
            elif self._begun:
                self._dispatch(events)
        if rest:
            self._hold(rest)
        if self._overflowed:
            self._overflowed = False
            raise EventTooLarge(events)
        return events

    # --- lines

    def _hold(self, part: bytes) -> None:
        if self._skipping:
            self._parts = [NOTHING]  # all there is to know of this line is that it is not blank
            return
        if len(part) >= LONG_PART_BYTES:
            self._parts.append(part)
        elif self._parts and isinstance(last := self._parts[-1], bytearray) and len(last) < LONG_PART_BYTES:
            last += part
        else:
            self._parts.append(bytearray(part))
        self._size += len(part)
        if self.pending_bytes > self._max + MARGIN_BYTES:
            self._overflow()
            self._parts.append(NOTHING)

    def _whole(self, end: bytes) -> bytes:
        """Return the line that ends here. A long one that begins with `data:` was copied once when this is done.

        What is given then is `NOTHING`, because the data is where it belongs already.
        """
        parts, self._parts, self._size = self._parts, [], 0
        parts.append(end)
        if self._data is None and not self._skipping and (start := _data_start(parts[0])):
            parts[0] = parts[0][start:]
            self._begin(b"".join(parts))
            return NOTHING
        return b"".join(parts)

    def _field(self, line: bytes) -> None:
        self._begun = True
        if self._skipping:
            return
        if line.startswith(b"data: "):
            self._add(line[6:])
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._add(value)
            case b"event":
                self._name = value[:MAX_NAME_BYTES].decode("utf-8", "replace") or "message"
            case b"id":
                self._set_id(value)
            case b"retry":
                self._set_retry(value)
            case _:
                pass  # a comment, or a field that is not known

    # --- fields

    def _add(self, value: bytes) -> None:
        if self._data is None:
            self._begin(value)
        elif len(self._data) + 1 + len(value) > self._max:
            self._overflow()
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += b"\n"
            self._data += value

    def _begin(self, value: bytes) -> None:
        self._begun = True
        if len(value) > self._max:
            self._overflow()
        else:
            self._data = value

    def _set_id(self, value: bytes) -> None:
        if b"\0" in value:
            return
        # Differs from WHATWG: an id is there to be sent back, and what no header can hold would fail then.
        text = value.decode("ascii", "ignore") if len(value) <= MAX_ID_BYTES else ""
        sendable = len(text) == len(value) and text.isprintable() and text == text.strip()
        self._id = text if sendable else ""

    def _set_retry(self, value: bytes) -> None:
        if value.isdigit():
            self._retry_ms = MAX_RETRY_MS if len(value) > 9 else min(int(value), MAX_RETRY_MS)

    def _dispatch(self, events: list[Event]) -> None:
        if self._data is not None or self._id is not None or self._retry_ms is not None:
            events.append(Event(self._name, bytes(self._data or b""), self._id, self._retry_ms))
        self._clear()
        self._begun = self._skipping = False

    # --- ends

    def _overflow(self) -> None:
        self._overflowed = self._skipping = True
        self._parts.clear()
        self._size = 0
        self._clear()

    def _clear(self) -> None:
        self._data = self._id = self._retry_ms = None
        self._name = "message"


def _data_start(head: bytes | bytearray) -> int:
    """Say where the value begins in a line that begins so, if it is data for certain; 0 if not."""
    if head.startswith(b"data: "):
        return 6
    return 5 if len(head) > 5 and head.startswith(b"data:") else 0
