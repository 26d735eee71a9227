"""What a session observes of its server's life: what was said, and what the server may still be busy with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_host import FakeCaller, begin
from scripted_server import Message, Out, Running, Script, a_plan, legacy, modern, result

from moltis.config.limits import Limits
from moltis.errors import ServerNotReady
from moltis.server.lifecycle import Pulse
from moltis.session.calls import Call, Calls
from moltis.session.liveness import Liveness

NEVER = -math.inf
LIMITS = Limits(request_timeout_secs=30.0, request_timeout_max_secs=600.0)


def silent(request: Message) -> list[Out]:
    return []


def call_in(running: Running, timeout_secs: float | None = None) -> Any:
    return running.session.call_tool("t", None, timeout_secs, running.replies.append)


def busy_for(running: Running) -> float:
    """Return how long the server is given yet; 0 if the heartbeat may decide."""
    return max(0.0, running.session.pulse().busy_until - anyio.current_time())


def heard_ago(running: Running) -> float:
    return anyio.current_time() - running.session.pulse().heard_at


ASKS: dict[str, Callable[[Running], Any]] = {
    "tools/call": call_in,
    "prompts/get": lambda r: r.session.get_prompt("p", None, None, r.replies.append),
    "resources/read": lambda r: r.session.read_resource("a:b", None, r.replies.append),
    "tools/list": lambda r: r.server.connection.say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}),
}


@pytest.mark.parametrize("method", ASKS)
@pytest.mark.parametrize("era", [legacy, modern])
async def test_while_any_request_is_under_way_its_own_timeout_decides(method: str, era: Callable[..., Script]) -> None:
    async with anyio.create_task_group() as tasks:
        hung = False

        def answer(request: Message) -> list[Out]:
            return [] if hung else [result(request, {"tools": []})]

        script = era(tools__call=silent, prompts__get=silent, resources__read=silent, tools__list=answer)
        running = await Running(tasks, script, a_plan(limits=LIMITS)).until_ready()
        await anyio.sleep(1)
        assert busy_for(running) == 0
        hung = True
        ASKS[method](running)
        await anyio.sleep(1)
        assert running.server.methods()[-1] == method
        assert busy_for(running) == pytest.approx(29)
        await anyio.sleep(29.5)
        assert busy_for(running) == 0
        running.session.stop()


async def test_of_two_requests_the_later_timeout_counts_and_a_reply_ends_the_waiting() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent), a_plan(limits=LIMITS)).until_ready()
        long, short = call_in(running, 300.0), call_in(running)
        await anyio.sleep(10)
        running.server.connection.say(result({"id": short.id}, {}))
        await anyio.sleep(1)
        assert busy_for(running) == pytest.approx(289)
        running.server.connection.say(result({"id": long.id}, {}))
        await anyio.sleep(1)
        assert busy_for(running) == 0
        assert heard_ago(running) == pytest.approx(1)
        running.session.stop()


async def test_one_request_that_times_out_does_not_end_the_waiting_for_another() -> None:
    """A server that takes one after the other has not even looked at the second."""
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent, ping=silent), a_plan(limits=LIMITS)).until_ready()
        call_in(running, 300.0)
        call_in(running)
        await anyio.sleep(200)
        assert len(running.replies) == 1
        assert busy_for(running) == pytest.approx(100)
        running.session.stop()


async def test_progress_gives_a_request_more_time_and_is_life() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent), a_plan(limits=LIMITS)).until_ready()
        handle = call_in(running)
        for n in range(10):
            await anyio.sleep(20)
            params = {"progressToken": handle.id, "progress": n}
            running.server.connection.say({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        await anyio.sleep(1)
        assert (busy_for(running), heard_ago(running)) == (pytest.approx(29), pytest.approx(1))
        running.session.stop()


SAYS: dict[str, list[Out]] = {
    "a log message": [{"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}],
    "an unknown notification": [{"jsonrpc": "2.0", "method": "notifications/x/y"}],
    "a question": [{"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}}],
    "a ping": [{"jsonrpc": "2.0", "id": 7, "method": "ping"}],
    "a reply to nothing": [{"jsonrpc": "2.0", "id": 4711, "result": {}}],
    "an error": [{"jsonrpc": "2.0", "id": 4711, "error": {"code": -1, "message": ""}}],
    "a batch": [b'[{"jsonrpc":"2.0","method":"notifications/message","params":{}},{"jsonrpc":"2.0","method":"n/a"}]'],
}


@pytest.mark.parametrize("what", SAYS)
async def test_whatever_a_server_says_is_life(what: str) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(ping=silent), relays=True).until_ready()
        await anyio.sleep(50)
        running.server.connection.say(*SAYS[what])
        await anyio.sleep(2)
        assert heard_ago(running) == pytest.approx(2)
        assert busy_for(running) == 0
        running.session.stop()


@pytest.mark.parametrize("channel", ["stderr", "stdout"])
async def test_noise_is_life_only_while_the_server_works(channel: str) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent, ping=silent), a_plan(limits=LIMITS)).until_ready()
        ready_at = running.session.pulse().heard_at

        async def make_noise() -> None:
            await anyio.sleep(5)
            if channel == "stderr":
                running.server.connection.stderr_at = anyio.current_time()
            else:
                running.server.connection.say(b"Loading weights ...")
            await anyio.sleep(1)

        await make_noise()
        assert running.session.pulse().heard_at == ready_at
        call_in(running)
        await make_noise()
        assert heard_ago(running) == pytest.approx(1)
        await anyio.sleep(100)
        assert len(running.replies) == 1
        await make_noise()
        assert heard_ago(running) == pytest.approx(1), "it may still be at what timed out"
        await anyio.sleep(600)
        await make_noise()
        assert heard_ago(running) > 600, "whatever that is, nobody waits for it"
        running.session.stop()


async def test_cancelled_work_is_waited_for_until_the_server_has_read_on() -> None:
    async with anyio.create_task_group() as tasks:
        held: list[Message] = []
        script = legacy(tools__call=silent, ping=lambda r: held.append(r) or [])  # type: ignore[func-returns-value]
        running = await Running(tasks, script, a_plan(limits=LIMITS)).until_ready()
        handle = call_in(running)
        await anyio.sleep(10)
        handle.cancel()
        await anyio.sleep(100)
        assert busy_for(running) == pytest.approx(490)
        running.server.connection.say(SAYS["a log message"][0])
        await anyio.sleep(1)
        assert busy_for(running) > 400, "it may log what it is at"
        running.server.connection.say(result(held[0], {}))
        await anyio.sleep(1)
        assert busy_for(running) == 0
        running.session.stop()


async def test_a_late_reply_shows_that_the_cancelled_work_is_done() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent, ping=silent), a_plan(limits=LIMITS)).until_ready()
        first, second = call_in(running), call_in(running)
        first.cancel()
        second.cancel()
        await anyio.sleep(100)
        running.server.connection.say(result({"id": first.id}, {}))
        await anyio.sleep(1)
        assert busy_for(running) > 400
        running.server.connection.say(result({"id": second.id}, {}))
        await anyio.sleep(1)
        assert busy_for(running) == 0
        running.session.stop()


async def test_a_hung_server_is_found_out_however_often_its_hosts_try_again_and_give_up() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent, ping=silent), a_plan(limits=LIMITS)).until_ready()
        began = anyio.current_time()
        for _ in range(200):
            handle = call_in(running)
            await anyio.sleep(10)
            handle.cancel()
        assert running.session.pulse().busy_until <= began + 630
        running.session.stop()


async def test_a_hung_server_is_found_out_however_often_it_is_called() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent, ping=silent), a_plan(limits=LIMITS)).until_ready()
        began = anyio.current_time()
        for _ in range(50):
            call_in(running)
            await anyio.sleep(7)
        assert running.session.pulse().busy_until <= began + 60
        running.server.connection.say(SAYS["a log message"][0])
        await anyio.sleep(1)
        assert busy_for(running) > 20, "it speaks again, and what it was asked since may be what it is at"
        running.session.stop()


@pytest.mark.parametrize("method", ["elicitation/create", "sampling/createMessage"])
async def test_while_a_person_thinks_the_server_is_waited_for(method: str) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(
            tasks, legacy("t", tools__call=silent, ping=silent), a_plan(limits=LIMITS), relays=True
        ).until_ready()
        caller = FakeCaller("a")
        begin(running, caller)
        running.server.connection.say({"jsonrpc": "2.0", "id": "q", "method": method, "params": {}})
        await anyio.sleep(500)
        assert busy_for(running) == pytest.approx(100)
        caller.questions[0].answer(b'{"action":"decline"}')
        assert busy_for(running) == pytest.approx(30)
        running.session.stop()


async def test_heartbeats_and_streams_keep_no_server_busy() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, modern(subscriptions__listen=silent)).until_ready()
        await anyio.sleep(1)
        assert "subscriptions/listen" in running.server.methods()
        assert busy_for(running) == 0
        running.session.stop()
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(ping=silent)).until_ready()
        running.session.probe()
        await anyio.sleep(1)
        assert busy_for(running) == 0
        running.session.stop()


@pytest.mark.parametrize(
    ("capabilities", "method"),
    [
        ({"tools": {}}, "tools/list"),
        ({"prompts": {}, "tools": {}}, "tools/list"),
        ({"prompts": {}}, "prompts/list"),
        ({"resources": {}}, "resources/list"),
        ({}, "tools/list"),
    ],
)
async def test_who_answers_no_ping_is_asked_for_a_list_that_it_has(capabilities: dict[str, Any], method: str) -> None:
    def initialize(request: Message) -> list[Out]:
        info = {"name": "x", "version": "1"}
        return [result(request, {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info})]

    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(initialize=initialize, ping=silent)).until_ready()
        running.session.probe(otherwise=True)
        await anyio.sleep(1)
        assert running.server.methods()[-1] == method
        assert running.heard.events[-1] == ("alive", pytest.approx(0), "otherwise")
        running.session.stop()


async def test_what_could_not_be_sent_is_told_as_that() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(ping=silent)).until_ready()
        running.session.probe()
        assert running.server.notices is not None
        ping = running.server.asked("ping")[-1]
        running.server.notices.request_failed(
            ping["id"], ServerNotReady("no token", server="x", state="ready"), sent=False
        )
        assert running.heard.events[-1] == ("unsent",)
        running.session.stop()


INSTANTS = st.floats(0, 1000)


@given(
    heard=st.lists(INSTANTS, max_size=5),
    asked=st.lists(st.tuples(INSTANTS, st.sampled_from([5.0, 30.0, 300.0]), st.booleans(), INSTANTS), max_size=12),
    now=st.floats(1000, 4000),
)
def test_no_server_is_waited_for_longer_than_one_request_could_take(
    heard: list[float], asked: list[tuple[float, float, bool, float]], now: float
) -> None:
    """However requests come, time out and are given up, silence ends with the cap of those that were sent before the
    first of them ran out."""
    calls = Calls()
    liveness = Liveness(calls)
    happenings: list[tuple[float, int, Any]] = [(at, 0, None) for at in heard]
    for id, (sent_at, idle, cancelled, later) in enumerate(asked, 1):
        call = Call(id, "tools/call", lambda reply: None, sent_at, idle_secs=idle, max_secs=600.0)
        happenings.append((sent_at, 1, call))
        if cancelled:
            happenings.append((min(sent_at + later, call.due), 2, call))
        else:
            happenings.append((call.due, 3, call))
    last_heard = NEVER
    for at, kind, call in sorted(happenings, key=lambda happening: happening[:2]):
        if at > now:
            break
        if kind == 0:
            liveness.heard_at = last_heard = at
        elif kind == 1:
            calls.add(call)
        else:
            calls.take(call.id)
            liveness.given_up(call, len(asked), at, timed_out=kind == 3)
        pulse = liveness.pulse(at)
        assert isinstance(pulse, Pulse)
        assert pulse.heard_at == last_heard
        sent = [(sent_at, max(sent_at, last_heard) + idle) for sent_at, idle, _, _ in asked if sent_at <= at]
        runs_out = min((end for sent_at, end in sent if end <= sent_at + 600), default=at)
        assert pulse.busy_until <= max(at, runs_out) + 600
        if all(sent_at > last_heard for sent_at, _ in sent):
            assert pulse.busy_until <= max(at, runs_out + 600), "whatever was sent after that holds up nothing"


async def test_a_connection_is_told_how_long_silence_says_nothing() -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, legacy(tools__call=silent), a_plan(limits=LIMITS)).until_ready()
        assert running.session.busy_until() < anyio.current_time()
        call_in(running, 300)
        assert running.session.busy_until() == anyio.current_time() + 300 == running.session.pulse().busy_until
        running.session.stop()
