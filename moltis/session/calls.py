"""The requests that wait for a reply: one table, and which of them is due when.

Knows no clock: instants are handed in, in monotonic seconds. Every entry leaves the table exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from moltis.errors import MoltisError
from moltis.server.status import HostSeen


class Question(Protocol):
    """One request of a server (`sampling/createMessage`, `elicitation/create`, `roots/list`), to be answered once."""

    @property
    def method(self) -> str: ...

    @property
    def params(self) -> bytes:
        """JSON as the server sent it; empty when it sent none."""

    def answer(self, result: bytes) -> None:
        """Answer with a result, JSON. No effect once it is answered, withdrawn, or the connection is over."""

    def refuse(self, error: bytes) -> None:
        """Answer with a JSON-RPC error object, JSON. No effect as for `answer`."""

    def tell(self, method: str, params: msgspec.Raw) -> None:
        """Say something about it while it is being answered (`notifications/progress`)."""


class Caller(Protocol):
    """Whoever waits behind one request. Called on the event loop; nothing here may block or raise."""

    @property
    def host(self) -> object:
        """Whose request it is. Requests of one host share it; two hosts never do."""

    @property
    def kin(self) -> object:
        """On whose behalf the host speaks: equal for two hosts of one principal. The host itself where nobody knows."""

    @property
    def seen(self) -> HostSeen | None:
        """Who the host says it is, for the log; None of the control socket."""

    def can_answer(self, method: str, params: bytes) -> bool:
        """Whether the host can be asked this at all: it has declared the capability, and there is a way to it."""

    def progressed(self, params: bytes) -> None:
        """Hear of progress: `params` of `notifications/progress` as sent; the token in it is the session's own."""

    def notified(self, method: str, params: bytes) -> None:
        """Hear of anything else that the server says about this very request (`notifications/message`)."""

    def asked(self, question: Question) -> None:
        """Take a question that is certainly about this request."""

    def withdrawn(self, question: Question, params: bytes) -> None:
        """Learn that its answer is not wanted any more.

        params: of the server's `notifications/cancelled`, or of ours, when the calls it may be about are all over.
        """


class Result(msgspec.Struct, frozen=True, gc=False):
    """The server's `result`, byte for byte.

    tool_error: of `tools/call`, that it says `isError`. hint: then, what a person can do about it, if that is known.
    """

    raw: bytes
    tool_error: bool = False
    hint: str = ""


class ErrorReply(msgspec.Struct, frozen=True, gc=False):
    """The server's JSON-RPC `error`, byte for byte. `hint`: what a person can do about it, if that is known."""

    raw: bytes
    hint: str = ""


class Failed(msgspec.Struct, frozen=True):
    """There was no reply and there will be none. `sent`: False where the server cannot have seen the request."""

    error: MoltisError
    sent: bool = True


Reply = Result | ErrorReply | Failed
OnReply = Callable[[Reply], None]
"""Called once, on the event loop, with the outcome of a request that was sent. It must not block and must not
raise; if it does, it is called once more, with `Failed`."""


class Call:
    """One request in flight. Instants are monotonic seconds; `tool` is set for `tools/call` only.

    began: by the clock that durations are measured with, which need not be that of the deadlines.
    idle_secs: how long it may go without reply or progress.
    due: when that time is up, at most `last`, which no progress moves.
    cancellable: MCP forbids to cancel `initialize` and `server/discover`.
    caller: who waits behind it; None for what the session asks for itself.
    questions: how many of the server's questions somebody is thinking about on its behalf. Its idle time stands still
        while there are any.
    """

    __slots__ = (
        "began",
        "caller",
        "cancellable",
        "due",
        "id",
        "idle_secs",
        "last",
        "method",
        "on_reply",
        "questions",
        "sent_at",
        "tool",
    )

    def __init__(
        self,
        id: int,
        method: str,
        on_reply: OnReply,
        now: float,
        began: float = 0.0,
        idle_secs: float = math.inf,
        max_secs: float = math.inf,
        tool: str | None = None,
        caller: Caller | None = None,
        cancellable: bool = True,
    ) -> None:
        self.id = id
        self.method = method
        self.on_reply = on_reply
        self.sent_at = now
        self.began = began
        self.idle_secs = idle_secs
        self.last = last = now + max_secs
        due = now + idle_secs
        self.due = due if due < last else last
        self.tool = tool
        self.caller = caller
        self.cancellable = cancellable
        self.questions = 0

    def heard_of(self, now: float) -> None:
        """Note progress: its idle time starts anew, within its last instant."""
        if not self.questions:
            self.due = min(now + self.idle_secs, self.last)

    def hold(self) -> None:
        """Let its idle time stand still for one more question."""
        self.questions += 1
        self.due = self.last

    def resume(self, now: float) -> None:
        """Take note that a question is dealt with; after the last one its idle time starts anew."""
        self.questions -= 1
        self.heard_of(now)


class Calls:
    """All requests in flight on one connection, by id."""

    def __init__(self) -> None:
        self._by_id: dict[int, Call] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._by_id.values())

    def add(self, call: Call) -> None:
        """Enter a request whose id is not in the table."""
        self._by_id[call.id] = call

    def take(self, id: int | None) -> Call | None:
        """Remove and give the request of that id, if it still waits."""
        return None if id is None else self._by_id.pop(id, None)

    def get(self, id: int | None) -> Call | None:
        """Return the request of that id, if it still waits."""
        return None if id is None else self._by_id.get(id)

    def asked_for(self) -> list[Call]:
        """Return the requests behind which somebody waits, in the order they were sent."""
        return [call for call in self._by_id.values() if call.caller is not None]

    def excuse(self, now: float, secs: float) -> None:
        """Put off the time of the requests that are due by so much: it was not the server who stood still."""
        for call in self._by_id.values():
            if call.due <= now:
                call.due = now + min(call.idle_secs, max(secs, 1.0))
                call.last = max(call.last, call.due)

    def take_due(self, now: float) -> list[Call]:
        """Remove and give the requests whose time is up."""
        due = [call for call in self._by_id.values() if call.due <= now]
        for call in due:
            del self._by_id[call.id]
        return due

    def take_all(self) -> list[Call]:
        """Remove and give all."""
        calls = list(self._by_id.values())
        self._by_id.clear()
        return calls

    def next_due(self) -> float:
        """Return the earliest instant at which `take_due` may find one; infinity when there is none."""
        return min((call.due for call in self._by_id.values()), default=math.inf)
