"""What an operation is: a function over a params struct and the daemon.

Its annotations, docstring and fields are all there is to say about it, so what a front does, the documents and the docs
cannot disagree. Who may use it is said wherever one is defined; there is no default.

There are three kinds. A plain function answers at once. A coroutine function may wait. A relayed one starts a request
to a server and is done: the server's reply goes to `on_reply` as the bytes it is, without a task.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_type_hints

import msgspec

from moltis.access import Access
from moltis.errors import UsageError
from moltis.names import did_you_mean
from moltis.operations.api import DaemonApi

Function = Callable[..., Any]
Lasts = Literal["to the end", "while connected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    run: `(params, daemon) -> result`, plain or async; relayed: `(params, daemon, on_reply) -> CallHandle`, or a
        coroutine of that where it cannot be sent at once. Raises MoltisError.
    exposes: what its result is, in words, where the result's type cannot say it.
    takes: what its params are, in words, for a table that has no room for all of them.
    lasts: whether it is cancelled when whoever asked goes away.
    afterwards: what is to happen once the answer of a plain one has been sent.
    """

    name: str
    access: Access
    kind: Literal["plain", "task", "relayed"]
    run: Function
    params: type[msgspec.Struct]
    result: Any
    summary: str
    exposes: str = ""
    takes: str = ""
    lasts: Lasts = "to the end"
    afterwards: Callable[[DaemonApi], None] | None = None
    decode: Callable[[bytes | msgspec.Raw], Any] = field(repr=False)

    @classmethod
    def of(
        cls, name: str, access: Access, run: Function, *, params: type[msgspec.Struct] | None = None, **more: Any
    ) -> Self:
        """Return what a function is as an operation; `more`: the fields that its annotations do not say.

        params: the struct, where it is made at run time and no annotation can name it.
        """
        hints = get_type_hints(run)
        struct = params or hints["params"]
        summary = (run.__doc__ or "").strip().partition("\n")[0]
        assert summary, f"{name} has no docstring, which is its summary"
        said: dict[str, Any] = {
            "kind": "task" if inspect.iscoroutinefunction(run) else "plain",
            "result": hints["return"],
            "summary": summary,
            "decode": msgspec.json.Decoder(struct).decode,
        }
        return cls(name=name, access=access, run=run, params=struct, **(said | more))

    def read(self, raw: bytes | msgspec.Raw | None) -> Any:
        """Return params as the struct that `run` takes; None is none.

        Raises:
            UsageError: they are wrong; the message says which one, and which known one is nearest.
        """
        try:
            return self.decode(b"{}" if raw is None else raw)
        except (msgspec.MsgspecError, ValueError, RecursionError) as failure:
            raise self._wrong(raw, failure) from None

    def _wrong(self, raw: bytes | msgspec.Raw | None, failure: Exception) -> UsageError:
        known = [f.encode_name for f in msgspec.structs.fields(self.params)]
        hint = f"{self.name} takes {', '.join(known)}" if known else f"{self.name} takes no params"
        try:
            given = msgspec.json.decode(raw or b"{}", type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            return UsageError("Invalid params: they go by name, as an object", hint=hint)
        except (msgspec.DecodeError, ValueError) as broken:
            return UsageError(f"Invalid params: {broken}", hint=hint)
        for name in given:
            if name not in known:
                return UsageError(f"Invalid params: no param {name[:80]!r}{did_you_mean(name[:80], known)}", hint=hint)
        for required in msgspec.structs.fields(self.params):
            if required.required and required.encode_name not in given:
                return UsageError(f"Invalid params: {required.encode_name!r} is missing", hint=hint)
        what, _, where = str(failure).partition(" - at `$.")
        name = where.rstrip("`")
        return UsageError(f"Invalid params: {name or 'the params'}: {what[:1].lower()}{what[1:]}", hint=hint)


class Operations(msgspec.Struct, frozen=True):
    """All operations, by name, in the order of their definition."""

    all: dict[str, Operation] = msgspec.field(default_factory=dict)

    def operation(
        self,
        name: str,
        access: Access,
        *,
        aliases: Iterable[str] = (),
        params: type[msgspec.Struct] | None = None,
        exposes: str = "",
        takes: str = "",
        lasts: Lasts = "to the end",
        afterwards: Callable[[DaemonApi], None] | None = None,
    ) -> Callable[[Function], Function]:
        """Register `(params, daemon)`, plain or async; an alias is an operation of its own."""

        def register(run: Function) -> Function:
            more = {"exposes": exposes, "takes": takes, "lasts": lasts, "afterwards": afterwards}
            made = self.all[name] = Operation.of(name, access, run, params=params, **more)
            assert afterwards is None or made.kind == "plain", f"{name} has no moment that afterwards could follow"
            for alias in aliases:
                summary = f"{made.summary} Another name of {name}."
                self.all[alias] = Operation.of(alias, access, run, params=params, **more, summary=summary)
            return run

        return register

    def relayed(self, name: str, access: Access, *, exposes: str) -> Callable[[Function], Function]:
        """Register `(params, daemon, on_reply) -> CallHandle`, or a coroutine of that: what a server answers."""

        def register(run: Function) -> Function:
            more: dict[str, Any] = {"kind": "relayed", "result": msgspec.Raw, "lasts": "while connected"}
            self.all[name] = Operation.of(name, access, run, exposes=exposes, **more)
            return run

        return register
