"""The methods of the control socket: how a request becomes a call of an operation, and its answer JSON-RPC.

Whatever happens, a request is answered exactly once, and never with a traceback. A plain operation is answered at once,
a coroutine runs in a task of its own, and of a relayed one the server's answer goes to the asker byte for byte.
What they are is described here too, for programs (OpenRPC 1.3) and in docs/control-socket.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from moltis import __version__, jsonrpc, logs
from moltis.access import Access
from moltis.control import requests
from moltis.errors import MoltisError, RpcCode, SystemTrouble
from moltis.gateway.lines import LineHost
from moltis.names import did_you_mean
from moltis.operations.api import CallHandle, DaemonApi
from moltis.operations.events import Sink, Subscription
from moltis.operations.reach import error_of_server
from moltis.operations.registry import Operation, Operations
from moltis.session.calls import ErrorReply, OnReply, Reply, Result
from moltis.transport.wire import PeerConn

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

    def hand_over(self, build: Callable[[PeerConn], LineHost]) -> None:
        """Hand the connection over: `build` makes its host at once, which gets it when this request is answered.

        Raises:
            MoltisError: the connection is not free for that; or what `build` raises.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionMethod(Operation):
    """A method that is about the connection it is asked on: `run` is plain, and takes its caller besides."""


class Registry:
    """The methods of the control socket, by name: all operations, and what is about its connections.

    Whoever is let in is the daemon's own user, or root, and may use every one of them.
    """

    def __init__(self, operations: Operations) -> None:
        self.methods: dict[str, Operation] = dict(operations.all)

    def method(
        self, name: str, access: Access, *, exposes: str = "", before: str | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register `(params, daemon, caller) -> result`; `before`: which method follows it where all are listed."""

        def register(run: Callable[..., Any]) -> Callable[..., Any]:
            made = ConnectionMethod.of(name, access, run, exposes=exposes)
            known = list(self.methods)
            at = known.index(before) if before is not None else len(known)
            later = {later: self.methods.pop(later) for later in known[at:]}
            self.methods |= {name: made, **later}
            return run

        return register

    def dispatch(self, request: requests.Request, daemon: DaemonApi, caller: Caller, done: Done) -> CallHandle | None:
        """Answer a request through `done`, once: before this returns, or later.

        Return what cancels the rest, when there is a rest that ends with its caller; `done` is then never called.
        """
        request_id = request.id or requests.NULL_ID
        method = self.methods.get(request.method)
        if method is None:
            done(self._unknown(request.method, request_id))
            return None
        try:
            params = method.read(request.params)
            if method.kind == "relayed":
                sent = method.run(params, daemon, _answer(request_id, params.server, method.name, done))
                if inspect.iscoroutine(sent):
                    return _LaterCall(sent, method.name, request_id, done).start(caller)
                handle: CallHandle = sent
                return handle
            return self._begin(method, params, request_id, daemon, caller, done)
        except Exception as failure:
            done(error_reply(request_id, failure, method.name))
            return None

    def _begin(
        self, method: Operation, params: Any, request_id: bytes, daemon: DaemonApi, caller: Caller, done: Done
    ) -> CallHandle | None:
        if method.kind == "task":
            task = caller.start(lambda: _run(method, params, daemon, request_id, done))
            return task if method.lasts == "while connected" else None
        if isinstance(method, ConnectionMethod):
            result = method.run(params, daemon, caller)
        else:
            result = method.run(params, daemon)
        reply = jsonrpc.result(request_id, msgspec.json.encode(result))
        if (afterwards := method.afterwards) is not None:
            caller.after_reply(lambda: afterwards(daemon))
        done(reply)
        return None

    def _unknown(self, name: str, request_id: bytes) -> bytes:
        data = {"kind": "unknown_method", "server": None, "hint": "rpc.discover lists the methods"}
        message = f"Method not found: {name[:80]!r}{did_you_mean(name[:80], self.methods)}"
        return requests.error(request_id, RpcCode.METHOD_NOT_FOUND, message, data)


async def _run(method: Operation, params: Any, daemon: DaemonApi, request_id: bytes, done: Done) -> None:
    try:
        reply = jsonrpc.result(request_id, msgspec.json.encode(await method.run(params, daemon)))
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
            done(error_reply(request_id, error_of_server(server, reply), method))
        else:
            done(error_reply(request_id, reply.error, method))

    return answer


def error_reply(request_id: bytes, failure: Exception, method: str = "") -> bytes:
    """Return the reply to a request that failed. What is not a finding of ours is logged, and not told."""
    if isinstance(failure, OSError):
        log.warning("control_method_failed", method=method, error=str(failure))
        failure = SystemTrouble.of(failure)
    if isinstance(failure, MoltisError):
        return requests.error(request_id, failure.rpc_code, failure.message, failure.data())
    log.error("control_method_failed", method=method, exc_info=failure)
    data = {"kind": "internal", "server": None, "hint": "the log says more: moltis logs"}
    return requests.error(request_id, RpcCode.INTERNAL_ERROR, "Internal error: a fault of moltis, not of yours", data)


OPENRPC_VERSION: Final = "1.3.2"
_REF: Final = "#/components/schemas/{name}"


def document(registry: Registry) -> msgspec.Raw:
    """Return the OpenRPC document of all methods: https://spec.open-rpc.org, version 1.3."""
    methods = list(registry.methods.values())
    types = [t for m in methods for t in (m.params, m.result)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    whole = {
        "openrpc": OPENRPC_VERSION,
        "info": {"title": "moltis control socket", "version": __version__, "license": {"name": "MIT"}},
        "methods": [_method(m, schemas[2 * i], schemas[2 * i + 1], components) for i, m in enumerate(methods)],
        "components": {"schemas": components},
    }
    return msgspec.Raw(msgspec.json.encode(whole))


def _method(method: Operation, takes: Any, gives: Any, components: dict[str, Any]) -> dict[str, Any]:
    schema = components[takes["$ref"].rpartition("/")[2]]
    required = schema.get("required", [])
    params = [
        {"name": name, "required": name in required, "schema": described}
        for name, described in schema.get("properties", {}).items()
    ]
    result = {"name": "result", "schema": gives}
    if method.exposes:
        result["description"] = method.exposes.replace("`", "")
    return {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": params,
        "result": result,
    }


def markdown_table(registry: Registry) -> str:
    """Return the table of all methods in docs/control-socket.md."""
    rows = ["| method | params | result | what it does |", "|---|---|---|---|"]
    for method in registry.methods.values():
        cells = (f"`{method.name}`", method.takes or _params(method), method.exposes or _result(method), method.summary)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _params(method: Operation) -> str:
    fields = msgspec.structs.fields(method.params)
    names = [f.encode_name if f.required else f"{f.encode_name}?" for f in fields]
    return f"`{', '.join(names)}`" if names else ""


def _result(method: Operation) -> str:
    if not isinstance(method.result, type) or not issubclass(method.result, msgspec.Struct):
        return ""
    return f"`{' '.join(f.encode_name for f in msgspec.structs.fields(method.result))}`"
