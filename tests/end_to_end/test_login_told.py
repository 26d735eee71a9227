"""What the commands say of a login that failed, is pending, or is none: the same reason, and what mends it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from harness import Daemon, RpcError, wait_until
from remote_harness import Browser, remote
from stand_in_providers import OAUTH, Kind, StandIn, stand_in

ELSEWHERE = Kind(
    "c", "its metadata lies under another address than it names", prm="/VCeDsk8Z", places=(f"{OAUTH}/VCeDsk8Z",)
)
PLAIN = Kind("plain", "nothing")


def begun(daemon: Daemon, provider: StandIn, browser: Browser, **keys: object) -> None:
    daemon.write({"s": remote(provider.url, **keys)}, daemon={"browser_command": browser.argv})
    daemon.start()


def test_a_failed_login_is_told_everywhere_with_the_line_that_mends_it(daemon: Daemon) -> None:
    with stand_in(ELSEWHERE) as provider:
        begun(daemon, provider, Browser(daemon.folder))
        wait_until("it has failed", lambda: daemon.status("s")["auth_state"] == "failed")
        said = daemon.status("s")["last_error"]["message"]
        assert provider.at in said
        assert f"{provider.at}/VCeDsk8Z was asked" in said
        line = f'issuer = "{provider.at}"'
        why = daemon.cli("why", "s").stdout
        assert f"the login failed: {said}" in why
        to_do = why.partition("What to do:")[2]
        assert to_do.index(line) < to_do.index("moltis mcp reauth s")
        reauth = daemon.cli("mcp", "reauth", "s")
        assert reauth.returncode == 8
        assert said in reauth.stderr
        assert f"hint: {line}" in reauth.stderr
        call = daemon.cli("mcp", "call", "s.echo", "message=x")
        assert call.returncode == 8
        assert said in call.stderr
        assert f"hint: {line}" in call.stderr
        assert "moltis why s" in daemon.cli("status").stdout
        daemon.write({"s": remote(provider.url, oauth={"issuer": provider.at})}, daemon={"browser_command": []})
        daemon.rpc("daemon.reload")
        shown = daemon.cli("mcp", "reauth", "s", "--no-wait")
        Browser(daemon.folder).go(shown.stdout.strip())
        daemon.wait_for("s", "ready")
        assert daemon.cli("why", "s").stdout.startswith("s is ready, for")


def test_a_header_that_is_refused_is_no_login_in_any_words(daemon: Daemon) -> None:
    with stand_in(PLAIN) as provider:
        browser = Browser(daemon.folder)
        begun(daemon, provider, browser, headers={"Authorization": "Bearer wrong"})
        status = daemon.wait_for("s", "awaiting_auth")
        assert (status["auth_state"], status["auth_url"], status["attempts"]) == ("failed", None, 0)
        assert "headers.Authorization" in status["last_error"]["message"]
        shown = {
            "status": daemon.cli("status").stdout,
            "why": daemon.cli("why", "s").stdout,
            "call": daemon.cli("mcp", "call", "s.echo", "message=x").stderr,
            "test": "".join((lambda done: (done.stdout, done.stderr))(daemon.cli("mcp", "test", "s"))),
        }
        for command, words in shown.items():
            assert "headers.Authorization" in words, command
            assert "reauth" not in words, command
            assert "log in" not in words, command
        assert "correct headers.Authorization, then moltis mcp restart s" in shown["status"]
        refused = daemon.cli("mcp", "reauth", "s")
        assert refused.returncode != 0
        assert "Authorization of their own" in refused.stderr
        assert daemon.cli("mcp", "logout", "s").returncode == 2
        with pytest.raises(RpcError) as error:
            daemon.call("s", "echo", message="x")
        assert error.value.code == -32005
        assert (browser.opened(), provider.counts["registered"]) == ([], 0)


def test_a_login_for_more_scope_that_is_pending_is_seen_beside_a_ready_server(daemon: Daemon) -> None:
    with stand_in(PLAIN) as provider:
        begun(daemon, provider, Browser(daemon.folder))
        daemon.wait_for("s", "ready")
        ignored = Browser(daemon.folder, "--only-record")
        daemon.write({"s": remote(provider.url)}, daemon={"browser_command": ignored.argv})
        daemon.rpc("daemon.reload")
        provider.forbids = "mcp:admin"
        with pytest.raises(RpcError):
            daemon.call("s", "echo", message="x")
        status = daemon.status("s")
        assert (status["state"], status["auth_state"]) == ("ready", "awaiting_browser")
        row = daemon.cli("status").stdout
        assert "ready, login" in row
        assert "moltis mcp reauth s" in row
        why = daemon.cli("why", "s").stdout
        assert "a login is pending" in why.splitlines()[0]
        assert "moltis mcp reauth s" in why


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Kind("s", "gives no refresh token", refreshes=False), True),
        (Kind("y", "gives none, and lasts", refreshes=False, answer={"expires_in": 30 * 86_400}), False),
        (Kind("g", "gives none, and does not end", refreshes=False, answer={"expires_in": None}), False),
        (PLAIN, False),
    ],
    ids=["an hour", "a month", "for ever", "refreshed"],
)
def test_a_login_that_ends_soon_and_cannot_be_renewed_is_told_of_before(daemon: Daemon, kind: Kind, told: bool) -> None:
    with stand_in(kind) as provider:
        begun(daemon, provider, Browser(daemon.folder))
        daemon.wait_for("s", "ready")
        remarks = daemon.status("s")["remarks"]
        row, why = daemon.cli("status").stdout, daemon.cli("why", "s").stdout
        if not told:
            assert remarks == []
            return
        (remark,) = remarks
        found = re.fullmatch(
            r"its login ends at (\S+Z) and cannot be renewed: moltis mcp reauth s makes a new one", remark
        )
        assert found is not None
        ends_in = datetime.fromisoformat(found[1]) - datetime.now(UTC)
        assert timedelta(minutes=50) < ends_in < timedelta(minutes=61)
        assert "ready, its login ends at" in row
        assert remark in why


FAILING = {
    "a document of another": ELSEWHERE,
    "no PKCE": Kind("p", "its metadata has no word of PKCE", metadata={"code_challenge_methods_supported": None}),
    "no registration": Kind("r", "registers nobody", registers=False, metadata={"registration_endpoint": None}),
    "a refusal for the code": Kind("t", "gives no token", token=lambda form: (400, {"error": "unauthorized_client"})),
}


def oauth_records(daemon: Daemon, message: str) -> list[dict[str, Any]]:
    return [record for record in daemon.records("moltis.oauth") if record["message"] == message]


@pytest.mark.parametrize("kind", FAILING.values(), ids=FAILING)
def test_a_login_that_fails_is_one_record(daemon: Daemon, kind: Kind) -> None:
    with stand_in(kind) as provider:
        begun(daemon, provider, Browser(daemon.folder))
        wait_until("it has failed", lambda: daemon.status("s")["auth_state"] == "failed")
        said = daemon.status("s")["last_error"]["message"]
        daemon.stop()
        (record,) = oauth_records(daemon, "login_failed")
        assert (record["level"], record["fields"]) == ("WARN", {"server": "s", "problem": said})
        told = [r for r in daemon.records("moltis.oauth") if json.dumps(said) in json.dumps(r)]
        assert told == [record]


def test_a_login_that_waits_for_its_authorization_server_has_not_failed(daemon: Daemon) -> None:
    with stand_in(Kind("o", "is away", failing={OAUTH: 503})) as provider:
        begun(daemon, provider, Browser(daemon.folder))
        wait_until("it is delayed", lambda: daemon.status("s")["auth_state"] == "failed")
        daemon.stop()
        assert oauth_records(daemon, "login_delayed")
        assert oauth_records(daemon, "login_failed") == []


def test_a_logout_is_no_login_that_failed(daemon: Daemon) -> None:
    with stand_in(PLAIN) as provider:
        begun(daemon, provider, Browser(daemon.folder))
        daemon.wait_for("s", "ready")
        daemon.rpc("mcp.logout", name="s")
        daemon.wait_for("s", "awaiting_auth")
        daemon.stop()
        assert oauth_records(daemon, "login_failed") == []
