"""What the lanes promise, of a small suite that is run as this one is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lanes import MEASUREMENTS

pytestmark = pytest.mark.e2e

CLOCK = """
import pathlib

def pytest_timeout_set_timer(item):
    with pathlib.Path(__file__).with_name("runs").open("a") as runs:
        runs.write(f"clock of {item.name}\\n")
"""

SUITE = """
import pathlib
import pytest

RUNS = pathlib.Path(__file__).with_name("runs")

def measured(name):
    with RUNS.open("a") as runs:
        runs.write(name + "\\n")
    return RUNS.read_text().splitlines().count(name)

@pytest.fixture
def fresh():
    measured("fixture")

@pytest.fixture
def broken():
    measured("broken")
    raise OSError

@pytest.mark.alone
def test_noisy(fresh):
    assert measured("noisy") == 3, "too slow"

@pytest.mark.alone
def test_slow():
    assert measured("slow") == 0

@pytest.mark.alone
def test_broken(broken):
    pass

@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.alone)])
def test_partly(n):
    measured(f"partly{n}")

@pytest.mark.e2e
def test_process():
    assert measured("process") == 2

def test_quick():
    assert measured("quick") == 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lanes")
    (folder / "tests" / "end_to_end").mkdir(parents=True)
    (folder / "tests" / "test_it.py").write_text(SUITE)
    (folder / "tests" / "conftest.py").write_text(CLOCK)
    (folder / "tests" / "end_to_end" / "test_there.py").write_text("def test_there(): pass\n")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone: it\ntimeout = 60\naddopts = -ra --strict-markers\n")
    return folder


def pytest_in(folder: Path, *words: str) -> str:
    (folder / "tests" / "runs").unlink(missing_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COLUMNS"))}
    command = [sys.executable, "-m", "pytest", "-p", "lanes", "-p", "pytest_timeout", "-p", "xdist", *words]
    here = {"PYTHONPATH": str(Path(__file__).parent), "COLUMNS": "200", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(command, cwd=folder, env=env | here, capture_output=True, text=True, check=False, timeout=100)
    assert not ran.stderr
    return ran.stdout


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["in one process", "in two"])
def test_what_measures_may_do_so_three_times_and_nothing_else_is_tried_again(
    folder: Path, words: tuple[str, ...]
) -> None:
    said = pytest_in(folder, *words)
    runs = (folder / "tests" / "runs").read_text().splitlines()
    assert {name: runs.count(name) for name in runs if not name.startswith("clock")} == {
        "noisy": 3, "fixture": 3, "slow": MEASUREMENTS, "broken": 1, "partly1": 1, "partly2": 1, "process": 1,
        "quick": 1,
    }  # fmt: skip
    assert runs.count("clock of test_noisy") == 3, "the time that a test has is that of one measurement"
    assert "3 failed, 4 passed, 1 error" in said
    assert "perf measured again 4 times, for 2 of 4 tests" in said
    assert len(re.findall(r"^tests/test_it.py::test_noisy: AssertionError: too slow", said, re.M)) == 2
    assert re.findall(r"^(unit|e2e|perf) +(\d+) tests", said, re.M) == [("unit", "2"), ("e2e", "2"), ("perf", "4")]


@pytest.mark.parametrize(("lane", "tests"), [("unit", 2), ("e2e", 2), ("perf", 4)])
def test_a_lane_is_chosen_by_its_marker(folder: Path, lane: str, tests: int) -> None:
    assert re.search(rf" {tests}(/\d)? tests collected", pytest_in(folder, "-m", lane, "--collect-only"))
