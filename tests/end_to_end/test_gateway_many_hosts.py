"""Two hundred hosts of one access token at once, each with a stream and a call under way, and room for another's."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_harness import GUARDED, gateway_url, new_token, start
from harness import Daemon

HOSTS = 200
WITHIN_SECS = 120.0
INITIALIZE: dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "host", "version": "1"},
}


class Wire:
    """One connection, and what it has said so far."""

    def __init__(self, port: int, token: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_SECS)
        self.port = port
        self.token = token

    def send(self, method: str, session: str = "", body: Any = None) -> None:
        data = b"" if body is None else json.dumps({"jsonrpc": "2.0", **body}).encode()
        lines = [
            f"{method} /mcp HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Authorization: Bearer {self.token}",
            "Accept: application/json, text/event-stream",
            *([f"Mcp-Session-Id: {session}"] if session else []),
            *(["Content-Type: application/json", f"Content-Length: {len(data)}"] if body is not None else []),
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + data)

    def head(self) -> tuple[int, dict[str, str]]:
        """Read one head, byte by byte: what follows it is somebody else's."""
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            assert byte, raw
            raw += byte
        first, *lines = raw.decode().split("\r\n")
        return int(first.split()[1]), {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = self.head()
        left, body = int(headers.get("content-length", "0")), b""
        while len(body) < left:
            body += self.socket.recv(left - len(body))
        return status, headers, body


@pytest.fixture
def wires() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_two_hundred_hosts_of_one_token_have_a_stream_and_a_call_each(
    daemon: Daemon, wires: contextlib.ExitStack
) -> None:
    start(daemon, {"good": daemon.evil(protocol="legacy")}, GUARDED)
    daemon.wait_all()
    port = int(gateway_url(daemon).split(":")[2].split("/")[0])
    token, other = new_token(daemon, "many"), new_token(daemon, "other")

    def dial(token: str = token) -> Wire:
        wire = Wire(port, token)
        wires.enter_context(wire.socket)
        return wire

    streams, calls = [], []
    for _ in range(HOSTS):
        call, stream = dial(), dial()
        call.send("POST", body={"id": 0, "method": "initialize", "params": INITIALIZE})
        status, headers, _ = call.answer()
        assert status == 200
        stream.send("GET", headers["mcp-session-id"])
        assert stream.head()[0] == 200
        streams.append(stream)
        calls.append((call, headers["mcp-session-id"]))
    for call, session in calls:
        params = {"name": "good__slow", "arguments": {"secs": 6}}
        call.send("POST", session, {"id": 1, "method": "tools/call", "params": params})
    stranger = dial(other)
    began = time.monotonic()
    stranger.send("POST", body={"id": 1, "method": "tools/list", "params": {}})
    assert stranger.answer()[0] == 200
    assert time.monotonic() - began < WITHIN_SECS
    found = [call.answer() for call, _ in calls]
    assert [status for status, *_ in found] == [200] * HOSTS
    assert all(b'"result"' in body and b'"isError":true' not in body for *_, body in found)
