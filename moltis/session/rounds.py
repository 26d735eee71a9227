"""A request that a server answers with questions first (MCP 2026-07-28, `input_required`): asked again with answers.

The questions are answered from their own defaults, or not at all; then the server's question is the outcome.
"""

from __future__ import annotations

from collections.abc import Callable

from moltis.errors import MoltisError
from moltis.session import elicitation
from moltis.session.calls import Failed, OnReply, Reply, Result
from moltis.session.dialogue import CallHandle

MAX_ROUNDS = 10

Ask = Callable[[bytes, OnReply], CallHandle]
"""Sends the request with these further members of `params` (JSON members, or nothing). Raises MoltisError."""


class Rounds:
    """One request, however often it is asked; cancelled as a whole."""

    def __init__(self, ask: Ask, on_reply: OnReply) -> None:
        self._ask = ask
        self._on_reply = on_reply
        self._left = MAX_ROUNDS
        self._handle = ask(b"", self._replied)

    def cancel(self, reason: str = "the caller went away") -> None:
        """Tell the server to stop; the outcome is not delivered any more."""
        self._handle.cancel(reason)

    def _replied(self, reply: Reply) -> None:
        answers = elicitation.input_responses(reply.raw) if isinstance(reply, Result) and self._left else None
        if answers is None:
            self._on_reply(reply)
            return
        self._left -= 1
        named = zip((b"inputResponses", b"requestState"), answers, strict=True)
        members = [b'"%b":%b' % (name, value) for name, value in named if value is not None]
        try:
            self._handle = self._ask(b",".join(members), self._replied)
        except MoltisError as error:
            self._on_reply(Failed(error))
