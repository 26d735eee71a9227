"""What a method is, and how a request becomes a call of one.

A method is a function over a params struct and the daemon; its annotations, docstring and fields are all there is to
say about it, so dispatch, the OpenRPC document and the docs cannot disagree. The one rule: whatever happens, a
request is answered exactly once, and never with a traceback.

There are three kinds. A plain function answers at once. A coroutine function runs in a task of its own. A relayed one
starts a request to a server and is done: the server's answer goes to the asker byte for byte, without a task.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_type_hints

import msgspec

from moltis import logs
from moltis.control import jsonrpc
from moltis.control.api import CallHandle, DaemonApi
from moltis.control.events import Sink, Subscription
from moltis.errors import MoltisError, RpcCode, ServerError, SystemTrouble, UsageError
from moltis.names import did_you_mean
from moltis.session.calls import ErrorReply, OnReply, Reply, Result
from moltis.session.envelope import read_error
from moltis.transport.wire import Handler, PeerConn

log = logs.get("moltis.control")

Done = Callable[[bytes], None]
"""Takes the reply to a request, whole."""


class Caller(Protocol):
    """Who asks: one connection, in the middle of one request."""

    @property
    def sink(self) -> Sink: ...

    @property
    def subscriptions(self) -> dict[str, Subscription]:
        """Its open subscriptions, by id; closed with the connection."""

    def after_reply(self, callback: Callable[[], None]) -> None:
        """Call back once the reply to this request has been sent."""

    def start(self, work: Callable[[], Awaitable[None]]) -> CallHandle:
        """Do `work` in a task of its own, which `cancel()` cancels."""

    def hand_over(self, build: Callable[[PeerConn], Guest]) -> None:
        """Give the connection away: `build` makes its guest at once, which gets it when this request is answered.

        Raises:
            MoltisError: the connection is not free for that; or what `build` raises.
        """


class Guest(Handler, Protocol):
    """What a connection is handed over to: from then on it is answered by this alone, until it is closed."""

    @property
    def partial_bytes(self) -> int:
        """What is held of a line that is not whole."""

    def begin(self) -> None:
        """The connection is its own now."""

    def drained(self) -> None:
        """Take note that everything written has gone, after some of it had to wait."""

    def sweep(self) -> None:
        """Look after the connection, about once a second: is its other end gone, or does it not read?"""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No params."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    exposes: what its result is, in words, where the result's type cannot say it.
    takes: what its params are, in words, for a table that has no room for all of them.
    lasts: "to the end", or "while connected": whether it is cancelled when its caller goes away.
    """

    name: str
    kind: Literal["plain", "task", "relayed"]
    handler: Callable[..., Any]
    params: type[msgspec.Struct]
    result: Any
    summary: str
    exposes: str
    takes: str
    lasts: Literal["to the end", "while connected"]
    wants_caller: bool
    decode: Callable[[bytes | msgspec.Raw], Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Registry:
    """All methods, by name, in the order of their definition."""

    methods: dict[str, Method] = field(default_factory=dict)

    def method(
        self,
        name: str,
        *,
        aliases: Iterable[str] = (),
        params: type[msgspec.Struct] | None = None,
        exposes: str = "",
        takes: str = "",
        lasts: Literal["to the end", "while connected"] = "to the end",
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register `(params, daemon)` or `(params, daemon, caller)`, plain or async, under a name.

        params: the struct, where it is made at run time and no annotation can name it.
        """

        def register(handler: Callable[..., Any]) -> Callable[..., Any]:
            kind: Literal["plain", "task"] = "task" if inspect.iscoroutinefunction(handler) else "plain"
            self._add(name, aliases, kind, handler, params, exposes, takes, lasts)
            return handler

        return register

    def relayed(self, name: str, *, exposes: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register `(params, daemon, on_reply) -> CallHandle`, a request that a server answers.

        It may return a coroutine of the same instead, when it cannot send at once.
        """

        def register(handler: Callable[..., Any]) -> Callable[..., Any]:
            self._add(name, (), "relayed", handler, None, exposes, "", "while connected")
            return handler

        return register

    def _add(
        self,
        name: str,
        aliases: Iterable[str],
        kind: Literal["plain", "task", "relayed"],
        handler: Callable[..., Any],
        params: type[msgspec.Struct] | None,
        exposes: str,
        takes: str,
        lasts: Literal["to the end", "while connected"],
    ) -> None:
        hints = get_type_hints(handler)
        struct = params or hints["params"]
        summary = (handler.__doc__ or "").strip().partition("\n")[0]
        assert summary, f"{name} has no docstring, which is its summary"
        for each in (name, *aliases):
            self.methods[each] = Method(
                name=each,
                kind=kind,
                handler=handler,
                params=struct,
                result=msgspec.Raw if kind == "relayed" else hints["return"],
                summary=summary if each == name else f"{summary} Another name of {name}.",
                exposes=exposes,
                takes=takes,
                lasts=lasts,
                wants_caller="caller" in inspect.signature(handler).parameters,
                decode=msgspec.json.Decoder(struct).decode,
            )

    def dispatch(self, request: jsonrpc.Request, daemon: DaemonApi, caller: Caller, done: Done) -> CallHandle | None:
        """Answer a request through `done`, once: before this returns, or later.

        Gives what cancels the rest, when there is a rest that ends with its caller; `done` is then never called.
        """
        request_id = request.id or jsonrpc.NULL_ID
        method = self.methods.get(request.method)
        if method is None:
            done(self._unknown(request.method, request_id))
            return None
        try:
            params = method.decode(request.params if request.params is not None else b"{}")
        except (msgspec.MsgspecError, ValueError, RecursionError) as failure:
            done(error_reply(request_id, wrong_params(method, request.params, failure)))
            return None
        try:
            return self._begin(method, params, request_id, daemon, caller, done)
        except Exception as failure:
            done(error_reply(request_id, failure, method.name))
            return None

    def _begin(
        self, method: Method, params: Any, request_id: bytes, daemon: DaemonApi, caller: Caller, done: Done
    ) -> CallHandle | None:
        if method.kind == "relayed":
            started = method.handler(params, daemon, _answer(request_id, params.server, method.name, done))
            if inspect.iscoroutine(started):
                return _LaterCall(started, method.name, request_id, done).start(caller)
            handle: CallHandle = started
            return handle
        arguments = (params, daemon, caller) if method.wants_caller else (params, daemon)
        if method.kind == "plain":
            done(jsonrpc.result(request_id, msgspec.json.encode(method.handler(*arguments))))
            return None
        task = caller.start(lambda: _run(method, arguments, request_id, done))
        return task if method.lasts == "while connected" else None

    def _unknown(self, name: str, request_id: bytes) -> bytes:
        data = {"kind": "unknown_method", "server": None, "hint": "rpc.discover lists the methods"}
        message = f"Method not found: {name[:80]!r}{did_you_mean(name[:80], self.methods)}"
        return jsonrpc.error(request_id, RpcCode.METHOD_NOT_FOUND, message, data)


async def _run(method: Method, arguments: tuple[Any, ...], request_id: bytes, done: Done) -> None:
    try:
        reply = jsonrpc.result(request_id, msgspec.json.encode(await method.handler(*arguments)))
    except Exception as failure:
        reply = error_reply(request_id, failure, method.name)
    done(reply)


class _LaterCall:
    """A relayed call that has to wait before it can be sent, and can be cancelled before and after that."""

    def __init__(self, sending: Coroutine[Any, Any, CallHandle], method: str, request_id: bytes, done: Done) -> None:
        self._sending = sending
        self._method = method
        self._request_id = request_id
        self._done = done
        self._task: CallHandle | None = None
        self._sent: CallHandle | None = None

    def start(self, caller: Caller) -> CallHandle:
        self._task = caller.start(self._send)
        return self

    def cancel(self) -> None:
        for handle in (self._task, self._sent):
            if handle is not None:
                handle.cancel()

    async def _send(self) -> None:
        try:
            self._sent = await self._sending
        except Exception as failure:
            self._done(error_reply(self._request_id, failure, self._method))


def _answer(request_id: bytes, server: str, method: str, done: Done) -> OnReply:
    """Make what takes a server's reply and gives it on."""

    def answer(reply: Reply) -> None:
        if isinstance(reply, Result):
            done(jsonrpc.result(request_id, reply.raw))
        elif isinstance(reply, ErrorReply):
            done(error_reply(request_id, _from_server(server, reply), method))
        else:
            done(error_reply(request_id, reply.error, method))

    return answer


def _from_server(server: str, reply: ErrorReply) -> ServerError:
    """Give a server's own error, which goes on as the bytes it came as."""
    words = read_error(reply.raw).message or "an error without a message"
    error = msgspec.Raw(reply.raw)
    return ServerError(
        f"server {server!r} answered with an error: {words}", server=server, error=error, hint=reply.hint
    )


def error_reply(request_id: bytes, failure: Exception, method: str = "") -> bytes:
    """Give the reply to a request that failed. What is not a finding of ours is logged, and not told."""
    if isinstance(failure, OSError):
        log.warning("control_method_failed", method=method, error=str(failure))
        failure = SystemTrouble.of(failure)
    if isinstance(failure, MoltisError):
        return jsonrpc.error(request_id, failure.rpc_code, failure.message, failure.data())
    log.error("control_method_failed", method=method, exc_info=failure)
    data = {"kind": "internal", "server": None, "hint": "the log says more: moltis logs"}
    return jsonrpc.error(request_id, RpcCode.INTERNAL_ERROR, "Internal error: a fault of moltis, not of yours", data)


def wrong_params(method: Method, raw: msgspec.Raw | None, failure: Exception) -> MoltisError:
    """Say which param is wrong, and which known one is nearest."""
    known = [f.encode_name for f in msgspec.structs.fields(method.params)]
    hint = f"{method.name} takes {', '.join(known)}" if known else f"{method.name} takes no params"
    try:
        given = msgspec.json.decode(raw or b"{}", type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return UsageError("Invalid params: they go by name, as an object", hint=hint)
    except (msgspec.DecodeError, ValueError) as broken:
        return UsageError(f"Invalid params: {broken}", hint=hint)
    for name in given:
        if name not in known:
            return UsageError(f"Invalid params: no param {name[:80]!r}{did_you_mean(name[:80], known)}", hint=hint)
    for required in msgspec.structs.fields(method.params):
        if required.required and required.encode_name not in given:
            return UsageError(f"Invalid params: {required.encode_name!r} is missing", hint=hint)
    what, _, where = str(failure).partition(" - at `$.")
    name = where.rstrip("`")
    return UsageError(f"Invalid params: {name or 'the params'}: {what[:1].lower()}{what[1:]}", hint=hint)
