"""Tasks of the daemon of which none may end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, TypeVar

import anyio
from anyio import TaskHandle
from anyio.abc import TaskGroup

from moltis import logs

log = logs.get("moltis.daemon")

AGAIN_SECS = 1.0
"""Until a loop that failed is begun again; doubled each time, up to the limit below."""
AGAIN_MAX_SECS = 60.0

T = TypeVar("T")


class GuardedTasks(TaskGroup):
    """The tasks of a group, each of which ends with a log record when it raises, and the group goes on."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self.cancel_scope = group.cancel_scope

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> TaskHandle[T]:
        guarded: Coroutine[Any, Any, Any] = _guarded(coro, name)
        return self._group.create_task(guarded, name=name, context=context)

    async def start(self, func: Callable[..., Coroutine[Any, Any, Any]], *args: object, **options: Any) -> Any:
        """Refuse: who waits for a task to begin must hear why it did not."""
        raise NotImplementedError

    async def __aenter__(self) -> TaskGroup:
        raise NotImplementedError

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool:
        raise NotImplementedError


async def _guarded(coro: Coroutine[Any, Any, object], name: object) -> object:
    try:
        return await coro
    except Exception:
        log.error("task_failed", task=str(name), exc_info=True)
        return None


async def kept_up(loop: Callable[[], Awaitable[object]], name: str) -> None:
    """Run a loop that is to last; when it raises, say so and begin it again after a pause. Return when it does."""
    pause = AGAIN_SECS
    while True:
        try:
            await loop()
            return
        except Exception:
            log.error("task_failed", task=name, again_secs=pause, exc_info=True)
        await anyio.sleep(pause)
        pause = min(pause * 2, AGAIN_MAX_SECS)
