"""Listening sockets, TCP and unix: nothing ends accepting, and no client is turned away for want of a descriptor."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

from moltis.peers import credentials
from moltis.transport.wire.buffers import Inbox, Outbox
from moltis.transport.wire.loop import Cancellable

ACCEPT_PAUSE_SECS: Final = 0.05
"""When something is short, the next try may find some: clients wait in the backlog meanwhile."""
ACCEPTS_PER_WAKEUP: Final = 32
SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) that are this machine's; others are of one client, who is gone."""
SHORTAGE_TOLD_SECS: Final = 60.0
"""A shortage that comes and goes is told once in this time."""


class Acceptor:
    """Accepts on a listening socket until closed; the socket stays the caller's.

    The loops' own servers will not do: asyncio's accepts no more for a second and logs a traceback, and libuv's closes
    the connections that wait when no descriptor is left (uv__emfile_trick in src/unix/stream.c).

    on_socket: given each connection, which does not block; it must not raise.
    on_shortage: told why nobody can be accepted, at most once in `SHORTAGE_TOLD_SECS`.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_socket: Callable[[socket.socket], None],
        on_shortage: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_socket = on_socket
        self._on_shortage = on_shortage
        self._told_at: float | None = None
        self._pause: Cancellable | None = None
        self._closed = False
        sock.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more; to be called before the socket is closed. Connections already made go on. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _acceptable(self) -> None:
        for _ in range(ACCEPTS_PER_WAKEUP):
            if self._closed:
                return
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # accept(2): something is short, or that one client is gone
                self._loop.remove_reader(self._sock.fileno())
                self._pause = self._loop.call_later(ACCEPT_PAUSE_SECS, self._listen)
                if error.errno in SHORTAGES:
                    self._tell(error)
                return
            sock.setblocking(False)
            self._on_socket(sock)

    def _tell(self, error: OSError) -> None:
        now = self._loop.time()
        if self._told_at is None or now - self._told_at >= SHORTAGE_TOLD_SECS:
            self._told_at = now
            self._on_shortage(error)


class TcpListener:
    """Accepts connections on a bound, listening TCP socket, its own from now on, each for a protocol of `factory`'s.

    Running out of descriptors or memory only pauses accepting; waiting clients stay in the backlog. `on_shortage` as in
    `Acceptor`.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        on_shortage: Callable[[OSError], None] = lambda error: None,
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


LINGER_SECS: Final = 2.0
"""How long `PeerConn.close` lets a peer take to read what is still queued."""


class Handler(Protocol):
    """What a unix socket's connection is answered by. The methods must not raise."""

    def data_received(self, data: bytes) -> None:
        """Take what arrived; at most 64 KiB a call."""

    def eof_received(self) -> None:
        """Take note that the peer sends no more. It may still read: answer, then `conn.close()`."""

    def closed(self, exc: BaseException | None) -> None:
        """Take note that the connection is over: called exactly once, last; `exc` is None after our own close."""


class PeerConn:
    """One accepted connection.

    `buffered` and `stuck_secs` tell a slow reader: drop it with `abort()`. `on_drain`, when set, is called each time
    everything queued has been handed to the kernel after some of it had to wait.
    """

    def __init__(self, sock: socket.socket, peer_uid: int, peer_pid: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._handler: Handler | None = None
        self._linger: Cancellable | None = None
        self._over = False
        self._inbox = Inbox(sock, self._received, self._ended)
        self._outbox = Outbox(sock.fileno(), self._finish, self._emptied)
        self.peer_uid = peer_uid
        self.peer_pid = peer_pid
        self.on_drain: Callable[[], None] | None = None

    @property
    def buffered(self) -> int:
        """Bytes written by the owner and not yet taken by the kernel."""
        return self._outbox.buffered

    @property
    def stuck_secs(self) -> float:
        """Seconds since the kernel last took a byte of those waiting; 0 when none waits."""
        return self._outbox.stuck_secs

    @property
    def has_hung_up(self) -> bool:
        """Whether the peer is gone, and has not only said all it had to say (shutdown(2), as `nc -N` does)."""
        if self._over:
            return True
        poll = select.poll()
        poll.register(self._sock.fileno(), 0)
        return any(event & select.POLLHUP for _fd, event in poll.poll(0))

    @property
    def has_unread(self) -> bool:
        """Whether the peer has said something that nobody has read yet."""
        if self._over:
            return False
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return any(event & select.POLLIN and not event & select.POLLHUP for _fd, event in poll.poll(0))

    @property
    def is_closing(self) -> bool:
        return self._over or self._linger is not None

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer; dropped after `close` or `abort`. Look at `buffered` to bound it."""
        if not self.is_closing:
            self._outbox.write(data)

    def pause_reading(self) -> None:
        """Take no more from the peer until `resume_reading`. Idempotent."""
        self._inbox.pause()

    def resume_reading(self) -> None:
        if not (self._inbox.is_reading or self.is_closing):
            self._inbox.resume()

    def look_again(self) -> bool:
        """Read what there is, and the end of it, in the next turn of the loop, whatever the loop has been told.

        False where nothing is read: reading is paused, or the peer has said all it had to say.
        """
        self._inbox.look_again()
        return self._inbox.is_reading

    def close(self) -> None:
        """Stop reading, let the peer have what is queued (at most 2 s), then close. Idempotent."""
        if self.is_closing:
            return
        self.pause_reading()
        if self.buffered:
            self._linger = self._loop.call_later(LINGER_SECS, self.abort)
        else:
            self.abort()

    def abort(self) -> None:
        """Close now and drop what is queued. Idempotent."""
        if not self._over:
            self._release()
            self._loop.call_soon(self._tell, None)

    def _attach(self, handler: Handler) -> None:
        self._handler = handler
        self.resume_reading()

    def _received(self, data: bytes) -> None:
        assert self._handler is not None
        self._handler.data_received(data)

    def _ended(self, error: OSError | None) -> None:
        if error is not None:
            self._finish(error)
        elif self._handler is not None:
            self._handler.eof_received()

    def _emptied(self) -> None:
        if self._linger is not None:
            self.abort()
        elif self.on_drain is not None:
            self.on_drain()

    def _release(self) -> None:
        self._over = True
        if self._linger is not None:
            self._linger.cancel()
        self.pause_reading()
        self._outbox.abandon()
        self._sock.close()

    def _finish(self, error: BaseException | None) -> None:
        if not self._over:
            self._release()
            self._tell(error)

    def _tell(self, error: BaseException | None) -> None:
        if self._handler is not None:
            self._handler.closed(error)


class UnixListener:
    """Accepts connections on a bound, listening unix socket, which stays the caller's.

    `on_connect(conn)` returns the handler of the connection, or None to refuse it; it may write to `conn` or close it
    already. Running out of descriptors or memory only pauses accepting; waiting clients stay in the backlog.
    `on_shortage` as in `Acceptor`.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_connect: Callable[[PeerConn], Handler | None],
        on_shortage: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self._on_connect = on_connect
        self._acceptor = Acceptor(sock, self._admit, on_shortage)

    def close(self) -> None:
        """Accept no more. The socket stays the caller's, and connections already made go on. Idempotent."""
        self._acceptor.close()

    def _admit(self, sock: socket.socket) -> None:
        try:
            uid, pid = credentials(sock)
        except OSError:  # gone already
            sock.close()
            return
        conn = PeerConn(sock, uid, pid)
        handler = self._on_connect(conn)
        if handler is None:
            conn.abort()
        else:
            conn._attach(handler)
