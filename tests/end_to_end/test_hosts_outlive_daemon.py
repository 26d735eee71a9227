"""The daemon is stopped, upgraded or killed, and its hosts go on as if nothing had been."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

import pytest
from gateway_harness import fixture, gateway_url, new_token
from harness import Daemon, wait_until
from raw_hosts import HttpHost, send

ENDS = ("stop", "kill")


def start(daemon: Daemon, *servers: str, **gateway: Any) -> None:
    """Start it, at one address in all its lives."""
    daemon.write({name: fixture(daemon, protocol="legacy") for name in servers}, gateway=gateway)
    daemon.start()
    daemon.wait_all()
    gateway_url(daemon)


def end(daemon: Daemon, how: str) -> None:
    if how == "stop":
        assert daemon.stop() == 0
    else:
        daemon.signal(signal.SIGKILL)
        daemon.wait_exit(10.0)


@pytest.fixture
def listen() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


# --- over HTTP


def status(host: HttpHost) -> int:
    """Return the status of a ping."""
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    return send(host.url, "POST", message, host.headers()).status


@pytest.mark.parametrize("how", ENDS)
def test_a_session_over_http_goes_on_with_the_next_daemon(daemon: Daemon, listen: str, how: str) -> None:
    start(daemon, "one", listen=listen)
    token, other = new_token(daemon, "host"), new_token(daemon, "other")
    url = gateway_url(daemon)
    host = HttpHost(url, token=token).__enter__()
    host.request("logging/setLevel", {"level": "error"})
    assert host.text("one__echo", text="x")
    kept = daemon.data_dir / "sessions.json"
    wait_until("the session is on disk", lambda: kept.exists() and b'"error"' in kept.read_bytes(), 5.0)
    assert kept.stat().st_mode & 0o777 == 0o600
    end(daemon, how)
    start(daemon, "one", "two", listen=listen)
    foreign = HttpHost(url, token=other)
    foreign.session = host.session
    assert send(url, "GET", None, foreign.headers()).status == 404
    stream = host.listen().messages()
    told = {next(stream)["method"] for _ in range(3)}
    assert told == {f"notifications/{kind}/list_changed" for kind in ("tools", "resources", "prompts")}
    assert host.text("two__echo", text="y")
    assert send(url, "DELETE", None, host.headers()).status == 204
    end(daemon, "stop")
    start(daemon, "one", listen=listen)
    assert status(host) == 404
    host.hang_up()


def test_a_token_that_was_revoked_or_made_anew_takes_up_no_session(daemon: Daemon, listen: str) -> None:
    start(daemon, "one", listen=listen)
    url = gateway_url(daemon)
    host = HttpHost(url, token=new_token(daemon, "host")).__enter__()
    end(daemon, "stop")
    (daemon.data_dir / "tokens.toml").unlink()
    start(daemon, "one", listen=listen)
    assert status(host) == 401
    again = HttpHost(url, token=new_token(daemon, "host"))
    again.session = host.session
    assert status(again) == 404
    host.hang_up()


def test_damaged_sessions_harm_nobody(daemon: Daemon, listen: str) -> None:
    start(daemon, "one", listen=listen, require_token=False)
    host = HttpHost(gateway_url(daemon)).__enter__()
    end(daemon, "stop")
    kept = daemon.data_dir / "sessions.json"
    kept.write_bytes(kept.read_bytes()[:-5])
    start(daemon, "one", listen=listen, require_token=False)
    assert status(host) == 404
    host.begin()
    assert host.text("one__echo", text="x")
    end(daemon, "kill")
    start(daemon, "one", listen=listen, require_token=False)
    assert host.text("one__echo", text="x")
    host.hang_up()
