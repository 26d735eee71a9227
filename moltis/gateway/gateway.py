"""All hosts and all servers, brought together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moltis import __version__
from moltis.gateway.api import Principal, World
from moltis.gateway.forwarding import OnRequest
from moltis.gateway.host import Host

__all__ = ["Gateway", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How it shows itself. `separator`: between a server's name and a tool's own."""

    separator: str = "__"
    name: str = "moltis"
    version: str = __version__


class Gateway:
    """The gateway. `on_request` hears of every request that was passed on, for counting."""

    def __init__(self, world: World, settings: Settings | None = None, on_request: OnRequest | None = None) -> None:
        raise NotImplementedError

    # --- for the fronts

    def new_host(self, server: str | None, principal: Principal, unsolicited: Callable[[bytes], bool]) -> Host:
        """Make a host; see `GatewayApi`."""
        raise NotImplementedError

    def knows(self, server: str) -> bool:
        """Whether there is a server of that name."""
        raise NotImplementedError

    # --- for metrics

    @property
    def hosts(self) -> int:
        """How many hosts there are."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """How many requests of hosts wait for their reply."""
        raise NotImplementedError

    # --- what the daemon tells

    def server_moved(self, name: str) -> None:
        """The server's state has changed."""

    def came_up(self, name: str) -> None:
        """The server is ready, by a new session: what hosts want of it is set anew."""

    def lists_changed(self, name: str) -> None:
        """What the server lists is new."""

    def servers_changed(self) -> None:
        """Servers were added, removed or changed."""

    def notified(self, name: str, method: str, params: bytes) -> None:
        """The server said something that is about no request (`Hooks.on_notification`)."""

    def reconfigure(self, settings: Settings) -> None:
        """Show itself differently from now on."""

    def close(self, reason: str) -> None:
        """Listens end with their result, waiting requests fail, and so does every later one. Idempotent."""
