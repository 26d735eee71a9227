"""A token endpoint on 127.0.0.1 that replaces the refresh token at every use and revokes the grant at a reuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


class RotatingServer(ThreadingHTTPServer):
    """number: which refresh token is the good one, `refresh-canary-NUMBER`. reuses: how often another was presented."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.number = 1
        self.reuses = 0
        self.turn = threading.Lock()
        self.arrived = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def token_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"

    def take(self, refresh_token: str) -> tuple[int, dict[str, object]]:
        """Take a refresh token; the answer, where there is one, comes later."""
        with self.turn:
            if self.reuses or refresh_token != f"refresh-canary-{self.number}":
                self.reuses += 1
                return 400, {"error": "invalid_grant"}
            self.number += 1
            return 200, {
                "access_token": f"access-canary-{self.number}",
                "refresh_token": f"refresh-canary-{self.number}",
                "token_type": "Bearer",
                "expires_in": 1,
            }


class _Handler(BaseHTTPRequestHandler):
    server: RotatingServer

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        status, answer = self.server.take(form["refresh_token"][0])
        self.server.arrived.set()
        self.server.may_answer.wait()
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def rotating_server() -> Iterator[RotatingServer]:
    """Serve for as long as the block lasts."""
    with RotatingServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.may_answer.set()
            server.shutdown()
            thread.join()
