"""Whatever a server answers, and whatever fails here, the host gets exactly one answer under its id."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from forwarding_fakes import FORM, RESULT, Bench, FakeQuestion, bench, input_required, live
from gateway_fakes import FakeOutlet, FakeUpstream, FakeWorld, agreed, ask
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from moltis.gateway import failures, messages, rounds
from moltis.gateway.api import LOCAL
from moltis.gateway.endpoints import Endpoint
from moltis.gateway.gateway import Gateway
from moltis.gateway.messages import Unreadable
from moltis.gateway.views import ALL, Settings
from moltis.nesting import MAX_DEPTH, is_deeper_than, outer_id
from moltis.session import envelope


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


class Answers(FakeOutlet):
    """Keeps replies as bytes: not all of them can be parsed."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[bytes] = []

    def reply(self, message: bytes, status: int = 200) -> None:
        self.given.append(message)


def answers_to(one: Bench, result: bytes, era: str) -> list[bytes]:
    outlet = Answers()
    begin = one.modern if era == "modern" else one.legacy
    begin(outlet=outlet)
    one.call.succeed(result)
    return outlet.given


@pytest.mark.parametrize("host", ["legacy", "modern"])
@pytest.mark.parametrize("server", ["legacy", "modern"])
@pytest.mark.parametrize("levels", [70, 900, 976, 990, 5000, 100_000])
@pytest.mark.parametrize(
    "before", [b'{"resultType":%b}', b'{"a":%b,"inputRequests":{}}', b"%b", b'{"input_required":%b}']
)
def test_a_result_of_any_depth_is_answered_once(host: str, server: str, levels: int, before: bytes) -> None:
    one = bench(server)
    given = answers_to(one, before % nested(levels), host)
    assert len(given) == 1
    assert given[0].startswith(b'{"jsonrpc":"2.0","id":1,')
    assert len(one.counted) == 1


def test_what_cannot_be_composed_is_an_internal_error_and_counted_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError("canary")

    one = bench("legacy")
    for name in ("completed", "relayed", "answered", "outcome_of"):
        monkeypatch.setattr(failures, name, broken)
    tried = one.modern()
    one.call.succeed()
    assert tried.error["code"] == -32603
    assert "canary" not in tried.error["message"]
    other = one.modern(id=2)
    one.call.refuse()
    assert other.error["code"] == -32603
    assert one.outcomes == ["internal", "internal"]
    assert (tried.host.finished, other.host.finished) == ([b"1"], [b"2"])


_BYTES = st.binary(max_size=60) | st.integers(0, 1200).map(nested)


@given(
    st.tuples(
        st.sampled_from([b"%b", b'{"resultType":%b}', b'{"x":%b}', b"{%b}", b'{"inputRequests":{"a":%b}}']), _BYTES
    )
)
def test_whatever_bytes_a_result_is_the_host_gets_exactly_one_answer(made: tuple[bytes, bytes]) -> None:
    for host in ("legacy", "modern"):
        for server in ("legacy", "modern"):
            given = answers_to(bench(server), made[0] % made[1], host)
            assert len(given) == 1
            assert given[0].startswith(b'{"jsonrpc":"2.0","id":1,')


# --- at the door


@pytest.mark.parametrize("levels", [62, 63, 64, 900, 2000, 100_000])
@pytest.mark.parametrize("id", [b"7", b'"a b"'])
def test_a_message_of_a_host_may_be_64_deep_and_a_deeper_one_is_refused_by_its_id(levels: int, id: bytes) -> None:
    wire = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"a":%b}}' % (id, nested(levels))
    read = messages.parse(wire)
    if levels <= 62:
        assert not isinstance(read, Unreadable)
    else:
        assert isinstance(read, Unreadable)
        assert (read.code, read.id) == (-32600, id)
        assert "64 levels" in read.reason


@pytest.mark.parametrize(
    ("message", "id"),
    [
        (b'{"jsonrpc":"2.0","id":5,"result":' + nested(5000) + b"}", 5),
        (b'{"result":' + nested(5000) + b',"id":5,"jsonrpc":"2.0"}', 5),
        (b'{ "id" : "5" , "jsonrpc":"2.0", "result":' + nested(5000) + b"}\n", 5),
        (b'{"jsonrpc":"2.0","id":5,"error":' + nested(5000) + b"}", 5),
    ],
)
def test_a_reply_too_deep_to_be_parsed_is_a_reply(message: bytes, id: int) -> None:
    read = envelope.parse(message)
    assert isinstance(read, envelope.Response)
    assert (read.id, read.result) == (id, None)
    assert json.loads(read.error or b"")["code"] == -32603


@pytest.mark.parametrize(
    "message",
    [
        b'{"jsonrpc":"2.0","method":"x","id":5,"params":' + nested(5000) + b"}",
        b'{"result":{"id":5},"x":' + nested(5000) + b"}",
        b'{"result":' + nested(5000) + b',"text":",\\"id\\":5}"}',
        nested(5000),
        b"[" * 5000,
    ],
)
def test_what_is_no_reply_or_does_not_say_to_what_is_none(message: bytes) -> None:
    assert isinstance(envelope.parse(message), envelope.Junk)


@given(st.text(max_size=20), st.integers(0, 100))
def test_depth_is_counted_outside_of_strings(text: str, levels: int) -> None:
    raw = json.dumps({"text": text + "[{[{"}).encode()[:-1] + b',"a":' + nested(levels) + b"}"
    assert is_deeper_than(raw, MAX_DEPTH) is (levels + 1 > MAX_DEPTH)


@pytest.mark.parametrize("padding", [0, 2000])
@pytest.mark.parametrize("levels", [1, 32, 63, 64, 65, 66, 500])
@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_depth_is_the_same_in_a_long_message(padding: int, levels: int, pair: bytes) -> None:
    opening = pair[:1] if pair == b"[]" else b'{"a":'
    raw = b" " * padding + opening * levels + b"1" + pair[1:] * levels
    assert is_deeper_than(raw, MAX_DEPTH) is (levels > MAX_DEPTH)
    flat = b"[" + b",".join([pair] * levels) + b'," [[[[ "]'
    assert not is_deeper_than(flat + b" " * padding, MAX_DEPTH)


@given(st.binary(max_size=80))
def test_any_bytes_have_an_id_or_none(raw: bytes) -> None:
    found = outer_id(raw)
    assert found is None or found in raw


def test_a_host_s_request_that_fails_here_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError("canary")

    monkeypatch.setattr(Endpoint, "page", broken)
    monkeypatch.setattr(Endpoint, "route", broken)
    host = Gateway(FakeWorld(), Settings(), lambda *counted: None).new_host(ALL, LOCAL, lambda message: True)
    for method, params in [("tools/list", {}), ("tools/call", {"name": "a"}), ("prompts/get", {"name": "b"})]:
        outlet = FakeOutlet()
        host.request(ask(method, params), outlet)
        assert outlet.error["code"] == -32603
    assert host.in_flight == 0


# --- between two rounds


def failing(*given: Any, **more: Any) -> Any:
    raise RuntimeError("canary")


@pytest.mark.anyio
async def test_a_host_that_answered_a_question_is_answered_though_the_next_try_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with live("modern") as one:
        tried = one.legacy()
        one.call.succeed(input_required({"a": {"method": "elicitation/create", "params": FORM}}))
        monkeypatch.setattr(rounds, "with_answers", failing)
        tried.host.answers({"action": "accept", "content": {}})
        assert "moltis failed" in tried.text
        assert tried.host.finished == [b"1"]


@pytest.mark.anyio
async def test_a_host_that_waits_for_a_server_is_answered_though_sending_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with live(None, "starting") as one:
        tried = one.legacy()
        await anyio.wait_all_tasks_blocked()
        monkeypatch.setattr(FakeUpstream, "forward", failing)
        one.port.ready(FakeUpstream("mole", agreed("legacy")))
        await anyio.sleep(1)
        assert "moltis failed" in tried.text


@pytest.mark.anyio
async def test_questions_that_cannot_be_put_into_a_round_are_refused_and_the_call_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with live() as one:
        monkeypatch.setattr(rounds, "as_round", failing)
        tried = one.modern()
        question = FakeQuestion()
        one.call.caller.asked(question)
        assert question.refused
        assert tried.outlet.replies == []
        one.call.succeed(RESULT)
        assert tried.result["content"] == [{"type": "text", "text": "done"}]
