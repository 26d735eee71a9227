"""Authorization servers as they are: 401 to `ready`, a refresh, a revocation, a forgotten registration, a logout.

With -s each row is printed: what a person has to type, and what it took.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from harness import Daemon, RpcError, wait_until
from remote_harness import Browser, remote
from stand_in_providers import KINDS, PAGE, Kind, StandIn, page, row, stand_in

from moltis.oauth.decisions import FRESH_SECS

LOGIN_NEEDED = -32007


@pytest.fixture
def provider(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    with stand_in(request.param) as standing:
        yield standing


def each(kinds: Sequence[Kind] = KINDS) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("provider", kinds, indirect=True, ids=lambda kind: kind.name)


def works(daemon: Daemon) -> bool:
    try:
        return daemon.text("s", "echo", message="x") == "x"
    except RpcError:
        return False


def logged_in(daemon: Daemon, provider: StandIn, logins: int) -> None:
    """Wait until a person, who is the browser, has logged in so often, and the server works."""
    wait_until(f"login {logins}", lambda: provider.counts["logins"] == logins, tell=lambda: daemon.status("s"))
    daemon.wait_for("s", "ready")
    wait_until("it works", lambda: works(daemon), tell=lambda: daemon.status("s"))


def age() -> None:
    """Let a token be none that was just given: one of those that is refused is not replaced again and again."""
    time.sleep(FRESH_SECS + 0.3)


@each()
def test_a_provider_as_it_is(daemon: Daemon, provider: StandIn) -> None:
    kind, counts, browser = provider.kind, provider.counts, Browser(daemon.folder)
    typed = provider.typed
    entry = remote(provider.url, **({"oauth": typed} if typed else {}))
    beats = {"heartbeat_interval_secs": 300.0, "heartbeat_timeout_secs": 5.0}
    daemon.write({"s": entry}, mcp=beats, daemon={"browser_command": browser.argv})
    daemon.start()
    logged_in(daemon, provider, 1)
    assert daemon.status("s")["auth_state"] == "authenticated"
    assert counts["registered"] == kind.registers

    if kind.refreshes:
        provider.expire()
        assert daemon.text("s", "echo", message="x") == "x"
        assert (counts["refreshes"], counts["logins"]) == (1, 1)

    age()
    provider.revoke()
    with pytest.raises(RpcError) as refused:
        daemon.call("s", "echo", message="x")
    assert refused.value.code == LOGIN_NEEDED
    logged_in(daemon, provider, 2)
    assert daemon.status("s")["attempts"] == 0

    if kind.registers:
        registered = counts["registered"]
        provider.forget()
        with pytest.raises(RpcError):
            daemon.call("s", "echo", message="x")
        if counts["registered"] == registered:  # only the page has said so
            done = daemon.cli("mcp", "reauth", "s", "--new-client", "--no-wait")
            assert done.returncode == 0, done.stderr
        logged_in(daemon, provider, 3)
        assert counts["registered"] == registered + 1

    opened, revoked, logins = len(browser.opened()), counts["revoked"], counts["logins"]
    done = daemon.cli("mcp", "logout", "s", "--forget-client")
    assert done.returncode == 0, done.stderr
    status = daemon.wait_for("s", "awaiting_auth")
    assert "logged out" in status["last_error"]["message"]
    assert "logged out by request" in daemon.cli("why", "s").stdout
    assert (counts["revoked"] > revoked) == kind.revokes
    assert counts["ended"] == bool(kind.registration.get("managed"))
    assert len(browser.opened()) == opened, "nobody is asked who has just logged out"
    assert daemon.cli("mcp", "reauth", "s", "--no-wait").returncode == 0
    logged_in(daemon, provider, logins + 1)
    print(f"\n{row(kind)}\n  took {counts}")


@each([kind for kind in KINDS if kind.typed("", 0)])
def test_what_is_typed_is_needed_and_what_failed_is_told(daemon: Daemon, provider: StandIn) -> None:
    """Without it no login comes to anything; where moltis can know why, a key is named that helps."""
    typed = provider.typed
    browser = Browser(daemon.folder)
    daemon.write({"s": remote(provider.url)}, daemon={"browser_command": browser.argv})
    daemon.start()
    daemon.wait_for("s", "awaiting_auth")
    wait_until("it is tried", lambda: browser.landed() or daemon.status("s")["auth_state"] == "failed")
    assert provider.counts["logins"] == 0
    status = daemon.status("s")
    if status["auth_state"] != "failed":
        assert browser.landed()[0][0] >= 400, "the page has said so, and nobody else"
        return
    said = status["last_error"]["message"]
    assert [key for key in typed if key in said], said
    for shown in (daemon.cli("why", "s").stdout, daemon.cli("mcp", "reauth", "s").stderr):
        assert said.rstrip(".") in shown


def test_the_page_is_the_table_that_is_played() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
