"""What a server says unasked: requests and notifications, each taken to whom it is about.

What one call caused is told to nobody else: what cannot be attributed is dropped and counted, and only what is about
the server itself goes to everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from moltis import jsonrpc
from moltis.session import envelope
from moltis.session.attribution import Verdict
from moltis.session.calls import Caller, Calls
from moltis.session.hooks import RateLimit
from moltis.session.questions import Line, Questions

MAX_ANSWERS_PER_SEC: Final = 200
"""To the server's own requests. One that asks more often gets no answer to the rest."""

PROGRESS: Final = "notifications/progress"
CANCELLED: Final = "notifications/cancelled"
MESSAGE: Final = "notifications/message"

SERVER_WIDE: Final = frozenset(
    {
        CANCELLED,
        "notifications/elicitation/complete",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
    }
)
"""About the server, or about what it names itself, whatever it comes with."""


class Unasked:
    """One server's requests and notifications.

    on_notification: method and params of what is about the server itself.
    on_request: gives the result of a request that no caller is to answer, JSON, or None to refuse it.
    """

    def __init__(
        self,
        line: Line,
        calls: Calls,
        on_notification: Callable[[str, bytes], None],
        on_request: Callable[[str, bytes], bytes | None],
    ) -> None:
        self.relayed: frozenset[str] = frozenset()
        """The questions of which the server was told that they can be answered (MCP up to 2025-11-25)."""
        self.questions = Questions(line, calls, on_request)
        self._line = line
        self._calls = calls
        self._on_notification = on_notification
        self._answers = RateLimit(MAX_ANSWERS_PER_SEC)

    def asked(self, id: bytes, method: str, params: bytes, during: int | None) -> None:
        """Take a request. `id`: JSON; `during` as in `transport.Receiver`."""
        now = anyio.current_time()
        if not self._answers.admits(now):
            self._line.counters.unanswered_requests += 1
        elif method == "ping":
            self._line.write(jsonrpc.result(id, b"{}"))
        elif method in self.relayed:
            self.questions.put(id, method, params, during, now)
        else:
            self.questions.fall_back(id, method, params, "Method not found")

    def notified(self, method: str, params: bytes, during: int | None) -> None:
        """Take a notification."""
        if method == PROGRESS:
            self._progressed(params)
        elif method == CANCELLED and self.questions.cancelled(params):
            pass
        elif method in SERVER_WIDE:
            self._tell_all(method, params)
        elif during is not None:
            call = self._calls.get(during)
            if call is None:
                self._line.counters.unattributed += 1
            elif call.caller is None:
                self._tell_all(method, params)
            else:
                self._tell(call.caller, method, params)
        elif method == MESSAGE:
            self._logged(params)
        else:
            self._tell_all(method, params)

    def _progressed(self, params: bytes) -> None:
        call = self._calls.get(envelope.progress_token(params))
        if call is None:
            return
        call.heard_of(anyio.current_time())
        if call.caller is not None:
            try:
                call.caller.progressed(params)
            except Exception as fault:
                self._line.faulted(fault)

    def _logged(self, params: bytes) -> None:
        """Take a log message that came with no call: it says nothing of whose it is (MCP, Logging)."""
        suspects = self.questions.suspects(None, anyio.current_time())
        verdict = suspects.verdict
        if verdict is Verdict.NOBODYS:
            self._tell_all(MESSAGE, params)
            return
        caller = self.questions.newest(suspects) if verdict is Verdict.CERTAIN else None
        if caller is None:
            self._line.counters.unattributed += 1
        else:
            self._tell(caller, MESSAGE, params)

    def _tell(self, caller: Caller, method: str, params: bytes) -> None:
        try:
            caller.notified(method, params)
        except Exception as fault:
            self._line.faulted(fault)

    def _tell_all(self, method: str, params: bytes) -> None:
        try:
            self._on_notification(method, params)
        except Exception as fault:
            self._line.faulted(fault)
