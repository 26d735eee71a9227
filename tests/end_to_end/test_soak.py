"""Whatever hosts, servers, the network and the configuration do at once, no healthy server is harmed.

The model, and the same for half an hour, is `benchmarks/soak.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent.parent.parent / "benchmarks" / "soak.py"


@pytest.mark.timeout(300)
def test_no_healthy_server_is_harmed_and_every_request_is_answered_while_all_else_goes_wrong() -> None:
    argv = [sys.executable, str(SOAK), "--seconds", "15", "--seed", "1"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert "not harmed" in done.stdout
