from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

SCRIPT = """
import resource
from moltis.daemon.process import keep_freed_blocks
understood = keep_freed_blocks() if {asked} else False
bytes(1_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    bytearray(b"x" * 1_000_000)
print(understood, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, asked: bool) -> tuple[bool, int]:
    argv = [sys.executable, "-c", SCRIPT.format(asked=asked)]
    understood, count = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return understood == "True", int(count)


def test_a_freed_megabyte_is_used_again_and_not_fetched_anew() -> None:
    assert resource.getpagesize() <= 64 * 1024
    understood, count = faults(asked=True)
    assert understood is (platform.libc_ver()[0] == "glibc")
    if understood:
        assert count < faults(asked=False)[1] / 2
