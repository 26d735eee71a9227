"""From a server's first 401 to the authorization URL in its status: discovery, registration, callback port.

Each round is a daemon of its own, with nothing on disk; its browser command is empty. The status is asked every 2 ms.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from figure import Figure
from workbench import HERE, Daemon


def url_after() -> float:
    """Give the seconds from the 401 to the URL."""
    argv = [sys.executable, "-E", str(HERE / "login_server.py")]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        daemon = Daemon({"s": f"http://127.0.0.1:{int(server.stdout.readline())}/mcp"})
        try:
            daemon.config.write_text(daemon.config.read_text() + "[daemon]\nbrowser_command = []\n")
            daemon.start()
            line = daemon.connect()
            deadline = time.monotonic() + 20
            while line.call("mcp.status", name="s")["auth_url"] is None:
                time.sleep(0.002)
                if time.monotonic() > deadline:
                    raise RuntimeError(line.call("mcp.status", name="s")["last_error"])
            seen = time.monotonic()
            line.close()
            return seen - float(server.stdout.readline())
        finally:
            daemon.stop()
            server.terminate()


def figures(scale: float) -> list[Figure]:
    samples = [url_after() for _ in range(max(3, int(7 * scale)))]
    return [
        Figure(
            name="authorization URL in the status, after the 401",
            value=statistics.median(samples),
            unit="s",
            limit=0.5,
            detail=f"at most {max(samples):.3g} s",
            samples={"secs": samples},
        )
    ]
