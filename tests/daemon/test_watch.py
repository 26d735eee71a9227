"""When a file that is watched counts as another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moltis.daemon import watch
from moltis.daemon.watch import Watch


class Bench:
    """A watched file, and the second that passes when a test wants it to."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, absence_counts: bool = False) -> None:
        self.path = path
        self.path.write_text("one")
        self.changes = 0
        self._due: list[Callable[[], None]] = []
        monkeypatch.setattr(watch, "call_about", lambda secs, look: self._due.append(look))
        Watch().file(path, self._changed, absence_counts=absence_counts)

    def _changed(self) -> None:
        self.changes += 1

    def write(self, text: str) -> None:
        self.path.write_text(text)
        os.utime(self.path, ns=(0, self.path.stat().st_mtime_ns + 1))

    def look(self) -> int:
        """Return how many changes had been told of after the next look."""
        self._due.pop()()
        return self.changes


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path / "file", monkeypatch)


def test_a_file_that_was_written_is_told_of_once(bench: Bench) -> None:
    assert bench.look() == 0
    bench.write("two")
    assert [bench.look(), bench.look()] == [1, 1]


def test_a_file_that_is_emptied_and_then_written_was_never_empty(bench: Bench) -> None:
    """As programs write that do not rename: between the two is a moment in which all servers would be gone."""
    bench.write("")
    assert bench.look() == 0
    bench.write("two")
    assert bench.look() == 1
    bench.write("")
    assert bench.look() == 1
    bench.write("three")
    assert [bench.look(), bench.look()] == [2, 2]


def test_a_file_that_stays_empty_is_believed_at_the_second_look(bench: Bench) -> None:
    bench.write("")
    assert [bench.look(), bench.look(), bench.look()] == [0, 1, 1]


def test_one_that_is_emptied_and_written_as_it_was_before_the_next_look_is_another(bench: Bench) -> None:
    bench.write("")
    assert bench.look() == 0
    bench.write("one")
    assert bench.look() == 1


def test_a_file_that_is_gone_and_there_again_is_told_of_where_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "file", monkeypatch, absence_counts=True)
    bench.path.unlink()
    assert bench.look() == 1
    bench.write("")
    assert bench.look() == 1
    bench.write("two")
    assert bench.look() == 2
