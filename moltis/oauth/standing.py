"""How a login stands, as far as it cannot be seen from what is held."""

from __future__ import annotations

import msgspec


class Standing(msgspec.Struct):
    """What went wrong and has not been put right.

    problem: why it does not work; makes the state `failed`.
    held: why no login begins by itself any more, until a person begins one.
    unsaid: the server does not say where to log in, and where that would be by default nothing is.
    open: it has served requests without a login.
    refused: the Authorization value that the server refused last with a 401.
    """

    problem: str | None = None
    held: str | None = None
    unsaid: bool = False
    open: bool = False
    refused: str | None = None

    def recovered(self) -> None:
        """What is held now is good, as far as anybody knows."""
        self.problem = self.held = None
        self.unsaid = False
