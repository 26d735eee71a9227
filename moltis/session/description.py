"""What a server says of itself when it is asked who it is: InitializeResult, and DiscoverResult from 2026-07-28 on.

Pure. What is read here is passed on to hosts, whose SDKs refuse the whole answer for one member of a wrong type. So
what MCP gives a type has that type afterwards, whatever the server said: a part that nobody needs is left out, or taken
for empty, and named; nothing but the revision is worth losing the server for. What is well formed stays as it is.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from moltis.jsonrpc import MALFORMED
from moltis.session.parts import is_empty, kind_of

SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"

MAX_PART_BYTES: Final = 256 * 1024
"""Of each part but the instructions: they are shown in every status. Real ones have below 4 kB."""
MAX_INSTRUCTIONS_CHARS: Final = 256 * 1024
MAX_NAMED: Final = 5
"""Members that are named in a remark."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_ABSENT: Final = Raw()

_FLAG: Final = object()
_ANY_NAME: Final = ""
_CAPABILITIES: Final[dict[str, Any]] = {
    "tools": {"listChanged": _FLAG},
    "resources": {"listChanged": _FLAG, "subscribe": _FLAG},
    "prompts": {"listChanged": _FLAG},
    "logging": {},
    "completions": {},
    "tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}},
    "experimental": {_ANY_NAME: {}},
    "extensions": {_ANY_NAME: {}},
}
"""`ServerCapabilities` of all revisions: an object, or a flag. `_ANY_NAME`: so is each member, whatever its name."""

_OF_ONE_ANSWER: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
_OF_A_REQUEST: Final = frozenset({"progressToken", "io.modelcontextprotocol/related-task"})
"""Members of `_meta` that say something of one request."""
_THEMES: Final = ("light", "dark")


class Answer(msgspec.Struct, rename="camel"):
    """The members that are understood, each as JSON; empty if it is not there."""

    protocol_version: Raw = _ABSENT
    supported_versions: Raw = _ABSENT
    capabilities: Raw = _ABSENT
    server_info: Raw = _ABSENT
    instructions: Raw = _ABSENT
    meta: Raw = msgspec.field(name="_meta", default=_ABSENT)


class _Meta(msgspec.Struct):
    server_info: Raw = msgspec.field(name=SERVER_INFO, default=_ABSENT)


_ANSWER: Final = msgspec.json.Decoder(Answer)
_META: Final = msgspec.json.Decoder(_Meta)
_LARGE_CAPABILITIES: Final = msgspec.json.Decoder(
    msgspec.defstruct("_Capabilities", [(name, Raw, _ABSENT) for name in _CAPABILITIES])
)
_LARGE_INFO: Final = msgspec.json.Decoder(
    msgspec.defstruct("_Info", [(name, Raw, _ABSENT) for name in ("name", "version", "title")])
)


class Description(msgspec.Struct, frozen=True):
    """What a server says of itself. `more`: what is not understood here, `_meta` among it, as it came.

    remarks: what could not be used, a sentence each; nothing of a healthy server's.
    """

    server_info: dict[str, Any] | None
    capabilities: dict[str, Any]
    instructions: str | None = None
    more: dict[str, Raw] = msgspec.field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def read_answer(method: str, answer: bytes) -> Answer:
    """Read the answer to `initialize` or `server/discover`.

    Raises:
        ValueError: it is no object; with what it is, as a sentence.
    """
    try:
        return _ANSWER.decode(answer)
    except MALFORMED as fault:
        seen = kind_of(answer)
        nested = seen == "an object"
        raise ValueError(
            f"the answer to {method} cannot be read" if nested else f"the answer to {method} is {seen}, not an object"
        ) from fault


def describe(method: str, answer: bytes, *, modern: bool) -> Description:
    """Return what can be used of an answer. `modern`: it is that to `server/discover`.

    Raises:
        ValueError: as `read_answer`.
    """
    read = read_answer(method, answer)
    wrong: list[str] = []
    said = read.server_info
    if modern:
        try:
            said = _META.decode(read.meta).server_info if read.meta else _ABSENT
        except MALFORMED:
            said = _ABSENT
    info = _info(said, wrong)
    capabilities = _capabilities(read.capabilities, wrong)
    instructions, cut = _instructions(read.instructions, wrong)
    more = _more(answer, read, wrong)
    remarks = []
    if wrong:
        named = ", ".join(f"`{name}`" for name in wrong[:MAX_NAMED])
        rest = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
        remarks.append(f"its answer to {method} has what MCP does not allow there, and is used without: {named}{rest}")
    if cut:
        remarks.append(f"its instructions have {cut} characters, of which hosts get {MAX_INSTRUCTIONS_CHARS}")
    return Description(info, capabilities, instructions, more, tuple(remarks))


# --- capabilities


def _capabilities(said: Raw, wrong: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, raw in _parts(said, _LARGE_CAPABILITIES, "capabilities", wrong).items():
        try:
            value = msgspec.json.decode(raw)
        except MALFORMED:
            wrong.append(f"capabilities.{name}" if name in _CAPABILITIES else "capabilities")
            continue
        if name in _CAPABILITIES:
            value = _shaped(value, _CAPABILITIES[name], f"capabilities.{name}", wrong)
        if value is not None or name not in _CAPABILITIES:
            found[name] = value
    return found


def _shaped(value: Any, shape: Any, name: str, wrong: list[str]) -> Any:
    """Return the value as what it has to be, None if it says that it is not there."""
    if shape is _FLAG:
        if not isinstance(value, bool) and value is not None:
            wrong.append(name)
        return value if isinstance(value, bool) else None
    if not isinstance(value, dict):
        if value is None:
            return None
        if value != []:
            wrong.append(name)
        return {} if value or value == [] else None
    kept = {}
    for member, inner in value.items():
        inside = shape.get(member, shape.get(_ANY_NAME))
        if inside is not None:
            inner = _shaped(inner, inside, name if _ANY_NAME in shape else f"{name}.{member}", wrong)
            if inner is None:
                continue
        kept[member] = inner
    return kept


# --- who it is


def _info(said: Raw, wrong: list[str]) -> dict[str, Any] | None:
    parts = _parts(said, _LARGE_INFO, "serverInfo", wrong)
    if bytes(said)[:1] != b"{":
        return None
    found: dict[str, Any] = {}
    for name, raw in parts.items():
        try:
            value = msgspec.json.decode(raw)
        except MALFORMED:
            wrong.append("serverInfo")
            continue
        usable: str | list[Any] | None
        if name in ("name", "version"):
            usable = _as_text(value)
        elif name in ("title", "description", "websiteUrl"):
            usable = value if isinstance(value, str) else None
        elif name == "icons":
            usable = _icons(value, wrong)
        else:
            found[name] = value
            continue
        if usable is not None:
            found[name] = usable
        if value is not None and not isinstance(value, type(usable)):
            wrong.append(f"serverInfo.{name}")
    return found


def _as_text(value: Any) -> str | None:
    """Return a name or a version as the text that it has to be: a version is often written as a number."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _icons(value: Any, wrong: list[str]) -> list[Any] | None:
    if not isinstance(value, list):
        return None
    icons = [_icon(icon) for icon in value if isinstance(icon, dict) and isinstance(icon.get("src"), str)]
    if icons != value:
        wrong.append("serverInfo.icons")
    return icons


def _icon(icon: dict[str, Any]) -> dict[str, Any]:
    def fits(name: str, value: Any) -> bool:
        match name:
            case "mimeType":
                return isinstance(value, str)
            case "sizes":
                return isinstance(value, list) and all(isinstance(size, str) for size in value)
            case "theme":
                return value in _THEMES
            case _:
                return True

    return {name: value for name, value in icon.items() if fits(name, value)}


# --- the rest


def _instructions(said: Raw, wrong: list[str]) -> tuple[str | None, int]:
    """Return the instructions, and how long they were if they were cut."""
    if not said or is_empty(said):
        return None, 0
    try:
        text = msgspec.json.decode(said, type=str)
    except MALFORMED:
        wrong.append("instructions")
        return None, 0
    return text[:MAX_INSTRUCTIONS_CHARS], len(text) if len(text) > MAX_INSTRUCTIONS_CHARS else 0


def _more(answer: bytes, read: Answer, wrong: list[str]) -> dict[str, Raw]:
    """Return the members of an answer that are not understood here, less what is about this answer alone."""
    understood = {name: bytes(getattr(read, name)) for name in read.__struct_fields__}
    if len(answer) - sum(map(len, understood.values())) > MAX_PART_BYTES:
        wrong.append("other members, which are too long")
        return {}
    fields = {field.encode_name for field in msgspec.structs.fields(Answer)}
    found = {name: raw.copy() for name, raw in _MEMBERS.decode(answer).items() if name not in fields | _OF_ONE_ANSWER}
    if read.meta and len(bytes(read.meta)) > MAX_PART_BYTES:
        wrong.append("_meta")
    elif bytes(read.meta)[:1] == b"{":
        left_out = _OF_A_REQUEST | {SERVER_INFO}
        rest = {name: raw for name, raw in _MEMBERS.decode(read.meta).items() if name not in left_out}
        if rest:
            found["_meta"] = Raw(msgspec.json.encode(rest))
    return found


def _parts(said: Raw, large: msgspec.json.Decoder[Any], name: str, wrong: list[str]) -> dict[str, Raw]:
    """Return the members of an object; of one that is very long those alone that are known and not long themselves."""
    if not said or is_empty(said):
        return {}
    try:
        if len(bytes(said)) <= MAX_PART_BYTES:
            return _MEMBERS.decode(said)
        known = msgspec.structs.asdict(large.decode(said))
        wrong.append(name)
        return {name: raw for name, raw in known.items() if raw and len(bytes(raw)) <= MAX_PART_BYTES}
    except MALFORMED:
        wrong.append(name)
        return {}
