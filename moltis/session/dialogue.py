"""Requests and replies over one connection: ids, deadlines, and what the server says unasked.

No task per request: a reply is handed to its callback as it arrives, and one task (`watch_deadlines`) serves the
deadlines of all. Nothing a server sends can raise out of `receive`, and nothing it sends is kept without a limit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import anyio
import msgspec

from moltis import jsonrpc
from moltis.errors import MoltisError, RequestTimeout, ServerNotReady
from moltis.jsonrpc import our_id
from moltis.nesting import answered_id
from moltis.server.states import State
from moltis.session import envelope
from moltis.session.calls import Call, Caller, Calls, ErrorReply, Failed, OnReply, Reply, Result
from moltis.session.hooks import Counters, Hooks, RateLimit
from moltis.session.liveness import Liveness
from moltis.session.oddities import MISFIT_METHODS, Misfits, Noise
from moltis.session.results import says_error
from moltis.session.unasked import MAX_ANSWERS_PER_SEC, Unasked
from moltis.steps import LONG_BYTES, Steps
from moltis.transport import ConnectionClosed, ConnectionFull, Outgoing, wire

MAX_IN_FLIGHT = 1024
"""Calls per server. A person's hosts have a few; a server with this many unanswered is not coming back."""

MAX_SAMPLES_PER_SEC = 5
MAX_UNREADABLE = 100
"""Of the lines that are no JSON it is remembered when they came: one may have been the reply that a request missed."""
SAMPLE_CHARS = 200
STALLED_SECS = 0.5
"""Who looks at deadlines so late could not run, and has not read what came meanwhile: a paused machine, SIGSTOP."""
SCRUBBED_BYTES = 4096
"""More than a sample, so that the cut never lets half a secret through."""

UNCANCELLABLE = frozenset({"initialize", "server/discover"})
"""MCP, Cancellation: `initialize` MUST NOT be cancelled; the reference client spares `server/discover` too."""

LASTING = frozenset({"subscriptions/listen"})
"""What is asked once and never answered while all is well."""

Send = Callable[[bytes, Outgoing], None]
"""Sends one message, or raises ConnectionClosed or ConnectionFull."""


OBJECTS = MISFIT_METHODS | {"completion/complete"}
"""What MCP answers with an object, and hosts ask for; of what it does not know, the result is its own affair."""

NO_RESULT = (
    b'{"code":-32603,"message":"the server answered, and its answer is no result of MCP: it is %b, and not an object"}'
)
"""Instead of what hosts drop, to wait on for an answer."""
_KINDS = {b"[": b"a list", b'"': b"a text", b"n": b"null", b"t": b"true", b"f": b"false"}


def _kind_of(result: bytes) -> bytes:
    return _KINDS.get(result[:1], b"a number")


def refuse_all(method: str, params: bytes) -> bytes | None:
    """Answer no request of a server."""
    return None


class CallHandle:
    """One request in flight, for whoever sent it."""

    __slots__ = ("_call", "_dialogue")

    def __init__(self, dialogue: Dialogue, call: Call) -> None:
        self._dialogue = dialogue
        self._call = call

    @property
    def id(self) -> int:
        """The request's id on the connection, and its progress token."""
        return self._call.id

    def cancel(self, reason: str = "the caller went away") -> None:
        """Tell the server to stop. The callback is not called any more. No effect once there was a reply."""
        self._dialogue.cancel(self._call, reason)

    def forget(self) -> None:
        """Wait no longer, and tell nobody."""
        self._dialogue.forget(self._call)


class Dialogue:
    """One side of one connection. `open` it once it can send, `close` it when it is over.

    on_notification: method and params of what is not dealt with here.
    on_request: gives the result of a request of the server that no caller is to answer, JSON, or None to refuse it.
    misfits: of the server, if there is another dialogue with it.
    """

    def __init__(
        self,
        server: str,
        hooks: Hooks,
        on_notification: Callable[[str, bytes], None],
        on_request: Callable[[str, bytes], bytes | None] = refuse_all,
        misfits: Misfits | None = None,
    ) -> None:
        self.counters = Counters()
        self.meta = b""
        """The members of `_meta` that every request of the agreed era carries."""
        self.version: str | None = None
        """The protocol revision that was agreed on, or that is being tried."""
        self._server = server
        self._hooks = hooks
        self._stopwatch = hooks.clock
        self._now: Callable[[], float] = anyio.current_time
        self._send: Send | None = None
        self._early: list[tuple[bytes, Outgoing]] = []
        self._closed: Callable[[], MoltisError] | None = None
        self._broken = False
        self._calls = Calls()
        self.misfits = Misfits(server, self._misfit) if misfits is None else misfits
        """Its tools that cannot ask in this era."""
        self.liveness = Liveness(self._calls)
        """The signs of life of the server."""
        self._last_id = 0
        self._sounding: int | None = None
        self._sounds_by: str | None = None
        self._wake = anyio.Event()
        self._wake_at = math.inf
        self._samples = RateLimit(MAX_SAMPLES_PER_SEC)
        self.noise = Noise()
        """What the present connection brought that is no message."""
        self._unreadable_at: deque[float] = deque(maxlen=MAX_UNREADABLE)
        self._unasked = Unasked(self, self._calls, on_notification, on_request)
        self._questions = self._unasked.questions

    @property
    def broken(self) -> bool:
        """Whether the connection has refused a message: it is over, or about to be."""
        return self._broken

    @property
    def in_flight(self) -> int:
        """How many requests wait for a reply."""
        return len(self._calls)

    def open(self, send: Send) -> None:
        """Begin to send: first what had to wait because the server spoke before the connection was ours."""
        self._send = send
        self._now = wire.clock() or anyio.current_time
        for message, about in self._early:
            self._write(message, about)
        self._early.clear()

    def close(self, why: Callable[[], MoltisError]) -> None:
        """Fail every request in flight, and every later one, with an error of its own made by `why`."""
        self._closed = why
        self._questions.close()
        for call in self._calls.take_all():
            self._finish(call, Failed(why()), "lost")

    def renew(self) -> None:
        """Begin again on another connection: nothing was said on the last one, which is gone, that counts any more."""
        self._calls.take_all()
        self._questions.close()
        self._early.clear()
        self._send = None
        self._broken = False
        self._sounding = None
        self.noise = Noise()
        self._unasked.relayed = frozenset()
        self.meta = b""
        self.version = None

    def relay_questions(self, methods: frozenset[str]) -> None:
        """From now on put the server's questions of these methods to the callers they are about."""
        self._unasked.relayed = methods

    # --- asking

    def new_id(self) -> int:
        """Return the id of the next request: 1, 2, 3, ..."""
        self._last_id += 1
        return self._last_id

    def ask(
        self,
        id: int,
        method: str,
        params: bytes,
        on_reply: OnReply,
        *,
        idle_secs: float = math.inf,
        max_secs: float = math.inf,
    ) -> CallHandle:
        """Send a request of ours with these params; the rest as for `send`."""
        return self.send(id, method, jsonrpc.request(id, method, params), on_reply, idle_secs, max_secs)

    def send(
        self,
        id: int,
        method: str,
        message: bytes,
        on_reply: OnReply,
        idle_secs: float,
        max_secs: float,
        tool: str | None = None,
        caller: Caller | None = None,
        name: str | None = None,
        mirrored: tuple[tuple[str, str], ...] = (),
    ) -> CallHandle:
        """Send a request; `on_reply` is called once, unless it is cancelled.

        id: from `new_id`; `message` is under it.
        idle_secs: how long without reply or progress; max_secs: how long at most.
        tool: what is called, for `Hooks.on_call`.
        caller: who waits behind it, and may be asked and told what the server has to ask and tell about it.
        name, mirrored: as in `transport.Outgoing`.

        Raises:
            MoltisError: nothing was sent, and `on_reply` will not be called.
        """
        if self._closed is not None:
            raise self._closed()
        now = self._now()
        call = Call(
            id,
            method,
            on_reply,
            now,
            self._stopwatch(),
            idle_secs,
            max_secs,
            tool,
            caller,
            method not in UNCANCELLABLE,
        )
        self._calls.add(call)
        if not self._write(message, Outgoing(id, method, name, self.version, mirrored, None, method in LASTING)):
            self._calls.take(id)
            raise self._unsendable()
        self.due_by(call.due)
        return CallHandle(self, call)

    def check_room(self) -> None:
        """Refuse a request when the server already has `MAX_IN_FLIGHT`.

        Raises:
            ServerNotReady: it has.
        """
        if len(self._calls) >= MAX_IN_FLIGHT:
            raise ServerNotReady(
                f"server {self._server!r} already has {MAX_IN_FLIGHT} requests without a reply",
                server=self._server,
                state=State.READY,
                hint=f"wait for some of them, or moltis mcp restart {self._server}",
            )

    def tell(self, method: str, params: bytes = b"", *, cancels: int | None = None) -> None:
        """Send a notification, if there is still someone to send it to. `cancels`: the request that it gives up."""
        about = Outgoing(None, method, version=self.version, cancels=cancels)
        self._write(jsonrpc.notification(method, params), about)

    def cancel(self, call: Call, reason: str) -> None:
        """Give up a request and tell the server. No effect once there was a reply."""
        if self.forget(call):
            self._tell_cancelled(call, reason)
            self._report(call, "cancelled")
            self._given_up(call, timed_out=False)

    def forget(self, call: Call) -> bool:
        """Wait no longer for a request, and say whether it was still waited for."""
        return self._calls.take(call.id) is call

    # --- deadlines

    async def watch_deadlines(self) -> None:
        """Fail the requests whose time is up, for as long as this runs.

        It sleeps to the earliest instant known when it fell asleep. Requests that are done by then only cost one look,
        so that sending and answering one touches no timer.
        """
        while True:
            now = self._now()
            if (late := now - self._wake_at) > STALLED_SECS:
                self._calls.excuse(now, late)
            self._expire_due(now)
            self._questions.decide(now)
            self._wake = anyio.Event()
            self._wake_at = min(self._calls.next_due(), self._questions.next_due())
            with anyio.CancelScope(deadline=self._wake_at):
                await self._wake.wait()

    def due_by(self, instant: float) -> None:
        """Have the deadlines looked at by then at the latest."""
        if instant < self._wake_at:
            self._wake_at = instant
            self._wake.set()

    def sound(self) -> int:
        """Ask for a sign of life, unless one is on its way already; give the id of the last request before it.

        Its reply, which nobody waits for, shows that what was sent before it has been read.
        """
        before = self._last_id
        if self._sounding is None and self._closed is None:
            id = self._sounding = self.new_id()
            method = self._sounds_by or ("server/discover" if self.meta else "ping")
            params = b'{"_meta":{%b}}' % self.meta if self.meta else b"{}"
            self._write(jsonrpc.request(id, method, params), Outgoing(id, method, version=self.version))
        return before

    def sound_by(self, method: str | None) -> None:
        """Have `sound` ask by this from now on, of a server that answers nothing else; None: by the protocol's own."""
        if method != self._sounds_by:
            self._sounds_by, self._sounding = method, None

    def _expire_due(self, now: float) -> None:
        for call in self._calls.take_due(now):  # not in the task: asleep, it would hold the last one, and its host
            self._expire(call, now)

    def _expire(self, call: Call, now: float) -> None:
        if now >= call.last:
            told = f"was not done after {now - call.sent_at:g} s, however much progress it made"
            hint = "request_timeout_max_secs is the cap"
        else:
            told = f"gave neither a reply nor progress for {call.idle_secs:g} s"
            hint = "request_timeout_secs, or timeout_secs of the call, says how long"
        dropped = sum(at >= call.sent_at for at in self._unreadable_at)
        if dropped:
            more = "at least " if dropped == MAX_UNREADABLE else ""
            told += f"; it wrote {more}{dropped} lines meanwhile that are not JSON"
        what = f"tool {call.tool!r}" if call.tool is not None else call.method
        self._tell_cancelled(call, f"no reply within {now - call.sent_at:g} s")
        error = RequestTimeout(f"{what} of server {self._server!r} {told}", server=self._server, hint=hint)
        self._finish(call, Failed(error), "timeout", given_up=True)

    def _tell_cancelled(self, call: Call, reason: str) -> None:
        if call.cancellable:
            params = b'{"requestId":%d,"reason":%b}' % (call.id, jsonrpc.json_string(reason))
            self.tell("notifications/cancelled", params, cancels=call.id)

    # --- hearing

    def receive(self, message: bytes, during: int | None = None) -> bool | Steps[bool]:
        """Take one message from the server, and return whether it was one; as `transport.Receiver`."""
        if len(message) > LONG_BYTES:
            return self._receiving(message, during)
        incoming = envelope.parse(message)
        if type(incoming) is envelope.Response:
            self.liveness.heard_at = self._now()
            self._replied(incoming)
            return True
        return self._received(incoming, message, during)

    def _receiving(self, message: bytes, during: int | None) -> Steps[bool]:
        incoming = yield from envelope.reading_of(message)
        yield
        if type(incoming) is not envelope.Response or incoming.result is None:
            return self._received(incoming, message, during)
        failed = says_error(incoming.result)
        yield
        self.liveness.heard_at = self._now()
        self._replied(incoming, failed)
        return True

    def _received(self, incoming: envelope.Incoming, message: bytes, during: int | None) -> bool:
        if type(incoming) is not envelope.Junk or self.liveness.at_work(self._now()):
            self.liveness.heard_at = self._now()
        if type(incoming) is envelope.Response:
            self._replied(incoming)
            return True
        if type(incoming) is envelope.Batch:
            for one in incoming.messages:
                self._take(one, message, during)
            return not any(type(one) is envelope.Junk for one in incoming.messages)
        self._take(incoming, message, during)  # type: ignore[arg-type]  # not a batch: see above
        return type(incoming) is not envelope.Junk

    def _take(self, incoming: envelope.Message, message: bytes, during: int | None) -> None:
        match incoming:
            case envelope.Response():
                self._replied(incoming)
            case envelope.Notification(method, params):
                self._unasked.notified(method, params, during)
            case envelope.Request(id, method, params):
                self._unasked.asked(id, method, params, during)
            case envelope.Junk(reason):
                self.counters.garbage += 1
                if reason == envelope.NOT_JSON:
                    self._unreadable_at.append(self._now())
                    if during is None:  # else the transport fails the request that it answers
                        self._spoiled(message)
                self.noise.add(reason, message)
                self._sample(reason, message)

    def _spoiled(self, message: bytes) -> None:
        """Fail the request of a host that a line was to answer which is no JSON: no other answer will come.

        What the session asks for itself waits on: a start that fails says what was on stdout.
        """
        found = answered_id(message)
        call = self._calls.get(our_id(msgspec.json.decode(found))) if found is not None else None
        if call is None or call.caller is None:
            return
        told = f"server {self._server!r} answered {call.method} with something that is not JSON"
        self.fail(call.id, MoltisError(told, server=self._server, hint=f"moltis logs {self._server}: it ran"))

    def fail(self, id: int, error: MoltisError, *, sent: bool = True) -> None:
        """Fail one request that will have no reply; the connection goes on. No effect once it is answered."""
        call = self._calls.take(id)
        if call is not None:
            self._finish(call, Failed(error, sent), "lost")

    def waits_for(self, id: int) -> bool:
        """Return whether a request has no outcome yet."""
        return self._calls.get(id) is not None

    def heard(self) -> None:
        """Take note of a sign of life that is no message."""
        self.liveness.heard_at = self._now()

    def busy_until(self) -> float:
        """Return until when the server may be busy with a request that is waited for."""
        return self.liveness.pulse(self._now()).busy_until

    def _replied(self, response: envelope.Response, says_failed: bool | None = None) -> None:
        """Take a reply. `says_failed`: what `says_error` says of its result, where that is known."""
        if response.mended:
            self.counters.mended += 1
        call = self._calls.take(response.id)
        if call is None:
            if response.id is not None and response.id == self._sounding:
                self._sounding = None
            else:
                self.counters.late_replies += 1
            self._questions.answered_late(response.id)
        elif response.result is not None and call.method in OBJECTS and response.result[:1] != b"{":
            self._finish(call, ErrorReply(NO_RESULT % _kind_of(response.result)), "error")
        elif response.result is not None:
            if call.caller is not None:
                self.liveness.used_at = self.liveness.heard_at
            failed = call.tool is not None and (says_error(response.result) if says_failed is None else says_failed)
            hint = self._look(call, response.result) if failed else ""
            self._finish(call, Result(response.result, failed, hint), "tool_error" if failed else "ok")
        else:
            error = response.error or b"{}"
            if call.caller is not None:
                self.liveness.used_at = self.liveness.heard_at
            self._finish(call, ErrorReply(error, self._look(call, error)), "error")
        self.liveness.replied(response.id)
        if self._questions.doubts and self._questions.answered(response.id, self._now()):
            self.sound()

    def _look(self, call: Call, failure: bytes) -> str:
        """Return what a person can do about a failure that comes of the era; nothing of any other."""
        if call.method not in MISFIT_METHODS:
            return ""
        is_tool = call.tool is not None
        return self.misfits.look(failure, call.tool or call.method, modern=bool(self.meta), is_tool=is_tool)

    def _misfit(self, tool: str, hint: str) -> None:
        if self._hooks.on_misfit is not None:
            try:
                self._hooks.on_misfit(self._server, tool, hint)
            except Exception as fault:
                self.faulted(fault)

    # --- ends

    def _finish(self, call: Call, reply: Reply, outcome: str, *, given_up: bool = False) -> None:
        if call.tool is not None:
            self._report(call, outcome)
        try:
            call.on_reply(reply)
        except Exception as fault:
            self.faulted(fault)
            self._owe(call, reply)
        if given_up:
            self._given_up(call, timed_out=True)
        elif self._questions.open:
            self._questions.ended(call.id)

    def _given_up(self, call: Call, *, timed_out: bool) -> None:
        now = self._now()
        self.liveness.given_up(call, self._last_id, now, timed_out=timed_out)
        self._questions.given_up(call, now)

    def _owe(self, call: Call, reply: Reply) -> None:
        """Tell whoever could make nothing of a reply that there is none: it is off our books, and is waited for."""
        if isinstance(reply, Failed):
            return
        told = f"server {self._server!r} answered {call.method}, and its answer could not be passed on"
        try:
            call.on_reply(Failed(MoltisError(told, server=self._server, hint="moltis logs: this is a fault of moltis")))
        except Exception as fault:
            self.faulted(fault)

    def _report(self, call: Call, outcome: str) -> None:
        on_call = self._hooks.on_call
        if call.tool is not None and on_call is not None:
            try:
                seen = call.caller.seen if call.caller is not None else None
                on_call(self._server, call.tool, (self._stopwatch() - call.began) * 1000, outcome, seen)
            except Exception as fault:
                self.faulted(fault)

    def faulted(self, fault: Exception) -> None:
        """Take note that a callback raised: it must not cost the connection, nor the others who wait on it."""
        self.counters.callback_faults += 1
        if self._hooks.on_fault is not None:
            self._hooks.on_fault(fault)

    def _sample(self, reason: str, message: bytes) -> None:
        on_garbage = self._hooks.on_garbage
        if on_garbage is not None and self._samples.admits(self._now()):
            shown = self._hooks.scrub(message[:SCRUBBED_BYTES].decode("utf-8", "backslashreplace"))[:SAMPLE_CHARS]
            try:
                on_garbage(reason, shown)
            except Exception as fault:
                self.faulted(fault)

    def write(self, message: bytes) -> None:
        """Answer a request of the server, if there is still someone to send it to."""
        self._write(message, Outgoing(version=self.version))

    def _write(self, message: bytes, about: Outgoing) -> bool:
        if self._send is None:
            if len(self._early) < MAX_ANSWERS_PER_SEC:
                self._early.append((message, about))
            return True
        try:
            self._send(message, about)
        except ConnectionClosed:
            self._broken = True
            return False
        except ConnectionFull:
            return False
        return True

    def _unsendable(self) -> MoltisError:
        if not self._broken:
            return ServerNotReady(
                f"server {self._server!r} has not read yet what it was sent before; nothing was sent",
                server=self._server,
                state=State.READY,
                hint="call again in a moment",
            )
        return ServerNotReady(
            f"server {self._server!r} is going away; nothing was sent", server=self._server, state=State.STOPPING
        )
