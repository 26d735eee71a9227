"""Access tokens: who is let in, what is kept of a token, and what damage of the file costs."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from moltis.errors import ConfigError, ExitCode, MoltisError, UsageError
from moltis.gateway import tokens as tokens_module
from moltis.gateway.api import Principal
from moltis.gateway.token_file import MAX_FILE_BYTES
from moltis.gateway.tokens import MAX_DAYS, SAVE_SECS, Created, TokenStore

START = 1_790_000_000.5
DAY = 86400.0
TOKEN = re.compile(r"mlt_[A-Za-z0-9_-]{43}")


class Wall:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.secs = START

    def __call__(self) -> float:
        return self.secs


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tokens.toml"


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def store(path: Path, wall: Wall) -> TokenStore:
    return reopened(path, wall)


def reopened(path: Path, wall: Wall) -> TokenStore:
    store = TokenStore(path, now=wall)
    store.load()
    return store


def names(store: TokenStore) -> list[str]:
    return [token.name for token in store.tokens()]


@contextmanager
def an_error(kind: type[MoltisError], path: Path | None = None) -> Iterator[list[MoltisError]]:
    """Expect one; whatever it says names the file and says what to do."""
    errors: list[MoltisError] = []
    with pytest.raises(kind) as caught:
        yield errors
    errors.append(caught.value)
    assert caught.value.hint
    if path is not None:
        assert str(path) in caught.value.message


# --- who is let in


def test_a_new_token_lets_its_owner_in_under_its_name(store: TokenStore) -> None:
    made = store.create("editor", "read")
    assert TOKEN.fullmatch(made.token)
    assert (made.name, made.scope, made.expires_at) == ("editor", "read", None)
    assert store.verify(made.token) == Principal("editor", may_write=False)


def test_write_is_more_than_read(store: TokenStore) -> None:
    principal = store.verify(store.create("ci", "write").token)
    assert principal is not None
    assert principal.may_write


def test_every_token_is_another_one(store: TokenStore) -> None:
    made = [store.create(f"t{n}", "write").token for n in range(20)]
    assert len(set(made)) == 20
    assert [store.verify(token) for token in made] == [Principal(f"t{n}") for n in range(20)]


@pytest.mark.parametrize("change", [lambda t: t[:-1] + ("A" if t[-1] != "A" else "E"), str.upper, lambda t: t[:-1]])
def test_what_is_nearly_a_token_lets_nobody_in(store: TokenStore, change: Any) -> None:
    assert store.verify(change(store.create("a", "read").token)) is None


def test_the_whole_hash_counts(path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "_KEY_BYTES", 1)
    store = reopened(path, wall)
    token = store.create("a", "read").token
    first = hashlib.sha256(token.encode()).digest()[:1]
    alike = (f"mlt_{n:043}" for n in range(100_000))
    other = next(each for each in alike if hashlib.sha256(each.encode()).digest()[:1] == first)
    assert store.verify(other) is None
    assert store.verify(token)


@given(st.text(max_size=60) | st.text("mlt_", min_size=47, max_size=47) | st.just("mlt_" + "\udcff" * 43))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_is_answered_and_nothing_made_up_lets_anybody_in(path: Path, sent: str) -> None:
    store = TokenStore(path)
    store.load()
    if not store.tokens():
        store.create("a", "read")
    assert store.verify(sent) is None


def test_a_token_ends_at_the_instant_that_was_said(store: TokenStore, wall: Wall) -> None:
    made = store.create("short", "read", expires_days=1)
    assert made.expires_at == "2026-09-22T14:13:20.500Z"
    wall.secs = START + DAY - 0.001
    assert store.verify(made.token)
    wall.secs = START + DAY
    assert store.verify(made.token) is None
    assert names(store) == ["short"]  # it is shown until it is revoked, so that people see why they are not let in


def test_a_token_has_lapsed_when_it_is_over_or_gone(store: TokenStore, wall: Wall) -> None:
    store.create("day", "read", 1)
    store.create("ever", "read")
    assert [store.lapsed(name) for name in ("day", "ever", "none")] == [False, False, True]
    wall.secs += 86400
    assert [store.lapsed(name) for name in ("day", "ever")] == [True, False]
    store.revoke("ever")
    assert store.lapsed("ever")


def test_a_revoked_token_lets_nobody_in_at_once_and_after_a_restart(store: TokenStore, path: Path, wall: Wall) -> None:
    gone, stays = store.create("gone", "write").token, store.create("stays", "write").token
    store.revoke("gone")
    for each in (store, reopened(path, wall)):
        assert each.verify(gone) is None
        assert each.verify(stays) == Principal("stays")
        assert names(each) == ["stays"]


def test_a_restart_changes_nothing(store: TokenStore, path: Path, wall: Wall) -> None:
    made = [store.create("b", "write", 30).token, store.create("a.b-c_d", "read").token]
    assert store.verify(made[0])
    store.save()
    again = reopened(path, wall)
    assert again.tokens() == store.tokens()
    assert names(again) == ["b", "a.b-c_d"]
    assert [again.verify(token) for token in made] == [Principal("b"), Principal("a.b-c_d", may_write=False)]


def test_changes_at_the_same_time_lose_nothing(store: TokenStore, path: Path, wall: Wall) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.create(f"t{n}", "read"), range(8)))
        clashes = list(pool.map(lambda _: raised(lambda: store.create("same", "read")), range(8)))
    assert clashes.count(None) == 1
    assert {store.verify(each.token) for each in made} == {Principal(f"t{n}", False) for n in range(8)}
    assert sorted(names(reopened(path, wall))) == ["same", *(f"t{n}" for n in range(8))]


def raised(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except UsageError as error:
        return error
    return None


# --- names and bounds


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a\n", "é", "a" * 65, "mlt_x"])
def test_a_name_that_is_none_is_refused(store: TokenStore, path: Path, name: str) -> None:
    with an_error(UsageError):
        store.create(name, "read")
    assert not path.exists()


def test_a_name_is_given_once(store: TokenStore) -> None:
    token = store.create("a", "read").token
    with an_error(UsageError) as errors:
        store.create("a", "write")
    assert errors[0].hint == "moltis token revoke a"
    assert store.verify(token) == Principal("a", may_write=False)
    store.revoke("a")
    assert store.verify(store.create("a", "write").token) == Principal("a")


@pytest.mark.parametrize("days", [0.0, -1.0, MAX_DAYS + 1, float("inf"), float("nan")])
def test_days_out_of_range_are_refused(store: TokenStore, days: float) -> None:
    with pytest.raises(UsageError, match="expires_days"):
        store.create("a", "read", days)
    store.create("a", "read", MAX_DAYS)


def test_there_is_an_end_to_tokens(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "MAX_TOKENS", 2)
    store.create("a", "read")
    store.create("b", "read")
    with an_error(UsageError):
        store.create("c", "read")


def test_as_many_tokens_as_there_may_be_fit_into_the_file(path: Path) -> None:
    entry = {"sha256": "a" * 64, "scope": "write", "created_at": "2026-11-21T18:12:12.759Z"}
    entry |= {"expires_at": entry["created_at"], "last_used_at": entry["created_at"]}
    longest = f'[tokens."{"a" * 64}"]\n' + "".join(f'{k} = "{v}"\n' for k, v in entry.items()) + "\n"
    assert len(longest) * tokens_module.MAX_TOKENS < MAX_FILE_BYTES


def test_revoking_what_is_not_there_names_the_nearest(store: TokenStore) -> None:
    store.create("laptop", "read")
    with an_error(UsageError) as errors:
        store.revoke("latpop")
    assert "did you mean 'laptop'?" in errors[0].message
    assert names(store) == ["laptop"]


# --- what is kept, and what is said


def test_a_value_is_nowhere_but_with_whoever_asked_for_it(store: TokenStore, path: Path) -> None:
    made = store.create("editor", "write", 30)
    assert store.verify(made.token)
    store.save()
    text = path.read_text()
    assert hashlib.sha256(made.token.encode()).hexdigest() in text
    said = [text, repr(made), str(made), repr(store), repr(vars(store)), repr(store.tokens())]
    said += [repr(msgspec.to_builtins(token)) for token in store.tokens()]
    assert not [each for each in said if made.token in each or made.token[4:] in each or "mlt_" in each]


def test_a_value_taken_for_a_name_is_not_repeated(store: TokenStore) -> None:
    token = store.create("editor", "write").token
    for attempt in (lambda: store.revoke(token), lambda: store.create(token, "read")):
        with an_error(UsageError) as errors:
            attempt()
        assert token not in f"{errors[0]} {errors[0].hint} {errors[0].data()}"


def test_the_file_is_the_owners_alone_and_says_what_it_is(store: TokenStore, path: Path) -> None:
    previous = os.umask(0)
    try:
        store.create("a", "read")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_text().startswith("# Access tokens")
    assert set(tomli.loads(path.read_text())["tokens"]["a"]) == {"sha256", "scope", "created_at"}


def test_a_file_that_was_opened_for_reading_is_closed_again(store: TokenStore, path: Path, wall: Wall) -> None:
    token = store.create("a", "read").token
    path.chmod(0o644)
    assert reopened(path, wall).verify(token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- damage

GOOD = f'sha256 = "{"0a" * 32}"\nscope = "read"\ncreated_at = "2026-01-01T00:00:00Z"\n'
DAMAGED = {
    "not TOML": b"[tokens.a\n",
    "not UTF-8": b"\xff\xfe",
    "no sha256": b'[tokens.a]\nscope = "read"\ncreated_at = "2026-01-01T00:00:00Z"\n',
    "no hash": b"[tokens.a]\n" + GOOD.replace("0a" * 32, "0a" * 31).encode(),
    "an unknown scope": b"[tokens.a]\n" + GOOD.replace("read", "admin").encode(),
    "an unknown key": b"[tokens.a]\n" + GOOD.encode() + b"note = 1\n",
    "an instant without a zone": b"[tokens.a]\n" + GOOD.replace("00Z", "00").encode(),
    "an instant out of range": b"[tokens.a]\n" + GOOD.replace("2026-01-01", "9999-12-31").encode(),
    "a name that is none": b'[tokens."a b"]\n' + GOOD.encode(),
    "one hash twice": b"[tokens.a]\n" + GOOD.encode() + b"[tokens.b]\n" + GOOD.encode(),
    "something else": b"[servers.a]\n",
    "tokens that are no tables": b"tokens = 1\n",
    "a token that is no table": b"tokens.a = 1\n",
    "too large": b"#" * (MAX_FILE_BYTES + 1),
}  # fmt: skip


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_is_named_and_left_as_it_is(path: Path, wall: Wall, raw: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(raw)
    path.chmod(0o600)
    store = TokenStore(path, now=wall)
    with an_error(ConfigError, path) as errors:
        store.load()
    assert errors[0].exit_code is ExitCode.BAD_CONFIG
    for attempt in (store.tokens, store.save, lambda: store.create("a", "read"), lambda: store.revoke("a")):
        with an_error(ConfigError, path):
            attempt()
    assert path.read_bytes() == raw
    assert [each.name for each in path.parent.iterdir()] == ["tokens.toml"]


def test_a_mended_file_is_taken_without_a_restart(path: Path, wall: Wall) -> None:
    path.parent.mkdir()
    path.write_text("[tokens.a")
    path.chmod(0o600)
    store = TokenStore(path, now=wall)
    with pytest.raises(ConfigError):
        store.load()
    path.write_text(f"[tokens.a]\n{GOOD}")
    store.create("b", "read")
    assert names(store) == ["a", "b"]


def test_a_damaged_file_does_not_repeat_what_somebody_put_into_it(path: Path, wall: Wall) -> None:
    secret = "mlt_" + "s" * 43
    path.parent.mkdir()
    for text in (f'[tokens."{secret}"]\n{GOOD}', f"[tokens.{secret}]\nx=1", f'[tokens.a]\ntoken="{secret}"', secret):
        path.write_text(text)
        path.chmod(0o600)
        with an_error(ConfigError, path) as errors:
            TokenStore(path, now=wall).load()
        assert secret not in f"{errors[0]} {errors[0].hint}"


def test_dates_of_toml_are_instants_too(path: Path, wall: Wall) -> None:
    path.parent.mkdir()
    path.write_text("[tokens.a]\n" + GOOD.replace('"2026-01-01T00:00:00Z"', "2026-01-01T01:00:00+01:00"))
    path.chmod(0o600)
    assert reopened(path, wall).tokens()[0].created_at == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(store: TokenStore, path: Path, wall: Wall, mode: int) -> None:
    token = store.create("a", "write").token
    path.chmod(mode)
    other = TokenStore(path, now=wall)
    with an_error(ConfigError, path) as errors:
        other.load()
    assert "chmod 600" in errors[0].hint
    assert other.verify(token) is None


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(path: Path, wall: Wall, make: Any) -> None:
    path.parent.mkdir()
    make(path)
    with an_error(ConfigError, path):
        TokenStore(path, now=wall).load()


def full(*_: object) -> None:
    raise ConfigError("cannot write: no space")


def test_a_token_that_cannot_be_written_is_none(store: TokenStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = store.create("a", "read").token
    before = path.read_bytes()
    monkeypatch.setattr(tokens_module, "replace", full)
    with pytest.raises(ConfigError, match="no space"):
        store.create("b", "read")
    assert (names(store), path.read_bytes()) == (["a"], before)
    assert store.verify(token)


def test_a_token_is_revoked_though_that_cannot_be_written_and_stays_so(
    store: TokenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, kept = store.create("a", "read").token, store.create("b", "read").token
    store.take_over()
    with monkeypatch.context() as disk:
        disk.setattr(tokens_module, "replace", full)
        with pytest.raises(ConfigError, match=r"invalid from now on.*no space"):
            store.revoke("a")
        assert (store.verify(token), store.take_over(), names(store)) == (None, ["a"], ["b"])
        store.load()
        assert store.verify(token) is None, "the file has it, and it is revoked all the same"
        with pytest.raises(ConfigError):
            store.save()
    store.save()
    assert b"tokens.a" not in path.read_bytes(), "the next write takes it out of the file"
    assert store.verify(kept)


@pytest.mark.parametrize("damage", [b"{", b"", None])
def test_a_token_is_revoked_whatever_has_become_of_the_file(
    store: TokenStore, path: Path, damage: bytes | None
) -> None:
    token = store.create("a", "read").token
    if damage is None:
        path.chmod(0o666)
    else:
        path.write_bytes(damage)
    if damage == b"":
        store.revoke("a")
    else:
        with pytest.raises(ConfigError):
            store.revoke("a")
    assert store.verify(token) is None


def test_what_is_over_is_told_once_whatever_ended_it(store: TokenStore, path: Path, wall: Wall) -> None:
    for name in ("by hand", "by us", "stays"):
        store.create(name.replace(" ", "-"), "read")
    store.create("by-time", "read", expires_days=1)
    store.create("other-rights", "write")
    assert store.take_over() == []
    text = path.read_text()
    path.write_text(text.replace("[tokens.by-hand]", "[tokens.renamed]").replace('scope = "write"', 'scope = "read"'))
    store.revoke("by-us")
    assert sorted(store.take_over()) == ["by-hand", "by-us", "other-rights"]
    wall.secs += 86400
    assert store.take_over() == ["by-time"]
    store.load()
    assert store.take_over() == []


def test_a_token_taken_out_while_the_uses_are_saved_is_over_too(store: TokenStore, path: Path) -> None:
    store.create("a", "read")
    path.unlink()
    store.save()
    assert store.take_over() == ["a"]


def test_a_token_taken_out_of_the_file_by_hand_does_not_come_back(store: TokenStore, path: Path) -> None:
    token = store.create("a", "read").token
    assert store.verify(token)
    path.unlink()
    store.save()
    assert store.verify(token) is None


# --- when it was used last


def test_the_last_use_is_seen_at_once_and_kept_when_saved(store: TokenStore, path: Path, wall: Wall) -> None:
    token = store.create("a", "read").token
    assert store.tokens()[0].last_used_at is None
    wall.secs += 5
    store.verify(token)
    assert store.tokens()[0].last_used_at == "2026-09-21T14:13:25.500Z"
    assert reopened(path, wall).tokens()[0].last_used_at is None
    store.save()
    assert reopened(path, wall).tokens() == store.tokens()


def test_a_change_of_another_token_keeps_the_last_use(store: TokenStore, path: Path, wall: Wall) -> None:
    store.verify(store.create("a", "read").token)
    store.create("b", "read")
    assert store.tokens()[0].last_used_at is not None
    assert reopened(path, wall).tokens() == store.tokens()


def test_saving_what_has_not_changed_writes_nothing(store: TokenStore, path: Path) -> None:
    store.create("a", "read")
    before = path.stat()
    store.save()
    assert path.stat().st_ino == before.st_ino


def watched(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the instants at which uses are written."""
    saves: list[float] = []

    async def at_once(save: Any, **_: object) -> None:
        saves.append(anyio.current_time())
        save()

    # A worker thread takes real time, which virtual time would run away from.
    monkeypatch.setattr(anyio.to_thread, "run_sync", at_once)
    return saves


async def test_uses_are_written_once_a_minute_at_most_and_never_without_any(
    store: TokenStore, path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = watched(store, monkeypatch)
    token = store.create("a", "read").token
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        await anyio.sleep(1000)
        assert saves == []
        for _ in range(150):
            wall.secs += 1
            store.verify(token)
            await anyio.sleep(1)
        await anyio.sleep(1000)
        assert len(saves) == 3
        assert [later - earlier >= SAVE_SECS for earlier, later in pairwise([1000 + began, *saves])] == [True] * 3
        tasks.cancel_scope.cancel()
    assert len(saves) == 3
    assert reopened(path, wall).tokens() == store.tokens()


async def test_uses_are_written_when_the_daemon_ends(
    store: TokenStore, path: Path, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = watched(store, monkeypatch)
    token = store.create("a", "read").token
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        store.verify(token)
        await anyio.sleep(1)
        assert saves == []
        tasks.cancel_scope.cancel()
    assert reopened(path, wall).tokens()[0].last_used_at is not None


async def test_a_file_that_cannot_be_written_does_not_end_the_daemon(
    store: TokenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = watched(store, monkeypatch)
    token = store.create("a", "read").token
    path.write_text("[tokens.a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.run)
        store.verify(token)
        await anyio.sleep(2 * SAVE_SECS)
        store.verify(token)
        await anyio.sleep(2 * SAVE_SECS)
        tasks.cancel_scope.cancel()
    assert len(saves) == 2
    assert path.read_text() == "[tokens.a"


def test_what_create_gives_is_what_the_control_method_answers() -> None:
    assert Created.__struct_fields__ == ("token", "name", "scope", "projects", "expires_at")
