"""Every route, and every path that is none, by every method: who is let in, and from where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_http_fakes import PRINCIPALS, Client, Response, request
from hypothesis import given
from hypothesis import strategies as st

from moltis.access import Access
from moltis.gateway.api import Principal
from moltis.gateway.http.reading import Inbound
from moltis.gateway.views import ALL, path_of
from moltis.httpd.asgi import Receive, respond
from moltis.httpd.router import Route, Router

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "SEARCH"]
UNKNOWN = [
    "/", "//", "*", "/nope", "/ui", "/api/v1/mcp/servers", "/mcp/site/x", "/mcp//", "/MCP", "//mcp", "/healthz/x",
    "/healthz/", "/Healthz", "/./healthz", "/x/../healthz", "/readyz/", "/register/", "/token/x", "/.well-known",
    "/servers", "/servers/files", "/servers//mcp", "/servers/../mcp", "/servers/files/mcp/x", "/metrics/",
]  # fmt: skip
TOKENS = [None, "Bearer", "Bearer wrong", "Basic Z29vZDo=", "good"]
BODY = request("echo", {"text": "x"})


async def serve_it(inbound: Inbound, _receive: Receive) -> None:
    await respond(inbound.send, 200, (), b"served")


@pytest.fixture
async def everything(serve: Any) -> AsyncIterator[Any]:
    """All routes that the daemon has, and two of rights that none of these needs yet."""
    routes = [Route("/call", Access.CALL, serve_it), Route("/admin", Access.ADMIN, serve_it)]
    async with serve(metrics=lambda: lambda: b"moltis_up 1\n", routes=routes) as served:
        yield served


def paths(served: Any) -> list[tuple[str, Access, bool]]:
    """Return what is to be asked for, who may have it, and whether OPTIONS is a preflight there."""
    routes: tuple[Route[Inbound], ...] = served.app.routes
    at = [
        (route.path.replace("{server}", "files").replace("{project}", "site").replace("*", "x"), route)
        for route in routes
    ]
    router = Router(routes, otherwise=serve_it)
    assert all(router.find(path)[0] is route for path, route in at)
    known = [(path, route.access, route.preflight) for path, route in at]
    assert {access for _path, access, _preflight in known} == set(Access)
    return known + [(path, Access.READ, False) for path in UNKNOWN if path not in {path for path, *_rest in known}]


async def ask(client: Client, method: str, path: str, headers: dict[str, str | None]) -> Response:
    await client.send(method, path, BODY if method == "POST" else b"", headers)
    if method != "HEAD":
        return await client.response()
    return await client.response_head()


@pytest.mark.parametrize("token", TOKENS)
async def test_without_a_token_there_is_401_on_all_that_is_not_public(everything: Any, token: str | None) -> None:
    client = await everything.dial()
    for path, access, preflight in paths(everything):
        for method in METHODS:
            answer = await ask(client, method, path, {"Authorization": token})
            if method == "OPTIONS" and preflight:
                assert (answer.status, answer.body, set(answer.headers)) == (204, b"", {"allow"}), path
            else:
                assert (answer.status == 401) is (access is not Access.PUBLIC), (method, path, answer)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "192.168.1.7"}, 403),
        ({"Host": "evil.example", "Authorization": None}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "", "Authorization": None}, 403),
        ({"Host": None}, 400),
        ({"Host": "localhost", "HOST": "localhost"}, 400),
        ({"Origin": "null", "ORIGIN": "null"}, 400),
    ],
)
async def test_what_comes_from_elsewhere_is_refused_everywhere(
    everything: Any, headers: dict[str, str | None], status: int
) -> None:
    client = await everything.dial()
    for path, _access, _preflight in paths(everything):
        for method in METHODS:
            answer = await ask(client, method, path, headers)
            assert answer.status == status, (method, path)
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("token", "path", "status"),
    [
        ("Bearer reader", "/metrics", 200),
        ("Bearer reader", "/call", 403),
        ("Bearer reader", "/admin", 403),
        ("Bearer good", "/call", 200),
        ("Bearer good", "/admin", 403),
        (None, "/healthz", 200),
    ],
)
async def test_a_token_is_good_for_what_its_scope_says(
    everything: Any, token: str | None, path: str, status: int
) -> None:
    client = await everything.dial()
    answer = await ask(client, "GET", path, {"Authorization": token})
    assert answer.status == status
    if status == 403:
        assert answer.code == -32003
    assert (answer.body == b"served") is (path == "/call" and status == 200)


@pytest.mark.parametrize("may_write", [True, False])
@pytest.mark.parametrize("own", [ALL, path_of("files")])
async def test_a_token_that_is_bound_to_views_opens_nothing_else(
    everything: Any, monkeypatch: pytest.MonkeyPatch, own: str, may_write: bool
) -> None:
    """Neither what is there nor what is not, and no figures of all servers."""
    monkeypatch.setitem(PRINCIPALS, "bound", Principal("bound", may_write, views=frozenset({own})))
    client = await everything.dial()
    elsewhere = [(path, Access.READ, False) for path in ("/servers/git/mcp", "/servers/nobody/mcp", "/mcp/x")]
    for path, access, _preflight in [*paths(everything), *elsewhere]:
        for method in ("GET", "POST", "DELETE"):
            answer = await ask(client, method, path, {"Authorization": "Bearer bound"})
            is_open = access is Access.PUBLIC or path.removesuffix("/") == own
            assert (answer.status == 403) is not is_open, (method, path, answer)
            assert is_open or answer.code == -32003
    answer = await client.ask("POST", own, BODY, {"Authorization": "Bearer bound"})
    assert answer.json["result"] == {"echo": "x"}


async def test_a_token_that_is_bound_to_a_view_which_is_gone_is_told_so(
    everything: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = Principal("bound", views=frozenset({path_of("removed"), path_of("git")}))
    monkeypatch.setitem(PRINCIPALS, "bound", bound)
    client = await everything.dial()
    got = {
        path: (await ask(client, "POST", path, {"Authorization": "Bearer bound"})).status
        for path in ("/servers/removed/mcp", "/servers/git/mcp/", "/servers/files/mcp", "/mcp")
    }
    assert got == {"/servers/removed/mcp": 404, "/servers/git/mcp/": 200, "/servers/files/mcp": 403, "/mcp": 403}


@given(st.booleans(), st.none() | st.frozensets(st.sampled_from(["/mcp", "/a", "/b"])), st.sampled_from(["/mcp", "/a"]))
def test_what_a_principal_may(may_write: bool, views: frozenset[str] | None, path: str) -> None:
    one = Principal("one", may_write, views=views)
    is_here = views is None or path in views
    got = {access: one.may(access, path) for access in Access}
    assert got == {
        Access.PUBLIC: True, Access.READ: is_here, Access.CALL: is_here and may_write, Access.ADMIN: False,
    }  # fmt: skip


async def test_where_no_token_is_required_whoever_asks_may_call_and_is_no_admin(serve: Any) -> None:
    routes = [Route("/call", Access.CALL, serve_it), Route("/admin", Access.ADMIN, serve_it)]
    async with serve(require_token=False, routes=routes) as served:
        client = await served.dial()
        got = [(await ask(client, "GET", path, {"Authorization": None})).status for path in ("/call", "/admin", "/no")]
        assert got == [200, 403, 404]
        reader = await ask(client, "GET", "/call", {"Authorization": "Bearer reader"})
        assert reader.status == 403


async def test_a_path_that_is_no_route_is_counted_against_the_rate_as_any_other(serve: Any) -> None:
    async with serve(rate_limit_per_minute=2) as served:
        client = await served.dial()
        got = [(await ask(client, "GET", path, {})).status for path in ("/a", "/healthz", "/b", "/c", "/healthz")]
        assert got == [404, 200, 404, 429, 200]
