"""Which operations of an OpenAPI document are tools, what those are called and take, and why the others are none.

Pure. A tool's name depends on its operation alone, so that it stays when others come and go.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

import msgspec

from moltis.rest.document import BadReference, Document, Node, server_urls
from moltis.rest.schemas import MAX_DESCRIPTION_CHARS, Schema, Schemas, TooLarge, shortened

METHODS: Final = ("get", "put", "post", "delete", "patch")
SILENT: Final = ("head", "options", "trace", "query")
"""Whose answers say nothing that a tool could pass on, or that no server is known to have."""
IDEMPOTENT: Final = frozenset({"GET", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2, of those that are tools."""

MAX_NAME_CHARS: Final = 50
SEPARATOR_CHARS: Final = 2
HASH_CHARS: Final = 8
MAX_ARGUMENT_CHARS: Final = 64
"""Anthropic's API: names of properties match `^[a-zA-Z0-9_.-]{1,64}$`."""

MAX_TITLE_CHARS: Final = 100
NOT_FOR_US: Final = frozenset({"accept", "content-type", "authorization"})
"""Parameters in headers that OpenAPI says are to be ignored: other parts of it say them."""

PAGES: Final = frozenset(
    {
        "after", "before", "continuation_token", "continuationtoken", "cursor", "endingbefore", "ending_before",
        "limit", "marker", "max_results", "maxresults", "next_token", "nexttoken", "offset", "page", "page_size",
        "page_token", "pagesize", "pagetoken", "per_page", "perpage", "skip", "starting_after", "startingafter", "top",
    }
)  # fmt: skip

Place = Literal["path", "query", "header", "cookie"]
PLACES: Final[tuple[Place, ...]] = ("path", "query", "header", "cookie")
STYLES: Final[Mapping[Place, tuple[str, ...]]] = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
"""The first of each is what is meant where nothing is said (OpenAPI 3.1.1, section 4.8.12)."""

BodyKind = Literal["json", "form", "multipart", "text", "bytes"]


_BYTES: Final = frozenset({"application/octet-stream", "application/zip", "application/gzip", "application/pdf"})
_KINDS: Final[tuple[tuple[BodyKind, Callable[[str], bool]], ...]] = (
    ("json", lambda name: name == "application/json"),
    ("json", lambda name: name.endswith("+json")),
    ("form", lambda name: name == "application/x-www-form-urlencoded"),
    ("multipart", lambda name: name == "multipart/form-data"),
    ("json", lambda name: name in ("*/*", "application/*")),
    ("text", lambda name: name.startswith("text/") and "*" not in name),
    ("bytes", lambda name: name in _BYTES or name.startswith(("image/", "audio/", "video/"))),
)
"""Media types of bodies, best first."""


class Parameter(msgspec.Struct, frozen=True):
    """What an argument is on the wire.

    argument: its name in the tool. name: in the request. is_json: its value is sent as JSON, not by a style.
    """

    argument: str
    name: str
    place: Place
    style: str
    explode: bool
    allow_reserved: bool = False
    is_json: bool = False
    is_required: bool = False


class Member(msgspec.Struct, frozen=True):
    """A member of a body that is an argument of its own. `style`, `explode`, `content_type`: of forms and multipart."""

    argument: str
    name: str
    style: str = "form"
    explode: bool = True
    content_type: str | None = None
    is_binary: bool = False


class Body(msgspec.Struct, frozen=True):
    """What is sent after the head.

    whole: the argument that is all of it; `members`: or the arguments that are each a member.
    """

    kind: BodyKind
    content_type: str
    is_required: bool
    whole: str | None = None
    members: tuple[Member, ...] = ()
    needs: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True):
    """An operation that is a tool. `path` is the document's, with its `{parameters}`."""

    tool: str
    method: str
    path: str
    title: str
    description: str
    input: Schema
    parameters: tuple[Parameter, ...]
    body: Body | None
    tags: tuple[str, ...] = ()
    id: str | None = None

    def listed(self) -> bytes:
        """Return it as an item of `tools/list`."""
        hints = {
            "readOnlyHint": self.method == "GET",
            "destructiveHint": self.method == "DELETE",
            "idempotentHint": self.method in IDEMPOTENT,
            "openWorldHint": True,
        }
        item = {"name": self.tool, "description": self.description, "inputSchema": self.input, "annotations": hints}
        return msgspec.json.encode({**item, "title": self.title} if self.title else item)


class LeftOut(msgspec.Struct, frozen=True):
    """An operation that is no tool, and why, in words."""

    method: str
    path: str
    id: str | None
    reason: str


class Plan(msgspec.Struct, frozen=True):
    """What became of a document's operations, in its order."""

    tools: tuple[Operation, ...]
    left_out: tuple[LeftOut, ...]


class Wanted(msgspec.Struct, frozen=True):
    """`include_tools` and `exclude_tools`: globs of names, `tag:NAME`, `op:ID` and `GET /path/*`. Exclusion wins."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def refusal(self, tool: str, method: str, path: str, tags: Sequence[str], id: str | None) -> str | None:
        """Return why an operation is not wanted, None if it is."""
        for pattern in self.exclude:
            if _matches(pattern, tool, method, path, tags, id):
                return f"exclude_tools has {pattern!r}"
        if self.include and not any(_matches(pattern, tool, method, path, tags, id) for pattern in self.include):
            return "include_tools has nothing that means it"
        return None


def plan(document: Document, *, label: str = "", wanted: Wanted | None = None) -> Plan:
    """Return the tools of a document. `label`: the server's name in tool names, whose length counts too."""
    return _Planner(document, label, wanted or Wanted()).plan()


class _NoTool(Exception):
    """Why an operation cannot be one."""


class _Planner:
    def __init__(self, document: Document, label: str, wanted: Wanted) -> None:
        self._document = document
        self._schemas = Schemas(document)
        self._wanted = wanted
        self._chars = MAX_NAME_CHARS - (len(label) + SEPARATOR_CHARS if label else 0)
        self._plain = Counter(self._plain_name(item, each, method, path) for method, path, item, each in self._all())

    def plan(self) -> Plan:
        tools: list[Operation] = []
        left_out: list[LeftOut] = []
        for method, path, item, node in self._all():
            try:
                tools.append(self._tool(method, path, item, node))
            except (_NoTool, BadReference) as fault:
                left_out.append(LeftOut(method.upper(), path, _id_of(node), str(fault)))
            except (TooLarge, RecursionError):
                left_out.append(LeftOut(method.upper(), path, _id_of(node), "its input is too large for any model"))
        return Plan(tuple(tools), tuple(left_out))

    def _all(self) -> Iterator[tuple[str, str, Node, Node]]:
        """Yield method, path, the path's item and the operation of each."""
        paths = self._document.root.get("paths") or {}
        for path, found in paths.items():
            try:
                item = self._document.target(found)
            except BadReference:
                item = None
            if not isinstance(item, dict) or not str(path).startswith("/"):
                continue
            for method in (*METHODS, *SILENT):
                if isinstance(item.get(method), dict):
                    yield method, str(path), item, item[method]

    # --- one tool

    def _tool(self, method: str, path: str, item: Node, node: Node) -> Operation:
        if method in SILENT:
            raise _NoTool(f"the answer to {method.upper()} has nothing that a tool could pass on")
        said = self._x_mcp(item, node)
        tags = tuple(tag for tag in node.get("tags") or () if isinstance(tag, str))
        id = _id_of(node)
        tool = self._name(item, node, method, path)
        if (why := self._wanted.refusal(tool, method.upper(), path, tags, id)) is not None:
            raise _NoTool(why)
        self._check_server(item, node)
        parameters, schemas = self._parameters(path, item, node)
        body, members = self._body(node, {parameter.argument for parameter in parameters})
        required = [p.argument for p in parameters if p.is_required]
        if body is not None:
            required += [body.whole] if body.whole and body.is_required else body.needs
        properties = lambda: {  # noqa: E731
            **{name: self._argument(*each) for name, each in schemas.items()},
            **{name: self._argument(*each) for name, each in members.items()},
        }
        return Operation(
            tool=tool,
            method=method.upper(),
            path=path,
            title=shortened(_text(said.get("title")) or _text(node.get("summary")), MAX_TITLE_CHARS),
            description=_description(said, node, method, path, parameters),
            input=self._schemas.input(properties, required),
            parameters=parameters,
            body=body,
            tags=tags,
            id=id,
        )

    def _x_mcp(self, item: Node, node: Node) -> dict[str, Any]:
        said = _said_of(node, item, self._document.root)
        if said is False or (isinstance(said, dict) and (said.get("enabled") is False or said.get("disabled") is True)):
            raise _NoTool("x-mcp says so")
        return said if isinstance(said, dict) else {}

    def _check_server(self, item: Node, node: Node) -> None:
        for each in (node, item):
            urls = server_urls(each.get("servers"))
            if urls and not set(urls) & set(self._document.servers):
                raise _NoTool(f"it is served elsewhere ({urls[0][:200]}); add that as a server of its own")

    def _argument(self, schema: Any, description: str, extra: Schema) -> Any:
        translated = self._schemas.translated(schema)
        if description:
            translated = {"description": shortened(description, MAX_DESCRIPTION_CHARS), **_less_description(translated)}
        return {**translated, **extra}

    # --- names

    def _name(self, item: Node, node: Node, method: str, path: str) -> str:
        """Return the name of a tool; where it is cut, or not the only one, with a hash of the operation in it."""
        plain = self._plain_name(item, node, method, path)
        if len(plain) <= self._chars and self._plain[plain] == 1:
            return plain
        digest = hashlib.sha256(f"{method} {path}".encode()).hexdigest()[:HASH_CHARS]
        head = plain[: max(1, self._chars - HASH_CHARS - 1)].rstrip("_-")
        return f"{head}_{digest}"

    def _plain_name(self, item: Node, node: Node, method: str, path: str) -> str:
        """Return what a tool would be called if it were alone, and names as long as they like."""
        said = _said_of(node, item, self._document.root)
        own = _text(said.get("name")) if isinstance(said, dict) else ""
        words = f"{method}_{path.lstrip('/').replace('{', 'by_')}"
        return next(filter(None, map(_plain, (own, _id_of(node) or "", words))), method)

    # --- parameters

    def _parameters(
        self, path: str, item: Node, node: Node
    ) -> tuple[tuple[Parameter, ...], dict[str, tuple[Any, str, Schema]]]:
        found: dict[tuple[str, str], Node] = {}
        for each in (*_list(item.get("parameters")), *_list(node.get("parameters"))):
            parameter = self._document.target(each)
            if isinstance(parameter, dict) and isinstance(parameter.get("name"), str):
                found[str(parameter.get("in")), parameter["name"]] = parameter
        for name in re.findall(r"\{([^{}]+)\}", path):
            found.setdefault(("path", name), {"name": name, "in": "path", "schema": {"type": "string"}})
        made: list[Parameter] = []
        schemas: dict[str, tuple[Any, str, Schema]] = {}
        for place in PLACES:
            for (where, name), parameter in found.items():
                if where != place or (place == "header" and name.lower() in NOT_FOR_US):
                    continue
                if place == "path" and f"{{{name}}}" not in path:
                    continue
                argument = _argument_name(name, schemas, f"in_{place}")
                made.append(self._parameter(argument, name, place, parameter))
                is_json = made[-1].is_json
                schema = next(iter(parameter["content"].values()), {}) if is_json else parameter
                schemas[argument] = (_schema_of(schema), _text(parameter.get("description")), {})
        if unknown := next((where for where, _ in found if where not in PLACES), None):
            raise _NoTool(f"it has a parameter in {unknown[:40]!r}")
        return tuple(made), schemas

    def _parameter(self, argument: str, name: str, place: Place, node: Node) -> Parameter:
        content = node.get("content")
        style = node.get("style", STYLES[place][0])
        if style not in STYLES[place]:
            raise _NoTool(f"its parameter {name!r} has the style {str(style)[:40]!r}, which is none for {place}")
        explode = node.get("explode")
        return Parameter(
            argument=argument,
            name=name,
            place=place,
            style=style,
            explode=explode if isinstance(explode, bool) else style in ("form", "deepObject"),
            allow_reserved=node.get("allowReserved") is True,
            is_json=isinstance(content, dict) and bool(content) and "schema" not in node,
            is_required=place == "path" or node.get("required") is True,
        )

    # --- body

    def _body(self, node: Node, taken: set[str]) -> tuple[Body | None, dict[str, tuple[Any, str, Schema]]]:
        if node.get("requestBody") is None:
            return None, {}
        request = self._document.target(node["requestBody"])
        content = request.get("content") if isinstance(request, dict) else None
        if not isinstance(content, dict) or not content:
            return None, {}
        kind, content_type, media = _chosen(content)
        is_required = request.get("required") is True
        schema = _schema_of(media)
        description = _text(request.get("description"))
        if kind in ("json", "form", "multipart"):
            found = self._schemas.members(schema)
            if found is not None and found[0] and (is_required or not found[1]):
                merged = self._merged(kind, content_type, is_required, media, found, taken)
                if merged is not None:
                    return merged
            if kind != "json" and found is None:
                raise _NoTool(f"its body is {content_type} and not known to be an object")
        whole = _argument_name("body", taken, "of_request")
        extra: Schema = {}
        if kind == "bytes":
            schema, extra = {"type": "string"}, {"contentEncoding": "base64"}
            description = description or f"The body ({content_type}), base64"
        if kind in ("form", "multipart"):
            properties = found[0] if found is not None else {}
            fields = self._members_of(media, properties, {name: name for name in properties})
            return Body(kind, content_type, is_required, whole, fields), {whole: (schema, description, extra)}
        return Body(kind, content_type, is_required, whole), {whole: (schema, description, extra)}

    def _merged(
        self,
        kind: BodyKind,
        content_type: str,
        is_required: bool,
        media: Node,
        found: tuple[dict[str, Any], list[str]],
        taken: set[str],
    ) -> tuple[Body, dict[str, tuple[Any, str, Schema]]] | None:
        """Return a body whose members are arguments; None where one has the name of a parameter."""
        properties, required = found
        arguments: dict[str, str] = {}
        for name in properties:
            if name in taken:
                return None
            arguments[name] = _argument_name(name, taken | set(arguments.values()), "of_body")
        members = self._members_of(media, properties, arguments)
        schemas = {member.argument: (properties[member.name], "", _extra(kind, member)) for member in members}
        needs = tuple(arguments[name] for name in required)
        return Body(kind, content_type, is_required, None, members, needs), schemas

    def _members_of(
        self, media: Node, properties: Mapping[str, Any], arguments: Mapping[str, str]
    ) -> tuple[Member, ...]:
        encoding = media.get("encoding")
        return tuple(
            self._member(arguments[name], name, each, encoding.get(name) if isinstance(encoding, dict) else None)
            for name, each in properties.items()
        )

    def _member(self, argument: str, name: str, schema: Any, encoding: Any) -> Member:
        encoding = encoding if isinstance(encoding, dict) else {}
        node = self._document.target(schema)
        node = node if isinstance(node, dict) else {}
        items = self._document.target(node.get("items")) if node.get("type") == "array" else node
        style, explode = encoding.get("style", "form"), encoding.get("explode")
        content_type = encoding.get("contentType")
        return Member(
            argument=argument,
            name=name,
            style=style if style in STYLES["query"] else "form",
            explode=explode if isinstance(explode, bool) else style in ("form", "deepObject"),
            content_type=content_type.split(",")[0].strip() if isinstance(content_type, str) else None,
            is_binary=isinstance(items, dict) and _is_binary(items),
        )


def _is_binary(schema: Node) -> bool:
    return schema.get("format") == "binary" or (
        "contentMediaType" in schema and "contentEncoding" not in schema and schema.get("type") in (None, "string")
    )


def _extra(kind: BodyKind, member: Member) -> Schema:
    if kind == "multipart" and member.is_binary:
        return {"contentEncoding": "base64"}
    return {}


def _chosen(content: Node) -> tuple[BodyKind, str, Node]:
    """Return how a body is sent, of the media types that the document allows."""
    for kind, is_it in _KINDS:
        for written, media in content.items():
            if isinstance(written, str) and is_it(written.split(";")[0].strip().lower()):
                name = "application/json" if "*" in written and kind == "json" else written
                return kind, name, media if isinstance(media, dict) else {}
    raise _NoTool(f"its body is {', '.join(map(str, content))[:200]}")


def _argument_name(name: str, taken: Any, suffix: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip("_")[:MAX_ARGUMENT_CHARS] or "value"
    if name not in taken and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        plain = name
    if plain in taken:
        plain = f"{plain[: MAX_ARGUMENT_CHARS - len(suffix) - 1]}_{suffix}"
    number, base = 1, plain
    while plain in taken:
        number += 1
        plain = f"{base[: MAX_ARGUMENT_CHARS - 4]}_{number}"
    return plain


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")


def _said_of(*nearest: Node) -> Any:
    """Return what `x-mcp` says; of the operation's, the path's and the document's the nearest holds."""
    return next((each["x-mcp"] for each in nearest if "x-mcp" in each), True)


def _description(said: Mapping[str, Any], node: Node, method: str, path: str, parameters: Sequence[Parameter]) -> str:
    own = _text(said.get("description"))
    summary, description = _text(node.get("summary")), _text(node.get("description"))
    said_twice = description.startswith(summary)
    text = own or (description if said_twice else f"{summary}\n{description}")
    pages = [p.argument for p in parameters if p.place == "query" and re.sub("[^a-z_]", "", p.name.lower()) in PAGES]
    tail = f"{method.upper()} {path}"
    if pages:
        tail += f". In pages: {', '.join(pages)}"
    room = MAX_DESCRIPTION_CHARS - len(tail) - 2
    head = shortened(text, room) if room > 100 else ""
    return f"{head}\n{tail}" if head else shortened(tail, MAX_DESCRIPTION_CHARS)


def _matches(pattern: str, tool: str, method: str, path: str, tags: Sequence[str], id: str | None) -> bool:
    if pattern.startswith("tag:"):
        return any(fnmatchcase(tag, pattern[4:]) for tag in tags)
    if pattern.startswith("op:"):
        return id is not None and fnmatchcase(id, pattern[3:])
    verb, blank, where = pattern.partition(" ")
    if blank:
        return (verb == "*" or verb.upper() == method) and fnmatchcase(path, where.strip())
    return fnmatchcase(tool, pattern)


def _schema_of(node: Any) -> Any:
    return node.get("schema", {}) if isinstance(node, dict) else {}


def _less_description(schema: Any) -> Schema:
    return {key: value for key, value in schema.items() if key != "description"} if isinstance(schema, dict) else {}


def _id_of(node: Node) -> str | None:
    id = node.get("operationId")
    return id.strip() if isinstance(id, str) and id.strip() else None


def _text(found: Any) -> str:
    return found.strip() if isinstance(found, str) else ""


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []
