"""The GET stream of a session, on which a server says what nobody asked for (MCP 2025-11-25, Listening for Messages).

A stream that ends is opened again, for ever, from where it broke off if the server gave its events ids. That is
never more than once a second, more and more slowly while it fails, and logged no more than once a minute.
It is optional: whatever becomes of it, the connection, the session and the login are for the POSTs to judge.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

import anyio
import httpx2

from moltis.errors import NotSent
from moltis.http.authorized import (
    FAULTS,
    MAX_HELD_SECS,
    REFUSALS,
    AuthorizedClient,
    NotLetIn,
    Unreachable,
    discard,
    held_secs,
)
from moltis.http.bodies import BodyEncoded
from moltis.transport.remote.base import RemoteConnection, Session
from moltis.transport.remote.headers import stream_headers
from moltis.transport.remote.incoming import Cursor, NotEvents, opened_events, take_opened
from moltis.transport.remote.outcomes import OVERLOADED

MIN_PAUSE_SECS: Final = 1.0
MAX_PAUSE_SECS: Final = 60.0
SPREAD: Final = 0.25
"""Of a pause, added by chance: a server that restarts is not called by all of its clients at once."""
NOT_SENT_SECS: Final = 5.0
"""Between tries that sent nothing, because there is no token now."""
LASTING_SECS: Final = 5.0
"""A stream that lasted so long, or said something to us, was none that failed."""
MISSED_SECS: Final = 60.0


class _End(enum.Enum):
    NOT_OFFERED = enum.auto()
    NOT_SENT = enum.auto()
    FAILED = enum.auto()
    LASTED = enum.auto()


class Alarm:
    """Calls back at most once a minute; what comes sooner is said when the minute is over."""

    def __init__(self, connection: RemoteConnection, callback: Callable[[], None]) -> None:
        self._connection = connection
        self._callback = callback
        self._quiet_until = 0.0
        self._pending = False

    def ring(self) -> None:
        """Call back, now or in a while."""
        wait = self._quiet_until - anyio.current_time() if self._quiet_until else 0.0
        if wait <= 0:
            self._call()
        elif not self._pending:
            self._pending = True
            self._connection.start_soon(self._later)

    async def _later(self) -> None:
        await anyio.sleep_until(self._quiet_until)
        self._pending = False
        self._call()

    def _call(self) -> None:
        self._quiet_until = anyio.current_time() + MISSED_SECS
        self._callback()


class StandingStream:
    """Keeps the GET stream of one session open.

    on_missed: what was said while it was closed is lost. doubt: it may be that the server does not know the session
    any more; a refused stream alone proves nothing, for it is optional.
    """

    def __init__(
        self,
        connection: RemoteConnection,
        exchange: AuthorizedClient,
        session: Session,
        *,
        on_missed: Callable[[], None],
        doubt: Callable[[Session], None],
    ) -> None:
        self._connection = connection
        self._exchange = exchange
        self._session = session
        self._on_missed = on_missed
        self._doubt = doubt
        self._cursor = Cursor()
        self._was_open = False
        self._held_secs = 0.0

    async def keep(self) -> bool:
        """Keep it open for as long as the session lasts; False if the server has no such stream."""
        failures = 0
        while True:
            end = await self._one_stream()
            if end is _End.NOT_OFFERED:
                return False
            if end is _End.NOT_SENT:  # which costs nothing; and as soon as it can be, it is to be open again
                await anyio.sleep(NOT_SENT_SECS)
                continue
            failures = failures + 1 if end is _End.FAILED else 0
            pause = max(MIN_PAUSE_SECS, self._cursor.retry_secs, MIN_PAUSE_SECS * 2 ** min(failures - 1, 10))
            pause = max(min(pause, max(MAX_PAUSE_SECS, self._cursor.retry_secs)), self._held_secs)
            self._held_secs = 0.0
            await anyio.sleep(pause * (1 + SPREAD * self._connection.endpoint.roll()))

    async def _one_stream(self) -> _End:
        resumes = self._cursor.last_id
        headers = stream_headers(self._session.version, self._session.id, resumes)
        try:
            response = await self._exchange.send("GET", headers, spares=REFUSALS)
        except Unreachable:
            return _End.FAILED
        except NotLetIn as fault:
            return _End.NOT_SENT if isinstance(fault.error, NotSent) else _End.FAILED
        if response.status_code != 200:
            return await self._refused(response)
        opened, before = anyio.current_time(), self._cursor.messages
        connection = self._connection
        try:
            limit = connection.endpoint.limits.max_message_bytes
            events = await opened_events(response, limit, connection.notices.odd)
            if self._was_open and not resumes:
                self._on_missed()
            self._was_open = True
            self._cursor.asked = False
            await take_opened(events, connection, self._cursor)
        except NotEvents:
            return await self._refused(response)
        except BodyEncoded as fault:
            connection.notices.odd(f"has a GET stream that cannot be read: {fault}")
            return _End.NOT_OFFERED
        except FAULTS:
            pass
        finally:
            await response.aclose()
        said = self._cursor.messages > before or self._cursor.asked
        lasted = said or anyio.current_time() - opened >= LASTING_SECS
        return _End.LASTED if lasted else _End.FAILED

    async def _refused(self, response: httpx2.Response) -> _End:
        status = response.status_code
        await discard(response)
        if status < 500 and self._was_open:
            self._doubt(self._session)
        if status in OVERLOADED:  # that is about streams: requests may still be welcome
            self._held_secs = min(held_secs(response) or 0.0, MAX_HELD_SECS)
        if not self._was_open and (status < 500 or status == 501) and status not in (401, 403, 408, 429):
            return _End.NOT_OFFERED
        if status < 500:
            self._cursor.last_id = None  # it may be the place to resume from that it does not know
        return _End.FAILED
