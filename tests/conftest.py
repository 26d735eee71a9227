"""What holds for all tests."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# On a busy machine a slow example is no finding. In CI the same commit gives the same verdict; elsewhere each run looks
# at new examples.
settings.register_profile("moltis", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("moltis")

# A shell that starts the tests in the background has them ignore SIGINT, and what they start with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Return how many tests `-n auto` runs at a time: one more than there are cores, since most of them wait."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes: a test that is marked `alone` would wait for it, and all others behind that."""
    items.sort(key=lambda item: "tests/conformance/" not in item.nodeid)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the clock of pytest-timeout starts
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Have a test that is marked `alone` wait for those of the other processes, and those for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with _lock(Path(__file__)) as door, _lock(Path(__file__).parent) as room:
        # Who wants the room to itself holds the door while it waits, or one after the other would slip in before it.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[int]:
    """Return a descriptor to lock, which is unlocked at the end."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
