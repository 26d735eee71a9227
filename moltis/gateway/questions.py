"""Questions put to one host in a session, each with an id of our own, until they are answered or taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from moltis.gateway import messages
from moltis.gateway.api import Outlet
from moltis.gateway.messages import Answer

__all__ = ["MAX_QUESTIONS", "Questions"]

MAX_QUESTIONS: Final = 64
"""Put to one host and not answered yet. A person answers one at a time."""

_GONE: Final = b'{"code":-32603,"message":"the host is gone"}'


class Questions:
    """What one host was asked. Each question is answered, taken back, or refused when the host goes: once."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Callable[[Answer], None], Outlet]] = {}
        self._last_id = 0
        self._closed = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def ask(self, method: str, params: bytes, outlet: Outlet, on_answer: Callable[[Answer], None]) -> int | None:
        """Send a question and give its id; None if there is no way, or too many are open."""
        if self._closed or len(self._open) >= MAX_QUESTIONS or not outlet.can_ask():
            return None
        self._last_id = id = self._last_id + 1
        if not outlet.tell(messages.request(id, method, params)):
            return None
        self._open[id] = on_answer, outlet
        return id

    def take_back(self, id: int, reason: bytes) -> None:
        """Say that a question needs no answer any more. `reason`: a JSON string, or empty."""
        found = self._open.pop(id, None)
        if found is not None:
            more = b',"reason":%b' % reason if reason else b""
            found[1].tell(messages.notification("notifications/cancelled", b'{"requestId":%d%b}' % (id, more)))

    def answered(self, answer: Answer) -> None:
        """Take an answer; one that nobody waits for is ignored."""
        text = answer.id.strip(b'"')  # some hosts echo 7 as "7"
        found = self._open.pop(int(text), None) if text.isdigit() and len(text) < 20 else None
        if found is not None:
            found[0](answer)

    def close(self) -> None:
        """Refuse what is open, and take no more."""
        self._closed = True
        while self._open:
            id, (on_answer, _) = self._open.popitem()
            on_answer(Answer(b"%d" % id, None, _GONE))
