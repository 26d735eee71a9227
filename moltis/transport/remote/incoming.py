"""Messages out of an answer: one JSON body, or a stream of events that may break off and be resumed.

The one rule is that each message is handed on as the bytes that came, once, and that what is too large is left out and
counted.
"""

from __future__ import annotations

from typing import Final

import anyio
import httpx2

from moltis.http.bodies import BodyTooLarge, read_capped
from moltis.transport.remote.base import Post, RemoteConnection
from moltis.transport.remote.events import Event, EventStream, EventTooLarge
from moltis.transport.remote.replies import answers

__all__ = ["Cursor", "TooLarge", "hand_on", "take_events", "take_message"]

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
    hand_on(body, connection, post)


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
    stream = EventStream(connection.endpoint.limits.max_message_bytes)
    async for data in response.aiter_raw():
        too_large = False
        try:
            events = stream.feed(data)
        except EventTooLarge as fault:
            events, too_large = fault.events, True
        for event in events:
            cursor.saw(event)
            if event.data and event.event == "message":
                hand_on(event.data, connection, post)
        if too_large:
            connection.endpoint.on_oversized(1)
            if post is not None and not post.answered:
                raise TooLarge


def hand_on(message: bytes, connection: RemoteConnection, post: Post | None) -> None:
    """Hand on one message, and see whether it is what `post` waits for."""
    connection.receive(message)
    if post is None or post.answered or post.about.id is None or not answers(message, post.about.id):
        return
    post.answered = True
    post.settle()
    post.scope.deadline = anyio.current_time() + LINGER_SECS
