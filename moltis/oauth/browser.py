"""Opening the address of a login: the configured command, the URL as its last argument, and nobody waiting for it.

No shell ever sees the URL, and no URL that `opening_problem` objects to is given to anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from moltis.oauth.authorize import opening_problem

LOOK_SECS: Final = 5.0
"""How often is looked whether a browser has ended, where the kernel does not say so: until then it is a zombie."""

_SECRET_NAME: Final = re.compile(r"token|secret|passw|credential|^auth|api[-_]?key|(^|[-_])key$", re.IGNORECASE)
_OURS: Final = re.compile(r"MOLTIS_.*|NOTIFY_SOCKET|WATCHDOG_(?:PID|USEC)|LISTEN_(?:PID|FDS|FDNAMES)")
"""Meant for this process alone: a browser must not speak to the service manager in its name (sd_notify(3))."""
_DESKTOP: Final = re.compile(
    r"HOME|PATH|SHELL|TERM|USER|LOGNAME|LANG|LC_.*|TMPDIR|BROWSER|DISPLAY|WAYLAND_DISPLAY|XAUTHORITY|XDG_.*|DBUS_.*"
)
"""Without these no browser finds its display or its profile, and a server may have been given one of them too."""


class OwnChildren(Protocol):
    """Who must know which processes are ours: `transport.containment.Warden`."""

    def own_spawn(self) -> AbstractContextManager[Callable[[int], None]]:
        """Hold off sweeping while a child is being started; call what this gives with its pid."""

    def unregister_own(self, pid: int) -> None:
        """Forget a child that has been waited for."""


async def open_browser(
    argv: Sequence[str], url: str, *, children: OwnChildren, tasks: TaskGroup, scrub: Callable[[str], str]
) -> bool:
    """Start the browser command and say whether it started; what becomes of it is no matter. Never raises.

    argv: `browser_command`; empty opens nothing.
    tasks: where it is waited for, so that it leaves no zombie; to outlive the login. Cancelling it leaves the browser
        running.
    scrub: changes a text that holds a secret (`Scrubber.text`): such a variable is kept from the browser.
    """
    if not argv or opening_problem(url) is not None:
        return False
    try:
        with children.own_spawn() as register:
            process = subprocess.Popen(  # vfork: it returns at the exec, a millisecond later
                [*argv, url],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(scrub),
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon alone
            )
            register(process.pid)
    except (OSError, ValueError):  # ValueError: a NUL in the command
        return False
    tasks.start_soon(_reap, process, children)
    return True


def _environment(scrub: Callable[[str], str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _may_see(name, value, scrub)}


def _may_see(name: str, value: str, scrub: Callable[[str], str]) -> bool:
    if _DESKTOP.fullmatch(name):
        return True
    return not (_OURS.fullmatch(name) or _SECRET_NAME.search(name)) and scrub(value) == value


async def _reap(process: subprocess.Popen[bytes], children: OwnChildren) -> None:
    try:
        await _wait_exited(process.pid)
        while process.poll() is None:  # noqa: ASYNC110 - once at most where the kernel tells
            await anyio.sleep(LOOK_SECS)
        children.unregister_own(process.pid)
    finally:
        # Cancelled, it stays registered, for it is still not a server's; and Popen is not to warn of one left running.
        process.returncode = process.returncode or 0


async def _wait_exited(pid: int) -> None:
    """Wait for the end of a child, where the kernel tells it (pidfd_open(2))."""
    if sys.platform != "linux":
        return
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        await anyio.wait_readable(fd)
    finally:
        os.close(fd)
