"""What a server is to do for as long as somebody wants it: told once, told again when it may have forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scripted_host import FakeCaller, begin, note, silent
from scripted_server import DISCOVERED, INITIALIZED, Message, Out, Running, error, legacy, modern, result

from moltis.errors import MoltisError
from moltis.session.calls import ErrorReply, Failed, OnReply, Result
from moltis.session.hooks import Hooks
from moltis.session.wishes import AT_ONCE, LogLevel, Watch, Wish

DONE = Result(b"{}")
REFUSED = ErrorReply(b'{"code":-32602}')


class Server:
    """Takes requests and answers when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.took: list[tuple[str, str]] = []
        self.waiting: list[tuple[tuple[str, str], OnReply]] = []
        self.over = False

    def tell(self, method: str, params: bytes, on_reply: OnReply) -> None:
        if self.over:
            raise MoltisError("over")
        (value,) = json.loads(params).values()
        self.sent.append((method.rsplit("/", 1)[1], value))
        self.waiting.append((self.sent[-1], on_reply))

    def answer(self, reply: Any = DONE) -> None:
        request, on_reply = self.waiting.pop(0)
        if reply is not UNSENT:
            self.took.append(request)
        on_reply(reply)

    def answer_all(self, reply: Any = DONE) -> None:
        while self.waiting:
            self.answer(reply)

    def watched(self) -> set[str]:
        """What it tells of, having taken all requests in their order."""
        found: set[str] = set()
        for verb, uri in self.took:
            (found.add if verb == "subscribe" else found.discard)(uri)
        return found


def test_the_difference_is_told_and_nothing_twice() -> None:
    watch = Watch((server := Server()).tell)
    watch.want(frozenset({"a:", "b:"}))
    server.answer_all()
    watch.want(frozenset({"b:", "c:"}))
    watch.want(frozenset({"b:", "c:"}))
    server.answer_all()
    assert server.sent == [("subscribe", "a:"), ("subscribe", "b:"), ("unsubscribe", "a:"), ("subscribe", "c:")]


def test_two_requests_for_one_resource_are_never_under_way_together() -> None:
    watch = Watch((server := Server()).tell)
    watch.want(frozenset({"a:"}))
    watch.want(frozenset())
    watch.want(frozenset({"a:"}))
    watch.want(frozenset())
    assert server.sent == [("subscribe", "a:")]
    server.answer()
    assert server.sent == [("subscribe", "a:"), ("unsubscribe", "a:")]
    server.answer_all()
    assert len(server.sent) == 2


def test_a_server_that_refuses_is_not_asked_again() -> None:
    watch = Watch((server := Server()).tell)
    watch.want(frozenset({"a:"}))
    server.answer_all(REFUSED)
    watch.want(frozenset({"a:"}))
    assert len(server.sent) == 1


def test_a_server_that_may_have_forgotten_is_told_all_anew() -> None:
    watch = Watch((server := Server()).tell)
    watch.want(frozenset({"a:", "b:"}))
    server.answer_all()
    watch.again()
    assert server.sent[2:] == [("subscribe", "a:"), ("subscribe", "b:")]


def test_few_requests_are_under_way_at_once_and_all_are_sent_in_the_end() -> None:
    watch = Watch((server := Server()).tell)
    watch.want(frozenset(f"a:{n}" for n in range(100)))
    assert len(server.waiting) == AT_ONCE
    server.answer_all()
    assert len(server.watched()) == 100


def test_with_the_connection_over_nothing_is_tried() -> None:
    watch = Watch((server := Server()).tell)
    level = LogLevel(server.tell)
    server.over = True
    watch.want(frozenset({"a:", "b:"}))
    level.want("info")
    assert server.sent == []


def test_what_is_wanted_is_taken_when_the_server_has_replied_and_a_refusal_is_kept_while_it_is_wanted() -> None:
    watch = Watch((server := Server()).tell)
    assert watch.taken("a:") is True, "nothing is waited for"
    watch.want(frozenset({"a:", "b:"}))
    assert watch.taken("a:") is False
    server.answer()
    server.answer(REFUSED)
    assert (watch.taken("a:"), watch.taken("b:")) == (True, REFUSED.raw)
    watch.again()
    assert watch.taken("a:") is False
    server.answer_all()
    assert watch.taken("b:") is True


def test_a_level_is_taken_when_the_server_has_replied_to_the_last() -> None:
    level = LogLevel((server := Server()).tell)
    assert level.taken() is True
    level.want("info")
    level.want("debug")
    server.answer()
    assert level.taken() is False
    server.answer(REFUSED)
    assert level.taken() == REFUSED.raw


UNSENT = Failed(MoltisError("no token"), sent=False)


def test_what_could_not_be_sent_is_not_taken_and_is_told_when_it_can_be() -> None:
    watch = Watch((server := Server()).tell)
    watch.want(frozenset({"a:", "b:"}))
    server.answer()
    server.answer(UNSENT)
    assert (watch.taken("a:"), watch.taken("b:")) == (True, False)
    assert len(server.sent) == 2, "it waits to be let in"
    watch.retry()
    server.answer_all()
    watch.retry()
    assert server.sent[2:] == [("subscribe", "b:")]
    assert watch.taken("b:") is True
    watch.want(frozenset())
    server.answer_all(UNSENT)
    watch.retry()
    server.answer_all()
    assert server.watched() == set()


def test_a_level_that_could_not_be_sent_is_told_when_it_can_be() -> None:
    level = LogLevel((server := Server()).tell)
    level.want("info")
    server.answer(UNSENT)
    assert level.taken() is False
    level.retry()
    server.answer()
    level.retry()
    assert server.sent == [("setLevel", "info")] * 2
    assert level.taken() is True


URIS = st.frozensets(st.sampled_from(["a:", "b:", "c:", "d:"]))


@example([frozenset({"a:"}), frozenset(), DONE, UNSENT, "again"])
@example([frozenset({"a:"}), DONE, "again", frozenset(), UNSENT])
@given(st.lists(URIS | st.sampled_from([DONE, REFUSED, UNSENT, "again", "retry"]), max_size=30))
def test_whatever_is_wanted_in_whatever_order_the_server_ends_up_with_the_last(steps: list[Any]) -> None:
    watch = Watch((server := Server()).tell)
    wanted: frozenset[str] = frozenset()
    for step in steps:
        if isinstance(step, frozenset):
            wanted = step
            watch.want(step)
        elif step == "again":
            watch.again()
        elif step == "retry":
            watch.retry()
        elif server.waiting:
            server.answer(step)
    server.answer_all()
    watch.retry()
    server.answer_all()
    assert server.watched() == wanted
    assert watch.wanted == wanted


def test_a_level_is_told_when_it_differs_one_at_a_time() -> None:
    level = LogLevel((server := Server()).tell)
    for wanted in (None, "info", "info", "debug", "error"):
        level.want(wanted)
    assert server.sent == [("setLevel", "info")]
    server.answer_all()
    level.want(None)
    assert server.sent == [("setLevel", "info"), ("setLevel", "error")]
    level.again()
    assert len(server.sent) == 2, "nobody wants one any more"


# --- of a session


def offering(base: Message, **capabilities: Any) -> Any:
    return lambda r: [result(r, {**base, "capabilities": capabilities})]


SUBSCRIBABLE = {"subscribe": True}


async def test_a_legacy_server_is_asked_for_updates_and_what_it_tells_is_told_to_all() -> None:
    told: list[Any] = []
    async with anyio.create_task_group() as tasks:
        script = legacy(
            initialize=offering(INITIALIZED, resources=SUBSCRIBABLE),
            resources__subscribe=lambda r: [result(r, {})],
            resources__unsubscribe=lambda r: [result(r, {})],
        )
        hooks = Hooks(on_notification=lambda *args: told.append(args))
        running = await Running(tasks, script, hooks=hooks).until_ready()
        running.session.watch_resources(frozenset({"a:b"}))
        await anyio.sleep(1)
        running.server.connection.say(note("notifications/resources/updated", uri="a:b"))
        await anyio.sleep(1)
        running.session.watch_resources(frozenset())
        await anyio.sleep(1)
        assert [m["params"]["uri"] for m in running.server.asked("resources/subscribe")] == ["a:b"]
        assert [m["params"]["uri"] for m in running.server.asked("resources/unsubscribe")] == ["a:b"]
        assert told == [("x", "notifications/resources/updated", b'{"uri": "a:b"}')]
        running.session.stop()


@pytest.mark.parametrize("resources", [{}, {"subscribe": False}, {"listChanged": True}, 5])
async def test_a_server_that_promises_no_updates_is_not_asked_for_them(resources: Any) -> None:
    async with anyio.create_task_group() as tasks:
        script = legacy(initialize=offering(INITIALIZED, resources=resources))
        running = await Running(tasks, script).until_ready()
        running.session.watch_resources(frozenset({"a:b"}))
        await anyio.sleep(1)
        assert running.server.asked("resources/subscribe") == []
        running.session.stop()


async def test_when_messages_were_missed_what_is_wanted_is_told_anew_and_what_is_watched_may_have_changed() -> None:
    told: list[Any] = []
    async with anyio.create_task_group() as tasks:
        script = legacy(
            initialize=offering(INITIALIZED, resources=SUBSCRIBABLE, logging={}),
            resources__subscribe=lambda r: [result(r, {})],
            logging__setLevel=lambda r: [result(r, {})],
        )
        hooks = Hooks(on_notification=lambda *args: told.append(args))
        running = await Running(tasks, script, hooks=hooks).until_ready()
        running.session.watch_resources(frozenset({"a:b"}))
        running.session.want_log_level("debug")
        await anyio.sleep(1)
        running.session.missed()
        await anyio.sleep(1)
        assert len(running.server.asked("resources/subscribe")) == 2
        assert len(running.server.asked("logging/setLevel")) == 2
        assert told == [("x", "notifications/resources/updated", b'{"uri":"a:b"}')]
        running.session.stop()


@pytest.mark.parametrize(
    ("script", "levels"),
    [
        (legacy(initialize=offering(INITIALIZED, logging={}), logging__setLevel=lambda r: [result(r, {})]), ["info"]),
        (legacy(initialize=offering(INITIALIZED, tools={})), []),
        (modern(server__discover=offering(DISCOVERED, logging={})), []),
    ],
    ids=["logs", "does not log", "is told with each request"],
)
async def test_a_level_is_wanted_of_servers_that_are_told_so_beside_the_requests(
    script: Any, levels: list[str]
) -> None:
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, script).until_ready()
        running.session.want_log_level("info")
        await anyio.sleep(1)
        assert [m["params"]["level"] for m in running.server.asked("logging/setLevel")] == levels
        running.session.stop()


# --- of a modern server: `subscriptions/listen`


class Listening:
    """Confirms streams and never ends them, unless it has no room for another."""

    def __init__(self, room: int = 9) -> None:
        self.streams: list[Message] = []
        self.ended: list[int] = []
        self._room = room

    def listen(self, request: Message) -> Iterable[Out]:
        if len(self.streams) - len(self.ended) >= self._room:
            return [error(request, -32603, "no room")]
        self.streams.append(request)
        params = {"_meta": {"io.modelcontextprotocol/subscriptionId": request["id"]}, "notifications": {}}
        return [note("notifications/subscriptions/acknowledged", **params)]

    def cancelled(self, message: Message) -> Iterable[Out]:
        self.ended.append(message["params"]["requestId"])
        return []

    def wanted(self) -> list[Any]:
        return [request["params"]["notifications"].get("resourceSubscriptions") for request in self.streams]


def listened_to(listening: Listening, **capabilities: Any) -> Any:
    return modern(
        server__discover=offering(DISCOVERED, **capabilities),
        subscriptions__listen=listening.listen,
        notifications__cancelled=listening.cancelled,
        tools__call=silent,
    )


async def test_a_modern_server_is_listened_to_for_what_is_watched_and_the_stream_before_ends_after_it() -> None:
    listening = Listening()
    told: list[Any] = []
    async with anyio.create_task_group() as tasks:
        script = listened_to(listening, tools={"listChanged": True}, resources=SUBSCRIBABLE)
        hooks = Hooks(on_notification=lambda *args: told.append(args))
        running = await Running(tasks, script, hooks=hooks).until_ready()
        await anyio.sleep(5)
        lists_read = len(running.server.asked("tools/list"))
        running.session.watch_resources(frozenset({"b:", "a:"}))
        running.session.watch_resources(frozenset({"b:", "a:", "c:"}))
        await anyio.sleep(5)
        running.server.connection.say(note("notifications/resources/updated", uri="a:"))
        await anyio.sleep(5)
        assert listening.wanted() == [None, ["a:", "b:", "c:"]], "changes come in bursts"
        assert all(r["params"]["notifications"]["toolsListChanged"] for r in listening.streams)
        assert listening.ended == [listening.streams[0]["id"]]
        sent = [m.get("method") for m in running.server.sent]
        assert sent.index("notifications/cancelled") > len(sent) - 1 - sent[::-1].index("subscriptions/listen")
        assert len(running.server.asked("tools/list")) == lists_read, "nothing was missed"
        assert told == [("x", "notifications/resources/updated", b'{"uri": "a:"}')]
        running.session.stop()


async def test_a_modern_server_that_announces_no_lists_is_listened_to_only_while_something_is_watched() -> None:
    listening = Listening()
    async with anyio.create_task_group() as tasks:
        running = await Running(tasks, listened_to(listening, resources=SUBSCRIBABLE)).until_ready()
        for uris in (frozenset(), frozenset({"a:"}), frozenset(), frozenset({"b:"})):
            running.session.watch_resources(frozenset(uris))
            await anyio.sleep(5)
        assert listening.wanted() == [["a:"], ["b:"]]
        assert len(listening.ended) == 1
        running.session.stop()


async def test_a_modern_server_with_room_for_one_stream_gets_the_next_after_the_one_before_ended() -> None:
    listening = Listening(room=1)
    async with anyio.create_task_group() as tasks:
        script = listened_to(listening, tools={"listChanged": True}, resources=SUBSCRIBABLE)
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(5)
        running.session.watch_resources(frozenset({"a:"}))
        await anyio.sleep(5)
        assert listening.wanted() == [None, ["a:"]]
        assert listening.ended == [listening.streams[0]["id"]]
        running.session.stop()


async def test_while_the_next_stream_is_not_confirmed_the_one_before_is_kept_for_a_while() -> None:
    streams: list[int] = []
    cancelled: list[float] = []

    def listen(request: Message) -> Iterable[Out]:
        streams.append(request["id"])
        return Listening().listen(request) if len(streams) == 1 else []

    def note_cancelled(message: Message) -> Iterable[Out]:
        cancelled.append(anyio.current_time())
        return []

    async with anyio.create_task_group() as tasks:
        script = modern(
            server__discover=offering(DISCOVERED, tools={"listChanged": True}, resources=SUBSCRIBABLE),
            subscriptions__listen=listen,
            notifications__cancelled=note_cancelled,
        )
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(5)
        began = anyio.current_time()
        running.session.watch_resources(frozenset({"a:"}))
        await anyio.sleep(60)
        assert len(streams) == 2
        assert [round(at - began) for at in cancelled] == [10]
        running.session.stop()


async def test_a_stream_that_broke_off_and_is_confirmed_again_means_that_what_is_watched_may_have_changed() -> None:
    told: list[Any] = []
    listening = Listening()
    async with anyio.create_task_group() as tasks:
        hooks = Hooks(on_notification=lambda *args: told.append(args))
        script = listened_to(listening, tools={"listChanged": True}, resources=SUBSCRIBABLE)
        running = await Running(tasks, script, hooks=hooks).until_ready()
        await anyio.sleep(5)
        running.session.watch_resources(frozenset({"a:"}))
        await anyio.sleep(5)
        running.server.connection.say(result(listening.streams[-1], {}))
        await anyio.sleep(5)
        assert listening.wanted() == [None, ["a:"], ["a:"]]
        assert told == [("x", "notifications/resources/updated", b'{"uri":"a:"}')]
        running.session.stop()


async def test_listening_is_no_call_that_anything_else_could_be_about() -> None:
    async with anyio.create_task_group() as tasks:
        script = listened_to(Listening(), tools={"listChanged": True})
        running = await Running(tasks, script).until_ready()
        await anyio.sleep(1)
        begin(running, caller := FakeCaller("a"))
        running.server.connection.say(note(level="info", data="x"))
        await anyio.sleep(1)
        assert len(caller.notes) == 1
        running.session.stop()


async def until_taken(session: Any, wish: Wish) -> float:
    """Wait until the server has taken it and return how long that took."""
    began = anyio.current_time()
    while session.taken(wish) is False:
        await session.wait_taken()
    return anyio.current_time() - began


async def test_a_modern_server_has_taken_what_the_stream_that_it_confirmed_asked_for() -> None:
    listening = Listening()
    async with anyio.create_task_group() as tasks:
        script = listened_to(listening, tools={"listChanged": True}, resources=SUBSCRIBABLE)
        running = await Running(tasks, script).until_ready()
        await until_taken(running.session, Wish("lists"))
        assert listening.wanted() == [None]
        running.session.watch_resources(frozenset({"a:"}))
        assert running.session.taken(Wish("resource", "a:")) is False
        assert await until_taken(running.session, Wish("resource", "a:")) < 1
        assert listening.wanted() == [None, ["a:"]]
        running.session.stop()


async def test_what_is_wanted_again_while_its_stream_is_being_replaced_is_taken_only_with_the_next() -> None:
    listening, late = Listening(), list[Message]()

    def listen(request: Message) -> Iterable[Out]:
        if len(listening.streams) != 2 or late:
            return listening.listen(request)
        late.append(request)
        return []

    async with anyio.create_task_group() as tasks:
        script = modern(
            server__discover=offering(DISCOVERED, tools={"listChanged": True}, resources=SUBSCRIBABLE),
            subscriptions__listen=listen,
            notifications__cancelled=listening.cancelled,
        )
        running = await Running(tasks, script).until_ready()
        watched = Wish("resource", "a:")
        await until_taken(running.session, Wish("lists"))
        running.session.watch_resources(frozenset({"a:"}))
        await until_taken(running.session, watched)
        running.session.watch_resources(frozenset())
        await anyio.sleep(1)
        assert late
        assert "resourceSubscriptions" not in late[0]["params"]["notifications"]
        running.session.watch_resources(frozenset({"a:"}))
        assert running.session.taken(watched) is False
        for message in listening.listen(late[0]):
            running.server.connection.say(message)
        await until_taken(running.session, watched)
        assert listening.wanted() == [None, ["a:"], None, ["a:"]]
        running.session.stop()


async def test_a_modern_server_that_refuses_to_be_listened_to_has_refused_what_is_watched() -> None:
    async with anyio.create_task_group() as tasks:
        script = modern(
            server__discover=offering(DISCOVERED, resources=SUBSCRIBABLE),
            subscriptions__listen=lambda r: [error(r, -32601, "no")],
        )
        running = await Running(tasks, script).until_ready()
        running.session.watch_resources(frozenset({"a:"}))
        await until_taken(running.session, Wish("resource", "a:"))
        refusal = running.session.taken(Wish("resource", "a:"))
        assert isinstance(refusal, bytes)
        assert json.loads(refusal)["code"] == -32601
        running.session.stop()


async def test_nothing_is_waited_for_of_a_session_that_is_over() -> None:
    async with anyio.create_task_group() as tasks:
        script = legacy(initialize=offering(INITIALIZED, resources=SUBSCRIBABLE), resources__subscribe=silent)
        running = await Running(tasks, script).until_ready()
        running.session.watch_resources(frozenset({"a:"}))
        assert running.session.taken(Wish("resource", "a:")) is False
        running.session.kill()
        assert await until_taken(running.session, Wish("resource", "a:")) < 1
