"""Connections to addresses that were checked, and to no others.

A name is resolved here, once, and every address it has is judged; the connection is then made to one of those very
addresses. Asking a second time could give another answer (DNS rebinding). TLS and the Host header keep the name.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio
import httpcore2

from moltis.http.addresses import Scope, scope
from moltis.http.words import InOurWords

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the IP addresses of a host for a port, best first. Raises OSError or UnicodeError when there are none."""

HEAD_START_SECS = 0.25
"""What an address gets before the next one is tried beside it (RFC 8305 section 5)."""

MAX_ADDRESSES = 8
"""How many are tried; all are judged."""

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


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for a host's addresses.

    Raises:
        OSError, UnicodeError: it has none, or it is no name.
    """
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(address for *_, (address, _) in found))


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
        return await self._first_to_answer(addresses, port, timeout, socket_options)

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
        for address in addresses:
            place = scope(address)
            if place not in self._allowed:
                raise AddressRefused(host, place)
        return addresses[:MAX_ADDRESSES]

    async def _first_to_answer(
        self,
        addresses: Sequence[str],
        port: int,
        timeout: float | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
    ) -> httpcore2.AsyncNetworkStream:
        """Try the addresses in their order, each with a head start, so that one that is dead costs little."""
        won: list[httpcore2.AsyncNetworkStream] = []
        lost: list[Exception] = []

        async def attempt(address: str, over: anyio.Event) -> None:
            try:
                stream = await self._plain.connect_tcp(address, port, timeout, None, socket_options)
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                lost.append(error)
                over.set()
            else:
                won.append(stream)
                race.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as race:
                for address in addresses:
                    over = anyio.Event()
                    race.start_soon(attempt, address, over)
                    with anyio.move_on_after(HEAD_START_SECS):
                        await over.wait()
        finally:
            # Two may have answered at once, or the whole exchange may have been given up at that moment.
            self._opened.extend(won)
        if not won:
            raise lost[0]
        return won[0]
