"""Starts the daemon for `moltis connect --run`, in a process of its own; see `start`.

One starts it, however many hosts come at once: whoever holds the lock on the folder of the socket; the others wait for
what comes of it. Where a service manager looks after the daemon, that is asked to start it. Blocking, and bounded.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from moltis import private
from moltis.control.endpoint import make_private_folder
from moltis.errors import ExitCode, MoltisError, NotPermitted, SystemTrouble
from moltis.paths import Paths, find_paths
from moltis.printable import one_line

START_SECS: Final = 20.0
"""For all of it; a daemon is up within a second, and an older one gone within six."""

HELD_SECS: Final = 8.0
"""For a daemon that holds the data dir and does not answer: it stops within six, by default."""

TRIES: Final = 3
LOOK_SECS: Final = 0.02
MAX_WORDS: Final = 600
MAX_TAIL_BYTES: Final = 8192

NOT_HANDED_DOWN: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)
"""Of a host that is a service itself: the daemon would speak in its name (sd_notify(3), sd_listen_fds(3))."""


class Manager(NamedTuple):
    """A service manager. `looks_after`: exits with 0 where it looks after the daemon. `shows`: what a person reads."""

    looks_after: tuple[str, ...]
    starts: tuple[str, ...]
    shows: str


def manager_of(platform: str, uid: int) -> Manager | None:
    """Return the one that starts the daemon by the examples that come with moltis; None where there is none."""
    if platform == "linux":
        unit = "moltis.service"
        return Manager(
            ("systemctl", "--user", "--quiet", "is-enabled", unit),
            ("systemctl", "--user", "start", unit),
            f"systemctl --user status {unit}",
        )
    if platform == "darwin":
        agent = f"gui/{uid}/org.moltis.daemon"
        return Manager(("launchctl", "print", agent), ("launchctl", "kickstart", agent), f"launchctl print {agent}")
    return None


def bring_up(places: Mapping[str, str | None]) -> tuple[str, str]:
    """See to it that a daemon answers; return why none does and what a person can do, both empty where one does."""
    paths = find_paths(config=places.get("config"), data_dir=places.get("data_dir"), socket=places.get("socket"))
    try:
        return _bring_up(paths, time.monotonic() + START_SECS)
    except MoltisError as error:
        return error.message, error.hint
    except OSError as failure:
        return SystemTrouble.of(failure).message, "moltis doctor"


def _bring_up(paths: Paths, deadline: float) -> tuple[str, str]:
    make_private_folder(paths.data_dir)
    make_private_folder(paths.lock.parent)
    folder = private.open_folder(paths.lock.parent)
    while not private.try_lock(folder):
        if _answers(paths):
            return "", ""
        if time.monotonic() > deadline:
            return f"somebody else has been starting it for {START_SECS:g} s", "moltis status; moltis logs"
        time.sleep(LOOK_SECS)
    if _answers(paths):
        return "", ""
    manager = manager_of(sys.platform, os.getuid()) if paths == find_paths(environ={}) else None
    if manager is not None and _run(manager.looks_after, deadline) is not None:
        return _by_manager(manager, paths, deadline)
    return _by_us(paths, deadline)


def _answers(paths: Paths) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fsencode(paths.socket))
        except (BlockingIOError, TimeoutError):
            return True  # its backlog is full
        except OSError:
            return False
    return True


# --- by a service manager


def _by_manager(manager: Manager, paths: Paths, deadline: float) -> tuple[str, str]:
    said = _run(manager.starts, deadline)
    if said is None:
        return f"`{' '.join(manager.starts)}` failed", manager.shows
    while time.monotonic() < deadline:
        if _answers(paths):
            return "", ""
        time.sleep(LOOK_SECS)
    return f"`{' '.join(manager.starts)}` was done, and no daemon answers at {paths.socket}", manager.shows


def _run(command: tuple[str, ...], deadline: float) -> bytes | None:
    """Return what a command says; None where it is not there, fails, or takes too long."""
    program = shutil.which(command[0]) or shutil.which(command[0], path=os.defpath)
    if program is None:
        return None
    environ = dict(os.environ)
    runtime = f"/run/user/{os.getuid()}"
    if "XDG_RUNTIME_DIR" not in environ and os.path.isdir(runtime):  # some hosts hand down few variables
        environ["XDG_RUNTIME_DIR"] = runtime
    secs = max(0.1, deadline - time.monotonic())
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, env=environ, timeout=secs, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


# --- by ourselves


def _by_us(paths: Paths, deadline: float) -> tuple[str, str]:
    failure = ("", "")
    for _ in range(TRIES):
        daemon = _spawn(paths)
        while daemon.poll() is None:
            if _answers(paths):
                return "", ""
            if time.monotonic() > deadline:
                return f"it has been starting for {START_SECS:g} s (pid {daemon.pid})", "moltis status; moltis logs"
            time.sleep(LOOK_SECS)
        failure = _why(paths.errors, daemon.returncode)
        if daemon.returncode != ExitCode.FAILURE or _held(paths, min(deadline, time.monotonic() + HELD_SECS)):
            break  # what is wrong with it needs a person, or another one has the data dir
    return ("", "") if _answers(paths) else failure


def _held(paths: Paths, until: float) -> bool:
    """Wait for the daemon that holds the data dir to be gone, or to answer: it may be on its way out, or in."""
    while (holder := _holder(paths)) is not None and _lives(holder):
        if time.monotonic() > until or _answers(paths):
            return True
        time.sleep(LOOK_SECS)
    return False


def _spawn(paths: Paths) -> subprocess.Popen[bytes]:
    """Start it as a service manager would: a session of its own, the home folder, nothing of the host's but PATH."""
    words = ["--config", str(paths.config), "--data-dir", str(paths.data_dir), "--socket", str(paths.socket)]
    home = Path.home()
    try:
        errors = private.open_private(paths.errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except private.Unusable as fault:
        raise NotPermitted(f"{paths.errors} {fault}", hint=fault.remedy(paths.errors)) from None
    try:
        os.ftruncate(errors, 0)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "moltis", *words, "run"],  # -P: what lies in the home folder is not imported
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=home if home.is_dir() else "/",
            env={name: value for name, value in os.environ.items() if name not in NOT_HANDED_DOWN},
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(errors)


def _why(errors: Path, code: int) -> tuple[str, str]:
    """Read what it said before it ended, as `cli.app.complain` writes it: a message and a hint, each on a line."""
    text = errors.read_bytes()[-MAX_TAIL_BYTES:].decode("utf-8", "replace")
    lines = [one_line(line)[:MAX_WORDS] for line in text.splitlines() if line.strip()]
    said = [line.removeprefix("moltis: ") for line in lines if line.startswith("moltis: ")]
    hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    if said:
        otherwise = "moltis config check" if code == ExitCode.BAD_CONFIG else "moltis doctor"
        return said[-1], hints[-1] if hints else otherwise
    last = f"; its last words: {lines[-1]}" if lines else ""
    return f"it ended with exit code {code}{last}", "moltis run, which shows why"


def _holder(paths: Paths) -> int | None:
    """Return the process that holds the data dir; None where that is not known."""
    try:
        return int(paths.lock.read_bytes()[:32])
    except (OSError, ValueError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
