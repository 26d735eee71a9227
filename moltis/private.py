"""Files and folders that are this user's own: one rule for what moltis writes, believes and locks.

- A file is a regular one; what is something else (a FIFO, a device, a folder) is not opened at all.
- It belongs to this user, or to root. A folder that moltis makes and writes into belongs to this user.
- What moltis alone writes is never reached through a link. A file that a person may write (env.toml, tokens.toml) may
  be a link, say into a folder of dotfiles.
- It is made 0600, its folder 0700, whatever the umask. One that others can read is closed to them. One that others can
  write is not believed: a person looks at it first.
- It is replaced whole or not at all, and locked with flock(2), which the kernel frees when a process dies.

Standard library only. All of it blocks, on the disk; only `lock` waits for anybody else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

ASIDE: Final = ".broken"
UNFINISHED: Final = ".tmp"
"""How the names of files end that `replace` has not put in place yet."""

POLL_SECS: Final = 0.01
_OTHERS_WRITE: Final = 0o022


class Unusable(OSError):
    """What is there is not to be used, now or later. The text goes on after its name: "is a symbolic link".

    remedy: what a person can do about it, of its path.
    """

    def __init__(self, words: str, remedy: str = "it has to be a file: move this away") -> None:
        super().__init__(errno.EINVAL, f"it {words}")
        self._words = words
        self._remedy = remedy

    def __str__(self) -> str:
        return self._words

    def remedy(self, path: Path) -> str:
        """Return what a person can do."""
        return self._remedy.format(path)


# --- files


def check_file(found: os.stat_result, *, believed: bool = True) -> None:
    """Make sure that a file is this user's own. `believed`: what it says is gone by; else it is only written to.

    Raises:
        Unusable: it is none, another user's, or others may have written what it says.
    """
    _check_kind(found.st_mode)
    if found.st_uid not in (os.geteuid(), 0):
        raise Unusable("belongs to another user", "ls -l {}")
    if believed and found.st_mode & _OTHERS_WRITE:
        raise Unusable("can be written by others, so it is not believed", "look at it, then chmod 600 {}")


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}
        raise Unusable(f"is {kind.get(stat.S_IFMT(mode), 'not a regular file')}")


def open_file(name: str | Path, flags: int, *, folder: int | None = None, follows: bool = False) -> int:
    """Open a regular file, whoever's it is. Opening a FIFO would wake its reader, opening a device may act on it.

    folder: the descriptor of the folder that `name` is in. follows: whether it may be a link.

    Raises:
        Unusable: it is no regular file.
        OSError: it is not there, or cannot be opened.
    """
    try:
        _check_kind(os.stat(name, dir_fd=folder, follow_symlinks=follows).st_mode)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    # It may be something else by now: O_NONBLOCK, for a FIFO would be waited for.
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follows else os.O_NOFOLLOW)
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        _check_kind(os.fstat(fd).st_mode)
    except Unusable:
        os.close(fd)
        raise
    return fd


def open_private(name: str | Path, flags: int, *, folder: int | None = None, follows: bool = False) -> int:
    """Open a file of this user's own, and close it to others; made 0600 with O_CREAT. Arguments as in `open_file`.

    Raises:
        Unusable: it is none, or may not be opened.
        OSError: it is not there, or cannot be opened now.
    """
    try:
        fd = open_file(name, flags, folder=folder, follows=follows)
    except PermissionError as error:
        if not _is_there(name, folder):
            raise
        raise Unusable("may not be opened", "chmod 600 {}") from error
    writes = flags & os.O_ACCMODE != os.O_RDONLY
    try:
        found = os.fstat(fd)
        check_file(found, believed=not writes)
        # A umask may have taken the owner's own bits away from what was just made.
        if found.st_mode & 0o077 or (writes and stat.S_IMODE(found.st_mode) != 0o600):
            with suppress(OSError):
                os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_there(name: str | Path, folder: int | None) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except OSError:
        return False
    return True


def read_private(name: str | Path, most: int, *, folder: int | None = None, follows: bool = False) -> bytes:
    """Return the bytes of a file of this user's own, at most `most`. Raises as `open_private`."""
    with open(open_private(name, os.O_RDONLY, folder=folder, follows=follows), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise Unusable(f"is larger than {most} bytes", "shorten {}, or move it away")
    return data


def create(name: str | Path, *, folder: int | None = None) -> int:
    """Make a file, 0600 whatever the umask, open for writing. Nothing is there of that name yet.

    Raises:
        OSError: there is (FileExistsError), or it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        os.unlink(name, dir_fd=folder)
        raise
    return fd


def replace(
    path: str | Path,
    data: bytes,
    *,
    folder: int | None = None,
    durable: bool = True,
    check: Callable[[Path], object] | None = None,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old one or the new one, never a part.

    folder: the descriptor of the folder that it is in; `path` is then its name alone.
    durable: whether it must survive a power cut too, beyond a kill; waiting for that is most of the time it takes.
    check: is given the new file before it is put in place; what it raises goes through, and the old one stays.
    owner: user and group that it is given to, where that is permitted.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}{UNFINISHED}")
    fd = create(temporary, folder=folder)
    try:
        with open(fd, "wb") as file:
            if owner is not None:
                with suppress(PermissionError):
                    os.fchown(fd, *owner)
            # After the change of owner, which takes some bits away.
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        if check is not None:
            check(temporary)
        os.rename(temporary, path, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    if durable:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if folder is None else folder
        try:
            os.fsync(parent)
        finally:
            if folder is None:
                os.close(parent)


def set_aside(name: str | Path, *, folder: int | None = None) -> str:
    """Rename whatever has a name, a link itself among them, and return its new one; the last of them is kept.

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


def clear(name: str | Path, *, folder: int | None = None) -> None:
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


# --- folders


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each 0700 whatever the umask. No effect where it is there.

    Raises:
        OSError: one of them cannot be made; `filename` is its path.
    """
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = path.parent
    for path in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)


def open_folder(path: Path, *, strict: bool = False) -> int:
    """Open a folder of this user's own, and close it to others: its owner could exchange what is in it.

    A link is followed if it is this user's too.

    strict: of what lets somebody in: it is reached by no link, and what others can write into is not believed.

    Raises:
        Unusable: it is none to keep anything in.
        OSError: it is not there, or cannot be opened.
    """
    link = os.lstat(path)
    if stat.S_ISLNK(link.st_mode):
        if strict:
            raise Unusable("is a symbolic link", "make it a real folder")
        _check_owner(link)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if strict else 0))
    try:
        found = os.fstat(fd)
        _check_owner(found)
        if found.st_mode & stat.S_ISVTX:  # /tmp, named as a data dir: closing that would break the machine
            raise Unusable("is shared with other users", "name a folder of your own")
        if strict and found.st_mode & _OTHERS_WRITE:
            raise Unusable("can be written by others, so it is not believed", "look at it, then chmod 700 {}")
        if found.st_mode & 0o077:  # what its owner took from himself stays as it is
            os.fchmod(fd, found.st_mode & 0o700)
    except OSError as error:
        if error.errno != errno.EROFS:  # where nothing can be changed, it is read as it is
            os.close(fd)
            raise
    return fd


def _check_owner(found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        remedy = "run moltis as that user, or name a folder of your own with --data-dir"
        raise Unusable(f"belongs to another user (uid {found.st_uid})", remedy)


# --- locks


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder; return whether nobody else has it. A file that is opened twice is two.

    Raises:
        OSError: its file system knows no locks.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let go of a lock before the descriptor is closed."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def lock(fd: int, secs: float) -> bool:
    """Lock an open file or folder, waiting so long for who has it; return whether it is had. Raises as `try_lock`."""
    deadline = time.monotonic() + secs
    while not try_lock(fd):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECS)
    return True
