"""Drives a `Handshake` over a `Dialogue`: sends what it says, hands it the replies, and keeps its patience."""

from __future__ import annotations

import math
from collections import deque
from functools import partial

import anyio

from moltis.session.calls import ErrorReply, Failed, Reply, Result
from moltis.session.dialogue import Dialogue
from moltis.session.handshake import Agreed, Done, Handshake, Send
from moltis.session.handshake import Failed as NotAgreed


class HandshakeFailed(Exception):
    """The server is there and has nothing in common with us; the text completes "the handshake failed: ..."."""


async def negotiate(dialogue: Dialogue, handshake: Handshake) -> Agreed:
    """Agree with the server. Waits as long as it takes: how long a start may last is its owner's affair.

    Raises:
        HandshakeFailed: there will be no agreement.
        MoltisError: the connection is over, or the server cannot be reached by it.
    """
    replies: deque[tuple[str, Reply]] = deque()
    heard = anyio.Event()

    def arrived(method: str, reply: Reply) -> None:
        replies.append((method, reply))
        heard.set()

    patience = math.inf
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
            case Send(asks):
                for ask in asks:
                    dialogue.version = ask.version
                    dialogue.ask(dialogue.new_id(), ask.method, ask.params, partial(arrived, ask.method))
                    patience = math.inf if ask.patience_secs is None else anyio.current_time() + ask.patience_secs
        if not replies:
            heard = anyio.Event()
            with anyio.CancelScope(deadline=patience):
                await heard.wait()
        if not replies:
            patience = math.inf
            step = handshake.on_timeout()
            continue
        method, reply = replies.popleft()
        match reply:
            case Result(raw):
                step = handshake.on_reply(method, raw, None)
            case ErrorReply(raw):
                step = handshake.on_reply(method, None, raw)
            case Failed(error):
                raise error
