"""The questions of a server about one request that have no answer yet, and the way they go to a host.

A question leaves here exactly once: answered, refused, or because the server takes it back. `rounds` has their forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from moltis.gateway import revisions, rounds
from moltis.gateway.api import Outlet, Principal
from moltis.gateway.messages import Answer
from moltis.jsonrpc import json_string
from moltis.session.calls import Question

PROGRESS: Final = "notifications/progress"


class HostSide(Protocol):
    """What is asked of a host while a request of it is passed on. Nothing here blocks or raises."""

    @property
    def principal(self) -> Principal: ...

    @property
    def client_info(self) -> bytes:
        """Return `clientInfo` of its `initialize`, JSON; an object of ours if it sent none. Legacy hosts only."""

    @property
    def capabilities(self) -> bytes:
        """Return `capabilities` of its `initialize`, JSON; `{}` if it sent none. Legacy hosts only."""

    @property
    def revision(self) -> str:
        """Return the revision that its `initialize` agreed on. Legacy hosts only."""

    @property
    def log_level(self) -> str | None:
        """Return the level it set by `logging/setLevel`; None if it set none. Legacy hosts only."""

    def ask_host(self, method: str, params: bytes, outlet: Outlet, on_answer: Callable[[Answer], None]) -> int | None:
        """Send a legacy host a request on `outlet`, with an id of the host's own numbering.

        on_answer: called once with what the host answers; never after `take_back`, and not before this returns. When
            the host goes away it gets an `Answer` with an error.

        Returns:
            The id; None if there is no way, and then nothing is called.
        """

    def take_back(self, id: int, reason: bytes) -> None:
        """Tell the host that a question needs no answer any more (`notifications/cancelled`), on the question's outlet.

        reason: a JSON string, or empty. No effect once it is answered.
        """

    def done(self, id: bytes) -> None:
        """Learn that the request of this id has had its reply. May come before `Forwarding.begin` returns."""


class Tokens:
    """Progress tokens of questions: two servers may choose the same one, so hosts see ours."""

    def __init__(self) -> None:
        self._questions: dict[int, tuple[HostSide, Question, Raw]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._questions)

    def exchange(self, params: bytes, host: HostSide, question: Question) -> tuple[bytes, int | None]:
        """Return params with a token of ours in place of the server's, and that token; None if there was none."""
        params, theirs = rounds.with_token(params, self._last + 1)
        if theirs is None:
            return params, None
        self._last += 1
        self._questions[self._last] = (host, question, theirs)
        return params, self._last

    def forget(self, token: int | None) -> None:
        """Relay nothing for a token any more."""
        if token is not None:
            self._questions.pop(token, None)

    def progressed(self, host: HostSide, params: dict[str, Raw]) -> None:
        """Tell a server how far a host is with its question; nothing, if it is not that host's."""
        token = bytes(params.get("progressToken", b""))
        found = self._questions.get(int(token)) if token.isdigit() and len(token) < 20 else None
        if found is not None and found[0] is host:
            _, question, theirs = found
            question.tell(PROGRESS, Raw(msgspec.json.encode({**params, "progressToken": theirs})))


class Open:
    """One question. `question` is None for one that is part of a modern server's round.

    key: its name in a round. id: of the request to a legacy host, while it has one.
    """

    __slots__ = ("id", "key", "method", "params", "question", "token")

    def __init__(self, key: str, method: str, params: bytes, question: Question | None) -> None:
        self.key = key
        self.method = method
        self.params = params
        self.question = question
        self.id: int | None = None
        self.token: int | None = None


class OpenQuestions:
    """The questions about one request, in the order in which they came."""

    __slots__ = ("_asked", "_open", "_tokens")

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._open: list[Open] = []
        self._asked = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Open]:
        """Go over those that are open now, whatever becomes of them meanwhile."""
        return iter(tuple(self._open))

    @property
    def in_round(self) -> bool:
        """Whether one is open that belongs to a modern server's round."""
        return any(one.question is None for one in self._open)

    def add(self, method: str, params: bytes, question: Question | None = None, key: str | None = None) -> Open:
        """Enter a question. `key` None: a new one."""
        self._asked += 1
        one = Open(key if key is not None else f"q{self._asked}", method, params, question)
        self._open.append(one)
        return one

    def find(self, question: Question) -> Open | None:
        """Return the entry of a question, if it is open."""
        return next((one for one in self._open if one.question is question), None)

    def take(self, one: Open) -> bool:
        """Remove a question, and say whether it was open."""
        if one not in self._open:
            return False
        self._open.remove(one)
        self._tokens.forget(one.token)
        return True

    def put(self, one: Open, host: HostSide, outlet: Outlet, on_answer: Callable[[Open, Answer], None]) -> bool:
        """Send a question to a legacy host. False: there is no way; it stays open."""
        params = rounds.for_legacy(one.method, one.params, one.key)
        params = revisions.question_for(one.method, params, host.revision)
        if one.question is not None:
            params, one.token = self._tokens.exchange(params, host, one.question)
        one.id = host.ask_host(one.method, params, outlet, partial(on_answer, one))
        return one.id is not None

    def close(self, host: HostSide, refusal: bytes, reason: str) -> None:
        """Refuse all that are open, and tell a host that was asked."""
        for one in self:
            if not self.take(one):
                continue
            if one.id is not None:
                host.take_back(one.id, json_string(reason))
            if one.question is not None:
                one.question.refuse(refusal)
