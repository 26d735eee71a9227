"""Messages out of an answer: one JSON body, or a stream of events that may break off and be resumed.

Each message is handed on as the bytes that came, once, and what is too large is left out and counted. An answer is
taken in small helpings: one read from the network holds 10 000 small events, which take as long as fifty calls to other
servers, so whoever sends them waits for the others; one large event costs no more for it.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Final

import anyio
import anyio.lowlevel
import httpx2
import msgspec

from moltis.http.bodies import BodyTooLarge, collect, read_capped, unpacked
from moltis.http.heads import media_type, shown_field
from moltis.jsonrpc import MALFORMED
from moltis.slices import in_slices, taken
from moltis.steps import LONG_BYTES
from moltis.transport.remote.base import Post, RemoteConnection
from moltis.transport.remote.events import BOM, Event, EventStream, EventTooLarge
from moltis.transport.remote.outcomes import HANDSHAKE, Asked
from moltis.transport.remote.replies import AboutSession, answering, error_reply, is_reply, speaks_of_session, succeeds

HELPING_BYTES: Final = 8 * 1024
"""Of lines, before others have a turn. That many of the shortest take some 1 ms to read."""
EVENTS_IN_A_ROW: Final = 64


def body_of(response: httpx2.Response, limit: int) -> AsyncGenerator[bytes]:
    """Return the pieces of an answer's body, unpacked. `limit`: as for `unpacked`.

    Raises:
        BodyEncoded: it is compressed in a way that is not known here.
    """
    return unpacked(response.aiter_raw(), response.headers.get("Content-Encoding"), limit)


async def events_in_turn(
    pieces: AsyncGenerator[bytes], max_event_bytes: int, first: bytes = b"", *, answers: int | None = None
) -> AsyncGenerator[Event | None]:
    """Pass on the events of a body, and None for each time that some were too large. `pieces` are closed.

    first: what was read of it already. answers: the id of a request; the reply to it is an event, too, at the very end
        of a body that has an end, where no blank line follows it.

    Raises:
        FAULTS: the stream broke off.
    """
    stream = EventStream(max_event_bytes)
    in_a_row = 0
    async with aclosing(_all(first, pieces) if first else pieces) as every:
        async for piece in every:
            for number, data in enumerate(helpings(piece)):
                if number:
                    await anyio.lowlevel.checkpoint()
                    in_a_row = 0
                too_large = False
                try:
                    events = stream.feed(data)
                except EventTooLarge as fault:
                    events, too_large = fault.events, True
                for event in events:
                    yield event
                    in_a_row += 1
                    if in_a_row >= EVENTS_IN_A_ROW:
                        await anyio.lowlevel.checkpoint()
                        in_a_row = 0
                if too_large:
                    yield None
    if answers is None:
        return
    with suppress(EventTooLarge):
        for event in stream.feed(b"\n\n"):
            if await in_slices(answering(event.data, answers)):
                yield Event(data=event.data)  # without its id: from there on nothing is to be resumed


async def _all(first: bytes, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece


def helpings(piece: bytes) -> Iterator[bytes]:
    """Cut what was read at line ends, so that only the last line of a helping reaches beyond `HELPING_BYTES`.

    A line is never cut, for what is cut is copied once more.
    """
    start = 0
    while (end := _line_end(piece, start + HELPING_BYTES)) > 0:
        yield piece[start:end]
        start = end
    yield piece[start:] if start else piece


def _line_end(piece: bytes, at: int) -> int:
    """Say where the line ends that goes on at this place; 0 if there is nothing after its end."""
    if at >= len(piece):
        return 0
    lf = piece.find(b"\n", at)
    cr = piece.find(b"\r", at, lf if lf >= 0 else len(piece))
    end = (cr if cr >= 0 else lf) + 1
    return end if end < len(piece) else 0


_ANYTHING = msgspec.json.Decoder(msgspec.Raw)

DEFAULT_RETRY_SECS: Final = 1.0
SHOWN_CHARS: Final = 12
"""Of what is not JSON: enough to tell a page from a message that was cut, and too little for a secret."""
MAX_STRAY_BYTES: Final = 64 * 1024
"""Of an error that may be the reply though it has another id; what is longer is none."""
LINGER_SECS: Final = 1.0
"""How long the rest of a stream is read after the reply. Most servers end it at once."""


SNIFFED_BYTES: Final = 1024
"""Of a body, to tell what it is; beyond so many blanks it is nothing."""
BLANKS: Final = b" \t\r\n"
FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")
"""How event streams begin (WHATWG HTML, section 9.2.5)."""
LONGEST_FIELD: Final = 6


class Form(enum.Enum):
    """What a body is by its first bytes. No event stream that has events begins like JSON, nor the other way round."""

    JSON = "JSON"
    EVENTS = "event stream"
    NEITHER = "answer"


class TooLarge(Exception):
    """A message was over `max_message_bytes`; it is left out, and counted already."""


class NotEvents(Exception):
    """What a GET was answered with is no stream of events."""


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


def form_of(head: bytes) -> Form:
    """Return what a body is that begins so."""
    head = head.removeprefix(BOM).lstrip(BLANKS)
    if head.startswith((b"{", b"[")):
        return Form.JSON
    return Form.EVENTS if head.startswith(FIELDS) else Form.NEITHER


async def take_message(
    response: httpx2.Response, connection: RemoteConnection, cursor: Cursor, post: Post, asked: Asked
) -> str:
    """Hand on the one message of a JSON body; `post.answered` says afterwards whether it was the reply.

    An error under no id, or under another, is the answer to this request: it is all that this POST is told.

    Returns:
        What is odd about it, to follow the server's name; mostly nothing.

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
    if form_of(body[:SNIFFED_BYTES]) is Form.EVENTS:
        await _take_whole_stream(body, connection, cursor, post, asked)
        return "calls its events 'application/json'"
    await _take_body(body, connection, post, asked)
    return ""


async def take_unlabelled(
    response: httpx2.Response, connection: RemoteConnection, cursor: Cursor, post: Post, asked: Asked, label: str
) -> str:
    """Hand on the reply of a body that is called something else than JSON or events, or nothing, if it is one of them.

    label: what it is called, to be shown.

    Returns and raises: as `take_message`. What is neither is not read to its end, nor said to be anything.
    """
    limit = connection.endpoint.limits.max_message_bytes
    async with aclosing(body_of(response, limit)) as pieces:
        head = await _head(pieces)
        form = form_of(head)
        if form is Form.JSON:
            body = await _collected(head, pieces, connection)
            if post.about.id is not None and await in_slices(answering(body.removeprefix(BOM), post.about.id)):
                await _take_body(body, connection, post, asked)
        elif form is Form.EVENTS:
            source = events_in_turn(pieces, limit, head, answers=post.about.id)
            await _take_stream(source, connection, cursor, post, asked)
    return _mislabelled(form, label)


def _mislabelled(form: Form, label: str) -> str:
    return f"calls its {form.value} {label}" if label else f"does not say that its {form.value} is that"


async def _head(pieces: AsyncGenerator[bytes]) -> bytes:
    """Read as much as is needed to tell what a body is."""
    head = b""
    async for piece in pieces:
        head += piece
        told = form_of(head) is not Form.NEITHER
        if told or len(head.lstrip(BLANKS)) >= LONGEST_FIELD or len(head) >= SNIFFED_BYTES:
            break
    return head


async def opened_events(
    response: httpx2.Response, limit: int, on_odd: Callable[[str], None]
) -> AsyncGenerator[Event | None]:
    """Return the events of what a GET opened, whatever it is called, as long as it is a stream of them.

    on_odd: told of another label than theirs.

    Raises:
        NotEvents: it is something else, of which no more is read than shows that.
        FAULTS: it broke off before it showed what it is.
    """
    pieces = body_of(response, limit)
    label = response.headers.get("Content-Type")
    if media_type(label) == "text/event-stream":
        return events_in_turn(pieces, limit)
    head = await _head(pieces)
    if form_of(head) is not Form.EVENTS:
        await pieces.aclose()
        raise NotEvents
    on_odd(_mislabelled(Form.EVENTS, shown_field(label)))
    return events_in_turn(pieces, limit, head)


async def take_opened(
    events: AsyncGenerator[Event | None], connection: RemoteConnection, cursor: Cursor, post: Post | None = None
) -> None:
    """Hand on the messages of a stream that a GET opened, as `take_events` does."""
    await _take_stream(events, connection, cursor, post, None)


async def _collected(head: bytes, pieces: AsyncGenerator[bytes], connection: RemoteConnection) -> bytes:
    limit = connection.endpoint.limits.max_message_bytes
    try:
        if len(head) > limit:
            raise BodyTooLarge(limit)
        return head + await collect(pieces, limit - len(head))
    except BodyTooLarge as fault:
        connection.endpoint.on_oversized(1)
        raise TooLarge from fault


async def _take_whole_stream(
    body: bytes, connection: RemoteConnection, cursor: Cursor, post: Post, asked: Asked
) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield body
        if not body.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")):
            yield b"\n\n"  # of a whole body the last event is whole too

    await _take_stream(
        events_in_turn(pieces(), connection.endpoint.limits.max_message_bytes), connection, cursor, post, asked
    )


async def _take_body(body: bytes, connection: RemoteConnection, post: Post, asked: Asked) -> None:
    body = body.removeprefix(BOM)  # RFC 8259 section 8.1 lets it be ignored; PHP and .NET write it
    if not body.strip():
        raise Unreadable("with nothing")
    id = post.about.id
    _look_at_session(body, post, asked)
    if id is not None and not await in_slices(answering(body, id)):
        await _pause(body)
        reply = error_reply(body, id)
        await _pause(body)
        if reply is None and is_reply(body):
            return  # a result under the id of another request, which it does not answer
        post.astray = reply is not None
        body = reply or body
    await _hand_on(body, connection, post)
    if post.answered:
        return
    await _pause(body)
    if not _is_json(body):
        raise Unreadable(f"with something that is not JSON (it begins with {_beginning(body)})")


async def _pause(message: bytes) -> None:
    """Let others have their turn before a message is passed over once more, if that takes long."""
    if len(message) > LONG_BYTES:
        await anyio.lowlevel.checkpoint()


async def take_events(
    response: httpx2.Response,
    connection: RemoteConnection,
    cursor: Cursor,
    post: Post | None = None,
    asked: Asked | None = None,
) -> str:
    """Hand on the messages of a stream until it ends; `post.answered` says whether the reply was among them.

    Without a `post`, what is too large is skipped and counted. After the reply the rest is read for a moment longer, so
    that the connection can be used again.

    Returns:
        What is odd about it, as `take_message`.

    Raises:
        SessionLost: the first message says so, and what was `asked` may be sent again.
        TooLarge: what may have been the reply was too large.
        FAULTS: the stream broke off.
    """
    limit = connection.endpoint.limits.max_message_bytes
    async with aclosing(body_of(response, limit)) as pieces:
        head = b""
        if post is not None and asked is not None:
            head = await _head(pieces)
            if form_of(head) is Form.JSON:
                await _take_body(await _collected(head, pieces, connection), connection, post, asked)
                return "calls its JSON 'text/event-stream'"
        id = post.about.id if post is not None else None
        await _take_stream(events_in_turn(pieces, limit, head, answers=id), connection, cursor, post, asked)
    return ""


async def _take_stream(
    source: AsyncGenerator[Event | None],
    connection: RemoteConnection,
    cursor: Cursor,
    post: Post | None,
    asked: Asked | None,
) -> None:
    async with aclosing(source) as events:
        async for event in events:
            if event is None:
                connection.endpoint.on_oversized(1)
                if post is not None and not post.answered:
                    raise TooLarge
                continue
            cursor.saw(event)
            if not event.data or (event.event != "message" and not await _is_the_reply(event.data, post)):
                continue
            if asked is not None and post is not None and not cursor.messages:
                _look_at_session(event.data, post, asked)
            if post is not None and not cursor.messages and _is_stray(event.data, post):
                cursor.alone = event.data  # not handed on: it would answer the other request
                cursor.messages += 1
                continue
            if cursor.alone:
                alone, cursor.alone = cursor.alone, b""
                await _hand_on(alone, connection, post)
            cursor.messages += await _hand_on(event.data, connection, post)
            if post is not None and post.answered:
                post.scope.deadline = anyio.current_time() + LINGER_SECS


async def _is_the_reply(message: bytes, post: Post | None) -> bool:
    """Return whether an event of another name than `message` is the reply all the same."""
    id = post.about.id if post is not None else None
    return id is not None and await in_slices(answering(message, id))


def _is_stray(message: bytes, post: Post) -> bool:
    """Return whether it is an error under no id or under another request's: the reply, if nothing follows."""
    id = post.about.id
    if id is None or len(message) > MAX_STRAY_BYTES or b'"error"' not in message:
        return False
    reply = error_reply(message, id)
    return reply is not None and reply is not message


async def take_lone_error(connection: RemoteConnection, cursor: Cursor, post: Post) -> None:
    """Take the only message of a stream that has ended, if it is an error under no id or another, for the reply."""
    reply = error_reply(cursor.alone, post.about.id) if cursor.alone and post.about.id is not None else None
    if reply is not None:
        post.astray = True
        await _hand_on(reply, connection, post)


def _look_at_session(message: bytes, post: Post, asked: Asked) -> None:
    if not asked.session:
        return
    about = speaks_of_session(message, post.about.id)
    if asked.begins_anew(about):
        raise SessionLost
    post.doubts = about is not AboutSession.NOTHING and not asked.renewed


async def _hand_on(message: bytes, connection: RemoteConnection, post: Post | None) -> bool:
    """Hand on one message, and return whether it was one. If it is what `post` waited for, that is settled."""
    if await taken(connection.receive(message, None if post is None else post.about.id)) is False:
        return False
    if post is None or post.answered or post.about.id is None:
        return True
    if not await in_slices(answering(message, post.about.id)):
        return True
    post.answered = True
    post.succeeded = post.about.method not in HANDSHAKE or succeeds(message)
    post.settle()
    return True


def _is_json(body: bytes) -> bool:
    try:
        _ANYTHING.decode(body)
    except MALFORMED:
        return False
    return True


def _beginning(body: bytes) -> str:
    """Return the first characters of a body as they may be shown: printable ASCII, nothing that could be a secret."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in body[:SHOWN_CHARS].decode("latin-1"))
    return f"'{shown}'"
