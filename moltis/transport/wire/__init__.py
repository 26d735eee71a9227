"""Callback input and output on pipes, sockets and processes: the one package that talks to the event loop itself.

anyio has no form for this: its streams cost a task switch a message where a gateway's whole budget is some tens of
microseconds, and its listener ends for good the first time accept(2) says EMFILE. It works on uvloop and on asyncio's
own loop, and never blocks it. It knows nothing of lines, messages or servers.

A callback handed in here is called by the loop, never from inside a method its owner is calling, so owners need not be
re-entrant.
"""

from __future__ import annotations

from moltis.transport.wire.link import Link
from moltis.transport.wire.loop import Cancellable, call_about, call_later, clock, now, watch_pidfd, whole_second
from moltis.transport.wire.pipes import PipeReader, PipeWriter
from moltis.transport.wire.sockets import Acceptor, Handler, PeerConn, TcpListener, UnixListener

__all__ = [
    "Acceptor",
    "Cancellable",
    "Handler",
    "Link",
    "PeerConn",
    "PipeReader",
    "PipeWriter",
    "TcpListener",
    "UnixListener",
    "call_about",
    "call_later",
    "clock",
    "now",
    "watch_pidfd",
    "whole_second",
]
