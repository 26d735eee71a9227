"""What the body of an HTTP error says to a person, where it is not JSON-RPC.

Pure. It is somebody else's text: one line of it is told, behind what was seen, and only where it is text. A page is for
a browser, and says nothing in its first line.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from moltis.errors import RpcCode
from moltis.session.handshake import HANDSHAKE_VERSIONS, MAX_REFUSAL_CHARS

__all__ = ["complaint", "revision_refused"]

_TEXTS: Final = ("", "text/plain", "application/json", "application/problem+json")
_MEMBERS: Final = ("message", "detail", "error_description", "title", "error", "errors")
"""Where JSON has its words: RFC 9457, RFC 6749 section 5.2, and what is usual."""
_MAX_DEPTH: Final = 3


def complaint(body: bytes, content_type: str) -> str:
    """Return the first line of a text, or what stands for it in JSON; empty if there is none. Never raises.

    content_type: without parameters. The caller takes secrets out, and shortens it after that.
    """
    if content_type not in _TEXTS or body.lstrip()[:1] == b"<":
        return ""
    text = body[:MAX_REFUSAL_CHARS].decode("utf-8", "replace")
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            said = msgspec.json.decode(body)
            text = _words(said, _MAX_DEPTH) or (text if said else "")
        except (msgspec.MsgspecError, RecursionError, ValueError):
            pass
    return next((line.strip() for line in text[:MAX_REFUSAL_CHARS].splitlines() if line.strip()), "")


def revision_refused(body: bytes, content_type: str, status: int, id: int) -> bytes | None:
    """Return a refusal of `initialize` as the JSON-RPC it should have been, if it names a revision that we speak."""
    said = complaint(body, content_type)
    text = body[:MAX_REFUSAL_CHARS].decode("utf-8", "replace")
    if not said or not any(version in text for version in HANDSHAKE_VERSIONS):
        return None
    error: dict[str, Any] = {"code": RpcCode.INVALID_REQUEST, "message": f"HTTP {status}: {said}"}
    if text.strip() != said:
        error["data"] = text
    return msgspec.json.encode({"jsonrpc": "2.0", "id": id, "error": error})


def _words(value: Any, depth: int) -> str:
    match value:
        case str():
            return value
        case dict() if depth:
            said = (_words(value[name], depth - 1) for name in _MEMBERS if name in value)
            return next(filter(None, said), "")
        case [first, *_] if depth:
            return _words(first, depth - 1)
        case _:
            return ""
