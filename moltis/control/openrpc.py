"""What the methods are, for programs (OpenRPC 1.3) and in docs/control-socket.md, from the registry alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from moltis import __version__

if TYPE_CHECKING:
    from moltis.control.registry import Registry
    from moltis.operations.registry import Operation

OPENRPC_VERSION: Final = "1.3.2"
_REF: Final = "#/components/schemas/{name}"


def document(registry: Registry) -> msgspec.Raw:
    """Give the OpenRPC document of all methods: https://spec.open-rpc.org, version 1.3."""
    methods = list(registry.methods.values())
    types = [t for m in methods for t in (m.params, m.result)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    whole = {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": "moltis control socket", "version": __version__, "license": {"name": "MIT"}},
        "methods": [_method(m, schemas[2 * i], schemas[2 * i + 1], components) for i, m in enumerate(methods)],
        "components": {"schemas": components},
    }
    return msgspec.Raw(msgspec.json.encode(whole))


def _method(method: Operation, takes: Any, gives: Any, components: dict[str, Any]) -> dict[str, Any]:
    schema = components[takes["$ref"].rpartition("/")[2]]
    required = schema.get("required", [])
    params = [
        {"name": name, "required": name in required, "schema": described}
        for name, described in schema.get("properties", {}).items()
    ]
    result = {"name": "result", "schema": gives}
    if method.exposes:
        result["description"] = method.exposes.replace("`", "")
    return {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": params,
        "result": result,
    }


def markdown_table(registry: Registry) -> str:
    """Return the table of all methods in docs/control-socket.md."""
    rows = ["| method | params | result | what it does |", "|---|---|---|---|"]
    for method in registry.methods.values():
        cells = (f"`{method.name}`", method.takes or _params(method), method.exposes or _result(method), method.summary)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _params(method: Operation) -> str:
    fields = msgspec.structs.fields(method.params)
    names = [f.encode_name if f.required else f"{f.encode_name}?" for f in fields]
    return f"`{', '.join(names)}`" if names else ""


def _result(method: Operation) -> str:
    if not isinstance(method.result, type) or not issubclass(method.result, msgspec.Struct):
        return ""
    return f"`{' '.join(f.encode_name for f in msgspec.structs.fields(method.result))}`"
