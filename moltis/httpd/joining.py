"""Head and body of a short answer in one write: two are two system calls here, and two wake-ups of who reads."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["Joining"]

JOIN_BYTES: Final = 64 * 1024
"""A longer body is not copied for it."""

BODILESS: Final = (b"204", b"304")
"""Statuses whose answer is its head alone, as every answer to HEAD is (RFC 9110 6.4.1): no second write is sure."""


class Joining:
    """The transport of one response, as uvicorn's cycle uses it; one of unknown length is written as it comes."""

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, transport: Any, cycle: Any) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write; of a response whose length is known, the head together with what follows it."""
        cycle = self._cycle
        if cycle is not None and cycle.response_started:
            self._cycle = None  # it knows us too, and holds the request's body
            if cycle.chunked_encoding is False and cycle.scope["method"] != "HEAD" and data[9:12] not in BODILESS:
                self._head = data
                return
        head = self._head
        if head:
            self._head = b""
            if len(data) <= JOIN_BYTES:
                data = head + data
            else:
                self._transport.write(head)
        self._transport.write(data)

    def close(self) -> None:
        """Close, once everything is written."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed or closing."""
        return bool(self._transport.is_closing())
