"""Schemas of an OpenAPI document as JSON Schema 2020-12, for the inputs of tools.

A schema is translated once, whatever uses it, and stays where it is: `$ref` leads to `$defs` of the tool, so that
cycles need nothing special. What a model has no use for (examples, XML, extensions) is left out, for it is paid for
with each request to the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from moltis.rest.document import BadReference, Document

MAX_DESCRIPTION_CHARS: Final = 1024
MAX_NODES: Final = 20_000
"""Of one tool's input: beyond it no model reads it, and no host takes it."""

AS_THEY_ARE: Final = (
    "type", "format", "default", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum",
    "exclusiveMinimum", "maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxProperties",
    "minProperties", "deprecated", "contentEncoding", "contentMediaType", "maxContains", "minContains",
    "dependentRequired",
)  # fmt: skip
"""Keywords whose value is not a schema, in the order that they are written."""
ONE: Final = (
    "items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
LIST: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
MAP: Final = ("patternProperties", "dependentSchemas")

Schema = dict[str, Any]


class TooLarge(Exception):
    """The input of a tool has more than `MAX_NODES` schemas in it."""


class Schemas:
    """Translates the schemas of one document; keeps what several tools use."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._made: dict[str, Any] = {}
        self._uses: dict[str, set[str]] = {}
        self._sizes: dict[str, int] = {}
        self._failed: dict[str, Exception] = {}
        self._using: list[set[str]] = [set()]
        self._size = [0]

    def input(self, properties: Callable[[], Schema], required: Iterable[str]) -> Schema:
        """Return the input schema of a tool. `properties` makes its properties, by `translated`.

        Raises:
            BadReference, TooLarge: it cannot be had.
        """
        self._using.append(set())
        self._size.append(0)
        try:
            schema: Schema = {"type": "object", "properties": properties()}
        finally:
            used, size = self._using.pop(), self._size.pop()
        if needed := [*required]:
            schema["required"] = needed
        defs = self._reached(used)
        if failed := next((name for name in sorted(defs) if name in self._failed), None):
            raise self._failed[failed]  # it is in a circle with what can be had
        if size + sum(self._sizes[name] for name in defs) > MAX_NODES:
            raise TooLarge
        if defs:
            schema["$defs"] = {name: self._made[name] for name in sorted(defs)}
        return schema

    def translated(self, schema: Any) -> Any:
        """Return a schema of the document as JSON Schema, with `$ref` into `$defs`.

        Raises:
            BadReference, TooLarge: it cannot be had.
        """
        self._size[-1] += 1
        if self._size[-1] > MAX_NODES:
            raise TooLarge
        if isinstance(schema, bool):
            return {} if schema else {"not": {}}
        if not isinstance(schema, dict):
            return {}
        out: Schema = {}
        if isinstance(schema.get("$ref"), str):
            name = self._def(schema["$ref"])
            self._using[-1].add(name)
            out["$ref"] = f"#/$defs/{name}"
        self._add_plain(schema, out)
        for key in ONE:
            if key in schema:
                value = schema[key]
                out[key] = value if isinstance(value, bool) else self.translated(value)
        for key in LIST:
            if isinstance(schema.get(key), list) and schema[key]:
                out[key] = [self.translated(each) for each in schema[key]]
        for key in MAP:
            if isinstance(schema.get(key), dict):
                out[key] = {str(name): self.translated(each) for name, each in schema[key].items()}
        self._add_members(schema, out)
        return self._with_null(schema, out) if schema.get("nullable") is True else out

    def members(self, schema: Any) -> tuple[dict[str, Any], list[str]] | None:
        """Return the properties of an object, untranslated, and which of them are required.

        None where it is not known to be an object of just these: a choice, or open to others.

        Raises:
            BadReference: it cannot be had.
        """
        return self._members(schema, 0)

    def _members(self, schema: Any, depth: int) -> tuple[dict[str, Any], list[str]] | None:
        node = self._document.target(schema)
        if not isinstance(node, dict) or depth > 16:
            return None
        if any(key in node for key in ("oneOf", "anyOf", "not", "if", "patternProperties", "dependentSchemas")):
            return None
        if node.get("type", "object") not in ("object", ["object"]) or node.get("nullable") is True:
            return None
        if node.get("additionalProperties", False) is not False and node.get("additionalProperties") != {}:
            return None
        properties: dict[str, Any] = {}
        required: list[str] = []
        for part in node.get("allOf") or ():
            found = self._members(part, depth + 1)
            if found is None:
                return None
            properties |= found[0]
            required += found[1]
        own = node.get("properties")
        if isinstance(own, dict):
            properties |= {str(name): each for name, each in own.items()}
        required += _names(node.get("required"))
        writable = {name: each for name, each in properties.items() if not self.is_read_only(each)}
        return writable, [name for name in dict.fromkeys(required) if name in writable]

    def is_read_only(self, schema: Any) -> bool:
        """Return whether only answers have it: asked to send it, a model would make it up."""
        if not isinstance(schema, dict):
            return False
        if schema.get("readOnly") is True:
            return True
        target = self._document.target(schema)
        return isinstance(target, dict) and target.get("readOnly") is True

    # --- keywords

    def _add_plain(self, schema: Schema, out: Schema) -> None:
        description = schema.get("description")
        if isinstance(description, str) and description.strip():
            out["description"] = shortened(description, MAX_DESCRIPTION_CHARS)
        for key in AS_THEY_ARE:
            if key in schema:
                out[key] = schema[key]
        for bound, flag in (("maximum", "exclusiveMaximum"), ("minimum", "exclusiveMinimum")):
            # OpenAPI 3.0 has a flag beside the bound, JSON Schema the bound itself.
            if isinstance(out.get(flag), bool) and out.pop(flag) and bound in out:
                out[flag] = out.pop(bound)
        if out.get("format") == "binary":
            out["contentEncoding"] = "base64"
            del out["format"]

    def _add_members(self, schema: Schema, out: Schema) -> None:
        properties = schema.get("properties")
        dropped: set[str] = set()
        if isinstance(properties, dict):
            dropped = {str(name) for name, each in properties.items() if self.is_read_only(each)}
            out["properties"] = {
                str(name): self.translated(each) for name, each in properties.items() if str(name) not in dropped
            }
        required = [name for name in _names(schema.get("required")) if name not in dropped]
        if required:
            out["required"] = required

    def _with_null(self, schema: Schema, out: Schema) -> Schema:
        """Return the schema with null allowed, which OpenAPI 3.0 writes as `nullable`."""
        if isinstance(out.get("enum"), list) and None not in out["enum"]:
            out["enum"] = [*out["enum"], None]
        kind = out.get("type")
        if isinstance(kind, str):
            out["type"] = [kind, "null"]
        elif any(key in out for key in ("$ref", *LIST)):
            description = out.pop("description", None)
            whole: Schema = {"anyOf": [out, {"type": "null"}]}
            return whole if description is None else {"description": description, **whole}
        return out

    # --- $defs

    def _def(self, reference: str) -> str:
        if reference in self._names:
            name = self._names[reference]
            if name in self._failed:
                raise self._failed[name]
            return name
        node = self._document.at(reference)
        name = self._names[reference] = self._free_name(reference)
        self._using.append(set())
        self._size.append(0)
        try:
            self._made[name] = self.translated(node)
        except (BadReference, TooLarge) as fault:
            self._failed[name] = fault
            raise
        finally:
            self._uses[name], self._sizes[name] = self._using.pop(), self._size.pop()
        return name

    def _free_name(self, reference: str) -> str:
        tail = reference.rsplit("/", 1)[-1].replace("~1", "/").replace("~0", "~")
        base = re.sub(r"[^A-Za-z0-9_.-]", "_", tail)[:64] or "schema"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name

    def _reached(self, used: set[str]) -> set[str]:
        reached: set[str] = set()
        waiting = list(used)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting.extend(self._uses[name])
        return reached


def shortened(text: str, chars: int) -> str:
    """Return a text with its blanks made one each line, cut between words."""
    text = "\n".join(" ".join(line.split()) for line in text.strip().splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text)
    if len(text) <= chars:
        return text
    head = text[: chars - 1]
    cut = max(head.rfind(" "), head.rfind("\n"))
    return (head[:cut] if cut > chars // 2 else head).rstrip(" \n,;:") + "…"


def _names(found: Any) -> list[str]:
    return [str(name) for name in found] if isinstance(found, list) else []
