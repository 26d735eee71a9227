"""The gateways people use, each in a virtual environment or npm prefix of its own under out/, and how each is called.

MOLTIS_BENCH_PEERS names a folder that has them already, as `venvs/NAME` and `node/NAME`. A gateway that cannot be
installed fails its figures rather than being left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer import free_port
from workbench import OUT, Argv, Daemon, descendants, is_server

How = dict[str, Any]
"""How the measuring client calls one server behind a gateway; see gateway_client.py."""

WARM = """\
import asyncio, json, sys
from fastmcp import Client, FastMCP
from fastmcp.server import create_proxy

async def main():
    gateway = FastMCP("gateway")
    for name, how in json.load(open("servers.json"))["mcpServers"].items():
        client = Client({"mcpServers": {name: how}})
        await client.__aenter__()
        gateway.mount(create_proxy(client, name=name), namespace=name)
    await gateway.run_async(
        transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="WARNING"
    )

asyncio.run(main())
"""
"""FastMCP at its best: a connected client for each server. `create_proxy(config)` starts all anew for each call."""


@dataclass(frozen=True)
class Peer:
    """One of them.

    packages: for pip, or for npm with `node`. argv: of the program in `bin`, the folder of its installation's programs.
    how: of a server by its name.
    """

    name: str
    packages: tuple[str, ...]
    node: bool
    argv: Callable[[Path, int], list[str]]
    how: Callable[[int, str], How]

    def bin(self) -> Path:
        """Give the folder of its programs, installing it if need be."""
        named = os.environ.get("MOLTIS_BENCH_PEERS")
        place = Path(named) if named else OUT / "peers"
        home = place / ("node" if self.node else "venvs") / self.name.replace("-", "")
        programs = home / ("node_modules/.bin" if self.node else "bin")
        if not programs.exists():
            if named:
                raise RuntimeError(f"MOLTIS_BENCH_PEERS={named} has no {home.name}")
            print(f"installing {' '.join(self.packages)} into {home}", file=sys.stderr)
            home.mkdir(parents=True)
            if self.node:
                command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), *self.packages]
            else:
                subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
                command = [str(programs / "pip"), "install", "-q", *self.packages]
            subprocess.run(command, check=True)
        return programs


def _mcp(port: int, path: str, prefix: str = "") -> How:
    return {"kind": "mcp", "port": port, "path": path, "prefix": prefix}


def _listening(program: str, *flags: str) -> Callable[[Path, int], list[str]]:
    return lambda bin, port: [str(bin / program), *(flag.replace("PORT", str(port)) for flag in flags)]


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "mcp-proxy",
            ("mcp-proxy==0.13.0",),
            False,
            _listening(
                "mcp-proxy", "--host", "127.0.0.1", "--port", "PORT",
                "--named-server-config", "servers.json", "--log-level", "WARNING",
            ),
            lambda port, server: _mcp(port, f"/servers/{server}/mcp"),
        ),
        Peer(
            "mcpo",
            ("mcpo==0.0.20", "mcp<2", "fastapi<0.129", "starlette<1"),
            False,
            _listening(
                "mcpo", "--host", "127.0.0.1", "--port", "PORT", "--config", "servers.json", "--log-level", "WARNING"
            ),
            lambda port, server: {"kind": "openapi", "port": port, "server": server},
        ),
        Peer(
            "mcp-hub",
            ("mcp-hub@4.2.1",),
            True,
            _listening("mcp-hub", "--port", "PORT", "--config", "servers.json"),
            lambda port, server: {"kind": "hub", "port": port, "server": server},
        ),
        Peer(
            "fastmcp",
            ("fastmcp>=4,<5",),
            False,
            lambda bin, port: [str(bin / "python"), "-c", WARM, str(port)],
            lambda port, server: _mcp(port, "/mcp", f"{server}_"),
        ),
        Peer(
            "supergateway",
            ("supergateway@4.0.0",),
            True,
            _listening(
                "supergateway", "--stdio", "COMMAND", "--port", "PORT", "--logLevel", "none",
                "--outputTransport", "streamableHttp", "--stateful",
            ),
            lambda port, server: _mcp(port, "/mcp"),
        ),
    )
}  # fmt: skip
"""supergateway serves one server a process, so it has a process for each here."""


@dataclass(frozen=True)
class Running:
    """A gateway that runs. `pids`: its own processes, the servers left out. `how`: of a server by its name."""

    name: str
    pids: Callable[[], list[int]]
    how: Callable[[str], How]


@contextlib.contextmanager
def peer(name: str, servers: Mapping[str, Argv]) -> Iterator[Running]:
    """Run one over the servers. That it listens does not mean that they are connected: see `wait_served`."""
    gateway = PEERS[name]
    programs = gateway.bin()
    alone = name == "supergateway"
    with tempfile.TemporaryDirectory(prefix="moltis-bench-", ignore_cleanup_errors=True) as folder:
        named = {server: {"command": argv[0], "args": argv[1:]} for server, argv in servers.items()}
        (Path(folder) / "servers.json").write_text(json.dumps({"mcpServers": named}))
        environ = {**os.environ, "HOME": folder, "XDG_STATE_HOME": folder, "XDG_DATA_HOME": folder}
        environ |= {"XDG_CONFIG_HOME": folder, "FASTMCP_CHECK_FOR_UPDATES": "off"}
        ports: dict[str, int] = {}
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for server in servers if alone else ("",):
                ports[server] = free_port()
                command = " ".join(servers[server]) if alone else ""
                argv = [command if word == "COMMAND" else word for word in gateway.argv(programs, ports[server])]
                with (Path(folder) / "out").open("ab") as out:
                    processes.append(
                        subprocess.Popen(
                            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder, env=environ
                        )
                    )
            yield Running(
                name,
                lambda: [pid for p in processes for pid in (p.pid, *descendants(p.pid)) if not is_server(pid)],
                lambda server: gateway.how(ports[server if alone else ""], server),
            )
        finally:
            below = [pid for process in processes for pid in descendants(process.pid)]
            for process in processes:
                process.kill()
                process.wait()
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


@contextlib.contextmanager
def ours(servers: Mapping[str, Argv]) -> Iterator[Running]:
    """Run moltis over the servers, as it comes: with a token, and calls in its log."""
    daemon = Daemon(servers)
    try:
        daemon.start()
        line = daemon.connect()
        while (url := line.call("daemon.status")["gateway_url"]) is None:
            time.sleep(0.002)
        token = line.call("token.create", name="benchmark", scope="write")["token"]
        line.close()
        port = int(url.rpartition(":")[2].partition("/")[0])
        headers = {"authorization": f"Bearer {token}"}
        yield Running(
            "moltis",
            lambda: [pid for pid in (daemon.pid, *descendants(daemon.pid)) if not is_server(pid)],
            lambda server: {**_mcp(port, f"/servers/{server}/mcp"), "headers": headers},
        )
    finally:
        daemon.stop()
