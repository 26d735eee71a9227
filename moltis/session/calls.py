"""The requests that wait for a reply: one table, and which of them is due when.

Knows no clock: instants are handed in, in monotonic seconds. Every entry leaves the table exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from moltis.errors import MoltisError


class Result(msgspec.Struct, frozen=True, gc=False):
    """The server's `result`, byte for byte."""

    raw: bytes


class ErrorReply(msgspec.Struct, frozen=True, gc=False):
    """The server's JSON-RPC `error`, byte for byte."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """There was no reply and there will be none."""

    error: MoltisError


Reply = Result | ErrorReply | Failed
OnReply = Callable[[Reply], None]
"""Called once, on the event loop, with the outcome of a request that was sent. It must not block and must not raise."""


class Call:
    """One request in flight. Instants are monotonic seconds; `tool` is set for `tools/call` only.

    began: by the clock that durations are measured with, which need not be that of the deadlines.
    idle_secs: how long it may go without reply or progress.
    due: when that time is up, at most `last`, which no progress moves.
    cancellable: MCP forbids to cancel `initialize` and `server/discover`.
    """

    __slots__ = ("began", "cancellable", "due", "id", "idle_secs", "last", "method", "on_reply", "sent_at", "tool")

    def __init__(
        self,
        id: int,
        method: str,
        on_reply: OnReply,
        *,
        now: float,
        began: float = 0.0,
        idle_secs: float = math.inf,
        max_secs: float = math.inf,
        tool: str | None = None,
        cancellable: bool = True,
    ) -> None:
        self.id = id
        self.method = method
        self.on_reply = on_reply
        self.sent_at = now
        self.began = began
        self.idle_secs = idle_secs
        self.last = now + max_secs
        self.due = min(now + idle_secs, self.last)
        self.tool = tool
        self.cancellable = cancellable


class Calls:
    """All requests in flight on one connection, by id."""

    def __init__(self) -> None:
        self._by_id: dict[int, Call] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, call: Call) -> None:
        """Enter a request whose id is not in the table."""
        self._by_id[call.id] = call

    def take(self, id: int | None) -> Call | None:
        """Remove and give the request of that id, if it still waits."""
        return None if id is None else self._by_id.pop(id, None)

    def progress(self, id: int | None, now: float) -> bool:
        """Note progress on a request and say whether it still waits: its time starts anew, within its last instant."""
        call = None if id is None else self._by_id.get(id)
        if call is None:
            return False
        call.due = min(now + call.idle_secs, call.last)
        return True

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
        """Give the earliest instant at which `take_due` may find one; infinity when there is none."""
        return min((call.due for call in self._by_id.values()), default=math.inf)
