"""Serving a TCP socket by protocols of asyncio's, as HTTP servers are made of."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from moltis.transport.wire.accepting import Acceptor


class TcpListener:
    """Accepts on a listening socket until closed; see `serve_tcp`."""

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        on_shortage: Callable[[OSError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._factory = factory
        self._arriving: set[asyncio.Task[None]] = set()
        self._acceptor = Acceptor(sock, self._accepted, on_shortage)

    def close(self) -> None:
        """Accept no more, and close the socket: who connects is refused. Connections made go on. Idempotent."""
        self._acceptor.close()
        self._sock.close()

    def _accepted(self, sock: socket.socket) -> None:
        task = self._loop.create_task(self._begin(sock))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _begin(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, sock)
        except OSError:  # gone already
            sock.close()
        except BaseException:
            sock.close()
            raise


def serve_tcp(
    sock: socket.socket,
    factory: Callable[[], asyncio.BaseProtocol],
    on_shortage: Callable[[OSError], None] = lambda error: None,
) -> TcpListener:
    """Accept connections on a bound, listening TCP socket, each for a protocol that `factory` makes.

    The socket is the listener's from now on. Running out of descriptors or memory only pauses accepting; waiting
    clients stay in the backlog. `on_shortage` as in `Acceptor`.
    """
    return TcpListener(sock, factory, on_shortage)
