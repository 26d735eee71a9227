"""What a host can be asked, by the capabilities that it declared (MCP, Client features).

Pure. Servers are shared, so a server of the legacy era is told that everything can be asked; whether this host can
answer just this question is decided here, when it comes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from moltis.jsonrpc import MALFORMED

__all__ = ["MAX_QUESTION_BYTES", "can_answer", "modes", "with_forms"]

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
