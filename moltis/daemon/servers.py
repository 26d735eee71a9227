"""The servers of one daemon: how they are, what is done with them, and what is written of them in moltis.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import msgspec

from moltis.config.load import plan_entry
from moltis.config.plan import ServerPlan
from moltis.daemon.auth import NO_AUTH, Auth, KnownSecrets
from moltis.daemon.configuration import Configuration
from moltis.daemon.eras import Eras
from moltis.daemon.hosts import Hosts
from moltis.daemon.remotes import Remotes
from moltis.daemon.session_factory import SessionFactory
from moltis.daemon.trials import ask_running, try_once
from moltis.errors import UsageError
from moltis.jsonrpc import json_string
from moltis.names import section_of
from moltis.operations.api import Tried
from moltis.server.actor import Actor
from moltis.server.states import AT_REST, LOGIN_FAILED, SETTLING, STARTING, FailureKind, State
from moltis.server.status import HistoryEntry, LastError, ServerStatus
from moltis.server.supervisor import Supervisor
from moltis.session.handshake import EraMemory
from moltis.session.listing import Item, Kind, ToolFilter, with_server, without_secrets
from moltis.session.session import Session
from moltis.times import stamp
from moltis.transport.spawned import tree_rss_bytes

_UP = STARTING | {State.READY}
"""Where what is known of the login says more than the last failure."""
ENDS_SOON_SECS = 7 * 86_400.0
"""From how long before its end a login that cannot be renewed is told of."""
STOP_MARGIN_SECS = 3.0
"""Past the server's own stop deadlines: by then it has been killed, and swept after."""
UNDER_WAY_NO_MORE = tuple(state for state in State if state not in SETTLING)
"""Where a server is ready, or nothing of it is left."""
SECOND_COPY = "it is running, and may not allow a second copy: without --copy the running one is asked"
TRIED = " tried"
"""Whose secrets those of `mcp.test` are; no server has such a name."""


class Server:
    """A supervised server; fits `operations.api.ServerApi`."""

    def __init__(
        self,
        actor: Actor[Session],
        auth: Auth,
        hosts: Hosts,
        scrub: Callable[[str], str],
        rss_idle: Mapping[str, int | None],
        instances: Sequence[Actor[Session]] = (),
    ) -> None:
        self._actor = actor
        self._instances = instances
        self._rss_idle = rss_idle
        self._auth = auth
        self._hosts = hosts
        self._scrub = scrub

    def status(self, *, measured: bool = False) -> ServerStatus:
        status, auth = self._actor.status(), self._auth
        if measured and self._actor.plan.kind.is_program:
            held = None if status.pid is None else tree_rss_bytes(status.pid)
            idle = self._rss_idle.get(status.name) if status.state == State.IDLE else None
            status = msgspec.structs.replace(status, rss_bytes=held, rss_idle_bytes=idle)
        if status.state == State.IDLE:
            tools, resources, prompts = (len(self._known(k)) for k in (Kind.TOOLS, Kind.RESOURCES, Kind.PROMPTS))
            status = msgspec.structs.replace(status, tool_count=tools, resource_count=resources, prompt_count=prompts)
        unusable, hosts = status.unusable_items, status.hosts
        gateway = self._hosts.served_by
        if gateway is not None:
            unusable, hosts = gateway.unusable(status.name), gateway.seen_of(status.name)
        if auth is NO_AUTH:
            return msgspec.structs.replace(status, unusable_items=unusable, hosts=hosts)
        told, retry_at = status.last_error, status.next_retry_at
        waiting_for = told.kind if told is not None and status.state == State.BACKOFF else None
        waits = waiting_for == FailureKind.LOGIN_UNAVAILABLE
        if auth.unavailable and (waits or status.state in _UP):
            told = LastError(kind=FailureKind.LOGIN_UNAVAILABLE, message=auth.message or "", at=auth.at)
            retry_at = auth.next_try_at
        elif auth.unavailable:
            pass  # what it waits for is something else
        elif auth.message and waiting_for != FailureKind.LOCKED_OUT:
            told = LastError(kind=LOGIN_FAILED, message=auth.message, at=auth.at)
        return msgspec.structs.replace(
            status,
            auth_state=auth.state,
            auth_url=auth.url,
            last_error=told,
            next_retry_at=retry_at,
            unusable_items=unusable,
            hosts=hosts,
            remarks=[*status.remarks, *_login_ends(status.name, auth.ends_at, datetime.now(UTC))],
        )

    def history(self, limit: int | None = None) -> list[HistoryEntry]:
        return self._actor.history(limit)

    def session(self) -> Session | None:
        return self._actor.ready_life

    def last_listed(self, kind: Kind) -> Iterable[bytes] | None:
        plan = self._actor.plan
        if self._actor.state is not State.IDLE or self._hosts.known(plan) is None:
            return None
        name = json_string(plan.name)
        return (with_server(item, name) for item in without_secrets(self._known(kind), self._scrub))

    def _known(self, kind: Kind) -> Sequence[Item]:
        """Return what it listed when it was last ready, less what its filter keeps back; nothing where nobody knows."""
        plan = self._actor.plan
        known = self._hosts.known(plan)
        items = () if known is None else known.of(kind)
        if kind is not Kind.TOOLS or not (plan.include_tools or plan.exclude_tools):
            return items
        allowed = ToolFilter(plan.include_tools, plan.exclude_tools)
        return [item for item in items if allowed.allows(item.name)]

    def wakes(self) -> bool:
        return self._actor.wakes

    @contextmanager
    def held(self) -> Iterator[None]:
        self._actor.hold()
        try:
            yield
        finally:
            self._actor.release()

    async def wait_settled(self) -> None:
        await self._actor.wait_handled()
        await self._actor.wait_state(*UNDER_WAY_NO_MORE)

    async def start(self) -> None:
        self._actor.start()
        await self._actor.wait_handled()

    async def stop(self) -> None:
        limits = self._actor.plan.limits
        for each in self._all():
            each.stop()
        with anyio.move_on_after(limits.stop_eof_secs + limits.stop_term_secs + STOP_MARGIN_SECS):
            for each in self._all():
                await each.wait_handled()
                await each.wait_state(*AT_REST)
        for instance in self._instances:
            self._hosts.end_instance(instance.plan.name)

    async def restart(self) -> None:
        for each in self._all():
            each.restart()
        await self._actor.wait_handled()

    def _all(self) -> list[Actor[Session]]:
        """Return it, and its instances where it has such: what is done with it is done with them."""
        return [self._actor, *self._instances]


def _login_ends(name: str, ends_at: float | None, now: datetime) -> list[str]:
    """Say when a login ends that nothing renews, in its last days."""
    if ends_at is None or not now.timestamp() < ends_at <= now.timestamp() + ENDS_SOON_SECS:
        return []
    at = stamp(datetime.fromtimestamp(round(ends_at), UTC)).replace(".000", "")
    return [f"its login ends at {at} and cannot be renewed: moltis mcp reauth {name} makes a new one"]


class Trials:
    """Tries servers, those of moltis.toml and any other."""

    def __init__(
        self,
        supervisor: Supervisor[Session],
        configuration: Configuration,
        sessions: SessionFactory,
        eras: Eras,
        remotes: Remotes,
        secrets: KnownSecrets,
    ) -> None:
        self._supervisor = supervisor
        self._configuration = configuration
        self._sessions = sessions
        self._eras = eras
        self._remotes = remotes
        self._secrets = secrets

    async def try_one(self, name: str, entry: Mapping[str, Any] | None, *, copy: bool, sdk: bool) -> Tried:
        """As `operations.api.ServersApi.try_one`."""
        copy = copy or sdk  # two starts are compared, of which the SDK's is a copy in any case
        actor = self._supervisor.actor(name) if entry is None else None
        if actor is not None and not copy:
            await actor.wait_state(*UNDER_WAY_NO_MORE)  # two of them at once may be one too many
        if actor is not None and actor.ready_life is not None:
            if not copy:
                return await ask_running(actor.plan, actor.ready_life, self._secrets.text)
            tried = await self._start_one(name, entry, sdk=sdk)
            return tried if tried.ok else msgspec.structs.replace(tried, error=f"{tried.error}; {SECOND_COPY}")
        return await self._start_one(name, entry, sdk=sdk)

    async def _start_one(self, name: str, entry: Mapping[str, Any] | None, *, sdk: bool) -> Tried:
        known = self._supervisor.actor(name).plan if entry is None else None
        if known is None:
            planned = plan_entry(name, entry or {}, self._configuration.loaded.base)
            self._secrets.learn(TRIED, planned.secrets)
            known = planned.server
        own = self._supervisor.plan.server(name)
        is_own = own is not None and own.launch_mark == known.launch_mark
        memory = self._eras.of(known) if is_own else EraMemory()
        trial = await try_once(known, lambda p, events: self._sessions.make(p, events, memory, trial=True))
        if not sdk or known.launch is None:
            return trial.tried
        # Imported here: most daemons never ask it.
        from moltis.daemon.second_opinion import second_opinion

        return await second_opinion(
            known,
            trial,
            partial(self._remotes.held, known),
            lambda launch: self._sessions.program(known, launch),
            self._secrets.text,
        )


class Servers:
    """All of them; fits `operations.api.ServersApi`."""

    def __init__(
        self,
        supervisor: Supervisor[Session],
        configuration: Configuration,
        remotes: Remotes,
        hosts: Hosts,
        trials: Trials,
        scrub: Callable[[str], str],
    ) -> None:
        self._supervisor = supervisor
        self._configuration = configuration
        self._remotes = remotes
        self._hosts = hosts
        self._trials = trials
        self._scrub = scrub
        self._rss_idle: dict[str, int | None] = {}

    def all(self) -> list[Server]:
        return [self._server(actor) for actor in self._supervisor]

    def one(self, name: str) -> Server:
        return self._server(self._supervisor.actor(name))

    def _server(self, actor: Actor[Session]) -> Server:
        auth = self._remotes.auth(actor.plan.entry)
        instances = []
        if actor.plan.has_instances:
            instances = [each for each in self._supervisor.of_entry(actor.plan.name) if each is not actor]
        return Server(actor, auth, self._hosts, self._scrub, self._rss_idle, instances)

    def not_needed(self, name: str, pid: int | None) -> None:
        """Take note of what a server holds that is about to be stopped since nobody needs it.

        No instance: that ends for good, and no other has its name.
        """
        if self._supervisor.plan.server(name) is not None:
            self._rss_idle[name] = None if pid is None else tree_rss_bytes(pid)

    def _plan(self, name: str) -> ServerPlan:
        """Return the plan of a server that has an entry in moltis.toml.

        Raises:
            UnknownServer: there is none of that name.
            UsageError: it is an instance.
        """
        plan = self._supervisor.actor(name).plan
        if plan.template is not None:
            told = f"{name} is an instance of {plan.template}, and has no entry of its own in moltis.toml"
            raise UsageError(told, server=name, hint=f"change {plan.template}: that applies to all its instances")
        return plan

    async def add(self, name: str, entry: Mapping[str, Any]) -> None:
        await self._configuration.edit("add_server", name, dict(entry))

    async def update(self, name: str, changes: Mapping[str, Any]) -> None:
        self._plan(name)
        for key in changes:
            self._configuration.check_is_the_files((*section_of(name), key))
        await self._configuration.edit("update_server", name, dict(changes))

    async def remove(self, name: str) -> None:
        plan = self._plan(name)
        await self._configuration.edit("remove_server", name)
        await self._remotes.forget(plan)

    async def set_enabled(self, name: str, enabled: bool) -> None:
        actor = self._supervisor.actor(self._plan(name).name)
        self._configuration.check_is_the_files((*section_of(name), "enabled"))
        await self._configuration.edit("set_enabled", name, enabled)
        if enabled:
            actor.start("enabled", forgive=True)
        await actor.wait_handled()

    async def try_one(
        self, name: str, entry: Mapping[str, Any] | None, *, copy: bool = False, sdk: bool = False
    ) -> Tried:
        return await self._trials.try_one(name, entry, copy=copy, sdk=sdk)
