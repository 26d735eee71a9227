"""What MCP wants in the headers of HTTP requests (2025-11-25 and 2026-07-28, Transports, Streamable HTTP; SEP-2243).

Pure. No value leaves here that could end a header: what a server or a caller chose is encoded, or refused.
"""

from __future__ import annotations

import base64
import re
from typing import Final

from moltis.transport import Outgoing

Headers = list[tuple[str, str]]

ACCEPT: Final = "application/json, text/event-stream"
FIRST_MODERN: Final = "2026-07-28"
"""From here on method, name and marked arguments are repeated in headers. Revisions are dates: they compare as text."""

NAMED: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
MAX_SESSION_ID_CHARS: Final = 4096
"""Some are signed and hold what the session is about, as a JWT does; heads of 8 KiB and more are taken everywhere."""

_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?|")
_ENCODED = re.compile(r"=\?base64\?.*\?=")
_VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_SESSION_ID_CHARS}}}")


class BadSessionId(ValueError):
    """A server's session id is not visible ASCII of at most `MAX_SESSION_ID_CHARS`; it cannot be sent back."""

    def __init__(self) -> None:
        super().__init__(f"its session id is not 1 to {MAX_SESSION_ID_CHARS} visible ASCII characters")


def checked_session_id(value: str | None) -> str | None:
    """Return the `Mcp-Session-Id` of an answer to `initialize` as it may be sent back; None if there is none.

    One with nothing in it is none: so servers without sessions say it behind some frameworks.

    Raises:
        BadSessionId: it may not (MCP 2025-11-25, Session Management: visible ASCII only).
    """
    if not value:
        return None
    if _VISIBLE.fullmatch(value):
        return value
    raise BadSessionId


def post_headers(about: Outgoing, session_id: str | None) -> Headers:
    """Return the headers of the POST that carries a message. `session_id`: from `checked_session_id`."""
    headers = [("Accept", ACCEPT), ("Content-Type", "application/json"), *_of_session(about.version, session_id)]
    if about.version is not None and about.version >= FIRST_MODERN:
        if about.method:
            headers.append(("Mcp-Method", encode_header_value(about.method)))
        if about.name is not None and about.method in NAMED:
            headers.append(("Mcp-Name", encode_header_value(about.name)))
        headers.extend(about.mirrored)
    return headers


def stream_headers(version: str | None, session_id: str | None, last_event_id: str | None = None) -> Headers:
    """Return the headers of the GET that opens a stream.

    last_event_id: `Event.id` of the last event that was seen, to have what followed it sent again.
    """
    headers = [("Accept", "text/event-stream"), *_of_session(version, session_id)]
    if last_event_id:
        headers.append(("Last-Event-ID", last_event_id))
    return headers


def encode_header_value(value: str) -> str:
    """Return a value as a header can hold it: as it is, or as `=?base64?...?=` of its UTF-8.

    Encoded is what is not printable ASCII, begins or ends with a space, or looks as if it were encoded already.
    """
    if _PLAIN.fullmatch(value) and not _ENCODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode('utf-8', 'replace')).decode('ascii')}?="


def _of_session(version: str | None, session_id: str | None) -> Headers:
    headers: Headers = []
    if session_id is not None:
        headers.append(("Mcp-Session-Id", session_id))
    if version is not None:
        headers.append(("MCP-Protocol-Version", version))
    return headers
