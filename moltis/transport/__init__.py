"""How to reach a server: the seam between a session and what carries its messages.

A transport opens a `Connection`; a connection carries whole JSON-RPC messages as bytes and says when it is over.
`stdio` is one module behind this seam, `remote` is a package. Nothing above it knows pipes, pids or URLs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

import msgspec

from moltis.errors import MoltisError
from moltis.server.states import FailureKind
from moltis.steps import Steps

__all__ = [
    "PLAIN",
    "Connection",
    "ConnectionClosed",
    "ConnectionFull",
    "Effort",
    "Ended",
    "Notices",
    "OpenFailed",
    "Outgoing",
    "Receiver",
    "StderrTail",
    "Transport",
    "exit_words",
]


class ConnectionClosed(Exception):
    """The connection is over, or is ending; nothing was sent."""


class ConnectionFull(Exception):
    """So much waits to be read by the server that no more is taken for now; nothing was sent, and it goes on."""


class Ended(msgspec.Struct, frozen=True):
    """How a connection ended, once nothing of it is left.

    exit_code: the process's exit status, negative for a signal, None where there is no process or it is not known.
    retry_after_secs: how long the server asks to be left alone (`Retry-After`), None if it does not.
    unfinished: the beginning of a line that it wrote to stdout and never ended; raw.
    stdout: what it wrote to stdout that is no MCP message, in words.
    """

    kind: FailureKind
    message: str
    exit_code: int | None = None
    stderr_tail: tuple[str, ...] = ()
    retry_after_secs: float | None = None
    unfinished: bytes = b""
    stdout: str = ""


class Effort(msgspec.Struct, frozen=True):
    """What a server has shown of work since it was started; all nothing where nothing can be seen.

    said: bytes on stdout and stderr. cpu_secs: processor time of its whole process tree; may fall when a child ends.
    runnable: a process of it runs now, or waits for a processor.
    """

    said: int = 0
    cpu_secs: float = 0.0
    runnable: bool = False


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """What a message is, for a transport that says so outside of it too (HTTP headers); stdio does not look.

    id: of a request; None for a notification or an answer to the server.
    method: empty for an answer to the server.
    name: what a tool call, a prompt or a resource is about: `params.name` or `params.uri`.
    version: the protocol revision it is sent under; None before one is agreed on.
    mirrored: HTTP headers that the tool's schema wants beside its arguments (`x-mcp-header`), name and value.
    cancels: the request that a `notifications/cancelled` gives up.
    may_last: it may stay unanswered for ever (`subscriptions/listen`).
    """

    id: int | None = None
    method: str = ""
    name: str | None = None
    version: str | None = None
    mirrored: tuple[tuple[str, str], ...] = ()
    cancels: int | None = None
    may_last: bool = False


PLAIN = Outgoing()


class Notices(Protocol):
    """What a connection tells beside the messages. Called on the event loop; must not block and must not raise."""

    def request_failed(self, id: int, error: MoltisError, *, sent: bool = True) -> None:
        """Take note that one request will have no reply, though the connection goes on.

        sent: False where the server cannot have seen it, so that its silence says nothing.
        """

    def waits_for(self, id: int) -> bool:
        """Return whether a request has neither a reply nor a failure yet, and somebody waits for it."""

    def heard(self) -> None:
        """Take note that the server is there: it answered, though by no message (an HTTP status)."""

    def missed(self) -> None:
        """Take note that messages may have been lost: what the server announces must be looked at anew."""

    def odd(self, words: str) -> None:
        """Take note of what is odd about the server though it works. `words` follow its name."""

    def busy_until(self) -> float:
        """Return until when a request under way is waited for, in the loop's seconds; silence says nothing before."""


class Receiver(Protocol):
    """Called with each message from the server, in order, on the event loop. It must not block and must not raise."""

    def __call__(self, message: bytes, during: int | None = None, /) -> bool | Steps[bool] | None:
        """Take a message; return False if it is none, and was dropped, whole or in part.

        Of a message that is long it returns the steps in which it is taken: whoever gave it goes on with them in other
        turns of the loop, and gives no other message before it is done (`slices`).

        during: the id of the request on whose HTTP answer it came; None where nothing tells.
        """


StderrTail = Callable[[], tuple[str, ...]]


class Connection(Protocol):
    """One live connection. All methods are called on the event loop."""

    @property
    def pid(self) -> int | None:
        """The process behind it, if there is one."""

    @property
    def stderr_at(self) -> float:
        """When the server last wrote to stderr, in the loop's seconds; -inf for never."""

    @property
    def ending(self) -> bool:
        """Whether it is over or on its way there: it takes no message any more, and says itself why."""

    @property
    def has_read(self) -> bool:
        """Whether the server has read all that it was sent, or, once it is over, had. True where nothing tells."""

    @property
    def in_session(self) -> bool:
        """Whether the server knows which messages belong together, so that it can ask us; over HTTP it may not."""

    def send(self, message: bytes, about: Outgoing = PLAIN) -> None:
        """Queue one JSON-RPC message (no newline inside, none at the end).

        Raises:
            ConnectionClosed: it is over or ending.
            ConnectionFull: too much waits for the server already.
        """

    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines the server wrote to stderr, scrubbed; empty where there is no such thing."""

    def effort(self) -> Effort:
        """Say what work it has shown so far; cheap, but not free: for starts, not for calls."""

    def stop(self) -> None:
        """Begin a graceful end: say goodbye, then SIGTERM, then SIGKILL, by the plan's deadlines. Idempotent."""

    def hurry(self) -> None:
        """Go on to SIGTERM at once in a graceful end, where there is such a thing. Idempotent."""

    def kill(self) -> None:
        """End it now. Idempotent."""

    async def wait_lost(self) -> Ended:
        """Wait until no answer can come any more, and say how that happened; something of it may be left yet."""

    async def wait_closed(self) -> Ended:
        """Wait until nothing of it is left, no process and no descriptor, and say how it ended."""


class Transport(Protocol):
    """Opens connections to one server."""

    async def open(self, receive: Receiver, notices: Notices) -> Connection:
        """Open a connection; messages go to `receive`, and what else there is to say to `notices`.

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
