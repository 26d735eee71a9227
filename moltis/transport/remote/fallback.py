"""`transport = "sse"`: Streamable HTTP, and the older HTTP+SSE where the server knows only that.

A client tells them apart as the specification says (MCP, Transports, Backwards Compatibility): a handshake that is
answered with 400, 404 or 405 is followed by a GET, and if that opens a stream which says where messages go, the server
is an old one. The one rule is that this is asked once, at the beginning, and that no message is lost over it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup

from moltis.server.states import FailureKind
from moltis.transport import PLAIN, ConnectionClosed, Effort, Ended, Notices, Outgoing, Receiver
from moltis.transport.remote.base import Endpoint, RemoteConnection
from moltis.transport.remote.legacy import LegacyConnection
from moltis.transport.remote.outcomes import HANDSHAKE
from moltis.transport.remote.streamable import StreamableConnection

__all__ = ["FallbackConnection"]


class FallbackConnection:
    """One connection by whichever the server speaks; implements `transport.Connection` once `run` runs in a task."""

    pid: int | None = None
    stderr_at: float = -math.inf

    def __init__(self, endpoint: Endpoint, receive: Receiver, notices: Notices) -> None:
        """Open the client.

        Raises:
            OSError, ValueError: whatever `endpoint.open_client` raises.
        """
        self._endpoint = endpoint
        self._receive = receive
        self._notices = notices
        self._current: RemoteConnection = StreamableConnection(endpoint, receive, notices, rejected=self._rejected)
        self._all: list[RemoteConnection] = [self._current]
        self._tasks: TaskGroup | None = None
        self._asking = anyio.Lock()
        self._asked = False
        self._verdict: Ended | None = None
        """What became of the other, which did open an event stream."""
        self._settled = False
        self._stopping = False

    # --- transport.Connection

    has_read: bool = True

    @property
    def ending(self) -> bool:
        """Whether new messages are refused."""
        return self._stopping or self._current.ending

    @property
    def in_session(self) -> bool:
        """Whether there is a session by whichever it is."""
        return self._current.in_session

    def send(self, message: bytes, about: Outgoing = PLAIN) -> None:
        """Begin to send one message.

        Raises:
            ConnectionClosed: it is over or ending.
        """
        if not self._settled and about.id is not None and about.method not in HANDSHAKE:
            self._settle()
        self._current.send(message, about)

    def stderr_tail(self) -> tuple[str, ...]:
        """Give nothing: what a remote server complains of is not heard here."""
        return ()

    def effort(self) -> Effort:
        """Give nothing: a connection being opened costs nothing here, and what the server does is not seen."""
        return Effort()

    def hurry(self) -> None:
        """Do nothing: there is no process to be told, and the goodbye is on its way."""

    def stop(self) -> None:
        """End it gracefully, as `RemoteConnection.stop`."""
        self._stopping = True
        for connection in self._all:
            connection.stop()

    def kill(self) -> None:
        """End it now, without a goodbye."""
        self._stopping = True
        for connection in self._all:
            connection.kill()

    async def wait_lost(self) -> Ended:
        """Wait until no answer can come any more."""
        while True:
            waited_for = self._current
            ended = await waited_for.wait_lost()
            if waited_for is self._current:
                return ended

    async def wait_closed(self) -> Ended:
        """Wait until every socket of it is closed. May be waited for by many, and again."""
        ended = await self.wait_lost()
        for connection in self._all:
            await connection.wait_closed()
        return ended

    async def run(self) -> None:
        """Live, until it is stopped, killed or lost. Never raises; being cancelled kills it."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._current.run)
            await self.wait_lost()
            self._stopping = True
            self._end_others()

    # --- which one it is

    async def _rejected(self, message: bytes, about: Outgoing, status: int) -> bool:
        """Take a message over that Streamable HTTP was refused, if the server speaks the other."""
        async with self._asking:
            if not self._asked and about.method in HANDSHAKE:
                self._asked = True
                await self._ask()
        if isinstance(self._current, StreamableConnection):
            if self._verdict is None or about.method != "initialize":
                return False  # it may have a stream for another reason, and answer `initialize`
            words = f"{self._verdict.message} (as Streamable HTTP it answered initialize with HTTP {status})"
            self._current.lose(replace(self._verdict, message=words))
            return True
        try:
            self._current.send(message, about)
        except ConnectionClosed:
            pass  # it ended at once, and the message fails with it
        return True

    async def _ask(self) -> None:
        """Try the other, and go on by it if the server answers it, be it with the wish for a login."""
        if self._tasks is None or self._stopping:
            return
        try:
            old = LegacyConnection(self._endpoint, self._receive, self._notices)
        except (OSError, ValueError):
            return  # what could be opened once cannot now: the answer that there is stands
        self._all.append(old)
        self._tasks.start_soon(old.run)
        if await old.located() or (await old.wait_lost()).kind == FailureKind.AUTH_REQUIRED:
            self._current = old
            self._tasks.start_soon(self._follow, old)
        elif old.streamed:
            self._verdict = await old.wait_lost()

    async def _follow(self, old: LegacyConnection) -> None:
        await old.wait_lost()
        self._end_others()

    def _settle(self) -> None:
        """Take note that the handshake is over: what is spoken now is spoken to the end."""
        self._settled = self._asked = True
        self._end_others()

    def _end_others(self) -> None:
        for connection in self._all:
            if connection is not self._current:
                connection.kill()
