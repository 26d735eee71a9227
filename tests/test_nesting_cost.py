"""How deep JSON is nested is found at the same price, in whatever way it is nested, and exactly."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis import unicode
from moltis.nesting import MAX_DEPTH, Depth, is_deeper_than
from moltis.session.envelope import Junk, Response, parse
from moltis.steps import finished
from moltis.unicode import MAX_HALVES, TOO_MUCH, mend

VALUES = st.recursive(
    st.sampled_from([0, "[", '"]', "{\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.integers(0, 6))
def test_a_message_is_deeper_than_what_it_is_deeper_than(value: Any, levels: int) -> None:
    for many in ([value], [value] * 300):  # a long one is looked at in another way
        assert is_deeper_than(msgspec.json.encode(many), levels) == (depth_of(many) > levels)


@given(VALUES, st.integers(0, 6), st.data())
def test_how_deep_it_is_does_not_depend_on_where_it_is_cut(value: Any, levels: int, data: st.DataObject) -> None:
    text = msgspec.json.encode([value] * data.draw(st.sampled_from([1, 300])))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)))
    depth = Depth(levels)
    found = [depth.goes_deeper(text[at:end]) for at, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert any(found) == is_deeper_than(text, levels)


@pytest.mark.parametrize(
    "part",
    [
        b"[[0],[0]],",
        b'["[","]"],',
        rb'["\\","\"[",0],',
        rb'["\"","\\[\"[",{}],',
        b'{"a":[{}],"b":{"]":[]}},',
        b'["",""],',
    ],
)
def test_a_long_message_is_as_deep_as_a_short_one(part: bytes) -> None:
    short, long = (b"[" + (part * times)[:-1] + b"]" for times in (1, 100_000))
    levels = depth_of(msgspec.json.decode(short))
    for message in (short, long):
        assert not is_deeper_than(message, levels)
        assert is_deeper_than(message, levels - 1) or levels == 1


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8, 17, 33, MAX_DEPTH - 1, MAX_DEPTH])
def test_every_shape_is_looked_at_in_the_same_time(depth: int) -> None:
    spike = b"[" * depth + b"]" * depth
    comb = b"[" * depth + b"0" + b"],[" * 20 + b"]" * depth
    for part in (spike, comb):
        line = b"[%b]" % b",".join([part] * (2_000_000 // len(part)))
        began = time.thread_time()
        assert is_deeper_than(line, MAX_DEPTH) == (depth + 1 > MAX_DEPTH)
        assert time.thread_time() - began < 2
        assert is_deeper_than(line[:-1] + b"," + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"]", MAX_DEPTH)


ESCAPES = st.lists(
    st.sampled_from([rb"\\", rb"\ud83d", rb"\uDE00", rb"\u0041", rb"\n", rb"\"", b"u", b"d83d", b"x"]), max_size=60
)


@given(ESCAPES, st.integers(1, 40))
def test_a_long_message_is_mended_as_a_short_one(escapes: list[bytes], piece: int) -> None:
    text = b'"%b"' % b"".join(escapes)
    whole = mend(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unicode, "PIECE_BYTES", piece)
        assert mend(text) == whole


@given(st.text(), st.integers(1, 7), st.sampled_from([b"", b"\xff", b"\xf0\x9f"]))
def test_a_long_message_is_read_as_a_short_one(text: str, piece: int, last: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unicode, "PIECE_BYTES", piece)
        assert finished(unicode.reading(text.encode() + last)) == (not last)


def test_a_message_of_nothing_but_half_characters_is_refused_and_one_of_many_is_mended() -> None:
    half = rb"\ud800"
    assert (mend(b'"%b"' % (half * MAX_HALVES)) or b"").count(rb"\ufffd") == MAX_HALVES
    began = time.thread_time()
    assert mend(b'"%b"' % (half * 2_000_000)) == TOO_MUCH
    assert time.thread_time() - began < 1


def test_whoever_waits_for_an_answer_of_nothing_but_half_characters_learns_that_it_came() -> None:
    many = b'"%b"' % (rb"\ud800" * (MAX_HALVES + 1))
    for reply in (b'{"jsonrpc":"2.0","id":7,"result":%b}', b'{"jsonrpc":"2.0","result":%b,"id":7}'):
        answer = parse(reply % many)
        assert isinstance(answer, Response)
        assert (answer.id, answer.result) == (7, None)
        assert b"no Unicode" in (answer.error or b"")
    assert isinstance(parse(b'{"jsonrpc":"2.0","method":"a","id":7,"params":[%b]}' % many), Junk)
    assert isinstance(parse(b'{"jsonrpc":"2.0","result":{"id":7,"a":%b}}' % many), Junk)
