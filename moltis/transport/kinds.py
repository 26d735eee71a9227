"""What the daemon gives to whoever opens connections to servers of a kind (`config.kinds`, `opens`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from anyio.abc import TaskGroup

from moltis.config.plan import ServerPlan
from moltis.transport import Transport
from moltis.transport.containment import Warden


class OverHttp(Protocol):
    """Reaches servers by HTTP, with their logins."""

    def __call__(self, plan: ServerPlan, on_oversized: Callable[[int], None], *, trial: bool) -> Transport: ...


class Given(msgspec.Struct, frozen=True):
    """For the connections of one server.

    tasks: where they live; cancelled when the daemon ends. warden: starts programs.
    over_http: reaches it by HTTP. trial: it is only tried, and nobody shall be asked to log in.
    scrub: takes known secrets out of a text.
    on_stderr_line, on_stderr_dropped, on_oversized: told what a program wrote, how many lines of it were passed over,
        and how many messages were longer than they may be.
    """

    tasks: TaskGroup
    warden: Warden
    over_http: OverHttp
    scrub: Callable[[str], str]
    on_stderr_line: Callable[[str], None]
    on_stderr_dropped: Callable[[int], None]
    on_oversized: Callable[[int], None]
    trial: bool = False
