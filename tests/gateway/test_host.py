"""One host, in both eras and both views, on the real forwarding and servers that are told what to answer."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.abc
import msgspec
import pytest
from gateway_fakes import (
    EVERYTHING,
    FakeOutlet,
    FakePort,
    FakeUpstream,
    FakeWorld,
    Unsolicited,
    agreed,
    answer,
    ask,
    modern_ask,
    prompt,
    resource,
    tell,
    tool,
)
from mcp_types.methods import SERVER_NOTIFICATIONS, SERVER_RESULTS
from pydantic import TypeAdapter
from trio.testing import MockClock

from moltis.gateway import host as host_module
from moltis.gateway import messages
from moltis.gateway.api import LOCAL, HostApi, Principal
from moltis.gateway.catalogue import FEW_ITEMS
from moltis.gateway.gateway import Gateway
from moltis.gateway.host import Host
from moltis.gateway.messages import Answer, Ask, parse
from moltis.gateway.revisions import tool_for_legacy
from moltis.gateway.subscriptions import MAX_WATCHED
from moltis.gateway.views import Settings, path_of
from moltis.session.listing import Kind
from moltis.slices import Slices

BOTH_ERAS = pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
BOTH_VIEWS = pytest.mark.parametrize("server", [None, "one"], ids=["all", "one"])
READER = Principal("r", may_write=False)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Bench:
    """Two servers, `one` ready and `other` starting, and a gateway for them."""

    def __init__(self, *, first_list_secs: float = 0.0, **what: Any) -> None:
        self.one, self.other = FakePort("one"), FakePort("other", "starting")
        self.upstream = self.one.ready(
            FakeUpstream("one", agreed(**what), tools=[tool("t")], prompts=[prompt("p")], resources=[resource("f:a")])
        )
        self.world = FakeWorld(self.one, self.other)
        self.gateway = Gateway(self.world, Settings(first_list_secs=first_list_secs))

    def host(self, server: str | None = None, principal: Principal = LOCAL, way: Unsolicited | None = None) -> Host:
        return self.gateway.new_host(path_of(server), principal, way or Unsolicited())

    def assert_empty(self) -> None:
        assert self.gateway.hosts == 0
        assert self.gateway.in_flight == 0
        assert len(self.gateway.subscriptions) == 0
        assert len(self.gateway.levels) == 0
        assert self.gateway.subscriptions.wanted("one") == frozenset()


def make(modern: bool, method: str, params: dict[str, Any] | None = None, *, id: int | str = 1) -> Ask:
    return modern_ask(method, params, id=id) if modern else ask(method, params, id=id)


def put(host: HostApi, request: Ask, **kind: bool) -> FakeOutlet:
    outlet = FakeOutlet(**kind)
    host.request(request, outlet)
    return outlet


def in_session(host: Host, **params: Any) -> Host:
    assert put(host, ask("initialize", params, id="i")).answered
    host.notification(tell("notifications/initialized"))
    return host


def name_of(server: str | None, name: str) -> str:
    return f"one__{name}" if server is None else name


# --- beginning


@pytest.mark.parametrize(
    ("asked", "given"),
    [("2024-11-05", "2024-11-05"), ("2025-06-18", "2025-06-18"), ("2026-07-28", "2025-11-25"), (None, "2025-11-25")],
)
@BOTH_VIEWS
def test_a_session_is_held_in_the_hosts_version_or_the_newest(
    server: str | None, asked: str | None, given: str
) -> None:
    params = None if asked is None else {"protocolVersion": asked, "capabilities": {}, "clientInfo": {}}
    assert put(Bench().host(server), ask("initialize", params)).result["protocolVersion"] == given


def test_the_hosts_name_and_abilities_are_remembered_on_one_line_and_nonsense_is_not() -> None:
    host = Bench().host()
    raw = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"clientInfo":{"name":\n"h"},"capabilities":7}}'
    request = parse(raw)
    assert isinstance(request, Ask)
    put(host, request)
    assert msgspec.json.decode(host.client_info) == {"name": "h"}
    assert b"\n" not in host.client_info
    assert host.capabilities == b"{}"


def test_a_request_without_session_and_version_is_legacy_and_works() -> None:
    bench = Bench()
    bench.upstream.replies = lambda call: b'{"content":[1]}'
    outlet = put(bench.host(), ask("tools/call", {"name": "one__t", "arguments": {"limit": 5}}, id=42))
    assert (outlet.replies, outlet.status) == ([{"jsonrpc": "2.0", "id": 42, "result": {"content": [1]}}], 200)


@BOTH_VIEWS
def test_a_modern_host_discovers_what_there_is(server: str | None) -> None:
    result = put(Bench().host(server), modern_ask("server/discover")).result
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["capabilities"] == EVERYTHING


@pytest.mark.parametrize(
    ("meta", "code", "data"),
    [
        ({"io.modelcontextprotocol/protocolVersion": "2025-11-25"}, -32022, "2025-11-25"),
        ({"io.modelcontextprotocol/protocolVersion": "x" * 500}, -32022, "x" * 100),
        ({"io.modelcontextprotocol/protocolVersion": 7}, -32602, None),
        ({"io.modelcontextprotocol/clientCapabilities": 7}, -32602, None),
    ],
)
def test_a_modern_request_must_say_a_version_that_is_spoken_and_what_the_host_can(
    meta: dict[str, Any], code: int, data: str | None
) -> None:
    outlet = put(Bench().host(), modern_ask("tools/list", **meta))
    assert (outlet.error["code"], outlet.status) == (code, 400)
    if data is not None:
        assert outlet.error["data"] == {"supported": ["2026-07-28"], "requested": data}


def test_a_modern_request_without_abilities_is_refused_and_one_without_a_name_is_not() -> None:
    host = Bench().host()
    version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    outlet = put(host, ask("tools/list", meta=version))
    assert (outlet.error["code"], outlet.status) == (-32602, 400)
    request = ask("tools/list", meta={**version, "io.modelcontextprotocol/clientCapabilities": {}})
    assert put(host, request).result["tools"]
    assert msgspec.json.decode(request.meta["io.modelcontextprotocol/clientInfo"])["name"]


def test_initialize_is_not_known_to_an_era_that_has_no_sessions() -> None:
    outlet = put(Bench().host(), modern_ask("initialize"))
    assert (outlet.error["code"], outlet.status) == (-32601, 404)


@pytest.mark.parametrize("method", ["ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"])
def test_a_modern_host_has_no_methods_of_the_older_era(method: str) -> None:
    for server in (None, "one"):
        outlet = put(Bench().host(server), modern_ask(method, {"uri": "f:a", "level": "info"}))
        assert (outlet.error["code"], outlet.status) == (-32601, 404)


@pytest.mark.parametrize("method", ["server/discover", "subscriptions/listen"])
def test_a_legacy_host_has_no_methods_of_the_newer_era(method: str) -> None:
    for server in (None, "one"):
        outlet = put(Bench().host(server), ask(method))
        assert (outlet.error["code"], outlet.status) == (-32601, 200)


def test_ping_is_answered_before_anything_else_is_said() -> None:
    assert put(Bench().host(), ask("ping")).result == {}


# --- waiting for a server that starts for the first time


@BOTH_ERAS
async def test_the_first_word_of_a_starting_server_is_waited_for(modern: bool) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench()
        bench.world.tasks = tasks
        host = bench.host("other")
        opening = put(host, make(modern, "server/discover" if modern else "initialize", id=1))
        listing = put(host, make(modern, "tools/list", id=2))
        await anyio.sleep(3)
        assert not opening.answered
        assert bench.gateway.in_flight == 2
        bench.other.ready(FakeUpstream("other", agreed(instructions="Hello."), tools=[tool("x")]))
        await anyio.sleep(0.01)
        assert opening.result["instructions"] == "Hello."
        assert [item["name"] for item in listing.result["tools"]] == ["x"]
        assert bench.gateway.in_flight == 0


@BOTH_ERAS
async def test_a_server_that_does_not_come_up_is_waited_for_ten_seconds(modern: bool) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench()
        bench.world.tasks = tasks
        outlet = put(bench.host("other"), make(modern, "server/discover" if modern else "initialize"))
        await anyio.sleep(9.9)
        assert not outlet.answered
        await anyio.sleep(0.2)
        assert outlet.result["capabilities"] == EVERYTHING


@BOTH_ERAS
async def test_a_first_list_of_all_waits_for_servers_of_which_nothing_is_known(modern: bool) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(first_list_secs=5)
        bench.world.tasks = tasks
        host = bench.host()
        opening = put(host, make(modern, "server/discover" if modern else "initialize", id=1))
        listing = put(host, make(modern, "tools/list", id=2))
        await anyio.sleep(2)
        bench.other.move("backoff")  # a first failure does not end it
        await anyio.sleep(1)
        assert not opening.answered
        assert not listing.answered
        bench.other.move("starting")
        bench.other.ready(FakeUpstream("other", agreed(), tools=[tool("x")]))
        await anyio.sleep(0.01)
        assert "instructions" not in opening.result
        assert [item["name"] for item in listing.result["tools"]] == ["one__t", "other__x"]
        assert bench.gateway.in_flight == 0


@BOTH_ERAS
async def test_who_is_not_up_in_that_time_is_named_and_held_up_for_once(modern: bool) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(first_list_secs=5)
        bench.world.tasks = tasks
        began = anyio.current_time()
        opening = put(bench.host(), make(modern, "server/discover" if modern else "initialize", id=1))
        await anyio.sleep(4.9)
        assert not opening.answered
        other = put(bench.host(), make(modern, "tools/list"))
        await anyio.sleep(0.2)
        assert opening.result["instructions"].startswith("Still starting: other; ")
        assert [item["name"] for item in other.result["tools"]] == ["one__t"]
        again = put(bench.host(), make(modern, "tools/list"))
        assert again.answered
        assert anyio.current_time() - began < 5.2


@pytest.mark.parametrize("state", ["cooldown", "awaiting_auth", "stopped", "disabled", "invalid"])
async def test_a_server_that_will_not_be_up_soon_is_not_waited_for(state: str) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench(first_list_secs=5)
        bench.world.tasks = tasks
        waiting = put(bench.host(), ask("tools/list", id=1))
        await anyio.sleep(1)
        bench.other.move(state)
        await anyio.sleep(0.01)
        assert waiting.answered
        assert put(bench.host(), ask("tools/list", id=2)).answered


async def test_a_host_that_goes_while_it_waits_is_not_answered_and_leaves_no_task() -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench()
        bench.world.tasks = tasks
        early, late = bench.host("other"), bench.host("other")
        outlets = [put(early, ask("initialize"))]
        early.close()
        outlets.append(put(late, ask("initialize")))
        await anyio.sleep(1)
        late.close()
        began = anyio.current_time()
    assert anyio.current_time() - began < 1
    assert not any(outlet.answered for outlet in outlets)
    bench.assert_empty()


# --- lists


@BOTH_ERAS
@BOTH_VIEWS
@pytest.mark.parametrize(
    ("method", "member", "names"),
    [
        ("tools/list", "tools", ["t"]),
        ("prompts/list", "prompts", ["p"]),
        ("resources/list", "resources", ["f:a"]),
        ("resources/templates/list", "resourceTemplates", []),
    ],
)
def test_lists_are_answered_from_what_is_known(
    method: str, member: str, names: list[str], server: str | None, modern: bool
) -> None:
    outlet = put(Bench().host(server), make(modern, method))
    prefixed = names if member == "resources" else [name_of(server, name) for name in names]
    assert [item.get("uri", item["name"]) for item in outlet.result[member]] == prefixed
    assert ("resultType" in outlet.result) == ("ttlMs" in outlet.result) == modern


@BOTH_ERAS
@pytest.mark.parametrize("cursor", ["nonsense", 7])
def test_a_bad_cursor_is_refused(cursor: object, modern: bool) -> None:
    outlet = put(Bench().host(), make(modern, "tools/list", {"cursor": cursor}))
    assert (outlet.error["code"], outlet.status) == (-32602, 400 if modern else 200)


def test_no_cursor_in_other_words_is_the_first_page() -> None:
    for cursor in (None, ""):
        assert put(Bench().host(), ask("tools/list", {"cursor": cursor})).result["tools"]


@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"])
def test_an_empty_cursor_is_one_that_a_modern_host_never_got(method: str) -> None:
    assert put(Bench().host(), make(True, method, {"cursor": ""})).error["code"] == -32602


def test_a_server_that_comes_and_goes_between_two_pages_changes_what_is_listed_and_nothing_else() -> None:
    bench = Bench()
    host = bench.host()
    assert len(put(host, ask("tools/list")).result["tools"]) == 1
    bench.other.ready(tools=[tool("x")])
    bench.gateway.came_up("other")
    assert [item["name"] for item in put(host, ask("tools/list")).result["tools"]] == ["one__t", "other__x"]
    bench.one.move("stopped")
    bench.gateway.server_moved("one")
    assert [item["name"] for item in put(host, ask("tools/list")).result["tools"]] == ["other__x"]


# --- passing on


@BOTH_ERAS
@BOTH_VIEWS
def test_requests_are_passed_on_and_what_comes_back_is_theirs(server: str | None, modern: bool) -> None:
    bench = Bench()
    bench.upstream.replies = lambda call: b'{"was":"%b"}' % call.method.encode()
    host = bench.host(server)
    given: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("tools/call", {"name": name_of(server, "t")}, {"name": "t"}),
        ("prompts/get", {"name": name_of(server, "p")}, {"name": "p"}),
        ("resources/read", {"uri": "f:a"}, {"uri": "f:a"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": name_of(server, "p")}},
         {"ref": {"type": "ref/prompt", "name": "p"}}),
    ]  # fmt: skip
    for number, (method, params, passed) in enumerate(given):
        outlet = put(host, make(modern, method, params, id=number))
        assert outlet.result["was"] == method
        read = bench.upstream.calls[-1].read()
        assert {name: value for name, value in read.items() if name != "_meta"} == passed
    assert bench.gateway.in_flight == 0


@BOTH_ERAS
@BOTH_VIEWS
def test_who_may_only_read_neither_calls_tools_nor_sends_what_is_not_known(server: str | None, modern: bool) -> None:
    bench = Bench()
    bench.upstream.replies = lambda call: b"{}"
    host = bench.host(server, READER)
    outlet = put(host, make(modern, "tools/call", {"name": name_of(server, "t")}))
    assert (outlet.error["code"], outlet.status) == (-32003, 403)
    outlet = put(host, make(modern, "vendor/delete"))
    assert (outlet.error["code"], outlet.status) == (
        (-32601, 404 if modern else 200) if server is None else (-32003, 403)
    )
    assert put(host, make(modern, "prompts/get", {"name": name_of(server, "p")})).answered
    assert put(host, make(modern, "resources/read", {"uri": "f:a"})).answered
    host.notification(tell("notifications/vendor"))
    assert bench.upstream.told == []
    assert [call.method for call in bench.upstream.calls] == ["prompts/get", "resources/read"]


def test_an_unknown_method_goes_to_the_only_server_and_to_none_of_many() -> None:
    bench = Bench()
    bench.upstream.replies = lambda call: b'{"deleted":1}'
    assert put(bench.host("one"), ask("vendor/delete", {"x": 1})).result == {"deleted": 1}
    assert put(bench.host(), ask("vendor/delete")).error["code"] == -32601


def test_a_tool_that_is_nobodys_is_unknown() -> None:
    outlet = put(Bench().host(), modern_ask("tools/call", {"name": "nobody__t"}))
    assert (outlet.error["code"], outlet.status) == (-32602, 400)
    assert "nobody__t" in outlet.error["message"]


@BOTH_ERAS
def test_an_id_that_still_waits_cannot_be_used_again_and_one_that_was_answered_can(modern: bool) -> None:
    bench = Bench()
    host = bench.host()
    call = {"name": "one__t"}
    first = put(host, make(modern, "tools/call", call))
    second = put(host, make(modern, "tools/list"))
    assert (second.error["code"], second.status) == (-32600, 400)
    assert put(host, make(modern, "tools/list", id="1")).answered
    bench.upstream.calls[0].succeed()
    assert first.answered
    assert put(host, make(modern, "tools/list")).result["tools"]


def test_a_stream_that_is_open_has_its_id_in_use() -> None:
    host = Bench().host()
    put(host, modern_ask("subscriptions/listen", {"notifications": {}}))
    assert put(host, modern_ask("tools/list")).error["code"] == -32600


def test_a_request_the_host_cancels_is_cancelled_upstream_and_not_answered() -> None:
    bench = Bench()
    host = bench.host()
    outlet = put(host, ask("tools/call", {"name": "one__t"}, id="a"))
    host.notification(tell("notifications/cancelled", {"requestId": "b"}))
    assert bench.gateway.in_flight == 1
    host.notification(tell("notifications/cancelled", {"requestId": "a", "reason": "enough"}))
    host.notification(tell("notifications/cancelled", {"requestId": "a"}))
    assert bench.upstream.calls[0].cancelled == ["enough"]
    assert bench.gateway.in_flight == 0
    assert not outlet.answered


def test_a_notification_that_is_not_known_goes_to_the_only_server() -> None:
    bench = Bench()
    bench.host("one").notification(tell("notifications/vendor", {"a": 1}))
    bench.host("other").notification(tell("notifications/vendor"))
    bench.host().notification(tell("notifications/vendor"))
    assert bench.upstream.told == [("notifications/vendor", b'{"a":1}')]


def test_roots_that_changed_are_told_to_the_servers_that_know_of_such_a_thing() -> None:
    bench = Bench()
    modern = bench.other.ready(FakeUpstream("other", agreed("modern")))
    bench.host().notification(tell("notifications/roots/list_changed"))
    assert bench.upstream.told == [("notifications/roots/list_changed", b"")]
    assert modern.told == []


def test_what_a_host_tells_goes_to_the_session_of_its_era() -> None:
    bench = Bench()
    modern = bench.other.ready(FakeUpstream("other", agreed("modern")))
    modern.beside = FakeUpstream("other", agreed("legacy"))
    in_session(bench.host()).notification(tell("notifications/roots/list_changed"))
    assert (modern.told, modern.beside.told) == ([], [("notifications/roots/list_changed", b"")])


# --- what a server asks


def test_a_question_goes_to_the_host_on_the_way_of_its_request_and_its_answer_back() -> None:
    host, outlet, heard = Bench().host(), FakeOutlet(), list[Answer]()
    id = host.ask_host("roots/list", b"", outlet, heard.append)
    assert id is not None
    host.answer(answer(id, {"roots": []}))
    assert [one.result for one in heard] == [b'{"roots":[]}']


def test_a_host_that_goes_refuses_what_it_was_asked() -> None:
    host, heard = Bench().host(), list[Answer]()
    assert host.ask_host("roots/list", b"", FakeOutlet(), heard.append) is not None
    host.close()
    assert [one.error is not None for one in heard] == [True]
    assert host.ask_host("roots/list", b"", FakeOutlet(), heard.append) is None


# --- subscribing, in a session


def test_subscribing_and_unsubscribing_reaches_the_server() -> None:
    bench = Bench()
    for server in (None, "one"):
        host = bench.host(server)
        assert put(host, ask("resources/subscribe", {"uri": "f:a"})).result == {}
        assert bench.upstream.watched.pop() == {"f:a"}
        assert put(host, ask("resources/unsubscribe", {"uri": "f:a"})).result == {}
        assert bench.upstream.watched.pop() == frozenset()


def test_subscribing_to_what_nobody_has_is_refused_once_that_is_certain() -> None:
    bench = Bench()
    host = bench.host()
    assert put(host, ask("resources/subscribe", {"uri": "z:a"})).result == {}  # `other` may have it
    bench.other.move("disabled")
    bench.gateway.server_moved("other")
    outlet = put(host, ask("resources/subscribe", {"uri": "z:b"}))
    assert (outlet.error["code"], outlet.error["message"], outlet.status) == (-32002, "Resource not found", 200)
    bench = Bench(capabilities={"resources": {}})
    assert put(bench.host("one"), ask("resources/subscribe", {"uri": "z:b"})).error["code"] == -32002
    assert put(bench.host("one"), ask("resources/subscribe", {"uri": "f:a"})).result == {}


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe"])
def test_a_subscription_needs_a_uri(method: str) -> None:
    assert put(Bench().host(), ask(method)).error["code"] == -32602


def test_subscriptions_of_a_host_are_bounded_streams_included() -> None:
    host = Bench().host("one")
    uris = [f"f:{number}" for number in range(MAX_WATCHED - 1)]
    assert not put(
        host, modern_ask("subscriptions/listen", {"notifications": {"resourceSubscriptions": uris}})
    ).answered
    assert put(host, ask("resources/subscribe", {"uri": "f:x"}, id=2)).result == {}
    assert "limit" in put(host, ask("resources/subscribe", {"uri": "f:y"}, id=3)).error["message"]
    more = {"notifications": {"resourceSubscriptions": ["f:z"]}}
    assert "limit" in put(host, modern_ask("subscriptions/listen", more, id=4)).error["message"]


@pytest.mark.parametrize("member", ["clientInfo", "capabilities"])
def test_what_a_host_says_of_itself_is_kept_and_so_it_is_bounded(member: str) -> None:
    host = Bench().host()
    assert put(host, ask("initialize", {member: {"x": "y" * 300_000}})).error["code"] == -32602
    assert not host.in_session
    assert put(host, ask("initialize", {member: {"x": "y" * 200_000}})).answered


@pytest.mark.parametrize("server", [None, "one"])
def test_a_call_names_its_tool_once_however_servers_read_it(server: str | None) -> None:
    """Some read members of JSON without regard to case, and would call what is filtered out, or somebody else's."""
    bench = Bench()
    params = {"name": name_of(server, "t"), "Name": "hidden"}
    assert put(bench.host(server), ask("tools/call", params)).error["code"] == -32602
    assert not put(bench.host(server), ask("tools/call", {"name": name_of(server, "t"), "title": "x"}, id=2)).answered


def test_what_every_server_is_told_is_short() -> None:
    bench = Bench()
    host = in_session(bench.host())
    for size in (100, 1_000_000):
        host.notification(tell("notifications/roots/list_changed", {"_meta": {"x": "y" * size}}))
    assert [len(params) < 200 for _, params in bench.upstream.told] == [True, True]


def test_levels_must_be_words_of_the_protocol() -> None:
    bench = Bench()
    host = bench.host()
    assert put(host, ask("logging/setLevel", {"level": "loud"})).error["code"] == -32602
    assert put(host, ask("logging/setLevel")).error["code"] == -32602
    assert host.log_level is None
    assert put(host, ask("logging/setLevel", {"level": "warning"})).result == {}
    assert host.log_level == "warning"
    assert bench.upstream.levels == ["warning"]


# --- what belongs to no request


def test_a_host_is_told_nothing_before_it_says_that_it_is_ready() -> None:
    way = Unsolicited()
    host = Bench().host(way=way)
    host.list_changed("notifications/tools/list_changed")
    assert put(host, ask("initialize", id=1)).answered
    host.list_changed("notifications/prompts/list_changed")
    put(host, ask("ping", id=2))
    assert way.sent == []
    host.notification(tell("notifications/initialized"))
    assert way.methods() == ["notifications/prompts/list_changed"]


def test_a_host_that_never_says_that_it_is_ready_is_once_it_asks_for_something() -> None:
    way = Unsolicited()
    host = Bench().host(way=way)
    put(host, ask("initialize"))
    host.list_changed("notifications/tools/list_changed")
    put(host, ask("tools/list"))
    assert way.methods() == ["notifications/tools/list_changed"]


def test_what_a_host_without_a_stream_is_told_is_kept_and_sent_in_order() -> None:
    way = Unsolicited(open=False)
    host = in_session(Bench().host(way=way))
    put(host, ask("resources/subscribe", {"uri": "f:a"}))
    host.list_changed("notifications/tools/list_changed")
    host.say(messages.notification("notifications/message", b'{"data":1}'))
    host.list_changed("notifications/tools/list_changed")
    host.resource_updated("f:a", {})
    host.resource_updated("f:a", {})
    host.say(messages.notification("notifications/message", b'{"data":1}'))
    way.open = True
    host.attached()
    host.attached()
    assert way.methods() == [
        "notifications/tools/list_changed",
        "notifications/message",
        "notifications/resources/updated",
        "notifications/message",
    ]


def test_a_modern_host_hears_only_what_it_listens_to() -> None:
    way = Unsolicited()
    host = Bench().host(way=way)
    outlet = put(host, modern_ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}}))
    host.list_changed("notifications/tools/list_changed")
    host.list_changed("notifications/prompts/list_changed")
    host.say(messages.notification("notifications/message", b"{}"))
    assert way.sent == []
    assert [message["method"] for message in outlet.told[1:]] == ["notifications/tools/list_changed"]


# --- the end


@BOTH_VIEWS
async def test_a_host_that_is_closed_with_everything_open_leaves_nothing_behind(server: str | None) -> None:
    async with anyio.create_task_group() as tasks:
        bench = Bench()
        bench.world.tasks = tasks
        host = in_session(bench.host(server, way=Unsolicited(open=False)), capabilities={"roots": {}})
        tool_call = put(host, ask("tools/call", {"name": name_of(server, "t")}, id=10))
        waits = put(host, ask("tools/call", {"name": "other__x"}, id=11)) if server is None else FakeOutlet()
        put(host, ask("resources/subscribe", {"uri": "f:a"}, id=12))
        put(host, ask("logging/setLevel", {"level": "debug"}, id=13))
        listen = {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["f:a", "f:b"]}}
        stream = put(host, modern_ask("subscriptions/listen", listen, id=14))
        parked = put(host, modern_ask("tools/call", {"name": name_of(server, "t")}, id=15))
        heard: list[Answer] = []
        assert host.ask_host("roots/list", b"", tool_call, heard.append) is not None
        host.list_changed("notifications/tools/list_changed")
        await anyio.sleep(0.01)
        host.close()
        host.close()
        assert [bool(call.cancelled) for call in bench.upstream.calls] == [True, True]
        assert len(heard) == 1
        assert not any(outlet.answered for outlet in (tool_call, waits, stream, parked))
        assert bench.upstream.watched[-1] == frozenset()
        assert bench.upstream.levels == ["debug", None]
        bench.upstream.calls[0].succeed()
        assert not tool_call.answered
        bench.assert_empty()
        host.attached()
        host.list_changed("notifications/tools/list_changed")
        host.resource_updated("f:a", {})
        late = [
            put(host, ask("initialize", id=20)),
            put(host, ask("resources/subscribe", {"uri": "f:a"}, id=21)),
            put(host, ask("tools/call", {"name": name_of(server, "t")}, id=22)),
        ]
        assert [outlet.error["code"] for outlet in late] == [-32005, -32005, -32005]
        bench.assert_empty()
        began = anyio.current_time()
    assert anyio.current_time() - began < 1


def test_a_host_that_is_gone_is_told_nothing_however_open_its_way() -> None:
    way = Unsolicited()
    host = in_session(Bench().host(way=way))
    host.close()
    host.list_changed("notifications/tools/list_changed")
    host.say(messages.notification("notifications/message", b"{}"))
    host.resource_updated("f:a", {})
    assert way.sent == []


def test_a_server_that_is_removed_under_its_host_is_refused_by_name() -> None:
    bench = Bench()
    host = bench.host("one")
    bench.world.remove("one")
    bench.gateway.servers_changed()
    outlet = put(host, ask("tools/call", {"name": "t"}))
    assert outlet.error["code"] == -32004
    assert put(host, ask("tools/list")).result["tools"] == []


# --- the reference


@BOTH_VIEWS
@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
def test_what_is_answered_here_is_what_the_reference_expects(version: str, server: str | None) -> None:
    modern = version == "2026-07-28"
    given: dict[str, dict[str, Any]] = {
        "tools/list": {},
        "prompts/list": {},
        "resources/list": {},
        "resources/templates/list": {},
        **({"server/discover": {}} if modern else {"initialize": {}, "ping": {}}),
        **({} if modern else {"resources/subscribe": {"uri": "f:a"}, "resources/unsubscribe": {"uri": "f:a"}}),
        **({} if modern else {"logging/setLevel": {"level": "info"}}),
    }
    for method, params in given.items():
        result = put(Bench().host(server), make(modern, method, params)).result
        assert_valid(SERVER_RESULTS[method, version], result)


@BOTH_VIEWS
def test_what_is_said_on_a_stream_is_what_the_reference_expects(server: str | None) -> None:
    bench = Bench()
    wanted = dict.fromkeys(("toolsListChanged", "promptsListChanged", "resourcesListChanged"), True)
    listen = {"notifications": {**wanted, "resourceSubscriptions": ["f:a"]}}
    outlet = put(bench.host(server), modern_ask("subscriptions/listen", listen))
    for host in list(bench.gateway._hosts):
        for name in ("tools", "prompts", "resources"):
            host.list_changed(f"notifications/{name}/list_changed")
    bench.gateway.notified("one", "notifications/resources/updated", b'{"uri":"f:a"}')
    bench.gateway.close("the end")
    assert len(outlet.told) == 5
    for message in outlet.told:
        assert_valid(SERVER_NOTIFICATIONS[message["method"], "2026-07-28"], message)
    assert_valid(SERVER_RESULTS["subscriptions/listen", "2026-07-28"], outlet.result)


def assert_valid(model: Any, value: dict[str, Any]) -> None:
    TypeAdapter(model).validate_python(value)


# --- what hosts say of themselves


def introduction(size: int, id: int = 1) -> Ask:
    params = {"protocolVersion": "2025-06-18", "capabilities": {"x": "y" * size}, "clientInfo": {"name": "h"}}
    return ask("initialize", params, id=id)


def test_the_hosts_of_one_token_say_only_so_much_of_themselves_and_others_are_not_concerned() -> None:
    bench = Bench()
    bench.gateway.introduced.most = 100_000
    hosts = [bench.host("one") for _ in range(4)]
    outlets = [FakeOutlet() for _ in hosts]
    for host, outlet in zip(hosts, outlets, strict=True):
        host.request(introduction(30_000), outlet)
    assert ["result" in outlet.replies[0] for outlet in outlets] == [True, True, True, False]
    assert outlets[3].error["code"] == -32603
    assert "too much of themselves" in outlets[3].error["message"]
    stranger = FakeOutlet()
    other = bench.host("one", READER)
    other.request(introduction(30_000), stranger)
    assert stranger.result["protocolVersion"]
    for host in (other, hosts[0]):
        host.close()
    again = FakeOutlet()
    hosts[3].request(introduction(30_000, id=2), again)
    assert again.result["protocolVersion"], "what a host had said goes with it"
    for host in hosts:
        host.close()
    assert bench.gateway.introduced.of("") == 0


def test_a_host_that_introduces_itself_again_counts_once() -> None:
    bench = Bench()
    host = bench.host("one")
    for n in range(3):
        host.request(introduction(1000 * (n + 1), id=n), FakeOutlet())
    assert 3000 < bench.gateway.introduced.of("") < 3200
    host.request(introduction(10, id=9), FakeOutlet())
    assert bench.gateway.introduced.of("") < 200


@pytest.mark.parametrize("modern", [False, True])
def test_one_token_does_not_subscribe_to_everything_that_can_be(monkeypatch: pytest.MonkeyPatch, modern: bool) -> None:
    monkeypatch.setattr(host_module, "MAX_WATCHED_OF_ONE", 2)
    bench = Bench()

    def subscribe(host: Host, id: int) -> FakeOutlet:
        outlet = FakeOutlet()
        filter = {"notifications": {"resourceSubscriptions": ["f:a"]}}
        asked = (
            modern_ask("subscriptions/listen", filter, id=id) if modern else ask("resources/subscribe", {"uri": "f:a"})
        )
        host.request(asked, outlet)
        return outlet

    own = [bench.host("one") for _ in range(3)]
    outlets = [subscribe(host, n) for n, host in enumerate(own)]
    assert "Subscription limit reached" in outlets[2].error["message"]
    assert all(not outlet.replies or "result" in outlet.replies[0] for outlet in outlets[:2])
    other = subscribe(bench.host("one", READER), 9)
    assert not other.replies or "result" in other.replies[0]
    own[0].close()
    again = subscribe(own[2], 7)
    assert not again.replies or "result" in again.replies[0]


ARRAY = {"type": "array", "items": {"type": "integer"}}


@BOTH_VIEWS
def test_a_tool_whose_output_is_an_array_is_listed_so_that_each_host_can_read_it(server: str | None) -> None:
    bench = Bench()
    anything = {"type": "object", "properties": {"q": True, "r": False, "s": {"type": "string"}}}
    bench.upstream.lists[Kind.TOOLS] = (
        tool("sums", outputSchema=ARRAY),
        tool("any", inputSchema=anything),
        tool("plain", outputSchema={"type": "object"}),
    )
    old = put(bench.host(server), ask("tools/list")).result["tools"]
    assert [found.get("outputSchema") for found in old] == [None, None, {"type": "object"}]
    assert old[1]["inputSchema"]["properties"] == {"q": {}, "r": {"not": {}}, "s": {"type": "string"}}
    new = put(bench.host(server), modern_ask("tools/list")).result["tools"]
    assert [found.get("outputSchema") for found in new] == [ARRAY, None, {"type": "object"}]
    assert new[1]["inputSchema"] == anything


@pytest.mark.parametrize("schema", [None, True, [], "x", {"anyOf": []}, {"type": ["object"]}, {"type": None}])
def test_an_output_schema_of_any_other_kind_costs_an_older_host_nothing(schema: object) -> None:
    raw = tool_for_legacy(tool("t", outputSchema=schema, title="T").raw)
    assert json.loads(raw) == {"name": "t", "inputSchema": {"type": "object"}, "title": "T"}


@pytest.mark.parametrize(
    "raw", [b"", b"5", b"[]", b'{"outputSchema":', b'{"inputSchema":5}', b'{"inputSchema":{"properties":5}}']
)
def test_what_is_no_tool_passes_as_it_is(raw: bytes) -> None:
    assert tool_for_legacy(raw) == raw


# --- lists so long that to make them would hold up everybody


MANY = FEW_ITEMS * 3


def long_list(tasks: anyio.abc.TaskGroup) -> tuple[Bench, Host]:
    """Return a host whose server lists very many tools all of a sudden."""
    bench = Bench()
    bench.world.tasks = tasks
    host = bench.host()
    bench.upstream.lists[Kind.TOOLS] = tuple(tool(f"t{n}", outputSchema=ARRAY) for n in range(MANY))
    bench.gateway.lists_changed("one")
    return bench, host


@pytest.mark.parametrize("modern", [False, True])
async def test_a_long_list_is_made_item_by_item_before_it_is_told_and_then_at_once(
    modern: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[int] = []
    rest = Slices.rest

    async def count(slices: Slices) -> None:
        rests.append(1)
        await rest(slices)

    monkeypatch.setattr(Slices, "rest", count)
    async with anyio.create_task_group() as tasks:
        _, host = long_list(tasks)
        outlet = put(host, make(modern, "tools/list", {}))
        assert not outlet.answered
        assert host.in_flight == 1
        await anyio.sleep(0.2)
        assert len(outlet.result["tools"]) == MANY
        assert ("outputSchema" in outlet.result["tools"][0]) is modern
        assert len(rests) >= MANY * (1 if modern else 2)
        assert host.in_flight == 0
        assert put(host, make(modern, "tools/list", {}, id=2)).answered, "it is made once"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["cancelled", "closed", "gateway", "fault"])
async def test_who_waits_for_a_long_list_is_not_left_waiting(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with anyio.create_task_group() as tasks:
        bench, host = long_list(tasks)
        outlet = put(host, ask("tools/list", id=7))
        assert not outlet.answered
        if end == "cancelled":
            host.notification(tell("notifications/cancelled", {"requestId": 7}))
        elif end == "closed":
            host.close()
        elif end == "gateway":
            bench.gateway.close("the end")
        else:
            monkeypatch.setattr(host.endpoint, "page", lambda *args, **options: 1 / 0)
        await anyio.sleep(0.2)
        assert host.in_flight == 0
        assert outlet.answered is (end in ("gateway", "fault"))
        if outlet.answered:
            assert outlet.error["code"] in (-32005, -32603)
        tasks.cancel_scope.cancel()
