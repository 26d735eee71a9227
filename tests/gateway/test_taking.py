"""What a host asks for is acknowledged when the servers concerned have taken it, and within a time if they never do."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from gateway_fakes import (
    FakeOutlet,
    FakePort,
    FakeUpstream,
    FakeWorld,
    Unsolicited,
    ask,
    modern_ask,
    resource,
    tell,
    template,
)
from trio.testing import MockClock

from moltis.gateway.api import LOCAL
from moltis.gateway.gateway import Gateway
from moltis.gateway.host import Host
from moltis.gateway.subscriptions import MAX_WATCHED
from moltis.gateway.views import path_of
from moltis.gateway.waits import TAKING_SECS
from moltis.session.listing import Kind
from moltis.session.wishes import Wish

OURS, THEIRS = Wish("resource", "f:a"), Wish("resource", "g:b")
REFUSAL = b'{"code":-32602,"message":"no such thing"}'
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Time passes as soon as nobody has anything to do."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Bench:
    """Servers `one` with `f:a` and `other` with `g:b`, both ready."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.one, self.other = FakePort("one"), FakePort("other")
        self.up = self.one.ready(resources=[resource("f:a")])
        self.up_other = self.other.ready(resources=[resource("g:b")])
        self.world = FakeWorld(self.one, self.other, tasks=tasks)
        self.gateway = Gateway(self.world)
        self.way = Unsolicited()

    def session(self, server: str | None = None) -> Host:
        host = self.gateway.new_host(path_of(server), LOCAL, self.way)
        host.request(ask("initialize", id="i"), FakeOutlet())
        host.notification(tell("notifications/initialized"))
        return host

    def subscribe(self, host: Host, uri: str = "f:a", *, id: int = 1) -> FakeOutlet:
        outlet = FakeOutlet()
        host.request(ask("resources/subscribe", {"uri": uri}, id=id), outlet)
        return outlet

    def listen(self, *uris: str, lists: bool = False, server: str | None = None) -> FakeOutlet:
        host, outlet = self.gateway.new_host(path_of(server), LOCAL, Unsolicited(open=False)), FakeOutlet()
        wanted: dict[str, Any] = {"resourceSubscriptions": list(uris)}
        if lists:
            wanted["toolsListChanged"] = True
        host.request(modern_ask("subscriptions/listen", {"notifications": wanted}), outlet)
        return outlet


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    async with anyio.create_task_group() as tasks:
        yield Bench(tasks)
        tasks.cancel_scope.cancel()


def methods(outlet: FakeOutlet) -> list[str]:
    return [message["method"] for message in outlet.told]


async def test_a_subscription_is_acknowledged_when_the_server_has_acknowledged_it() -> None:
    async with running() as bench:
        bench.up.takes(OURS, False)
        outlet = bench.subscribe(bench.session())
        await anyio.sleep(TAKING_SECS / 2)
        assert not outlet.answered
        bench.up.takes(OURS)
        await anyio.wait_all_tasks_blocked()
        assert outlet.result == {}


async def test_a_subscription_that_waits_for_nothing_is_answered_at_once() -> None:
    async with running() as bench:
        assert bench.subscribe(bench.session()).result == {}


async def test_two_who_subscribe_to_the_same_wait_for_the_same() -> None:
    async with running() as bench:
        bench.up.takes(OURS, False)
        outlets = [
            bench.subscribe(bench.session()),
            bench.subscribe(host := bench.session()),
            bench.subscribe(host, id=2),
        ]
        await anyio.sleep(1)
        assert not any(outlet.answered for outlet in outlets)
        bench.up.takes(OURS)
        await anyio.wait_all_tasks_blocked()
        assert [outlet.result for outlet in outlets] == [{}, {}, {}]


@pytest.mark.parametrize("listens", [False, True])
async def test_a_server_that_acknowledges_nothing_hangs_no_host(listens: bool) -> None:
    async with running() as bench:
        bench.up.takes(OURS, False)
        outlet = bench.listen("f:a", "g:b") if listens else bench.subscribe(bench.session())
        await anyio.sleep(TAKING_SECS - 0.1)
        assert not outlet.raw
        await anyio.sleep(0.2)
        assert len(outlet.raw) == 1
        assert methods(outlet) == [ACKNOWLEDGED] if listens else outlet.result == {}


@pytest.mark.parametrize("state", ["starting", "backoff", "stopped"])
async def test_a_server_that_is_not_ready_is_not_waited_for_and_its_hosts_hear_when_it_is_back(state: str) -> None:
    async with running() as bench:
        bench.up.takes(OURS, False)
        outlet = bench.subscribe(bench.session())
        bench.one.move(state)
        bench.up.stirred.stir()
        await anyio.wait_all_tasks_blocked()
        assert outlet.result == {}
        again = FakeUpstream("one", resources=[resource("f:a")])
        again.takes(OURS, False)
        bench.one.ready(again)
        bench.gateway.came_up("one")
        await anyio.sleep(1)
        assert again.watched == [{"f:a"}]
        assert UPDATED not in bench.way.methods(), "the server does not tell of it yet"
        again.takes(OURS)
        await anyio.wait_all_tasks_blocked()
        assert bench.way.methods().count(UPDATED) == 1


async def test_what_was_subscribed_to_before_its_server_was_known_is_told_of_when_it_is_there() -> None:
    async with running() as bench:
        late = bench.world.add(FakePort("late", "starting"))
        bench.gateway.servers_changed()
        assert bench.subscribe(bench.session(), "h:c").result == {}
        late.ready(resources=[resource("h:c")])
        bench.gateway.came_up("late")
        await anyio.sleep(1)
        assert bench.way.methods().count(UPDATED) == 1


async def test_a_refusal_of_the_server_is_the_hosts_and_what_was_refused_is_not_watched() -> None:
    async with running() as bench:
        bench.up.takes(OURS, False)
        outlet = bench.subscribe(bench.session())
        bench.up.takes(OURS, REFUSAL)
        await anyio.wait_all_tasks_blocked()
        assert (outlet.error["code"], outlet.error["message"]) == (-32602, "no such thing")
        assert bench.gateway.subscriptions.wanted("one") == frozenset()


async def test_a_stream_about_what_one_server_refuses_is_refused_and_of_several_the_rest_is_acknowledged() -> None:
    async with running() as bench:
        bench.up.takes(OURS, REFUSAL)
        assert bench.listen("f:a").error["message"] == "no such thing"
        outlet = bench.listen("f:a", "g:b")
        assert outlet.told[0]["params"]["notifications"] == {"resourceSubscriptions": ["g:b"]}
        assert not outlet.answered
        assert bench.gateway.subscriptions.wanted("one") == frozenset()


async def test_of_a_stream_the_acknowledgement_comes_first_and_what_was_heard_before_follows_once() -> None:
    async with running() as bench:
        bench.up.takes(OURS, False)
        outlet = bench.listen("f:a", "g:b")
        for _ in range(3):
            bench.gateway.notified("other", UPDATED, b'{"uri":"g:b"}')
        await anyio.sleep(1)
        assert outlet.raw == []
        bench.up.takes(OURS)
        await anyio.wait_all_tasks_blocked()
        assert methods(outlet) == [ACKNOWLEDGED, UPDATED]


async def test_listening_to_lists_is_acknowledged_when_all_servers_tell_of_theirs() -> None:
    async with running() as bench:
        bench.up.takes(Wish("lists"), False)
        bench.up_other.takes(Wish("lists"), False)
        outlet = bench.listen(lists=True)
        bench.up.takes(Wish("lists"))
        await anyio.sleep(1)
        assert outlet.raw == []
        bench.up_other.takes(Wish("lists"))
        await anyio.wait_all_tasks_blocked()
        assert methods(outlet) == [ACKNOWLEDGED]


async def test_a_level_is_acknowledged_when_the_servers_have_taken_it_and_an_only_servers_refusal_is_passed_on() -> (
    None
):
    async with running() as bench:
        level = Wish("level")
        bench.up.takes(level, False)
        outlets = {server: FakeOutlet() for server in (None, "one")}
        for server, outlet in outlets.items():
            bench.session(server).request(ask("logging/setLevel", {"level": "debug"}), outlet)
        await anyio.sleep(1)
        assert not any(outlet.answered for outlet in outlets.values())
        bench.up.takes(level, REFUSAL)
        await anyio.wait_all_tasks_blocked()
        assert outlets["one"].error["message"] == "no such thing"
        assert outlets[None].result == {}, "others may have taken it"


async def test_a_subscription_that_is_cancelled_while_it_waits_gets_no_reply() -> None:
    async with running() as bench:
        bench.up.takes(OURS, False)
        outlet = bench.subscribe(host := bench.session())
        host.notification(tell("notifications/cancelled", {"requestId": 1}))
        await anyio.sleep(2 * TAKING_SECS)
        assert outlet.raw == []
        assert host.in_flight == 0


async def test_unsubscribing_is_in_force_at_once() -> None:
    async with running() as bench:
        bench.subscribe(host := bench.session())
        host.request(ask("resources/unsubscribe", {"uri": "f:a"}, id=2), FakeOutlet())
        bench.gateway.notified("one", UPDATED, b'{"uri":"f:a"}')
        await anyio.sleep(1)
        assert bench.way.sent == []


# --- whose it is takes long to find out


HOSTILE = [template("f:" + "{a}b" * 15 + f"{{c{n}}}") for n in range(430)]
LONG = "f:" + "b" * 3800 + "/"


@asynccontextmanager
async def slow() -> AsyncIterator[Bench]:
    """A world in which a server has templates that are made to take long."""
    async with running() as bench:
        bench.up.lists[Kind.TEMPLATES] = tuple(HOSTILE)
        bench.gateway.lists_changed("one")
        yield bench


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await anyio.sleep(0.01)


def measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the CPU seconds that each turn of the loop will have spent on locating."""
    turn, spent = bench.gateway.subscriptions.turn, list[float]()

    def measure() -> bool:
        began = time.thread_time()
        is_left = turn()
        spent.append(time.thread_time() - began)
        return is_left

    monkeypatch.setattr(bench.gateway.subscriptions, "turn", measure)
    return spent


@pytest.mark.usefixtures("no_collections")
async def test_a_stream_of_many_resources_holds_up_no_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async with slow() as bench:
        spent = measured(bench, monkeypatch)
        began = time.thread_time()
        stream = bench.listen(*(f"{LONG}{n}" for n in range(40)), "g:b")
        assert time.thread_time() - began < 0.3
        assert not stream.raw
        little = bench.listen("f:a")
        assert methods(little) == [ACKNOWLEDGED]
        await until(lambda: bool(stream.raw))
        assert len(spent) > 10
        assert sorted(spent)[len(spent) // 2] < 0.1
        assert len(stream.told[0]["params"]["notifications"]["resourceSubscriptions"]) == 41
        assert bench.up_other.watched[-1] == {"g:b"}


@pytest.mark.usefixtures("no_collections")
async def test_a_list_that_changes_holds_up_no_turn_of_the_loop_and_only_what_moved_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as bench:
        uris = [f"{LONG}{n}" for n in range(40)]
        stream = bench.listen(*uris, "g:b")
        await until(lambda: methods(stream) == [ACKNOWLEDGED])
        spent = measured(bench, monkeypatch)
        bench.up.lists[Kind.TEMPLATES] = tuple(HOSTILE)
        bench.up_other.lists[Kind.RESOURCES] = (resource("g:b"), resource(uris[-1]))
        bench.gateway.lists_changed("one")
        await until(lambda: len(stream.told) > 1)
        assert len(spent) > 10
        assert sorted(spent)[len(spent) // 2] < 0.1
        assert [message["params"]["uri"] for message in stream.told[1:]] == [uris[-1]]


@pytest.mark.parametrize("end", ["cancelled", "closed", "gateway"])
async def test_what_is_given_up_before_it_is_located_leaves_nothing(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with slow() as bench:
        host, stream, single = bench.session(), FakeOutlet(), FakeOutlet()
        monkeypatch.setattr(bench.gateway.subscriptions, "_clock", itertools.count().__next__)
        wanted = {"resourceSubscriptions": [f"f:{n}" for n in range(40)]}
        host.request(modern_ask("subscriptions/listen", {"notifications": wanted}, id=1), stream)
        assert not stream.raw
        if end == "cancelled":
            host.notification(tell("notifications/cancelled", {"requestId": 1}))
        elif end == "closed":
            host.close()
        else:
            bench.gateway.close("the end")
            assert stream.result["resultType"] == "complete"
        await anyio.sleep(0.2)
        assert stream.told == []
        assert len(bench.gateway.subscriptions) == 0
        if end == "cancelled":
            host.request(ask("resources/subscribe", {"uri": "f:a"}, id=1), single)
            assert single.result == {}


async def test_a_single_subscription_is_answered_once_it_is_located_and_may_be_cancelled_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as bench:
        host, outlets = bench.session(), [FakeOutlet(), FakeOutlet()]
        kept: list[Any] = []
        monkeypatch.setattr(
            bench.gateway.subscriptions, "watch", lambda watcher, *uris, then: kept.append((watcher, uris, then))
        )
        for id, outlet in enumerate(outlets):
            host.request(ask("resources/subscribe", {"uri": "f:a"}, id=id), outlet)
        assert host.in_flight == 2
        host.notification(tell("notifications/cancelled", {"requestId": 0}))
        monkeypatch.undo()
        for watcher, uris, then in kept:
            bench.gateway.subscriptions.watch(watcher, *uris, then=then)
        assert not outlets[0].answered
        assert outlets[1].result == {}
        assert host.in_flight == 0


async def test_a_stream_whose_resources_cannot_be_told_to_servers_has_an_answer_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as bench:
        host, stream = bench.session(), FakeOutlet()
        monkeypatch.setattr(bench.gateway.subscriptions, "_clock", itertools.count().__next__)
        monkeypatch.setattr(host, "_listening", lambda *args: 1 / 0)
        wanted = {"resourceSubscriptions": ["f:a", "f:b"]}
        host.request(modern_ask("subscriptions/listen", {"notifications": wanted}, id=1), stream)
        await anyio.sleep(0.2)
        assert stream.error["code"] == -32603
        assert len(bench.gateway.subscriptions) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # it never leaves the loop idle
async def test_a_server_that_is_back_with_much_that_is_watched_holds_up_no_turn_of_the_loop() -> None:
    """Each resource is looked at by itself, not all that is watched for each; and others have their turns between."""
    async with running() as bench:
        streams = [bench.listen(*(f"f:{n}/{m}" for m in range(MAX_WATCHED)), server="one") for n in range(3)]
        await until(lambda: all(stream.raw for stream in streams))
        turns = longest = 0.0
        bench.gateway.came_up("one")
        while sum(len(stream.told) - 1 for stream in streams) < len(streams) * MAX_WATCHED:
            began = time.thread_time()
            await checkpoint()
            turns, longest = turns + 1, max(longest, time.thread_time() - began)
        assert turns > 5
        assert longest < 0.25
