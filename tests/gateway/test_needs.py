"""Tools that say what they need of their host are offered to hosts that have it, and all others to everybody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from gateway_fakes import FakeOutlet, FakePort, FakeUpstream, FakeWorld, agreed, ask, modern_ask, tool
from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway.abilities import Able, Need, lacking, need_of
from moltis.gateway.api import LOCAL
from moltis.gateway.gateway import Gateway
from moltis.gateway.host import Host
from moltis.gateway.views import path_of
from moltis.session.listing import Item

REQUIRED = "io.modelcontextprotocol/requiredCapabilities"
APPS, TASKS = "io.modelcontextprotocol/ui", "io.modelcontextprotocol/tasks"


def needs(**capabilities: Any) -> dict[str, Any]:
    return {"_meta": {REQUIRED: capabilities}}


SAMPLES = tool("samples", **needs(sampling={}))
ELICITS = tool("elicits", **needs(elicitation={"form": {}}))
AS_TASK = tool("as_task", execution={"taskSupport": "required"})
FOR_APP = tool("for_app", _meta={"ui": {"resourceUri": "ui://x", "visibility": ["app"]}})
PLAIN = tool("plain", description="uses sampling, elicitation and roots, as it may please")
ALL = (SAMPLES, ELICITS, AS_TASK, FOR_APP, PLAIN)


def gateway_of(*tools: Item, era: str = "legacy") -> tuple[Gateway, FakePort, FakeUpstream]:
    port = FakePort("s")
    upstream = port.ready(FakeUpstream("s", agreed(era), tools=tools))
    return Gateway(FakeWorld(port)), port, upstream


def host_of(gateway: Gateway, server: str | None, era: str, revision: str = "2025-11-25", **able: Any) -> Host:
    host = gateway.new_host(path_of(server), LOCAL, lambda message: True)
    if era == "legacy":
        params = {"protocolVersion": revision, "capabilities": able, "clientInfo": {"name": "h", "version": "1"}}
        host.request(ask("initialize", params), FakeOutlet())
    return host


def asked(host: Host, era: str, method: str, params: dict[str, Any], **able: Any) -> FakeOutlet:
    outlet = FakeOutlet()
    host.request(modern_ask(method, params, capabilities=able) if era == "modern" else ask(method, params), outlet)
    return outlet


def listed(gateway: Gateway, server: str | None, era: str = "legacy", revision: str = "2025-11-25", **able: Any) -> Any:
    host = host_of(gateway, server, era, revision, **able)
    names = [each["name"] for each in asked(host, era, "tools/list", {}, **able).result["tools"]]
    return [name.removeprefix("s__") for name in names]


# --- what a tool says


@pytest.mark.parametrize(
    ("more", "need"),
    [
        ({}, None),
        ({"execution": {"taskSupport": "optional"}}, None),
        ({"execution": {"taskSupport": "required"}}, Need(as_task=True)),
        ({"_meta": {"ui": {"visibility": ["app"]}}}, Need(for_app=True)),
        ({"_meta": {"ui": {"visibility": ["model", "app"]}}}, None),
        ({"_meta": {"ui": {"visibility": []}}}, None),
        ({"_meta": {"ui": {"resourceUri": "ui://x"}}}, None),
        (needs(sampling={}), Need(b'{"sampling":{}}')),
        (needs(), None),
        ({"description": REQUIRED + ' "visibility" "taskSupport":"required"'}, None),
        # What is malformed says nothing, and hides nothing that is not.
        ({"_meta": {REQUIRED: ["sampling"], "ui": {"visibility": ["app"]}}}, Need(for_app=True)),
        (
            {"_meta": {REQUIRED: "x", "ui": {"visibility": "app"}}, "execution": {"taskSupport": "required"}},
            Need(as_task=True),
        ),
        ({"_meta": [REQUIRED], "execution": 5}, None),
        ({"_meta": {"ui": {"visibility": [1]}}, "execution": {"taskSupport": ["required"]}}, None),
    ],
)  # fmt: skip
def test_what_a_tool_needs_is_what_it_says(more: dict[str, Any], need: Need | None) -> None:
    assert need_of(tool("t", **more).raw) == need


@pytest.mark.parametrize(
    ("required", "declared", "words"),
    [
        ({"sampling": {}}, {}, "sampling"),
        ({"sampling": {}}, {"sampling": {}}, None),
        ({"sampling": {"tools": {}}}, {"sampling": {}}, "sampling.tools"),
        ({"sampling": {"tools": {}}}, {"sampling": {"tools": {}}}, None),
        ({"sampling": {"tools": {}}}, {}, "sampling.tools"),
        ({"sampling": {}}, {"sampling": None}, "sampling"),
        ({"elicitation": {}}, {"elicitation": {"url": {}}}, None),
        ({"elicitation": {"form": {}}}, {"elicitation": {}}, None),  # naming none means forms
        ({"elicitation": {"url": {}}}, {"elicitation": {}}, "elicitation.url"),
        ({"roots": {"listChanged": True}}, {"roots": {}}, "roots.listChanged"),
        ({"roots": {"listChanged": False}}, {"roots": {}}, None),
        ({"roots": None}, {}, None),
        ({"extensions": {TASKS: {}}}, {"extensions": {TASKS: {}}}, None),
        ({"extensions": {"a/b": {}}, "sampling": {}}, {"roots": {}}, "extensions.a/b, sampling"),
        ({"sampling": {}}, [], "sampling"),
        ({"extensions": True}, {}, "extensions"),
    ],
)
def test_what_a_host_lacks_is_told_in_the_words_of_the_protocol(
    required: Any, declared: Any, words: str | None
) -> None:
    found = lacking(Need(msgspec.json.encode(required)), Able(msgspec.json.encode(declared)))
    assert (None if found is None else found.words) == words


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, JSON)
def test_whatever_is_said_nothing_raises_and_who_has_what_is_required_lacks_nothing(
    required: Any, declared: Any
) -> None:
    need = need_of(tool("t", _meta={REQUIRED: required}).raw)
    if need is None:
        return
    lack = lacking(need, Able(msgspec.json.encode(declared)))
    assert lack is None or lack.words.isprintable()
    assert lacking(need, Able(need.capabilities)) is None


def test_what_is_nested_without_end_is_no_trouble() -> None:
    deep = '{"name":"t","_meta":{"' + REQUIRED + '":' + '{"a":' * 5000 + "1" + "}" * 5000 + "}}"
    assert need_of(deep.encode()) is None
    need = Need(b'{"a":' * 200 + b"1" + b"}" * 200)
    lack = lacking(need, Able(b"{}"))
    assert lack is not None
    assert lack.words


# --- what hosts are offered


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("server", [None, "s"])
def test_a_tool_is_offered_to_who_has_what_it_needs(server: str | None, era: str) -> None:
    gateway, _, _ = gateway_of(*ALL, era="modern")
    offered = {"as_task"} if server else set()  # in a session of 2026-07-28 that member says nothing
    assert set(listed(gateway, server, era)) == {"plain", *offered}
    assert set(listed(gateway, server, era, sampling={})) == {"plain", "samples", *offered}
    assert set(listed(gateway, server, era, elicitation={})) == {"plain", "elicits", *offered}
    assert set(listed(gateway, server, era, extensions={APPS: {}})) == {"plain", "for_app", *offered}
    assert set(listed(gateway, server, era)) == {"plain", *offered}  # and one host's abilities are not another's


@pytest.mark.parametrize(
    ("era", "revision", "offered"),
    [("legacy", "2025-11-25", True), ("legacy", "2025-06-18", False), ("modern", "2026-07-28", False)],
)
def test_what_runs_as_a_task_only_is_offered_where_there_are_tasks(era: str, revision: str, offered: bool) -> None:
    gateway, _, _ = gateway_of(AS_TASK, PLAIN)
    assert ("as_task" in listed(gateway, "s", era, revision)) is offered
    assert "as_task" not in listed(gateway, None, era, revision)


def test_tasks_of_the_extension_do_not_reach_all_servers_at_once() -> None:
    gateway, _, _ = gateway_of(tool("long", **needs(extensions={TASKS: {}})), era="modern")
    able: dict[str, Any] = {"extensions": {TASKS: {}}}
    assert listed(gateway, "s", "modern", **able) == ["long"]
    assert listed(gateway, None, "modern", **able) == []


def test_where_forms_are_filled_in_for_hosts_no_host_lacks_them() -> None:
    gateway, _, upstream = gateway_of(ELICITS, tool("page", **needs(elicitation={"url": {}})))
    assert listed(gateway, None) == []
    upstream.defaults = b'{"action":"accept"}'
    assert listed(gateway, None) == ["elicits"]


def test_of_a_server_that_is_not_up_nothing_is_withheld_that_it_may_do_without() -> None:
    gateway, port, _ = gateway_of(ELICITS, SAMPLES)
    port.move("backoff")
    assert listed(gateway, None) == ["elicits"]


def test_pages_begin_where_they_do_for_everybody() -> None:
    big = "x" * 1_000_000
    tools = [tool(f"t{n}", description=big, **(needs(sampling={}) if n % 2 else {})) for n in range(9)]
    gateway, _, _ = gateway_of(*tools)
    found: dict[bool, list[str]] = {}
    for samples in (True, False):
        able: dict[str, Any] = {"sampling": {}} if samples else {}
        host, cursor = host_of(gateway, "s", "legacy", **able), None
        names: list[str] = []
        while True:
            page = asked(host, "legacy", "tools/list", {} if cursor is None else {"cursor": cursor}).result
            names += [each["name"] for each in page["tools"]]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        found[samples] = names
    assert found == {True: [f"t{n}" for n in range(9)], False: [f"t{n}" for n in range(0, 9, 2)]}


# --- a call of it all the same


@pytest.mark.parametrize("server", [None, "s"])
def test_a_call_without_what_it_needs_is_answered_in_words_and_not_sent(server: str | None) -> None:
    gateway, _, upstream = gateway_of(*ALL)
    name = "samples" if server else "s__samples"
    host = host_of(gateway, server, "legacy")
    asked(host, "legacy", "tools/list", {})
    told = asked(host, "legacy", "tools/call", {"name": name}).result
    assert told["isError"] is True
    assert "tool 'samples' of server 's' needs sampling, which this host does not have" in told["content"][0]["text"]
    assert told["_meta"]["moltis/error"]["kind"] == "host_cannot"
    modern = host_of(gateway, server, "modern")
    error = asked(modern, "modern", "tools/call", {"name": name}).error
    assert error["code"] == -32021
    assert error["data"]["requiredCapabilities"] == {"sampling": {}}
    assert "needs sampling" in error["message"]
    assert not upstream.calls
    assert not asked(modern, "modern", "tools/call", {"name": name}, sampling={}).answered
    assert [call.tool for call in upstream.calls] == ["samples"]


def test_a_call_of_a_task_by_who_has_none_is_answered_in_words() -> None:
    gateway, _, upstream = gateway_of(*ALL)
    for era in ("legacy", "modern"):
        host = host_of(gateway, None, era)
        asked(host, era, "tools/list", {})
        told = asked(host, era, "tools/call", {"name": "s__as_task"}).result
        assert "needs tasks" in told["content"][0]["text"]
    assert not upstream.calls
    host = host_of(gateway, "s", "legacy")
    asked(host, "legacy", "tools/list", {})
    assert not asked(host, "legacy", "tools/call", {"name": "as_task", "task": {}}).answered
    assert len(upstream.calls) == 1


def test_a_tool_for_its_app_can_be_called_by_who_knows_it() -> None:
    gateway, _, upstream = gateway_of(*ALL)
    host = host_of(gateway, None, "legacy")
    asked(host, "legacy", "tools/list", {})
    assert not asked(host, "legacy", "tools/call", {"name": "s__for_app"}).answered
    assert [call.tool for call in upstream.calls] == ["for_app"]


def test_what_is_called_as_it_pleases_is_passed_on_by_any_host() -> None:
    gateway, _, upstream = gateway_of(*ALL)
    host = host_of(gateway, None, "legacy")
    asked(host, "legacy", "tools/list", {})
    asked(host, "legacy", "tools/call", {"name": "s__plain"})
    assert [call.tool for call in upstream.calls] == ["plain"]
