"""The authorization server of several servers goes away and comes back: nobody is ended, and nobody logs in again."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from harness import PYTHON, ROOT, Daemon, RpcError, wait_until
from patience import PATIENCE
from remote_harness import remote

WORLD = ROOT / "benchmarks" / "outage_server.py"
BROWSER = [PYTHON, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()"]
LIFE_SECS = 3
BEATS = {"heartbeat_interval_secs": 0.5, "heartbeat_timeout_secs": 5.0, "heartbeat_max_missed": 2}


class Providers:
    """Three resources and their authorization server, as `benchmarks/outage_server.py` has them."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.urls: list[str] = said["urls"]
        self._issuer = said["issuer"]

    def ask(self, path: str) -> None:
        """POST `away?SECS` or `refuse?STATUS` to the authorization server."""
        request = urllib.request.Request(f"{self._issuer}/{path}", method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE):
            pass


@pytest.fixture
def providers() -> Iterator[Providers]:
    argv = [PYTHON, "-E", str(WORLD), "3", str(LIFE_SECS), "streams"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Providers(json.loads(process.stdout.readline()))
        finally:
            process.kill()


def logged_in(daemon: Daemon, providers: Providers, **limits: float) -> list[str]:
    """Have a daemon log in to all of them; give their names."""
    names = [f"s{number}" for number in range(len(providers.urls))]
    servers = {name: remote(url) for name, url in zip(names, providers.urls, strict=True)}
    daemon.write(servers, mcp={**BEATS, **limits}, daemon={"browser_command": BROWSER})
    daemon.start()
    for name in names:
        daemon.wait_for(name, "ready")
    return names


def test_an_outage_ends_no_server_and_each_goes_on_within_seconds(daemon: Daemon, providers: Providers) -> None:
    names = logged_in(daemon, providers)
    before = [daemon.status(name)["restarts"] for name in names]
    providers.ask("refuse?503")
    time.sleep(LIFE_SECS + 0.5)
    for _ in range(3):
        for name in names:
            with pytest.raises(RpcError) as refused:
                daemon.call(name, "echo")
            assert "next try at" in refused.value.message
            assert f"moltis mcp reauth {name}" in refused.value.data["hint"]
            status = daemon.status(name)
            assert (status["state"], status["auth_state"], status["attempts"]) == ("ready", "authenticated", 0)
            assert status["last_error"]["kind"] == "login_unavailable"
            assert status["next_retry_at"] is not None
            assert status["recent_errors"] == []
        time.sleep(1)
    providers.ask("refuse?0")
    for name in names:
        wait_until(f"{name} goes on", lambda name=name: answers(daemon, name))
        assert daemon.status(name)["last_error"] is None or daemon.status(name)["auth_state"] == "authenticated"
    assert [daemon.status(name)["restarts"] for name in names] == before


def test_a_list_that_changes_during_an_outage_is_read_once_the_login_is_renewed(
    daemon: Daemon, providers: Providers
) -> None:
    names = logged_in(daemon, providers)
    providers.ask("refuse?503")
    time.sleep(LIFE_SECS + 0.5)
    providers.ask("grow?0")
    wait_until("it is known", lambda: all(daemon.status(name)["remarks"] for name in names))
    assert all("its list of tools could not be read" in daemon.status(name)["remarks"][0] for name in names)
    assert {daemon.status(name)["tool_count"] for name in names} == {1}
    providers.ask("refuse?0")
    for name in names:
        wait_until(f"{name} is read", lambda name=name: daemon.status(name)["tool_count"] == 2)
        wait_until("nothing is remarked any more", lambda name=name: daemon.status(name)["remarks"] == [])


def test_a_start_during_an_outage_waits_for_the_login_and_uses_up_no_attempt(
    daemon: Daemon, providers: Providers
) -> None:
    names = logged_in(daemon, providers)
    daemon.stop()
    time.sleep(LIFE_SECS)
    providers.ask("refuse?503")
    daemon.start()
    for name in names:
        status = daemon.wait_for(name, "backoff")
        assert (status["attempts"], status["last_error"]["kind"]) == (0, "login_unavailable")
        assert status["next_retry_at"] is not None
    providers.ask("refuse?0")
    for name in names:
        daemon.wait_for(name, "ready")
        assert (daemon.status(name)["attempts"], daemon.status(name)["recent_errors"]) == (0, [])


def test_a_person_s_login_starts_a_server_that_waits_though_the_old_one_is_still_refused(
    daemon: Daemon, providers: Providers
) -> None:
    names = logged_in(daemon, providers)
    daemon.stop()
    time.sleep(LIFE_SECS)
    providers.ask("refuse?400")
    daemon.start()
    for name in names:
        daemon.wait_for(name, "backoff")
    assert daemon.rpc("mcp.reauth", name=names[0])["ok"]
    daemon.wait_for(names[0], "ready")
    assert answers(daemon, names[0])
    assert daemon.status(names[1])["state"] in ("backoff", "starting", "initializing")


@pytest.mark.parametrize(("state", "attempts"), [("backoff", 1000), ("cooldown", 1)])
def test_a_person_s_login_starts_a_server_from_whatever_wait_it_is_in(
    daemon: Daemon, providers: Providers, state: str, attempts: int
) -> None:
    waits = {"restart_backoff_secs": 300.0 if state == "backoff" else 0.1, "restart_backoff_max_secs": 300.0}
    cools = {"restart_cooldown_secs": 300.0, "restart_cooldown_max_secs": 300.0}
    names = logged_in(daemon, providers, max_restart_attempts=attempts, **waits, **cools)
    providers.ask("broken?500")
    for name in names:
        daemon.rpc("mcp.restart", name=name)
        assert daemon.wait_for(name, state)["attempts"] > 0
    providers.ask("broken?0")
    assert daemon.rpc("mcp.reauth", name=names[0])["ok"]
    assert daemon.wait_for(names[0], "ready")["attempts"] == 0
    assert answers(daemon, names[0])
    assert daemon.status(names[1])["state"] == state, "whose login nobody made"


def answers(daemon: Daemon, name: str) -> bool:
    try:
        return bool(daemon.text(name, "echo") == "here")
    except RpcError:
        return False
