"""What a session tells its owner: what happens to it, what is known of the server, and how it was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from moltis.errors import ServerNotReady
from moltis.lastwords import pick
from moltis.printable import one_line
from moltis.server.states import FailureKind, State
from moltis.session.handshake import Agreed
from moltis.session.hooks import Counters
from moltis.transport import Ended, exit_words

SHOWN_STDERR_LINES = 3
SHOWN_STDERR_CHARS = 200
"""Of each of them: an error of one line that a host shows."""


class Events(Protocol):
    """What the owner hears of a session's life."""

    def opened(self, pid: int | None) -> None:
        """There is a process, or a connection."""

    def initialized(self) -> None:
        """Handshake and first listing are done: calls are taken."""

    def alive(self, latency_secs: float, *, otherwise: bool = False) -> None:
        """A heartbeat was answered, after so many seconds. `otherwise` as in `Session.probe`."""

    def unsent(self) -> None:
        """A heartbeat could not be sent."""


class Facts(msgspec.Struct, frozen=True):
    """What is known of the server now. Counts are of what `include_tools` and `exclude_tools` leave.

    remarks: what is odd about it though it works, a sentence each.
    stdout: what a local server has written to stdout that is no MCP message, in words.
    """

    tool_count: int = 0
    resource_count: int = 0
    prompt_count: int = 0
    server_info: dict[str, Any] | None = None
    protocol_version: str | None = None
    pid: int | None = None
    agreed: Agreed | None = None
    remarks: tuple[str, ...] = ()
    stdout: str = ""
    in_flight: int = 0
    counters: Counters = msgspec.field(default_factory=Counters)


def lost(server: str, ended: Ended, *, asked_for: bool) -> ServerNotReady:
    """Make the error of a call whose server went away under it. `asked_for`: it was stopped on purpose."""
    how = "was stopped" if asked_for else end_in_words(ended)
    tail = last_words(ended.stderr_tail)
    return ServerNotReady(
        f"server {server!r} {how} while the call was running; it is not sent again"
        + (f". Its last words: {tail}" if tail and not asked_for else ""),
        server=server,
        state=State.STOPPING if asked_for else State.BACKOFF,
        hint=f"moltis why {server}",
    )


def end_in_words(ended: Ended) -> str:
    """Say how a connection ended, as what follows the server's name; what we ended is no exit of the server's."""
    if ended.kind == FailureKind.EXITED and ended.exit_code is not None:
        return exit_words(ended.exit_code)
    return f"ended ({ended.message})"


def last_words(lines: Sequence[str]) -> str:
    """Return the few lines that tell most of why a server ended, as one; empty when there are none."""
    return " | ".join(one_line(line[:SHOWN_STDERR_CHARS]) for line in pick(lines, SHOWN_STDERR_LINES))
