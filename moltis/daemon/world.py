"""The daemon: every part of it, put together.

    moltis.toml -> Plan -> Supervisor -> Actor -> Session -> StdioTransport -> Warden -> the server
                                                          -> Remotes: RemoteTransport, Login -> the server

Only this package constructs things. Time and chance enter here.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec.structs import replace

from moltis import __version__, logs, logtail
from moltis.config.load import Loaded
from moltis.config.overrides import EnvOverrides
from moltis.config.plan import Plan, PlanDiff, ServerPlan
from moltis.daemon.auth import KnownSecrets
from moltis.daemon.configuration import Configuration
from moltis.daemon.eras import Eras
from moltis.daemon.guard import kept_up
from moltis.daemon.hosts import Hosts
from moltis.daemon.remotes import Remotes
from moltis.daemon.servers import Servers, Trials
from moltis.daemon.session_factory import SessionFactory
from moltis.daemon.watch import Watch
from moltis.operations.api import DaemonStatus
from moltis.operations.events import EventBus, ListsChanged, Logged, StateMoved
from moltis.paths import Paths
from moltis.redaction import Scrubber
from moltis.server.life import LifeEvents
from moltis.server.states import NOT_NEEDED, UNWELL, State
from moltis.server.status import HistoryEntry
from moltis.server.supervisor import Supervisor
from moltis.service import Notifier
from moltis.session.listing import Kind
from moltis.session.session import Session
from moltis.threads import in_thread
from moltis.times import stamp
from moltis.transport.containment import Claim, Warden
from moltis.transport.spawned import rss_bytes

if TYPE_CHECKING:
    from moltis.daemon.projects import Projects
    from moltis.daemon.serving import Serving

log = logs.get("moltis.daemon")
lifecycle_log = logs.get("moltis.mcp.lifecycle")

FLUSH_SECS = 0.2
"""For what is still to be written when the daemon ends."""


class Daemon:
    """The running daemon; fits `operations.api.DaemonApi`. All methods are called on the event loop.

    Its parts do what they are asked; that one hears of another is arranged here.
    """

    def __init__(
        self,
        paths: Paths,
        loaded: Loaded,
        overrides: EnvOverrides,
        scrubber: Scrubber,
        sink: logs.LogSink,
        *,
        max_descriptors: int | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.events = EventBus()
        self.ending = anyio.Event()
        self.warden = Warden(max_descriptors=max_descriptors, claim=Claim(paths.claim))
        self.notifier = Notifier()
        self.watch = Watch()
        self.supervisor: Supervisor[Session] = Supervisor(
            self._begin,
            max_concurrent_starts=loaded.plan.daemon.max_concurrent_starts,
            clear=self.warden.claim.wait,
            wall=partial(datetime.now, UTC),
            roll=random.random,
            on_transition=self._moved,
            unseen=lambda plan: self.hosts.unseen(plan),
        )
        self._paths = paths
        self._tasks: TaskGroup | None = None
        self._started_at = datetime.now(UTC)
        self._started = anyio.current_time()
        self._eras = Eras(paths.known_dir)
        self._secrets = KnownSecrets(scrubber, loaded.plan.secrets)
        self.configuration = Configuration(paths, loaded, overrides, self.events, self._put_in_force, self.ending)
        self.logins = Remotes(paths, self.warden, self._secrets, self.supervisor, self.events)
        self.hosts = Hosts(self._serving, sockets, self.ending)
        remotes, configuration = self.logins, self.configuration
        self._sessions = SessionFactory(
            self.warden,
            remotes,
            self._secrets.text,
            tasks=self._hosting_tasks,
            relays=lambda: configuration.plan.gateway.enabled,
            lists_changed=self._lists_changed,
            notified=self.hosts.notified,
        )
        trials = Trials(self.supervisor, configuration, self._sessions, self._eras, remotes, self._secrets)
        self.servers = Servers(self.supervisor, configuration, remotes, self.hosts, trials, self._secrets.text)
        self._thread = threading.get_ident()
        self._sink = sink
        sink.listener = self._logged

    # --- life

    def start(self, tasks: TaskGroup) -> None:
        """Begin to supervise; the supervisor and the warden run already. `tasks` hosts what belongs to no server."""
        self._tasks = tasks
        plan = self.configuration.plan
        self.configuration.report(self.configuration.loaded.problems)
        if not self.warden.claim.take():
            log.info("earlier_servers_are_ending")  # of a daemon that was killed: none is started beside them
        self.logins.start(tasks, plan)
        self.supervisor.apply(plan)
        tasks.start_soon(kept_up, self._eras.run, "eras")
        log.info("daemon_started", version=__version__, pid=os.getpid(), servers=len(self.supervisor.names()))

    async def open_gateway(self) -> None:
        """Serve hosts, if `[gateway]` says so."""
        await self.hosts.go_by(self.configuration.plan)

    async def reload_quietly(self, why: str) -> None:
        """Reload for no caller: what is wrong goes to the log, and the old configuration stays."""
        if self.ending.is_set() or self.configuration.reloads_soon:
            return
        self.notifier.reloading()
        await self.configuration.reload_quietly(why)
        self.notifier.ready(self.summary())

    def shutdown(self) -> None:
        self.ending.set()

    async def keep_eras(self) -> None:
        """Write what was learnt of the servers and is not written yet; at most `FLUSH_SECS`."""
        with anyio.move_on_after(FLUSH_SECS):
            await self._eras.write()

    def summary(self) -> str:
        """Say in one line how the servers are."""
        counts = self.supervisor.counts()
        disabled = counts.get(State.DISABLED, 0)
        idle = counts.get(State.IDLE, 0)
        total = sum(counts.values()) - disabled - idle
        return f"{counts.get(State.READY, 0)} of {total} servers ready{f', {idle} idle' if idle else ''}"

    def stop_secs(self) -> float:
        """Return the longest that a graceful end of all servers may take."""
        limits = [actor.plan.limits for actor in self.supervisor] or [self.configuration.plan.defaults]
        return max(each.stop_eof_secs + each.stop_term_secs for each in limits)

    # --- what operations ask

    def status(self) -> DaemonStatus:
        counts = self.supervisor.counts()
        return DaemonStatus(
            name="moltis",
            version=__version__,
            pid=os.getpid(),
            started_at=stamp(self._started_at),
            uptime_secs=round(anyio.current_time() - self._started, 3),
            config_path=str(self._paths.config),
            data_dir=str(self._paths.data_dir),
            socket_path=str(self._paths.socket),
            gateway_url=self.hosts.url,
            gateway_problem=self.hosts.problem,
            rss_bytes=rss_bytes(os.getpid()),
            servers={"total": sum(counts.values())} | {str(state): counts.get(state, 0) for state in State},
        )

    async def log_tail(self, limit: int, server: str | None, level: str | None) -> list[msgspec.Raw]:
        """Return the last records, among them whatever was logged before they were asked for."""

        def read() -> list[logtail.Record]:
            self._sink.flush()
            return logtail.tail(self._paths.log, limit, server=server, level=level)

        return [msgspec.Raw(msgspec.json.encode(record)) for record in await in_thread(read)]

    @cached_property
    def projects(self) -> Projects:
        """The projects."""
        # Imported here: most daemons have none.
        from moltis.daemon.projects import Projects

        return Projects(self.configuration, self.logins.forget)

    # --- what parts ask of each other

    async def _put_in_force(self, plan: Plan) -> PlanDiff:
        """Have every part go on by another plan."""
        self._secrets.plan(plan.secrets)
        self.logins.apply(plan)
        change = self.supervisor.apply(plan)
        await self.hosts.go_by(plan)
        daemon = plan.daemon
        logs.reconfigure(level=daemon.log_level, max_bytes=daemon.log_max_bytes, backups=daemon.log_backups)
        self._eras.retain(plan)
        return change

    def _begin(self, plan: ServerPlan, events: LifeEvents) -> Session:
        memory = self._eras.of(replace(plan, name=plan.entry, template=None))
        return self._sessions.make(plan, events, memory, face=self.hosts.face(plan.name))

    def _hosting_tasks(self) -> TaskGroup:
        assert self._tasks is not None, "start() comes first"
        return self._tasks

    def _serving(self, plan: Plan) -> Serving:
        # Imported here: a daemon without its gateway has no use for it.
        from moltis.daemon.serving import Serving

        return Serving(
            self._paths,
            plan,
            self.supervisor,
            self._hosting_tasks(),
            status=lambda name: self.servers.one(name).status(),
            statuses=lambda: [server.status() for server in self.servers.all()],
            changed=lambda: self.notifier.status(self.summary()),
            scrub=self._secrets.text,
            watch=self.watch,
        )

    def _lists_changed(self, name: str, kinds: frozenset[Kind]) -> None:
        self.events.publish(ListsChanged(server=name, lists=sorted(kind.name.lower() for kind in kinds)))
        self.hosts.lists_changed(name)

    def _logged(self, line: bytes) -> None:
        # Records of other threads (there are few: a file read, a library's warning) are in the file only.
        if self.events.wants("log") and threading.get_ident() == self._thread:
            self.events.publish(Logged(record=msgspec.Raw(line.rstrip())))

    def _moved(self, name: str, entry: HistoryEntry) -> None:
        fields: dict[str, Any] = msgspec.to_builtins(entry)
        fields.pop("at")
        tell = lifecycle_log.warning if entry.to in UNWELL else lifecycle_log.info
        tell("server_state_changed", server=name, **fields)
        if self.events.wants("state"):
            self.events.publish(StateMoved(server=name, **msgspec.structs.asdict(entry)))
        if self.notifier.enabled:
            self.notifier.status(self.summary())
        if entry.to == State.STOPPING and entry.reason == NOT_NEEDED:
            self.servers.not_needed(name, entry.pid)
        plan = self.supervisor.plan_of(name)
        if plan is not None:  # one that was removed is ended all the same
            self.hosts.server_moved(plan, State(entry.to))
        self.logins.server_moved(name, entry)
