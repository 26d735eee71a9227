from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from turns import OPENERS, Collected, deal, modules

LONG = [f"tests/conformance/test_{n}.py::test" for n in range(2)]
HEAVY = [f"tests/end_to_end/test_{module}.py::test_{n}" for module in range(7) for n in range(5)]
QUICK = [f"tests/oauth/test_{module}.py::test_{n}" for module in range(20) for n in range(20)]
ALONE = {HEAVY[3], HEAVY[20], QUICK[50], QUICK[399]}
ALL = [Collected(id, "perf" if id in ALONE else "unit" if id in QUICK else "e2e") for id in LONG + HEAVY + QUICK]


def parts(processes: int) -> list[list[Collected]]:
    """Return what each process begins with, as pytest-xdist cuts it: equal parts, the last ones the longer."""
    left = [ALL[n] for n in deal(ALL, processes)]
    found = []
    for others in range(processes, 0, -1):
        size = len(left) // others
        found.append(left[:size])
        del left[:size]
    return found


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 9])
def test_every_test_is_dealt_once(processes: int) -> None:
    assert sorted(deal(ALL, processes)) == list(range(len(ALL)))


def test_nothing_and_less_than_there_are_processes_is_dealt_too() -> None:
    assert deal([], 3) == []
    assert sorted(deal(ALL[:2], 3)) == [0, 1]


def test_what_is_to_be_alone_comes_first_in_one_process_and_the_others_begin_with_what_is_soon_over() -> None:
    first, *others = parts(3)
    assert {test.id for test in first[: len(ALONE)]} == ALONE
    for part in others:
        assert {test.id for test in part[:OPENERS]} <= set(QUICK)


def test_what_takes_long_begins_early_in_every_process_and_its_modules_stay_together() -> None:
    first, *others = parts(3)
    for part, begins in ((first, len(ALONE)), *((other, OPENERS) for other in others)):
        heavy = [n for n, test in enumerate(part) if test.id in LONG + HEAVY and test.lane != "perf"]
        assert heavy == list(range(begins, begins + len(heavy)))
        assert len(heavy) > 5
        modules = [part[n].module for n in heavy]
        assert sum(a != b for a, b in itertools.pairwise(modules)) == len(set(modules)) - 1
    assert [part[OPENERS].id for part in others] == LONG


def test_the_rest_stays_in_its_order() -> None:
    quick = [id for id in QUICK if id not in ALONE]
    openers, rest = set(quick[: 2 * OPENERS]), quick[2 * OPENERS :]
    assert [ALL[n].id for n in deal(ALL, 3) if ALL[n].id in quick and ALL[n].id not in openers] == rest


def test_modules_of_what_the_tests_have_installed_are_none_of_theirs(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    ours = [tmp_path / "test_a.py", tmp_path / "b" / "test_b.py"]
    others = [tmp_path / "servers" / ".mcp1" / "test_c.py", tmp_path / "b" / "node_modules" / "x" / "test_d.py"]
    for path in (*ours, *others, tmp_path / "b" / "helper.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert modules(tmp_path, pytestconfig.getini("norecursedirs")) == sorted(ours)
