"""Several backends behind one address, held together by a cookie that the load balancer sets."""

from __future__ import annotations

import itertools

import pytest
from scripted_remote import LEGACY, FakeCredentials, HttpServer, Peer, dialled, serving

pytestmark = pytest.mark.anyio

INFO = {"protocolVersion": LEGACY, "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}


class Front(HttpServer):
    """Two backends; who brings no cookie comes to the next one in turn.

    stateful: whether a backend has session ids, or just knows whom it has greeted. refusal: the status of a stranger.
    redirects: whether /mcp is at /mcp/.
    """

    def __init__(self, *, stateful: bool = True, refusal: int = 404, redirects: bool = False) -> None:
        super().__init__(self._serve)
        self.stateful = stateful
        self.refusal = refusal
        self.redirects = redirects
        self.known: dict[str, set[str]] = {"a": set(), "b": set()}
        self.served: list[str] = []
        self.turns = itertools.cycle("ab")

    async def _serve(self, peer: Peer) -> None:
        request = peer.request
        cookies = dict(pair.split("=", 1) for pair in request.headers.get("cookie", "x=").split("; "))
        name = cookies.get("AWSALB") or next(self.turns)
        stick = {"set_cookie": f"AWSALB={name}; Path=/; HttpOnly"}
        if self.redirects and request.path == "/mcp":
            await peer.answer(307, b"", "application/json", location="/mcp/", **stick)
            return
        session = request.headers.get("mcp-session-id", "-")
        if request.rpc == "initialize":
            self.known[name].add("-")
            if self.stateful:
                stick["mcp_session_id"] = f"{name}{len(self.known[name])}"
                self.known[name] = self.known[name] - {"-"} | {stick["mcp_session_id"]}
            await peer.result(INFO, **stick)
        elif session not in self.known[name]:
            error = {"code": -32001, "message": "Session not found"}
            body = {"jsonrpc": "2.0", "id": None, "error": error}
            await peer.answer(self.refusal, body, "application/json", **stick)
        elif request.method == "GET":
            await peer.answer(405, b"", "application/json", **stick)
        elif "id" in request.message:
            self.served.append(name)
            await peer.result(**stick)
        else:
            await peer.answer(202, b"", "application/json", **stick)


@pytest.mark.parametrize("stateful", [True, False], ids=["sessions", "no sessions"])
@pytest.mark.parametrize("refusal", [404, 400])
@pytest.mark.parametrize("redirects", [False, True])
async def test_all_requests_of_a_connection_come_to_the_backend_that_knows_it(
    stateful: bool, refusal: int, redirects: bool
) -> None:
    front = Front(stateful=stateful, refusal=refusal, redirects=redirects)
    async with serving(front), dialled(front.url) as dial:
        await dial.shake_hands()
        for number in range(20):
            assert "result" in await dial.ask("tools/call" if number % 5 else "ping")  # type: ignore[operator]
    assert len(set(front.served)) == 1
    assert front.count("initialize") == 1 + redirects
    assert front.count("tools/call") == 16


async def test_each_connection_has_its_own() -> None:
    front = Front()
    async with serving(front), dialled(front.url) as one, dialled(front.url) as other:
        for dial in (one, other):
            await dial.shake_hands()
            await dial.ask("tools/list")
    assert all("cookie" not in request.headers for request in front.of("initialize"))
    assert set(front.served) == {"a", "b"}


async def test_the_cookie_is_forgotten_with_other_credentials() -> None:
    front = Front()
    credentials = FakeCredentials("Bearer 1")
    async with serving(front), dialled(front.url, credentials=credentials) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
        credentials.values = ["Bearer 2"]
        assert "result" in await dial.ask("tools/call")  # type: ignore[operator]
        await dial.ask("tools/call")
    first = next(request for request in front.requests if request.headers["authorization"] == "Bearer 2")
    assert "cookie" not in first.headers
    assert front.requests[-1].headers["cookie"].startswith("AWSALB=")


async def test_a_redirect_forgets_the_cookies_that_were_set_before_it() -> None:
    front = Front(redirects=True)
    async with serving(front), dialled(front.url) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
    asked, followed, *later = front.requests
    assert (asked.path, followed.path) == ("/mcp", "/mcp/")
    assert "cookie" not in followed.headers
    assert {request.path for request in later} == {"/mcp/"}
    assert all("cookie" in request.headers for request in later)


async def test_the_cookie_of_moltis_toml_is_sent_with_it() -> None:
    front = Front()
    async with serving(front), dialled(front.url, headers=(("Cookie", "mine=1"),)) as dial:
        await dial.shake_hands()
        await dial.ask("tools/list")
    assert front.requests[0].headers["cookie"] == "mine=1"
    assert front.requests[-1].headers["cookie"].startswith("mine=1; AWSALB=")
