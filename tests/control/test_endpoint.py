"""The socket's file and the data dir's lock: who gets them, and what is never taken from anybody."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from moltis.control.endpoint import Endpoint, take_data_dir
from moltis.errors import AlreadyRunning, MoltisError, NotPermitted, UsageError
from moltis.paths import Paths

pytestmark = pytest.mark.e2e

HOLDER = """
import sys
from pathlib import Path
from moltis.control.endpoint import Endpoint, take_data_dir
from moltis.paths import Paths
data = Path(sys.argv[1])
paths = Paths(data / "c", data, Path(sys.argv[2]))
lock = take_data_dir(paths)
sock = Endpoint(paths).bind()
print("up", flush=True)
sys.stdin.read()
"""


def holder(data: Path, sock: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data), str(sock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def test_everything_is_private_from_the_first_moment(paths: Paths) -> None:
    mask = os.umask(0)
    try:
        lock = take_data_dir(paths)
        endpoint = Endpoint(paths)
        with endpoint.bind():
            modes = [stat.S_IMODE(p.stat().st_mode) for p in (paths.data_dir, paths.socket.parent, paths.socket)]
            assert modes == [0o700, 0o700, 0o600]
            assert stat.S_IMODE(paths.lock.stat().st_mode) == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(mask)
    lock.release()


def test_a_loose_data_dir_is_made_private(paths: Paths) -> None:
    paths.data_dir.mkdir(mode=0o755)
    take_data_dir(paths).release()
    assert stat.S_IMODE(paths.data_dir.stat().st_mode) == 0o700


def test_a_shared_folder_is_no_data_dir_and_keeps_its_mode(paths: Paths) -> None:
    paths.data_dir.mkdir()
    paths.data_dir.chmod(0o1777)
    with pytest.raises(NotPermitted, match="shared"):
        take_data_dir(paths)
    assert stat.S_IMODE(paths.data_dir.stat().st_mode) == 0o1777


def test_a_second_daemon_is_told_the_first_ones_pid_and_takes_over_when_that_was_killed(paths: Paths) -> None:
    first = holder(paths.data_dir, paths.socket)
    try:
        with pytest.raises(AlreadyRunning, match=rf"pid {first.pid}\b"):
            take_data_dir(paths)
    finally:
        end(first)
    lock = take_data_dir(paths)
    assert paths.lock.read_text() == f"{os.getpid()}\n"
    endpoint = Endpoint(paths)
    with endpoint.bind():
        assert endpoint.is_in_place()
        endpoint.remove()
    assert not paths.socket.exists()
    lock.release()


def test_nothing_is_left_of_a_daemon_that_ended(paths: Paths) -> None:
    lock = take_data_dir(paths)
    endpoint = Endpoint(paths)
    with endpoint.bind():
        endpoint.remove()
    lock.release()
    lock.release()
    assert list(paths.lock.parent.iterdir()) == []


def test_who_was_refused_takes_nothing_away(paths: Paths) -> None:
    first = take_data_dir(paths)
    with pytest.raises(AlreadyRunning):
        take_data_dir(paths)
    assert paths.lock.read_text() == f"{os.getpid()}\n"
    first.release()


def test_a_lock_that_is_another_s_by_now_is_left_where_it_is(paths: Paths) -> None:
    first = take_data_dir(paths)
    paths.lock.unlink()
    second = take_data_dir(paths)
    first.release()
    assert paths.lock.exists()
    with pytest.raises(AlreadyRunning):
        take_data_dir(paths)
    second.release()
    assert not paths.lock.exists()


TAKER = """
import os, sys, time
from pathlib import Path
from moltis.control.endpoint import take_data_dir
from moltis.errors import AlreadyRunning
from moltis.paths import Paths
data, inside = Path(sys.argv[1]), Path(sys.argv[2])
paths = Paths(data / "c", data, data / "s")
taken = 0
while taken < 40:
    try:
        lock = take_data_dir(paths)
    except AlreadyRunning:
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # raises if somebody else is inside
    inside.unlink()
    lock.release()
    taken += 1
"""


def test_it_is_held_by_one_at_a_time_though_its_file_comes_and_goes(paths: Paths, tmp_path: Path) -> None:
    words = [sys.executable, "-c", TAKER, str(paths.data_dir), str(tmp_path / "inside")]
    takers = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(3)]
    said = [taker.communicate()[1].decode() for taker in takers]
    assert [taker.returncode for taker in takers] == [0, 0, 0], said


def test_the_socket_of_a_live_daemon_with_another_data_dir_is_not_taken(paths: Paths, tmp_path: Path) -> None:
    other = holder(tmp_path / "other", tmp_path / "shared.sock")
    try:
        mine = Paths(paths.config, paths.data_dir, tmp_path / "shared.sock")
        with pytest.raises(AlreadyRunning, match=rf"pid {other.pid}\b"):
            Endpoint(mine).bind()
    finally:
        end(other)
    Endpoint(mine).bind().close()


def test_what_is_no_socket_is_never_removed(paths: Paths) -> None:
    paths.socket.parent.mkdir(parents=True)
    paths.socket.write_text("precious")
    with pytest.raises(MoltisError, match="in the way"):
        Endpoint(paths).bind()
    paths.socket.unlink()
    target = paths.socket.with_name("target")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(target))
    paths.socket.symlink_to(target)
    with pytest.raises(MoltisError, match="in the way"):
        Endpoint(paths).bind()
    assert target.is_socket()


@pytest.mark.parametrize(("length", "fits"), [(103, True), (104, False)])
def test_a_path_too_long_for_a_socket_is_refused_with_its_length(
    monkeypatch: pytest.MonkeyPatch, paths: Paths, length: int, fits: bool
) -> None:
    folder = Path("/tmp") / f"moltis-{os.getpid()}"
    sock = folder / ("s" * (length - len(str(folder)) - 1))
    long = Paths(paths.config, paths.data_dir, sock)
    try:
        if fits:
            Endpoint(long).bind().close()
        else:
            with pytest.raises(UsageError, match="104 bytes, and 103"):
                Endpoint(long).bind()
    finally:
        sock.unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()


def test_a_socket_where_others_can_replace_it_is_refused(paths: Paths, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    with pytest.raises(NotPermitted, match="others can write"):
        Endpoint(Paths(paths.config, paths.data_dir, loose / "s")).bind()


def test_a_lock_whose_file_was_removed_is_taken_again(paths: Paths) -> None:
    lock = take_data_dir(paths)
    paths.lock.unlink()
    lock.keep()
    assert paths.lock.read_text() == f"{os.getpid()}\n"
    with pytest.raises(AlreadyRunning):
        take_data_dir(paths)
    lock.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder somebody else's")
@pytest.mark.parametrize("where", ["data dir", "run folder", "behind a link", "a link of theirs"])
def test_a_data_dir_that_is_another_users_is_not_used(paths: Paths, where: str) -> None:
    theirs = paths.data_dir if where == "data dir" else paths.lock.parent
    if where in ("data dir", "run folder"):
        theirs.mkdir(parents=True)
        os.chown(theirs, 65534, 65534)
    else:
        theirs.parent.mkdir(parents=True)
        real = theirs.parent / "real"
        real.mkdir()
        theirs.symlink_to(real)
        os.chown(real if where == "behind a link" else theirs, 65534, 65534, follow_symlinks=False)
    before = theirs.stat().st_mode
    with pytest.raises(NotPermitted, match=r"belongs to another user \(uid 65534\)"):
        take_data_dir(paths)
    assert theirs.stat().st_mode == before


def test_a_data_dir_behind_a_link_of_this_users_own_is_used_and_closed(paths: Paths, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir(mode=0o755)
    paths.data_dir.symlink_to(real)
    take_data_dir(paths).release()
    assert stat.S_IMODE(real.stat().st_mode) == 0o700
