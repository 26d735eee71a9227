"""What holds for all tests."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lanes
import pytest
import turns
from _pytest.pathlib import import_path
from hypothesis import HealthCheck, settings

# On a busy machine a slow example is no finding. In CI the same commit gives the same verdict; elsewhere each run looks
# at new examples.
settings.register_profile(
    "moltis",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("moltis")

# A Unix socket's path has 103 bytes, of which the folder of a test takes most: it lies where the name is short.
SHORT = "/tmp"
if len(tempfile.gettempdir()) > len(SHORT) and os.access(SHORT, os.W_OK | os.X_OK):
    os.environ["TMPDIR"] = tempfile.tempdir = SHORT

# A shell that starts the tests in the background has them ignore SIGINT, and what they start with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(lanes)


def pytest_xdist_auto_num_workers() -> int:
    """Return how many tests `-n auto` runs at a time: two for each core, since half of them wait for processes."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection(session: pytest.Session) -> None:
    """Have each of several processes import other modules first.

    In a fresh checkout the assertions of each module are rewritten by whoever imports it first: all processes that
    begin with the same one rewrite all of them.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if processes > 1:
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        folders = [folder for folder in map(Path, session.config.args) if folder.is_dir()]
        passed_over = session.config.getini("norecursedirs")
        found = [path for folder in folders for path in turns.modules(folder, passed_over)]
        wanted = [path for path in found if not lanes.pytest_ignore_collect(path, session.config)]
        first = len(wanted) * number // processes
        for path in wanted[first:] + wanted[:first]:
            with suppress(Exception, pytest.skip.Exception):  # which is told when it is collected
                import_path(path, root=session.config.rootpath, consider_namespace_packages=False)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave out of every later garbage collection what stays to the end: modules, and tests by the thousand."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)  # after pytest has put those together that share a fixture
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have several processes begin with what takes long, and what is marked `alone` come before all else."""
    if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
        found = [turns.Collected(item.nodeid, lanes.lane(item)) for item in items]
        items[:] = [items[n] for n in turns.deal(found, processes)]


def is_alone(item: pytest.Item) -> bool:
    return lanes.lane(item) == "perf"


kept_room: list[int] = []
"""The lock that the test before has left to the next one, both being marked `alone`."""


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the clock of pytest-timeout starts
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Have a test that is marked `alone` wait for those of the other processes, and those for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    room = kept_room.pop() if kept_room else enter(is_alone(item))
    try:
        return (yield)
    finally:
        if is_alone(item) and nextitem is not None and is_alone(nextitem):
            kept_room.append(room)  # or others would begin something in between, which the next one has to wait for
        else:
            os.close(room)


def enter(alone: bool) -> int:
    """Return a lock on the room where tests are run, held with the other processes or `alone`."""
    room = os.open(Path(__file__).parent, os.O_RDONLY)
    door = os.open(__file__, os.O_RDONLY)
    try:
        # Who wants the room to itself holds the door while it waits, or one after the other would slip in before it.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    finally:
        os.close(door)
    return room


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Nothing is collected meanwhile: neither what is looked for, nor what other tests left."""
    gc.disable()
    yield
    gc.enable()
