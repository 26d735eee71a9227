"""The logins of one daemon that wait for the same authorization server share a pace, and the news that it is back.

What one of them is told is not taken for an answer to another: each presents its own refresh token. Shared is only how
often they all try together, and that a moment is good.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from moltis.oauth.decisions import SPREAD_SECS


class Place:
    """One who waits."""

    def __init__(self) -> None:
        self._news = anyio.Event()

    async def wait(self, until: float, roll: float) -> None:
        """Wait until an instant, monotonic, or less if another one has got through.

        roll: a number of [0, 1) by chance; all that were waiting do not come at once.
        """
        with anyio.CancelScope(deadline=until):
            await self._news.wait()
            self._news = anyio.Event()
            await anyio.sleep(SPREAD_SECS * roll)

    def tell(self) -> None:
        self._news.set()


class Crowd:
    """All who wait, by whom they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Place]] = {}

    @contextmanager
    def waiting(self, issuer: str) -> Iterator[Place]:
        """Be one of those who wait for an issuer."""
        places = self._waiting.setdefault(issuer, set())
        place = Place()
        places.add(place)
        try:
            yield place
        finally:
            places.discard(place)
            if not places and self._waiting.get(issuer) is places:
                del self._waiting[issuer]

    def number(self, issuer: str) -> int:
        """Return how many wait for an issuer."""
        return len(self._waiting.get(issuer, ()))

    def got_through(self, issuer: str) -> None:
        """Tell all who wait for an issuer that it has answered one who waited."""
        for place in self._waiting.get(issuer, ()):
            place.tell()
