"""Hosts whose requests are passed on: they keep what they hear and are asked."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw
from scripted_server import Message, Out, Running, legacy, result

from moltis.server.status import HostSeen
from moltis.session.calls import Question, Reply
from moltis.session.dialogue import CallHandle


class FakeCaller:
    """One call of a host; fits `caller.Caller`."""

    def __init__(self, host: object, *, able: bool = True, kin: object = None) -> None:
        self._host = host
        self._kin = host if kin is None else kin
        self.able = able
        self.seen: HostSeen | None = None
        self.progress: list[bytes] = []
        self.notes: list[tuple[str, bytes]] = []
        self.questions: list[Question] = []
        self.taken_back: list[tuple[Question, bytes]] = []
        self.replies: list[Reply] = []

    @property
    def host(self) -> object:
        return self._host

    @property
    def kin(self) -> object:
        return self._kin

    def can_answer(self, method: str, params: bytes) -> bool:
        return self.able

    def progressed(self, params: bytes) -> None:
        self.progress.append(params)

    def notified(self, method: str, params: bytes) -> None:
        self.notes.append((method, params))

    def asked(self, question: Question) -> None:
        self.questions.append(question)

    def withdrawn(self, question: Question, params: bytes) -> None:
        self.taken_back.append((question, params))


def raw(**members: Any) -> dict[str, Raw]:
    return {name: Raw(msgspec.json.encode(value)) for name, value in members.items()}


def begin(running: Running, caller: FakeCaller, tool: str = "t") -> CallHandle:
    """Have a host call a tool."""
    return running.session.forward(
        "tools/call", raw(name=tool), {}, caller.replies.append, caller=caller, name=tool, tool=tool
    )


def silent(message: Message) -> list[Out]:
    return []


def quiet(**more: Any) -> Any:
    """A legacy server that answers no call by itself."""
    return legacy("t", tools__call=silent, **more)


def question(id: int | str = "q1", method: str = "sampling/createMessage", **params: Any) -> Message:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def note(method: str = "notifications/message", **params: Any) -> Message:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def reply_to(handle: CallHandle, value: Any = None) -> Message:
    return result({"id": handle.id}, {} if value is None else value)


def answers(running: Running) -> list[Message]:
    """What the server was answered."""
    return [message for message in running.server.sent if "method" not in message]
