"""One line of a control connection and its answer: what each request in it may ask of the connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from moltis.control import jsonrpc
from moltis.control.registry import Registry
from moltis.errors import UsageError
from moltis.gateway.lines import LineHost
from moltis.operations.api import CallHandle, DaemonApi
from moltis.operations.events import Subscription
from moltis.transport.wire import PeerConn

if TYPE_CHECKING:
    from moltis.control.conversation import Conversation


class Exchange:
    """One line and its answer: the `registry.Caller` of each request in it."""

    __slots__ = (
        "_after", "_conversation", "_handles", "_is_batch", "_is_cancelled", "_is_request", "_left", "_replies",
        "_size",
    )  # fmt: skip

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._handles: list[CallHandle] = []
        self._replies: list[bytes] = []
        self._after: list[Callable[[], None]] = []
        self._is_batch = False
        self._is_cancelled = False
        self._is_request = False
        self._left = 0
        self._size = 0

    @property
    def sink(self) -> Conversation:
        return self._conversation

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        return self._conversation.subscriptions

    def after_reply(self, callback: Callable[[], None]) -> None:
        self._after.append(callback)

    def start(self, work: Callable[[], Awaitable[None]]) -> CallHandle:
        return self._conversation.start(work)

    def hand_over(self, build: Callable[[PeerConn], LineHost]) -> None:
        if not self._is_request:
            raise UsageError("a connection is handed over by one request, neither a notification nor in a batch")
        guest = self._conversation._admit(build)
        self._after.append(lambda: self._conversation._hand_over(guest))

    def begin(self, message: jsonrpc.Message, registry: Registry, daemon: DaemonApi) -> None:
        """Answer a message, now or later."""
        self._is_batch = isinstance(message, jsonrpc.Batch)
        members = message.members if isinstance(message, jsonrpc.Batch) else (message,)
        self._is_request = isinstance(message, jsonrpc.Request) and message.id is not None
        self._left = self._size = len(members)
        self._conversation._began(self, self._size)
        for member in members:
            if isinstance(member, jsonrpc.Refused):
                self._done(member.reply)
                continue
            handle = registry.dispatch(member, daemon, self, self._done if member.id is not None else self._noted)
            if handle is not None and self._left:
                self._handles.append(handle)
            if self._is_cancelled:
                self.cancel()
                return

    def cancel(self) -> None:
        """Cancel what is not answered; no reply follows."""
        self._is_cancelled = True
        for handle in self._handles:
            handle.cancel()

    def _noted(self, _reply: bytes) -> None:
        """A notification is not answered, not even with an error (section 4.1)."""
        self._finish_one()

    def _done(self, reply: bytes) -> None:
        self._replies.append(reply)
        self._finish_one()

    def _finish_one(self) -> None:
        self._left -= 1
        if self._left or self._is_cancelled:
            return
        reply = self._replies[0] if self._replies else None
        self._conversation._answered(self, self._size, jsonrpc.batch(self._replies) if self._is_batch else reply)
        for callback in self._after:
            callback()
