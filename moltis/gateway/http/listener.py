"""SIGNATURES ONLY YET; being filled in."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskStatus

from moltis.gateway.http.application import Application

__all__ = ["GatewayListener"]


class GatewayListener:
    """Serves an application at an address. `listen`: `HOST:PORT`, `[IPV6]:PORT`; port 0: any free one."""

    def __init__(
        self,
        app: Application,
        listen: str,
        *,
        on_change: Callable[[], None] = lambda: None,
        max_connections: int = 512,
        retry_secs: float = 5.0,
    ) -> None: ...

    @property
    def url(self) -> str | None:
        """`http://HOST:PORT/mcp`, with the port that was bound; None while it is not."""
        return None

    @property
    def problem(self) -> str | None:
        """Why it does not listen, and what to do; None while it does."""
        return None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or closed; `started` is said after the first try to bind, whatever came of it."""

    async def close(self, within_secs: float) -> None:
        """Accept no more, end streams, let replies that are due go out; what is left after that is cut off."""
