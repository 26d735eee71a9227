"""Whatever hosts, servers, the network, the machine and the configuration do at once, no healthy server is harmed.

The model, and the same for half an hour, is `benchmarks/soak.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOAK = Path(__file__).parent.parent.parent / "benchmarks" / "soak.py"
MIB = 1 << 20
HALF_AN_HOUR = range(0, 1800, 2)


@pytest.mark.timeout(900)
def test_no_healthy_server_is_harmed_and_every_request_is_answered_while_all_else_goes_wrong() -> None:
    argv = [sys.executable, str(SOAK), "--seconds", "15", "--seed", "1"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=870, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert "not harmed" in done.stdout


def warming(second: int) -> float:
    """Return what a cache adds that is full after seven minutes."""
    return 10 * min(1.0, second / 420)


def burst(second: int) -> float:
    """Return what 300 connections add for ten seconds of each minute."""
    return 30.0 if second % 60 < 10 else 0.0


@pytest.mark.parametrize(
    ("resident", "halves", "per_hour"),
    [
        (lambda _second: 80.0, 0.0, 0.0),
        (lambda second: 80 + warming(second) + burst(second), 0.0, 0.0),
        (lambda second: 80 + second / 60, 11.25, 60.0),
        (lambda second: 80 + warming(second) + burst(second) + second / 60, 11.25, 60.0),
        (lambda second: 80 + (20 if second > 1200 else 0), 20.0, 0.0),
    ],
)
def test_growth_is_what_the_least_of_each_minute_does_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch, resident: Callable[[int], float], halves: float, per_hour: float
) -> None:
    monkeypatch.syspath_prepend(SOAK.parent)
    from soak_growth import growth

    found = growth([(float(second), round(MIB * resident(second))) for second in HALF_AN_HOUR])
    assert found is not None
    assert (found.second - found.first) / MIB == pytest.approx(halves, abs=0.5)
    assert found.per_hour / MIB == pytest.approx(per_hour, abs=2.0)


def test_too_few_samples_say_nothing_of_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SOAK.parent)
    from soak_growth import growth

    assert growth([]) is None
    assert growth([(float(second), MIB) for second in range(40)]) is None
