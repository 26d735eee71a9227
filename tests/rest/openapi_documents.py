"""OpenAPI documents for tests, in few words."""

from __future__ import annotations

from typing import Any

import msgspec

from moltis.rest.document import Document, read
from moltis.rest.operations import Operation, Plan, plan


def a_document(paths: dict[str, Any], *, version: str = "3.1.0", **more: Any) -> Document:
    root = {"openapi": version, "info": {"title": "An API", "version": "1"}, "paths": paths, **more}
    return read(msgspec.json.encode(root), "api.json")


def planned(paths: dict[str, Any], **more: Any) -> Plan:
    return plan(a_document(paths, **more))


def a_tool(path: str = "/things", method: str = "get", /, *, document: Any = None, **operation: Any) -> Operation:
    """Return the one tool of a document that has this operation alone."""
    found = planned({path: {method: operation}}, **(document or {}))
    assert not found.left_out, found.left_out
    [tool] = found.tools
    return tool


def why_not(path: str = "/things", method: str = "get", /, *, document: Any = None, **operation: Any) -> str:
    """Return why the one operation of a document is no tool."""
    found = planned({path: {method: operation}}, **(document or {}))
    assert not found.tools
    [left_out] = found.left_out
    return left_out.reason


def query(name: str, schema: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema or {"type": "string"}, **more}


def body(schema: Any, media_type: str = "application/json", *, required: bool = True, **more: Any) -> dict[str, Any]:
    return {"required": required, "content": {media_type: {"schema": schema, **more}}}


def an_object(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}
