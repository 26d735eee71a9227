"""Who waits behind a request that is passed on for somebody else, and what a server may ask them meanwhile."""

from __future__ import annotations

from typing import Protocol

import msgspec

from moltis.server.status import HostSeen

__all__ = ["Caller", "Question"]


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
