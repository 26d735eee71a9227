"""The token store, in one process: what is kept, what is refused, and what damage costs."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import ISSUER, KEY, RESOURCE, number_of, record
from trio.testing import MockClock

from moltis import private
from moltis.oauth.folder import MAX_FILE_BYTES, Folder
from moltis.oauth.model import AuthServer, Client, Key, OAuthProblem, Record, Tokens
from moltis.oauth.store import StoreProblem, TokenStore, fingerprint

OTHER = Key("https://other.example.com/", ISSUER)
NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.(json|begun|lock)|\.lock")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "oauth"


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(folder: Path, warnings: list[str]) -> TokenStore:
    return TokenStore(folder, warn=warnings.append)


def the_file(folder: Path, ending: str = ".json") -> Path:
    [path] = [path for path in folder.iterdir() if path.name.endswith(ending) and path.name != ".lock"]
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


# --- what is kept

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
keys = st.builds(Key, text, text, st.none() | text)
clients = st.builds(Client, client_id=text, client_secret=st.none() | text, source=st.just("registered"))
tokens = st.builds(
    Tokens,
    access_token=text,
    refresh_token=st.none() | text,
    obtained_at=st.floats(0, 1e12),
    expires_at=st.none() | st.floats(0, 1e12),
)
servers = st.builds(AuthServer, issuer=text, token_endpoint=text, auth_methods=st.none() | st.just(("none",)))
records = st.builds(
    Record, key=keys, server=servers, client=st.none() | clients, tokens=st.none() | tokens, rotates=st.booleans()
)


@given(records)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_what_is_saved_is_loaded_and_nothing_it_says_gets_into_a_file_name(tmp_path: Path, kept: Record) -> None:
    store = TokenStore(tmp_path)
    store.save(kept)
    store.begin_refresh(kept.key, fingerprint("x"))
    assert store.load(kept.key) == kept
    assert store.find(kept.key.resource, kept.key.client_id) == kept
    assert all(NAME.fullmatch(name) for name in names(tmp_path))
    store.delete(kept.key)
    assert store.load(kept.key) is None


@pytest.mark.parametrize("part", ["../../etc/passwd", "/", ".", "", "a\0b", "\n", "x" * 20_000, "ü💥"])
def test_a_hostile_resource_or_issuer_is_only_hashed(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "in" / "oauth"
    store = TokenStore(folder)
    for key in (Key(part, part, part), Key(part, ISSUER), Key(RESOURCE, part)):
        store.save(Record(key=key, server=AuthServer(issuer=part, token_endpoint=part)))
        assert store.load(key) is not None
    assert all(NAME.fullmatch(name) for name in names(folder))
    assert names(tmp_path) == {"in"}
    assert names(folder.parent) == {"oauth"}


def test_a_login_is_found_under_its_own_key_only(store: TokenStore) -> None:
    store.save(record())
    for key in (
        OTHER,
        Key(RESOURCE, "https://evil.example.com"),
        Key(RESOURCE, ISSUER, "me"),
        Key(RESOURCE + "/", ISSUER),
    ):
        assert store.load(key) is None
    assert store.find(RESOURCE, "me") is None
    assert store.find(RESOURCE + ISSUER, None) is None


def test_parts_of_a_key_do_not_run_into_each_other(store: TokenStore) -> None:
    store.save(record(key=Key("ab", "c", "d")))
    for key in (Key("a", "bc", "d"), Key("ab", "cd", ""), Key("abd", "c", None)):
        assert store.load(key) is None


def test_the_newest_of_several_issuers_is_found(store: TokenStore, folder: Path) -> None:
    for age, issuer in ((30, "https://a"), (10, "https://b"), (20, "https://c")):
        before = names(folder) if folder.exists() else set()
        store.save(record(age, key=Key(RESOURCE, issuer)))
        [new] = {name for name in names(folder) - before if name.endswith(".json")}
        os.utime(folder / new, (1_000_000 - age, 1_000_000 - age))
    assert number_of(store.find(RESOURCE, None)) == 10


def test_where_nothing_was_ever_kept_nothing_is_made(store: TokenStore, folder: Path) -> None:
    assert store.load(KEY) is None
    assert store.find(RESOURCE, None) is None
    assert store.interrupted(KEY) is None
    store.delete(KEY)
    assert not folder.exists()


def test_a_login_that_is_forgotten_leaves_nothing_of_it(store: TokenStore, folder: Path) -> None:
    store.save(record())
    the_file(folder).write_bytes(b"damaged")
    assert store.load(KEY) is None
    store.save(record())
    store.begin_refresh(KEY, "f")
    store.save(record(key=OTHER))
    store.delete(KEY)
    assert store.load(KEY) is None
    assert store.interrupted(KEY) is None
    assert b"canary" in the_file(folder).read_bytes(), "the other one stays"
    assert names(folder) == {".lock", the_file(folder).name}


def test_nothing_of_a_secret_is_in_a_fingerprint_or_a_repr(store: TokenStore) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint("refresh-canary-1"))
    assert fingerprint("refresh-canary-1") != fingerprint("refresh-canary-2")
    assert "canary" not in repr(record()) + repr(store)


# --- who else may look at it


@pytest.mark.parametrize("bits", [0, 0o777], ids=oct)
def test_modes_are_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    folder = tmp_path / "data" / "oauth"
    created: list[int] = []
    opened = os.open

    def watching(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        fd = opened(path, flags, mode, **more)
        if flags & os.O_CREAT:
            created.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    monkeypatch.setattr(os, "open", watching)
    with umask(bits):
        store = TokenStore(folder)
        store.save(record())
        store.begin_refresh(KEY, "f")
    assert created
    assert all(mode & ~0o600 == 0 for mode in created), "from creation, not from a later chmod"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert store.load(KEY) == record()


async def lock_it(store: TokenStore) -> None:
    async with store.lock(KEY):
        pass


OPERATIONS: dict[str, Callable[[TokenStore], Any]] = {
    "load": lambda store: store.load(KEY),
    "find": lambda store: store.find(RESOURCE, None),
    "save": lambda store: store.save(record(2)),
    "delete": lambda store: store.delete(KEY),
    "begin_refresh": lambda store: store.begin_refresh(KEY, "f"),
    "end_refresh": lambda store: store.end_refresh(KEY),
    "interrupted": lambda store: store.interrupted(KEY),
    "lock": lambda store: anyio.run(lock_it, store),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@every_operation
@pytest.mark.parametrize("bits", [0o770, 0o707, 0o722], ids=oct)
def test_a_folder_that_others_may_write_into_is_refused(
    store: TokenStore, folder: Path, operation: Callable[[TokenStore], Any], bits: int
) -> None:
    store.save(record())
    folder.chmod(bits)
    with pytest.raises(StoreProblem, match=f"{folder} can be written by others.*chmod 700 {folder}"):
        operation(store)
    assert stat.S_IMODE(folder.stat().st_mode) == bits, "a person has to look first"


def test_a_folder_that_others_may_only_read_is_closed_to_them(store: TokenStore, folder: Path) -> None:
    store.save(record())
    folder.chmod(0o755)
    assert store.load(KEY) == record()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@every_operation
def test_a_folder_of_somebody_else_is_refused(
    store: TokenStore, folder: Path, operation: Callable[[TokenStore], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(record())
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreProblem, match="belongs to another user"):
        operation(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_that_root_finds_of_another_user_is_refused(store: TokenStore, folder: Path) -> None:
    store.save(record())
    os.chown(folder, 65534, 65534)
    for operation in (OPERATIONS["load"], OPERATIONS["save"]):
        with pytest.raises(StoreProblem, match="belongs to another user"):
            operation(store)


@every_operation
@pytest.mark.parametrize("dangling", [False, True], ids=["link", "dangling"])
def test_a_folder_that_is_a_link_is_refused(
    store: TokenStore, folder: Path, tmp_path: Path, operation: Callable[[TokenStore], Any], dangling: bool
) -> None:
    target = tmp_path / "elsewhere"
    if not dangling:
        target.mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(target)
    with pytest.raises(StoreProblem, match="is a symbolic link"):
        operation(store)
    assert not target.exists() or names(target) == set()


def test_a_folder_that_is_a_file_is_refused(store: TokenStore, folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()
    for operation in (OPERATIONS["load"], OPERATIONS["save"]):
        with pytest.raises(StoreProblem, match="Not a directory"):
            operation(store)


@pytest.mark.parametrize("name", ["load", "find", "save"])
def test_a_file_that_is_a_link_is_neither_read_nor_written_and_is_set_aside(
    store: TokenStore, folder: Path, tmp_path: Path, name: str
) -> None:
    store.save(record())
    path = the_file(folder)
    target = path.rename(tmp_path / "elsewhere.json")
    before = target.read_bytes()
    path.symlink_to(target)
    assert OPERATIONS[name](store) is None
    assert target.read_bytes() == before
    assert path.with_name(f"{path.name}.broken").is_symlink()
    assert path.is_file() == (name == "save")
    assert not path.is_symlink()


@pytest.mark.parametrize("name", ["load", "find", "save"])
def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(store: TokenStore, folder: Path, name: str) -> None:
    store.save(record())
    path = the_file(folder)
    path.unlink()
    os.mkfifo(path)
    assert OPERATIONS[name](store) is None
    assert path.with_name(f"{path.name}.broken").is_fifo()


@pytest.mark.parametrize("what", ["link", "folder", "full folder", "pipe"])
@pytest.mark.parametrize("name", ["load", "save", "lock", "delete", "begin_refresh", "end_refresh", "interrupted"])
def test_what_is_in_the_place_of_a_file_beside_a_login_makes_way(
    store: TokenStore, folder: Path, tmp_path: Path, name: str, what: str
) -> None:
    store.save(record())
    store.begin_refresh(KEY, "f")
    anyio.run(lock_it, store)
    target = tmp_path / "target"
    unfinished = folder / f"{the_file(folder).name}.tmp"
    for path in (the_file(folder, ".lock"), folder / ".lock", the_file(folder, ".begun"), unfinished):
        path.unlink(missing_ok=True)
        match what:
            case "link":
                path.symlink_to(target)
            case "pipe":
                os.mkfifo(path)
            case _:
                path.mkdir()
                if what == "full folder":
                    (path / "mine").touch()
    OPERATIONS[name](store)
    assert store.load(KEY) == (None if name == "delete" else record(2) if name == "save" else record())
    store.save(record(3))
    store.begin_refresh(KEY, "g")
    anyio.run(lock_it, store)
    assert (number_of(store.load(KEY)), store.interrupted(KEY)) == (3, "g")
    assert not target.exists()


def test_one_of_many_who_find_a_lock_s_file_unusable_makes_way(store: TokenStore, folder: Path) -> None:
    store.save(record())
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to("nothing")
    begin = threading.Barrier(8)
    faults: list[BaseException] = []

    def work(n: int) -> None:
        try:
            begin.wait()
            store.save(record(n, key=Key(RESOURCE, f"https://{n}")))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert (folder / ".lock").is_file()
    assert (folder / ".lock.broken").is_symlink()


def test_a_link_in_place_of_the_unfinished_file_is_not_followed(
    store: TokenStore, folder: Path, tmp_path: Path
) -> None:
    store.save(record())
    target = tmp_path / "target"
    target.write_text("mine", encoding="utf-8")
    (folder / f"{the_file(folder).name}.tmp").symlink_to(target)
    store.save(record(2))
    assert target.read_text("utf-8") == "mine"
    assert number_of(store.load(KEY)) == 2
    assert names(folder) == {".lock", the_file(folder).name}


# --- damage


def encoded(**changes: object) -> bytes:
    return msgspec.json.encode({"schema": 1, "record": msgspec.to_builtins(record()), **changes})


GARBAGE = {
    "empty": b"",
    "zeros": bytes(4096),
    "text": b"hello",
    "binary": bytes(range(256)),
    "deep": b"[" * 200_000,
    "deep inside": b'{"schema":1,"record":{"key":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "no record": b'{"schema":1}',
    "not an object": b"[1,2]",
    "schema of a wrong type": encoded(schema="1"),
    "record of a wrong type": encoded(record=7),
    "tokens of a wrong type": encoded(record={**msgspec.to_builtins(record()), "tokens": {"access_token": 3}}),
    "bad UTF-8": encoded().replace(b"access-canary", b"access-\xff\xfe"),
    "too long": encoded() + b" " * MAX_FILE_BYTES,
    "two documents": encoded() * 2,
}  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_costs_that_login_only_and_is_set_aside(
    store: TokenStore, folder: Path, warnings: list[str], garbage: bytes
) -> None:
    store.save(record())
    path = the_file(folder)
    store.save(record(key=OTHER))
    path.write_bytes(garbage)
    assert store.load(KEY) is None
    assert path.with_name(f"{path.name}.broken").read_bytes() == garbage
    assert not path.exists()
    assert len(warnings) == 1
    assert f"{path.name}.broken" in warnings[0]
    assert store.lost(RESOURCE, None) == warnings[0]
    assert store.lost(OTHER.resource, None) is None
    assert "canary" not in warnings[0]
    assert store.load(OTHER) == record(key=OTHER)
    store.save(record(3))
    assert number_of(store.load(KEY)) == 3
    assert store.lost(RESOURCE, None) is None


def test_a_file_torn_at_any_place_is_never_half_a_login(store: TokenStore, folder: Path) -> None:
    store.save(record())
    path = the_file(folder)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.load(KEY) is None
    path.write_bytes(whole)
    assert store.load(KEY) == record()


def test_one_damaged_file_is_kept_of_one_login(store: TokenStore, folder: Path) -> None:
    for n in range(10):
        store.save(record())
        the_file(folder).write_bytes(b"damaged %d" % n)
        assert store.find(RESOURCE, None) is None
    [kept] = [name for name in names(folder) if name.endswith(".broken")]
    assert (folder / kept).read_bytes() == b"damaged 9"


def test_what_was_mended_meanwhile_is_not_set_aside(
    store: TokenStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(record())
    read = Folder.read
    answers = [(b"damaged", 1)]
    monkeypatch.setattr(Folder, "read", lambda self, name: answers.pop() if answers else read(self, name))
    assert store.load(KEY) is None
    assert store.load(KEY) == record()
    assert not [name for name in names(folder) if "broken" in name]


def test_a_file_under_another_login_s_name_is_not_taken_for_it(store: TokenStore, folder: Path) -> None:
    store.save(record())
    mine = the_file(folder)
    store.save(record(7, key=OTHER))
    [other] = [path for path in folder.glob("*.json") if path != mine]
    mine.write_bytes(other.read_bytes())
    assert store.load(KEY) is None
    assert store.find(RESOURCE, None) is None


def test_a_problem_with_one_issuer_s_file_does_not_hide_another_s(store: TokenStore, folder: Path) -> None:
    store.save(record(5, key=Key(RESOURCE, "https://a")))
    bad = the_file(folder)
    store.save(record(6, key=Key(RESOURCE, "https://b")))
    bad.unlink()
    os.mkfifo(bad)
    assert number_of(store.find(RESOURCE, None)) == 6


def test_what_a_newer_moltis_wrote_is_left_alone_until_it_is_forgotten(store: TokenStore, folder: Path) -> None:
    store.save(record())
    path = the_file(folder)
    newer = encoded(schema=2, record={"unheard": "of"})
    path.write_bytes(newer)
    assert store.load(KEY) is None
    assert store.find(RESOURCE, None) is None
    with pytest.raises(StoreProblem, match="written by a newer moltis"):
        store.save(record(2))
    assert path.read_bytes() == newer
    assert names(folder) == {".lock", path.name}
    store.delete(KEY)
    store.save(record(2))
    assert number_of(store.load(KEY)) == 2


def test_what_the_same_schema_says_beside_is_ignored(store: TokenStore, folder: Path) -> None:
    store.save(record())
    the_file(folder).write_bytes(encoded(beside=1, record={**msgspec.to_builtins(record()), "beside": 2}))
    assert store.load(KEY) == record()


# --- writing that fails


def failing(error: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_a_failed_write_leaves_the_old_login_and_no_other_trace(
    store: TokenStore, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    store.save(record())
    store.begin_refresh(KEY, "f")
    before = names(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(error))
        with pytest.raises(StoreProblem, match=os.strerror(error)):
            store.save(record(2))
    assert store.load(KEY) == record()
    assert store.interrupted(KEY) == "f", "the token on disk may have been used: the refresh is not over"
    assert names(folder) == before


def test_a_login_too_long_to_be_read_again_is_not_written(store: TokenStore) -> None:
    store.save(record())
    with pytest.raises(StoreProblem, match="bytes is not kept"):
        store.save(record(2, padding=MAX_FILE_BYTES))
    assert store.load(KEY) == record()


def test_what_a_killed_writer_left_is_gone_after_the_next_write(store: TokenStore, folder: Path) -> None:
    store.save(record())
    left = folder / f"{the_file(folder).name}.tmp"
    left.write_bytes(b"half a tok")
    assert store.load(KEY) == record()
    assert left.exists()
    store.save(record(key=OTHER))
    assert not left.exists()


def test_a_writer_that_does_not_get_done_is_waited_for_5_seconds(
    store: TokenStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(record())
    waited = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: waited[0])

        @staticmethod
        def sleep(secs: float) -> None:
            waited[0] += secs

    monkeypatch.setattr(private, "time", Clock)
    with store._folder.writing():
        with pytest.raises(StoreProblem, match="another program is writing"):
            store.save(record(2))
        assert store.load(KEY) == record(), "reading needs no lock"
    assert 5.0 < waited[0] < 5.1
    store.save(record(2))


def test_any_thread_may_save_and_load(store: TokenStore) -> None:
    faults: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for i in range(20):
                key = Key(RESOURCE, f"https://{n % 3}")
                store.save(record(i, key=key))
                assert store.load(key) is not None
                assert store.find(RESOURCE, None) is not None
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


# --- refreshing


def test_a_refresh_that_was_begun_is_known_until_it_is_over(store: TokenStore) -> None:
    store.save(record())
    assert store.interrupted(KEY) is None
    store.begin_refresh(KEY, fingerprint("refresh-canary-1"))
    assert store.interrupted(KEY) == fingerprint("refresh-canary-1")
    assert store.interrupted(OTHER) is None
    store.end_refresh(KEY)
    assert store.interrupted(KEY) is None
    store.begin_refresh(KEY, fingerprint("refresh-canary-1"))
    store.save(record(2))
    assert store.interrupted(KEY) is None


def test_a_mark_of_a_refresh_holds_no_token(store: TokenStore, folder: Path) -> None:
    store.begin_refresh(KEY, fingerprint("refresh-canary-1"))
    assert re.fullmatch(rb"[0-9a-f]{16}", the_file(folder, ".begun").read_bytes())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_task_at_a_time_has_the_lock_of_a_login(
    store: TokenStore, folder: Path, anyio_backend: object
) -> None:
    # In real time: virtual time passes while a thread opens the file.
    inside = 0
    most = 0
    again = TokenStore(folder)

    async def refresh(store: TokenStore) -> None:
        nonlocal inside, most
        async with store.lock(KEY):
            inside += 1
            most = max(most, inside)
            await anyio.sleep(0.002)
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(refresh, (store, again)[n % 2])
    assert most == 1


async def test_logins_do_not_wait_for_each_other(store: TokenStore) -> None:
    async with store.lock(KEY), store.lock(OTHER), store.lock(Key(RESOURCE, "https://b")):
        await anyio.to_thread.run_sync(store.save, record())


async def test_the_lock_is_waited_for_30_seconds_and_then_it_is_an_outage(store: TokenStore, folder: Path) -> None:
    began = anyio.current_time()
    async with TokenStore(folder).lock(KEY):
        with pytest.raises(OAuthProblem) as refused:
            async with store.lock(KEY):
                raise AssertionError
        assert refused.value.kind == "outage"
        assert 30.0 <= anyio.current_time() - began < 30.2
    async with store.lock(KEY):
        pass


async def test_a_fault_or_a_cancellation_inside_frees_the_lock(store: TokenStore) -> None:
    descriptors = os.listdir("/dev/fd")
    with pytest.raises(ZeroDivisionError):
        async with store.lock(KEY):
            raise ZeroDivisionError
    with anyio.move_on_after(1):
        async with store.lock(KEY):
            await anyio.sleep(2)
    with anyio.move_on_after(1):
        async with store.lock(KEY), store.lock(KEY):
            raise AssertionError
    async with store.lock(KEY):
        pass
    assert os.listdir("/dev/fd") == descriptors
