"""Opens connections to one remote server, by the transport that moltis.toml names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from moltis.config.kinds import KINDS
from moltis.config.limits import Limits
from moltis.config.plan import RemoteLaunch
from moltis.errors import Busy
from moltis.http.authorized import Credentials
from moltis.http.clients import server_client
from moltis.http.origins import read_url
from moltis.http.tls import CaFileError, tls_context
from moltis.server.states import FailureKind
from moltis.threads import in_thread
from moltis.transport import PLAIN, Connection, ConnectionClosed, Ended, Notices, OpenFailed, Outgoing, Receiver
from moltis.transport.remote.base import Endpoint, RemoteConnection
from moltis.transport.remote.legacy import LegacyConnection
from moltis.transport.remote.outcomes import HANDSHAKE
from moltis.transport.remote.streamable import StreamableConnection
from moltis.transport.task import WithoutProcess


class FallbackConnection(WithoutProcess):
    """One connection by Streamable HTTP, or the older HTTP+SSE where the server knows only that (`transport = "sse"`).

    A client tells them apart as the specification says (MCP, Transports, Backwards Compatibility): a handshake that is
    answered with 400, 404 or 405 is followed by a GET, and if that opens a stream which says where messages go, the
    server is an old one. This is asked once, at the beginning, and no message is lost over it. Implements
    `transport.Connection` once `run` runs in a task.
    """

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


class RemoteTransport:
    """Reaches one remote server; implements `transport.Transport`.

    transport: its kind; one that falls back may be spoken to by the older HTTP+SSE, if the server knows only that.
    tasks: where the connections live.
    on_oversized: called on the loop with how many messages were over `max_message_bytes` and ignored.
    roll: a number of [0, 1) by chance, to spread what many connections would do at once.
    """

    def __init__(
        self,
        server: str,
        transport: str,
        launch: RemoteLaunch,
        limits: Limits,
        credentials: Credentials,
        tasks: TaskGroup,
        *,
        on_oversized: Callable[[int], None] = lambda count: None,
        roll: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self._kind = FallbackConnection if KINDS[transport].falls_back else StreamableConnection
        self._ca_file = launch.ca_file
        self._tasks = tasks
        self._endpoint = Endpoint(
            server,
            launch.url,
            limits,
            credentials,
            partial(server_client, launch.ca_file, launch.headers, launch.way),
            launch.headers,
            on_oversized,
            roll,
        )

    def __repr__(self) -> str:
        return f"RemoteTransport({self._endpoint!r})"

    async def open(self, receive: Receiver, notices: Notices) -> Connection:
        """Open a connection. Nothing is sent yet: whether the server is there is known by its first answer.

        Raises:
            OpenFailed: `ca_file` cannot be used, or the URL is none (`connect_failed`).
        """
        if read_url(self._endpoint.url) is None:
            raise OpenFailed(
                Ended(FailureKind.CONNECT_FAILED, "its url is not one of http or https in printable ASCII")
            )
        try:
            await in_thread(tls_context, self._ca_file)  # reads files; from now on it is remembered
            connection = self._kind(self._endpoint, receive, notices)
        except (CaFileError, Busy) as fault:
            raise OpenFailed(Ended(FailureKind.CONNECT_FAILED, str(fault))) from fault
        self._tasks.start_soon(connection.run)
        return connection
