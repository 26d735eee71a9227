"""The listening end of the control socket: who is let in, how many at once, and for how long.

Knows no methods. A new client is always answered. Descriptors, memory and time that one client can take are bounded.
Too many clients: the one that has gone longest without asking for anything makes room, and is told so, since
its request may be on its way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from moltis import logs
from moltis.control import requests
from moltis.control.conversation import Conversation, Limits
from moltis.control.endpoint import DataDirLock, Endpoint
from moltis.control.registry import Registry
from moltis.errors import MoltisError, RpcCode
from moltis.operations.api import DaemonApi
from moltis.transport.wire import PeerConn, UnixListener, now, whole_second

log = logs.get("moltis.control")

MAX_CONNECTIONS: Final = 256
"""A person's agents, shells and dashboards are some tens."""

MAX_PARTIAL_BYTES: Final = 32 * 1024 * 1024
"""Unfinished lines of all clients together; beyond it the one that holds most is closed."""

MAX_PARTIAL_BYTES_HANDED_OVER: Final = 128 * 1024 * 1024
"""The same for connections that were handed over, whose lines may be longer."""

HANDED_OVER_SHARE: Final = 0.75
"""Of all connections, so many may be handed over, for those are never closed to make room."""

SPARE_DESCRIPTORS: Final = 16
"""Left for spawning a server and opening a file, however many clients there are."""

FEW_CONNECTIONS: Final = 8
"""So many are never the cause of a shortage of descriptors, and closing them does not end it."""

REFUSALS_FORGOTTEN_SECS: Final = 60.0
"""A stranger who keeps knocking is one log record a minute."""


class Timing(msgspec.Struct, frozen=True):
    """How often the listener looks after itself, in seconds."""

    sweep_secs: float = 1.0
    endpoint_check_secs: float = 5.0


class Listener:
    """Serves the control socket. `run` is its life; it may run once.

    sock: that `endpoint` has bound already, to be closed here.
    max_connections: what the process's descriptors allow; never more than `MAX_CONNECTIONS`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        lock: DataDirLock,
        registry: Registry,
        daemon: DaemonApi,
        *,
        sock: socket.socket | None = None,
        max_connections: int = MAX_CONNECTIONS,
        limits: Limits | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._lock = lock
        self._registry = registry
        self._daemon = daemon
        self._sock = sock
        self._allowed = self._max = max(1, min(MAX_CONNECTIONS, max_connections))
        self._limits = limits or Limits()
        self._timing = timing or Timing()
        self._open: dict[Conversation, None] = {}
        self._turn = 0
        self._refused: dict[int, float] = {}
        self._busy: anyio.Event | None = None
        self._tasks: TaskGroup | None = None
        self._trouble = ""

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._open)

    @property
    def handed_over(self) -> int:
        """How many of them are MCP hosts."""
        return sum(conversation.is_handed_over for conversation in self._open)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every connection is closed and the socket's file removed.

        Raises:
            MoltisError: the socket cannot be bound; see `Endpoint.bind`.
        """
        with contextlib.ExitStack() as bound:
            self._listen(bound)
            try:
                async with anyio.create_task_group() as self._tasks:
                    task_status.started()
                    await self._look_after(bound)
            finally:
                for conversation in tuple(self._open):
                    conversation.abort()
                self._endpoint.remove()

    def _listen(self, bound: contextlib.ExitStack) -> None:
        sock, self._sock = self._sock or self._endpoint.bind(), None
        bound.enter_context(sock)
        listener = UnixListener(sock, self._connected, self._tell_of_shortage)
        bound.callback(listener.close)

    # --- clients

    def _connected(self, conn: PeerConn) -> Conversation | None:
        if conn.peer_uid not in (os.geteuid(), 0):
            self._refuse(conn)
            return None
        if len(self._open) >= self._max and not self._make_room():
            conn.write(_busy(f"all {self._max} connections are busy"))
            return None
        conversation = Conversation(
            conn,
            self._registry,
            self._daemon,
            self._limits,
            start=self._start,
            active=self._active,
            over=self._over,
            may_hand_over=self._may_hand_over,
        )
        self._open[conversation] = None
        self._active(conversation)
        if self._busy is not None:
            self._busy.set()
        return conversation

    def _tell_of_shortage(self, error: OSError) -> None:
        log.warning("control_cannot_accept", reason=error.strerror, connections=len(self._open))

    def _refuse(self, conn: PeerConn) -> None:
        if conn.peer_uid not in self._refused:
            self._refused[conn.peer_uid] = now()
            log.warning("control_peer_refused", uid=conn.peer_uid, pid=conn.peer_pid)

    def _make_room(self) -> bool:
        """Close the least deserving idle client: half-open, then idle, then subscribed; of those the idlest."""
        idle = sorted((c for c in self._open if not c.is_busy), key=lambda c: (c.rank, c.last_turn))
        victim = next((c for c in idle if not c.has_asked), None)
        if victim is None:
            return False
        log.debug("control_client_evicted", pid=victim.peer_pid, rank=victim.rank)
        victim.evict(_busy(f"all {self._max} connections are in use, and this one had not asked for anything"))
        self._over(victim)
        return True

    def _active(self, conversation: Conversation) -> None:
        """Note that a client did something; the order of turns is the order of idleness, and needs no clock."""
        self._turn += 1
        conversation.last_turn = self._turn
        if conversation.partial_bytes > self._limits.partial_bytes_unwatched:
            kind = conversation.is_handed_over
            holders = sorted((c for c in self._open if c.is_handed_over == kind), key=lambda c: c.partial_bytes)
            most = MAX_PARTIAL_BYTES_HANDED_OVER if kind else MAX_PARTIAL_BYTES
            if sum(c.partial_bytes for c in holders) > most:
                holders[-1].refuse("too many unfinished lines are held for all clients together")

    def _may_hand_over(self) -> bool:
        return self.handed_over < max(1, int(self._max * HANDED_OVER_SHARE))

    def _over(self, conversation: Conversation) -> None:
        self._open.pop(conversation, None)

    def _start(self, work: Callable[[], Awaitable[None]]) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def scoped() -> None:
            with scope:
                try:
                    await work()
                except Exception:  # one request is lost, not the daemon
                    log.error("control_request_failed", exc_info=True)

        assert self._tasks is not None
        self._tasks.start_soon(scoped)
        return scope

    # --- housekeeping

    async def _look_after(self, bound: contextlib.ExitStack) -> None:
        """Sweep clients while there are any, and see that the socket's file is in place. Lasts until cancelled."""
        check_at = whole_second(anyio.current_time(), self._timing.endpoint_check_secs)
        while True:
            if self._open:
                await anyio.sleep(self._timing.sweep_secs)
            else:
                self._busy = anyio.Event()
                with anyio.move_on_at(check_at):
                    await self._busy.wait()
                self._busy = None
            moment = anyio.current_time()
            for conversation in tuple(self._open):
                try:
                    conversation.sweep(moment)
                except Exception:  # one client is lost, not the daemon
                    log.error("control_client_failed", pid=conversation.peer_pid, exc_info=True)
                    conversation.abort()
            self._leave_descriptors()
            self._refused = {u: at for u, at in self._refused.items() if moment - at < REFUSALS_FORGOTTEN_SECS}
            if moment >= check_at:
                check_at = whole_second(moment, self._timing.endpoint_check_secs)
                self._mend(bound)

    def _leave_descriptors(self) -> None:
        """Hold fewer clients while the process is short of descriptors: the rest of it needs some too."""
        spare: list[int] = []
        try:
            while len(spare) < min(SPARE_DESCRIPTORS, len(self._open)):
                spare.append(os.dup(self._lock.fileno()))
            self._max = self._allowed
        except OSError as failure:
            if failure.errno in (errno.EMFILE, errno.ENFILE):
                fewer = len(self._open) + len(spare) - SPARE_DESCRIPTORS
                self._max = min(self._allowed, max(FEW_CONNECTIONS, fewer))
                log.warning("control_connections_reduced", max_connections=self._max)
        finally:
            for fd in spare:
                os.close(fd)
        while len(self._open) > self._max and self._make_room():
            pass

    def _mend(self, bound: contextlib.ExitStack) -> None:
        """Bind the socket again, and take the lock's file again, when somebody removed or replaced them."""
        try:
            self._lock.keep()
            if not self._endpoint.is_in_place():
                old = bound.pop_all()
                try:
                    self._listen(bound)
                except BaseException:
                    bound.push(old)
                    raise
                old.close()
                log.warning("control_socket_bound_again", path=str(self._endpoint.path))
            self._trouble = ""
        except (MoltisError, OSError) as failure:
            if str(failure) != self._trouble:
                self._trouble = str(failure)
                log.error("control_socket_lost", path=str(self._endpoint.path), reason=self._trouble)


def _busy(why: str) -> bytes:
    """Return what a client reads that is not served, whatever it asked: nothing of it was done."""
    data = {"kind": "busy", "server": None, "hint": "try again when some of its requests are done"}
    return requests.error(None, RpcCode.INTERNAL_ERROR, why, data) + b"\n"
