"""Work to be done every so often, as long as there is any."""

from __future__ import annotations

from collections.abc import Callable

from moltis.transport.wire import Cancellable, call_later

__all__ = ["Ticker"]


class Ticker:
    """Calls `work` every `secs` seconds from `wind` on, until it says that there is nothing left to do."""

    def __init__(self, secs: float, work: Callable[[], bool]) -> None:
        self._secs = secs
        self._work = work
        self._timer: Cancellable | None = None

    def wind(self) -> None:
        """Go on, or begin."""
        if self._timer is None:
            self._timer = call_later(self._secs, self._tick)

    def stop(self) -> None:
        """Stop. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if self._work():
            self.wind()
