"""`subscriptions/listen` of MCP 2026-07-28: one request kept open, on which the server says what changed.

A stream that ends is opened again, more and more slowly. Nothing is replayed, so each time the server confirms one,
whatever it is about has to be looked at anew. Only when something else is wanted is a stream replaced by the next
before it ends, and then nothing is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import anyio

from moltis import jsonrpc
from moltis.errors import MoltisError, NotSent, RpcCode
from moltis.session import envelope
from moltis.session.calls import ErrorReply, Failed, OnReply, Reply
from moltis.session.dialogue import CallHandle
from moltis.session.wishes import Taken

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"

FIRST_DELAY_SECS = 1.0
MAX_DELAY_SECS = 60.0
LASTING_SECS = 60.0
"""A stream that lasted this long forgives those before it."""

MAX_SHORT_STREAMS = 8
"""In a row; then the server is left alone until something else is wanted. Its lists are still read at each start."""

NOT_SENT_SECS = 5.0
"""Between tries that sent nothing, because the login cannot be renewed now."""

SETTLE_SECS = 0.1
"""From a change of what is wanted to the next stream: such changes come in bursts."""

CONFIRM_SECS = 10.0
"""How long the stream before is kept while the next one is not confirmed."""

REFUSALS = frozenset({RpcCode.METHOD_NOT_FOUND, RpcCode.INVALID_PARAMS, RpcCode.INVALID_REQUEST})
"""What a server answers that does not do this at all."""

Open = Callable[[str, bytes, OnReply], CallHandle]
"""Sends a request that may stay open for ever. Raises MoltisError when nothing was sent."""


def wanted_params(capabilities: dict[str, Any], uris: Iterable[str] = ()) -> bytes | None:
    """Build the params that ask for all that the server declares, or None if that is nothing.

    That is every `list_changed`, and updates of these resources.
    """
    names = [name for name in ("tools", "prompts", "resources") if declares_changes(capabilities, name)]
    members = [b'"%bListChanged":true' % name.encode() for name in names]
    wanted = sorted(uris) if declares_updates(capabilities) else []
    if wanted:
        members.append(b'"resourceSubscriptions":[%b]' % b",".join(map(jsonrpc.json_string, wanted)))
    return b'{"notifications":{%b}}' % b",".join(members) if members else None


def declares_changes(capabilities: dict[str, Any], name: str) -> bool:
    """Whether the server promises to say when what it offers under that name has changed."""
    capability = capabilities.get(name)
    return isinstance(capability, dict) and capability.get("listChanged") is True


def declares_updates(capabilities: dict[str, Any]) -> bool:
    """Whether the server promises to say when a resource has changed that somebody subscribed to."""
    capability = capabilities.get("resources")
    return isinstance(capability, dict) and capability.get("subscribe") is True


class _Stream:
    """One request that stays open. `replaces`: another was open until it is confirmed."""

    __slots__ = ("confirmed", "handle", "over", "params", "replaces", "reply")

    def __init__(self, params: bytes, *, replaces: bool) -> None:
        self.params = params
        self.replaces = replaces
        self.handle: CallHandle | None = None
        self.confirmed = False
        self.over = False
        self.reply: Reply | None = None

    def cancel(self) -> None:
        if self.handle is not None:
            self.handle.cancel("it was replaced")


class Listener:
    """Keeps one stream open for what is wanted, and none while nothing is.

    on_confirmed: the server has confirmed a stream; what happened before it is not told.
    on_taken: what `taken` says may be different.
    """

    def __init__(
        self, open_stream: Open, on_confirmed: Callable[[], None], on_taken: Callable[[], None] = lambda: None
    ) -> None:
        self._open = open_stream
        self._on_confirmed = on_confirmed
        self._on_taken = on_taken
        self._left: tuple[bytes, Taken] | None = None  # what the server is not asked for any more, and its answer
        self._wanted: bytes | None = None
        self._streams: list[_Stream] = []
        self._stirred = anyio.Event()
        self._retried = anyio.Event()

    def want(self, params: bytes | None) -> None:
        """Listen to this, from `wanted_params`; None: to nothing."""
        if params != self._wanted:
            self._wanted = params
            self._stirred.set()

    def taken(self) -> Taken:
        """Return whether the server has confirmed a stream for what is wanted."""
        if self._left is not None and self._left[0] == self._wanted:
            return self._left[1]
        if self._wanted is None:
            return True
        last = self._streams[-1] if self._streams else None  # those before it are about to be ended
        return last is not None and last.confirmed and last.params == self._wanted

    def notified(self, method: str, params: bytes) -> bool:
        """Take a notification and say whether it was about the stream itself."""
        if method == ACKNOWLEDGED:
            self._acknowledged(params)
            return True
        if method == "notifications/cancelled":
            stream = self._stream_of(envelope.cancelled_id(params))
            if stream is not None and stream.handle is not None:
                stream.handle.forget()
                self._ended(stream, None)
            return True
        return False

    def retry(self) -> None:
        """Listen at once if that could not be sent: what was in the way may be gone."""
        self._retried.set()

    async def keep(self) -> None:
        """Keep the stream open for as long as this runs, unless the server clearly does not want it."""
        short = broken = 0
        while True:
            params = await self._something_wanted()
            opened = anyio.current_time()
            reply = await self._listen(params)
            if isinstance(reply, Failed) and isinstance(reply.error, NotSent):
                await self._let_in(NOT_SENT_SECS)
                continue
            if isinstance(reply, Failed):  # that is the way to the server, which has refused nothing
                broken = 1 if anyio.current_time() - opened >= LASTING_SECS else broken + 1
                await anyio.sleep(min(MAX_DELAY_SECS, FIRST_DELAY_SECS * 2.0 ** min(broken - 1, 10)))
                continue
            if self._wanted is None:
                short = 0
                continue
            if isinstance(reply, ErrorReply) and envelope.read_error(reply.raw).code in REFUSALS:
                short = MAX_SHORT_STREAMS
            else:
                short = 1 if anyio.current_time() - opened >= LASTING_SECS else short + 1
            if short < MAX_SHORT_STREAMS:
                await anyio.sleep(min(MAX_DELAY_SECS, FIRST_DELAY_SECS * 2 ** (short - 1)))
            elif self._wanted == params:
                self._left = params, reply.raw if isinstance(reply, ErrorReply) else True
                self._on_taken()
                await self._something_else(params)
                self._left = None
                short = 0

    async def _let_in(self, secs: float) -> None:
        self._retried = anyio.Event()
        with anyio.move_on_after(secs):
            await self._retried.wait()

    async def _something_wanted(self) -> bytes:
        while self._wanted is None:
            await self._something_else(None)
        return self._wanted

    async def _something_else(self, params: bytes | None) -> None:
        while self._wanted == params:
            await self._stir()

    async def _stir(self) -> None:
        await self._stirred.wait()
        self._stirred = anyio.Event()

    async def _listen(self, params: bytes) -> Reply | None:
        """Listen until a stream ends, and give how; None when the server took it back, or nothing is wanted any more.

        What is wanted may change meanwhile.
        """
        stream = self._begin(params, replaces=False)
        while not stream.over:
            if self._wanted == stream.params:
                await self._stir()
                continue
            await anyio.sleep(SETTLE_SECS)
            if self._wanted is None:
                stream.cancel()
                self._ended(stream, None)
            elif self._wanted != stream.params and not stream.over:
                stream = await self._replace(stream, self._wanted)
        return stream.reply

    async def _replace(self, old: _Stream, params: bytes) -> _Stream:
        stream = self._begin(params, replaces=True)
        with anyio.move_on_after(CONFIRM_SECS):
            while not (stream.confirmed or stream.over):
                await self._stir()
        old.cancel()
        self._ended(old, None)
        if stream.over and not stream.confirmed and not isinstance(stream.reply, Failed):
            return self._begin(params, replaces=False)  # some servers have room for one only
        return stream

    def _begin(self, params: bytes, *, replaces: bool) -> _Stream:
        stream = _Stream(params, replaces=replaces)
        self._streams.append(stream)
        try:
            stream.handle = self._open(LISTEN, params, lambda reply: self._ended(stream, reply))
        except MoltisError as fault:
            self._ended(stream, Failed(fault))
        return stream

    def _ended(self, stream: _Stream, reply: Reply | None) -> None:
        if not stream.over:
            stream.over = True
            stream.reply = reply
            self._streams.remove(stream)
            self._stirred.set()

    def _acknowledged(self, params: bytes) -> None:
        stream = self._stream_of(envelope.subscription_id(params)) or (self._streams[-1] if self._streams else None)
        if stream is None:
            return
        stream.confirmed = True
        self._stirred.set()
        if not stream.replaces:
            self._on_confirmed()
        self._on_taken()

    def _stream_of(self, id: int | None) -> _Stream | None:
        return next((s for s in self._streams if s.handle is not None and s.handle.id == id), None)
