"""Requests and what becomes of them: one table a door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_http_fakes import BOTH, Client, StubGateway, modern, modern_headers, request

ECHO = request("echo", {"text": "hello"})
Headers = dict[str, str | None]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.example"}, 403, -32003),
        ({"Host": "192.168.1.7:8642"}, 403, -32003),
        ({"Host": None}, 400, -32600),
        ({"Host": "localhost"}, 200, None),
        ({"Origin": "https://evil.example"}, 403, -32003),
        ({"Origin": "null"}, 403, -32003),
        ({"Authorization": None}, 401, -32001),
        ({"Authorization": "Bearer wrong"}, 401, -32001),
        ({"Authorization": "Bearer"}, 401, -32001),
        ({"Authorization": "Basic Z29vZDo="}, 401, -32001),
        ({"Authorization": "bearer good"}, 200, None),
        ({"Content-Type": "text/plain"}, 415, -32600),
        ({"Content-Type": "application/json; charset=utf-8"}, 200, None),
        ({"Content-Type": None}, 415, -32600),
        ({"Content-Type": ""}, 415, -32600),
        ({"Content-Type": "application/jsonx"}, 415, -32600),
        ({"Content-Encoding": "gzip"}, 415, -32600),
        ({"Content-Encoding": "identity, BR"}, 415, -32600),
        ({"Content-Encoding": "identity"}, 200, None),
        ({"Content-Encoding": "utf-8"}, 200, None),
        ({"Content-Encoding": ""}, 200, None),
        ({"Accept": "text/html"}, 406, -32600),
        ({"Accept": None}, 200, None),
        ({"Accept": "*/*"}, 200, None),
        ({"Accept": "application/json"}, 200, None),
        ({"MCP-Protocol-Version": "1999-01-01"}, 400, -32600),
        ({"MCP-Protocol-Version": "2025-11-25"}, 200, None),
        ({"MCP-Protocol-Version": "2024-11-05"}, 200, None),
        ({"Mcp-Session-Id": "nobody"}, 404, -32600),
        ({"Mcp-Session-Id": ""}, 404, -32600),
        ({"Content-Length": "99999999999"}, 413, -32600),
    ],
)
async def test_a_request_is_refused_for_its_headers(served: Any, headers: Headers, status: int, code: int) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=ECHO, headers=headers)
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    if status == 200:
        assert answer.json == {"jsonrpc": "2.0", "id": 1, "result": {"echo": "hello"}}


async def test_a_compressed_body_is_refused_with_what_may_be_sent_instead(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=ECHO, headers={"Content-Encoding": "gzip"})
    assert answer.headers["accept-encoding"] == "identity"
    assert "Content-Encoding" in answer.json["error"]["message"]


async def test_a_byte_order_mark_before_a_message_is_passed_over(served: Any) -> None:
    client: Client = await served.dial()
    raw = ECHO if isinstance(ECHO, bytes) else json.dumps(ECHO).encode()
    answer = await client.ask("POST", body=b"\xef\xbb\xbf" + raw)
    assert answer.json == {"jsonrpc": "2.0", "id": 1, "result": {"echo": "hello"}}
    twice = await client.ask("POST", body=b"\xef\xbb\xbf" * 2 + raw)
    assert (twice.status, twice.code) == (400, -32700)


@pytest.mark.parametrize(
    ("headers", "key", "name"),
    [
        ({"Host": "mcp.example.com"}, "allowed_hosts", "mcp.example.com"),
        ({"Origin": "app://obsidian.md"}, "allowed_origins", "app://obsidian.md"),
        ({"Origin": "null"}, "allowed_origins", ""),
    ],
)
async def test_a_refusal_names_the_key_and_is_logged_once(
    served: Any, monkeypatch: pytest.MonkeyPatch, headers: Headers, key: str, name: str
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("moltis.gateway.http.application.log.warning", lambda message, **fields: told.append(fields))
    client: Client = await served.dial()
    for _ in range(3):
        answer = await client.ask("POST", body=ECHO, headers=headers)
        assert (answer.status, answer.code) == (403, -32003)
        assert name in answer.json["error"]["message"]
    (line,) = told
    assert (line["key"], line["name"], line["not_logged"]) == (key, name, 0)


async def test_a_name_that_is_allowed_is_served(serve: Any) -> None:
    async with serve(allowed_hosts=("mcp.example.com",), allowed_origins=("app://obsidian.md",)) as served:
        client: Client = await served.dial()
        headers: Headers = {"Host": "mcp.example.com:443", "Origin": "app://obsidian.md"}
        answer = await client.ask("POST", body=ECHO, headers=headers)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "app://obsidian.md"


@pytest.mark.parametrize(
    ("body", "status", "code", "id"),
    [
        (b"", 400, -32700, None),
        (b"{", 400, -32700, None),
        (b'"\xff"', 400, -32700, None),
        (b"[]", 400, -32600, None),
        ([ECHO], 400, -32600, None),
        (b"7", 400, -32600, None),
        ({"jsonrpc": "1.0", "id": 5, "method": "echo"}, 400, -32600, 5),
        ({"jsonrpc": "2.0", "id": None, "method": "echo"}, 400, -32600, None),
        ({"jsonrpc": "2.0", "id": 5, "method": "echo", "params": 1}, 400, -32602, 5),
        ({"jsonrpc": "2.0", "id": 5, "result": {}}, 400, -32600, None),
        ({"jsonrpc": "2.0", "id": "a", "method": "echo", "params": {"text": 1}}, 200, None, "a"),
        (request("unknown", id=9), 404, -32601, 9),
    ],
)
async def test_a_request_is_refused_for_its_body(served: Any, body: Any, status: int, code: int, id: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=body)
    assert (answer.status, answer.code, answer.json["id"]) == (status, code, id)
    again = await client.ask("POST", body=ECHO)
    assert again.status == 200, "the connection can be used on"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/mcp", 405),
        ("DELETE", "/mcp", 405),
        ("PUT", "/mcp", 405),
        ("PATCH", "/servers/files/mcp", 405),
        ("POST", "/mcp/", 200),
        ("POST", "/servers/files/mcp", 200),
        ("POST", "/servers/nobody/mcp", 404),
        ("POST", "/servers/files", 404),
        ("POST", "/", 404),
        ("POST", "/mcp/project", 404),
        ("GET", "/servers/nobody/mcp", 404),
        ("GET", "/.well-known/oauth-protected-resource", 404),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/metrics", 404),
        ("GET", "/mcp?token=canary", 405),
    ],
)
async def test_paths_and_methods(served: Any, method: str, path: str, status: int) -> None:
    client: Client = await served.dial()
    answer = await client.ask(method, path, ECHO if method == "POST" else b"")
    assert answer.status == status
    assert b"canary" not in answer.body
    assert ("allow" in answer.headers) == (status == 405)


async def test_a_server_that_is_not_there_is_named_as_such(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", "/servers/nobody/mcp", ECHO)
    assert (answer.code, answer.json["id"]) == (-32004, None)


async def test_a_server_that_is_removed_at_that_moment_is_not_there(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    gateway.knows = lambda path: True  # type: ignore[method-assign]
    answer = await client.ask("POST", "/servers/nobody/mcp", ECHO)
    assert (answer.status, answer.code) == (404, -32004)


async def test_who_is_asked_for_a_token_is_told_how_to_send_it(served: Any) -> None:
    client: Client = await served.dial()
    missing = await client.ask("POST", body=ECHO, headers={"Authorization": None})
    assert missing.headers["www-authenticate"] == "Bearer"
    wrong = await client.ask("POST", body=ECHO, headers={"Authorization": "Bearer canary"})
    assert wrong.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert b"canary" not in wrong.body


async def test_the_principal_of_the_token_is_the_hosts(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    await client.ask("POST", body=ECHO, headers={"Authorization": "Bearer reader"})
    assert (gateway.hosts[0].principal.name, gateway.hosts[0].principal.may_write) == ("reader", False)


async def test_without_required_tokens_anyone_is_served_and_a_token_still_says_who_it_is(
    serve: Any, gateway: StubGateway
) -> None:
    async with serve(require_token=False) as served:
        client = await served.dial()
        for authorization in (None, "Bearer reader", "Bearer wrong"):
            answer = await client.ask("POST", body=ECHO, headers={"Authorization": authorization})
            assert answer.status == 200
        assert [host.principal.name for host in gateway.hosts] == ["", "reader", ""]


async def test_headers_that_may_be_there_once_are_refused_when_there_are_two(served: Any) -> None:
    client: Client = await served.dial()
    for name, value in [("host", "localhost"), ("origin", "null"), ("authorization", "Bearer good")]:
        answer = await client.ask("POST", body=ECHO, headers={name.title(): value, name.upper(): value})
        assert (answer.status, answer.code) == (400, -32600), name


async def test_accept_may_come_in_several_lines(served: Any) -> None:
    client: Client = await served.dial()
    headers: Headers = {"Accept": "application/json", "ACCEPT": "text/event-stream"}
    assert (await client.ask("POST", body=ECHO, headers=headers)).status == 200


async def test_a_page_of_an_allowed_origin_can_use_it(serve: Any) -> None:
    async with serve(allowed_origins=("https://app.example",)) as served:
        client = await served.dial()
        origin: Headers = {"Origin": "https://app.example"}
        asks: Headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = await client.ask("OPTIONS", headers={**origin, **asks, "Authorization": None})
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert preflight.headers["access-control-allow-headers"].startswith(
            "authorization, content-type, mcp-protocol-version, mcp-session-id"
        )
        answer = await client.ask("POST", body=ECHO, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "mcp-session-id" in answer.headers["access-control-expose-headers"]
        refused = await client.ask("POST", body=ECHO, headers={**origin, "Authorization": None})
        assert refused.status == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example", "so that the page can read it"


async def test_a_preflight_of_a_foreign_page_is_forbidden(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("OPTIONS", headers={"Origin": "https://evil.example"})
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_a_page_from_here_needs_no_permission(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=ECHO, headers={"Origin": f"http://127.0.0.1:{served.port}"})
    assert answer.status == 200


async def test_the_rate_is_limited_per_principal(serve: Any) -> None:
    async with serve(rate_limit_per_minute=2) as served:
        client = await served.dial()
        answers = [await client.ask("POST", body=ECHO) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[2].code == -32002
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30
        other = await client.ask("POST", body=ECHO, headers={"Authorization": "Bearer other"})
        assert other.status == 200


async def test_settings_are_replaced_while_it_serves(serve: Any) -> None:
    async with serve() as served:
        from moltis.gateway.http.application import HttpSettings

        client = await served.dial()
        origin: Headers = {"Origin": "https://app.example", "Authorization": None}
        assert (await client.ask("POST", body=ECHO, headers=origin)).status == 403
        served.app.reconfigure(HttpSettings(require_token=False, allowed_origins=("https://app.example",)))
        assert (await client.ask("POST", body=ECHO, headers=origin)).status == 200
        served.app.reconfigure(HttpSettings(max_body_bytes=10))
        assert (await client.ask("POST", body=ECHO)).status == 413


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (modern("echo"), modern_headers("echo"), 200, None),
        (modern("echo"), {**modern_headers("echo"), "Mcp-Session-Id": "ignored"}, 200, None),
        (modern("unknown"), modern_headers("unknown"), 404, -32601),
        (modern("echo"), modern_headers("other"), 400, -32020),
        (modern("echo"), {}, 400, -32020),
        (modern("echo"), {"MCP-Protocol-Version": "2025-11-25"}, 400, -32020),
        (modern("echo"), {**modern_headers("echo"), "mcp-method": "echo"}, 400, -32020),
        (request("echo"), modern_headers("echo"), 400, -32602),
        (request("echo", {"_meta": {}}), modern_headers("echo"), 400, -32602),
        (
            modern("subscriptions/listen"),
            modern_headers("subscriptions/listen", Accept="application/json"),
            406,
            -32600,
        ),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, modern_headers(""), 400, -32600),
    ],
)
async def test_a_request_of_2026_07_28_is_answered_with_its_codes(
    served: Any, body: Any, headers: Headers, status: int, code: int
) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=body, headers=headers)
    assert (answer.status, answer.code) == (status, code)
    assert "mcp-session-id" not in answer.headers


async def test_get_and_delete_are_not_for_2026_07_28(served: Any) -> None:
    client: Client = await served.dial()
    for method in ("GET", "DELETE"):
        answer = await client.ask(method, headers={"MCP-Protocol-Version": "2026-07-28", "Accept": BOTH})
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_headers_that_mirror_arguments_are_compared_with_the_tools_schema(
    served: Any, gateway: StubGateway
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "x-mcp-header": "City"}}}
    gateway.tools[(None, "weather")] = json.dumps({"name": "weather", "inputSchema": schema}).encode()
    client: Client = await served.dial()
    body = modern("tools/call", {"name": "weather", "arguments": {"city": "Rom"}})
    headers = modern_headers("tools/call", **{"Mcp-Name": "weather"})
    refused = await client.ask("POST", body=body, headers={**headers, "Mcp-Param-City": "Bern"})
    assert (refused.status, refused.code, refused.json["id"]) == (400, -32020, 1)
    assert gateway.hosts == []
    await client.send("POST", body=body, headers={**headers, "Mcp-Param-City": "Rom"})
    ((ask, outlet),) = await gateway.waiting()
    outlet.reply(b'{"jsonrpc":"2.0","id":%b,"result":{}}' % ask.id)
    assert (await client.response()).status == 200


@pytest.mark.parametrize("headers", [{}, modern_headers("notifications/x")])
async def test_a_notification_is_accepted_without_a_body(served: Any, headers: Headers) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body={"jsonrpc": "2.0", "method": "notifications/x"}, headers=headers)
    assert (answer.status, answer.body) == (202, b"")


async def test_a_notification_of_2026_07_28_is_an_extensions_and_handed_on(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    body = {"jsonrpc": "2.0", "method": "vendor/said", "params": {"x": 1}}
    await client.ask("POST", "/servers/files/mcp", body=body, headers=modern_headers("vendor/said"))
    ((server, closed, (tell,)),) = [(host.server, host.is_closed, host.tells) for host in gateway.hosts]
    assert (server, closed, tell.method, bytes(tell.params["x"])) == ("files", True, "vendor/said", b"1")


async def test_a_notification_of_a_version_that_is_not_spoken_is_refused(served: Any) -> None:
    client: Client = await served.dial()
    body = {"jsonrpc": "2.0", "method": "notifications/x"}
    assert (await client.ask("POST", body=body, headers={"MCP-Protocol-Version": "2099-01-01"})).status == 400


async def test_the_manuals_curl_works_as_it_is(served: Any) -> None:
    client: Client = await served.dial()
    headers: Headers = {"Accept": "*/*"}
    answer = await client.ask("POST", body=b'{"jsonrpc":"2.0","id":1,"method":"initialize"}', headers=headers)
    assert answer.status == 200
    assert answer.headers["mcp-protocol-version"] == "2025-06-18", "as the host agreed"
    answer = await client.ask("POST", body=ECHO, headers=headers)
    assert answer.headers["mcp-protocol-version"] == "2025-11-25"


async def test_trace_context_goes_into_the_message_unless_it_is_there(served: Any, gateway: StubGateway) -> None:
    client: Client = await served.dial()
    trace: Headers = {"traceparent": "00-ab-cd-01", "tracestate": 'a="b"'}
    await client.ask("POST", body=ECHO, headers=trace)
    await client.ask("POST", body=request("echo", {"_meta": {"traceparent": "own"}}), headers=trace)
    await client.ask("POST", body=ECHO, headers={"traceparent": "a" * 2000})
    metas = [{name: json.loads(bytes(value)) for name, value in host.asks[0].meta.items()} for host in gateway.hosts]
    assert metas == [{"traceparent": "00-ab-cd-01", "tracestate": 'a="b"'}, {"traceparent": "own"}, {}]


async def test_a_fault_of_ours_is_a_500_that_says_nothing(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=request("break"))
    assert (answer.status, answer.code) == (500, -32603)
    assert b"canary" not in answer.body
    assert (await client.ask("POST", body=ECHO)).status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/.well-known/oauth-protected-resource", 404),
        ("/.well-known/oauth-protected-resource/mcp", 404),
        ("/metrics", 401),
        ("/ui", 401),
        ("/api/v1/mcp/servers", 401),
        ("/nope", 401),
        ("/", 401),
        ("/healthz/", 401),
        ("/.well-known", 401),
    ],
)
async def test_what_is_not_public_wants_a_token_by_default(served: Any, path: str, status: int) -> None:
    client: Client = await served.dial()
    answer = await client.ask("GET", path, headers={"Authorization": None})
    assert answer.status == status
    assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_metrics_and_readiness_are_what_the_daemon_says(serve: Any) -> None:
    async with serve(metrics=lambda: lambda: b"moltis_up 1\n", ready=False) as served:
        client = await served.dial()
        assert (await client.ask("GET", "/metrics", headers={"Authorization": None})).status == 401
        metrics = await client.ask("GET", "/metrics")
        assert (metrics.status, metrics.body) == (200, b"moltis_up 1\n")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert (await client.ask("GET", "/readyz")).status == 503
        assert (await client.ask("GET", "/metrics", headers={"Host": "evil.example"})).status == 403


async def test_no_answer_tells_what_serves_it(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", body=ECHO)
    assert set(answer.headers) == {"content-type", "content-length", "mcp-protocol-version"}


@pytest.mark.parametrize("path", ["/register", "/authorize", "/token"])
@pytest.mark.parametrize("token", [None, "Bearer wrong", "Bearer good"])
async def test_a_host_that_looks_for_a_login_is_told_what_to_do_instead(
    served: Any, path: str, token: str | None
) -> None:
    """RFC 7591 section 3.2.2: hosts print the body."""
    client: Client = await served.dial()
    answer = await client.ask("POST", path, body={"redirect_uris": []}, headers={"Authorization": token})
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert "moltis token create" in answer.json["error_description"]
    assert "redirect_uris" not in answer.body.decode()


@pytest.mark.parametrize("path", ["/register/", "/registered", "/token/x", "/mcp/register"])
async def test_what_is_near_it_wants_a_token_as_ever(served: Any, path: str) -> None:
    client: Client = await served.dial()
    assert (await client.ask("POST", path, body={}, headers={"Authorization": None})).status == 401


async def test_nobody_is_told_who_comes_from_elsewhere(served: Any) -> None:
    client: Client = await served.dial()
    answer = await client.ask("POST", "/register", body={}, headers={"Origin": "https://evil.example"})
    assert answer.status == 403
