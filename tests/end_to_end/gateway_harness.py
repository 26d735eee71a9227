"""The gateway of a daemon under test: its configuration, its addresses, and the servers that stand behind it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from harness import PYTHON, SERVERS, Daemon, wait_until
from patience import PATIENCE
from processes import signal_pid

FIXTURE = SERVERS / "fixture_server.py"
PLAIN = SERVERS / "plain_server.py"
LISTENS_WITHIN = PATIENCE
OPEN = {"listen": "127.0.0.1:0", "require_token": False}
"""`[gateway]` at any free port, for anyone."""
GUARDED = {"listen": "127.0.0.1:0", "require_token": True}


def fixture(daemon: Daemon, **keys: Any) -> dict[str, Any]:
    """Give the entry of the fixture server. It speaks both eras: `protocol` among the keys says which it is to be."""
    return daemon.real(PYTHON, str(FIXTURE), **keys)


def plain(daemon: Daemon, **keys: Any) -> dict[str, Any]:
    """Give the entry of a server that starts fast and has a bit of everything, for tests that are not about servers."""
    return {"command": PYTHON, "args": ["-S", "-E", str(PLAIN), "--mark", daemon.mark], "protocol": "legacy", **keys}


def start(
    daemon: Daemon, servers: Mapping[str, Mapping[str, Any]], gateway: Mapping[str, Any] = OPEN, **sections: Any
) -> Daemon:
    """Start a daemon with a gateway, and wait until it listens."""
    daemon.write(servers, gateway=dict(gateway), **sections)
    daemon.start()
    gateway_url(daemon)
    return daemon


def gateway_url(daemon: Daemon, server: str | None = None, within: float = PATIENCE) -> str:
    """Give the address of `/mcp`, or of one server's own endpoint, once the gateway listens."""
    url: str = wait_until(
        "the gateway listens",
        lambda: daemon.rpc("daemon.status").get("gateway_url"),
        within,
        tell=lambda: (daemon.rpc("daemon.status"), daemon.said()),
    )
    return url if server is None else f"{url.removesuffix('/mcp')}/servers/{server}/mcp"


def new_token(daemon: Daemon, name: str, scope: str = "write") -> str:
    token: str = daemon.rpc("token.create", name=name, scope=scope)["token"]
    return token


def connect_command(daemon: Daemon, server: str | None = None) -> list[str]:
    """Give the command by which a host reaches this daemon over stdio; it needs `connect_env` too."""
    return [PYTHON, "-m", "moltis", "connect", *(["--server", server] if server else [])]


def connect_env(daemon: Daemon) -> dict[str, str]:
    return daemon.env | {"MOLTIS_CONFIG": str(daemon.config), "MOLTIS_DATA_DIR": str(daemon.data_dir)}


@contextlib.contextmanager
def fixture_over_http(mark: str) -> Iterator[str]:
    """Run the fixture server over Streamable HTTP, and give its address."""
    process = subprocess.Popen(
        [PYTHON, str(FIXTURE), "--http", "0", "--mark", mark],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    killer = threading.Timer(LISTENS_WITHIN, process.kill)
    killer.start()
    try:
        port = process.stdout.readline().decode().strip()
        killer.cancel()
        assert port, f"the fixture server ended with {process.wait(PATIENCE)} before it listened"
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        killer.cancel()
        signal_pid(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        process.stdout.close()
