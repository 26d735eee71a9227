"""A person's files, and the records that are moltis's own: each changed by one writer at a time (`moltis.private`).

What cannot be used as a record (a link, another user's file, a folder, a damaged one) is renamed, so that it is met
once and not at every start, and somebody can still look at it. A link in a record's place is never followed, neither to
read what it leads to nor to replace that.

A person's own file (moltis.toml, env.toml, tokens.toml) is no record: it is refused, and left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from moltis import private
from moltis.errors import ConfigError
from moltis.jsonrpc import MALFORMED
from moltis.private import ASIDE, Unusable

T = TypeVar("T")

LOCK_SECS = 5.0
"""How long to wait for another writer; an edit takes milliseconds."""


@contextmanager
def one_writer(path: Path) -> Iterator[Path]:
    """Hold the lock of a person's file, and give the file itself, links resolved. Its folder is made when missing.

    The lock is on the folder because files are replaced. Editors do not ask for it: compare before writing.

    Raises:
        ConfigError: when the folder cannot be made or opened, or another writer holds it for 5 s.
    """
    try:
        target = Path(os.path.realpath(path))
        private.make_folder(target.parent)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    with _locked(folder, path):
        yield target


@contextmanager
def one_writer_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of records, which is made when missing. Raises as `one_writer`."""
    try:
        private.make_folder(folder)
        fd = private.open_folder(folder)
    except Unusable as fault:
        raise ConfigError(f"{folder} {fault}; nothing is kept there", hint=fault.remedy(folder)) from None
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from error
    with _locked(fd, folder):
        yield


@contextmanager
def _locked(folder: int, path: Path) -> Iterator[None]:
    try:
        try:
            is_ours = private.lock(folder, LOCK_SECS)
        except OSError as error:  # not every file system knows locks
            raise ConfigError(f"cannot lock the folder of {path}: {error.strerror}") from error
        if not is_ours:
            raise ConfigError(f"another program is writing {path}", hint="try again")
        yield
    finally:
        os.close(folder)


def read_own(path: Path, most: int) -> bytes | None:
    """Return the bytes of a person's file that only this user or root may have written; None when there is none.

    Raises:
        ConfigError: it is not such a file, larger than `most` bytes, or cannot be read.
    """
    try:
        return private.read_private(path, most, follows=True)
    except FileNotFoundError:
        return None
    except Unusable as fault:
        raise ConfigError(f"{path} {fault}", hint=fault.remedy(path)) from fault
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}") from error


def replace(
    target: Path, data: bytes, reread: Callable[[Path], object], mode: int = 0o600, *, durable: bool = True
) -> None:
    """Write a file as `private.replace` does. The owner of a file that is replaced stays, when that is permitted.

    reread: reads a file at a path as whoever reads this one next does. What it refuses is not put in place, so that
        nothing is ever written that cannot be read again.

    Raises:
        ConfigError: when it cannot be written, or not be read again; the old file is then as it was.
    """
    owner = None
    with suppress(FileNotFoundError, PermissionError):
        before = os.stat(target)
        owner = before.st_uid, before.st_gid
    try:
        private.replace(
            target, data, check=lambda new: _check(new, target, reread), mode=mode, owner=owner, durable=durable
        )
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error


def _check(new: Path, target: Path, reread: Callable[[Path], object]) -> None:
    try:
        reread(new)
    except ConfigError as problem:
        why = problem.message.replace(str(new), str(target)).removeprefix(f"{target}: ")
        why = why.replace(f"{target} ", "it ", 1) if why.startswith(f"{target} ") else why
        raise ConfigError(f"{target} is left as it is, for it could not be read again: {why}") from None


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
        except OSError:
            return None

    def load(self, path: Path) -> T | None:
        """Return what a record says; None if there is none, or none that can be used, which is set aside. Never raises.

        What cannot be read at this moment (a disk or a file system that is away) stays for the next.
        """
        try:
            return self._understood(path)
        except FileNotFoundError:
            return None
        except Unusable as fault:
            why = str(fault)
        except OSError as error:
            self._tell(f"{path} cannot be read now: {error.strerror}")
            return None
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
            try:
                private.check_file(os.lstat(path))
            except Unusable as fault:
                self._set_aside(path, str(fault))
            except OSError:
                pass  # there is none, or it cannot be looked at now
            replace(path, data, self._reread, durable=self._durable)

    def remove(self, path: Path) -> None:
        """Remove a record, and what was set aside of it. Never raises."""
        for name in (path, f"{path}{ASIDE}"):
            with suppress(OSError):
                private.clear(name)

    def _understood(self, path: Path) -> T:
        data = private.read_private(path, self._most)
        try:
            data.decode()  # strings that are skipped over are not checked to be UTF-8
            return self._read(data)
        except MALFORMED as fault:
            raise Unusable("is damaged") from fault

    def _reread(self, path: Path) -> None:
        try:
            self._understood(path)
        except OSError as fault:
            raise ConfigError(f"{path} {_words(fault)}") from fault

    def _set_aside(self, path: Path, why: str) -> None:
        try:
            aside = private.set_aside(path)
        except OSError as error:
            self._tell(f"{path} {why} and cannot be set aside: {_words(error)}")
        else:
            self._tell(f"{path} {why}; it was set aside as {aside}")


def records_in(folder: Path, suffix: str, tell: Callable[[str], None]) -> list[Path]:
    """Return the records of a folder, sorted; of none where the folder is not this user's own. Never raises.

    tell: told in a sentence why nothing in it is read.
    """
    try:
        os.close(private.open_folder(folder))
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    except FileNotFoundError:
        pass
    except Unusable as fault:
        tell(f"{folder} {fault}; nothing is read there")
    except OSError as error:
        tell(f"{folder} cannot be read now: {error.strerror}")
    return []


def _words(problem: Exception) -> str:
    if isinstance(problem, ConfigError):
        return problem.message
    return str(problem) if isinstance(problem, Unusable) else getattr(problem, "strerror", None) or str(problem)
