"""An OpenAPI document (3.0, 3.1, 3.2), read and never changed; references stay within it.

What `$ref` names outside of the document is a file or an address that whoever wrote the document chose for us to read,
and is never opened.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from referencing import Registry, Resource, Specification
from referencing.exceptions import Unresolvable

from moltis.errors import ConfigError

MAX_BYTES: Final = 32 * 1024 * 1024
"""The largest published document known, Microsoft Graph's, is below this as JSON."""

UNDERSTOOD: Final = (["3", "0"], ["3", "1"], ["3", "2"])
"""Versions, by their first two numbers: the third changes nothing (OpenAPI 3.1.1, section 4.1)."""

MAX_HOPS: Final = 32
"""From a `$ref` to another to what is meant."""

Node = Mapping[str, Any]
"""An object of the document."""

TRUE_OR_FALSE: Final = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
"""Of YAML 1.2, which OpenAPI names (section 4.3); to YAML 1.1 `no` is false, and Norway is gone."""

YAML_EXTRA: Final = "pip install 'moltis[openapi]', or write it as JSON"


class BadReference(Exception):
    """A `$ref` that is not followed, in words that go on after "its ..."."""


class Document:
    """A document whose `openapi` is known, and the way through its references. `root`: the whole of it."""

    def __init__(self, root: Node) -> None:
        self.root = root
        resource: Resource[Any] = Specification.OPAQUE.create_resource(root)
        self._resolver = Registry().with_resource("", resource).resolver()

    @functools.cached_property
    def title(self) -> str:
        """What the document calls the API."""
        info = self.root.get("info")
        title = info.get("title") if isinstance(info, dict) else None
        return title.strip() if isinstance(title, str) else ""

    @functools.cached_property
    def servers(self) -> tuple[str, ...]:
        """Return the addresses that the document gives for the API, with the defaults of their variables filled in."""
        return server_urls(self.root.get("servers"))

    def at(self, reference: str) -> Any:
        """Return what a `$ref` points at, which may be another.

        Raises:
            BadReference: it leads out of the document, or nothing is there.
        """
        if not reference.startswith("#"):
            raise BadReference(f"$ref {reference[:200]!r} leads out of the document, and is not opened")
        try:
            return self._resolver.lookup(reference).contents
        except (Unresolvable, ValueError, TypeError, LookupError) as fault:
            raise BadReference(f"$ref {reference[:200]!r} points at nothing") from fault

    def target(self, node: Any) -> Any:
        """Return what an object stands for: itself, or what its `$ref` leads to in the end.

        Raises:
            BadReference: see `at`; or it only leads from one reference to the next.
        """
        for _ in range(MAX_HOPS):
            if not (isinstance(node, dict) and isinstance(node.get("$ref"), str)):
                return node
            node = self.at(node["$ref"])
        raise BadReference("$ref goes in a circle, and nothing is in it")


def read(data: bytes, name: str) -> Document:
    """Read a document. `name` says in messages where it is from.

    Raises:
        ConfigError: it is none, or none of a version that is understood; the message says what it is instead.
    """
    if len(data) > MAX_BYTES:
        size = f"{len(data) / 1e6:.0f} MB; a document may have {MAX_BYTES / 1e6:.0f} MB"
        raise ConfigError(f"{name} has {size}", hint="keep the paths that are needed, and what they refer to")
    root = _parsed(data.removeprefix(b"\xef\xbb\xbf"), name)
    if not isinstance(root, dict):
        raise ConfigError(f"{name} is not an OpenAPI document: it holds {_kind(root)}")
    if "swagger" in root:
        hint = "convert it once, e.g. npx swagger2openapi -o openapi.json FILE"
        raise ConfigError(f"{name} is Swagger {root['swagger']!s:.10}; OpenAPI 3.0 or later is wanted", hint=hint)
    version = root.get("openapi")
    if not isinstance(version, str):
        raise ConfigError(f"{name} is not an OpenAPI document: it has no `openapi` that says which version it is")
    if version.split(".")[:2] not in UNDERSTOOD:
        raise ConfigError(f"{name} is OpenAPI {version[:20]!r}; 3.0, 3.1 and 3.2 are understood")
    if not isinstance(root.get("paths", {}), dict):
        raise ConfigError(f"{name} is not an OpenAPI document: its `paths` are {_kind(root['paths'])}")
    return Document(root)


def _parsed(data: bytes, name: str) -> Any:
    start = data[:512].lstrip().lower()
    if start.startswith(b"<"):
        raise ConfigError(f"{name} is HTML or XML, not an OpenAPI document", hint="is it the page about the document?")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as fault:
        if start.startswith((b"{", b"[")) or not start:
            raise ConfigError(f"{name} is not JSON: {fault or 'it is nested too deeply'}") from fault
    return _parsed_yaml(data, name)


def _parsed_yaml(data: bytes, name: str) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise ConfigError(f"{name} is not JSON; if it is YAML, an extra is missing", hint=YAML_EXTRA) from None
    try:
        _refuse_aliases(yaml, data, name)
        return yaml.load(data, _loader(yaml))
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError, ValueError) as fault:
        words = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise ConfigError(f"{name} is neither JSON nor YAML: {words[:200]}") from fault


def _refuse_aliases(yaml: Any, data: bytes, name: str) -> None:
    """Refuse what YAML can repeat by name: nine lines of it are a billion ("billion laughs")."""
    if b"*" not in data or b"&" not in data:
        return
    for event in yaml.parse(data, yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ConfigError(f"{name}:{line} uses a YAML alias (*{event.anchor}); write `$ref` instead")


@functools.cache
def _loader(yaml: Any) -> Any:
    """Return a loader that makes of YAML what JSON can hold: a date stays a text, and so do `yes` and `no`."""
    base = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
    unwanted = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool"}
    resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag not in unwanted]
        for first, found in base.yaml_implicit_resolvers.items()
    }
    loader: Any = type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})
    loader.add_implicit_resolver("tag:yaml.org,2002:bool", TRUE_OR_FALSE, list("tTfF"))
    return loader


def server_urls(found: Any) -> tuple[str, ...]:
    """Return the addresses in a `servers` of the document, an operation or a path."""
    return tuple(
        _with_defaults(server["url"], server.get("variables"))
        for server in (found if isinstance(found, list) else ())
        if isinstance(server, dict) and isinstance(server.get("url"), str)
    )


def _with_defaults(url: str, variables: Any) -> str:
    for name, variable in variables.items() if isinstance(variables, dict) else ():
        if isinstance(variable, dict):
            url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    return url


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")
