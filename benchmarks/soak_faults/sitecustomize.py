"""Faults of the machine for one process, for as long as the files in $SOAK_FAULTS say so. On PYTHONPATH, of a daemon.

    threads     none can be started (RLIMIT_NPROC, or the pids of a cgroup)
    files       one a line, HOW WHAT: every file whose path has WHAT in it is so
                  open     it cannot be opened: EIO
                  read     it can be opened, and cannot be read: EIO
                  write    it cannot be opened for writing: ENOSPC
                  rename   it cannot be put in its place: EIO

The soft limit of descriptors is told as the highest that it was, so that one that is lowered meanwhile is met as a
full table of the system's files is (ENFILE), and not as a setting.

It fails where the kernel would, below the functions of `os` and `threading`, so all that is above is the daemon's own.
`done` counts what was refused, a line each.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import threading
from typing import Any

FOLDER = os.environ.get("SOAK_FAULTS", "")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_open, _rename, _replace, _io_open = os.open, os.rename, os.replace, io.open

_getrlimit, _highest = resource.getrlimit, 0


def _is_on(name: str) -> bool:
    try:
        os.stat(f"{FOLDER}/{name}")
    except OSError:
        return False
    return True


def _note(what: str) -> None:
    fd = _open(f"{FOLDER}/done", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, what.encode() + b"\n")
    finally:
        os.close(fd)


def _how(path: Any, dir_fd: int | None = None) -> set[str]:
    """Return what is wrong with a file."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return set()
    try:
        fd = _open(f"{FOLDER}/files", os.O_RDONLY)
    except OSError:
        return set()
    try:
        rows = [row.split(" ", 1) for row in os.read(fd, 65536).decode().splitlines()]
    finally:
        os.close(fd)
    whole = os.fsdecode(path)
    if dir_fd is not None:
        whole = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), whole)
    return {how for how, what in rows if what in whole}


def _fail(how: str, path: Any, code: int) -> None:
    _note(f"{how} {os.fsdecode(path)}")
    raise OSError(code, os.strerror(code), path)


def faulty_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    how = _how(path, dir_fd)
    if "open" in how:
        _fail("open", path, errno.EIO)
    if flags & WRITES:
        if "write" in how:
            _fail("write", path, errno.ENOSPC)
    elif "read" in how and not flags & os.O_DIRECTORY:
        _note(f"read {os.fsdecode(path)}")
        return _open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)  # a regular file whose read(2) says EIO
    return _open(path, flags, mode, dir_fd=dir_fd)


def faulty_io_open(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
    how = _how(file)
    if how & {"open", "read"}:
        _fail("open", file, errno.EIO)
    if "write" in how and "r" not in mode:
        _fail("write", file, errno.ENOSPC)
    return _io_open(file, mode, *args, **options)


def _renaming(real: Any) -> Any:
    def faulty(src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        if "rename" in _how(dst, dst_dir_fd):
            _fail("rename", dst, errno.EIO)
        real(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    return faulty


def _starting(real: Any) -> Any:
    def faulty(*args: Any, **options: Any) -> Any:
        if _is_on("threads"):
            _note("thread")
            raise RuntimeError("can't start new thread")
        return real(*args, **options)

    return faulty


def highest(what: int) -> tuple[int, int]:
    global _highest
    soft, hard = _getrlimit(what)
    if what != resource.RLIMIT_NOFILE:
        return soft, hard
    _highest = max(_highest, soft)
    return _highest, hard


if FOLDER:
    resource.getrlimit = highest
    os.open = faulty_open
    builtins.open = io.open = faulty_io_open
    os.rename, os.replace = _renaming(_rename), _renaming(_replace)
    for _name in ("_start_new_thread", "_start_joinable_thread"):  # up to, and from Python 3.13 on
        if hasattr(threading, _name):
            setattr(threading, _name, _starting(getattr(threading, _name)))
