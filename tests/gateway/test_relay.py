"""Questions of a server while it works at a request: in both eras of the server and of the host."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from forwarding_fakes import ALL, FORM, RESULT, Bench, FakeHost, FakeQuestion, Try, bench, input_required, json, live
from gateway_fakes import FakeCall, FakeOutlet, FakeUpstream, agreed
from mcp_types import InputRequiredResult
from trio.testing import MockClock

from moltis.errors import RequestTimeout, ServerNotReady
from moltis.gateway import parking, rounds
from moltis.gateway.api import Principal
from moltis.gateway.messages import CAPABILITIES

ACCEPT = {"action": "accept", "content": {"name": "Ann"}}
ELICIT = {"method": "elicitation/create", "params": FORM}
SAMPLE: dict[str, Any] = {"messages": [], "maxTokens": 10}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def ask(call: FakeCall, method: str = "elicitation/create", params: Any = FORM) -> FakeQuestion:
    question = FakeQuestion(method, params)
    call.caller.asked(question)
    return question


def keys(tried: Try) -> list[str]:
    assert tried.result["resultType"] == "input_required"
    return list(tried.result["inputRequests"])


# --- legacy server, legacy host


def test_a_legacy_host_is_asked_on_the_stream_of_its_call_and_its_answer_goes_back() -> None:
    one = bench()
    tried = one.legacy()
    question = ask(one.call)
    ((id, method, params),) = tried.host.questions
    assert (method, params) == ("elicitation/create", FORM)
    assert tried.outlet.told == [{"jsonrpc": "2.0", "id": id, "method": method, "params": FORM}]
    tried.host.answers(ACCEPT)
    assert question.outcomes == [ACCEPT]
    one.call.succeed(RESULT)
    assert tried.result["content"]
    one.assert_nothing_is_left()


def test_a_question_without_params_is_asked_without_params() -> None:
    one = bench()
    tried = one.legacy()
    ask(one.call, "roots/list", None)
    assert "params" not in tried.outlet.told[0]


def test_two_questions_at_once_are_told_apart() -> None:
    one = bench()
    tried = one.legacy()
    first, second = ask(one.call), ask(one.call, "roots/list", None)
    (first_id, *_), (second_id, *_) = tried.host.questions
    tried.host.answers({"roots": []}, second_id)
    tried.host.answers(ACCEPT, first_id)
    assert (first.outcomes, second.outcomes) == ([ACCEPT], [{"roots": []}])


def test_a_refusal_of_a_legacy_host_goes_back_as_it_is() -> None:
    one = bench()
    tried = one.legacy()
    question = ask(one.call, "sampling/createMessage", SAMPLE)
    tried.host.refuses("User rejected sampling request")
    assert question.refused
    assert question.outcomes == [{"code": -1, "message": "User rejected sampling request"}]


def test_the_progress_of_an_answer_goes_back_under_the_server_s_token() -> None:
    one = bench()
    first, second = one.legacy(), one.legacy(FakeHost(), id=2)
    a = ask(one.upstream.calls[0], params={**FORM, "_meta": {"progressToken": 1, "x": "y"}})
    b = ask(one.upstream.calls[1], params={**FORM, "_meta": {"progressToken": 1}})
    metas = [tried.outlet.told[0]["params"]["_meta"] for tried in (first, second)]
    assert metas[0]["x"] == "y"
    tokens = [meta["progressToken"] for meta in metas]
    assert tokens[0] != tokens[1]
    one.forwarding.host_progressed(
        first.host, {"progressToken": msgspec.Raw(b"%d" % tokens[0]), "progress": msgspec.Raw(b"3")}
    )
    one.forwarding.host_progressed(first.host, {"progressToken": msgspec.Raw(b"%d" % tokens[1])})
    for nonsense in (b'"x"', b"[]", b"9" * 5000, b"-1", b"1.5"):
        one.forwarding.host_progressed(first.host, {"progressToken": msgspec.Raw(nonsense)})
    one.forwarding.host_progressed(first.host, {})
    assert a.told == [("notifications/progress", {"progressToken": 1, "progress": 3})]
    assert b.told == []
    first.host.answers(ACCEPT)
    one.upstream.calls[1].succeed(RESULT)
    one.assert_nothing_is_left()


def test_a_question_that_the_server_takes_back_is_taken_back_from_the_host() -> None:
    one = bench()
    tried = one.legacy()
    question = ask(one.call)
    one.call.caller.withdrawn(question, b'{"requestId":9,"reason":"never mind"}')
    one.call.caller.withdrawn(question, b"")
    one.call.caller.withdrawn(FakeQuestion(), b"")
    assert tried.host.taken_back == [(101, b'"never mind"')]
    assert question.outcomes == []
    one.call.succeed(RESULT)
    assert tried.result["content"]


@pytest.mark.parametrize("params", [b"", b"5", b"{}", b'{"reason":5}'])
def test_a_question_can_be_taken_back_without_a_reason(params: bytes) -> None:
    one = bench()
    tried = one.legacy()
    one.call.caller.withdrawn(ask(one.call), params)
    assert tried.host.taken_back in ([(101, b"")], [(101, b'""')])


def test_the_end_of_a_call_takes_its_questions_back() -> None:
    one = bench()
    tried = one.legacy()
    question = ask(one.call)
    one.call.fail(RequestTimeout("took too long", server="mole"))
    assert [id for id, _ in tried.host.taken_back] == [101]
    assert question.refused
    assert "took too long" in tried.text
    one.assert_nothing_is_left()


def test_cancelling_a_call_refuses_its_questions() -> None:
    one = bench()
    tried = one.legacy()
    question = ask(one.call, params={**FORM, "_meta": {"progressToken": 1}})
    assert tried.running is not None
    tried.running.cancel("enough")
    assert question.refused
    assert tried.host.taken_back == [(101, b'"enough"')]
    one.assert_nothing_is_left()


def test_a_host_that_cannot_be_reached_any_more_is_a_refusal() -> None:
    one = bench()
    outlet = FakeOutlet()
    one.legacy(outlet=outlet)
    assert one.call.caller.can_answer("elicitation/create", msgspec.json.encode(FORM))
    outlet.tell = lambda message: False  # type: ignore[method-assign]
    assert ask(one.call).refused


def test_a_legacy_host_without_a_stream_is_asked_nothing() -> None:
    one = bench()
    tried = one.legacy(outlet=FakeOutlet(asks=False))
    assert not one.call.caller.can_answer("elicitation/create", msgspec.json.encode(FORM))
    assert ask(one.call).refused
    assert tried.host.questions == []


@pytest.mark.parametrize(
    ("capabilities", "method", "params", "can"),
    [
        ({}, "elicitation/create", FORM, False),
        ({"elicitation": {}}, "elicitation/create", FORM, True),
        ({"elicitation": {}}, "elicitation/create", {**FORM, "mode": "url"}, False),
        ({"elicitation": {"url": {}}}, "elicitation/create", {**FORM, "mode": "url"}, True),
        ({"sampling": {}}, "sampling/createMessage", {**SAMPLE, "tools": []}, False),
        ({"roots": {}}, "roots/list", None, True),
        (ALL, "odd/method", {}, False),
    ],
)
@pytest.mark.parametrize("host_era", ["legacy", "modern"])
async def test_a_host_is_asked_what_it_said_it_can(
    host_era: str, capabilities: Any, method: str, params: Any, can: bool
) -> None:
    async with live() as one:
        tried = getattr(one, host_era)(FakeHost(capabilities), capabilities=capabilities)
        question = ask(one.call, method, params)
        assert question.refused is not can
        if not tried.outlet.answered:
            one.call.succeed(RESULT)
        one.forwarding.close("end")


def test_a_host_without_forms_has_their_defaults_for_an_answer() -> None:
    one = bench()
    one.upstream.defaults = b'{"action":"accept","content":{}}'
    one.legacy(FakeHost({}))
    assert ask(one.call).outcomes == [{"action": "accept", "content": {}}]


def test_a_server_that_asks_without_end_is_refused() -> None:
    one = bench()
    one.legacy()
    asked = [ask(one.call) for _ in range(rounds.MAX_QUESTIONS + 1)]
    assert [question.refused for question in asked] == [False] * rounds.MAX_QUESTIONS + [True]


# --- modern server, legacy host


def test_a_round_is_asked_and_the_request_sent_again_with_the_answers() -> None:
    one = bench("modern")
    tried = one.legacy(meta={"progressToken": "p"})
    before = one.call
    before.caller.progressed(b'{"progressToken":1,"progress":1}')
    before.succeed(input_required({"who": ELICIT, "where": {"method": "roots/list"}}, 'a "state"'))
    assert one.call is before
    (form, *_), (roots, *_) = tried.host.questions
    tried.host.answers({"roots": []}, roots)
    assert one.call is before
    tried.host.answers(ACCEPT, form)
    again = one.call
    assert again is not before
    assert again.read()["inputResponses"] == {"who": ACCEPT, "where": {"roots": []}}
    assert again.read()["requestState"] == 'a "state"'
    assert again.read()["arguments"] == {"depth": 3}
    assert again.meta[CAPABILITIES]
    again.caller.progressed(b'{"progressToken":2,"progress":2}')
    again.succeed(RESULT)
    assert [params["progress"] for method, params in tried.told if method.endswith("progress")] == [1, 2]
    assert tried.result["content"]
    assert one.outcomes == ["ok"]


def test_a_round_forgets_the_answers_of_the_round_before() -> None:
    one = bench("modern")
    tried = one.legacy()
    one.call.succeed(input_required({"a": ELICIT}, "1"))
    tried.host.answers(ACCEPT)
    one.call.succeed(input_required({"b": ELICIT}))
    tried.host.answers(ACCEPT)
    assert list(one.call.read()["inputResponses"]) == ["b"]
    assert "requestState" not in one.call.params


def test_a_form_that_a_legacy_host_refuses_with_an_error_is_one_where_nothing_was_chosen() -> None:
    one = bench("modern")
    tried = one.legacy()
    one.call.succeed(input_required({"a": ELICIT}))
    tried.host.refuses()
    assert one.call.read()["inputResponses"] == {"a": {"action": "cancel"}}


def test_any_other_question_that_a_legacy_host_refuses_fails_the_call() -> None:
    one = bench("modern")
    tried = one.legacy()
    one.call.succeed(input_required({"a": {"method": "sampling/createMessage", "params": SAMPLE}, "b": ELICIT}))
    tried.host.answers({"x": 1}, 102)
    tried.host.refuses("not today")
    assert "the host refused sampling/createMessage" in tried.text
    assert "not today" in tried.text
    assert len(one.upstream.calls) == 1
    assert one.outcomes == ["not_answered"]
    one.assert_nothing_is_left()


def test_a_round_whose_question_the_host_cannot_answer_fails_the_call_and_takes_the_others_back() -> None:
    one = bench("modern")
    tried = one.legacy(FakeHost({"elicitation": {}}))
    one.call.succeed(input_required({"a": ELICIT, "b": {"method": "sampling/createMessage", "params": SAMPLE}}))
    assert "needs sampling/createMessage, which this host cannot answer" in tried.text
    assert [id for id, _ in tried.host.taken_back] == [101]
    one.assert_nothing_is_left()


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_round_is_answered_from_defaults_for_a_host_without_forms(era: str) -> None:
    one = bench("modern")
    one.upstream.defaults = b'{"action":"accept","content":{"name":"x"}}'
    tried = getattr(one, era)(FakeHost({}), capabilities={})
    one.call.succeed(input_required({"a": ELICIT}, "s"))
    assert one.call.read()["inputResponses"] == {"a": {"action": "accept", "content": {"name": "x"}}}
    assert one.call.read()["requestState"] == "s"
    one.call.succeed(RESULT)
    assert tried.result["content"]


def test_a_modern_host_itself_comes_back_when_nothing_was_asked() -> None:
    one = bench("modern")
    one.upstream.defaults = b'{"action":"decline"}'
    tried = one.modern(capabilities={})
    one.call.succeed(input_required(state="s"))
    assert tried.result == {"resultType": "input_required", "requestState": "s"}
    assert len(one.upstream.calls) == 1


def test_defaults_end_too() -> None:
    one = bench("modern")
    one.upstream.defaults = b'{"action":"decline"}'
    tried = one.modern(capabilities={})
    for _ in range(rounds.MAX_ROUNDS + 1):
        assert not tried.outlet.answered
        one.call.succeed(input_required({"a": ELICIT}))
    assert keys(tried) == ["a"]


async def test_more_rounds_than_allowed_fail_the_call() -> None:
    async with live("modern") as one:
        tried = one.legacy()
        for _ in range(rounds.MAX_ROUNDS):
            one.call.succeed(input_required({"a": ELICIT}))
            tried.host.answers(ACCEPT)
        assert not tried.outlet.answered
        one.call.succeed(input_required({"a": ELICIT}))
        assert "asked questions more than 10 times" in tried.text
        assert tried.host.asked == {}


async def test_a_server_that_only_says_to_come_back_is_asked_again_after_a_while() -> None:
    async with live("modern") as one:
        tried = one.legacy()
        one.call.succeed(input_required(state="1"))
        await anyio.wait_all_tasks_blocked()
        assert len(one.upstream.calls) == 1
        await anyio.sleep(0.06)
        assert len(one.upstream.calls) == 2
        assert one.call.read()["requestState"] == "1"
        assert "inputResponses" not in one.call.params
        one.call.succeed(RESULT)
        assert tried.result["content"]


async def test_cancelling_between_two_rounds_sends_no_second() -> None:
    async with live("modern") as one:
        waiting, asked = one.legacy(), one.legacy(id=2)
        one.upstream.calls[0].succeed(input_required(state="1"))
        one.upstream.calls[1].succeed(input_required({"a": ELICIT}))
        assert waiting.running is not None
        assert asked.running is not None
        waiting.running.cancel("enough")
        asked.running.cancel("enough")
        await anyio.sleep(1000)
        assert len(one.upstream.calls) == 2
        assert waiting.outlet.replies == asked.outlet.replies == []


async def test_a_host_that_never_answers_a_round_is_not_waited_for_for_ever() -> None:
    async with live("modern") as one:
        tried = one.legacy()
        one.call.succeed(input_required({"a": ELICIT}))
        await anyio.sleep(599)
        assert not tried.outlet.answered
        await anyio.sleep(2)
        assert "did not answer" in tried.text
        assert tried.host.asked == {}


async def test_time_for_a_round_ends_with_its_answers() -> None:
    async with live("modern") as one:
        tried = one.legacy()
        one.call.succeed(input_required({"a": ELICIT}))
        tried.host.answers(ACCEPT)
        await anyio.sleep(1000)
        assert not tried.outlet.answered
        one.call.succeed(RESULT)
        assert tried.result["content"]


async def test_a_server_that_restarts_between_two_rounds_is_waited_for() -> None:
    async with live("modern") as one:
        tried = one.legacy()
        one.call.succeed(input_required({"a": ELICIT}, "s"))
        one.port.move("starting")
        tried.host.answers(ACCEPT)
        await anyio.sleep(1)
        assert not tried.outlet.answered
        upstream = one.port.ready(FakeUpstream("mole", agreed("modern")))
        await anyio.wait_all_tasks_blocked()
        assert upstream.calls[0].read()["requestState"] == "s"
        upstream.calls[0].succeed(RESULT)
        assert tried.result["content"]


async def test_a_server_that_comes_back_as_a_legacy_one_does_not_get_the_state_of_the_other() -> None:
    async with live("modern") as one:
        tried = one.legacy()
        one.call.succeed(input_required({"a": ELICIT}, "s"))
        upstream = one.port.ready(FakeUpstream("mole", agreed("legacy")))
        tried.host.answers(ACCEPT)
        assert upstream.calls == []
        assert tried.error["code"] == -32602


@pytest.mark.parametrize(
    "odd",
    [
        b'{"resultType":"input_required"}',
        b'{"resultType":"input_required","inputRequests":5,"requestState":"s"}',
        b'{"resultType":"input_required","inputRequests":{"a":{}},"requestState":"s"}',
        b'{"resultType":"input_required","requestState":5}',
        b'{"resultType":"complete","x":"input_required"}',
    ],
)
def test_what_is_no_round_passes_as_it_is(odd: bytes) -> None:
    one = bench("modern")
    tried = one.legacy()
    one.call.succeed(odd)
    assert tried.outlet.raw == [b'{"jsonrpc":"2.0","id":1,"result":%b}' % odd]


def test_a_page_to_visit_gets_the_id_that_legacy_hosts_need() -> None:
    one = bench("modern")
    tried = one.legacy()
    page = {"mode": "url", "message": "Log in", "url": "https://login.example/"}
    one.call.succeed(input_required({"k": {"method": "elicitation/create", "params": page}}))
    assert tried.host.questions[0][2] == {**page, "elicitationId": "k"}


# --- legacy server, modern host


async def test_a_modern_host_is_told_to_come_back_with_the_answer_and_gets_the_result_then() -> None:
    async with live() as one:
        tried = one.modern(meta={"progressToken": "first"})
        one.call.caller.progressed(b'{"progressToken":1,"progress":1}')
        question = ask(one.call, params={**FORM, "_meta": {"progressToken": 5}})
        assert tried.running is not None
        assert tried.host.finished == [b"1"]
        (key,) = keys(tried)
        assert tried.result["inputRequests"][key] == {"method": "elicitation/create", "params": FORM}
        assert question.outcomes == []
        one.call.caller.progressed(b'{"progressToken":1,"progress":2}')
        again = one.retry(tried, {key: ACCEPT}, meta={"progressToken": "second"})
        assert question.outcomes == [ACCEPT]
        one.call.caller.progressed(b'{"progressToken":1,"progress":3}')
        one.call.succeed(RESULT)
        assert again.result["resultType"] == "complete"
        assert again.host.finished == [b"2"]
        assert [p["progress"] for _, p in tried.told] == [1]
        assert again.told == [("notifications/progress", {"progressToken": "second", "progress": 3})]
        assert len(one.upstream.calls) == 1
        assert one.outcomes == ["input_required", "ok"]


async def test_the_other_meta_of_a_question_stays() -> None:
    async with live() as one:
        tried = one.modern()
        ask(one.call, params={**FORM, "_meta": {"progressToken": 5, "a.b/c": 1}})
        assert tried.result["inputRequests"]["q1"]["params"]["_meta"] == {"a.b/c": 1}
        one.forwarding.close("end")


async def parked(one: Bench, **more: Any) -> tuple[Try, FakeQuestion]:
    tried = one.modern(**more)
    question = ask(one.call)
    assert one.forwarding.parked == 1
    return tried, question


async def test_two_questions_at_once_are_two_rounds_and_none_is_lost() -> None:
    async with live() as one:
        tried, first = await parked(one)
        second = ask(one.call, "roots/list", None)
        again = one.retry(tried, {keys(tried)[0]: ACCEPT})
        assert first.outcomes == [ACCEPT]
        (key,) = keys(again)
        assert again.result["inputRequests"][key] == {"method": "roots/list"}
        assert again.result["requestState"] != tried.result["requestState"]
        last = one.retry(again, {key: {"roots": []}}, id=3)
        assert second.outcomes == [{"roots": []}]
        one.call.succeed(RESULT)
        assert last.result["content"]


@pytest.mark.parametrize("answers", [None, {}, {"wrong": ACCEPT}, {"q1": "no object"}, {"q1": None}, 5, []])
async def test_an_answer_under_a_wrong_key_or_none_is_asked_for_again(answers: Any) -> None:
    async with live() as one:
        tried, question = await parked(one)
        again = one.retry(tried, answers)
        assert keys(again) == keys(tried)
        assert question.outcomes == []
        last = one.retry(again, {keys(again)[0]: ACCEPT, "extra": {}}, id=3)
        one.call.succeed(RESULT)
        assert last.result["content"]


async def test_a_host_that_never_gives_the_answer_is_not_asked_for_ever() -> None:
    async with live() as one:
        tried, question = await parked(one)
        for n in range(rounds.MAX_ROUNDS - 1):
            tried = one.retry(tried, id=n + 2)
        assert not question.refused
        last = one.retry(tried, id=99)
        assert question.refused
        assert not last.outlet.answered
        later = ask(one.call)
        assert later.refused
        one.call.succeed(RESULT)
        assert last.result["content"]


async def test_a_token_is_for_one_retry() -> None:
    async with live() as one:
        tried, question = await parked(one)
        good = one.retry(tried, {keys(tried)[0]: ACCEPT})
        twice = one.retry(tried, {keys(tried)[0]: {"action": "decline"}}, id=3)
        assert twice.error["data"]["reason"] == "invalid_request_state"
        assert twice.outlet.status == 400
        assert twice.running is None
        assert question.outcomes == [ACCEPT]
        one.call.succeed(RESULT)
        assert good.result["content"]


@pytest.mark.parametrize(
    "other",
    [
        {"host": FakeHost(principal=Principal("somebody else"))},
        {"view": "/servers/mole/mcp"},
        {"method": "prompts/get"},
        {"name": "another tool"},
    ],
    ids=["principal", "view", "method", "name"],
)
async def test_a_token_of_somebody_else_or_of_another_call_stands_for_nothing(other: dict[str, Any]) -> None:
    async with live() as one:
        tried, question = await parked(one)
        name = other.get("name", "dig")
        params = {
            "name": name,
            "requestState": tried.result["requestState"],
            "inputResponses": {keys(tried)[0]: ACCEPT},
        }
        stolen = one.modern(id=2, params=params, **{k: v for k, v in other.items() if k != "name"})
        assert stolen.error["code"] == -32602
        assert stolen.host.finished == [b"2"]
        assert question.outcomes == []
        assert len(one.upstream.calls) == 1
        own = one.retry(tried, {keys(tried)[0]: ACCEPT}, id=3)
        one.call.succeed(RESULT)
        assert own.result["content"]


async def test_a_call_whose_host_does_not_come_back_is_given_up() -> None:
    async with live() as one:
        tried, question = await parked(one)
        await anyio.sleep(parking.PARKED_SECS - 1)
        assert one.call.cancelled == []
        await anyio.sleep(2)
        assert one.call.cancelled == ["the host did not come back with an answer in time"]
        assert question.refused
        late = one.retry(tried, {keys(tried)[0]: ACCEPT})
        assert late.error["data"]["reason"] == "invalid_request_state"
        assert len(one.upstream.calls) == 1


async def test_a_token_cannot_be_guessed_and_is_never_the_same() -> None:
    async with live() as one:
        tokens = set()
        for n in range(50):
            tried = one.modern(id=n)
            ask(one.call)
            tokens.add(tried.result["requestState"])
        assert len(tokens) == 50
        assert {len(token) for token in tokens} == {32}
        one.forwarding.close("end")


async def test_each_round_has_its_own_time() -> None:
    async with live() as one:
        tried, _ = await parked(one)
        await anyio.sleep(parking.PARKED_SECS - 1)
        again = one.retry(tried)
        await anyio.sleep(parking.PARKED_SECS - 1)
        assert one.call.cancelled == []
        last = one.retry(again, {keys(again)[0]: ACCEPT}, id=3)
        one.call.succeed(RESULT)
        assert last.result["content"]


async def test_a_token_whose_time_is_up_is_worth_nothing_even_before_it_is_swept_away() -> None:
    async with live() as one:
        tried, _ = await parked(one)
        one.world.tasks = None
        one.forwarding._desk.parking._places[tried.result["requestState"]].due = anyio.current_time()
        assert one.retry(tried).error["code"] == -32602
        one.forwarding.close("end")


async def test_a_result_that_comes_meanwhile_is_there_for_the_retry() -> None:
    async with live() as one:
        tried, question = await parked(one)
        one.call.succeed(RESULT)
        assert question.refused
        assert one.forwarding.parked == 1
        again = one.retry(tried, {keys(tried)[0]: ACCEPT})
        assert again.running is None
        assert again.host.finished == [b"2"]
        assert again.result["content"] == [{"type": "text", "text": "done"}]
        assert question.outcomes != [ACCEPT]


@pytest.mark.parametrize(
    ("error", "words", "outcome"),
    [
        (ServerNotReady("it ended with exit code 3", server="mole", state="backoff"), "exit code 3", "not_ready"),
        (RequestTimeout("gave no reply for 30 s", server="mole"), "no reply", "timeout"),
    ],
)
async def test_a_server_that_is_lost_meanwhile_is_told_to_the_retry(error: Any, words: str, outcome: str) -> None:
    async with live() as one:
        tried, _ = await parked(one)
        one.call.fail(error)
        one.port.move("backoff")
        again = one.retry(tried, {keys(tried)[0]: ACCEPT})
        assert words in again.text
        assert one.outcomes == ["input_required", outcome]


async def test_an_error_of_the_server_meanwhile_is_told_to_the_retry() -> None:
    async with live() as one:
        tried, _ = await parked(one)
        one.call.refuse(b'{"code":-32050,"message":"own"}')
        assert one.retry(tried).error == {"code": -32050, "message": "own"}


async def test_results_that_nobody_fetches_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async with live() as one:
        first, _ = await parked(one)
        kept = one.forwarding._desk.parking._kept
        second = one.modern(id=2)
        ask(one.call)
        kept.most = kept.total + len(RESULT) + 5
        for call in one.upstream.calls:
            call.succeed(RESULT)
        assert one.retry(first, id=3).result["content"] == [{"type": "text", "text": "done"}]
        assert "no room to keep it" in one.retry(second, id=4).text


async def test_a_parked_call_keeps_nothing_of_its_arguments_and_little_of_its_host() -> None:
    async with live() as one:
        long = "x" * 1_000_000
        tried = one.modern(params={"name": "dig", "arguments": {"text": long}}, meta={"x": "y" * 1000})
        asked = ask(one.call)
        parked_call = next(iter(one.forwarding._desk.parking._places.values())).call
        assert parked_call._params == {}
        assert parked_call._ask.params == {}
        assert 1000 < one.forwarding._desk.parking._kept.total < 2000
        assert not asked.outcomes
        one.call.succeed(RESULT)
        assert one.retry(tried, {keys(tried)[0]: {"action": "cancel"}}).result["content"][0]["text"] == "done"


async def test_a_host_that_says_too_much_of_itself_is_not_waited_for() -> None:
    async with live() as one:
        one.forwarding._desk.parking._kept.most = 100
        one.modern(meta={"x": "y" * 1000})
        question = ask(one.call)
        assert question.refused
        one.call.succeed(RESULT)


async def test_a_question_taken_back_meanwhile_is_not_answered_any_more() -> None:
    async with live() as one:
        tried, question = await parked(one)
        one.call.caller.withdrawn(question, b"{}")
        again = one.retry(tried, {keys(tried)[0]: ACCEPT})
        assert question.outcomes == []
        assert not again.outlet.answered
        one.call.succeed(RESULT)
        assert again.result["content"]


async def test_cancelling_the_retry_cancels_the_call() -> None:
    async with live() as one:
        tried, question = await parked(one)
        late = ask(one.call)
        again = one.retry(tried, {keys(tried)[0]: ACCEPT, "q2": ACCEPT})
        assert (question.outcomes, late.outcomes) == ([ACCEPT], [ACCEPT])
        assert again.running is not None
        again.running.cancel("enough")
        assert one.call.cancelled == ["enough"]
        one.call.succeed(RESULT)
        assert again.outlet.replies == []


async def test_cancelling_a_parked_call_gives_it_up() -> None:
    async with live() as one:
        tried, question = await parked(one)
        assert tried.running is not None
        tried.running.cancel("enough")
        assert one.call.cancelled == ["enough"]
        assert question.refused
        one.call.succeed(RESULT)
        assert one.retry(tried).error["code"] == -32602
        assert len(tried.outlet.replies) == 1


async def test_a_call_is_not_given_up_because_the_connection_of_its_first_request_ended() -> None:
    """A front may close its host as soon as it has the reply."""
    async with live() as one:
        outlet = FakeOutlet()
        host = FakeHost()
        running: list[Any] = []
        reply = outlet.reply

        def reply_and_leave(message: bytes, status: int = 200) -> None:
            reply(message, status)
            if b"1" not in host.finished:
                running[0].cancel("the connection is closed")

        outlet.reply = reply_and_leave  # type: ignore[method-assign]
        tried = one.modern(host, outlet=outlet)
        running.append(tried.running)
        question = ask(one.call)
        one.retry(tried, {keys(tried)[0]: ACCEPT})
        assert question.outcomes == [ACCEPT]
        one.call.succeed(RESULT)


async def test_a_server_that_answers_in_the_middle_of_a_retry_is_done() -> None:
    async with live() as one:
        tried, question = await parked(one)
        second = ask(one.call, "roots/list", None)
        question.then = lambda: one.call.succeed(RESULT)
        again = one.retry(tried, {keys(tried)[0]: ACCEPT, "q2": {"roots": []}})
        assert again.result["content"]
        assert second.refused


async def test_a_question_that_comes_in_the_middle_of_a_retry_is_one_of_the_next_round() -> None:
    async with live() as one:
        tried, question = await parked(one)
        later: list[FakeQuestion] = []
        question.then = lambda: later.append(ask(one.call))
        again = one.retry(tried, {keys(tried)[0]: ACCEPT})
        last = one.retry(again, {keys(again)[0]: ACCEPT}, id=3)
        assert later[0].outcomes == [ACCEPT]
        one.call.succeed(RESULT)
        assert last.result["content"]


async def test_only_a_few_calls_can_wait_for_their_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MAX_OF_ONE", 2)
    async with live() as one:
        tries = [one.modern(id=n) for n in range(3)]
        questions = [ask(call) for call in one.upstream.calls]
        assert [question.refused for question in questions] == [False, False, True]
        assert [tried.outlet.answered for tried in tries] == [True, True, False]
        somebody = one.modern(FakeHost(principal=Principal("somebody else")))
        assert not ask(one.call).refused
        assert keys(somebody)
        one.upstream.calls[2].succeed(RESULT)
        one.forwarding.close("end")


async def test_a_method_that_has_no_rounds_has_no_questions() -> None:
    async with live() as one:
        tried = one.modern(method="completion/complete", params={"ref": {}})
        assert ask(one.call).refused
        one.call.succeed(b'{"completion":{"values":[]}}')
        assert tried.result["resultType"] == "complete"


async def test_closing_the_gateway_gives_parked_calls_up() -> None:
    async with live() as one:
        _, question = await parked(one)
        one.forwarding.close("upgrade")
        assert one.call.cancelled == ["upgrade"]
        assert question.refused


async def test_one_task_watches_all_that_are_parked() -> None:
    one = bench()
    for n in range(3):
        one.modern(id=n)
        ask(one.call)
    assert len(one.world.started) == 1


async def test_calls_are_parked_again_after_all_were_gone() -> None:
    """The task that watches them ends when there is none, and begins anew."""
    async with live() as one:
        for n in range(3):
            tried = one.modern(id=n * 2)
            ask(one.call)
            if n % 2:
                await anyio.sleep(parking.PARKED_SECS + 1)
                assert one.call.cancelled
            else:
                again = one.retry(tried, {"q1": ACCEPT}, id=n * 2 + 1)
                one.call.succeed(RESULT)
                assert again.result["content"]
                await anyio.sleep(parking.PARKED_SECS + 1)
        assert not one.forwarding._desk._sweeping


USED = {"type": "tool_result", "toolUseId": "t", "content": [], "structuredContent": [1, 2]}
TOOLED: dict[str, Any] = {**SAMPLE, "messages": [{"role": "user", "content": [USED]}], "tools": []}


@pytest.mark.parametrize("server_era", ["legacy", "modern"])
def test_a_legacy_host_is_asked_with_results_of_tools_as_its_revision_has_them(server_era: str) -> None:
    one = bench(server_era)
    tried = one.legacy()
    if server_era == "legacy":
        ask(one.call, "sampling/createMessage", TOOLED)
    else:
        one.call.succeed(input_required({"a": {"method": "sampling/createMessage", "params": TOOLED}}))
    ((_, _, params),) = tried.host.questions
    told = {"type": "tool_result", "toolUseId": "t", "content": [{"type": "text", "text": "[1,2]"}]}
    assert params == {**TOOLED, "messages": [{"role": "user", "content": [told]}]}


@pytest.mark.parametrize("kind", ["tool_result", "tool_use"])
@pytest.mark.parametrize("several", [False, True])
def test_a_host_that_samples_without_tools_is_not_asked_about_their_use(kind: str, several: bool) -> None:
    one = bench()
    host = FakeHost({"sampling": {}})
    tried = one.legacy(host)
    block = {"type": kind, "toolUseId": "t", "id": "t", "name": "dig", "input": {}, "content": []}
    said = {"role": "user", "content": [block] if several else block}
    question = ask(one.call, "sampling/createMessage", {**SAMPLE, "messages": [said]})
    assert question.refused
    assert host.questions == []
    words = {"role": "user", "content": {"type": "text", "text": f'"{kind}" is a word'}}
    ask(one.call, "sampling/createMessage", {**SAMPLE, "messages": [words]})
    assert len(tried.host.questions) == 1


# --- a page that has to be visited first: an error until 2025-11-25, a round since

PAGE = {"mode": "url", "elicitationId": "e-1", "url": "https://x.test/grant?a=1", "message": "Let it in"}
NO_ID = {name: value for name, value in PAGE.items() if name != "elicitationId"}


def page_first(*pages: Any, **more: Any) -> Any:
    return {"code": -32042, "message": "Go there first", "data": {"elicitations": list(pages), **more}}


@pytest.mark.parametrize("method", sorted(rounds.IN_ROUNDS))
def test_a_page_to_visit_first_is_a_round_for_a_modern_host_and_the_request_is_sent_again(method: str) -> None:
    one = bench()
    other = {**PAGE, "elicitationId": "e-2", "url": "https://x.test/2"}
    params = {"uri": "x:///1"} if method == "resources/read" else {"name": "dig"}
    tried = one.modern(method=method, params=params)
    one.call.refuse(json(page_first(PAGE, other)))
    assert tried.result["resultType"] == "input_required"
    asked = list(tried.result["inputRequests"].values())
    assert [question["method"] for question in asked] == ["elicitation/create"] * 2
    assert [question["params"] for question in asked] == [NO_ID, {**NO_ID, "url": "https://x.test/2"}]
    InputRequiredResult.model_validate(tried.result)
    assert tried.host.finished == [b"1"]
    assert one.outcomes == ["input_required"]
    answers = {key: {"action": "accept"} for key in tried.result["inputRequests"]}
    state = {"requestState": tried.result["requestState"], "inputResponses": answers}
    again = one.modern(method=method, params={**params, **state}, id=2)
    assert set(one.call.params) == set(params), "a legacy server knows nothing of rounds"
    one.call.succeed(RESULT)
    assert again.result["content"]
    one.assert_nothing_is_left()


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_page_that_was_not_visited_ends_the_call_and_the_server_is_not_asked_again(action: str) -> None:
    one = bench()
    tried = one.modern()
    one.call.refuse(json(page_first(PAGE)))
    again = one.retry(tried, {key: {"action": action} for key in tried.result["inputRequests"]})
    assert "was not visited" in again.text
    assert again.host.finished == [b"2"]
    assert again.running is None
    assert len(one.upstream.calls) == 1


@pytest.mark.parametrize("answers", [None, {}, {"q1": 5}, {"other": {"action": "accept"}}])
def test_a_retry_that_says_nothing_of_the_page_asks_the_server_itself(answers: Any) -> None:
    one = bench()
    tried = one.modern()
    one.call.refuse(json(page_first(PAGE)))
    again = one.retry(tried, answers)
    one.call.refuse(json(page_first(PAGE)))
    assert again.result["resultType"] == "input_required"


def test_a_page_is_visited_for_a_server_that_comes_back_as_a_modern_one() -> None:
    one = bench()
    tried = one.modern()
    one.call.refuse(json(page_first(PAGE)))
    one.port.ready(FakeUpstream("mole", agreed("modern")))
    one.retry(tried, {key: {"action": "accept"} for key in tried.result["inputRequests"]})
    assert set(one.call.params) == {"name", "arguments"}, "the state is not its own"


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}, {"elicitation": {"form": {}}}])
def test_a_modern_host_that_visits_no_pages_is_told_what_it_would_have_to_declare(capabilities: Any) -> None:
    one = bench()
    tried = one.modern(capabilities=capabilities)
    one.call.refuse(json(page_first(PAGE)))
    assert tried.error["code"] == -32021
    assert tried.error["message"] == "Go there first"
    assert tried.error["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}, "elicitations": [PAGE]}
    assert tried.outlet.status == 400
    assert one.outcomes == ["error"]


def test_a_page_to_visit_where_no_round_can_be_is_an_error_that_the_revision_has() -> None:
    one = bench()
    tried = one.modern(method="completion/complete", params={"ref": {}})
    one.call.refuse(json(page_first(PAGE, why="x")))
    assert tried.error == {**page_first(PAGE, why="x"), "code": -32603}


async def test_a_page_to_visit_that_comes_while_a_question_is_open_is_the_round_of_the_retry() -> None:
    async with live() as one:
        tried = one.modern()
        ask(one.call)
        one.call.refuse(json(page_first(PAGE)))
        again = one.retry(tried, {"q1": ACCEPT})
        assert [asked["params"] for asked in again.result["inputRequests"].values()] == [NO_ID]


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"elicitations": []},
        {"elicitations": [5]},
        {"elicitations": [{"mode": "url"}]},
        {"elicitations": [FORM]},
    ],
)
def test_an_error_that_only_has_the_number_passes_as_it_is(data: Any) -> None:
    one = bench()
    tried = one.modern()
    error = {"code": -32042, "message": "mine", **({} if data is None else {"data": data})}
    one.call.refuse(json(error))
    assert tried.error == error


@pytest.mark.parametrize(("host_era", "server_era"), [("legacy", "legacy"), ("legacy", "modern"), ("modern", "modern")])
def test_a_page_to_visit_passes_as_it_is_where_the_host_has_the_error_or_the_server_the_revision(
    host_era: str, server_era: str
) -> None:
    one = bench(server_era)
    tried = getattr(one, host_era)()
    one.call.refuse(json(page_first(PAGE)))
    assert tried.error == page_first(PAGE)
