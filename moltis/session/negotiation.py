"""Drives a `Handshake` over a `Dialogue`: sends what it says, hands it the replies, and keeps its patience."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial

import anyio

from moltis.session.calls import ErrorReply, Failed, Reply, Result
from moltis.session.dialogue import Dialogue
from moltis.session.handshake import Agreed, Anew, Done, Handshake, Send
from moltis.session.handshake import Failed as NotAgreed

READ_CHECKS = 10
"""How often within its patience it is looked whether a slow server has begun to read."""


class HandshakeFailed(Exception):
    """The server is there and has nothing in common with us; the text completes "the handshake failed: ..."."""


class InDoubt(Exception):
    """Another connection is to be opened: the era of this one could not be told for certain."""


async def negotiate(dialogue: Dialogue, handshake: Handshake, has_read: Callable[[], bool] = lambda: True) -> Agreed:
    """Agree with the server. Waits as long as it takes: how long a start may last is its owner's affair.

    has_read: whether the server has read all that it was sent; patience counts from then.

    Raises:
        HandshakeFailed: there will be no agreement.
        InDoubt: there may be one on another connection.
        MoltisError: the connection is over, or the server cannot be reached by it.
    """
    replies: deque[tuple[str, Reply]] = deque()
    heard = anyio.Event()

    def arrived(method: str, reply: Reply) -> None:
        replies.append((method, reply))
        heard.set()

    patience_secs, deadline, unread = math.inf, math.inf, False
    step = handshake.start()
    while True:
        match step:
            case Done(agreed, notifications):
                dialogue.version = agreed.protocol_version
                for method in notifications:
                    dialogue.tell(method)
                return agreed
            case NotAgreed(reason):
                raise HandshakeFailed(reason)
            case Anew():
                raise InDoubt
            case Send(asks):
                for ask in asks:
                    dialogue.version = ask.version
                    dialogue.ask(dialogue.new_id(), ask.method, ask.params, partial(arrived, ask.method))
                    patience_secs = math.inf if ask.patience_secs is None else ask.patience_secs
                    deadline, unread = anyio.current_time() + patience_secs, False
        if not replies:
            heard = anyio.Event()
            with anyio.CancelScope(deadline=deadline):
                await heard.wait()
        if not replies:
            if not has_read():
                deadline, unread = anyio.current_time() + patience_secs / READ_CHECKS, True
                step = Send()
            elif unread:
                deadline, unread = anyio.current_time() + patience_secs, False
                step = Send()
            else:
                deadline = math.inf
                step = handshake.on_timeout()
            continue
        method, reply = replies.popleft()
        match reply:
            case Result(raw):
                step = handshake.on_reply(method, raw, None)
            case ErrorReply(raw):
                step = handshake.on_reply(method, None, raw)
            case Failed(error):
                following = handshake.on_failure(method)
                if following is None:
                    raise error
                step = following  # where all is over, sending it says so
