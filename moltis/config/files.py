"""Files that are replaced whole or not at all, by one writer at a time; and records, which are this program's own.

What cannot be used as a record (a link, another user's file, a folder, a damaged one) is renamed, so that it is met
once and not at every start, and somebody can still look at it. A link in a record's place is never followed, neither to
read what it leads to nor to replace that.

A person's own file (moltis.toml, env.toml, tokens.toml) is no record: it is refused, and left as it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

from moltis.errors import ConfigError
from moltis.jsonrpc import MALFORMED

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


ASIDE: Final = ".broken"


_NO_READING: Final = {
    errno.ELOOP: "is a symbolic link",
    errno.ENXIO: "is not a plain file",  # a socket
    errno.EISDIR: "is not a plain file",
    errno.EACCES: "may not be read",
    errno.EPERM: "may not be read",
}
"""Errors of open(2) that trying again does not change."""

T = TypeVar("T")


class Unusable(Exception):
    """What is in a record's place is nothing to use, now or later. The text goes on after its name: "is damaged"."""


def open_plain(name: str | Path, flags: int, *, folder: int | None = None) -> int:
    """Open a plain file of this user's, and nothing else; a pipe is not waited for.

    folder: the descriptor of the folder that `name` is in.

    Raises:
        Unusable: it is none, or may not be opened.
        OSError: it is not there, or cannot be opened now.
    """
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_READING:
            raise
        raise Unusable(_NO_READING[error.errno]) from error
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return fd
    os.close(fd)
    raise Unusable("belongs to another user" if stat.S_ISREG(status.st_mode) else "is not a plain file")


def read_plain(name: str | Path, most: int, *, folder: int | None = None) -> bytes:
    """Return the bytes of a plain file of this user's, at most `most`. Raises as `open_plain`."""
    with open(open_plain(name, os.O_RDONLY, folder=folder), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Unusable(f"has more than {most} bytes")
    return data


def set_aside(name: str | Path, *, folder: int | None = None) -> str:
    """Rename whatever has a record's name, a link itself among them, and return its new one; the last of them is kept.

    Raises:
        OSError: it cannot be renamed, or is not there.
    """
    aside = f"{name}{ASIDE}"
    try:
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise
        clear(aside, folder=folder)  # one of them is a folder
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    return aside


def clear(name: str, *, folder: int | None = None) -> None:
    """Remove a file, a link itself, or an empty folder.

    Raises:
        OSError: it cannot be removed, or is not there.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        os.rmdir(name, dir_fd=folder)


class Records(Generic[T]):
    """Records of one kind, in JSON. Every method blocks, on the disk, and may be called from any thread.

    most: bytes of one. read: understands the UTF-8 of one; raises one of `MALFORMED` for what is damaged.
    tell: told in a sentence what was found wrong.
    durable: as in `replace`.
    """

    def __init__(
        self, most: int, read: Callable[[bytes], T], tell: Callable[[str], None], *, durable: bool = True
    ) -> None:
        self._most = most
        self._read = read
        self._tell = tell
        self._durable = durable

    def peek(self, path: Path) -> T | None:
        """Return what a record says; None if it says nothing that can be used. Changes nothing. Never raises."""
        try:
            return self._understood(path)
        except (Unusable, OSError):
            return None

    def load(self, path: Path) -> T | None:
        """Return what a record says; None if there is none, or none that can be used, which is set aside. Never raises.

        What cannot be read at this moment (a disk or a file system that is away) stays for the next.
        """
        try:
            return self._understood(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"{path} cannot be read now: {error.strerror}")
            return None
        except Unusable as fault:
            why = str(fault)
        try:
            with one_writer_in(path.parent):
                return self._understood(path)  # somebody may have written it meanwhile
        except Unusable:
            self._set_aside(path, why)
        except (OSError, ConfigError) as problem:
            self._tell(f"{path} {why} and is left there: {_words(problem)}")
        return None

    def save(self, path: Path, data: bytes) -> None:
        """Replace a record; makes its folder (0700) when missing. What is in its place and is no file is set aside.

        Raises:
            ConfigError: it cannot be written, or could not be read again; what was there before is still there.
        """
        with one_writer_in(path.parent):
            if why := folder_problem(path.parent):
                raise ConfigError(f"{path.parent} {why}; nothing is kept there")
            if why := _in_the_way(path):
                self._set_aside(path, why)
            replace(path, data, self._reread, durable=self._durable)

    def remove(self, path: Path) -> None:
        """Remove a record, and what was set aside of it. Never raises."""
        for name in (path, f"{path}{ASIDE}"):
            with suppress(OSError):
                clear(str(name))

    def _understood(self, path: Path) -> T:
        data = read_plain(path, self._most)
        try:
            data.decode()  # strings that are skipped over are not checked to be UTF-8
            return self._read(data)
        except MALFORMED as fault:
            raise Unusable("is damaged") from fault

    def _reread(self, path: Path) -> None:
        try:
            self._understood(path)
        except (Unusable, OSError) as fault:
            raise ConfigError(f"{path} {_words(fault)}") from fault

    def _set_aside(self, path: Path, why: str) -> None:
        try:
            aside = set_aside(path)
        except OSError as error:
            self._tell(f"{path} {why} and cannot be set aside: {_words(error)}")
        else:
            self._tell(f"{path} {why}; it was set aside as {aside}")


def records_in(folder: Path, suffix: str, tell: Callable[[str], None]) -> list[Path]:
    """Return the records of a folder, sorted; of none where the folder is not this user's own. Never raises.

    tell: told in a sentence why nothing in it is read.
    """
    try:
        if why := folder_problem(folder):
            tell(f"{folder} {why}; nothing is read there")
            return []
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    except FileNotFoundError:
        pass
    except OSError as error:
        tell(f"{folder} cannot be read now: {error.strerror}")
    return []


def folder_problem(folder: Path) -> str | None:
    """Return why records are not kept in a folder, None if nothing forbids it; raise OSError if it is not there.

    A link is followed if it is this user's too, and so is what it leads to.
    """
    if any(status.st_uid != os.geteuid() for status in (os.lstat(folder), os.stat(folder))):
        return "belongs to another user"
    return None if folder.is_dir() else "is no folder"


def _in_the_way(path: Path) -> str | None:
    """Return why what is in a record's place cannot just be replaced."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if stat.S_ISREG(status.st_mode):
        return None if status.st_uid == os.geteuid() else "belongs to another user"
    return "is a symbolic link" if stat.S_ISLNK(status.st_mode) else "is not a plain file"


def _words(problem: Exception) -> str:
    if isinstance(problem, ConfigError):
        return problem.message
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
