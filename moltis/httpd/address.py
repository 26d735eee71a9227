"""An address, as sockets that listen. Imports next to nothing: a daemon binds before all else."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any, Final

from moltis.config.web import split_listen

BACKLOG: Final = 2048
"""Hosts that connect while the daemon is still starting wait here."""


def listening(listen: str) -> list[socket.socket]:
    """Return listening sockets for `HOST:PORT`, one for each address of the host, all on one port.

    Raises:
        OSError: one of them cannot be had; then there is none.
        ValueError: it is no address.
    """
    host, port = split_listen(listen)
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]
            sock.listen(BACKLOG)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, tuple[str | int, ...]]]:
    if host == "localhost":  # a file of this machine knows it: nobody is asked
        found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return list(dict.fromkeys((family, address) for family, _kind, _protocol, _name, address in found))
    version = ipaddress.ip_address(host).version
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]
