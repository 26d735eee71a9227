"""A folder of files by the rule of `moltis.private`, of what lets somebody in.

Everything happens relative to the opened folder, so that what was checked is what is used. Blocking, but for
`file_lock`: it waits for a lock that other processes may hold without holding up a thread or the event loop.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio

from moltis import private
from moltis.oauth.jobs import blocking
from moltis.private import UNFINISHED, Unusable

FIRST_POLL_SECS: Final = 0.005
LAST_POLL_SECS: Final = 0.1
"""Whoever holds it speaks to an authorization server, which takes 0.05 to 10 s."""


class LockBusy(Exception):
    """Somebody else held the lock all the time."""


@asynccontextmanager
async def file_lock(open_file: Callable[[], int], wait_secs: float) -> AsyncIterator[None]:
    """Hold flock(2) on a file for as long as the block lasts; the kernel frees it when the process dies.

    open_file: gives the file's descriptor; called in a thread, may raise what it likes.
    wait_secs: how long to wait at most.

    Raises:
        LockBusy: it could not be had in that time.
        OAuthProblem: `outage`: no thread can be started to open it.
        StoreProblem: the file system knows no locks.
    """
    # A descriptor of its own excludes the tasks and threads of this process like any other process.
    fd = await blocking(open_file)
    try:
        deadline = anyio.current_time() + wait_secs
        poll_secs = FIRST_POLL_SECS
        while not _try(fd):
            if anyio.current_time() >= deadline:
                raise LockBusy
            await anyio.sleep(poll_secs)
            poll_secs = min(poll_secs * 2, LAST_POLL_SECS)
        yield
    finally:
        os.close(fd)


def _try(fd: int) -> bool:
    try:
        return private.try_lock(fd)
    except OSError as error:
        raise StoreProblem(f"the token store cannot be locked: {error.strerror}") from error


WRITE_LOCK_SECS: Final = 5.0
"""How long to wait for another writer; a write takes milliseconds."""

MAX_FILE_BYTES: Final = 1 << 18
"""No login is near that; what is longer was not written by us."""

_LOCK_FILE: Final = ".lock"


class StoreProblem(Exception):
    """A file cannot be read or written. `message` says which, why, and what to do where that is known; no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class PrivateFolder:
    """Where the files are. It need not exist; the first write makes it, 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def reading(self) -> Iterator[Folder | None]:
        """Open it for as long as the block lasts; None when there is no such folder.

        Raises:
            StoreProblem: it is not one that may be used (`private.open_folder`, strict), or cannot be opened.
        """
        try:
            fd = private.open_folder(self.path, strict=True)
        except FileNotFoundError:
            yield None
            return
        except Unusable as fault:
            raise StoreProblem(f"{self.path} {fault}; no token is kept there: {fault.remedy(self.path)}") from fault
        except OSError as error:
            raise StoreProblem(f"cannot open the folder {self.path}: {error.strerror}") from error
        try:
            yield Folder(fd, self.path)
        finally:
            os.close(fd)

    @contextmanager
    def made(self) -> Iterator[Folder]:
        """Open it, made where missing.

        Raises:
            StoreProblem: as `reading`, or it cannot be made.
        """
        try:
            private.make_folder(self.path)
        except OSError as error:
            raise StoreProblem(f"cannot make the folder {error.filename}: {error.strerror}") from error
        with self.reading() as folder:
            if folder is None:
                raise StoreProblem(f"cannot write into {self.path}: it was removed at this moment")
            yield folder

    @contextmanager
    def writing(self) -> Iterator[Folder]:
        """Open it, made where missing, for the one writer among all threads and processes.

        Raises:
            StoreProblem: as `made`, or another writer holds it for 5 s.
        """
        with self.made() as folder:
            lock = folder.lock_file(_LOCK_FILE)
            try:
                _wait_for(lock, self.path)
                # Whoever was writing these is dead, for the lock is ours.
                for name in folder.names():
                    if name.endswith(UNFINISHED):
                        folder.make_way(name)
                yield folder
            finally:
                os.close(lock)


class Folder:
    """An opened folder that was found in order. Names are plain file names. Writing is for `PrivateFolder.writing`."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def names(self) -> list[str]:
        """Return the names of all files in it.

        Raises:
            StoreProblem: it cannot be read.
        """
        try:
            return os.listdir(self._fd)
        except OSError as error:
            raise StoreProblem(f"cannot read {self.path}: {error.strerror}") from error

    def read(self, name: str) -> tuple[bytes, int] | None:
        """Return a file's bytes, at most one more than `MAX_FILE_BYTES`, and when it was written (ns); None: no file.

        Raises:
            Unusable: it is no file of this user's own.
            StoreProblem: it cannot be read now.
        """
        with self._doing("read", name), suppress(FileNotFoundError):
            fd = private.open_private(name, os.O_RDONLY, folder=self._fd)
            with open(fd, "rb") as file:
                return file.read(MAX_FILE_BYTES + 1), os.fstat(fd).st_mtime_ns
        return None

    def write(self, name: str, data: bytes, *, durable: bool) -> None:
        """Replace a file: at any moment, and after a crash, there is the old one or the new one. Mode 0600.

        durable: whether it must survive a power cut too, beyond a kill.

        Raises:
            StoreProblem: it cannot be written; the old file is as it was.
        """
        with self._doing("write", name):
            try:
                private.replace(name, data, folder=self._fd, durable=durable)
            except IsADirectoryError:
                self.set_aside(name)
                private.replace(name, data, folder=self._fd, durable=durable)

    def set_aside(self, name: str) -> Path:
        """Rename what cannot be used, whatever it is, and return where it is then; the last of each name is kept.

        Raises:
            StoreProblem: it cannot be renamed.
        """
        with self._doing("set aside", name):
            return self.path / private.set_aside(name, folder=self._fd)

    def remove(self, name: str) -> None:
        """Remove a file, a link itself, or an empty folder. No effect when there is none.

        Raises:
            StoreProblem: it cannot be removed.
        """
        with self._doing("remove", name), suppress(FileNotFoundError):
            private.clear(name, folder=self._fd)

    def make_way(self, name: str) -> None:
        """Have nothing of that name there: what cannot be removed (a folder with something in it) is set aside.

        Raises:
            StoreProblem: that cannot be done.
        """
        try:
            self.remove(name)
        except StoreProblem:
            self.set_aside(name)

    def lock_file(self, name: str) -> int:
        """Open a file to lock, made where missing; it stays, for removing a lock's file opens a race.

        What is in its place and is no file of ours is set aside: nobody can hold that.

        Raises:
            StoreProblem: it cannot be made.
        """
        try:
            return self._open_lock(name)
        except Unusable:
            return self._open_lock_anew(name)

    def _open_lock_anew(self, name: str) -> int:
        _wait_for(self._fd, self.path)  # of all who find the same, one makes way
        try:
            with suppress(Unusable):
                return self._open_lock(name)
            self.set_aside(name)
            return self._open_lock(name)
        except Unusable as fault:
            raise StoreProblem(f"{self.path / name} {fault}: {fault.remedy(self.path / name)}") from fault
        finally:
            private.unlock(self._fd)

    def _open_lock(self, name: str) -> int:
        with self._doing("open", name):
            return private.open_private(name, os.O_RDWR | os.O_CREAT, folder=self._fd)

    @contextmanager
    def _doing(self, what: str, name: str) -> Iterator[None]:
        """Say of what cannot be done now what that was; what never can is for the caller (`Unusable`)."""
        try:
            yield
        except Unusable:
            raise
        except OSError as error:
            raise StoreProblem(f"cannot {what} {self.path / name}: {error.strerror}") from error


def _wait_for(lock: int, path: Path) -> None:
    try:
        is_ours = private.lock(lock, WRITE_LOCK_SECS)
    except OSError as error:
        raise StoreProblem(f"cannot lock {path}: {error.strerror}") from error
    if not is_ours:
        raise StoreProblem(f"another program is writing into {path} and does not get done")
