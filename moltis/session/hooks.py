"""What is seen of a session from outside: what it counts, and whom it calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec

from moltis.server.status import HostSeen


class Counters(msgspec.Struct):
    """What was ignored, dropped or cut, since the connection was opened. A healthy server leaves all at 0."""

    garbage: int = 0
    mended: int = 0
    late_replies: int = 0
    refused_requests: int = 0
    unanswered_requests: int = 0
    unattributed: int = 0
    callback_faults: int = 0
    truncated_lists: int = 0
    failed_lists: int = 0
    missing_lists: int = 0
    nameless_items: int = 0
    repeated_items: int = 0


class Hooks(msgspec.Struct, frozen=True):
    """What the owner wants to hear of. All are called on the event loop and must not block.

    on_call: server, tool, duration in ms, outcome (`ok tool_error error timeout cancelled lost`) and host of each
        `tools/call`; no host of the control socket's.
    on_garbage: a reason of ours, and at most 200 scrubbed characters of what the server sent; for the debug log only.
    on_misfit: server, tool and what a person can do, the first time that the tool cannot ask its host in this era.
    on_odd: server and what is odd about it though it works, the first time that it is seen in this run.
    on_second: server, what became of its second session (`opened refused failed lost`), and the revision or the reason.
    on_notification: server, method, params (JSON, or empty) of what the server says to all: what is about none of the
        calls, and is not dealt with here.
    on_fault: a callback raised; a fault of this program.
    scrub: takes known secrets out of a text.
    clock: measures durations, in seconds. Deadlines go by the event loop's clock, which counts in whole milliseconds.
    """

    on_call: Callable[[str, str, float, str, HostSeen | None], None] | None = None
    on_garbage: Callable[[str, str], None] | None = None
    on_misfit: Callable[[str, str, str], None] | None = None
    on_odd: Callable[[str, str], None] | None = None
    on_second: Callable[[str, str, str], None] | None = None
    on_notification: Callable[[str, str, bytes], None] | None = None
    on_fault: Callable[[Exception], None] | None = None
    scrub: Callable[[str], str] = str
    clock: Callable[[], float] = time.perf_counter


class RateLimit:
    """At most `per_sec` in any second that begins with the first of them."""

    def __init__(self, per_sec: int) -> None:
        self._per_sec = per_sec
        self._since = -math.inf
        self._count = 0

    def admits(self, now: float) -> bool:
        """Count one more and say whether it is within the limit. `now`: monotonic seconds."""
        if now - self._since >= 1.0:
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= self._per_sec
