"""Which instance of a server serves which host, and what its server is told of it."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.abc
import pytest
from gateway_fakes import (
    FakeOutlet,
    FakePort,
    FakeUpstream,
    FakeWorld,
    Unsolicited,
    agreed,
    answer,
    ask,
    modern_ask,
    resource,
    tell,
    tool,
)
from trio.testing import MockClock

from moltis.errors import Busy, UnknownServer
from moltis.gateway.api import LOCAL, Principal
from moltis.gateway.gateway import Gateway
from moltis.gateway.host import ROOTS_SECS, Host
from moltis.gateway.instances import Instances
from moltis.session.face import NO_ROOTS, Face


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


FACE = Face(b'{"name":"a","version":"1"}', b'{"roots":{},"sampling":{}}')


def shared_out(most: int = 8) -> tuple[FakeWorld, Instances]:
    world = FakeWorld(FakePort("own", "idle"), FakePort("all"))
    world.shared_out, world.most = {"own"}, most
    return world, Instances(world)


def test_a_host_finds_the_instance_that_was_made_for_it_and_no_other_one_does() -> None:
    _, instances = shared_out()
    one = instances.begin("own", "one", FACE)
    two = instances.begin("own", "two", FACE)
    assert (one.name, two.name) == ("own@1", "own@2")
    assert instances.find("own", "one") is one
    assert instances.find("own", "three") is None
    assert (instances.is_of("own@1", "one"), instances.is_of("own@1", "two"), instances.is_of("all", "one")) == (
        True, False, False,
    )  # fmt: skip


def test_one_that_is_over_is_forgotten_and_its_host_gets_another() -> None:
    world, instances = shared_out()
    instances.begin("own", "one", FACE)
    instances.forget("own@1")
    world.end_instance("own@1")
    assert instances.find("own", "one") is None
    assert instances.begin("own", "one", FACE).name == "own@2", "a name is nobody else's, ever"


def test_where_there_is_no_room_those_of_hosts_that_are_gone_make_it_the_longest_gone_first() -> None:
    world, instances = shared_out(most=3)
    for key in ("a", "b", "c"):
        instances.begin("own", key, FACE)
    with pytest.raises(Busy):
        instances.begin("own", "d", FACE)
    instances.leave("b")
    instances.leave("a")
    instances.begin("own", "d", FACE)
    assert instances.find("own", "b") is None
    assert instances.find("own", "a") is not None
    instances.begin("own", "e", FACE)
    assert instances.find("own", "a") is None
    assert len(world.instances) == 3
    with pytest.raises(Busy):
        instances.begin("own", "f", FACE)


def test_those_of_a_server_that_is_gone_are_forgotten() -> None:
    world, instances = shared_out()
    instances.begin("own", "one", FACE)
    world.end_instance("own@1")
    world.shared_out = set()
    world.remove("own")
    instances.look_again()
    assert (instances.split, instances.find("own", "one")) == (frozenset(), None)
    with pytest.raises(UnknownServer):
        world.port("own@1")


@pytest.mark.parametrize(
    ("said", "undeclared", "declared"),
    [
        (b'{"roots":{"listChanged":true},"sampling":{}}', (), b'{"roots":{"listChanged":true},"sampling":{}}'),
        (b'{"roots":{},"sampling":{}}', ("sampling",), b'{"roots":{}}'),
        (b"{}", ("roots",), b"{}"),
        (b"[1]", (), b"{}"),
        (b'{"a":', (), b"{}"),
    ],
)
def test_a_server_is_told_what_its_host_can_less_what_it_is_not_to_know_of(
    said: bytes, undeclared: tuple[str, ...], declared: bytes
) -> None:
    assert Face(b"{}", said).declared(undeclared) == declared


# --- hosts


class Bench:
    """A server `own` that is idle, known to have a tool, and serves each host by an instance of its own."""

    def __init__(self, tasks: anyio.abc.TaskGroup | None = None) -> None:
        self.own = FakePort("own")
        self.own.ready(FakeUpstream("own", agreed(), tools=[tool("t")], resources=[resource("f:a")]))
        self.own.remember(self.own.known())
        self.own.move("idle")
        self.world = FakeWorld(self.own, tasks=tasks)
        self.world.shared_out = {"own"}
        self.gateway = Gateway(self.world)

    def host(self, way: Unsolicited | None = None, **capabilities: Any) -> Host:
        host = self.gateway.new_host("/mcp", LOCAL, way or Unsolicited())
        info = {"name": "h", "version": "1"}
        host.request(ask("initialize", {"clientInfo": info, "capabilities": capabilities}, id="i"), FakeOutlet())
        host.notification(tell("notifications/initialized"))
        return host

    def calls(self, name: str) -> list[Any]:
        upstream = self.world.instances[name].upstream()
        assert upstream is not None
        return upstream.calls


def call(host: Host, id: int = 1, outlet: FakeOutlet | None = None) -> FakeOutlet:
    outlet = outlet or FakeOutlet()
    host.request(ask("tools/call", {"name": "own__t", "arguments": {}}, id=id), outlet)
    return outlet


def test_each_host_s_calls_go_to_its_own_instance_and_never_to_the_server_that_all_see() -> None:
    bench = Bench()
    one, two = bench.host(), bench.host()
    call(one)
    call(two)
    call(one, 2)
    assert (len(bench.calls("own@1")), len(bench.calls("own@2"))) == (2, 1)
    assert bench.world.faces["own@1"] == Face(b'{"name":"h","version":"1"}', b"{}", NO_ROOTS)


def test_requests_of_one_access_token_that_belong_to_no_session_share_an_instance_and_no_others_do() -> None:
    bench = Bench()
    for token in ("a", "a", "b"):
        host = bench.gateway.new_host("/mcp", Principal(token), lambda _: False, lasts=False)
        host.request(modern_ask("tools/call", {"name": "own__t", "arguments": {}}), FakeOutlet())
        host.close()
    assert (len(bench.calls("own@1")), len(bench.calls("own@2"))) == (2, 1)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_host_with_folders_is_asked_for_them_before_its_instance_starts_and_not_waited_for_long(
    answers: bool,
) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        host, outlet = bench.host(roots={}), FakeOutlet()
        call(host, 1, outlet)
        await anyio.wait_all_tasks_blocked()
        assert not bench.world.instances
        if answers:
            host.answer(answer(1, {"roots": [{"uri": "file:///a"}]}))
        else:
            await anyio.sleep(ROOTS_SECS + 0.1)
        await anyio.wait_all_tasks_blocked()
        assert len(bench.calls("own@1")) == 1
        roots = b'{"roots":[{"uri":"file:///a"}]}' if answers else NO_ROOTS
        assert bench.world.faces["own@1"].roots == roots


async def test_a_call_that_is_cancelled_while_its_host_is_asked_for_folders_starts_nothing() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        host = bench.host(roots={})
        outlet = call(host)
        await anyio.wait_all_tasks_blocked()
        host.notification(tell("notifications/cancelled", {"requestId": 1}))
        await anyio.sleep(ROOTS_SECS + 1)
        assert (bench.world.instances, outlet.answered, host.in_flight) == ({}, False, 0)


async def test_folders_that_change_are_asked_for_anew_before_the_server_hears_of_it() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        way = Unsolicited()
        host = bench.host(way, roots={"listChanged": True})
        call(host)
        await anyio.wait_all_tasks_blocked()
        host.answer(answer(1, {"roots": []}))
        await anyio.wait_all_tasks_blocked()
        host.notification(tell("notifications/roots/list_changed"))
        await anyio.wait_all_tasks_blocked()
        upstream = bench.world.instances["own@1"].upstream()
        assert upstream is not None
        assert upstream.told == []
        host.answer(answer(2, {"roots": [{"uri": "file:///b"}]}))
        await anyio.wait_all_tasks_blocked()
        assert upstream.told == [("notifications/roots/list_changed", b"")]
        assert bench.world.faces["own@1"].roots == b'{"roots":[{"uri":"file:///b"}]}'


def test_where_there_is_no_room_a_model_reads_why_and_a_subscription_is_refused() -> None:
    bench = Bench()
    bench.world.most = 1
    call(bench.host())
    other = bench.host()
    refused = call(other).result
    assert refused["isError"]
    assert "runs for 1 hosts already" in refused["content"][0]["text"]
    outlet = FakeOutlet()
    other.request(ask("resources/subscribe", {"uri": "f:a"}, id=5), outlet)
    assert "runs for 1 hosts already" in outlet.error["message"]


def test_what_instances_tell_reaches_their_own_hosts_alone() -> None:
    bench = Bench()
    ways = [Unsolicited(), Unsolicited()]
    hosts = [bench.host(way) for way in ways]
    for host in hosts:
        host.request(ask("resources/subscribe", {"uri": "f:a"}, id=7), FakeOutlet())
    assert [port.holds for port in bench.world.instances.values()] == [1, 1]
    before = [len(way.sent) for way in ways]
    bench.gateway.notified("own@1", "notifications/resources/updated", b'{"uri":"f:a"}')
    bench.gateway.notified("own@1", "notifications/message", b'{"level":"error","data":"x"}')
    bench.gateway.notified("own", "notifications/message", b'{"level":"error","data":"x"}')
    assert [len(way.sent) - count for way, count in zip(ways, before, strict=True)] == [2, 0]
    assert [seen.name for seen in bench.gateway.seen_of("own@1")] == ["h"]
    hosts[0].close()
    assert [port.holds for port in bench.world.instances.values()] == [0, 1]


@pytest.mark.parametrize("state", ["stopped", "disabled", "invalid"])
def test_of_a_server_that_shall_not_run_no_instance_is_made(state: str) -> None:
    bench = Bench()
    bench.own.move(state)
    bench.gateway.server_moved("own")
    assert call(bench.host()).result["isError"]
    assert not bench.world.instances


def test_a_host_that_subscribes_to_an_instance_that_is_gone_hears_nothing_of_another_s() -> None:
    bench = Bench()
    way = Unsolicited()
    host, other = bench.host(way), bench.host()
    host.request(ask("resources/subscribe", {"uri": "f:a"}, id=7), FakeOutlet())
    bench.gateway.instance_over("own@1")
    bench.world.end_instance("own@1")
    before = len(way.sent)
    call(other)
    (name,) = bench.world.instances
    bench.gateway.notified(name, "notifications/resources/updated", b'{"uri":"f:a"}')
    assert len(way.sent) == before
