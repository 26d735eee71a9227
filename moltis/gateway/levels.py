"""From which level on servers are to log: the lowest that any host which sees them wants.

Pure: who asks is told apart by identity, and nobody is told anything from here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Least severe first (RFC 5424 section 6.2.1, in the words of MCP)."""

_RANK: Final = {level: rank for rank, level in enumerate(LEVELS)}


def lowest(levels: Iterable[str]) -> str | None:
    """Return the least severe of some levels; None if there are none."""
    return min(levels, key=_RANK.__getitem__, default=None)


def passes(wanted: str | None, level: str | None) -> bool:
    """Whether a message of `level` goes to a host that wants `wanted`.

    Who wants nothing in particular gets what there is, and so does everybody what has no level that is known.
    """
    return wanted is None or level not in _RANK or _RANK[level] >= _RANK[wanted]


class Levels:
    """Who wants what of which servers."""

    def __init__(self) -> None:
        self._wanted: dict[Hashable, tuple[Callable[[str], bool], str]] = {}
        self._once: dict[str, str] = {}

    def __len__(self) -> int:
        """How many hosts want something."""
        return len(self._wanted)

    def want(self, host: Hashable, sees: Callable[[str], bool], level: str) -> None:
        """Note what a host wants from now on of the servers that it sees."""
        self._wanted[host] = (sees, level)

    def leave(self, host: Hashable) -> bool:
        """Forget a host and say whether it had wanted something."""
        return self._wanted.pop(host, None) is not None

    def want_once(self, server: str, level: str) -> bool:
        """Note what one request wants and say whether that is lower than before.

        It holds until `restarted`: requests that want it come in rows (MCP 2026-07-28 has it in each), and a server
        that says more than is wanted only costs what it takes to drop it.
        """
        before = self._once.get(server)
        if before is not None and _RANK[before] <= _RANK[level]:
            return False
        self._once[server] = level
        return True

    def restarted(self, server: str) -> None:
        """Forget what single requests wanted of a server: it is a new one, or gone."""
        self._once.pop(server, None)

    def wanted(self, server: str) -> str | None:
        """Return the level that a server is to log from; None if nobody has said."""
        found = [level for sees, level in self._wanted.values() if sees(server)]
        if server in self._once:
            found.append(self._once[server])
        return lowest(found)
