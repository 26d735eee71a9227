"""How to reach a server: the seam between a session and what carries its messages.

A transport opens a `Connection`; a connection carries whole JSON-RPC messages as bytes and says when it is over.
Stdio is one module behind this seam; a remote transport is another. Nothing above it knows pipes, pids or URLs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "Connection",
    "ConnectionClosed",
    "Ended",
    "OpenFailed",
    "Receiver",
    "StderrTail",
    "Transport",
    "exit_words",
]


class ConnectionClosed(Exception):
    """The connection is over, or is ending; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended, once nothing of it is left.

    kind: a word of `server.lifecycle.FailureKind` (`exited`, `spawn_failed`, `disconnected`, `write_stalled`, ...).
    exit_code: the process's exit status, negative for a signal, None where there is no process or it is not known.
    """

    kind: str
    message: str
    exit_code: int | None = None
    stderr_tail: tuple[str, ...] = field(default=())


Receiver = Callable[[bytes], None]
"""Called with each message from the server, in order, on the event loop. It must not block and must not raise."""

StderrTail = Callable[[], tuple[str, ...]]


class Connection(Protocol):
    """One live connection. All methods are called on the event loop."""

    @property
    def pid(self) -> int | None:
        """The process behind it, if there is one."""

    def send(self, message: bytes) -> None:
        """Queue one JSON-RPC message (no newline inside, none at the end).

        Raises:
            ConnectionClosed: it is over or ending.
        """

    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines the server wrote to stderr, scrubbed; empty where there is no such thing."""

    def stop(self) -> None:
        """Begin a graceful end: say goodbye, then SIGTERM, then SIGKILL, by the plan's deadlines. Idempotent."""

    def kill(self) -> None:
        """End it now. Idempotent."""

    async def wait_lost(self) -> Ended:
        """Wait until no answer can come any more, and say how that happened; something of it may be left yet."""

    async def wait_closed(self) -> Ended:
        """Wait until nothing of it is left, no process and no descriptor, and say how it ended."""


class Transport(Protocol):
    """Opens connections to one server."""

    async def open(self, receive: Receiver) -> Connection:
        """Open a connection; messages go to `receive`.

        Cancelling it leaves nothing behind.

        Raises:
            OpenFailed: it could not be opened; an ordinary failure of the server.
        """


class OpenFailed(Exception):
    """A connection could not be opened: no such program, no permission, no answer."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.message)
        self.ended = ended


def exit_words(code: int | None) -> str:
    """Say how a process ended; `code` is negative for a signal, None when it is not known."""
    if code is None:
        return "ended, and its exit code is not known"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
