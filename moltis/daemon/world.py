"""The daemon: every part of it, put together, and what the control methods may ask of it.

    moltis.toml -> Plan -> Supervisor -> Actor -> Session -> StdioTransport -> Warden -> the server
                                                          -> Remotes: RemoteTransport, Login -> the server

Only this package constructs things. Time and chance enter here.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from moltis import __version__, logs, logtail
from moltis.config.load import Loaded, load, plan_entry
from moltis.config.overrides import EnvOverrides
from moltis.config.plan import ServerPlan, changed_sections
from moltis.config.problem import Problem
from moltis.config.scan import Path
from moltis.daemon.eras import Eras
from moltis.daemon.guard import kept_up
from moltis.daemon.remotes import Auth, Remotes, Surroundings
from moltis.daemon.servers import UNDER_WAY_NO_MORE, Server, ask_running, try_once
from moltis.daemon.watch import Watch
from moltis.errors import Busy, ConfigError, MoltisError, NotPermitted, SystemTrouble, UnknownServer
from moltis.lastwords import is_of_heartbeat
from moltis.operations.api import DaemonStatus, Reloaded, Tried
from moltis.operations.events import ConfigChanged, EventBus, ListsChanged, Logged, LoginMoved, StateMoved
from moltis.paths import Paths
from moltis.redaction import Scrubber
from moltis.server.life import LifeEvents
from moltis.server.lifecycle import AuthDone
from moltis.server.record import stamp
from moltis.server.states import AT_REST, UNWELL, FailureKind, State
from moltis.server.status import HistoryEntry, HostSeen
from moltis.server.supervisor import Supervisor
from moltis.service import Notifier
from moltis.session.envelope import NOT_JSON
from moltis.session.facts import Events
from moltis.session.handshake import EraMemory
from moltis.session.hooks import Hooks
from moltis.session.listing import Kind
from moltis.session.session import Session
from moltis.threads import in_thread
from moltis.transport import Transport
from moltis.transport.claim import Claim
from moltis.transport.containment import Warden
from moltis.transport.kinds import Given
from moltis.transport.stdio import open_program

if TYPE_CHECKING:
    from moltis.daemon.serving import Serving
    from moltis.gateway.api import GatewayApi
    from moltis.gateway.gateway import Gateway
    from moltis.gateway.tokens import Created, Scope, TokenInfo

log = logs.get("moltis.daemon")
lifecycle_log = logs.get("moltis.mcp.lifecycle")
stderr_log = logs.get("moltis.mcp.stderr")
log_call = logs.repeated("moltis.mcp.call", "tool_called", ("server", "tool", "outcome", "host"), "duration_ms")
garbage_log = logs.get("moltis.mcp.garbage")
config_log = logs.get("moltis.config")
oauth_log = logs.get("moltis.oauth")

MAX_LEARNT_SECRETS = 16
"""Of one server: what came up since the start (tokens, codes) and is kept out of what servers print. The oldest go
first; a login has at most a handful in use, and names each anew when it begins to use it."""

MAX_TOOL_CHARS = 256
"""Of a tool's name in the log: a host can call any name."""

FLUSH_SECS = 0.2
"""For what is still to be written when the daemon ends."""

SECOND_COPY = "it is running, and may not allow a second copy: without --copy the running one is asked"
TRIED = " tried"
"""Whose secrets those of `mcp.test` are; no server has such a name."""


class Daemon:
    """The running daemon; fits `operations.api.DaemonApi`. All methods are called on the event loop."""

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
        self._paths = paths
        self._loaded = loaded
        self._overrides = overrides
        self._scrubber = scrubber
        self._unreadable: set[str] = set()
        self._thread = threading.get_ident()
        self._sink = sink
        sink.listener = self._logged
        self._eras = Eras(paths.known_dir)
        self._learnt: dict[str, deque[str]] = {}
        self._renewed: set[str] = set()
        """Whose login was renewed since they were started last."""
        self._reloading = anyio.Lock()
        self._reload_waits = False
        self._remotes = Remotes(
            Surroundings(
                paths, self.warden, scrubber.text, self._learn, self._login_moved, self._logged_in, self._login_renewed
            )
        )
        self._serving: Serving | None = None
        self._sockets = sockets
        self._tasks: TaskGroup | None = None
        self._started_at = datetime.now(UTC)
        self._started = anyio.current_time()
        self.supervisor: Supervisor[Session] = Supervisor(
            self._begin,
            max_concurrent_starts=loaded.plan.daemon.max_concurrent_starts,
            clear=self.warden.claim.wait,
            wall=partial(datetime.now, UTC),
            roll=random.random,
            on_transition=self._moved,
        )

    # --- life

    def start(self, tasks: TaskGroup) -> None:
        """Begin to supervise; the supervisor and the warden run already. `tasks` hosts what belongs to no server."""
        self._tasks = tasks
        self._report(self._loaded.problems)
        if not self.warden.claim.take():
            log.info("earlier_servers_are_ending")  # of a daemon that was killed: none is started beside them
        self._remotes.start(tasks, self._loaded.plan)
        self.supervisor.apply(self._loaded.plan)
        tasks.start_soon(kept_up, self._eras.run, "eras")
        log.info("daemon_started", version=__version__, pid=os.getpid(), servers=len(self.supervisor.names()))

    async def open_gateway(self) -> None:
        """Serve hosts, if `[gateway]` says so."""
        plan = self._loaded.plan
        if self._serving is not None or not plan.gateway.enabled or self.ending.is_set():
            return
        assert self._tasks is not None, "start() comes first"
        from moltis.daemon.serving import Serving

        self._serving = Serving(
            self._paths,
            plan,
            self.supervisor,
            self._tasks,
            status=lambda name: self.server(name).status(),
            statuses=lambda: [server.status() for server in self.servers()],
            changed=lambda: self.notifier.status(self.summary()),
            scrub=self._scrubber.text,
            watch=self.watch,
        )
        sockets, self._sockets = self._sockets, ()
        await self._serving.start(sockets)

    async def close_gateway(self) -> None:
        """Serve hosts no more; at most a moment."""
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.aclose()

    async def keep_eras(self) -> None:
        """Write what was learnt of the servers and is not written yet; at most `FLUSH_SECS`."""
        with anyio.move_on_after(FLUSH_SECS):
            await self._eras.write()

    def refuse_requests(self) -> None:
        """Take no more requests of hosts: the servers are about to be stopped."""
        if self._serving is not None:
            self._serving.begin_to_close()

    def shutdown(self) -> None:
        self.ending.set()

    async def close_logins(self) -> None:
        """End what is under way of logins; at most 2 s."""
        await self._remotes.aclose()

    def summary(self) -> str:
        """Say in one line how the servers are."""
        counts = self.supervisor.counts()
        disabled = counts.get(State.DISABLED, 0)
        total = sum(counts.values()) - disabled
        return f"{counts.get(State.READY, 0)} of {total} servers ready"

    def stop_secs(self) -> float:
        """Give the longest that a graceful end of all servers may take."""
        limits = [actor.plan.limits for actor in self.supervisor] or [self._loaded.plan.defaults]
        return max(each.stop_eof_secs + each.stop_term_secs for each in limits)

    # --- what the control methods ask

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
            gateway_url=self._serving.url if self._serving is not None else None,
            gateway_problem=self._serving.problem if self._serving is not None else None,
            servers={"total": sum(counts.values())} | {str(state): counts.get(state, 0) for state in State},
        )

    def servers(self) -> Sequence[Server]:
        gateway = self._gateway_open()
        return [Server(actor, self._remotes.auth(actor.plan.name), gateway) for actor in self.supervisor]

    def server(self, name: str) -> Server:
        return Server(self.supervisor.actor(name), self._remotes.auth(name), self._gateway_open())

    def _gateway_open(self) -> Gateway | None:
        return self._serving.gateway if self._serving is not None else None

    async def reload(self) -> Reloaded:
        async with self._changing():
            return await self._reload()

    async def add_server(self, name: str, entry: Mapping[str, Any]) -> None:
        await self._edit("add_server", name, dict(entry))

    async def update_server(self, name: str, changes: Mapping[str, Any]) -> None:
        self.supervisor.actor(name)
        for key in changes:
            self._check_is_the_files(("mcp", "servers", name, key))
        await self._edit("update_server", name, dict(changes))

    async def remove_server(self, name: str) -> None:
        plan = self.supervisor.actor(name).plan
        await self._edit("remove_server", name)
        await self._remotes.forget(plan, self.supervisor.plan)

    async def set_enabled(self, name: str, enabled: bool) -> None:
        actor = self.supervisor.actor(name)
        self._check_is_the_files(("mcp", "servers", name, "enabled"))
        await self._edit("set_enabled", name, enabled)
        if enabled:
            actor.start("enabled", forgive=True)
        await actor.wait_handled()

    async def set_request_timeout_secs(self, secs: float) -> None:
        self._check_is_the_files(("mcp", "request_timeout_secs"))
        await self._edit("set_mcp", "request_timeout_secs", secs)

    def request_timeout_secs(self) -> float:
        return self._loaded.plan.defaults.request_timeout_secs

    async def try_server(
        self, name: str, entry: Mapping[str, Any] | None, *, copy: bool = False, sdk: bool = False
    ) -> Tried:
        copy = copy or sdk  # two starts are compared, of which the SDK's is a copy in any case
        actor = self.supervisor.actor(name) if entry is None else None
        if actor is not None and not copy:
            await actor.wait_state(*UNDER_WAY_NO_MORE)  # two of them at once may be one too many
        if actor is not None and actor.ready_life is not None:
            if not copy:
                return await ask_running(actor.plan, actor.ready_life, self._scrubber.text)
            tried = await self._try_once(name, entry, sdk=sdk)
            return tried if tried.ok else msgspec.structs.replace(tried, error=f"{tried.error}; {SECOND_COPY}")
        return await self._try_once(name, entry, sdk=sdk)

    async def _try_once(self, name: str, entry: Mapping[str, Any] | None, *, sdk: bool) -> Tried:
        known = self.supervisor.actor(name).plan if entry is None else None
        if known is None:
            planned = plan_entry(name, entry or {}, self._loaded.base)
            self._learn(TRIED, planned.secrets)
            known = planned.server
        own = self.supervisor.plan.server(name)
        is_own = own is not None and own.launch_mark == known.launch_mark
        memory = self._eras.of(known) if is_own else EraMemory()
        trial = await try_once(known, lambda p, events: self._session(p, events, memory, trial=True))
        if not sdk or known.launch is None:
            return trial.tried
        # Imported here: most daemons never ask it.
        from moltis.daemon.second_opinion import second_opinion

        return await second_opinion(
            known,
            trial,
            partial(self._remotes.held, known),
            lambda launch: open_program(replace(known, launch=launch), self._given(name, trial=True)),
            self._scrubber.text,
        )

    async def begin_login(self, name: str, *, new_client: bool = False) -> str | None:
        return await self._remotes.begin(self.supervisor.actor(name).plan, new_client=new_client)

    async def end_login(self, name: str, *, forget_client: bool) -> None:
        plan = self.supervisor.actor(name).plan
        for shared in await self._remotes.log_out(plan, self.supervisor.plan, forget_client=forget_client):
            with suppress(UnknownServer):
                actor = self.supervisor.actor(shared)
                if actor.state not in AT_REST:
                    actor.restart("logged_out")
                    await actor.wait_handled()

    async def complete_login(
        self, callback_url: str | None, *, state: str | None, code: str | None, iss: str | None, error: str | None
    ) -> str:
        return await self._remotes.complete(callback_url, state=state, code=code, iss=iss, error=error)

    def gateway(self) -> GatewayApi | None:
        if self._serving is None and self._loaded.plan.gateway.enabled:
            raise Busy("the daemon is starting or stopping", hint="try again in a moment")
        return self._serving.gateway if self._serving is not None else None

    async def create_token(self, name: str, scope: Scope, expires_days: float | None) -> Created:
        return await in_thread(self._open_serving().tokens.create, name, scope, expires_days)

    async def tokens(self) -> list[TokenInfo]:
        serving = self._open_serving()
        await serving.reread_tokens()
        return serving.tokens.tokens()

    async def revoke_token(self, name: str) -> None:
        await self._open_serving().revoke_token(name)

    def _open_serving(self) -> Serving:
        if self._serving is None:
            told = "the gateway is switched off"
            raise ConfigError(told, hint="set enabled = true in [gateway] of moltis.toml")
        return self._serving

    def env_names(self) -> list[str]:
        return sorted(self._overrides.names())

    async def set_env(self, name: str, value: str) -> None:
        async with self._changing():
            await in_thread(self._overrides.set, name, value)
            await self._reload()

    async def unset_env(self, name: str) -> bool:
        async with self._changing():
            known = await in_thread(self._overrides.unset, name)
            await self._reload()
            return known

    async def log_tail(self, limit: int, server: str | None, level: str | None) -> list[msgspec.Raw]:
        """Return the last records, among them whatever was logged before they were asked for."""

        def read() -> list[logtail.Record]:
            self._sink.flush()
            return logtail.tail(self._paths.log, limit, server=server, level=level)

        return [msgspec.Raw(msgspec.json.encode(record)) for record in await in_thread(read)]

    # --- configuration

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Be the only one to change what is to run; nobody does once the daemon is stopping.

        Raises:
            NotPermitted: it is.
        """
        async with self._reloading:
            if self.ending.is_set():
                raise NotPermitted("the daemon is stopping, and changes nothing any more")
            yield

    async def reload_quietly(self, why: str) -> None:
        """Reload for no caller: what is wrong goes to the log, and the old configuration stays."""
        if self.ending.is_set() or self._reload_waits:
            return
        self.notifier.reloading()
        self._reload_waits = True  # for its turn: what comes meanwhile is read with it
        try:
            async with self._changing():
                self._reload_waits = False
                await self._reload()
        except MoltisError as error:
            config_log.error("reload_failed", why=why, error=error.message, hint=error.hint)
        except OSError as error:
            config_log.error("reload_failed", why=why, error=SystemTrouble.of(error).message)
        except Exception:
            config_log.error("reload_failed", why=why, error="a fault of moltis", exc_info=True)
        finally:
            self._reload_waits = False
        self.notifier.ready(self.summary())

    async def _reload(self) -> Reloaded:
        loaded = await in_thread(self._read, abandon_on_cancel=True)
        loaded.plan.gateway.refuse_if_open()
        known = set(self._loaded.problems)
        self._report([problem for problem in loaded.problems if problem not in known])
        sections = list(changed_sections(self._loaded.plan, loaded.plan))
        self._loaded = loaded
        # What was a secret stays one: a server that is being stopped may still print it.
        plan = replace(loaded.plan, secrets=self.supervisor.plan.secrets | loaded.plan.secrets)
        self._scrubber.update(plan.secrets.union(*self._learnt.values()))
        self._remotes.apply(plan)
        change = self.supervisor.apply(plan)
        if self._serving is not None and plan.gateway.enabled:
            self._serving.apply(plan)
            await self._serving.reread_tokens()
        elif self._serving is not None:
            await self.close_gateway()
        else:
            await self.open_gateway()
        daemon = plan.daemon
        logs.reconfigure(level=daemon.log_level, max_bytes=daemon.log_max_bytes, backups=daemon.log_backups)
        self._eras.retain(plan)
        self._renewed.difference_update(change.removed)
        done = Reloaded(**{key: list(names) for key, names in asdict(change).items()})
        told = {"added": done.added, "changed": done.changed, "removed": done.removed, "sections": sections}
        if any(told.values()):
            log.info("config_reloaded", **told)
            self.events.publish(ConfigChanged(**told, server=None))
        return done

    def _read(self) -> Loaded:
        return load(self._paths.config, self._overrides.values(), os.environ)

    async def _edit(self, function: str, *arguments: Any) -> None:
        # Imported here: most daemons never edit, and it is kept in memory for months.
        from moltis.config import edit

        async with self._changing():
            await in_thread(partial(getattr(edit, function), self._paths.config, *arguments))
            await self._reload()

    def _check_is_the_files(self, path: Path) -> None:
        """Refuse to change a key in the file that a variable sets: the change would not be in force.

        Raises:
            ConfigError: one does.
        """
        if variable := self._loaded.variables.get(path):
            told = f"{variable} in the daemon's environment sets {path[-1]}, and wins over moltis.toml"
            raise ConfigError(told, hint=f"start the daemon without {variable}")

    def _report(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            tell = config_log.error if problem.severity == "error" else config_log.warning
            tell("config_problem", file=str(problem.file), line=problem.line, key=problem.key, problem=problem.message)

    # --- servers

    def _begin(self, plan: ServerPlan, events: LifeEvents) -> Session:
        return self._session(plan, events, self._eras.of(plan))

    def _transport(self, plan: ServerPlan, *, trial: bool) -> Transport:
        transport: Transport = plan.kind.code(plan.kind.opens)(plan, self._given(plan.name, trial=trial))
        return transport

    def _given(self, name: str, *, trial: bool) -> Given:
        assert self._tasks is not None, "start() comes first"
        return Given(
            tasks=self._tasks,
            warden=self.warden,
            over_http=self._remotes.transport,
            scrub=self._scrubber.text,
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

    def _session(self, plan: ServerPlan, events: Events, memory: EraMemory, *, trial: bool = False) -> Session:
        name = plan.name
        hooks = Hooks(
            on_call=_log_call,
            on_garbage=partial(self._garbage, plan),
            on_misfit=_log_misfit,
            on_odd=_log_odd,
            on_second=_log_second,
            on_fault=lambda fault: log.error("callback_failed", server=name, exc_info=fault),
            scrub=self._scrubber.text,
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
            relays=self._loaded.plan.gateway.enabled and not trial,
        )

    def _lists_changed(self, name: str, kinds: frozenset[Kind]) -> None:
        self.events.publish(ListsChanged(server=name, lists=sorted(kind.name.lower() for kind in kinds)))
        if self._serving is not None:
            self._serving.lists_changed(name)

    def _notified(self, name: str, method: str, params: bytes) -> None:
        if self._serving is not None:
            self._serving.gateway.notified(name, method, params)

    # --- logins

    def _learn(self, server: str, secrets: Iterable[str]) -> None:
        known = self._learnt.setdefault(server, deque(maxlen=MAX_LEARNT_SECRETS))
        for secret in secrets:
            if secret in known:
                known.remove(secret)
            known.append(secret)
        self._scrubber.update(self.supervisor.plan.secrets.union(*self._learnt.values()))

    def _login_moved(self, name: str, auth: Auth) -> None:
        oauth_log.info("login_state_changed", server=name, auth_state=auth.state)  # why is told by who found it out
        if self.events.wants("auth"):
            moved = LoginMoved(server=name, auth_state=auth.state, auth_url=auth.url, message=auth.message)
            self.events.publish(moved)

    def _logged_in(self, name: str) -> None:
        """Have a server that waits for its login begin; one that is ready goes on, with its new token."""
        self._auth_done(name, AuthDone())

    def _login_renewed(self, name: str) -> None:
        """Have a server begin that waits for its login alone; one that is ready goes on."""
        self._renewed.add(name)
        self._auth_done(name, AuthDone(person=False))

    def _auth_done(self, name: str, event: AuthDone) -> None:
        with suppress(UnknownServer):
            actor = self.supervisor.actor(name)
            actor.post(event)
            if actor.ready_life is not None:
                actor.ready_life.let_in()

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
        plan = self.supervisor.plan.server(name)
        if self._serving is not None and plan is not None:  # one that was removed is ended all the same
            self._serving.server_moved(plan, State(entry.to))
        if entry.to in AT_REST:
            self._remotes.rest(name)
        if entry.to == State.STARTING:
            self._renewed.discard(name)
        # The login may have been quicker than the end of the run that asked for it.
        waits = entry.to == State.AWAITING_AUTH and self._remotes.auth(name).state == "authenticated"
        if waits or (entry.reason == FailureKind.LOGIN_UNAVAILABLE and name in self._renewed):
            self._login_renewed(name)


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
