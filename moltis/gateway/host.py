"""One host: its era, its questions, what it subscribed to."""

from __future__ import annotations

from moltis.gateway.api import Outlet
from moltis.gateway.messages import Answer, Ask, Tell

__all__ = ["Host"]


class Host:
    """One host; made by `Gateway.new_host`. Fits `api.HostApi` and `forwarding.HostSide`."""

    def request(self, ask: Ask, outlet: Outlet) -> None:
        """Take a request."""
        raise NotImplementedError

    def notification(self, tell: Tell) -> None:
        """Take a notification."""

    def answer(self, answer: Answer) -> None:
        """Take the answer to a question."""

    def drop(self, id: bytes, reason: str) -> None:
        """Give up a request that waits."""

    def attached(self) -> None:
        """Send what was kept."""

    def close(self) -> None:
        """It is gone."""
