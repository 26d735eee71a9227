"""A server has as many descriptors as the daemon was started with, however many the daemon takes for itself."""

from __future__ import annotations

import os
import subprocess
import sys

import anyio
import pytest
from patience import PATIENCE

from moltis.transport.containment import Warden

RAISE = """
import resource
from moltis.daemon.process import raise_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
hard = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard, raise_limit())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is left alone")
def test_the_daemon_raises_its_own_limit_once_and_says_what_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", RAISE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["256", "True", "None"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is left alone")
async def test_a_server_gets_the_limit_that_is_named() -> None:
    warden = Warden(max_descriptors=211)
    read, write = os.pipe()
    try:
        with open(os.devnull, "r+b") as null:
            process = await warden.spawn(
                ["/bin/sh", "-c", "ulimit -n"], {"PATH": os.defpath}, None, null.fileno(), write, null.fileno()
            )
        os.close(write)
        with anyio.fail_after(PATIENCE):
            await process.wait_gone()
        assert os.read(read, 100) == b"211\n"
    finally:
        os.close(read)
        await warden.aclose()
