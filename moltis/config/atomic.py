"""Files that are replaced whole or not at all, by one writer at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moltis.errors import ConfigError

LOCK_SECS = 5.0
"""How long to wait for another writer; an edit takes milliseconds."""


@contextmanager
def one_writer(path: Path) -> Iterator[Path]:
    """Hold the lock of a file's folder and give the file itself, links resolved; makes the folder (0700) when missing.

    The lock is on the folder because the file is replaced. Editors do not ask for it: compare before writing.

    Raises:
        ConfigError: when the folder cannot be made or opened, or another writer holds it for 5 s.
    """
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    try:
        _lock(folder, path)
        yield target
    finally:
        os.close(folder)


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


def replace(target: Path, data: bytes, reread: Callable[[Path], object], mode: int = 0o600) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old one or the new one, never a part.

    The owner of a file that is replaced stays, when that is permitted.

    reread: reads a file at a path as whoever reads this one next does. What it refuses is not put in place, so that
        nothing is ever written that cannot be read again.

    Raises:
        ConfigError: when it cannot be written, or not be read again; the old file is then as it was.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        _write(temporary, data, mode, target)
        try:
            _check(temporary, target, reread)
            os.rename(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error


def read_plain(path: Path, most: int) -> bytes | None:
    """Return the bytes of a file of ours; None if it is a link, a pipe or the like, or has more than `most` bytes.

    Raises:
        OSError: it cannot be read, or is not there.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return None
    # Should it have been replaced by a link or a pipe just now: neither followed nor waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(most + 1)
    return data if len(data) <= most else None


def _check(temporary: Path, target: Path, reread: Callable[[Path], object]) -> None:
    try:
        reread(temporary)
    except ConfigError as problem:
        why = problem.message.replace(str(temporary), str(target)).removeprefix(f"{target}: ")
        raise ConfigError(f"{target} is left as it is, for it could not be read again: {why}") from None


def _write(temporary: Path, data: bytes, mode: int, target: Path) -> None:
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
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
