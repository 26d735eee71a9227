"""Opens connections to one remote server, by the transport that moltis.toml names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from anyio.abc import TaskGroup

from moltis.config.kinds import KINDS
from moltis.config.limits import Limits
from moltis.config.plan import RemoteLaunch
from moltis.errors import Busy
from moltis.http.clients import server_client
from moltis.http.origins import read_url
from moltis.http.tls import CaFileError, tls_context
from moltis.server.states import FailureKind
from moltis.threads import in_thread
from moltis.transport import Connection, Ended, Notices, OpenFailed, Receiver
from moltis.transport.remote import Credentials
from moltis.transport.remote.base import Endpoint
from moltis.transport.remote.fallback import FallbackConnection
from moltis.transport.remote.streamable import StreamableConnection

__all__ = ["RemoteTransport"]


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
