"""The connections of a client: a request is one write, and what is given up is closed."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import anyio
import httpcore2

from moltis.http.words import WRITE_SECS

JOINED_BYTES = 64 * 1024
"""Up to so long, copying a body behind its head is cheaper than writing both."""


class Backend(httpcore2.AsyncNetworkBackend):
    """Makes the connections of a pool."""

    def __init__(self) -> None:
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return Stream(await self._plain.connect_tcp(host, port, timeout, local_address, socket_options))


class Stream(httpcore2.AsyncNetworkStream):
    """A connection whose first write after a read waits for the second, or for the next read.

    The stack writes the head of a request and then its body, and reads after that. As one write that is one packet, one
    TLS record and one wakeup of the server, and an eighth of the time that a small request takes here.
    """

    def __init__(self, plain: httpcore2.AsyncNetworkStream) -> None:
        self._plain = plain
        self._held = b""
        self._holds = True

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._holds:
            self._held, self._holds = buffer, False
            return
        held, self._held = self._held, b""
        if held and len(buffer) > JOINED_BYTES:
            await self._plain.write(held, timeout)
            held = b""
        await self._plain.write(held + buffer if held else buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        held, self._held, self._holds = self._held, b"", True
        if held:
            # As the stack does: a server may have refused the request, and said so, before it hung up.
            with suppress(httpcore2.WriteError):
                await self._plain.write(held, WRITE_SECS)
        return await self._plain.read(max_bytes, timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return Stream(await self._plain.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            # When this is cancelled, the stack leaves the connection open, and uvloop keeps it for ever.
            with anyio.CancelScope(shield=True):
                await self._plain.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._plain.get_extra_info(info)

    async def aclose(self) -> None:
        await self._plain.aclose()
