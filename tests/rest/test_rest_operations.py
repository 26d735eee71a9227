"""From operations to tools: names, inputs, hints, what is wanted, and why an operation is none."""

from __future__ import annotations

import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_documents import a_document, a_tool, an_object, body, planned, query, why_not

from moltis.rest.operations import MAX_NAME_CHARS, Operation, Wanted, plan

PET = {
    "Pet": an_object(
        ["name", "id"],
        id={"type": "integer", "readOnly": True},
        name={"type": "string"},
        mother={"$ref": "#/components/schemas/Pet"},
    )
}


def components(**schemas: Any) -> dict[str, Any]:
    return {"components": {"schemas": schemas}}


# --- names


def test_a_tool_has_the_operations_id_or_its_method_and_path() -> None:
    found = planned({"/a": {"get": {"operationId": "listA"}}, "/a/{id}/b-c": {"delete": {}}})
    assert [tool.tool for tool in found.tools] == ["listA", "delete_a_by_id_b-c"]


def test_what_no_host_takes_in_a_name_is_replaced() -> None:
    assert a_tool(operationId="repos/list for.org").tool == "repos_list_for_org"


def test_operations_of_one_name_are_told_apart_by_a_hash_of_each() -> None:
    paths = {"/a": {"get": {"operationId": "x/y"}}, "/b": {"get": {"operationId": "x y"}}}
    there = [tool.tool for tool in planned(paths).tools]
    assert len(set(there)) == 2
    assert all(name.startswith("x_y_") for name in there)
    assert [tool.tool for tool in planned(dict(reversed(paths.items()))).tools] == there[::-1]


@given(
    st.dictionaries(
        st.text(string.ascii_letters + "/{}-_.", min_size=1, max_size=80).map(lambda text: "/" + text),
        st.text(min_size=1, max_size=90) | st.none(),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", "gh", "a" * 20]),
)
def test_names_are_short_unique_and_of_characters_that_every_host_takes(ids: dict[str, Any], label: str) -> None:
    paths = {path: {"get": {} if id is None else {"operationId": id}} for path, id in ids.items()}
    names = [tool.tool for tool in plan(a_document(paths), label=label).tools]
    assert len(names) == len(set(names)) == len(paths)
    prefix = f"{label}__" if label else ""
    assert all(len(prefix + name) <= MAX_NAME_CHARS for name in names)
    assert all(set(name) <= {*string.ascii_letters, *string.digits, "_", "-"} for name in names)


@given(st.sets(st.text(string.ascii_lowercase + "_/", min_size=1, max_size=70), min_size=2, max_size=6))
def test_a_name_stays_when_operations_of_other_names_come_and_go(ids: set[str]) -> None:
    paths = {f"/{n}": {"get": {"operationId": id}} for n, id in enumerate(sorted(ids))}
    whole = {tool.path: tool.tool for tool in planned(paths).tools}
    alike = {id.replace("/", "_").strip("_") for id in ids}
    if len(alike) == len(ids):
        for path in paths:
            [alone] = planned({path: paths[path]}).tools
            assert alone.tool == whole[path]


# --- inputs


def test_parameters_of_path_operation_and_components_are_arguments() -> None:
    found = planned(
        {
            "/a/{id}": {
                "parameters": [
                    {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
                    query("kind", {"type": "string", "enum": ["x"]}),
                ],
                "get": {
                    "parameters": [
                        {"$ref": "#/components/parameters/Limit"},
                        query("kind", {"type": "integer"}, description="Which."),
                        {"name": "Accept", "in": "header", "schema": {"type": "string"}},
                        {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                    ]
                },
            }
        },
        components={"parameters": {"Limit": query("limit", {"type": "integer"}, required=True)}},
    )
    [tool] = found.tools
    assert tool.input == {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "kind": {"description": "Which.", "type": "integer"},
            "limit": {"type": "integer"},
            "session": {"type": "string"},
        },
        "required": ["id", "limit"],
    }
    assert tool.description.endswith("GET /a/{id}. In pages: limit")


def test_names_that_clash_or_that_no_model_may_use_are_arguments_of_other_names() -> None:
    tool = a_tool(
        "/a/{id}",
        parameters=[
            query("id"),
            query("filter[name]"),
            query("$top"),
            query("x" * 70),
            {**query("id"), "in": "header"},
        ],
    )
    assert list(tool.input["properties"]) == ["id", "id_in_query", "filter_name", "top", "x" * 64, "id_in_header"]
    assert [parameter.name for parameter in tool.parameters] == ["id", "id", "filter[name]", "$top", "x" * 70, "id"]


def test_the_members_of_a_body_are_arguments_without_those_that_are_read_only() -> None:
    tool = a_tool("/pets", "post", document=components(**PET), requestBody=body({"$ref": "#/components/schemas/Pet"}))
    assert tool.input["required"] == ["name"]
    assert tool.input["properties"] == {"name": {"type": "string"}, "mother": {"$ref": "#/$defs/Pet"}}
    assert "id" not in tool.input["$defs"]["Pet"]["properties"]
    assert tool.input["$defs"]["Pet"]["required"] == ["name"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}},
        {"oneOf": [an_object(a={}), an_object(b={})]},
        {"type": "object", "additionalProperties": {"type": "string"}},
        an_object(id={"type": "string"}),
    ],
    ids=["list", "choice", "open", "clash"],
)
def test_a_body_that_is_no_object_or_clashes_is_one_argument(schema: Any) -> None:
    tool = a_tool("/a/{id}", "post", requestBody=body(schema))
    assert list(tool.input["properties"]) == ["id", "body"]
    assert tool.input["required"] == ["id", "body"]
    assert tool.input["type"] == "object"


def test_an_optional_body_with_members_that_are_required_stays_whole() -> None:
    tool = a_tool("/a", "post", requestBody=body(an_object(["x"], x={"type": "string"}), required=False))
    assert list(tool.input["properties"]) == ["body"]
    assert "required" not in tool.input


def test_what_all_of_a_body_is_made_of_is_merged() -> None:
    parts = {"allOf": [an_object(["a"], a={"type": "string"}), an_object(["b"], b={"type": "integer"})]}
    tool = a_tool("/a", "post", requestBody=body(parts))
    assert list(tool.input["properties"]) == tool.input["required"] == ["a", "b"]


OLD = [
    ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
    ({"type": "string", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
    ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, {"type": "integer", "exclusiveMinimum": 1}),
    ({"type": "integer", "maximum": 1, "exclusiveMaximum": False}, {"type": "integer", "maximum": 1}),
    ({"type": "string", "example": "x", "xml": {}, "x-y": 1, "externalDocs": {}}, {"type": "string"}),
    ({"allOf": [{"type": "string"}], "nullable": True}, {"anyOf": [{"allOf": [{"type": "string"}]}, {"type": "null"}]}),
    (True, {}),
    ({"type": "object", "additionalProperties": True}, {"type": "object", "additionalProperties": True}),
]


@pytest.mark.parametrize(("written", "meant"), OLD, ids=lambda value: None)
def test_what_openapi_3_0_says_in_its_own_way_is_said_as_json_schema_does(written: Any, meant: Any) -> None:
    assert a_tool(parameters=[query("x", written)], document={"version": "3.0.3"}).input["properties"]["x"] == meant


def test_cycles_stay_as_references_and_only_what_is_reached_is_there() -> None:
    schemas = {
        "A": an_object(b={"$ref": "#/components/schemas/B"}),
        "B": an_object(a={"$ref": "#/components/schemas/A"}),
        "C": an_object(c={"type": "string"}),
    }
    tool = a_tool("/a", "post", document=components(**schemas), requestBody=body({"$ref": "#/components/schemas/A"}))
    assert set(tool.input["$defs"]) == {"A", "B"}
    assert b"components" not in tool.listed()


def test_a_name_in_defs_that_is_none_is_made_one() -> None:
    schemas = {"a b/c": {"type": "string"}, "a_b_c": {"type": "integer"}}
    members = an_object(x={"$ref": "#/components/schemas/a b~1c"}, y={"$ref": "#/components/schemas/a_b_c"})
    tool = a_tool("/a", "post", document=components(**schemas), requestBody=body(members))
    assert tool.input["$defs"] == {"a_b_c": {"type": "string"}, "a_b_c_2": {"type": "integer"}}


JSON_TYPES = st.sampled_from(["string", "integer", "number", "boolean", "object", "array"])
LEAF = st.fixed_dictionaries({"type": JSON_TYPES}, optional={"nullable": st.booleans(), "readOnly": st.booleans()})
REFERENCE = st.sampled_from("ABC").map(lambda name: {"$ref": f"#/components/schemas/{name}"})
SCHEMA = st.recursive(
    LEAF | REFERENCE | st.booleans(),
    lambda inner: (
        st.builds(
            lambda p, r: {"type": "object", "properties": p, "required": r},
            st.dictionaries(st.sampled_from("pqr"), inner),
            st.lists(st.sampled_from("pqr"), unique=True),
        )
        | st.builds(lambda i: {"type": "array", "items": i}, inner)
        | st.builds(
            lambda key, parts: {key: parts},
            st.sampled_from(["allOf", "anyOf", "oneOf"]),
            st.lists(inner, min_size=1, max_size=3),
        )
        | st.builds(lambda i: {"type": "object", "additionalProperties": i}, inner)
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries(dict.fromkeys("ABC", SCHEMA)), SCHEMA, SCHEMA, st.booleans())
def test_every_input_is_a_valid_schema_of_an_object_whose_references_are_within_it(
    schemas: Any, parameter: Any, whole: Any, required: bool
) -> None:
    operation = {"parameters": [query("p", parameter)], "requestBody": body(whole, required=required)}
    found = plan(a_document({"/a": {"post": operation}}, version="3.0.0", components={"schemas": schemas}))
    for tool in found.tools:
        item = msgspec.json.decode(tool.listed())
        schema = item["inputSchema"]
        assert schema["type"] == "object"
        Draft202012Validator.check_schema(schema)
        for reference in references(schema):
            assert reference.removeprefix("#/$defs/") in schema["$defs"]
        assert set(schema.get("required", ())) <= set(schema["properties"])
    assert all("circle" in left_out.reason for left_out in found.left_out)


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for each in node.values() for found in references(each)]
    return [found for each in node for found in references(each)] if isinstance(node, list) else []


# --- hints, texts


@pytest.mark.parametrize(
    ("method", "hints"),
    [
        ("get", (True, False, True)),
        ("post", (False, False, False)),
        ("put", (False, False, True)),
        ("patch", (False, False, False)),
        ("delete", (False, True, True)),
    ],
)
def test_a_method_says_what_a_host_may_expect(method: str, hints: tuple[bool, ...]) -> None:
    said = msgspec.json.decode(a_tool("/a", method).listed())["annotations"]
    assert (said["readOnlyHint"], said["destructiveHint"], said["idempotentHint"]) == hints


def test_descriptions_are_within_what_hosts_show_and_say_where_the_call_goes() -> None:
    tool = a_tool(
        summary="Does it.", description="Does it. " + "word " * 2000, parameters=[query("q", description="long " * 999)]
    )
    assert len(tool.description) <= 1024
    assert tool.description.startswith("Does it. word")
    assert tool.description.endswith("GET /things")
    assert len(tool.input["properties"]["q"]["description"]) <= 1024


@pytest.mark.parametrize(
    ("summary", "description", "told"),
    [
        ("", "Does it.", "Does it."),
        ("Doing.", "", "Doing."),
        ("Doing.", "Does it.", "Doing.\nDoes it."),
        ("Does", "Does it.", "Does it."),
        ("", "", ""),
    ],
)
def test_a_tool_is_described_by_what_the_document_says_of_it(summary: str, description: str, told: str) -> None:
    tool = a_tool(summary=summary, description=description)
    assert tool.description == f"{told}\nGET /things".strip()


# --- what is wanted


def wanted_tools(wanted: Wanted, paths: Any) -> list[str]:
    return [tool.tool for tool in plan(a_document(paths), wanted=wanted).tools]


MANY = {
    "/pets": {
        "get": {"operationId": "listPets", "tags": ["pets"]},
        "post": {"operationId": "addPet", "tags": ["pets"]},
    },
    "/users/{id}": {"get": {"operationId": "getUser"}, "delete": {"operationId": "dropUser", "tags": ["admin"]}},
}


@pytest.mark.parametrize(
    ("include", "exclude", "tools"),
    [
        ((), (), ["listPets", "addPet", "getUser", "dropUser"]),
        (("tag:pets",), (), ["listPets", "addPet"]),
        (("op:*User",), ("tag:admin",), ["getUser"]),
        (("GET /*",), (), ["listPets", "getUser"]),
        (("* /users/*",), ("DELETE /*",), ["getUser"]),
        (("list*",), (), ["listPets"]),
        ((), ("*",), []),
    ],
)
def test_operations_are_chosen_by_name_tag_id_or_path(include: Any, exclude: Any, tools: list[str]) -> None:
    assert wanted_tools(Wanted(include, exclude), MANY) == tools


@pytest.mark.parametrize("where", ["root", "path", "operation"])
def test_x_mcp_is_obeyed_and_the_nearest_holds(where: str) -> None:
    operation = {"x-mcp": False} if where == "operation" else {}
    item = {"get": operation, "put": {"x-mcp": True}, **({"x-mcp": False} if where == "path" else {})}
    found = planned({"/a": item}, **({"x-mcp": False} if where == "root" else {}))
    assert [tool.method for tool in found.tools] == ["PUT"]
    assert [left_out.reason for left_out in found.left_out] == ["x-mcp says so"]


def test_x_mcp_may_name_and_describe_a_tool() -> None:
    tool = a_tool(operationId="x", **{"x-mcp": {"name": "find", "title": "Find", "description": "Finds."}})
    assert (tool.tool, tool.title, tool.description) == ("find", "Find", "Finds.\nGET /things")


# --- why an operation is none


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({"requestBody": body({}, "application/xml")}, "its body is application/xml"),
        ({"requestBody": body({"$ref": "https://x.example/s.json"})}, "leads out of the document"),
        ({"requestBody": body({"$ref": "#/components/schemas/None"})}, "points at nothing"),
        ({"parameters": [query("q", {"$ref": "file:///etc/passwd"})]}, "leads out of the document"),
        ({"parameters": [query("q", style="label")]}, "has the style 'label'"),
        ({"parameters": [{"name": "q", "in": "body", "schema": {}}]}, "has a parameter in 'body'"),
        ({"requestBody": body({"oneOf": [{}, {}]}, "multipart/form-data")}, "not known to be an object"),
        ({"servers": [{"url": "https://uploads.example"}]}, "it is served elsewhere"),
    ],
)
def test_an_operation_that_can_be_no_tool_is_left_out_with_the_reason(operation: Any, words: str) -> None:
    assert words in why_not("/a", "post", **operation)


def test_what_fails_in_one_operation_costs_no_other() -> None:
    schemas = {
        "A": an_object(b={"$ref": "#/components/schemas/B"}),
        "B": an_object(a={"$ref": "#/components/schemas/A"}, x={"$ref": "#/none"}),
    }
    paths = {
        "/a": {"post": {"requestBody": body({"$ref": "#/components/schemas/A"})}},
        "/b": {"post": {"requestBody": body({"$ref": "#/components/schemas/B"})}},
        "/c": {"post": {"requestBody": body(an_object(c={"type": "string"}))}, "head": {}},
    }
    found = planned(paths, components={"schemas": schemas})
    assert [tool.path for tool in found.tools] == ["/c"]
    assert [(left_out.path, left_out.method) for left_out in found.left_out] == [
        ("/a", "POST"), ("/b", "POST"), ("/c", "HEAD"),
    ]  # fmt: skip


def test_an_input_that_grows_beyond_any_model_is_left_out() -> None:
    wide = an_object(**{f"p{n}": an_object(**{f"q{m}": {"type": "string"} for m in range(200)}) for n in range(200)})
    assert "too large" in why_not("/a", "post", requestBody=body(wide))
    deep: Any = {"type": "string"}
    for _ in range(400):
        deep = {"type": "array", "items": deep}
    assert isinstance(a_tool("/a", "post", requestBody=body(deep)), Operation)
