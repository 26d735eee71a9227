"""One rule for all files that are this user's own: what is wrong with one is refused and named by each that uses it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moltis import private
from moltis.cli.connect import starter
from moltis.config.files import Records
from moltis.config.overrides import EnvOverrides
from moltis.control.endpoint import take_data_dir
from moltis.doctor import Verdict, check_files
from moltis.errors import ConfigError, MoltisError
from moltis.gateway.tokens import TokenStore
from moltis.logs.file import open_log
from moltis.paths import Paths
from moltis.private import Unusable


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    data_dir = tmp_path / "data"
    found = Paths(tmp_path / "moltis.toml", data_dir, data_dir / "run" / "m.sock")
    private.make_folder(found.lock.parent)
    return found


@pytest.fixture(params=[0o022, 0, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def socket_at(path: Path) -> None:
    words = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run([sys.executable, "-c", words, str(path)], check=True)


def theirs(path: Path) -> None:
    path.write_text("")
    path.chmod(0o600)
    os.chown(path, 65534, 65534)


def open_to_others(path: Path) -> None:
    path.write_text("")
    path.chmod(0o620)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a folder": (Path.mkdir, "is a folder"),
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a socket": (socket_at, "is not a regular file"),
    "another user's": (theirs, "belongs to another user"),
    "a link": (lambda path: path.symlink_to(path.with_name("target")), "is a symbolic link"),
    "written by others": (open_to_others, "can be written by others, so it is not believed"),
}
ON_DISK: dict[str, Callable[[Path], object]] = {
    "read": lambda path: private.read_private(path, 100),
    "written": lambda path: private.open_private(path, os.O_RDWR | os.O_CREAT),
    "log": open_log,
}


def skip_unless_root(fault: str) -> None:
    if fault == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give files away")


@pytest.mark.parametrize("user", ON_DISK)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_this_users_own_file_is_neither_read_nor_written_nor_waited_for(
    paths: Paths, fault: str, user: str
) -> None:
    skip_unless_root(fault)
    make, words = FAULTS[fault]
    path = paths.data_dir / "file"
    path.with_name("target").write_text("mine")
    make(path)
    before = os.lstat(path)
    if fault == "written by others" and user != "read":  # what is in it is not gone by, so closing it is enough
        os.close(int(str(ON_DISK[user](path))))
        assert mode(path) == 0o600
        return
    with pytest.raises(Unusable) as raised:
        ON_DISK[user](path)
    assert str(raised.value) == words
    assert raised.value.remedy(path)
    assert os.lstat(path) == before
    assert path.with_name("target").read_text() == "mine"


SECRETS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "env.toml": ("env_overrides", lambda path: EnvOverrides(path).values()),
    "tokens.toml": ("access_tokens", lambda path: TokenStore(path).load()),
}


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "a link"])
def test_a_persons_file_is_refused_and_named_with_what_helps_and_left_as_it_is(
    paths: Paths, name: str, fault: str
) -> None:
    skip_unless_root(fault)
    member, read = SECRETS[name]
    path: Path = getattr(paths, member)
    make, words = FAULTS[fault]
    make(path)
    before = os.lstat(path)
    with pytest.raises(ConfigError) as raised:
        read(path)
    assert raised.value.message == f"{path} {words}"
    assert raised.value.hint
    assert os.lstat(path) == before
    found = [each for each in check_files(paths, os.geteuid()) if each.message == f"{path} {words}"]
    assert [(each.verdict, each.hint) for each in found] == [(Verdict.FAIL, raised.value.hint)]


@pytest.mark.parametrize("name", SECRETS)
def test_a_persons_file_may_be_a_link_into_a_folder_of_theirs(paths: Paths, tmp_path: Path, name: str) -> None:
    member, read = SECRETS[name]
    path: Path = getattr(paths, member)
    dotfile = tmp_path / "dotfile"
    dotfile.touch(mode=0o644)
    path.symlink_to(dotfile)
    read(path)
    assert mode(dotfile) == 0o600
    if name == "env.toml":
        EnvOverrides(path).set("A", "1")
    else:
        TokenStore(path).create("a", "read")
    assert path.is_symlink()
    assert dotfile.stat().st_size
    read(path)


@pytest.mark.parametrize("fault", ["a folder", "a pipe", "a link", "another user's"])
def test_what_is_in_the_place_of_the_daemons_lock_is_named_with_what_helps(paths: Paths, fault: str) -> None:
    skip_unless_root(fault)
    make, words = FAULTS[fault]
    make(paths.lock)
    with pytest.raises(MoltisError) as raised:
        take_data_dir(paths)
    assert raised.value.message == f"cannot lock {paths.lock}: it {words}"
    assert raised.value.hint


def test_a_link_in_the_place_of_what_a_daemon_says_as_it_starts_is_not_written_through(
    paths: Paths, tmp_path: Path
) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    paths.errors.symlink_to(target)
    with pytest.raises(MoltisError) as raised:
        starter._spawn(paths)
    assert raised.value.message == f"{paths.errors} is a symbolic link"
    assert target.read_text() == "mine"


def test_a_record_that_others_can_write_is_set_aside_and_named(paths: Paths) -> None:
    told: list[str] = []
    records = Records(100, bytes, told.append)
    path = paths.data_dir / "a.json"
    open_to_others(path)
    assert records.load(path) is None
    assert told == [f"{path} can be written by others, so it is not believed; it was set aside as {path}.broken"]
    records.save(path, b"1")
    assert records.load(path) == b"1"


@pytest.mark.usefixtures("umask")
def test_files_and_folders_are_made_closed_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    private.make_folder(folder)
    os.close(private.create(folder / "made"))
    os.close(private.open_private(folder / "opened", os.O_RDWR | os.O_CREAT))
    private.replace(folder / "replaced", b"x")
    assert [mode(each) for each in (folder, folder.parent)] == [0o700, 0o700]
    assert {each.name: mode(each) for each in folder.iterdir()} == dict.fromkeys(("made", "opened", "replaced"), 0o600)


def test_what_others_can_only_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    path.chmod(0o644)
    assert private.read_private(path, 1) == b"x"
    assert mode(path) == 0o600
    path.chmod(0o400)
    assert private.read_private(path, 1) == b"x"
    assert mode(path) == 0o400, "closed enough, and a person wants it so"
    with pytest.raises(Unusable, match="is larger than 0 bytes"):
        private.read_private(path, 0)


def test_what_the_check_refuses_is_not_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    private.replace(path, b"old")

    def refuse(new: Path) -> None:
        assert new.read_bytes() == b"new"
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        private.replace(path, b"new", check=refuse)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("strict", [False, True])
def test_a_folder_is_closed_and_one_that_is_shared_is_refused(tmp_path: Path, strict: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    os.close(private.open_folder(folder, strict=strict))
    assert mode(folder) == 0o700
    folder.chmod(0o1777)
    with pytest.raises(Unusable, match="is shared with other users"):
        private.open_folder(folder, strict=strict)
    assert mode(folder) == 0o1777


def test_a_lock_is_had_by_one_and_waited_for_as_long_as_is_said(tmp_path: Path) -> None:
    fds = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    try:
        assert private.try_lock(fds[0])
        assert not private.try_lock(fds[1])
        assert not private.try_lock(fds[1], shared=True)
        assert not private.lock(fds[1], 0.0)
        private.unlock(fds[0])
        assert private.lock(fds[1], 0.0)
    finally:
        for fd in fds:
            os.close(fd)
