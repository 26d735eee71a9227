"""One server's malformed item: what is left of it is valid, and costs no other server anything."""

from __future__ import annotations

import time
from typing import Any

import mcp_types
import msgspec
import pytest
from gateway_fakes import FakePort, FakeWorld, prompt, resource, template, tool
from hypothesis import given
from hypothesis import strategies as st

from moltis.gateway.endpoints import MAX_UNUSABLE, Endpoint
from moltis.gateway.gateway import Gateway
from moltis.gateway.views import ALL, path_of
from moltis.gateway.wellformed import MAX_COMMAS, checked
from moltis.session.listing import Item, Kind

ABSENT = object()
OBJECT = {"type": "object"}
RESULTS: dict[Kind, Any] = {
    Kind.TOOLS: mcp_types.ListToolsResult,
    Kind.PROMPTS: mcp_types.ListPromptsResult,
    Kind.RESOURCES: mcp_types.ListResourcesResult,
    Kind.TEMPLATES: mcp_types.ListResourceTemplatesResult,
}
NAMED = {Kind.TOOLS: "name", Kind.PROMPTS: "name", Kind.RESOURCES: "uri", Kind.TEMPLATES: "uriTemplate"}


def item(kind: Kind, **members: Any) -> Item:
    needed: dict[Kind, dict[str, Any]] = {
        Kind.TOOLS: {"name": "x", "inputSchema": OBJECT},
        Kind.PROMPTS: {"name": "x"},
        Kind.RESOURCES: {"uri": "f:x", "name": "x"},
        Kind.TEMPLATES: {"uriTemplate": "f:{x}", "name": "x"},
    }
    found = {name: value for name, value in {**needed[kind], **members}.items() if value is not ABSENT}
    return Item(needed[kind][NAMED[kind]], msgspec.json.encode(found))


def left(kind: Kind, **members: Any) -> tuple[Any, str]:
    raw, reason = checked(kind, item(kind, **members))
    return (None if raw is None else msgspec.json.decode(raw)), reason


@pytest.mark.parametrize(
    "members",
    [
        {"inputSchema": {"type": "object", "properties": {"a": {"type": "int"}, "b": True}, "required": ["a"]}},
        {"outputSchema": {"type": "array", "items": {"type": "integer"}}},
        {"outputSchema": {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {}}}},
        {"outputSchema": {"type": "object", "properties": {"a": {"pattern": r"^\p{L}+(?<n>x)$"}}}},
        {"outputSchema": {"type": "object", "properties": {"type": {"type": ["null", "string"]}, "$ref": {}}}},
        {"annotations": {"readOnlyHint": True, "x": 5}, "icons": [{"src": "a", "sizes": ["48x48"]}], "_meta": {}},
        {"execution": {"taskSupport": "optional"}, "x-own": [1]},
    ],
)
def test_what_is_as_mcp_has_it_stays_byte_for_byte(members: dict[str, Any]) -> None:
    given = item(Kind.TOOLS, **members)
    raw, reason = checked(Kind.TOOLS, given)
    assert raw is given.raw
    assert reason == ""


@pytest.mark.parametrize("number", ["1e400", "-1E+999", "0.1e-400", "123456789012345678901234567890"])
@pytest.mark.parametrize("schema", ["inputSchema", "outputSchema"])
def test_a_number_that_is_no_double_makes_no_schema_unreadable(schema: str, number: str) -> None:
    given = item(Kind.TOOLS, **{schema: {"type": "object", "properties": {}, "x-limit": 7}})
    given = msgspec.structs.replace(given, raw=given.raw.replace(b'"x-limit":7', b'"x-limit":' + number.encode()))
    assert checked(Kind.TOOLS, given) == (given.raw, "")


@pytest.mark.parametrize(
    "member", ["title", "description", "outputSchema", "annotations", "icons", "execution", "_meta"]
)
def test_null_is_how_some_write_absent(member: str) -> None:
    assert left(Kind.TOOLS, **{member: None}) == ({"name": "x", "inputSchema": OBJECT}, "")


@pytest.mark.parametrize(
    ("members", "kept", "why"),
    [
        ({"inputSchema": ABSENT}, {"inputSchema": OBJECT}, "missing"),
        ({"inputSchema": None}, {"inputSchema": OBJECT}, "missing"),
        ({"inputSchema": {}}, {"inputSchema": OBJECT}, "no type"),
        ({"inputSchema": {"type": "object", "properties": []}}, {"inputSchema": OBJECT}, "properties"),
        ({"inputSchema": {"type": "object", "required": "a"}}, {"inputSchema": OBJECT}, "required"),
        ({"inputSchema": {"type": "object", "properties": {"a": 5}}}, None, "properties.a"),
        ({"description": 5}, {}, "description"),
        ({"title": ["a"]}, {}, "title"),
        ({"annotations": {"readOnlyHint": "yes", "title": "t"}}, {"annotations": {"title": "t"}}, "readOnlyHint"),
        ({"annotations": []}, {}, "annotations"),
        ({"icons": [{"src": 5}, {"src": "a"}]}, {"icons": [{"src": "a"}]}, "icons[0]"),
        ({"outputSchema": True}, {}, "outputSchema"),
        ({"outputSchema": {"type": "object", "$defs": {"a": {"$ref": "https://x.example/s.json"}}}}, {}, "$ref"),
        ({"outputSchema": {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}}, {}, "$ref"),
        ({"outputSchema": {"type": "object", "properties": {"a": {"pattern": "(?i)a"}}}}, {}, "pattern"),
        ({"outputSchema": {"type": "object", "items": [], "anyOf": [{"type": "int"}]}}, {}, "type"),
        ({"execution": {"taskSupport": "maybe"}}, {}, "execution"),
        ({"_meta": 5}, {}, "_meta"),
    ],
)
def test_a_tool_loses_only_what_is_wrong_with_it(
    members: dict[str, Any], kept: dict[str, Any] | None, why: str
) -> None:
    found, reason = left(Kind.TOOLS, **members)
    assert why in reason
    if kept is not None:
        assert found == {"name": "x", "inputSchema": OBJECT, **kept}


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"inputSchema": {"type": "string"}}, "not of type object"),
        ({"inputSchema": {"type": ["object", "null"]}}, "not of type object"),
        ({"inputSchema": []}, "not an object"),
        ({"inputSchema": "x"}, "not an object"),
        ({"execution": {"taskSupport": "required"}}, "as a task"),
    ],
)
def test_a_tool_that_is_nothing_without_it_is_not_listed(members: dict[str, Any], why: str) -> None:
    found, reason = left(Kind.TOOLS, **members)
    assert found is None
    assert why in reason
    assert reason.endswith("not listed")


@pytest.mark.parametrize(
    ("kind", "members", "kept", "why"),
    [
        (Kind.PROMPTS, {"arguments": None}, {}, ""),
        (Kind.PROMPTS, {"arguments": "a"}, {}, "arguments"),
        (
            Kind.PROMPTS,
            {"arguments": [{"title": "t"}, {"name": "b"}]},
            {"arguments": [{"name": "b"}]},
            "[0] has",
        ),
        (Kind.PROMPTS, {"arguments": [{"name": "b", "required": "yes"}]}, {"arguments": [{"name": "b"}]}, "required"),
        (Kind.RESOURCES, {"name": ABSENT}, {"name": "f:x"}, ""),
        (Kind.RESOURCES, {"size": "12", "mimeType": None}, {}, "size"),
        (Kind.RESOURCES, {"annotations": {"priority": "high"}}, {"annotations": {}}, "priority"),
        (Kind.TEMPLATES, {"name": 5, "title": None}, {"name": "f:{x}"}, "name"),
    ],
)
def test_other_items_lose_only_what_is_wrong_with_them(
    kind: Kind, members: dict[str, Any], kept: dict[str, Any], why: str
) -> None:
    found, reason = left(kind, **members)
    assert found == msgspec.json.decode(item(kind).raw) | kept
    assert why in reason
    assert bool(reason) is bool(why)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["object", "string", "required", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "properties", "required", "name", "src", "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)
TYPED = ["title", "description", "inputSchema", "outputSchema", "annotations", "icons", "execution", "_meta"]
MEMBERS = [*TYPED, "name", "arguments", "mimeType", "size", "x"]


@given(st.sampled_from(list(Kind)), st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=6))
def test_whatever_a_server_lists_is_valid_or_left_out(kind: Kind, members: dict[str, Any]) -> None:
    if NAMED[kind] == "name":
        members.pop("name", None)
    raw, reason = checked(kind, item(kind, **members))
    if raw is None:
        assert reason
        return
    RESULTS[kind].model_validate_json(b'{"%b":[%b]}' % (kind.member.encode(), raw))
    again = checked(kind, Item("x", raw))
    assert again.raw is raw, "and so it is found the second time"


def test_what_is_too_much_to_be_looked_at_is_not_listed_and_costs_little() -> None:
    big = b'{"name":"x","inputSchema":{"type":"object","properties":{%b}}}' % b",".join(
        b'"a%d":{}' % n for n in range(10 * MAX_COMMAS)
    )
    began = time.thread_time()
    raw, reason = checked(Kind.TOOLS, Item("x", big))
    assert time.thread_time() - began < 0.5
    assert raw is None
    assert "too many" in reason


def test_a_schema_of_many_levels_is_none_that_hosts_compile() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"not": deep}
    assert "levels" in left(Kind.TOOLS, outputSchema=deep)[1]


# --- among others


def world() -> tuple[FakeWorld, FakePort]:
    good, bad = FakePort("good"), FakePort("bad")
    good.ready(tools=[tool(f"t{n}") for n in range(5)])
    bad.ready(
        tools=[tool("ok"), tool("x", inputSchema={"type": "string"}), tool("y", description=5)],
        prompts=[prompt("p", arguments=[{}])],
        resources=[resource("f:a", size="1")],
        templates=[template("f:{a}", mimeType=None)],
    )
    return FakeWorld(good, bad), bad


def listed(seen: Endpoint, kind: Kind) -> list[dict[str, Any]]:
    page = seen.page(kind, None, modern=False)
    assert isinstance(page, bytes)
    found: list[dict[str, Any]] = msgspec.json.decode(page)[kind.member]
    return found


def test_one_server_s_malformed_items_cost_no_other_server_anything() -> None:
    servers, _ = world()
    gateway = Gateway(servers)
    gateway.survey()
    seen = gateway._endpoint(ALL)
    assert [found["name"] for found in listed(seen, Kind.TOOLS)] == [
        *(f"good__t{n}" for n in range(5)), "bad__ok", "bad__y",
    ]  # fmt: skip
    for kind in Kind:
        RESULTS[kind].model_validate({kind.member: listed(seen, kind)})
    assert gateway.unusable("good") == []
    told = [(each.kind, each.name) for each in gateway.unusable("bad")]
    assert told == [("tool", "x"), ("tool", "y"), ("resource", "f:a"), ("prompt", "p")]


def test_a_server_by_itself_is_shown_as_it_is() -> None:
    servers, bad = world()
    seen = Gateway(servers)._endpoint(path_of("bad"))
    assert [found["name"] for found in listed(seen, Kind.TOOLS)] == ["ok", "x", "y"]
    assert listed(seen, Kind.TOOLS)[2]["description"] == 5
    assert bad.upstream() is not None


def test_a_resource_that_two_list_is_checked_under_its_other_address_too() -> None:
    one, other = FakePort("one"), FakePort("other")
    one.ready(resources=[resource("f:a")])
    other.ready(resources=[resource("f:a", size="1")])
    seen = Gateway(FakeWorld(one, other))._endpoint(ALL)
    assert [(found["uri"], "size" in found) for found in listed(seen, Kind.RESOURCES)] == [
        ("f:a", False),
        ("moltis://other/f%3Aa", False),
    ]


def test_what_is_mended_is_told_of_no_longer_and_the_list_is_bounded() -> None:
    port = FakePort("s")
    port.ready(tools=[tool(f"t{n}", inputSchema=[]) for n in range(2 * MAX_UNUSABLE)])
    gateway = Gateway(FakeWorld(port))
    gateway.survey()
    found = gateway.unusable("s")
    assert len(found) == MAX_UNUSABLE + 1
    assert found[-1].reason == f"and {MAX_UNUSABLE} more"
    port.ready(tools=[tool("t")])
    gateway._endpoint(ALL).stale()
    gateway._endpoint(ALL).news()
    assert gateway.unusable("s") == []


def test_it_is_logged_once_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("moltis.gateway.gateway.log.warning", lambda message, **fields: told.append(fields))
    servers, bad = world()
    gateway = Gateway(servers)
    gateway.survey()
    for _ in range(3):
        gateway._warn()
    assert told == [
        {
            "server": "bad",
            "count": 4,
            "names": ["x", "y", "f:a"],
            "reason": "inputSchema is not of type object: not listed",
        }
    ]
    bad.ready(tools=[tool("x", inputSchema=[])])
    gateway._endpoint(ALL).stale()
    gateway._endpoint(ALL).news()
    gateway._warn()
    assert [each["count"] for each in told] == [4, 1]
