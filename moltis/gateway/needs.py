"""What a tool needs of its host, as far as its server says so in its list; a host that lacks it is not offered it.

Pure. Three things say so:

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
from msgspec import Raw

from moltis.errors import MoltisError
from moltis.gateway import abilities
from moltis.jsonrpc import MALFORMED
from moltis.printable import one_line

__all__ = ["Able", "HostCannot", "Lack", "Need", "lacking", "need_of"]

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
    modes = abilities.modes(declared.get("elicitation"))
    if modes:
        declared["elicitation"] = {**declared["elicitation"], **{mode: {} for mode in modes}}
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
