"""A record that cannot be used costs itself: it is set aside and said once, and the next one takes its place."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from moltis.config.plan import ServerPlan, Shown
from moltis.daemon import eras, memories
from moltis.daemon.eras import Eras
from moltis.daemon.memories import Memories
from moltis.gateway.api import LOCAL, Known
from moltis.gateway.http import kept
from moltis.gateway.http.kept import KeptSessions
from moltis.gateway.messages import Ask
from moltis.gateway.views import ALL
from moltis.oauth.model import AuthServer, Key, Record
from moltis.oauth.store import StoreProblem, TokenStore
from moltis.session.handshake import Agreed, Lesson

pytestmark = pytest.mark.anyio

FILES = ServerPlan("files", shown=Shown(command="npx"), launch_mark="m")
LISTING = Known(Agreed("legacy", "2025-11-25", {"name": "x"}, {"tools": {}}))
LOGIN = Record(
    key=Key("https://mcp.example.com/", "https://auth.example.com"),
    server=AuthServer(issuer="https://auth.example.com", token_endpoint="https://auth.example.com/token"),
)


class Log:
    """Takes what a store says."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def warning(self, message: str, /, **fields: Any) -> None:
        self.told.append(f"{message} {fields}")


class Store:
    """One record of a store, as one daemon after the other finds and leaves it."""

    def __init__(self, data_dir: Path, log: Log) -> None:
        self.data_dir = data_dir
        self.log = log

    @property
    def path(self) -> Path:
        raise NotImplementedError

    async def start(self) -> bool:
        """Be the next daemon, and say whether it finds something."""
        raise NotImplementedError

    async def keep(self) -> None:
        """Have the daemon learn something and write it."""
        raise NotImplementedError


class Lists(Store):
    @property
    def path(self) -> Path:
        return self.data_dir / "known" / "files.json"

    async def start(self) -> bool:
        self.store = Memories(self.data_dir / "known", lambda _: LISTING)
        await self.store.load()
        return self.store.of(FILES) is not None

    async def keep(self) -> None:
        self.store.learn(FILES)
        await self.store.write()


class Lessons(Store):
    @property
    def path(self) -> Path:
        return self.data_dir / "known" / "files.era"

    async def start(self) -> bool:
        self.store = Eras(self.data_dir / "known")
        return self.store.of(FILES).lesson is Lesson.MODERN

    async def keep(self) -> None:
        self.store.of(FILES).learn(Lesson.MODERN)
        await self.store.write()


class SessionsFile(Store):
    @property
    def path(self) -> Path:
        return self.data_dir / "sessions.json"

    async def start(self) -> bool:
        self.store = KeptSessions(self.path, lambda _: "")
        await self.store.load()
        return self.store.find("a", ALL, LOCAL) is not None

    async def keep(self) -> None:
        self.store.begin("a", ALL, LOCAL, Ask(b"1", "initialize", {}, {}))
        await self.store.write()


class Login(Store):
    _path: Path

    @property
    def path(self) -> Path:
        found = [path for path in (self.data_dir / "oauth").iterdir() if path.name.endswith(".json")]
        self._path = found[0] if found else self._path
        return self._path

    async def start(self) -> bool:
        self.store = TokenStore(self.data_dir / "oauth", warn=self.log.warning)
        return self.store.find(LOGIN.key.resource, None) is not None and self.store.load(LOGIN.key) is not None

    async def keep(self) -> None:
        self.store.save(LOGIN)


@pytest.fixture(params=[Lists, Lessons, SessionsFile, Login])
async def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    log = Log()
    for module in (memories, eras, kept):
        monkeypatch.setattr(module, "log", log)
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    made: Store = request.param(data_dir, log)
    assert not await made.start()
    await made.keep()
    assert made.path.is_file()
    assert await made.start()
    assert log.told == []
    return made


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        here = os.getcwd()
        os.chdir(path.parent)  # its path may be too long for a socket
        try:
            sock.bind(path.name)
        finally:
            os.chdir(here)


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


FAULTS: dict[str, Callable[[Path], object]] = {
    "a link": _link,
    "a link to nothing": lambda path: _in_place_of(path, lambda p: p.symlink_to("nothing")),
    "a link to itself": lambda path: _in_place_of(path, lambda p: p.symlink_to(p.name)),
    "a folder": lambda path: _in_place_of(path, Path.mkdir),
    "a folder with something in it": lambda path: _in_place_of(path, _full_folder),
    "a pipe": lambda path: _in_place_of(path, os.mkfifo),
    "a socket": lambda path: _in_place_of(path, _socket),
    "nothing in it": lambda path: path.write_bytes(b""),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "no UTF-8": lambda path: path.write_bytes(path.read_bytes()[:-1] + b',"\xff":1}'),
    "another file": lambda path: path.write_bytes(b'{"a": 1}'),
    "a bomb": lambda path: path.write_bytes(b"[" * 4000),
    "more than it may have": lambda path: os.truncate(path, 100 * 1024 * 1024),
    "another user's": lambda path: os.chown(path, 65534, 65534),
}


def _snapshot(path: Path) -> object:
    status = os.lstat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_cannot_be_used_is_set_aside_and_said_once_and_replaced(store: Store, fault: str) -> None:
    if fault == "another user's" and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    aside = store.path.with_name(f"{store.path.name}.broken")
    FAULTS[fault](store.path)
    elsewhere = store.path.parent.parent / "elsewhere"
    broken, target = _snapshot(store.path), elsewhere.exists() and _snapshot(elsewhere)
    assert not await store.start()
    assert (_snapshot(aside), elsewhere.exists() and _snapshot(elsewhere)) == (broken, target)
    assert not os.path.lexists(aside.with_suffix(""))
    assert len(store.log.told) == 1
    assert str(aside) in store.log.told[0]
    assert not await store.start()
    await store.keep()
    assert await store.start()
    assert len(store.log.told) == 1
    assert (elsewhere.exists() and _snapshot(elsewhere) == target) or not target


@pytest.mark.parametrize("second", ["a link", "half of it", "a folder", "a pipe"])
@pytest.mark.parametrize("first", ["a link", "half of it", "a folder", "a pipe"])
async def test_one_that_was_set_aside_gives_way_to_the_next(store: Store, first: str, second: str) -> None:
    for fault in (first, second):
        FAULTS[fault](store.path)
        broken = _snapshot(store.path)
        assert not await store.start()
        await store.keep()
    assert await store.start()
    left = [path for path in store.path.parent.iterdir() if path.name.startswith(store.path.name)]
    assert len(left) == 2
    assert _snapshot(store.path.with_name(f"{store.path.name}.broken")) == broken
    assert len(store.log.told) == 2


async def test_what_comes_into_the_place_of_a_record_while_the_daemon_runs_is_not_written_through(
    store: Store, tmp_path: Path
) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    store.path.unlink()
    await store.start()
    (store._path if isinstance(store, Login) else store.path).symlink_to(target)
    await store.keep()
    assert target.read_text() == "mine"
    assert await store.start()


@pytest.mark.parametrize("fault", ["a folder", "a folder with something in it", "a pipe"])
async def test_what_is_no_file_makes_way_for_a_record_while_the_daemon_runs(store: Store, fault: str) -> None:
    await store.start()
    path = store.path
    FAULTS[fault](path)
    await store.keep()
    if isinstance(store, Lists | Lessons):  # nothing new was learnt
        assert not await store.start()
        await store.keep()
    assert await store.start()
    assert os.path.lexists(path.with_name(f"{path.name}.broken"))


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
async def test_what_cannot_be_set_aside_costs_nothing_more(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    store.path.write_bytes(b"half")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        assert not await store.start()
    assert len(store.log.told) == 1
    assert os.strerror(number) in store.log.told[0]
    assert store.path.read_bytes() == b"half"
    assert not await store.start()
    await store.keep()
    assert await store.start()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
async def test_what_may_not_be_read_is_set_aside(store: Store, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = store.path, os.open

    def refuse(name: Any, *rest: Any, **more: Any) -> int:
        if str(name).endswith(path.name):
            raise PermissionError(number, os.strerror(number))
        return opened(name, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert not await store.start()
    assert path.with_name(f"{path.name}.broken").exists()
    assert len(store.log.told) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM], ids=errno.errorcode.get)
async def test_what_cannot_be_read_at_this_moment_stays_for_the_next(
    store: Store, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = store.path, os.open

    def refuse(name: Any, *rest: Any, **more: Any) -> int:
        if str(name).endswith(path.name):
            raise OSError(number, os.strerror(number))
        return opened(name, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        if isinstance(store, Login):  # whoever asks for it says so
            with pytest.raises(StoreProblem, match=os.strerror(number)):
                await store.start()
        else:
            assert not await store.start()
            assert len(store.log.told) == 1
            assert os.strerror(number) in store.log.told[0]
    assert await store.start()
