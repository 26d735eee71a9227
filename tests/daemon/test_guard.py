"""No task of the daemon's ends it, and no lack of threads or of a good disk is a fault of it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import anyio
import pytest

from moltis.config.document import read_file
from moltis.config.files import one_writer
from moltis.daemon import guard
from moltis.daemon.guard import GuardedTasks, kept_up
from moltis.daemon.memories import Memories
from moltis.errors import Busy, ConfigError
from moltis.threads import in_thread


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # that the daemon runs on


async def test_a_task_that_raises_costs_no_other_task_anything() -> None:
    done = anyio.Event()

    async def fail() -> None:
        raise OSError(errno.EIO, "bad disk")

    async def work() -> None:
        await anyio.sleep(0.01)
        done.set()

    async with anyio.create_task_group() as tasks:
        guarded = GuardedTasks(tasks)
        guarded.start_soon(fail)
        guarded.start_soon(work)
    assert done.is_set()


async def test_a_guarded_task_can_be_cancelled_with_its_group() -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            guarded = GuardedTasks(tasks)
            guarded.start_soon(anyio.sleep_forever)
            await anyio.lowlevel.checkpoint()
            guarded.cancel_scope.cancel()


async def test_a_loop_that_raises_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "AGAIN_SECS", 0.001)
    runs = 0

    async def loop() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise RuntimeError("no")

    await kept_up(loop, "loop")
    assert runs == 3


async def test_a_thread_that_cannot_be_started_is_a_matter_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Busy, match="no thread"):
            await in_thread(lambda: 1)
    assert await in_thread(lambda: 1) == 1


async def test_a_runtime_error_of_the_work_itself_stays_one() -> None:
    def work() -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await in_thread(work)


async def test_what_is_known_is_kept_in_memory_when_no_thread_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    await Memories(tmp_path / "known", lambda _: None).load()


async def test_a_file_whose_read_fails_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(Path("/proc/self/mem"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ESTALE, errno.EIO])
async def test_a_file_system_without_locks_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_fd: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match="cannot lock"), one_writer(tmp_path / "moltis.toml"):
        pass
