"""A server inside this process: an object that answers MCP messages, behind the same seam as any other.

Each request is a task of its own, so that one that takes its time holds up no other; notifications are taken in order.
What an object raises costs its own request alone, and is told as JSON-RPC tells it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup

from moltis.server.states import FailureKind
from moltis.slices import taken
from moltis.transport import PLAIN, Connection, ConnectionClosed, ConnectionFull, Ended, Notices, Outgoing, Receiver
from moltis.transport.task import TaskConnection

MAX_REQUESTS: Final = 1000
"""Under way at one time; more than that wait for something that does not come."""

Tell = Callable[[bytes], None]
"""Says something of the server's own: a notification, as one JSON-RPC message."""


class Server(Protocol):
    """What answers. It may be asked many things at a time, and is asked nothing more once it is closed."""

    async def answer(self, message: bytes, about: Outgoing) -> bytes | None:
        """Return the reply to a request, as one JSON-RPC message; None to anything else. Cancelled if given up."""

    async def aclose(self) -> None:
        """Be done; nothing is under way any more."""


class InsideTransport(msgspec.Struct, frozen=True):
    """Makes one such server for each connection; implements `transport.Transport`.

    make: given what says things of the server's own. tasks: where its work is done.
    """

    make: Callable[[Tell], Server]
    tasks: TaskGroup

    async def open(self, receive: Receiver, notices: Notices) -> Connection:
        """Open a connection. What `make` raises is a fault of ours, and told as one."""
        connection = InsideConnection(receive)
        connection.serve(self.make(connection.tell))
        self.tasks.start_soon(connection.run)
        return connection


class InsideConnection(TaskConnection):
    """One connection to a server in this process; implements `transport.Connection` once `run` runs in a task."""

    in_session: bool = True

    def __init__(self, receive: Receiver) -> None:
        super().__init__()
        self._receive = receive
        self._server: Server | None = None
        self._tasks: TaskGroup | None = None
        self._waiting: list[tuple[bytes, Outgoing]] = []
        """Sent before `run` had its turn."""
        self._said: list[bytes] = []
        self._news = anyio.Event()
        self._requests: dict[int, anyio.CancelScope] = {}

    @property
    def ending(self) -> bool:
        return self._ended is not None

    def serve(self, server: Server) -> None:
        """Have this server answer. Comes first."""
        self._server = server

    def tell(self, message: bytes) -> None:
        """Pass on what the server says of its own accord; nothing once it is over."""
        if not self.ending:
            self._said.append(message)
            self._news.set()

    def send(self, message: bytes, about: Outgoing = PLAIN) -> None:
        if self.ending:
            raise ConnectionClosed
        if about.cancels is not None and (scope := self._requests.pop(about.cancels, None)) is not None:
            scope.cancel()
        if len(self._requests) >= MAX_REQUESTS:
            raise ConnectionFull
        if about.id is not None:
            self._requests[about.id] = anyio.CancelScope()
        if self._tasks is None:
            self._waiting.append((message, about))
        else:
            self._tasks.start_soon(self._ask, message, about)

    def stop(self) -> None:
        """End it. There is nobody to say goodbye to."""
        self._end(Ended(FailureKind.DISCONNECTED, "it was stopped"))

    async def _live(self) -> None:
        assert self._server is not None, "serve() comes first"
        async with anyio.create_task_group() as self._tasks:
            for message, about in self._waiting:
                self._tasks.start_soon(self._ask, message, about)
            self._waiting.clear()
            while True:
                await self._pass_on()

    async def _close(self) -> None:
        assert self._server is not None
        await self._server.aclose()

    async def _pass_on(self) -> None:
        await self._news.wait()
        self._news = anyio.Event()
        said, self._said = self._said, []
        for message in said:
            await taken(self._receive(message))

    async def _ask(self, message: bytes, about: Outgoing) -> None:
        assert self._server is not None
        scope = self._requests.get(about.id) if about.id is not None else anyio.CancelScope()
        if scope is None:
            return  # it was given up before it had its turn
        with scope:
            try:
                reply = await self._server.answer(message, about)
            except Exception as fault:
                reply = None if about.id is None else _failed(about.id, type(fault).__name__)
        if about.id is not None and self._requests.pop(about.id, None) is not None:
            await taken(self._receive(reply or _failed(about.id, "no reply"), about.id))

    def _end(self, ended: Ended, *, waits: bool = False) -> None:
        if self._ended is None:
            self._ended = ended
            self._life.cancel()


def _failed(id: int, why: str) -> bytes:
    """Return the reply that a request gets which the server could not answer (JSON-RPC 2.0 section 5.1)."""
    told = why.encode("ascii", "replace")
    return b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32603,"message":"Internal error: %s"}}' % (id, told)
