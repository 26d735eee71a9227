"""Whose is it? What a server says unasked is about one of the calls it was at work on, and often nothing says which.

Pure. The one rule is that nothing goes to a host unless it cannot be another's: only calls that were under way when it
came can have caused it, each that ends meanwhile is struck off, and it is certain once all that are left are of one
host. So certainty may come late, and what is certain never becomes uncertain again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

__all__ = ["Suspects", "Verdict"]


class Verdict(enum.Enum):
    """What is known of whose it is."""

    NOBODYS = enum.auto()
    """No call was under way, or none is any more."""
    CERTAIN = enum.auto()
    """Every call that may have caused it is of one host."""
    OPEN = enum.auto()
    """It may be of either of two hosts, or of more."""


class Suspects:
    """The calls that may have caused one message: those under way when it came, less those that have ended since.

    calls: id and host of each. Hosts are told apart by identity.
    """

    __slots__ = ("_hosts",)

    def __init__(self, calls: Iterable[tuple[int, object]]) -> None:
        self._hosts = dict(calls)

    @property
    def ids(self) -> tuple[int, ...]:
        """The calls that are left, in the order they were given."""
        return tuple(self._hosts)

    @property
    def verdict(self) -> Verdict:
        """Say what is known now."""
        hosts = iter(self._hosts.values())
        try:
            first = next(hosts)
        except StopIteration:
            return Verdict.NOBODYS
        return Verdict.CERTAIN if all(host is first for host in hosts) else Verdict.OPEN

    def strike(self, id: int) -> bool:
        """Take note that a call has ended, and say whether it was among them."""
        return self._hosts.pop(id, self) is not self
