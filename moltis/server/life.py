"""One run of a server, as its actor sees it: what it must be able to do, and what it tells.

The actor owns this seam; whoever reaches servers fits it, and neither knows more of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from moltis import transport
from moltis.config.plan import ServerPlan
from moltis.server.lifecycle import Alive, Event, Initialized, Opened, Pulse, Unsent


class Facts(Protocol):
    """What a run knows of its server and the lifecycle does not."""

    @property
    def tool_count(self) -> int: ...
    @property
    def resource_count(self) -> int: ...
    @property
    def prompt_count(self) -> int: ...
    @property
    def server_info(self) -> dict[str, Any] | None: ...
    @property
    def protocol_version(self) -> str | None: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...
    @property
    def stdout(self) -> str: ...


class NoFacts(msgspec.Struct, frozen=True):
    """What is known when there is no run: nothing."""

    tool_count: int = 0
    resource_count: int = 0
    prompt_count: int = 0
    server_info: dict[str, Any] | None = None
    protocol_version: str | None = None
    remarks: tuple[str, ...] = ()
    stdout: str = ""


class Life(Protocol):
    """One run of a server, from its first process to nothing being left of it.

    All calls come on the event loop. None but `run` may raise.
    """

    async def run(self) -> transport.Ended:
        """Live; return when nothing is left, however it came. Cancelling it leaves nothing either."""

    def probe(self, *, otherwise: bool = False) -> None:
        """Send a heartbeat; an answer is told by `LifeEvents.alive`, silence by nothing.

        otherwise: ask for something that the server is known to answer, instead of what its protocol has for this.
        """

    def pulse(self) -> Pulse:
        """Return what has been observed of the server's life by now."""

    def effort(self) -> transport.Effort:
        """Say what work it has shown so far."""

    def stop(self) -> None:
        """Begin a graceful end. Idempotent, and allowed from the very beginning."""

    def hurry(self) -> None:
        """In a graceful end, go on to SIGTERM at once. Idempotent."""

    def kill(self) -> None:
        """End at once. Idempotent."""

    def reconfigure(self, plan: ServerPlan) -> None:
        """Go on with new limits and filters; the plan's `launch_key` is unchanged."""

    def facts(self) -> Facts:
        """Say what is known of the server now."""


class LifeEvents:
    """How a run tells its actor what happens to it. What a past run tells is not heard."""

    def __init__(self, tell: Callable[[Event, float | None], None]) -> None:
        self._tell = tell

    def opened(self, pid: int | None = None) -> None:
        """There is a process or a connection; the handshake begins."""
        self._tell(Opened(pid), None)

    def initialized(self) -> None:
        """Handshake and listing are done."""
        self._tell(Initialized(), None)

    def alive(self, latency_secs: float, *, otherwise: bool = False) -> None:
        """A heartbeat was answered; `otherwise` as it was sent."""
        self._tell(Alive(otherwise), latency_secs)

    def unsent(self) -> None:
        """A heartbeat could not be sent."""
        self._tell(Unsent(), None)
