"""Whose is it? What a server says unasked is about one of the calls it was at work on, and often nothing says which.

Pure. Nothing goes to a host unless it cannot be another's: only calls that were under way when it came can have caused
it, each that ends meanwhile is struck off, and it is certain once all that are left are of one host. So certainty may
come late, and what is certain never becomes uncertain again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping


class Verdict(enum.Enum):
    """What is known of whose it is."""

    NOBODYS = enum.auto()
    """No call was under way, or none is any more."""
    CERTAIN = enum.auto()
    """Every call that may have caused it is of one host, or was given up by the same principal."""
    OPEN = enum.auto()
    """It may be of either of two hosts, or of more."""


class Suspects:
    """The calls that may have caused one message: those under way when it came, less those that have ended since.

    calls: id and host of each. Hosts are told apart by identity.
    kin: by id, on whose behalf the host speaks, where that is not the host alone.
    given_up: those of the calls that nobody waits for any more. One of the same principal leaves no doubt whose the
        message is: nobody is shown what is not theirs to see.
    """

    __slots__ = ("_given_up", "_hosts", "_kin")

    def __init__(
        self,
        calls: Iterable[tuple[int, object]],
        kin: Mapping[int, object] | None = None,
        given_up: Iterable[int] = (),
    ) -> None:
        self._hosts = dict(calls)
        self._kin = kin or {}
        self._given_up = set(given_up)

    @property
    def ids(self) -> tuple[int, ...]:
        """The calls that are left, in the order they were given."""
        return tuple(self._hosts)

    @property
    def verdict(self) -> Verdict:
        """Say what is known now."""
        if not self._hosts:
            return Verdict.NOBODYS
        first = next((id for id in self._hosts if id not in self._given_up), next(iter(self._hosts)))
        return Verdict.CERTAIN if all(self._are_one(first, id) for id in self._hosts) else Verdict.OPEN

    def strike(self, id: int) -> bool:
        """Take note that a call has ended, and say whether it was among them."""
        return self._hosts.pop(id, self) is not self

    def give_up(self, id: int) -> bool:
        """Take note that a call is not waited for any more, and say whether it is among them."""
        if id not in self._hosts:
            return False
        self._given_up.add(id)
        return True

    def _are_one(self, first: int, id: int) -> bool:
        if self._hosts[id] is self._hosts[first]:
            return True
        kin = self._kin.get(id)
        return id in self._given_up and kin is not None and kin == self._kin.get(first)
