"""Files that are replaced whole or not at all, by one writer at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moltis.errors import ConfigError

LOCK_SECS = 5.0
"""How long to wait for another writer; an edit takes milliseconds."""


@contextmanager
def one_writer(path: Path) -> Iterator[Path]:
    """Hold the lock of a file's folder and give the file itself, links resolved; as `one_writer_in`."""
    try:
        target = Path(os.path.realpath(path))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    with one_writer_in(target.parent, path):
        yield target


@contextmanager
def one_writer_in(folder: Path, path: Path | None = None) -> Iterator[None]:
    """Hold the lock of a folder, which is made (0700) when missing.

    The lock is on the folder because files are replaced. Editors do not ask for it: compare before writing.

    path: the file that is written, as it is called in messages.

    Raises:
        ConfigError: when the folder cannot be made or opened, or another writer holds it for 5 s.
    """
    path = path or folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    try:
        _lock(fd, path)
        yield
    finally:
        os.close(fd)


def _lock(folder: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigError(f"another program is writing {path}", hint="try again") from None
            time.sleep(0.01)
        except OSError as error:  # not every file system knows locks
            raise ConfigError(f"cannot lock the folder of {path}: {error.strerror}") from error


def replace(
    target: Path, data: bytes, reread: Callable[[Path], object], mode: int = 0o600, *, durable: bool = True
) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old one or the new one, never a part.

    The owner of a file that is replaced stays, when that is permitted.

    reread: reads a file at a path as whoever reads this one next does. What it refuses is not put in place, so that
        nothing is ever written that cannot be read again.
    durable: whether it must survive a power cut too, beyond a kill; waiting for that is most of the time it takes.

    Raises:
        ConfigError: when it cannot be written, or not be read again; the old file is then as it was.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        _write(temporary, data, mode, target, durable=durable)
        try:
            _check(temporary, target, reread)
            os.rename(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        if not durable:
            return
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error


def _check(temporary: Path, target: Path, reread: Callable[[Path], object]) -> None:
    try:
        reread(temporary)
    except ConfigError as problem:
        why = problem.message.replace(str(temporary), str(target)).removeprefix(f"{target}: ")
        raise ConfigError(f"{target} is left as it is, for it could not be read again: {why}") from None


def _write(temporary: Path, data: bytes, mode: int, target: Path, *, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        try:
            with suppress(FileNotFoundError, PermissionError):
                owner = os.stat(target)
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            # After the change of owner, which takes some bits away.
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
