"""A fleet of servers that must first be installed, on a scale of seconds: it converges, nothing is killed half done.

The model, and the same on the scale of minutes, is `benchmarks/cold_start.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).parent.parent.parent / "benchmarks" / "cold_start.py"


@pytest.mark.parametrize(("servers", "packages"), [(16, 16), (12, 12), (12, 4), (6, 1)])
def test_a_cold_fleet_installs_once_and_a_few_at_a_time(servers: int, packages: int) -> None:
    """At a twentieth of all times: eight installs at once take 3.2 s, and the startup timeout is 3 s."""
    command = [sys.executable, str(MODEL), f"--servers={servers}", f"--packages={packages}", "--scale=0.05"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = re.search(r"all ready: ([\d.]+) s; killed (\d+); most installing at once (\d+)", ran.stdout)
    assert told is not None, ran.stdout
    assert int(told[2]) == 0, ran.stdout
    assert int(told[3]) <= 8, ran.stdout
    rows = re.findall(r"cooldown +(\d+) .* begun +(\d+) ", ran.stdout)
    assert rows, ran.stdout
    assert {int(cooldown) for cooldown, _ in rows} == {0}, ran.stdout
    assert int(rows[-1][1]) <= servers, "nothing was begun anew"
