"""An access token is over as soon as the daemon can know: taken out of the file, expired, or revoked on a full disk."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from gateway_harness import GUARDED, gateway_url, new_token, start
from harness import Daemon, wait_until
from raw_hosts import JSON, send

INITIALIZE: dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "host", "version": "1"},
}


def asked(url: str, token: str, **headers: str) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()
    return send(url, "POST", body, {**JSON, "authorization": f"Bearer {token}", **headers})


@contextmanager
def stream_of(url: str, token: str) -> Iterator[http.client.HTTPResponse]:
    """Begin a session, and open its stream."""
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}).encode()
    begun = send(url, "POST", body, {**JSON, "authorization": f"Bearer {token}"})
    headers = {"authorization": f"Bearer {token}", "mcp-session-id": begun.headers["mcp-session-id"]}
    with closing(
        http.client.HTTPConnection("127.0.0.1", int(url.split(":")[2].split("/")[0]), timeout=30)
    ) as connection:
        connection.request("GET", "/mcp", headers={**headers, "accept": "text/event-stream"})
        with connection.getresponse() as response:
            assert response.status == 200
            yield response


def take_out(daemon: Daemon, name: str) -> None:
    path = daemon.data_dir / "tokens.toml"
    before, _, rest = path.read_text().partition(f"[tokens.{name}]")
    _, mark, after = rest.partition("[tokens.")
    path.write_text(before + mark + after)


@pytest.mark.parametrize("how", ["daemon.reload", "token.list"])
def test_a_token_taken_out_of_the_file_is_over_with_the_next_reload_or_list(daemon: Daemon, how: str) -> None:
    start(daemon, {}, GUARDED)
    url = gateway_url(daemon)
    token, kept = new_token(daemon, "gone"), new_token(daemon, "kept")
    with stream_of(url, token) as stream:
        take_out(daemon, "gone")
        daemon.rpc(how)
        assert asked(url, token).status == 401
        assert asked(url, kept).status == 200
        stream.read()  # to its end
    assert [each["name"] for each in daemon.rpc("token.list")] == ["kept"]


def test_a_token_taken_out_of_the_file_is_over_by_itself(daemon: Daemon) -> None:
    start(daemon, {}, GUARDED)
    url = gateway_url(daemon)
    token = new_token(daemon, "gone")
    with stream_of(url, token) as stream:
        began = time.monotonic()
        take_out(daemon, "gone")
        stream.read()
    assert time.monotonic() - began < 20, "a second, if the machine has nothing else to do"
    wait_until("it lets nobody in", lambda: asked(url, token).status == 401)


def test_what_an_expired_token_let_in_ends_with_it(daemon: Daemon) -> None:
    start(daemon, {}, GUARDED)
    url = gateway_url(daemon)
    secs = 3.0
    began = time.monotonic()
    made = daemon.rpc("token.create", name="short", scope="read", expires_days=secs / 86400)
    with stream_of(url, made["token"]) as stream:
        stream.read()
    assert secs - 1 < time.monotonic() - began < secs + 20
    assert asked(url, made["token"]).status == 401
