"""A server that wants a login, and its authorization server, in one: the least that a client asks of them.

Run as `python -E login_server.py`; prints its port, then the monotonic time of each 401.
"""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        base = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.path.startswith("/.well-known/oauth-protected-resource"):
            self.answer(200, {"resource": f"{base}/mcp", "authorization_servers": [base]})
        elif self.path == "/.well-known/oauth-authorization-server":
            document = {"issuer": base, "code_challenge_methods_supported": ["S256"]}
            for end, path in ("authorization", "authorize"), ("token", "token"), ("registration", "register"):
                document[f"{end}_endpoint"] = f"{base}/{path}"
            document["token_endpoint_auth_methods_supported"] = ["none"]
            self.answer(200, {**document, "response_types_supported": ["code"]})
        else:
            self.answer(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/register":
            self.answer(201, {**json.loads(body), "client_id": "one"})
        else:
            print(time.monotonic(), flush=True)
            base = f"http://127.0.0.1:{self.server.server_address[1]}"
            metadata = f'Bearer resource_metadata="{base}/.well-known/oauth-protected-resource/mcp"'
            self.answer(401, {}, [("www-authenticate", metadata)])

    def log_message(self, format, *args):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
