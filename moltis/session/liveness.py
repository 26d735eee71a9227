"""What shows that a server lives: what it has said, and what it may still be busy with.

Pure. A server may work through its requests one at a time and say nothing meanwhile, so a request under way is waited
for by its own timeout. Silence is not prolonged by asking: once a request has gone without a sign for as long as it was
given, those that were sent into the same silence hold up no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from moltis.server.lifecycle import Pulse
from moltis.session.calls import Call, Calls

MAX_LEFT: Final = 1024
"""Requests given up that the server may still be at; of more, the oldest is forgotten."""


def never() -> float:
    """Return the instant of what has not happened."""
    return -math.inf


class _Left:
    """A request that is not waited for any more, though the server may still be at it.

    last_id: of the last request sent before the server was told. holds: it was cancelled, and did not time out.
    """

    __slots__ = ("due", "holds", "idle_secs", "last", "last_id", "sent_at")

    def __init__(self, call: Call, last_id: int, *, holds: bool) -> None:
        self.sent_at = call.sent_at
        self.idle_secs = call.idle_secs
        self.due = call.due
        self.last = call.last
        self.last_id = last_id
        self.holds = holds


class Liveness:
    """The signs of life of one server. Instants are monotonic seconds.

    heard_at: when the server last said something that is life in itself.
    stderr_at: tells when it last wrote to stderr, which is life only while it works at a request.
    used_at: when a request of somebody else than the session was last over.
    """

    def __init__(self, calls: Calls) -> None:
        self.heard_at = -math.inf
        self.used_at = -math.inf
        self.stderr_at: Callable[[], float] = never
        self._calls = calls
        self._left: dict[int, _Left] = {}
        self._over_at = -math.inf
        self._silence_at = -math.inf  # what `_silent_at` gave when some of those left were forgotten

    def at_work(self, now: float) -> bool:
        """Return whether the server may be at work on a request."""
        if any(call.due < math.inf for call in self._calls):
            return True
        return any(left.last > now for left in self._left.values())

    def pulse(self, now: float) -> Pulse:
        """Return what is known by now."""
        self._forget(now)
        heard_at, silent_at = self._heard_at(), self._silent_at(now)
        busy_until = self._over_at
        for call in self._calls:
            if call.due < math.inf and call.sent_at <= silent_at:
                busy_until = max(busy_until, call.due)
        for left in self._left.values():
            if left.holds and left.sent_at <= silent_at:
                busy_until = max(busy_until, left.last)
        used = any(call.caller is not None for call in self._calls)
        return Pulse(heard_at, busy_until, math.inf if used else self.used_at)

    def given_up(self, call: Call, last_id: int, now: float, *, timed_out: bool) -> None:
        """Take note that a request has timed out, or was cancelled; `last_id` is of the last request before that."""
        if call.caller is not None:
            self.used_at = now
        if call.due == math.inf:
            return  # a heartbeat, or a stream: nobody expects an end of it
        if timed_out and call.sent_at <= self._silent_at(now):
            self._over_at = max(self._over_at, now)
        while len(self._left) >= MAX_LEFT:
            self._silence_at = self._silent_at(now)
            del self._left[next(iter(self._left))]
        self._left[call.id] = _Left(call, last_id, holds=not timed_out)

    def replied(self, id: int | None) -> None:
        """Take note of a reply: the server is done with that request, and has read what was sent before it."""
        if self._left and id is not None:
            self._left.pop(id, None)
            for old in [old for old, left in self._left.items() if left.last_id < id]:
                del self._left[old]

    def _heard_at(self) -> float:
        """Return when it last gave a sign of life, stderr included if it worked at something then."""
        stderr_at = self.stderr_at()
        if stderr_at > self.heard_at and any(sent_at <= stderr_at for sent_at in self._sent_at()):
            return stderr_at
        return self.heard_at

    def _sent_at(self) -> Iterator[float]:
        yield from (call.sent_at for call in self._calls if call.due < math.inf)
        yield from (left.sent_at for left in self._left.values())

    def _silent_at(self, now: float) -> float:
        """Return since when the silence is longer than a request was given; infinity if it is not yet so long."""
        heard_at = self._heard_at()
        if self._silence_at > heard_at:
            return self._silence_at
        ends = (max(left.due, heard_at + left.idle_secs) for left in self._left.values())
        return min((end for end in ends if end <= now), default=math.inf)

    def _forget(self, now: float) -> None:
        over = [(id, left) for id, left in self._left.items() if left.last <= now]
        if not over:
            return
        silent_at = self._silence_at = self._silent_at(now)
        for id, left in over:
            if left.holds and left.sent_at <= silent_at:
                self._over_at = max(self._over_at, left.last)
            del self._left[id]
