"""What a run of a server is made of: its transport, and where all that is heard of it goes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from anyio.abc import TaskGroup
from msgspec.structs import replace

from moltis import logs
from moltis.config.plan import ServerPlan, StdioLaunch
from moltis.daemon.remotes import Remotes
from moltis.lastwords import is_of_heartbeat
from moltis.server.status import HostSeen
from moltis.session.envelope import NOT_JSON
from moltis.session.face import Face
from moltis.session.facts import Events
from moltis.session.handshake import EraMemory
from moltis.session.hooks import Hooks
from moltis.session.listing import Kind
from moltis.session.session import Session
from moltis.transport import Transport
from moltis.transport.containment import Warden
from moltis.transport.kinds import Given
from moltis.transport.stdio import StdioTransport, open_program

log = logs.get("moltis.daemon")
stderr_log = logs.get("moltis.mcp.stderr")
log_call = logs.repeated("moltis.mcp.call", "tool_called", ("server", "tool", "outcome", "host"), "duration_ms")
garbage_log = logs.get("moltis.mcp.garbage")

MAX_TOOL_CHARS = 256
"""Of a tool's name in the log: a host can call any name."""


class SessionFactory:
    """Makes sessions, each for one run or one try of a server.

    scrub: takes known secrets out of a text. tasks: where connections live.
    relays: whether sessions made now are to carry requests of hosts.
    lists_changed, notified: told what a running server's lists and notifications are.
    """

    def __init__(
        self,
        warden: Warden,
        remotes: Remotes,
        scrub: Callable[[str], str],
        *,
        tasks: Callable[[], TaskGroup],
        relays: Callable[[], bool],
        lists_changed: Callable[[str, frozenset[Kind]], None],
        notified: Callable[[str, str, bytes], None],
    ) -> None:
        self._warden = warden
        self._remotes = remotes
        self._scrub = scrub
        self._tasks = tasks
        self._relays = relays
        self._lists_changed = lists_changed
        self._notified = notified
        self._unreadable: set[str] = set()

    def make(
        self, plan: ServerPlan, events: Events, memory: EraMemory, *, trial: bool = False, face: Face | None = None
    ) -> Session:
        """Return a session that is not begun. A `trial` uses a login that there is, begins none, and relays nothing.

        face: of the host whose instance it is of.
        """
        name = plan.name
        hooks = Hooks(
            on_call=_log_call,
            on_garbage=partial(self._garbage, plan),
            on_misfit=_log_misfit,
            on_odd=_log_odd,
            on_second=_log_second,
            on_fault=lambda fault: log.error("callback_failed", server=name, exc_info=fault),
            scrub=self._scrub,
            on_notification=self._notified,
        )
        return Session(
            name,
            plan,
            self._transport(plan, trial=trial),
            events,
            memory=memory,
            hooks=hooks,
            on_lists_changed=partial(self._lists_changed, name),
            relays=self._relays() and not trial,
            face=face,
        )

    def program(self, plan: ServerPlan, launch: StdioLaunch) -> StdioTransport:
        """Return the transport of a local program that is tried, which need not be the one of the plan."""
        return open_program(replace(plan, launch=launch), self._given(plan.name, trial=True))

    def _transport(self, plan: ServerPlan, *, trial: bool) -> Transport:
        transport: Transport = plan.kind.code(plan.kind.opens)(plan, self._given(plan.name, trial=trial))
        return transport

    def _given(self, name: str, *, trial: bool) -> Given:
        return Given(
            tasks=self._tasks(),
            warden=self._warden,
            over_http=self._remotes.transport,
            scrub=self._scrub,
            on_stderr_line=partial(_log_stderr, name),
            on_stderr_dropped=lambda n: stderr_log.warning("stderr_lines_dropped", server=name, count=n),
            on_oversized=lambda n: garbage_log.warning("messages_over_max_message_bytes", server=name, count=n),
            trial=trial,
        )

    def _garbage(self, plan: ServerPlan, reason: str, sample: str) -> None:
        garbage_log.debug("message_ignored", server=plan.name, reason=reason, sample=sample)
        if not plan.kind.is_program and reason == NOT_JSON and plan.name not in self._unreadable:
            self._unreadable.add(plan.name)  # a body that is cut or a page; without the sample, which may hold anything
            garbage_log.warning("answer_is_not_json", server=plan.name)


def _log_stderr(server: str, line: str) -> None:
    # A line for each heartbeat is most of what some servers write, and nobody but us has caused it.
    tell = stderr_log.debug if is_of_heartbeat(line) else stderr_log.info
    tell("stderr", server=server, line=line)


def _log_misfit(server: str, tool: str, hint: str) -> None:
    log.warning("tool_cannot_ask", server=server, tool=tool[:MAX_TOOL_CHARS], hint=hint)


def _log_odd(server: str, words: str) -> None:
    log.warning("server_is_odd", server=server, what=words)


def _log_second(server: str, what: str, words: str) -> None:
    log.info("second_session", server=server, what=what, **({"version": words} if what == "opened" else {"why": words}))


def _log_call(server: str, tool: str, duration_ms: float, outcome: str, host: HostSeen | None) -> None:
    log_call((server, tool[:MAX_TOOL_CHARS], outcome, host), duration_ms)
