"""Messages out of an answer: one JSON body, or a stream of events that may break off and be resumed.

The one rule is that each message is handed on as the bytes that came, once, and that what is too large is left out and
counted.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import anyio
import httpx2
import msgspec

from moltis.http.bodies import BodyTooLarge, read_capped
from moltis.transport.remote.base import Post, RemoteConnection
from moltis.transport.remote.events import BOM, Event
from moltis.transport.remote.outcomes import HANDSHAKE, Asked
from moltis.transport.remote.replies import AboutSession, answers, error_reply, is_reply, speaks_of_session, succeeds
from moltis.transport.remote.turns import events_in_turn

__all__ = ["Cursor", "SessionLost", "TooLarge", "Unreadable", "take_events", "take_lone_error", "take_message"]

_ANYTHING = msgspec.json.Decoder()

DEFAULT_RETRY_SECS: Final = 1.0
SHOWN_CHARS: Final = 12
"""Of what is not JSON: enough to tell a page from a message that was cut, and too little for a secret."""
MAX_STRAY_BYTES: Final = 64 * 1024
"""Of an error that may be the reply though it has another id; what is longer is none."""
LINGER_SECS: Final = 1.0
"""How long the rest of a stream is read after the reply. Most servers end it at once."""


class TooLarge(Exception):
    """A message was over `max_message_bytes`; it is left out, and counted already."""


class Unreadable(Exception):
    """What came is no message. `words` follow "answered tools/call"."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class Cursor:
    """Where in a stream of events we are, so that it can be gone on with after it broke off.

    last_id: of the last event that has one; empty or None when there is nothing to resume from.
    retry_secs: how long the server wants us to wait before that.
    events: how many there were. messages: how many of them were JSON-RPC for us.
    asked: whether the server gave a place to resume from and said when: it ends its streams on purpose (SEP-1699).
    alone: the first message, while it is the only one, if it is an error that is not under the id that is waited for.
    """

    __slots__ = ("alone", "asked", "events", "last_id", "messages", "retry_secs")

    def __init__(self) -> None:
        self.last_id: str | None = None
        self.retry_secs = DEFAULT_RETRY_SECS
        self.events = 0
        self.messages = 0
        self.asked = False
        self.alone = b""

    def saw(self, event: Event) -> None:
        """Move on by one event."""
        self.events += 1
        if event.id is not None:
            self.last_id = event.id
        if event.retry_ms is not None:
            self.retry_secs = event.retry_ms / 1000
            self.asked = event.retry_ms > 0 and bool(self.last_id)


class SessionLost(Exception):
    """The message that came says that the session is not known; it was not handed on."""


async def take_message(response: httpx2.Response, connection: RemoteConnection, post: Post, asked: Asked) -> None:
    """Hand on the one message of a JSON body; `post.answered` says afterwards whether it was the reply.

    An error under no id, or under another, is the answer to this request: it is all that this POST is told.

    Raises:
        SessionLost: it says so, and what was asked may be sent again.
        Unreadable: it is no message.
        TooLarge: nothing was handed on.
        FAULTS: the answer broke off, and nothing was handed on.
    """
    try:
        body = await read_capped(response, connection.endpoint.limits.max_message_bytes)
    except BodyTooLarge as fault:
        connection.endpoint.on_oversized(1)
        raise TooLarge from fault
    body = body.removeprefix(BOM)  # RFC 8259 section 8.1 lets it be ignored; PHP and .NET write it
    if not body.strip():
        raise Unreadable("with nothing")
    id = post.about.id
    _look_at_session(body, post, asked)
    if id is not None and not answers(body, id):
        reply = error_reply(body, id)
        if reply is None and is_reply(body):
            return  # a result under the id of another request, which it does not answer
        post.astray = reply is not None
        body = reply or body
    _hand_on(body, connection, post)
    if not post.answered and not _is_json(body):
        raise Unreadable(f"with something that is not JSON (it begins with {_beginning(body)})")


async def take_events(
    response: httpx2.Response,
    connection: RemoteConnection,
    cursor: Cursor,
    post: Post | None = None,
    asked: Asked | None = None,
) -> None:
    """Hand on the messages of a stream until it ends; `post.answered` says whether the reply was among them.

    Without a `post`, what is too large is skipped and counted. After the reply the rest is read for a moment longer, so
    that the connection can be used again.

    Raises:
        SessionLost: the first message says so, and what was `asked` may be sent again.
        TooLarge: what may have been the reply was too large.
        FAULTS: the stream broke off.
    """
    async with aclosing(events_in_turn(response, connection.endpoint.limits.max_message_bytes)) as events:
        async for event in events:
            if event is None:
                connection.endpoint.on_oversized(1)
                if post is not None and not post.answered:
                    raise TooLarge
                continue
            cursor.saw(event)
            if not event.data or event.event != "message":
                continue
            if asked is not None and post is not None and not cursor.messages:
                _look_at_session(event.data, post, asked)
            if post is not None and not cursor.messages and _is_stray(event.data, post):
                cursor.alone = event.data  # not handed on: it would answer the other request
                cursor.messages += 1
                continue
            if cursor.alone:
                alone, cursor.alone = cursor.alone, b""
                _hand_on(alone, connection, post)
            cursor.messages += _hand_on(event.data, connection, post)
            if post is not None and post.answered:
                post.scope.deadline = anyio.current_time() + LINGER_SECS


def _is_stray(message: bytes, post: Post) -> bool:
    """Return whether it is an error under no id or under another request's: the reply, if nothing follows."""
    id = post.about.id
    if id is None or len(message) > MAX_STRAY_BYTES or b'"error"' not in message:
        return False
    reply = error_reply(message, id)
    return reply is not None and reply is not message


def take_lone_error(connection: RemoteConnection, cursor: Cursor, post: Post) -> None:
    """Take the only message of a stream that has ended, if it is an error under no id or another, for the reply."""
    reply = error_reply(cursor.alone, post.about.id) if cursor.alone and post.about.id is not None else None
    if reply is not None:
        post.astray = True
        _hand_on(reply, connection, post)


def _look_at_session(message: bytes, post: Post, asked: Asked) -> None:
    if not asked.session:
        return
    about = speaks_of_session(message, post.about.id)
    if asked.begins_anew(about):
        raise SessionLost
    post.doubts = about is not AboutSession.NOTHING and not asked.renewed


def _hand_on(message: bytes, connection: RemoteConnection, post: Post | None) -> bool:
    """Hand on one message, and return whether it was one. If it is what `post` waited for, that is settled."""
    if connection.receive(message, None if post is None else post.about.id) is False:
        return False
    if post is None or post.answered or post.about.id is None or not answers(message, post.about.id):
        return True
    post.answered = True
    post.succeeded = post.about.method not in HANDSHAKE or succeeds(message)
    post.settle()
    return True


def _is_json(body: bytes) -> bool:
    try:
        _ANYTHING.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return False
    return True


def _beginning(body: bytes) -> str:
    """Return the first characters of a body as they may be shown: printable ASCII, nothing that could be a secret."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in body[:SHOWN_CHARS].decode("latin-1"))
    return f"'{shown}'"
