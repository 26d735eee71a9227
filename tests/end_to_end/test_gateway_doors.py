"""Who gets in, and what those are told who do not: HTTP status and JSON-RPC code, request by request."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli
import tomli_w
from gateway_harness import GUARDED, OPEN, gateway_url, new_token, start
from harness import Daemon, wait_until
from raw_hosts import JSON, LEGACY, META, MODERN, Answer, HttpHost, send

Body = bytes | Mapping[str, Any] | list[Any] | None
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "s__echo", "arguments": {"message": "x"}}}
MODERN_META = {"_meta": {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": {}}}
MODERN_LIST = {**LIST, "params": MODERN_META}
ORIGIN = "https://app.example"
MAX_BODY = 64 * 1024


@dataclass
class House:
    daemon: Daemon
    url: str
    tokens: dict[str, str]

    @property
    def root(self) -> str:
        return self.url.removesuffix("/mcp")

    def send(self, method: str, path: str, body: Body, headers: Mapping[str, str | None]) -> Answer:
        """Send a request as a good host would, but for what the headers say; None takes one away."""
        wanted: dict[str, str | None] = {**JSON, "authorization": f"Bearer {self.tokens['write']}", **headers}
        sent = {name: value for name, value in wanted.items() if value is not None}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return send(self.root + path, method, data, sent)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """A guarded gateway with one server, tokens of each kind, and one origin that is allowed."""
    with tempfile.TemporaryDirectory(prefix="moltis-", ignore_cleanup_errors=True) as name:
        daemon = Daemon(Path(name))
        try:
            servers = {"s": daemon.evil(max_message_bytes=MAX_BODY)}
            start(daemon, servers, {**GUARDED, "allowed_origins": [ORIGIN]}, mcp={"max_message_bytes": MAX_BODY})
            daemon.wait_all()
            tokens = {scope: new_token(daemon, scope, scope) for scope in ("read", "write")}
            tokens["revoked"] = new_token(daemon, "revoked")
            daemon.rpc("token.revoke", name="revoked")
            yield House(daemon, gateway_url(daemon), tokens)
        finally:
            daemon.end_everything()


@dataclass(frozen=True)
class Case:
    """A request that differs in one thing from a good one, and what is answered. `code`: None is no JSON-RPC error."""

    status: int
    code: int | None = None
    method: str = "POST"
    path: str = "/mcp"
    body: Body = field(default_factory=lambda: LIST)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    token: str | None = None
    answered: Mapping[str, str] = field(default_factory=dict)


def bearer(value: str) -> dict[str, str | None]:
    return {"authorization": value}


NO_TOKEN: dict[str, str | None] = {"authorization": None}
CASES: dict[str, Case] = {
    # who it is
    "a good request": Case(200),
    "a good request of 2026": Case(
        200, body=MODERN_LIST, headers={"mcp-protocol-version": MODERN, "mcp-method": "tools/list"}
    ),
    "a call": Case(200, body=CALL),
    "a call without a token": Case(401, -32001, body=CALL, headers=NO_TOKEN, answered={"www-authenticate": "^Bearer"}),
    "a wrong token": Case(
        401, -32001, headers=bearer("Bearer mlt_wrong"), answered={"www-authenticate": "invalid_token"}
    ),
    "no Bearer": Case(401, -32001, headers=bearer("Basic bWx0OnB3"), answered={"www-authenticate": "^Bearer"}),
    "half a token": Case(401, -32001, headers=bearer("Bearer ")),
    "a revoked token": Case(401, -32001, token="revoked"),
    "bearer in lower case": Case(200, token="write"),
    "reading with a token that may read": Case(200, token="read"),
    "calling with a token that may read": Case(403, -32003, body=CALL, token="read"),
    "an unknown method with a token that may read": Case(
        403, -32003, path="/servers/s/mcp", body={**LIST, "method": "x/y"}, token="read"
    ),
    "no session of anyone": Case(404, headers={"mcp-session-id": "made-up"}),
    # where it comes from
    "a foreign Host": Case(403, -32003, headers={"host": "evil.example"}),
    "a rebound Host": Case(403, -32003, headers={"host": "127.0.0.1.evil.example:8642"}),
    "localhost": Case(200, headers={"host": "localhost:1"}),
    "IPv6 loopback": Case(200, headers={"host": "[::1]:8642"}),
    "a Host that is none": Case(403, headers={"host": "a b"}),
    "a foreign Origin": Case(403, -32003, headers={"origin": "https://evil.example"}),
    "the null Origin": Case(403, -32003, headers={"origin": "null"}),
    "a foreign Origin without a token": Case(403, -32003, headers={"origin": "https://evil.example", **NO_TOKEN}),
    "the allowed Origin": Case(
        200,
        headers={"origin": ORIGIN},
        answered={"access-control-allow-origin": f"^{ORIGIN}$", "access-control-expose-headers": "mcp-session-id"},
    ),
    "the allowed Origin without a token": Case(
        401, -32001, headers={"origin": ORIGIN, **NO_TOKEN}, answered={"access-control-allow-origin": f"^{ORIGIN}$"}
    ),
    "a preflight": Case(
        204,
        method="OPTIONS",
        body=None,
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, mcp-session-id",
            **NO_TOKEN,
        },
        answered={
            "access-control-allow-origin": f"^{ORIGIN}$",
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": "authorization.*mcp-session-id",
        },
    ),
    "a foreign preflight": Case(
        403, -32003, method="OPTIONS", body=None, headers={"origin": "https://evil.example", **NO_TOKEN}
    ),
    # what it is
    "PUT": Case(405, method="PUT", answered={"allow": "POST"}),
    "GET without a session": Case(405, method="GET", body=None),
    "DELETE without a session": Case(405, method="DELETE", body=None),
    "no such path": Case(404, path="/nothing"),
    "the root of servers": Case(404, path="/servers/"),
    "no such server": Case(404, path="/servers/nobody/mcp"),
    "a path that climbs": Case(404, path="/servers/../mcp"),
    "an unknown revision": Case(400, -32600, headers={"mcp-protocol-version": "1999-01-01"}),
    "a revision of 2026 that is not spoken": Case(
        400,
        -32022,
        body={**LIST, "params": {"_meta": {f"{META}protocolVersion": "2030-01-01", f"{META}clientCapabilities": {}}}},
        headers={"mcp-protocol-version": "2030-01-01", "mcp-method": "tools/list"},
    ),
    "a header that differs from the body": Case(
        400, -32020, body=MODERN_LIST, headers={"mcp-protocol-version": MODERN, "mcp-method": "tools/call"}
    ),
    "plain text": Case(415, headers={"content-type": "text/plain"}),
    "an Accept for pictures": Case(406, headers={"accept": "image/png"}),
    "no JSON": Case(400, -32700, body=b"{nonsense"),
    "nothing": Case(400, -32700, body=b""),
    "no object": Case(400, -32600, body=b"42"),
    "a batch": Case(400, -32600, body=[LIST, LIST]),
    "an empty batch": Case(400, -32600, body=[]),
    "not JSON-RPC 2.0": Case(400, -32600, body={"id": 1, "method": "tools/list"}),
    "an id that is none": Case(400, -32600, body={**LIST, "id": {"a": 1}}),
    "deep nonsense": Case(400, body=b"[" * 30_000),
    "an unknown method": Case(200, -32601, body={**LIST, "method": "no/such"}),
    "an unknown tool": Case(200, -32602, body={**CALL, "params": {"name": "nobody__echo"}}),
    "a call without a name": Case(200, -32602, body={**CALL, "params": {}}),
    "a cursor that nobody gave": Case(200, -32602, body={**LIST, "params": {"cursor": "made-up"}}),
    "too large a body": Case(
        413, body=b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"' + b"x" * MAX_BODY + b'"}}'
    ),
    # what is no host's
    "healthz": Case(200, method="GET", path="/healthz", body=None, headers=NO_TOKEN),
    "readyz": Case(200, method="GET", path="/readyz", body=None, headers=NO_TOKEN),
    "metrics": Case(
        200, method="GET", path="/metrics", body=None, token="read", answered={"content-type": "^text/plain"}
    ),
    "metrics without a token": Case(401, -32001, method="GET", path="/metrics", body=None, headers=NO_TOKEN),
    "metrics by another Host": Case(
        403, method="GET", path="/metrics", body=None, headers={"host": "evil.example", **NO_TOKEN}
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_each_request_is_answered_by_the_table(house: House, name: str) -> None:
    case = CASES[name]
    headers = dict(case.headers)
    if case.token is not None:
        scheme = "bearer" if "lower case" in name else "Bearer"
        headers["authorization"] = f"{scheme} {house.tokens[case.token]}"
    answer = house.send(case.method, case.path, case.body, headers)
    assert answer.status == case.status, answer
    if case.code is not None:
        assert answer.json["error"]["code"] == case.code
        assert answer.json["jsonrpc"] == "2.0"
    elif case.status == 200 and case.method == "POST":
        assert "result" in answer.json
    for header, wanted in case.answered.items():
        assert re.search(wanted, answer.headers.get(header, "")), (header, answer.headers)
    assert "server" not in answer.headers
    secrets = [*house.tokens.values(), "mlt_wrong"]
    assert not any(secret.encode() in answer.body for secret in secrets)


def test_after_all_that_the_gateway_serves_on_and_its_log_holds_no_token(house: House) -> None:
    assert house.send("POST", "/mcp", LIST, {}).status == 200
    log = house.daemon.log_text()
    assert not any(token in log for token in house.tokens.values())
    assert not [record for record in house.daemon.records() if record["message"] == "gateway_request_failed"]


def test_a_body_that_is_said_to_be_too_large_is_not_waited_for(house: House) -> None:
    host, port = house.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {house.tokens['write']}\r\n"
        raw.sendall(f"{head}content-type: application/json\r\ncontent-length: {1 << 40}\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_session_belongs_to_one_token_and_one_place(house: House) -> None:
    with HttpHost(house.url, token=house.tokens["write"]) as host:
        assert "tools" in host.request("tools/list")["result"]
        for path, token in (("/mcp", "read"), ("/servers/s/mcp", "write")):
            headers = {"mcp-session-id": host.session, "authorization": f"Bearer {house.tokens[token]}"}
            assert house.send("POST", path, LIST, headers).status == 404
    gone = house.send("POST", "/mcp", LIST, {"mcp-session-id": host.session})
    assert gone.status == 404


def test_a_token_that_is_revoked_in_a_session_opens_nothing_any_more(house: House) -> None:
    token = new_token(house.daemon, "soon-gone")
    with HttpHost(house.url, token=token) as host:
        assert host.text("s__echo", message="still") == "still"
        house.daemon.rpc("token.revoke", name="soon-gone")
        answer = house.send("POST", "/mcp", LIST, {"mcp-session-id": host.session, "authorization": f"Bearer {token}"})
        assert (answer.status, answer.json["error"]["code"]) == (401, -32001)


def test_a_token_that_has_expired_is_told_so(daemon: Daemon) -> None:
    """The clock is not ours: the file with the tokens is made to say that its time is over, with the daemon away."""
    start(daemon, {}, GUARDED)
    token = new_token(daemon, "old")
    new_token(daemon, "other")
    assert daemon.stop() == 0
    (place,) = daemon.data_dir.rglob("tokens.toml")
    assert token not in place.read_text()
    assert place.stat().st_mode & 0o077 == 0
    kept = tomli.loads(place.read_text())
    kept["tokens"]["old"]["expires_at"] = "2001-01-01T00:00:00.000Z"
    place.write_text(tomli_w.dumps(kept))
    daemon.start()
    answer = send(gateway_url(daemon), "POST", json.dumps(LIST).encode(), {**JSON, "authorization": f"Bearer {token}"})
    assert (answer.status, answer.json["error"]["code"]) == (401, -32001)
    assert {t["name"] for t in daemon.rpc("token.list")} == {"old", "other"}


def test_metrics_tell_of_servers_and_requests_and_no_secrets(house: House) -> None:
    house.send("POST", "/mcp", CALL, {})
    text = house.send("GET", "/metrics", None, {}).body.decode()
    assert 'moltis_mcp_server_up{server="s"} 1.0' in text
    counted = re.search(r'mcp_server_operation_duration_seconds_count\{.*mcp_method_name="tools/call".*\} (\S+)', text)
    assert counted is not None
    assert float(counted[1]) >= 1
    for name in ("moltis_build_info", "moltis_gateway_sessions", "process_resident_memory_bytes"):
        assert f"\n{name}" in text
    assert "mlt_" not in text


def test_a_tool_that_fails_is_told_from_one_that_works_and_a_made_up_one_has_no_name(house: House) -> None:
    for name, arguments in (("fail", {"text": "no"}), ("echo", {"message": '{"isError":true}'}), ("\x1b[31mred", {})):
        called = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        assert house.send("POST", "/servers/s/mcp", called, {}).status == 200
    text = house.send("GET", "/metrics", None, {}).body.decode()
    failed = [line for line in text.splitlines() if line.startswith("moltis_mcp_tool_call_errors_total{")]
    assert any('error_type="tool_error"' in line and 'tool="fail"' in line for line in failed), failed
    assert not any('tool="echo"' in line for line in failed), failed
    assert 'moltis_mcp_tool_calls_total{server="",tool="other"}' in text
    assert all(char == "\n" or char.isprintable() for char in text)

    def outcomes() -> dict[str, str]:
        calls = house.daemon.records("moltis.mcp.call")
        return {call["fields"]["tool"]: call["fields"]["outcome"] for call in calls}

    wait_until("the calls are logged", lambda: {"fail", "echo"} <= outcomes().keys())
    assert (outcomes()["fail"], outcomes()["echo"]) == ("tool_error", "ok")


def test_who_asks_too_often_waits_and_others_do_not(daemon: Daemon) -> None:
    start(daemon, {}, {**GUARDED, "rate_limit_per_minute": 5})
    tokens = [new_token(daemon, name) for name in ("busy", "calm")]
    url = gateway_url(daemon)

    def ask(token: str) -> Answer:
        return send(url, "POST", json.dumps(LIST).encode(), {**JSON, "authorization": f"Bearer {token}"})

    assert [ask(tokens[0]).status for _ in range(7)] == [200] * 5 + [429] * 2
    refused = ask(tokens[0])
    assert refused.json["error"]["code"] == -32002
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert ask(tokens[1]).status == 200
    assert send(url.removesuffix("/mcp") + "/healthz", "GET").status == 200


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_an_endpoint_for_everyone_that_needs_no_token_is_not_opened(daemon: Daemon, listen: str) -> None:
    daemon.write({}, gateway={"listen": listen, "require_token": False})
    process = daemon.process = daemon.spawn()
    try:
        assert process.wait(10) == 6
    except subprocess.TimeoutExpired:
        pytest.fail("it runs")
    assert "require_token" in daemon.said()


def test_an_endpoint_for_everyone_that_needs_tokens_is_opened(daemon: Daemon) -> None:
    start(daemon, {}, {"listen": "0.0.0.0:0", "require_token": True})
    answer = send(gateway_url(daemon), "POST", json.dumps(LIST).encode(), JSON)
    assert answer.status == 401


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other


def test_a_taken_address_is_said_and_had_as_soon_as_it_is_free(daemon: Daemon, taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    daemon.write({"s": daemon.evil()}, gateway={"listen": f"127.0.0.1:{port}", "require_token": False})
    daemon.start().wait_for("s", "ready")

    def told() -> Any:
        return daemon.rpc("daemon.status")["gateway_problem"]

    problem = wait_until("the problem is said", told)
    assert str(port) in problem
    assert "taken" in problem
    assert daemon.rpc("daemon.status")["gateway_url"] is None
    assert str(port) in daemon.cli("status").stdout
    assert daemon.text("s", "echo", message="x") == "x"
    taken.close()
    began = time.monotonic()
    url = gateway_url(daemon, within=15)
    print(f"the address was had {time.monotonic() - began:.1f} s after it was free")
    assert told() is None
    assert send(url, "POST", json.dumps(LIST).encode(), JSON).status == 200


def test_a_reload_moves_the_address_and_closes_the_doors(daemon: Daemon) -> None:
    start(daemon, {"s": daemon.evil()}, OPEN)
    daemon.wait_all()
    before = gateway_url(daemon)
    daemon.write({"s": daemon.evil()}, gateway={"listen": "127.0.0.1:0", "require_token": True})
    daemon.rpc("daemon.reload")
    wait_until("a token is needed", lambda: _status(before) == 401)
    daemon.write({"s": daemon.evil()}, gateway={"enabled": False})
    daemon.rpc("daemon.reload")
    wait_until("nothing listens", lambda: _status(before) is None)
    assert daemon.rpc("daemon.status")["gateway_url"] is None


def _status(url: str) -> int | None:
    try:
        return send(url, "POST", json.dumps(LIST).encode(), {**JSON, "mcp-protocol-version": LEGACY}).status
    except OSError:
        return None
