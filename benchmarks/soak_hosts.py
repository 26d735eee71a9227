"""The hosts of the soak: over HTTP in either era, and over `moltis connect`. None of them sends anything twice."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from workbench import Daemon, moltis_command

LEGACY, MODERN = "2025-11-25", "2026-07-28"
ANSWERED_WITHIN_SECS = 80.0
"""The longest that a request may take in the soak (`request_timeout_max_secs`), and a minute for a loaded machine."""

Reply = dict[str, Any]


class HttpHost:
    """A host over HTTP, one connection a request, so that nothing is ever sent again by the client."""

    def __init__(self, url: str, token: str, era: str) -> None:
        self.url, self.era = urlsplit(url), era
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": era,
        }
        if era == LEGACY:
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}
            connection = self.send("initialize", params, "begin")
            with contextlib.closing(connection):
                response = connection.getresponse()
                self._headers["mcp-session-id"] = response.headers["mcp-session-id"]
                response.read()
            self.tell("notifications/initialized", {})

    def send(self, method: str, params: Mapping[str, Any], id: str | None) -> http.client.HTTPConnection:
        headers = dict(self._headers)
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": dict(params)}
        if id is not None:
            message["id"] = id
        if self.era == MODERN:
            headers |= {"mcp-method": method, "mcp-name": str(params.get("name", ""))}
            prefix = "io.modelcontextprotocol/"
            message["params"]["_meta"] = {
                f"{prefix}protocolVersion": MODERN,
                f"{prefix}clientInfo": {"name": "soak", "version": "1"},
                f"{prefix}clientCapabilities": {},
                **message["params"].get("_meta", {}),
            }
        assert self.url.hostname is not None
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=ANSWERED_WITHIN_SECS)
        connection.request("POST", self.url.path, json.dumps(message).encode(), headers)
        return connection

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        with contextlib.closing(self.send(method, params, None)) as connection:
            connection.getresponse().read()

    def ask(self, method: str, params: Mapping[str, Any], id: str) -> Reply:
        """Return the reply.

        Raises:
            OSError: there was none.
        """
        with contextlib.closing(self.send(method, params, id)) as connection:
            return self.reply(connection, id)

    @staticmethod
    def reply(connection: http.client.HTTPConnection, id: str) -> Reply:
        response = connection.getresponse()
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            body = response.read()
            try:
                found: Reply = json.loads(body)
            except ValueError:
                raise OSError(f"HTTP {response.status} {body[:200]!r}") from None
            return found
        for line in iter(response.readline, b""):
            if line.startswith(b"data:") and line[5:].strip():
                found = json.loads(line[5:])
                if found.get("id") == id and "method" not in found:
                    return found
        raise OSError("the stream ended without a reply")

    def close(self) -> None:
        """End the session, as a host does that ends well."""
        if "mcp-session-id" in self._headers:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(self.url.hostname or "", self.url.port, timeout=10)
                with contextlib.closing(connection):
                    connection.request("DELETE", self.url.path, headers=self._headers)
                    connection.getresponse().read()


class PipeHost:
    """A host over `moltis connect`."""

    def __init__(self, daemon: Daemon) -> None:
        self.process = subprocess.Popen(
            [moltis_command(), "connect"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=daemon.environ,
            cwd=daemon.folder,
        )
        self._buffer = b""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}}
        self.ask("initialize", params, "begin")
        self.tell("notifications/initialized", {})

    def tell(self, method: str, params: Mapping[str, Any], **id: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(
            json.dumps({"jsonrpc": "2.0", **id, "method": method, "params": params}).encode() + b"\n"
        )
        self.process.stdin.flush()

    def ask(self, method: str, params: Mapping[str, Any], id: str) -> Reply:
        self.tell(method, params, id=id)
        assert self.process.stdout is not None
        deadline = time.monotonic() + ANSWERED_WITHIN_SECS
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                found: Reply = json.loads(line)
                if found.get("id") == id and "method" not in found:
                    return found
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError("timed out")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise EOFError("moltis connect has ended")
            self._buffer += data

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
