"""Elements and members of JSON that may have millions of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis.session import parts
from moltis.session.listing import MAX_ITEMS, Kind, ListError, Pages
from moltis.session.parts import MAX_OTHER_BYTES, elements, members

LIMIT_SECS = 1.5
"""Of CPU time, for what takes a tenth of it here."""
MANY = 2_000_000


def cpu_secs(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


@given(st.lists(st.sampled_from(["0", "[1,2]", '","', "{}", '{"a":[0,0]}', "null"]), max_size=30), st.integers(1, 30))
@pytest.mark.parametrize("few", [1, 1000])
def test_the_first_elements_are_those_that_a_parser_finds(few: int, texts: list[str], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_FEW", few)
        found = elements(f"[{', '.join(texts)}]".encode(), most)
    assert [bytes(raw).decode() for raw in found] == texts[:most]


@pytest.mark.parametrize("text", [b"{}", b"0", b"[0,,0]", b"[0,0,0", b'["]', b"[" * 100_000])
def test_what_is_no_array_is_no_array_however_many_commas_it_has(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_FEW", 1)
    for most in (1, 100):
        with pytest.raises((msgspec.MsgspecError, RecursionError)):
            elements(text, most)


def test_an_array_of_millions_costs_no_more_than_passing_over_it() -> None:
    array = b"[" + b"{}," * MANY + b"0]"
    assert cpu_secs(lambda: elements(array, MAX_ITEMS)) < LIMIT_SECS
    assert len(elements(array, MAX_ITEMS)) == MAX_ITEMS


def test_an_object_is_read_however_long_what_mcp_knows_of_it_is_and_not_if_the_rest_is_long() -> None:
    long = b'"%b"' % (b"x" * 1_000_000)
    assert len(members(b'{"content":%b,"more":1}' % long)) == 2
    assert len(members(b'{"name":"a","inputSchema":{"x":%b},"description":%b}' % (long, long))) == 3
    assert members(b'{"a":%b}' % (b"1" * (MAX_OTHER_BYTES - 10)))
    for many in (
        b",".join(b'"a%d":0' % n for n in range(500_000)),
        b'"content":0,' * 100_000 + b'"a":0',
        b'"a":' + long,
    ):
        took = time.thread_time()
        with pytest.raises(ValueError, match="not known"):
            members(b"{%b}" % many)
        assert time.thread_time() - took < LIMIT_SECS


@pytest.mark.parametrize(
    ("item", "named"), [(b"0", False), (b"{}", False), (b"[]", False), (b'{"name":"a"}', True), (b'{"name":1}', False)]
)
def test_a_page_of_millions_of_items_is_cut_where_lists_are(item: bytes, named: bool) -> None:
    pages = Pages(Kind.TOOLS)
    result = b'{"tools":[%b],"nextCursor":"x"}' % b",".join([item] * MANY)
    assert cpu_secs(lambda: pages.add(result)) < LIMIT_SECS
    assert pages.truncated == f"it has more than {MAX_ITEMS} items"
    assert len(pages.items) == named
    assert pages.nameless + pages.repeated + len(pages.items) == MAX_ITEMS + 1


def test_a_page_is_taken_item_by_item_for_who_has_something_else_to_do() -> None:
    pages, whole = Pages(Kind.TOOLS), Pages(Kind.TOOLS)
    result = b'{"tools":[%b],"nextCursor":"x"}' % b",".join(b'{"name":"t%d"}' % n for n in range(50))
    steps = pages.steps(result)
    for taken in range(1, 51):
        next(steps)
        assert len(pages.items) == taken
    with pytest.raises(StopIteration) as last:
        next(steps)
    assert last.value.value == whole.add(result) == "x"
    assert pages.items == whole.items
    with pytest.raises(ListError):
        next(Pages(Kind.TOOLS).steps(b"5"))
