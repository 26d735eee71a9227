"""`listen` of `[gateway]`: an address and a port, as text."""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["is_loopback", "split_listen"]


def split_listen(text: str) -> tuple[str, int]:
    """Give host (without brackets) and port of `127.0.0.1:8642`, `[::1]:8642` or `localhost:8642`.

    Raises:
        ValueError: it is none of these; the message completes "listen ...".
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError('must be an address and a port, like "127.0.0.1:8642"')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError('must have an IPv6 address in brackets, like "[::1]:8642"')
    if host == "localhost":
        return host, int(port)
    try:
        ip_address(host)
    except ValueError:
        raise ValueError('must be an IP address or localhost, and a port, like "127.0.0.1:8642"') from None
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that `split_listen` gave."""
    return host == "localhost" or ip_address(host).is_loopback
