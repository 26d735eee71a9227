"""The second session of a server that speaks both eras over HTTP: for hosts up to 2025-11-25, beside the first.

What a tool can do depends on the era that it is called in, so each host's request goes out in the host's own era. The
SDKs name only the newer revisions in the answer to `server/discover`, so whether there is the older era too is known by
asking: once, when a host of that era first needs it. Nothing of it is a failure of the server: where there is no second
session, requests are translated for the first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio

from moltis.config.plan import ServerPlan
from moltis.errors import MoltisError, ServerNotReady
from moltis.server.lifecycle import Pulse
from moltis.server.states import State
from moltis.session.dialogue import Dialogue
from moltis.session.face import Face
from moltis.session.handshake import Handshake
from moltis.session.hooks import Hooks
from moltis.session.negotiation import HandshakeFailed, negotiate
from moltis.session.oddities import Misfits
from moltis.session.passing import Passing
from moltis.session.requests import Requests
from moltis.session.wishes import LogLevel, Stirred, Taken
from moltis.transport import Connection, Ended, OpenFailed, Transport

OPEN_SECS: Final = 5.0
"""For the handshake, of a server that answers the first session; as long waits whoever needs the second one first."""

LEVEL_SECS: Final = 2.0
"""Until the server has taken the log level that hosts want, before it is asked anything else."""

RETRY_SECS: Final = 60.0
MAX_RETRY_SECS: Final = 3600.0
"""After a second session that could not be opened, doubled each time."""

LASTING_SECS: Final = 60.0
"""A second session that lasted this long forgives what was before it."""


class SecondSession(Requests):
    """One life of it, used once. Fits `transport.Notices`.

    refuses: the server has said that it does not have this era, or has it without sessions: there no tool could ask,
        while what it asks in the newer one can be translated (TypeScript SDK 2, `createMcpHandler` as it comes).
    """

    def __init__(
        self,
        name: str,
        plan: ServerPlan,
        hooks: Hooks,
        misfits: Misfits,
        on_notification: Callable[[str, bytes], None],
        on_request: Callable[[str, bytes], bytes | None],
        on_taken: Callable[[], None],
        face: Face | None = None,
    ) -> None:
        dialogue = Dialogue(name, hooks, on_notification, on_request, misfits)
        super().__init__(name, plan, dialogue, lambda kinds: None, hooks.scrub, face)
        self.refuses = False
        self.ready_at = math.inf
        self._on_taken = on_taken
        self._taken = Stirred()
        self._log_level = LogLevel(self._tell_and_learn, self._stir)
        self._connection: Connection | None = None
        self._ending = False
        self._trouble: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self._state is State.READY and self._connection is not None and not self._connection.ending

    async def run(self, transport: Transport, level: str | None, on_ready: Callable[[], None]) -> str:
        """Live: open, agree, serve; return why it ended once nothing is left of it. Being cancelled ends it too."""
        try:
            self._connection = connection = await transport.open(self._dialogue.receive, self)
        except OpenFailed as failure:
            return self._clean(failure.ended.message)
        if self._ending:
            connection.kill()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._dialogue.watch_deadlines)
                tasks.start_soon(self._open, connection, level, on_ready)
                self._close(await connection.wait_lost())
                tasks.cancel_scope.cancel()
        finally:
            if not self._ending:
                connection.kill()  # what is left of one that is lost, or could not be opened
            with anyio.CancelScope(shield=True):  # bounded by the connection itself: it was told to end
                ended = await connection.wait_closed()
                self._close(ended)
        return self._trouble or self._clean(ended.message)

    def stop(self) -> None:
        """End it gently: calls in flight may still be answered, then the server is told that the session is over."""
        self._ending = True
        if self._connection is not None:
            self._state = State.STOPPING
            self._connection.stop()

    def kill(self) -> None:
        """End it now."""
        self._ending = True
        if self._connection is not None:
            self._connection.kill()

    def want_log_level(self, level: str | None) -> None:
        """Have the server log from this level on, if it logs."""
        if self._state is State.READY and "logging" in self.agreed.capabilities:
            self._log_level.want(level)

    def level_taken(self) -> Taken:
        """Return whether the server logs from the level that was last wanted, or its error if it refused."""
        return self._log_level.taken()

    def let_in(self) -> None:
        """Take note that the login works."""
        self._log_level.retry()

    def pulse(self) -> Pulse:
        """Return what is known of the server's life by what is said here."""
        return self._dialogue.liveness.pulse(anyio.current_time())

    @property
    def in_flight(self) -> int:
        """How many requests wait for a reply."""
        return self._dialogue.in_flight

    async def _open(self, connection: Connection, level: str | None, on_ready: Callable[[], None]) -> None:
        handshake = Handshake(self._client_info, "legacy", remote=True, relayed=self._declared())
        self._dialogue.open(connection.send)
        try:
            with anyio.fail_after(OPEN_SECS):
                agreed = await negotiate(self._dialogue, handshake)
        except HandshakeFailed as failure:
            self.refuses = handshake.refuses_era
            self._give_up(connection, f"the handshake failed: {failure}")
        except TimeoutError:
            self._give_up(connection, f"initialize was not answered within {OPEN_SECS:g} s")
        except MoltisError as failure:
            self._give_up(connection, failure.message)
        else:
            if not connection.in_session:
                self.refuses = True
                self._give_up(connection, "the server keeps no sessions in the older era")
                return
            self._dialogue.relay_questions(self._answerable())
            self._passing = Passing(agreed.protocol_version, self._client_info, modern=False)
            self._agreed = agreed
            if level is not None and "logging" in agreed.capabilities:
                self._log_level.want(level)
                with anyio.move_on_after(LEVEL_SECS):
                    while self._log_level.taken() is False:
                        await self._taken.wait()
            if not self._ending:
                self._state = State.READY
                self.ready_at = anyio.current_time()
                on_ready()

    def _give_up(self, connection: Connection, why: str) -> None:
        if not self._ending:
            self._trouble = self._clean(why)
            connection.kill()

    def _close(self, ended: Ended) -> None:
        self._state = State.STOPPED
        self._dialogue.close(partial(_lost, self.name, self._clean(ended.message)))
        self._stir()

    def _stir(self) -> None:
        self._taken.stir()
        self._on_taken()

    # --- what the connection notices

    def missed(self) -> None:
        """Tell the server anew what is wanted of the session. Lists are the first session's affair."""
        self._log_level.again()

    def odd(self, words: str) -> None:
        """Leave it to the first session, which is with the same server."""


class Beside:
    """Has a second session while one is needed. Level-triggered: a request that finds none waits for one, or does not.

    make: makes one. on_told: told in words what became of it.
    """

    def __init__(
        self, transport: Transport, make: Callable[[], SecondSession], on_told: Callable[[str, str], None]
    ) -> None:
        self._transport = transport
        self._make = make
        self._on_told = on_told
        self._second: SecondSession | None = None
        self._needed = anyio.Event()
        self._settled = anyio.Event()
        self._level: str | None = None
        self._streak = 0
        """How often in a row it came to nothing; from the second time on nobody waits for the next."""
        self._not_before = -math.inf
        self._ending = False

    @property
    def ready(self) -> SecondSession | None:
        """The second session, if it takes requests now."""
        second = self._second
        return second if second is not None and second.is_ready else None

    @property
    def may_come(self) -> bool:
        """Whether there is one, or may be one when it is needed: the server has not refused."""
        return self._not_before < math.inf and not self._ending

    def need(self) -> bool:
        """Take note that a request is for it which is not `ready`, and return whether it is worth waiting for."""
        if self._ending or (self._second is None and anyio.current_time() < self._not_before):
            return False
        if self._second is None:
            self._needed.set()
        return self._streak < 2

    async def wait(self) -> None:
        """Wait until what has been needed is there, or has come to nothing."""
        await self._settled.wait()

    def want_log_level(self, level: str | None) -> None:
        """Have the server log from this level on, there too."""
        self._level = level
        if self._second is not None:
            self._second.want_log_level(level)

    def level_taken(self) -> Taken:
        """As `SecondSession.level_taken`; where there is none, nothing is waited for."""
        return self._second.level_taken() if self._second is not None else True

    def let_in(self) -> None:
        """Take note that the login works: what was in the way may be gone."""
        if self.may_come:
            self._not_before, self._streak = -math.inf, 0
        if self._second is not None:
            self._second.let_in()

    def reconfigure(self, plan: ServerPlan) -> None:
        """Take new limits and filters."""
        if self._second is not None:
            self._second.reconfigure(plan)

    def pulse(self, first: Pulse) -> Pulse:
        """Return what is known of the server's life by both sessions: they are one server."""
        if self._second is None:
            return first
        second = self._second.pulse()
        return Pulse(
            max(first.heard_at, second.heard_at),
            max(first.busy_until, second.busy_until),
            max(first.used_at, second.used_at),
        )

    @property
    def in_flight(self) -> int:
        """How many requests of it wait for a reply."""
        return self._second.in_flight if self._second is not None else 0

    def stop(self) -> None:
        """Begin a graceful end, for good. Idempotent."""
        if not self._ending:
            self._ending = True
            if self._second is not None:
                self._second.stop()
            self._stir()

    def kill(self) -> None:
        """End it now, for good. Idempotent."""
        self._ending = True
        if self._second is not None:
            self._second.kill()
        self._stir()

    async def keep(self) -> None:
        """Open one whenever it is needed, for as long as this runs. Nothing raises out of here."""
        while True:
            await self._needed.wait()
            self._needed = anyio.Event()
            if self._ending:
                continue
            self._second = second = self._make()
            try:
                why = await second.run(self._transport, self._level, self._opened)
            except Exception as fault:
                why = f"a fault of moltis: {type(fault).__name__}"
            finally:
                self._second = None
                self._stir()
            self._over(second, why)

    def _opened(self) -> None:
        second = self._second
        assert second is not None
        self._on_told("opened", second.agreed.protocol_version)
        self._stir()

    def _over(self, second: SecondSession, why: str) -> None:
        now = anyio.current_time()
        if self._ending:
            return
        if second.refuses:
            self._not_before = math.inf
            self._on_told("refused", why)
            return
        was_ready = second.ready_at < math.inf
        if was_ready and now - second.ready_at >= LASTING_SECS:
            self._streak = 0
        self._streak = self._streak + 1 if was_ready else max(self._streak + 1, 2)
        if self._streak >= 2:
            self._not_before = now + min(RETRY_SECS * 2.0 ** (self._streak - 2), MAX_RETRY_SECS)
        self._on_told("lost" if was_ready else "failed", why)

    def _stir(self) -> None:
        self._settled.set()
        self._settled = anyio.Event()


def _lost(server: str, why: str) -> ServerNotReady:
    return ServerNotReady(
        f"the session of server {server!r} for hosts up to 2025-11-25 ended ({why}) while the call was running; "
        "it is not sent again",
        server=server,
        state=State.READY,
        hint="call again",
    )
