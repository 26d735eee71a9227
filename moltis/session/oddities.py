"""What is odd about how a server answers though it works: tolerated, counted, and said once."""

from __future__ import annotations

from typing import Final

from moltis.session.hooks import Hooks

__all__ = ["Oddities"]

MAX_KINDS: Final = 16
"""Of one run of a server; what is odd in ever new ways is remembered no further."""


class Oddities:
    """Of one run of a server. `Hooks.on_odd` is told of each kind the first time."""

    def __init__(self, server: str, hooks: Hooks) -> None:
        self._server = server
        self._hooks = hooks
        self._counts: dict[str, int] = {}

    def note(self, words: str) -> None:
        """Count one more. `words` follow the server's name, and are the same for the same kind. Never raises."""
        known = self._counts.get(words, 0)
        if not known and len(self._counts) >= MAX_KINDS:
            return
        self._counts[words] = known + 1
        if not known and self._hooks.on_odd is not None:
            try:
                self._hooks.on_odd(self._server, self._hooks.scrub(words))
            except Exception as fault:
                if self._hooks.on_fault is not None:
                    self._hooks.on_fault(fault)

    def remarks(self) -> list[str]:
        """Return what a person should know, a sentence for each kind; nothing of a server without oddities."""
        return [f"it {words} ({count} time{'' if count == 1 else 's'})" for words, count in self._counts.items()]
