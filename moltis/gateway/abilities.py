"""What a host can, and what is needed of it.

Pure. What it can be asked follows from the capabilities that it declared (MCP, Client features). Servers are shared, so
a server of the legacy era is told that everything can be asked; whether this host can answer just this question is
decided here, when it comes.

What a tool needs is known as far as its server says so in its list; a host that lacks it is not offered it:

    _meta["io.modelcontextprotocol/requiredCapabilities"]   what it cannot work without, of the shape of a client's
        capabilities (draft of the transports working group; the same as in the error -32021 of MCP 2026-07-28)
    execution.taskSupport = "required"                      it runs as a task only (MCP 2025-11-25, Tasks)
    _meta.ui.visibility without "model"                     it is for its app only, which needs a host that shows apps
        (MCP Apps, SEP-1865: such a host says so in its capabilities)

What a tool may ask while it works is said nowhere else, so that withholds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from moltis.errors import MoltisError
from moltis.jsonrpc import MALFORMED
from moltis.printable import one_line

MAX_QUESTION_BYTES: Final = 4 * 1024 * 1024
"""A sampling request holds a conversation, pictures included. What is longer is not put to a host."""


class _Declared(msgspec.Struct):
    sampling: Any = None
    elicitation: Any = None
    roots: Any = None


class _Elicitation(msgspec.Struct):
    mode: str = "form"


class _Sampling(msgspec.Struct, rename="camel"):
    tools: Raw | UnsetType = UNSET
    tool_choice: Raw | UnsetType = UNSET


class _Block(msgspec.Struct):
    type: str = ""


class _Said(msgspec.Struct):
    content: _Block | list[_Block]


class _Conversation(msgspec.Struct):
    messages: list[_Said] = []


_DECLARED = msgspec.json.Decoder(_Declared)
_ELICITATION = msgspec.json.Decoder(_Elicitation)
_SAMPLING = msgspec.json.Decoder(_Sampling)
_CONVERSATION = msgspec.json.Decoder(_Conversation)
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])


def can_answer(capabilities: bytes, method: str, params: bytes) -> bool:
    """Whether a host that declared these can be asked this. All but `method` is JSON; `params` may be empty."""
    if len(params) > MAX_QUESTION_BYTES:
        return False
    try:
        declared = _DECLARED.decode(capabilities or b"{}")
        match method:
            case "roots/list":
                return declared.roots is not None
            case "elicitation/create":
                return _ELICITATION.decode(params).mode in modes(declared.elicitation)
            case "sampling/createMessage":
                return _samples(declared.sampling, params)
            case _:
                return False
    except MALFORMED:
        return False


def with_forms(capabilities: bytes) -> bytes | None:
    """Declare forms for a host that declares no elicitation; None if it does, or what it declares is not an object."""
    try:
        if _DECLARED.decode(capabilities).elicitation is not None:
            return None
        members = _MEMBERS.decode(capabilities)
    except MALFORMED:
        return None
    return msgspec.json.encode({**members, "elicitation": Raw(b'{"form":{}}')})


def modes(elicitation: Any) -> frozenset[str]:
    """Return the modes that a host elicits in.

    Naming none means forms (MCP 2025-11-25, Elicitation): it was so before there were modes.
    """
    if not isinstance(elicitation, dict):
        return frozenset()
    return frozenset(mode for mode in ("form", "url") if mode in elicitation) or frozenset({"form"})


def _samples(declared: Any, params: bytes) -> bool:
    """Whether it samples, and with tools if the question has some (MCP 2025-11-25, Sampling: `sampling.tools`)."""
    if not isinstance(declared, dict):
        return False
    wanted = _SAMPLING.decode(params)
    return "tools" in declared or (
        wanted.tools is UNSET and wanted.tool_choice is UNSET and not (b'"tool_' in params and _tells_of_tools(params))
    )


def _tells_of_tools(params: bytes) -> bool:
    """Whether a tool was used in the conversation."""
    contents = (said.content for said in _CONVERSATION.decode(params).messages)
    blocks = (block for content in contents for block in (content if isinstance(content, list) else [content]))
    return any(block.type in ("tool_use", "tool_result") for block in blocks)


APPS: Final = "io.modelcontextprotocol/ui"
TASKS: Final = "io.modelcontextprotocol/tasks"
"""The extension of 2026-07-28; before, tasks were part of the protocol."""

MAX_TOOL_BYTES: Final = 1024 * 1024
"""Of a tool that is looked at."""
MAX_DEPTH: Final = 8
MAX_NAMED: Final = 5
MAX_WORDS: Final = 200

_MARKS: Final = (b'/requiredCapabilities"', b'"taskSupport"', b'"visibility"')


class Need(msgspec.Struct, frozen=True):
    """capabilities: JSON, those that a host must have declared; empty: none. as_task, for_app: as above."""

    capabilities: bytes = b""
    as_task: bool = False
    for_app: bool = False


class Able(msgspec.Struct, frozen=True):
    """What a host can. capabilities: JSON, as it declared them. tasks: whether it can run a tool of this as a task.

    extensions: whether methods of extensions reach the server, as tasks of 2026-07-28 need it.
    """

    capabilities: bytes
    tasks: bool = False
    extensions: bool = True


class Lack(msgspec.Struct, frozen=True):
    """capabilities: of the shape of a client's, those that are missing. as_task: it cannot ask for a task."""

    capabilities: dict[str, Any]
    as_task: bool = False

    @property
    def words(self) -> str:
        """The same in the words of the protocol: `sampling.tools, elicitation`."""
        found = [*(["tasks"] if self.as_task else []), *_paths(self.capabilities)]
        return one_line(", ".join(found[:MAX_NAMED]))[:MAX_WORDS]


class HostCannot(MoltisError):
    """A tool was called by a host that lacks what it needs; nothing was sent."""

    kind = "host_cannot"


class _Execution(msgspec.Struct, rename="camel"):
    task_support: Raw = Raw(b"")


class _Ui(msgspec.Struct):
    visibility: list[str] | None = None


class _Meta(msgspec.Struct):
    required: Raw = msgspec.field(name="io.modelcontextprotocol/requiredCapabilities", default=Raw(b""))
    ui: Raw = Raw(b"")


class _Tool(msgspec.Struct):
    execution: Raw = Raw(b"")
    meta: Raw = msgspec.field(name="_meta", default=Raw(b""))


_TOOL: Final = msgspec.json.Decoder(_Tool)
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
T = TypeVar("T")


def need_of(tool: bytes) -> Need | None:
    """Return what a tool needs, by its JSON; None where nothing is said. What is malformed says nothing."""
    if len(tool) > MAX_TOOL_BYTES or not any(mark in tool for mark in _MARKS):
        return None
    try:
        found = _TOOL.decode(tool)
    except MALFORMED:
        return None
    meta = _part(found.meta, _Meta) or _Meta()
    execution = _part(found.execution, _Execution)
    ui = _part(meta.ui, _Ui)
    need = Need(
        _required(bytes(meta.required)),
        execution is not None and bytes(execution.task_support) == b'"required"',
        ui is not None and bool(ui.visibility) and "model" not in (ui.visibility or ()),
    )
    return need if need != Need() else None


def lacking(need: Need, able: Able) -> Lack | None:
    """Return what a host lacks of it; None for nothing."""
    declared = _declared(able.capabilities)
    missing: dict[str, Any] = {}
    if need.capabilities:
        required = _OBJECT.decode(need.capabilities)
        missing = _missing(required, declared)
        if not able.extensions and TASKS in _object(required.get("extensions")):
            missing["extensions"] = {**_object(missing.get("extensions")), TASKS: {}}
    if need.for_app and not any(APPS in _object(declared.get(member)) for member in ("extensions", "experimental")):
        missing["extensions"] = {**_object(missing.get("extensions")), APPS: {}}
    as_task = need.as_task and not able.tasks
    return Lack(missing, as_task) if missing or as_task else None


def _required(raw: bytes) -> bytes:
    try:
        return raw if raw and _OBJECT.decode(raw) else b""
    except MALFORMED:
        return b""


def _declared(capabilities: bytes) -> dict[str, Any]:
    try:
        declared = _OBJECT.decode(capabilities)
    except MALFORMED:
        return {}
    elicits = modes(declared.get("elicitation"))
    if elicits:
        declared["elicitation"] = {**declared["elicitation"], **{mode: {} for mode in elicits}}
    return declared


def _missing(required: dict[str, Any], declared: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return what is required and not there: each member, and in each what stands in it."""
    missing: dict[str, Any] = {}
    for name, more in required.items():
        have = declared.get(name)
        if more is None or more is False:
            continue
        if have is None or have is False:
            missing[name] = more
        elif isinstance(more, dict) and depth < MAX_DEPTH and (rest := _missing(more, _object(have), depth + 1)):
            missing[name] = rest
    return missing


def _paths(members: dict[str, Any], before: str = "", depth: int = 0) -> Iterator[str]:
    for name, more in members.items():
        path = f"{before}{name}"
        if isinstance(more, dict) and more and depth < MAX_DEPTH:
            yield from _paths(more, f"{path}.", depth + 1)
        else:
            yield path


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _part(raw: Raw, shape: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=shape)
    except MALFORMED:
        return None
