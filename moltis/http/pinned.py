"""Connections to addresses that were checked, and to no others.

A name is resolved here, once, and every address it has is judged; the connection is then made to one of those very
addresses. Asking a second time could give another answer (DNS rebinding). TLS and the Host header keep the name.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

import anyio
import httpcore2

from moltis.http.addresses import Scope, scope
from moltis.http.dialing import Resolve, first_to_answer, resolve
from moltis.http.words import InOurWords

_PLACES = {
    Scope.PUBLIC: "on the Internet",
    Scope.PRIVATE: "in a private network",
    Scope.LOOPBACK: "on this machine",
    Scope.FORBIDDEN: "at an address for special use",
}


class AddressRefused(InOurWords):
    """A host is where nothing may be fetched from; no connection was tried."""

    def __init__(self, host: str, place: Scope) -> None:
        super().__init__(f"{host[:100]} is {_PLACES[place]}, where nothing is fetched from on behalf of this server")
        self.place = place


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Makes the connections of one exchange, to hosts of which every address is of an allowed scope."""

    def __init__(self, allowed: frozenset[Scope], resolve: Resolve = resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._plain = httpcore2.AnyIOBackend()
        self._opened: list[httpcore2.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a host.

        Raises:
            AddressRefused: one of its addresses is not allowed.
            httpcore2.ConnectError, httpcore2.ConnectTimeout: it has no address, or none that answers.
        """
        addresses = await self._checked(host, port)
        stream = await first_to_answer(
            addresses, lambda address: self._plain.connect_tcp(address, port, timeout, None, socket_options)
        )
        self._opened.append(stream)
        return stream

    async def aclose(self) -> None:
        """Close whatever was opened: the stack leaves a connection open whose TLS handshake is cancelled."""
        with anyio.CancelScope(shield=True):
            for stream in self._opened:
                await stream.aclose()
        self._opened.clear()

    async def _checked(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(error) from error
        if not addresses:
            raise httpcore2.ConnectError(socket.gaierror(socket.EAI_NONAME, "no address"))
        judged(host, addresses, self._allowed)
        return addresses


def judged(host: str, addresses: Iterable[str], allowed: frozenset[Scope]) -> None:
    """Judge the addresses of a host.

    Raises:
        AddressRefused: one of them is not of an allowed scope.
    """
    for address in addresses:
        place = scope(address)
        if place not in allowed:
            raise AddressRefused(host, place)
