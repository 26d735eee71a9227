"""Tells a service manager how the daemon is: sd_notify(3), without libsystemd.

A datagram of `NAME=value` lines goes to the socket that NOTIFY_SOCKET names. Where there is no service manager every
call does nothing, so callers need not ask. Telling never waits and never fails.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping

import anyio

MAX_STATUS_CHARS = 200
"""Of the line that `systemctl status` shows."""


class Notifier:
    """Speaks to the service manager that started this process, if one did.

    Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment: a server of ours that found them could
    speak for the daemon.

    Args:
        environ: Where the variables are, `os.environ` by default.
        monotonic_usec: CLOCK_MONOTONIC in microseconds, which RELOADING=1 must be sent with.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str] | None = None,
        *,
        monotonic_usec: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        env = os.environ if environ is None else environ
        self._address = _address(env.pop("NOTIFY_SOCKET", ""))
        self._monotonic_usec = monotonic_usec
        self._status = ""
        watchdog_usec, watchdog_pid = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", "")
        self.watchdog_secs = _watchdog_secs(watchdog_usec, watchdog_pid) if self._address else None
        """Within which the service manager wants to hear of us, or None if it does not care."""

    @property
    def enabled(self) -> bool:
        """Whether somebody listens."""
        return self._address is not None

    def ready(self, status: str = "") -> None:
        """Say that the daemon has started, or has finished to reload."""
        self._send("READY=1", *self._status_line(status))

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        # One datagram: systemd refuses a RELOADING=1 whose MONOTONIC_USEC comes apart from it.
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_usec()}")

    def stopping(self, status: str = "") -> None:
        """Say that the daemon has begun to stop."""
        self._send("STOPPING=1", *self._status_line(status))

    def status(self, text: str) -> None:
        """Say in one line how things are, such as `3 of 5 servers ready`; the same line is not sent twice in a row."""
        if self._status_line(text) != [f"STATUS={self._status}"]:
            self._send(*self._status_line(text))

    async def run_watchdog(self) -> None:
        """Say at half the watchdog's interval that the event loop turns, until cancelled; end at once without watchdog.

        It runs in the loop it speaks for, not in a thread: when the loop hangs, systemd must hear nothing.
        """
        if self.watchdog_secs is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await anyio.sleep(self.watchdog_secs / 2)

    def _status_line(self, text: str) -> list[str]:
        line = " ".join(text.split())[:MAX_STATUS_CHARS]
        return [f"STATUS={line}"] if line else []

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        for line in lines:
            if line.startswith("STATUS="):
                self._status = line.removeprefix("STATUS=")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError:
            # A service manager that is gone or busy is no reason to do anything else than serve.
            pass


def _address(name: str) -> str | bytes | None:
    """Turn NOTIFY_SOCKET into an address: a path, or `@` and a name in Linux's abstract namespace."""
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return name if name.startswith("/") else None


def _watchdog_secs(usec: str, pid: str) -> float | None:
    """Read the interval as sd_watchdog_enabled(3) does: it counts for the process of WATCHDOG_PID, if that is given."""
    if not usec.isdecimal() or int(usec) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 1_000_000
