"""A container engine in small: `containers.py daemon SOCKET`, and `run SOCKET MODES` in the place of `docker run -i`.

The daemon forks a server for whoever connects. The client relays stdin and stdout, passes SIGTERM and SIGINT on
(`--sig-proxy`) and ends when the server has. MODES, joined by commas, of the server: `ignore-eof`, `no-tools` (refuses
`tools/list`), `mute` (answers nothing), `deaf` (answers nothing but the handshake and the first list).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time


def daemon(path: str) -> None:
    """Serve until killed; every server is a child of this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are reaped by the kernel
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    while True:
        client, _ = listener.accept()
        asked = b""
        while not asked.endswith(b"\n"):
            asked += client.recv(1)
        words = asked.decode().split()
        if words[0] == "kill":
            try:
                os.kill(int(words[1]), int(words[2]))
            except ProcessLookupError:
                pass
        else:
            command = [sys.executable, "-S", __file__, "serve", words[1]]
            server = subprocess.Popen(command, stdin=client.fileno(), stdout=client.fileno())
            client.sendall(b"%d\n" % server.pid)
        client.close()


def run(path: str, modes: str) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(f"run {modes}\n".encode())
    told = b""
    while not told.endswith(b"\n"):
        told += connection.recv(1)

    def proxy(number: int, _frame: object) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(path)
            other.sendall(f"kill {int(told)} {number}\n".encode())

    signal.signal(signal.SIGTERM, proxy)
    signal.signal(signal.SIGINT, proxy)

    def relay_input() -> None:
        while data := os.read(0, 65536):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=relay_input, daemon=True).start()
    while data := connection.recv(65536):
        os.write(1, data)
    os._exit(0)


def serve(modes: list[str]) -> None:
    initialized: dict[str, object] = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}}
    initialized["serverInfo"] = {"name": "x", "version": "1"}
    results: dict[str, object] = {"initialize": initialized, "ping": {}}
    if "no-tools" not in modes:
        results["tools/list"] = {"tools": [{"name": "quick", "inputSchema": {"type": "object"}}]}
    for line in sys.stdin:
        asked = json.loads(line)
        if "mute" in modes or "id" not in asked:
            continue
        result = results.get(asked["method"])
        answer = {"error": {"code": -32603, "message": "not now"}} if result is None else {"result": result}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}) + "\n")
        sys.stdout.flush()
        if "deaf" in modes and asked["method"] == "tools/list":
            modes = [*modes, "mute"]
    while "ignore-eof" in modes:
        time.sleep(60)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["daemon", path]:
            daemon(path)
        case ["run", path, modes]:
            run(path, modes)
        case ["serve", modes]:
            serve(modes.split(","))
