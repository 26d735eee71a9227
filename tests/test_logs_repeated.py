"""What is logged thousands of times a second reads like any other record, and holds no secret either."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from moltis import logs
from moltis.logs import sink as module
from moltis.redaction import Scrubber
from moltis.server.status import HostSeen

NAMES = ("server", "tool", "outcome")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "logs.jsonl"
    logs.close()


def records(path: Path) -> list[dict[str, object]]:
    logs.close()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_it_writes_what_the_logger_writes(path: Path) -> None:
    logs.configure(path)
    logs.get("t").info("told", server="s", tool='é"\u202e', outcome="ok", duration_ms=12.346)
    logs.repeated("t", "told", NAMES, "duration_ms")(("s", 'é"\u202e', "ok"), 12.3456)
    one, other = records(path)
    assert {**one, "ts": 0} == {**other, "ts": 0}
    assert abs(int(str(one["ts"])) - int(str(other["ts"]))) < 10_000


def test_what_a_struct_says_is_an_object_and_secrets_are_out_of_it(path: Path) -> None:
    logs.configure(path, scrubber=Scrubber(["correct-horse-battery"]))
    host = HostSeen("correct-horse-battery\u202e", "7373737373737", "legacy")
    logs.get("t").info("told", server="s", host=host, n=1.5)
    tell = logs.repeated("t", "told", ("server", "host"), "n")
    tell(("s", host), 1.5)
    tell(("s", None), 1.5)
    one, other, nobody = records(path)
    shown = {"name": "[REDACTED]\u202e", "version": "7373737373737", "era": "legacy", "token": None}
    assert one["fields"] == other["fields"] == {"server": "s", "host": shown, "n": 1.5}
    assert nobody["fields"] == {"server": "s", "host": None, "n": 1.5}


def test_values_that_differ_are_not_mixed_up(path: Path) -> None:
    logs.configure(path)
    tell = logs.repeated("t", "told", NAMES, "n")
    for _ in range(2):
        for n, tool in enumerate(("a", "b", "7373737373737", "8191919191919")):
            tell(("s", tool, "ok"), n)
    assert [r["fields"] for r in records(path)] == 2 * [
        {"server": "s", "tool": tool, "outcome": "ok", "n": float(n)}
        for n, tool in enumerate(("a", "b", "7373737373737", "8191919191919"))
    ]


def test_a_secret_that_is_learnt_later_is_out_of_the_next_line(path: Path) -> None:
    scrubber = Scrubber()
    logs.configure(path, scrubber=scrubber)
    tell = logs.repeated("t", "told", NAMES, "n")
    tell(("s", "correct-horse-battery", "ok"), 1)
    scrubber.update(["correct-horse-battery"])
    tell(("s", "correct-horse-battery", "ok"), 2)
    first, second = records(path)
    assert first["fields"]["tool"] == "correct-horse-battery"  # type: ignore[index]
    assert second["fields"]["tool"] == "[REDACTED]"  # type: ignore[index]


def test_it_keeps_to_the_level_and_waits_for_a_log(path: Path) -> None:
    tell = logs.repeated("t", "told", NAMES, "n")
    tell(("s", "early", "ok"), 1)
    logs.configure(path, level="info")
    tell(("s", "heard", "ok"), 2)
    logs.reconfigure(level="warn")
    tell(("s", "unheard", "ok"), 3)
    assert [r["fields"]["tool"] for r in records(path)] == ["early", "heard"]  # type: ignore[index]


def test_it_is_told_to_whoever_listens(path: Path) -> None:
    heard: list[bytes] = []
    logs.configure(path).listener = heard.append
    logs.repeated("t", "told", NAMES, "n")(("s", "x", "ok"), 1.5)
    assert [json.loads(line)["fields"]["n"] for line in heard] == [1.5]


def test_names_without_end_are_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAMES", 3)
    logs.configure(path)
    shaped = module.Shaped("INFO", "t", "told", NAMES, "n")
    sink = logs._outlet.sink
    assert sink is not None
    for n in range(10):
        shaped.put(sink, ("s", str(n), "ok"), n)
        assert len(shaped._frames) <= 3
    assert [r["fields"]["tool"] for r in records(path)] == [str(n) for n in range(10)]  # type: ignore[index]


def written(path: Path, lines: int) -> list[str]:
    """Wait until the log has that many lines, and return their messages; a hang ends after 30 s."""
    deadline = time.monotonic() + 30
    while (found := path.read_bytes() if path.exists() else b"").count(b"\n") < lines:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return [json.loads(line)["message"] for line in found.splitlines()]


def test_it_is_written_soon_though_nothing_else_is_logged(path: Path) -> None:
    logs.configure(path)
    tell = logs.repeated("t", "told", NAMES, "n")
    for n in range(1, 4):
        tell(("s", "t", "ok"), n)
        assert written(path, n) == ["told"] * n


def test_any_other_record_takes_along_what_would_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_LINGER_SECS", 3600.0)
    logs.configure(path)
    tell = logs.repeated("t", "told", NAMES, "n")
    for n in (2, 4):
        tell(("s", "t", "ok"), n)
        logs.get("t").info("other")
        assert written(path, n) == ["told", "other"] * (n // 2)


def test_what_would_wait_is_written_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_LINGER_SECS", 3600.0)
    logs.configure(path)
    logs.repeated("t", "told", NAMES, "n")(("s", "t", "ok"), 1)
    assert [record["message"] for record in records(path)] == ["told"]
