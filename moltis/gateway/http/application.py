"""SIGNATURES ONLY YET; being filled in."""

from __future__ import annotations

from collections.abc import Callable

from moltis.gateway.api import GatewayApi, Principal
from moltis.gateway.doors import Doors
from moltis.gateway.http.settings import HttpSettings

__all__ = ["Application"]


class Application:
    """The ASGI application."""

    def __init__(
        self,
        gateway: GatewayApi,
        doors: Doors,
        authenticate: Callable[[str], Principal | None],
        settings: HttpSettings,
        ready: Callable[[], bool],
        metrics: Callable[[], bytes] | None = None,
    ) -> None: ...

    @property
    def sessions(self) -> int:
        """How many hosts have a session (legacy eras)."""
        return 0

    @property
    def in_flight(self) -> int:
        """How many requests wait for their reply."""
        return 0

    def reconfigure(self, settings: HttpSettings) -> None:
        """Take other settings; requests under way are not affected."""

    def close(self) -> None:
        """End all streams and sessions. Idempotent."""
