"""mcp-proxy, the peer that anchors memory: installed from PyPI into a virtual environment of its own under out/."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from workbench import OUT, Argv, descendants, is_server

REQUIREMENT = "mcp-proxy==0.13.0"
HOW_TO_GET_IT = f"pip could not install {REQUIREMENT}; name a virtual environment that has it in MOLTIS_BENCH_PEER"


def program() -> Path | None:
    """Give the mcp-proxy program, installing it if need be; None when that fails."""
    named = os.environ.get("MOLTIS_BENCH_PEER")
    venv = Path(named) if named else OUT / "peer-venv"
    found = venv / "bin" / "mcp-proxy"
    if not found.exists() and not named:
        print(f"installing {REQUIREMENT} into {venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", REQUIREMENT], check=False)
    return found if found.exists() else None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def proxy(servers: Mapping[str, Argv]) -> Iterator[int | None]:
    """Run mcp-proxy over the servers and give its pid once it listens, which it does after all are connected."""
    found = program()
    if found is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="moltis-bench-") as folder:
        config = Path(folder) / "servers.json"
        named = {name: {"command": argv[0], "args": argv[1:]} for name, argv in servers.items()}
        config.write_text(json.dumps({"mcpServers": named}))
        place = ["--host", "127.0.0.1", "--port", str(port)]
        with (Path(folder) / "out").open("wb") as out:
            process = subprocess.Popen(
                [str(found), *place, "--named-server-config", str(config), "--log-level", "WARNING"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder,
            )  # fmt: skip
        try:
            wait_listening(process, port, len(servers))
            yield process.pid
        finally:
            below = descendants(process.pid)
            process.kill()
            process.wait()
            for pid in filter(is_server, below):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


def wait_listening(process: subprocess.Popen[bytes], port: int, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                connected = sum(map(is_server, descendants(process.pid)))
                if connected != count:
                    raise RuntimeError(f"mcp-proxy listens with {connected} of {count} servers")
                return
        time.sleep(0.05)
    raise RuntimeError("mcp-proxy does not listen")
