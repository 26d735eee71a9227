"""What is odd about a server is counted by kind, and told once."""

from __future__ import annotations

from moltis.session.hooks import Hooks
from moltis.session.oddities import MAX_KINDS, Oddities


def test_each_kind_is_told_once_and_counted() -> None:
    told: list[tuple[str, str]] = []
    oddities = Oddities("x", Hooks(on_odd=lambda *what: told.append(what), scrub=lambda text: text.replace("key", "?")))
    for words in ("calls its JSON 'key'", "calls its JSON 'key'", "sends compressed answers (gzip)"):
        oddities.note(words)
    assert told == [("x", "calls its JSON '?'"), ("x", "sends compressed answers (gzip)")]
    assert oddities.remarks() == ["it calls its JSON 'key' (2 times)", "it sends compressed answers (gzip) (1 time)"]


def test_ever_new_oddities_are_remembered_no_further() -> None:
    told: list[str] = []
    oddities = Oddities("x", Hooks(on_odd=lambda server, words: told.append(words)))
    for number in range(10 * MAX_KINDS):
        oddities.note(f"is odd {number}")
    assert len(oddities.remarks()) == len(told) == MAX_KINDS


def test_a_fault_of_who_is_told_is_nobody_else_s() -> None:
    faults: list[Exception] = []

    def fail(server: str, words: str) -> None:
        raise RuntimeError

    oddities = Oddities("x", Hooks(on_odd=fail, on_fault=faults.append))
    oddities.note("is odd")
    assert len(faults) == 1
    assert oddities.remarks() == ["it is odd (1 time)"]
