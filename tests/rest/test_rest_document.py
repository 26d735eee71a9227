"""Reading an OpenAPI document: what it may be, and that nothing outside of it is opened."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from openapi_documents import a_document

from moltis.errors import ConfigError
from moltis.rest.document import MAX_BYTES, BadReference, read

HEAD = b'{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{}'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[1]", "holds a list"),
        (b"<!DOCTYPE html><p>", "is HTML"),
        (b'{"swagger":"2.0","paths":{}}', "is Swagger 2.0"),
        (b'{"openapi":"4.0.0","paths":{}}', "is OpenAPI '4.0.0'"),
        (b'{"openapi":3.1,"paths":{}}', "has no `openapi`"),
        (b'{"info":{}}', "has no `openapi`"),
        (b'{"openapi":"3.0.3","paths":[]}', "its `paths` are a list"),
        (b"[" * 100_000, "is not JSON"),
        (HEAD + b" " * (MAX_BYTES - len(HEAD) + 1) + b"}", "a document may have"),
        (b"\xc3\x28: {", "is neither JSON nor YAML"),
        (b"a: &x [1]\nb: [*x, *x]\nopenapi: 3.1.0", "api.json:2 uses a YAML alias"),
    ],
    ids=["empty", "cut", "list", "html", "swagger", "4.0", "number", "none", "paths", "deep", "long", "bytes", "alias"],
)
def test_what_is_no_document_is_told_in_one_sentence_that_says_what_it_is(data: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(data, "api.json")
    assert words in refused.value.message
    assert refused.value.message.startswith("api.json")


def test_yaml_is_read_as_json_would_be() -> None:
    text = b"""\
openapi: 3.1.0
info: {title: Dates and countries, version: 2024-01-02}
paths:
  /x:
    get:
      operationId: x
      parameters: [{name: c, in: query, schema: {type: string, enum: [no, yes, on, NO]}}]
      responses: {200: {description: it is true}}
x: true
"""
    document = read(text, "api.yaml")
    assert document.root["info"]["version"] == "2024-01-02"
    assert document.root["paths"]["/x"]["get"]["parameters"][0]["schema"]["enum"] == ["no", "yes", "on", "NO"]
    assert document.root["x"] is True


def test_yaml_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError) as refused:
        read(b"openapi: 3.1.0\npaths: {}\n", "api.yaml")
    assert "moltis[openapi]" in refused.value.hint


@pytest.mark.parametrize(
    "reference",
    ["other.json#/x", "https://evil.example/x", "file:///etc/passwd", "/etc/passwd", "http://169.254.169.254/", "x"],
)
def test_a_reference_out_of_the_document_is_not_opened(reference: str) -> None:
    with pytest.raises(BadReference, match="leads out of the document"):
        a_document({}).at(reference)


@pytest.mark.parametrize("reference", ["#/components/nothing", "#/paths/0", "#/openapi/0/1", "#/%", "#nothing"])
def test_a_reference_to_nothing_is_told(reference: str) -> None:
    with pytest.raises(BadReference, match="points at nothing"):
        a_document({}).at(reference)


def test_references_in_a_circle_have_no_target() -> None:
    loop = {"schemas": {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}}}
    with pytest.raises(BadReference, match="circle"):
        a_document({}, components=loop).target({"$ref": "#/components/schemas/A"})


def test_a_pointer_with_escapes_is_followed() -> None:
    document = a_document({"/a~b/{c}": {"get": {"operationId": "x"}}})
    assert document.at("#/paths/~1a~0b~1%7Bc%7D/get") == {"operationId": "x"}


@pytest.mark.parametrize(
    ("servers", "urls"),
    [
        (None, ()),
        ([{"url": "https://x.example/{v}", "variables": {"v": {"default": "v2"}}}], ("https://x.example/v2",)),
        ([{"url": 1}, "x", {"url": "/api"}], ("/api",)),
    ],
)
def test_where_it_is_served_is_told_with_the_defaults_of_its_variables(servers: Any, urls: tuple[str, ...]) -> None:
    assert a_document({}, servers=servers).servers == urls


def test_a_document_is_never_changed() -> None:
    from moltis.rest.operations import plan

    root: dict[str, Any] = {
        "openapi": "3.0.3",
        "paths": {
            "/a/{id}": {
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
                "post": {
                    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}
                },
            }
        },
        "components": {
            "schemas": {
                "A": {
                    "type": "object",
                    "nullable": True,
                    "required": ["x"],
                    "properties": {"x": {"$ref": "#/components/schemas/A"}, "y": {"readOnly": True, "minimum": 1}},
                }
            }
        },
    }
    document = read(msgspec.json.encode(root), "a")
    plan(document)
    assert document.root == root
