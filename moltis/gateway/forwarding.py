"""One request passed on to a server and its answer passed back, whatever the eras of the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Raw

from moltis.gateway.api import Outlet, Principal, ServerPort, World
from moltis.gateway.messages import Answer, Ask

__all__ = ["Forwarding", "HostSide", "OnRequest", "Running"]

OnRequest = Callable[[str, str, str | None, float, str], None]
"""Method, server, tool (for `tools/call`), seconds, outcome of each request; for counting."""


class HostSide(Protocol):
    """What is asked of a host while a request of it is passed on. Nothing here blocks or raises."""

    @property
    def principal(self) -> Principal: ...

    @property
    def client_info(self) -> bytes:
        """Give `clientInfo` of its `initialize`, JSON; an object of ours if it sent none. Legacy hosts only."""

    @property
    def capabilities(self) -> bytes:
        """Give `capabilities` of its `initialize`, JSON; `{}` if it sent none. Legacy hosts only."""

    @property
    def log_level(self) -> str | None:
        """Give the level it set by `logging/setLevel`; None if it set none. Legacy hosts only."""

    def ask_host(
        self, method: str, params: bytes, outlet: Outlet, on_answer: Callable[[Answer], None]
    ) -> int | None:
        """Send a legacy host a request on `outlet`, with an id of the host's own numbering.

        on_answer: called once with what the host answers; never after `take_back`, and not before this returns. When
            the host goes away it gets an `Answer` with an error.

        Returns:
            The id; None if there is no way, and then nothing is called.
        """

    def take_back(self, id: int, reason: bytes) -> None:
        """Tell the host that a question needs no answer any more (`notifications/cancelled`), on the question's outlet.

        reason: a JSON string, or empty. No effect once it is answered.
        """

    def done(self, id: bytes) -> None:
        """Learn that the request of this id has had its reply, or (after `Running.cancel`) will have none."""


class Running(Protocol):
    """A request on its way."""

    def cancel(self, reason: str = ...) -> None:
        """Give it up: the server is told, no reply follows, and `HostSide.done` is not called. Idempotent."""


class Forwarding:
    """Passes requests on. One for the whole gateway.

    on_request: hears of every request that has had its reply, or was cancelled.
    """

    def __init__(self, world: World, on_request: OnRequest | None = None) -> None:
        raise NotImplementedError

    def begin(
        self,
        host: HostSide,
        ask: Ask,
        outlet: Outlet,
        port: ServerPort,
        *,
        params: dict[str, Raw],
        name: str | None = None,
        tool: str | None = None,
        view: str = "",
    ) -> Running | None:
        """Pass a request on; the reply goes to `outlet`, in the host's era (`ask.is_modern`).

        params: as the server is to see them (its own names), without `_meta`.
        name: what it is about (`params.name` or `params.uri`, the server's own), where there is such a thing.
        tool: the tool's own name, for `tools/call`.
        view: where it came in; a call that waits for an answer is only given on to the same view.

        Returns:
            What to cancel it by; None if the reply was given already (`HostSide.done` was called then, too).
        """
        raise NotImplementedError

    def host_progressed(self, host: HostSide, params: dict[str, Raw]) -> None:
        """Take `notifications/progress` of a legacy host: how far it is with a question. Others' are ignored."""
        raise NotImplementedError

    def close(self, reason: str) -> None:
        """Give up what waits: for an answer of a modern host, or for a server to start."""
        raise NotImplementedError
