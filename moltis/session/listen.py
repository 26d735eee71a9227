"""`subscriptions/listen` of MCP 2026-07-28: one request kept open, on which the server says what changed.

A stream that ends is opened again, more and more slowly. Nothing is replayed, so each time the server confirms one,
whatever it is about has to be looked at anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from moltis.errors import MoltisError, RpcCode
from moltis.session import envelope
from moltis.session.calls import ErrorReply, Failed, OnReply, Reply
from moltis.session.dialogue import CallHandle

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"

FIRST_DELAY_SECS = 1.0
MAX_DELAY_SECS = 60.0
LASTING_SECS = 60.0
"""A stream that lasted this long forgives those before it."""

MAX_SHORT_STREAMS = 8
"""In a row; then the server is left alone. Its lists are still read at each start."""

REFUSALS = frozenset({RpcCode.METHOD_NOT_FOUND, RpcCode.INVALID_PARAMS, RpcCode.INVALID_REQUEST})
"""What a server answers that does not do this at all."""

Open = Callable[[str, bytes, OnReply], CallHandle]
"""Sends a request that may stay open for ever. Raises MoltisError when nothing was sent."""


def wanted_params(capabilities: dict[str, Any]) -> bytes | None:
    """Build the params that ask for every `list_changed` the server declares, or None if it declares none."""
    names = [name for name in ("tools", "prompts", "resources") if declares_changes(capabilities, name)]
    if not names:
        return None
    return b'{"notifications":{%b}}' % b",".join(b'"%bListChanged":true' % name.encode() for name in names)


def declares_changes(capabilities: dict[str, Any], name: str) -> bool:
    """Whether the server promises to say when what it offers under that name has changed."""
    capability = capabilities.get(name)
    return isinstance(capability, dict) and capability.get("listChanged") is True


class Listener:
    """Keeps one stream open.

    on_confirmed: the server has confirmed a stream; what happened before it is not told.
    """

    def __init__(self, open_stream: Open, on_confirmed: Callable[[], None]) -> None:
        self._open = open_stream
        self._on_confirmed = on_confirmed
        self._stream: CallHandle | None = None
        self._reply: Reply | None = None
        self._ended = anyio.Event()

    def notified(self, method: str, params: bytes) -> bool:
        """Take a notification and say whether it was about the stream itself."""
        if method == ACKNOWLEDGED:
            self._on_confirmed()
            return True
        if method == "notifications/cancelled":
            if self._stream is not None and envelope.cancelled_id(params) == self._stream.id:
                self._stream.forget()
                self._ended.set()
            return True
        return False

    async def keep(self, params: bytes) -> None:
        """Keep the stream open until the connection is over or the server clearly does not want it."""
        short = 0
        while short < MAX_SHORT_STREAMS:
            opened = anyio.current_time()
            reply = await self._one_stream(params)
            if isinstance(reply, Failed):
                return
            if isinstance(reply, ErrorReply) and envelope.read_error(reply.raw).code in REFUSALS:
                return
            short = 1 if anyio.current_time() - opened >= LASTING_SECS else short + 1
            await anyio.sleep(min(MAX_DELAY_SECS, FIRST_DELAY_SECS * 2 ** (short - 1)))

    async def _one_stream(self, params: bytes) -> Reply | None:
        """Open a stream and wait for its end; None when the server took it back by a notification."""
        self._reply, self._ended = None, anyio.Event()
        try:
            self._stream = self._open(LISTEN, params, self._over)
        except MoltisError as fault:
            return Failed(fault)
        await self._ended.wait()
        return self._reply

    def _over(self, reply: Reply) -> None:
        self._reply = reply
        self._ended.set()
