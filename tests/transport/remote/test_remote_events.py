from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise

import pytest
from httpx2 import _sse  # the reference: its decoder is derived from httpx-sse
from hypothesis import example, given
from hypothesis import strategies as st

from moltis.transport.remote.events import (
    MARGIN_BYTES,
    MAX_ID_BYTES,
    MAX_RETRY_MS,
    Event,
    EventStream,
    EventTooLarge,
)

ROOM = 1 << 20


def events_of(chunks: Iterable[bytes], max_bytes: int = ROOM) -> list[Event]:
    stream = EventStream(max_bytes)
    return [event for chunk in chunks for event in stream.feed(chunk)]


def told(chunks: Iterable[bytes], max_bytes: int) -> tuple[list[Event], int]:
    """Give the events and how many were too large."""
    stream = EventStream(max_bytes)
    events: list[Event] = []
    too_large = 0
    for chunk in chunks:
        try:
            events += stream.feed(chunk)
        except EventTooLarge as fault:
            events += fault.events
            too_large += 1
    return events, too_large


def in_chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


# --- what the framing means

TABLE: list[tuple[bytes, list[Event]]] = [
    (b"data: a\n\n", [Event(data=b"a")]),
    (b"data:a\n\n", [Event(data=b"a")]),
    (b"data:  a \n\n", [Event(data=b" a ")]),
    (b"data: a:b\n\n", [Event(data=b"a:b")]),
    (b"data\n\n", [Event(data=b"")]),
    (b"data: a\ndata: b\ndata\n\n", [Event(data=b"a\nb\n")]),
    (b"event: endpoint\ndata: /m?s=1\n\n", [Event("endpoint", b"/m?s=1")]),
    (b"event:\ndata: a\n\n", [Event(data=b"a")]),
    (b"event: x\n\ndata: a\n\n", [Event(data=b"a")]),
    (b"id: 7\ndata: a\n\ndata: b\n\n", [Event(data=b"a", id="7"), Event(data=b"b")]),
    (b"id: 7\n\n", [Event(id="7")]),
    (b"id: 7\ndata:\n\n", [Event(id="7")]),
    (b"id\ndata: a\n\n", [Event(data=b"a", id="")]),
    (b"id: a\0b\ndata: a\n\n", [Event(data=b"a")]),
    (b"id: \xc3\xa4\ndata: a\n\n", [Event(data=b"a", id="")]),
    (b"id: a\x01b\ndata: a\n\n", [Event(data=b"a", id="")]),
    (b"id:  a\ndata: a\n\n", [Event(data=b"a", id="")]),
    (b"id: " + b"x" * MAX_ID_BYTES + b"\ndata: a\n\n", [Event(data=b"a", id="x" * MAX_ID_BYTES)]),
    (b"id: " + b"x" * MAX_ID_BYTES + b"x\ndata: a\n\n", [Event(data=b"a", id="")]),
    (b"retry: 500\n\n", [Event(retry_ms=500)]),
    (b"retry: 0\n\n", [Event(retry_ms=0)]),
    (b"retry: 99999999\n\n", [Event(retry_ms=MAX_RETRY_MS)]),
    (b"retry: " + b"9" * 9000 + b"\n\n", [Event(retry_ms=MAX_RETRY_MS)]),
    (b"retry: -1\nretry: 1.5\nretry: \xd9\xa3\nretry:\n\n", []),
    (b": comment\n\n:\n\n\n\n", []),
    (b": comment\ndata: a\n: another\n\n", [Event(data=b"a")]),
    (b"dat: a\nDATA: a\n data: a\nunknown\n\n", []),
    (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [Event(data=b"a")]),
    (b"data: a\r\ndata: b\r\n\r\n", [Event(data=b"a\nb")]),
    (b"data: a\rdata: b\r\r", [Event(data=b"a\nb")]),
    (b"data: a\n\rdata: b\n\n", [Event(data=b"a"), Event(data=b"b")]),
    (b"data: \xff\xfe\n\n", [Event(data=b"\xff\xfe")]),
    (b"data: never ended", []),
    (b"data: never ended\n", []),
    (b"", []),
]


@pytest.mark.parametrize(("stream", "expected"), TABLE)
def test_a_stream_means_what_the_standard_says(stream: bytes, expected: list[Event]) -> None:
    assert events_of([stream]) == expected
    assert events_of(bytes([byte]) for byte in stream) == expected


def test_an_event_is_given_as_soon_as_its_last_line_ends() -> None:
    stream = EventStream(ROOM)
    assert stream.feed(b"data: a\r\n\r") == [Event(data=b"a")]
    assert stream.feed(b"\ndata: b\n\n") == [Event(data=b"b")]


def test_a_name_that_is_too_long_is_no_known_name() -> None:
    (event,) = events_of([b"event: endpoint" + b"x" * 1000 + b"\ndata: a\n\n"])
    assert event.event not in ("endpoint", "message")
    assert len(event.event) < 100


# --- chunks do not matter

FIELDS = b"|data: x|data:y|data|event: e|event|id: 1|id|id: a\0|id:2|retry: 10|retry: x|: c|other: f|data: \xff|d"
LINES = st.sampled_from([*FIELDS.split(b"|"), b"data: " + b"z" * 5000, b"\xef\xbb\xbfdata: b", b"", b""])
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=30).map(
    lambda lines: b"".join(line + end for line, end in lines)
)
RAW = st.text(alphabet="dat: \n\r\0i1\ufeff", max_size=60).map(str.encode)


@given(st.one_of(STREAMS, RAW), st.lists(st.integers(min_value=0), max_size=12))
@example(b"data: " + b"a" * 9000 + b"\n\n", [3, 5000, 8000])
def test_any_chunking_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    assert events_of(in_chunks(stream, cuts)) == events_of([stream])


@pytest.mark.parametrize("cut", range(12))
@pytest.mark.parametrize("line", [b"data: ", b"data:", b"\xef\xbb\xbfdata: ", b"data:  "])
def test_a_long_value_may_be_cut_anywhere(line: bytes, cut: int) -> None:
    stream = line + b"a" * 9000 + b"\n\n"
    expected = [Event(data=stream.removeprefix(b"\xef\xbb\xbf").strip()[5:].removeprefix(b" "))]
    assert events_of([stream[:cut], stream[cut : cut + 5000], stream[cut + 5000 :]]) == expected


@given(STREAMS, st.lists(st.integers(min_value=0), max_size=12), st.integers(0, 6000))
def test_what_is_too_large_does_not_depend_on_the_chunks(stream: bytes, cuts: list[int], room: int) -> None:
    whole, too_large = told([stream], room)
    parts, too_large_in_parts = told(in_chunks(stream, cuts), room)
    assert parts == whole
    assert bool(too_large_in_parts) == bool(too_large)
    assert all(len(event.data) <= room for event in parts)


# --- against another implementation


@given(st.one_of(STREAMS, RAW), st.lists(st.integers(min_value=0), max_size=12))
def test_the_reference_decoder_agrees(stream: bytes, cuts: list[int]) -> None:
    text = stream.decode("utf-8", "replace") + ":"  # so that both know whether a last CR is followed by LF
    reference = [(sse.event, sse.data, sse.id) for sse in _sse._SSEParser().decode(text.removeprefix("\ufeff"))]
    last_id = ""
    ours: list[tuple[str, str, str]] = []
    for event in events_of(in_chunks(text.encode(), cuts)):
        last_id = last_id if event.id is None else event.id
        ours.append((event.event, event.data.decode(), last_id))
    # Differs: it keeps ids that cannot be sent back, and gives events that consist of a name alone.
    if all(id.isascii() and id.isprintable() and id == id.strip() for *_, id in reference):
        assert [item for item in ours if item[1]] == [item for item in reference if item[1]]
        assert [item for item in ours if item not in reference] == []
    else:
        assert [item[:2] for item in ours if item[1]] == [item[:2] for item in reference if item[1]]


# --- limits


def test_data_of_exactly_the_limit_is_let_through_and_one_byte_more_is_not() -> None:
    assert events_of([b"data: " + b"x" * 100 + b"\n\n"], 100) == [Event(data=b"x" * 100)]
    assert told([b"data: " + b"x" * 101 + b"\n\n"], 100) == ([], 1)
    half = b"data: " + b"x" * 50 + b"\n"
    assert told([half, b"data: " + b"x" * 49 + b"\n\n"], 100)[1] == 0
    assert told([half, half, b"\n"], 100) == ([], 1)


def test_the_stream_goes_on_after_an_event_that_is_too_large() -> None:
    big = b"id: 9\ndata: " + b"x" * 300 + b"\ndata: more\n\n"
    stream = b"data: a\n\n" + big + b"data: b\n\n" + big + b"data: c\n\n"
    expected = [Event(data=b"a"), Event(data=b"b"), Event(data=b"c")]
    assert told([stream], 100) == (expected, 1)  # told once for the bytes that were fed at once
    assert told((bytes([byte]) for byte in stream), 100) == (expected, 2)


def test_a_line_without_end_is_told_of_once_and_costs_no_memory() -> None:
    stream = EventStream(1000)
    faults = 0
    for _ in range(1000):
        try:
            stream.feed(b"data: xxxxxxxxxxxx")
        except EventTooLarge:
            faults += 1
        assert stream.pending_bytes <= 1000 + MARGIN_BYTES
    assert faults == 1
    assert stream.feed(b"\ndata: rest of it\n\ndata: next\n\n") == [Event(data=b"next")]


@pytest.mark.parametrize("line", [b": ", b"event: ", b"id: ", b"what is this "])
def test_no_kind_of_line_may_be_endless(line: bytes) -> None:
    assert told([line, *[b"x" * 100] * 20], 1000) == ([], 1)


def test_many_short_data_lines_are_no_way_around_the_limit() -> None:
    assert told([b"data\n"] * 1001, 1000) == ([], 0)
    assert told([b"data\n"] * 1002, 1000) == ([], 1)


# --- cost


def seconds(stream: bytes, chunk: int, enough: float = 0.0) -> float:
    """Return what reading a stream takes at best: of five times, or of as many as it takes to be below `enough`."""
    chunks = [stream[i : i + chunk] for i in range(0, len(stream), chunk)]
    best = 1e9
    for _ in range(5):
        began = time.thread_time()  # what else the machine does is not counted
        events_of(chunks, 1 << 24)
        best = min(best, time.thread_time() - began)
        if best < enough:
            break
    return best


def test_a_large_event_costs_a_few_copies() -> None:
    event = b"event: message\ndata: " + b"x" * 1_000_000 + b"\n\n"
    assert seconds(event, 64 * 1024) < 0.02  # 0.4 ms on a quiet machine
    assert seconds(event.replace(b"\n", b"\r\n"), 64 * 1024) < 0.02


@pytest.mark.parametrize("unit", [b"\n", b"data\n", b"x", b":\r", b"data: x", b"id: 1\n\n"])
@pytest.mark.parametrize("chunk", [7, 4096])
def test_hostile_streams_cost_linear_time(unit: bytes, chunk: int) -> None:
    limit = seconds(unit * (50_000 // len(unit)), chunk) * 8 * 4 + 0.02
    assert seconds(unit * (400_000 // len(unit)), chunk, enough=limit) < limit
