from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.shared import inbound

from moltis.session.mirrored import MAX_DEPTH, MAX_HEADERS, Invalid, Mirror, mirror_of

STRING = {"type": "string"}


def tool(schema: Any, **more: Any) -> bytes:
    return json.dumps({"name": "t", "inputSchema": schema, **more}).encode()


def marked(name: Any = "Region", kind: Any = "string", **more: Any) -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": name, **more}


def properties(**inner: Any) -> dict[str, Any]:
    return {"type": "object", "properties": inner}


def headers(schema: Any, arguments: Any) -> dict[str, str]:
    mirror = mirror_of(tool(schema))
    assert isinstance(mirror, Mirror)
    return dict(mirror.headers(json.dumps(arguments).encode()))


def test_a_tool_that_marks_nothing_is_left_alone() -> None:
    assert mirror_of(tool(properties(region=STRING))) is None
    assert mirror_of(tool(properties(region=STRING), description="caf\u00e9 and x-mcp-header")) is None
    assert mirror_of(b'{"name":"t"}') is None


def test_marked_arguments_go_into_headers() -> None:
    schema = properties(
        region=marked("Region"),
        tries=marked("Tries", "integer"),
        dry=marked("Dry", "boolean"),
        query=STRING,
        where=properties(zone=marked("Zone"), deep=properties(er=marked("Deeper"))),
    )
    arguments = {"region": "eu", "tries": 3, "dry": True, "query": "q", "where": {"zone": "z", "deep": {"er": "e"}}}
    assert headers(schema, arguments) == {
        "Mcp-Param-Region": "eu",
        "Mcp-Param-Tries": "3",
        "Mcp-Param-Dry": "true",
        "Mcp-Param-Zone": "z",
        "Mcp-Param-Deeper": "e",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (["a"], None),
        ({"a": 1}, None),
        ("", ""),
        (" a", "=?base64?IGE=?="),
        ("a\r\nX-Evil: 1", "=?base64?YQ0KWC1FdmlsOiAx?="),
        ("ä", "=?base64?w6Q=?="),
        (False, "false"),
        (1.5, "1.5"),
        (10**30, str(10**30)),
    ],
)
def test_what_a_value_becomes(value: Any, expected: str | None) -> None:
    assert headers(properties(region=marked()), {"region": value}).get("Mcp-Param-Region") == expected


def test_what_is_not_there_has_no_header() -> None:
    mirror = mirror_of(tool(properties(a=marked("A"), b=properties(c=marked("C")))))
    assert isinstance(mirror, Mirror)
    for arguments in (None, b"{}", b"[]", b"null", b"", b"not json", b'{"b": 7}', b'{"b": {"a": "x"}}'):
        assert mirror.headers(arguments) == ()


def test_a_value_that_cannot_be_read_costs_only_its_own_header() -> None:
    mirror = mirror_of(tool(properties(a=marked("A"), b=marked("B"))))
    assert isinstance(mirror, Mirror)
    assert mirror.headers(b'{"a": ' + b"9" * 5000 + b', "b": "x"}') == (("Mcp-Param-B", "x"),)


INVALID = {
    "at the root": {"type": "object", "x-mcp-header": "A"},
    "in array items": properties(list={"type": "array", "items": marked()}),
    "under allOf": {"allOf": [properties(a=marked())]},
    "under definitions": {"$defs": {"d": properties(a=marked())}},
    "under a pattern": {"patternProperties": {"^a": marked()}},
    "on a number": properties(a=marked(kind="number")),
    "on an object": properties(a=marked(kind="object")),
    "on two types": properties(a=marked(kind=["string", "null"])),
    "without a type": properties(a={"x-mcp-header": "A"}),
    "empty": properties(a=marked("")),
    "with a space": properties(a=marked("a b")),
    "with a line break": properties(a=marked("a\r\nX-Evil: 1")),
    "with a last line break": properties(a=marked("a\n")),
    "with a colon": properties(a=marked("a:")),
    "not ASCII": properties(a=marked("ä")),
    "not a string": properties(a=marked(7)),
    "null": properties(a=marked(None)),
    "twice": properties(a=marked("Region"), b=marked("region")),
    "twice, deeper": properties(a=marked("Region"), b=properties(c=marked("REGION"))),
}


@pytest.mark.parametrize("schema", INVALID.values(), ids=INVALID)
def test_a_tool_that_marks_wrongly_is_not_to_be_offered(schema: dict[str, Any]) -> None:
    assert isinstance(mirror_of(tool(schema)), Invalid)
    assert inbound.find_invalid_x_mcp_header(schema) is not None


def test_data_in_a_schema_marks_nothing() -> None:
    data = {"default": marked(), "enum": [marked()], "const": marked(), "examples": [marked()], "$ref": "#/x"}
    assert mirror_of(tool({"type": "object", **data, "properties": {"a": {"type": "string", **data}}})) is None


def test_a_mark_spelled_with_escapes_is_a_mark() -> None:
    spelled = tool(properties(a=marked("bad name"))).replace(b"x-mcp-header", rb"\u0078-mcp-header")
    assert isinstance(mirror_of(spelled), Invalid)


def test_marks_have_limits() -> None:
    many = {f"p{n}": marked(f"H{n}") for n in range(MAX_HEADERS)}
    assert isinstance(mirror_of(tool(properties(**many))), Mirror)
    assert isinstance(mirror_of(tool(properties(**many, more=marked("More")))), Invalid)
    assert isinstance(mirror_of(tool(properties(a=marked("x" * 129)))), Invalid)
    deep = marked()
    for _ in range(MAX_DEPTH):
        deep = properties(a=deep)
    assert isinstance(mirror_of(tool(deep)), Mirror)
    assert isinstance(mirror_of(tool(properties(a=deep))), Invalid)


def test_a_tool_that_cannot_be_read_is_offered_only_if_it_marks_nothing() -> None:
    bottomless = b'{"name": "t", "inputSchema": ' + b'{"not":' * 100_000 + b"{}" + b"}" * 100_000 + b"}"
    assert mirror_of(bottomless) is None
    assert isinstance(mirror_of(bottomless.replace(b"{}", b'{"x-mcp-header":""}')), Invalid)


# --- against the reference

NAMES = st.sampled_from(["A", "b", "B", "Region", "x-1", "", "a b", "ä"])
KINDS = st.sampled_from(["string", "integer", "boolean", "number", "object", None, ["string"]])
LEAVES = st.one_of(
    st.builds(marked, NAMES, KINDS),
    st.builds(marked, st.sampled_from("ABCDEFGH"), st.sampled_from(["string", "integer", "boolean"])),
    st.just(STRING),
)
PLACES = st.sampled_from(["a", "b", "c"])


def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.builds(
        lambda inner: {"type": "object", "properties": inner}, st.dictionaries(PLACES, inner, max_size=3)
    )
    others = st.one_of(
        st.builds(lambda word, inner: {word: inner}, st.sampled_from(["items", "not", "default", "else"]), inner),
        st.builds(lambda word, inner: {word: [inner]}, st.sampled_from(["anyOf", "prefixItems", "enum"]), inner),
        st.builds(lambda word, inner: {word: {"a": inner}}, st.sampled_from(["$defs", "patternProperties"]), inner),
        st.builds(lambda leaf, inner: {**leaf, "properties": {"a": inner}}, LEAVES, inner),
    )
    return st.one_of(objects, objects, objects, others)


SCHEMAS = st.recursive(LEAVES, grow, max_leaves=8)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
ARGUMENTS = st.dictionaries(
    PLACES, st.recursive(SCALARS, lambda inner: st.dictionaries(PLACES, inner, max_size=3), max_leaves=6), max_size=3
)


@settings(max_examples=400)
@given(SCHEMAS, ARGUMENTS)
def test_the_reference_agrees(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    mirror = mirror_of(tool(schema))
    if inbound.find_invalid_x_mcp_header(schema) is not None:
        assert isinstance(mirror, Invalid)
        return
    assert not isinstance(mirror, Invalid)
    expected = inbound.mcp_param_headers(inbound.x_mcp_header_map(schema), arguments)
    sent = () if mirror is None else mirror.headers(json.dumps(arguments).encode())
    assert dict(sent) == expected
    assert len(sent) == len(expected)
    assert inbound.validate_mcp_param_headers(schema, arguments, dict(sent)) is None
