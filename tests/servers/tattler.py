"""MCP servers with authorization servers that are full of secrets and keep none of them. Standard library only.

    tattler.py --events FILE

Prints one line of JSON, {"url"}, when it listens. Below that origin `/NAME/...` is the MCP server NAME, and `/as/NAME`
its authorization server, for any NAME. What it makes up in confidence begins with `canary-NAME-`: codes, tokens, client
secrets, session ids, cookies. Whatever it refuses, it refuses with a text that repeats the whole request.

    POST /test/NAME?KEY=WORD...    from now on:
      mcp        bare (401 without challenge)  page (HTTP 500)  moved (302)  scope (403 for tools/call)
                 error, cut (a JSON-RPC error that repeats the request, or X-Key across its 300th character)
                 old (HTTP+SSE that wants its messages sent elsewhere)
      metadata, token, refresh     page (HTTP 500)  html (HTTP 200)  denied (400)  code (400, the code as error)  down
      authorize  stay (a page: nobody is sent back)
      forget     every access token so far is over

To FILE one JSON object a line is appended for every request: name, method, path, query, headers, body.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

TYPE_CHECKING = False  # importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

Headers = dict[str, str]
JSON = {"Content-Type": "application/json"}
CUT_AT = 300


class World:
    """What is remembered between requests, by name.

    tokens: the scope of each access token that is good. asked: the scope that was asked for last.
    """

    def __init__(self, origin: str, events: str) -> None:
        self.origin = origin
        self.events = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.numbers = itertools.count()
        self.modes: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.tokens: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.asked: defaultdict[str, str] = defaultdict(str)

    def tell(self, **facts: object) -> None:
        os.write(self.events, json.dumps(facts).encode() + b"\n")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    world: World

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_DELETE(self) -> None:
        self.serve()

    def serve(self) -> None:
        """Note the request, and have it answered by whom it is for."""
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        parts = url.path.strip("/").split("/")
        match parts:
            case [".well-known", _, "as", name, *_] | [".well-known", _, name, *_] | ["as" | "test", name, *_]:
                self.name = name
            case _:
                self.name = parts[0]
        self.mode = self.world.modes[self.name]
        facts = {"path": url.path, "query": url.query, "headers": dict(self.headers.items()), "body": self.body}
        self.world.tell(name=self.name, method=self.command, **facts)
        match parts:
            case ["test", _]:
                self.changed()
            case [".well-known", "oauth-protected-resource", *_]:
                issuers = [f"{self.world.origin}/as/{self.name}"]
                self.say({"resource": f"{self.world.origin}/{self.name}", "authorization_servers": issuers})
            case [".well-known", "oauth-authorization-server", "as", _]:
                self.metadata()
            case ["as", _, "authorize"]:
                self.authorize()
            case ["as", _, "register"]:
                client = {"client_id": f"{self.name}-client", "client_secret": self.secret("registered-secret")}
                self.say({**json.loads(self.body), **client, "token_endpoint_auth_method": "client_secret_post"}, 201)
            case ["as", _, "token"]:
                self.token()
            case ["as", _, "revoke"]:
                self.say({})
            case [_, *_, "mcp"]:
                self.mcp()
            case _:
                self.answer(404)

    # -- what is said

    def secret(self, place: str) -> str:
        return f"canary-{self.name}-{place}-{next(self.world.numbers)}+/w=9f3Zq"

    def repeated(self, first: str = "") -> str:
        """Give the request, after `first` or words that nobody is to see, as somebody would who means to help."""
        headers = "; ".join(f"{k}: {v}" for k, v in self.headers.items())
        return f"{first or self.secret('words')} {self.path} {headers} {self.body} {json.dumps(self.path + self.body)}"

    def answer(self, status: int, body: str = "", headers: Headers | None = None) -> None:
        self.send_response(status)
        cookie = {"Set-Cookie": f"sid={self.secret('set-cookie')}", "Content-Length": str(len(body.encode()))}
        for key, value in {**cookie, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def say(self, document: dict[str, Any], status: int = 200, headers: Headers | None = None) -> None:
        self.answer(status, json.dumps(document), {**JSON, **(headers or {})})

    def fails(self, how: str) -> bool:
        """Fail in one of the ways that have a name, and say whether it is one of them."""
        denied = {"error": "invalid_grant", "error_description": self.repeated(), "error_uri": self.secret("error-uri")}
        match how:
            case "page" | "html":
                self.answer(500 if how == "page" else 200, self.repeated(), {"Content-Type": "text/html"})
            case "denied":
                self.say(denied, 400)
            case "code":
                self.say({**denied, "error": dict(parse_qsl(self.body))["code"]}, 400)
            case "down":
                self.close_connection = True
            case _:
                return False
        return True

    def changed(self) -> None:
        self.mode.update(self.query)
        if "forget" in self.query:
            self.world.tokens[self.name].clear()
        self.say({})

    # -- the authorization server

    def metadata(self) -> None:
        if self.fails(self.mode.get("metadata", "")):
            return
        issuer = f"{self.world.origin}/as/{self.name}"
        ends = {f"{end}_endpoint": f"{issuer}/{path}" for end, path in ENDPOINTS.items()}
        self.say({"issuer": issuer, **ends, **SUPPORTED})

    def authorize(self) -> None:
        self.world.asked[self.name] = self.query.get("scope", "")
        if self.mode.get("authorize") == "stay":
            self.answer(200, "later")
            return
        code = f"canary-{self.name}-code" if self.mode.get("token") == "code" else self.secret("code")
        back = {"code": code, "state": self.query["state"], "iss": f"{self.world.origin}/as/{self.name}"}
        self.answer(302, "", {"Location": f"{self.query['redirect_uri']}?{urlencode(back)}"})

    def token(self) -> None:
        refreshes = dict(parse_qsl(self.body))["grant_type"] == "refresh_token"
        if self.fails(self.mode.get("refresh" if refreshes else "token", "")):
            return
        access, refresh = self.secret("access-token"), self.secret("refresh-token")
        self.world.tokens[self.name][access] = self.world.asked[self.name]
        self.say({"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": 3600})

    # -- the MCP server

    def mcp(self) -> None:
        how = self.mode.get("mcp", "")
        if how == "old" and self.command == "GET":
            endpoint = f"event: endpoint\ndata: http://me:{self.secret('endpoint')}@elsewhere.example/\n\n"
            self.answer(200, endpoint, {"Content-Type": "text/event-stream"})
            return
        if how == "old" or self.command != "POST":
            self.answer(405, self.repeated("what a refusal says is shown, less the secrets of the request:"))
            return
        if self.fails(how):
            return
        message = json.loads(self.body)
        if how == "moved":
            word = quote(self.secret("location"), safe="")
            self.answer(302, "", {"Location": f"http://me:{word}@elsewhere.example/there?key={word}#{word}"})
        elif how in ("error", "cut"):
            key = self.headers["X-Key"]
            pad = "." * (CUT_AT - len(key) // 2)
            words = f"{pad}{key}" if how == "cut" else f"{self.path} {key} {self.headers['Authorization']}"
            self.say({"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32000, "message": words}})
        elif (scope := self.granted()) is None:
            self.refuse(401, 'error="invalid_token"' if how != "bare" else "")
        elif how == "scope" and message["method"] == "tools/call" and "more" not in scope:
            self.refuse(403, 'error="insufficient_scope", scope="more"')
        elif "id" not in message:
            self.answer(202)
        else:
            self.reply(message)

    def granted(self) -> str | None:
        """Give the scope of the token that came, None if it is none that is good."""
        return self.world.tokens[self.name].get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def refuse(self, status: int, why: str) -> None:
        words = f'error_description="{self.secret("challenge")}", realm="{self.secret("realm")}"'
        at = f'resource_metadata="{self.world.origin}/.well-known/oauth-protected-resource/{self.name}"'
        self.answer(status, self.repeated(), {"WWW-Authenticate": f"Bearer {why}, {words}, {at}"} if why else {})

    def reply(self, message: dict[str, Any]) -> None:
        about = {"capabilities": {"tools": {}}, "serverInfo": {"name": self.name, "version": "1"}}
        results: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-11-25", **about},
            "tools/list": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": "done"}]},
            "ping": {},
        }
        result = results.get(message["method"])
        said = {"error": {"code": -32601, "message": "no such method"}} if result is None else {"result": result}
        session = {"Mcp-Session-Id": self.secret("session")} if message["method"] == "initialize" else {}
        self.say({"jsonrpc": "2.0", "id": message["id"], **said}, headers=session)


ENDPOINTS = {"authorization": "authorize", "token": "token", "registration": "register", "revocation": "revoke"}
SUPPORTED = {
    "response_types_supported": ["code"],
    "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
    "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", "private_key_jwt"],
    "code_challenge_methods_supported": ["S256"],
    "authorization_response_iss_parameter_supported": True,
}


def main(argv: list[str]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    origin = f"http://127.0.0.1:{server.server_address[1]}"
    Handler.world = World(origin, argv[argv.index("--events") + 1])
    print(json.dumps({"url": origin}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
