"""What hosts share, as one of them sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from moltis.gateway.api import ServerPort, World
from moltis.gateway.forwarding import Forwarding
from moltis.gateway.refusals import Refusal
from moltis.gateway.subscriptions import Subscriptions
from moltis.shares import Shares

if TYPE_CHECKING:
    from moltis.gateway.host import Host

__all__ = ["Hub"]


class Hub(Protocol):
    """What hosts share."""

    @property
    def world(self) -> World: ...

    @property
    def forwarding(self) -> Forwarding: ...

    @property
    def subscriptions(self) -> Subscriptions: ...

    @property
    def introduced(self) -> Shares:
        """Bytes of what hosts said of themselves."""

    def first_list_secs(self, ports: Sequence[ServerPort]) -> float:
        """Return how long a list of all servers waits for these, of which nothing is known."""

    def watched_of(self, principal: str) -> int:
        """How many resources the hosts of one principal subscribe to."""

    @property
    def closing(self) -> Refusal | None:
        """Why nothing is taken any more."""

    def level_set(self, host: Host) -> None:
        """A host wants another level of logging."""

    def level_of_request(self, port: ServerPort, level: str) -> None:
        """One request to a server wants a level of logging."""

    def left(self, host: Host) -> None:
        """A host is gone."""
