"""What every connection to a remote server is: a task that lives in a task group, and a task for each message it sends.

Whatever the server does, the fault of one request is the fault of that request alone, nothing raises out of `run`, and
the connection is over within bounds that have names.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
import httpx2
import msgspec
from anyio.abc import TaskGroup

from moltis.config.limits import Limits
from moltis.errors import MoltisError, ServerNotReady
from moltis.http.authorized import MAX_HELD_SECS, Credentials, HeldBack, Progress
from moltis.server.states import FailureKind, State
from moltis.times import stamp_of
from moltis.transport import PLAIN, ConnectionClosed, Ended, Notices, Outgoing, Receiver
from moltis.transport.remote.headers import FIRST_MODERN
from moltis.transport.task import TaskConnection, fault_words

GOODBYE_SECS: Final = 1.0
"""For the goodbye."""
TELL_SECS: Final = 30.0
"""For a notification or an answer to the server; nobody waits for it."""
CANCEL_SECS: Final = 5.0
"""For telling the server that a request is given up; then the request's own POST is dropped."""
SOMETHING_ELSE: Final = "answered something else than what it was asked"
MAX_TOLD: Final = 32
"""Notifications and answers on their way at once; the rest is dropped. Whoever does not take them asked for it."""
MAX_UNCANCELLED: Final = 16
"""Of `UNCANCELLED` at once; the oldest gives way. The session waits for no more heartbeats than that."""
UNCANCELLED: Final = frozenset({"initialize", "server/discover", "ping"})
"""What whoever asked forgets without a word when it stays unanswered."""


def _count_nothing(count: int) -> None:
    """Leave oversized messages uncounted."""


def _half() -> float:
    return 0.5


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """One remote server as configured, for as many connections as it takes.

    headers: of moltis.toml, expanded.
    open_client: makes a client for one connection, which closes it. It sends `headers` and follows no redirect.
    on_oversized: called on the loop with how many messages were over `max_message_bytes` and ignored.
    roll: a number of [0, 1) by chance, to spread what many connections would do at once.
    """

    server: str
    url: str
    limits: Limits
    credentials: Credentials
    open_client: Callable[[], httpx2.AsyncClient]
    headers: tuple[tuple[str, str], ...] = ()
    on_oversized: Callable[[int], None] = field(default=_count_nothing)
    roll: Callable[[], float] = field(default=_half)

    def __repr__(self) -> str:
        return f"Endpoint({self.server!r}, {len(self.headers)} headers)"


class Post(Progress):
    """One message on its way, for as long as something is to be done about it.

    scope: cancelled when nobody waits for it any more.
    answered: whether a request's reply was received. succeeded: and was not, in a handshake, an error.
    doubts: its answer makes it look as if the session were lost.
    astray: it was answered by an error under no id or another: who wrote that may not have read it.
    """

    __slots__ = ("_settle", "about", "answered", "astray", "doubts", "message", "scope", "succeeded")

    def __init__(self, message: bytes, about: Outgoing, settle: Callable[[], None] | None) -> None:
        super().__init__()
        self.message = message
        self.about = about
        self.scope = anyio.CancelScope()
        self.answered = False
        self.succeeded = False
        self.doubts = False
        self.astray = False
        self._settle = settle

    @property
    def settled(self) -> bool:
        """Whether its outcome is known; what may still be done about it need not be waited for."""
        return self._settle is None

    def settle(self) -> None:
        """Take note that its outcome is known. Idempotent."""
        settle, self._settle = self._settle, None
        if settle is not None:
            settle()


class Session(msgspec.Struct, frozen=True):
    """What a server knows us by, up to MCP 2025-11-25.

    id: of `Mcp-Session-Id`, None if the server keeps no session. version: what was agreed on.
    """

    id: str | None
    version: str | None = None


NO_SESSION: Final = Session(None)


class RemoteConnection(TaskConnection):
    """One connection; implements `transport.Connection` once `run` runs in a task (`tasks.start_soon(c.run)`).

    A subclass says how a message is carried (`carry`), what runs beside (`serve`), and how to say goodbye. Whatever
    those raise becomes the failure of that one message, or of the connection; `lose` ends it for a reason.

    dropped: notifications and answers to the server that were given up.
    """

    @property
    def in_session(self) -> bool:
        """Whether there is a session; always, unless a subclass says otherwise."""
        return True

    def __init__(self, endpoint: Endpoint, receive: Receiver, notices: Notices) -> None:
        """Open the client.

        Raises:
            OSError, ValueError: whatever `endpoint.open_client` raises.
        """
        super().__init__()
        self.endpoint = endpoint
        self.receive = receive
        self.notices = notices
        self.client = endpoint.open_client()
        self.dropped = 0
        self._tasks: TaskGroup | None = None
        self._early: list[tuple[bytes, Outgoing]] = []
        self._requests: dict[int, Post] = {}
        self._uncancelled: deque[Post] = deque()
        self._unsettled = 0
        self._told = 0
        self._refusing = False
        self._waits = False
        self._goodbye = False
        self._ending = anyio.Event()
        self._idle = anyio.Event()

    # --- what a subclass says

    @abstractmethod
    async def carry(self, post: Post) -> None:
        """Carry one message; for a request, until its reply was received or `fail` was called.

        It runs in a task of its own, inside `post.scope`. `post.settle()` ends the waiting for it before it returns.
        """

    def sending(self, post: Post) -> None:
        """Take note of a message, in the order of `send`, before the task that carries it runs."""

    def unanswered(self) -> None:
        """Take note that a request is given up to which not even an answer began: its connection may be dead."""

    async def serve(self) -> None:
        """Do what goes on beside the messages; cancelled when the connection ends."""

    async def say_goodbye(self) -> None:
        """Tell the server that the connection ends, after `stop` only; cut off after `GOODBYE_SECS`."""

    # --- transport.Connection

    def send(self, message: bytes, about: Outgoing = PLAIN) -> None:
        """Begin to send one message.

        Raises:
            ConnectionClosed: it is over or ending.
        """
        if self._refusing:
            raise ConnectionClosed
        if self._tasks is None:
            self._early.append((message, about))
        else:
            self._start(self._tasks, message, about)

    def stop(self) -> None:
        """Refuse new messages, let those on their way finish for at most `stop_eof_secs`, then say goodbye."""
        if not self._refusing:
            self._goodbye = True
            self._end(Ended(FailureKind.DISCONNECTED, "it was stopped"), waits=True)

    # --- what subclasses call

    def lose(self, ended: Ended, *, waits: bool = False) -> None:
        """End it for a reason; the first one holds. `waits`: what is on its way may finish, as for `stop`."""
        self._end(ended, waits=waits)

    def fail(self, about: Outgoing, error: MoltisError, *, sent: bool = True) -> None:
        """Say that a request will have no reply. Of a notification or an answer, only the number is kept.

        sent: as for `transport.Notices.request_failed`.
        """
        if about.id is None:
            self.dropped += 1
        else:
            self.notices.request_failed(about.id, error, sent=sent)

    def not_ready(self, words: str, *, held_secs: float | None = None) -> ServerNotReady:
        """Make the error of a request that failed while the connection goes on. `words` follow the server's name.

        held_secs: for how long the server wants to be left alone.
        """
        server = self.endpoint.server
        return ServerNotReady(
            f"server {server!r} {words}",
            server=server,
            state=State.READY,
            next_retry_at=None if held_secs is None else stamp_of(time.time() + min(held_secs, MAX_HELD_SECS)),
            hint=f"moltis why {server}",
        )

    def odd(self, words: str) -> None:
        """Say what is odd about the server though it works. `words` follow its name."""
        self.notices.odd(words)

    def start_soon(self, work: Callable[[], object]) -> None:
        """Run an async function beside the messages; its fault ends the connection as a fault of moltis."""
        if self._tasks is not None and not self._refusing:
            self._tasks.start_soon(work)  # type: ignore[arg-type]  # it is awaited, whatever it gives

    @property
    def ending(self) -> bool:
        """Whether new messages are refused."""
        return self._refusing

    # --- life

    async def _live(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self.serve)
            for message, about in self._early:
                self._start(tasks, message, about)
            self._early.clear()
            await self._ending.wait()
            if self._waits and self._unsettled:
                with anyio.move_on_after(self.endpoint.limits.stop_eof_secs):
                    await self._idle.wait()
            tasks.cancel_scope.cancel()
        self._lost.set()
        if self._goodbye:
            with anyio.move_on_after(GOODBYE_SECS):
                await self.say_goodbye()

    async def _close(self) -> None:
        await self.client.aclose()

    def _end(self, ended: Ended, *, waits: bool = False) -> None:
        if self._ended is None:
            self._ended = ended
            self._waits = waits
        elif not waits:
            self._idle.set()
        self._refusing = True
        self._ending.set()

    # --- messages

    def _start(self, tasks: TaskGroup, message: bytes, about: Outgoing) -> None:
        if about.cancels is not None:
            self._cancel(tasks, message, about, about.cancels)
        elif about.id is not None:
            self._ask(tasks, message, about)
        elif about.method or not _modern(about):  # from 2026-07-28 on there are no answers to give
            self._tell(tasks, Post(message, about, self._settled), TELL_SECS)

    def _ask(self, tasks: TaskGroup, message: bytes, about: Outgoing) -> None:
        assert about.id is not None
        post = Post(message, about, None if about.may_last else self._settled)
        self._unsettled += not about.may_last
        self._requests[about.id] = post
        if about.method in UNCANCELLED:
            if any(earlier.sent and not earlier.heard for earlier in self._uncancelled):
                self.unanswered()
            self._uncancelled.append(post)
            if len(self._uncancelled) > MAX_UNCANCELLED:
                self._uncancelled.popleft().scope.cancel()
        self.sending(post)
        tasks.start_soon(self._carry_request, post)

    def _tell(self, tasks: TaskGroup, post: Post, secs: float, drop: Post | None = None) -> None:
        if self._told >= MAX_TOLD:
            self.dropped += 1
            if drop is not None:
                drop.scope.cancel()
            return
        self._told += 1
        self._unsettled += 1
        post.scope.deadline = anyio.current_time() + secs
        self.sending(post)
        tasks.start_soon(self._carry_told, post, drop)

    def _cancel(self, tasks: TaskGroup, message: bytes, about: Outgoing, id: int) -> None:
        """Give up a request: by dropping its POST alone from 2026-07-28 on, and by saying so first before."""
        target = self._requests.get(id)
        if target is not None and target.sent and not target.heard:
            self.unanswered()
        if target is not None and (_modern(target.about) or not target.sent):
            target.scope.cancel()
        elif not _modern(about):
            self._tell(tasks, Post(message, about, self._settled), CANCEL_SECS, target)

    async def _carry_request(self, post: Post) -> None:
        id = post.about.id
        assert id is not None
        try:
            with post.scope:
                await self.carry(post)
                if post.answered and self.notices.waits_for(id):  # who read it found another id in it
                    self.fail(post.about, self.not_ready(f"{SOMETHING_ELSE}; the request is not sent again"))
        except HeldBack as fault:
            self._held_back(post, fault)
        except Exception as fault:
            self.fail(post.about, self.not_ready(f"could not be asked: a fault of moltis: {fault_words(fault)}"))
        finally:
            if self._requests.get(id) is post:
                del self._requests[id]
            if post.about.method in UNCANCELLED and post in self._uncancelled:
                self._uncancelled.remove(post)
            post.settle()

    def _held_back(self, post: Post, fault: HeldBack) -> None:
        """Say so, and that the server has not seen it: a heartbeat is not missed by whoever wants to be left alone."""
        if not post.answered:
            self.fail(post.about, self.not_ready(fault.words, held_secs=fault.secs), sent=post.sent)

    async def _carry_told(self, post: Post, drop: Post | None) -> None:
        try:
            with post.scope:
                await self.carry(post)
        except Exception:
            self.dropped += 1
        finally:
            self.dropped += post.scope.cancelled_caught
            self._told -= 1
            if drop is not None:
                drop.scope.cancel()
            post.settle()

    def _settled(self) -> None:
        self._unsettled -= 1
        if self._waits and not self._unsettled:
            self._idle.set()


def _modern(about: Outgoing) -> bool:
    return about.version is not None and about.version >= FIRST_MODERN
