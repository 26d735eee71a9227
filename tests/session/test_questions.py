"""A server's questions: to the host whose call they are about, or to nobody."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any

import anyio
import pytest
from msgspec import Raw
from scripted_host import FakeCaller, answers, begin, question, quiet, reply_to, silent
from scripted_server import Running, a_plan, error, legacy, modern, result

from moltis.config.limits import Limits
from moltis.server.states import FailureKind
from moltis.session.calls import ErrorReply, Failed, Question, Reply, Result
from moltis.transport import Ended


def refusal(running: Running) -> dict[str, Any]:
    """The one answer that the server got, which is a refusal."""
    (answer,) = answers(running)
    assert "result" not in answer
    return answer["error"]  # type: ignore[no-any-return]


async def test_a_question_goes_to_the_host_of_the_one_call_and_its_answer_back() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question("q1", "elicitation/create", message="Name?"))
        await anyio.sleep(1)
        (asked,) = caller.questions
        assert (asked.method, json.loads(asked.params)) == ("elicitation/create", {"message": "Name?"})
        asked.answer(b'{"action":\n"accept"}')
        assert running.server.raw[-1] == b'{"jsonrpc":"2.0","id":"q1","result":{"action": "accept"}}'
        running.session.stop()


async def test_only_the_first_answer_to_a_question_counts() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question(7))
        await anyio.sleep(1)
        (asked,) = caller.questions
        asked.refuse(b'{"code":-1,"message":"User rejected"}')
        asked.answer(b"{}")
        asked.tell("notifications/progress", Raw(b"{}"))
        assert answers(running) == [{"jsonrpc": "2.0", "id": 7, "error": {"code": -1, "message": "User rejected"}}]
        assert running.server.asked("notifications/progress") == []
        running.session.stop()


async def test_an_answer_on_its_way_may_say_how_far_it_is() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question())
        await anyio.sleep(1)
        caller.questions[0].tell("notifications/progress", Raw(b'{"progressToken":3,"progress":1}'))
        (told,) = running.server.asked("notifications/progress")
        assert told["params"] == {"progressToken": 3, "progress": 1}
        running.session.stop()


async def test_what_comes_with_the_answer_to_a_call_is_about_that_call_however_many_there_are() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        one, other = FakeCaller("a"), FakeCaller("b")
        begin(running, one)
        handle = begin(running, other)
        running.server.connection.say(question(), during=handle.id)
        await anyio.sleep(1)
        assert (len(one.questions), len(other.questions)) == (0, 1)
        running.session.stop()


async def test_a_question_that_comes_with_a_call_that_is_over_is_put_to_nobody() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question(), during=99)
        await anyio.sleep(1)
        assert caller.questions == []
        assert refusal(running)["code"] == -32601
        running.session.stop()


async def test_while_two_hosts_have_calls_a_question_waits_until_one_host_is_left() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        one, other = FakeCaller("a"), FakeCaller("b")
        handle = begin(running, one)
        begin(running, other)
        running.server.connection.say(question())
        await anyio.sleep(5)
        assert one.questions == other.questions == []
        running.server.connection.say(reply_to(handle))
        await anyio.sleep(1)
        assert (len(one.questions), len(other.questions)) == (0, 1)
        assert answers(running) == []
        running.session.stop()


async def test_calls_that_begin_later_do_not_keep_a_question_waiting() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        one, other, late = FakeCaller("a"), FakeCaller("b"), FakeCaller("c")
        handle = begin(running, one)
        begin(running, other)
        running.server.connection.say(question())
        await anyio.sleep(1)
        begin(running, late)
        running.server.connection.say(reply_to(handle))
        await anyio.sleep(1)
        assert (len(other.questions), len(late.questions)) == (1, 0)
        running.session.stop()


async def test_a_question_that_stays_undecided_is_refused_after_ten_seconds_in_words() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        one, other = FakeCaller("a"), FakeCaller("b")
        begin(running, one)
        begin(running, other)
        running.server.connection.say(question())
        await anyio.sleep(9.9)
        assert answers(running) == []
        await anyio.sleep(0.2)
        assert "several clients" in refusal(running)["message"]
        assert one.questions == other.questions == []
        assert running.session.facts().counters.refused_requests == 1
        running.session.stop()


async def test_of_several_calls_of_its_host_the_newest_that_can_be_asked_gets_the_question() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        host = object()
        callers = [FakeCaller(host), FakeCaller(host), FakeCaller(host, able=False)]
        for caller in callers:
            begin(running, caller)
        running.server.connection.say(question(1))
        running.server.connection.say(question(2))
        await anyio.sleep(1)
        assert [len(caller.questions) for caller in callers] == [1, 1, 0], "one question a call, while there are calls"
        running.session.stop()


async def test_the_call_of_a_host_that_cannot_be_asked_is_asked_nothing() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a", able=False)
        begin(running, caller)
        running.server.connection.say(question())
        await anyio.sleep(1)
        assert caller.questions == []
        assert "cannot be asked" in refusal(running)["message"]
        running.session.stop()


async def test_calls_of_the_control_socket_are_a_host_of_their_own_that_cannot_be_asked() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        handle = running.session.call_tool("t", None, None, running.replies.append)
        running.server.connection.say(question(1))
        await anyio.sleep(1)
        assert caller.questions == [], "it may be about the other call"
        running.server.connection.say(result({"id": handle.id}, {}))  # type: ignore[union-attr]
        await anyio.sleep(1)
        assert len(caller.questions) == 1
        running.session.stop()


async def test_what_the_session_asks_for_itself_is_nobodys_call() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(
            tasks, legacy("t", tools__call=lambda r: [], ping=lambda r: []), relays=True
        ).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.session.probe()
        running.server.connection.say(question())
        await anyio.sleep(1)
        assert len(caller.questions) == 1
        running.session.stop()


@pytest.mark.parametrize(
    ("method", "elicitation", "answer"),
    [
        ("roots/list", "none", {"roots": []}),
        ("ping", "none", {}),
        ("elicitation/create", "defaults", {"action": "decline"}),
        ("elicitation/create", "none", None),
        ("sampling/createMessage", "defaults", None),
        ("tasks/list", "defaults", None),
    ],
)
async def test_with_no_call_under_way_only_what_needs_no_host_is_answered(
    method: str, elicitation: Any, answer: Any
) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), a_plan(elicitation=elicitation), relays=True).until_ready()
        running.server.connection.say(question(method=method))
        await anyio.sleep(1)
        (got,) = answers(running)
        assert got.get("result") == answer
        assert ("error" in got) is (answer is None)
        running.session.stop()


async def test_a_host_that_cannot_be_asked_for_values_has_the_configured_defaults_given_for_it() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), a_plan(elicitation="defaults"), relays=True).until_ready()
        begin(running, FakeCaller("a", able=False))
        schema = {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}
        running.server.connection.say(question(method="elicitation/create", message="?", requestedSchema=schema))
        await anyio.sleep(1)
        assert answers(running)[0]["result"] == {"action": "accept", "content": {"n": 3}}
        running.session.stop()


@pytest.mark.parametrize(
    ("key", "method"),
    [("elicitation", "elicitation/create"), ("sampling", "sampling/createMessage"), ("roots", "roots/list")],
)
async def test_what_is_not_to_be_declared_is_not_and_what_is_asked_all_the_same_is_refused(
    key: str, method: str
) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), a_plan(**{key: "none"}), relays=True).until_ready()
        told = running.server.asked("initialize")[0]["params"]["capabilities"]
        assert set(told) == {"elicitation", "sampling", "roots"} - {key}
        begin(running, caller := FakeCaller("a"))
        running.server.connection.say(question(method=method))
        await anyio.sleep(1)
        assert caller.questions == []
        assert refusal(running)["code"] == -32601
        running.session.stop()


async def test_a_server_that_is_told_of_nothing_can_be_told_of_nothing() -> None:
    async with anyio.create_task_group() as tasks:
        plan = a_plan(elicitation="none", sampling="none", roots="none")
        running = await Running(tasks, quiet(), plan, relays=True).until_ready()
        assert running.server.asked("initialize")[0]["params"]["capabilities"] == {}
        running.session.stop()


@pytest.mark.parametrize(
    ("method", "key"), [("elicitation/create", "elicitation"), ("sampling/createMessage", "sampling")]
)
async def test_a_refused_question_names_the_key_that_tells_its_server_beforehand(method: str, key: str) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        begin(running, FakeCaller("a", able=False))
        running.server.connection.say(question(method=method))
        await anyio.sleep(1)
        assert f'{key} = "none" in its entry of moltis.toml' in refusal(running)["message"]
        running.session.stop()


async def test_a_question_that_the_server_takes_back_is_withdrawn_and_not_answered() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question(5))
        await anyio.sleep(1)
        params = {"requestId": 5, "reason": "never mind"}
        running.server.connection.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        await anyio.sleep(1)
        ((taken_back, told),) = caller.taken_back
        assert taken_back is caller.questions[0]
        assert json.loads(told) == params
        taken_back.answer(b"{}")
        assert answers(running) == []
        running.session.stop()


async def test_a_question_whose_call_is_over_is_refused_and_withdrawn() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        handle = begin(running, caller)
        running.server.connection.say(question(5))
        await anyio.sleep(1)
        running.server.connection.say(reply_to(handle))
        await anyio.sleep(1)
        assert [json.loads(told)["requestId"] for _, told in caller.taken_back] == [5]
        assert "is over" in refusal(running)["message"]
        assert caller.replies == [Result(b"{}")]
        running.session.stop()


async def test_a_question_stays_while_another_call_of_its_host_may_be_what_it_is_about() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        first, second = FakeCaller("a"), FakeCaller("a")
        begin(running, first)
        handle = begin(running, second)
        running.server.connection.say(question(5))
        await anyio.sleep(1)
        running.server.connection.say(reply_to(handle))
        await anyio.sleep(1)
        assert second.taken_back == []
        second.questions[0].answer(b"{}")
        assert answers(running) == [{"jsonrpc": "2.0", "id": 5, "result": {}}]
        running.session.stop()


async def test_a_call_that_was_given_up_may_still_be_what_a_question_is_about() -> None:
    """The server may not have seen the cancellation: it answers nothing that was sent after it."""
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(ping=silent), relays=True).until_ready()
        gone, other = FakeCaller("a"), FakeCaller("b")
        handle = begin(running, gone)
        begin(running, other)
        handle.cancel()
        await anyio.sleep(1)
        running.server.connection.say(question())
        await anyio.sleep(8)
        assert other.questions == []
        await anyio.sleep(1.5)
        assert len(other.questions) == 1, "after ten seconds it is taken to have been stopped"
        running.session.stop()


@pytest.mark.parametrize("asked_first", [True, False])
async def test_a_question_is_not_kept_back_because_the_same_principal_gave_up_another_call(asked_first: bool) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(ping=silent), relays=True).until_ready()
        gone, other = FakeCaller("a", kin="ann"), FakeCaller("b", kin="ann")
        handle = begin(running, gone)
        begin(running, other)
        if asked_first:
            running.server.connection.say(question())
        handle.cancel()
        if not asked_first:
            running.server.connection.say(question())
        await anyio.sleep(0.5)
        assert (len(gone.questions), len(other.questions)) == (0, 1)
        running.session.stop()


async def test_a_log_message_is_not_dropped_because_the_same_principal_gave_up_another_call() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(ping=silent), relays=True).until_ready()
        gone, other, stranger = FakeCaller("a", kin="ann"), FakeCaller("b", kin="ann"), FakeCaller("c", kin="bob")
        handle = begin(running, gone)
        begin(running, other)
        handle.cancel()
        line = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
        running.server.connection.say(line)
        await anyio.sleep(0.5)
        assert (len(gone.notes), len(other.notes)) == (0, 1)
        begin(running, stranger).cancel()
        running.server.connection.say(line)
        await anyio.sleep(0.5)
        assert len(other.notes) == 1, "that may be the stranger's"
        running.session.stop()


async def test_a_server_that_has_read_a_cancellation_asks_for_others_at_once() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        callers = [FakeCaller("a"), FakeCaller("b"), FakeCaller("c")]
        for caller in callers[:2]:
            begin(running, caller).cancel()
        begin(running, callers[2])
        running.server.connection.say(question())
        await anyio.sleep(0.5)
        assert [len(caller.questions) for caller in callers] == [0, 0, 1]
        assert running.session.facts().counters.late_replies == 0, "we asked for what came"
        running.session.stop()


async def test_the_reply_to_a_request_from_before_a_cancellation_shows_nothing() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(ping=silent), relays=True).until_ready()
        before, gone, other = FakeCaller("a"), FakeCaller("b"), FakeCaller("c")
        early = begin(running, before)
        begin(running, gone).cancel()
        begin(running, other)
        running.server.connection.say(question(), reply_to(early))
        await anyio.sleep(5)
        assert other.questions == []
        running.session.stop()


async def test_a_late_reply_shows_that_a_call_which_was_given_up_asks_nothing_more() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        gone, other = FakeCaller("a"), FakeCaller("b")
        handle = begin(running, gone)
        begin(running, other)
        handle.cancel()
        running.server.connection.say(question(), reply_to(handle))
        await anyio.sleep(1)
        assert (len(gone.questions), len(other.questions)) == (0, 1)
        running.session.stop()


async def test_a_question_of_a_call_that_alone_was_given_up_is_put_to_nobody() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        gone = FakeCaller("a")
        begin(running, gone).cancel()
        running.server.connection.say(question())
        await anyio.sleep(1)
        assert gone.questions == []
        assert refusal(running)["code"] == -32601
        running.session.stop()


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_host_whose_call_was_given_up_is_forgotten_though_nothing_more_is_said(how: str) -> None:
    class Host:
        pass

    async with anyio.create_task_group() as tasks:
        plan = a_plan(limits=Limits(request_timeout_secs=5))
        running = await Running(tasks, quiet(ping=silent), plan, relays=True).until_ready()
        host = Host()
        known = weakref.ref(host)
        handle = begin(running, FakeCaller(host))
        if how == "cancelled":
            handle.cancel()
        del host, handle
        await anyio.sleep(16)
        gc.collect()
        assert known() is None
        running.session.stop()


async def test_while_somebody_thinks_about_a_question_the_idle_time_of_the_call_stands_still() -> None:
    limits = Limits(request_timeout_secs=30, request_timeout_max_secs=1000)
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), a_plan(limits=limits), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        await anyio.sleep(20)
        running.server.connection.say(question())
        await anyio.sleep(500)
        assert caller.replies == []
        caller.questions[0].answer(b"{}")
        await anyio.sleep(29)
        assert caller.replies == []
        await anyio.sleep(2)
        (reply,) = caller.replies
        assert isinstance(reply, Failed)
        assert "for 30 s" in reply.error.message
        running.session.stop()


async def test_the_cap_of_a_call_holds_while_somebody_thinks() -> None:
    limits = Limits(request_timeout_secs=30, request_timeout_max_secs=100)
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), a_plan(limits=limits), relays=True).until_ready()
        caller = FakeCaller("a")
        handle = begin(running, caller)
        running.server.connection.say(question())
        await anyio.sleep(50)
        progress = {"progressToken": handle.id, "progress": 1}
        running.server.connection.say({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
        await anyio.sleep(49)
        assert caller.replies == []
        await anyio.sleep(2)
        assert isinstance(caller.replies[0], Failed)
        assert len(caller.taken_back) == 1
        running.session.stop()


async def test_the_end_of_the_connection_withdraws_questions_and_puts_no_others() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        one, other = FakeCaller("a"), FakeCaller("b")
        begin(running, one)
        running.server.connection.say(question(1))
        await anyio.sleep(1)
        begin(running, other)
        running.server.connection.say(question(2))
        await anyio.sleep(1)
        running.server.connection.end(Ended(FailureKind.EXITED, "exited with code 1", 1))
        await running.until_over()
        assert (len(one.questions), len(other.questions)) == (1, 0)
        assert len(one.taken_back) == 1
        one.questions[0].answer(b"{}")
        assert answers(running) == []


async def test_a_question_under_an_id_that_is_open_already_is_refused() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question("x"), question("x"))
        await anyio.sleep(1)
        assert len(caller.questions) == 1
        assert refusal(running)["code"] == -32600
        running.session.stop()


async def test_a_server_has_no_more_than_so_many_open_questions() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        for start in (0, 150):
            running.server.connection.say(*(question(start + n) for n in range(150)))
            await anyio.sleep(2)
        assert len(caller.questions) == 256
        assert len(answers(running)) == 300 - 256
        running.session.stop()


async def test_a_caller_that_fails_costs_its_question_and_nothing_else() -> None:
    class Broken(FakeCaller):
        def asked(self, question: Question) -> None:
            raise RuntimeError("broken")

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        handle = begin(running, broken := Broken("a"))
        running.server.connection.say(question(), reply_to(handle))
        await anyio.sleep(1)
        assert broken.replies == [Result(b"{}")]
        assert running.session.facts().counters.callback_faults == 1
        assert "cannot be asked" in refusal(running)["message"]
        running.session.stop()


async def test_without_hosts_behind_it_a_server_is_told_of_none_and_asks_none() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet()).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question())
        await anyio.sleep(1)
        assert running.server.asked("initialize")[0]["params"]["capabilities"] == {}
        assert caller.questions == []
        assert refusal(running) == {"code": -32601, "message": "Method not found"}
        running.session.stop()


async def test_a_legacy_server_is_told_what_hosts_can_do_and_a_modern_one_is_told_with_each_request() -> None:
    async with anyio.create_task_group() as tasks:
        old = await Running(tasks, quiet(), relays=True).until_ready()
        assert old.server.asked("initialize")[0]["params"]["capabilities"] == {
            "sampling": {"context": {}, "tools": {}},
            "elicitation": {"form": {}, "url": {}},
            "roots": {"listChanged": True},
        }
        old.session.stop()
        new = await Running(tasks, modern("t"), relays=True).until_ready()
        meta = new.server.asked("tools/list")[0]["params"]["_meta"]
        assert meta["io.modelcontextprotocol/clientCapabilities"] == {}
        new.session.stop()


async def test_a_modern_server_asks_nothing_by_requests() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, modern("t", tools__call=lambda r: []), relays=True).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say(question())
        await anyio.sleep(1)
        assert caller.questions == []
        assert refusal(running)["code"] == -32601
        running.session.stop()


async def test_a_call_that_fails_keeps_its_own_error_beside_its_question() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, quiet(), relays=True).until_ready()
        caller = FakeCaller("a")
        handle = begin(running, caller)
        running.server.connection.say(question(), error({"id": handle.id}, -32000, "no"))
        await anyio.sleep(1)
        replies: list[Reply] = caller.replies
        assert isinstance(replies[0], ErrorReply)
        assert len(caller.taken_back) == 1
        running.session.stop()
