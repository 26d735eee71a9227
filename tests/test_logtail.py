"""Reading the log back: the last records, and each new one, whatever rotation does meanwhile."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltis import logtail
from moltis.logtail import follow, tail


def line(number: int, server: str = "a", level: str = "INFO", pad: int = 0) -> bytes:
    fields = {"server": server, "n": number, "pad": "x" * pad}
    return json.dumps(
        {"ts": number, "level": level, "target": "moltis.test", "message": "m", "fields": fields}
    ).encode()


def numbers(records: list[dict[str, Any]]) -> list[int]:
    return [record["fields"]["n"] for record in records]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs.jsonl"


def write(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(text + b"\n" for text in lines))


def rotate(path: Path, backups: int = 9) -> None:
    """Copy aside and truncate, as the daemon does."""
    for number in range(backups, 0, -1):
        older = Path(f"{path}.{number}")
        if older.exists():
            older.rename(f"{path}.{number + 1}")
    shutil.copyfile(path, f"{path}.1")
    os.truncate(path, 0)


def test_the_last_records_come_oldest_first(path: Path) -> None:
    write(path, *(line(n) for n in range(10)))
    assert numbers(tail(path, 3)) == [7, 8, 9]
    assert numbers(tail(path, 99)) == list(range(10))


@pytest.mark.parametrize("limit", [0, -1])
def test_no_records_are_no_records(path: Path, limit: int) -> None:
    assert tail(path, 5) == []
    write(path, line(1))
    assert tail(path, limit) == []


def test_backups_fill_up_what_the_log_has_not(path: Path) -> None:
    for number in range(9):
        write(path, line(number))
        if number in (2, 5, 8):
            rotate(path)
    assert numbers(tail(path, 5)) == [4, 5, 6, 7, 8]


def test_a_copy_that_is_not_yet_truncated_is_not_read_twice(path: Path) -> None:
    write(path, line(1), line(2))
    shutil.copyfile(path, f"{path}.1")
    assert numbers(tail(path, 10)) == [1, 2]


def test_records_are_chosen_by_server_and_level(path: Path) -> None:
    write(path, line(1, "a", "ERROR"), line(2, "b", "WARN"), line(3, "a", "INFO"), line(4, "a", "DEBUG"))
    assert numbers(tail(path, 9, server="a")) == [1, 3, 4]
    assert numbers(tail(path, 9, level="warning")) == [1, 2]
    assert numbers(tail(path, 9, server="a", level="info")) == [1, 3]
    assert numbers(tail(path, 1, level="ERROR")) == [1]


def test_a_text_that_only_looks_like_the_server_or_the_level_is_not_enough(path: Path) -> None:
    write(path, b'{"level":"INFO","fields":{"server":"b","other":"a","x":"ERROR"}}', b'{"level":"INFO","fields":"a"}')
    assert tail(path, 9, server="a") == []
    assert tail(path, 9, level="error") == []


@pytest.mark.parametrize("level", [b'["INFO"]', b'{"INFO":"INFO"}', b'[{"a":"INFO"}]'])
def test_a_record_whose_level_is_no_text_is_of_no_level(path: Path, level: bytes) -> None:
    write(path, line(1), b'{"ts":2,"level":%b,"fields":{}}' % level, line(3))
    assert numbers(tail(path, 9, level="info")) == [1, 3]
    assert len(tail(path, 9)) == 3


def test_an_unknown_level_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="'loud'"):
        tail(path, 1, level="loud")


def test_lines_that_are_no_records_are_passed_over(path: Path) -> None:
    write(path, line(1), b"garbage", b"[1]", b"", b"[" * 100_000, b"\xff\xfe", line(2)[:-5], line(3))
    with path.open("ab") as file:
        file.write(line(4)[:20])
    assert numbers(tail(path, 9)) == [1, 3]


@pytest.mark.parametrize("kind", ["FIFO", "symbolic link", "directory"])
def test_what_is_not_a_file_is_not_read_and_not_waited_for(path: Path, kind: str) -> None:
    other = path.with_name("other")
    write(other, line(1))
    {"FIFO": os.mkfifo, "symbolic link": lambda p: p.symlink_to(other), "directory": Path.mkdir}[kind](path)
    assert tail(path, 9) == []


@given(sizes=st.lists(st.integers(0, 400), max_size=40), limit=st.integers(1, 45), block=st.integers(1, 700))
@settings(deadline=None)
def test_blocks_may_end_anywhere(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, block: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "logs.jsonl"
    write(path, *(line(n, pad=size) for n, size in enumerate(sizes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logtail, "_BLOCK_BYTES", block)
        assert numbers(tail(path, limit)) == list(range(len(sizes)))[-limit:]
        everything = follow(path, limit=limit, sleep=_stop)
        assert numbers(_until_idle(everything)) == list(range(len(sizes)))[-limit:]


class Idle(Exception):
    """Raised instead of sleeping: there is nothing more to read."""


def _stop(_: float) -> None:
    raise Idle


def _until_idle(records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    try:
        for record in records:
            found.append(record)
    except Idle:
        return found
    raise AssertionError


class Script:
    """What happens to the log each time `follow` would sleep; after the last step it is left idle."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self._steps = iter(steps)

    def __call__(self, _: float) -> None:
        step = next(self._steps, None)
        if step is None:
            raise Idle
        step()


def test_following_starts_with_the_last_records_and_goes_on(path: Path) -> None:
    write(path, *(line(n) for n in range(5)))
    script = Script(lambda: write(path, line(5)), lambda: None, lambda: write(path, line(6), line(7)))
    assert numbers(_until_idle(follow(path, limit=2, sleep=script))) == [3, 4, 5, 6, 7]


def test_a_line_is_given_when_it_is_whole(path: Path) -> None:
    half = line(2)

    def begin() -> None:
        with path.open("ab") as file:
            file.write(half[:10])

    write(path, line(1))
    script = Script(begin, lambda: write(path, half[10:]))
    assert numbers(_until_idle(follow(path, limit=1, sleep=script))) == [1, 2]


def test_following_survives_rotation_and_leaves_nothing_out(path: Path) -> None:
    def unread_then_rotate_twice() -> None:
        write(path, line(2))
        rotate(path)
        write(path, line(3))
        rotate(path)
        write(path, line(4))

    def grows_beyond_what_it_was() -> None:
        rotate(path)
        write(path, *(line(n) for n in range(5, 9)))

    write(path, line(1))
    script = Script(unread_then_rotate_twice, grows_beyond_what_it_was)
    assert numbers(_until_idle(follow(path, limit=1, sleep=script))) == list(range(1, 9))


def test_following_survives_truncation_without_a_copy(path: Path) -> None:
    def truncate() -> None:
        os.truncate(path, 0)
        write(path, line(2))

    write(path, line(1))
    assert numbers(_until_idle(follow(path, limit=1, sleep=Script(truncate)))) == [1, 2]


def test_following_survives_deletion_and_replacement(path: Path) -> None:
    def replace() -> None:
        write(path, line(2))
        path.rename(path.with_name("moved"))
        write(path, line(3))

    write(path, line(1))
    script = Script(replace, path.unlink, lambda: None, lambda: write(path, line(4)))
    assert numbers(_until_idle(follow(path, limit=1, sleep=script))) == [1, 2, 3, 4]


def test_a_log_that_does_not_exist_yet_can_be_followed(path: Path) -> None:
    script = Script(lambda: None, lambda: write(path, line(1)))
    assert numbers(_until_idle(follow(path, limit=9, sleep=script))) == [1]


def test_following_chooses_too(path: Path) -> None:
    write(path, line(1, "a"), line(2, "b"))
    script = Script(lambda: write(path, line(3, "a", "WARN"), line(4, "b", "WARN"), line(5, "a")))
    assert numbers(_until_idle(follow(path, limit=9, server="a", level="warn", sleep=script))) == [3]


@given(st.lists(st.sampled_from(["write", "rotate", "look"]), max_size=30))
@settings(deadline=None)
def test_following_gives_each_record_once(tmp_path_factory: pytest.TempPathFactory, deeds: list[str]) -> None:
    path = tmp_path_factory.mktemp("log") / "logs.jsonl"
    count = itertools.count(1)
    write(path, line(0))
    script = iter(deeds)

    def until_the_next_look(_: float) -> None:
        for deed in script:
            if deed == "look":
                return
            write(path, line(next(count)))
            if deed == "rotate":
                rotate(path, backups=40)
                # Never left empty: a log filled and rotated away between two looks is the known gap.
                write(path, line(next(count)))
        script_ended.append(True)
        if len(script_ended) > 1:
            raise Idle

    script_ended: list[bool] = []
    found = numbers(_until_idle(follow(path, limit=1, sleep=until_the_next_look)))
    assert found == list(range(next(count)))


def test_reading_the_log_needs_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import moltis.logtail; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "assert new <= set(sys.stdlib_module_names) | {'moltis'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
