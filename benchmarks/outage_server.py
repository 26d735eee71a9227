"""N protected MCP servers on short tokens and the one authorization server behind them, which can be away.

    outage_server.py N LIFE_SECS [streams] [ledger=FILE]      prints {"urls", "issuer"} as JSON when it listens

All N resources are at one port, `/NUMBER/mcp`. The authorization server gives tokens of LIFE_SECS by code, refresh
token (replaced by each use) and client credentials. `POST /away?SECS` at the issuer closes its port for so long;
`POST /refuse?STATUS` has it refuse refreshes with that and without a reason, 0 no more; `POST /broken?STATUS` has the
MCP servers answer every message so. With `streams` they have sessions and GET streams, and `POST /grow?0` gives each
one tool more and tells so there. To FILE a line is appended for each call, `call aNUMBER TOKEN`, with
the `token` of its arguments, which is also what it answers.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

good: dict[str, float] = {}
refreshable: set[str] = set()
numbers = itertools.count(1)
life_secs = 0.0
refusing = 0
broken = 0
more_tools = 0
grown = threading.Condition()
ledger = -1
lock = threading.Lock()


class Plain(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, document: object, **headers: str) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: object) -> None:
        pass


class Resource(Plain):
    """Speaks MCP 2025-11-25 without a session, to whoever has a token that is still good."""

    issuer = ""
    streams = False

    def stream(self) -> None:
        """Tell of every growth, until whoever listens is gone. A stream is let in once, however long it lasts."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        while True:
            with grown:
                told = grown.wait(0.5)
            self.wfile.write(f"data: {json.dumps(changed)}\n\n".encode() if told else b":\n\n")

    def do_GET(self) -> None:
        well_known = "/.well-known/oauth-protected-resource"
        if self.path.startswith(well_known):
            resource = f"http://{self.headers['Host']}{self.path.removeprefix(well_known)}"
            self.answer(200, {"resource": resource, "authorization_servers": [self.issuer]})
        elif self.streams and good.get((self.headers.get("Authorization") or "").removeprefix("Bearer "), 0.0):
            try:
                self.stream()
            except OSError:
                self.close_connection = True
        else:
            self.answer(405, {})

    def do_POST(self) -> None:
        message = json.loads(self.body())
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if good.get(token, 0.0) < time.time():
            metadata = f"http://{self.headers['Host']}/.well-known/oauth-protected-resource{self.path}"
            self.answer(401, {}, WWW_Authenticate=f'Bearer resource_metadata="{metadata}"')
            return
        if broken:
            self.answer(broken, {})
            return
        if "id" not in message:
            self.answer(202, {})
            return
        result: dict[str, object] = {}
        match message["method"]:
            case "initialize":
                about = {"name": "s", "version": "1"}
                result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": about}
            case "tools/list":
                names = ["echo", *(f"more{number}" for number in range(more_tools))]
                names += ["quick", "work"] if ledger >= 0 else []
                result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
            case "tools/call":
                result = {"content": [{"type": "text", "text": self.run(message["params"])}]}
            case "ping":
                pass
            case _:
                self.answer(200, {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}})
                return
        session = {"Mcp_Session_Id": "one"} if self.streams and message["method"] == "initialize" else {}
        self.answer(200, {"jsonrpc": "2.0", "id": message["id"], "result": result}, **session)

    def run(self, params: dict[str, Any]) -> str:
        arguments = params.get("arguments") or {}
        if "token" not in arguments:
            return "here"
        os.write(ledger, f"call a{self.path.split('/')[1]} {arguments['token']}\n".encode())
        if params["name"] == "work":
            time.sleep(float(arguments["secs"]))
        return str(arguments["token"])


class Issuer(Plain):
    """Lets everybody in."""

    def do_GET(self) -> None:
        base = f"http://{self.headers['Host']}"
        parts = urlsplit(self.path)
        if parts.path == "/authorize":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            back = urlencode({"code": "one", "state": asked["state"]})
            self.answer(302, {}, Location=f"{asked['redirect_uri']}?{back}")
        elif parts.path == "/.well-known/oauth-authorization-server":
            ends = {"authorization": "authorize", "token": "token", "registration": "register"}
            document = {f"{end}_endpoint": f"{base}/{path}" for end, path in ends.items()}
            more = {"code_challenge_methods_supported": ["S256"], "token_endpoint_auth_methods_supported": ["none"]}
            self.answer(200, {"issuer": base, **document, **more})
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        body = self.body()
        parts = urlsplit(self.path)
        if parts.path == "/register":
            self.answer(201, {**json.loads(body), "client_id": "client"})
            return
        if parts.path == "/away":
            threading.Thread(target=away, args=(float(parts.query),), daemon=True).start()
            self.answer(200, {})
            self.close_connection = True
            return
        if parts.path in ("/refuse", "/broken"):
            globals()["refusing" if parts.path == "/refuse" else "broken"] = int(parts.query)
            self.answer(200, {})
            return
        if parts.path == "/grow":
            with grown:
                globals()["more_tools"] += 1
                grown.notify_all()
            self.answer(200, {})
            return
        form = dict(parse_qsl(body.decode()))
        with lock:
            if form.get("grant_type") == "refresh_token":
                if refusing:
                    self.answer(refusing, {"code": refusing, "error_code": "refresh_token_not_found", "msg": "x"})
                    return
                if form.get("refresh_token") not in refreshable:
                    self.answer(400, {"error": "invalid_grant"})
                    return
                refreshable.remove(form["refresh_token"])
            access, refresh = f"access-{next(numbers)}", f"refresh-{next(numbers)}"
            good[access] = time.time() + life_secs
            refreshable.add(refresh)
        tokens = {"access_token": access, "token_type": "Bearer", "expires_in": life_secs, "refresh_token": refresh}
        self.answer(200, tokens)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


def away(secs: float) -> None:
    """Close the port of the authorization server, and open it again."""
    global issuer
    address = issuer.server_address
    issuer.shutdown()
    issuer.server_close()
    time.sleep(secs)
    issuer = Server((str(address[0]), int(address[1])), Issuer)
    threading.Thread(target=issuer.serve_forever, daemon=True).start()


if __name__ == "__main__":
    life_secs = float(sys.argv[2])
    for file in (word.removeprefix("ledger=") for word in sys.argv[3:] if word.startswith("ledger=")):
        ledger = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    issuer = Server(("127.0.0.1", 0), Issuer)
    resource = Server(("127.0.0.1", 0), Resource)
    Resource.streams = "streams" in sys.argv[3:]
    Resource.issuer = f"http://127.0.0.1:{issuer.server_address[1]}"
    threading.Thread(target=issuer.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{resource.server_address[1]}"
    urls = [f"{base}/{number}/mcp" for number in range(int(sys.argv[1]))]
    print(json.dumps({"urls": urls, "issuer": Resource.issuer}), flush=True)
    resource.serve_forever()
