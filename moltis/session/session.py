"""One life of one server: from opening its connection to the end of it, and everything said in between.

A session is used once. What it promises: a call gets exactly one outcome; results are the bytes the server sent; when
the connection ends, every call in flight fails at once and is never sent again; nothing the server does raises out of
here, it only ever becomes an `Ended`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import anyio
from msgspec import Raw

from moltis import __version__
from moltis.config.plan import ServerPlan
from moltis.errors import MoltisError, ServerNotReady, UsageError
from moltis.session import elicitation, envelope
from moltis.session.caller import Caller
from moltis.session.calls import Failed, OnReply, Reply
from moltis.session.dialogue import CallHandle, Dialogue
from moltis.session.facts import Events, Facts, lost
from moltis.session.handshake import Agreed, EraMemory, Handshake
from moltis.session.hooks import Hooks
from moltis.session.listen import Listener, declares_changes, wanted_params
from moltis.session.listing import Item, Kind, ListError, ToolFilter, with_server
from moltis.session.lists import Lists
from moltis.session.negotiation import HandshakeFailed, negotiate
from moltis.session.offer import Headers, Offer
from moltis.session.passing import Passing
from moltis.session.questions import NOBODY
from moltis.session.rounds import Ask, Rounds
from moltis.transport import Connection, Ended, OpenFailed, Transport

CLIENT_INFO = b'{"name":"moltis","version":%b}' % envelope.json_string(__version__)

ELICITS = b'{"elicitation":{"form":{}}}'
"""What we say when a server's questions are answered from their defaults (MCP, Elicitation)."""

SCRUBBED_CHARS = 8192
TOLD_CHARS = 500
"""Of what is said of a server; what it says itself may be as long as a message."""

NEVER_OF_A_PROBE = frozenset({"auth_required", "connect_failed"})
"""How a connection ends before its server has looked at a message at all."""

MAX_PROBES_IN_FLIGHT = 16
"""A server that answers none is ended by its heartbeat long before."""


class Session:
    """One life of one server. `run` lives it; everything else is called while it runs, on the same event loop.

    memory: what earlier lives taught about the server's era; shared with the next.
    on_lists_changed: lists whose content is new since the first reading.
    """

    def __init__(
        self,
        name: str,
        plan: ServerPlan,
        transport: Transport,
        events: Events,
        *,
        memory: EraMemory | None = None,
        hooks: Hooks | None = None,
        on_lists_changed: Callable[[frozenset[Kind]], None] | None = None,
    ) -> None:
        self.name = name
        self._transport = transport
        self._events = events
        self._memory = memory if memory is not None else EraMemory()
        self._on_lists_changed = on_lists_changed
        hooks = hooks or Hooks()
        self._clock = hooks.clock
        self._scrub = hooks.scrub
        self._dialogue = Dialogue(name, hooks, self._notified, self._reply_seen, self._requested)
        self._lists = Lists(self._ask, self._lists_changed, self._dialogue.counters)
        self._listener = Listener(self._ask_patiently, self.missed)
        self._connection: Connection | None = None
        self._opening = anyio.CancelScope()
        self._agreed: Agreed | None = None
        self._passing: Passing | None = None
        self._state: Literal["starting", "initializing", "ready", "stopping", "over"] = "starting"
        self._handshake: Handshake | None = None
        self._ending: Literal["stop", "kill"] | None = None
        self._trouble: Ended | None = None
        self._probes: deque[CallHandle] = deque()
        self._probed_at: float | None = None
        self.reconfigure(plan)

    # --- life

    async def run(self) -> Ended:
        """Live: open, agree, list, serve. Returns only when nothing is left of it. Cancelling it kills the server."""
        try:
            with self._opening:
                self._connection = await self._transport.open(self._dialogue.receive, self)
        except OpenFailed as failure:
            return self._over(failure.ended)
        except Exception as fault:
            return self._over(Ended("internal", f"it could not be opened: {_words(fault)}"))
        if self._connection is None:
            return self._over(Ended("disconnected", "it was stopped before it was opened"))
        return await self._live(self._connection)

    async def _live(self, connection: Connection) -> Ended:
        if self._ending is not None:
            self._end(self._ending)  # it was asked for when there was nothing to end yet
        ended: Ended | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._dialogue.watch_deadlines)
                tasks.start_soon(self._serve, connection)
                self._over(await connection.wait_lost())  # whoever waits for an answer need not wait for the sweep
                tasks.cancel_scope.cancel()
            ended = self._over(await connection.wait_closed())
        except Exception as fault:
            self._trouble = Ended("internal", f"a fault of moltis: {_words(fault)}")
        finally:
            if ended is None:
                connection.kill()
                with anyio.CancelScope(shield=True):  # bounded: a killed connection is gone in a moment
                    ended = self._over(await connection.wait_closed())
        assert ended is not None
        return ended

    def stop(self) -> None:
        """Begin a graceful end. Calls in flight may still be answered; new ones are refused. Idempotent."""
        self._end("stop")

    def kill(self) -> None:
        """End it now. Idempotent."""
        self._end("kill")

    def _end(self, how: Literal["stop", "kill"]) -> None:
        if self._ending != "kill":
            self._ending = how
        if self._state != "over":
            self._state = "stopping"
        self._opening.cancel()
        if self._connection is not None:
            end = self._connection.stop if how == "stop" else self._connection.kill
            end()

    def probe(self) -> None:
        """Send a heartbeat (`ping`, or `server/discover` from 2026-07-28 on). Any reply at all is `Events.alive`."""
        if self._agreed is None:
            return
        self._probed_at = now = self._clock()
        while len(self._probes) >= MAX_PROBES_IN_FLIGHT:
            self._probes.popleft().forget()
        method = "ping" if self._agreed.era == "legacy" else "server/discover"
        try:
            self._probes.append(self._ask_patiently(method, b"{}", partial(self._probe_answered, now)))
        except MoltisError:
            self._probed_at = None  # it is over; its end is told by `run`

    def facts(self) -> Facts:
        """Give what is known now."""
        agreed = self._agreed
        return Facts(
            server_info=agreed.server_info if agreed is not None else None,
            protocol_version=agreed.protocol_version if agreed is not None else None,
            pid=self._connection.pid if self._connection is not None else None,
            agreed=agreed,
            tool_count=len(self.items(Kind.TOOLS)),
            resource_count=len(self.items(Kind.RESOURCES)),
            prompt_count=len(self.items(Kind.PROMPTS)),
            in_flight=self._dialogue.in_flight,
            counters=replace(self._dialogue.counters),
        )

    def reconfigure(self, plan: ServerPlan) -> None:
        """Take new limits and filters; they hold for what comes next."""
        self._limits = plan.limits
        self._idle_secs, self._most_secs = self._times(None)
        self._protocol = plan.protocol
        self._elicits = plan.elicitation == "defaults"
        self._remote = plan.transport != "stdio"
        self._filter = ToolFilter(plan.include_tools, plan.exclude_tools)
        self._offer: Offer | None = None

    # --- what is offered

    def items(self, kind: Kind) -> tuple[Item, ...]:
        """Give a list as the server sent it, less the tools that are filtered out."""
        return self._tools().items if kind is Kind.TOOLS else self._lists.items(kind)

    def listed(self, kind: Kind, server: str) -> list[bytes]:
        """Give a list as JSON objects, each with `"server": server` as its first member."""
        name = envelope.json_string(server)
        return [with_server(item, name) for item in self.items(kind)]

    def tools_json(self, server: str) -> list[bytes]:
        """Give the tools as `mcp.tools` shows them."""
        return self.listed(Kind.TOOLS, server)

    def _tools(self) -> Offer:
        listed = self._lists.items(Kind.TOOLS)
        if self._offer is None or self._offer.listed is not listed:
            modern = self._agreed is not None and self._agreed.era == "modern"
            self._offer = Offer(listed, self._filter, mirrored=self._remote and modern)
        return self._offer

    # --- requests

    def call_tool(
        self, tool: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply
    ) -> CallHandle | Rounds:
        """Call a tool. `on_reply` gets the outcome, once, unless the call is cancelled.

        arguments: a well-formed JSON object, sent byte for byte.
        timeout_secs: without reply or progress; None for the configured `request_timeout_secs`.

        Raises:
            ServerNotReady: nothing was sent.
            UsageError: the tool is filtered out.
        """
        self._check_ready()
        self._check_allowed(tool)
        headers = self._tools().headers(tool, arguments) if self._remote else ()

        def ask(more: bytes, on_reply: OnReply) -> CallHandle:
            id = self._dialogue.new_id()
            params = envelope.call_params(tool, arguments, envelope.meta_members(self._dialogue.meta, id), more)
            return self._send(id, "tools/call", params, timeout_secs, on_reply, tool, tool=tool, mirrored=headers)

        return self._ask_in_rounds(ask, on_reply)

    def get_prompt(
        self, name: str, arguments: bytes | None, timeout_secs: float | None, on_reply: OnReply
    ) -> CallHandle | Rounds:
        """Get a prompt. Arguments, outcome and errors as for `call_tool`."""
        self._check_ready()

        def ask(more: bytes, on_reply: OnReply) -> CallHandle:
            id = self._dialogue.new_id()
            params = envelope.call_params(name, arguments, envelope.meta_members(self._dialogue.meta, id), more)
            return self._send(id, "prompts/get", params, timeout_secs, on_reply, name)

        return self._ask_in_rounds(ask, on_reply)

    def read_resource(self, uri: str, timeout_secs: float | None, on_reply: OnReply) -> CallHandle | Rounds:
        """Read a resource. Outcome and errors as for `call_tool`."""
        self._check_ready()

        def ask(more: bytes, on_reply: OnReply) -> CallHandle:
            id = self._dialogue.new_id()
            params = envelope.read_params(uri, envelope.meta_members(self._dialogue.meta, id), more)
            return self._send(id, "resources/read", params, timeout_secs, on_reply, uri)

        return self._ask_in_rounds(ask, on_reply)

    def _ask_in_rounds(self, ask: Ask, on_reply: OnReply) -> CallHandle | Rounds:
        modern = self._agreed is not None and self._agreed.era == "modern"
        return Rounds(ask, on_reply) if self._elicits and modern else ask(b"", on_reply)

    async def request(self, method: str, params: bytes = b"{}", timeout_secs: float | None = None) -> Reply:
        """Send any request and wait for its outcome; being cancelled cancels it upstream. Errors as for `call_tool`."""
        self._check_ready()
        idle, most = self._times(timeout_secs)
        return await self._dialogue.request(method, params, idle_secs=idle, max_secs=most, token=True)

    def _send(
        self,
        id: int,
        method: str,
        params: bytes,
        timeout_secs: float | None,
        on_reply: OnReply,
        name: str | None = None,
        *,
        tool: str | None = None,
        mirrored: Headers = (),
    ) -> CallHandle:
        idle, most = self._times(timeout_secs)
        return self._dialogue.ask(
            id,
            method,
            params,
            on_reply,
            idle_secs=idle,
            max_secs=most,
            tool=tool,
            limited=True,
            caller=NOBODY,
            name=name,
            mirrored=mirrored,
        )

    def forward(
        self,
        method: str,
        params: dict[str, Raw],
        meta: dict[str, Raw],
        on_reply: OnReply,
        *,
        caller: Caller,
        name: str | None = None,
        tool: str | None = None,
    ) -> CallHandle:
        """Pass on a request of a host. `on_reply` gets the outcome, once, unless it is cancelled.

        params: its members but `_meta`, sent byte for byte.
        meta: the members of `_meta`, without those that the server's era does not have; the progress token is ours.
        caller: hears of progress and log messages, and is asked the server's questions about it.
        name: what it is about (`params.name`, `params.uri`), where there is such a thing.
        tool: the tool's own name, for `tools/call`.

        Raises:
            ServerNotReady: nothing was sent.
            UsageError: the tool is filtered out.
        """
        if self._state != "ready" or self._passing is None:
            self._check_ready()
            raise AssertionError("it is ready without having agreed on anything")
        headers: Headers = ()
        if tool is not None:
            self._check_allowed(tool)
            if self._remote:
                arguments = params.get("arguments")
                headers = self._tools().headers(tool, None if arguments is None else bytes(arguments))
        dialogue = self._dialogue
        dialogue.check_room()
        id = dialogue.new_id()
        message = self._passing.request(id, method, params, meta)
        return dialogue.send(
            id, method, message, on_reply, self._idle_secs, self._most_secs, tool, caller, name, headers
        )

    def _times(self, timeout_secs: float | None) -> tuple[float, float]:
        """Give idle and total seconds. Who asks for more than the cap has said how long it may take."""
        idle = self._limits.request_timeout_secs if timeout_secs is None else timeout_secs
        return idle, max(idle, self._limits.request_timeout_max_secs)

    def _check_allowed(self, tool: str) -> None:
        if not self._filter.allows(tool):
            raise UsageError(
                f"tool {tool!r} of server {self.name!r} is switched off",
                server=self.name,
                hint="see include_tools and exclude_tools in moltis.toml",
            )

    def _check_ready(self) -> None:
        if self._state != "ready":
            told = "is not running" if self._state == "over" else f"is {self._state}"
            raise ServerNotReady(
                f"server {self.name!r} {told}",
                server=self.name,
                state="stopped" if self._state == "over" else self._state,
                hint=f"moltis why {self.name}",
            )

    # --- between open and closed

    async def _serve(self, connection: Connection) -> None:
        """Agree, list, say so, and keep the lists fresh. Whatever goes wrong ends this connection and nothing else."""
        try:
            self._dialogue.open(connection.send)
            if self._state == "starting":
                self._state = "initializing"
            self._events.opened(connection.pid)
            agreed = await self._agree()
            await self._lists.read_first(agreed.capabilities)
            if self._state == "initializing":
                self._state = "ready"
                self._events.initialized()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._lists.follow)
                wanted = wanted_params(agreed.capabilities) if agreed.era == "modern" else None
                if wanted is not None:
                    tasks.start_soon(self._listener.keep, wanted)
        except HandshakeFailed as failure:
            self._give_up(connection, "handshake_failed", f"the handshake failed: {failure}")
        except ListError as failure:
            self._give_up(connection, "handshake_failed", f"its tools could not be listed: {failure}")
        except MoltisError as failure:
            self._give_up(connection, "connect_failed", failure.message)
        except Exception as fault:
            self._give_up(connection, "internal", f"a fault of moltis: {_words(fault)}")

    async def _agree(self) -> Agreed:
        capabilities = ELICITS if self._elicits else b"{}"
        self._handshake = Handshake(CLIENT_INFO, self._protocol, self._memory.legacy_first, capabilities)
        agreed = await negotiate(self._dialogue, self._handshake)
        self._memory.agreed(agreed.era)
        self._handshake = None
        if agreed.era == "modern":
            self._dialogue.meta = envelope.modern_meta(agreed.protocol_version, CLIENT_INFO, capabilities)
        self._passing = Passing(agreed.protocol_version, CLIENT_INFO, modern=agreed.era == "modern")
        self._agreed = agreed
        return agreed

    def _give_up(self, connection: Connection, kind: str, message: str) -> None:
        if connection.ending or self._dialogue.broken or self._state == "over" or self._ending is not None:
            return  # it is ending already, and why is told by the connection
        self._trouble = Ended(kind, self._clean(message), None, connection.stderr_tail())
        connection.kill()

    def _clean(self, message: str) -> str:
        """Give what is said of a server without the secrets that the server may have repeated, and in few words.

        Cut twice, so that neither cut lets half a secret through.
        """
        return self._scrub(message[:SCRUBBED_CHARS])[:TOLD_CHARS]

    def _over(self, ended: Ended) -> Ended:
        """Fail what is in flight, learn from how it went, and say how it ended: by us if it was by us."""
        ended = replace(ended, message=self._clean(ended.message))
        if self._trouble is not None:
            ended = replace(self._trouble, stderr_tail=ended.stderr_tail or self._trouble.stderr_tail)
        self._state = "over"
        if self._handshake is not None:
            # Being ended by its owner is no sign, unless it had its time to answer the probe and did not.
            unforced = self._ending is None or self._handshake.probe_timed_out
            unanswered = self._handshake.probe_unanswered and ended.kind not in NEVER_OF_A_PROBE
            self._memory.failed(died_of_probe=unanswered and unforced)
        self._dialogue.close(partial(lost, self.name, ended, asked_for=self._ending is not None))
        return ended

    # --- what the dialogue, the lists and the stream call

    async def _ask(self, method: str, params: bytes) -> Reply:
        idle, most = self._times(None)
        return await self._dialogue.request(method, params, idle_secs=idle, max_secs=most, token=False)

    def _ask_patiently(self, method: str, params: bytes, on_reply: OnReply) -> CallHandle:
        params = envelope.with_meta(params, self._dialogue.meta)
        return self._dialogue.ask(self._dialogue.new_id(), method, params, on_reply)

    # --- what the connection and the stream notice

    def request_failed(self, id: int, error: MoltisError) -> None:
        """Fail one request; the heartbeat decides whether the server is at fault."""
        error.message = self._clean(error.message)
        self._dialogue.fail(id, error)

    def missed(self) -> None:
        """Have every list read again that the server promises to announce changes of."""
        offered = self._agreed.capabilities if self._agreed is not None else {}
        self._lists.mark_stale(kind for kind in Kind if declares_changes(offered, kind.capability))

    def _requested(self, method: str, params: bytes) -> bytes | None:
        return elicitation.answer(params) if self._elicits and method == "elicitation/create" else None

    def _lists_changed(self, kinds: frozenset[Kind]) -> None:
        if self._on_lists_changed is not None:
            self._on_lists_changed(kinds)

    def _notified(self, method: str, params: bytes) -> None:
        if not self._lists.notified(method):
            self._listener.notified(method, params)

    def _reply_seen(self) -> None:
        """A reply to anything is life too: a server may answer calls and leave a probe for later."""
        if self._probed_at is not None:
            probed_at, self._probed_at = self._probed_at, None
            self._events.alive(self._clock() - probed_at)

    def _probe_answered(self, probed_at: float, reply: Reply) -> None:
        if not isinstance(reply, Failed):
            self._probed_at = None
            self._events.alive(self._clock() - probed_at)


def _words(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"[:300]
