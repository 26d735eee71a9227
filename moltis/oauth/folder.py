"""A folder that is this user's alone, and its files: replaced whole or not at all, and never reached through a link.

Everything happens relative to the opened folder, so that what was checked is what is used. Blocking, but for
`file_lock`: it waits for a lock that other processes may hold without holding up a thread or the event loop.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio

from moltis.config.files import Unusable, clear, open_plain, set_aside
from moltis.oauth.jobs import blocking

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
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreProblem(f"the token store cannot be locked: {error.strerror}") from error
    return True


WRITE_LOCK_SECS: Final = 5.0
"""How long to wait for another writer; a write takes milliseconds."""

MAX_FILE_BYTES: Final = 1 << 18
"""No login is near that; what is longer was not written by us."""

_LOCK_FILE: Final = ".lock"
_UNFINISHED: Final = ".tmp"


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
            StoreProblem: it is a link, belongs to somebody else, or others may write into it.
        """
        fd = self._open()
        if fd is None:
            yield None
            return
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
        self._make()
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
                    if name.endswith(_UNFINISHED):
                        folder.make_way(name)
                yield folder
            finally:
                os.close(lock)

    def _make(self) -> None:
        missing = []
        path = self.path
        while not os.path.lexists(path):
            missing.append(path)
            path = path.parent
        for path in reversed(missing):
            try:
                # Path.mkdir(parents=True) would leave the modes of the parents to the umask.
                os.mkdir(path, 0o700)
                # A umask may take bits away too, even all of them.
                os.chmod(path, 0o700)
            except FileExistsError:
                pass
            except OSError as error:
                raise StoreProblem(f"cannot make the folder {path}: {error.strerror}") from error

    def _open(self) -> int | None:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if os.path.islink(self.path):
                raise StoreProblem(f"{self.path} is a symbolic link; tokens are kept in a real folder only") from error
            raise StoreProblem(f"cannot open the folder {self.path}: {error.strerror}") from error
        try:
            self._check(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check(self, fd: int) -> None:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise StoreProblem(f"{self.path} belongs to another user (uid {status.st_uid}); tokens are not kept there")
        if status.st_mode & 0o022:
            raise StoreProblem(
                f"others may write into {self.path}, so what is in it cannot be trusted: look at it, then chmod 700 it"
            )
        if status.st_mode & 0o077:
            with suppress(OSError):
                os.fchmod(fd, status.st_mode & 0o700)


class Folder:
    """An opened folder that was found in order. Names are plain file names. Writing is for `PrivateFolder.writing`."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def names(self) -> list[str]:
        """Give the names of all files in it.

        Raises:
            StoreProblem: it cannot be read.
        """
        try:
            return os.listdir(self._fd)
        except OSError as error:
            raise StoreProblem(f"cannot read {self.path}: {error.strerror}") from error

    def read(self, name: str) -> tuple[bytes, int] | None:
        """Give a file's bytes, at most one more than `MAX_FILE_BYTES`, and when it was written (ns); None: no file.

        Raises:
            Unusable: it is not a plain file (a link, a pipe), may not be read, or belongs to somebody else.
            StoreProblem: it cannot be read now.
        """
        try:
            fd = open_plain(name, os.O_RDONLY, folder=self._fd)
            with open(fd, "rb") as file:
                return file.read(MAX_FILE_BYTES + 1), os.fstat(fd).st_mtime_ns
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._problem("read", name, error) from error

    def write(self, name: str, data: bytes, *, durable: bool) -> None:
        """Replace a file: at any moment, and after a crash, there is the old one or the new one. Mode 0600.

        durable: whether it must survive a power cut too, beyond a kill.

        Raises:
            StoreProblem: it cannot be written; the old file is as it was.
        """
        temporary = name + _UNFINISHED
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, 0o600, dir_fd=self._fd)
            try:
                with open(fd, "wb") as file:
                    os.fchmod(fd, 0o600)
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(fd)
                self._put(temporary, name)
            except (OSError, StoreProblem):
                os.unlink(temporary, dir_fd=self._fd)
                raise
            if durable:
                os.fsync(self._fd)
        except OSError as error:
            raise self._problem("write", name, error) from error

    def _put(self, temporary: str, name: str) -> None:
        try:
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except IsADirectoryError:
            self.set_aside(name)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def set_aside(self, name: str) -> Path:
        """Rename what cannot be used, whatever it is, and return where it is then; the last of each name is kept.

        Raises:
            StoreProblem: it cannot be renamed.
        """
        try:
            return self.path / set_aside(name, folder=self._fd)
        except OSError as error:
            raise self._problem("set aside", name, error) from error

    def remove(self, name: str) -> None:
        """Remove a file, a link itself, or an empty folder. No effect when there is none.

        Raises:
            StoreProblem: it cannot be removed.
        """
        try:
            clear(name, folder=self._fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._problem("remove", name, error) from error

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
            fd = self._open_lock(name)
        except Unusable:
            fd = self._open_lock_anew(name)
        try:
            # A umask may have taken the owner's bits away, and then nobody could open it again.
            os.fchmod(fd, 0o600)
        except OSError as error:
            os.close(fd)
            raise self._problem("write", name, error) from error
        return fd

    def _open_lock_anew(self, name: str) -> int:
        _wait_for(self._fd, self.path)  # of all who find the same, one makes way
        try:
            with suppress(Unusable):
                return self._open_lock(name)
            self.set_aside(name)
            return self._open_lock(name)
        except Unusable as fault:
            raise StoreProblem(f"{self.path / name} {fault}") from fault
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _open_lock(self, name: str) -> int:
        try:
            return open_plain(name, os.O_RDWR | os.O_CREAT, folder=self._fd)
        except OSError as error:
            raise self._problem("open", name, error) from error
        except Unusable as fault:
            if not isinstance(fault.__cause__, PermissionError) or name in self.names():
                raise
            raise StoreProblem(f"cannot make {self.path / name}: no permission") from fault

    def _problem(self, doing: str, name: str, error: OSError) -> StoreProblem:
        return StoreProblem(f"cannot {doing} {self.path / name}: {error.strerror}")


def _wait_for(lock: int, path: Path) -> None:
    deadline = time.monotonic() + WRITE_LOCK_SECS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreProblem(f"another program is writing into {path} and does not get done") from None
            time.sleep(0.005)
        except OSError as error:
            raise StoreProblem(f"cannot lock {path}: {error.strerror}") from error
