from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltis import jsonrpc
from moltis.session import envelope
from moltis.session.envelope import Batch, Junk, Notification, Request, Response, parse
from moltis.unicode import MAX_MENDED_BYTES, mend

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@given(st.binary())
def test_any_bytes_are_parsed_without_raising(message: bytes) -> None:
    parse(message)


DEEP = b"[" * 50_000 + b"]" * 50_000


@pytest.mark.parametrize("id", [rb'"\x"', b'"\xff"', b'"\n"', b"01", b"-", rb'"\ud800"', rb'"\u12"'])
def test_a_message_that_is_too_deep_under_an_id_that_is_no_json_is_junk(id: bytes) -> None:
    assert isinstance(parse(b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (DEEP, id)), Junk)
    assert isinstance(parse(b'{"result":%b,"id":%b,"jsonrpc":"2.0"}' % (DEEP, id)), Junk)
    assert parse(b'{"result":%b,"id":7,"jsonrpc":"2.0"}' % DEEP) == Response(7, None, envelope.TOO_DEEP)


@given(JSON)
def test_any_json_is_parsed_without_raising(value: object) -> None:
    parse(encoded(value))


@given(JSON, st.integers(1, 2**53))
def test_a_result_is_the_bytes_that_were_sent(value: object, id: int) -> None:
    payload = json.dumps(value, indent=None).encode()
    for message in (
        b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (id, payload),
        b'{"result":%b,"jsonrpc":"2.0","id":%d}' % (payload, id),
        b' { "jsonrpc" : "2.0" , "result" : %b , "extra" : {"id": 0} , "id" : %d } ' % (payload, id),
    ):
        assert parse(message) == Response(id, payload)


def test_ids_inside_the_payload_do_not_count() -> None:
    payload = b'{"id":9,"result":{"id":8},"text":"\\"id\\":7"}'
    assert parse(b'{"result":%b,"jsonrpc":"2.0","id":3}' % payload) == Response(3, payload)


@pytest.mark.parametrize("payload", [b"{}},{", b'{},"id":5', b"{", b'"', b"1 2", b"[1,]", b"", b"{]"])
def test_a_payload_cannot_end_early(payload: bytes) -> None:
    """Else it would speak in the name of others, once it is written into a message to a client."""
    found = parse(b'{"jsonrpc":"2.0","id":1,"result":%b}' % payload)
    assert isinstance(found, Junk) or (isinstance(found, Response) and found.result == b"{}" and found.id == 5)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"\x00",
        b"Server listening on 3000",
        b"null",
        b"1",
        b"{}",
        b"[]",
        b'{"level":"info","method":"GET","id":3}',
        b'{"jsonrpc":"1.0","id":1,"result":1}',
        b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","id":null}',
        b'{"jsonrpc":"2.0","id":"x"}',
        b'{"jsonrpc":"2.0","result":1}',
        b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"result":NaN}',
        b'{"jsonrpc":"2.0","id":1,"result":[-Infinity]}',
        b'{"jsonrpc":"2.0","id":1,"result":"\x01"}',
        b'{"jsonrpc":"2.0","id":1,"result":1}{"jsonrpc":"2.0","id":2,"result":1}',
        b'{"jsonrpc":"2.0","id":"' + b"x" * 2000 + b'","method":"ping"}',
        b"[" * 200_000,
        b'{"jsonrpc":"2.0","result":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 200_000,
    ],
    ids=lambda m: m[:40].decode("latin-1"),
)
def test_what_is_not_json_rpc_is_junk(message: bytes) -> None:
    assert isinstance(parse(message), Junk)


@pytest.mark.parametrize(
    ("given_id", "ours"),
    [
        (b"7", 7),
        (b'"7"', 7),
        (b"7.0", 7),
        (b'"x"', None),
        (b"null", None),
        (b"7.5", None),
        (b'"\\u0037"', 7),
        (b'"-7"', None),
    ],
)
def test_an_id_comes_back_as_the_int_that_was_sent(given_id: bytes, ours: int | None) -> None:
    assert parse(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % given_id) == Response(ours, b"{}")


def test_an_error_is_a_reply_even_without_an_id() -> None:
    found = parse(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what"}}')
    assert found == Response(None, None, b'{"code":-32700,"message":"what"}')


@pytest.mark.parametrize("rest", [b"", b',"error":null'])
def test_a_reply_under_our_id_that_tells_nothing_is_an_error_and_nobody_waits_on(rest: bytes) -> None:
    found = parse(b'{"jsonrpc":"2.0","id":1%b}' % rest)
    assert isinstance(found, Response)
    assert (found.id, found.result) == (1, None)
    assert b"neither result nor error" in (found.error or b"")


def test_an_empty_error_beside_a_result_does_not_count() -> None:
    assert parse(b'{"jsonrpc":"2.0","id":1,"error":null,"result":null}') == Response(1, b"null")


def test_requests_and_notifications_are_told_apart_by_the_id() -> None:
    assert parse(b'{"jsonrpc":"2.0","id":"a","method":"ping"}') == Request(b'"a"', "ping")
    assert parse(b'{"jsonrpc":"2.0","method":"n","params":{"a": 1}}') == Notification("n", b'{"a": 1}')


def test_each_message_of_a_batch_is_taken_by_itself() -> None:
    found = parse(b' [{"jsonrpc":"2.0","id":1,"result":{}}, 5, [1], {"jsonrpc":"2.0","method":"n"}]')
    assert isinstance(found, Batch)
    assert [type(m) for m in found.messages] == [Response, Junk, Junk, Notification]


def test_an_endless_batch_is_cut() -> None:
    found = parse(b"[" + b",".join([b"1"] * 5000) + b"]")
    assert isinstance(found, Batch)
    assert len(found.messages) == envelope.MAX_BATCH + 1


def test_half_an_emoji_is_replaced_and_the_answer_not_lost() -> None:
    r"""JavaScript that cuts a string inside an emoji sends "\ud83d", which strict parsers refuse."""
    found = parse(rb'{"jsonrpc":"2.0","id":1,"result":"a\ud83d b\ud83d\ude00 c\\ud83d \ude00"}')
    assert found == Response(1, rb'"a\ufffd b\ud83d\ude00 c\\ud83d \ufffd"', None, True)


def test_bytes_of_another_encoding_are_replaced_and_the_answer_not_lost() -> None:
    assert parse(b'{"jsonrpc":"2.0","id":1,"result":"caf\xe9"}') == Response(1, '"caf\ufffd"'.encode(), None, True)


def test_a_message_too_long_to_mend_is_junk_but_an_answer_that_somebody_waits_for() -> None:
    text = b"x" * MAX_MENDED_BYTES + b"\xff"
    answer = parse(b'{"jsonrpc":"2.0","id":1,"result":"%b"}' % text)
    assert isinstance(answer, Response)
    assert (answer.id, b"no Unicode" in (answer.error or b"")) == (1, True)
    assert isinstance(parse(b'{"jsonrpc":"2.0","method":"a","params":["%b"]}' % text), Junk)


@pytest.mark.parametrize("text", [b"x" * 3_000_000, rb"\\" * 1_000_000, rb"\ud83d\ude00" * 200_000])
def test_half_a_surrogate_pair_is_mended_in_a_message_of_any_length(text: bytes) -> None:
    mended = parse(rb'{"jsonrpc":"2.0","id":1,"result":"%b\ud83d"}' % text)
    assert mended == Response(1, rb'"%b\ufffd"' % text, None, True)


ESCAPES = st.lists(
    st.sampled_from(["\\\\", "\\ud83d", "\\uDE00", "\\udbff", "\\u0041", "\\n", "u", "d83d", "x", "\u00e9"])
)


@given(ESCAPES)
def test_halves_of_surrogate_pairs_are_mended_and_nothing_else_is(escapes: list[str]) -> None:
    text = f'"{"".join(escapes)}"'
    expected = json.loads(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    mended = mend(text.encode()) or text.encode()
    assert json.loads(mended) == expected


@given(st.text(), st.dictionaries(st.text(), JSON, max_size=3), st.integers(1))
def test_a_call_can_be_read_by_anyone_and_keeps_its_arguments(tool: str, arguments: dict[str, object], id: int) -> None:
    raw = json.dumps(arguments, indent=1).encode()
    meta = envelope.meta_members(envelope.modern_meta("2026-07-28", b'{"name":"m"}'), id)
    message = jsonrpc.request(id, "tools/call", envelope.call_params(tool, raw, meta))
    assert b"\n" not in message
    read = json.loads(message)
    assert (read["id"], read["params"]["name"], read["params"]["arguments"]) == (id, tool, arguments)
    assert read["params"]["_meta"]["progressToken"] == id
    assert read["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


def test_arguments_are_sent_byte_for_byte() -> None:
    raw = b'{"b": 1.0, "a" :[1e2,"\\u00e9"], "b":2}'
    assert raw in jsonrpc.request(1, "tools/call", envelope.call_params("t", raw, b'"progressToken":1'))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (b"{}", {"_meta": {"p": 1}}),
        (b" { } ", {"_meta": {"p": 1}}),
        (b'{"a":1}', {"a": 1, "_meta": {"p": 1}}),
        (b'{"a":1,"_meta":{"q":2,"p":3}}', {"a": 1, "_meta": {"q": 2, "p": 1}}),
        (b'{"a":"_meta"}', {"a": "_meta", "_meta": {"p": 1}}),
        (b'{"\\u005fmeta":{"q":2}}', {"_meta": {"q": 2, "p": 1}}),
    ],
)
def test_meta_is_merged_into_params(params: bytes, expected: object) -> None:
    merged = envelope.with_meta(params, b'"p":1')
    assert msgspec.json.decode(merged) == expected
    assert merged.count(b'_meta":') == 1


def test_params_that_are_no_object_are_refused() -> None:
    with pytest.raises(ValueError, match="must be objects"):
        envelope.with_meta(b'["_meta"]', b'"p":1')


@pytest.mark.parametrize("params", [b"", b"[]", b"\xff", b'{"progressToken":{}}', b'{"progressToken":"x"}', b"{}"])
def test_a_progress_token_that_is_not_ours_is_none(params: bytes) -> None:
    assert envelope.progress_token(params) is None


@given(st.binary())
def test_any_error_object_can_be_read(raw: bytes) -> None:
    envelope.read_error(raw)
    envelope.cancelled_id(raw)
