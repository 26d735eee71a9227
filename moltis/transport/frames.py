"""Bytes into lines, twice: messages from a server's stdout, and what it says on stderr.

Pure: no clock, no I/O. Hostile input costs linear time and bounded memory, however it is chunked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from moltis.lastwords import is_telling, pick

BOM: Final = b"\xef\xbb\xbf"
JOIN_BYTES: Final = 64 * 1024
"""Up to here it is cheaper to copy a message for its newline's sake than to write twice."""


class Framer:
    """Splits a stream into newline-delimited messages (MCP, stdio transport).

    Tolerated without a word: CRLF, a UTF-8 byte order mark before a line (a writer that comes after a banner begins in
    the middle of the stream), blank lines. A line of more than `max_bytes` (its newline not counted) is discarded up to
    its end and counted in `oversized`; of the last one `ends` is kept.
    """

    def __init__(self, max_bytes: int, ends_bytes: int = 0) -> None:
        self._max_bytes = max_bytes
        self._ends_bytes = ends_bytes
        self._ends = (b"", b"")
        self._data = b""
        self._start = 0
        self._chunks: list[bytes] = []
        self._size = 0
        self._discarding = False
        self.oversized = 0

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished line is held."""
        return self._size

    @property
    def waiting(self) -> bool:
        """Whether bytes were pushed that `next_line` has not looked at yet."""
        return self._start < len(self._data)

    def unfinished(self, most: int) -> bytes:
        """Return the beginning of the line that has no end yet, at most so many bytes of it."""
        held = bytearray()
        for part in (*self._chunks, self._data[self._start : self._start + most]):
            if len(held) >= most:
                break
            held += part
        return bytes(held[:most])

    def ends(self) -> bytes:
        """Return the first and the last `ends_bytes` of the last line that was too long, once; nothing of any other."""
        if not self._ends[0] or self._discarding:
            return b""
        (head, tail), self._ends = self._ends, (b"", b"")
        return head + tail[-self._ends_bytes :]

    def push(self, data: bytes) -> None:
        """Take the next bytes and look at nothing yet. Cheap while nothing is waiting, which is when to call it."""
        self._data = self._data[self._start :] + data if self._start < len(self._data) else data
        self._start = 0

    def next_line(self) -> bytes | None:
        """Return the next complete line; None when there is none. An empty one was blank or over the limit."""
        data, start = self._data, self._start
        end = data.find(b"\n", start)
        if end < 0:
            if start < len(data):
                self._hold(self._rest())
            return None
        line = self._complete(data[start:end])
        self._start = end + 1
        if self._start == len(data):
            self._data, self._start = b"", 0  # nothing of a server that now falls silent is kept
        return b"" if line.isspace() else line

    def take_rest(self) -> bytes:
        """Take all that was pushed and given as no line yet, for whoever goes on with the stream."""
        rest = b"".join((*self._chunks, self._rest()))
        self._chunks.clear()
        self._size = 0
        return rest

    def _rest(self) -> bytes:
        rest, self._data = self._data[self._start :], b""
        self._start = 0
        return rest

    def _hold(self, part: bytes) -> None:
        if not part:
            return
        if self._discarding:
            self._pass_over(part)
            return
        self._size += len(part)
        self._chunks.append(part)
        if self._size > self._max_bytes:
            self._discard()

    def _pass_over(self, part: bytes) -> None:
        if most := self._ends_bytes:
            head, tail = self._ends
            self._ends = head, (tail + part[-most:])[-most:]

    def _discard(self) -> None:
        self._discarding = True
        self.oversized += 1
        if most := self._ends_bytes:
            self._ends = self.unfinished(most), b""
            for part in islice(reversed(self._chunks), most):
                head, tail = self._ends
                self._ends = head, part[-most:] + tail
                if len(tail) >= most:
                    break
        self._chunks.clear()
        self._size = 0

    def _complete(self, end: bytes) -> bytes:
        if self._chunks:
            self._hold(end)
            line = b"".join(self._chunks)
        elif self._discarding or len(end) > self._max_bytes:
            self._hold(end)
            line = b""
        else:
            line = end
        if self._discarding:
            line = b""
        self._chunks.clear()
        self._size = 0
        self._discarding = False
        return line.removeprefix(BOM).removesuffix(b"\r")


class StderrLines:
    """Splits stderr into lines worth logging, as few of them as a token bucket allows, and keeps the last ones; and of
    those before them what may tell why it ended.

    `clean` turns the raw bytes of one line into text with no secret in it. A line is cut after `LINE_BYTES`; `clean`
    then sees `MARGIN_BYTES` more, which are dropped afterwards, so that a secret lying across the cut is not shown by
    its first half. While the bucket is empty a chunk costs one count of its newlines: a flood of 1 GiB is a second's
    work. All instants are monotonic seconds.
    """

    LINE_BYTES: Final = 8 * 1024
    MARGIN_BYTES: Final = 4 * 1024
    TAIL_LINES: Final = 20
    TAIL_BYTES: Final = 16 * 1024
    TAIL_LINE_CHARS: Final = 1024
    RECORD_BYTES: Final = 128
    """What a line costs besides its own length: the frame of its log record."""
    FIRST_LINES: Final = 3
    TELLING_LINES: Final = 6
    FRESH_SECS: Final = 30.0
    """How long before the last line an earlier one may have been written that still has to do with the end."""

    def __init__(self, clean: Callable[[bytes], str], *, rate: float = 128 * 1024, burst: float = 512 * 1024) -> None:
        """`rate` is in bytes per second, `burst` in bytes."""
        self._clean = clean
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._dry = burst <= 0
        self._refilled_at: float | None = None
        self._data = b""
        self._start = 0
        self._chunks: list[bytes] = []
        self._size = 0
        self._skipping = False
        self._skip_is_loss = False
        self._recent: deque[bytes] = deque()
        self._recent_size = 0
        self._recent_is_cut = False
        self._finished = False
        self._first: list[tuple[float, str]] = []
        self._telling: deque[tuple[float, str]] = deque(maxlen=self.TELLING_LINES)
        self.dropped_lines = 0
        self.dropped_bytes = 0

    @property
    def waiting(self) -> bool:
        """Whether bytes were pushed that `take` has not looked at yet."""
        return self._start < len(self._data)

    def push(self, data: bytes) -> None:
        """Take the next bytes; of their lines only `tail` knows yet."""
        if data:
            self._remember(data)
            self._data = self._data[self._start :] + data if self.waiting else data
            self._start = 0

    def take(self, now: float, max_lines: int) -> list[str]:
        """Look at the next `max_lines` lines at most, blank ones too, and give those to be logged, cleaned."""
        self._refill(now)
        lines: list[str] = []
        while not self._dry:
            end = self._data.find(b"\n", self._start)
            if end < 0:
                self._hold(self._rest(), lines)
                return lines
            if max_lines <= 0:
                return lines
            max_lines -= 1
            self._hold(self._data[self._start : end], lines)
            self._end_line(lines)
            self._start = end + 1
        self._drop(self._rest())
        return lines

    def finish(self) -> list[str]:
        """Take note of the end of the stream and give its last line, if that had no newline."""
        lines: list[str] = []
        self._finished = True
        if self._chunks:
            self._end_line(lines)
        return lines

    def tail(self) -> tuple[str, ...]:
        """Return the last lines, logged or not, cleaned and shortened: of many those that tell why (`lastwords.pick`).

        A line still being written is left out.
        """
        window = b"".join(self._recent)
        cut = self._recent_is_cut or len(window) > self.TAIL_BYTES
        window = window[-self.TAIL_BYTES :]
        *lines, rest = window.split(b"\n")
        if self._finished:
            lines.append(rest)
        texts = [self._clean(line.removesuffix(b"\r")) for line in lines]
        if cut and texts:
            texts[0] = texts[0][self.MARGIN_BYTES :]  # its beginning is lost, and with it what `clean` goes by
        shown = [text[: self.TAIL_LINE_CHARS] for text in texts if text.strip()]
        earlier = self._earlier(shown) if cut else []
        return tuple(pick([*earlier, *shown], self.TAIL_LINES, whole=not cut or bool(earlier)))

    def _earlier(self, shown: list[str]) -> list[str]:
        """Return what may tell something of the lines before the last 16 KiB, `shown`."""
        oldest = (self._refilled_at or 0.0) - self.FRESH_SECS
        kept = dict.fromkeys(text for at, text in sorted([*self._first, *self._telling]) if at >= oldest)
        return [text for text in kept if text not in shown]

    def _rest(self) -> bytes:
        rest, self._data = self._data[self._start :], b""
        self._start = 0
        return rest

    def _remember(self, data: bytes) -> None:
        part = data[-self.TAIL_BYTES :]
        if len(part) < len(data):
            self._recent_is_cut = True
        self._recent.append(part)
        self._recent_size += len(part)
        while self._recent_size - len(self._recent[0]) >= self.TAIL_BYTES:
            self._recent_size -= len(self._recent.popleft())
            self._recent_is_cut = True
        if len(self._recent) > 256:  # many tiny writes: keep the window one object
            self._recent = deque([b"".join(self._recent)])

    def _refill(self, now: float) -> None:
        if self._refilled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        # Not at the first token: in a flood each chunk would bring one, and be taken apart for the sake of a line.
        if self._tokens > 0 and self._tokens >= self._burst / 4:
            self._dry = False

    def _drop(self, data: bytes) -> None:
        if not data:
            return
        newlines = data.count(b"\n")
        self.dropped_bytes += len(data)
        self.dropped_lines += newlines
        if self._skipping and not self._skip_is_loss and newlines:
            self.dropped_lines -= 1  # the first newline ends a line that was logged, though cut
        self._chunks.clear()
        self._size = 0
        is_loss = self._skip_is_loss or newlines > 0 or not self._skipping
        self._skipping = not data.endswith(b"\n")
        self._skip_is_loss = self._skipping and is_loss

    def _hold(self, part: bytes, lines: list[str]) -> None:
        if self._skipping:
            self.dropped_bytes += len(part)
            return
        room = self.LINE_BYTES + self.MARGIN_BYTES - self._size
        if len(part) > room:
            self._chunks.append(part[:room])
            self._size += room
            self.dropped_bytes += len(part) - room
            self._emit(lines, cut=True)
            self._skipping, self._skip_is_loss = True, False
        elif part:
            self._chunks.append(part)
            self._size += len(part)

    def _end_line(self, lines: list[str]) -> None:
        if self._skipping:
            self.dropped_lines += self._skip_is_loss
            self._skipping = self._skip_is_loss = False
        else:
            self._emit(lines, cut=False)

    def _emit(self, lines: list[str], *, cut: bool) -> None:
        text = self._clean(b"".join(self._chunks).removesuffix(b"\r"))
        size, self._size = self._size, 0
        self._chunks.clear()
        if cut:
            text = text[: -self.MARGIN_BYTES] + " [cut]"
        if text.strip():
            self._tokens -= size + self.RECORD_BYTES
            self._dry = self._tokens <= 0
            lines.append(text)
            self._keep(text)

    def _keep(self, text: str) -> None:
        """Remember a line beyond the last ones, if it is one of the first or tells what went wrong."""
        at = self._refilled_at or 0.0
        if len(self._first) < self.FIRST_LINES:
            self._first.append((at, text[: self.TAIL_LINE_CHARS]))
        elif is_telling(text):
            self._telling.append((at, text[: self.TAIL_LINE_CHARS]))
