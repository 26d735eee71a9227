"""Messages out of an answer: one JSON body, or a stream of events that may break off and be resumed.

The one rule is that each message is handed on as the bytes that came, once, and that what is too large is left out and
counted.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import anyio
import httpx2

from moltis.http.bodies import BodyTooLarge, read_capped
from moltis.transport.remote.base import Post, RemoteConnection
from moltis.transport.remote.events import Event
from moltis.transport.remote.outcomes import HANDSHAKE
from moltis.transport.remote.replies import answers, succeeds
from moltis.transport.remote.turns import events_in_turn

__all__ = ["Cursor", "TooLarge", "take_events", "take_message"]

DEFAULT_RETRY_SECS: Final = 1.0
LINGER_SECS: Final = 1.0
"""How long the rest of a stream is read after the reply. Most servers end it at once."""


class TooLarge(Exception):
    """A message was over `max_message_bytes`; it is left out, and counted already."""


class Cursor:
    """Where in a stream of events we are, so that it can be gone on with after it broke off.

    last_id: of the last event that has one; empty or None when there is nothing to resume from.
    retry_secs: how long the server wants us to wait before that.
    events: how many there were.
    """

    __slots__ = ("events", "last_id", "retry_secs")

    def __init__(self) -> None:
        self.last_id: str | None = None
        self.retry_secs = DEFAULT_RETRY_SECS
        self.events = 0

    def saw(self, event: Event) -> None:
        """Move on by one event."""
        self.events += 1
        if event.id is not None:
            self.last_id = event.id
        if event.retry_ms is not None:
            self.retry_secs = event.retry_ms / 1000


async def take_message(response: httpx2.Response, connection: RemoteConnection, post: Post) -> None:
    """Hand on the one message of a JSON body; `post.answered` says afterwards whether it was the reply.

    Raises:
        TooLarge: nothing was handed on.
        FAULTS: the answer broke off, and nothing was handed on.
    """
    try:
        body = await read_capped(response, connection.endpoint.limits.max_message_bytes)
    except BodyTooLarge as fault:
        connection.endpoint.on_oversized(1)
        raise TooLarge from fault
    if body:
        _hand_on(body, connection, post)


async def take_events(
    response: httpx2.Response, connection: RemoteConnection, cursor: Cursor, post: Post | None = None
) -> None:
    """Hand on the messages of a stream until it ends; `post.answered` says whether the reply was among them.

    Without a `post`, what is too large is skipped and counted. After the reply the rest is read for a moment longer, so
    that the connection can be used again.

    Raises:
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
            if event.data and event.event == "message" and _hand_on(event.data, connection, post):
                assert post is not None
                post.scope.deadline = anyio.current_time() + LINGER_SECS


def _hand_on(message: bytes, connection: RemoteConnection, post: Post | None) -> bool:
    """Hand on one message, and say whether it is what `post` waited for."""
    connection.receive(message, None if post is None else post.about.id)
    if post is None or post.answered or post.about.id is None or not answers(message, post.about.id):
        return False
    post.answered = True
    post.succeeded = post.about.method not in HANDSHAKE or succeeds(message)
    post.settle()
    return True
