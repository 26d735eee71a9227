"""moltis.toml and env.toml of a running daemon: read again, and edited, by one at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from msgspec.structs import asdict

from moltis import logs
from moltis.config.load import Loaded, load
from moltis.config.overrides import EnvOverrides
from moltis.config.plan import Plan, PlanDiff, changed_sections
from moltis.config.problem import Problem
from moltis.config.scan import Path
from moltis.errors import ConfigError, MoltisError, NotPermitted, SystemTrouble
from moltis.operations.api import Reloaded
from moltis.operations.events import ConfigChanged, EventBus
from moltis.paths import Paths
from moltis.threads import in_thread

log = logs.get("moltis.daemon")
config_log = logs.get("moltis.config")


class Configuration:
    """What is to run, as the files say; fits `operations.api.ConfigurationApi`.

    put_in_force: has the daemon go on by another plan, and returns what that changed.
    ending: nothing is changed any more once this is set.
    """

    def __init__(
        self,
        paths: Paths,
        loaded: Loaded,
        overrides: EnvOverrides,
        events: EventBus,
        put_in_force: Callable[[Plan], Awaitable[PlanDiff]],
        ending: anyio.Event,
    ) -> None:
        self.loaded = loaded
        self._paths = paths
        self._overrides = overrides
        self._events = events
        self._put_in_force = put_in_force
        self._ending = ending
        self._turn = anyio.Lock()
        self._reload_waits = False

    @property
    def plan(self) -> Plan:
        """What the files said when they were read last."""
        return self.loaded.plan

    # --- what operations ask

    async def reload(self) -> Reloaded:
        async with self._changing():
            return await self._reload()

    def request_timeout_secs(self) -> float:
        return self.plan.defaults.request_timeout_secs

    async def set_request_timeout_secs(self, secs: float) -> None:
        self.check_is_the_files(("mcp", "request_timeout_secs"))
        await self.edit("set_mcp", "request_timeout_secs", secs)

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

    # --- what the daemon asks

    @property
    def reloads_soon(self) -> bool:
        """Whether a reload waits for its turn, which reads whatever the files say by then."""
        return self._reload_waits

    async def reload_quietly(self, why: str) -> None:
        """Reload for no caller: what is wrong goes to the log, and the old configuration stays."""
        self._reload_waits = True
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

    async def edit(self, function: str, *arguments: Any) -> None:
        """Edit moltis.toml by a function of `config.edit`, and put it in force.

        Raises:
            ConfigError: it cannot be edited like this, or written.
            NotPermitted: the daemon is stopping.
        """
        # Imported here: most daemons never edit, and it is kept in memory for months.
        from moltis.config import edit

        async with self._changing():
            await in_thread(partial(getattr(edit, function), self._paths.config, *arguments))
            await self._reload()

    def check_is_the_files(self, path: Path) -> None:
        """Refuse to change a key in the file that a variable sets: the change would not be in force.

        Raises:
            ConfigError: one does.
        """
        if variable := self.loaded.variables.get(path):
            told = f"{variable} in the daemon's environment sets {path[-1]}, and wins over moltis.toml"
            raise ConfigError(told, hint=f"start the daemon without {variable}")

    def report(self, problems: Sequence[Problem]) -> None:
        """Log what is wrong with the files."""
        for problem in problems:
            tell = config_log.error if problem.severity == "error" else config_log.warning
            tell("config_problem", file=str(problem.file), line=problem.line, key=problem.key, problem=problem.message)

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Be the only one to change what is to run; nobody does once the daemon is stopping.

        Raises:
            NotPermitted: it is.
        """
        async with self._turn:
            if self._ending.is_set():
                raise NotPermitted("the daemon is stopping, and changes nothing any more")
            yield

    async def _reload(self) -> Reloaded:
        loaded = await in_thread(self._read, abandon_on_cancel=True)
        loaded.plan.gateway.refuse_if_open()
        known = set(self.loaded.problems)
        self.report([problem for problem in loaded.problems if problem not in known])
        before, self.loaded = self.plan, loaded
        change = await self._put_in_force(loaded.plan)
        done = Reloaded(**{key: list(names) for key, names in asdict(change).items()})
        sections = list(changed_sections(before, loaded.plan))
        told = {"added": done.added, "changed": done.changed, "removed": done.removed, "sections": sections}
        if any(told.values()):
            log.info("config_reloaded", **told)
            self._events.publish(ConfigChanged(**told, server=None))
        return done

    def _read(self) -> Loaded:
        return load(self._paths.config, self._overrides.values(), os.environ)
