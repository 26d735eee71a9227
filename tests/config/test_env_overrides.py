"""env.toml keeps the values of `moltis env set`: private, whole, and never shown."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltis.config.overrides import EnvOverrides
from moltis.errors import ConfigError


@pytest.fixture
def store(tmp_path: Path) -> EnvOverrides:
    return EnvOverrides(tmp_path / "data" / "env.toml")


def test_a_store_without_a_file_is_empty(store: EnvOverrides) -> None:
    assert (store.names(), store.values(), store.unset("A")) == ([], {}, False)


def test_values_are_set_changed_and_unset(store: EnvOverrides) -> None:
    store.set("B", "two")
    store.set("A", "one")
    store.set("A", "other")
    assert store.names() == ["A", "B"]
    assert store.values() == {"A": "other", "B": "two"}
    assert store.unset("A") is True
    assert store.unset("A") is False
    assert store.values() == {"B": "two"}


def test_the_file_is_private_even_when_somebody_opened_it(tmp_path: Path) -> None:
    path = tmp_path / "env.toml"
    path.write_text('A = "1"\n')
    path.chmod(0o644)
    assert EnvOverrides(path).values() == {"A": "1"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    EnvOverrides(path).set("B", "2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda s: s.strip() and "\0" not in s))
def test_any_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    store = EnvOverrides(tmp_path_factory.mktemp("env") / "env.toml")
    store.set("KEY", value)
    assert store.values() == {"KEY": value}


@pytest.mark.parametrize(
    ("name", "value"), [("", "x"), ("1A", "x"), ("A B", "x"), ("A", ""), ("A", " \n"), ("A", "a\0b")]
)
def test_what_no_placeholder_could_use_is_refused(store: EnvOverrides, name: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        store.set(name, value)
    assert "a\0b" not in str(raised.value)
    assert store.names() == []


@pytest.mark.parametrize("text", ["A = 1", "A = ", "[a]\nb = 'c'"])
def test_a_damaged_store_is_reported_and_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "env.toml"
    path.write_text(text)
    for use in (EnvOverrides(path).values, lambda: EnvOverrides(path).set("B", "x")):
        with pytest.raises(ConfigError, match=r"env\.toml"):
            use()
    assert path.read_text() == text


def test_what_could_not_be_read_again_is_not_written(store: EnvOverrides, tmp_path: Path) -> None:
    store.set("FIRST", "a" * 600_000)
    before = (tmp_path / "data" / "env.toml").read_bytes()
    with pytest.raises(ConfigError, match="is left as it is, for it could not be read again: it is larger than"):
        store.set("SECOND", "b" * 600_000)
    assert (tmp_path / "data" / "env.toml").read_bytes() == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["env.toml"]
    assert store.names() == ["FIRST"]
    store.set("SECOND", "short")
    store.unset("FIRST")
    assert store.values() == {"SECOND": "short"}


@pytest.mark.parametrize(
    "text",
    ['{"TOKEN": "secret-word"}', "TOKEN: secret-word", "export TOKEN=secret-word", "TOKEN = secret-word", "TOKEN = 5",
     '["TOKEN"]\nx = "secret-word"', "// a comment"],
)  # fmt: skip
def test_what_is_wrong_with_the_file_is_mended_in_it_and_not_in_moltis_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "env.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        EnvOverrides(path).values()
    assert error.value.hint == f'edit {path}: each line is NAME = "value"'
    assert error.value.message.startswith(f"{path}:")
    assert "mcp.servers" not in error.value.message
    assert "secret-word" not in error.value.message


def test_a_value_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "env.toml"
    path.write_text('A = "x"\nPORT = 8080\n"secret word" = 1\n')
    with pytest.raises(ConfigError) as error:
        EnvOverrides(path).values()
    assert error.value.message.endswith("must be text in quotes, unlike PORT, one that is no name")


def test_a_folder_in_its_place_is_to_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "env.toml"
    path.mkdir()
    with pytest.raises(ConfigError) as error:
        EnvOverrides(path).values()
    assert error.value.message == f"{path} is a folder"
    assert error.value.hint == "it has to be a file: move this away"


@pytest.mark.parametrize(("value", "hint"), [("  ", "moltis env unset T forgets it"), ("a\0b", ""), ("\ud800", "")])
def test_a_value_that_cannot_be_kept_says_what_helps(tmp_path: Path, value: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        EnvOverrides(tmp_path / "env.toml").set("T", value)
    assert error.value.hint == hint
