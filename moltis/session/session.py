"""One life of one server: from opening its connection to the end of it, and everything said in between.

A session is used once. What it promises: a call gets exactly one outcome; results are the bytes the server sent; when
the connection ends, every call in flight fails at once and is never sent again; nothing the server does raises out of
here, it only ever becomes an `Ended`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import anyio
import msgspec
from msgspec.structs import replace

from moltis import jsonrpc
from moltis.config.plan import ServerPlan
from moltis.errors import MoltisError, NotSent
from moltis.redaction import scrubbed
from moltis.server.lifecycle import Pulse
from moltis.server.states import FailureKind, State
from moltis.session import envelope
from moltis.session.beside import Beside, SecondSession
from moltis.session.calls import Failed, Reply
from moltis.session.dialogue import CallHandle, Dialogue
from moltis.session.face import NO_ROOTS, Face
from moltis.session.facts import Events, Facts, lost
from moltis.session.handshake import PATIENCE_SECS, Agreed, EraMemory, Handshake
from moltis.session.hooks import Hooks
from moltis.session.listen import Listener, declares_changes, declares_updates, wanted_params
from moltis.session.listing import Kind, ListError
from moltis.session.negotiation import HandshakeFailed, InDoubt, negotiate
from moltis.session.oddities import Oddities
from moltis.session.passing import Passing
from moltis.session.requests import Requests
from moltis.session.wishes import LogLevel, Stirred, Taken, Watch, Wish
from moltis.transport import Connection, Effort, Ended, OpenFailed, Transport

ELICITS = b'{"elicitation":{"form":{}}}'
"""What we say when a server's questions are answered from their defaults (MCP, Elicitation)."""

OF_A_QUESTION = frozenset(
    {FailureKind.EXITED, FailureKind.DISCONNECTED, FailureKind.HANDSHAKE_FAILED, FailureKind.LISTING_FAILED}
)
"""How a connection may end because of what its server was asked to begin with."""

MAX_PROBES_IN_FLIGHT = 16
"""A server that answers none is ended by its heartbeat long before."""


class Session(Requests):
    """One life of one server. `run` lives it; everything else is called while it runs, on the same event loop.

    memory: what earlier lives taught about the server's era; shared with the next.
    on_lists_changed: lists whose content is new since the first reading.
    relays: whether there are hosts that may answer what a server asks. face: of the only one, where there is but one.
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
        relays: bool = False,
        face: Face | None = None,
    ) -> None:
        self._transport = transport
        self._events = events
        self._memory = memory if memory is not None else EraMemory()
        self._on_lists_changed = on_lists_changed
        hooks = hooks or Hooks()
        self._clock = hooks.clock
        self._on_notification = hooks.on_notification
        self._relays = relays
        self._hooks = hooks
        self._beside: Beside | None = None
        """For hosts of the older era, where the server may have both."""
        dialogue = Dialogue(name, hooks, self._notified, self._requested)
        super().__init__(name, plan, dialogue, self._lists_changed, hooks.scrub, face)
        self._taken = Stirred()
        self._listener = Listener(self._ask_patiently, self.missed, self._taken.stir)
        self._watch = Watch(self._tell_and_learn, self._taken.stir)
        self._log_level = LogLevel(self._tell_and_learn, self._taken.stir)
        self._oddities = Oddities(name, self._hooks)
        self._connection: Connection | None = None
        self._opening = anyio.CancelScope()
        self._handshake: Handshake | None = None
        self._first_end: Ended | None = None
        self._anew = False
        self._doubted = False
        self._was_ready = False
        self._asked_at = 0.0
        self._ending: Literal["stop", "kill"] | None = None
        self._trouble: Ended | None = None
        self._probes: deque[CallHandle] = deque()

    # --- life

    async def run(self) -> Ended:
        """Live: open, agree, list, serve. Returns only when nothing is left of it. Cancelling it kills the server.

        A server that minds what it is asked to begin with is one life with the process that is asked otherwise.
        """
        while True:
            try:
                with self._opening:
                    self._connection = await self._transport.open(self._dialogue.receive, self)
            except OpenFailed as failure:
                return self._over(failure.ended)
            except Exception as fault:
                return self._over(Ended(FailureKind.INTERNAL, f"it could not be opened: {_words(fault)}"))
            if self._connection is None:
                return self._over(Ended(FailureKind.DISCONNECTED, "it was stopped before it was opened"))
            ended = await self._live(self._connection)
            if not self._anew:
                return ended
            self._begin_anew(ended)

    async def _live(self, connection: Connection) -> Ended:
        if self._ending is not None:
            self._end(self._ending)  # it was asked for when there was nothing to end yet
        ended: Ended | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._dialogue.watch_deadlines)
                tasks.start_soon(self._serve, connection)
                self._lost(connection, await connection.wait_lost())
                if self._beside is not None:
                    self._beside.stop()
                tasks.cancel_scope.cancel()
            ended = await connection.wait_closed()
            ended = ended if self._anew else self._over(ended)
        except Exception as fault:
            self._trouble = Ended(FailureKind.INTERNAL, f"a fault of moltis: {_words(fault)}")
        finally:
            if ended is None:
                connection.kill()
                with anyio.CancelScope(shield=True):  # bounded: a killed connection is gone in a moment
                    ended = self._over(await connection.wait_closed())
                self._anew = False
        assert ended is not None
        return ended

    def _lost(self, connection: Connection, ended: Ended) -> None:
        """Take note that no answer can come any more: whoever waits for one need not wait for the sweep."""
        if self._ending is not None:
            self._anew = False
        elif self._handshake is not None and not self._anew:
            how = self._trouble.kind if self._trouble is not None else ended.kind
            ended_itself = self._trouble is None
            read = self._read(connection)
            self._anew = how in OF_A_QUESTION and self._handshake.again(ended_itself=ended_itself, read=read)
        if not self._anew:
            self._over(ended)

    def _begin_anew(self, ended: Ended) -> None:
        """Forget the connection that is gone; how it ended is told only if the next one comes to nothing too."""
        if self._first_end is None and not self._doubted:
            self._first_end = self._told(ended)
        self._dialogue.renew()
        self._anew, self._doubted, self._trouble = False, False, None
        self._connection, self._agreed, self._passing = None, None, None
        self._opening = anyio.CancelScope()
        if self._ending is not None:
            self._opening.cancel()

    def _read(self, connection: Connection) -> bool:
        return connection.has_read and not self._dialogue.broken

    def stop(self) -> None:
        """Begin a graceful end. Calls in flight may still be answered; new ones are refused. Idempotent."""
        self._end("stop")

    def kill(self) -> None:
        """End it now. Idempotent."""
        self._end("kill")

    def hurry(self) -> None:
        """In a graceful end, go on to SIGTERM at once. Idempotent."""
        if self._connection is not None:
            self._connection.hurry()

    def effort(self) -> Effort:
        """Say what work the server has shown so far."""
        return self._connection.effort() if self._connection is not None else Effort()

    def _end(self, how: Literal["stop", "kill"]) -> None:
        if self._ending != "kill":
            self._ending = how
        if self._state is not State.STOPPED:
            self._state = State.STOPPING
        self._opening.cancel()
        if self._connection is not None:
            end = self._connection.stop if how == "stop" else self._connection.kill
            end()
        if self._beside is not None:
            self._beside.stop() if how == "stop" else self._beside.kill()

    def probe(self, *, otherwise: bool = False) -> None:
        """Send a heartbeat (`ping`, or `server/discover` from 2026-07-28 on). Its reply of any kind is `Events.alive`.

        otherwise: ask for a list instead, of a server that does not answer those.
        """
        if self._agreed is None:
            return
        while len(self._probes) >= MAX_PROBES_IN_FLIGHT:
            self._probes.popleft().forget()
        method = "ping" if self._agreed.era == "legacy" else "server/discover"
        if otherwise:
            offered = self._agreed.capabilities
            method = next((kind.method for kind in Kind if kind.capability in offered), Kind.TOOLS.method)
        self._dialogue.sound_by(method if otherwise else None)
        answered = partial(self._probe_answered, self._clock(), otherwise)
        try:
            self._probes.append(self._ask_patiently(method, b"{}", answered))
        except MoltisError:
            pass  # it is over; its end is told by `run`

    def pulse(self) -> Pulse:
        """Return what is known of the server's life by now."""
        pulse = self._dialogue.liveness.pulse(anyio.current_time())
        return pulse if self._beside is None else self._beside.pulse(pulse)

    def facts(self) -> Facts:
        """Return what is known now."""
        agreed = self._agreed
        return Facts(
            server_info=self._clean_info(agreed.server_info) if agreed is not None else None,
            protocol_version=agreed.protocol_version if agreed is not None else None,
            pid=self._connection.pid if self._connection is not None else None,
            agreed=agreed,
            tool_count=len(self.items(Kind.TOOLS)),
            resource_count=len(self.items(Kind.RESOURCES)),
            prompt_count=len(self.items(Kind.PROMPTS)),
            remarks=tuple(map(self._clean, self._remarks())),
            stdout="" if not self._kind.is_program else self._dialogue.noise.in_words(b"", self._scrub),
            in_flight=self._dialogue.in_flight + (0 if self._beside is None else self._beside.in_flight),
            counters=replace(self._dialogue.counters),
        )

    def reconfigure(self, plan: ServerPlan) -> None:
        """Take new limits and filters; they hold for what comes next."""
        super().reconfigure(plan)
        self._plan = plan
        if self._beside is not None:
            self._beside.reconfigure(plan)

    # --- in which era

    def taker(self, *, modern: bool, tool: str | None = None) -> Requests | None:
        """Return what takes the requests of a host: this session, or the one beside it if that is of the host's era.

        modern: whether the host speaks 2026-07-28. tool: of `tools/call`; one that cannot ask in one era is called in
        the other. None: it is being opened; see `wait_taker`.
        """
        beside = self._beside
        if beside is None or not beside.may_come:
            return self
        if tool is not None:
            modern = self._dialogue.misfits.better(tool, modern=modern)
        if modern:
            return self
        return beside.ready or (None if beside.need() else self)

    async def wait_taker(self) -> None:
        """Wait until `taker` may say something else; as long as an attempt to open it takes."""
        if self._beside is not None:
            await self._beside.wait()

    def present_taker(self, *, modern: bool) -> Requests:
        """Return what takes what a host tells, as `taker`; nothing is opened for that."""
        return (None if modern or self._beside is None else self._beside.ready) or self

    def _remarks(self) -> tuple[str, ...]:
        said = self._agreed.remarks if self._agreed is not None else ()
        misfits, oddities = self._dialogue.misfits, self._oddities
        return (*said, *self._lists.remarks(), *misfits.remarks(), *oddities.remarks())

    # --- what hosts want of it

    def watch_resources(self, uris: frozenset[str]) -> None:
        """Have the server tell of updates of exactly these; what it tells goes to `Hooks.on_notification`."""
        if self._state is not State.READY or uris == self._watch.wanted:
            return
        agreed = self.agreed
        if not declares_updates(agreed.capabilities):
            return
        self._watch.want(uris, quietly=agreed.era == "modern")
        if agreed.era == "modern":
            self._listener.want(wanted_params(agreed.capabilities, uris))

    def want_log_level(self, level: str | None) -> None:
        """Have the server log from this level on, if it is one that is told so beside the requests; None: as it is."""
        if self._beside is not None:
            self._beside.want_log_level(level)
        elif self._state is State.READY and self.agreed.era == "legacy" and "logging" in self.agreed.capabilities:
            self._log_level.want(level)

    def taken(self, wish: Wish) -> Taken:
        """Return whether the server has acknowledged what was last wanted of it, or its own error if it refused.

        What cannot be wanted of it, or of a session that is over, is not waited for.
        """
        if self._state is not State.READY:
            return True
        if wish.what == "level":
            return self._log_level.taken() if self._beside is None else self._beside.level_taken()
        agreed = self.agreed
        if wish.what == "resource" and not declares_updates(agreed.capabilities):
            return True
        if agreed.era == "modern":
            return self._listener.taken()
        return wish.what == "lists" or self._watch.taken(wish.uri)

    async def wait_taken(self) -> None:
        """Wait until `taken` may say something else."""
        await self._taken.wait()

    # --- between open and closed

    async def _serve(self, connection: Connection) -> None:
        """Agree, list, say so, and keep the lists fresh. Whatever goes wrong ends this connection and nothing else."""
        try:
            self._dialogue.liveness.stderr_at = lambda: connection.stderr_at
            self._dialogue.open(connection.send)
            if self._state is State.STARTING:
                self._state = State.INITIALIZING
            self._events.opened(connection.pid)
            agreed = await self._agree(connection)
            await self._lists.read_first(agreed.capabilities, modern=agreed.era == "modern")
            if self._state is State.INITIALIZING:
                if self._handshake is not None:
                    self._handshake.was_ready()
                    self._handshake = self._first_end = None
                self._state, self._was_ready = State.READY, True
                self._events.initialized()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._lists.follow)
                if agreed.era == "modern":
                    self._listener.want(wanted_params(agreed.capabilities, self._watch.wanted))
                    tasks.start_soon(self._listener.keep)
                if self._beside is not None:
                    tasks.start_soon(self._beside.keep)
        except InDoubt:
            if self._ending is None and not connection.ending:
                self._anew = self._doubted = True
                connection.stop()
        except HandshakeFailed as failure:
            self._give_up(connection, FailureKind.HANDSHAKE_FAILED, f"the handshake failed: {failure}")
        except ListError as failure:
            if isinstance(failure.__cause__, NotSent):
                self._give_up(connection, FailureKind.LOGIN_UNAVAILABLE, failure.__cause__.message)
            else:
                self._give_up(connection, FailureKind.LISTING_FAILED, f"its tools could not be listed: {failure}")
        except NotSent as failure:
            self._give_up(connection, FailureKind.LOGIN_UNAVAILABLE, failure.message)
        except MoltisError as failure:
            self._give_up(connection, FailureKind.CONNECT_FAILED, failure.message)
        except Exception as fault:
            self._give_up(connection, FailureKind.INTERNAL, f"a fault of moltis: {_words(fault)}")

    async def _agree(self, connection: Connection) -> Agreed:
        capabilities = ELICITS if self._elicits else b"{}"
        if self._handshake is None:
            relayed = self._declared() if self._relays else b""
            self._handshake = Handshake(
                self._client_info, self._protocol, not self._kind.is_program, self._memory, capabilities, relayed
            )
        self._asked_at = anyio.current_time()
        agreed = await negotiate(self._dialogue, self._handshake, partial(self._read, connection))
        if agreed.era == "modern":
            self._dialogue.meta = envelope.modern_meta(agreed.protocol_version, self._client_info, capabilities)
        elif self._relays:
            self._dialogue.relay_questions(self._answerable())
        modern = agreed.era == "modern"
        self._passing = Passing(agreed.protocol_version, self._client_info, modern=modern, undeclared=self._undeclared)
        self._agreed = agreed
        if agreed.era == "modern" and self._kind.mirrors_headers and self._protocol == "auto" and self._relays:
            self._dialogue.misfits.other_era = True
            self._beside = Beside(self._transport, self._second, self._second_told)
        return agreed

    def _second(self) -> SecondSession:
        misfits = self._dialogue.misfits
        hooks, heard, stir = self._hooks, self._heard_beside, self._taken.stir
        return SecondSession(self.name, self._plan, hooks, misfits, heard, self._requested, stir, self.face)

    def _second_told(self, what: str, words: str) -> None:
        assert self._beside is not None
        self._dialogue.misfits.other_era = self._beside.may_come
        if self._hooks.on_second is not None:
            self._hooks.on_second(self.name, what, words)

    def _give_up(self, connection: Connection, kind: FailureKind, message: str) -> None:
        if connection.ending or self._dialogue.broken or self._state is State.STOPPED or self._ending is not None:
            return  # it is ending already, and why is told by the connection
        self._trouble = Ended(kind, self._clean(message), None, connection.stderr_tail())
        connection.stop()  # bounded by the connection itself; the server may have something to put away or to pass on

    def _clean_info(self, info: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return `serverInfo` without secrets. Looked into, at each status, only if there are any."""
        try:
            text = msgspec.json.encode(info).decode()
        except (ValueError, TypeError, ArithmeticError, RecursionError):
            text = None  # a number may be too long to be written again
        return info if text is not None and self._scrub(text) == text else scrubbed(info, self._scrub)

    def _over(self, ended: Ended) -> Ended:
        """Fail what is in flight, learn from how it went, and say how it ended: by us if it was by us."""
        ended = self._told(ended)
        if self._ending is None and self._first_end is not None:
            ended = self._first_end  # what came after it was our idea
        if self._handshake is not None and self._connection is not None:
            # Being ended by its owner is no sign, unless it had its time to answer and did not.
            unforced = self._ending is None or anyio.current_time() - self._asked_at >= PATIENCE_SECS
            self._handshake.failed(read=unforced and self._read(self._connection))
        self._handshake = None
        self._state = State.STOPPED
        self._dialogue.close(partial(lost, self.name, ended, asked_for=self._ending is not None))
        self._taken.stir()
        return ended

    def _told(self, ended: Ended) -> Ended:
        """Return how a connection ended, as it may be told: by us if it was by us."""
        stdout = ""
        if self._kind.is_program and not self._was_ready:
            stdout = self._dialogue.noise.in_words(ended.unfinished, self._scrub)
        ended = replace(ended, message=self._clean(ended.message), unfinished=b"", stdout=stdout)
        if self._trouble is not None:
            tail = ended.stderr_tail or self._trouble.stderr_tail
            ended = replace(self._trouble, stderr_tail=tail, stdout=stdout)
        return ended

    # --- what the connection and the stream notice

    def missed(self) -> None:
        """Have all looked at anew that the server promises to announce changes of, and tell it anew what is wanted."""
        if self._agreed is None:
            return
        offered = self._agreed.capabilities
        self._lists.mark_stale(kind for kind in Kind if declares_changes(offered, kind.capability))
        if self._agreed.era == "legacy":
            self._watch.again()
            self._log_level.again()
        for uri in sorted(self._watch.wanted):
            self._tell_all("notifications/resources/updated", b'{"uri":%b}' % jsonrpc.json_string(uri))

    def let_in(self) -> None:
        """Take note that the login works: what could not be sent without it is sent now."""
        self._lists.again()
        self._watch.retry()
        self._log_level.retry()
        self._listener.retry()
        if self._beside is not None:
            self._beside.let_in()

    def odd(self, words: str) -> None:
        """Take note of what is odd about the server though it works."""
        self._oddities.note(words)

    def _requested(self, method: str, params: bytes) -> bytes | None:
        """Answer what no host is to answer. A host that is none has no folders."""
        if self._relays and method == "roots/list" and "roots" not in self._undeclared:
            return NO_ROOTS if self.face is None else self.face.roots
        return self.default_answer(method, params)

    def _lists_changed(self, kinds: frozenset[Kind]) -> None:
        if self._on_lists_changed is not None:
            self._on_lists_changed(kinds)

    def _notified(self, method: str, params: bytes) -> None:
        if not self._lists.notified(method) and not self._listener.notified(method, params):
            self._tell_all(method, params)

    def _heard_beside(self, method: str, params: bytes) -> None:
        """Take what the server says to the second session alone."""
        if not self._lists.notified(method):
            self._tell_all(method, params)

    def _tell_all(self, method: str, params: bytes) -> None:
        if self._on_notification is not None:
            self._on_notification(self.name, method, params)

    def _probe_answered(self, probed_at: float, otherwise: bool, reply: Reply) -> None:
        if not isinstance(reply, Failed):
            self._events.alive(self._clock() - probed_at, otherwise=otherwise)
        elif not reply.sent:
            self._events.unsent()


def _words(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"[:300]
