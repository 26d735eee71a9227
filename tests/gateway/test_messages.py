from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import Raw

from moltis.gateway import messages
from moltis.gateway.messages import Ask, Incoming, Tell, Unreadable, parse, with_members


def request(params: bytes) -> Incoming:
    return parse(b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % params)


@pytest.mark.parametrize("params", [b"null", b"{}", b' { "_meta" : null } '])
def test_params_and_meta_that_are_null_are_none(params: bytes) -> None:
    assert request(params) == Ask(b"1", "m", {}, {})
    assert parse(b'{"jsonrpc":"2.0","method":"m","params":null}') == Tell("m", {})


@pytest.mark.parametrize("params", [b"[]", b"0", b'"null"', b'{"_meta":[]}', b'{"_meta":"null"}'])
def test_params_and_meta_that_are_something_else_are_refused(params: bytes) -> None:
    found = request(params)
    assert isinstance(found, Unreadable)
    assert (found.code, found.id) == (-32602, b"1")


@pytest.mark.parametrize(
    "value",
    [
        b"1e400", b"-0", b"1.0", b"1E2", b"123456789012345678901234567890", rb'"\ud83d\ude00 \u0000 \/"',
        '"\u2028\u2029\ufffe\U0010ffff"'.encode(), b'[ 1 ,\t{ "b" : 1 , "a" : 2 } ]', b'{"a":1,"a":2}',
    ],
)  # fmt: skip
def test_values_stay_as_they_are_spelled(value: bytes) -> None:
    found = request(b'{"v":%b,"_meta":{"w":%b}}' % (value, value))
    assert isinstance(found, Ask)
    assert (bytes(found.params["v"]), bytes(found.meta["w"])) == (value, value)


@pytest.mark.parametrize(
    ("half", "whole"),
    [
        (rb'"\ud83d"', rb'"\ufffd"'),
        (rb'"\uDE00 \ud83d\ude00"', rb'"\ufffd \ud83d\ude00"'),
        (rb'"\\ud83d \ud83d"', rb'"\\ud83d \ufffd"'),
    ],
)
def test_half_a_surrogate_pair_becomes_a_replacement_character(half: bytes, whole: bytes) -> None:
    found = request(b'{"v":%b}' % half)
    assert isinstance(found, Ask)
    assert bytes(found.params["v"]) == whole


@pytest.mark.parametrize("value", [b'"\xff"', b'"\xed\xa0\xbd"', b'"\xff \\ud83d"', b"nope", b'"\\ud83d'])
def test_what_is_not_utf_8_or_not_json_is_not_mended(value: bytes) -> None:
    found = request(b'{"v":%b}' % value)
    assert isinstance(found, Unreadable)
    assert found.code == -32700


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (b"{}", b'{"t":1}'),
        (b' {\n "a":2}', b'{"t":1,"a":2}'),
        (b'{"a":{"t":2}}', b'{"t":1,"a":{"t":2}}'),
        (b'{"a":"t","b":["t"]}', b'{"t":1,"a":"t","b":["t"]}'),
        (b'{"t":2}', b'{"t":2}'),
        (b'{"a":{"t":3},"t":2}', b'{"a":{"t":3},"t":2}'),
    ],
)
def test_a_member_is_added_unless_the_object_itself_has_it(result: bytes, expected: bytes) -> None:
    assert with_members(result, {b"t": b"1"}) == expected
    assert msgspec.json.decode(expected, type=dict[str, Raw])


@pytest.mark.parametrize("id", [rb'"\x"', b'"\xff"', b'"\n"', b"01", rb'"\ud800"'])
def test_the_refusal_of_what_is_too_deep_is_json_whatever_its_id_is(id: bytes) -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    found = messages.parse(b'{"jsonrpc":"2.0","method":"tools/call","params":%b,"id":%b}' % (deep, id))
    assert isinstance(found, messages.Unreadable)
    assert json.loads(messages.error(found.id, found.code, found.reason))["id"] is None
    found = messages.parse(b'{"jsonrpc":"2.0","method":"tools/call","params":%b,"id":"a"}' % deep)
    assert isinstance(found, messages.Unreadable)
    assert found.id == b'"a"'
