"""Stand-ins of authorization servers in use, each with what is peculiar to it, and an MCP server that each protects.

Two HTTP servers on 127.0.0.1, in threads of the test: `http://127.0.0.1:PORT` stands for `https://host`. What is here
of each was reported of it by people who use it. `python tests/end_to_end/stand_in_providers.py` writes the page.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

OAUTH, OPENID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
PRM = "/.well-known/oauth-protected-resource"
BY_HAND = "client-by-hand"
SECRET = "secret-of-the-client-by-hand"


@dataclass(frozen=True)
class Kind:
    """One provider.

    peculiar: what differs from the specifications, in words. typed: the [oauth] section, of the URL of the
    authorization server. issuer: what the metadata calls itself, and prm: what the server calls it (None: it says
    nothing), as texts after that URL, or whole. places: where the metadata lies; a place that begins with `server:` is
    at the MCP server.
    metadata: members that it has otherwise, None for those that it lacks. registers: whether it registers clients.
    refreshes: whether it gives refresh tokens. revokes: whether it has a revocation endpoint.
    page, token: refuse a request there, if they return an answer.
    """

    name: str
    peculiar: str
    typed: Callable[[str, int], dict[str, Any]] = lambda at, port: {}
    issuer: str = ""
    prm: str | None = ""
    places: tuple[str, ...] = (OAUTH,)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    prm_members: Mapping[str, Any] = field(default_factory=dict)
    registers: bool = True
    refreshes: bool = True
    rotates: bool = True
    revokes: bool = True
    failing: Mapping[str, int] = field(default_factory=dict)
    registration: Mapping[str, Any] = field(default_factory=dict)
    page: Callable[[Mapping[str, str], int], tuple[int, str] | None] = lambda asked, port: None
    token: Callable[[Mapping[str, str]], tuple[int, Any] | None] = lambda form: None
    unknown_client: tuple[int, str] = (400, "<h1>Unknown client</h1>")
    spent: tuple[int, Any] = (400, {"error": "invalid_grant"})
    answer: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


def _entra_page(asked: Mapping[str, str], port: int) -> tuple[int, str] | None:
    if "resource" in asked:
        return 400, "<h1>AADSTS9010010</h1>"
    if asked.get("prompt") == "consent":
        return 200, "<h1>An administrator must approve</h1>"
    if urlsplit(asked["redirect_uri"]).hostname != "localhost":
        return 400, "<h1>AADSTS50011</h1>"
    return None


def _entra_token(form: Mapping[str, str]) -> tuple[int, Any] | None:
    return (400, {"error": "invalid_target"}) if "resource" in form else None


def _exact(host: str, asked: Mapping[str, str], port: int) -> tuple[int, str] | None:
    registered = f"http://{host}:{port}/callback"
    return None if asked["redirect_uri"] == registered else (400, "<h1>redirect_uri mismatch</h1>")


def _slack_page(asked: Mapping[str, str], port: int) -> tuple[int, str] | None:
    if asked.get("user_scope") != "chat:write,search:read":
        return 400, "<h1>No scopes requested</h1>"
    return _exact("127.0.0.1", asked, port)


def _wants_secret(form: Mapping[str, str]) -> tuple[int, Any] | None:
    return None if form.get("client_secret") == SECRET else (401, {"error": "invalid_client"})


def _slack_token(form: Mapping[str, str]) -> tuple[int, Any] | None:
    return None if form.get("client_secret") == SECRET else (200, {"ok": False, "error": "bad_client_secret"})


def _keycloak_page(asked: Mapping[str, str], port: int) -> tuple[int, str] | None:
    extra = set(asked.get("scope", "").split()) - {"mcp:read", "mcp:write"}
    return (400, "<h1>Invalid scopes</h1>") if extra else None


def _without_resource(form: Mapping[str, str]) -> tuple[int, Any] | None:
    refresh = form["grant_type"] == "refresh_token"
    return (400, {"error": "invalid_request"}) if refresh and "resource" in form else None


KINDS = (
    Kind(
        "Entra",
        "no registration, no word of PKCE; `resource` and `prompt=consent` end at error pages; knows `localhost` only",
        typed=lambda at, port: {
            "client_id": BY_HAND,
            "auth_url": f"{at}/authorize",
            "token_url": f"{at}/token",
            "scopes": ["api://app/user_impersonation", "offline_access"],
            "resource": "",
            "prompt": "",
            "redirect_host": "localhost",
        },
        issuer="/tenant/v2.0",
        prm="/tenant/v2.0",
        places=(f"/tenant/v2.0{OPENID}",),
        metadata={"code_challenge_methods_supported": None, "registration_endpoint": None},
        registers=False,
        revokes=False,
        page=_entra_page,
        token=_entra_token,
    ),
    Kind(
        "Google",
        "its issuer has no slash at the end and is named with one; no registration; a secret; keeps the refresh token",
        typed=lambda at, port: {"client_id": BY_HAND, "client_secret": SECRET},
        prm="/",
        metadata={"registration_endpoint": None, "token_endpoint_auth_methods_supported": ["client_secret_post"]},
        registers=False,
        rotates=False,
        token=_wants_secret,
    ),
    Kind(
        "Atlassian",
        "no protected resource metadata; calls itself otherwise than where it lies; a refresh that is over is 403",
        typed=lambda at, port: {"issuer": "https://cf.mcp.example.test"},
        issuer="https://cf.mcp.example.test",
        prm=None,
        places=(f"server:{OAUTH}",),
        spent=(403, {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}),
    ),
    Kind(
        "Slack",
        "no metadata; scopes in a parameter of its own, with commas; refusals are HTTP 200; the very redirect URI only",
        typed=lambda at, port: {
            "client_id": BY_HAND,
            "client_secret": SECRET,
            "auth_url": f"{at}/authorize?user_scope=chat:write,search:read",
            "token_url": f"{at}/token",
            "callback_port": port,
        },
        prm=None,
        places=(),
        registers=False,
        revokes=False,
        page=_slack_page,
        token=_slack_token,
        spent=(200, {"ok": False, "error": "invalid_refresh_token"}),
        answer={"ok": True, "scope": "chat:write,search:read"},
    ),
    Kind(
        "GitHub",
        "no registration; a secret; scopes have commas; tokens without an end, and no refresh token",
        typed=lambda at, port: {"client_id": BY_HAND, "client_secret": SECRET},
        issuer="/login/oauth",
        prm="/login/oauth",
        places=(f"{OAUTH}/login/oauth",),
        metadata={"registration_endpoint": None, "token_endpoint_auth_methods_supported": ["client_secret_post"]},
        prm_members={"scopes_supported": ["repo", "gist"]},
        registers=False,
        refreshes=False,
        revokes=False,
        token=_wants_secret,
        answer={"scope": "repo,gist", "expires_in": None},
    ),
    Kind(
        "Auth0",
        "its issuer has a slash at the end and is named without; refuses `offline_access` to a client that registers",
        issuer="/",
        metadata={"scopes_supported": ["openid", "offline_access", "mcp:read"]},
        prm_members={"scopes_supported": ["mcp:read"]},
        registration={"scope": "mcp:read"},
        page=lambda asked, port: (
            (400, "<h1>invalid scope</h1>") if "offline_access" in asked.get("scope", "") else None
        ),
    ),
    Kind(
        "Keycloak",
        "a path in its issuer, metadata in one place of three; lists scopes that it refuses; ends registrations",
        typed=lambda at, port: {"scopes": ["mcp:read", "mcp:write"]},
        issuer="/realms/moltis",
        prm="/realms/moltis",
        places=(f"/realms/moltis{OPENID}",),
        metadata={"scopes_supported": ["openid", "offline_access", "roles", "mcp:read", "mcp:write", "admin"]},
        prm_members={"scopes_supported": ["mcp:read", "mcp:write", "admin"]},
        registration={"managed": True},
        page=_keycloak_page,
    ),
    Kind(
        "Cognito",
        "no registration, no word of PKCE; knows `localhost` and the very port only; keeps the refresh token",
        typed=lambda at, port: {
            "client_id": BY_HAND,
            "auth_url": f"{at}/authorize",
            "token_url": f"{at}/token",
            "redirect_host": "localhost",
            "callback_port": port,
        },
        issuer="/pool",
        prm="/pool",
        places=(f"/pool{OPENID}",),
        metadata={"code_challenge_methods_supported": None, "registration_endpoint": None},
        registers=False,
        rotates=False,
        revokes=False,
        page=lambda asked, port: _exact("localhost", asked, port),
    ),
    Kind(
        "Supabase",
        "first addresses of its metadata fail; malformed members; `resource` is refused at a refresh; answers with 201",
        issuer="/auth/v1",
        prm="/auth/v1",
        places=(f"/auth/v1{OPENID}",),
        failing={f"{OAUTH}/auth/v1": 502, f"{OPENID}/auth/v1": 503, f"server:{PRM}/mcp": 502},
        metadata={"scopes_supported": "openid email", "revocation_endpoint": "http://192.0.2.1/revoke"},
        revokes=False,
        token=_without_resource,
        unknown_client=(422, '{"message":"Unrecognized client_id"}'),
        status=201,
    ),
)
"""In the order of the page."""


class StandIn:
    """A provider and the MCP server that it protects. `counts`: what happened so far."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.counts = {"registered": 0, "logins": 0, "refreshes": 0, "refresh_requests": 0, "revoked": 0, "ended": 0}
        self.forbids = ""
        """The scope without which no tool is called, and which no token has."""
        self.clients: set[str] = set() if kind.registers else {BY_HAND}
        self.good: set[str] = set()
        self.refresh: set[str] = set()
        self._codes: set[str] = set()
        self._lock = threading.Lock()
        self._auth = _serve(self._answer_auth)
        self._server = _serve(self._answer_server)
        self.at = f"http://127.0.0.1:{self._auth.server_address[1]}"
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.origin}/mcp"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        """Of the way back, where the very redirect URI was registered."""

    @property
    def typed(self) -> dict[str, Any]:
        """What a person writes into [oauth] for it."""
        return self.kind.typed(self.at, self.port)

    def close(self) -> None:
        for server in (self._auth, self._server):
            server.shutdown()
            server.server_close()

    # --- what a test does to it

    def expire(self) -> None:
        """End all access tokens."""
        self.good.clear()

    def revoke(self) -> None:
        """End all logins."""
        self.good.clear()
        self.refresh.clear()

    def forget(self) -> None:
        """Forget all clients, and their logins with them."""
        self.revoke()
        self.clients.clear()

    # --- the authorization server

    def _answer_auth(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply:
        path, query = urlsplit(target).path, _single(urlsplit(target).query)
        with self._lock:
            if method == "GET" and path == "/authorize":
                return self._authorize(query)
            if method == "POST" and path == "/register" and self.kind.registers:
                return self._register(json.loads(body))
            if method == "DELETE" and path.startswith("/register/"):
                self.counts["ended"] += 1
                self.clients.discard(path.rpartition("/")[2])
                return _Reply(204, b"")
            form = _single(body.decode()) | _basic(headers.get("authorization", ""))
            if method == "POST" and path == "/token":
                return self._token(form)
            if method == "POST" and path == "/revoke" and self.kind.revokes:
                self.counts["revoked"] += 1
                self.good.discard(form["token"])
                self.refresh.discard(form["token"])
                return _Reply(200, b"")
        return self._document(path)

    def _document(self, place: str) -> _Reply:
        kind = self.kind
        if place in kind.failing:
            return _Reply(kind.failing[place], b"<h1>Bad Gateway</h1>", "text/html")
        if place not in kind.places:
            return _Reply(404, b"<h1>Not found</h1>", "text/html")
        document = {
            "issuer": kind.issuer if kind.issuer.startswith("http") else self.at + kind.issuer,
            "authorization_endpoint": f"{self.at}/authorize",
            "token_endpoint": f"{self.at}/token",
            "registration_endpoint": f"{self.at}/register",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            **({"revocation_endpoint": f"{self.at}/revoke"} if kind.revokes else {}),
            **kind.metadata,
        }
        return _json(200, {name: value for name, value in document.items() if value is not None})

    def _authorize(self, asked: Mapping[str, str]) -> _Reply:
        if asked.get("client_id") not in self.clients:
            return _Reply(self.kind.unknown_client[0], self.kind.unknown_client[1].encode(), "text/html")
        refused = self.kind.page(asked, self.port)
        if refused is not None:
            return _Reply(refused[0], refused[1].encode(), "text/html")
        code = secrets.token_hex(16)
        self._codes.add(code)
        back = asked["redirect_uri"] + "?" + urlencode({"code": code, "state": asked["state"]})
        return _Reply(302, b"", location=back)

    def _register(self, asked: Mapping[str, Any]) -> _Reply:
        client = secrets.token_hex(8)
        self.clients.add(client)
        self.counts["registered"] += 1
        members = dict(self.kind.registration)
        if members.pop("managed", False):
            members["registration_client_uri"] = f"{self.at}/register/{client}"
            members["registration_access_token"] = secrets.token_hex(16)
        return _json(201, {**asked, "client_id": client, **members})

    def _token(self, form: Mapping[str, str]) -> _Reply:
        refreshes = form["grant_type"] == "refresh_token"
        self.counts["refresh_requests"] += refreshes
        if form.get("client_id") not in self.clients:
            return _json(401, {"error": "invalid_client"})
        refused = self.kind.token(form)
        if refused is not None:
            return _json(*refused)
        held, given = (self.refresh, form.get("refresh_token")) if refreshes else (self._codes, form.get("code"))
        if given not in held:
            return _json(*self.kind.spent)
        if self.kind.rotates or not refreshes:
            held.discard(given)
        self.counts["refreshes" if refreshes else "logins"] += 1
        access = secrets.token_hex(16)
        self.good.add(access)
        answer: dict[str, Any] = {"access_token": access, "token_type": "Bearer", "expires_in": 3600}
        if self.kind.refreshes and (self.kind.rotates or not refreshes):
            answer["refresh_token"] = secrets.token_hex(16)
            self.refresh.add(answer["refresh_token"])
        answer.update(self.kind.answer)
        return _json(self.kind.status, {name: value for name, value in answer.items() if value is not None})

    # --- the MCP server

    def _answer_server(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply:
        path = urlsplit(target).path
        if path.startswith(PRM) and path in (PRM, f"{PRM}/mcp") and self.kind.prm is not None:
            if f"server:{path}" in self.kind.failing:
                return _Reply(self.kind.failing[f"server:{path}"], b"<h1>Bad Gateway</h1>", "text/html")
            named = [self.at + self.kind.prm]
            return _json(200, {"resource": self.url, "authorization_servers": named, **self.kind.prm_members})
        if path != "/mcp":
            return self._document(f"server:{path}")
        if headers.get("authorization", "").removeprefix("Bearer ") not in self.good:
            return _Reply(401, b"", challenge="Bearer")
        if method != "POST":
            return _Reply(405, b"")
        message = json.loads(body)
        if self.forbids and message["method"] == "tools/call":
            challenge = f'Bearer error="insufficient_scope", scope="{self.forbids}"'
            return _Reply(403, b"", challenge=challenge)
        if "id" not in message:
            return _Reply(202, b"")
        return _json(200, {"jsonrpc": "2.0", "id": message["id"], **_mcp(message)})


def _mcp(message: Mapping[str, Any]) -> dict[str, Any]:
    match message["method"]:
        case "initialize":
            about = {"serverInfo": {"name": "stand-in", "version": "1"}, "capabilities": {"tools": {}}}
            return {"result": {"protocolVersion": "2025-06-18", **about}}
        case "tools/list":
            return {"result": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}}
        case "tools/call":
            return {"result": {"content": [{"type": "text", "text": message["params"]["arguments"]["message"]}]}}
        case "ping":
            return {"result": {}}
        case _:
            return {"error": {"code": -32601, "message": "Method not found"}}


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes
    content_type: str = "application/json"
    location: str | None = None
    challenge: str | None = None


def _json(status: int, document: Any) -> _Reply:
    return _Reply(status, json.dumps(document).encode())


def _single(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query).items()}


def _basic(authorization: str) -> dict[str, str]:
    """Give who a client says it is in a header (RFC 6749 section 2.3.1)."""
    if not authorization.startswith("Basic "):
        return {}
    client, _, secret = base64.b64decode(authorization[6:]).decode().partition(":")
    return {"client_id": unquote_plus(client), "client_secret": unquote_plus(secret)}


Answering = Callable[[str, str, Mapping[str, str], bytes], _Reply]


def _serve(answer: Answering) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply = answer(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(reply.status)
            if reply.status != 204:
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(reply.body)))
            for name, value in (("Location", reply.location), ("WWW-Authenticate", reply.challenge)):
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@contextmanager
def stand_in(kind: Kind) -> Iterator[StandIn]:
    """Serve for as long as the block lasts."""
    provider = StandIn(kind)
    try:
        yield provider
    finally:
        provider.close()


def row(kind: Kind) -> str:
    """Give what a person reads of a provider: what is peculiar, and what to write for it."""
    typed = kind.typed("https://auth.example", 8765)
    settings = "<br>".join(f"`{key} = {json.dumps(value)}`" for key, value in typed.items())
    return f"| {kind.name} | {kind.peculiar} | {settings or 'nothing'} |"


def page() -> str:
    rows = "\n".join(map(row, KINDS))
    return f"""# Authorization servers as they are

What has to stand in `[mcp.servers.NAME.oauth]` for a login at servers that are peculiar in these ways. Each row is a
stand-in in `tests/end_to_end/stand_in_providers.py`, played by `tests/end_to_end/test_providers.py`: from a 401 to
`ready`, through a refresh, a revocation, a forgotten registration, a logout and the login after it. A provider may
differ from its stand-in, and may change: `moltis why NAME` says what was refused, and which key may help.

| provider | peculiar | to be typed |
|---|---|---|
{rows}
"""


PAGE = Path(__file__).parents[2] / "docs" / "providers.md"

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
