"""Lines out of any chunks, at linear cost, and stderr that cannot flood anything."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from types import FrameType

import pytest
from framing import logged_of, whole_lines
from hypothesis import given
from hypothesis import strategies as st

from moltis.transport import frames
from moltis.transport.frames import BOM, Framer, StderrLines

MAX = 16

streams = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"bc", b" ", b"\xff", BOM, b"x" * MAX, b"y" * (MAX + 1)]), max_size=40
).map(b"".join)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(streams, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_chunking_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    whole, pieces = Framer(MAX), Framer(MAX)
    expected = whole_lines(whole, data)
    found = [line for chunk in chunks(data, cuts) for line in whole_lines(pieces, chunk)]
    assert found == expected
    assert pieces.oversized == whole.oversized
    assert pieces.pending_bytes == whole.pending_bytes <= MAX


@given(streams)
def test_the_lines_are_those_a_plain_split_would_give(data: bytes) -> None:
    *lines, rest = data.split(b"\n")
    fitting = [line for line in lines if len(line) <= MAX]
    stripped = [line.removeprefix(BOM).removesuffix(b"\r") for line in fitting]
    framer = Framer(MAX)
    assert whole_lines(framer, data) == [line for line in stripped if line and not line.isspace()]
    assert framer.oversized == len(lines) - len(fitting) + (len(rest) > MAX)


@given(streams, st.lists(st.integers(0, 10_000), max_size=30), st.lists(st.integers(0, 5), max_size=30))
def test_lines_taken_in_portions_are_the_same_lines(data: bytes, cuts: list[int], portions: list[int]) -> None:
    whole, pieces = Framer(MAX), Framer(MAX)
    expected = whole_lines(whole, data)
    found: list[bytes | None] = []
    takes = iter(portions)
    for chunk in chunks(data, cuts):
        pieces.push(chunk)
        found += [pieces.next_line() for _ in range(next(takes, 0))]
    while pieces.waiting:
        found.append(pieces.next_line())
    assert [line for line in found if line] == expected
    assert pieces.next_line() is None
    assert (pieces.oversized, pieces.pending_bytes) == (whole.oversized, whole.pending_bytes)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)), st.integers(0, 4))
def test_who_goes_on_with_the_stream_gets_all_that_was_no_line_yet(data: bytes, cuts: list[int], lines: int) -> None:
    framer, found, given = Framer(1000), list[bytes](), 0
    for start, end in itertools.pairwise(sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})):
        framer.push(data[start:end])
        while given < lines and (line := framer.next_line()) is not None:
            found.append(line)
            given += 1
    rest = framer.take_rest()
    assert not framer.waiting
    assert framer.pending_bytes == 0
    assert data.endswith(rest)
    assert data[: len(data) - len(rest)].count(b"\n") == given
    again = Framer(1000)
    again.push(rest)
    while (line := again.next_line()) is not None:
        found.append(line)
    assert [line for line in found if line] == whole_lines(Framer(1000), data)


@pytest.mark.parametrize("unit", [b"\n", b"a\n", b"\xff\r\n"])
def test_one_line_costs_the_same_however_much_waits_behind_it(unit: bytes) -> None:
    framer = Framer(MAX)
    framer.push(unit * 100_000)
    first = steps(lambda _: framer.next_line(), 1, b"x")
    assert steps(lambda _: framer.next_line(), 1000, b"x") <= 1000 * first
    assert framer.waiting


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b'{"a":1}\n', [b'{"a":1}']),
        (b"one\r\ntwo\n", [b"one", b"two"]),
        (BOM + b"one\n" + BOM + b"two\n", [b"one", b"two"]),
        (b"a banner\n" + BOM + BOM + b"two" + BOM + b"\n", [b"a banner", BOM + b"two" + BOM]),
        (b"\n\n \t\n\r\none\n", [b"one"]),
        (b"unfinished", []),
        (b"x" * MAX + b"\n", [b"x" * MAX]),
        (b"x" * (MAX + 1) + b"\nnext\n", [b"next"]),
    ],
    ids=["plain", "crlf", "bom", "one bom", "blank lines", "no newline yet", "exactly the limit", "over it"],
)
def test_what_is_tolerated(data: bytes, lines: list[bytes]) -> None:
    assert whole_lines(Framer(MAX), data) == lines


def steps(feed: object, total: int, chunk: bytes) -> int:
    """Count what `feed` executes, line by line: a measure that no other load on the machine disturbs.

    Only lines of the module under test: the garbage collector may run somebody else's finalizer at any moment.
    """
    count = 0

    def tracer(frame: FrameType, *_: object) -> object:
        nonlocal count
        if frame.f_code.co_filename != frames.__file__:
            return None
        count += 1
        return tracer

    sys.settrace(tracer)  # type: ignore[arg-type]
    try:
        for _ in range(total // len(chunk)):
            feed(chunk)  # type: ignore[operator]
    finally:
        sys.settrace(None)
    return count


def test_an_endless_line_costs_linear_time_and_little_memory() -> None:
    """64 MiB without a newline; the SDK's client needs 12 s and all that memory for it."""
    chunk = b"x" * 65536
    framer = Framer(max_bytes=16 * 1024 * 1024)
    early, late = (steps(lambda data: whole_lines(framer, data), 8 << 20, chunk) for _ in range(2))
    assert late <= early
    tracemalloc.start()
    try:
        for _ in range((48 << 20) // len(chunk)):
            assert whole_lines(framer, chunk) == []
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert (framer.oversized, framer.pending_bytes) == (1, 0)
    assert whole_lines(framer, b"x\nnext\n") == [b"next"]


def clean(line: bytes) -> str:
    return line.decode(errors="replace").replace("hunter22", "[REDACTED]")


def test_stderr_lines_are_given_as_they_come_and_the_unfinished_one_at_the_end() -> None:
    lines = StderrLines(clean)
    assert logged_of(lines, b"one\ntw", 0) == ["one"]
    assert logged_of(lines, b"o\r\n\nhunter22 \xff", 0) == ["two"]
    assert lines.tail() == ("one", "two")
    assert lines.finish() == ["[REDACTED] �"]
    assert lines.tail() == ("one", "two", "[REDACTED] �")
    assert lines.dropped_lines == 0


def test_a_long_stderr_line_is_cut_and_marked() -> None:
    lines = StderrLines(clean)
    (line,) = logged_of(lines, b"x" * 1_000_000, 0)
    assert line == "x" * StderrLines.LINE_BYTES + " [cut]"
    assert logged_of(lines, b"still\nnext\n", 0) == ["next"]
    assert lines.dropped_lines == 0


@pytest.mark.parametrize("before", range(StderrLines.LINE_BYTES - 10, StderrLines.LINE_BYTES + 2))
def test_a_secret_across_the_cut_is_not_shown_in_part(before: int) -> None:
    lines = StderrLines(clean)
    (line,) = logged_of(lines, b"x" * before + b"hunter22" + b"x" * 100_000, 0)
    assert "hunter" not in line
    assert "hu" not in line


def test_a_flood_of_lines_is_dropped_and_counted_and_the_end_of_it_kept() -> None:
    lines = StderrLines(clean, rate=1000, burst=2000)
    chunk = b"".join(b"line %04d\n" % n for n in range(1000))
    given = logged_of(lines, chunk, 0)
    assert 10 < len(given) < 20
    assert logged_of(lines, chunk, 0) == []
    assert lines.dropped_lines == 2000 - len(given)
    assert lines.tail() == tuple(f"line {n:04d}" for n in range(980, 1000))
    assert logged_of(lines, b"later\n", 10.0) == ["later"], "the line after a newline is whole"
    assert lines.dropped_lines == 2000 - len(given)


def test_of_many_lines_the_tail_has_those_that_tell_the_cause() -> None:
    lines = StderrLines(clean)
    stack = b"".join(b"    at frame%d (x.js:%d:1)\n" % (n, n) for n in range(200))
    logged_of(lines, b"starting\nError: hunter22 is refused\n" + stack, 0)
    assert len(lines.tail()) == StderrLines.TAIL_LINES
    assert "Error: [REDACTED] is refused" in lines.tail()


def test_what_told_the_cause_is_kept_beyond_the_last_bytes_and_not_for_ever() -> None:
    told = {}
    for wait in (1, 100):
        lines = StderrLines(clean)
        logged_of(lines, b"welcome\nFATAL: hunter22 is refused\n", 0)
        logged_of(lines, b"usage of it, at length\n" * 2000, wait)
        told[wait] = lines.tail()
        assert len(told[wait]) == StderrLines.TAIL_LINES
    assert "FATAL: [REDACTED] is refused" in told[1]
    assert set(told[100]) == {"usage of it, at length"}


def test_a_line_of_which_the_start_was_dropped_is_dropped_whole() -> None:
    lines = StderrLines(clean, rate=1000, burst=200)
    logged_of(lines, b"x" * 300 + b"\n", 0)
    assert logged_of(lines, b"begin", 0) == []
    assert logged_of(lines, b" end\nwhole\n", 10) == ["whole"]
    assert lines.dropped_lines == 1


@given(streams, st.lists(st.integers(0, 10_000), max_size=30), st.integers(0, 400))
def test_every_stderr_line_is_given_or_counted(data: bytes, cuts: list[int], burst: int) -> None:
    lines = StderrLines(clean, rate=1, burst=burst)
    given_lines: list[str] = []
    for chunk in chunks(data, cuts):
        given_lines += logged_of(lines, chunk, 0)
    given_lines += lines.finish()
    worth = [line for line in data.split(b"\n") if clean(line.removesuffix(b"\r")).strip()]
    assert len(given_lines) <= len(worth)
    assert len(given_lines) + lines.dropped_lines >= len(worth) - 1
    assert all(line in [clean(w.removesuffix(b"\r")) for w in worth] for line in given_lines)


@given(streams, st.integers(0, 400), st.integers(1, 5))
def test_stderr_taken_in_portions_is_the_same(data: bytes, burst: int, portion: int) -> None:
    whole, pieces = StderrLines(clean, rate=1, burst=burst), StderrLines(clean, rate=1, burst=burst)
    expected = logged_of(whole, data, 0)
    pieces.push(data)
    found: list[str] = []
    while pieces.waiting:
        lines = pieces.take(0, portion)
        assert len(lines) <= portion
        found += lines
    assert found + pieces.finish() == expected + whole.finish()
    assert (pieces.dropped_lines, pieces.dropped_bytes) == (whole.dropped_lines, whole.dropped_bytes)
    assert pieces.tail() == whole.tail()


@pytest.mark.parametrize("unit", [b"\n", b"a\n"])
def test_a_portion_of_stderr_costs_what_it_holds_and_not_what_waits_behind_it(unit: bytes) -> None:
    lines = StderrLines(clean)
    lines.push(unit * 30_000)
    assert steps(lambda _: lines.take(0, 16), 1, b"x") < 16 * 40
    assert lines.waiting


def test_a_flood_costs_next_to_nothing() -> None:
    lines = StderrLines(clean)
    chunk = b"flood, flood, flood\n" * 13_000
    logged_of(lines, chunk, 0)
    logged_of(lines, chunk, 0)
    clock = itertools.count(1)
    assert steps(lambda data: logged_of(lines, data, 0.0005 * next(clock)), 100 * len(chunk), chunk) < 100 * 60
    tracemalloc.start()
    try:
        for _ in range(100):
            logged_of(lines, chunk, 0)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.integers(1, 40), st.integers(1, 3000), st.booleans())
def test_the_tail_never_shows_a_part_of_a_secret(count: int, size: int, newline: bool) -> None:
    lines = StderrLines(clean, rate=1, burst=1)
    for _ in range(count):
        logged_of(lines, b"hunter22" * size + (b"\n" if newline else b""), 0)
    lines.finish()
    shown = " ".join(lines.tail()).replace("REDACTED", "")
    assert not any(part in shown for part in ("hun", "unt", "nte", "ter", "er2", "r22"))


def lines_of(framer: Framer, data: bytes, step: int) -> list[tuple[bytes, bytes]]:
    """Push data in pieces and take each line, with the ends of one that was too long."""
    found = []
    for at in range(0, len(data), step):
        framer.push(data[at : at + step])
        while (line := framer.next_line()) is not None:
            found.append((line, framer.ends()))
    return found


@pytest.mark.parametrize("step", [1, 3, 7, 64, 1000])
def test_of_a_line_that_is_too_long_both_ends_are_kept_and_given_once(step: int) -> None:
    framer = Framer(max_bytes=20, ends_bytes=4)
    data = b"short\n" + b"ABCD" + b"x" * 100 + b"WXYZ\nnext\n"
    assert lines_of(framer, data, step) == [(b"short", b""), (b"", b"ABCDWXYZ"), (b"next", b"")]
    assert framer.oversized == 1


def test_the_ends_of_a_line_are_kept_without_the_line() -> None:
    framer = Framer(max_bytes=16 << 20, ends_bytes=2048)
    framer.push(b'{"id":1,"x":"')
    tracemalloc.start()
    try:
        for _ in range(64):
            framer.push(b"x" * (1 << 20))
            assert framer.next_line() is None
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
    framer.push(b'"}\n')
    assert framer.next_line() == b""
    ends = framer.ends()
    assert ends.startswith(b'{"id":1,"x":"x')
    assert ends.endswith(b'x"}')
    assert len(ends) == 4096
