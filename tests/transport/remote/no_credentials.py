"""Credentials of a server that is reached as it is."""

from __future__ import annotations

from moltis.http.authorized import Refusal


class NoCredentials:
    """None are sent, and a refusal is an answer like any other."""

    async def authorization(self) -> str | None:
        return None

    async def refused(self, refusal: Refusal) -> bool:
        return False
