"""An MCP server behind OAuth and its authorization server, reached by https under names that only a proxy knows."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from made_certificates import Authority

MCP, AUTH, OPEN = "mcp.invalid", "auth.invalid", "open.invalid"
"""OPEN is the same server, and lets everybody in. Names under `invalid` exist nowhere (RFC 6761 section 6.4)."""
TOKEN = "token-of-the-named-servers"


class NamedServers:
    """heard: `METHOD host/path` of each request."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        self.ca_file = str(authority.ca_file)
        self.heard: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        context = authority.server(MCP, AUTH, OPEN)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        assert isinstance(self._server.socket, ssl.SSLSocket)
        self.port: int = self._server.server_address[1]

    @property
    def names(self) -> dict[str, int]:
        return dict.fromkeys((MCP, AUTH, OPEN), self.port)

    def serve(self) -> None:
        self._server.serve_forever(0.05)

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @staticmethod
    def consent(auth_url: str) -> str:
        """Return where the browser is sent once a person has agreed."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(auth_url).query).items()}
        answer = {"code": "a-code", "state": asked["state"], "iss": f"https://{AUTH}"}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    def answer(self, method: str, host: str, path: str, authorization: str | None, body: bytes) -> tuple[int, Any]:
        route = f"{method} {host}{path}"
        self.heard.append(route)
        match route:
            case _ if route == f"GET {MCP}/.well-known/oauth-protected-resource/mcp":
                return 200, {"resource": f"https://{MCP}/mcp", "authorization_servers": [f"https://{AUTH}"]}
            case _ if route == f"GET {AUTH}/.well-known/oauth-authorization-server":
                return 200, {
                    "issuer": f"https://{AUTH}",
                    "authorization_endpoint": f"https://{AUTH}/authorize",
                    "token_endpoint": f"https://{AUTH}/token",
                    "registration_endpoint": f"https://{AUTH}/register",
                    "response_types_supported": ["code"],
                    "code_challenge_methods_supported": ["S256"],
                    "token_endpoint_auth_methods_supported": ["none"],
                    "authorization_response_iss_parameter_supported": True,
                }
            case _ if route == f"POST {AUTH}/register":
                return 201, {**json.loads(body), "client_id": "c"}
            case _ if route == f"POST {AUTH}/token":
                return 200, {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}
            case _ if route == f"POST {MCP}/mcp" and authorization != f"Bearer {TOKEN}":
                return 401, None
            case _ if route in (f"POST {MCP}/mcp", f"POST {OPEN}/mcp"):
                return _mcp(json.loads(body))
        return 404 if method == "GET" and path != "/mcp" else 405, None


def _mcp(asked: dict[str, Any]) -> tuple[int, Any]:
    if "id" not in asked:
        return 202, None
    results: dict[str, Any] = {
        "initialize": {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "named", "version": "1"},
        },
        "tools/list": {"tools": [{"name": "long", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "x" * 500_000}]},
        "ping": {},
    }
    if asked["method"] not in results:
        return 200, {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no such method"}}
    return 200, {"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]}


def _handler(servers: NamedServers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            host = (self.headers.get("Host") or "").partition(":")[0]
            servers.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            authorization = self.headers.get("Authorization")
            path = self.path.partition("?")[0]
            status, answer = servers.answer(self.command, host, path, authorization, body)
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            if status == 401:
                where = f"https://{MCP}/.well-known/oauth-protected-resource/mcp"
                self.send_header("WWW-Authenticate", f'Bearer resource_metadata="{where}"')
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def named_servers(folder: Path) -> Iterator[NamedServers]:
    servers = NamedServers(folder)
    thread = threading.Thread(target=servers.serve, daemon=True)
    thread.start()
    try:
        yield servers
    finally:
        servers.end()
        thread.join(10)
