"""Who has how much of what there is for all. Pure.

Whoever has no more than an equal part is not refused for what others have.
"""

from __future__ import annotations


class Shares:
    """What principals hold of something: `most` of one, and of all together.

    Who comes when others have everything still gets an equal part, so there can be more than `most`, at the very most
    twice as much.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self._of: dict[str, int] = {}

    def of(self, principal: str) -> int:
        """Return how much one holds."""
        return self._of.get(principal, 0)

    def take(self, principal: str, amount: int) -> bool:
        """Have one hold so much more, if that can be."""
        own = self._of.get(principal, 0) + amount
        total = self.total + amount
        if own > self.most or total > 2 * self.most:
            return False
        if total > self.most and own > self.most // (len(self._of) + (principal not in self._of)):
            return False
        if own:  # who holds nothing has no part
            self._of[principal] = own
        self.total = total
        return True

    def give(self, principal: str, amount: int) -> None:
        """Have one hold so much less, of what was taken."""
        left = self._of.get(principal, 0) - amount
        self.total -= amount
        if left:
            self._of[principal] = left
        else:
            self._of.pop(principal, None)
