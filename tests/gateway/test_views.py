from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from gateway_fakes import (
    EVERYTHING,
    FakePort,
    FakeUpstream,
    FakeWorld,
    agreed,
    ask,
    prompt,
    resource,
    template,
    tool,
)
from msgspec import Raw

from moltis.gateway.api import Known
from moltis.gateway.endpoints import Endpoint, Route, endpoint_of
from moltis.gateway.refusals import Refusal
from moltis.gateway.views import Settings, View, Views, path_of
from moltis.server.states import LISTED
from moltis.session.listing import Kind

STATES = (
    "invalid", "disabled", "stopped", "starting", "initializing", "ready", "awaiting_auth", "backoff", "cooldown",
    "stopping",
)  # fmt: skip


def value(world: FakeWorld, server: str | None = None, separator: str = "__") -> View:
    settings = Settings(separator=separator, name_chars=0, version="9")
    return Views(settings, [port.name for port in world.ports()]).at(path_of(server))


def view(world: FakeWorld, server: str | None = None, separator: str = "__") -> Endpoint:
    return endpoint_of(world, value(world, server, separator))


def two_servers() -> tuple[FakeWorld, FakePort, FakePort]:
    one, other = FakePort("one"), FakePort("other")
    one.ready(tools=[tool("t")], prompts=[prompt("p")], resources=[resource("f:a")], templates=[template("f:{x}/{y}")])
    other.ready(tools=[tool("t")], prompts=[prompt("p")], resources=[resource("f:a"), resource("g:b")])
    return FakeWorld(one, other), one, other


def listed(seen: Endpoint, kind: Kind, *, modern: bool = False) -> list[str]:
    page = seen.page(kind, None, modern=modern)
    assert isinstance(page, bytes)
    member = {Kind.TOOLS: "name", Kind.PROMPTS: "name", Kind.RESOURCES: "uri", Kind.TEMPLATES: "uriTemplate"}[kind]
    return [item[member] for item in msgspec.json.decode(page)[kind.member]]


def route(seen: Endpoint, method: str, params: dict[str, Any], *, modern: bool = False) -> Route | Refusal:
    return seen.route(method, ask(method, params).params, modern=modern)


def routed(seen: Endpoint, method: str, params: dict[str, Any]) -> tuple[str, dict[str, Any], str | None, str | None]:
    found = route(seen, method, params)
    assert isinstance(found, Route), found
    return found.port.name, msgspec.json.decode(msgspec.json.encode(found.params)), found.name, found.tool


def refused(seen: Endpoint, method: str, params: dict[str, Any], *, modern: bool = False) -> Refusal:
    found = route(seen, method, params, modern=modern)
    assert isinstance(found, Refusal), found
    return found


# --- what is listed


def test_all_servers_are_listed_as_one_and_one_as_it_is() -> None:
    world, _, _ = two_servers()
    both, one = view(world), view(world, "one")
    assert listed(both, Kind.TOOLS) == ["one__t", "other__t"]
    assert listed(one, Kind.TOOLS) == ["t"]
    assert listed(both, Kind.RESOURCES) == ["f:a", "moltis://other/f%3Aa", "g:b"]
    assert listed(one, Kind.RESOURCES) == ["f:a"]
    assert (both.view.path, one.view.path) == ("/mcp", "/servers/one/mcp")


@pytest.mark.parametrize("state", STATES)
def test_servers_that_run_or_will_by_themselves_are_listed_by_what_was_last_known(state: str) -> None:
    port = FakePort("one")
    port.ready(tools=[tool("t"), tool("off")]).hidden = frozenset({"off"})
    port.switched_off = frozenset({"off"})
    port.move(state)
    for seen in (view(FakeWorld(port)), view(FakeWorld(port), "one")):
        names = [name.removeprefix("one__") for name in listed(seen, Kind.TOOLS)]
        assert names == (["t"] if state in LISTED else [])


def test_tools_that_are_filtered_out_of_a_ready_server_are_not_listed() -> None:
    port = FakePort("one")
    port.ready(tools=[tool("t"), tool("off")]).hidden = frozenset({"off"})
    assert listed(view(FakeWorld(port)), Kind.TOOLS) == ["one__t"]


def test_a_list_for_a_modern_host_begins_with_what_its_era_requires() -> None:
    world, _, _ = two_servers()
    for seen, info in ((view(world), {"name": "moltis", "version": "9"}), (view(world, "one"), None)):
        page = seen.page(Kind.TOOLS, None, modern=True)
        assert isinstance(page, bytes)
        result = msgspec.json.decode(page)
        assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
        assert result["_meta"] == {
            "io.modelcontextprotocol/serverInfo": info or {"name": "fake", "version": "1.0"},
        }
        legacy = seen.page(Kind.TOOLS, None, modern=False)
        assert isinstance(legacy, bytes)
        assert msgspec.json.decode(legacy) == {"tools": result["tools"]}


@pytest.mark.parametrize("server", [None, "one"])
def test_a_cursor_that_is_not_ours_is_refused(server: str | None) -> None:
    world, _, _ = two_servers()
    for modern in (True, False):
        found = view(world, server).page(Kind.TOOLS, "nonsense", modern=modern)
        assert isinstance(found, Refusal)
        assert found.code == -32602


def test_news_are_told_once_and_only_of_lists_that_are_another() -> None:
    world, one, _ = two_servers()
    seen = view(world)
    assert seen.news() == []
    one.up.lists[Kind.TOOLS] = (tool("t"), tool("u"))
    seen.stale()
    assert seen.news() == ["notifications/tools/list_changed"]
    one.up.lists[Kind.TOOLS] = (tool("t"), tool("u"))
    seen.stale()
    assert seen.news() == []
    one.up.lists[Kind.TEMPLATES] = ()
    one.up.lists[Kind.RESOURCES] = ()
    seen.stale()
    assert seen.news() == ["notifications/resources/list_changed"]
    one.move("backoff")
    seen.stale()
    assert seen.news() == []
    one.move("stopped")
    seen.stale()
    assert seen.news() == ["notifications/tools/list_changed", "notifications/prompts/list_changed"]


def test_another_separator_is_news() -> None:
    world, _, _ = two_servers()
    both, one = view(world), view(world, "one")
    both.show(value(world, None, "."))
    one.show(value(world, "one", "."))
    assert listed(both, Kind.TOOLS) == ["one.t", "other.t"]
    assert both.news() == ["notifications/tools/list_changed", "notifications/prompts/list_changed"]
    assert one.news() == []


def test_a_server_that_is_removed_is_an_empty_view() -> None:
    world, _, _ = two_servers()
    seen = view(world, "one")
    world.remove("one")
    seen.stale()
    assert listed(seen, Kind.TOOLS) == []
    assert refused(seen, "tools/call", {"name": "t"}).code == -32004
    assert seen.ports() == []
    assert seen.introduction().info["name"] == "one"


def test_one_tool_can_be_looked_at_as_it_is_listed() -> None:
    world, one, _ = two_servers()
    both, alone = view(world), view(world, "one")
    listing = both.page(Kind.TOOLS, None, modern=False)
    assert isinstance(listing, bytes)
    found = both.tool("one__t")
    assert found is not None
    assert found in listing
    assert both.tool("one__t") is found
    assert alone.tool("t") == one.up.items(Kind.TOOLS)[0].raw
    assert [both.tool(name) for name in ("t", "one__u", "nobody__t")] == [None] * 3
    assert alone.tool("one__t") is None
    one.move("stopped")
    both.stale()
    assert both.tool("one__t") is None


# --- where requests go


def test_requests_go_to_their_server_under_its_own_names() -> None:
    world, _, _ = two_servers()
    both = view(world)
    assert routed(both, "tools/call", {"name": "other__t", "arguments": {"a": 1}}) == (
        "other", {"name": "t", "arguments": {"a": 1}}, "t", "t",
    )  # fmt: skip
    assert routed(both, "prompts/get", {"name": "one__p"}) == ("one", {"name": "p"}, "p", None)
    assert routed(both, "resources/read", {"uri": "f:a"}) == ("one", {"uri": "f:a"}, "f:a", None)
    assert routed(both, "resources/read", {"uri": "moltis://other/f%3Aa"}) == ("other", {"uri": "f:a"}, "f:a", None)
    assert routed(both, "resources/read", {"uri": "f:b/c"})[0] == "one"
    assert routed(both, "resources/read", {"uri": "g:other"})[0] == "other"
    ref = {"type": "ref/prompt", "name": "other__p"}
    assert routed(both, "completion/complete", {"ref": ref, "argument": {}}) == (
        "other", {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {}}, None, None,
    )  # fmt: skip
    ref = {"type": "ref/resource", "uri": "f:{x}/{y}"}
    assert routed(both, "completion/complete", {"ref": ref})[:2] == ("one", {"ref": ref})


def test_requests_to_one_server_are_passed_as_they_are_known_or_not() -> None:
    world, _, _ = two_servers()
    one = view(world, "one")
    assert routed(one, "tools/call", {"name": "one__t"}) == ("one", {"name": "one__t"}, "one__t", "one__t")
    assert routed(one, "prompts/get", {"name": "x"}) == ("one", {"name": "x"}, "x", None)
    assert routed(one, "resources/read", {"uri": "z:"}) == ("one", {"uri": "z:"}, "z:", None)
    assert routed(one, "completion/complete", {"ref": 7}) == ("one", {"ref": 7}, None, None)
    assert routed(one, "tasks/get", {"taskId": "1"}) == ("one", {"taskId": "1"}, None, None)


def test_a_tool_of_a_server_that_is_not_listed_is_still_its_own() -> None:
    world, one, _ = two_servers()
    one.move("stopped")
    both = view(world)
    assert listed(both, Kind.TOOLS) == ["other__t"]
    assert routed(both, "tools/call", {"name": "one__t"})[0] == "one"
    assert routed(both, "tools/call", {"name": "one__never_heard_of"})[2:] == ("never_heard_of", "never_heard_of")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "nobody__t"}),
        ("tools/call", {"name": "t"}),
        ("tools/call", {}),
        ("tools/call", {"name": 7}),
        ("prompts/get", {"name": "nobody__p"}),
        ("prompts/get", {}),
        ("resources/read", {}),
        ("completion/complete", {}),
        ("completion/complete", {"ref": 7}),
        ("completion/complete", {"ref": {"type": "ref/prompt"}}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "nobody__p"}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "z:{x}"}}),
        ("completion/complete", {"ref": {"type": "ref/else", "name": "one__p"}}),
    ],
)
def test_what_belongs_to_nobody_is_refused(method: str, params: dict[str, Any]) -> None:
    world, _, _ = two_servers()
    assert refused(view(world), method, params).code == -32602


def test_a_resource_that_nobody_has_is_refused_in_the_words_of_the_era() -> None:
    world, _, _ = two_servers()
    legacy = refused(view(world), "resources/read", {"uri": "z:a"})
    modern = refused(view(world), "resources/read", {"uri": "z:a"}, modern=True)
    assert (legacy.code, modern.code) == (-32002, -32602)
    assert legacy.message == modern.message == "Resource not found"
    assert msgspec.json.decode(legacy.data) == {"uri": "z:a"}


def test_a_method_that_nobody_knows_belongs_to_no_server_among_many() -> None:
    world, _, _ = two_servers()
    assert refused(view(world), "tasks/get", {}).code == -32601


# --- what may be subscribed to


def test_among_all_servers_what_somebody_has_may_be_watched_and_in_doubt_anything() -> None:
    world, _, _ = two_servers()
    seen = view(world)
    assert seen.may_watch("f:a")
    assert seen.may_watch("moltis://other/f%3Aa")
    assert not seen.may_watch("z:a")
    world.add(FakePort("new", "starting"))
    seen.show(value(world))
    assert seen.may_watch("z:a")
    world.port("new").move("stopped")
    assert not seen.may_watch("z:a")


def test_of_one_server_only_what_it_can_neither_have_nor_tell_of_may_not_be_watched() -> None:
    port = FakePort("one", "starting")
    seen = view(FakeWorld(port), "one")
    assert seen.may_watch("z:a")
    port.ready(resources=[resource("f:a")])
    assert seen.may_watch("z:a")  # it says that it tells of updates; perhaps of this one too
    port.ready(
        FakeUpstream("one", agreed(capabilities={"resources": {}}), resources=[resource("f:a")],
                     templates=[template("g:{x}"), template("h:{")])
    )  # fmt: skip
    assert seen.may_watch("f:a")
    assert seen.may_watch("g:1")
    port.up.lists[Kind.TEMPLATES] = (template("g:{x}"),)
    assert not seen.may_watch("z:a")
    port.move("backoff")
    assert seen.may_watch("z:a")


def test_a_server_with_more_templates_than_are_looked_at_may_have_anything_and_costs_nothing() -> None:
    port = FakePort("one")
    hostile = [template("f:{a}" + "b" * 1900 + f"{{c{n}}}") for n in range(5000)]
    port.ready(FakeUpstream("one", agreed(capabilities={"resources": {}}), templates=hostile))
    began = time.thread_time()
    assert view(FakeWorld(port), "one").may_watch("f:" + "b" * 4000 + "/")
    assert time.thread_time() - began < 0.3


def test_only_other_resources_or_templates_are_a_reason_to_look_for_the_owners_again() -> None:
    world, one, _ = two_servers()
    seen = view(world)
    before = seen.generation
    seen.stale()
    assert seen.generation == before
    one.up.lists[Kind.TOOLS] = (tool("another"),)
    seen.stale()
    assert seen.generation == before
    one.up.lists[Kind.RESOURCES] = (resource("f:another"),)
    seen.stale()
    assert seen.generation != before


# --- what is said of it


def said(seen: Endpoint, *, modern: bool) -> dict[str, Any]:
    introduced = seen.introduction()
    result = introduced.discovered() if modern else introduced.initialized("2025-06-18")
    found: dict[str, Any] = msgspec.json.decode(result)
    return found


def test_all_servers_are_introduced_as_moltis_with_what_each_says_of_its_use() -> None:
    one = FakePort("one")
    one.ready(FakeUpstream("one", agreed(instructions="Use me.")))
    stopped = FakePort("gone")
    stopped.ready(FakeUpstream("gone", agreed(instructions="Not me.")))
    stopped.move("stopped")
    seen = view(FakeWorld(one, stopped))
    legacy, modern = said(seen, modern=False), said(seen, modern=True)
    assert legacy["protocolVersion"] == "2025-06-18"
    assert legacy["serverInfo"] == {"name": "moltis", "version": "9"}
    assert legacy["capabilities"] == modern["capabilities"] == EVERYTHING
    assert "Use me." in legacy["instructions"]
    assert "Not me." not in legacy["instructions"]
    assert modern["supportedVersions"] == ["2026-07-28"]
    assert (modern["resultType"], modern["ttlMs"], modern["cacheScope"]) == ("complete", 0, "private")
    assert modern["_meta"] == {"io.modelcontextprotocol/serverInfo": {"name": "moltis", "version": "9"}}
    assert modern["instructions"] == legacy["instructions"]


def test_without_instructions_there_are_none() -> None:
    assert "instructions" not in said(view(FakeWorld()), modern=False)
    assert "instructions" not in said(view(FakeWorld()), modern=True)


def test_one_server_is_introduced_in_its_own_words_but_list_changes_are_ours_to_tell() -> None:
    port = FakePort("one")
    capabilities = {"tools": {}, "resources": {"subscribe": True}, "experimental": {"x": {}}, "tasks": {"list": {}}}
    info = {"name": "real", "version": "3", "title": "Real"}
    port.ready(FakeUpstream("one", agreed(server_info=info, capabilities=capabilities, instructions="Do.")))
    found = said(view(FakeWorld(port), "one"), modern=False)
    assert found["serverInfo"] == info
    assert found["instructions"] == "Do."
    assert found["capabilities"] == {
        **capabilities,
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
    }


def test_what_a_server_says_of_itself_beyond_that_is_said_to_hosts_of_either_era() -> None:
    port = FakePort("one")
    more = {"vendor": Raw(b'{"z":1e400,"a":1.0}'), "_meta": Raw(b'{"v":1.0}')}
    port.ready(FakeUpstream("one", agreed(more=more, server_info={"title": "T", "name": "n"})))
    introduced = view(FakeWorld(port), "one").introduction()
    info = b'{"title":"T","name":"n","version":"unknown"}'
    initialized = introduced.initialized("2025-06-18")
    assert initialized.endswith(b'"serverInfo":%b,"vendor":{"z":1e400,"a":1.0},"_meta":{"v":1.0}}' % info)
    discovered = introduced.discovered()
    assert b'"_meta":{"io.modelcontextprotocol/serverInfo":%b,"v":1.0},' % info in discovered
    assert discovered.endswith(b',"vendor":{"z":1e400,"a":1.0}}')


def test_a_server_that_says_nothing_of_itself_is_introduced_all_the_same() -> None:
    port = FakePort("one")
    port.ready(FakeUpstream("one", agreed(server_info=None, capabilities={}), tools=[tool("t")]))
    found = said(view(FakeWorld(port), "one"), modern=False)
    assert found["serverInfo"] == {"name": "one", "version": "unknown"}
    assert found["capabilities"] == {"tools": {"listChanged": True}}


def test_a_server_with_prompts_only_is_not_said_to_have_tools() -> None:
    port = FakePort("one")
    port.ready(FakeUpstream("one", agreed(capabilities={"prompts": {"listChanged": False}})))
    assert said(view(FakeWorld(port), "one"), modern=True)["capabilities"] == {"prompts": {"listChanged": True}}


def test_a_server_that_is_not_ready_is_introduced_by_what_was_last_known() -> None:
    port = FakePort("one", "backoff")
    port.remember(Known(agreed(server_info={"name": "old", "version": "1"})))
    assert said(view(FakeWorld(port), "one"), modern=False)["serverInfo"]["name"] == "old"


def test_only_a_server_that_starts_for_the_first_time_is_worth_waiting_for() -> None:
    port = FakePort("one", "starting")
    world = FakeWorld(port)
    assert view(world, "one").unsettled() == [port]
    assert view(world).unsettled() == [port]
    port.remember(Known(agreed()))
    assert view(world, "one").unsettled() == view(world).unsettled() == []
    port.remember(None)
    port.move("backoff")
    assert view(world, "one").unsettled() == []
    assert view(world).unsettled() == [port]
    for state in ("disabled", "stopped", "cooldown", "awaiting_auth", "invalid"):
        port.move(state)
        assert view(world).unsettled() == []


def test_the_instructions_name_the_servers_that_are_still_starting() -> None:
    ports = [FakePort(f"s{n}", "starting") for n in range(25)]
    told = said(view(FakeWorld(*ports)), modern=False)["instructions"]
    assert told.startswith("Still starting: s0, s1, ")
    assert told.endswith("s19 and 5 more; what they offer is listed once they are up.")
    one = FakePort("one")
    one.ready(FakeUpstream("one", agreed(instructions="Use me well.")))
    told = said(view(FakeWorld(one, ports[0])), modern=True)["instructions"]
    assert "Still starting: s0; " in told
    assert "# one\n\nUse me well." in told
    assert "instructions" not in said(view(FakeWorld()), modern=False)
