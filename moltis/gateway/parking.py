"""Calls that wait while their host asks a person, between one request of the host and its retry (SEP-2322).

Pure: instants are handed in, in monotonic seconds. A token is good for one retry, and only for whoever got
it: for everybody else it does not exist. Every call leaves the table exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from moltis.shares import Shares

T = TypeVar("T")

MAX_PARKED: Final = 512
MAX_OF_ONE: Final = 128
"""Of one principal. A person has a few; somebody who never answers must not use up everybody's."""

PARKED_SECS: Final = 600.0
"""As long as a call may last at all by default (`request_timeout_max_secs`); whoever wants more time asks again."""

MAX_KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of results that came while their host was asking, and of what is kept of the requests; see `Shares`."""


class Bond(msgspec.Struct, frozen=True):
    """What a token is bound to: who got it, and for what."""

    principal: str
    view: str
    server: str
    method: str
    name: str | None


class _Place(Generic[T]):
    __slots__ = ("bond", "call", "due", "kept_bytes")

    def __init__(self, call: T, bond: Bond, due: float) -> None:
        self.call = call
        self.bond = bond
        self.due = due
        self.kept_bytes = 0


class Parking(Generic[T]):
    """All parked calls, by token. `new_token` gives what nobody can guess; `secs`: how long each may stay."""

    def __init__(self, new_token: Callable[[], str], secs: float = PARKED_SECS) -> None:
        self._secs = secs
        self._new_token = new_token
        self._places: dict[str, _Place[T]] = {}  # in the order in which they are due
        self._of = Shares(MAX_PARKED)
        self._kept = Shares(MAX_KEPT_BYTES)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, token: str) -> bool:
        return token in self._places

    def put(self, call: T, bond: Bond, now: float) -> str | None:
        """Park a call and give its token; None if there is no room."""
        if self._of.of(bond.principal) >= MAX_OF_ONE or not self._of.take(bond.principal, 1):
            return None
        token = self._new_token()
        self._places[token] = _Place(call, bond, now + self._secs)
        return token

    def take(self, token: str, bond: Bond, now: float) -> T | None:
        """Remove and give the call of a token, if it is bound to just that and its time is not up."""
        place = self._places.get(token)
        if place is None or place.bond != bond or place.due <= now:
            return None
        return self.remove(token)

    def remove(self, token: str) -> T | None:
        """Remove and give a call, if it is there."""
        place = self._places.pop(token, None)
        if place is None:
            return None
        self._kept.give(place.bond.principal, place.kept_bytes)
        self._of.give(place.bond.principal, 1)
        return place.call

    def keeps(self, token: str, size: int) -> bool:
        """Count that many bytes as kept for a call until it leaves, if there is room for them."""
        place = self._places[token]
        if not self._kept.take(place.bond.principal, size):
            return False
        place.kept_bytes += size
        return True

    def take_due(self, now: float) -> list[T]:
        """Remove and give the calls whose time is up."""
        due = [token for token, place in self._places.items() if place.due <= now]
        return [call for call in map(self.remove, due) if call is not None]

    def take_of(self, principal: str) -> list[T]:
        """Remove and give those of one principal."""
        own = [token for token, place in self._places.items() if place.bond.principal == principal]
        return [call for call in map(self.remove, own) if call is not None]

    def take_all(self) -> list[T]:
        """Remove and give all."""
        return self.take_due(math.inf)

    def next_due(self) -> float:
        """Return the earliest instant at which `take_due` finds one; infinity when there is none."""
        return next((place.due for place in self._places.values()), math.inf)
