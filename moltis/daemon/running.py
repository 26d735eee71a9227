"""One run of the daemon, from a configuration that was read to its end; `moltis.daemon` has the order of things."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup, TaskStatus

from moltis import __version__, logs
from moltis.config.load import Loaded
from moltis.config.overrides import EnvOverrides
from moltis.control.endpoint import DataDirLock, Endpoint
from moltis.daemon.guard import GuardedTasks, kept_up
from moltis.daemon.process import control_connections, keep_freed_blocks, raise_limit
from moltis.daemon.world import Daemon
from moltis.errors import ExitCode
from moltis.paths import Paths
from moltis.redaction import Scrubber

log = logs.get("moltis.daemon")

END_MARGIN_SECS = 0.3
"""Past the servers' own stop deadlines before all are killed: a second past them everything is promised to be gone, and
killing and sweeping take the rest of it."""


THREAD_END_SECS = 0.2
"""For threads to end after the event loop; theirs is nothing that is waited for."""


def run(
    paths: Paths,
    lock: DataDirLock,
    loaded: Loaded,
    overrides: EnvOverrides,
    sockets: Sequence[socket.socket],
    control: tuple[Endpoint, socket.socket],
) -> ExitCode:
    """Run until told to end.

    sockets: that hosts connect to already. control: the control socket, likewise.
    """
    scrubber = Scrubber(loaded.plan.secrets)
    plan = loaded.plan.daemon
    sink = logs.configure(paths.log, plan.log_level, plan.log_max_bytes, plan.log_backups, scrubber)
    _say(f"moltis {__version__}: {len(loaded.plan.servers)} servers of {paths.config}, log {paths.log}")
    keep_freed_blocks()
    of_servers = raise_limit()

    def make() -> Daemon:
        return Daemon(paths, loaded, overrides, scrubber, sink, max_descriptors=of_servers, sockets=sockets)

    try:
        anyio.run(_run, make, paths, lock, control, backend="asyncio", backend_options={"use_uvloop": _has_uvloop()})
    except ExceptionGroup as group:
        raise _only(group) from group
    finally:
        logs.close()
    _leave_hung_threads()
    return ExitCode.OK


def _only(group: ExceptionGroup[Exception]) -> Exception:
    """Return what a group is about, where that is one thing."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _leave_hung_threads() -> None:
    """End this process although a thread waits for a file system that does not answer, and nobody for it."""
    until = time.monotonic() + THREAD_END_SECS
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                os._exit(ExitCode.OK)


async def _run(
    make: Callable[[], Daemon], paths: Paths, lock: DataDirLock, control: tuple[Endpoint, socket.socket]
) -> None:
    daemon = make()
    daemon.warden.start()
    try:
        async with anyio.create_task_group() as tasks:
            guarded = GuardedTasks(tasks)
            await tasks.start(_obey_signals, daemon, guarded)
            supervised = anyio.Event()
            await tasks.start(_supervise, daemon, supervised)
            daemon.start(guarded)
            await anyio.lowlevel.checkpoint()  # the first servers are being started: while they boot, import the rest
            await daemon.open_gateway()
            from moltis.control.listener import Listener
            from moltis.control.methods import METHODS

            listener = Listener(
                control[0],
                lock,
                METHODS,
                daemon,
                sock=control[1],
                max_connections=control_connections(len(daemon.supervisor.names())),
            )
            await tasks.start(listener.run)
            guarded.start_soon(kept_up, daemon.notifier.run_watchdog, "watchdog")
            daemon.watch.file(paths.config, lambda: guarded.start_soon(daemon.reload_quietly, "the file changed"))
            gc.freeze()  # what was imported stays: no collection need look at it again
            gc.enable()
            daemon.notifier.ready(daemon.summary())
            await daemon.ending.wait()
            daemon.watch.cancel()
            await _end(daemon, supervised)
            tasks.cancel_scope.cancel()
    finally:
        await daemon.warden.aclose()
    log.info("daemon_stopped")


async def _supervise(
    daemon: Daemon, over: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    await daemon.supervisor.run(task_status=task_status)
    over.set()


async def _obey_signals(
    daemon: Daemon, tasks: TaskGroup, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they mean nothing here, and would end the daemon
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        async for number in received:
            log.info("signal_received", signal=signal.Signals(number).name)
            if number == signal.SIGHUP:
                tasks.start_soon(daemon.reload_quietly, "SIGHUP")  # not awaited: its file system may hang
            elif daemon.ending.is_set():
                daemon.supervisor.shutdown(fast=True)
            else:
                daemon.shutdown()


async def _end(daemon: Daemon, supervised: anyio.Event) -> None:
    """Stop all servers at once, within the longest of their stop deadlines and a second, whatever their number."""
    daemon.notifier.stopping("stopping")
    log.info("daemon_stopping", servers=daemon.summary())
    daemon.hosts.refuse_requests()
    daemon.supervisor.shutdown()
    with anyio.move_on_after(daemon.stop_secs() + END_MARGIN_SECS):
        async with anyio.create_task_group() as closing:
            closing.start_soon(daemon.logins.aclose)
            closing.start_soon(daemon.keep_eras)
            await supervised.wait()
        await daemon.hosts.close()
        return
    left = [actor.plan.name for actor in daemon.supervisor if actor.life is not None]
    if left:
        log.warning("servers_killed", servers=left)
    daemon.supervisor.shutdown(fast=True)
    with anyio.move_on_after(END_MARGIN_SECS):
        await supervised.wait()
    await daemon.hosts.close()


def _has_uvloop() -> bool:
    """Where there is no wheel of it, asyncio's own loop does the same, slower."""
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


def _say(text: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")
