"""What goes to a host that it did not ask for.

Messages that belong to no request of it are sent now, or kept until there is a way: in order, and bounded. Questions
have an id of our own each, until they are answered or taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from moltis.gateway import messages
from moltis.gateway.api import Outlet
from moltis.gateway.messages import Answer

MAX_KEPT: Final = 64
"""Of messages to a host that has no stream open. What happened meanwhile it asks for when it is back."""

MAX_KEPT_BYTES: Final = 256 * 1024
"""The same, in bytes: a server's log message may be as long as any message, and every host that sees it keeps it."""


class Outbox:
    """Messages of one host, each one line. `send` says whether there was a way.

    held: nothing is sent before the host has said that it is ready (MCP, Lifecycle), however open the way is.
    """

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self._send = send
        self._kept: deque[tuple[bytes, bool]] = deque()
        self._kept_bytes = 0
        self.held = True

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def put(self, message: bytes, *, once: bool = False) -> None:
        """Send a message after those that are kept. `once`: one of these among the kept says it all.

        When there are too many, the first of those that say something only once (a log message) is given up.
        """
        if not self.held and not self._kept and self._send(message):
            return
        if once and (message, True) in self._kept:
            return
        if len(message) > MAX_KEPT_BYTES:
            return
        while len(self._kept) >= MAX_KEPT or self._kept_bytes + len(message) > MAX_KEPT_BYTES:
            least = next((kept for kept in self._kept if not kept[1]), self._kept[0])
            self._kept.remove(least)
            self._kept_bytes -= len(least[0])
        self._kept.append((message, once))
        self._kept_bytes += len(message)

    def flush(self) -> None:
        """Send what is kept, as far as there is a way."""
        while self._kept and not self.held:
            if not self._send(self._kept[0][0]):
                return
            if self._kept:
                self._kept_bytes -= len(self._kept.popleft()[0])

    def clear(self) -> None:
        """Forget what is kept."""
        self._kept.clear()
        self._kept_bytes = 0


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
