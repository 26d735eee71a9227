"""The codec, against the specification's own examples and against what is no JSON-RPC."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis import jsonrpc
from moltis.control import requests
from moltis.control.requests import Batch, Refused, Request

# https://www.jsonrpc.org/specification, section 7, in its order: what goes in, what comes out (None: nothing).
# Section 5.1 leaves the words of a message free: ours begin with the specification's and go on with a reason.
SPECIFICATION = [
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        '{"jsonrpc": "2.0", "result": 19, "id": 1}',
    ),
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        '{"jsonrpc": "2.0", "result": -19, "id": 2}',
    ),
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        '{"jsonrpc": "2.0", "result": 19, "id": 3}',
    ),
    (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        '{"jsonrpc": "2.0", "result": 19, "id": 4}',
    ),
    ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    (
        '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}',
        '{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}',
    ),
    (
        '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        '{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}',
    ),
    (
        '{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
        '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}',
    ),
    (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},{"jsonrpc": "2.0", "method"]',
        '{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}',
    ),
    ("[]", '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}'),
    ("[1]", '[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]'),
    (
        "[1,2,3]",
        '[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},'
        '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},'
        '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]',
    ),
    (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
        '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},'
        '{"foo": "boo"},'
        '{"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
        '{"jsonrpc": "2.0", "method": "get_data", "id": "9"}]',
        '[{"jsonrpc": "2.0", "result": 7, "id": "1"},'
        '{"jsonrpc": "2.0", "result": 19, "id": "2"},'
        '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},'
        '{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},'
        '{"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}]',
    ),
    (
        '[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
        '{"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
        None,
    ),
]


def subtract(minuend: int, subtrahend: int) -> int:
    return minuend - subtrahend


METHODS: dict[str, Any] = {"subtract": subtract, "sum": lambda *a: sum(a), "get_data": lambda: ["hello", 5]}


def answer(member: Request | Refused) -> bytes | None:
    if isinstance(member, Refused):
        return member.reply
    if member.id is None:
        return None
    if member.method not in METHODS:
        return requests.error(member.id, -32601, "Method not found")
    params = json.loads(bytes(member.params or b"[]"))
    method = METHODS[member.method]
    value = method(**params) if isinstance(params, dict) else method(*params)
    return jsonrpc.result(member.id, json.dumps(value).encode())


def serve(line: bytes) -> bytes | None:
    message = requests.parse(line)
    if isinstance(message, Batch):
        return requests.batch(a for a in map(answer, message.members) if a is not None)
    return answer(message)


def in_the_specifications_words(reply: Any) -> Any:
    if isinstance(reply, list):
        return [in_the_specifications_words(r) for r in reply]
    if "error" in reply:
        return {**reply, "error": {k: str(v).partition(":")[0] if k == "message" else v
                                   for k, v in reply["error"].items() if k != "data"}}  # fmt: skip
    return reply


@pytest.mark.parametrize(("line", "expected"), SPECIFICATION)
def test_the_examples_of_the_specification_are_answered_as_it_says(line: str, expected: str | None) -> None:
    reply = serve(line.encode())
    if expected is None:
        assert reply is None
    else:
        assert reply is not None
        assert in_the_specifications_words(json.loads(reply)) == json.loads(expected)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"nonsense", b"{", b'"', b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a":1}x', b"tru",
        '{"jsonrpc":"2.0","id":1,"method":"m"}'.encode("utf-16"), '{"jsonrpc":"2.0","method":"m"}'.encode("utf-16-le"),
        b'{"jsonrpc":"2.0","id":NaN,"method":"m"}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":-Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xff"}}', b'{"jsonrpc":"2.0","id":"\xc3","method":"m"}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":"\\ud800"}}', b'{"jsonrpc":"2.0","id":"\\udc00","method":"m"}',
        b'{"jsonrpc":"2.0","id":01,"method":"m"}', b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\x01"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1,}}', b"{'jsonrpc':'2.0'}", b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 65 + b"]" * 65, b"[[{" * 40, b"]" * 100_000,
    ],
)  # fmt: skip
def test_what_is_not_json_is_a_parse_error_with_no_id(line: bytes) -> None:
    message = requests.parse(line)
    assert isinstance(message, Refused)
    reply = json.loads(message.reply)
    assert (reply["error"]["code"], reply["id"]) == (-32700, None)


@pytest.mark.parametrize(
    ("line", "id"),
    [
        (b"1", None), (b"null", None), (b'"text"', None), (b"{}", None), (b'{"id":7}', 7), (b'{"id":[7]}', None),
        (b'{"jsonrpc":"2.0","id":{"a":1},"method":"m"}', None), (b'{"jsonrpc":"2.0","id":true,"method":"m"}', None),
        (b'{"jsonrpc":"1.0","id":"x","method":"m"}', "x"), (b'{"jsonrpc":2.0,"id":3,"method":"m"}', 3),
        (b'{"id":3,"method":"m"}', 3), (b'{"jsonrpc":"2.0","id":3}', 3), (b'{"jsonrpc":"2.0","id":3,"method":null}', 3),
        (b'{"jsonrpc":"2.0","id":3,"method":"m","params":5}', 3), (b'{"jsonrpc":"2.0","id":3,"result":5}', 3),
        (b'{"JSONRPC":"2.0","id":3,"METHOD":"m"}', 3), (b"[" + b"1," * 100 + b"1]", None),
    ],
)  # fmt: skip
def test_json_that_is_no_request_is_an_invalid_request_to_its_id_where_that_is_known(line: bytes, id: object) -> None:
    message = requests.parse(line)
    assert isinstance(message, Refused)
    reply = json.loads(message.reply)
    assert (reply["error"]["code"], reply["id"]) == (-32600, id)


@pytest.mark.parametrize(
    "id", [b"1", b"-0", b"1.50", b"1e999", b'"a\\u0041 \xc3\xa9"', b"null", b"9" * 5000, b'""', b'"2.0"']
)
def test_an_id_comes_back_byte_for_byte(id: bytes) -> None:
    message = requests.parse(b'{"id" : %b, "jsonrpc":"2.0","method":"m"}' % id)
    assert isinstance(message, Request)
    assert message.id == id
    assert jsonrpc.result(id, b'{"a" :1.0}') == b'{"jsonrpc":"2.0","id":%b,"result":{"a" :1.0}}' % id


def test_brackets_in_strings_are_no_depth_and_64_levels_are_allowed() -> None:
    text = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"%b"}}' % (b'[{\\"' * 1000)
    assert isinstance(requests.parse(text), Request)
    deep = b'{"jsonrpc":"2.0","id":1,"method":"m","params":%b}' % (b"[" * 63 + b"]" * 63)
    assert isinstance(requests.parse(deep), Request)
    assert isinstance(requests.parse(deep.replace(b"[]", b"[[]]")), Refused)
    wide = b'{"jsonrpc":"2.0","id":1,"method":"m","params":[%b]}' % b",".join([b"[{}]"] * 10_000)
    assert isinstance(requests.parse(wide), Request)


def test_an_error_whose_words_are_no_unicode_is_told_all_the_same() -> None:
    reply = json.loads(requests.error(b"1", -32005, "it said \udcff", {"hint": "\udcff"}))
    assert reply["error"] == {"code": -32005, "message": "it said \\udcff"}


def test_a_name_given_twice_counts_as_its_last() -> None:
    message = requests.parse(b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}')
    assert isinstance(message, Request)
    assert message.method == "b"


def test_a_batch_of_a_hundred_is_taken() -> None:
    one = b'{"jsonrpc":"2.0","id":1,"method":"m"}'
    message = requests.parse(b" [" + b",".join([one] * 100) + b"]")
    assert isinstance(message, Batch)
    assert len(message.members) == 100


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params", "x"]), inner),
    max_leaves=20,
)
near_requests = st.fixed_dictionaries(
    {}, optional={"jsonrpc": st.just("2.0") | json_values, "id": json_values, "method": st.text() | json_values,
                  "params": json_values},
)  # fmt: skip


@given(st.binary() | near_requests.map(lambda v: json.dumps(v).encode()) | st.lists(near_requests).map(
    lambda v: json.dumps(v).encode()
))  # fmt: skip
def test_nothing_crashes_the_codec_and_every_reply_is_one_line_of_json(line: bytes) -> None:
    message = requests.parse(line)
    for member in message.members if isinstance(message, Batch) else (message,):
        reply = member.reply if isinstance(member, Refused) else jsonrpc.result(member.id or b"null", b"1")
        assert b"\n" not in reply
        assert json.loads(reply)["jsonrpc"] == "2.0"
