"""How often one principal may ask: the generic cell rate algorithm (ITU-T I.371), one number a principal.

Pure; the caller brings the time. The one rule: whoever keeps to the rate is never refused, whatever others do.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["RateLimit"]

MAX_PRINCIPALS: Final = 1024
"""Remembered at once. Whoever is forgotten has a full allowance again."""


class RateLimit:
    """Allows `per_minute` requests in any burst, and as many a minute after it; 0 allows everything."""

    def __init__(self, per_minute: int) -> None:
        self._every = 60.0 / per_minute if per_minute > 0 else 0.0
        self._due: dict[str, float] = {}

    def refused_secs(self, principal: str, now: float) -> int:
        """Count one request; 0 if it is allowed, else the whole seconds after which one will be (RFC 9110 10.2.3).

        now: monotonic seconds. What is refused is not counted.
        """
        if not self._every:
            return 0
        due = max(self._due.get(principal, now), now)
        wait = due + self._every - now - 60.0
        if wait > 1e-6:
            return max(1, math.ceil(wait))
        if principal not in self._due and len(self._due) >= MAX_PRINCIPALS:
            self._forget(now)
        self._due[principal] = due + self._every
        return 0

    def _forget(self, now: float) -> None:
        self._due = {who: due for who, due in self._due.items() if due > now}
        if len(self._due) >= MAX_PRINCIPALS:
            del self._due[min(self._due, key=self._due.__getitem__)]
