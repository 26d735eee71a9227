"""Encryption of the token store, with a keyring of the test's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from store_samples import KEY, RESOURCE, number_of, record

from moltis.oauth.cipher import ACCOUNT, SERVICE, Cipher, Damaged, WrongKey, is_sealed, keyring_cipher
from moltis.oauth.store import StoreProblem, TokenStore

keyring = pytest.importorskip("keyring", reason="the extra moltis[keyring] is not installed")
from keyring.backends import fail, null  # noqa: E402
from keyring.errors import InitError, KeyringLocked, PasswordSetError  # noqa: E402


class Memory(keyring.backend.KeyringBackend):  # type: ignore[misc, name-defined]
    """A keyring that lasts as long as the test."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.error: Exception | None = None

    def get_password(self, service: str, username: str) -> str | None:
        if self.error is not None:
            raise self.error
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def memory() -> Iterator[Memory]:
    before = keyring.core._keyring_backend
    backend = Memory()
    keyring.set_keyring(backend)
    yield backend
    keyring.core._keyring_backend = before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "oauth"


def new_cipher() -> Cipher:
    return Cipher(Fernet.generate_key().decode())


def the_file(folder: Path) -> Path:
    [path] = folder.glob("*.json")
    return path


# --- sealing


@given(st.binary(max_size=2000))
def test_what_was_sealed_is_opened(plain: bytes) -> None:
    cipher = new_cipher()
    sealed = cipher.seal(plain)
    assert is_sealed(sealed)
    assert cipher.open(sealed) == plain
    with pytest.raises(WrongKey):
        new_cipher().open(sealed)


def test_plain_json_is_not_taken_for_sealed() -> None:
    assert not is_sealed(b'{"schema":1}')
    assert not is_sealed(b"")


def test_any_change_is_noticed() -> None:
    cipher = new_cipher()
    sealed = cipher.seal(b"a login")
    for place in range(len(b"moltis-sealed 1 "), len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((Damaged, WrongKey)):
            cipher.open(bytes(changed))
        with pytest.raises((Damaged, WrongKey)):
            cipher.open(sealed[:place])


def test_a_cipher_does_not_show_its_key() -> None:
    key = Fernet.generate_key().decode()
    assert key not in repr(Cipher(key))
    assert key[:12] not in Cipher(key).seal(b"").decode()


# --- the store


def test_an_encrypted_store_holds_no_secret_in_plain(folder: Path) -> None:
    store = TokenStore(folder, cipher=new_cipher())
    store.save(record())
    for path in folder.iterdir():
        assert b"canary" not in path.read_bytes()
        assert b"example" not in path.read_bytes()
    assert store.load(KEY) == record()
    assert store.find(RESOURCE, None) == record()


def test_turning_it_on_reads_what_is_plain_and_encrypts_at_the_next_save(folder: Path) -> None:
    TokenStore(folder).save(record())
    store = TokenStore(folder, cipher=new_cipher())
    assert store.load(KEY) == record()
    store.save(record(2))
    assert is_sealed(the_file(folder).read_bytes())
    assert number_of(store.load(KEY)) == 2


def test_without_encryption_what_is_encrypted_is_left_until_there_is_a_new_login(folder: Path) -> None:
    cipher = new_cipher()
    TokenStore(folder, cipher=cipher).save(record())
    store = TokenStore(folder)
    reads: tuple[Callable[[], object], ...] = (lambda: store.load(KEY), lambda: store.find(RESOURCE, None))
    for read in reads:
        with pytest.raises(StoreProblem, match="encrypted, and encryption is off"):
            read()
    assert TokenStore(folder, cipher=cipher).load(KEY) == record()
    store.save(record(2))
    assert number_of(store.load(KEY)) == 2
    assert not is_sealed(the_file(folder).read_bytes())


def test_with_another_key_nothing_is_set_aside(folder: Path) -> None:
    cipher = new_cipher()
    TokenStore(folder, cipher=cipher).save(record())
    with pytest.raises(StoreProblem, match="a key that the keyring does not have"):
        TokenStore(folder, cipher=new_cipher()).load(KEY)
    assert TokenStore(folder, cipher=cipher).load(KEY) == record()


@pytest.mark.parametrize("damage", ["torn", "changed", "no login"])
def test_damage_inside_is_damage(folder: Path, damage: str) -> None:
    cipher = new_cipher()
    store = TokenStore(folder, cipher=cipher)
    store.save(record())
    path = the_file(folder)
    sealed = path.read_bytes()
    path.write_bytes(
        {"torn": sealed[:-9], "changed": sealed[:-9] + b"AAAAAAAAA", "no login": cipher.seal(b"{}")}[damage]
    )
    assert store.load(KEY) is None
    assert [name for name in os.listdir(folder) if name.endswith(".broken")]


def test_what_a_newer_moltis_encrypted_is_left_alone(folder: Path) -> None:
    cipher = new_cipher()
    store = TokenStore(folder, cipher=cipher)
    store.save(record())
    newer = cipher.seal(b'{"schema":2,"record":{}}')
    the_file(folder).write_bytes(newer)
    assert store.load(KEY) is None
    with pytest.raises(StoreProblem, match="newer moltis"):
        store.save(record(2))
    assert the_file(folder).read_bytes() == newer


# --- the keyring


def test_the_key_is_made_once_and_kept_in_the_keyring(memory: Memory) -> None:
    sealed = keyring_cipher().seal(b"a login")
    assert list(memory.kept) == [(SERVICE, ACCOUNT)]
    key = memory.kept[SERVICE, ACCOUNT]
    assert keyring_cipher().open(sealed) == b"a login"
    assert memory.kept == {(SERVICE, ACCOUNT): key}


def test_of_two_processes_that_make_a_key_both_use_the_one_that_stays(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Fernet.generate_key().decode()
    monkeypatch.setattr(memory, "set_password", lambda *_: memory.kept.update({(SERVICE, ACCOUNT): theirs}))
    assert Cipher(theirs).open(keyring_cipher().seal(b"a login")) == b"a login"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyringLocked("canary"), "is locked: unlock it"),
        (InitError("canary"), "does not work .InitError"),
        (PasswordSetError("canary"), "does not work .PasswordSetError"),
        (OSError("canary"), "does not work .OSError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_keyring_that_fails_is_one_clear_problem(memory: Memory, error: Exception, words: str) -> None:
    memory.error = error
    with pytest.raises(StoreProblem, match=words) as problem:
        keyring_cipher()
    assert "canary" not in problem.value.message


@pytest.mark.parametrize("key", ["", "key-canary", "A" * 44, "ü" * 32])
def test_a_key_that_is_not_ours_is_one_clear_problem(memory: Memory, key: str) -> None:
    memory.kept[SERVICE, ACCOUNT] = key
    with pytest.raises(StoreProblem, match="is not a key of ours") as problem:
        keyring_cipher()
    assert "canary" not in problem.value.message
    assert memory.kept[SERVICE, ACCOUNT] == key, "it may be somebody else's"


@pytest.mark.parametrize(
    ("backend", "words"), [(fail.Keyring(), "there is no keyring on this system"), (null.Keyring(), "forgets")]
)
def test_without_a_keyring_the_remedy_is_named(
    memory: Memory, backend: keyring.backend.KeyringBackend, words: str
) -> None:
    keyring.set_keyring(backend)
    with pytest.raises(StoreProblem, match=words):
        keyring_cipher()


@pytest.mark.parametrize("missing", ["keyring", "cryptography.fernet"])
def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(StoreProblem, match=r"pip install 'moltis\[keyring\]'"):
        keyring_cipher()
