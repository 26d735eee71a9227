"""The three lanes that the tests are run in, each with `-m`: unit, e2e, perf; without it all are run.

A test's lane follows from where it stands and what it is marked with, so nobody has to remember it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

LANES = {
    "unit": "in this process and in milliseconds: all that is not in another lane",
    "e2e": "daemons and servers as processes: the folders conformance and end_to_end, and what is marked `e2e`",
    "perf": "measures by the wall: what is marked `alone`, one after the other, nothing else meanwhile",
}

FOLDERS = ("tests/conformance/", "tests/end_to_end/")
"""Where every test is end to end: it starts processes, and takes seconds or minutes."""

WORDS = {"e2e": "mark.e2e", "perf": "mark.alone"}
"""What a module has in it that has tests of a lane."""

MEASUREMENTS = 3
"""How often a test of the lane perf may measure."""

AGAIN = "measured again"
"""The property of a report that has, a line each, what was measured before and was not in its limit."""

timeouts = pytest.StashKey[object]()
lanes = pytest.StashKey[str]()


def lane(item: pytest.Item) -> str:
    if lanes not in item.stash:
        item.stash[lanes] = _lane(item)
    return item.stash[lanes]


def _lane(item: pytest.Item) -> str:
    if item.get_closest_marker("alone") is not None:
        return "perf"
    if item.nodeid.startswith(FOLDERS) or item.get_closest_marker("e2e") is not None:
        return "e2e"
    return "unit"


def pytest_configure(config: pytest.Config) -> None:
    for name, text in LANES.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what has no test of the lane that was asked for: to import all modules takes longer than many tests."""
    asked = config.option.markexpr
    if asked not in LANES or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    end_to_end = any(f"/{folder}" in collection_path.as_posix() for folder in FOLDERS)
    if asked == "unit":
        return end_to_end or None
    if asked == "e2e" and end_to_end:
        return None
    return WORDS[asked] not in collection_path.read_text(encoding="utf-8") or None


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(lane(item))


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> None:
    """Keep what pytest-timeout sets the clock to, which each measurement begins anew."""
    item.stash[timeouts] = settings


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Have a test of the lane perf measure until it is in its limit, three times at most.

    Whatever else the machine does makes what is measured slower, never faster. So one measurement within the limit
    shows that the code keeps to it, and one that is not shows nothing yet: code that is too slow is so each time. What
    fails before or after the measurement (in a fixture) counts at once, and the other lanes have no second try.
    """
    if lane(item) != "perf":
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    before: list[str] = []
    while True:
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = [report for report in reports if report.failed]
        if [report.when for report in failed] != ["call"] or len(before) == MEASUREMENTS - 1:
            break
        before.append(first_line(failed[0]))
        if settings := item.stash.get(timeouts, None):
            item.ihook.pytest_timeout_cancel_timer(item=item)
            item.ihook.pytest_timeout_set_timer(item=item, settings=settings)
    for report in reports:
        if report.when == "call" and before:
            report.user_properties.append((AGAIN, "\n".join(before)))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return (str(crash.message if crash else report.longreprtext).splitlines() or [""])[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each lane took, and what measured more than once."""
    found = [r for rs in terminalreporter.stats.values() for r in rs if isinstance(r, pytest.TestReport)]
    if not found:
        return
    terminalreporter.section("lanes")
    for line in [*times(found), *measured_again(found)]:
        terminalreporter.write_line(line)


def times(reports: Sequence[pytest.TestReport]) -> list[str]:
    found: dict[str, list[pytest.TestReport]] = defaultdict(list)
    for report in reports:
        found[next(name for name in LANES if name in report.keywords)].append(report)
    lines = []
    for name in sorted(found, key=list(LANES).index):
        tests = len({report.nodeid for report in found[name]})
        wall = max(report.stop for report in found[name]) - min(report.start for report in found[name])
        work = sum(report.duration for report in found[name])
        lines.append(
            f"{name:<5}{tests:7,} tests {wall:6.0f} s from first to last {work:6.0f} s in all processes together"
        )
    return lines


def measured_again(reports: Sequence[pytest.TestReport]) -> list[str]:
    again = [(r.nodeid, dict(r.user_properties)[AGAIN]) for r in reports if AGAIN in dict(r.user_properties)]
    perf = {r.nodeid for r in reports if "perf" in r.keywords}
    if not perf:
        return []
    lines = [f"{id}: {line}" for id, text in again for line in str(text).split("\n")]
    return [f"perf measured again {len(lines)} times, for {len(again)} of {len(perf)} tests", *lines]
