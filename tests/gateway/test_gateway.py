"""What reaches which host, and what reaches which server, when there are several of both."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from gateway_fakes import (
    FakeOutlet,
    FakePort,
    FakeUpstream,
    FakeWorld,
    Unsolicited,
    agreed,
    ask,
    modern_ask,
    resource,
    tell,
    tool,
)
from trio.testing import MockClock

from moltis.errors import UnknownServer
from moltis.gateway.api import LOCAL, GatewayApi
from moltis.gateway.gateway import ANNOUNCE_AFTER_SECS, MAX_SAID_BYTES, Gateway
from moltis.gateway.host import Host
from moltis.gateway.views import ALL, Settings, path_of
from moltis.session.listing import Kind

SOON = ANNOUNCE_AFTER_SECS + 0.01
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Bench:
    """Servers `one` and `other`, both ready, each with a tool and a resource `f:a`."""

    def __init__(self, tasks: anyio.abc.TaskGroup | None = None) -> None:
        self.one, self.other = FakePort("one"), FakePort("other")
        self.up = self.one.ready(tools=[tool("t")], resources=[resource("f:a")])
        self.up_other = self.other.ready(tools=[tool("t")], resources=[resource("f:a")])
        self.world = FakeWorld(self.one, self.other, tasks=tasks)
        self.gateway = Gateway(self.world)

    def session(self, server: str | None = None) -> tuple[Host, Unsolicited]:
        way = Unsolicited()
        host = self.gateway.new_host(path_of(server), LOCAL, way)
        host.request(ask("initialize"), FakeOutlet())
        host.notification(tell("notifications/initialized"))
        return host, way

    def listen(self, server: str | None = None, *uris: str) -> tuple[Host, FakeOutlet]:
        host, outlet = self.gateway.new_host(path_of(server), LOCAL, Unsolicited(open=False)), FakeOutlet()
        wanted = {"toolsListChanged": True, "resourcesListChanged": True, "resourceSubscriptions": list(uris)}
        host.request(modern_ask("subscriptions/listen", {"notifications": wanted}), outlet)
        return host, outlet


def request(host: Host, method: str, params: dict[str, Any] | None = None, *, id: int = 5) -> FakeOutlet:
    outlet = FakeOutlet()
    host.request(ask(method, params, id=id), outlet)
    return outlet


def methods(outlet: FakeOutlet) -> list[str]:
    return [message["method"].removeprefix("notifications/") for message in outlet.told]


def test_it_is_what_the_fronts_ask_for() -> None:
    gateway: GatewayApi = Bench().gateway
    assert gateway.knows(path_of("one"))
    assert not gateway.knows(path_of("nobody"))
    assert gateway.tool(ALL, "one__t") is not None
    assert gateway.tool(path_of("one"), "t") is not None
    assert gateway.tool(path_of("nobody"), "t") is None
    with pytest.raises(UnknownServer, match="did you mean other"):
        gateway.new_host(path_of("othr"), LOCAL, Unsolicited())


# --- lists that change


async def test_servers_that_come_up_together_are_told_of_once_and_in_both_eras() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        _, all_of = bench.session()
        _, only_one = bench.session("one")
        _, stream = bench.listen()
        for name in ("a", "b", "c"):
            bench.world.add(FakePort(name)).ready(tools=[tool("t")])
            bench.gateway.servers_changed()
            bench.gateway.came_up(name)
            bench.gateway.server_moved(name)
        assert all_of.sent == []
        await anyio.sleep(SOON)
        assert all_of.sent == [{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}]
        assert methods(stream) == ["subscriptions/acknowledged", "tools/list_changed"]
        assert stream.told[1]["params"]["_meta"] == {SUBSCRIPTION_ID: 1}
        assert only_one.sent == []


async def test_a_change_of_one_server_reaches_those_who_see_it() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        ways = {server: bench.session(server)[1] for server in (None, "one", "other")}
        bench.up.lists[Kind.TOOLS] = (tool("t"), tool("u"))
        bench.gateway.lists_changed("one")
        await anyio.sleep(SOON)
        changed = ["notifications/tools/list_changed"]
        assert {server: way.methods() for server, way in ways.items()} == {None: changed, "one": changed, "other": []}


async def test_a_list_that_is_as_it_was_is_not_told_of() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        _, way = bench.session()
        bench.up.lists[Kind.TOOLS] = (tool("t"),)
        bench.gateway.lists_changed("one")
        bench.one.move("backoff")
        bench.gateway.server_moved("one")
        await anyio.sleep(SOON)
        bench.one.ready(tools=[tool("t")], resources=[resource("f:a")])
        bench.gateway.came_up("one")
        await anyio.sleep(SOON)
        assert way.sent == []


async def test_templates_and_resources_that_change_are_one_notification() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        _, way = bench.session()
        bench.one.move("stopped")
        bench.gateway.server_moved("one")
        await anyio.sleep(SOON)
        assert way.methods() == ["notifications/tools/list_changed", "notifications/resources/list_changed"]


async def test_servers_added_and_removed_by_a_reload_are_told_of() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        _, way = bench.session()
        bench.world.remove("other")
        bench.gateway.servers_changed()
        await anyio.sleep(SOON)
        assert way.methods() == ["notifications/tools/list_changed", "notifications/resources/list_changed"]


async def test_another_separator_renames_the_tools_for_everybody() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        host, way = bench.session()
        bench.gateway.reconfigure(Settings(separator="."))
        await anyio.sleep(SOON)
        assert way.methods() == ["notifications/tools/list_changed"]
        assert request(host, "tools/list").result["tools"][0]["name"] == "one.t"


async def test_without_a_host_nothing_is_prepared() -> None:
    bench = Bench()
    for told in (bench.gateway.server_moved, bench.gateway.came_up, bench.gateway.lists_changed):
        told("one")
        told("nobody")
    bench.gateway.servers_changed()
    bench.gateway.notified("one", "notifications/message", b'{"level":"info","data":1}')
    bench.gateway.notified("one", "notifications/resources/updated", b'{"uri":"f:a"}')
    assert bench.world.started == []


async def test_a_host_that_leaves_while_others_are_told_is_no_trouble() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        hosts: list[Host] = []

        def leave_all(message: bytes) -> bool:
            for host in hosts:
                host.close()
            return False

        for _ in range(3):
            host = bench.gateway.new_host(ALL, LOCAL, leave_all)
            host.request(ask("initialize"), FakeOutlet())
            host.notification(tell("notifications/initialized"))
            hosts.append(host)
        bench.one.move("stopped")
        bench.gateway.server_moved("one")
        await anyio.sleep(SOON)
        assert bench.gateway.hosts == 0


# --- resources


def test_two_hosts_that_watch_one_resource_are_one_to_the_server() -> None:
    bench = Bench()
    (legacy, way), (modern, stream) = bench.session(), bench.listen("one", "f:a")
    request(legacy, "resources/subscribe", {"uri": "f:a"})
    assert bench.up.watched == [{"f:a"}]
    bench.gateway.notified("one", "notifications/resources/updated", b'{"uri":"f:a","title":"T"}')
    assert way.sent == [
        {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "f:a", "title": "T"}}
    ]
    assert stream.told[1]["params"] == {"uri": "f:a", "title": "T", "_meta": {SUBSCRIPTION_ID: 1}}
    modern.close()
    assert bench.up.watched == [{"f:a"}]
    bench.gateway.notified("one", "notifications/resources/updated", b'{"uri":"f:a"}')
    assert (len(way.sent), len(stream.told)) == (2, 2)
    legacy.close()
    assert bench.up.watched == [{"f:a"}, frozenset()]
    assert len(bench.gateway.subscriptions) == 0


def test_a_resource_that_two_servers_have_is_told_of_by_the_name_that_says_whose() -> None:
    bench = Bench()
    host, way = bench.session()
    request(host, "resources/subscribe", {"uri": "moltis://other/f%3Aa"})
    assert (bench.up.watched, bench.up_other.watched) == ([], [{"f:a"}])
    bench.gateway.notified("one", "notifications/resources/updated", b'{"uri":"f:a"}')
    bench.gateway.notified("other", "notifications/resources/updated", b'{"uri":"f:a"}')
    assert [message["params"] for message in way.sent] == [{"uri": "moltis://other/f%3Aa"}]


def test_a_server_is_needed_for_as_long_as_somebody_subscribes_to_what_it_tells() -> None:
    bench = Bench()
    first, second = bench.session()[0], bench.session()[0]
    request(first, "resources/subscribe", {"uri": "f:a"})
    request(second, "resources/subscribe", {"uri": "f:a"})
    bench.one.move("backoff")
    bench.gateway.server_moved("one")
    assert bench.one.holds == 1
    request(first, "resources/unsubscribe", {"uri": "f:a"})
    assert bench.one.holds == 1
    second.close()
    assert bench.one.holds == 0


def test_what_is_watched_is_watched_again_by_the_next_session() -> None:
    bench = Bench()
    host, _ = bench.session()
    request(host, "resources/subscribe", {"uri": "f:a"})
    bench.one.move("backoff")
    bench.gateway.server_moved("one")
    request(host, "resources/subscribe", {"uri": "f:a/b"})
    again = bench.one.ready(tools=[tool("t")], resources=[resource("f:a")])
    bench.gateway.came_up("one")
    bench.gateway.server_moved("one")
    assert [set(uris) for uris in again.watched] == [{"f:a"}]


async def test_a_resource_that_nobody_had_is_watched_when_a_server_comes_that_has_it() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        third = bench.world.add(FakePort("third", "starting"))
        bench.gateway.servers_changed()
        host, way = bench.session()
        bench.listen(None, "z:b")
        assert request(host, "resources/subscribe", {"uri": "z:a"}).result == {}
        up = third.ready(resources=[resource("z:a"), resource("z:b")])
        bench.gateway.came_up("third")
        await anyio.sleep(SOON)
        assert up.watched[-1] == {"z:a", "z:b"}
        bench.gateway.notified("third", "notifications/resources/updated", b'{"uri":"z:a"}')
        assert way.methods()[-1] == "notifications/resources/updated"


@pytest.mark.parametrize("params", [b"", b"{}", b"[]", b'{"uri":7}', b'{"uri":"x:other"}'])
def test_an_update_of_nothing_that_is_watched_reaches_nobody(params: bytes) -> None:
    bench = Bench()
    host, way = bench.session()
    request(host, "resources/subscribe", {"uri": "f:a"})
    bench.gateway.notified("one", "notifications/resources/updated", params)
    assert way.sent == []


# --- logging


def test_a_server_logs_from_the_lowest_level_of_all_who_see_it() -> None:
    bench = Bench()
    everything, _ = bench.session()
    only_one, _ = bench.session("one")
    request(everything, "logging/setLevel", {"level": "error"})
    request(only_one, "logging/setLevel", {"level": "debug"})
    request(only_one, "logging/setLevel", {"level": "debug"})
    assert (bench.up.levels, bench.up_other.levels) == (["error", "debug"], ["error"])
    only_one.close()
    assert bench.up.levels[-1] == "error"
    again = bench.one.ready()
    bench.gateway.came_up("one")
    assert again.levels == ["error"]
    everything.close()
    assert (again.levels[-1], bench.up_other.levels[-1]) == (None, None)


def test_a_log_message_reaches_the_sessions_that_see_its_server_and_want_its_level() -> None:
    bench = Bench()
    ways = {}
    for name, server, level in [
        ("a", None, "debug"),
        ("b", "one", "error"),
        ("c", "other", "debug"),
        ("d", None, None),
    ]:
        host, ways[name] = bench.session(server)
        if level is not None:
            request(host, "logging/setLevel", {"level": level})
    _, stream = bench.listen()
    bench.gateway.notified("one", "notifications/message", b'{"level":"debug","data":1}')
    assert [name for name, way in ways.items() if way.sent] == ["a"]
    bench.gateway.notified("one", "notifications/message", b'{"level":"info","data":2}')
    assert [name for name, way in ways.items() if way.sent] == ["a", "d"]
    bench.gateway.notified("one", "notifications/message", b'{"level":"critical","data":3}')
    assert [name for name, way in ways.items() if way.sent] == ["a", "b", "d"]
    assert methods(stream) == ["subscriptions/acknowledged"]


def test_who_never_set_a_level_gets_what_a_server_says_by_itself() -> None:
    bench = Bench()
    _, way = bench.session()
    bench.gateway.notified("one", "notifications/message", b'{"level":"debug","data":1}')
    assert way.methods() == ["notifications/message"]


def test_a_request_that_wants_log_messages_has_a_legacy_server_log_and_a_modern_one_is_told_with_it() -> None:
    bench = Bench()
    modern = bench.other.ready(FakeUpstream("other", agreed("modern"), tools=[tool("t")]))
    bench.gateway.came_up("other")
    for number, name in enumerate(("one__t", "one__t", "other__t")):
        host = bench.gateway.new_host(ALL, LOCAL, Unsolicited(open=False))
        level: dict[str, Any] = {"io.modelcontextprotocol/logLevel": "info"}
        host.request(modern_ask("tools/call", {"name": name}, id=number, **level), FakeOutlet())
        host.close()
    assert (bench.up.levels, modern.levels) == (["info"], [])
    again = bench.one.ready(tools=[tool("t")])
    bench.gateway.came_up("one")
    assert again.levels == []  # the next request that wants it says so


# --- everything else that a server says


def test_what_is_said_to_everybody_is_not_endless() -> None:
    bench = Bench()
    _, way = bench.session("one")
    for size in (MAX_SAID_BYTES, 100):
        for method in ("notifications/message", "notifications/other"):
            bench.gateway.notified("one", method, b'{"data":"%b"}' % (b"x" * size))
    assert [len(message) < 200 for message in way.sent] == [True, True]


def test_other_notifications_reach_those_who_deal_with_this_server_alone() -> None:
    bench = Bench()
    ways = {server: bench.session(server)[1] for server in (None, "one", "other")}
    bench.gateway.notified("one", "notifications/vendor", b'{"a":1}')
    assert [server for server, way in ways.items() if way.sent] == ["one"]
    bench.gateway.notified("one", "notifications/elicitation/complete", b'{"elicitationId":"x"}')
    assert [server for server, way in ways.items() if way.sent] == [None, "one"]
    bench.gateway.notified("one", "notifications/vendor", b"nonsense")
    assert len(ways["one"].sent) == 2


# --- the end


def test_when_it_closes_streams_end_in_order_and_all_that_waits_is_refused() -> None:
    bench = Bench()
    host, _ = bench.session()
    call = request(host, "tools/call", {"name": "one__t"})
    other, stream = bench.listen(None, "f:a")
    bench.gateway.close("the daemon stops")
    bench.gateway.close("again")
    assert call.error["code"] == -32005
    assert "the daemon stops" in call.error["message"]
    assert bench.up.calls[0].cancelled
    assert stream.result == {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: 1}}
    assert bench.gateway.in_flight == 0
    assert len(bench.gateway.subscriptions) == 0
    assert request(host, "tools/list").error["code"] == -32005
    late = FakeOutlet()
    other.request(modern_ask("server/discover"), late)
    assert late.error["code"] == -32005
    assert late.error["data"]["sent"] is False, "it may be asked again"
    assert "sent" not in call.error["data"], "the server may have done it"
    bench.up.calls[0].succeed()
    assert len(call.replies) == 1
    host.close()
    other.close()
    assert bench.gateway.hosts == 0


async def test_when_it_closes_nobody_is_told_of_lists_any_more() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        _, way = bench.session()
        bench.one.move("stopped")
        bench.gateway.server_moved("one")
        bench.gateway.close("the daemon stops")
        await anyio.sleep(SOON)
        assert way.sent == []


async def test_when_it_closes_who_waits_for_a_server_is_refused_at_once() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(tasks)
        bench.world.add(FakePort("third", "starting"))
        bench.gateway.servers_changed()
        host = bench.gateway.new_host(path_of("third"), LOCAL, Unsolicited())
        opening, call = request(host, "initialize", id=1), request(host, "tools/call", {"name": "x"}, id=2)
        await anyio.sleep(1)
        bench.gateway.close("the daemon stops")
        assert opening.error["code"] == call.error["code"] == -32005
        began = anyio.current_time()
    assert anyio.current_time() - began < 1


def test_what_passes_is_counted() -> None:
    counted: list[tuple[Any, ...]] = []
    bench = Bench()
    gateway = Gateway(bench.world, Settings(), lambda *what: counted.append(what))
    host = gateway.new_host(ALL, LOCAL, Unsolicited())
    call = request(host, "tools/call", {"name": "one__t"})
    assert (gateway.hosts, gateway.in_flight) == (1, 1)
    bench.up.calls[0].succeed()
    assert call.answered
    assert [what[:3] for what in counted] == [("tools/call", "one", "t")]
