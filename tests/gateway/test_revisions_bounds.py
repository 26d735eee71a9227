"""What a server lists or answers is made valid for older hosts at a price that does not depend on how it is written."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest
from gateway_fakes import tool

from moltis.gateway.naming import renamed
from moltis.gateway.revisions import LEFT_OUT, MAX_BLOCKS, MAX_TOOL_BYTES, result_for, tool_for_legacy
from moltis.gateway.shelves import Shelf, make_part
from moltis.session.listing import Item, Kind

OLDEST = "2024-11-05"
LIMIT_SECS = 1.5
"""Of CPU time, for what takes a tenth of it here."""
N = 1_000_000
LINK = b'{"type":"resource_link","uri":"f:a","name":"n"}'


# What is long is made where it is needed: this module is imported by processes that run other tests.


@pytest.mark.parametrize(
    ("method", "before", "part", "times", "after"),
    [
        ("tools/call", b'{"content":[%b,' % LINK, b"{}", 3 * N, b"]}"),
        ("tools/call", b'{"content":[%b,' % LINK, b"0", 3 * N, b"]}"),
        ("prompts/get", b'{"messages":[', b'{"content":{}}', N, b'],"x":"resource_link"}'),
    ],
    ids=["objects", "numbers", "messages"],
)
def test_a_result_of_more_parts_than_anybody_means_passes_as_it_is(
    method: str, before: bytes, part: bytes, times: int, after: bytes
) -> None:
    result = before + b",".join([part] * times) + after
    began = time.thread_time()
    assert result_for(method, result, OLDEST) is result
    assert time.thread_time() - began < LIMIT_SECS


@pytest.mark.parametrize("content", [None, b"[]", b'[{"type":"text","text":"as a text"}]'])
@pytest.mark.parametrize("kind", ["1", "null", "long"])
def test_of_a_long_result_structured_content_that_is_no_object_is_left_out_as_of_a_short_one(
    content: bytes | None, kind: str
) -> None:
    structured = b"[%b]" % b",".join([b"[0]"] * N) if kind == "long" else kind.encode()
    more = b"" if content is None else b',"content":%b' % content
    many = b",".join(b'"a%d":0' % n for n in range(N // 2))
    result = b'{"structuredContent":%b%b,"isError":true,"_meta":{"m":1},%b}' % (structured, more, many)
    began = time.thread_time()
    made = msgspec.json.decode(result_for("tools/call", result, OLDEST))
    assert time.thread_time() - began < LIMIT_SECS
    assert (made["isError"], made["_meta"], "structuredContent" in made) == (True, {"m": 1}, False)
    texts = [block["text"] for block in made["content"]]
    if content is not None and len(content) > 2:
        assert texts == ["as a text"]
    else:
        assert texts == {b"1": ["1"], b"null": []}.get(structured, [LEFT_OUT])


def test_a_result_of_as_many_blocks_as_are_looked_at_is_made_valid() -> None:
    result = b'{"content":[%b]}' % b",".join([LINK, *[b'{"type":"text","text":","}'] * (MAX_BLOCKS - 1)])
    blocks = msgspec.json.decode(result_for("tools/call", result, OLDEST))["content"]
    assert len(blocks) == MAX_BLOCKS
    assert blocks[0] == {"type": "text", "text": "n: f:a"}
    assert blocks[1] == {"type": "text", "text": ","}


def test_millions_of_completions_are_cut_like_a_hundred_and_one() -> None:
    result = b'{"completion":{"values":[%b]}}' % b",".join([b'"a"'] * N)
    began = time.thread_time()
    made = msgspec.json.decode(result_for("completion/complete", result, OLDEST))["completion"]
    assert time.thread_time() - began < LIMIT_SECS
    assert (len(made["values"]), made["hasMore"]) == (100, True)


SCHEMAS: dict[str, Callable[[], bytes]] = {
    "properties": lambda: b'{"type":"object","properties":{%b}}' % b",".join(b'"p%d":true' % n for n in range(N // 2)),
    "a property": lambda: b'{"type":"object","properties":{"a":[%b]},"x":true}' % b",".join([b"[]"] * N),
    "a list": lambda: b'{"type":"object","x":[true%b]}' % (b",[]" * N),
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_tool_too_long_to_be_made_valid_is_an_older_host_s_by_name_alone(schema: str) -> None:
    raw = b'{"name":"a","inputSchema":%b}' % SCHEMAS[schema]()
    assert len(raw) > MAX_TOOL_BYTES
    began = time.thread_time()
    assert msgspec.json.decode(tool_for_legacy(raw)) == {"name": "a", "inputSchema": {"type": "object"}}
    assert time.thread_time() - began < LIMIT_SECS


def test_a_tool_in_which_nothing_can_be_wrong_is_not_looked_into() -> None:
    raw = tool("a", description="x" * 2 * MAX_TOOL_BYTES).raw
    assert tool_for_legacy(raw) is raw


def test_a_type_may_be_spelled_with_escapes() -> None:
    raw = rb'{"name":"a","inputSchema":{"type":"object"},"outputSchema":{"type":"\u006fbject"}}'
    assert tool_for_legacy(raw) is raw


def test_an_item_of_millions_of_members_is_not_listed_among_others() -> None:
    raw = b'{"name":"a","inputSchema":{"type":"object"},%b}' % b",".join(b'"a%d":0' % n for n in range(N // 2))
    hostile = Item("a", raw)
    began = time.thread_time()
    part = make_part(Kind.TOOLS, Shelf("s", tools=(hostile, tool("b"))), "__")
    assert time.thread_time() - began < LIMIT_SECS
    assert part.shown == ("s__b",)
    long = tool("c", description="x" * 2_000_000)
    assert msgspec.json.decode(renamed(long, Kind.TOOLS, "s__c"))["name"] == "s__c"
